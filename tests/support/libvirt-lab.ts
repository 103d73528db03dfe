import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CommandResult, runCommand } from "../../src/hardware/command.ts";
import { isRunning } from "./processes.ts";

// A real libvirtd with QEMU (software emulation), in a mount namespace of its own: all of its files are in a scratch
// directory, and its sockets are where `virsh` looks for them. So two tests don't meet, and nothing is left behind.

/** What runs in the mount and network namespace of a libvirtd. */
export interface LibvirtLab {
  /** `nsenter …`: what stands before a command to run it there. Its paths must be absolute. */
  readonly enter: readonly string[];
  run(...argv: string[]): Promise<CommandResult>;
  /** Standard output of a command that succeeds; throws with its words otherwise. */
  must(...argv: string[]): Promise<string>;
  virsh(...argv: string[]): Promise<string>;
  /** End libvirtd as a crash would; `start` brings it back. Machines go on running. */
  kill(): Promise<void>;
  start(): Promise<void>;
  /** Ends everything, the machines and the network namespace as well. */
  stop(): Promise<void>;
}

export interface LibvirtOptions {
  /** A scratch directory of its own; images may lie in it. */
  readonly dir: string;
  /** The name of a network namespace, which is made for it. */
  readonly netns: string;
  /** For libvirtd and what it runs, such as OVS_RUNDIR. */
  readonly env?: Readonly<Record<string, string>>;
}

const startTimeoutMs = 30_000;
const pollMs = 50;
/** Where libvirt keeps what belongs to one installation. */
const places = ["/run/libvirt", "/var/lib/libvirt", "/etc/libvirt", "/var/log/libvirt", "/var/cache/libvirt"];
/**
 * As root, QEMU may use /dev/kvm where there is one; libvirt otherwise asks QEMU for its abilities again at every call, as it
 * finds that they changed. The machines are emulated all the same.
 */
const qemuConf = 'user = "root"\ngroup = "root"\nremember_owner = 0\nsecurity_driver = "none"\nnamespaces = []\ncgroup_controllers = []\n';
const libvirtdConf = 'auth_unix_rw = "none"\nauth_unix_ro = "none"\nunix_sock_group = "root"\n';

async function ip(...argv: string[]): Promise<void> {
  const { exitCode, stderr } = await runCommand({ argv: ["ip", ...argv], timeoutMs: 10_000, maxOutputBytes: 65_536 });
  if (exitCode !== 0) throw new Error(`ip ${argv.join(" ")}: ${stderr}`);
}

export async function startLibvirt({ dir, netns, env = {} }: LibvirtOptions): Promise<LibvirtLab> {
  const at = (place: string) => join(dir, place.slice(1).replaceAll("/", "-"));
  for (const place of places) mkdirSync(at(place), { recursive: true });
  mkdirSync(join(at("/etc/libvirt"), "nwfilter"), { recursive: true });
  writeFileSync(join(at("/etc/libvirt"), "qemu.conf"), qemuConf);
  writeFileSync(join(dir, "libvirtd.conf"), libvirtdConf);
  await ip("netns", "add", netns);
  await ip("-n", netns, "link", "set", "lo", "up");
  const mounts = places.map((place) => `mkdir -p ${place}; mount --bind ${at(place)} ${place}`).join("; ");
  // Holds the namespace. No process id namespace: signals to what runs in it must arrive.
  const script = `mount --make-rprivate / && ${mounts}; echo ready; exec sleep infinity`;
  const holder = Bun.spawn(["ip", "netns", "exec", netns, "unshare", "--mount", "sh", "-c", script], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  await holder.stdout.getReader().read();
  const enter = ["nsenter", "-t", String(holder.pid), "-m", "-n", "env", ...Object.entries(env).map(([name, value]) => `${name}=${value}`)];
  const run = (...argv: string[]) =>
    runCommand({ argv: [enter[0]!, ...enter.slice(1), ...argv], timeoutMs: 60_000, maxOutputBytes: 1 << 20 });
  const must = async (...argv: string[]) => {
    const result = await run(...argv);
    if (result.exitCode !== 0) throw new Error(`${argv.join(" ")}: ${result.stderr}`);
    return result.stdout;
  };
  const reapers: Bun.Subprocess[] = [];
  const pidFile = (name: string) => join(dir, `${name}.pid`);
  const lab: LibvirtLab = {
    enter,
    run,
    must,
    virsh: (...argv) => must("virsh", "-q", "-c", "qemu:///system", ...argv),
    kill: () => end(pidFile("libvirtd")),
    async start() {
      const argv = ["libvirtd", "-f", join(dir, "libvirtd.conf"), "-p", pidFile("libvirtd")];
      const log = Bun.file(join(dir, "libvirtd.log"));
      reapers.push(Bun.spawn([...enter, "perl", "-e", reaper, ...argv], { stdin: "ignore", stdout: log, stderr: log }));
      const deadline = Date.now() + startTimeoutMs;
      while ((await run("virsh", "-q", "-c", "qemu:///system", "list")).exitCode !== 0) {
        if (Date.now() > deadline) throw new Error(`libvirtd does not answer within ${startTimeoutMs} ms`);
        await Bun.sleep(pollMs);
      }
    },
    async stop() {
      await Promise.all([pidFile("libvirtd"), pidFile("virtlogd")].map(end));
      const machines = join(at("/run/libvirt"), "qemu");
      const files = existsSync(machines) ? readdirSync(machines).filter((name) => name.endsWith(".pid")) : [];
      await Promise.all(files.map((name) => end(join(machines, name))));
      for (const process of [holder, ...reapers]) {
        process.kill("SIGKILL");
        await process.exited;
      }
      await ip("netns", "del", netns).catch(() => {});
    },
  };
  try {
    await must("virtlogd", "-d", "-p", pidFile("virtlogd"));
    await lab.start();
    return lab;
  } catch (error) {
    await lab.stop();
    throw error;
  }
}

/**
 * Runs libvirtd, and adopts the machines that it detaches (prctl 36, PR_SET_CHILD_SUBREAPER), so that one that ends is gone at
 * once: libvirt waits for that, and the first process of this system may take seconds to notice.
 */
const reaper =
  'syscall(157, 36, 1, 0, 0, 0) == 0 or die; $SIG{CHLD} = "IGNORE"; my $pid = fork; if ($pid == 0) { $SIG{CHLD} = "DEFAULT"; exec @ARGV } sleep 1000 while 1;';

/** SIGKILL to the process whose id a file holds, and wait until it is gone. */
async function end(pidFile: string): Promise<void> {
  const pid = existsSync(pidFile) ? Number(readFileSync(pidFile, "utf8")) : 0;
  if (!(pid > 1)) return;
  try {
    process.kill(pid, "SIGKILL");
    for (let i = 0; i < 200 && isRunning(pid); i++) await Bun.sleep(pollMs);
  } catch {
    // It has ended.
  }
}

/**
 * A base image: a machine that is shut off, and its disk of one boot sector that writes `HEADNODE` to the serial port
 * and halts. It has an interface and displays of its own, which headnodes must not get, and
 * what virt-install adds for SPICE.
 */
export async function makeBaseImage(lab: LibvirtLab, dir: string, name: string): Promise<void> {
  const raw = join(dir, `${name}.raw`);
  const disk = join(dir, `${name}.qcow2`);
  const sector = Buffer.alloc(1024 * 1024);
  bootSector("HEADNODE\r\n").copy(sector);
  writeFileSync(raw, sector);
  await lab.must("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, disk);
  writeFileSync(join(dir, "shared.iso"), Buffer.alloc(65_536));
  const xml = join(dir, `${name}.xml`);
  writeFileSync(
    xml,
    `<domain type='qemu'><name>${name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><source file='${join(dir, "shared.iso")}'/><target dev='hda' bus='ide'/><readonly/></disk>
<interface type='bridge'><source bridge='br-of-the-image'/><model type='e1000'/></interface>
<graphics type='vnc' port='5999' autoport='no' listen='0.0.0.0'/><graphics type='spice' autoport='yes'/>
<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel><redirdev bus='usb' type='spicevmc'/></devices></domain>`,
  );
  await lab.virsh("define", xml);
}

/** 512 bytes of real mode: writes a text to the first serial port, then halts for good. */
export function bootSector(text: string): Buffer {
  const code = [
    ...[0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x1d, 0x7c], // cli; ds = 0; si = text
    ...[0xac, 0x84, 0xc0, 0x74, 0x0d, 0x88, 0xc4], // next: lodsb; end at 0; ah = al
    ...[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb], // wait until the port is free
    ...[0x88, 0xe0, 0xb2, 0xf8, 0xee, 0xeb, 0xea], // out 0x3f8, al; next
  ];
  // The jump at the end of the text lands here.
  const halt = [0xf4, 0xeb, 0xfd];
  const sector = Buffer.alloc(512);
  Buffer.from([...code, ...halt]).copy(sector);
  sector.writeUInt8(code.length - 13, 12);
  sector.writeUInt16LE(0x7c00 + code.length + halt.length, 6);
  sector.write(text, code.length + halt.length, "latin1");
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { runCommand } from "../../src/hardware/command.ts";
import type { PortState } from "../../src/hardware/switches/driver.ts";

/** A frame to send: its tags, outermost first, and the name by which it is recognised where it arrives. */
export interface Frame {
  readonly label: string;
  readonly vlans: readonly number[];
}

/**
 * A real Open vSwitch in network namespaces of its own: one for the switch, one per port with `eth0` and
 * 10.9.0.N/24 (N counts from 1). Its bridge is a port as well, in the switch's namespace.
 */
export interface OvsLab {
  readonly bridge: string;
  /** The OVSDB remote: `unix:/…/db.sock`. */
  readonly db: string;
  /** The process id of ovs-vswitchd. */
  readonly vswitchd: number;
  netns(port: string): string;
  vsctl(...command: string[]): Promise<string>;
  /** A ping from one port to another port's address; what goes through must go both ways. */
  ping(from: string, to: string): Promise<boolean>;
  /**
   * Broadcast `frames` from a port, and tell what arrived where, as `label:tags`: `a:untagged`, `b:100`, `c:100.200`.
   */
  send(from: string, frames: readonly Frame[], watch: readonly string[]): Promise<Record<string, string[]>>;
  stop(): Promise<void>;
}

export interface OvsOptions {
  /** A scratch directory of its own. */
  dir: string;
  /** Begins the names of the namespaces; two labs at the same time need two names. */
  name: string;
  bridge: string;
  ports: readonly string[];
}

/** Long enough for a frame to go through two veth pairs and the slow path of the switch. */
const arrivalTimeoutMs = 500;

export async function startOvs({ dir, name, bridge, ports }: OvsOptions): Promise<OvsLab> {
  await mkdir(dir, { recursive: true });
  const socket = join(dir, "db.sock");
  const db = `unix:${socket}`;
  const switchNamespace = `${name}-sw`;
  const netns = (port: string) => (port === bridge ? switchNamespace : `${name}-${port}`);
  const device = (port: string) => (port === bridge ? bridge : "eth0");
  const namespaces: string[] = [];
  const env = { OVS_RUNDIR: dir, OVS_LOGDIR: dir, OVS_DBDIR: dir, OVS_SYSCONFDIR: dir };

  const must = async (...argv: [string, ...string[]]) => {
    const result = await runCommand({ argv, env, timeoutMs: 20_000, maxOutputBytes: 4_194_304 });
    if (result.exitCode !== 0) throw new Error(`${argv.join(" ")}: ${result.timedOut ? "timed out" : result.stderr}`);
    return result.stdout;
  };
  const vsctl = (...command: string[]) => must("ovs-vsctl", "--timeout=10", `--db=${db}`, ...command);
  const addNamespace = async (namespace: string) => {
    await must("ip", "netns", "add", namespace);
    namespaces.push(namespace);
    await must("ip", "-n", namespace, "link", "set", "lo", "up");
    // Neighbour discovery is noise among the frames that are counted.
    await must(
      "ip",
      "netns",
      "exec",
      namespace,
      "sysctl",
      "-qw",
      "net.ipv6.conf.all.disable_ipv6=1",
      "net.ipv6.conf.default.disable_ipv6=1",
    );
  };
  const pidOf = async (file: string) => Number(await readFile(join(dir, file), "utf8").catch(() => "0"));

  const stop = async () => {
    await endProcess(await pidOf("vswitchd.pid"));
    await endProcess(await pidOf("ovsdb.pid"));
    // The veth pairs go with their namespaces.
    for (const namespace of namespaces.splice(0)) await must("ip", "netns", "del", namespace);
  };

  try {
    await addNamespace(switchNamespace);
    const inSwitch = (...argv: string[]) => must("ip", "netns", "exec", switchNamespace, ...argv);
    const daemon = (kind: string) => [
      `--pidfile=${join(dir, `${kind}.pid`)}`,
      `--log-file=${join(dir, `${kind}.log`)}`,
      `--unixctl=${join(dir, `${kind}.ctl`)}`,
      "--detach",
    ];
    await must("ovsdb-tool", "create", join(dir, "conf.db"), "/usr/share/openvswitch/vswitch.ovsschema");
    await inSwitch("ovsdb-server", join(dir, "conf.db"), `--remote=punix:${socket}`, ...daemon("ovsdb"));
    await vsctl("--no-wait", "init");
    await inSwitch("ovs-vswitchd", db, ...daemon("vswitchd"));
    await vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev");
    await must("ip", "-n", switchNamespace, "link", "set", "dev", bridge, "up");
    for (const [i, port] of ports.entries()) {
      const namespace = netns(port);
      await addNamespace(namespace);
      await must("ip", "link", "add", "name", port, "netns", switchNamespace, "type", "veth", "peer", "name", "eth0", "netns", namespace);
      await must("ip", "-n", switchNamespace, "link", "set", "dev", port, "up");
      await must("ip", "-n", namespace, "link", "set", "eth0", "up");
      await must("ip", "-n", namespace, "addr", "add", `10.9.0.${i + 1}/24`, "dev", "eth0");
      // The userspace switch sees checksums that the sender left to hardware that is not there.
      await must("ip", "netns", "exec", namespace, "ethtool", "-K", "eth0", "tx", "off");
      await vsctl("add-port", bridge, port);
    }
    const sender = join(dir, "send.pl");
    await writeFile(sender, sendScript);

    const lab: OvsLab = {
      bridge,
      db,
      vswitchd: await pidOf("vswitchd.pid"),
      netns,
      vsctl,
      async ping(from, to) {
        const address = `10.9.0.${ports.indexOf(to) + 1}`;
        const argv = ["ip", "netns", "exec", netns(from), "ping", "-n", "-c", "3", "-i", "0.3", "-W", "1", address] as const;
        return (await runCommand({ argv: [...argv], timeoutMs: 5_000, maxOutputBytes: 65_536 })).exitCode === 0;
      },
      async send(from, frames, watch) {
        const watchers = await Promise.all(watch.map((port) => watchPort(netns(port), device(port))));
        const text = frames.map((frame, i) => frameHex(i, frame.vlans)).join("\n");
        const result = await runCommand({
          argv: ["ip", "netns", "exec", netns(from), "perl", sender, device(from)],
          stdin: text,
          timeoutMs: 20_000,
          maxOutputBytes: 65_536,
        });
        await Bun.sleep(arrivalTimeoutMs);
        const seen = await Promise.all(watchers.map((watcher) => watcher.end()));
        if (result.exitCode !== 0) throw new Error(`the frames could not be sent: ${result.stderr}`);
        return Object.fromEntries(watch.map((port, i) => [port, seen[i]!.map(({ index, tags }) => `${frames[index]?.label}:${tags}`)]));
      },
      stop,
    };
    return lab;
  } catch (error) {
    await stop();
    throw error;
  }
}

/** 60 bytes to everyone, from 02:00:00:00:xx:xx, whose end is the frame's number; type 0x88b5 is for experiments. */
function frameHex(index: number, vlans: readonly number[]): string {
  const source = `02000000${index.toString(16).padStart(4, "0")}`;
  const tags = vlans.map((vlan) => `8100${vlan.toString(16).padStart(4, "0")}`).join("");
  return `${"ff".repeat(6)}${source}${tags}88b5${"00".repeat(46)}`;
}

/** tcpdump on a device, from the moment that it listens. */
async function watchPort(namespace: string, device: string) {
  const filter = "ether[6:4] = 0x02000000";
  const tcpdump = Bun.spawn(
    ["ip", "netns", "exec", namespace, "tcpdump", "-l", "-n", "-e", "-B", "8192", "-Q", "in", "-i", device, filter],
    {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    },
  );
  const output = new Response(tcpdump.stdout).text();
  const errors = tcpdump.stderr.getReader();
  const decoder = new TextDecoder();
  for (let said = ""; !said.includes("listening on");) {
    const { done, value } = await errors.read();
    if (done) throw new Error(`tcpdump on ${device} ended: ${said}`);
    said += decoder.decode(value);
  }
  return {
    async end() {
      tcpdump.kill("SIGINT");
      await tcpdump.exited;
      await errors.cancel();
      return [...(await output).matchAll(/ 02:00:00:00:(..):(..) > (.*)/g)].map(([, high, low, rest]) => ({
        index: Number.parseInt(`${high}${low}`, 16),
        tags: [...rest!.matchAll(/\bvlan (\d+)/g)].map(([, vlan]) => vlan).join(".") || "untagged",
      }));
    },
  };
}

async function endProcess(pid: number): Promise<void> {
  const endTimeoutMs = 5_000;
  const deadline = Date.now() + endTimeoutMs;
  if (!(pid > 0)) return;
  try {
    process.kill(pid, "SIGCONT");
    process.kill(pid, "SIGTERM");
    while (Date.now() < deadline) {
      process.kill(pid, 0);
      await Bun.sleep(20);
    }
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

/** What decides about a port's frames, as Open vSwitch's database has it. */
export interface Columns {
  vlan_mode: string;
  tag: number | null;
  trunks: number[];
}

/** How a port looks with these VLANs. From ovs-vswitchd.conf.db(5), not from the driver: what each state has to look like. 4095 is in no network. */
export function columnsFor(native: number | null, tagged: readonly number[]): Columns {
  if (native === null) return { vlan_mode: "trunk", tag: null, trunks: tagged.length === 0 ? [4095] : [...tagged] };
  return { vlan_mode: tagged.length === 0 ? "access" : "native-untagged", tag: native, trunks: [...tagged] };
}

/** The other way round. A port that keeps to no VLANs carries VLAN 4095, which is in no network. */
export function stateOf({ vlan_mode, tag, trunks }: Columns): PortState {
  const carriesNothing = trunks.length === 1 && trunks[0] === 4095;
  if (vlan_mode === "access") return { native: tag, tagged: [] };
  if (vlan_mode !== "trunk" && vlan_mode !== "native-untagged") return { native: null, tagged: [4095] };
  return { native: vlan_mode === "trunk" ? null : tag, tagged: carriesNothing ? [] : trunks.length === 0 ? [4095] : trunks };
}

export async function columnsOfPorts(lab: OvsLab): Promise<Map<string, Columns>> {
  const text = await lab.vsctl("--format=json", "--columns=name,vlan_mode,tag,trunks", "list", "port");
  const { data } = JSON.parse(text) as { data: [string, unknown, unknown, unknown][] };
  const set = (cell: unknown): any[] => (Array.isArray(cell) ? cell[1] : [cell]);
  return new Map(
    data.map(([name, mode, tag, trunks]) => [
      name,
      { vlan_mode: set(mode)[0], tag: set(tag)[0] ?? null, trunks: set(trunks).toSorted((a, b) => a - b) },
    ]),
  );
}

/** Raw frames, one line of hex each, from standard input: the kernel here has no VLAN devices to send through. */
const sendScript = `use strict; use Socket;
my ($device) = @ARGV;
my ($AF_PACKET, $SIOCGIFINDEX) = (17, 0x8933);
socket(my $s, $AF_PACKET, SOCK_RAW, 0) or die "socket: $!";
my $request = pack("Z16 x24", $device);
ioctl($s, $SIOCGIFINDEX, $request) or die "no device $device: $!";
my $address = pack("S n i S C C a8", $AF_PACKET, 3, unpack("x16 i", $request), 0, 0, 6, "");
my $sent = 0;
while (my $line = <STDIN>) {
  chomp $line;
  send($s, pack("H*", $line), 0, $address) or die "send: $!";
  select(undef, undef, undef, 0.01) if ++$sent % 16 == 0;
}
`;

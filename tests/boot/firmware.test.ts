import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { runCommand } from "../../src/hardware/command.ts";
import { untilWithin } from "../support/until.ts";
import { makeSite, type Serving, type Site } from "./site.ts";

// The boot loaders that `haas boot serve` gives away, in real firmware: BIOS (SeaBIOS) gets lpxelinux.0, UEFI (OVMF) an
// iPXE. Each machine installs once, reports, and starts anew from the network; then it is its disk's turn.

const root = resolve(import.meta.dir, "../..");
const netns = `bf${process.pid}`;
const boundMs = 150_000;
let site: Site;
const dnsmasqLog = () => join(site.dir, "dnsmasq.log");
let serving: Serving;
let dnsmasq: Bun.Subprocess | null = null;
const machines: Bun.Subprocess[] = [];

const must = async (...argv: readonly [string, ...string[]]) => {
  const { exitCode, stdout, stderr } = await runCommand({ argv, timeoutMs: 100_000, maxOutputBytes: 65_536 });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
  return stdout;
};
const removeNamespace = () => void Bun.spawnSync(["ip", "netns", "del", netns]);
process.on("exit", () => {
  for (const child of [...machines, dnsmasq]) child?.kill("SIGKILL");
  removeNamespace();
});

beforeAll(async () => {
  await must("ip", "netns", "add", netns);
  await must("ip", "-n", netns, "link", "set", "lo", "up");
  // The switch of two machines.
  await must("ip", "-n", netns, "link", "add", "nodes0", "type", "bridge");
  for (const tap of ["bios", "uefi"]) {
    await must("ip", "-n", netns, "tuntap", "add", tap, "mode", "tap");
    await must("ip", "-n", netns, "link", "set", tap, "master", "nodes0", "up");
  }
  await must("ip", "-n", netns, "address", "add", "10.79.0.1/24", "dev", "nodes0");
  await must("ip", "-n", netns, "link", "set", "nodes0", "up");
  site = await makeSite({
    head: 'interface = "nodes0"\nport = 8000\n',
    url: "http://10.79.0.1:8000",
    within: ["ip", "netns", "exec", netns],
    more: `[profiles.tiny]
kernel = "tiny/vmlinuz"
initrd = ["tiny/initrd.img"]
args = "console=ttyS0 quiet haas.files={{ files_url }}"
files = { "install.sh" = "install.sh" }
[nodes.bios]
mac = ["52:54:00:cc:00:01"]
[nodes.uefi]
mac = ["52:54:00:cc:00:02"]
[dnsmasq]
run = true
tftp_root = "tftp"
`,
  });
  chmodSync(site.dir, 0o711);
  await must(join(root, "examples/rack/installer.sh"), join(site.dir, "files/tiny"));
  copyFileSync(join(root, "examples/rack/templates/install.sh"), join(site.dir, "templates/install.sh"));
}, 120_000);

afterAll(async () => {
  for (const machine of machines) machine.kill("SIGKILL");
  await Promise.all(machines.map(({ exited }) => exited));
  dnsmasq?.kill("SIGKILL");
  await dnsmasq?.exited;
  await site?.remove();
  removeNamespace();
}, 60_000);

const consoleOf = (name: string) => {
  const path = join(site.dir, name, "console.log");
  return existsSync(path) ? readFileSync(path, "latin1") : "";
};

/** What dnsmasq gave away, each file once however often it was asked for; but for a loader's own module. */
function given(): string[] {
  const text = existsSync(dnsmasqLog()) ? readFileSync(dnsmasqLog(), "utf8") : "";
  // (It says "failed" where the last packet arrived and its acknowledgement did not.)
  const names = [...text.matchAll(/(?:sent|failed sending) \S+\/tftp\/(\S+) to/g)].map(([, name]) => name!);
  return [...new Set(names)].filter((name) => name !== "ldlinux.c32");
}

const until = untilWithin(boundMs, () =>
  [consoleOf("uefi"), consoleOf("bios"), serving.log(), given().join(" ")].map((text) => text.slice(-2000)).join("\n"),
);
const shows = (name: string, words: string) => until(`${name} shows '${words}'`, () => consoleOf(name).includes(words));

/** Switch a machine on. */
function start(name: string, mac: string, ...more: string[]): Bun.Subprocess {
  const folder = join(site.dir, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "disk.img"), "");
  truncateSync(join(folder, "disk.img"), 64 * 1024 * 1024);
  const machine = Bun.spawn(
    [
      ...["ip", "netns", "exec", netns, "qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-display", "none", "-monitor", "none"],
      ...["-serial", `file:${folder}/console.log`, "-drive", `file=${folder}/disk.img,if=none,id=disk,format=raw,cache=unsafe`],
      ...["-device", "virtio-blk-pci,drive=disk,bootindex=2", "-netdev", `tap,id=nic,ifname=${name},script=no,downscript=no`],
      ...more.map((word) => word.replace("NIC", `virtio-net-pci,netdev=nic,mac=${mac},bootindex=1`)),
    ],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  machines.push(machine);
  return machine;
}

const status = async (name: string) => (await site.status()).find(({ machine }) => machine === name);

test("UEFI loads iPXE over TFTP, installs once, and is let go on to what its boot order names next", async () => {
  serving = await site.serve();
  await site.ok("arm", "uefi", "--profile", "tiny");
  copyFileSync("/usr/share/OVMF/OVMF_VARS_4M.fd", join(site.dir, "vars.fd"));
  const flash = (path: string, more: string) => ["-drive", `if=pflash,format=raw,file=${path}${more}`];
  const machine = start(
    "uefi",
    "52:54:00:cc:00:02",
    ...["-machine", "q35", ...flash("/usr/share/OVMF/OVMF_CODE_4M.fd", ",readonly=on"), ...flash(join(site.dir, "vars.fd"), "")],
    // Without iPXE in the card it is the firmware that asks.
    ...["-device", "NIC,romfile="],
  );
  await shows("uefi", "NBP filename is snponly.efi");
  await shows("uefi", "uefi is installed.");
  await shows("uefi", "haas: installed: booting from disk");
  // (What it names next are the same card's other three ways of booting, minutes before the disk.)
  await shows("uefi", "BdsDxe: failed to start");
  expect(await status("uefi")).toMatchObject({ state: "done", boots: 1 });
  // It would go on asking for its boot loader.
  machine.kill("SIGKILL");
  await machine.exited;
  await serving.stop();
}, 200_000);

test("BIOS loads lpxelinux.0 over TFTP, installs once, and boots from its disk", async () => {
  // It puts the boot loaders in their place.
  await (await site.serve()).stop();
  // The firmware here is iPXE itself, which would get our script. To a dnsmasq that does not know iPXE it is as any other.
  const printed = await site.ok("dnsmasq");
  expect(printed).toContain("\ndhcp-match=set:ipxe,175\n");
  const file = join(site.dir, "dnsmasq.conf");
  writeFileSync(file, printed.replace("\ndhcp-match=set:ipxe,175\n", "\nlog-facility=-\n"));
  site.write("boot.toml", readFileSync(join(site.dir, "boot.toml"), "utf8").replace("run = true", "run = false"));
  dnsmasq = Bun.spawn(["ip", "netns", "exec", netns, "dnsmasq", "--keep-in-foreground", `--conf-file=${file}`], {
    stdio: ["ignore", "ignore", Bun.file(dnsmasqLog())],
  });
  serving = await site.serve();
  await site.ok("arm", "bios", "--profile", "tiny");
  start("bios", "52:54:00:cc:00:01", "-vga", "none", "-device", "NIC");
  await shows("bios", "bios is installed.");
  await shows("bios", "bios runs from its disk.");
  expect(await status("bios")).toMatchObject({ state: "done", boots: 1 });
  const loads = ["lpxelinux.0", "pxelinux.cfg/01-52-54-00-cc-00-01", "pxelinux.cfg/default"];
  await until("the last file is given", () => given().length >= loads.length);
  expect(given()).toEqual(loads);
  await serving.stop();
}, 200_000);

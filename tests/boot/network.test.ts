import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "../support/binary.ts";
import { untilWithin } from "../support/until.ts";
import { macOf, makeSite, type Serving, type Site } from "./site.ts";
import { swarmProgram } from "./swarm.ts";

// DHCP and TFTP are dnsmasq's, run by `haas boot serve` in a network of two namespaces: the headnode's and the nodes'.

const [head, nodes] = [`bh${process.pid}`, `bn${process.pid}`];
const count = 200;
let site: Site;
let serving: Serving;

const ip = (...argv: string[]) => {
  const { exitCode, stderr } = Bun.spawnSync(["ip", ...argv]);
  if (exitCode !== 0) throw new Error(`ip ${argv.join(" ")}: ${stderr.toString()}`);
};
const inNodes = (...argv: string[]) => run(["ip", "netns", "exec", nodes, ...argv], { cwd: site.dir });
const removeNamespaces = () => {
  for (const name of [head, nodes]) if (existsSync(`/run/netns/${name}`)) ip("netns", "del", name);
};
process.on("exit", removeNamespaces);

beforeAll(async () => {
  for (const name of [head, nodes]) {
    ip("netns", "add", name);
    ip("-n", name, "link", "set", "lo", "up");
  }
  ip("link", "add", "nodes0", "netns", head, "type", "veth", "peer", "name", "eth0", "netns", nodes);
  ip("-n", head, "address", "add", "10.78.0.1/16", "dev", "nodes0");
  ip("-n", head, "link", "set", "nodes0", "up");
  ip("-n", nodes, "link", "set", "eth0", "up");
  site = await makeSite({
    head: 'interface = "nodes0"\nport = 8000\n',
    url: "http://10.78.0.1:8000",
    within: ["ip", "netns", "exec", head],
    more: `[nodes.fixed]
mac = ["52:54:00:bb:00:01"]
address = "10.78.0.77"
[dnsmasq]
run = true
tftp_root = "tftp"
range = "10.78.1.1,10.78.2.250"
`,
  });
  expect((await site.boot("serve")).err).toMatch(
    /^Error: dnsmasq, as user dnsmasq, can't reach \S+: chmod o\+x \S+, or choose another tftp_root\.\n$/m,
  );
  chmodSync(site.dir, 0o711);
  site.lease(Object.fromEntries(Array.from({ length: count }, (_, k) => [k + 1, `10.78.1.${k + 1}`])));
  serving = await site.serve();
  await said("DHCP, sockets bound");
});
afterAll(async () => {
  await site?.remove();
  // Also what a failed test has left there.
  for (const pid of site ? dnsmasq() : []) process.kill(pid, "SIGKILL");
  removeNamespaces();
});

const until = untilWithin(20_000, () => serving.log());
const said = (words: string) => until(`'${words}' is in the log`, () => serving.log().includes(words));

/** The dnsmasq of this test, by its configuration's name. */
function dnsmasq(): number[] {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
        return argv[0] === "dnsmasq" && argv.some((word) => word.includes(site.dir));
      } catch {
        return false;
      }
    })
    .map(Number);
}

const gone = () => untilWithin(10_000)("dnsmasq is gone", () => !site || dnsmasq().length === 0);

/** Ask for an address as firmware of this architecture would: what it is told. */
async function dhcp(mac: string, options: string[]): Promise<Record<string, string>> {
  ip("-n", nodes, "link", "set", "eth0", "address", mac);
  writeFileSync(join(site.dir, "told.sh"), '#!/bin/sh\n[ "$1" = bound ] && echo "$ip $boot_file $siaddr"\nexit 0\n', { mode: 0o755 });
  const ask = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "8", "-T", "1", "-s", join(site.dir, "told.sh"), ...options];
  const { out, err } = await inNodes(...ask);
  const [address = "", file = "", server = ""] = out.trim().split("\n").at(-1)!.split(" ");
  if (address === "") throw new Error(`no address: ${out}${err}${serving.log().slice(-2000)}`);
  return { address, file, server };
}

test("DHCP: a boot file by architecture, one address for a MAC, fixed ones for nodes", async () => {
  const arch = (code: string) => ["-x", `0x5d:${code}`];
  const bios = await dhcp("52:54:00:bb:00:02", arch("0000"));
  expect(bios).toMatchObject({ file: "lpxelinux.0", server: "10.78.0.1" });
  // The firmware, iPXE and the installer call themselves differently.
  const ipxe = await dhcp("52:54:00:bb:00:02", [...arch("0000"), "-x", "0xaf:01", "-x", "0x3d:00112233"]);
  expect(ipxe).toEqual({ address: bios.address!, file: "http://10.78.0.1:8000/boot.ipxe", server: "10.78.0.1" });
  for (const code of ["0007", "0009"]) expect((await dhcp("52:54:00:bb:00:03", arch(code))).file).toBe("snponly.efi");
  expect((await dhcp("52:54:00:bb:00:01", arch("0000"))).address).toBe("10.78.0.77");
  // And the lease counts at once.
  const lease = readFileSync(join(site.dir, "leases"), "utf8");
  expect(lease).toContain(` 52:54:00:bb:00:02 ${bios.address} `);
  await site.ok("arm", "52:54:00:bb:00:02", "--profile", "linux");
  // dnsmasq has told the kernel which card the address is at.
  ip("-n", nodes, "link", "set", "eth0", "address", "52:54:00:bb:00:02");
  ip("-n", nodes, "address", "add", `${bios.address}/16`, "dev", "eth0");
  ip("-n", nodes, "address", "add", "10.78.0.9/16", "dev", "eth0");
  const script = async (from: string) =>
    (await inNodes("curl", "-s", "--interface", from, "http://10.78.0.1:8000/ipxe/52:54:00:bb:00:02")).out;
  expect(await script("10.78.0.9")).toContain("does not hold the lease");
  expect(await script(bios.address!)).toContain("kernel http://10.78.0.1:8000/files/linux/vmlinuz");
});

test("200 nodes boot at once over TFTP and HTTP", async () => {
  const addresses = Array.from({ length: count }, (_, k) => `address add 10.78.1.${k + 1}/16 dev eth0\n`).join("");
  writeFileSync(join(site.dir, "addresses"), addresses);
  ip("-n", nodes, "-batch", join(site.dir, "addresses"));
  await site.ok("arm", ...Array.from({ length: count }, (_, k) => macOf(k + 1)), "--profile", "linux");
  const { out, err } = await inNodes(process.execPath, swarmProgram, "10.78.0.1", "8000", String(count));
  expect([out, err]).toEqual(["true,true,200,700000,true,200,true\n", ""]);
  const ours = (await site.status()).filter(({ machine }) => machine.startsWith("52:54:00:aa:"));
  expect([...new Set(ours.map(({ state, boots }) => `${state} ${boots}`))]).toEqual(["done 1"]);
});

test("TFTP gives no path outside its root, no link out of it, and takes nothing", async () => {
  const root = join(site.dir, "tftp");
  site.write("outside.txt", "what lies outside");
  symlinkSync(join(site.dir, "outside.txt"), join(root, "link"));
  symlinkSync("/etc", join(root, "etc"));
  writeFileSync(join(root, "given"), "given", { mode: 0o644 });
  const { uid, gid } = await Bun.file(root).stat();
  chownSync(join(root, "given"), uid, gid);
  mkdirSync(join(root, "folder"));
  const program = join(site.dir, "ask.ts");
  const names = ["../outside.txt", `${root}/../outside.txt`, "/etc/passwd", "etc/passwd", "link", "folder", "given/../../outside.txt"];
  const asks = [...names.map((name) => ["get", name]), ["put", "planted"], ["put", "given"], ["get", "x".repeat(600)], ["get", "given"]];
  writeFileSync(
    program,
    `import { tftpGet } from ${JSON.stringify(swarmProgram)};
for (const [mode, name] of ${JSON.stringify(asks)})
  console.log(await tftpGet("10.78.0.1", name, "10.78.1.1", mode).then(String, (error) => "refused: " + error.message.slice(0, 40)));`,
  );
  const { out, err } = await inNodes(process.execPath, program);
  const lines = out.trim().split("\n");
  expect([lines.length, err]).toEqual([asks.length, ""]);
  expect(lines.at(-1)).toBe("given");
  for (const line of lines.slice(0, -1)) expect(line).toStartWith("refused: ");
  expect(readdirSync(root)).not.toContain("planted");
  expect(readFileSync(join(root, "given"), "utf8")).toBe("given");
});

test("dnsmasq takes the configuration that is printed: with boot.toml and without", async () => {
  const file = join(site.dir, "printed.conf");
  const print = async (cwd: string, ...more: string[]) => {
    const binary = join(import.meta.dir, "../../dist/haas");
    const { status, out, err } = await run(["ip", "netns", "exec", head, binary, "boot", "dnsmasq", ...more], { cwd });
    expect([status, err]).toEqual([0, ""]);
    writeFileSync(file, out);
    const tested = await run(["dnsmasq", "--test", `--conf-file=${file}`], { cwd });
    expect([tested.status, tested.err]).toEqual([0, "dnsmasq: syntax check OK.\n"]);
    return out;
  };
  const alone = await print(join(site.dir, "files"), "--interface", "nodes0");
  for (const line of ["port=0", "interface=nodes0", "bind-interfaces", "dhcp-ignore-clid", "no-ping", "enable-ra", "tftp-secure"]) {
    expect(alone.split("\n")).toContain(line);
  }
  expect(alone).toContain("dhcp-range=10.78.51.52,10.78.255.254,255.255.0.0,1h\n");
  const configured = await print(site.dir);
  expect(configured).toContain("dhcp-range=10.78.1.1,10.78.2.250,255.255.0.0,1h\n");
  expect(configured).toContain("dhcp-host=52:54:00:bb:00:01,10.78.0.77,fixed\n");
  expect(configured).toContain(`tftp-root=${site.dir}/tftp\n`);
});

test("dnsmasq is started again when it ends, and ends with the server, however that ends", async () => {
  const [first] = dnsmasq();
  process.kill(first!, "SIGKILL");
  await said("dnsmasq ended; it is started again");
  await until("dnsmasq is started again", () => dnsmasq().length > 0 && dnsmasq()[0] !== first);
  await serving.kill();
  await gone();
  serving = await site.serve();
  await said("DHCP, sockets bound");
  expect(dnsmasq()).toHaveLength(1);
  await serving.stop();
  await gone();

  // One that was left behind with the guard killed, too.
  const conf = join(site.dir, "boot.db.dnsmasq/dnsmasq.conf");
  const left = Bun.spawn(["ip", "netns", "exec", head, "dnsmasq", `--conf-file=${conf}`], { stdio: ["ignore", "ignore", "ignore"] });
  await left.exited;
  const [orphan] = dnsmasq();
  expect(orphan).toBeGreaterThan(0);
  serving = await site.serve();
  await said("DHCP, sockets bound");
  expect(serving.log()).toContain("ending a dnsmasq that was left behind");
  expect(dnsmasq()).not.toContain(orphan);
  await serving.stop();
  await gone();
});

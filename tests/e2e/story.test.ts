import { afterAll, beforeAll, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { runCommand } from "../../src/hardware/command.ts";
import type { Served } from "../support/binary.ts";
import { makeHeadnodeImage } from "../support/headnode-image.ts";
import { type LabService, makeLabService } from "../support/lab-service.ts";
import { type LibvirtLab, startLibvirt } from "../support/libvirt-lab.ts";
import { scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// From an empty rack to installed machines, by the compiled program alone: an Open vSwitch, five nodes that are virtual
// machines with BMCs, a headnode that haas makes and that serves DHCP, `haas boot serve`, two projects. One network
// namespace holds all of it.

const root = resolve(import.meta.dir, "../..");
const home = scratch();
const rack = join(home.path, "rack");
const netns = `hstory${process.pid}`;
const config = join(home.path, "haas.cfg");
const bootConfig = join(rack, "boot.toml");
const ours = ["node-01", "node-02", "node-03", "node-04"];
const theirs = "node-05";
const macOf = (node: string) => `52:54:00:aa:00:${node.slice(-2)}`;
const addressOf = (node: string) => `10.77.0.5${node.at(-1)}`;
const boundMs = 200_000;
let lab: LibvirtLab;
let service: LabService;
let server: Served;
let boot: Bun.Subprocess;
let consoleOfHeadnode: string;

const vsctl = (...argv: string[]) => lab.must("ovs-vsctl", "--timeout=10", ...argv);

const as =
  (user: "root" | "alice" | "bob") =>
  (...argv: string[]) =>
    service.ok(user, ...argv);
const admin = as("root");
const alice = as("alice");
const bob = as("bob");

const consolePath = (node: string) => join(rack, node, "console.log");
const consoleOf = (node: string) => (existsSync(consolePath(node)) ? readFileSync(consolePath(node), "latin1") : "");

const until = untilWithin(boundMs, evidence, 200);

/** What to look at when something did not happen. */
function evidence(): string {
  const tail = (name: string, path: string) => {
    try {
      return `--- ${name}\n${readFileSync(path, "latin1").slice(-1500)}`;
    } catch {
      return `--- ${name}: nothing`;
    }
  };
  return [
    tail("headnode", consoleOfHeadnode),
    tail("haas boot", join(rack, "boot.log")),
    tail(ours[0]!, join(rack, ours[0]!, "console.log")),
  ].join("\n");
}

beforeAll(async () => {
  mkdirSync(rack, { recursive: true });
  lab = await startLibvirt({ dir: join(home.path, "lv"), netns });
  // The rack, and where every program looks for an Open vSwitch.
  await lab.must("env", `RACK=${rack}`, "MEMORY=112", join(root, "examples/rack/up.sh"), "5");
  await lab.must("sh", "-euc", `mkdir -p /run/openvswitch && mount --bind ${rack}/switch /run/openvswitch`);
  // Out here: it may have to fetch a package.
  const installer = await runCommand({
    argv: [join(root, "examples/rack/installer.sh"), join(rack, "files/tiny")],
    timeoutMs: 100_000,
    maxOutputBytes: 65_536,
  });
  if (installer.exitCode !== 0) throw new Error(`examples/rack/installer.sh: ${installer.stderr}`);
  cpSync(join(root, "examples/rack/templates"), join(rack, "templates"), { recursive: true });
  // The hypervisor's cable to the rack, which carries every VLAN, and a bridge that a kernel without Open vSwitch can run.
  await lab.must("ip", "link", "add", "trunk0", "type", "veth", "peer", "name", "trunk1");
  await lab.must("ip", "link", "set", "trunk1", "up");
  await vsctl("add-port", "rack0", "trunk1", "--", "add-br", "br-trunk", "--", "set", "bridge", "br-trunk", "datapath_type=netdev");
  ({ console: consoleOfHeadnode } = await makeHeadnodeImage(lab, {
    name: "base-headnode",
    dir: join(home.path, "image"),
    installer: join(rack, "files/tiny"),
    hosts: Object.fromEntries([...ours, theirs].map((node) => [macOf(node), addressOf(node)])),
    bootFile: "http://10.77.0.1:8000/boot.ipxe",
  }));
  const settings = `[headnode]
trunk_nic = trunk0
base_imgs = base-headnode
network = ovs
[database]
uri = sqlite:///${home.path}/haas.db
[extensions]
haas.ext.auth.database =
haas.ext.network_allocators.vlan_pool =
haas.ext.obm.ipmi =
haas.ext.switches.ovs =
[haas.ext.network_allocators.vlan_pool]
vlans = 100-109
[haas.ext.obm.ipmi]
cipher_suite = 3
`;
  writeFileSync(config, settings, { mode: 0o600 });
  // Fixed addresses only: what the nodes are called, `haas boot arm` asks haas.
  const nodes = ours.map(
    (node) => `[nodes.at-${addressOf(node).replaceAll(".", "-")}]\nmac = ["${macOf(node)}"]\naddress = "${addressOf(node)}"\n`,
  );
  const text = `interface = "hn0"
address = "10.77.0.1"
root = "files"
state = "boot.db"
templates = "templates"
leases = "leases"
[profiles.tiny]
kernel = "tiny/vmlinuz"
initrd = ["tiny/initrd.img"]
args = "console=ttyS0 quiet haas.files={{ files_url }}"
files = { "install.sh" = "install.sh" }
${nodes.join("")}`;
  writeFileSync(bootConfig, text, { mode: 0o600 });
  service = await makeLabService(lab, home.path, config);
}, 180_000);

afterAll(async () => {
  boot?.kill("SIGTERM");
  await boot?.exited;
  const [ended] = await Promise.allSettled([server?.stop()]);
  await lab?.run("env", `RACK=${rack}`, join(root, "examples/rack/down.sh"));
  await lab?.stop();
  home.remove();
  if (ended.status === "rejected") throw ended.reason;
}, 60_000);

test(
  "an empty rack becomes four installed machines, and a fifth never hears of it",
  async () => {
    // The administrator's part.
    await lab.must(service.haas, "create_bridges", "--config", config);
    server = await service.serve();
    await admin("site_register", join(rack, "site-layout.json"));
    for (const project of ["red", "blue"]) await admin("project_create", project);
    await service.addUser("alice", "red");
    await service.addUser("bob", "blue");

    // Blue has a node on a network of its own, where nobody answers.
    await bob("project_connect_node", "blue", theirs);
    await bob("network_create_simple", "quiet", "blue");
    await bob("node_connect_network", theirs, "eth0", "quiet", "--wait");

    // Red has four, and a headnode beside them.
    await alice("network_create_simple", "pxe", "red");
    for (const node of ours) {
      await alice("project_connect_node", "red", node);
      await alice("node_connect_network", node, "eth0", "pxe", "--wait");
    }
    await alice("headnode_create", "boss", "red", "base-headnode");
    await alice("headnode_create_hnic", "boss", "eth0");
    await alice("headnode_connect_network", "boss", "eth0", "pxe");
    await alice("headnode_start", "boss");
    const headnode = JSON.parse(await alice("show_headnode", "boss", "--json"));
    expect(headnode).toMatchObject({ state: "on", networks: { eth0: "pxe" } });
    const tap = (await lab.virsh("domiflist", `headnode-${headnode.uuid}`)).match(/vnet\d+/)![0];
    const vlan = (await vsctl("get", "port", tap, "tag")).trim();

    // What stands in for the rest of the headnode: a port of the switch on the same network, where `haas boot` serves.
    await vsctl("add-port", "rack0", "hn0", `tag=${vlan}`, "--", "set", "interface", "hn0", "type=internal");
    await lab.must("ip", "addr", "add", "10.77.0.1/24", "dev", "hn0");
    await lab.must("ip", "link", "set", "hn0", "up");
    const log = Bun.file(join(rack, "boot.log"));
    boot = Bun.spawn([...lab.enter, service.haas, "boot", "serve", "--config", bootConfig], { stdin: "ignore", stdout: log, stderr: log });
    await until(
      "haas boot serves",
      async () => (await lab.run("curl", "-sf", "-o", "/dev/null", "http://10.77.0.1:8000/boot.ipxe")).exitCode === 0,
    );
    await until("the headnode serves DHCP", () => readFileSync(consoleOfHeadnode, "latin1").includes("DHCP"));

    const watched = join(rack, "fifth.txt");
    const tcpdump = Bun.spawn([...lab.enter, "tcpdump", "-l", "-n", "-e", "-i", "port5"], {
      stdin: "ignore",
      stdout: Bun.file(watched),
      stderr: "ignore",
    });
    await alice("boot_arm", ...ours, "--profile", "tiny", "--config", bootConfig);
    await Promise.all([...ours.map((node) => alice("node_power_cycle", node)), bob("node_power_cycle", theirs)]);

    type Row = { name: string; state: string; boots: number };
    const status = async () => JSON.parse(await alice("boot_status", "--json", "--config", bootConfig)) as Row[];
    await until("all four have reported", async () => (await status()).every(({ state }) => state === "done"));
    for (const node of ours) {
      await until(`${node} runs from its disk`, () => consoleOf(node).includes(`${node} runs from its disk.`));
      // Once each: the installer, and then the disk.
      expect(consoleOf(node).split(`${node} is installed.`).length).toBe(2);
    }
    expect((await status()).map(({ state, boots }) => [state, boots])).toEqual(ours.map(() => ["done", 1]));

    // Another cycle, from the network: it is told to boot from its disk.
    for (const node of ours) rmSync(consolePath(node));
    await Promise.all(ours.map((node) => alice("node_power_cycle", node)));
    for (const node of ours) {
      await until(`${node} runs from its disk again`, () => consoleOf(node).includes(`${node} runs from its disk.`));
      expect(consoleOf(node)).not.toContain("is installed.");
    }
    expect((await status()).map(({ boots }) => boots)).toEqual([1, 1, 1, 1]);

    // The fifth asked all the time, and saw nobody's frames but its own and those of its end of the cable.
    tcpdump.kill("SIGINT");
    await tcpdump.exited;
    const frames = readFileSync(watched, "utf8");
    expect(frames).toContain("BOOTP/DHCP, Request from 52:54:00:aa:00:05");
    const senders = new Set([...frames.matchAll(/^\S+ (\S+) > /gm)].map(([, mac]) => mac));
    const own = [macOf(theirs), (await lab.must("ip", "netns", "exec", netns, "cat", "/sys/class/net/port5/address")).trim()];
    expect([...senders].filter((mac) => !own.includes(mac!))).toEqual([]);

    await alice("headnode_delete", "boss");
    expect((await lab.virsh("list", "--all", "--name")).trim()).toBe("base-headnode");
    expect((await vsctl("list-ports", "br-trunk")).trim()).toBe("trunk0");
    expect((await lab.must("ls", join(home.path, "image"))).includes("headnode-")).toBe(false);
    await lab.must(service.haas, "delete_bridges", "--config", config);
    expect(await vsctl("list-br")).not.toContain("br-trunk");
  },
  boundMs + 60_000,
);

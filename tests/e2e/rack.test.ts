import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { haasBinary, type Ran, run, serve, type Served } from "../support/binary.ts";
import { type Bmc, startBmc } from "../support/ipmi-sim.ts";
import { type Frame, type OvsLab, startOvs } from "../support/ovs-lab.ts";
import { freePort } from "../support/postgres.ts";
import { isRunning } from "../support/processes.ts";
import { secrets } from "../support/secrets.ts";
import { scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// A rack from its registration to its emptying, by the compiled program's command line alone: three nodes
// with real BMCs, on a real Open vSwitch. Every test goes on from where the one before it left off.

const names = ["n1", "n2", "n3"] as const;
type Name = (typeof names)[number];
const bridge = "rack0";
const portOf = { n1: "p1", n2: "p2", n3: "p3" } as const;
const ports = Object.values(portOf);
/** A port that haas does not know: like an uplink it carries every VLAN, and so shows what gets out, and tries to get in. */
const uplink = "uplink";
const everyone = [...ports, uplink, bridge];
const boundMs = 30_000;

const home = scratch();
const config = join(home.path, "haas.cfg");
let haas: string;
let port: number;
let server: Served;
let lab: OvsLab;
let bmcs: Record<Name, Bmc>;
/** Of a node that is registered with the wrong password. */
let guessed: Bmc;
/** Takes every packet and answers none. */
let silent: Awaited<ReturnType<typeof openSilent>>;

async function openSilent() {
  const heard = Promise.withResolvers<void>();
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1", socket: { data: () => heard.resolve() } });
  return { host: `127.0.0.1:${socket.port}`, heard: heard.promise, close: () => socket.close() };
}

async function freeUdpPort(): Promise<number> {
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1" });
  const { port } = socket;
  socket.close();
  return port;
}

const startServer = async (...options: string[]) => {
  server = await serve([haas, "serve", String(port), "--config", config, ...options], port, { cwd: home.path });
};

/** The command line as one user has it. */
function user(name: string, password: string) {
  const env = () => ({ HAAS_ENDPOINT: server.url, HAAS_USERNAME: name, HAAS_PASSWORD: password });
  const start = (argv: readonly string[], stdin?: string): Promise<Ran> =>
    run([haas, ...argv], { cwd: home.path, env: env(), ...(stdin !== undefined && { stdin }) });
  return {
    start,
    /** Standard output of a command that succeeds in silence. */
    async ok(argv: readonly string[], stdin?: string): Promise<string> {
      const { status, out, err } = await start(argv, stdin);
      // With --json --wait the id goes to standard error, so that it is not lost with the answer.
      const said = err.replace(/^networking action [0-9a-f-]{36}\n$/, "");
      expect({ argv, status, said }).toEqual({ argv, status: 0, said: "" });
      return out;
    },
    async json(...argv: string[]): Promise<unknown> {
      return JSON.parse(await this.ok([...argv, "--json"]));
    },
    /** The one line by which a command fails that the server refuses. */
    async refused(...argv: string[]): Promise<string> {
      const { status, out, err } = await start(argv);
      expect({ argv, status, out }).toEqual({ argv, status: 1, out: "" });
      expect(err).toMatch(/^Error: [^\n]+\n$/);
      return err;
    },
  };
}

const admin = user("root", secrets.admin);
const alice = user("alice", secrets.alice);
const bob = user("bob", secrets.bob);

beforeAll(async () => {
  haas = await haasBinary();
  port = await freePort();
  silent = await openSilent();
  lab = await startOvs({ dir: join(home.path, "ovs"), name: `hrack${process.pid}`, bridge, ports: [...ports, uplink] });
  const started = await Promise.all(
    [...names, "guess"].map(async (name) =>
      startBmc({ dir: join(home.path, name), name, port: await freeUdpPort(), user: "admin", password: secrets.bmc }),
    ),
  );
  bmcs = Object.fromEntries(names.map((name, i) => [name, started[i]!])) as Record<Name, Bmc>;
  guessed = started.at(-1)!;
  const text = `[general]
log_level = info
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
timeout = 5
retries = 0
`;
  writeFileSync(config, text, { mode: 0o600 });
}, 120_000);

afterAll(async () => {
  const ends = await Promise.allSettled([
    server?.stop(),
    lab?.stop(),
    ...[...Object.values(bmcs ?? {}), guessed].map((bmc) => bmc?.stop()),
  ]);
  silent?.close();
  home.remove();
  const failed = ends.find((end) => end.status === "rejected");
  if (failed) throw failed.reason;
}, 120_000);

const until = untilWithin(boundMs);

/** Not at the first try: an address that was asked for in vain a moment ago is asked for again only after a second. */
const reaches = (from: string, to: string) => until(`a ping from ${from} to ${to} is answered`, () => lab.ping(from, to));

/** The type of the answer, which the command line does not show. */
async function answerType(path: string): Promise<[number, string]> {
  const authorization = `Basic ${Buffer.from(`root:${secrets.admin}`).toString("base64")}`;
  const answer = await fetch(`${server.url}${path}`, { method: "POST", headers: { authorization } });
  return [answer.status, ((await answer.json()) as { type: string }).type];
}

describe("registration", () => {
  test("the first admin, the server, the switch, the nodes, the cables, the tenants", async () => {
    const created = await run([haas, "create_admin_user", "root", "-", "--config", config], {
      cwd: home.path,
      stdin: `${secrets.admin}\n`,
    });
    expect(created).toMatchObject({ status: 0, out: "" });
    await startServer();

    await admin.ok(["switch_register", "rack", "ovs", bridge, lab.db]);
    for (const name of names) {
      await admin.ok(["node_register", name, "ipmi", bmcs[name].host, "admin", secrets.bmc]);
      await admin.ok(["node_register_nic", name, "eth0", `52:54:00:00:00:0${name[1]}`]);
    }
    await admin.ok(["node_register", "guess", "ipmi", guessed.host, "admin", secrets.wrongBmc]);
    await admin.ok(["node_register", "dead", "ipmi", silent.host, "admin", secrets.bmc]);
    for (const project of ["red", "blue"]) await admin.ok(["project_create", project]);
    for (const [name, password, project] of [
      ["alice", secrets.alice, "red"],
      ["bob", secrets.bob, "blue"],
    ] as const) {
      await admin.ok(["user_create", name, "-", "regular"], `${password}\n`);
      await admin.ok(["user_add_project", name, project]);
    }
  });

  test("without credentials and with wrong ones nothing is shown", async () => {
    const bare = await run([haas, "list_nodes", "all"], { cwd: home.path, env: { HAAS_ENDPOINT: server.url } });
    expect(bare).toMatchObject({ status: 1, out: "" });
    expect(bare.err).toMatch(/^Error: Authentication is required[^\n]*\n$/);
    expect(await user("root", secrets.wrongUser).refused("list_nodes", "all")).toContain("user name or the password is wrong");
  });

  test("a new switch port carries every VLAN, and none any more once it is registered", async () => {
    const before = await lab.send("p1", everyTag, ["p2", uplink]);
    expect([before["p2"]!.length, before[uplink]!.length]).toEqual([everyTag.length, everyTag.length]);

    for (const name of names) {
      await admin.ok(["port_register", "rack", portOf[name]]);
      await admin.ok(["port_connect_nic", "rack", portOf[name], name, "eth0"]);
    }
    await until(
      "haas has closed the ports",
      async () => (await lab.vsctl("--columns=name", "find", "port", "trunks=4095", "protected=true")).match(/name/g)?.length === 3,
    );
    await expectSilence("p1", "p2", "p3");
  }, 120_000);

  test("what is registered is shown, as text and as JSON", async () => {
    expect(await admin.ok(["list_switches"])).toBe("rack\n");
    expect(await admin.ok(["list_nodes", "free"])).toBe("dead\nguess\nn1\nn2\nn3\n");
    expect(await admin.ok(["list_projects"])).toBe("blue\nred\n");
    expect(await admin.json("list_nodes", "all")).toEqual(["dead", "guess", "n1", "n2", "n3"]);
    expect(await admin.ok(["list_users"])).toBe("alice\tregular\tred\nbob\tregular\tblue\nroot\tadmin\t\n");
    expect(await admin.json("show_switch", "rack")).toEqual({
      name: "rack",
      ports: [{ label: "p1" }, { label: "p2" }, { label: "p3" }],
      capabilities: ["nativeless-trunk-mode"],
    });
    expect(await admin.ok(["show_switch", "rack"])).toContain("capabilities: nativeless-trunk-mode\n");
    expect(await admin.json("show_port", "rack", "p1")).toEqual({ node: "n1", nic: "eth0", networks: {} });
    expect(await admin.json("show_node", "n1")).toEqual({
      name: "n1",
      project: null,
      obm_enabled: true,
      metadata: {},
      nics: [{ label: "eth0", macaddr: "52:54:00:00:00:01", networks: {}, port: "p1", switch: "rack" }],
    });
    const text = await admin.ok(["show_node", "n1"]);
    for (const line of ["name: n1", "project:", "nics.eth0.macaddr: 52:54:00:00:00:01", "nics.eth0.port: p1"])
      expect(text.split("\n")).toContain(line);
  });

  test("nodes and networks are handed out", async () => {
    for (const [project, name] of [
      ["red", "n1"],
      ["red", "n2"],
      ["blue", "n3"],
    ] as const)
      await admin.ok(["project_connect_node", project, name]);
    await alice.ok(["network_create_simple", "red-net", "red"]);
    await alice.ok(["network_create_simple", "red-storage", "red"]);
    await bob.ok(["network_create_simple", "blue-net", "blue"]);
    expect(await admin.ok(["list_networks"])).toBe("blue-net\t102\tblue\nred-net\t100\tred\nred-storage\t101\tred\n");
    expect(await alice.ok(["list_project_nodes", "red"])).toBe("n1\nn2\n");
    expect(await alice.ok(["list_project_networks", "red"])).toBe("red-net\nred-storage\n");
  });
});

describe("power", () => {
  const status = async (name: Name) => alice.ok(["node_power_status", name]);

  test("on and off start and end a real process", async () => {
    expect(await status("n1")).toBe("power_status: off\n");
    expect(await bmcs.n1.machine()).toBeNull();
    await alice.ok(["node_power_on", "n1"]);
    const machine = (await bmcs.n1.machine())!;
    expect(isRunning(machine)).toBe(true);
    expect(await status("n1")).toBe("power_status: on\n");
    expect(await alice.json("node_power_status", "n1")).toEqual({ power_status: "on" });
    // No effect if already so.
    await alice.ok(["node_power_on", "n1"]);
    expect(await bmcs.n1.machine()).toBe(machine);
    expect(await bmcs.n2.machine()).toBeNull();
    await alice.ok(["node_power_off", "n1"]);
    await until("the machine has ended", () => !isRunning(machine));
    expect(await status("n1")).toBe("power_status: off\n");
    await alice.ok(["node_power_off", "n1"]);
  });

  test("a cycle starts another process, from the network", async () => {
    await alice.ok(["node_power_cycle", "n1"]);
    const first = (await bmcs.n1.machine())!;
    expect(isRunning(first)).toBe(true);
    await alice.ok(["node_power_cycle", "n1", "--force"]);
    const second = (await bmcs.n1.machine())!;
    expect([isRunning(first), isRunning(second)]).toEqual([false, true]);
    expect(await heldBootDevice("n1")).toBe("Force PXE");
  });

  test("the boot device is the one that the BMC holds", async () => {
    for (const [device, held] of [
      ["disk", "Force Boot from default Hard-Drive"],
      ["pxe", "Force PXE"],
      ["none", "No override"],
    ] as const) {
      await alice.ok(["node_set_bootdev", "n2", device]);
      expect(await heldBootDevice("n2")).toBe(held);
    }
    expect(await alice.refused("node_set_bootdev", "n2", "cdrom")).toContain("pxe, disk, none");
    expect(await heldBootDevice("n2")).toBe("No override");
  });

  /** As the BMC tells it to somebody other than haas. */
  async function heldBootDevice(name: Name): Promise<string | undefined> {
    const [host, udp] = bmcs[name].host.split(":") as [string, string];
    const argv = ["ipmitool", "-I", "lanplus", "-C", "3", "-H", host, "-p", udp, "-U", "admin", "-E", "chassis", "bootparam", "get", "5"];
    const { out } = await run(argv, { cwd: home.path, env: { IPMI_PASSWORD: secrets.bmc } });
    return /Boot Device Selector\s*:\s*(.*?)\s*$/m.exec(out)?.[1];
  }

  test("a wrong password is told, in bounded time", async () => {
    const started = performance.now();
    const error = await admin.refused("node_power_on", "guess");
    expect(error).toContain(`BMC '${guessed.host}' answered but refused the session: check user, password`);
    expect(error).not.toContain(secrets.wrongBmc);
    expect(await answerType("/node/guess/power_off")).toEqual([500, "OBMError"]);
    expect(performance.now() - started).toBeLessThan(boundMs);
    expect(await guessed.machine()).toBeNull();
  }, 60_000);

  test("a dead BMC is told, in bounded time, and delays nobody else", async () => {
    const started = performance.now();
    let ended = false;
    const dead = admin.refused("node_power_on", "dead").finally(() => (ended = true));
    await silent.heard;
    for (const command of ["node_power_off", "node_power_on", "node_power_status"]) await alice.ok([command, "n2"]);
    expect(ended).toBe(false);
    expect(isRunning((await bmcs.n2.machine())!)).toBe(true);
    expect(await dead).toContain(`BMC '${silent.host}' is unreachable: it did not answer`);
    expect(await answerType("/node/dead/power_cycle")).toEqual([500, "OBMError"]);
    expect(performance.now() - started).toBeLessThan(boundMs);
  }, 60_000);

  test("so is one whose machine refuses the packets, and it is not called a wrong password", async () => {
    await bmcs.n3.stop();
    const started = performance.now();
    expect(await bob.refused("node_power_status", "n3")).not.toContain(bmcs.n3.host);
    const error = await admin.refused("node_power_status", "n3");
    expect(error).toContain(`BMC '${bmcs.n3.host}' is unreachable`);
    expect(await answerType("/node/n3/power_on")).toEqual([500, "OBMError"]);
    expect(performance.now() - started).toBeLessThan(boundMs);
    const udp = Number(bmcs.n3.host.split(":")[1]);
    bmcs.n3 = await startBmc({ dir: join(home.path, "n3"), name: "n3", port: udp, user: "admin", password: secrets.bmc });
    expect(await bob.ok(["node_power_status", "n3"])).toBe("power_status: off\n");
  }, 60_000);
});

/** What a hostile node would try: every tag there is, none, and two at a time. */
const everyTag: Frame[] = [
  { label: "plain", vlans: [] },
  ...Array.from({ length: 4096 }, (_, vlan) => ({ label: `v${vlan}`, vlans: [vlan] })),
  ...[
    [0, 100],
    [100, 100],
    [100, 101],
    [101, 102],
    [4095, 100],
    [4095, 4095],
  ].map((vlans) => ({ label: `v${vlans.join(".")}`, vlans })),
];

/** From these ports to nowhere, and from anywhere to these: not one frame. */
async function expectSilence(...closed: string[]): Promise<void> {
  for (const from of closed) {
    const watched = everyone.filter((other) => other !== from);
    expect([from, await lab.send(from, everyTag, watched)]).toEqual([from, Object.fromEntries(watched.map((other) => [other, []]))]);
  }
  for (const from of [uplink, bridge, ...ports.filter((other) => !closed.includes(other))]) {
    const witness = from === uplink ? bridge : uplink;
    const seen = await lab.send(from, everyTag, [...closed, witness]);
    expect([from, closed.map((to) => seen[to])]).toEqual([from, closed.map(() => [])]);
    // The same frames do arrive where they may: silence alone proves nothing.
    expect(seen[witness]!.length).toBeGreaterThan(0);
  }
}

/** The frames, of whatever kind, that came out of the switch into a port's namespace meanwhile, as tcpdump shows them. */
async function framesInto(to: string, work: () => Promise<void>): Promise<string[]> {
  const argv = ["ip", "netns", "exec", lab.netns(to), "tcpdump", "-l", "-n", "-e", "-B", "8192", "-Q", "in", "-i", "eth0"];
  const tcpdump = Bun.spawn(argv, { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const output = tcpdump.stdout.text();
  const said = tcpdump.stderr.getReader();
  for (let text = ""; !text.includes("listening on");) {
    const { done, value } = await said.read();
    if (done) throw new Error(`tcpdump on ${to} ended: ${text}`);
    text += new TextDecoder().decode(value);
  }
  await work();
  await Bun.sleep(500);
  tcpdump.kill("SIGINT");
  await tcpdump.exited;
  await said.cancel();
  return (await output).split("\n").filter((line) => line !== "");
}

describe("networks", () => {
  test("an action is waited for, or followed by its id", async () => {
    const waited = await alice.ok(["node_connect_network", "n1", "eth0", "red-net", "--wait"]);
    expect(waited).toMatch(/^[0-9a-f-]{36}\nDONE\n$/);
    const id = (await alice.ok(["node_connect_network", "n2", "eth0", "red-net"])).trim();
    expect(await alice.ok(["show_networking_action", id, "--wait"])).toContain("status: DONE\n");
    expect(await alice.json("show_networking_action", id)).toMatchObject({
      status: "DONE",
      node: "n2",
      nic: "eth0",
      new_network: "red-net",
      type: "modify_port",
      channel: "vlan/native",
    });
    expect(await bob.json("node_connect_network", "n3", "eth0", "blue-net", "--wait")).toMatchObject({
      status: "DONE",
      new_network: "blue-net",
    });
  });

  test("two nodes of one network ping each other, and the third, on another network, sees nothing", async () => {
    const seen = await framesInto("p3", async () => {
      expect(await framesInto("p2", () => reaches("p1", "p2"))).not.toEqual([]);
      await reaches("p2", "p1");
      for (const from of ["p1", "p2"]) expect(await lab.ping(from, "p3")).toBe(false);
    });
    expect(seen).toEqual([]);
    // The neighbours go on talking to each other; what counts is the third one's address.
    const third = /ether ([0-9a-f:]{17})/.exec(await address("p3"))![1]!;
    const other = await framesInto("p1", async () => expect(await lab.ping("p3", "p1")).toBe(false));
    expect(other.filter((line) => line.includes(third))).toEqual([]);
  });

  const address = async (port: string) => (await run(["ip", "-n", lab.netns(port), "link", "show", "eth0"], { cwd: home.path })).out;

  test("a native network takes frames without a tag, and no other", async () => {
    const untagged = ["plain:untagged", "v0:untagged"];
    const seen = await lab.send("p1", everyTag, [...ports.slice(1), uplink]);
    expect(seen["p2"]!.filter((frame) => !frame.includes("."))).toEqual(untagged);
    expect(seen["p3"]).toEqual([]);
    expect(seen[uplink]!.filter((frame) => !frame.includes("."))).toEqual(["plain:100", "v0:100"]);
    // A priority tag (VLAN 0) is no tag; what was sent behind it is payload.
    expect(seen["p2"]!.filter((frame) => frame.includes("."))).toEqual(["v0.100:100"]);
    expect(await lab.send("p3", everyTag, ["p1", "p2"])).toEqual({ p1: [], p2: [] });
  });

  test("a tagged channel carries its tag and no other one", async () => {
    for (const name of ["n1", "n2"]) await alice.ok(["node_connect_network", name, "eth0", "red-storage", "vlan/101", "--wait"]);
    const single = everyTag.filter(({ vlans }) => vlans.length < 2);
    const seen = await lab.send("p1", single, ["p2", "p3", uplink]);
    // On the native network a frame with the network's own tag is in it, too, once the port is a trunk.
    const native = ["plain:untagged", "v0:untagged", "v100:untagged"];
    expect(seen).toEqual({ p2: [...native, "v101:101"], p3: [], [uplink]: ["plain:100", "v0:100", "v100:100", "v101:101"] });
    const inward = await lab.send(uplink, single, ["p1", "p2", "p3"]);
    expect(inward).toEqual({ p1: ["v100:untagged", "v101:101"], p2: ["v100:untagged", "v101:101"], p3: ["v102:untagged"] });
  });

  test("where everything is, is shown as text and as JSON", async () => {
    expect(await alice.json("show_node", "n1")).toEqual({
      name: "n1",
      project: "red",
      obm_enabled: true,
      metadata: {},
      nics: [{ label: "eth0", macaddr: "52:54:00:00:00:01", networks: { "vlan/native": "red-net", "vlan/101": "red-storage" } }],
    });
    expect((await alice.ok(["show_node", "n1"])).split("\n")).toContain("nics.eth0.networks.vlan/101: red-storage");
    expect(await admin.json("show_port", "rack", "p2")).toEqual({
      node: "n2",
      nic: "eth0",
      networks: { "vlan/native": "red-net", "vlan/101": "red-storage" },
    });
    expect(await alice.json("show_network", "red-storage")).toEqual({
      name: "red-storage",
      owner: "red",
      access: ["red"],
      channels: ["vlan/native", "vlan/101"],
      "connected-nodes": { n1: ["eth0"], n2: ["eth0"] },
    });
    expect(await alice.ok(["list_network_attachments", "red-net", "red"])).toBe("n1\teth0\tvlan/native\tred\nn2\teth0\tvlan/native\tred\n");
  });
});

describe("a member of another project", () => {
  test("neither sees, powers, connects nor detaches the node", async () => {
    const machine = (await bmcs.n1.machine())!;
    const calls = await bmcs.n1.calls();
    for (const command of [
      ["show_node", "n1"],
      ["node_power_status", "n1"],
      ["node_power_on", "n1"],
      ["node_power_off", "n1"],
      ["node_power_cycle", "n1"],
      ["node_power_cycle", "n1", "--force"],
      ["node_set_bootdev", "n1", "disk"],
      ["show_console", "n1"],
      ["node_connect_network", "n1", "eth0", "blue-net", "vlan/102"],
      ["node_connect_network", "n1", "eth0", "blue-net", "vlan/102", "--wait"],
      ["node_detach_network", "n1", "eth0", "red-net"],
      ["project_detach_node", "red", "n1"],
      ["project_detach_node", "blue", "n1"],
      ["project_connect_node", "blue", "n1"],
      ["list_project_nodes", "red"],
    ]) {
      await bob.refused(...command);
    }
    expect(await bmcs.n1.calls()).toEqual(calls);
    expect(isRunning(machine)).toBe(true);
    await reaches("p1", "p2");
  });

  test("neither sees, uses nor deletes the network", async () => {
    expect(await bob.ok(["list_networks"])).not.toContain("red");
    for (const command of [
      ["show_network", "red-net"],
      ["list_network_attachments", "red-net", "all"],
      ["list_network_attachments", "red-net", "blue"],
      ["network_delete", "red-net"],
      ["network_grant_project_access", "blue", "red-net"],
      ["network_revoke_project_access", "red", "red-net"],
      ["node_connect_network", "n3", "eth0", "red-net", "vlan/100"],
    ]) {
      await bob.refused(...command);
    }
    const before = await lab.send("p3", everyTag, ["p1", "p2"]);
    expect(before).toEqual({ p1: [], p2: [] });
  });

  test("administers nothing", async () => {
    for (const command of [
      ["show_port", "rack", "p1"],
      ["port_revert", "rack", "p1"],
      ["port_detach_nic", "rack", "p1"],
      ["show_switch", "rack"],
      ["list_switches"],
      ["switch_delete", "rack"],
      ["node_delete", "n1"],
      ["node_delete_nic", "n1", "eth0"],
      ["list_users"],
      ["user_set_admin", "bob", "admin"],
      ["user_add_project", "bob", "red"],
      ["list_projects"],
    ]) {
      await bob.refused(...command);
    }
    expect(await admin.ok(["list_users"])).toContain("bob\tregular\tblue\n");
  });
});

describe("leaving", () => {
  test("what is in use can't be taken away", async () => {
    expect(await alice.refused("project_detach_node", "red", "n1")).toContain("n1");
    await alice.refused("network_delete", "red-net");
    await admin.refused("port_delete", "rack", "p1");
    await admin.refused("node_delete", "n1");
  });

  test("after detach not one frame passes, tagged or untagged", async () => {
    await alice.ok(["node_detach_network", "n2", "eth0", "red-net", "--wait"]);
    // What is left is the tagged channel alone.
    expect(
      await lab.send(
        "p1",
        everyTag.filter(({ vlans }) => vlans.length < 2),
        ["p2", "p3"],
      ),
    ).toEqual({ p2: ["v101:101"], p3: [] });
    expect(await lab.ping("p1", "p2")).toBe(false);
    await alice.ok(["node_detach_network", "n2", "eth0", "red-storage", "--wait"]);
    expect(await alice.refused("node_detach_network", "n2", "eth0", "red-storage")).toContain("red-storage");
    await expectSilence("p2");
    expect(await alice.json("show_node", "n2")).toMatchObject({ nics: [{ networks: {} }] });
  }, 120_000);

  test("after revert not one frame passes, tagged or untagged", async () => {
    expect(await admin.ok(["port_revert", "rack", "p1", "--wait"])).toMatch(/^[0-9a-f-]{36}\nDONE\n$/);
    await expectSilence("p1", "p2");
    expect(await admin.json("show_port", "rack", "p1")).toEqual({ node: "n1", nic: "eth0", networks: {} });
    await admin.ok(["port_revert", "rack", "p3", "--wait"]);
    expect(await lab.send(uplink, everyTag, ports)).toEqual({ p1: [], p2: [], p3: [] });
  }, 120_000);
});

describe("the server", () => {
  test("SIGTERM while an action is being applied: it is pending meanwhile, and done after the restart", async () => {
    await alice.ok(["node_connect_network", "n2", "eth0", "red-net", "--wait"]);
    process.kill(lab.vswitchd, "SIGSTOP");
    let id: string;
    try {
      id = (await alice.ok(["node_connect_network", "n1", "eth0", "red-net"])).trim();
      // The worker has told the switch's database, and waits for a switch that does not move.
      await until("the action is in hand", async () => (await lab.vsctl("get", "port", "p1", "tag")).trim() === "100");
      await server.stop();
    } finally {
      process.kill(lab.vswitchd, "SIGCONT");
    }
    expect(isRunning(server.pid)).toBe(false);
    expect((await run([haas, "show_networking_action", id], { cwd: home.path, env: { HAAS_ENDPOINT: server.url } })).err).toMatch(
      /^Error: Can't reach [^\n]*\n$/,
    );
    // Without a worker nothing can have happened to it since.
    await startServer("--no-networks");
    expect(await alice.ok(["show_networking_action", id])).toContain("status: PENDING\n");
    expect(await alice.refused("node_connect_network", "n1", "eth0", "red-storage", "vlan/101")).toContain("pending");
    await server.stop();
    await startServer();
    expect(await alice.ok(["show_networking_action", id, "--wait"])).toContain("status: DONE\n");
    await reaches("p1", "p2");
    expect(await lab.ping("p1", "p3")).toBe(false);
  }, 120_000);

  test("everything can be taken away again, and the ports stay closed", async () => {
    for (const name of ["n1", "n2"]) {
      await alice.ok(["node_detach_network", name, "eth0", "red-net", "--wait"]);
      await alice.ok(["project_detach_node", "red", name]);
    }
    await bob.ok(["project_detach_node", "blue", "n3"]);
    for (const [who, network] of [
      [alice, "red-net"],
      [alice, "red-storage"],
      [bob, "blue-net"],
    ] as const)
      await who.ok(["network_delete", network]);
    for (const name of names) {
      await admin.ok(["port_detach_nic", "rack", portOf[name]]);
      await admin.ok(["node_delete_nic", name, "eth0"]);
      await admin.ok(["port_delete", "rack", portOf[name]]);
    }
    for (const name of [...names, "guess", "dead"]) await admin.ok(["node_delete", name]);
    await admin.ok(["switch_delete", "rack"]);
    for (const project of ["red", "blue"]) await admin.ok(["project_delete", project]);
    for (const name of ["alice", "bob"]) await admin.ok(["user_delete", name]);
    for (const list of [["list_nodes", "all"], ["list_switches"], ["list_projects"], ["list_networks"]])
      expect(await admin.ok(list)).toBe("");
    await expectSilence("p1", "p2", "p3");
    await server.stop();
    expect(server.output()).not.toContain('"level":"error"');
  }, 120_000);
});

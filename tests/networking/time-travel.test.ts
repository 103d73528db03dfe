import { afterEach, beforeEach, expect, test } from "bun:test";
import { renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { switchTypePrefix } from "../../src/hardware/switches/index.ts";
import { haasBinary, run } from "../support/binary.ts";
import { type OvsLab, startOvs } from "../support/ovs-lab.ts";
import { freePort } from "../support/postgres.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { configText, mockObm, scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// Two tenants on a real Open vSwitch, while their database goes back to a time when the first of them was on nothing:
// frames are sent and counted the whole time, and none ever gets across.

const bridge = "travel0";
const boundMs = 30_000;
const labTimeoutMs = 60_000;
const testTimeoutMs = 120_000;

let place: ReturnType<typeof scratch>;
let lab: OvsLab;
let binary: string;
let server: ServerProcess;
let port: number;
let frames: Frames | null = null;
const uri = () => `sqlite:///${join(place.path, "haas.db")}`;
const file = () => join(place.path, "haas.db");
const more = "[network-daemon]\nsleep_time = 0.05";
const start = async () => {
  server = await startServer({ kind: "sqlite", uri: uri(), more, port, binary });
};

beforeEach(async () => {
  place = scratch();
  binary = await haasBinary();
  lab = await startOvs({ dir: join(place.path, "ovs"), name: `htravel${process.pid}`, bridge, ports: ["p1", "p2"] });
  port = await freePort();
  await start();
}, labTimeoutMs);

afterEach(async () => {
  await frames?.stop();
  frames = null;
  await server.stop();
  await lab.stop();
  place.remove();
}, labTimeoutMs);

const call = async (method: string, path: string, body?: unknown) => {
  const answer = await fetch(server.url + path, { method, keepalive: false, ...(body !== undefined && { body: JSON.stringify(body) }) });
  const text = await answer.text();
  return { status: answer.status, body: text === "" ? null : JSON.parse(text) };
};
const ok = async (method: string, path: string, body?: unknown) => {
  const answer = await call(method, path, body);
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body;
};
const within = untilWithin(boundMs, () => server.log());
/** Ask for it until it is granted. */
const granted = (method: string, path: string, body?: unknown) =>
  within(`${method} ${path}`, async () => {
    const { status } = await call(method, path, body).catch(() => ({ status: 0 }));
    expect([0, 200, 409, 503]).toContain(status);
    return status === 200;
  });
const connected = async (node: string, network: string) => {
  const { status_id } = await ok("POST", `/node/${node}/nic/eth0/connect_network`, { network });
  await within(`${node} is connected`, async () => (await ok("GET", `/networking_action/${status_id}`)).status === "DONE");
};

/** Nodes n1 and n2 on ports p1 and p2, of one switch unless `second` is another one. */
const register = async (first: Settings = { ovs_bridge: bridge, database: lab.db }, second?: Settings) => {
  const add = (label: string, settings: Settings) => ok("PUT", `/switch/${label}`, { type: `${switchTypePrefix}ovs`, ...settings });
  await add("sw1", first);
  if (second) await add("sw2", second);
  for (const n of [1, 2]) await ok("PUT", `/switch/${n === 2 && second ? "sw2" : "sw1"}/port/p${n}`);
  for (const n of [1, 2]) {
    await ok("PUT", `/project/t${n}`);
    await ok("PUT", `/node/n${n}`, { obm: mockObm });
    await ok("PUT", `/node/n${n}/nic/eth0`, { macaddr: `00:00:00:00:00:0${n}` });
    await ok("POST", `/switch/${n === 2 && second ? "sw2" : "sw1"}/port/p${n}/connect_nic`, { node: `n${n}`, nic: "eth0" });
  }
};
interface Settings {
  ovs_bridge: string;
  database: string;
}

/** Broadcasts from both ports at all times, and what arrived at the other one. */
class Frames {
  readonly #processes: Bun.Subprocess[] = [];
  readonly #seen: Promise<string>[] = [];
  readonly #timer: Timer;
  sent = 0;

  constructor() {
    const senders = [1, 2].map((n) => {
      // Only what comes from the other one.
      const filter = `ether src 02:00:00:00:00:0${3 - n}`;
      const watcher = this.#run(["tcpdump", "-l", "-n", "-e", "-Q", "in", "-i", "eth0", filter], lab.netns(`p${n}`), "ignore");
      this.#seen.push(new Response(watcher.stdout as ReadableStream).text());
      const sender = this.#run(["perl", join(place.path, "ovs", "send.pl"), "eth0"], lab.netns(`p${n}`), "pipe");
      return [n, sender.stdin as Bun.FileSink] as const;
    });
    this.#timer = setInterval(() => {
      for (const [n, stdin] of senders) {
        void stdin.write(`${"ff".repeat(6)}02000000000${n}88b5${"00".repeat(46)}\n`);
        void stdin.flush();
        this.sent++;
      }
    }, 5);
  }

  #run(argv: string[], netns: string, stdin: "ignore" | "pipe") {
    const child = Bun.spawn(["ip", "netns", "exec", netns, ...argv], { stdin, stdout: "pipe", stderr: "ignore" });
    this.#processes.push(child);
    return child;
  }

  /** End; how many frames got across. */
  async stop(): Promise<number> {
    clearInterval(this.#timer);
    await Bun.sleep(300);
    for (const child of this.#processes.splice(0)) {
      child.kill("SIGINT");
      await child.exited;
    }
    return (await Promise.all(this.#seen)).join("").split("\n").filter(Boolean).length;
  }
}

/** How the database goes back. */
const ways: Record<string, (backup: string) => Promise<void>> = {
  async "restored while haas is stopped"(backup) {
    await server.stop();
    writeFileSync(join(place.path, "haas.cfg"), configText({ uri: uri(), more }), { mode: 0o600 });
    const restored = await run([binary, "restore", backup, "--config", join(place.path, "haas.cfg")], { cwd: place.path });
    expect(restored).toMatchObject({ status: 0, err: "" });
    await start();
  },
  async "replaced under the running server"(backup) {
    renameSync(backup, file());
  },
  async "put in its place after the server was killed"(backup) {
    await server.kill("SIGKILL");
    await server.stop();
    renameSync(backup, file());
    await start();
  },
  async "deleted under the running server, which is started again"() {
    rmSync(file());
    await server.stop();
    await start();
    await register();
  },
};

const backUp = async () => {
  const backup = join(place.path, "backup.db");
  writeFileSync(join(place.path, "haas.cfg"), configText({ uri: uri(), more }), { mode: 0o600 });
  expect(await run([binary, "backup", backup, "--config", join(place.path, "haas.cfg")], { cwd: place.path })).toMatchObject({ status: 0 });
  return backup;
};
const bothAreFree = () => within("both nodes are free", async () => ((await ok("GET", "/nodes/free")) as string[]).length === 2);

test.each(Object.entries(ways))(
  "the database is %s: the next network has the same VLAN, and nobody of the one before",
  async (_, travel) => {
    await register();
    await bothAreFree();
    const backup = await backUp();
    await ok("POST", "/project/t1/connect_node", { node: "n1" });
    await ok("PUT", "/network/a", { owner: "t1", access: "t1", net_id: "" });
    await connected("n1", "a");
    expect(await lab.vsctl("get", "port", "p1", "tag")).toBe("100\n");
    frames = new Frames();
    await travel(backup);
    await granted("POST", "/project/t2/connect_node", { node: "n2" });
    await granted("PUT", "/network/b", { owner: "t2", access: "t2", net_id: "" });
    expect((await ok("GET", "/network/b")).channels).toContain("vlan/100");
    await connected("n2", "b");
    expect(await lab.vsctl("get", "port", "p2", "tag")).toBe("100\n");
    await Bun.sleep(500);
    expect(frames.sent).toBeGreaterThan(100);
    expect(await frames.stop()).toBe(0);
  },
  testTimeoutMs,
);

test.each(Object.entries(ways).slice(0, 3))(
  "the database is %s: a network that had been deleted, whose VLAN another one has now",
  async (_, travel) => {
    await register();
    await bothAreFree();
    await ok("POST", "/project/t2/connect_node", { node: "n2" });
    await ok("PUT", "/network/b", { owner: "t2", access: "t2", net_id: "" });
    const backup = await backUp();
    await ok("DELETE", "/network/b");
    await ok("POST", "/project/t1/connect_node", { node: "n1" });
    await ok("PUT", "/network/a", { owner: "t1", access: "t1", net_id: "" });
    await connected("n1", "a");
    frames = new Frames();
    await travel(backup);
    await within("it serves that database", async () => (await call("GET", "/network/b").catch(() => ({ status: 0 }))).status === 200);
    // Of all the ports that are unread, this one is to gain something.
    await connected("n2", "b");
    expect(await lab.vsctl("get", "port", "p2", "tag")).toBe("100\n");
    await Bun.sleep(500);
    expect(await frames.stop()).toBe(0);
  },
  testTimeoutMs,
);

test(
  "a port that can't be read may carry anything: until it can, no other one gets a VLAN",
  async () => {
    // Two switches, one behind the other; the way to the first one is cut.
    const [way, socket] = [join(place.path, "way.sock"), join(place.path, "ovs", "db.sock")];
    symlinkSync(socket, way);
    const patch = (name: string, peer: string) => ["--", "set", "interface", name, "type=patch", `options:peer=${peer}`];
    await lab.vsctl("add-br", "travel1", "--", "set", "bridge", "travel1", "datapath_type=netdev", "--", "del-port", bridge, "p2");
    await lab.vsctl("add-port", "travel1", "p2", "--", "add-port", "travel1", "to0", ...patch("to0", "to1"));
    await lab.vsctl("add-port", bridge, "to1", ...patch("to1", "to0"));
    await register({ ovs_bridge: bridge, database: `unix:${way}` }, { ovs_bridge: "travel1", database: lab.db });
    await bothAreFree();
    await ok("POST", "/project/t2/connect_node", { node: "n2" });
    await ok("PUT", "/network/b", { owner: "t2", access: "t2", net_id: "" });
    const backup = await backUp();
    await ok("DELETE", "/network/b");
    await ok("POST", "/project/t1/connect_node", { node: "n1" });
    await ok("PUT", "/network/a", { owner: "t1", access: "t1", net_id: "" });
    await connected("n1", "a");
    frames = new Frames();
    rmSync(way);
    renameSync(backup, file());
    await within("it serves that database", async () => (await call("GET", "/network/b")).status === 200);
    const { status_id } = await ok("POST", "/node/n2/nic/eth0/connect_network", { network: "b" });
    const status = async () => (await ok("GET", `/networking_action/${status_id}`)).status;
    await Bun.sleep(3_000);
    expect(await status()).toBe("PENDING");
    expect(await lab.vsctl("get", "port", "p1", "tag")).toBe("100\n");
    symlinkSync(socket, way);
    await within("n2 is connected", async () => (await status()) === "DONE");
    expect(await lab.vsctl("get", "port", "p2", "tag")).toBe("100\n");
    await Bun.sleep(500);
    expect(await frames.stop()).toBe(0);
  },
  testTimeoutMs,
);

test("frames are counted: two nodes on one network hear each other", async () => {
  await register();
  await bothAreFree();
  await ok("PUT", "/network/a", { owner: "t1", access: "t1", net_id: "" });
  for (const n of [1, 2]) {
    await ok("POST", "/project/t1/connect_node", { node: `n${n}` });
    await connected(`n${n}`, "a");
  }
  frames = new Frames();
  await Bun.sleep(1_000);
  expect(await frames.stop()).toBeGreaterThan(10);
});

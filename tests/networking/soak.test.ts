import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { describePort, type PortState } from "../../src/hardware/switches/driver.ts";
import { haas } from "../cli/haas.ts";
import { haasBinary } from "../support/binary.ts";
import { type OvsLab, startOvs } from "../support/ovs-lab.ts";
import { isNoticed, type Judge, keyOf, PortWatch } from "../support/port-watch.ts";
import { knownPorts, type OpenDatabase, openDatabase, watchActions } from "../support/ports.ts";
import { freePort } from "../support/postgres.ts";
import { isRunning } from "../support/processes.ts";
import { pick, randomFrom, seed, whole } from "../support/random.ts";
import { expectDoneOnce } from "../support/seen.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { type DatabaseKind, databases, freshUri, mockObm, scratch } from "../support/service.ts";
import { ovsStates } from "../support/stepped-switches.ts";
import { untilWithin } from "../support/until.ts";

// Two servers on one database and a real Open vSwitch are killed and stopped at random, under load. Every port is
// compared with the database all the time.

const loadMs = whole ? 600_000 : 15_000;
/** So many changes are accepted before it ends; a slow machine gets more time for that. */
const enough = whole ? 200 : 5;
const moreMs = 60_000;
const leaseSeconds = 5;
const bridges = ["s0", "s1", "s2"];
const portsPerBridge = 4;
const projects = ["red", "blue"] as const;
type Project = (typeof projects)[number];
const networksPerProject = 2;
const tenantsPerProject = 4;
/** What a server that goes on has begun has to end in so many milliseconds, and any harm of it be known. */
const graceMs = 3_000;
const callTimeoutMs = 4_000;
const setUpTimeoutMs = 120_000;
const settleTimeoutMs = 120_000;
const testTimeoutMs = loadMs + 300_000;

const places = bridges.flatMap((bridge) =>
  Array.from({ length: portsPerBridge }, (_, i) => ({ bridge, node: `${bridge}n${i}`, port: `${bridge}p${i}` })),
);

let binary: string;
let place: { path: string; remove(): void };
let lab: OvsLab;

beforeAll(async () => {
  binary = await haasBinary();
  place = scratch();
  lab = await startOvs({ dir: join(place.path, "ovs"), name: `hsoak${process.pid}`, bridge: "uplink", ports: [] });
  // Ports without a namespace behind them: nobody sends frames here.
  for (const bridge of bridges) {
    const ports = places
      .filter((one) => one.bridge === bridge)
      .flatMap((one) => ["--", "add-port", bridge, one.port, "--", "set", "interface", one.port, "type=internal"]);
    await lab.vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev", ...ports);
  }
}, setUpTimeoutMs);

afterAll(async () => {
  await lab?.stop();
  place.remove();
}, setUpTimeoutMs);

/** One of the two servers: whatever becomes of its process, there is soon another one. */
class Unlucky {
  server!: ServerProcess;
  kills = 0;
  stops = 0;
  /** Ends of its own, as when the database could not be had at its start. */
  falls = 0;
  /** When it went on last, by performance.now(). */
  wentOnAt = -Infinity;
  readonly past: ServerProcess[] = [];

  constructor(
    readonly kind: DatabaseKind,
    readonly uri: string,
    readonly directory: string,
    readonly port: number,
  ) {
    mkdirSync(directory, { recursive: true });
  }

  async start(): Promise<void> {
    const more = `[network-daemon]\nlease_time = ${leaseSeconds}\nmax_tries = 1000\nsleep_time = 0.5`;
    const { kind, uri, port, directory } = this;
    this.server = await startServer({ kind, uri, port, binary, more, directory, early: true });
    this.past.push(this.server);
  }

  async suffer(random: () => number, isOver: () => boolean): Promise<void> {
    while (!isOver()) {
      await Bun.sleep(300 + random() * 2_200);
      if (!isRunning(this.server.pid)) {
        this.falls++;
        await this.start();
      } else if (random() < 0.4) {
        this.kills++;
        await this.server.kill("SIGKILL");
        await Bun.sleep(random() * 1_500);
        await this.start();
      } else {
        this.stops++;
        this.server.signal("SIGSTOP");
        await Bun.sleep(random() * 2.2 * leaseSeconds * 1_000);
        this.wentOnAt = performance.now();
        this.server.signal("SIGCONT");
      }
    }
  }

  async end(): Promise<void> {
    for (const one of this.past.splice(0)) {
      if (isRunning(one.pid)) await one.stop();
    }
  }
}

const endings: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).toReversed()) await end();
}, setUpTimeoutMs);

interface Answer {
  status: number;
  body: any;
}

const tally = { calls: 0, accepted: [] as string[], unknown: 0, refused: 0, allocated: 0, given: 0, failed: new Map<string, number>() };

/** The answer, or null when there was none, or one that says that haas itself failed: then nobody knows what came of the request. */
async function send(url: string, method: string, path: string, body?: unknown): Promise<Answer | null> {
  tally.calls++;
  let status: number;
  let text: string;
  try {
    const answer = await fetch(url + path, {
      method,
      keepalive: false,
      signal: AbortSignal.timeout(callTimeoutMs),
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    status = answer.status;
    text = await answer.text();
  } catch {
    return null;
  }
  if (status >= 500) tally.failed.set(`${status} ${text}`, (tally.failed.get(`${status} ${text}`) ?? 0) + 1);
  return status >= 500 ? null : { status, body: text === "" ? null : JSON.parse(text) };
}

/** One tenant of a project: takes nodes, connects them, and gives them back. */
async function tenant(project: Project, servers: readonly Unlucky[], random: () => number, isOver: () => boolean): Promise<void> {
  while (!isOver()) {
    await Bun.sleep(20 + random() * 150);
    const { url } = pick(random, servers).server;
    const mine = await send(url, "GET", `/project/${project}/nodes`);
    if (mine?.status !== 200) continue;
    if (mine.body.length === 0 || random() < 0.1) {
      const free = await send(url, "GET", "/nodes/free");
      if (free?.status !== 200 || free.body.length === 0) continue;
      const taken = await send(url, "POST", `/project/${project}/connect_node`, { node: pick(random, free.body as string[]) });
      if (taken?.status === 200) tally.allocated++;
      continue;
    }
    const node = pick(random, mine.body as string[]);
    const shown = await send(url, "GET", `/node/${node}`);
    if (shown?.status !== 200) continue;
    const networks = shown.body.nics[0].networks as Record<string, string>;
    if (Object.keys(networks).length === 0 && random() < 0.3) {
      const given = await send(url, "POST", `/project/${project}/detach_node`, { node });
      if (given?.status === 200) tally.given++;
      continue;
    }
    const answer = await changeOf(url, project, node, networks, random);
    if (answer === null) tally.unknown++;
    else if (answer.status === 202) tally.accepted.push(answer.body.status_id);
    else if (answer.status < 500) tally.refused++;
  }
}

function changeOf(url: string, project: Project, node: string, networks: Readonly<Record<string, string>>, random: () => number) {
  const nic = `/node/${node}/nic/nic`;
  const present = Object.values(networks);
  const { bridge, port } = places.find((one) => one.node === node)!;
  if (present.length > 0 && random() < 0.15) return send(url, "POST", `/switch/${bridge}/port/${port}/revert`);
  const absent = networkNames(project).filter((name) => !present.includes(name));
  if (present.length > 0 && (absent.length === 0 || random() < 0.5)) {
    return send(url, "POST", `${nic}/detach_network`, { network: pick(random, present) });
  }
  const network = pick(random, absent);
  const isTagged = "vlan/native" in networks || random() < 0.4;
  return send(url, "POST", `${nic}/connect_network`, { network, channel: isTagged ? `vlan/${vlans[network]}` : "vlan/native" });
}

const networkNames = (project: Project) => Array.from({ length: networksPerProject }, (_, i) => `${project}${i}`);
/** By network. */
const vlans: Record<string, number> = {};

/** Beside what `isNoticed` says: who may not carry something even while it is being changed. */
const judge: Judge = (known, actual) => {
  const carried = [...actual.tagged, ...(actual.native === null ? [] : [actual.native])];
  if (known.owners.some((owner) => owner !== known.project))
    return `belongs to ${known.project}, and has networks of ${known.owners.join(", ")}`;
  if (known.suspect === null) {
    if (known.project === null && carried.length > 0) return `is offered, and carries ${describePort(actual)}`;
    const strange = carried.filter((vlan) => !networkNames(known.project as Project).some((name) => vlans[name] === vlan));
    if (strange.length > 0) return `belongs to ${known.project}, and carries VLAN ${strange.join(", ")}`;
  }
  return isNoticed(known, actual);
};

async function ok(url: string, method: string, path: string, body?: unknown): Promise<any> {
  const answer = await send(url, method, path, body);
  if (!answer || answer.status >= 300) throw new Error(`${method} ${path}: ${JSON.stringify(answer)}`);
  return answer.body;
}

async function register(url: string): Promise<void> {
  for (const project of projects) {
    await ok(url, "PUT", `/project/${project}`);
    for (const network of networkNames(project)) {
      await ok(url, "PUT", `/network/${network}`, { owner: project, access: project, net_id: "" });
      const { channels } = await ok(url, "GET", `/network/${network}`);
      vlans[network] = Number((channels as string[]).find((channel) => channel !== "vlan/native")!.slice("vlan/".length));
    }
  }
  const type = "http://schema.massopencloud.org/haas/v0/switches/ovs";
  for (const bridge of bridges) await ok(url, "PUT", `/switch/${bridge}`, { type, ovs_bridge: bridge, database: lab.db });
  for (const { bridge, node, port } of places) {
    await ok(url, "PUT", `/switch/${bridge}/port/${port}`);
    await ok(url, "PUT", `/node/${node}`, { obm: mockObm });
    await ok(url, "PUT", `/node/${node}/nic/nic`, { macaddr: "x" });
    await ok(url, "POST", `/switch/${bridge}/port/${port}/connect_nic`, { node, nic: "nic" });
  }
}

async function readPorts(): Promise<Map<string, PortState>> {
  const states = await ovsStates(lab);
  return new Map(places.map(({ bridge, port }) => [keyOf({ switch: bridge, port }), states.get(port)!]));
}

describe.each(databases)("two servers on one database, on %s", (kind) => {
  test(
    "are killed and stopped at random: no port carries what nobody knows of, and every change is done, once",
    async () => {
      console.log(`seed: HAAS_TEST_SEED=${seed}`);
      const random = randomFrom(seed + databases.indexOf(kind));
      Object.assign(tally, { calls: 0, accepted: [], unknown: 0, refused: 0, allocated: 0, given: 0, failed: new Map() });
      const directory = join(place.path, kind);
      mkdirSync(directory);
      const uri = await freshUri(kind, directory);
      const servers = [
        new Unlucky(kind, uri, join(directory, "a"), await freePort()),
        new Unlucky(kind, uri, join(directory, "b"), await freePort()),
      ] as const;
      const logs = () => servers.map(({ server }) => server.log().slice(-3_000)).join("\n");
      const until = untilWithin(settleTimeoutMs, logs, 100);
      const answers = async ({ server }: Unlucky) => (await send(server.url, "GET", "/networks"))?.status === 200;
      for (const one of servers) {
        endings.push(() => one.end());
        await one.start();
        // One after the other, so that one of them makes the tables.
        await until("a server answers", () => answers(one));
      }
      await register(servers[0].server.url);
      const database: OpenDatabase = await openDatabase(uri);
      endings.push(() => database.close());
      await watchActions(database, uri);
      const watched = await openDatabase(uri);
      endings.push(() => watched.close());
      const isAtRest = async () => (await knownPorts(database)).every(({ pending, suspect }) => !pending && suspect === null);
      await until("the new ports are set up", isAtRest);

      const watch = new PortWatch({
        database: watched,
        read: readPorts,
        judge,
        // What a server typed when it went on may still be on its way.
        graceMs: () => (servers.some(({ wentOnAt }) => performance.now() - wentOnAt < graceMs) ? graceMs : 0),
        pauseMs: 20,
      });
      endings.push(() => watch.stop().catch(() => {}));
      const endsAt = performance.now() + loadMs;
      let failed = false;
      const lastAt = endsAt + moreMs;
      const isEnough = () => tally.accepted.length > enough;
      const isOver = () => failed || watch.violations.length > 0 || performance.now() > (isEnough() ? endsAt : lastAt);
      const seeds = () => randomFrom(random() * 2 ** 31);
      const work = [
        ...servers.map((one) => one.suffer(seeds(), isOver)),
        ...projects.flatMap((project) => Array.from({ length: tenantsPerProject }, () => tenant(project, servers, seeds(), isOver))),
      ];
      const outcomes = await Promise.allSettled(work.map((one) => one.catch((error) => ((failed = true), Promise.reject(error)))));
      for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
      const sum = (of: (one: Unlucky) => number) => servers.reduce((total, one) => total + of(one), 0);
      console.log(
        `${kind}: ${tally.calls} calls, ${tally.accepted.length} changes accepted, ${tally.unknown} without an answer, ${tally.refused} refused, ` +
          `${tally.allocated} nodes taken, ${tally.given} given back; ${sum(({ kills }) => kills)} kills, ${sum(({ stops }) => stops)} stops, ` +
          `${sum(({ falls }) => falls)} falls; ${watch.looks} looks, ${watch.checks} checks, ${watch.suspects.size} ports quarantined, ` +
          `at worst ${Math.round(watch.longestMs)} ms until harm was known; ${watch.violations.length} violations`,
      );
      if (tally.failed.size > 0) console.log(`${kind}: failures: ${JSON.stringify(Object.fromEntries(tally.failed)).slice(0, 2_000)}`);
      expect(watch.violations).toEqual([]);

      for (const one of servers) {
        if (!isRunning(one.server.pid)) await one.start();
        await until("a server answers", () => answers(one));
      }
      await until("everything is right again", isAtRest);
      expect(watch.violations).toEqual([]);
      for (const id of tally.accepted) {
        const action = await ok(servers[0].server.url, "GET", `/networking_action/${id}`);
        expect({ id, ...action }).toMatchObject({ id, status: "DONE", reason: null });
      }
      await expectDoneOnce(database, tally.accepted, tally.unknown);
      const drift = await haas(["switch_drift", "all"], { env: { HAAS_ENDPOINT: servers[1].server.url } });
      expect(drift).toEqual({ status: 0, out: "", err: "" });

      // Otherwise this has tested little.
      expect(tally.accepted.length).toBeGreaterThan(enough);
      expect(
        Math.min(
          sum(({ kills }) => kills),
          sum(({ stops }) => stops),
        ),
      ).toBeGreaterThan(0);

      // A port that is changed behind haas's back is found by this watch.
      await lab.vsctl("set", "port", places[0]!.port, "vlan_mode=access", "tag=666", "trunks=[]");
      await untilWithin(5_000)("the planted violation is found", () => watch.violations.length > 0);
      await lab.vsctl("set", "port", places[0]!.port, "vlan_mode=trunk", "tag=[]", "trunks=[4095]");
    },
    testTimeoutMs,
  );
});

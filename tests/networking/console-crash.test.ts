import { Database } from "bun:sqlite";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { describePort, emptyPort, type PortState, samePort } from "../../src/hardware/switches/driver.ts";
import { haas } from "../cli/haas.ts";
import type { Emulator } from "../sim/emulator.ts";
import { haasBinary } from "../support/binary.ts";
import { isConsole, onEveryLine, portNames, registration, startEmulator, type Vendor, vendors } from "../support/emulators.ts";
import { freePort } from "../support/postgres.ts";
import { openDatabase as openDatabaseOf } from "../support/ports.ts";
import { randomFrom, seed } from "../support/random.ts";
import { expectDoneOnce, seenOnSqlite } from "../support/seen.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { mockObm, scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// haas is killed again and again while it changes ports of emulated switches, which live in this process and
// survive. The database has triggers of the test's own, so what happened to each action is known from the
// database itself; what the ports carry is known from the emulators, at every line that reaches them.

const kills = 40;
const portsPerSwitch = 3;
const commandDelayMs = 25;
const networks = { red: 100, blue: 200, green: 300 } as const;
type Network = keyof typeof networks;
/** Its running config is not saved, so that a power cut brings back what it was delivered with. */
const unsaved: Vendor = "delln3000";
/** A port of an N3000 can't lose its native VLAN otherwise than by having this one for a moment (see the emulator's settings). */
const dummyVlan = 2222;
/** The longest that a server lives; those of a slow machine do. */
const longestRunMs = 10_000;
const setUpTimeoutMs = 120_000;
const settleTimeoutMs = 60_000;
const testTimeoutMs = 300_000;

interface Switch {
  /** Also its name. */
  readonly vendor: Vendor;
  readonly emulator: Emulator;
  /** The last line that reached it. */
  last: string;
}

interface Place {
  readonly on: Switch;
  readonly node: string;
  readonly port: string;
}

let directory: { path: string; remove(): void };
const switches: Switch[] = [];
const places: Place[] = [];
let binary: string;
let uri: string;
let file: string;
let port: number;
let server: ServerProcess;
const ended: ServerProcess[] = [];

const config = `[network-daemon]
max_tries = 1000
sleep_time = 0.5
[haas.ext.switches.n3000]
save = False
`;
const start = (early = false) => startServer({ kind: "sqlite", uri, port, more: config, early, binary });

beforeAll(async () => {
  directory = scratch();
  binary = await haasBinary();
  for (const vendor of vendors) {
    const ports = Array.from({ length: portsPerSwitch }, (_, i) => portNames[vendor](i + 1));
    // SSH costs more than telnet, so one of them has to do.
    const transport = vendor === "nexus" ? "ssh" : "telnet";
    const on = { vendor, emulator: await startEmulator(vendor, { ports, transport, behaviour: { commandDelayMs } }), last: "" };
    switches.push(on);
    places.push(...ports.map((label, i) => ({ on, node: `${vendor}-n${i}`, port: label })));
  }
  file = join(directory.path, "haas.db");
  uri = `sqlite:///${file}`;
  port = await freePort();
}, setUpTimeoutMs);

afterAll(async () => {
  for (const one of [...ended, server]) await one?.stop();
  for (const { emulator } of switches) await emulator.stop();
  directory.remove();
}, setUpTimeoutMs);

/** The answer, or null when there was none: then nobody knows whether the server took the request. */
async function send(method: string, path: string, body?: unknown): Promise<{ status: number; body: any } | null> {
  let text: string;
  let status: number;
  try {
    const answer = await fetch(server.url + path, {
      method,
      keepalive: false,
      signal: AbortSignal.timeout(15_000),
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    status = answer.status;
    text = await answer.text();
  } catch {
    return null;
  }
  // Outside: an answer that is not JSON fails the test.
  return { status, body: text === "" ? null : JSON.parse(text) };
}

const ok = async (method: string, path: string, body?: unknown) => {
  const answer = await send(method, path, body);
  if (!answer || answer.status >= 300) throw new Error(`${method} ${path}: ${JSON.stringify(answer)}`);
  return answer.body;
};

/** Ask until there is an answer. */
async function ask(path: string) {
  const deadline = Date.now() + settleTimeoutMs;
  while (Date.now() < deadline) {
    const answer = await send("GET", path);
    if (answer) {
      if (answer.status !== 200) throw new Error(`GET ${path}: ${JSON.stringify(answer)}`);
      return answer.body;
    }
    await Bun.sleep(20);
  }
  throw new Error(`GET ${path}: no server answered for ${settleTimeoutMs} ms`);
}

/** By channel. */
const networksOf = async (node: string): Promise<Record<string, Network>> => (await ask(`/node/${node}`)).nics[0].networks;

const command = (...argv: string[]) => haas(argv, { env: { HAAS_ENDPOINT: server.url } });

const portPath = ({ on, port: label }: Place) => `/switch/${on.vendor}/port/${encodeURIComponent(label)}`;

test(
  `${kills} kills in the middle of sessions: each action ends DONE once, and no port ever carries what is not its own`,
  async () => {
    console.log(`seed: HAAS_TEST_SEED=${seed}`);
    server = await start();
    await ok("PUT", "/project/p");
    for (const [name, vlan] of Object.entries(networks)) {
      await ok("PUT", `/network/${name}`, { owner: "admin", access: "", net_id: String(vlan) });
    }
    for (const { vendor, emulator } of switches) await ok("PUT", `/switch/${vendor}`, registration(vendor, emulator));
    for (const place of places) {
      await ok("PUT", portPath(place));
      await ok("PUT", `/node/${place.node}`, { obm: mockObm });
      await ok("PUT", `/node/${place.node}/nic/nic`, { macaddr: "x" });
      await ok("POST", `${portPath(place)}/connect_nic`, { node: place.node, nic: "nic" });
      await ok("POST", "/project/p/connect_node", { node: place.node });
    }
    const database = openDatabase();
    const pending = (vendor = "%") => pendingOn(database, vendor);
    const pendingActions = "select * from networking_action where status = 'PENDING'";
    const until = untilWithin(settleTimeoutMs, () => `pending: ${JSON.stringify(database.query(pendingActions).all())}`);
    // New ports are brought to nothing first.
    await until("the new ports are set up", () => pending() === 0);

    let lines = 0;
    let failed = false;
    const trespasses: string[] = [];
    let lawless: Vendor | null = null;
    for (const on of switches) {
      onEveryLine(on.emulator, (line) => {
        lines++;
        on.last = line;
        if (failed || on.vendor === lawless) return;
        trespasses.push(...strangersOn(database, on));
        failed = trespasses.length > 0;
      });
    }

    const accepted: string[] = [];
    const refused: string[] = [];
    let unknown = 0;
    let underWay = 0;
    let killed = 0;
    let amidChange = 0;
    let powerCuts = 0;
    let lostPower = false;
    let paused: Vendor | null = null;

    /** One tenant's script: as soon as a nic is idle, something else about it changes. */
    const submit = async (place: Place, random: () => number) => {
      while (!failed && killed < kills) {
        await Bun.sleep(50);
        const choices = choicesFor(place, await networksOf(place.node));
        const [path, body] = choices[Math.floor(random() * choices.length)]!;
        if (place.on.vendor === paused) continue;
        underWay++;
        const answer = await send("POST", path, body);
        underWay--;
        if (answer === null) unknown++;
        else if (answer.status === 202) accepted.push(answer.body.status_id);
        // What is pending still, or what changed since the look at the node, by an action whose answer was lost.
        else if (answer.status !== 409 && answer.body?.type !== "BadArgumentError") refused.push(JSON.stringify(answer));
      }
    };

    const kill = async () => {
      await server.kill("SIGKILL");
      ended.push(server);
      killed++;
      compareIdle(database);
    };

    /** Kills come so many lines after the start, half of them when a port is being changed then, or while the server comes up. */
    const killer = async (random: () => number) => {
      for (let round = 0; killed < kills && !failed; round++) {
        if (killed >= kills / 2 && !lostPower) await losePower();
        // What is saved before it is called DONE survives a power cut.
        const victim = switches[Math.floor(random() * switches.length)]!;
        if (round % 3 === 1 && victim.vendor !== unsaved) {
          victim.emulator.behaviour.fault = { kind: "power", at: Math.floor(random() * 30) };
          powerCuts++;
        }
        const due = lines + Math.floor(random() * 100);
        const wantsChange = random() < 0.5;
        const isDue = () => lines >= due && (!wantsChange || switches.some(isAmidChange));
        for (const deadline = Date.now() + longestRunMs; !isDue() && Date.now() < deadline && !failed;) await Bun.sleep(1);
        if (switches.some(isAmidChange)) amidChange++;
        await Bun.sleep(random() * commandDelayMs);
        await kill();
        const early = round % 5 === 4;
        server = await start(early);
        if (early) {
          await Bun.sleep(random() * 400);
          await kill();
          server = await start();
        }
      }
    };

    /** A switch whose startup config is older loses power; `switch_reconcile` mends it, and is killed in doing so. */
    const losePower = async () => {
      lostPower = true;
      paused = unsaved;
      await until("the switch comes to rest", () => underWay === 0 && pending(unsaved) === 0);
      lawless = unsaved;
      const { emulator } = switches.find(({ vendor }) => vendor === unsaved)!;
      emulator.powerCycle();
      const mine = places.filter(({ on }) => on.vendor === unsaved);
      for (const { port: label } of mine) expect(emulator.port(label)).toEqual({ native: 1, tagged: [] });
      const drift = await command("switch_drift", unsaved);
      expect({ status: drift.status, err: drift.err, ports: [...(drift.out.match(/^\S+\t\S+/gm) ?? [])] }).toEqual({
        status: 1,
        err: "",
        ports: mine.map(({ port: label }) => `${unsaved}\t${label}`),
      });
      expect(await command("switch_reconcile", unsaved)).toEqual({ status: 0, out: `${mine.length} ports queued\n`, err: "" });
      // From now on a port that is not mended yet is known to be one.
      lawless = null;
      paused = null;
    };

    const random = randomFrom(seed);
    const work = [killer(randomFrom(random() * 2 ** 31)), ...places.map((place) => submit(place, randomFrom(random() * 2 ** 31)))];
    // The others stop as well when one fails; nobody answers those who wait for a server that stays dead.
    const outcomes = await Promise.allSettled(work.map((one) => one.catch((error) => ((failed = true), Promise.reject(error)))));
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
    expect(trespasses).toEqual([]);
    expect(refused).toEqual([]);
    expect(killed).toBeGreaterThanOrEqual(kills);
    expect(new Set(accepted).size).toBe(accepted.length);
    await until("nothing is pending", () => pending() === 0);
    for (const { emulator } of switches) emulator.behaviour.fault = null;
    expect(trespasses).toEqual([]);
    for (const id of accepted) {
      expect({ id, ...(await ask(`/networking_action/${id}`)) }).toMatchObject({ id, status: "DONE", reason: null });
    }
    const account = await openDatabaseOf(uri);
    await expectDoneOnce(account, accepted, unknown);
    await account.close();
    expect(database.query("pragma integrity_check").all()).toEqual([{ integrity_check: "ok" }]);
    expect(database.query("pragma foreign_key_check").all()).toEqual([]);

    // The switches against the database, against what the API says, and as the command sees them.
    expect(compareIdle(database)).toBe(places.length);
    for (const { on, node, port: label } of places) {
      expect({ node, ...on.emulator.port(label) }).toEqual({ node, ...stateOf(await networksOf(node)) });
    }
    expect(await command("switch_drift", "all")).toEqual({ status: 0, out: "", err: "" });

    console.log(
      `${accepted.length} accepted, ${unknown} requests without an answer, ${killed} kills, ${amidChange} of them amid a change, ${powerCuts} power cuts, ${lines} lines`,
    );
    // Otherwise this has tested little.
    expect(amidChange).toBeGreaterThan(kills / 4);
    expect(accepted.length).toBeGreaterThan(kills / 2);
    database.close();
  },
  testTimeoutMs,
);

test(
  "a reconciliation that is asked for while a change of the port is being saved is not lost",
  async () => {
    const vendor: Vendor = "powerconnect55xx";
    const label = portNames[vendor](portsPerSwitch + 1);
    const ports = [label];
    const emulator = await startEmulator(vendor, { ports, transport: "telnet", behaviour: { commandDelayMs: 100 } });
    try {
      await ok("PUT", "/switch/reconciled", registration(vendor, emulator));
      const path = `/switch/reconciled/port/${encodeURIComponent(label)}`;
      await ok("PUT", path);
      await ok("PUT", "/node/reconciled", { obm: mockObm });
      await ok("PUT", "/node/reconciled/nic/nic", { macaddr: "x" });
      await ok("POST", `${path}/connect_nic`, { node: "reconciled", nic: "nic" });
      await ok("POST", "/project/p/connect_node", { node: "reconciled" });
      await restOf("reconciled");
      // Somebody changes the port at the console, between the read-back and the end of the saving, and asks for it to be mended.
      let asked: Promise<unknown> | null = null;
      onEveryLine(emulator, (line) => {
        if (asked !== null || !line.startsWith("copy ")) return;
        emulator.setPort(label, { native: 666, tagged: [] });
        asked = ok("POST", "/switch/reconciled/reconcile");
      });
      const { status_id: id } = await ok("POST", "/node/reconciled/nic/nic/connect_network", { network: "red" });
      while ((await ask(`/networking_action/${id}`)).status === "PENDING") await Bun.sleep(50);
      expect(await asked!).toEqual({ ports });
      await restOf("reconciled");
      expect(emulator.port(label)).toEqual({ native: networks.red, tagged: [] });
    } finally {
      await emulator.stop();
    }
  },
  testTimeoutMs,
);

/** Nothing of the switch is pending any more. */
async function restOf(label: string): Promise<void> {
  const deadline = Date.now() + settleTimeoutMs;
  while ((await ask(`/switch/${label}/reconcile`)).pending.length > 0) {
    if (Date.now() > deadline) throw new Error(`switch ${label} does not come to rest`);
    await Bun.sleep(50);
  }
}

function openDatabase(): Database {
  const database = new Database(file);
  database.run("pragma busy_timeout = 10000");
  for (const statement of seenOnSqlite) database.run(statement);
  return database;
}

const pendingOn = (database: Database, vendor: string): number =>
  database
    .query<{ n: number }, [string]>(
      `select count(*) as n from networking_action join switch on switch.id = switch_id
       where status = 'PENDING' and switch.label like ?`,
    )
    .get(vendor)!.n;

/** The requests that could be made of a nic on these networks: a path and a body each. */
function choicesFor(place: Place, now: Readonly<Record<string, Network>>): [string, unknown][] {
  const nic = `/node/${place.node}/nic/nic`;
  const present = Object.values(now);
  const hasNative = "vlan/native" in now;
  const needsNative = !isConsole(place.on.vendor);
  const choices: [string, unknown][] = [];
  for (const network of Object.keys(networks) as Network[]) {
    if (present.includes(network)) {
      const isLast = present.length === 1 || now["vlan/native"] !== network;
      if (!needsNative || isLast) choices.push([`${nic}/detach_network`, { network }]);
      continue;
    }
    if (!hasNative) choices.push([`${nic}/connect_network`, { network, channel: "vlan/native" }]);
    if (hasNative || !needsNative) choices.push([`${nic}/connect_network`, { network, channel: `vlan/${networks[network]}` }]);
  }
  return [...choices, [`${portPath(place)}/revert`, undefined]];
}

/** A session is under way that has written something to a port, and not yet said all of it. */
const isAmidChange = ({ emulator, last }: Switch): boolean =>
  emulator.sessions.now > 0 &&
  /^(configure|interface|switchport|exit|end)|^(PUT|PATCH|DELETE)|<config-commands>|<switchport|<shutdown/.test(last);

interface Row {
  label: string;
  channel: string;
  vlan: number;
}

const attachmentsOf = (database: Database, vendor: Vendor): Row[] =>
  database
    .query<Row, [string]>(
      `select port.label, attachment.channel, network.vlan from attachment join nic on nic.id = attachment.nic_id
       join port on port.id = nic.port_id join switch on switch.id = port.switch_id
       join network on network.id = attachment.network_id where switch.label = ?`,
    )
    .all(vendor);

interface PendingRow {
  label: string;
  type: string;
  vlan: number | null;
}

const pendingRows = (database: Database, vendor: Vendor): PendingRow[] =>
  database
    .query<PendingRow, [string]>(
      `select port.label, action.type, network.vlan from networking_action as action join port on port.id = action.port_id
       join switch on switch.id = port.switch_id left join network on network.id = action.network_id
       where action.status = 'PENDING' and switch.label = ?`,
    )
    .all(vendor);

/** What ports carry now that they are neither attached to nor being attached to or detached from. */
function strangersOn(database: Database, { vendor, emulator }: Switch): string[] {
  const moving = pendingRows(database, vendor);
  const attached = attachmentsOf(database, vendor);
  return places.flatMap(({ on, port: label }) => {
    // That it is not right is known, and being mended.
    if (on.vendor !== vendor || moving.some((row) => row.label === label && row.type === "sync_port")) return [];
    const own = [...attached, ...moving].filter((row) => row.label === label).map(({ vlan }) => vlan);
    const isStrange = (vlan: number) => !own.includes(vlan) && !(vendor === "delln3000" && vlan === dummyVlan);
    const { native, tagged } = emulator.port(label)!;
    const strange = { native: native !== null && isStrange(native) ? native : null, tagged: tagged.filter(isStrange) };
    if (samePort(strange, emptyPort)) return [];
    return [`${vendor} ${label} carries ${describePort(strange)} beside what it may: ${own.join(", ") || "nothing"}`];
  });
}

function stateFrom(rows: readonly { channel: string; vlan: number }[]): PortState {
  const native = rows.find(({ channel }) => channel === "vlan/native")?.vlan ?? null;
  const tagged = rows.flatMap(({ channel, vlan }) => (channel === "vlan/native" ? [] : [vlan])).toSorted((a, b) => a - b);
  return { native, tagged };
}

const stateOf = (now: Readonly<Record<string, Network>>): PortState =>
  stateFrom(Object.entries(now).map(([channel, network]) => ({ channel, vlan: networks[network] })));

/**
 * Ports that nothing is pending for hold what the database says; how many those are. True at any moment, also
 * while no server runs: what is DONE is on the switch.
 */
function compareIdle(database: Database): number {
  let idle = 0;
  for (const { vendor, emulator } of switches) {
    const busy = pendingRows(database, vendor).map(({ label }) => label);
    const attached = attachmentsOf(database, vendor);
    for (const { on, port: label } of places) {
      if (on.vendor !== vendor || busy.includes(label)) continue;
      const wanted = stateFrom(attached.filter((row) => row.label === label));
      expect({ vendor, label, ...emulator.port(label) }).toEqual({ vendor, label, ...wanted });
      idle++;
    }
  }
  return idle;
}

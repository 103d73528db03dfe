import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { PortState } from "../../src/hardware/switches/driver.ts";
import { haas } from "../cli/haas.ts";
import { haasBinary } from "../support/binary.ts";
import { consoleVendors } from "../support/emulators.ts";
import { clockErrorOf, clockOffBy } from "../support/faketime.ts";
import { type OvsLab, startOvs } from "../support/ovs-lab.ts";
import { keyOf, PortWatch } from "../support/port-watch.ts";
import { type KnownPort, knownPorts, type OpenDatabase, openDatabase } from "../support/ports.ts";
import { pick, randomFrom, seed, shuffled, whole } from "../support/random.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { type DatabaseKind, databases, freshUri, mockObm, scratch } from "../support/service.ts";
import { ConsoleSwitch, heldOvs, holdings, OvsSwitch, ovsStates, type SteppedSwitch } from "../support/stepped-switches.ts";
import { untilWithin } from "../support/until.ts";

// A server is stopped in the middle of changes of many switches. Another, whose clock says something else, takes them
// over, finishes, and changes the same ports once more. Then the first one goes on, and types whatever it types.

const leaseSeconds = 5;
/** Of each kind of console (three vendors, SSH and telnet), and of Open vSwitch. */
const switchesPerConsole = 2;
const bridgeCount = 4;
const trialsWanted = 200;
/** What a server that goes on has begun has to end in so many milliseconds, and any harm of it be known. */
const graceMs = 3_000;
const setUpTimeoutMs = 120_000;
const arrivalTimeoutMs = 30_000;
/** Long enough for a lease of the default length, should `lease_time` be of no effect. */
const takeoverTimeoutMs = 75_000;
const settleTimeoutMs = 60_000;
const testTimeoutMs = whole ? 1_500_000 : 240_000;

const networks = { red: 100, blue: 200, green: 300 } as const;

/** How the clock of the server that is stopped is off. The other has the right time. */
const clocks = {
  "an hour behind": () => clockOffBy("-1h"),
  "an hour ahead": () => clockOffBy("+1h"),
  "an hour behind, the monotonic one too": () => clockOffBy("-1h", { monotonic: true }),
  "an hour ahead, the monotonic one too": () => clockOffBy("+1h", { monotonic: true }),
} as const;
type Clock = keyof typeof clocks;
const sample: Readonly<Record<DatabaseKind, readonly Clock[]>> = { sqlite: ["an hour behind"], postgres: ["an hour ahead"] };

/** When the stopped server goes on: amid the other's work, when that has done all changes, or long after the second read-back. */
const moments = ["amid", "after", "later"] as const;

let binary: string;
let place: { path: string; remove(): void };
let lab: OvsLab;

beforeAll(async () => {
  binary = await haasBinary();
  place = scratch();
  lab = await startOvs({ dir: join(place.path, "ovs"), name: `hpause${process.pid}`, bridge: "uplink", ports: [] });
}, setUpTimeoutMs);

afterAll(async () => {
  await lab?.stop();
  place.remove();
}, setUpTimeoutMs);

interface Rig {
  readonly a: ServerProcess;
  readonly b: ServerProcess;
  readonly switches: readonly SteppedSwitch[];
  readonly database: OpenDatabase;
  readonly watch: PortWatch;
  /** A has gone on after it was stopped: what it then types is dealt with within a grace. */
  wentOn: boolean;
  stop(): Promise<void>;
}

let rig: Rig | null = null;
let rigs = 0;
afterEach(async () => {
  await rig?.stop();
  rig = null;
}, setUpTimeoutMs);

async function startRig(kind: DatabaseKind, clock: Clock): Promise<Rig> {
  const directory = join(place.path, `rig${++rigs}`);
  for (const name of ["a", "b"]) mkdirSync(join(directory, name), { recursive: true });
  const uri = await freshUri(kind, directory);
  const { path, holds } = heldOvs(directory);
  const endings: (() => Promise<void>)[] = [];
  const stop = async () => {
    for (const end of endings.splice(0).toReversed()) await end();
  };
  const switches: SteppedSwitch[] = [];
  let watch: PortWatch | null = null;
  const onStep = () => watch?.soon();
  const add = <T extends SteppedSwitch>(one: T): T => {
    endings.push(() => one.stop());
    switches.push(one);
    return one;
  };
  try {
    const consoles: ConsoleSwitch[] = [];
    for (const vendor of consoleVendors) {
      for (const transport of ["ssh", "telnet"] as const) {
        for (let i = 0; i < switchesPerConsole; i++) {
          consoles.push(add(await ConsoleSwitch.start(`${vendor}-${transport}${i}`, vendor, transport, onStep)));
        }
      }
    }
    const bridges: OvsSwitch[] = [];
    for (let i = 0; i < bridgeCount; i++) bridges.push(add(await OvsSwitch.start(`r${rigs}b${i}`, lab, holds)));

    const more = `[network-daemon]\nlease_time = ${leaseSeconds}\nmax_tries = 1000\nsleep_time = 0.5`;
    const start = async (name: string, env: Record<string, string>) => {
      const server = await startServer({ kind, uri, binary, more, directory: join(directory, name), logLevel: "info", env });
      endings.push(() => server.stop());
      return server;
    };
    const a = await start("a", { ...clocks[clock](), PATH: `${path}:${process.env.PATH}` });
    await register(a, switches);
    const database = await openDatabase(uri);
    endings.push(() => database.close());
    await rehearse(a, switches, database);
    const off = clockErrorOf(a.log());
    expect({ clock, off: Math.round(off / 60_000) }).toEqual({ clock, off: clock.includes("behind") ? -60 : 60 });
    // Only now, so that all of A's steps were counted.
    const b = await start("b", {});

    const ports = new Map<string, () => PortState>(consoles.map((one) => [keyOf({ switch: one.name, port: one.port }), () => one.carries]));
    const made: Rig = { a, b, switches, database, watch: null as never, wentOn: false, stop };
    watch = new PortWatch({
      database,
      async read() {
        const onOvs = await ovsStates(lab);
        const seen = new Map([...ports].map(([key, carries]) => [key, carries()]));
        for (const one of bridges) seen.set(keyOf({ switch: one.name, port: one.port }), onOvs.get(one.port)!);
        return seen;
      },
      graceMs: () => (made.wentOn ? graceMs : 0),
      pauseMs: 40,
    });
    endings.push(() => watch!.stop().catch(() => {}));
    return Object.assign(made, { watch });
  } catch (error) {
    await stop();
    throw error;
  }
}

async function send(server: ServerProcess, method: string, path: string, body?: unknown): Promise<any> {
  const answer = await fetch(server.url + path, {
    method,
    keepalive: false,
    signal: AbortSignal.timeout(20_000),
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return text === "" ? null : JSON.parse(text);
}

async function register(server: ServerProcess, switches: readonly SteppedSwitch[]): Promise<void> {
  const ok = (method: string, path: string, body?: unknown) => send(server, method, path, body);
  await ok("PUT", "/project/p");
  for (const [name, vlan] of Object.entries(networks))
    await ok("PUT", `/network/${name}`, { owner: "admin", access: "", net_id: String(vlan) });
  for (const { name, port, body } of switches) {
    const path = `/switch/${name}/port/${encodeURIComponent(port)}`;
    await ok("PUT", `/switch/${name}`, body);
    await ok("PUT", path);
    await ok("PUT", `/node/${name}`, { obm: mockObm });
    await ok("PUT", `/node/${name}/nic/nic`, { macaddr: "x" });
    await ok("POST", `${path}/connect_nic`, { node: name, nic: "nic" });
    await ok("POST", "/project/p/connect_node", { node: name });
  }
}

/** Count the steps of changes that nobody disturbs. */
async function rehearse(server: ServerProcess, switches: readonly SteppedSwitch[], database: OpenDatabase): Promise<void> {
  const isOver = async () => {
    await untilWithin(settleTimeoutMs)("the ports are at rest", async () => isQuiet(await knownPorts(database)));
    for (const one of switches) one.count();
  };
  await isOver();
  const each = (path: string, body: unknown) =>
    Promise.all(switches.map(({ name }) => send(server, "POST", `/node/${name}/nic/nic/${path}`, body)));
  await each("connect_network", { network: "red" });
  await isOver();
  await each("detach_network", { network: "red" });
  await isOver();
}

const isQuiet = (ports: readonly KnownPort[]) => ports.every(({ pending, suspect }) => !pending && suspect === null);

/** The requests that change this port: a path and a body each. */
function changesOf({ node, switch: label, port, desired }: KnownPort): [string, unknown][] {
  const nic = `/node/${node}/nic/nic`;
  const changes: [string, unknown][] = Object.entries(networks).flatMap(([network, vlan]) => {
    if (desired.native === vlan || desired.tagged.includes(vlan)) return [[`${nic}/detach_network`, { network }]];
    const tagged = [`${nic}/connect_network`, { network, channel: `vlan/${vlan}` }] as [string, unknown];
    return desired.native === null ? [tagged, [`${nic}/connect_network`, { network, channel: "vlan/native" }]] : [tagged];
  });
  const isEmpty = desired.native === null && desired.tagged.length === 0;
  return isEmpty ? changes : [...changes, [`/switch/${label}/port/${encodeURIComponent(port)}/revert`, undefined]];
}

const isStopped = (pid: number): boolean => {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2)[0] === "T";
};

/** Stop a process at a moment at which it keeps nobody from writing to the database. */
async function stopProcess({ database }: Rig, server: ServerProcess, isMoment: () => Promise<boolean>): Promise<void> {
  await untilWithin(
    settleTimeoutMs,
    () => server.log().slice(-2_000),
    5,
  )("a server can be stopped", async () => {
    server.signal("SIGSTOP");
    await untilWithin(5_000, () => "", 1)("it is stopped", () => isStopped(server.pid));
    if (!(await database.isLocked()) && (await isMoment())) return true;
    server.signal("SIGCONT");
    return false;
  });
}

interface Tally {
  trials: Map<string, number>;
  steps: Map<string, Set<number>>;
  typed: number;
  quarantined: number;
  /** Ports that were something else after A had gone on, when B had done with them. */
  harmed: number;
  missed: number;
  /** Ports that were not quarantined although another server took them over. */
  trusted: string[];
}

/** One stop of A, amid a change of every switch. */
async function round(rig: Rig, random: () => number, decks: Map<string, number[]>, moment: (typeof moments)[number], tally: Tally) {
  const { a, b, switches, database, watch } = rig;
  const evidence = () => `A:\n${a.log().slice(-3_000)}\nB:\n${b.log().slice(-3_000)}`;
  const until = untilWithin(settleTimeoutMs, evidence);
  const known = async () => new Map((await knownPorts(database)).map((port) => [port.switch, port]));
  await until("everything is at rest", async () => isQuiet(await knownPorts(database)));
  // B has no switch in hand, so that A takes them all.
  await stopProcess(rig, b, async () => (await database.all("select 1 from switch where lease_owner is not null")).length === 0);
  rig.wentOn = false;
  watch.suspects.clear();

  const before = await known();
  const plan = switches.map((one) => ({ one, step: nextStep(decks, one, random), holding: pick(random, holdings) }));
  for (const { one, step, holding } of plan) one.arm(step, holding);
  const first = new Map<string, string>();
  await Promise.all(
    switches.map(async ({ name }) => {
      const [path, body] = pick(random, changesOf(before.get(name)!));
      first.set(name, (await send(a, "POST", path, body)).status_id);
    }),
  );
  const isDone = async (uuid: string) =>
    (await database.all("select 1 from networking_action where uuid = ? and status = 'DONE'", uuid)).length > 0;
  // One whose change has fewer steps than were asked for is done before it is held.
  await untilWithin(arrivalTimeoutMs, evidence)("A is in the middle of every change", async () => {
    for (const { one } of plan) if (one.heldAt === null && !(await isDone(first.get(one.name)!))) return false;
    return true;
  });
  await stopProcess(rig, a, async () => true);
  const held = plan.filter(({ one }) => one.heldAt !== null);
  // Otherwise A had only to take its leave.
  const begun = new Set<SteppedSwitch>();
  for (const { one } of held) if (!(await isDone(first.get(one.name)!))) begun.add(one);
  for (const { one } of plan) one.stopped();
  b.signal("SIGCONT");

  // B finishes, and changes each port once more.
  let second = 0;
  const isEnough = () => second >= (moment === "amid" ? held.length / 2 : held.length);
  const goOn = () => {
    if (rig.wentOn) return;
    expect(isStopped(a.pid)).toBe(true);
    for (const { one } of held) expect({ at: one.name, typed: one.since }).toEqual({ at: one.name, typed: [] });
    rig.wentOn = true;
    watch.different.clear();
    a.signal("SIGCONT");
    for (const { one } of plan) one.wentOn();
  };
  await Promise.all(
    held.map(async ({ one }) => {
      const takeover = untilWithin(takeoverTimeoutMs, evidence, 100);
      await takeover(`B finishes what A has begun on ${one.name}`, () => isDone(first.get(one.name)!));
      const [path, body] = pick(random, changesOf((await known()).get(one.name)!));
      const { status_id: uuid } = await send(b, "POST", path, body);
      await takeover(`B changes the port of ${one.name} once more`, () => isDone(uuid));
      second++;
      if (moment === "amid" && isEnough()) goOn();
    }),
  );
  if (moment === "later") await until("the second read-back has been", async () => isQuiet(await knownPorts(database)));
  goOn();
  await Bun.sleep(graceMs);
  const stuck = async () => (await knownPorts(database)).filter(({ pending, suspect }) => pending || suspect !== null);
  let left: KnownPort[] = [];
  await untilWithin(settleTimeoutMs, () => `${JSON.stringify(left)}\n${evidence()}`)(
    "everything is right again",
    async () => (left = await stuck()).length === 0,
  );
  for (const { one, step } of held) {
    tally.trials.set(one.kind, (tally.trials.get(one.kind) ?? 0) + 1);
    tally.steps.set(one.kind, (tally.steps.get(one.kind) ?? new Set()).add(step));
    tally.typed += one.since.length;
    const key = keyOf({ switch: one.name, port: one.port });
    if (moment !== "amid" && watch.different.has(key)) tally.harmed++;
    if (watch.suspects.has(key)) tally.quarantined++;
    else if (moment !== "amid" && begun.has(one)) tally.trusted.push(`${one.name}, stopped at step ${step}`);
  }
  tally.missed += plan.length - held.length;
}

/** Each step of a kind of switch in turn, in some order. */
function nextStep(decks: Map<string, number[]>, { kind, steps }: SteppedSwitch, random: () => number): number {
  let deck = decks.get(kind) ?? [];
  if (deck.length === 0)
    deck = shuffled(
      random,
      Array.from({ length: steps }, (_, step) => step),
    );
  decks.set(kind, deck);
  return deck.pop() ?? 0;
}

describe.each(databases)("a server that is stopped amid its changes, on %s", (kind) => {
  test(
    "does no harm that nobody knows of when it goes on, whatever its clock says",
    async () => {
      console.log(`seed: HAAS_TEST_SEED=${seed}`);
      const random = randomFrom(seed + databases.indexOf(kind));
      const tally: Tally = { trials: new Map(), steps: new Map(), typed: 0, quarantined: 0, harmed: 0, missed: 0, trusted: [] };
      const total = () => [...tally.trials.values()].reduce((sum, n) => sum + n, 0);
      const decks = new Map<string, number[]>();
      const report = (watch: PortWatch, clock: Clock) =>
        console.log(
          `${kind}, ${clock}: ${total()} trials so far (${[...tally.trials].map(([kind, n]) => `${kind} ${n} at ${tally.steps.get(kind)!.size} steps`).join("; ")}), ` +
            `${tally.missed} changes done before their step, ${tally.typed} lines typed on, ${tally.quarantined} ports quarantined, ${tally.harmed} wrong for a while; ` +
            `${watch.checks} checks, at worst ${Math.round(watch.longestMs)} ms until harm was known`,
        );
      const turns = whole ? (Object.keys(clocks) as Clock[]) : sample[kind];
      for (const clock of turns) {
        rig = await startRig(kind, clock);
        const { b, watch } = rig;
        for (const moment of whole ? moments : [pick(random, moments)]) {
          await round(rig, random, decks, moment, tally);
          expect(watch.violations).toEqual([]);
          expect(tally.trusted).toEqual([]);
        }
        // The last look forgives nothing.
        rig.wentOn = false;
        await watch.stop();
        report(watch, clock);
        expect(watch.violations).toEqual([]);
        expect(await haas(["switch_drift", "all"], { env: { HAAS_ENDPOINT: b.url } })).toEqual({ status: 0, out: "", err: "" });
        await rig.stop();
        rig = null;
      }
      // Otherwise this has tested little.
      if (whole) expect(total()).toBeGreaterThanOrEqual(trialsWanted / databases.length);
      else expect(total()).toBeGreaterThan(tally.missed);
    },
    testTimeoutMs,
  );
});

test(
  "a port that somebody changes behind haas's back is found by the watch of these trials",
  async () => {
    rig = await startRig("sqlite", "an hour ahead");
    const { watch, switches } = rig;
    await Bun.sleep(200);
    expect(watch.violations).toEqual([]);
    const found = untilWithin(5_000, () => watch.violations.join("\n"));
    const console0 = switches.find((one) => one instanceof ConsoleSwitch)!;
    console0.emulator.setPort(console0.port, { native: 666, tagged: [] });
    await found("the console's", () => watch.violations.some((text) => text.startsWith(`${console0.name} `)));
    const bridge = switches.find((one) => one instanceof OvsSwitch)!;
    await lab.vsctl("set", "port", bridge.port, "vlan_mode=access", "tag=666", "trunks=[]");
    await found("the bridge's", () => watch.violations.some((text) => text.startsWith(`${bridge.name} `)));
  },
  testTimeoutMs,
);

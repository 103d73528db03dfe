import { Database } from "bun:sqlite";
import { join } from "node:path";
import { switchTypePrefix } from "../src/hardware/switches/index.ts";
import { secrets } from "../tests/support/secrets.ts";
import type { Delays, EmulatedSwitch, Registration } from "./emulators.ts";
import { bench, databaseOf, spawn, startHaas, stop, waitFor, writeConfig } from "./processes.ts";
import { printTable, type Row } from "./table.ts";

// How well haas works on many switches at once: a change of every port of every switch, submitted in one
// go, next to the time that the slowest kind of switch takes alone, which no parallelism can beat. Emulated
// switches take their time as real ones do, so waiting is measured, and a run comes out much like the next.

const switchCount = 20;
const portsPerSwitch = 48;
const networkCount = 8;
const connections = 32;
/** The first two: one accepts connections and says nothing, the other refuses them. */
const deadCount = 2;
const slow: Delays = { loginDelayMs: 2_000, commandDelayMs: 100 };
/** While things are only brought into place. */
const quick: Delays = { loginDelayMs: 0, commandDelayMs: 0 };
const pollMs = 50;
const measureTimeoutMs = 120_000;
const controlTimeoutMs = 5_000;

const kinds = ["powerconnect55xx", "delln3000", "nexus"] as const;
const project = "p1";
const nic = "nic1";

interface Switch {
  label: string;
  emulated: EmulatedSwitch;
  places: readonly Place[];
}

interface Place {
  port: string;
  /** The node that is plugged into it. */
  node: string;
  /** The network that its nic is connected to. */
  network: string;
}

const switches = Array.from({ length: switchCount }, (_, i): Switch => {
  const kind = kinds[i % kinds.length]!;
  const label = `switch-${i + 1}`;
  const places = Array.from({ length: portsPerSwitch }, (_, n) => ({
    port: kind === "nexus" ? `Ethernet1/${n + 1}` : `gi1/0/${n + 1}`,
    node: `${label}-node-${n + 1}`,
    network: `net-${n % networkCount}`,
  }));
  return { label, places, emulated: { kind, transport: i % 2 === 0 ? "ssh" : "telnet", ports: places.map(({ port }) => port) } };
});
const dead = switches.slice(0, deadCount);
const living = switches.slice(deadCount);

/** By the label of a switch: how long after the first submission the last of its changes was done, in seconds. */
type Times = ReadonlyMap<string, number>;

export async function manySwitches(): Promise<Row[]> {
  // The dead ones are in processes of their own, to be stopped and ended.
  const groups = [...dead.map((one) => [one]), living];
  const emulators = await Promise.all(groups.map((group, i) => startEmulators(group, `emulators${i}`)));
  const setDelays = (delays: Delays) => Promise.all(emulators.map((one) => one.setDelays(delays)));
  writeConfig("switches");
  const { port, process: haas } = await startHaas("switches", []);
  const journal = new Database(databaseOf("switches"), { readonly: true });
  const call = caller(port);
  await register(
    call,
    journal,
    emulators.flatMap((one) => one.registrations),
  );

  const connect = (of: readonly Switch[]) => changeAll(call, of, "connect_network");
  const measure = async (of: readonly Switch[]): Promise<Times> => {
    await setDelays(slow);
    const times = await allDone(journal, of, await connect(of));
    await setDelays(quick);
    await changeAll(call, of, "detach_network");
    await allIdle(journal);
    return times;
  };

  const alone = new Map<string, number>();
  for (const kind of kinds) alone.set(kind, latest(await measure([living.find(({ emulated }) => emulated.kind === kind)!])));
  const together = await measure(switches);
  await setDelays(slow);
  const [silent, refusing] = emulators;
  silent!.process.kill("SIGSTOP");
  await stop(refusing!.process);
  const withDead = await allDone(journal, living, await connect(switches));

  journal.close();
  await stop(haas);
  for (const emulator of emulators) await stop(emulator.process);
  const what = `${switchCount} switches, ${portsPerSwitch} changes each`;
  const slowest = kinds.toSorted((a, b) => alone.get(b)! - alone.get(a)!)[0]!;
  const oneByOne = switches.reduce((sum, { emulated }) => sum + alone.get(emulated.kind)!, 0);
  return [
    {
      what,
      value: latest(together),
      unit: "s",
      limit: `${slowest} alone, the slowest`,
      limitValue: alone.get(slowest)!,
      aim: { most: 1.3 },
    },
    { what, value: latest(together), unit: "s", limit: "one switch after another", limitValue: oneByOne, aim: null },
    {
      what: `the same, ${deadCount} switches dead`,
      value: latest(withDead),
      unit: "s",
      limit: `the same ${living.length}, none dead`,
      limitValue: Math.max(...living.map(({ label }) => together.get(label)!)),
      aim: { most: 1.05 },
    },
  ];
}

const latest = (times: Times) => Math.max(...times.values());

async function startEmulators(group: readonly Switch[], name: string) {
  let answered = () => {};
  const specs = JSON.stringify(group.map(({ emulated }) => emulated));
  const child = spawn([process.execPath, join(import.meta.dir, "emulators.ts"), specs], name, () => answered());
  return {
    process: child,
    registrations: JSON.parse(await waitFor(`${name}.out`, /^\[.*\]$/m)) as Registration[],
    async setDelays(delays: Delays): Promise<void> {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const timer = setTimeout(() => reject(new Error(`${name} did not take its delays within ${controlTimeoutMs} ms.`)), controlTimeoutMs);
      answered = resolve;
      child.send(delays);
      await promise;
      clearTimeout(timer);
    },
  };
}

type Call = (method: "PUT" | "POST", path: string, body: object) => Promise<void>;

const caller =
  (port: number): Call =>
  async (method, path, body) => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method, body: JSON.stringify(body) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  };

/** Everything that the changes need; at the end no port carries anything. */
async function register(call: Call, journal: Database, registrations: readonly Registration[]): Promise<void> {
  const obm = { type: "http://schema.massopencloud.org/haas/v0/obm/mock", host: "bmc", user: "u", password: secrets.mockBmc };
  await call("PUT", `/project/${project}`, {});
  for (const network of new Set(switches.flatMap(({ places }) => places.map((place) => place.network)))) {
    await call("PUT", `/network/${network}`, { owner: project, access: project, net_id: "" });
  }
  for (const [i, { label, emulated }] of switches.entries()) {
    await call("PUT", `/switch/${label}`, { type: switchTypePrefix + emulated.kind, ...registrations[i] });
  }
  const places = switches.flatMap((one, s) => one.places.map((place, n) => ({ ...place, label: one.label, mac: [2, 0, 0, 0, s, n] })));
  await inParallel(places, async ({ label, port, node, mac }) => {
    const path = `/switch/${label}/port/${encodeURIComponent(port)}`;
    await call("PUT", `/node/${node}`, { obm });
    await call("PUT", `/node/${node}/nic/${nic}`, { macaddr: mac.map((byte) => byte.toString(16).padStart(2, "0")).join(":") });
    await call("PUT", path, {});
    await call("POST", `${path}/connect_nic`, { node, nic });
  });
  // Registered ports are cleaned up first; only then are their nodes to be had.
  await allIdle(journal);
  await inParallel(places, ({ node }) => call("POST", `/project/${project}/connect_node`, { node }));
}

/** Submit a change of every port, by turns on every switch; when that began, in milliseconds since 1970. */
async function changeAll(call: Call, of: readonly Switch[], operation: "connect_network" | "detach_network"): Promise<number> {
  const places = Array.from({ length: portsPerSwitch }, (_, n) => of.map((one) => one.places[n]!)).flat();
  const startedAt = Date.now();
  await inParallel(places, ({ node, network }) => call("POST", `/node/${node}/nic/${nic}/${operation}`, { network }));
  return startedAt;
}

async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = items.values();
  await Promise.all(
    Array.from({ length: connections }, async () => {
      for (const item of left) await work(item);
    }),
  );
}

/** Wait for the changes on these switches that were submitted from `startedAt` on. */
async function allDone(journal: Database, of: readonly Switch[], startedAt: number): Promise<Times> {
  const query = journal.prepare<{ label: string; done: number; failed: number; last: number }, [number]>(`
    select switch.label, count(*) filter (where status = 'DONE') as done, count(*) filter (where status = 'ERROR') as failed, max(ended_at) as last
    from networking_action as action join switch on switch.id = action.switch_id where action.created_at >= ? group by switch.label`);
  for (const until = startedAt + measureTimeoutMs; Date.now() < until; await Bun.sleep(pollMs)) {
    const rows = query.all(startedAt).filter(({ label }) => of.some((one) => one.label === label));
    if (rows.some(({ failed }) => failed > 0)) throw new Error("A change failed.");
    if (rows.filter(({ done }) => done === portsPerSwitch).length === of.length) {
      return new Map(rows.map(({ label, last }) => [label, (last - startedAt) / 1000]));
    }
  }
  throw new Error(`Not all changes were done within ${measureTimeoutMs} ms.`);
}

/** Wait until nothing is pending and no switch has a session. */
async function allIdle(journal: Database): Promise<void> {
  const query = journal.prepare<{ busy: number }, []>(`
    select (select count(*) from networking_action where status = 'PENDING') + (select count(*) from switch where lease_owner is not null) as busy`);
  for (const until = Date.now() + measureTimeoutMs; query.get()!.busy > 0; await Bun.sleep(pollMs)) {
    if (Date.now() > until) throw new Error(`haas was not idle within ${measureTimeoutMs} ms.`);
  }
}

if (import.meta.main) await bench(async () => printTable(await manySwitches()));

import { Database } from "bun:sqlite";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BarePorts } from "./bare.ts";
import { allocatedCount, benchNetwork, fillInventory, nodeCount, nodeName } from "./inventory.ts";
import type { Load, Measured } from "./load.ts";
import {
  bench,
  binary,
  configOf,
  databaseOf,
  outputOf,
  run,
  scratch,
  spawn,
  startHaas,
  startTimeoutMs,
  stop,
  waitFor,
  writeConfig,
} from "./processes.ts";
import { manySwitches } from "./switches.ts";
import { printTable, type Row } from "./table.ts";

// `bun run bench`: how fast haas is, each number next to a limit that was measured in the same run.
// A machine's own speed, and what else it is doing, cancels out in the ratio. Runs are interleaved
// and their medians taken; the absolute numbers mean little.

const rounds = 5;
const readMs = 700;
const readWarmUpMs = 200;
const connections = 32;
const acceptRounds = 4;
/** Two rounds use up the first nics, two the second. */
const acceptsPerRound = allocatedCount / 2;
const commitsPerRound = 800;
const startRounds = 7;
const cliRounds = 15;
const drainTimeoutMs = 30_000;

async function main(): Promise<void> {
  const started = performance.now();
  const rows = [...(await reads()), ...(await networking()), ...(await startUp()), ...(await manySwitches())];
  printTable(rows);
  console.log(
    `\n${((performance.now() - started) / 1000).toFixed(0)} s, medians of ${rounds} interleaved rounds (the switches: one), ${connections} connections, ${nodeCount} nodes`,
  );
}

/** The node and the free list, against bare handlers that send the same bytes and against bare SQLite. */
async function reads(): Promise<Row[]> {
  const database = await inventory("reads");
  const haas = await startHaas("reads", ["--no-networks"]);
  const node = nodeName(1);
  const files = [];
  for (const [name, path] of [
    ["node", `/node/${node}`],
    ["nodes", "/nodes/free"],
  ] as const) {
    const answer = await fetch(`http://127.0.0.1:${haas.port}${path}`);
    if (answer.status !== 200) throw new Error(`${path}: ${answer.status}`);
    files.push(join(scratch, `${name}.json`));
    writeFileSync(files.at(-1)!, await answer.bytes());
  }
  const bare = spawn([process.execPath, join(import.meta.dir, "bare.ts"), ...files], "bare");
  const ports = JSON.parse(await waitFor("bare.out", /^\{.*\}$/m)) as BarePorts;

  const rows: Row[] = [];
  const sqlite = new Database(database, { readonly: true });
  for (const { what, path, to, query } of [
    { what: "GET /node/<n>", path: "/node/node-#", to: nodeCount, query: () => oneNode(sqlite) },
    { what: "GET /nodes/free", path: "/nodes/free", to: 1, query: () => freeNodes(sqlite) },
  ]) {
    const get = (port: number) =>
      load({ port, method: "GET", path, from: 1, to, status: 200, warmUpMs: readWarmUpMs, durationMs: readMs, requests: Infinity });
    // Every answer once: from then on haas has it at hand until something changes.
    const first = await load({
      port: haas.port,
      method: "GET",
      path,
      from: 1,
      to,
      status: 200,
      warmUpMs: 0,
      durationMs: 10_000,
      requests: to,
    });
    const ours: Measured[] = [];
    const direct: Measured[] = [];
    const behind: Measured[] = [];
    const raw: number[] = [];
    for (let round = 0; round < rounds; round++) {
      ours.push(await get(haas.port));
      direct.push(await get(ports.direct));
      behind.push(await get(ports.behindFront));
      raw.push(perSecond(query, 300));
    }
    const value = median(ours.map((one) => one.perSecond));
    const p99 = median(ours.map((one) => one.p99Ms));
    rows.push(
      {
        what,
        value,
        unit: "/s",
        limit: "bare Elysia, same bytes",
        limitValue: median(direct.map((one) => one.perSecond)),
        aim: { least: 0.5 },
      },
      {
        what,
        value,
        unit: "/s",
        limit: "bare Elysia behind the front",
        limitValue: median(behind.map((one) => one.perSecond)),
        aim: { least: 0.5 },
      },
      {
        what: `${what}, first read`,
        value: first.perSecond,
        unit: "/s",
        limit: "bun:sqlite, same query",
        limitValue: median(raw),
        aim: null,
      },
      {
        what: `${what} p99`,
        value: p99,
        unit: "ms",
        limit: "bare Elysia behind the front",
        limitValue: median(behind.map((one) => one.p99Ms)),
        aim: null,
      },
    );
  }
  sqlite.close();
  await stop(haas.process);
  await stop(bare);
  return rows;
}

function oneNode(sqlite: Database): () => unknown {
  const details = sqlite.prepare(`
    select node.label, project.label as project, nic.label as nic, nic.mac_addr, port.label as port, switch.label as switch, attachment.channel, network.label as network
    from node left join project on project.id = node.project_id
    left join nic on nic.node_id = node.id left join port on port.id = nic.port_id left join switch on switch.id = port.switch_id
    left join attachment on attachment.nic_id = nic.id left join network on network.id = attachment.network_id
    where node.label = ? order by nic.label`);
  const metadata = sqlite.prepare(
    "select m.label, m.value from node_metadata m join node on node.id = m.node_id where node.label = ? order by m.label",
  );
  let n = 0;
  return () => {
    const name = nodeName((n++ % nodeCount) + 1);
    return [details.all(name), metadata.all(name)];
  };
}

function freeNodes(sqlite: Database): () => unknown {
  const query = sqlite.prepare(`
    select label from node where project_id is null
    and id not in (select node_id from nic where port_id in (select id from port where suspect is not null)) order by label`);
  return () => query.all();
}

/** Accepting and applying networking actions, against commits to SQLite that are as durable. */
async function networking(): Promise<Row[]> {
  const database = await inventory("networking");
  const { port, process: accepting } = await startHaas("networking", ["--no-networks"]);
  const accepts: Measured[] = [];
  const commits: number[] = [];
  for (let round = 0; round < acceptRounds; round++) {
    const nic = round < 2 ? 1 : 2;
    const from = (round % 2) * acceptsPerRound + 1;
    const body = JSON.stringify({ network: benchNetwork.label, channel: benchNetwork.channel });
    const to = from + acceptsPerRound - 1;
    accepts.push(
      await load({
        port,
        method: "POST",
        path: `/node/node-#/nic/nic${nic}/connect_network`,
        body,
        from,
        to,
        status: 202,
        warmUpMs: 0,
        durationMs: 20_000,
        requests: acceptsPerRound,
      }),
    );
    commits.push(rawCommits());
  }
  await stop(accepting);

  const journal = new Database(database, { readonly: true });
  const done = journal.prepare<{ done: number; pending: number }, []>(
    "select count(*) filter (where status = 'DONE') as done, count(*) filter (where status = 'PENDING') as pending from networking_action",
  );
  const worker = spawn([binary, "serve_networks", "--config", configOf("networking")], "worker");
  // From the first batch seen to the last, so that the start is not counted.
  let first: { at: number; done: number } | null = null;
  let drained = 0;
  for (const until = performance.now() + drainTimeoutMs; ; await Bun.sleep(2)) {
    const now = performance.now();
    const counts = done.get()!;
    if (!first && counts.done > 0) first = { at: now, done: counts.done };
    if (first && counts.pending === 0) {
      drained = (1000 * (counts.done - first.done)) / (now - first.at);
      break;
    }
    if (now > until) throw new Error(`The worker drained ${counts.done} actions in ${drainTimeoutMs} ms, and ${counts.pending} are left.`);
  }
  journal.close();
  await stop(worker);
  const limitValue = median(commits);
  const limit = "bun:sqlite commits, FULL";
  return [
    { what: "connect_network accepted", value: median(accepts.map((one) => one.perSecond)), unit: "/s", limit, limitValue, aim: null },
    {
      what: "connect_network accepted p99",
      value: median(accepts.map((one) => one.p99Ms)),
      unit: "ms",
      limit: `${connections} commits`,
      limitValue: (1000 * connections) / limitValue,
      aim: null,
    },
    { what: "actions drained, mock switch", value: drained, unit: "/s", limit, limitValue, aim: null },
  ];
}

/** Commits a second of one row each, as durable as those of haas. */
function rawCommits(): number {
  const db = new Database(join(scratch, "raw.db"));
  db.run("pragma journal_mode = WAL");
  db.run("pragma synchronous = FULL");
  db.run("create table if not exists t (id integer primary key, uuid text unique, payload text)");
  const insert = db.prepare("insert into t (uuid, payload) values (?, ?)");
  const startedAt = performance.now();
  for (let i = 0; i < commitsPerRound; i++) insert.run(crypto.randomUUID(), "x".repeat(200));
  const rate = (1000 * commitsPerRound) / (performance.now() - startedAt);
  db.close();
  return rate;
}

/** Start-up times, against a binary that does nothing. */
async function startUp(): Promise<Row[]> {
  const empty = join(scratch, "empty");
  writeFileSync(`${empty}.ts`, 'console.log("");\n');
  run([process.execPath, "build", "--compile", "--minify", "--bytecode", "--format=esm", `${empty}.ts`, "--outfile", empty]);
  await inventory("few", 20);
  const times: Record<"empty" | "version" | "list" | "serve" | "first", number[]> = {
    empty: [],
    version: [],
    list: [],
    serve: [],
    first: [],
  };
  for (let round = 0; round < startRounds; round++) {
    times.serve.push(await timeToFirstAnswer(configOf("few")));
    times.first.push(await timeToFirstAnswer(writeConfig(`new${round}`)));
    times.empty.push(timeOf([empty]));
  }
  const { port, process: server } = await startHaas("few", []);
  const env = { ...process.env, HAAS_ENDPOINT: `http://127.0.0.1:${port}` };
  for (let round = 0; round < cliRounds; round++) {
    times.empty.push(timeOf([empty]));
    times.version.push(timeOf([binary, "--version"]));
    times.list.push(timeOf([binary, "list_nodes", "free"], env));
  }
  await stop(server);
  const row = (what: string, of: number[], most: number | null): Row => ({
    what,
    value: median(of),
    unit: "ms",
    limit: "empty Bun binary",
    limitValue: median(times.empty),
    aim: most === null ? null : { most },
    absolute: true,
  });
  return [
    row("haas --version", times.version, 40),
    row("haas list_nodes free", times.list, 40),
    row("haas serve, first answer", times.serve, 100),
    row("haas serve, first answer, new database", times.first, null),
  ];
}

function timeOf(command: string[], env: Record<string, string | undefined> = process.env): number {
  const startedAt = performance.now();
  run(command, env);
  return performance.now() - startedAt;
}

async function timeToFirstAnswer(config: string): Promise<number> {
  const port = freePort();
  const startedAt = performance.now();
  const server = spawn([binary, "serve", String(port), "--config", config], "start");
  while ((await fetch(`http://127.0.0.1:${port}/nodes/free`).catch(() => null))?.status !== 200) {
    if (performance.now() - startedAt > startTimeoutMs) throw new Error(`haas serve did not answer within ${startTimeoutMs} ms.`);
    await Bun.sleep(1);
  }
  const ms = performance.now() - startedAt;
  await stop(server);
  return ms;
}

function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  listener.stop(true);
  return listener.port;
}

async function inventory(name: string, nodes?: number): Promise<string> {
  writeConfig(name);
  await fillInventory(`sqlite:///${databaseOf(name)}`, nodes);
  return databaseOf(name);
}

async function load(options: Omit<Load, "connections">): Promise<Measured> {
  const text = await outputOf([
    process.execPath,
    join(import.meta.dir, "load.ts"),
    JSON.stringify({ ...options, connections, requests: Math.min(options.requests, 1e9) }),
  ]);
  return JSON.parse(text) as Measured;
}

// Numbers.

function perSecond(prepare: () => () => unknown, ms: number): number {
  const work = prepare();
  const startedAt = performance.now();
  let count = 0;
  for (; performance.now() - startedAt < ms; count++) work();
  return (1000 * count) / (performance.now() - startedAt);
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[Math.floor((sorted.length - 1) / 2)]! + sorted[Math.ceil((sorted.length - 1) / 2)]!) / 2;
}

await bench(main);

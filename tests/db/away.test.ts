import { afterEach, expect, test } from "bun:test";
import pg from "pg";
import { operate } from "../../src/lifetime.ts";
import { Load } from "../support/load.ts";
import { openDatabase, watchActions } from "../support/ports.ts";
import { ownPostgres } from "../support/postgres.ts";
import { pick, randomFrom, seed, shuffled, whole } from "../support/random.ts";
import { expectDoneOnce } from "../support/seen.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { startService } from "../support/service.ts";

// PostgreSQL goes away and comes back under load.

const outages = whole ? 36 : 4;
/** Of the whole run, about. */
const runMs = 240_000;
/** Far above what it takes: how long it took is printed. */
const patienceMs = 20_000;
const ways = ["fast", "immediate", "frozen"] as const;
/** As the whole run is done: sleep_time is what it is by default. */
const more = "[network-daemon]\nmax_tries = 1000";

const endings: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).toReversed()) await end();
}, 60_000);

const linesOf = (server: ServerProcess, part: string) =>
  server
    .log()
    .split("\n")
    .filter((line) => line.includes(part));

test(
  `PostgreSQL goes away ${outages} times under load: 503 at once, no other failure, and everything accepted is done once`,
  async () => {
    console.log(`seed: HAAS_TEST_SEED=${seed}`);
    const random = randomFrom(seed);
    const postgres = await ownPostgres({});
    endings.push(() => postgres.stop());
    const server = await startServer({ kind: "postgres", uri: postgres.uri, more, logLevel: "info" });
    endings.push(() => server.stop());
    const load = new Load(server.url);
    endings.push(() => load.end());
    await load.register();
    const watching = await openDatabase(postgres.uri);
    await watchActions(watching, postgres.uri);
    await watching.close();
    load.start();
    await load.successesSince(performance.now(), patienceMs);

    const longest: Record<string, number> = {};
    const began = performance.now();
    const each = whole ? runMs / outages : 3_000;
    for (let n = 0; n < outages; n++) {
      const how = n < ways.length ? shuffled(randomFrom(seed), ways)[n]! : pick(random, ways);
      const wentAt = performance.now();
      await postgres.away(how);
      await Bun.sleep(how === "frozen" ? 3_000 + random() * 2_000 : random() * 3_000);
      await postgres.back();
      const took = await load.successesSince(performance.now(), patienceMs);
      for (const [kind, ms] of Object.entries(took)) longest[kind] = Math.max(longest[kind] ?? 0, ms);
      await Bun.sleep(Math.max(0, each - (performance.now() - wentAt)));
    }
    const seconds = Math.round((performance.now() - began) / 1000);
    await load.stop();
    console.log(
      `${outages} outages in ${seconds} s: ${JSON.stringify(load.counted())}; ms from accepting connections to the first success, at worst: ` +
        `${JSON.stringify(longest)}; longest answer ${Math.round(load.longestMs)} ms, longest 503 ${Math.round(load.longest503Ms)} ms`,
    );

    expect(load.wrong).toEqual([]);
    expect(load.counts.get("read 503 UnavailableError")).toBeGreaterThan(0);
    expect(load.counts.get("write 503 UnavailableError")).toBeGreaterThan(0);
    await load.expectNothingLost();
    const database = await openDatabase(postgres.uri);
    endings.push(() => database.close());
    await expectDoneOnce(database, load.accepted, load.unknown);
    expect(await database.all("select label from switch where lease_owner is not null")).toEqual([]);

    // One line when it goes and one when it is back, and no others.
    const gone = linesOf(server, "the database can't be used");
    expect(gone.length).toBeGreaterThan(0);
    expect(gone.length).toBeLessThanOrEqual(outages);
    expect(linesOf(server, '"level":"error"')).toEqual(gone);
    // A machine that has no time for a process is no matter of this test.
    const others = linesOf(server, '"level":"warning"').filter((line) => !/headnodes are simulated|the event loop was held/.test(line));
    expect(others).toEqual([]);
    expect(linesOf(server, "the database is back").length).toBeGreaterThanOrEqual(gone.length - 1);
    expect(linesOf(server, '"status":503')).toEqual([]);
  },
  whole ? 900_000 : 240_000,
);

test("200 calls at once on a PostgreSQL that has few connections: some wait, and none fails otherwise than with 503", async () => {
  // One is for the wake of the worker.
  const postgres = await ownPostgres({}, ["max_connections=5", "reserved_connections=0", "superuser_reserved_connections=0"]);
  endings.push(() => postgres.stop());
  const server = await startServer({ kind: "postgres", uri: postgres.uri });
  endings.push(() => server.stop());
  const calls = Array.from({ length: 200 }, (_, i) =>
    i % 4 === 0 ? fetch(`${server.url}/project/p${i}`, { method: "PUT" }) : fetch(`${server.url}/networks`),
  );
  const statuses = (await Promise.all(calls)).map(({ status }) => status);
  const counts = Object.fromEntries(
    Map.groupBy(statuses, String)
      .entries()
      .map(([status, all]) => [status, all.length]),
  );
  console.log(`200 calls at once: ${JSON.stringify(counts)}`);
  expect(statuses.filter((status) => status !== 200 && status !== 503)).toEqual([]);
  expect(counts["200"]).toBeGreaterThan(100);
}, 120_000);

test("a writer that stops with the lock in hand: reads go on, writes are 503 in bounded time, and go on after it", async () => {
  const postgres = await ownPostgres({});
  endings.push(() => postgres.stop());
  const server = await startServer({ kind: "postgres", uri: postgres.uri });
  endings.push(() => server.stop());
  const holder = new pg.Client({ connectionString: postgres.uri });
  await holder.connect();
  // As src/db/transaction.ts takes it.
  await holder.query("begin; select pg_advisory_xact_lock(4247001)");
  const writes = Array.from({ length: 20 }, (_, i) => fetch(`${server.url}/project/p${i}`, { method: "PUT" }));
  const reads = await Promise.all(Array.from({ length: 20 }, () => fetch(`${server.url}/networks`)));
  expect(reads.map(({ status }) => status)).toEqual(Array(20).fill(200));
  for (const answer of await Promise.all(writes)) {
    expect({ status: answer.status, ...((await answer.json()) as object) }).toMatchObject({ status: 503, type: "UnavailableError" });
  }
  await holder.end();
  expect((await fetch(`${server.url}/project/p`, { method: "PUT" })).status).toBe(200);
  expect(await (await fetch(`${server.url}/projects`)).json()).toEqual(["p"]);
}, 120_000);

test("a server whose first change is not let through for too long ends with one line, and does not go on without a database", async () => {
  const postgres = await ownPostgres({});
  endings.push(() => postgres.stop());
  const first = await startServer({ kind: "postgres", uri: postgres.uri });
  await first.stop();
  const holder = new pg.Client({ connectionString: postgres.uri });
  await holder.connect();
  endings.push(() => holder.end());
  await holder.query("begin; select pg_advisory_xact_lock(4247001)");
  await expect(startServer({ kind: "postgres", uri: postgres.uri })).rejects.toThrow(
    /did not start: .*\nError: .*others were writing to it/s,
  );
}, 120_000);

test("what fails once the server listens ends all that runs before the database is closed", async () => {
  const service = await startService("postgres");
  const events: string[] = [];
  const { ctx } = service;
  const isOpen = async () => (await ctx.db.selectFrom("project").select("id").execute()).length === 0;
  const operation = operate("postgresql://unused", ctx.log, {
    open: async () => ctx,
    begin: () => ({ stop: async () => void events.push(`work stops: ${await isOpen()}`) }),
    started: () => Promise.reject(new Error("the first change failed")),
    stopping: async () => void events.push(`front stops: ${await isOpen()}`),
  });
  await expect(operation).rejects.toThrow("the first change failed");
  expect(events.toSorted()).toEqual(["front stops: true", "work stops: true"]);
  await expect(isOpen()).rejects.toThrow();
});

import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileDisk, memoryDisk } from "../support/disks.ts";
import { Load } from "../support/load.ts";
import { openDatabase, watchActions } from "../support/ports.ts";
import { expectDoneOnce } from "../support/seen.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// SQLite's file, the state file and the log on a disk that is full or read-only.

/** Far above what it takes: how long it took is printed. */
const patienceMs = 30_000;
const outageMs = 4_000;
const testTimeoutMs = 180_000;

let place: { path: string; remove(): void };
const endings: (() => unknown)[] = [];
beforeEach(() => {
  place = scratch();
});
afterEach(async () => {
  for (const end of endings.splice(0).toReversed()) await end();
  place.remove();
}, 60_000);

/** A server whose configuration and standard error are not on the disk. */
async function start(files: { database: string; state?: string; log?: string; port?: number }): Promise<ServerProcess> {
  const directory = join(place.path, "server");
  mkdirSync(directory, { recursive: true });
  const places = [files.state && `state_dir = ${files.state}`, files.log && `log_dir = ${files.log}`].filter(Boolean).join("\n");
  const server = await startServer({
    kind: "sqlite",
    uri: `sqlite:///${files.database}`,
    more: `[network-daemon]\nmax_tries = 1000\n[general]\n${places}`,
    logLevel: "info",
    directory,
    ...(files.port !== undefined && { port: files.port }),
  });
  endings.push(() => server.stop());
  return server;
}

async function beginLoad(server: ServerProcess, uri: string): Promise<Load> {
  const load = new Load(server.url);
  endings.push(() => load.end());
  await load.register();
  const watching = await openDatabase(uri);
  await watchActions(watching, uri);
  await watching.close();
  load.start();
  await load.successesSince(performance.now(), patienceMs);
  return load;
}

const tellTale = (load: Load, what: string, longest: unknown) =>
  console.log(
    `${what}: ${JSON.stringify(load.counted())}; ms to the first success, at worst: ${JSON.stringify(longest)}; ` +
      `longest answer ${Math.round(load.longestMs)} ms, longest 503 ${Math.round(load.longest503Ms)} ms`,
  );

const linesOf = (text: string, part: string) => text.split("\n").filter((line) => line.includes(part));

test(
  "a full disk: changes are 503 with the cause, reads go on, and everything accepted is done once",
  async () => {
    const disk = memoryDisk(place.path, 24 * 1024);
    endings.push(() => disk.end());
    const files = { database: join(disk.path, "haas.db"), state: join(disk.path, "state"), log: join(disk.path, "log") };
    const uri = `sqlite:///${files.database}`;
    const server = await start(files);
    const load = await beginLoad(server, uri);
    const longest: Record<string, number> = {};
    const rounds = 3;
    for (let round = 0; round < rounds; round++) {
      disk.fill();
      await untilWithin(patienceMs)("a change is refused", async () => {
        const answer = await fetch(`${server.url}/project/x${round}`, { method: "PUT" });
        if (answer.status !== 503) return false;
        expect(answer.headers.get("retry-after")).toMatch(/^\d+$/);
        expect(await answer.json()).toEqual({ type: "UnavailableError", msg: expect.stringContaining("disk is full") });
        return true;
      });
      await Bun.sleep(outageMs);
      expect((await fetch(`${server.url}/networks`)).status).toBe(200);
      disk.free();
      const took = await load.successesSince(performance.now(), patienceMs);
      for (const [kind, ms] of Object.entries(took)) longest[kind] = Math.max(longest[kind] ?? 0, ms);
      await Bun.sleep(3_000);
    }
    await load.stop();
    tellTale(load, `${rounds} times full`, longest);
    expect(load.wrong).toEqual([]);
    expect(load.counts.get("write 503 UnavailableError")).toBeGreaterThan(0);
    expect(load.counts.get("read 503 UnavailableError")).toBeUndefined();
    await load.expectNothingLost();
    const database = await openDatabase(uri);
    endings.push(() => database.close());
    await expectDoneOnce(database, load.accepted, load.unknown);
    expect(await database.all("select label from switch where lease_owner is not null")).toEqual([]);

    const lines = `${readFileSync(join(files.log, "haas.log"), "utf8")}\n${server.log()}`;
    const gone = linesOf(lines, "the database can't be used: database or disk is full; ");
    expect(gone.length).toBe(rounds);
    // Beside those, that the state file was in the way as well; and what was cut off.
    expect(linesOf(lines, '"level":"error"').length).toBeLessThanOrEqual(3 * rounds);
    expect(linesOf(lines, "the database is back").length).toBe(rounds);
    expect(linesOf(lines, "cannot rollback")).toEqual([]);

    await server.stop();
    const again = await start(files);
    expect(linesOf(`${readFileSync(join(files.log, "haas.log"), "utf8")}\n${again.log()}`, "suspect")).toEqual([]);
  },
  testTimeoutMs,
);

test(
  "a file system that turns read-only under the server: changes are 503, reads go on, and all is there after its repair",
  async () => {
    const disk = fileDisk(place.path, 32);
    endings.push(() => disk.end());
    const files = { database: join(disk.path, "haas.db"), state: join(disk.path, "state"), log: join(disk.path, "log") };
    const uri = `sqlite:///${files.database}`;
    const server = await start(files);
    const load = await beginLoad(server, uri);
    // At rest: Linux may say that what is written at this very moment is safe.
    await load.stop();
    disk.fail();
    load.start();
    await Bun.sleep(outageMs);
    const answer = await fetch(`${server.url}/project/x`, { method: "PUT" });
    expect(answer.status).toBe(503);
    expect(answer.headers.get("retry-after")).toMatch(/^\d+$/);
    expect((await fetch(`${server.url}/networks`)).status).toBe(200);
    expect(load.wrong).toEqual([]);
    expect(load.counts.get("read 503 UnavailableError")).toBeUndefined();
    expect(linesOf(server.log(), "the database can't be used").length).toBe(1);
    const ended = load.abandon();
    await server.stop();
    await ended;
    disk.repair();

    const port = Number(new URL(server.url).port);
    const startedAt = performance.now();
    const again = await start({ ...files, port });
    tellTale(load, "read-only", { "start and answer": Math.round(performance.now() - startedAt) });
    expect(linesOf(readFileSync(join(files.log, "haas.log"), "utf8"), "suspect")).toEqual([]);
    const database = await openDatabase(uri);
    endings.push(() => database.close());
    await untilWithin(patienceMs)("what was accepted is done", async () => {
      return (await database.all("select id from networking_action where status = 'PENDING'")).length === 0;
    });
    await load.expectNothingLost();
    await expectDoneOnce(database, load.accepted, load.unknown);
    await again.stop();
  },
  testTimeoutMs,
);

test(
  "a state file that can't be written: no request notices, no port is changed, and both go on when it can",
  async () => {
    const disk = memoryDisk(place.path, 1024);
    endings.push(() => disk.end());
    const files = { database: join(place.path, "haas.db"), state: join(disk.path, "state"), log: join(disk.path, "log") };
    const uri = `sqlite:///${files.database}`;
    const server = await start(files);
    const load = await beginLoad(server, uri);
    const longest: Record<string, number> = {};
    const outages = [
      [() => disk.fill(), () => disk.free()],
      [() => disk.remount("ro"), () => disk.remount("rw")],
    ] as const;
    for (const [go, come] of outages) {
      go();
      const wentAt = performance.now();
      await Bun.sleep(outageMs);
      await load.successesSince(wentAt + outageMs / 2, patienceMs, ["read", "write"]);
      come();
      const took = await load.successesSince(performance.now(), patienceMs);
      for (const [kind, ms] of Object.entries(took)) longest[kind] = Math.max(longest[kind] ?? 0, ms);
    }
    await load.stop();
    tellTale(load, "state file away", longest);
    expect(load.wrong).toEqual([]);
    expect([...load.counts.keys()].filter((key) => key.includes("503"))).toEqual([]);
    await load.expectNothingLost();
    const database = await openDatabase(uri);
    endings.push(() => database.close());
    await expectDoneOnce(database, load.accepted, load.unknown);
    const lines = `${readFileSync(join(files.log, "haas.log"), "utf8")}\n${server.log()}`;
    expect(linesOf(lines, '"level":"error"').length).toBe(outages.length);
    expect(linesOf(lines, "the state file can be used again").length).toBe(outages.length);
  },
  testTimeoutMs,
);

test("a standard error that is a file on a full disk does not end the server", async () => {
  const disk = memoryDisk(place.path, 64);
  endings.push(() => disk.end());
  const server = await startServer({
    kind: "sqlite",
    uri: `sqlite:///${join(place.path, "haas.db")}`,
    logLevel: "debug",
    directory: disk.path,
  });
  endings.push(() => server.stop());
  disk.fill();
  for (let i = 0; i < 50; i++) expect((await fetch(`${server.url}/networks`)).status).toBe(200);
  disk.free();
  expect((await fetch(`${server.url}/networks`)).status).toBe(200);
});

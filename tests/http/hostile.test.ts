import { afterAll, beforeAll, expect, test } from "bun:test";
import { Field, type Outcome, type Server } from "../../bench/hostile/field.ts";
import type { Scenario, Swarm } from "../../bench/hostile/scenarios.ts";
import { haasBinary } from "../support/binary.ts";

// The compiled server among hostile clients, small: each test is several attacks at the same time, and a good client that
// must not notice more of them than a delay. `bun run bench:hostile` tries the same attacks one by one, at full size, and
// measures.

const attackSeconds = 2;
/** Passwords that are verified take 64 MiB each, all bodies and buffers together 64 MiB, and the rest is garbage, which is collected late. */
const memoryBoundMiB = 400;
const logBoundBytes = 512 * 1024;
/** Few enough that a small attack is larger than what the server has room for. */
const fewFiles = { soft: 1_024, hard: 1_024 };

let field: Field;
beforeAll(async () => {
  field = await Field.make(await haasBinary());
});
afterAll(() => field.leave());

const swarm = (behaviour: Swarm["behaviour"], connections: number, addresses = 16): Swarm => ({ behaviour, connections, addresses });

const attack = (swarms: readonly Swarm[], more: Partial<Scenario> = {}, meanwhile?: (server: Server) => Promise<void>): Promise<Outcome> =>
  field.run({ name: "test", what: "test", swarms, files: fewFiles, ...more }, attackSeconds, meanwhile);

/** What everybody is promised, whatever strangers do. */
function expectUnharmed(outcome: Outcome): void {
  expectServed(outcome);
  expect(outcome.logBytes).toBeLessThan(logBoundBytes);
}

/** The log says what those who are signed in do, however much that is. */
function expectServed({ answers, newcomers, recoveryMs, beforeMiB, peakMiB, tally, stopped }: Outcome): void {
  expect(stopped).toBeNull();
  // The attack did take place.
  expect(tally.opened).toBeGreaterThan(0);
  const failures = [...answers, ...newcomers].filter(({ result }) => result !== 200).map(({ lane, result }) => `${lane}: ${result}`);
  expect([...new Set(failures)]).toEqual([]);
  expect(new Set(answers.map(({ lane }) => lane)).size).toBe(4);
  expect(recoveryMs).not.toBeNull();
  expect(peakMiB - beforeMiB).toBeLessThan(memoryBoundMiB);
}

test("connections that are held keep nobody out", async () => {
  expectUnharmed(
    await attack([
      swarm("silent", 400),
      swarm("half-head", 400),
      swarm("trickle", 300),
      swarm("unfinished-body", 400),
      swarm("reopen", 400),
      swarm("idle", 300),
      swarm("websocket-stranger", 200),
    ]),
  );
});

test("large bodies of strangers and of a tenant take little memory", async () => {
  expectUnharmed(
    await attack([
      swarm("bodies", 100),
      swarm("bodies-chunked", 100),
      swarm("bodies-wrong-password", 100),
      swarm("bodies-forbidden", 100),
      swarm("bodies-tenant", 200),
      swarm("crumbs", 200),
    ]),
  );
});

test("clients that close, half-close or reset before they are answered leave nothing behind", async () => {
  const outcome = await attack([
    swarm("close", 128),
    swarm("half-close", 600),
    swarm("reset", 128),
    swarm("abort", 64),
    swarm("abort-post", 64),
    swarm("abort-tenant", 32),
  ]);
  expectUnharmed(outcome);
  expect(outcome.filesAfter - outcome.filesBefore).toBeLessThan(32);
});

test("clients that never read are cut, and what waits for them is bounded", async () => {
  expectUnharmed(
    await attack([
      swarm("slow-reader", 200),
      swarm("slow-reader-window", 100),
      swarm("slow-reader-pipeline", 20),
      swarm("slow-reader-tenant", 20),
      swarm("pipeline-flood", 8),
    ]),
  );
});

test("while strangers guess, people log in for the first time, the owner of the account included", async () => {
  const outcome = await attack([swarm("guess-names", 100, 1), swarm("guess-names", 100, 100), swarm("guess-account", 100, 50)], {
    newcomers: true,
  });
  expectUnharmed(outcome);
  expect(outcome.newcomers.length).toBeGreaterThan(0);
});

test("endless heads, heads of thousands of headers and long paths cost neither memory nor a full disk", async () => {
  const outcome = await attack([
    swarm("endless-head", 16),
    swarm("header-bomb", 16),
    swarm("headers-within-limits", 8),
    swarm("long-path", 8),
  ]);
  expectUnharmed(outcome);
  const answered = Object.entries(outcome.tally).filter(([word]) => word.startsWith("status"));
  expect(answered.reduce((sum, [, count]) => sum + count, 0)).toBeGreaterThan(100);
});

test("with 1,024 files at most, held connections don't make the server work", async () => {
  let busySeconds = Number.NaN;
  const outcome = await attack([swarm("half-head", 2_000)], {}, async (server) => {
    const before = server.cpuSeconds();
    await Bun.sleep(1_000);
    busySeconds = server.cpuSeconds() - before;
  });
  expectUnharmed(outcome);
  // One that spins takes all of it.
  expect(busySeconds).toBeLessThan(0.7);
});

test("a soft limit of 1,024 files is raised to the hard one", async () => {
  const limits = await field.serve({ files: { soft: 1_024, hard: 4_096 } }, async (server) => server.limits());
  expect(limits).toMatch(/^Max open files +4096 +4096 /m);
});

test("one tenant does not keep the others from working", async () => {
  expectServed(
    await attack([swarm("json-tenant", 4, 1), swarm("tenant-flood", 4, 1), swarm("fresh-ports", 100, 1), swarm("tenant-hold", 1_500)]),
  );
});

test("all addresses of one IPv6 network have one share", async () => {
  expectUnharmed(await attack([swarm("reopen", 1_500, 1_500)], { ipv6: true }));
});

test("TLS handshakes that are held or not wanted keep nobody out", async () => {
  expectUnharmed(await attack([swarm("tls-silent", 700), swarm("tls-half-hello", 700), swarm("tls-handshakes", 8)], { tls: true }));
});

test("a client that closes its side before its request is complete is gone before one that says nothing", async () => {
  const order: string[] = [];
  await field.serve({ files: fewFiles }, async ({ port }) => {
    const open = async (name: string, bytes: string) => {
      const { promise: ended, resolve } = Promise.withResolvers<void>();
      const socket = await Bun.connect({
        hostname: "127.0.0.1",
        port,
        allowHalfOpen: true,
        socket: {
          data: () => {},
          end: (socket) => void socket.end(),
          close: () => {
            order.push(name);
            resolve();
          },
        },
      });
      socket.write(bytes);
      return { socket, ended };
    };
    const silent = await open("silent", "");
    const closing = await Promise.all(
      [
        "",
        "GET / HTTP/1.1\r\nHost: haas\r\n",
        "POST /project/p/connect_node HTTP/1.1\r\nHost: haas\r\nContent-Length: 60\r\n\r\n{",
        "POST /project/p/connect_node HTTP/1.1\r\nHost: haas\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
      ].map((bytes, n) => open(`closing ${n}`, bytes)),
    );
    for (const { socket } of closing) socket.shutdown();
    await Promise.all(closing.map(({ ended }) => ended));
    expect(order).not.toContain("silent");
    silent.socket.terminate();
  });
});

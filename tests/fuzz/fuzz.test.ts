import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { seed, whole } from "../support/random.ts";
import { Campaign, type Failure, type Summary, type Target } from "./campaign.ts";
import { corpus, expected } from "./corpus.ts";

// Requests that nobody sends, made from the OpenAPI document; and all those that ever broke something. Whatever comes,
// the answer is the contract's, no refused call changes anything, and the server goes on as if nothing had been.

const setUpTimeoutMs = 120_000;

const campaigns: readonly (readonly [Target, requests: number])[] = whole
  ? [
      [{ kind: "sqlite", auth: "database" }, 800_000],
      [{ kind: "postgres", auth: "database" }, 100_000],
      [{ kind: "sqlite", auth: "null" }, 100_000],
    ]
  : [
      [{ kind: "sqlite", auth: "database" }, 12_000],
      [{ kind: "sqlite", auth: "null" }, 3_000],
    ];
/** Of all requests; see Campaign.run. */
const watched = whole ? 0.05 : 0.25;
/** Far below the slowest machine. */
const leastPerSecond = 30;
/** By so much may the server's memory grow in the second half of a long run: caches and the heap have their size by then. */
const memoryLimitMiB = 20;

const asText = (failures: readonly Failure[]): string[] =>
  failures.map(
    ({ what, count, number, sent, answered }) =>
      `${what} (${count} times; seed ${seed}, request ${number})\n  sent ${sent}\n  answered ${answered}`,
  );

describe("every input that ever failed", () => {
  let campaign: Campaign;
  beforeAll(async () => {
    campaign = await Campaign.start({ kind: "sqlite", auth: "database" }, seed);
  }, setUpTimeoutMs);
  afterAll(() => campaign.stop(), setUpTimeoutMs);

  test.each(corpus.map((kept) => [kept.name, kept] as const))("%s", async (_, kept) => {
    expect(asText(await campaign.play(kept.steps, expected(kept)))).toEqual([]);
  });
});

describe.each(campaigns)("%j is sent %d requests", (target, requests) => {
  let campaign: Campaign;
  beforeAll(async () => {
    campaign = await Campaign.start(target, seed);
  }, setUpTimeoutMs);
  afterAll(() => campaign.stop(), setUpTimeoutMs);

  test(
    "every answer is the contract's, and nothing is changed by a call that is refused",
    async () => {
      const summary = await campaign.run(requests, watched, whole ? (line) => console.log(line) : undefined, (failure) =>
        console.log(asText([failure])[0]!),
      );
      console.log(told(summary));
      expect(asText(summary.failures)).toEqual([]);
      expect(summary.goodClient.refused).toBe(0);
      if (whole) expect(summary.memory.end - summary.memory.half).toBeLessThan(memoryLimitMiB);
    },
    setUpTimeoutMs + (requests / leastPerSecond) * 1_000,
  );
});

const told = ({ requests, perSecond, statuses, memory, goodClient, processor, unreached }: Summary): string =>
  [
    `${requests} requests with seed ${seed}, ${perSecond} a second; by status: ${Object.entries(statuses)
      .map(([status, count]) => `${status} ${count}`)
      .join(", ")}`,
    `the server's memory: ${memory.warm} MiB after the first tenth, ${memory.half} MiB after half, ${memory.end} MiB at the end, ${memory.most} MiB at most; its processor ${processor.server.toFixed(2)} ms a request`,
    `a good client meanwhile: ${goodClient.answers} answers, p50 ${goodClient.p50} ms, p99 ${goodClient.p99} ms, longest ${goodClient.longest} ms`,
    `calls that never succeeded: ${unreached.join(", ") || "none"}`,
  ].join("\n");

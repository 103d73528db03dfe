import { join } from "node:path";
import { administrator } from "../../src/auth/caller.ts";
import { openDatabase } from "../../src/db/open.ts";
import { createUser } from "../../src/inventory/users.ts";
import { pick, randomFrom } from "../support/random.ts";
import { isRunning } from "../support/processes.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { type DatabaseKind, freshUri, scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";
import { type Address, Lane, type Outcome, play, type Step } from "./connections.ts";
import { breach, SecretSearch } from "./contract.ts";
import type { GoodClient } from "./good-client.ts";
import { piecesOf, processorMs, residentMiB, settledMiB, startGoodClient } from "./observation.ts";
import { type RawCase, someRawCase } from "./raw.ts";
import type { Reply } from "./replies.ts";
import { someDraft } from "./mutations.ts";
import { bytesOf, type Draft, isSafe, nameOf, type Operation, operationsOf, type Source } from "./requests.ts";
import { chance } from "./values.ts";
import { basic, credentialsOf, difference, furnishing, openWitness, passwords, rawUser, userCalls, type Witness } from "./world.ts";

// Many requests to one haas, and what is wrong with what came of them.

export interface Target {
  readonly kind: DatabaseKind;
  readonly auth: "null" | "database";
}

export interface Failure {
  /** What is wrong; the same for the same fault, so that each is told once. */
  readonly what: string;
  /** Of the first request of that kind: its number, and what was sent and answered. */
  readonly number: number;
  readonly sent: string;
  readonly answered: string;
  count: number;
}

export interface Summary {
  readonly requests: number;
  readonly perSecond: number;
  readonly statuses: Record<string, number>;
  readonly failures: Failure[];
  /** Of the server, in MiB: after a tenth of the requests, half of them, and all, with a pause before each look; and the most there was. */
  readonly memory: { warm: number; half: number; end: number; most: number };
  readonly goodClient: GoodClient;
  /** Calls of the API that never succeeded. */
  readonly unreached: readonly string[];
  /** Milliseconds of a processor for each request: the server's, and this process's. */
  readonly processor: { server: number; fuzz: number };
}

const lanes = 24;
const rawAtOnce = 24;
const roundSize = 3_000;
/** Of a round: requests of strangers, of which all together must change nothing; and what goes over connections of its own. */
const strangersShare = 0.1;
const rawShare = 0.06;
/** Of all requests, those that have something wrong. */
const hostility = 0.55;
const guessPauseMs = 4_000;
const dripMs = 300;
const failureLimit = 60;

export class Campaign {
  readonly #lanes: Lane[];
  readonly #learnt: string[] = [];
  readonly #failures = new Map<string, Failure>();
  readonly #statuses = new Map<string, number>();
  readonly #secrets = new SecretSearch((secrets, around) => this.#fail(`secrets in answers: ${secrets.join()}`, "", around));
  #operations: Operation[] = [];
  readonly #succeeded = new Set<string>();
  #number = 0;
  #failed: (failure: Failure) => void = () => {};

  private constructor(
    readonly target: Target,
    readonly seed: number,
    readonly server: ServerProcess,
    readonly witness: Witness,
    readonly address: Address,
    readonly directory: string,
    readonly remove: () => void,
  ) {
    this.#lanes = Array.from({ length: lanes }, (_, i) => new Lane(address, `127.0.0.${1 + (i % 4)}`));
  }

  /** A haas on a database of its own. */
  static async start(target: Target, seed: number): Promise<Campaign> {
    const { path, remove } = scratch();
    const uri = await freshUri(target.kind, path);
    if (target.auth === "database") {
      const db = await openDatabase(uri);
      await createUser(db, administrator, "keeper", passwords.keeper, true);
      await db.destroy();
    }
    const server = await startServer({ ...target, uri, directory: path, logLevel: "info" });
    const { hostname, port } = new URL(server.url);
    const campaign = new Campaign(target, seed, server, await openWitness(uri), { host: hostname, port: Number(port) }, path, remove);
    const document = await campaign.#call("GET", "/swagger/json");
    campaign.#operations = operationsOf(JSON.parse(document.body.toString()));
    await campaign.#furnish();
    return campaign;
  }

  #source(number: number): Source {
    const { seed, target, address } = this;
    return {
      random: randomFrom(Math.imul(seed, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b)),
      operations: this.#operations,
      learnt: this.#learnt,
      auth: target.auth,
      credentials: target.auth === "database",
      host: `${address.host}:${address.port}`,
    };
  }

  /** `watched`: the share of requests that are sent one by one, with a look at the database before and after. */
  async run(
    requests: number,
    watched: number,
    progress: (line: string) => void = () => {},
    failed: (failure: Failure) => void = () => {},
  ): Promise<Summary> {
    this.#failed = failed;
    const before = performance.now();
    const processorBefore = { server: processorMs(this.server.pid), fuzz: processorMs(process.pid) };
    let pauses = 0;
    const good = startGoodClient(this.server.url, this.target.auth === "database" ? credentialsOf("good") : null);
    const beside = [this.#beside((time, signal) => this.#guess(time, signal)), this.#beside((time, signal) => this.#drip(time, signal))];
    // A garbage collector needs its time, and only many requests tell something.
    const pauseMs = requests < 50_000 ? 1_000 : 30_000;
    let [warm, half, most] = [0, 0, 0];
    for (let done = 0; done < requests;) {
      const size = Math.min(roundSize, requests - done);
      await this.#round(done, size, watched);
      done += size;
      most = Math.max(most, residentMiB(this.server.pid));
      if ((warm === 0 && done >= requests / 10) || (half === 0 && done >= requests / 2)) {
        const from = performance.now();
        const settled = await settledMiB(this.server.pid, pauseMs);
        if (warm === 0) warm = settled;
        if (done >= requests / 2) half = settled;
        pauses += performance.now() - from;
      }
      if (!isRunning(this.server.pid)) {
        this.#fail("the server's process has ended", "", this.server.log().slice(-2_000));
        break;
      }
      progress(
        `${done} requests, ${Math.round((1_000 * done) / (performance.now() - before - pauses))} per second, ${residentMiB(this.server.pid)} MiB, ${this.#failures.size} kinds of failures`,
      );
    }
    const seconds = (performance.now() - before - pauses) / 1_000;
    await Promise.all(beside.map((one) => one.stop()));
    const goodClient = await good.stop();
    const end = await settledMiB(this.server.pid, pauseMs);
    this.#secrets.flush();
    this.#readLog();
    return {
      requests,
      perSecond: Math.round(requests / seconds),
      statuses: Object.fromEntries([...this.#statuses].toSorted(([a], [b]) => a.localeCompare(b))),
      failures: [...this.#failures.values()],
      memory: { warm, half, end, most },
      goodClient,
      unreached: this.#operations.map(nameOf).filter((name) => !this.#succeeded.has(name)),
      processor: {
        server: (processorMs(this.server.pid) - processorBefore.server) / requests,
        fuzz: (processorMs(process.pid) - processorBefore.fuzz) / requests,
      },
    };
  }

  /** Do something on one connection; what is wrong with what came of it. */
  async play(steps: readonly Step[], expects: (replies: readonly Reply[]) => string | null): Promise<Failure[]> {
    this.#failures.clear();
    await this.#raw(0, { steps: [...steps], expects });
    this.#secrets.flush();
    return [...this.#failures.values()];
  }

  async stop(): Promise<void> {
    for (const lane of this.#lanes) lane.close();
    await this.witness.close();
    await this.server.stop();
    this.remove();
  }

  async #round(from: number, size: number, watchedShare: number): Promise<void> {
    await this.#furnish();
    const watched = Math.ceil(size * watchedShare);
    const strangers = Math.ceil(size * strangersShare);
    for (let i = 0; i < watched; i++) await this.#watched(from + i);
    await this.#unchangedBy("requests of strangers", () => this.#atOnce(from + watched, strangers, true));
    await this.#atOnce(from + watched + strangers, size - watched - strangers, false);
  }

  /** On all lanes at once, with raw connections beside them. */
  async #atOnce(from: number, count: number, strangers: boolean): Promise<void> {
    let next = from;
    const raw = Math.round(count * rawShare);
    const framedEnd = from + count - raw;
    const framed = this.#lanes.map(async (lane) => {
      while (next < framedEnd) {
        const number = next++;
        await this.#framed(number, lane, strangers);
      }
    });
    let nextRaw = framedEnd;
    const raws = Array.from({ length: rawAtOnce }, async () => {
      while (nextRaw < from + count) {
        const number = nextRaw++;
        const source = this.#source(number);
        await this.#raw(number, someRawCase(strangers ? { ...source, credentials: false } : source));
      }
    });
    await Promise.all([...framed, ...raws]);
  }

  #draft(number: number, strangers: boolean): { draft: Draft; bytes: Buffer } {
    const source = this.#source(number);
    const draft = someDraft(source, hostility, strangers ? "anonymous" : undefined);
    return { draft, bytes: bytesOf(draft, source.random) };
  }

  async #framed(number: number, lane: Lane, strangers: boolean): Promise<void> {
    const { draft, bytes } = this.#draft(number, strangers);
    this.#judge(number, draft, [bytes], await lane.exchange(bytes, [draft.method.toUpperCase()]));
  }

  /** Look at the database before and after; when it was written to by a call that was refused, again and in full. */
  async #watched(number: number): Promise<void> {
    const { draft, bytes } = this.#draft(number, false);
    const method = draft.method.toUpperCase();
    const lane = this.#lanes[0]!;
    const before = await this.witness.version();
    const outcome = await lane.exchange(bytes, [method]);
    this.#judge(number, draft, [bytes], outcome);
    const [reply] = outcome.replies;
    if (!reply) return;
    const mayChange = reply.status < 300 && !isSafe(method);
    if (mayChange) return this.#quiet();
    if ((await this.witness.version()) === before) return;
    await this.#quiet();
    const dump = await this.witness.dump();
    const again = (await lane.exchange(bytes, [method])).replies[0];
    if (!again || (again.status < 300 && !isSafe(method))) return;
    const after = await this.witness.dump();
    const changed = difference(dump, after);
    if (changed !== "") this.#fail(`a call was answered ${again.status} and changed the database`, shown([bytes]), changed);
  }

  async #unchangedBy(what: string, act: () => Promise<void>): Promise<void> {
    if (this.target.auth === "null") return act();
    await this.#quiet();
    const before = await this.witness.dump();
    await act();
    const changed = difference(before, await this.witness.dump());
    if (changed !== "") this.#fail(`${what} changed the database`, "", changed);
  }

  /** Wait until everything that was accepted is done. */
  async #quiet(): Promise<void> {
    await untilWithin(60_000, () => "", 5)("networking actions end", async () => (await this.witness.pending()) === 0);
  }

  async #raw(number: number, { steps, expects }: RawCase, signal?: AbortSignal): Promise<void> {
    const outcome = await play(this.address, steps, `127.0.1.${1 + (Math.abs(number) % 8)}`, signal);
    if (outcome === null) return;
    this.#judge(number, null, steps, outcome);
    if (outcome.fault !== null) return;
    const wrong = expects?.(outcome.replies);
    if (wrong) this.#fail(wrong.replaceAll(/\d+/g, "…"), shown(steps), `${wrong}\n${outcome.replies.map(shownReply).join("\n")}`, number);
  }

  #judge(number: number, draft: Draft | null, steps: readonly Step[], { replies, fault }: Outcome): void {
    this.#number = number;
    if (fault !== null) {
      this.#count("fault");
      this.#fail(fault.replaceAll(/\d+/g, "…").slice(0, 80), shown(steps), fault, number);
    }
    for (const reply of replies) {
      this.#count(String(reply.status));
      this.#secrets.add([...reply.headers.values(), reply.body.toString("latin1")].join("\n"));
      const why = breach(reply, draft?.method.toUpperCase() ?? "", draft?.target ?? "");
      if (why !== null)
        this.#fail(
          draft && reply.status >= 500 ? `${why} (${draft.method.toUpperCase()} ${draft.target.split(/[/?]/)[1]?.slice(0, 20)})` : why,
          shown(steps),
          shownReply(reply),
          number,
        );
      if (reply.status < 300 && draft) this.#succeeded.add(nameOf(draft.operation));
      if (reply.status === 202) this.#learn(reply.body.toString());
    }
  }

  #learn(body: string): void {
    const id = /"status_id":"([^"]+)"/.exec(body)?.[1];
    if (id === undefined) return;
    this.#learnt.push(id);
    if (this.#learnt.length > 50) this.#learnt.shift();
  }

  #count(status: string): void {
    this.#statuses.set(status, (this.#statuses.get(status) ?? 0) + 1);
  }

  #fail(what: string, sent: string, answered: string, number = this.#number): void {
    const known = this.#failures.get(what);
    if (known) known.count++;
    else if (this.#failures.size < failureLimit) {
      const failure = { what, number, sent, answered, count: 1 };
      this.#failures.set(what, failure);
      this.#failed(failure);
    }
  }

  async #call(method: string, target: string, body?: unknown) {
    const text = body === undefined ? null : JSON.stringify(body);
    const head = `${method} ${target} HTTP/1.1\r\nHost: ${this.address.host}\r\n${this.target.auth === "database" ? `Authorization: ${credentialsOf("keeper")}\r\n` : ""}`;
    const bytes = Buffer.from(text === null ? `${head}\r\n` : `${head}Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
    const { replies, fault } = await this.#lanes[0]!.exchange(bytes, [method]);
    if (fault !== null || !replies[0]) throw new Error(`${method} ${target}: ${fault}`);
    if (replies[0].status >= 500) this.#fail(`status ${replies[0].status} (${method} ${target})`, shown([bytes]), shownReply(replies[0]));
    return replies[0];
  }

  async #furnish(): Promise<void> {
    const { random } = this.#source(-this.#number - 2);
    if (this.target.auth === "database") {
      const users = JSON.parse((await this.#call("GET", "/auth/basic/users")).body.toString()) as object;
      for (const [method, target, body] of userCalls(new Set(Object.keys(users)))) await this.#call(method, target, body);
    }
    for (const [method, target, body] of furnishing(random, this.target.auth)) await this.#call(method, target, body);
  }

  /** Again and again beside everything else, as it takes long. */
  #beside(act: (time: number, signal: AbortSignal) => Promise<void>): { stop(): Promise<void> } {
    const ending = new AbortController();
    const run = async () => {
      for (let time = 1; !ending.signal.aborted; time++) await act(time, ending.signal);
    };
    const running = run();
    return {
      async stop() {
        ending.abort();
        await running;
      },
    };
  }

  /** Wrong passwords, few: verifying one takes a tenth of a second. */
  async #guess(time: number, signal: AbortSignal): Promise<void> {
    if (this.target.auth === "database") {
      const { random } = this.#source(-time);
      const name = pick(random, ["dave", "nobody", "n\u00fc", "x".repeat(300), "a b"]);
      const password = `guess-${time}-${chance(random, 0.5) ? "\ud83e\udd8a" : "x".repeat(4_000)}`;
      const head = `PUT /project/guessed HTTP/1.1\r\nHost: ${this.address.host}\r\nAuthorization: ${basic(name, password)}\r\n\r\n`;
      await this.#raw(
        -time,
        {
          steps: [Buffer.from(head), "end"],
          expects: (replies) => (replies.length === 1 ? null : "no answer to a wrong password"),
        },
        signal,
      );
    }
    await Bun.sleep(guessPauseMs);
  }

  /** A request that never gets complete, a byte at a time: once its head, once its body. */
  async #drip(time: number, signal: AbortSignal): Promise<void> {
    const credentials = this.target.auth === "database" ? `Authorization: ${basic(rawUser.name, rawUser.password)}\r\n` : "";
    const head = Buffer.from(`PUT /node/n1/obm HTTP/1.1\r\nHost: ${this.address.host}\r\n${credentials}Content-Length: 10000\r\n\r\n`);
    const [atOnce, slowly] =
      time % 2 === 0
        ? [head, Buffer.alloc(1_000, " ")]
        : [head.subarray(0, 10), Buffer.from(`${head.toString("latin1", 10, 40)}${"x".repeat(1_000)}`)];
    await this.#raw(
      -time,
      {
        steps: [atOnce, ...[...slowly].flatMap((byte) => [Buffer.of(byte), dripMs])],
        expects: (replies) => (replies[0]?.status === 408 ? null : "no 408 to a request that never gets complete"),
      },
      signal,
    );
  }

  /** What the log must not hold. */
  #readLog(): void {
    const search = new SecretSearch((secrets, around) => this.#fail(`secrets in the log: ${secrets.join()}`, "", around));
    for (const text of piecesOf(join(this.directory, "stderr"))) {
      search.add(text);
      for (const line of text.split("\n")) {
        if (!line.includes("fault of haas") && !line.includes('"critical"')) continue;
        const error = /"error":"((?:[^"\\]|\\.){0,80})/.exec(line)?.[1] ?? "";
        this.#fail(`in the log: a fault of haas: ${error.replaceAll(/\d+/g, "…")}`, "", line.slice(0, 1_500));
      }
    }
    search.flush();
  }
}

const shownLimit = 1_500;

/** Bytes and what else was done on a connection, as a person reads them and a corpus takes them. */
function shown(steps: readonly Step[]): string {
  return steps
    .filter((step) => step !== 0)
    .map((step) =>
      Buffer.isBuffer(step)
        ? JSON.stringify(step.toString("latin1", 0, shownLimit)) +
          (step.length > shownLimit ? ` and ${step.length - shownLimit} bytes more` : "")
        : JSON.stringify(step),
    )
    .join(", ")
    .slice(0, 2 * shownLimit);
}

const shownReply = ({ status, headers, body }: Reply): string =>
  `${status} ${JSON.stringify(Object.fromEntries(headers))} ${JSON.stringify(body.toString("utf8", 0, 500))}`;

import { expect } from "bun:test";
import { type Emulator } from "../sim/emulator.ts";
import { portNames, registration, startEmulator, type Vendor } from "./emulators.ts";
import { mockObm, mockSwitch } from "./service.ts";

// Clients that read, write and change ports all the time, and what became of every request; for databases that come and go.

const vendors = ["delln3000", "dellnos9"] as const satisfies Vendor[];
const portsPerSwitch = 2;
const callTimeoutMs = 60_000;
const readers = 4;
const writers = 2;
const pauseMs = 15;
const askEveryMs = 40;

/** `done`: the change of a port was seen to be done. */
export const kinds = ["read", "write", "connect", "done"] as const;
type Kind = (typeof kinds)[number];

interface Answer {
  status: number;
  body: any;
}

export class Load {
  /** Answers by kind of request, status and type of error. */
  readonly counts = new Map<string, number>();
  readonly accepted: string[] = [];
  /** Requests after which nobody knows what came of them. */
  unknown = 0;
  /** What is wrong with an answer, whatever the database does. */
  readonly wrong: string[] = [];
  longestMs = 0;
  longest503Ms = 0;
  readonly #made = new Set<string>();
  readonly #refused = new Set<string>();
  readonly #lastAt: Record<Kind, number> = { read: 0, write: 0, connect: 0, done: 0 };
  #over = false;
  #abandoned = false;
  #writes = 0;
  #running: Promise<void>[] = [];
  #emulators: Emulator[] = [];
  #nodes: string[] = [];

  constructor(private readonly url: string) {}

  async register(): Promise<void> {
    const ok = async (method: string, path: string, body?: unknown) => {
      const answer = await this.#send("set up", method, path, body);
      if (!answer || answer.status >= 300) throw new Error(`${method} ${path}: ${JSON.stringify(answer)}`);
    };
    await ok("PUT", "/project/p");
    await ok("PUT", "/network/net", { owner: "p", access: "p", net_id: "" });
    const switches = [{ label: "mock", body: mockSwitch as Record<string, unknown>, port: (n: number) => `p${n}` }];
    for (const vendor of vendors) {
      const emulator = await startEmulator(vendor);
      this.#emulators.push(emulator);
      switches.push({ label: vendor, body: registration(vendor, emulator), port: portNames[vendor] });
    }
    for (const { label, body, port } of switches) {
      await ok("PUT", `/switch/${label}`, body);
      for (let n = 1; n <= portsPerSwitch; n++) {
        const node = `${label}-${n}`;
        const at = `/switch/${label}/port/${encodeURIComponent(port(n))}`;
        await ok("PUT", at);
        await ok("PUT", `/node/${node}`, { obm: mockObm });
        await ok("PUT", `/node/${node}/nic/nic`, { macaddr: "x" });
        await ok("POST", `${at}/connect_nic`, { node, nic: "nic" });
        await ok("POST", "/project/p/connect_node", { node });
        this.#nodes.push(node);
      }
    }
  }

  start(): void {
    this.#over = false;
    const reading = Array.from({ length: readers }, () => this.#until(() => this.#read()));
    const writing = Array.from({ length: writers }, () => this.#until(() => this.#write()));
    this.#running = [...reading, ...writing, ...this.#nodes.map((node) => this.#connectAndDetach(node))];
  }

  /** Resolves when there was a success of each of these since, at the latest after `patienceMs`; how long each one took, in ms. */
  async successesSince(at: number, patienceMs: number, wanted: readonly Kind[] = kinds): Promise<Partial<Record<Kind, number>>> {
    const missing = () => wanted.filter((kind) => this.#lastAt[kind] < at);
    const took: Partial<Record<Kind, number>> = {};
    for (const until = at + patienceMs; performance.now() < until; await Bun.sleep(2)) {
      for (const kind of wanted) if (took[kind] === undefined && this.#lastAt[kind] >= at) took[kind] = Math.round(this.#lastAt[kind] - at);
      if (missing().length === 0) return took;
    }
    throw new Error(`no success within ${patienceMs} ms of: ${missing().join(", ")}`);
  }

  /** Stop asking, once what was accepted has been seen to end. */
  async stop(): Promise<void> {
    this.#over = true;
    await Promise.all(this.#running);
  }

  /** Stop asking, whatever is under way. */
  async abandon(): Promise<void> {
    this.#abandoned = true;
    await this.stop();
  }

  async end(): Promise<void> {
    await this.abandon();
    for (const emulator of this.#emulators) await emulator.stop();
  }

  /** What was answered with 200 is there, and what was refused is not. */
  async expectNothingLost(): Promise<void> {
    const answer = await this.#send("read", "GET", "/projects");
    const there = new Set(answer!.body as string[]);
    expect([...this.#made].filter((project) => !there.has(project))).toEqual([]);
    expect([...this.#refused].filter((project) => there.has(project))).toEqual([]);
  }

  counted(): Record<string, number> {
    return Object.fromEntries([...this.counts].toSorted(([a], [b]) => (a < b ? -1 : 1)));
  }

  async #until(work: () => Promise<unknown>): Promise<void> {
    while (!this.#over) {
      await work();
      await Bun.sleep(pauseMs);
    }
  }

  async #read(): Promise<void> {
    await this.#send("read", "GET", ["/networks", "/nodes/free", "/project/p/nodes"][Math.floor(Math.random() * 3)]!);
  }

  async #write(): Promise<void> {
    const project = `w${++this.#writes}`;
    const answer = await this.#send("write", "PUT", `/project/${project}`);
    if (answer?.status === 200) this.#made.add(project);
    else if (answer && !isUnknown(answer)) this.#refused.add(project);
  }

  async #connectAndDetach(node: string): Promise<void> {
    let connected = false;
    while (!this.#over) {
      await Bun.sleep(pauseMs);
      const path = `/node/${node}/nic/nic/${connected ? "detach" : "connect"}_network`;
      const body = connected ? { network: "net" } : { network: "net", channel: "vlan/native" };
      const answer = await this.#send("connect", "POST", path, body);
      // One whose answer was lost was accepted.
      if (answer?.status === 409) connected = await this.#isConnected(node, connected);
      if (answer?.status !== 202) continue;
      const id = answer.body.status_id as string;
      this.accepted.push(id);
      while (!this.#abandoned) {
        const action = await this.#send("ask", "GET", `/networking_action/${id}`);
        if (action?.body?.status === "DONE") break;
        if (action?.status === 200 && action.body.status !== "PENDING") return void this.wrong.push(JSON.stringify(action.body));
        await Bun.sleep(askEveryMs);
      }
      if (this.#abandoned) return;
      this.#lastAt.done = performance.now();
      connected = !connected;
    }
  }

  async #isConnected(node: string, before: boolean): Promise<boolean> {
    const shown = await this.#send("ask", "GET", `/node/${node}`);
    return shown?.status === 200 ? Object.keys(shown.body.nics[0].networks).length > 0 : before;
  }

  async #send(kind: string, method: string, path: string, body?: unknown): Promise<Answer | null> {
    const began = performance.now();
    let answer: Answer;
    let retryAfter: string | null;
    try {
      const response = await fetch(this.url + path, {
        method,
        keepalive: false,
        signal: AbortSignal.timeout(callTimeoutMs),
        ...(body !== undefined && { body: JSON.stringify(body) }),
      });
      const text = await response.text();
      answer = { status: response.status, body: text === "" ? null : JSON.parse(text) };
      retryAfter = response.headers.get("retry-after");
    } catch (error) {
      if (!this.#abandoned) this.wrong.push(`${method} ${path}: ${String(error)}`);
      this.unknown++;
      return null;
    }
    const tookMs = performance.now() - began;
    this.longestMs = Math.max(this.longestMs, tookMs);
    const { status } = answer;
    if (status === 503) this.longest503Ms = Math.max(this.longest503Ms, tookMs);
    const key = `${kind} ${status}${status < 400 ? "" : ` ${answer.body.type}`}${isUnknown(answer) ? " unknown" : ""}`;
    this.counts.set(key, (this.counts.get(key) ?? 0) + 1);
    if (isUnknown(answer)) this.unknown++;
    const isUnavailable = status === 503 && answer.body.type === "UnavailableError" && Number(retryAfter) > 0;
    if (![200, 202, 409].includes(status) && !isUnavailable) this.wrong.push(`${method} ${path}: ${status} ${JSON.stringify(answer.body)}`);
    if (status < 300 && kind in this.#lastAt) this.#lastAt[kind as Kind] = performance.now();
    return answer;
  }
}

/** Something may have been committed. */
const isUnknown = ({ status, body }: Answer) => status === 503 && String(body?.msg).includes("unknown");

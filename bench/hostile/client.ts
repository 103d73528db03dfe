import type { Socket } from "bun";

// The good client: signed in, it asks for the free nodes and writes now and then, on a few lanes at the same time: on a
// connection that it keeps and on new ones, from several addresses. Each answer is a line of JSON on standard output.

export interface Errands {
  host: string;
  port: number;
  tls: boolean;
  from: readonly string[];
  /** Of HTTP basic; with right to write. */
  name: string;
  password: string;
  /** Who logs in for the first time, one after the other; from an address that nobody else uses. */
  newcomers: readonly { name: string; password: string }[];
  newcomersFrom: string;
}

export interface Answer {
  lane: string;
  /** When it was asked, in ms since the epoch. */
  at: number;
  ms: number;
  /** 200, another status, or why there was no answer. */
  result: number | string;
}

const pauseMs = 25;
const newcomerPauseMs = 1_000;
const timeoutMs = 10_000;
/** One in so many is a write. */
const writeEvery = 20;

const errands = JSON.parse(process.argv[2]!) as Errands;

interface Waiting {
  text: string;
  missing: number | null;
  done(result: number | string): void;
}

/** One connection, with one request in flight. */
class Line {
  #socket: Socket<Line> | null = null;
  #waiting: Waiting | null = null;

  constructor(readonly from: string) {}

  /** Ask; a kept connection that the server had closed in the meantime is replaced, as every client does. */
  async ask(request: string): Promise<number | string> {
    const kept = this.#socket !== null;
    const result = await this.#ask(request);
    return kept && result === "closed before an answer" ? this.#ask(request) : result;
  }

  async #ask(request: string): Promise<number | string> {
    const { promise, resolve } = Promise.withResolvers<number | string>();
    let timer: Timer | undefined;
    const waiting: Waiting = { text: "", missing: null, done: resolve };
    this.#waiting = waiting;
    timer = setTimeout(() => resolve(`no answer within ${timeoutMs / 1000} s`), timeoutMs);
    try {
      const socket = this.#socket ?? (await Promise.race([this.#connect(), promise]));
      if (typeof socket !== "object") return socket;
      socket.write(request);
      const result = await promise;
      if (typeof result === "string") this.close();
      return result;
    } catch (error) {
      this.close();
      return `no connection: ${error instanceof Error ? error.message : String(error)}`;
    } finally {
      clearTimeout(timer);
      this.#waiting = null;
    }
  }

  close(): void {
    this.#socket?.terminate();
    this.#socket = null;
  }

  async #connect(): Promise<Socket<Line>> {
    const { host: hostname, port, tls } = errands;
    let late = false;
    const shaken = Promise.withResolvers<void>();
    const connecting = Bun.connect<Line>({
      hostname,
      port,
      // Known to Bun, not to its types.
      ...({ localAddress: this.from } as object),
      ...(tls && { tls: { rejectUnauthorized: false } }),
      data: this,
      socket: {
        handshake: () => shaken.resolve(),
        data: (socket, chunk) => {
          // Not of one that was given up.
          if (socket.data.#socket === socket || socket.data.#socket === null) socket.data.#hear(chunk.toString("latin1"));
        },
        end: (socket) => void socket.end(),
        error: () => {},
        close: (socket) => {
          late = true;
          shaken.resolve();
          if (socket.data.#socket !== socket) return;
          socket.data.#socket = null;
          socket.data.#waiting?.done("closed before an answer");
        },
      },
    });
    const socket = await connecting;
    if (tls) await shaken.promise;
    if (late) throw new Error("closed at once");
    return (this.#socket = socket);
  }

  #hear(text: string): void {
    const waiting = this.#waiting;
    if (!waiting) return;
    waiting.text += text;
    const headEnd = waiting.text.indexOf("\r\n\r\n");
    if (headEnd === -1) return;
    const head = waiting.text.slice(0, headEnd);
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
    if (waiting.text.length < headEnd + 4 + length) return;
    const status = Number(head.slice(9, 12));
    if (/\r\nconnection: *close/i.test(head)) this.close();
    waiting.done(status === 200 ? status : `${status}: ${waiting.text.slice(headEnd + 4, headEnd + 204)}`);
  }
}

function requestOf(line: string, { name, password }: { name: string; password: string }, body = ""): string {
  const length = body === "" ? "" : `Content-Length: ${body.length}\r\n`;
  return `${line} HTTP/1.1\r\nHost: haas\r\nAuthorization: Basic ${btoa(`${name}:${password}`)}\r\n${length}\r\n${body}`;
}

function report(lane: string, at: number, startedAt: number, result: number | string): void {
  const answer: Answer = { lane, at, ms: performance.now() - startedAt, result };
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

async function ask(lane: string, line: Line, request: string): Promise<void> {
  const [at, startedAt] = [Date.now(), performance.now()];
  report(lane, at, startedAt, await line.ask(request));
}

async function run(lane: string, from: string, kept: boolean): Promise<void> {
  const line = new Line(from);
  const read = requestOf("GET /nodes/free", errands);
  for (let n = 1; ; n++) {
    const write = requestOf("PUT /node/node-00001/metadata/seen", errands, JSON.stringify({ value: n }));
    await ask(lane, line, n % writeEvery === 0 ? write : read);
    if (!kept) line.close();
    await Bun.sleep(pauseMs);
  }
}

async function welcome(): Promise<void> {
  for (const newcomer of errands.newcomers) {
    await Bun.sleep(newcomerPauseMs);
    const line = new Line(errands.newcomersFrom);
    await ask("newcomer", line, requestOf("GET /nodes/free", newcomer));
    line.close();
  }
}

// Its parent ends it.
await Promise.all([...errands.from.flatMap((from) => [run(`kept ${from}`, from, true), run(`new ${from}`, from, false)]), welcome()]);

import { connect, type Socket } from "node:net";
import { Garbled, Replies, type Reply } from "./replies.ts";

/** So long may haas think about a request, on a machine with much else to do. */
const answerTimeoutMs = Number(process.env.HAAS_FUZZ_TIMEOUT_MS ?? 60_000);

/** What is done on a raw connection: bytes are sent, milliseconds waited, the sending side closed, the connection torn down. */
export type Step = Buffer | number | "end" | "abort";

/** What came of it. */
export interface Outcome {
  readonly replies: readonly Reply[];
  /** What is wrong with what haas sent, or did not send; null when nothing is. */
  readonly fault: string | null;
}

export interface Address {
  readonly host: string;
  readonly port: number;
}

function open({ host, port }: Address, localAddress: string): Socket {
  return connect({ host, port, localAddress, allowHalfOpen: true, noDelay: true });
}

/** A connection that is kept from one request to the next, and opened again as often as haas closes it. */
export class Lane {
  #socket: Socket | null = null;
  #replies = new Replies();
  #ended = true;
  #wake: (() => void) | null = null;

  constructor(
    readonly address: Address,
    readonly localAddress = "127.0.0.1",
  ) {}

  /** Send, and read as many answers as there are methods. */
  async exchange(bytes: Buffer, methods: readonly string[]): Promise<Outcome> {
    // haas may close an idle connection at the very moment of the next request.
    const kept = this.#socket !== null && !this.#ended;
    const outcome = await this.#exchange(bytes, methods);
    if (kept && outcome.fault === closedUnanswered && outcome.replies.length === 0) return this.#exchange(bytes, methods);
    return outcome;
  }

  async #exchange(bytes: Buffer, methods: readonly string[]): Promise<Outcome> {
    if (this.#ended) this.#open();
    this.#socket!.write(bytes);
    const replies: Reply[] = [];
    const deadline = performance.now() + answerTimeoutMs;
    try {
      while (replies.length < methods.length) {
        const reply = this.#replies.take(methods[replies.length]!, this.#ended);
        if (reply) {
          replies.push(reply);
          if (reply.status === 101) break;
        } else if (this.#ended) {
          const rest = this.#replies.rest;
          return {
            replies,
            fault: rest.length === 0 ? closedUnanswered : `it closed within an answer: ${JSON.stringify(rest.toString("latin1", 0, 200))}`,
          };
        } else if (performance.now() > deadline) {
          this.close();
          return { replies, fault: `no answer within ${answerTimeoutMs / 1_000} s` };
        } else await this.#more();
      }
    } catch (error) {
      this.close();
      if (error instanceof Garbled) return { replies, fault: `it sent ${error.message}` };
      throw error;
    }
    const last = replies.at(-1)!;
    const rest = this.#replies.rest;
    if (last.status === 101 || last.headers.get("connection")?.toLowerCase() === "close") this.close();
    else if (rest.length > 0) {
      this.close();
      return { replies, fault: `more than the answer: ${JSON.stringify(rest.toString("latin1", 0, 200))}` };
    }
    return { replies, fault: null };
  }

  #more(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, 5_000);
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = null;
        resolve();
      };
    });
  }

  #open(): void {
    this.close();
    this.#replies = new Replies();
    this.#ended = false;
    const socket = (this.#socket = open(this.address, this.localAddress));
    socket.on("data", (chunk) => {
      if (socket !== this.#socket) return;
      this.#replies.push(chunk as Buffer);
      this.#wake?.();
    });
    for (const event of ["end", "close", "error"]) {
      socket.on(event, () => {
        if (socket === this.#socket) {
          this.#ended = true;
          this.#wake?.();
        }
        if (event !== "close") socket.destroy();
      });
    }
  }

  close(): void {
    this.#socket?.destroy();
    this.#socket = null;
    this.#ended = true;
  }
}

const closedUnanswered = "it closed the connection without an answer";

/** Do this on a connection of its own, until haas closes it; null when it was torn down before, by a step or by `signal`. */
export async function play(address: Address, steps: readonly Step[], localAddress: string, signal?: AbortSignal): Promise<Outcome | null> {
  const socket = open(address, localAddress);
  const read = new Replies();
  let closed = false;
  let aborted = false;
  const ended = new Promise<boolean>((resolve) => {
    const timer = setTimeout(() => resolve(false), answerTimeoutMs);
    const done = () => {
      clearTimeout(timer);
      closed = true;
      resolve(true);
    };
    socket.on("data", (chunk) => read.push(chunk as Buffer));
    for (const event of ["end", "close", "error"]) socket.on(event, done);
  });
  const abort = () => {
    aborted = true;
    socket.destroy();
  };
  signal?.addEventListener("abort", abort);
  await Promise.race([ended, new Promise((resolve) => socket.once("connect", resolve))]);
  for (const step of steps) {
    if (closed) break;
    if (typeof step === "number") await Promise.race([ended, Bun.sleep(step)]);
    else if (step === "end") socket.end();
    else if (step === "abort") abort();
    else socket.write(step);
  }
  const inTime = aborted || (await ended);
  signal?.removeEventListener("abort", abort);
  if (aborted) return null;
  if (!inTime) {
    socket.destroy();
    return { replies: [], fault: `it neither closed the connection within ${answerTimeoutMs / 1_000} s of its end, nor did anything else` };
  }
  socket.destroy();
  const replies: Reply[] = [];
  try {
    for (let reply; (reply = read.take("", true));) {
      replies.push(reply);
      if (reply.status === 101) return { replies, fault: null };
    }
  } catch (error) {
    if (error instanceof Garbled) return { replies, fault: `it sent ${error.message}` };
    throw error;
  }
  const { rest } = read;
  return {
    replies,
    fault: rest.length > 0 ? `an answer that is not complete: ${JSON.stringify(rest.toString("latin1", 0, 200))}` : null,
  };
}

import type { Socket } from "bun";
import type { App } from "../app.ts";
import { addressKey } from "../auth/address.ts";
import { Deadline } from "../deadline.ts";
import { AbortedError, HaasError, UnavailableError, validation } from "../errors.ts";
import { type Content, contentOf, headOf, refusalText } from "./answer.ts";
import type { Arrival } from "./arrival.ts";
import { BodyDecoder } from "./body.ts";
import { type Budget, compact, copied } from "./budget.ts";
import { findHeadEnd, type Head, parseHead, Refusal } from "./head.ts";
import { Outbox } from "./outbox.ts";
import type { Guest, Places } from "./places.ts";
import type { Proxies } from "./proxies.ts";
import type { Strangers } from "./strangers.ts";
import type { Handshake, WebSockets } from "./websockets.ts";

/** A client has so long for a whole request, and for taking an answer; a large one gets a second more for so many bytes. */
const requestMs = 20_000;
const answerMs = 20_000;
const answerBytesPerSecond = 64 * 1024;
/** How long a connection is kept for the next request. */
const idleMs = 75_000;
/** What is read of a body that nobody wanted, so that the connection can be kept. */
const swallowLimitBytes = 64 * 1024;
/** A client that still sends while its connection is closed is listened to for so long, or it may never see its answer. */
const lingerMs = 2_000;
const lingerLimitBytes = 1024 * 1024;
/** What may wait behind the request in hand before the client is paused. */
const aheadLimitBytes = 16 * 1024;
/** Head and content go in one write, unless that would copy more than this. */
const oneWriteBytes = 64 * 1024;
/** What may wait on the way to a WebSocket before the client is paused. */
const tunnelLimitBytes = 256 * 1024;

/** What all connections of a front have in common. */
export interface House {
  readonly app: App;
  readonly places: Places;
  readonly budget: Budget;
  readonly strangers: Strangers;
  readonly webSockets: WebSockets;
  readonly proxies: Proxies;
  /** A request that the app never sees was refused. */
  refused(refusal: Refusal, facts: { id: string; address: string; line: string }): void;
  /** Those that have a place. */
  readonly connections: Set<Connection>;
  /** So many bytes that were made for a slow client are not used any more. */
  leave(bytes: number): void;
  /** Close a socket, but not so soon that its client can be back at once. */
  closeLater(raw: Socket<any>): void;
  /** End the connection that holds most memory among those whose client keeps haas waiting; false when none holds any. */
  evictLargest(): boolean;
  /** It takes no more requests. */
  stopping: boolean;
}

/** Where a connection's body goes. */
interface Sink {
  limit: number;
  /** It grows, where the client does not tell the length: a body may come in a million crumbs. */
  buffer: Buffer;
  bytes: number;
  resolve(body: Uint8Array): void;
  reject(error: Error): void;
}

/**
 * head: a request is awaited, or is on its way. queued: a stranger's, which waits for its turn. request: it is with the app. flush: the client takes its answer.
 * swallow: what is left of its body is read past. stream: the answer has no end that is known. tunnel: it became a
 * WebSocket. closing: all is said. gone: there is no connection any more.
 */
type Stage = "head" | "queued" | "request" | "flush" | "swallow" | "stream" | "tunnel" | "closing" | "gone";

/** One client's connection: one request after the other, each answered before the next is looked at. */
export class Connection implements Guest {
  readonly peer: string;
  readonly from: string | null;
  known: boolean;
  user: number | null = null;
  readonly #out = new Outbox();
  #stage: Stage = "head";
  /** What came and was not used yet, and how much of it is known to hold no end of a head. */
  #input: Buffer = empty;
  #scanned = 0;
  /** What of this connection is in the budget. */
  #counted = 0;
  #until: Deadline | null = new Deadline(requestMs);
  #paused = false;
  /** The client sends nothing any more. */
  #ended = false;
  #head: Head | null = null;
  #decoder = new BodyDecoder(0);
  #sink: Sink | null = null;
  #closeAfter = false;
  /** It is this stranger's turn. */
  #isNext = false;
  /** What is left of the time for the request in hand; haas's own turns don't count. */
  #leftMs = 0;
  #swallowed = 0;
  #lingered = 0;
  #handshake: Handshake | null = null;
  #upstream: Socket | null = null;
  readonly #toUpstream = new Outbox();
  /** For whoever waits until the client has taken what there is. */
  #drained: (() => void) | null = null;

  constructor(
    readonly house: House,
    readonly socket: Socket<any>,
    /** What `socket` is encrypted on; itself for plain HTTP. Only this one can always be ended at once. */
    readonly raw: Socket<any>,
  ) {
    this.peer = socket.remoteAddress;
    this.from = house.proxies.has(this.peer) ? null : addressKey(this.peer);
    this.known = this.from !== null && (isThisMachine(this.peer) || house.places.isKnown(this.from));
  }

  /** Bytes that are kept for it while its client keeps haas waiting. */
  get held(): number {
    const isHaassTurn =
      this.#stage === "request" ? this.#decoder.done : this.#stage === "tunnel" || (this.#stage === "stream" && this.#until === null);
    return isHaassTurn ? 0 : this.#counted;
  }

  /** Whether it has a request in hand that is worth waiting for: tunnels and streams have no end of their own. */
  get isBusy(): boolean {
    return this.#stage === "queued" || this.#stage === "request" || this.#stage === "flush";
  }

  // What the socket tells.

  fromClient(chunk: Buffer): void {
    switch (this.#stage) {
      case "gone":
        return;
      case "closing":
        this.#lingered += chunk.byteLength;
        if (this.#lingered > lingerLimitBytes) this.abort();
        return;
      case "tunnel":
        this.#toUpstream.send(this.#upstream, Buffer.from(chunk));
        if (this.#toUpstream.bytes > tunnelLimitBytes) this.#pause();
        return;
      default:
        if (this.#stage === "head" && this.#input.byteLength === 0) this.#until = new Deadline(requestMs);
        this.#input = this.#input.byteLength === 0 ? chunk : Buffer.concat([this.#input, chunk]);
        this.#advance();
        // What is left is copied: Bun may use its buffer again.
        if (this.#input.buffer === chunk.buffer) this.#input = copied(this.#input);
    }
  }

  /** The client has closed its sending side. */
  clientEnded(): void {
    this.#ended = true;
    const waits = this.#stage === "head" || this.#stage === "swallow";
    // Requests that came before have their answers.
    if (this.#stage === "closing" || (waits && this.#input.byteLength === 0)) this.#close();
    else if (this.#stage === "tunnel") this.#upstream?.end();
    else this.#advance();
  }

  drain(): void {
    if (this.#stage === "gone" || !this.#out.drain(this.socket)) return this.#count();
    this.#count();
    this.#upstream?.resume();
    this.#drained?.();
    if (this.#stage === "flush") this.#answered();
    else if (this.#stage === "closing") this.#linger();
  }

  /** Its socket is closed, by whomever. */
  gone(): void {
    if (this.#stage === "gone") return;
    this.#stage = "gone";
    this.#until = null;
    this.#input = empty;
    this.#out.clear();
    this.#toUpstream.clear();
    this.#sink?.reject(new AbortedError());
    this.#sink = null;
    this.house.leave(this.#counted);
    this.#count();
    this.house.places.leave(this);
    this.house.connections.delete(this);
    this.#drained?.();
    this.#handshake?.abandon();
    this.#upstream?.end();
  }

  /** Close it at once, whatever is under way. */
  abort(): void {
    this.gone();
    this.raw.terminate();
  }

  evict(): void {
    this.gone();
    this.house.closeLater(this.raw);
  }

  /** Called now and then: has the client had its time? */
  tick(): void {
    if (!this.#until?.passed) return;
    const incomplete = (this.#stage === "head" && this.#input.byteLength > 0) || (this.#stage === "request" && this.#sink !== null);
    if (incomplete) this.refuse(new Refusal("RequestTimeoutError", "The request did not arrive in time."));
    else if (this.#stage === "queued") this.refuse(new Refusal("UnavailableError", "Too many requests at once; try again."));
    else this.abort();
  }

  /** For a front that stops: a connection with nothing in hand ends, any other after its answer. */
  finish(): void {
    if (this.#stage === "head" && this.#input.byteLength === 0) this.#close();
  }

  // Requests.

  /** Go on with what is in hand. */
  #advance(): void {
    if (this.#stage === "gone") return;
    if (this.#stage === "head") this.#readHead();
    // Also a body that began with the head.
    if (this.#stage === "request") this.#readBody();
    else if (this.#stage === "swallow") this.#swallow();
    this.#count();
    if (this.#isOver()) return;
    const reading = this.#stage === "head" || this.#stage === "swallow" || this.#sink !== null;
    // A socket that is not ready leaves the event loop time for others.
    if (this.#stage === "queued" || (!reading && this.#input.byteLength > aheadLimitBytes)) this.#pause();
    else this.#resume();
  }

  #isOver(): boolean {
    return this.#stage === "gone" || this.#stage === "closing";
  }

  #readHead(): void {
    if (this.#input.byteLength === 0) return;
    const end = findHeadEnd(this.#input, this.#scanned);
    if (end === null) {
      if (this.#ended) this.abort();
      this.#scanned = this.#input.byteLength;
      return;
    }
    if (end instanceof Refusal) return this.refuse(end);
    if (!this.known && !this.#isNext) return this.#queue();
    const head = parseHead(this.#input, end);
    if (head instanceof Refusal) return this.refuse(head);
    this.#input = end === this.#input.byteLength ? empty : this.#input.subarray(end);
    this.#scanned = 0;
    this.#head = head;
    this.#stage = "request";
    // It is for the app now to say whether it wants the body, however long that takes.
    this.#leftMs = this.#until?.left ?? 0;
    this.#until = null;
    this.#decoder = new BodyDecoder(head.body);
    this.#closeAfter = !head.keepAlive;
    if (this.#decoder.done) this.#complete();
    this.#handle(head).catch(() => this.abort());
  }

  #queue(): void {
    this.#stage = "queued";
    this.house.strangers.add(this.from ?? this.peer, () => {
      if (this.#stage !== "queued") return;
      this.#stage = "head";
      this.#isNext = true;
      this.#advance();
      this.#isNext = false;
    });
  }

  /** The whole request is there: from now on it is haas's turn. */
  #complete(): void {
    this.house.places.busy(this);
    this.#until = null;
  }

  async #handle(head: Head): Promise<void> {
    // The name of the server is no matter of the path, and may be none that a URL can have.
    const request = new Request(`http://haas${head.target}`, { method: head.method, headers: head.headers });
    const { socket } = this;
    const client = this.house.proxies.clientOf(this.peer, this.socket !== this.raw, request.headers);
    const arrival: Arrival = {
      ...client,
      get boundAddress() {
        return socket.localAddress;
      },
      body: (limitBytes) => this.#body(limitBytes),
      signedIn: (user) => void (this.#stage === "gone" || this.house.places.signedIn(this, addressKey(client.address), user)),
      ...(head.upgrade && {
        upgrade: (tunnel, headers) => {
          this.#handshake = this.house.webSockets.accept(request.headers, tunnel, headers);
          return this.#handshake !== null;
        },
      }),
    };
    const response = await this.house.app.handle(request, arrival);
    if (this.#stage !== "request") return void response.body?.cancel();
    if (this.#handshake) return this.#tunnel(this.#handshake);
    const content = contentOf(response);
    this.#answer(head, response, content instanceof Promise ? await content : content);
  }

  #body(limit: number): Promise<Uint8Array> {
    if (this.#stage !== "request" || this.#sink) return Promise.reject(new AbortedError());
    const { left } = this.#decoder;
    if (left !== null && left > limit) return Promise.reject(tooLarge(limit));
    const aborted = this.#ended && left !== null && left > this.#input.byteLength;
    if (aborted) return Promise.reject(new AbortedError());
    return new Promise((resolve, reject) => {
      this.#sink = { limit, buffer: left === null ? empty : Buffer.allocUnsafeSlow(left), bytes: 0, resolve, reject };
      this.#until = this.#decoder.done ? null : new Deadline(this.#leftMs);
      if (this.#head!.expectsContinue && this.#input.byteLength === 0 && !this.#decoder.done)
        this.#out.send(this.socket, "HTTP/1.1 100 Continue\r\n\r\n");
      this.#advance();
    });
  }

  #readBody(): void {
    const sink = this.#sink;
    if (!sink) {
      // Nobody waits for a client that has gone away half-way.
      const { left } = this.#decoder;
      if (this.#ended && left !== null && left > this.#input.byteLength) this.abort();
      return;
    }
    const used = this.#decoder.feed(this.#input, (part) => {
      if (sink.bytes <= sink.limit) append(sink, part);
    });
    if (used instanceof Refusal) return this.#failBody(validation(used.msg));
    this.#input = this.#input.subarray(used);
    if (sink.bytes > sink.limit) return this.#failBody(tooLarge(sink.limit));
    if (this.house.budget.exceeded) return this.#failBody(new UnavailableError("Too many requests with bodies at once; try again."));
    if (this.#decoder.done) {
      this.#sink = null;
      this.#complete();
      sink.resolve(sink.buffer.subarray(0, sink.bytes));
    } else if (this.#ended) this.abort();
  }

  #failBody(error: HaasError): void {
    const sink = this.#sink!;
    this.#sink = null;
    this.#closeAfter = true;
    this.#until = null;
    sink.reject(error);
  }

  // Answers.

  #answer(head: Head, response: Response, content: Content): void {
    if (this.#stage !== "request") return;
    this.house.places.busy(this);
    const unread = this.#decoder.left;
    const tooMuch = unread !== 0 && (head.expectsContinue || (unread ?? 0) > swallowLimitBytes);
    const stream = typeof content !== "string" && !(content instanceof Uint8Array);
    this.#closeAfter ||= this.house.stopping || (this.#ended && this.#input.byteLength === 0) || tooMuch || (stream && head.old);
    const how = { close: this.#closeAfter, old: head.old };
    if (stream) {
      this.#stage = "stream";
      this.#until = null;
      this.#send(headOf(response, head.old ? "close" : "chunked", how));
      return void (head.method === "HEAD" ? content.cancel().then(() => this.#answered()) : this.#stream(content, head.old));
    }
    const length = typeof content === "string" ? Buffer.byteLength(content) : content.byteLength;
    const lines = headOf(response, { length }, how);
    this.#stage = "flush";
    if (head.method === "HEAD" || length === 0) this.#send(lines);
    else if (typeof content === "string" && length <= oneWriteBytes) this.#send(lines + content);
    else {
      this.#send(lines);
      this.#send(typeof content === "string" ? Buffer.from(content) : content);
    }
    if (this.#out.bytes === 0) return this.#answered();
    if (this.#out.kept > 0) this.house.leave(length);
    this.#until = new Deadline(answerMs + (length / answerBytesPerSecond) * 1000);
    this.house.places.wait(this);
    this.#count();
  }

  #send(bytes: string | Uint8Array): boolean {
    return this.#out.send(this.socket, bytes);
  }

  /** The answer is on its way: the next request, if there is to be one. */
  #answered(): void {
    this.#head = null;
    if (this.#closeAfter) return this.#close();
    this.house.places.wait(this);
    if (this.#decoder.done) {
      this.#stage = "head";
      this.#until = new Deadline(this.#input.byteLength > 0 ? requestMs : idleMs);
      if (this.#ended && this.#input.byteLength === 0) return this.#close();
    } else {
      this.#swallowed = 0;
      this.#stage = "swallow";
      this.#until = new Deadline(requestMs);
    }
    // A client that sends requests without waiting for answers has others served between them.
    if (this.#input.byteLength > 0) setImmediate(() => this.#advance());
    else this.#resume();
  }

  #swallow(): void {
    const used = this.#decoder.feed(this.#input, () => {});
    if (used instanceof Refusal || (this.#swallowed += used) > swallowLimitBytes) return this.#close();
    this.#input = this.#input.subarray(used);
    if (!this.#decoder.done) return this.#ended ? this.#close() : undefined;
    this.#stage = "head";
    this.#until = new Deadline(this.#input.byteLength > 0 ? requestMs : idleMs);
    if (this.#ended && this.#input.byteLength === 0) this.#close();
    else this.#readHead();
  }

  async #stream(content: ReadableStream<Uint8Array>, old: boolean): Promise<void> {
    const reader = content.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (this.#stage !== "stream") return;
        const bytes = done ? (old ? empty : Buffer.from("0\r\n\r\n")) : old ? value : inChunk(value);
        if (!this.#send(bytes)) await this.#untilDrained();
        if (this.#stage !== "stream") return;
        if (done) return this.#answered();
      }
    } catch {
      // Half an answer: its client has to see that.
      this.abort();
    } finally {
      void reader.cancel().catch(() => {});
    }
  }

  async #untilDrained(): Promise<void> {
    this.#until = new Deadline(answerMs);
    this.house.places.wait(this);
    this.#count();
    await new Promise<void>((resolve) => (this.#drained = resolve));
    this.#drained = null;
    if (this.#stage === "gone") return;
    this.#until = null;
    this.house.places.busy(this);
  }

  /** An answer that the app has no part in, and the end of the connection. */
  refuse(refusal: Refusal): void {
    const id = crypto.randomUUID();
    const line = this.#head
      ? `${this.#head.method} ${this.#head.target}`
      : this.#input.toString("latin1", 0, Math.max(this.#input.indexOf(13), 0));
    this.house.refused(refusal, { id, address: this.peer, line });
    this.#sink?.reject(new AbortedError());
    this.#sink = null;
    this.#send(refusalText(refusal, id));
    this.#close();
  }

  /** Say what is left to be said, and end. */
  #close(): void {
    if (this.#stage === "gone") return;
    this.#stage = "closing";
    this.#input = empty;
    this.#until = new Deadline(answerMs);
    this.house.places.wait(this);
    this.#resume();
    if (this.#out.bytes === 0) this.#linger();
    this.#count();
  }

  #linger(): void {
    this.#until = new Deadline(lingerMs);
    this.socket.shutdown();
  }

  // WebSockets.

  #tunnel(handshake: Handshake): void {
    this.#stage = "tunnel";
    this.#until = null;
    const { house } = this;
    // Frames that came with the handshake belong behind it.
    this.#toUpstream.send(null, Buffer.from(handshake.request));
    if (this.#input.byteLength > 0) this.#toUpstream.send(null, Buffer.from(this.#input));
    this.#input = empty;
    house.places.busy(this);
    this.#count();
    Bun.connect({
      unix: handshake.address,
      data: undefined,
      socket: {
        open: (upstream) => {
          if (this.#stage === "gone") return void upstream.end();
          this.#upstream = upstream;
          if (this.#toUpstream.drain(upstream)) this.#resume();
        },
        data: (upstream, chunk) => {
          if (!this.#send(Buffer.from(chunk))) upstream.pause();
        },
        drain: (upstream) => {
          if (this.#toUpstream.drain(upstream)) this.#resume();
        },
        close: () => this.#close(),
        error: () => this.abort(),
        connectError: () => this.abort(),
      },
    }).catch(() => this.abort());
  }

  // Bookkeeping.

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.socket.pause();
  }

  #resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.socket.resume();
  }

  /** Tell the budget what is kept for this client, and make room when it is too much in all. */
  #count(): void {
    if (this.#input.byteLength > 0) this.#input = compact(this.#input);
    const bytes = this.#input.byteLength + this.#out.kept + (this.#sink?.buffer.byteLength ?? 0);
    if (bytes === this.#counted) return;
    const more = bytes > this.#counted;
    this.house.budget.add(bytes - this.#counted);
    this.#counted = bytes;
    while (more && this.house.budget.exceeded && this.house.evictLargest());
  }
}

const empty = Buffer.alloc(0);

const tooLarge = (limit: number) => new HaasError("PayloadTooLargeError", `The body is larger than ${limit} bytes.`);

const isThisMachine = (address: string): boolean => address === "127.0.0.1" || address === "::1" || address === "::ffff:127.0.0.1";

function append(sink: Sink, part: Buffer): void {
  const bytes = sink.bytes + part.byteLength;
  if (bytes > sink.buffer.byteLength) {
    const larger = Buffer.allocUnsafeSlow(Math.max(bytes, Math.min(2 * sink.buffer.byteLength, sink.limit)));
    sink.buffer.copy(larger, 0, 0, sink.bytes);
    sink.buffer = larger;
  }
  part.copy(sink.buffer, sink.bytes);
  sink.bytes = bytes;
}

function inChunk(bytes: Uint8Array): Uint8Array {
  return bytes.byteLength === 0 ? empty : Buffer.concat([Buffer.from(`${bytes.byteLength.toString(16)}\r\n`), bytes, Buffer.from("\r\n")]);
}

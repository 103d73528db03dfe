import type { Server, Socket, TCPSocketListener } from "bun";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { App } from "./app.ts";
import { arrivalOf } from "./http/arrival.ts";
import { type Tunnel, tunnels } from "./tunnel.ts";

// Bun closes the connection on a method in lower case, and published examples say `curl -X put`. It
// also folds `..` in paths, which is a legal name here. So every connection goes through this thin
// front: it looks at the first request line, mends what Bun would not take, and from then on is a
// dumb pipe to Bun's HTTP server on a unix socket. A request that had to be mended asks for the
// connection to be closed, so that the client's next request is a first one again.
//
// Each client address has a unix socket of its own: that is how the HTTP server knows the address.

const firstLineLimitBytes = 16 * 1024;
const firstLineTimeoutMs = 15_000;
const connectionLimit = 4_096;
const connectionsPerAddressLimit = 1_024;
const addressLimit = 512;
/** How often a stopping server looks whether it is done; as long is left to the last answers on their way out. */
const stopPauseMs = 50;
/**
 * After so long without a byte Bun cuts a connection, also one whose request is still being answered. So it is
 * above what the slowest call takes (a BMC that does not answer), and below Bun's limit of 255.
 */
const idleTimeoutSeconds = 250;
const halfClosedQuietMs = 500;
const halfClosedLimitMs = 60_000;
/** What may wait for a slow reader before the sender is paused. */
const bufferLimitBytes = 256 * 1024;
/** Above what any call takes (see routes/controller.ts), so that the answer can be a clear one. */
const hardBodyLimitBytes = 8 * 1024 * 1024;

/** Methods that Bun takes in upper case. Any other becomes one that no path has, for a clear 405. */
const knownMethods = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]);
const foreignMethod = "TRACE";

/** U+FFFF, percent-encoded. Behind a segment of dots it keeps Bun from folding the path; see routes/controller.ts. */
const dotMark = "%EF%BF%BF";

export interface Front {
  readonly port: number;
  /** Take no more connections, give requests in flight `graceMs`, and close. */
  stop(graceMs: number): Promise<void>;
}

export class ListenError extends Error {}

/** Serve the app on a TCP address. Rejects with a sentence when the address can't be had. */
export function listen(app: App, { host, port }: { host: string; port: number }): Front {
  const front = new ConnectionFront(app);
  try {
    return front.listen(host, port);
  } catch (error) {
    front.close();
    const why =
      error instanceof Error && "code" in error && error.code === "EADDRINUSE"
        ? "it is in use"
        : error instanceof Error
          ? error.message
          : String(error);
    throw new ListenError(`Can't listen on ${host} port ${port}: ${why}.`);
  }
}

interface Pipe {
  address: string;
  /** What came before the first request line was complete. Null once it was passed on. */
  head: Buffer | null;
  headTimer: Timer | null;
  /** It was answered by the front, and is being closed: what still comes does not count. */
  refused: boolean;
  /** Whether the client has said something since the server last did. */
  awaiting: boolean;
  /** The client has closed its sending side, and waits for an answer; see `#halfClosed`. */
  ended: boolean;
  upstream: Socket<Pipe> | null;
  toServer: Outbox;
  toClient: Outbox;
}

/** Bytes that a socket did not take yet. */
class Outbox {
  #waiting: Uint8Array[] = [];
  #bytes = 0;
  #ending = false;

  /** Send or keep. False when the sender should pause. */
  send(socket: Socket<Pipe> | null, chunk: Uint8Array): boolean {
    if (socket && this.#bytes === 0) {
      const written = Math.max(socket.write(chunk), 0);
      if (written === chunk.byteLength) return true;
      chunk = chunk.subarray(written);
    }
    // Bun reuses its buffers, so what stays is copied.
    this.#waiting.push(Uint8Array.from(chunk));
    this.#bytes += chunk.byteLength;
    return this.#bytes < bufferLimitBytes;
  }

  /** The socket takes more. True when nothing is left. */
  drain(socket: Socket<Pipe>): boolean {
    while (this.#waiting.length > 0) {
      const chunk = this.#waiting[0]!;
      const written = Math.max(socket.write(chunk), 0);
      this.#bytes -= written;
      if (written < chunk.byteLength) {
        this.#waiting[0] = chunk.subarray(written);
        return false;
      }
      this.#waiting.shift();
    }
    if (this.#ending) socket.end();
    return true;
  }

  /** Close the socket's sending side once everything is sent. */
  end(socket: Socket<Pipe> | null): void {
    this.#ending = true;
    if (socket && this.#bytes === 0) socket.end();
  }
}

class ConnectionFront {
  readonly #directory = mkdtempSync(join(tmpdir(), "haas-"));
  readonly #servers = new Map<string, { server: Server<Tunnel>; path: string }>();
  /** Open connections by client address. */
  readonly #connections = new Map<string, number>();
  readonly #pipes = new Set<Socket<Pipe>>();
  #serial = 0;
  #listener: TCPSocketListener<Pipe> | null = null;

  constructor(readonly app: App) {}

  listen(hostname: string, port: number): Front {
    const front = this;
    this.#listener = Bun.listen<Pipe>({
      hostname,
      port,
      allowHalfOpen: true,
      socket: {
        open: (client) => front.#open(client),
        data: (client, chunk) => front.#fromClient(client, chunk),
        drain: (client) => void (client.data.toClient.drain(client) && client.data.upstream?.resume()),
        end: (client) => front.#halfClosed(client),
        close: (client) => front.#close(client),
        error: (client) => void client.terminate(),
      },
    });
    return { port: this.#listener.port, stop: (graceMs) => this.#stop(graceMs) };
  }

  #open(client: Socket<Pipe>): void {
    client.data = {
      address: client.remoteAddress,
      head: Buffer.alloc(0),
      headTimer: setTimeout(
        () => this.#refuse(client, 408, "Request Timeout", "The request line did not arrive in time."),
        firstLineTimeoutMs,
      ),
      refused: false,
      awaiting: false,
      ended: false,
      upstream: null,
      toServer: new Outbox(),
      toClient: new Outbox(),
    };
    this.#pipes.add(client);
    const held = (this.#connections.get(client.remoteAddress) ?? 0) + 1;
    this.#connections.set(client.remoteAddress, held);
    if (this.#pipes.size > connectionLimit || held > connectionsPerAddressLimit) {
      this.#refuse(client, 503, "Service Unavailable", "Too many connections; close some, or try again later.");
    }
  }

  #fromClient(client: Socket<Pipe>, chunk: Buffer): void {
    const pipe = client.data;
    if (pipe.refused) return;
    pipe.awaiting = true;
    if (pipe.head !== null) {
      const head = pipe.head.byteLength === 0 ? chunk : Buffer.concat([pipe.head, chunk]);
      const end = head.indexOf(10);
      if (end === -1 || end > firstLineLimitBytes) {
        if (head.byteLength > firstLineLimitBytes)
          this.#refuse(client, 414, "URI Too Long", `The request line is longer than ${firstLineLimitBytes} bytes.`);
        else pipe.head = Buffer.from(head);
        return;
      }
      pipe.head = null;
      clearTimeout(pipe.headTimer ?? undefined);
      chunk = mendFirstLine(head, end);
      this.#connect(client);
    }
    if (!pipe.toServer.send(pipe.upstream, chunk)) client.pause();
  }

  #connect(client: Socket<Pipe>): void {
    Bun.connect<Pipe>({
      unix: this.#socketFor(client.data.address),
      allowHalfOpen: true,
      data: client.data,
      socket: {
        open: (upstream) => {
          client.data.upstream = upstream;
          if (client.readyState <= 0) upstream.terminate();
          else if (client.data.toServer.drain(upstream)) client.resume();
        },
        data: (upstream, chunk) => {
          upstream.data.awaiting = false;
          if (upstream.data.ended) this.#halfClosed(client);
          if (!upstream.data.toClient.send(client, chunk)) upstream.pause();
        },
        drain: (upstream) => void (upstream.data.toServer.drain(upstream) && client.resume()),
        end: (upstream) => upstream.data.toClient.end(client),
        close: (upstream) => upstream.data.toClient.end(client),
        error: () => client.terminate(),
        connectError: () => this.#refuse(client, 503, "Service Unavailable", "The server is stopping."),
      },
    }).catch(() => client.terminate());
  }

  /**
   * Bun drops a request whose client has closed its sending side. So it hears of that once it has answered, and has
   * had nothing to say for a while, or has not answered for long.
   */
  #halfClosed(client: Socket<Pipe>): void {
    const pipe = client.data;
    const end = () => pipe.toServer.end(pipe.upstream);
    if (pipe.head !== null) return void client.end();
    if (!pipe.ended && !pipe.awaiting) return end();
    clearTimeout(pipe.headTimer ?? undefined);
    pipe.headTimer = setTimeout(end, pipe.ended ? halfClosedQuietMs : halfClosedLimitMs);
    pipe.ended = true;
  }

  #close(client: Socket<Pipe>): void {
    this.#pipes.delete(client);
    clearTimeout(client.data.headTimer ?? undefined);
    client.data.upstream?.end();
    const held = this.#connections.get(client.data.address)! - 1;
    if (held > 0) this.#connections.set(client.data.address, held);
    else this.#connections.delete(client.data.address);
  }

  /** An answer that the HTTP server never sees. */
  #refuse(client: Socket<Pipe>, status: number, reason: string, msg: string): void {
    clearTimeout(client.data.headTimer ?? undefined);
    client.data.refused = true;
    const body = JSON.stringify({ type: status < 500 ? "ValidationError" : "ServerError", msg });
    client.end(
      `HTTP/1.1 ${status} ${reason}\r\nX-Request-Id: ${crypto.randomUUID()}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
    );
  }

  /** The unix socket of the HTTP server that knows its clients to be at this address. */
  #socketFor(address: string): string {
    let entry = this.#servers.get(address);
    if (!entry) {
      if (this.#servers.size >= addressLimit) this.#dropIdle();
      const path = join(this.#directory, `${(++this.#serial).toString(36)}.sock`);
      const server = Bun.serve<Tunnel>({
        unix: path,
        fetch: async (request, server) => {
          let upgraded = false;
          const answer = await this.app.handle(request, {
            ...arrivalOf(request),
            address,
            upgrade: (data, headers) => (upgraded = server.upgrade(request, { data, headers })),
          });
          // It was answered by the handshake.
          return upgraded ? undefined : answer;
        },
        websocket: tunnels,
        maxRequestBodySize: hardBodyLimitBytes,
        // Bun's types know it for TCP only; it counts here as well.
        ...({ idleTimeout: idleTimeoutSeconds } as object),
        development: false,
      });
      entry = { server, path };
      this.#servers.set(address, entry);
    }
    return entry.path;
  }

  #dropIdle(): void {
    for (const [address, { server }] of this.#servers) {
      if (this.#connections.has(address)) continue;
      void server.stop(true);
      this.#servers.delete(address);
    }
  }

  async #stop(graceMs: number): Promise<void> {
    this.#listener?.stop(false);
    // The requests in hand are what matters: idle connections may stay open for long.
    const deadline = performance.now() + graceMs;
    const busy = () => [...this.#servers.values()].some(({ server }) => server.pendingRequests > 0);
    do await Bun.sleep(stopPauseMs);
    while (busy() && performance.now() < deadline);
    // The last answers may be on their way through here still.
    await Bun.sleep(stopPauseMs);
    this.close();
  }

  close(): void {
    this.#listener?.stop(true);
    for (const { server } of this.#servers.values()) void server.stop(true);
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** The bytes to pass on, given the first request line's end. */
function mendFirstLine(head: Buffer, end: number): Buffer {
  const line = head.toString("latin1", 0, end).replace(/\r$/, "");
  const [method = "", target = "", ...rest] = line.split(" ");
  const upper = method.toUpperCase();
  // Anything that is not a method at all goes through as it is: the HTTP server refuses it.
  const token = /^[A-Za-z]+$/.test(method) ? (knownMethods.has(upper) ? upper : foreignMethod) : method;
  const path = target.replace(/\/((?:\.|%2e){1,2})(?=\/|\?|$)/gi, `/$1${dotMark}`);
  if (token === method && path === target) return head;
  return Buffer.concat([Buffer.from(`${[token, path, ...rest].join(" ")}\r\nConnection: close\r\n`, "latin1"), head.subarray(end + 1)]);
}

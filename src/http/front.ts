import type { Socket, TCPSocketListener, TLSOptions } from "bun";
import type { App } from "../app.ts";
import { messageOf } from "../errors.ts";
import { refusalText } from "./answer.ts";
import { Budget } from "./budget.ts";
import { Connection, type House } from "./connection.ts";
import { Refusal } from "./head.ts";
import { tuneListener } from "./listener.ts";
import { fileLimit, Places, placesFor } from "./places.ts";
import { noProxies, type Proxies } from "./proxies.ts";
import { Strangers } from "./strangers.ts";
import { WebSockets } from "./websockets.ts";

// The HTTP server (see docs/decisions/0002-front.md): who may connect, and what becomes of connections. A connection's
// requests are read in connection.ts.

const budgetBytes = 64 * 1024 * 1024;
/** How much may wait to be collected of what was made for clients that take their answers slowly, or had to go. */
const collectBytes = 64 * 1024 * 1024;
/** How often clients are looked at that have had their time. */
const tickMs = 500;
/** How often a stopping server looks whether it is done; as long is left to the last answers on their way out. */
const stopPauseMs = 50;
/** So many clients more than there are places for are told so; others see their connection closed. */
const toldLimit = 64;
const toldMs = 1_000;
/** So many connections may be over and not closed yet: clients who come back at once would keep the server from everything else. */
const laterLimit = 1_024;
const full = new Refusal("UnavailableError", "All connections are in use; try again.");

export interface Front {
  readonly port: number;
  /** The most connections at a time. */
  readonly places: number;
  /** Take no more connections, give requests in flight `graceMs`, and close. */
  stop(graceMs: number): Promise<void>;
}

export interface FrontOptions {
  readonly host: string;
  readonly port: number;
  /** The certificate and its key, as they are now; null for plain HTTP. */
  readonly certificate?: (() => TLSOptions) | null;
  readonly proxies?: Proxies;
  readonly refused?: House["refused"];
  /** For tests: as if the process could have so many files open. */
  readonly files?: number;
}

export class ListenError extends Error {}

/** Serve the app on a TCP address. Throws a sentence when the address can't be had. */
export function listen(app: App, options: FrontOptions): Front {
  try {
    return new ConnectionFront(app, options);
  } catch (error) {
    const inUse = error instanceof Error && "code" in error && error.code === "EADDRINUSE";
    const why = inUse ? "it is in use" : messageOf(error);
    throw new ListenError(`Can't listen on ${options.host} port ${options.port}: ${why}.`);
  }
}

/** A connection that was accepted; null once there is no place for it. */
interface Accepted {
  connection: Connection | null;
}

class ConnectionFront implements Front {
  readonly places: number;
  readonly #house: House;
  readonly #listener: TCPSocketListener<Accepted>;
  readonly #timer: Timer;
  #told = 0;
  #leftBytes = 0;
  /** To be closed with the next tick. */
  #later: Socket<Accepted>[] = [];
  readonly #laterLimit: number;

  constructor(app: App, { host, port, certificate = null, proxies = noProxies, refused = () => {}, files = fileLimit() }: FrontOptions) {
    this.places = placesFor(files);
    this.#laterLimit = Math.min(laterLimit, Math.floor((files - this.places) / 4));
    this.#house = {
      app,
      places: new Places(this.places),
      budget: new Budget(budgetBytes),
      strangers: new Strangers(),
      webSockets: new WebSockets(),
      proxies,
      refused,
      connections: new Set(),
      evictLargest: () => this.#evictLargest(),
      leave: (bytes) => this.#leave(bytes),
      closeLater: (raw) => this.#closeLater(raw),
      stopping: false,
    };
    this.#listener = Bun.listen<Accepted>({
      hostname: host,
      port,
      allowHalfOpen: true,
      socket: certificate
        ? // What it tells of an encrypted connection is told by the socket on it as well.
          { open: (socket) => this.#openEncrypted(socket, certificate()), data: () => {}, error: (socket) => void socket.terminate() }
        : { ...handlers, open: (socket) => this.#open(socket, socket) },
    });
    tuneListener((this.#listener as unknown as { fd: number }).fd);
    this.#timer = setInterval(() => {
      for (const raw of this.#later.splice(0)) raw.terminate();
      for (const connection of this.#house.connections) connection.tick();
    }, tickMs);
    this.#timer.unref();
  }

  get port(): number {
    return this.#listener.port;
  }

  #openEncrypted(plain: Socket<Accepted>, tls: TLSOptions): void {
    // Bun's types know it for clients only.
    const options = { tls, isServer: true, data: { connection: null }, socket: handlers } as Parameters<
      typeof plain.upgradeTLS<Accepted>
    >[0];
    const [raw, encrypted] = plain.upgradeTLS<Accepted>(options);
    this.#open(encrypted, raw);
  }

  #open(socket: Socket<Accepted>, raw: Socket<Accepted>): void {
    const connection = new Connection(this.#house, socket, raw);
    if (!this.#house.places.enter(connection)) {
      socket.data = { connection: null };
      return this.#turnAway(socket, raw, connection.peer);
    }
    socket.data = { connection };
    this.#house.connections.add(connection);
  }

  /** Say why, as long as that costs little. */
  #turnAway(socket: Socket<Accepted>, raw: Socket<Accepted>, address: string): void {
    if (this.#told >= toldLimit) return this.#closeLater(raw);
    this.#told++;
    const id = crypto.randomUUID();
    this.#house.refused(full, { id, address, line: "" });
    socket.end(refusalText(full, id));
    setTimeout(() => {
      this.#told--;
      raw.terminate();
    }, toldMs).unref();
  }

  #closeLater(raw: Socket<Accepted>): void {
    if (this.#later.length >= this.#laterLimit) return void raw.terminate();
    raw.pause();
    this.#later.push(raw);
  }

  /** The engine collects late what is not used any more, while clients who take nothing have it make more and more. */
  #leave(bytes: number): void {
    this.#leftBytes += bytes;
    if (this.#leftBytes < collectBytes) return;
    this.#leftBytes = 0;
    Bun.gc(true);
  }

  #evictLargest(): boolean {
    let largest: Connection | null = null;
    for (const connection of this.#house.connections) if (connection.held > (largest?.held ?? 0)) largest = connection;
    largest?.abort();
    return largest !== null;
  }

  async stop(graceMs: number): Promise<void> {
    this.#house.stopping = true;
    this.#listener.stop(false);
    const deadline = performance.now() + graceMs;
    const busy = () => [...this.#house.connections].some((connection) => connection.isBusy);
    for (const connection of this.#house.connections) connection.finish();
    do await Bun.sleep(stopPauseMs);
    while (busy() && performance.now() < deadline);
    // The last answers may be on their way still.
    await Bun.sleep(stopPauseMs);
    clearInterval(this.#timer);
    this.#listener.stop(true);
    for (const connection of this.#house.connections) connection.abort();
    for (const raw of this.#later) raw.terminate();
    this.#house.webSockets.stop();
  }
}

const handlers = {
  data: ({ data }: Socket<Accepted>, chunk: Buffer) => data.connection?.fromClient(chunk),
  drain: ({ data }: Socket<Accepted>) => data.connection?.drain(),
  end: ({ data }: Socket<Accepted>) => data.connection?.clientEnded(),
  close: ({ data }: Socket<Accepted>) => data?.connection?.gone(),
  error: ({ data }: Socket<Accepted>) => data?.connection?.abort(),
};

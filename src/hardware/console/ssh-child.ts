import { dlopen } from "bun:ffi";
import { createConnection, type Socket } from "node:net";
import { setPriority } from "node:os";
import { type Algorithms, type AnyAuthMethod, Client, type ClientChannel, utils } from "ssh2";
import type { Unmatched } from "./ssh-algorithms.ts";
import { Valve } from "./transport.ts";

/**
 * The SSH client, in a process of its own: what a handshake computes, it computes here. Everything comes and goes over
 * IPC. Importing this begins to serve the parent process, and ends with it.
 */

/** What is asked of the process. Connections are told apart by `id`. */
export type Order =
  | ({ readonly kind: "open"; readonly id: number } & Opening)
  /** Whether the host key that was presented is the right one. */
  | { readonly kind: "verify"; readonly id: number; readonly valid: boolean }
  | { readonly kind: "write"; readonly id: number; readonly text: string }
  /** So many bytes have been read. */
  | { readonly kind: "taken"; readonly id: number; readonly bytes: number }
  | { readonly kind: "close"; readonly id: number }
  | { readonly kind: "ping" }
  /** Give way to others: what is about to be computed takes long. */
  | { readonly kind: "giveWay" };

export interface Opening {
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly privateKey: string | undefined;
  readonly algorithms: Readonly<Record<"kex" | "serverHostKey" | "cipher" | "hmac", readonly string[]>>;
}

/** What the process reports. `opening` says that it has taken the order, `failed` that there will be no shell; nothing follows `failed` and `ended`. */
export type Report =
  | { readonly kind: "opening"; readonly id: number }
  | { readonly kind: "hostKey"; readonly id: number; readonly presented: string }
  | { readonly kind: "ready"; readonly id: number; readonly kex: string }
  | { readonly kind: "data"; readonly id: number; readonly bytes: Uint8Array }
  | { readonly kind: "failed"; readonly id: number; readonly failure: Failure }
  | { readonly kind: "ended"; readonly id: number; readonly why: string }
  | { readonly kind: "pong" };

export interface Failure {
  readonly message: string;
  /** Of the library (`client-authentication`, …), or `key` and `shell`. */
  readonly level: string | undefined;
  readonly code: string | undefined;
  readonly unmatched: Unmatched | undefined;
}

/** A device that does not answer the goodbye. */
const goodbyeMs = 1_000;
const tickMs = 1_000;
/** A process that was stopped for so long types nothing any more: the right to may be somebody else's by now. */
const stoppedMs = 5_000;
const fatherDied = 1; // PR_SET_PDEATHSIG
const SIGKILL = 9;
/** ssh2's flag for servers that can't do groups of more than 4096 bits: then it asks for no larger ones. */
const noLargeGroups = 1 << 3;
const niceness = 2;

const connections = new Map<number, Connection>();
const report = (message: Report) => void process.send?.(message);

class Connection {
  readonly #client = new Client();
  readonly #socket: Socket;
  readonly #valve: Valve;
  #shell: ClientChannel | null = null;
  #verify: ((valid: boolean) => void) | null = null;
  #kex = "";
  /** What the server offered of the kind of algorithm that was compared last. */
  #compared: Unmatched | undefined;
  #over = false;

  constructor(
    readonly id: number,
    { host, port, username, password, privateKey, algorithms }: Opening,
  ) {
    this.#socket = createConnection({ host, port, noDelay: true });
    // Before the library listens for one, and after.
    this.#socket.on("error", () => {});
    this.#valve = new Valve(this.#socket);
    const client = this.#client;
    client.on("handshake", ({ kex }) => (this.#kex = kex));
    client.on("ready", () => this.#openShell());
    client.on("error", (error: Error & { level?: string; code?: string }) => this.#fail(error));
    client.on("close", () => this.#fail(Object.assign(new Error("the device closed the connection"), { level: "gone" })));
    // `none` first: some switches ask for name and password in the shell instead.
    const methods: AnyAuthMethod[] = [
      { type: "none", username },
      ...(privateKey === undefined ? [] : [{ type: "publickey" as const, username, key: privateKey }]),
      { type: "password", username, password },
      { type: "keyboard-interactive", username, prompt: (_name, _about, _lang, prompts, finish) => finish(prompts.map(() => password)) },
    ];
    client.connect({
      sock: this.#socket,
      username,
      // The parent has the only clock.
      readyTimeout: 0,
      // The library wants a call; a promise that it gets is a yes.
      hostVerifier: (key: Buffer, verify: (valid: boolean) => void): void => {
        this.#verify = verify;
        const digest = new Bun.CryptoHasher("sha256").update(key).digest("base64");
        report({ kind: "hostKey", id, presented: `SHA256:${digest.replace(/=+$/, "")}` });
      },
      // The library's list types are closed; it checks the names itself. Compressed, a little would be anything.
      algorithms: { ...algorithms, compress: ["none"] } as unknown as Algorithms,
      authHandler: methods,
      debug: (text) => this.#listen(text),
    });
  }

  verify(valid: boolean): void {
    const verify = this.#verify;
    this.#verify = null;
    if (!this.#over) verify?.(valid);
  }

  write(text: string): void {
    if (this.#shell?.writable) this.#shell.write(text);
  }

  taken(bytes: number): void {
    this.#valve.taken(bytes);
  }

  close(): void {
    this.#over = true;
    connections.delete(this.id);
    this.#client.end();
    setTimeout(() => this.#socket.destroy(), goodbyeMs);
  }

  get isOpen(): boolean {
    return this.#shell !== null;
  }

  end(why: string): void {
    if (this.#over) return;
    this.close();
    report({ kind: "ended", id: this.id, why });
  }

  #openShell(): void {
    if (this.#over) return;
    this.#client.shell({ term: "vt100", cols: 500, rows: 500 }, (error, stream) => {
      if (this.#over) return;
      if (error) return this.#fail(Object.assign(error, { level: "shell" }));
      this.#shell = stream;
      const pass = (bytes: Buffer) => {
        if (this.#over) return;
        this.#valve.arrived(bytes.length);
        report({ kind: "data", id: this.id, bytes });
      };
      stream.on("data", pass);
      stream.stderr.on("data", pass);
      stream.on("error", () => {});
      stream.on("close", () => this.end("the device closed the connection"));
      report({ kind: "ready", id: this.id, kex: this.#kex });
    });
  }

  #fail(error: Error & { level?: string; code?: string }): void {
    if (this.#over) return;
    if (this.#shell !== null) return this.end(error.message);
    this.close();
    this.#socket.destroy();
    const unmatched = /no matching/i.test(error.message) ? this.#compared : undefined;
    report({ kind: "failed", id: this.id, failure: { message: error.message, level: error.level, code: error.code, unmatched } });
  }

  /** Debugging output is where the library tells what the server offers. */
  #listen(text: string): void {
    const [, kind, names] = /^Handshake: \(remote\) ([^:]{1,40}): (.*)$/s.exec(text) ?? [];
    if (kind !== undefined && names !== undefined) this.#compared = { kind, theirs: names.slice(0, 4_096).split(",") };
    // By now it has made up its mind about the server, and has not asked for a group.
    if (text === "Outbound: Sending KEXINIT") {
      const protocol = (this.#client as unknown as Record<string, Record<string, number> | undefined>)["_protocol"];
      if (protocol) protocol["_compatFlags"] = (protocol["_compatFlags"] ?? 0) | noLargeGroups;
    }
  }
}

function open(id: number, opening: Opening): void {
  report({ kind: "opening", id });
  const refuse = (error: Error, level?: string) =>
    report({ kind: "failed", id, failure: { message: error.message, level, code: undefined, unmatched: undefined } });
  if (opening.privateKey !== undefined) {
    const key = utils.parseKey(opening.privateKey);
    // Never the parser's words: they may quote the key.
    if (key instanceof Error) return refuse(new Error("no usable key"), "key");
  }
  try {
    connections.set(id, new Connection(id, opening));
  } catch (error) {
    refuse(error instanceof Error ? error : new Error(String(error)), "start");
  }
}

function obey(order: Order): void {
  notice();
  switch (order.kind) {
    case "open":
      return open(order.id, order);
    case "verify":
      return connections.get(order.id)?.verify(order.valid);
    case "write":
      return connections.get(order.id)?.write(order.text);
    case "taken":
      return connections.get(order.id)?.taken(order.bytes);
    case "close":
      return connections.get(order.id)?.close();
    case "ping":
      return report({ kind: "pong" });
    case "giveWay":
      return setPriority(niceness);
    default:
      order satisfies never;
  }
}

let tickedAt = performance.now();

/** End the sessions of a process that was stopped. */
function notice(): void {
  const now = performance.now();
  const gap = now - tickedAt;
  tickedAt = now;
  if (gap < stoppedMs) return;
  for (const connection of connections.values()) {
    if (connection.isOpen) connection.end(`haas's SSH client was held up for ${Math.round(gap / 1000)} s`);
  }
}

/** Also while this process computes, or is stopped. Where there is no such call, the end of the IPC does it when it is noticed. */
function endWithParent(): void {
  try {
    const libc = dlopen("libc.so.6", { prctl: { args: ["int", "u64", "u64", "u64", "u64"], returns: "int" } });
    libc.symbols.prctl(fatherDied, BigInt(SIGKILL), 0n, 0n, 0n);
  } catch {
    // No glibc.
  }
}

endWithParent();
// What one device makes the library throw ends nobody else's session; its own has a time limit.
process.on("uncaughtException", () => {});
// The terminal's, for the parent.
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit(0));
process.on("message", obey);
setInterval(notice, tickMs);

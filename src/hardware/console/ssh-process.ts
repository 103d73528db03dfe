import { join } from "node:path";
import type { Opening, Order, Report } from "./ssh-child.ts";

/** The word by which the compiled program is told to be an SSH client; see cli.ts. */
export const sshClientWord = "ssh-client";

const pingMs = 1_000;
/** So many in a row without an answer, and the process is taken to hang. */
const pingLimit = 5;
const idleMs = 60_000;
/** For the goodbye to a device, until the process of one connection is ended. */
const goodbyeMs = 1_500;

/** What is told of one connection. */
export interface Watcher {
  report(report: Exclude<Report, { kind: "pong" }>): void;
  /** The process is no more, and the connection with it. */
  lost(why: string): void;
}

export interface Link {
  readonly id: number;
  order(order: Exclude<Order, { kind: "ping" | "giveWay" | "open" }>): void;
  /** Nothing is told any more. */
  end(): void;
  /** As `end`, for a process that is of no more use. */
  kill(why: string): void;
}

/** A process with SSH connections. Throws when none can be started. */
export class SshProcess {
  readonly #child: Bun.Subprocess<"ignore", "ignore", "ignore">;
  readonly #watchers = new Map<number, Watcher>();
  #connections = 0;
  #pings = 0;
  #pinger: Timer | null = null;
  #idle: Timer | null = null;
  #endedBecause: string | null = null;

  /** `own`: for one connection, whose handshake takes long; it is over with that. */
  constructor(readonly own: boolean) {
    this.#child = Bun.spawn(command(), {
      // Whom it talks to, and with which secrets, it is told by IPC.
      env: {},
      cwd: "/",
      stdio: ["ignore", "ignore", "ignore"],
      serialization: "advanced",
      ipc: (report: Report) => this.#take(report),
      onExit: (_child, exitCode, signal) => {
        this.#over(`haas's SSH client ended unexpectedly (${signal === null ? `status ${exitCode}` : `signal ${String(signal)}`})`);
      },
    });
    // The end of haas waits for none of its connections.
    this.#child.unref();
    if (own) this.#send({ kind: "giveWay" });
  }

  get isOver(): boolean {
    return this.#endedBecause !== null;
  }

  open(opening: Opening, watcher: Watcher): Link {
    const id = ++this.#connections;
    this.#watchers.set(id, watcher);
    if (this.#idle) clearTimeout(this.#idle);
    // In a handshake that takes long it can't answer; that has a limit of its own.
    if (!this.own) this.#pinger ??= setInterval(() => this.#ping(), pingMs).unref();
    this.#send({ kind: "open", id, ...opening });
    return {
      id,
      order: (order) => this.#send(order),
      end: () => {
        if (!this.#watchers.delete(id)) return;
        this.#send({ kind: "close", id });
        if (this.#watchers.size === 0) this.#retire();
      },
      kill: (why) => {
        this.#watchers.delete(id);
        this.#kill(why);
      },
    };
  }

  #take(report: Report): void {
    this.#pings = 0;
    if (report.kind !== "pong") this.#watchers.get(report.id)?.report(report);
  }

  #ping(): void {
    if (++this.#pings > pingLimit) this.#kill("haas's SSH client hung, and was ended");
    else this.#send({ kind: "ping" });
  }

  #retire(): void {
    if (this.#pinger) clearInterval(this.#pinger);
    this.#pinger = null;
    this.#pings = 0;
    this.#idle = setTimeout(() => this.#kill("haas's SSH client is not needed any more"), this.own ? goodbyeMs : idleMs).unref();
  }

  #send(order: Order): void {
    if (this.isOver) return;
    try {
      this.#child.send(order);
    } catch {
      // It has ended; `onExit` will say so.
    }
  }

  #kill(why: string): void {
    this.#child.kill("SIGKILL");
    this.#over(why);
  }

  #over(why: string): void {
    this.#endedBecause ??= why;
    if (this.#pinger) clearInterval(this.#pinger);
    if (this.#idle) clearTimeout(this.#idle);
    const watchers = [...this.#watchers.values()];
    this.#watchers.clear();
    for (const watcher of watchers) watcher.lost(this.#endedBecause);
  }
}

/** The compiled program is itself the SSH client; from source that is a program of its own. */
const command = (): string[] =>
  import.meta.url.includes("/$bunfs/")
    ? [process.execPath, sshClientWord]
    : [process.execPath, "--no-env-file", join(import.meta.dir, "ssh-child.ts")];

let shared: SshProcess | null = null;

/** The one for all connections whose handshakes are quick. */
export function sharedSshProcess(): SshProcess {
  if (shared === null || shared.isOver) shared = new SshProcess(false);
  return shared;
}

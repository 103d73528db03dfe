import type { Kysely } from "kysely";
import { messageOf, UnavailableError } from "../errors.ts";
import type { Tables } from "./tables.ts";

// A database or a disk that is away: what is thrown then, and how everybody is told at once instead of waiting for it.

type Db = Kysely<Tables>;

export type Notice = (level: "info" | "warning" | "error", message: string, fields?: Readonly<Record<string, number>>) => void;

/** How often to look whether a database is back. */
const probeEveryMs = 500;
/** What comes while nobody knows yet whether it was one connection only, or the database, waits for so long. */
const doubtMs = 1_000;
/** What fails again so soon is still the same failure, and is told once. */
const calmMs = 2_000;

/**
 * What an error means: a fault of ours, or a constraint; somebody else is at it, try again; this can't be had now; the
 * database is away, and nobody needs to try before it is back.
 */
export type Verdict = "ours" | "busy" | "refused" | "away";

/** https://www.postgresql.org/docs/current/errcodes-appendix.html: codes and classes, the longest that fits counts. */
const postgresVerdicts: Readonly<Record<string, Verdict>> = {
  "40001": "busy",
  "40P01": "busy",
  "55P03": "busy",
  // Too slow, or somebody cancelled it; a standby; idle for too long, because this process was stopped.
  "57014": "refused",
  "25006": "refused",
  "25P03": "refused",
  "57P05": "refused",
  // Out of disk, memory or connections; an error of the system.
  "53": "refused",
  "58": "refused",
  // Connecting, logging in, shutting down, starting up; no such database.
  "08": "away",
  "28": "away",
  "57P": "away",
  "3D000": "away",
};

/** https://www.sqlite.org/rescode.html, without the extended part. */
const sqliteVerdicts: Readonly<Record<string, Verdict>> = {
  BUSY: "busy",
  FULL: "away",
  IOERR: "away",
  READONLY: "away",
  CANTOPEN: "away",
  NOMEM: "away",
  NOLFS: "away",
  PROTOCOL: "away",
};

/** Of files: the disk is full, read-only or broken, or the process has no more memory or files. */
const diskCodes = new Set(["ENOSPC", "EDQUOT", "EROFS", "EIO", "ENXIO", "ENODEV", "ESTALE", "ETIMEDOUT", "ENOMEM", "EMFILE", "ENFILE"]);

export const codeOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";

export function verdictOf(error: unknown): Verdict {
  const code = codeOf(error);
  const sqlite = /^SQLITE_([A-Z]+)/.exec(code)?.[1];
  if (sqlite !== undefined) return sqliteVerdicts[sqlite] ?? "ours";
  return postgresVerdicts[code] ?? postgresVerdicts[code.slice(0, 3)] ?? postgresVerdicts[code.slice(0, 2)] ?? "ours";
}

export const isBusy = (error: unknown): boolean => verdictOf(error) === "busy";

/** Whether a file can't be read or written at the moment, for no fault of the file. */
export const isDiskAway = (error: unknown): boolean => diskCodes.has(codeOf(error));

/** Why, as a part of a sentence. */
const reasonOf = (error: unknown): string => (messageOf(error) || codeOf(error) || "it does not say why").replace(/\.$/, "");

/** The last look at a database that is away failed with `cause`. Tenants are told neither its address nor its words. */
const unavailable = (cause: unknown): UnavailableError =>
  new UnavailableError(`haas has lost its database for the moment: ${reasonOf(cause)}. Try again.`, {
    cause,
    tenant: "haas has lost its database for the moment. Try again.",
  });

/** The database went away before it answered a COMMIT. */
const unknownOutcome = (cause: unknown): UnavailableError => {
  const tenant =
    "haas lost its database while that confirmed the change: whether it was made is unknown. Look whether it was before you try again.";
  return new UnavailableError(`${tenant} The cause: ${reasonOf(cause)}.`, { cause, tenant });
};

/** What a database is asked by its dialect: see postgres.ts and sqlite.ts. */
export interface Probe {
  /** Look whether the database works, in bounded time. Rejects with the reason why not. */
  probe(): Promise<void>;
  /** It is away for certain: end what is waiting for it. */
  cut(cause: unknown): void;
}

interface Away {
  cause: unknown;
  /** Otherwise it may have been one connection only. */
  certain: boolean;
  /** Resolves once that is known. */
  known: Promise<void>;
}

/** Whether one open database can be used, and who waits for it. */
export class Availability {
  #away: Away | null = null;
  /** From the first failure until there was none for a while. */
  #failing: { since: number; until: number; requests: number; calm: Timer | undefined } | null = null;
  #tell: Notice = () => {};
  #closed = false;
  readonly #listeners = new Set<() => void>();

  constructor(private readonly dialect: Probe) {}

  /** From now on it is told when the database goes and when it is back. */
  tell(notice: Notice): void {
    this.#tell = notice;
  }

  /** The database is closed: nobody looks for it any more. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#failing?.calm);
    this.#listeners.clear();
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** UnavailableError, at once, while the database is away. */
  async requireHere(): Promise<void> {
    if (this.#away && !this.#away.certain) await Promise.race([this.#away.known, pause(doubtMs)]);
    if (this.#away) throw unavailable(this.#away.cause);
  }

  /** Call it each time that the database is back. Returns how to stop that. */
  onBack(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** A request was answered 503. */
  countRefused(): void {
    if (this.#failing) this.#failing.requests++;
  }

  /** What whoever asked the database is to be told of an error. `committing`: it came instead of the answer to a COMMIT. */
  failed(error: unknown, verdict: Verdict, committing = false): unknown {
    if (verdict === "ours" || verdict === "busy" || this.#closed) return error;
    if (verdict === "refused") this.refused(error);
    else this.#leave(error);
    return committing ? unknownOutcome(error) : unavailable(error);
  }

  /** The database, or something that belongs to it, can't be had now, and it is no use to look for it. */
  refused(error: unknown): UnavailableError {
    this.#note(error);
    if (!this.#away) this.#calmDown();
    return unavailable(error);
  }

  /** It does not answer: `cause` came from a look of its own. */
  lost(cause: unknown): void {
    this.#leave(cause, true);
  }

  #leave(cause: unknown, certain = false): void {
    if (this.#away || this.#closed) return;
    this.#note(cause);
    const known = Promise.withResolvers<void>();
    this.#away = { cause, certain, known: known.promise };
    if (certain) this.dialect.cut(cause);
    void this.#wait(this.#away, known.resolve);
  }

  async #wait(away: Away, known: () => void): Promise<void> {
    for (let looks = 0; !this.#closed; looks++) {
      if (looks > 0 || away.certain) await pause(probeEveryMs);
      try {
        await this.dialect.probe();
        break;
      } catch (error) {
        if (away.certain) continue;
        away.certain = true;
        this.dialect.cut(error);
        known();
      }
    }
    this.#away = null;
    known();
    if (this.#closed) return;
    this.#calmDown();
    for (const listener of this.#listeners) listener();
  }

  #note(cause: unknown): void {
    clearTimeout(this.#failing?.calm);
    if (this.#failing) return;
    this.#failing = { since: performance.now(), until: 0, requests: 0, calm: undefined };
    this.#tell("error", `the database can't be used: ${reasonOf(cause)}; requests that need it are answered 503 until it is back`);
  }

  /** It works, or nobody knows better: when that stays so, it is told. */
  #calmDown(): void {
    const failing = this.#failing!;
    failing.until = performance.now();
    clearTimeout(failing.calm);
    failing.calm = setTimeout(() => {
      this.#failing = null;
      const seconds = Math.round((failing.until - failing.since) / 100) / 10;
      this.#tell("info", "the database is back", { seconds, requests_refused: failing.requests });
    }, calmMs);
    failing.calm.unref();
  }
}

const pause = (ms: number) => new Promise<void>((resolve) => void setTimeout(resolve, ms).unref());

const availabilities = new WeakMap<Db, Availability>();

export const watchAvailability = (db: Db, availability: Availability): void => void availabilities.set(db, availability);

export const availabilityOf = (db: Db): Availability => availabilities.get(db)!;

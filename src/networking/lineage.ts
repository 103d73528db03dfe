import { sql } from "kysely";
import { codeOf } from "../db/away.ts";
import {
  declareGone,
  declareOverwritten,
  pathOf,
  goneReason,
  lastPosition,
  onGone,
  type Position,
  remember,
  requireOnward,
  requirePresent,
} from "../db/lineage.ts";
import { isFoldedIn, isUntouched, lookAtMainFile, type MainFile } from "../db/main-file.ts";
import { foldedFrames, foldIn } from "../db/open.ts";
import { type Remembered, type StateFile, StateFileError } from "../db/state-file.ts";
import type { Flag } from "../db/tables.ts";
import { type Db, type Tx, write } from "../db/transaction.ts";
import { blocked, messageOf, quote, UnavailableError } from "../errors.ts";
import type { Log } from "../log.ts";
import { enqueueSync } from "./journal.ts";

// Truth after time travel: what a database says of the ports of real switches is true as long as it is the one that
// this server left, and has not gone back. Otherwise every port is suspect until it has been read back.

const lookEveryMs = 1_000;
/** Why such a port is suspect. */
const unreadPort = "haas has not read it back since its database was put back or replaced.";
/** So many transactions may be in SQLite's -wal alone. */
const foldEvery = 300;
/** PostgreSQL: no such database, no such table. */
const absentCodes = new Set(["3D000", "42P01"]);

/** What ties a database to the state file of this server. */
export interface Lineage {
  /**
   * Leave a new mark in the database and in the state file. Call it before anything is sent to a switch:
   * a copy of the database that was made earlier is then known to be one.
   * UnavailableError when the two don't belong together.
   */
  advance(): Promise<void>;
  /** Look whether the database is still the one that it was, and keep how far it came. Never rejects. */
  look(): Promise<void>;
  /** Resolves once the database is not to be used any more, with half a sentence that says why. */
  readonly gone: Promise<string>;
  /** Look every second, until stopped. */
  watch(): { stop(): void };
}

/**
 * Compare the database with what this server remembers of it, and suspect every port of a real switch when they don't
 * belong together; one warning says why. `replaced`: that they don't is known already.
 */
export async function trackLineage(db: Db, file: StateFile, log: Log, replaced: string | null): Promise<Lineage> {
  const { remembered, adopted } = await write(db, async (tx) => {
    const found = readFile(file);
    if (found instanceof StateFileError && found.forNow) throw found;
    const why = replaced === null ? await mismatch(tx, found) : `haas had lost its database: ${replaced}`;
    const server = found instanceof StateFileError || found === null ? crypto.randomUUID() : found.server;
    if (why === null && found !== null && !(found instanceof StateFileError)) return { remembered: found, adopted: null };
    await setMark(tx, server, crypto.randomUUID());
    const ports = why === null ? 0 : await adopt(tx, replaced !== null || found !== null);
    return { remembered: null, adopted: { server, why, ports } };
  });
  if (remembered) return TrackedLineage.begin(db, file, log, remembered);
  // After the commit: a server that is killed in between finds the two apart again.
  const settled = await write(db, (tx) => settleFile(tx, file, adopted.server));
  const { why, ports } = adopted;
  if (why !== null) {
    const what = ports === 0 ? "it has no port of a real switch" : "every port of a real switch is suspect until it has been read back";
    log.warning(`${why}; ${what}`, { ports, state_file: file.path });
  }
  return TrackedLineage.begin(db, file, log, settled);
}

/** Of a server that talks to no switch, and so can leave nothing on a port: it believes the database, and remembers nothing of it. */
export const untracked = (db: Db): Lineage => ({
  advance: async () => {},
  look: async () => {},
  gone: new Promise((resolve) => onGone(db, resolve)),
  watch: () => ({ stop: () => {} }),
});

class TrackedLineage implements Lineage {
  readonly gone: Promise<string>;
  /** It was said that the state file can't be used. */
  #told = false;

  static async begin(db: Db, file: StateFile, log: Log, remembered: Remembered): Promise<TrackedLineage> {
    const lineage = new TrackedLineage(db, file, log, remembered);
    await lineage.#fold();
    return lineage;
  }

  private constructor(
    readonly db: Db,
    readonly file: StateFile,
    readonly log: Log,
    private remembered: Remembered,
  ) {
    this.gone = new Promise((resolve) => onGone(db, resolve));
  }

  async advance(): Promise<void> {
    if (await this.#isOverwritten()) throw declareOverwritten(this.db);
    return this.#advance(({ main }) => main);
  }

  /** Have what was committed in SQLite's main file, and remember that file. */
  async #fold(): Promise<void> {
    const path = pathOf(this.db);
    if (path === null) return this.advance();
    await this.#advance(() => null);
    const frames = await foldIn(this.db);
    await this.#advance(() => lookAtMainFile(path, frames));
  }

  async #advance(mainFile: (found: Remembered) => MainFile | null): Promise<void> {
    this.remembered = await write(this.db, async (tx) => {
      const position = await positionOf(tx);
      const found = this.#readFile();
      const mark = await markOf(tx, found.server);
      const why = apart(position, mark, found);
      if (why !== null) throw declareGone(this.db, why);
      const next = crypto.randomUUID();
      const remembered: Remembered = { server: found.server, ...position, marks: [mark, next], main: mainFile(found) };
      // First, so that it knows both marks, whether this transaction is committed or not.
      this.#writeFile(remembered);
      await setMark(tx, found.server, next);
      return remembered;
    });
    // It was: from now on a copy with the mark before is one.
    this.remembered = await write(this.db, async (tx) => {
      const position = await positionOf(tx);
      const found = this.#readFile();
      const mark = found.marks[1];
      // Unless another process of this server is further already.
      if ((await markOf(tx, found.server)) !== mark) return found;
      const remembered: Remembered = { ...found, ...position, marks: [mark, mark] };
      this.#writeFile(remembered);
      return remembered;
    });
  }

  /** What stands in the file; from memory when somebody has deleted it. */
  #readFile(): Remembered {
    const found = readFile(this.file);
    if (found instanceof StateFileError && found.forNow) throw this.#fileAway(found);
    if (found instanceof StateFileError) throw declareGone(this.db, `what this server remembers of it is lost: ${found.message}`);
    if (found) return found;
    this.log.warning("the state file was gone, and is written again", { state_file: this.file.path });
    return this.remembered;
  }

  #writeFile(remembered: Remembered): void {
    try {
      this.file.write(remembered);
    } catch (error) {
      throw error instanceof StateFileError && error.forNow ? this.#fileAway(error) : error;
    }
    if (!this.#told) return;
    this.#told = false;
    this.log.info("the state file can be used again", { state_file: this.file.path });
  }

  /** Requests do without the file, but nothing is sent to a switch. Said once. */
  #fileAway(cause: Error): UnavailableError {
    if (!this.#told) {
      this.log.error("the state file can't be used; no port is changed until it can", { why: cause.message });
    }
    this.#told = true;
    return new UnavailableError(`The state file of this server can't be used at the moment: ${cause.message}.`, {
      cause,
      tenant: "haas can't use its disk at the moment.",
    });
  }

  async look(): Promise<void> {
    const { db } = this;
    if (goneReason(db) !== null) return;
    try {
      requirePresent(db);
      const before = lastPosition(db);
      const now = await positionOf(db);
      requireOnward(db, before, now);
      remember(db, now);
      const mark = await markOf(db, this.remembered.server);
      if (!this.#isUpToDate(now, mark)) {
        // Maybe another process of this server has written both.
        const found = readFile(this.file);
        if (found !== null && !(found instanceof StateFileError)) this.remembered = found;
        if (!this.#isUpToDate(now, mark)) await this.advance();
      }
      await this.#lookAtFile(now);
    } catch (error) {
      if (goneReason(db) !== null) return;
      const cause = error instanceof UnavailableError ? error.cause : error;
      if (absentCodes.has(codeOf(cause))) declareGone(db, `it was removed under the running server (${messageOf(cause)})`);
      // Otherwise it is away for the moment, and whoever needs it says so.
    }
  }

  /** Fold in what has come together, and notice when somebody else has written to SQLite's main file. */
  async #lookAtFile({ counter }: Position): Promise<void> {
    const path = pathOf(this.db);
    if (path === null) return;
    const found = readFile(this.file);
    const main = found === null || found instanceof StateFileError ? null : found.main;
    const touched = main !== null && !isUntouched(path, main);
    if (touched && (await this.#isOverwritten())) throw declareOverwritten(this.db);
    if (touched || counter - (main?.counter ?? 0) > foldEvery) await this.#fold();
  }

  /** Whether somebody else has written to SQLite's main file otherwise than SQLite does. */
  async #isOverwritten(): Promise<boolean> {
    const path = pathOf(this.db);
    if (path === null) return false;
    // Twice: what folds the -wal in says so only when it is done.
    for (let look = 0; look < 2; look++) {
      if (look > 0) await Bun.sleep(lookEveryMs);
      const found = readFile(this.file);
      const main = found === null || found instanceof StateFileError ? null : found.main;
      if (main === null || isUntouched(path, main)) return false;
      const frames = await foldedFrames(this.db);
      const now = lookAtMainFile(path, frames);
      if (!now || now.counter === main.counter || isFoldedIn(main, now.folded)) return false;
    }
    return true;
  }

  #isUpToDate({ counter }: Position, mark: string | null): boolean {
    // The transaction that wrote the file was counted after that.
    return counter <= this.remembered.counter + 1 && this.remembered.marks.includes(mark);
  }

  watch(): { stop(): void } {
    let looking = false;
    const timer = setInterval(() => {
      if (looking) return;
      looking = true;
      void this.look().finally(() => void (looking = false));
    }, lookEveryMs);
    timer.unref();
    return { stop: () => clearInterval(timer) };
  }
}

async function positionOf(db: Db): Promise<Position> {
  return db.selectFrom("lineage").select(["identity", "counter"]).executeTakeFirstOrThrow();
}

async function markOf(db: Db, server: string): Promise<string | null> {
  const row = await db.selectFrom("lineage_server").select("mark").where("server", "=", server).executeTakeFirst();
  return row?.mark ?? null;
}

async function setMark(tx: Tx, server: string, mark: string): Promise<void> {
  await tx
    .insertInto("lineage_server")
    .values({ server, mark })
    .onConflict((conflict) => conflict.column("server").doUpdateSet({ mark }))
    .execute();
}

function readFile(file: StateFile): Remembered | null | StateFileError {
  try {
    return file.read();
  } catch (error) {
    if (error instanceof StateFileError) return error;
    throw error;
  }
}

/** Why a database and what is remembered of it don't belong together, as the beginning of a sentence; null when they do. */
async function mismatch(tx: Tx, remembered: Remembered | null | StateFileError): Promise<string | null> {
  if (remembered instanceof StateFileError) return `what this server remembered of the database is lost: ${remembered.message}`;
  if (remembered) return apart(await positionOf(tx), await markOf(tx, remembered.server), remembered);
  const ports = await realPorts(tx).limit(1).executeTakeFirst();
  return ports ? "this server has never used the database, or no longer knows it" : null;
}

function apart({ identity, counter }: Position, mark: string | null, remembered: Remembered): string | null {
  if (identity !== remembered.identity) return "this is another database than the one that this server remembers";
  if (counter < remembered.counter) {
    return `the database went back: this server remembers change ${remembered.counter}, it is at ${counter}`;
  }
  if (!remembered.marks.includes(mark)) return "the database is a copy that went on without this server";
  return null;
}

/** Write the file for what is in the database now, unless another process of this server did that meanwhile. */
async function settleFile(tx: Tx, file: StateFile, server: string): Promise<Remembered> {
  const position = await positionOf(tx);
  const found = readFile(file);
  if (found !== null && !(found instanceof StateFileError) && apart(position, await markOf(tx, found.server), found) === null) return found;
  const mark = (await markOf(tx, server))!;
  const remembered: Remembered = { server, ...position, marks: [mark, mark], main: null };
  file.write(remembered);
  return remembered;
}

/** The ports that a switch really has. */
const realPorts = (db: Db) =>
  db
    .selectFrom("port")
    .innerJoin("switch", "switch.id", "port.switch_id")
    .select(["port.id as portId", "port.switch_id as switchId"])
    .where("switch.type", "not like", "%/mock");

/**
 * Believe no port of a real switch before it has been read back, and queue that; how many there are. `replacing`: the
 * database stands for another one, which may have known ports that this one does not.
 */
export async function adopt(tx: Tx, replacing: boolean): Promise<number> {
  const ports = await realPorts(tx).execute();
  await tx
    .updateTable("port")
    .set({ suspect: unreadPort, unread: 1 })
    .where("id", "in", (real) => real.selectFrom(realPorts(tx).as("real")).select("portId"))
    .execute();
  for (const port of ports) await enqueueSync(tx, { ...port, inMs: 0 });
  if (replacing) await tx.updateTable("lineage").set({ replacing: 1 }).execute();
  return ports.length;
}

/** Whether what a port carries that is registered now may be what a database that was replaced has put on it. */
export async function unreadWhenRegistered(tx: Tx): Promise<Flag> {
  return (await tx.selectFrom("lineage").select("replacing").executeTakeFirstOrThrow()).replacing;
}

/** Why something has to wait until every port has been read back, for administrators and for tenants; null when nothing has to. */
export async function unreadReason(db: Db): Promise<{ admin: string; tenant: string } | null> {
  const first = await db
    .selectFrom("port")
    .innerJoin("switch", "switch.id", "port.switch_id")
    .select(["port.label as port", "switch.label as switch", (e) => e.fn.countAll<number>().over().as("count")])
    .where("port.unread", "=", sql.lit(1))
    .limit(1)
    .executeTakeFirst();
  if (!first) return null;
  const why = "Nothing new is offered until every switch port has been read back since the database was replaced.";
  return {
    admin: `${why} Still to be read: ${first.count}, such as port ${quote(first.port)} of switch ${quote(first.switch)}; 'haas switch_reconcile' shows why, and 'haas port_trust' is for a switch that is gone for good.`,
    tenant: `${why} An administrator can see which.`,
  };
}

/** A VLAN that is free in the database may really be on a port that nobody has read back. */
export async function refuseWhileUnread(tx: Tx): Promise<void> {
  const why = await unreadReason(tx);
  if (why) throw blocked(why.admin, why.tenant);
}

import { CompiledQuery, type Kysely } from "kysely";
import { statSync } from "node:fs";
import { UnavailableError } from "../errors.ts";
import { availabilityOf, isDiskAway } from "./away.ts";
import type { Tables } from "./tables.ts";

// Whether a database that is open is still the one that was opened. It may be put back, replaced or deleted under a
// running server, which would go on to write where nobody reads, or to believe what is no longer true.

type Db = Kysely<Tables>;

/** Which database, and how often it was written to. */
export interface Position {
  identity: string;
  counter: number;
}

/** What this process knows of a database that it has open. */
interface Known {
  /** Null before the first look. */
  position: Position | null;
  /** SQLite's file. */
  file: { path: string; dev: bigint; ino: bigint } | null;
  overwritten: boolean;
  gone: string | null;
  listeners: ((why: string) => void)[];
}

const databases = new WeakMap<Db, Known>();

function known(db: Db): Known {
  let entry = databases.get(db);
  if (!entry) databases.set(db, (entry = { position: null, file: null, overwritten: false, gone: null, listeners: [] }));
  return entry;
}

/** From now on the database is the file that is at this path now. */
export function bindToFile(db: Db, file: NonNullable<Known["file"]>): void {
  known(db).file = file;
}

/** Why the database is not to be used any more; null as long as it is. */
export const goneReason = (db: Db): string | null => known(db).gone;

/** Call `listener` once, as soon as the database is known to be gone. */
export function onGone(db: Db, listener: (why: string) => void): void {
  const entry = known(db);
  if (entry.gone === null) entry.listeners.push(listener);
  else listener(entry.gone);
}

/** Nobody reads or writes the database any more. `why` is half a sentence. The error is for whoever found out. */
export function declareGone(db: Db, why: string): UnavailableError {
  const entry = known(db);
  if (entry.gone === null) {
    entry.gone = why;
    for (const listener of entry.listeners.splice(0)) listener(why);
  }
  return unavailable(entry.gone);
}

/** SQLite's file holds something else than SQLite has written there. */
export function declareOverwritten(db: Db): UnavailableError {
  known(db).overwritten = true;
  return declareGone(db, "its file was written over under the running server");
}

/** SQLite's path where its file was written over; null otherwise. */
export function overwrittenPath(db: Db): string | null {
  const { file, overwritten } = known(db);
  return overwritten ? file!.path : null;
}

/** Whether SQLite's file is not at its path any more. */
export function hasMoved(db: Db): boolean {
  const { file } = known(db);
  if (!file) return false;
  const now = statSync(file.path, { bigint: true, throwIfNoEntry: false });
  return now?.dev !== file.dev || now.ino !== file.ino;
}

/** SQLite's path; null on PostgreSQL. */
export const pathOf = (db: Db): string | null => known(db).file?.path ?? null;

export const unavailable = (why: string): UnavailableError =>
  new UnavailableError(`haas has lost its database: ${why}. Nothing was changed; try again once an administrator has put it right.`);

/** Throws UnavailableError when the database is known to be gone, or its file is found to be. */
export function requirePresent(db: Db): void {
  const { gone, file } = known(db);
  if (gone !== null) throw unavailable(gone);
  if (!file) return;
  let now;
  try {
    now = statSync(file.path, { bigint: true, throwIfNoEntry: false });
  } catch (error) {
    if (isDiskAway(error)) throw availabilityOf(db).refused(error);
    throw declareGone(db, `its file can't be looked at (${error instanceof Error ? error.message : String(error)})`);
  }
  if (!now) throw declareGone(db, "its file was deleted under the running server");
  if (now.dev !== file.dev || now.ino !== file.ino) throw declareGone(db, "its file was replaced under the running server");
}

const count = CompiledQuery.raw("update lineage set counter = counter + 1 returning identity, counter");

/** The last step of every transaction that writes: how far the database has come with it. */
export async function countChange(db: Db, tx: Db): Promise<Position> {
  const { rows } = await tx.executeQuery<Position>(count);
  const [position] = rows;
  // Also at the end: what is committed into a file that is gone would be lost.
  requirePresent(db);
  if (!position) throw declareGone(db, "it does not tell which database it is");
  requireOnward(db, known(db).position, { ...position, counter: position.counter - 1 });
  return position;
}

/** The last position that is known; null before the first look. */
export const lastPosition = (db: Db): Position | null => known(db).position;

/** Throws UnavailableError, and has the database never used again, unless `now` is `before` or further on. */
export function requireOnward(db: Db, before: Position | null, now: Position): void {
  if (!before) return;
  if (now.identity !== before.identity) throw declareGone(db, "another database was put in its place under the running server");
  if (now.counter < before.counter) {
    throw declareGone(db, `it was put back under the running server, from change ${before.counter} to change ${now.counter}`);
  }
}

/** What was committed, or read outside of a transaction that writes. */
export function remember(db: Db, position: Position): void {
  const entry = known(db);
  if (!entry.position || entry.position.identity !== position.identity || position.counter > entry.position.counter) {
    entry.position = position;
  }
}

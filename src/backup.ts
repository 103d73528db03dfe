import { Database } from "bun:sqlite";
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import type { Config } from "./config.ts";
import { faultOf, setForeignWalAside } from "./db/main-file.ts";
import { StateFile, syncFolder } from "./db/state-file.ts";
import { DatabaseError, isPostgresUri, openDatabase, sqlitePath } from "./db/open.ts";
import { write } from "./db/transaction.ts";
import { messageOf } from "./errors.ts";
import { adopt } from "./networking/lineage.ts";

// Copies of SQLite's database, and back. PostgreSQL has its own programs for both.

const beside = ["-wal", "-shm", "-journal"];

/** Copy the database as it is at this moment into a new file, for this user only. A server may run on it. */
export function backUp({ databaseUri: uri, stateDir }: Config, file: string): void {
  if (isPostgresUri(uri)) throw new DatabaseError("This database is PostgreSQL's: back it up with pg_dump, as docs/operators.md says.");
  const path = sqlitePath(uri);
  setForeignWalAside(path, () => StateFile.in(stateDir, uri).mainFile());
  const database = openExisting(path, "database");
  try {
    requireHaas(database, path);
    copy(database, file);
  } finally {
    database.close();
  }
}

export interface Restored {
  /** The database. */
  path: string;
  /** Where the one before is kept now; null when there was none. */
  kept: string | null;
  /** How many ports of real switches have to be read back. */
  ports: number;
  /** What an operator should know. */
  warnings: readonly string[];
}

/**
 * Put a copy of the backup in the database's place: as a database of its own, none of whose ports is believed before
 * it has been read back. No server may run. Stopped at any moment, it leaves the old one or the new one, whole.
 */
export async function restore({ databaseUri: uri, stateDir }: Config, file: string): Promise<Restored> {
  if (isPostgresUri(uri)) throw new DatabaseError("This database is PostgreSQL's: restore it with pg_restore, as docs/operators.md says.");
  const path = existsSync(sqlitePath(uri)) ? realpathSync(sqlitePath(uri)) : sqlitePath(uri);
  removeUnfinished(path);
  try {
    setForeignWalAside(path, () => StateFile.in(stateDir, uri).mainFile());
  } catch {
    // It is damaged, which is what backups are for.
  }
  const fresh = `${path}.restoring-${process.pid}`;
  const warnings = copyOf(file, path, fresh);
  try {
    const ports = await renew(fresh, file);
    return { path, kept: exchange(path, fresh), ports, warnings };
  } finally {
    for (const suffix of ["", ...beside]) rmSync(fresh + suffix, { force: true });
  }
}

/** What a restore left that was killed. */
function removeUnfinished(path: string): void {
  for (const name of readdirSync(dirname(path))) {
    const pid = name.startsWith(`${basename(path)}.restoring-`) ? /-(\d+)(?:-\w+)?$/.exec(name)?.[1] : undefined;
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) rmSync(join(dirname(path), name), { force: true });
  }
}

/** A checked copy of the backup in `fresh`. */
function copyOf(file: string, path: string, fresh: string): string[] {
  const source = openExisting(file, "backup");
  try {
    const [from, to] = [statSync(file, { bigint: true }), statSync(path, { bigint: true, throwIfNoEntry: false })];
    if (to && from.dev === to.dev && from.ino === to.ino) throw new DatabaseError(`${file} is the database itself.`);
    requireHaas(source, file);
    const fault = faultOf(source);
    if (fault !== null) throw new DatabaseError(`${file} is damaged: ${fault}.`);
    copy(source, fresh);
    const open = (Number(from.mode) & 0o077) !== 0;
    return open ? [`others can read ${file}, which holds passwords; run: chmod 600 ${file}`] : [];
  } finally {
    source.close();
  }
}

/** Make the copy another database than the one that it was made of. How many ports have to be read back. */
async function renew(fresh: string, file: string): Promise<number> {
  const db = await openDatabase(`sqlite:///${fresh}`, { existing: true }).catch((error: unknown) => {
    throw new DatabaseError(messageOf(error).replace(fresh, file), { cause: error });
  });
  try {
    return await write(db, async (tx) => {
      await tx.updateTable("lineage").set({ identity: crypto.randomUUID() }).execute();
      return adopt(tx, true);
    });
  } finally {
    await db.destroy();
  }
}

/** Put `fresh` in the place of the database, which is kept beside it; where. */
function exchange(path: string, fresh: string): string | null {
  // The whole of it in one file.
  const database = openExisting(fresh, "copy");
  database.query("pragma journal_mode = delete").get();
  database.close();
  sync(fresh);
  const { uid, gid } = statSync(existsSync(path) ? path : dirname(path));
  // Root may restore what another user's haas has to open.
  if (process.geteuid?.() === 0) chownSync(fresh, uid, gid);
  if (!existsSync(path)) {
    // They would be taken for the new one's.
    for (const suffix of beside) rmSync(path + suffix, { force: true });
    renameSync(fresh, path);
    syncFolder(path);
    return null;
  }
  const old = new Database(path, { create: false, readwrite: true });
  try {
    const whole = takeAlone(old, path);
    const kept = `${path}.before-restore-${new Date().toISOString().replace(/[-:]/g, "")}`;
    chmodSync(path, 0o600);
    linkSync(path, kept);
    for (const suffix of beside) {
      if (!existsSync(path + suffix)) continue;
      // What SQLite keeps while it has the file alone; of one that is too damaged to be taken in, what belongs to it.
      if (whole) rmSync(path + suffix);
      else {
        chmodSync(path + suffix, 0o600);
        renameSync(path + suffix, kept + suffix);
      }
    }
    syncFolder(path);
    renameSync(fresh, path);
    syncFolder(path);
    return kept;
  } finally {
    old.close();
  }
}

/**
 * Nobody else has the database open, nor can open it before `database` is closed. True when all of it is in its one file
 * then; false when it is too damaged for that, which is what backups are for.
 */
function takeAlone(database: Database, path: string): boolean {
  const inUse = new DatabaseError(`The database ${path} is in use: stop haas, and whatever else has it open, first.`);
  try {
    database.run("pragma busy_timeout = 0");
    database.run("pragma locking_mode = exclusive");
    const mode = database.query<{ journal_mode: string }, []>("pragma journal_mode = delete").get();
    if (mode?.journal_mode !== "delete") throw inUse;
    database.run("begin exclusive");
    return true;
  } catch (error) {
    if (error === inUse || (error instanceof Error && "code" in error && /^SQLITE_(BUSY|LOCKED)/.test(String(error.code)))) throw inUse;
    return false;
  }
}

function openExisting(path: string, what: string): Database {
  try {
    if (!statSync(path).isFile()) throw new Error("it is no file");
    return new Database(path, { create: false, readwrite: true });
  } catch (error) {
    const absent = error instanceof Error && "code" in error && error.code === "ENOENT";
    throw new DatabaseError(absent ? `There is no ${what} ${path}.` : `The ${what} ${path} can't be opened: ${messageOf(error)}.`, {
      cause: error,
    });
  }
}

function requireHaas(database: Database, path: string): void {
  let tables;
  try {
    database.run("pragma busy_timeout = 5000");
    tables = database.query("select count(*) from sqlite_master where name in ('kysely_migration', 'networking_action')").values();
  } catch (error) {
    throw new DatabaseError(`${path} is no database of haas: ${messageOf(error)}.`, { cause: error });
  }
  if (tables[0]?.[0] !== 2) throw new DatabaseError(`${path} is no database of haas.`);
}

/** Copy a database, as it is at this moment, into a new file that nobody else can read; all of it or nothing. */
function copy(database: Database, file: string): void {
  try {
    closeSync(openSync(file, "wx", 0o600));
  } catch (error) {
    const there = error instanceof Error && "code" in error && error.code === "EEXIST";
    throw new DatabaseError(there ? `${file} exists already.` : `${file} can't be written: ${messageOf(error)}.`, { cause: error });
  }
  try {
    database.run("vacuum into ?", [file]);
    sync(file);
    syncFolder(file);
  } catch (error) {
    for (const suffix of ["", ...beside]) rmSync(file + suffix, { force: true });
    throw new DatabaseError(`${file} can't be written: ${messageOf(error)}.`, { cause: error });
  }
}

function sync(file: string): void {
  const descriptor = openSync(file, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

import { Database } from "bun:sqlite";
import { chmodSync, closeSync, fstatSync, openSync, realpathSync, statSync, unlinkSync } from "node:fs";
import { CompiledQuery, Kysely, type MigrationResultSet, Migrator } from "kysely";
import { migrations } from "../../migrations/index.ts";
import { messageOf, UnavailableError } from "../errors.ts";
import { isBusy, type Notice, watchAvailability } from "./away.ts";
import { bindToFile, hasMoved, overwrittenPath, requirePresent } from "./lineage.ts";
import { faultOf, type MainFile, moveAway, setAside, setForeignWalAside } from "./main-file.ts";
import { PostgresServer } from "./postgres.ts";
import { HaasSqliteDialect } from "./sqlite.ts";
import type { Tables } from "./tables.ts";
import type { Db } from "./transaction.ts";

/** Each waits a second for SQLite's lock. */
const migrationTries = 20;
/** A database that can't be opened or is newer than this program: one sentence for the operator. */
export class DatabaseError extends Error {}

interface OpenOptions {
  /** SQLite's main file, as it was left. */
  recall?: () => MainFile | null;
  /** Refuse a place where no database of haas is, instead of making one. */
  existing?: boolean;
  /** Told what an operator should know. */
  notice?: Notice;
}

/** Open the database at `uri`, create or migrate its tables, and refuse one that is newer than this program. */
export async function openDatabase(
  uri: string,
  { recall = () => null, existing = false, notice = () => {} }: OpenOptions = {},
): Promise<Db> {
  const opened = isPostgresUri(uri) ? null : openSqlite(uri, existing, recall, notice);
  const sqlite = opened?.sqlite;
  const dialect = sqlite ? new HaasSqliteDialect(sqlite, () => requirePresent(db)) : new PostgresServer(uri);
  const db: Db = new Kysely<Tables>({ dialect });
  watchAvailability(db, dialect.availability);
  try {
    if (sqlite) versions.set(db, versionOf(sqlite));
    if (opened) {
      bindToFile(db, opened);
      opened.sqlite.run("pragma busy_timeout = 1000");
      // It is a database: whatever else is there by mistake stays as it is.
      opened.sqlite.query("pragma schema_version").get();
      if (existing) requireWhole(opened.sqlite);
      closeToOthers(opened.path, notice);
    }
    await migrate(db, existing);
    // From now on waiting for another process's lock is ours to do, without holding up everything else.
    sqlite?.run("pragma busy_timeout = 20");
    if (opened) besideOf.set(db, filesBeside(opened.path));
    dialect.availability.tell(notice);
  } catch (thrown) {
    await db.destroy().catch(() => {});
    if (thrown instanceof DatabaseError) throw thrown;
    const error = thrown instanceof UnavailableError ? (thrown.cause ?? thrown) : thrown;
    // Kysely stumbles over the tables of a damaged file.
    const why = error instanceof TypeError ? "it is damaged; restore a backup" : messageOf(error);
    throw new DatabaseError(`The database ${redactUri(uri)} can't be used: ${why}.`, { cause: error });
  }
  return db;
}

const besideOf = new WeakMap<Db, ReadonlyMap<string, bigint>>();

/** `-wal` and `-shm` as they are now: path and inode. SQLite looks for them where links to the database end. */
function filesBeside(path: string): Map<string, bigint> {
  const real = realpathSync(path);
  return new Map(
    ["-wal", "-shm"].flatMap((suffix) => {
      const stat = statSync(real + suffix, { bigint: true, throwIfNoEntry: false });
      return stat ? [[real + suffix, stat.ino] as const] : [];
    }),
  );
}

/** Take what was committed into SQLite's main file, as far as nobody else reads it; how many frames of the -wal are in it. */
export const foldIn = (db: Db) => checkpoint(db, "passive");

/** How many frames of the -wal are in SQLite's main file. */
export const foldedFrames = (db: Db) => checkpoint(db, "noop");

async function checkpoint(db: Db, mode: "passive" | "noop"): Promise<number> {
  const { rows } = await db.executeQuery<{ checkpointed: number }>(CompiledQuery.raw(`pragma wal_checkpoint(${mode})`));
  return rows[0]!.checkpointed;
}

/**
 * Close a database that is not to be used any more. Where its file is gone from its path, or was written over, what was
 * committed goes into the file that is gone, wherever it is now, and `-wal` and `-shm` are removed unless they are
 * another database's already: whoever opens what is at the path now would take them for its own.
 * Rejects, and leaves the database open, when closing it would harm what was written over it.
 */
export async function abandonDatabase(db: Db): Promise<void> {
  const overwritten = overwrittenPath(db);
  if (overwritten !== null) await moveAway(overwritten);
  const beside = hasMoved(db) ? besideOf.get(db) : undefined;
  // In its turn: a transaction may be under way. When it can't be, what is in the -wal goes with that.
  if (beside && overwritten === null) await db.executeQuery(CompiledQuery.raw("pragma wal_checkpoint(truncate)")).catch(() => {});
  // SQLite itself leaves all of them alone once the file has moved.
  await db.destroy();
  for (const [path, inode] of beside ?? []) {
    if (statSync(path, { bigint: true, throwIfNoEntry: false })?.ino !== inode) continue;
    // What was not folded in is nowhere else now.
    if (overwritten !== null && path.endsWith("-wal")) setAside(path);
    else unlinkSync(path);
  }
}

const versions = new WeakMap<Db, () => string>();

/**
 * A text that differs whenever the data may differ; null where the database can't tell cheaply.
 * What a query read between two equal versions is the committed data of that version, because
 * queries and transactions take turns at the one connection.
 */
export const databaseVersion = (db: Db): string | null => versions.get(db)?.() ?? null;

/** Changes by this connection, be they committed or not, and commits by all others. */
function versionOf(sqlite: Database): () => string {
  const own = sqlite.query("select total_changes()");
  const others = sqlite.query("pragma data_version");
  return () => `${String(own.values())} ${String(others.values())}`;
}

export const isPostgresUri = (uri: string) => /^postgres(ql)?:\/\//.test(uri);

/** The URI without its password, which may hold an `@` and may stand among the options. */
export const redactUri = (uri: string) => uri.replace(/^([a-z]+:\/\/[^:/@]*):.*@/, "$1:***@").replace(/([?&]\w*password=)[^&]*/gi, "$1***");

async function migrate(db: Db, existing: boolean): Promise<void> {
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } });
  const tables = await db.introspection.getTables({ withInternalKyselyTables: true });
  if (tables.some((table) => table.name === "kysely_migration")) {
    const known = new Set(Object.keys(migrations));
    const applied = await db.withTables<{ kysely_migration: { name: string } }>().selectFrom("kysely_migration").select("name").execute();
    const newer = applied.find(({ name }) => !known.has(name));
    if (newer) {
      throw new DatabaseError(
        `The database is newer than this program: it holds migration ${newer.name}, which this haas does not know. Use the haas that made it, or a later one.`,
      );
    }
  } else if (existing) throw new DatabaseError(noDatabase);
  // Another server may be starting on the same database, or writing to it.
  for (let attempt = 1; ; attempt++) {
    const { error }: MigrationResultSet = await migrator.migrateToLatest();
    if (!error) return;
    if (!isBusy(error) || attempt === migrationTries) throw error;
  }
}

/** `sqlite:///relative.db` or `sqlite:////absolute.db`; the path that SQLite gets. */
export function sqlitePath(uri: string): string {
  const path = /^sqlite:\/\/\/(.+)$/.exec(uri)?.[1];
  if (path === undefined) {
    throw new DatabaseError(
      `The database URI ${redactUri(uri)} is none of sqlite:///relative.db, sqlite:////absolute.db, postgresql://user:password@host:5432/name.`,
    );
  }
  return path;
}

function openSqlite(uri: string, existing: boolean, recall: () => MainFile | null, notice: Notice) {
  const path = sqlitePath(uri);
  try {
    const aside = setForeignWalAside(path, recall);
    if (aside !== null) notice("info", aside);
    // It holds the passwords of switches and BMCs: a new one is for this user only. SQLite gives its other files the same mode.
    const descriptor = openSync(path, existing ? "r" : "a", 0o600);
    const { dev, ino } = fstatSync(descriptor, { bigint: true });
    closeSync(descriptor);
    return { path, dev, ino, sqlite: new Database(path, { create: !existing, readwrite: true, strict: false }) };
  } catch (error) {
    if (error instanceof DatabaseError) throw error;
    throw new DatabaseError(`The database file ${path} can't be opened: ${messageOf(error)}.`, { cause: error });
  }
}

const noDatabase = "What is there is no database of haas, or not all of it.";

function requireWhole(sqlite: Database): void {
  const known = sqlite.query("select 1 from sqlite_master where name = 'kysely_migration'").get();
  if (known === null || faultOf(sqlite) !== null) throw new DatabaseError(noDatabase);
}

/** Passwords of switches and BMCs, and everybody's hashes, are for nobody else on the machine. */
function closeToOthers(path: string, notice: Notice): void {
  for (const file of [path, `${path}-wal`, `${path}-shm`]) {
    const stat = statSync(file, { throwIfNoEntry: false });
    if (!stat || (stat.mode & 0o077) === 0) continue;
    const mode = (stat.mode & 0o777).toString(8);
    try {
      chmodSync(file, 0o600);
    } catch (error) {
      throw new DatabaseError(
        `Others can read the database file ${file} (mode ${mode}), which holds passwords, and that can't be changed: ${messageOf(error)}. Have its owner run: chmod 600 ${file}`,
        { cause: error },
      );
    }
    notice("warning", `others could read ${file} (mode ${mode}), which holds passwords; its mode is 600 now`);
  }
}

import { Database } from "bun:sqlite";
import { closeSync, openSync } from "node:fs";
import {
  CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type Driver,
  Kysely,
  type MigrationResultSet,
  Migrator,
  PostgresDialect,
  SqliteAdapter,
} from "kysely";
import { BunSqliteDialect } from "kysely-bun-sqlite";
import pg from "pg";
import { migrations } from "../../migrations/index.ts";
import { messageOf } from "../errors.ts";
import type { Tables } from "./tables.ts";
import { type Db, isBusy } from "./transaction.ts";
import { Turns } from "./turns.ts";

// bigint columns hold milliseconds since 1970, which a number holds exactly.
pg.types.setTypeParser(pg.types.builtins.INT8, Number);

/** Each waits a second for SQLite's lock. */
const migrationTries = 20;
const poolSize = 10;
const connectTimeoutMs = 10_000;
const lockTimeoutMs = 15_000;
const statementTimeoutMs = 30_000;

/** A database that can't be opened or is newer than this program: one sentence for the operator. */
export class DatabaseError extends Error {}

/** Open the database at `uri`, create or migrate its tables, and refuse one that is newer than this program. */
export async function openDatabase(uri: string): Promise<Db> {
  const sqlite = isPostgresUri(uri) ? null : openSqlite(uri);
  const db = new Kysely<Tables>({ dialect: sqlite ? new HaasSqliteDialect(sqlite) : postgresDialect(uri) });
  try {
    if (sqlite) versions.set(db, versionOf(sqlite));
    await migrate(db);
    // From now on waiting for another process's lock is ours to do, without holding up everything else.
    sqlite?.run("pragma busy_timeout = 20");
  } catch (error) {
    await db.destroy().catch(() => {});
    if (error instanceof DatabaseError) throw error;
    // Kysely stumbles over the tables of a damaged file.
    const why = error instanceof TypeError ? "it is damaged; restore a backup" : messageOf(error);
    throw new DatabaseError(`The database ${redactUri(uri)} can't be used: ${why}.`, { cause: error });
  }
  return db;
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

async function migrate(db: Db): Promise<void> {
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
  }
  // Another server may be starting on the same database, or writing to it.
  for (let attempt = 1; ; attempt++) {
    const { error }: MigrationResultSet = await migrator.migrateToLatest();
    if (!error) return;
    if (!isBusy(error) || attempt === migrationTries) throw error;
  }
}

function postgresDialect(uri: string): Dialect {
  const pool = new pg.Pool({
    connectionString: uri,
    max: poolSize,
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: statementTimeoutMs,
    // Ours, for a server that hangs.
    query_timeout: statementTimeoutMs + 5_000,
    keepAlive: true,
    lock_timeout: lockTimeoutMs,
    application_name: "haas",
  });
  // The pool listens for errors of idle connections only; the query of a busy one fails with the same error.
  pool.on("connect", (client) => void client.on("error", () => {}));
  // A connection that breaks while idle: the pool replaces it, and the next query says what is wrong.
  pool.on("error", () => {});
  return new PostgresDialect({ pool });
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

function openSqlite(uri: string): Database {
  const path = sqlitePath(uri);
  try {
    // It holds the passwords of switches and BMCs: a new one is for this user only. SQLite gives its other files the same mode.
    closeSync(openSync(path, "a", 0o600));
    return new Database(path, { create: true, strict: false });
  } catch (error) {
    throw new DatabaseError(`The database file ${path} can't be opened: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * kysely-bun-sqlite with what haas relies on: durable commits, foreign keys, the write lock taken at
 * BEGIN (so that no transaction fails half-way because another process wrote), migrations that roll
 * back as a whole, statements prepared once, and turns at the connection in order.
 */
class HaasSqliteDialect extends BunSqliteDialect {
  constructor(database: Database) {
    super({
      // `query` caches the prepared statement by its text, `prepare` does not.
      database: new Proxy(database, {
        get(target, name) {
          if (name === "prepare") return target.query.bind(target);
          const value = Reflect.get(target, name);
          return typeof value === "function" ? value.bind(target) : value;
        },
      }),
      onCreateConnection: async (connection) => {
        for (const pragma of [
          "busy_timeout = 1000",
          "journal_mode = WAL",
          "synchronous = FULL",
          "foreign_keys = ON",
          "temp_store = MEMORY",
        ]) {
          await connection.executeQuery(CompiledQuery.raw(`pragma ${pragma}`));
        }
      },
    });
  }

  override createDriver(): Driver {
    const driver = super.createDriver();
    // The driver's own lock wakes everybody who waits whenever it is free.
    const turns = new Turns();
    let connection: Promise<DatabaseConnection> | null = null;
    const acquire = driver.acquireConnection.bind(driver);
    driver.acquireConnection = async () => {
      await turns.take();
      return (connection ??= acquire());
    };
    driver.releaseConnection = async () => turns.pass();
    driver.beginTransaction = async (connection: DatabaseConnection) => {
      await connection.executeQuery(CompiledQuery.raw("begin immediate"));
    };
    return driver;
  }

  override createAdapter(): SqliteAdapter {
    return new TransactionalSqliteAdapter();
  }
}

class TransactionalSqliteAdapter extends SqliteAdapter {
  override get supportsTransactionalDdl(): boolean {
    return true;
  }
}

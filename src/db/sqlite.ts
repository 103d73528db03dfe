import type { Database } from "bun:sqlite";
import { CompiledQuery, type DatabaseConnection, type Driver, type QueryResult, SqliteAdapter } from "kysely";
import { BunSqliteDialect } from "kysely-bun-sqlite";
import { Availability, codeOf, isBusy, type Probe, verdictOf } from "./away.ts";
import { Turns } from "./turns.ts";

const walLimitBytes = 4 * 1024 * 1024;

/** How a COMMIT fails that may nevertheless have been made: it was written, and what came then was not. */
const unknownCommit = /^SQLITE_IOERR_(?!WRITE)/;

/**
 * kysely-bun-sqlite with what haas relies on: durable commits, foreign keys, the write lock taken at
 * BEGIN (so that no transaction fails half-way because another process wrote), migrations that roll
 * back as a whole, statements prepared once, turns at the connection in order, and errors that say when it is the disk.
 */
export class HaasSqliteDialect extends BunSqliteDialect implements Probe {
  readonly availability = new Availability(this);
  // The driver's own lock wakes everybody who waits whenever it is free.
  readonly #turns = new Turns();

  /** `confirm` throws when the file must not be written to any more. */
  constructor(
    private readonly sqlite: Database,
    private readonly confirm: () => void,
  ) {
    super({
      // `query` caches the prepared statement by its text, `prepare` does not.
      database: new Proxy(sqlite, {
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
          // haas does that where it can tell that it was haas: see main-file.ts.
          "wal_autocheckpoint = 0",
          // So that a -wal which grew while it could not be folded in gives its room back.
          `journal_size_limit = ${walLimitBytes}`,
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
    let connection: Promise<Connection> | null = null;
    const acquire = driver.acquireConnection.bind(driver);
    driver.acquireConnection = async () => {
      await this.#turns.take();
      return (connection ??= acquire().then((inner) => new Connection(inner, this.sqlite, this.availability)));
    };
    driver.releaseConnection = async () => this.#turns.pass();
    driver.beginTransaction = (connection) => (connection as Connection).begin();
    driver.commitTransaction = (connection) => (connection as Connection).commit();
    driver.rollbackTransaction = (connection) => (connection as Connection).rollback();
    const destroy = driver.destroy.bind(driver);
    driver.destroy = () => {
      this.availability.close();
      return destroy();
    };
    return driver;
  }

  override createAdapter(): SqliteAdapter {
    return new TransactionalSqliteAdapter();
  }

  /** Reads go on without it; what counts is whether a change can be made. */
  async probe(): Promise<void> {
    await this.#turns.take();
    try {
      if (this.availability.closed) return;
      this.confirm();
      this.sqlite.run("begin immediate");
      this.sqlite.run("update lineage set counter = counter + 1");
      this.sqlite.run("commit");
    } catch (error) {
      if (this.sqlite.inTransaction) this.sqlite.run("rollback");
      // Another process writes to it.
      if (!isBusy(error)) throw error;
    } finally {
      this.#turns.pass();
    }
  }

  /** Nobody waits for SQLite. */
  cut(): void {}
}

class Connection implements DatabaseConnection {
  constructor(
    private readonly inner: DatabaseConnection,
    private readonly sqlite: Database,
    private readonly availability: Availability,
  ) {}

  async executeQuery<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    try {
      return await this.inner.executeQuery(query);
    } catch (error) {
      throw this.availability.failed(error, verdictOf(error));
    }
  }

  streamQuery<R>(query: CompiledQuery): AsyncIterableIterator<QueryResult<R>> {
    return this.inner.streamQuery(query);
  }

  async begin(): Promise<void> {
    await this.rollback();
    await this.executeQuery(CompiledQuery.raw("begin immediate"));
  }

  async commit(): Promise<void> {
    try {
      await this.inner.executeQuery(CompiledQuery.raw("commit"));
    } catch (error) {
      throw this.availability.failed(error, verdictOf(error), unknownCommit.test(codeOf(error)));
    }
  }

  /** SQLite has done it itself after some errors. Never rejects: that would hide why. */
  async rollback(): Promise<void> {
    if (this.sqlite.inTransaction) await this.executeQuery(CompiledQuery.raw("rollback")).catch(() => {});
  }
}

class TransactionalSqliteAdapter extends SqliteAdapter {
  override get supportsTransactionalDdl(): boolean {
    return true;
  }
}

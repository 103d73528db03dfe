import type { Db } from "./transaction.ts";
import { databaseVersion } from "./open.ts";

const entryLimit = 20_000;

/**
 * What was read from the database, for exactly as long as nobody, in whatever process, has changed it.
 *
 * With SQLite that costs a microsecond to know. PostgreSQL has nothing of the kind, so there nothing
 * is kept.
 */
export class ReadCache<Value extends object | string> {
  readonly #databases = new WeakMap<Db, { version: string; values: Map<string, Value> }>();

  async get(db: Db, key: string, read: () => Promise<Value>): Promise<Value> {
    const version = databaseVersion(db);
    if (version === null) return read();
    let cache = this.#databases.get(db);
    if (!cache || cache.version !== version || cache.values.size >= entryLimit) {
      cache = { version, values: new Map() };
      this.#databases.set(db, cache);
    }
    const known = cache.values.get(key);
    if (known !== undefined) return known;
    const value = await read();
    // A change during the read: nobody knows which side of it the value is on.
    if (databaseVersion(db) === version) cache.values.set(key, value);
    return value;
  }
}

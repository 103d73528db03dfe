import { type Kysely, PostgresAdapter, sql, type Transaction } from "kysely";
import { HaasError } from "../errors.ts";
import { countChange, remember, requirePresent } from "./lineage.ts";
import type { Tables } from "./tables.ts";
import { Turns } from "./turns.ts";

export type Db = Kysely<Tables>;
export type Tx = Transaction<Tables>;

/** Any number, as long as every haas on one PostgreSQL takes the same. */
const writerLock = 4_247_001;
const busyTries = 150;

export const isPostgres = (db: Db): boolean => db.getExecutor().adapter instanceof PostgresAdapter;

/**
 * Run `change` in the one transaction that may write at this moment, over all processes.
 *
 * SQLite takes its write lock at BEGIN (see open.ts), PostgreSQL an advisory lock as the first
 * statement; from then on every statement sees all that was committed and nobody else changes
 * anything. So a check and the write that follows it belong together, on both databases alike.
 * The constraints hold regardless. Never await hardware in here: it would stop every writer.
 *
 * The last statement counts the transaction, and rolls it back (UnavailableError) when this is not the database
 * that it was: see lineage.ts. `change` may run again when the database was busy, so it must have no effect outside of `tx`.
 */
export async function write<T>(db: Db, change: (tx: Tx) => Promise<T>): Promise<T> {
  const postgres = isPostgres(db);
  const turns = writers.get(db) ?? new Turns();
  writers.set(db, turns);
  for (let attempt = 1; ; attempt++) {
    await turns.take();
    try {
      requirePresent(db);
      const { result, position } = await db.transaction().execute(async (tx) => {
        if (postgres) await sql`select pg_advisory_xact_lock(${writerLock})`.execute(tx);
        return { result: await change(tx), position: await countChange(db, tx) };
      });
      remember(db, position);
      return result;
    } catch (error) {
      if (!isBusy(error)) throw error;
      if (attempt === busyTries) {
        throw new HaasError("ServerError", "The database was busy for too long; try again.", { cause: error });
      }
    } finally {
      turns.pass();
    }
    await Bun.sleep(Math.random() * Math.min(5 * attempt, 100));
  }
}

/** This process's writers wait here, not each with a connection of the pool in hand, which readers need. */
const writers = new WeakMap<Db, Turns>();

/** SQLite's lock held by another process; PostgreSQL's serialization failure, deadlock and lock time-out. */
const busyCodes = new Set(["SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "40001", "40P01", "55P03"]);
export const isBusy = (error: unknown) => busyCodes.has(codeOf(error));

const uniqueCodes = new Set(["SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "23505"]);
const foreignKeyCodes = new Set(["SQLITE_CONSTRAINT_FOREIGNKEY", "23503"]);

const codeOf = (error: unknown): string => (typeof error === "object" && error !== null && "code" in error ? String(error.code) : "");

/**
 * Turn a violated constraint into the documented error: `onUnique` when something like it exists
 * already, `onForeignKey` when something still refers to it.
 */
export async function translate<T>(
  statement: Promise<T>,
  { onUnique, onForeignKey }: { onUnique?: () => HaasError; onForeignKey?: () => HaasError },
): Promise<T> {
  try {
    return await statement;
  } catch (error) {
    const code = codeOf(error);
    if (onUnique && uniqueCodes.has(code)) throw onUnique();
    if (onForeignKey && foreignKeyCodes.has(code)) throw onForeignKey();
    throw error;
  }
}

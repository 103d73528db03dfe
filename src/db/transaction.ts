import { type Kysely, PostgresAdapter, sql, type Transaction } from "kysely";
import { Deadline } from "../deadline.ts";
import { type HaasError, UnavailableError } from "../errors.ts";
import { availabilityOf, codeOf, isBusy } from "./away.ts";
import { countChange, goneReason, remember, requirePresent } from "./lineage.ts";
import type { Tables } from "./tables.ts";
import { Turns } from "./turns.ts";

export type Db = Kysely<Tables>;
export type Tx = Transaction<Tables>;

/** Any number, as long as every haas on one PostgreSQL takes the same. */
const writerLock = 4_247_001;
/** How long a change waits for other changes, this process's and those of others. */
const patienceMs = 10_000;
const longestPauseMs = 100;
/** Between the tries of what has to be done in the end. */
const againMs = 300;

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
  const availability = availabilityOf(db);
  const turns = writers.get(db) ?? new Turns();
  writers.set(db, turns);
  const deadline = new Deadline(patienceMs);
  for (let attempt = 1; ; attempt++) {
    await availability.requireHere();
    if (!(await turns.take(deadline.left))) throw availability.refused(new Error(tooBusy));
    try {
      await availability.requireHere();
      requirePresent(db);
      const { result, position } = await db.transaction().execute(async (tx) => {
        if (postgres) await sql`select pg_advisory_xact_lock(${writerLock})`.execute(tx);
        return { result: await change(tx), position: await countChange(db, tx) };
      });
      remember(db, position);
      return result;
    } catch (error) {
      if (!isBusy(error)) throw error;
      if (deadline.passed) throw availability.refused(new Error(tooBusy, { cause: error }));
    } finally {
      turns.pass();
    }
    await Bun.sleep(Math.random() * Math.min(5 * attempt, longestPauseMs));
  }
}

const tooBusy = "others were writing to it for too long";

/**
 * Make a change that has to be made at the end of something, whatever that was. While the database is away it is kept,
 * and made as soon as that is back, unless that takes longer than `keepMs`. It must be harmless however late it comes.
 */
export async function writeInTheEnd(db: Db, keepMs: number, change: (tx: Tx) => Promise<unknown>): Promise<void> {
  const availability = availabilityOf(db);
  const attempt = () =>
    write(db, change).catch((error: unknown) => {
      if (!(error instanceof UnavailableError) || goneReason(db) !== null) throw error;
      return "later" as const;
    });
  if ((await attempt()) !== "later") return;
  void (async () => {
    for (const deadline = new Deadline(keepMs); !deadline.passed && !availability.closed;) {
      await Bun.sleep(againMs);
      if (availability.closed || (await attempt()) !== "later") return;
    }
  })().catch(() => {});
}

/** This process's writers wait here, not each with a connection of the pool in hand, which readers need. */
const writers = new WeakMap<Db, Turns>();

const uniqueCodes = new Set(["SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "23505"]);
const foreignKeyCodes = new Set(["SQLITE_CONSTRAINT_FOREIGNKEY", "23503"]);

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

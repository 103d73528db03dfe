import { readFileSync } from "node:fs";
import { uptime } from "node:os";
import { type RawBuilder, sql, type SqlBool } from "kysely";
import { type Db, isPostgres } from "./transaction.ts";

/** Nothing in the database waits for longer than this, leases included. */
export const longestPauseMs = 55_000;
/**
 * So a stored time that is further ahead than this comes from a clock that was set since, or from before a reboot, and
 * counts as past. The difference is for queries that were made before they got their turn at the database.
 */
const farAheadMs = 60_000;

/**
 * The time that all processes on a database agree on, in milliseconds: PostgreSQL's own clock; on SQLite, whose
 * processes share a machine, the time since its boot, which nobody can set. For comparing, not for showing.
 */
export const databaseNow = (db: Db): RawBuilder<number> =>
  isPostgres(db) ? sql<number>`(extract(epoch from clock_timestamp()) * 1000)::bigint` : sql<number>`cast(${sinceBootMs()} as integer)`;

/** The calendar that all processes on a database share, in milliseconds since 1970: for showing, and for what is compared with such a time. It can be set. */
export const calendarNow = (db: Db): RawBuilder<number> => (isPostgres(db) ? databaseNow(db) : sql<number>`cast(${Date.now()} as integer)`);

/** So many milliseconds from now, for a column. */
export const databaseTime = (db: Db, inMs: number): RawBuilder<number> => sql<number>`(${databaseNow(db)} + ${sql.lit(Math.round(inMs))})`;

/** Whether the time in a column, on the database's clock, has come. */
export const isPast = (db: Db, column: string): RawBuilder<SqlBool> => {
  const now = databaseNow(db);
  return sql<SqlBool>`(${sql.ref(column)} <= ${now} or ${sql.ref(column)} > ${now} + ${sql.lit(farAheadMs)})`;
};

const offsets = new WeakMap<Db, number>();
/** Calendar and database's clock drift and are read one after the other; more than this is a clock that was set. */
const offsetSlackMs = 1_000;

/** A time on the database's clock, which is `inMs` ahead, for showing: the same text for the same time, however often it is asked for. */
export function shownTime(db: Db, time: number, inMs: number): string {
  const offset = Date.now() + inMs - time;
  const known = offsets.get(db);
  if (known === undefined || Math.abs(offset - known) > offsetSlackMs) offsets.set(db, offset);
  return new Date(time + offsets.get(db)!).toISOString();
}

/** How many milliseconds it is until the time in a column, on the database's clock; 0 when that has come. */
export const timeLeft = (db: Db, column: string): RawBuilder<number> =>
  sql<number>`case when ${isPast(db, column)} then 0 else ${sql.ref(column)} - ${databaseNow(db)} end`;

function sinceBootMs(): number {
  try {
    // Not clock_gettime(2): what makes a process believe in another time (faketime) reaches that.
    return Math.round(Number(readFileSync("/proc/uptime", "latin1").split(" ")[0]) * 1000);
  } catch {
    return Math.round(uptime() * 1000);
  }
}

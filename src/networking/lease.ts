import type { RawBuilder, SqlBool } from "kysely";
import { databaseTime, isPast } from "../db/clock.ts";
import { type Db, type Tx, write } from "../db/transaction.ts";
import { Deadline } from "../deadline.ts";
import { isDead, owner } from "./holder.ts";

// A lease makes one process at a time work on a switch or a headnode. It is on the database's clock, which all
// processes share, and has a token that grows with every holder: whoever lost it finds another one there.

type Table = "switch" | "headnode";

export interface Lease {
  readonly table: Table;
  readonly id: number;
  readonly token: number;
  readonly ms: number;
  /** On this process's own clock, from before the database was asked: never later than on the database's. */
  expires: Deadline;
}

/** The columns of a lease, as `isHeld` and `takeLease` read them. */
const leaseOf = (db: Db, table: Table, id: number) =>
  db
    .selectFrom(table as "switch")
    .select(["lease_owner", isPast(db, "lease_until").as("over")])
    .where("id", "=", id);

/** SQLite has 0 and 1 for it. */
const isOver = ({ over }: { over: SqlBool }): boolean => Boolean(over);

/** Whether somebody holds it whose time is not over, and who is not known to be dead. */
export async function isHeld(db: Db, table: Table, id: number): Promise<boolean> {
  const row = await leaseOf(db, table, id).executeTakeFirst();
  return row !== undefined && row.lease_owner !== null && !isOver(row) && !isDead(row.lease_owner);
}

/**
 * Take it for `ms`; null when somebody has it, or there is no such row. `formerLives`: the holder before did not let it go,
 * and may still believe that it has it.
 */
export async function takeLease(tx: Tx, table: Table, id: number, ms: number): Promise<(Lease & { formerLives: boolean }) | null> {
  const expires = new Deadline(ms);
  const row = await leaseOf(tx, table, id).executeTakeFirst();
  if (!row) return null;
  const formerLives = row.lease_owner !== null && !isDead(row.lease_owner);
  if (formerLives && !isOver(row)) return null;
  const { lease_token: token } = await tx
    .updateTable(table as "switch")
    .set((e) => ({ lease_owner: owner, lease_until: databaseTime(tx, ms), lease_token: e("lease_token", "+", 1) }))
    .where("id", "=", id)
    .returning("lease_token")
    .executeTakeFirstOrThrow();
  return { table, id, token, ms, expires, formerLives };
}

/** Hold it for as long again. False when it was lost. */
export async function renewLease(db: Db, lease: Lease): Promise<boolean> {
  const expires = new Deadline(lease.ms);
  const { numUpdatedRows } = await write(db, (tx) => mine(tx, lease, { lease_until: databaseTime(tx, lease.ms) }));
  if (numUpdatedRows === 0n) return false;
  lease.expires = expires;
  return true;
}

/** Changes the row for as long as nobody else has taken it. */
const mine = (tx: Tx, { table, id, token }: Lease, values: { lease_owner?: null; lease_until: number | RawBuilder<number> }) =>
  tx
    .updateTable(table as "switch")
    .set(values)
    .where("id", "=", id)
    .where("lease_token", "=", token)
    .executeTakeFirstOrThrow();

/** Let others have it. */
export async function releaseLease(db: Db, lease: Lease): Promise<void> {
  await write(db, (tx) => mine(tx, lease, { lease_owner: null, lease_until: 0 }));
}

/** Whether it is still held, on the database's word. */
export async function holdsLease(db: Db, { table, id, token }: Lease): Promise<boolean> {
  const row = await leaseOf(db, table, id).where("lease_token", "=", token).executeTakeFirst();
  return row !== undefined && row.lease_owner !== null && !isOver(row);
}

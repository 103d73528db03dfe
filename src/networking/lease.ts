import type { RawBuilder, SqlBool } from "kysely";
import { databaseTime, isPast } from "../db/clock.ts";
import { type Db, type Tx, write, writeInTheEnd } from "../db/transaction.ts";
import { Deadline } from "../deadline.ts";
import { UnavailableError } from "../errors.ts";
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

/** What this process holds, or is about to take. What names it as its holder and is not in here, it has let go of. */
const held = new Set<Lease>();

const isOurs = ({ table, id, token }: Pick<Lease, "table" | "id" | "token">): boolean =>
  [...held].some((lease) => lease.table === table && lease.id === id && lease.token === token);

/** The columns of a lease, as `isHeld` and `takeLease` read them. */
const leaseOf = (db: Db, table: Table, id: number) =>
  db
    .selectFrom(table as "switch")
    .select(["lease_owner", "lease_token", isPast(db, "lease_until").as("over")])
    .where("id", "=", id);

/** SQLite has 0 and 1 for it. */
const isOver = ({ over }: { over: SqlBool }): boolean => Boolean(over);

/** Whether nobody has it any more, whatever the database says: it could not be told when that was away. */
const isLetGo = (row: { lease_owner: string | null; lease_token: number }, table: Table, id: number): boolean =>
  row.lease_owner === null || isDead(row.lease_owner) || (row.lease_owner === owner && !isOurs({ table, id, token: row.lease_token }));

/** Whether somebody holds it whose time is not over, and who is not known to be dead. */
export async function isHeld(db: Db, table: Table, id: number): Promise<boolean> {
  const row = await leaseOf(db, table, id).executeTakeFirst();
  return row !== undefined && !isOver(row) && !isLetGo(row, table, id);
}

/** What was taken in a transaction. */
const takenIn = new WeakMap<Tx, Lease[]>();

/** `write`, for a change that takes leases. */
export async function writeTaking<T>(db: Db, change: (tx: Tx) => Promise<T>): Promise<T> {
  let taken: Lease[] = [];
  const drop = () => {
    for (const lease of taken) held.delete(lease);
  };
  try {
    return await write(db, (tx) => {
      // The try before this one was rolled back.
      drop();
      takenIn.set(tx, (taken = []));
      return change(tx);
    });
  } catch (error) {
    drop();
    // It may have been committed without an answer.
    if (error instanceof UnavailableError) for (const lease of taken) void releaseLease(db, lease).catch(() => {});
    throw error;
  }
}

/**
 * Take it for `ms`; null when somebody has it, or there is no such row. `formerLives`: the holder before did not let it go,
 * and may still believe that it has it. In `writeTaking`.
 */
export async function takeLease(tx: Tx, table: Table, id: number, ms: number): Promise<(Lease & { formerLives: boolean }) | null> {
  const expires = new Deadline(ms);
  const row = await leaseOf(tx, table, id).executeTakeFirst();
  if (!row) return null;
  const formerLives = !isLetGo(row, table, id);
  if (formerLives && !isOver(row)) return null;
  const { lease_token: token } = await tx
    .updateTable(table as "switch")
    .set((e) => ({ lease_owner: owner, lease_until: databaseTime(tx, ms), lease_token: e("lease_token", "+", 1) }))
    .where("id", "=", id)
    .returning("lease_token")
    .executeTakeFirstOrThrow();
  const lease = { table, id, token, ms, expires, formerLives };
  // Before the commit: whoever looks at the row after that finds it here.
  held.add(lease);
  takenIn.get(tx)?.push(lease);
  return lease;
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
    .where("lease_owner", "=", owner)
    .executeTakeFirstOrThrow();

/** Let others have it: at once, or as soon as the database is back. Nothing may be done under it any more. */
export async function releaseLease(db: Db, lease: Lease): Promise<void> {
  held.delete(lease);
  await writeInTheEnd(db, lease.ms, async (tx) => {
    // When it was not even taken, the same token may be in use for the next time.
    if (!isOurs(lease)) await mine(tx, lease, { lease_owner: null, lease_until: 0 });
  });
}

/** Whether it is still held, on the database's word. */
export async function holdsLease(db: Db, { table, id, token }: Lease): Promise<boolean> {
  const row = await leaseOf(db, table, id).where("lease_token", "=", token).executeTakeFirst();
  return row !== undefined && row.lease_owner !== null && !isOver(row);
}

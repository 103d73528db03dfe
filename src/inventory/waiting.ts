import type { Caller } from "../auth/caller.ts";
import type { Db } from "../db/transaction.ts";
import { Deadline } from "../deadline.ts";
import { HaasError } from "../errors.ts";

// Calls that wait for something: they read, with longer and longer pauses, and write when they may go on. Only so many
// wait at once, of one user and altogether, so that nobody's waiting stands in the way of others.

const firstPauseMs = 50;
const pauseGrowth = 1.5;
const longestPauseMs = 1_000;

/** How many may wait: of one user, and of all of that kind. Where everybody is an administrator, all are one user. */
const limits = { tenant: { each: 16, all: 192 }, administrator: { each: 64, all: 256 } };
const retryAfterSeconds = 5;

/** Ask again and again until it holds; false when it does not in time. `holds` only reads. */
export async function within(deadline: Deadline, holds: () => Promise<boolean>): Promise<boolean> {
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * pauseGrowth, longestPauseMs)) {
    if (await holds()) return true;
    if (deadline.passed) return false;
    await Bun.sleep(Math.min(pauseMs, deadline.left));
  }
}

/** `within`, in a place of the caller's: see `inPlace`. Whoever need not wait needs none. */
export async function wait(db: Db, caller: Caller, deadline: Deadline, holds: () => Promise<boolean>): Promise<boolean> {
  return (await holds()) || inPlace(db, caller, () => within(deadline, holds));
}

/**
 * Wait until `mayGoOn`, which only reads, and then `attempt`, until that has a result. It returns null where it found, in
 * its transaction, that it has to wait after all; never once it is not told to be patient.
 */
export async function inTurn<T>(
  db: Db,
  caller: Caller,
  waitMs: number,
  mayGoOn: () => Promise<boolean>,
  attempt: (patient: boolean) => Promise<T | null>,
): Promise<T> {
  for (const deadline = new Deadline(waitMs); ;) {
    const done = await attempt(await wait(db, caller, deadline, mayGoOn));
    if (done !== null) return done;
  }
}

interface Room {
  readonly byUser: Map<number | null, number>;
  readonly byKind: { tenant: number; administrator: number };
}

const rooms = new WeakMap<Db, Room>();

/** Do what waits, in one of the caller's places. `TooManyRequestsError` when there is none left, before anything is done. */
export async function inPlace<T>(db: Db, caller: Caller, work: () => Promise<T>): Promise<T> {
  const { isAdmin } = await caller.rights(db);
  const kind = isAdmin ? "administrator" : "tenant";
  const room = rooms.get(db) ?? { byUser: new Map(), byKind: { tenant: 0, administrator: 0 } };
  rooms.set(db, room);
  const user = caller.user?.id ?? null;
  const mine = room.byUser.get(user) ?? 0;
  const { each, all } = limits[kind];
  if (mine >= (user === null ? all : each)) throw tooMany(`${mine} of your calls wait already; try again when some of them are done.`);
  if (room.byKind[kind] >= all) throw tooMany("Too many calls wait already; try again when some of them are done.");
  room.byUser.set(user, mine + 1);
  room.byKind[kind]++;
  try {
    return await work();
  } finally {
    const left = room.byUser.get(user)! - 1;
    if (left > 0) room.byUser.set(user, left);
    else room.byUser.delete(user);
    room.byKind[kind]--;
  }
}

const tooMany = (message: string) => new HaasError("TooManyRequestsError", message, { retryAfterSeconds });

import { randomUUID } from "node:crypto";
import { type RawBuilder, sql } from "kysely";
import type { Caller } from "../auth/caller.ts";
import { databaseTime, isPast, longestPauseMs } from "../db/clock.ts";
import { type Db, type Tx, write, writeInTheEnd } from "../db/transaction.ts";
import { Deadline } from "../deadline.ts";
import { blocked, quote } from "../errors.ts";
import { isDead, owner } from "../networking/holder.ts";
import { inTurn, wait, within } from "./waiting.ts";

// The commands that run on BMCs, over all processes on the database, and the holds by which a node changes hands: no
// command reaches a BMC after the right to it is gone, and no node is freed while one runs. Each command has a row from
// before it begins until after it ended. The row of a haas that died counts until its time is up, as `ipmitool` outlives it.

/** A command has to begin so soon after it was permitted; a process that was stopped in between asks again. */
const freshMs = 5_000;
const freshTries = 3;
/** For ending what has taken too long, and for telling so. */
const slackMs = 3_000;
/** A row that outlives this is renewed: see `longestPauseMs`. */
const longestLifeMs = longestPauseMs;
const renewEveryMs = 15_000;
/** Above the life of a row with the default time-out of a command, which is 15 s. */
const idleWaitMs = 30_000;
const strippedWaitMs = 60_000;
/** Above `idleWaitMs`, so that nothing begins between the wait and its end. */
const holdMs = longestPauseMs;

const isAhead = (db: Db, column: string): RawBuilder<boolean> => sql<boolean>`not ${isPast(db, column)}`;

/** A command for one node's BMC. */
export interface Command<T> {
  readonly nodeId: number;
  readonly userId: number | null;
  /** The longest that `run` takes. */
  readonly timeoutMs: number;
  /** Throws unless the command may begin, as things are in `tx`. */
  permit(tx: Tx): Promise<void>;
  /** Begins before it awaits anything. */
  run(): Promise<T>;
}

export async function runCommandOf<T>(db: Db, { nodeId, userId, timeoutMs, permit, run }: Command<T>): Promise<T> {
  const lifeMs = Math.min(timeoutMs + freshMs + slackMs, longestLifeMs);
  for (let tries = 1; tries <= freshTries; tries++) {
    const { id, fresh } = await write(db, async (tx) => {
      await permit(tx);
      await dropPast(tx, nodeId);
      const fresh = new Deadline(freshMs);
      const row = { node_id: nodeId, user_id: userId, ends_by: databaseTime(tx, lifeMs) };
      const { id } = await tx.insertInto("obm_command").values(row).returning("id").executeTakeFirstOrThrow();
      return { id, fresh };
    });
    const renewing = setInterval(() => void renew(db, id, lifeMs).catch(() => {}), renewEveryMs);
    try {
      if (!fresh.passed) return await run();
    } finally {
      clearInterval(renewing);
      // Its time is up soon anyhow.
      await writeInTheEnd(db, lifeMs, (tx) => tx.deleteFrom("obm_command").where("id", "=", id).execute()).catch(() => {});
    }
  }
  throw blocked("haas is too busy to send the command in time; try again.");
}

const renew = (db: Db, id: number, lifeMs: number) =>
  write(db, (tx) =>
    tx
      .updateTable("obm_command")
      .set({ ends_by: databaseTime(tx, lifeMs) })
      .where("id", "=", id)
      .execute(),
  );

/** Forget the commands on a node's BMC that ended with the haas that ran them. */
export async function dropPast(tx: Tx, nodeId: number): Promise<void> {
  await tx.deleteFrom("obm_command").where("node_id", "=", nodeId).where(isPast(tx, "ends_by")).execute();
}

const running = (db: Db) => db.selectFrom("obm_command").select("obm_command.id").where(isAhead(db, "obm_command.ends_by")).limit(1);

export async function isRunning(db: Db, nodeId: number): Promise<boolean> {
  return (await running(db).where("node_id", "=", nodeId).executeTakeFirst()) !== undefined;
}

/** Commands of a user who has no right to the node any more. */
const strippedOf = (db: Db, userId: number) =>
  running(db)
    .innerJoin("node", "node.id", "obm_command.node_id")
    .leftJoin("users", "users.id", "obm_command.user_id")
    .leftJoin("user_project", (join) =>
      join.onRef("user_project.user_id", "=", "obm_command.user_id").onRef("user_project.project_id", "=", "node.project_id"),
    )
    .where("obm_command.user_id", "=", userId)
    .where("user_project.user_id", "is", null)
    .where((e) => e.or([e("users.id", "is", null), e("users.is_admin", "=", 0)]));

/** Wait until no command runs on the node's BMC. `BlockedError` when one still does. */
export async function untilIdle(db: Db, caller: Caller, node: { id: number; label: string }): Promise<void> {
  if (await wait(db, caller, new Deadline(idleWaitMs), async () => !(await isRunning(db, node.id)))) return;
  throw blocked(`A command of node ${quote(node.label)}'s BMC still runs; try again.`);
}

/**
 * Wait, after a right was taken, until the commands have ended that lost it with that: those of a user, or all on a node.
 * `done` is what was done already, for the case that one goes on for longer than a minute.
 */
export async function untilStripped(db: Db, of: { userId: number } | { nodeId: number }, done: string): Promise<void> {
  const ended =
    "userId" in of
      ? async () => (await strippedOf(db, of.userId).executeTakeFirst()) === undefined
      : async () => !(await isRunning(db, of.nodeId));
  if (await within(new Deadline(strippedWaitMs), ended)) return;
  throw blocked(`${done}. But a BMC command that began before still runs; it is the last one, and its time is bounded.`);
}

/** Whether a node changes hands at the moment, by a call that lives and is not the one with this hold. */
export async function isHeld(db: Db, nodeId: number, mine: string | null = null): Promise<boolean> {
  const node = await db
    .selectFrom("node")
    .select("hold")
    .where("id", "=", nodeId)
    .where("hold", "is not", null)
    .where(isAhead(db, "hold_until"))
    .executeTakeFirst();
  return node != null && node.hold !== mine && !isDead(ownerOf(node.hold!));
}

const ownerOf = (hold: string) => hold.slice(hold.indexOf(" ") + 1);

/** Hold a node, or hold it for longer, for one call. `BlockedError` when another one holds it. */
export async function hold(tx: Tx, node: { id: number; label: string }, mine: string): Promise<void> {
  if (await isHeld(tx, node.id, mine)) throw changesHands(node.label);
  await tx
    .updateTable("node")
    .set({ hold: mine, hold_until: databaseTime(tx, holdMs) })
    .where("id", "=", node.id)
    .execute();
}

/** Hold the node of this name, which `check` finds, when it is nobody else's turn any more. `BlockedError` when that takes too long. */
export async function holdInTurn<N extends { id: number; label: string }>(
  db: Db,
  caller: Caller,
  label: string,
  mine: string,
  check: (db: Db) => Promise<N>,
): Promise<N> {
  const isFree = async () => {
    const node = await db.selectFrom("node").select(["id", "hold"]).where("label", "=", label).executeTakeFirst();
    if (!node || node.hold === null || !(await isHeld(db, node.id, mine))) return true;
    // Nobody waits for what is refused anyway.
    await check(db);
    return false;
  };
  return inTurn(db, caller, idleWaitMs, isFree, (patient) =>
    write(db, async (tx) => {
      const found = await check(tx);
      if (patient && (await isHeld(tx, found.id, mine))) return null;
      await hold(tx, found, mine);
      return found;
    }),
  );
}

export const newHold = (): string => `${randomUUID()} ${owner}`;

export const noHold = { hold: null, hold_until: 0 } as const;

export async function release(db: Db, nodeId: number, mine: string): Promise<void> {
  await writeInTheEnd(db, holdMs, (tx) => tx.updateTable("node").set(noHold).where("id", "=", nodeId).where("hold", "=", mine).execute());
}

export const changesHands = (label: string) => blocked(`Node ${quote(label)} is leaving its project, or being allocated; try again.`);

import { setTimeout as sleep } from "node:timers/promises";
import { type ExpressionBuilder, sql } from "kysely";
import type { Context } from "../context.ts";
import type { Tables } from "../db/tables.ts";
import { type Db, write } from "../db/transaction.ts";
import { messageOf, UnavailableError } from "../errors.ts";

/** How often to look, and how much one look may delete: a clock that is wrong does not empty the journal at once. */
const lookEveryMs = 10 * 60_000;
const batchLimit = 200;
const batchesPerLook = 20;
/** A calendar that moves otherwise than this process's own clock was set, and is not believed before the next start. */
const clockSlackMs = 60 * 60_000;
const stopTimeoutMs = 10_000;

export interface Pruner {
  /** End the batch in hand, and return; in bounded time. */
  stop(): Promise<void>;
}

/** Delete, every so often, the actions that ended longer ago than the configuration says, except what somebody still asks about. */
export function startPruner(ctx: Context): Pruner {
  const stopping = new AbortController();
  const { signal } = stopping;
  const startedAt = Date.now() - performance.now();
  const loop = async () => {
    while (!signal.aborted) {
      const wasSet = Math.abs(Date.now() - performance.now() - startedAt) > clockSlackMs;
      if (wasSet) ctx.log.warning("the clock was set: old networking actions are not deleted before the next start");
      else {
        await prune(ctx, signal).catch((error: unknown) => {
          // That the database is away is told once, and these can wait.
          if (!(error instanceof UnavailableError)) ctx.log.error("old actions can't be deleted", { error: messageOf(error) });
        });
      }
      await sleep(lookEveryMs, undefined, { signal }).catch(() => {});
    }
  };
  const running = loop();
  return {
    async stop() {
      stopping.abort();
      await Promise.race([running, new Promise<void>((resolve) => void setTimeout(resolve, stopTimeoutMs).unref())]);
    },
  };
}

/** One look. */
async function prune({ db, config, log }: Context, signal: AbortSignal): Promise<void> {
  const endedBefore = Date.now() - config.network.keepMs;
  let deleted = 0;
  for (let batch = 0; batch < batchesPerLook && !signal.aborted; batch++) {
    // So that a look which finds nothing keeps no writer waiting.
    if (!(await prunable(db, endedBefore).limit(1).executeTakeFirst())) break;
    const { numDeletedRows } = await write(db, (tx) =>
      tx.deleteFrom("networking_action").where("id", "in", prunable(tx, endedBefore).limit(batchLimit)).executeTakeFirstOrThrow(),
    );
    deleted += Number(numDeletedRows);
  }
  if (deleted > 0) log.info("old networking actions were deleted", { deleted, ended_before: new Date(endedBefore).toISOString() });
}

/**
 * Never the latest change of a port, which tells that the port was ever changed, nor a failed one whose port may still
 * carry what it tried.
 */
const prunable = (db: Db, endedBefore: number) =>
  db
    .selectFrom("networking_action as action")
    .select("action.id")
    .where("action.ended_at", "<", endedBefore)
    .where("action.status", "in", ["DONE", "ERROR"])
    .where((e) => e.or([e("action.port_id", "is", null), e.exists(laterChange(e))]))
    .where((e) => e.or([e("action.status", "=", "DONE"), e.not(e.exists(uncertainPort(e)))]))
    .orderBy("action.ended_at");

type Actions = ExpressionBuilder<Tables & { action: Tables["networking_action"] }, "action">;

const laterChange = (e: Actions) =>
  e
    .selectFrom("networking_action as later")
    .select(sql.lit(1).as("one"))
    .whereRef("later.port_id", "=", "action.port_id")
    .whereRef("later.id", ">", "action.id")
    .where("later.type", "!=", "sync_port");

const uncertainPort = (e: Actions) =>
  e
    .selectFrom("port")
    .select(sql.lit(1).as("one"))
    .whereRef("port.id", "=", "action.port_id")
    .where((port) => port.or([port("port.suspect", "is not", null), port("port.drift", "is not", null)]));

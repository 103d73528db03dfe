import { setTimeout as sleep } from "node:timers/promises";
import { sql, type SqlBool } from "kysely";
import type { Context } from "../context.ts";
import { calendarNow } from "../db/clock.ts";
import { type Db, write } from "../db/transaction.ts";
import { HaasError, messageOf, UnavailableError } from "../errors.ts";
import { describePort, samePort } from "../hardware/switches/driver.ts";
import { readEach } from "./drift.ts";
import { portsOf } from "./journal.ts";
import { type SwitchReader, type SwitchRow, withSwitch } from "./session.ts";

/** How often to look for switches that are due: so soon is a busy one tried again. */
const lookEveryMs = 5_000;
/** How long a check waits for a switch that networking actions hold. */
const busyWaitMs = 10_000;
/** Checks at the same time: many, so that switches that don't answer hold up no others. */
const checkLimit = 32;
const stopTimeoutMs = 20_000;
/** A check that is further in the future than this was dated by a clock that was set back since. */
const clockSlackMs = 30_000;

export interface Verifier {
  /** Look for what is due now. */
  wake(): void;
  /** Begin no more checks, let those in hand end, and return; in bounded time. */
  stop(): Promise<void>;
}

/**
 * Read the ports of every switch every so often, and log and keep what is not as it should be. Never writes to a switch.
 * Null when the configuration does not ask for it, or lets haas talk to no switch.
 */
export function startVerifier(ctx: Context): Verifier | null {
  const { verifyIntervalMs } = ctx.config.network;
  return verifyIntervalMs === null || ctx.config.dryRun ? null : new DriftVerifier(ctx, verifyIntervalMs);
}

class DriftVerifier implements Verifier {
  readonly #inHand = new Map<number, Promise<void>>();
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;

  constructor(
    readonly ctx: Context,
    readonly intervalMs: number,
  ) {
    this.#running = this.#loop();
  }

  wake(): void {
    void this.#lookOrTell();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    // What is cut off has changed nothing, and whoever comes next sees that the holder of the lease is gone.
    const late = new Promise<void>((resolve) => void setTimeout(resolve, stopTimeoutMs).unref());
    await Promise.race([this.#running.then(() => Promise.all(this.#inHand.values())), late]);
  }

  async #loop(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      await this.#lookOrTell();
      await sleep(Math.min(lookEveryMs, this.intervalMs), undefined, { signal }).catch(() => {});
    }
  }

  async #lookOrTell(): Promise<void> {
    await this.#look().catch((error: unknown) => this.#tell("no switch can be checked", error));
  }

  /** That the database is away is told once. */
  #tell(what: string, error: unknown, label?: string): void {
    if (error instanceof UnavailableError) return;
    this.ctx.log.error(what, { ...(label !== undefined && { switch: label }), error: messageOf(error) });
  }

  /** Start on the switches that are due. */
  async #look(): Promise<void> {
    for (const row of await dueSwitches(this.ctx.db, this.intervalMs).execute()) {
      if (this.#stopping.signal.aborted || this.#inHand.has(row.id) || this.#inHand.size >= checkLimit) continue;
      const check = verify(this.ctx, row, this.intervalMs)
        .catch((error: unknown) => this.#tell("a check was not recorded", error, row.label))
        .finally(() => this.#inHand.delete(row.id));
      this.#inHand.set(row.id, check);
    }
  }
}

/** Switches with ports that nobody has checked for so long. */
function dueSwitches(db: Db, intervalMs: number) {
  const now = calendarNow(db);
  return (
    db
      .selectFrom("switch")
      .select(["id", "label", "type", "settings"])
      .where("id", "in", (port) => port.selectFrom("port").select("switch_id"))
      // A check in the future: the clock was set back since.
      .where(
        sql<SqlBool>`(checked_at is null or checked_at <= ${now} - ${sql.lit(intervalMs)} or checked_at > ${now} + ${sql.lit(clockSlackMs)})`,
      )
  );
}

async function verify(ctx: Context, row: SwitchRow, intervalMs: number): Promise<void> {
  try {
    await withSwitch(ctx, row, busyWaitMs, async (session) => {
      // Another process may have been quicker.
      const due = await dueSwitches(ctx.db, intervalMs).where("id", "=", row.id).executeTakeFirst();
      if (due) await checkPorts(ctx, row, session);
    });
  } catch (error) {
    // It is busy, and still due.
    if (error instanceof HaasError && error.type === "BlockedError") return;
    if (error instanceof UnavailableError) throw error;
    const told = error instanceof HaasError && error.type !== "ServerError" ? error.message : "haas itself failed; its log says more.";
    ctx.log.warning("a switch could not be checked", { switch: row.label, error: messageOf(error) });
    await record(ctx.db, row.id, told, new Map());
  }
}

/** Compare every port that is at rest with what it should carry. The lease of the switch is held meanwhile. */
async function checkPorts(ctx: Context, row: SwitchRow, session: SwitchReader): Promise<void> {
  // What is in motion or suspect is known, and being brought into its state.
  const ports = (await portsOf(ctx.db, row.id)).filter(({ pending, suspect }) => !pending && suspect === null);
  const readings = await readEach(
    session,
    row,
    ports.map(({ label }) => label),
  );
  const drifts = new Map<number, string | null>();
  const errors: string[] = [];
  for (const { id, label, desired } of ports) {
    const { actual, error } = readings.get(label)!;
    if (!actual) {
      errors.push(error);
      continue;
    }
    drifts.set(id, samePort(actual, desired) ? null : JSON.stringify(actual));
    if (samePort(actual, desired)) continue;
    ctx.log.warning("a port does not carry what it should", {
      switch: row.label,
      port: label,
      should: describePort(desired),
      carries: describePort(actual),
    });
  }
  const [first, ...more] = errors;
  const error = first === undefined ? null : more.length === 0 ? first : `${first} ${more.length} more could not be read.`;
  if (error !== null) ctx.log.warning("not every port could be checked", { switch: row.label, error });
  await record(ctx.db, row.id, error, drifts);
}

/** Keep what a check found. `drifts`: what the ports that were read carry, as JSON, or null where it is right. */
async function record(db: Db, switchId: number, error: string | null, drifts: ReadonlyMap<number, string | null>): Promise<void> {
  await write(db, async (tx) => {
    await tx
      .updateTable("switch")
      .set({ checked_at: calendarNow(tx), check_error: error })
      .where("id", "=", switchId)
      .execute();
    for (const [portId, drift] of drifts) {
      await tx.updateTable("port").set({ drift }).where("id", "=", portId).where("drift", "is distinct from", drift).execute();
    }
  });
}

import type { Context } from "../context.ts";
import { requirePresent } from "../db/lineage.ts";
import { type Db, type Tx, write } from "../db/transaction.ts";
import { Deadline } from "../deadline.ts";
import { blocked, type HaasError, notFound, quote, SessionLostError, SwitchError } from "../errors.ts";
import type { SessionObserver, SwitchDriver, SwitchSession } from "../hardware/switches/driver.ts";
import { leaseSwitch, portIdsOf, suspectPorts, waitingFor } from "./journal.ts";
import { holdsLease, isHeld, type Lease, releaseLease, renewLease } from "./lease.ts";

// Holding a switch: the lease that makes one process at a time talk to it, and the session.

/** Parts of a lease: how often to look after it, when to renew it, and when the session is ended before anybody else may open one. */
const lookEvery = 1 / 12;
const renewBelow = 3 / 4;
const reserve = 1 / 3;
/** An answer of the database that is older than this may be of no more worth: this process was stopped meanwhile, perhaps. */
const answerLifeMs = 5_000;
/** Drivers bound their own waits. A driver that does not is given up after the time of so many commands for a call. */
const commandsPerCall = 20;
const closeTimeoutMs = 5_000;
const waitPauseMs = 100;

export interface SwitchRow {
  id: number;
  label: string;
  type: string;
  settings: string;
}

const inHand = new Set<HeldSwitch>();

/** Let go of every switch, whatever is under way; for the end of the process. */
export async function releaseAll(): Promise<void> {
  await Promise.all([...inHand].map((held) => held.release().catch(() => {})));
}

/** For the end of the process: no connection is begun or waited for any more, and in `graceMs` every session ends, whatever is under way in it. */
export function hangUp(ctx: Context, graceMs: number): void {
  ctx.ending.abort();
  const mine = [...inHand].filter((held) => held.ctx === ctx);
  for (const held of mine) held.giveUp();
  setTimeout(() => {
    for (const held of mine) void held.endSession();
  }, graceMs).unref();
}

/** A switch that this process, and this caller in it, may talk to until `release`. Has at most one session. */
export class HeldSwitch {
  #session: SwitchSession | null = null;
  #opening: AbortController | null = null;
  readonly #since = performance.now();
  #lost = false;
  #looking = false;
  readonly #timer: Timer;

  private constructor(
    readonly ctx: Context,
    readonly row: SwitchRow,
    readonly lease: Lease,
  ) {
    this.#timer = setInterval(() => void this.#look(), lease.ms * lookEvery);
    inHand.add(this);
  }

  /** Null when somebody else has the switch. */
  static async take(ctx: Context, row: SwitchRow): Promise<HeldSwitch | null> {
    // Asking costs less than the write lock, and nearly always tells.
    if (await isHeld(ctx.db, "switch", row.id)) return null;
    const lease = await leaseSwitch(ctx.db, row.id, ctx.config.network.leaseMs);
    return lease && new HeldSwitch(ctx, row, lease);
  }

  /** Somebody else may have the switch now: nothing may be sent to it. */
  get lost(): boolean {
    return this.#lost || this.lease.expires.left < this.lease.ms * reserve;
  }

  /** What it waits for, and since when, for somebody who wants the switch. */
  get waitsFor(): string {
    return `${this.#opening ? "waits for it to let haas in" : "works on it"}, since ${Math.round((performance.now() - this.#since) / 1000)} s`;
  }

  /**
   * Rejects unless this process has the switch still, on the database's word of this moment: a driver asks before each
   * line that changes something, as the process may have been stopped for any time since the line before.
   */
  async #mayChange(): Promise<void> {
    for (;;) {
      requirePresent(this.ctx.db);
      const answer = new Deadline(answerLifeMs);
      if (this.lost || !(await holdsLease(this.ctx.db, this.lease))) {
        this.#lose();
        throw this.#takenOver();
      }
      if (!answer.passed && !this.lost) return;
    }
  }

  /** The session, opened and logged in. */
  async session(observer?: SessionObserver): Promise<SwitchSession> {
    if (this.lost) throw this.#takenOver();
    if (this.#session) return this.#session;
    const { ctx, row } = this;
    if (ctx.ending.signal.aborted) throw blocked("This haas is coming to its end.");
    const aborter = (this.#opening = new AbortController());
    const driver = ctx.switches.byType(row.type);
    const limits = ctx.switches.limits(driver);
    const known = await ctx.db.selectFrom("switch").select("serial").where("id", "=", row.id).executeTakeFirst();
    const knownSerial = known?.serial ?? null;
    const opening = driver.open({
      label: row.label,
      settings: JSON.parse(row.settings),
      ...limits,
      knownHostKey: (presented) => claim(ctx, row, "host_key", presented),
      claimSerial: async (serial) => void (serial === knownSerial || (await claim(ctx, row, "serial", serial))),
      knownSerial,
      confirm: () => this.#mayChange(),
      signal: aborter.signal,
      observer: observer ?? (ctx.config.debug ? recorder(ctx, row.label) : undefined),
    });
    const timeoutMs = limits.connectTimeoutMs + limits.commandTimeoutMs;
    const session = await bounded(opening, `Switch ${quote(row.label)}: connecting`, timeoutMs).catch((error: unknown) => {
      aborter.abort();
      this.#opening = null;
      // One that opens too late.
      if (error instanceof CallTimeout) void opening.then((late) => late.close()).catch(() => {});
      throw error;
    });
    this.#opening = null;
    if (this.lost) {
      await end(session);
      throw this.#takenOver();
    }
    return (this.#session = session);
  }

  /** Don't wait for the switch to let haas in. */
  giveUp(): void {
    this.#opening?.abort();
  }

  /** A call to the session that concerns these ports, in bounded time. */
  async call<T>(ports: readonly string[], work: (session: SwitchSession) => Promise<T>): Promise<T> {
    const { row, ctx } = this;
    const session = await this.session();
    const { commandTimeoutMs } = ctx.switches.limits(ctx.switches.byType(row.type));
    const what = `Switch ${quote(row.label)}${ports.length === 1 ? `, port ${quote(ports[0]!)}` : ""}`;
    return bounded(work(session), what, commandTimeoutMs * (commandsPerCall + ports.length));
  }

  async endSession(): Promise<void> {
    const session = this.#session;
    this.#session = null;
    if (session) await end(session);
  }

  async release(): Promise<void> {
    clearInterval(this.#timer);
    inHand.delete(this);
    this.#lost = true;
    this.#opening?.abort();
    await this.endSession();
    await releaseLease(this.ctx.db, this.lease);
  }

  async #look(): Promise<void> {
    if (this.lost) return this.#lose();
    if (this.#looking) return;
    this.#looking = true;
    try {
      if (this.lease.expires.left < this.lease.ms * renewBelow && !(await renewLease(this.ctx.db, this.lease))) this.#lose();
      if (this.#opening && (await isWanted(this.ctx.db, this.row.id))) this.giveUp();
    } catch {
      // The next look tries again, or gives up in time.
    } finally {
      this.#looking = false;
    }
  }

  #lose(): void {
    this.#lost = true;
    this.#opening?.abort();
    void this.endSession();
  }

  #takenOver(): SessionLostError {
    return new SessionLostError(`Switch ${quote(this.row.label)}: haas gave it up, or another process took it over.`);
  }
}

/** A session of a switch that can only be read. */
export type SwitchReader = Pick<SwitchSession, "readPorts">;

/**
 * Hold the switch, let `work` read it, and let it go.
 * `BlockedError` when somebody else has it for longer than `waitMs`; the driver's `SwitchError` otherwise. What `confirm`
 * throws once it is held, before anything is sent.
 */
export async function withSwitch<T>(
  ctx: Context,
  row: SwitchRow,
  waitMs: number,
  work: (session: SwitchSession, driver: SwitchDriver) => Promise<T>,
  observer?: SessionObserver,
  confirm: () => Promise<void> = async () => {},
): Promise<T> {
  const driver = ctx.switches.byType(row.type);
  const held = await takeWithin(ctx, row, waitMs);
  try {
    await confirm();
    return await work(await held.session(observer), driver);
  } finally {
    await held.release();
    // What came for the switch in the meantime.
    ctx.wake();
  }
}

async function takeWithin(ctx: Context, row: SwitchRow, waitMs: number): Promise<HeldSwitch> {
  const deadline = new Deadline(waitMs);
  for (;;) {
    const held = await HeldSwitch.take(ctx, row);
    if (held) return held;
    if (!(await ctx.db.selectFrom("switch").select("id").where("id", "=", row.id).executeTakeFirst())) throw notFound("Switch", row.label);
    if (deadline.passed || ctx.ending.signal.aborted) throw await inUse(ctx.db, row);
    await Bun.sleep(waitPauseMs);
  }
}

/** Why somebody who wants the switch can't have it, as far as it is known. */
export async function inUse(db: Db, { id, label }: { id: number; label: string }): Promise<HaasError> {
  const holder = [...inHand].find(({ row }) => row.id === id);
  const reason = await waitingFor(db, id);
  return blocked(
    `Switch ${quote(label)} is in use by haas${holder ? `, which ${holder.waitsFor}` : ""}; try again.${reason === null ? "" : ` What it last ran into: ${reason}`}`,
  );
}

/** Whether somebody asked for the switch to be let go: see the column. */
async function isWanted(db: Db, switchId: number): Promise<boolean> {
  const row = await db.selectFrom("switch").select("give_up").where("id", "=", switchId).executeTakeFirst();
  return row?.give_up === 1;
}

const identities = { host_key: "presents the SSH host key", serial: "has the serial number" } as const;

/**
 * What a switch is known by: from the first time on it is what was presented then. A switch that is known under another
 * name already is refused, and its ports are suspect: another one of haas's sessions may change them.
 */
async function claim(ctx: Context, { id, label }: SwitchRow, by: keyof typeof identities, presented: string): Promise<string> {
  const claimed = await write(ctx.db, async (tx: Tx) => {
    const row = await tx.selectFrom("switch").select(by).where("id", "=", id).executeTakeFirst();
    if (!row) throw notFound("Switch", label);
    if (row[by] !== null && (by === "host_key" || row[by] === presented)) return { known: row[by] };
    const first =
      presented === ""
        ? undefined
        : await tx.selectFrom("switch").select("label").where(by, "=", presented).where("id", "!=", id).executeTakeFirst();
    if (!first) {
      await tx
        .updateTable("switch")
        .set({ [by]: presented })
        .where("id", "=", id)
        .execute();
      return { known: presented };
    }
    const reason = `Switch ${quote(label)} ${identities[by]} of switch ${quote(first.label)}: it is the same one, registered twice. Delete one of the two.`;
    await suspectPorts(tx, id, await portIdsOf(tx, id), { reason, inMs: 0 });
    return { reason };
  });
  if (claimed.reason !== undefined) throw new SwitchError(claimed.reason);
  return claimed.known;
}

/** Every line of a session into the log, for `[devel] debug`. */
function recorder({ log }: Context, label: string): SessionObserver {
  return {
    step: (name) => log.info("switch session", { switch: label, step: name }),
    line: (direction, text) => log.info("switch session", { switch: label, [direction]: text }),
  };
}

async function end(session: SwitchSession): Promise<void> {
  await bounded(session.close(), "Closing", closeTimeoutMs).catch(() => {});
}

/** A call that did not end in time. It may still be under way, so its session is of no more use. */
class CallTimeout extends SessionLostError {}

async function bounded<T>(call: Promise<T>, what: string, timeoutMs: number): Promise<T> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new CallTimeout(`${what}: no answer within ${timeoutMs / 1000} s.`)), timeoutMs);
  });
  try {
    return await Promise.race([call, late]);
  } finally {
    clearTimeout(timer);
  }
}

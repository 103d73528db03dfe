import type { Context } from "../context.ts";
import { write } from "../db/transaction.ts";
import { blocked, notFound, quote, SessionLostError } from "../errors.ts";
import type { SessionObserver, SwitchDriver, SwitchSession } from "../hardware/switches/driver.ts";
import { isDead, owner } from "./holder.ts";
import { type Lease, lease, release, renew } from "./journal.ts";

// Holding a switch: the lease that makes one process at a time talk to it, and the session.

const leaseMs = 60_000;
const lookEveryMs = 5_000;
/** Renewed when less than this is left of the lease. */
const renewBelowMs = 45_000;
/** Given up when less than this is left: the session is ended before anybody else may open one. */
const reserveMs = 20_000;
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

/** A switch that this process, and this caller in it, may talk to until `release`. Has at most one session. */
export class HeldSwitch {
  #session: SwitchSession | null = null;
  #opening: AbortController | null = null;
  #lost = false;
  #renewing = false;
  readonly #timer: Timer;

  private constructor(
    readonly ctx: Context,
    readonly row: SwitchRow,
    readonly lease: Lease,
  ) {
    this.#timer = setInterval(() => this.#look(), lookEveryMs);
    inHand.add(this);
  }

  /** Null when somebody else has the switch. `formerOwner`: who had it when it was last looked at. */
  static async take(ctx: Context, row: SwitchRow, formerOwner: string | null): Promise<HeldSwitch | null> {
    const taken = await lease(ctx.db, row.id, owner, isDead(formerOwner) ? formerOwner : null, leaseMs);
    return taken && new HeldSwitch(ctx, row, taken);
  }

  /** Somebody else may have the switch now: nothing may be sent to it. */
  get lost(): boolean {
    return this.#lost || this.lease.until - Date.now() < reserveMs;
  }

  /** The session, opened and logged in. */
  async session(observer?: SessionObserver): Promise<SwitchSession> {
    if (this.lost) throw this.#takenOver();
    if (this.#session) return this.#session;
    const { ctx, row } = this;
    const aborter = (this.#opening = new AbortController());
    const driver = ctx.switches.byType(row.type);
    const limits = ctx.switches.limits(driver);
    const opening = driver.open({
      label: row.label,
      settings: JSON.parse(row.settings),
      ...limits,
      knownHostKey: (presented) => knownHostKey(ctx, row, presented),
      signal: aborter.signal,
      observer: observer ?? (ctx.config.debug ? recorder(ctx, row.label) : undefined),
    });
    const timeoutMs = limits.connectTimeoutMs + limits.commandTimeoutMs;
    const session = await bounded(opening, `Switch ${quote(row.label)}: connecting`, timeoutMs).catch((error: unknown) => {
      aborter.abort();
      // One that opens too late.
      if (error instanceof CallTimeout) void opening.then((late) => late.close()).catch(() => {});
      throw error;
    });
    if (this.lost) {
      await end(session);
      throw this.#takenOver();
    }
    return (this.#session = session);
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
    await release(this.ctx.db, this.lease);
  }

  #look(): void {
    const left = this.lease.until - Date.now();
    if (left < reserveMs) return this.#lose();
    if (left > renewBelowMs || this.#renewing) return;
    this.#renewing = true;
    renew(this.ctx.db, this.lease, leaseMs)
      .then((held) => held || this.#lose())
      // The next look tries again, or gives up in time.
      .catch(() => {})
      .finally(() => void (this.#renewing = false));
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
  const deadline = Date.now() + waitMs;
  for (;;) {
    const now = await ctx.db.selectFrom("switch").select(["lease_owner", "lease_until"]).where("id", "=", row.id).executeTakeFirst();
    if (!now) throw notFound("Switch", row.label);
    const taken = now.lease_owner !== null && now.lease_until > Date.now() && !isDead(now.lease_owner);
    const held = taken ? null : await HeldSwitch.take(ctx, row, now.lease_owner);
    if (held) return held;
    if (Date.now() >= deadline) throw blocked(`Switch ${quote(row.label)} is in use by haas; try again.`);
    await Bun.sleep(waitPauseMs);
  }
}

/** The key that the switch is known by; from the first time on it is the one that was presented then. */
async function knownHostKey(ctx: Context, { id, label }: SwitchRow, presented: string): Promise<string> {
  return write(ctx.db, async (tx) => {
    await tx.updateTable("switch").set({ host_key: presented }).where("id", "=", id).where("host_key", "is", null).execute();
    const row = await tx.selectFrom("switch").select("host_key").where("id", "=", id).executeTakeFirst();
    if (!row?.host_key) throw notFound("Switch", label);
    return row.host_key;
  });
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

import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import type { Context } from "../context.ts";
import { HaasError, messageOf, quote, SwitchError } from "../errors.ts";
import { describePort, type PortState, samePort, type SwitchDriver, type SwitchSession } from "../hardware/switches/driver.ts";
import {
  type BusySwitch,
  busySwitches,
  type DueAction,
  dueActions,
  type Lease,
  lease,
  nextDue,
  type Outcome,
  postpone,
  release,
  renew,
  settle,
} from "./journal.ts";

const leaseMs = 60_000;
/** Renewed when less than this is left, so that no call to a switch outlives the lease. */
const leaseReserveMs = 40_000;
/** The bound on each call to a switch, beyond the driver's own. */
const callTimeoutMs = 30_000;
const batchLimit = 64;
/** After so many batches other switches get their turn. */
const batchesPerLease = 100;
const switchLimit = 64;
const firstRetryMs = 1_000;
const longestRetryMs = 60_000;
const stopTimeoutMs = 40_000;
/** A pause before looking again when the database failed. */
const databaseRetryMs = 1_000;

export interface Worker {
  /** Look at the journal now. */
  wake(): void;
  /** Finish what is in hand, hand back the rest, and return; in bounded time. */
  stop(): Promise<void>;
}

/** Apply what is pending now, until nothing is due, and return. */
export async function applyPending(ctx: Context): Promise<void> {
  const worker = new NetworkWorker(ctx);
  while ((await worker.look()) > 0) await worker.idle();
}

/** Apply networking actions until stopped. */
export function startWorker(ctx: Context): Worker {
  const worker = new NetworkWorker(ctx);
  void worker.run();
  return worker;
}

class NetworkWorker implements Worker {
  readonly #owner = thisProcess();
  readonly #inHand = new Map<number, Promise<void>>();
  /** Until when a switch that could not be reached is left alone, and why. */
  readonly #unreachable = new Map<number, { failures: number; until: number; reason: string }>();
  #stopping = false;
  #woken = false;
  #endSleep: (() => void) | null = null;
  #running: Promise<void> = Promise.resolve();

  constructor(readonly ctx: Context) {}

  wake(): void {
    this.#woken = true;
    this.#endSleep?.();
  }

  run(): Promise<void> {
    this.#running = this.#loop();
    return this.#running;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    this.wake();
    // Unreferenced: Bun.sleep would keep a process that has stopped already alive until its end.
    const late = new Promise<void>((resolve) => void setTimeout(resolve, stopTimeoutMs).unref());
    await Promise.race([this.#running.then(() => this.idle()), late]);
  }

  /** Resolves when no switch is in hand. */
  async idle(): Promise<void> {
    await Promise.all(this.#inHand.values());
  }

  async #loop(): Promise<void> {
    while (!this.#stopping) {
      this.#woken = false;
      let pauseMs = this.ctx.config.network.sleepTimeMs;
      try {
        await this.look();
        const due = await nextDue(this.ctx.db);
        if (due !== null) pauseMs = Math.min(pauseMs, Math.max(due - Date.now(), 50));
      } catch (error) {
        this.ctx.log.error("the journal can't be read", { error: messageOf(error) });
        pauseMs = databaseRetryMs;
      }
      // At least one turn of the event loop, whatever wakes the worker.
      await this.#sleep(this.#woken ? 0 : pauseMs);
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#endSleep = () => {
        clearTimeout(timer);
        resolve();
      };
    }).then(() => void (this.#endSleep = null));
  }

  /** Start on every switch that has something due; how many. Switches proceed independently of each other. */
  async look(): Promise<number> {
    let started = 0;
    for (const busy of await busySwitches(this.ctx.db, Date.now())) {
      if (this.#stopping || this.#inHand.has(busy.id) || this.#inHand.size >= switchLimit) continue;
      const wait = this.#unreachable.get(busy.id);
      if (wait && wait.until > Date.now()) {
        await postpone(this.ctx.db, busy.id, wait.reason, wait.until);
        continue;
      }
      const held = await lease(this.ctx.db, busy.id, this.#owner, isDead(busy.lease_owner) ? busy.lease_owner : null, leaseMs);
      if (!held) continue;
      started++;
      const work = this.#serve(busy, held)
        .catch((error) => {
          this.ctx.log.error("a switch's actions were left for later", { switch: busy.label, error: messageOf(error) });
          this.#leaveAlone(busy.id, reasonOf(error));
        })
        .finally(() => {
          this.#inHand.delete(busy.id);
          // What came for this switch in the meantime.
          this.wake();
        });
      this.#inHand.set(busy.id, work);
    }
    return started;
  }

  /** Work on one switch in one session until nothing is due, within bounds. */
  async #serve(busy: BusySwitch, held: Lease): Promise<void> {
    const { db } = this.ctx;
    let session: SwitchSession | null = null;
    try {
      for (let batch = 0; batch < batchesPerLease && !this.#stopping; batch++) {
        const actions = await dueActions(db, busy.id, Date.now(), batchLimit);
        if (actions.length === 0) return;
        if (!(await this.#holds(held))) return;
        if (this.ctx.config.dryRun) {
          for (const { port, desired } of actions) {
            this.ctx.log.info("dry run: a port would change", { switch: busy.label, port, to: describePort(desired) });
          }
          const pretended = actions.map((action) => ({ action, outcome: { kind: "pretended" as const } }));
          if (!(await this.#settle(busy, held, pretended))) return;
          continue;
        }
        let driver: SwitchDriver;
        try {
          driver = this.ctx.switches.byType(busy.type);
          session ??= await openSession(driver, busy);
          this.#unreachable.delete(busy.id);
        } catch (error) {
          await this.#cannotOpen(busy, held, actions, error);
          return;
        }
        const results = await this.#apply(busy, held, driver, session, actions);
        if (!results) return;
        if (!(await this.#settle(busy, held, results))) return;
        // A failed call may have left the session in any state: start afresh.
        if (results.some(({ outcome }) => outcome.kind !== "done")) {
          await closeSession(session);
          session = null;
        }
      }
    } finally {
      if (session) await closeSession(session);
      await release(db, held);
    }
  }

  /** Whether the switch is ours for one more call, renewing the lease when it runs short. */
  async #holds(held: Lease): Promise<boolean> {
    return held.until - Date.now() >= leaseReserveMs || renew(this.ctx.db, held, leaseMs);
  }

  /** Apply a batch, read it back, and save it. Null when the lease was lost on the way. */
  async #apply(
    busy: BusySwitch,
    held: Lease,
    driver: SwitchDriver,
    session: SwitchSession,
    actions: readonly DueAction[],
  ): Promise<{ action: DueAction; outcome: Outcome }[] | null> {
    const failures = new Map<DueAction, unknown>();
    const where = (port: string) => `Switch ${quote(busy.label)}, port ${quote(port)}`;
    for (const action of actions) {
      if (!(await this.#holds(held))) return null;
      try {
        await bounded(session.applyPort(action.port, action.desired), where(action.port));
      } catch (error) {
        // The others of the batch stay due, for a session of their own.
        if (error instanceof SwitchTimeout) return [{ action, outcome: this.#failure(action, error, true) }];
        failures.set(action, error);
      }
    }
    if (!(await this.#holds(held))) return null;
    const applied = actions.filter((action) => !failures.has(action));
    try {
      if (applied.length > 0) {
        const ports = applied.map(({ port }) => port);
        const actual = await bounded(session.readPorts(ports), `Switch ${quote(busy.label)}: reading back`);
        for (const action of applied) {
          const state: PortState | undefined = actual.get(action.port);
          if (!state || !samePort(state, action.desired)) {
            failures.set(
              action,
              new SwitchError(
                `${where(action.port)} should carry ${describePort(action.desired)}, but reads back ${state ? describePort(state) : "no state"}.`,
              ),
            );
          }
        }
        if (session.save && this.ctx.switches.saves(driver)) {
          if (!(await this.#holds(held))) return null;
          await bounded(session.save(), `Switch ${quote(busy.label)}: saving its configuration`);
        }
      }
    } catch (error) {
      for (const action of applied) if (!failures.has(action)) failures.set(action, error);
    }
    return actions.map((action) => ({
      action,
      outcome: failures.has(action) ? this.#failure(action, failures.get(action), true) : { kind: "done" },
    }));
  }

  /** What becomes of an action that failed. `touched`: the port may have changed. */
  #failure(action: DueAction, error: unknown, touched: boolean): Outcome {
    const reason = reasonOf(error);
    const attempts = action.attempts + 1;
    const nextTry = Date.now() + retryDelayMs(attempts);
    const permanent = error instanceof SwitchError && error.permanent;
    const spent = attempts >= this.ctx.config.network.maxTries;
    // The driver can't talk to such a device at all, so the port is as it was.
    if (permanent) return { kind: "failed", reason, syncAt: nextTry, suspect: touched };
    // haas's own wish to have a port right never ends; the port is suspect until it is.
    if (action.type === "sync_port") return { kind: "retry", reason, nextTry, suspect: true };
    // Some earlier try may have changed the port, even if this one did not.
    if (spent) return { kind: "failed", reason, syncAt: nextTry, suspect: true };
    return { kind: "retry", reason, nextTry, suspect: false };
  }

  async #cannotOpen(busy: BusySwitch, held: Lease, actions: readonly DueAction[], error: unknown): Promise<void> {
    // It is a try of every action that is due, not just of one batch.
    for (let due = actions; due.length > 0; due = await dueActions(this.ctx.db, busy.id, Date.now(), batchLimit)) {
      const outcomes = due.map((action) => ({ action, outcome: this.#failure(action, error, false) }));
      if (!(await this.#settle(busy, held, outcomes))) return;
    }
    if (error instanceof SwitchError && error.permanent) return;
    const reason = reasonOf(error);
    await postpone(this.ctx.db, busy.id, reason, this.#leaveAlone(busy.id, reason));
  }

  /** Don't try the switch again before the time that this returns, in milliseconds since 1970. */
  #leaveAlone(switchId: number, reason: string): number {
    const failures = (this.#unreachable.get(switchId)?.failures ?? 0) + 1;
    const until = Date.now() + retryDelayMs(failures);
    this.#unreachable.set(switchId, { failures, until, reason });
    return until;
  }

  /** False when the lease was lost: then nothing was recorded, and the switch is somebody else's. */
  async #settle(busy: BusySwitch, held: Lease, results: readonly { action: DueAction; outcome: Outcome }[]): Promise<boolean> {
    if (!(await settle(this.ctx.db, held, results))) {
      this.ctx.log.warning("another worker took the switch over; its actions are done again there", { switch: busy.label });
      return false;
    }
    for (const { action, outcome } of results) {
      const fields = { switch: busy.label, port: action.port, node: action.node, nic: action.nic, action: action.uuid };
      if (outcome.kind === "pretended") continue;
      if (outcome.kind === "done") this.ctx.log.info("port changed", { ...fields, carries: describePort(action.desired) });
      else if (outcome.kind === "retry") this.ctx.log.warning("port not changed yet", { ...fields, reason: outcome.reason });
      else this.ctx.log.error("port not changed", { ...fields, reason: outcome.reason });
    }
    return true;
  }
}

/** Doubles with every try, up to a minute, give or take a third, so that switches are not all retried at once. */
function retryDelayMs(attempts: number): number {
  return Math.round(Math.min(firstRetryMs * 2 ** (attempts - 1), longestRetryMs) * (0.67 + Math.random() * 0.66));
}

/** Why something failed, as tenants may read it: a device's words, but not those of a database. */
const reasonOf = (error: unknown): string =>
  error instanceof HaasError && error.type !== "ServerError" ? error.message : "haas itself failed; its log says more.";

/** Connect and log in. A session that opens too late is closed. */
async function openSession(driver: SwitchDriver, { label, settings }: BusySwitch): Promise<SwitchSession> {
  const opening = driver.open({ label, settings: JSON.parse(settings) });
  try {
    return await bounded(opening, `Connecting to switch ${quote(label)}`);
  } catch (error) {
    if (error instanceof SwitchTimeout) opening.then(closeSession, () => {});
    throw error;
  }
}

async function closeSession(session: SwitchSession): Promise<void> {
  await bounded(session.close(), "Closing").catch(() => {});
}

/** A call that was not answered in time. It may still be under way, so its session is of no more use. */
class SwitchTimeout extends SwitchError {}

/** The result of a call to a switch, or a SwitchTimeout. */
async function bounded<T>(call: Promise<T>, what: string): Promise<T> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new SwitchTimeout(`${what}: no answer within ${callTimeoutMs / 1000} s.`)), callTimeoutMs);
  });
  try {
    return await Promise.race([call, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * This process, as a lease names its holder: the machine, since which boot, which process id, started
 * when. So a haas that comes up after a crash sees at once that the former holder is gone.
 */
function thisProcess(): string {
  return `${machine()} ${process.pid} ${startOf(process.pid) ?? "?"}`;
}

function machine(): string {
  try {
    return `${hostname()} ${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return `${hostname()} - -`;
  }
}

/** When the process started, in clock ticks since boot (field 22 of proc(5)'s stat), or null if there is none. */
function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
  } catch {
    return null;
  }
}

/** Whether a lease's holder is certainly dead: it ran on this machine, and that process is no more. */
function isDead(owner: string | null): boolean {
  if (owner === null) return false;
  const parts = owner.split(" ");
  const [pid, start] = [Number(parts.at(-2)), parts.at(-1)];
  return parts.slice(0, -2).join(" ") === machine() && start !== "?" && startOf(pid) !== start;
}

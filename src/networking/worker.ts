import type { Context } from "../context.ts";
import { longestPauseMs } from "../db/clock.ts";
import { Deadline } from "../deadline.ts";
import { HaasError, messageOf, quote, SessionLostError, SwitchError, UnavailableError } from "../errors.ts";
import { describePort, emptyPort, type PortState, samePort } from "../hardware/switches/driver.ts";
import {
  type BusySwitch,
  busySwitches,
  doubt,
  type DueAction,
  dueActions,
  nextDueInMs,
  type Outcome,
  postpone,
  settle,
} from "./journal.ts";
import { HeldSwitch } from "./session.ts";

const batchLimit = 64;
/** After so many batches other switches get their turn. */
const batchesPerLease = 100;
const switchLimit = 512;
const firstRetryMs = 1_400;
const longestRetryMs = longestPauseMs;
/** Above what the sessions are given at the end (see serve.ts), and the end of one. */
const stopTimeoutMs = 20_000;
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
  readonly #inHand = new Map<number, Promise<void>>();
  /** For how long a switch that could not be reached is left alone, and why. */
  readonly #unreachable = new Map<number, { failures: number; over: Deadline; reason: string }>();
  /** Ports that were cut off while they were changed, by switch, before the database knows. */
  readonly #doubts: { switchId: number; portIds: number[] }[] = [];
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
        const due = await nextDueInMs(this.ctx.db);
        if (due !== null) pauseMs = Math.min(pauseMs, Math.max(due, 50));
      } catch (error) {
        // That it is away is told once.
        if (!(error instanceof UnavailableError)) this.ctx.log.error("the journal can't be read", { error: messageOf(error) });
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
    await this.#recordDoubts();
    for (const busy of await busySwitches(this.ctx.db)) {
      if (this.#stopping || this.#inHand.has(busy.id) || this.#inHand.size >= switchLimit) continue;
      const wait = this.#unreachable.get(busy.id);
      if (wait && !wait.over.passed) {
        await postpone(this.ctx.db, busy.id, wait.reason, wait.over.left);
        continue;
      }
      const held = await HeldSwitch.take(this.ctx, busy);
      if (!held) continue;
      started++;
      const work = this.#serve(busy, held)
        .catch((error) => {
          // No failure of the switch, and told already.
          if (error instanceof UnavailableError) {
            const failures = this.#unreachable.get(busy.id)?.failures ?? 0;
            return void this.#unreachable.set(busy.id, { failures, over: new Deadline(databaseRetryMs), reason: reasonOf(error) });
          }
          // At the end of the process there may be no database any more, and nothing is lost by that.
          if (!this.#stopping)
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
  async #serve(busy: BusySwitch, held: HeldSwitch): Promise<void> {
    const { db } = this.ctx;
    /** What may have been changed, and is not settled. */
    let inHand: readonly DueAction[] = [];
    try {
      for (let batch = 0; batch < batchesPerLease && !this.#stopping; batch++) {
        // First, because that takes seconds in which more may come, and all of it goes in one batch.
        if (!this.ctx.config.dryRun) {
          try {
            await held.session();
          } catch (error) {
            if (error instanceof UnavailableError) throw error;
            if (!this.#stopping) await this.#cannotOpen(busy, held, error);
            return;
          }
        }
        const actions = await dueActions(db, busy.id, batchLimit);
        if (actions.length === 0 || held.lost) return;
        if (this.ctx.config.dryRun) {
          for (const { port, desired } of actions) {
            this.ctx.log.info("dry run: a port would change", { switch: busy.label, port, to: describePort(desired) });
          }
          const pretended = actions.map((action) => ({ action, outcome: { kind: "pretended" as const, againInMs: longestRetryMs } }));
          if (!(await this.#settle(busy, held, pretended))) return;
          continue;
        }
        const failures = new Map<DueAction, unknown>();
        inHand = actions;
        await this.ctx.lineage.advance();
        const lost = await this.#apply(busy, held, actions, failures);
        const ended = lost === null ? actions : actions.filter((action) => failures.has(action));
        const outcomes = ended.map((action) => ({
          action,
          outcome: failures.has(action) ? this.#failure(action, failures.get(action)) : { kind: "done" as const },
        }));
        // What is cut off by the end of the process is no failure of the switch.
        if (lost !== null && this.#stopping) return;
        if (!(await this.#settle(busy, held, outcomes))) return;
        inHand = [];
        if (lost === null) {
          this.#unreachable.delete(busy.id);
          continue;
        }
        // The others stay due, for a session of their own.
        await held.endSession();
        const reason = reasonOf(lost);
        await postpone(db, busy.id, reason, this.#leaveAlone(busy.id, reason));
        return;
      }
    } finally {
      await held.release();
      if (inHand.length > 0) this.#doubts.push({ switchId: busy.id, portIds: inHand.map(({ portId }) => portId) });
      await this.#recordDoubts();
    }
  }

  /** While the database is away they are kept. */
  async #recordDoubts(): Promise<void> {
    for (let first = this.#doubts.shift(); first; first = this.#doubts.shift()) {
      try {
        await doubt(this.ctx.db, first.switchId, first.portIds);
      } catch (error) {
        if (error instanceof UnavailableError) this.#doubts.push(first);
        throw error;
      }
    }
  }

  /**
   * Apply a batch, read it back, and save it. Failures of single actions go into `failures`; what is
   * returned is why the session was lost, if it was: then only the actions with a failure have ended.
   */
  async #apply(
    busy: BusySwitch,
    held: HeldSwitch,
    actions: readonly DueAction[],
    failures: Map<DueAction, unknown>,
  ): Promise<SessionLostError | null> {
    /** What failed concerns these actions, and, when the session was lost, the others as well. */
    const failed = (error: unknown, concerned: readonly DueAction[]): SessionLostError | null => {
      // Not of the ports: haas can't ask whether it may go on.
      if (error instanceof UnavailableError) throw error;
      for (const action of concerned) failures.set(action, error);
      return error instanceof SessionLostError ? error : null;
    };
    const applied = () => actions.filter((action) => !failures.has(action));
    // First, so that the driver knows what is on them, and writes only what differs.
    if (actions.some(({ unread }) => unread)) {
      const found = await this.#readBack(held, actions, failed);
      if (found instanceof SessionLostError) return found;
      for (const action of applied().filter(({ unread }) => unread)) {
        const actual = found.get(action.port);
        if (actual) action.desired = this.#common(busy, actual, action.desired);
        else failures.set(action, new SwitchError(`Switch ${quote(busy.label)}, port ${quote(action.port)}: it reads back no state.`));
      }
    } else {
      try {
        const ports = actions.map(({ port }) => port);
        await held.call(ports, (session) => session.readPorts(ports));
      } catch (error) {
        // Otherwise the port that can't be read is told below.
        if (error instanceof SessionLostError || error instanceof UnavailableError) return failed(error, actions);
      }
    }
    for (const group of alike(applied())) {
      try {
        if (await this.#applyTogether(held, group)) continue;
      } catch (error) {
        const lost = failed(error, group);
        if (lost) return lost;
        // Whose fault it is shows with each of them alone.
        for (const action of group) failures.delete(action);
      }
      for (const action of group) {
        try {
          await held.call([action.port], (session) => session.applyPort(action.port, action.desired));
        } catch (error) {
          const lost = failed(error, [action]);
          if (lost) return lost;
        }
      }
    }
    const read = await this.#readBack(held, applied(), failed);
    if (read instanceof SessionLostError) return read;
    for (const action of applied()) {
      const state = read.get(action.port);
      if (state && samePort(state, action.desired)) continue;
      const where = `Switch ${quote(busy.label)}, port ${quote(action.port)}`;
      const says = state ? describePort(state) : "no state";
      failures.set(action, new SwitchError(`${where} should carry ${describePort(action.desired)}, but reads back ${says}.`));
    }
    if (applied().length === 0 || !this.ctx.switches.saves(this.ctx.switches.byType(busy.type))) return null;
    try {
      await held.call([], async (session) => session.save?.());
    } catch (error) {
      return failed(error, applied());
    }
    return null;
  }

  /** What a port carries and should carry, as far as such a switch has ports that carry it. */
  #common({ type }: BusySwitch, actual: PortState, desired: PortState): PortState {
    const native = actual.native === desired.native ? desired.native : null;
    const tagged = desired.tagged.filter((vlan) => actual.tagged.includes(vlan));
    const needsNative = !this.ctx.switches.byType(type).capabilities.includes("nativeless-trunk-mode");
    return native === null && needsNative ? emptyPort : { native, tagged };
  }

  /** Several ports at once; false where the switch does not take that. */
  async #applyTogether(held: HeldSwitch, group: readonly DueAction[]): Promise<boolean> {
    if (group.length < 2 || !(await held.session()).applyPorts) return false;
    const ports = group.map(({ port }) => port);
    await held.call(ports, (session) => session.applyPorts!(ports, group[0]!.desired));
    return true;
  }

  /** What the ports hold now. One that can't be read is no reason to doubt the others. */
  async #readBack(
    held: HeldSwitch,
    actions: readonly DueAction[],
    failed: (error: unknown, concerned: readonly DueAction[]) => SessionLostError | null,
  ): Promise<Map<string, PortState> | SessionLostError> {
    const ports = actions.map(({ port }) => port);
    if (ports.length === 0) return new Map();
    try {
      return await held.call(ports, (session) => session.readPorts(ports));
    } catch (error) {
      if (error instanceof SessionLostError || error instanceof UnavailableError) return failed(error, actions)!;
    }
    const found = new Map<string, PortState>();
    for (const action of actions) {
      try {
        const one = await held.call([action.port], (session) => session.readPorts([action.port]));
        for (const [port, state] of one) found.set(port, state);
      } catch (error) {
        const lost = failed(error, [action]);
        if (lost) return lost;
      }
    }
    return found;
  }

  /** What becomes of an action that failed. `unreached`: the switch did not even let haas in. */
  #failure(action: DueAction, error: unknown, unreached = false): Outcome {
    const reason = reasonOf(error, action.port);
    const attempts = action.attempts + 1;
    const againInMs = retryDelayMs(attempts);
    const spent = attempts >= this.ctx.config.network.maxTries;
    // haas's own wish to have a port right never ends; the port is suspect until it is.
    if (action.type === "sync_port") return { kind: "retry", reason, unreached, againInMs, suspect: true };
    // Some earlier try may have changed the port, even if this one did not.
    if (spent) return { kind: "failed", reason, unreached, againInMs };
    return { kind: "retry", reason, unreached, againInMs, suspect: false };
  }

  async #cannotOpen(busy: BusySwitch, held: HeldSwitch, error: unknown): Promise<void> {
    // It is a try of every action that is due, not just of one batch.
    let waiting = 0;
    for (;;) {
      const due = await dueActions(this.ctx.db, busy.id, batchLimit);
      if (due.length === 0) break;
      const outcomes = due.map((action) => ({ action, outcome: this.#failure(action, error, true) }));
      if (!(await this.#settle(busy, held, outcomes, true))) return;
      waiting += outcomes.filter(({ outcome }) => outcome.kind === "retry").length;
    }
    const reason = reasonOf(error);
    this.ctx.log.warning("a switch can't be used", { switch: busy.label, actions: waiting, reason });
    await postpone(this.ctx.db, busy.id, reason, this.#leaveAlone(busy.id, reason));
  }

  /** Don't try the switch again for as many milliseconds as this returns. */
  #leaveAlone(switchId: number, reason: string): number {
    const failures = (this.#unreachable.get(switchId)?.failures ?? 0) + 1;
    const over = new Deadline(retryDelayMs(failures));
    this.#unreachable.set(switchId, { failures, over, reason });
    return over.ms;
  }

  /** False when the lease was lost: then nothing was recorded, and the switch is somebody else's. `quietly`: what is tried again is not told here. */
  async #settle(
    busy: BusySwitch,
    held: HeldSwitch,
    results: readonly { action: DueAction; outcome: Outcome }[],
    quietly = false,
  ): Promise<boolean> {
    if (!(await settle(this.ctx.db, held.lease, results))) {
      this.ctx.log.warning("another worker took the switch over; its actions are done again there", { switch: busy.label });
      return false;
    }
    for (const { action, outcome } of results) {
      const fields = { switch: busy.label, port: action.port, node: action.node, nic: action.nic, action: action.uuid };
      if (outcome.kind === "pretended" || (outcome.kind === "retry" && quietly)) continue;
      if (outcome.kind === "done") this.ctx.log.info("port changed", { ...fields, carries: describePort(action.desired) });
      else if (outcome.kind === "retry") this.ctx.log.warning("port not changed yet", { ...fields, reason: outcome.reason });
      else this.ctx.log.error("port not changed", { ...fields, reason: outcome.reason });
    }
    return true;
  }
}

/** Doubles with every try, up to a minute, less up to a half, so that switches are not all retried at once. */
function retryDelayMs(attempts: number): number {
  return Math.round(Math.min(firstRetryMs * 2 ** (attempts - 1), longestRetryMs) * (0.5 + Math.random() * 0.5));
}

/** Why something failed, as tenants may read it: a device's words, but not those of a database. */
function reasonOf(error: unknown, port?: string): string {
  if (!(error instanceof HaasError) || error.type === "ServerError") return "haas itself failed; its log says more.";
  if (error instanceof UnavailableError) return error.tenant ?? error.message;
  const { message } = error;
  return port === undefined || message.includes(quote(port)) ? message : `${message} Port ${quote(port)} waits for it.`;
}

/** Actions that want the same state, together; in order otherwise. */
function alike(actions: readonly DueAction[]): DueAction[][] {
  return [...Map.groupBy(actions, ({ desired }) => `${desired.native} ${desired.tagged.join()}`).values()];
}

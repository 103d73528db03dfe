import { type Caller, requireAdmin, writeAsAdmin } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { shownTime } from "../db/clock.ts";
import type { Db } from "../db/transaction.ts";
import { blocked, quote, SessionLostError, SwitchError } from "../errors.ts";
import { type PortState, samePort, type SessionObserver, type SwitchDriver } from "../hardware/switches/driver.ts";
import { getSwitch } from "../inventory/switches.ts";
import { enqueueSync, portsOf, waitingSyncs } from "./journal.ts";
import { type SwitchReader, type SwitchRow, withSwitch } from "./session.ts";

// What switches really hold, beside what they should: for administrators.

/** How long a request waits for a switch that networking actions hold. */
const requestWaitMs = 20_000;

/** What is to come onto a port, and what is to leave it. */
export interface Difference {
  missing: PortState;
  excess: PortState;
}

/** Null when they agree. */
export function compare(desired: PortState, actual: PortState): Difference | null {
  if (samePort(desired, actual)) return null;
  const without = (a: PortState, b: PortState): PortState => ({
    native: a.native === b.native ? null : a.native,
    tagged: a.tagged.filter((vlan) => !b.tagged.includes(vlan)),
  });
  return { missing: without(desired, actual), excess: without(actual, desired) };
}

/**
 * Work with a switch while an administrator's request waits for it. `BlockedError` when it stays busy, and in a dry run;
 * `AuthorizationError` when the caller is no administrator any more at the turn, or once it is logged in.
 */
export async function useSwitch<T>(
  ctx: Context,
  caller: Caller,
  row: SwitchRow,
  work: (session: SwitchReader, driver: SwitchDriver) => Promise<T>,
  observer?: SessionObserver,
): Promise<T> {
  if (ctx.config.dryRun) throw blocked("This haas makes a dry run ([devel] dry_run), and talks to no switch.");
  const confirm = async () => requireAdmin(await caller.rights(ctx.db));
  const confirmed = async (session: SwitchReader, driver: SwitchDriver) => {
    await confirm();
    return work(session, driver);
  };
  return withSwitch(ctx, row, requestWaitMs, confirmed, observer, confirm);
}

/** What one port holds. */
export async function readPort(session: SwitchReader, { label }: SwitchRow, port: string): Promise<PortState> {
  const state = (await session.readPorts([port])).get(port);
  if (!state) throw new SwitchError(`Switch ${quote(label)}, port ${quote(port)}: it reads back no state.`);
  return state;
}

/** What a port holds, or why that could not be read. */
export type Reading = { actual: PortState; error: null } | { actual: null; error: string };

/** What each port holds. One that can't be read does not hide the others, unless the session is lost with it. */
export async function readEach(session: SwitchReader, row: SwitchRow, ports: readonly string[]): Promise<Map<string, Reading>> {
  let failure: SwitchError;
  try {
    const states = await session.readPorts(ports);
    if (ports.every((port) => states.has(port))) return new Map(ports.map((port) => [port, { actual: states.get(port)!, error: null }]));
    failure = new SwitchError(`Switch ${quote(row.label)}: it reads back too few ports.`);
  } catch (error) {
    failure = switchError(error);
  }
  const readings = new Map<string, Reading>();
  for (const port of ports) {
    let actual: PortState | null = null;
    if (!(failure instanceof SessionLostError)) {
      actual = await readPort(session, row, port).catch((error: unknown) => {
        failure = switchError(error);
        return null;
      });
    }
    readings.set(port, actual ? { actual, error: null } : { actual, error: failure.message });
  }
  return readings;
}

/** What is no failure of a switch is a fault of ours. */
function switchError(error: unknown): SwitchError {
  if (error instanceof SwitchError) return error;
  throw error;
}

export const planPort = (driver: SwitchDriver, { settings }: SwitchRow, port: string, actual: PortState, desired: PortState) =>
  driver.plan(port, actual, desired, JSON.parse(settings));

/** Every port of a switch, read from it, beside what it should carry. */
export async function showActual(ctx: Context, caller: Caller, label: string) {
  const row = await getSwitch(ctx.db, label);
  return useSwitch(ctx, caller, row, async (session) => {
    const ports = await portsOf(ctx.db, row.id);
    const readings = await readEach(session, row, ports.map(nameOf));
    return {
      switch: label,
      ports: ports.map(({ label, node, nic, desired, pending, suspect }) => {
        const { actual, error } = readings.get(label)!;
        return { port: label, node, nic, desired, actual, difference: actual && compare(desired, actual), error, pending, suspect };
      }),
    };
  });
}

const nameOf = ({ label }: { label: string }) => label;

/** What a reconciliation would send: the ports that differ, or can't be read. */
export async function planReconciliation(ctx: Context, caller: Caller, label: string) {
  const row = await getSwitch(ctx.db, label);
  return useSwitch(ctx, caller, row, async (session, driver) => {
    const ports = await portsOf(ctx.db, row.id);
    const readings = await readEach(session, row, ports.map(nameOf));
    const plan = ports.map(({ label: port, desired }) => {
      const { actual, error } = readings.get(port)!;
      return { port, actual, desired, lines: actual ? planPort(driver, row, port, actual, desired) : [], error };
    });
    return { switch: label, plan: plan.filter(({ actual, desired }) => !actual || !samePort(actual, desired)) };
  });
}

/** Queue bringing every port of a switch to what it should carry, at once; the ports. */
export async function reconcile(ctx: Context, caller: Caller, label: string): Promise<string[]> {
  const ports = await writeAsAdmin(ctx.db, caller, async (tx) => {
    const { id } = await getSwitch(tx, label);
    const ports = await portsOf(tx, id);
    for (const port of ports) await enqueueSync(tx, { portId: port.id, switchId: id, inMs: 0 });
    return ports.map(nameOf);
  });
  ctx.wake();
  return ports;
}

/** What still waits to be brought to its state, and what is suspect. `next_try` is null for what is due. */
export async function showReconciliation(db: Db, label: string) {
  const { id } = await getSwitch(db, label);
  const pending = (await waitingSyncs(db, id)).map(({ due_in_ms, next_try, ...sync }) => ({
    ...sync,
    next_try: due_in_ms > 0 ? shownTime(db, next_try, due_in_ms) : null,
  }));
  const suspect = (await portsOf(db, id)).flatMap(({ label: port, suspect: reason }) => (reason === null ? [] : [{ port, reason }]));
  return { pending, suspect };
}

/** What the last checks found (see verifier.ts): the ports that still carried something else when they were last read. */
export async function showDrift(db: Db) {
  const rows = await db.selectFrom("switch").select(["id", "label", "checked_at", "check_error"]).orderBy("label").execute();
  const drifted = await db.selectFrom("port").select("switch_id").distinct().where("drift", "is not", null).execute();
  const differing = new Set(drifted.map(({ switch_id }) => switch_id));
  const switches = [];
  for (const { id, label, checked_at, check_error } of rows) {
    const ports = differing.has(id) ? await portsOf(db, id) : [];
    switches.push({
      switch: label,
      checked_at: checked_at === null ? null : new Date(checked_at).toISOString(),
      error: check_error,
      ports: ports.flatMap(({ label: port, desired, drift }) => {
        const actual = drift === null ? null : (JSON.parse(drift) as PortState);
        const difference = actual && compare(desired, actual);
        return actual && difference ? [{ port, desired, actual, difference }] : [];
      }),
    });
  }
  return { switches };
}

import { type Insertable, type RawBuilder, type Selectable, sql, type Updateable } from "kysely";
import { databaseTime, isPast, timeLeft } from "../db/clock.ts";
import type { Flag, Tables } from "../db/tables.ts";
import { type Db, isPostgres, type Tx, write } from "../db/transaction.ts";
import type { PortState } from "../hardware/switches/driver.ts";
import { type Lease, takeLease, writeTaking } from "./lease.ts";

// All the SQL of the journal: the durable queue of changes to switch ports.
//
// A switch is leased by one worker at a time; whoever holds the lease takes the switch's actions in
// order, one a port at once. The lease has a token that grows with every new holder, and nothing is
// settled under an old one. Applying an action twice does no harm, because a port always gets its
// whole desired state; it is settled once.

export type Action = Selectable<Tables["networking_action"]>;

export const journalChannel = "haas_journal";

export interface NewAction {
  type: "modify_port" | "revert_port";
  node: { id: number; label: string };
  nic: { id: number; label: string };
  portId: number;
  switchId: number;
  /** `newLabel` is null when the network goes. */
  network: { id: number; vlan: number | null; newLabel: string | null } | null;
  channel: string | null;
}

/**
 * Accept an action; its id. Call the context's wake() after the commit.
 * A second pending action on the nic violates `action_pending_nic`; callers checked in the same transaction.
 */
export async function enqueue(tx: Tx, action: NewAction): Promise<string> {
  const uuid = crypto.randomUUID();
  await insert(tx, {
    uuid,
    type: action.type,
    status: "PENDING",
    node_id: action.node.id,
    nic_id: action.nic.id,
    port_id: action.portId,
    switch_id: action.switchId,
    network_id: action.network?.id ?? null,
    node: action.node.label,
    nic: action.nic.label,
    new_network: action.network?.newLabel ?? null,
    channel: action.channel,
    created_at: Date.now(),
    reason: null,
    ended_at: null,
  });
  return uuid;
}

/** Have a port brought to what its attachments say, in so many milliseconds. One that is queued already is not put off. */
export async function enqueueSync(tx: Tx, { portId, switchId, inMs }: { portId: number; switchId: number; inMs: number }): Promise<void> {
  const due = inMs === 0 ? sql<number>`0` : databaseTime(tx, inMs);
  const { numUpdatedRows } = await tx
    .updateTable("networking_action")
    // Under another name, so that a batch which is under way does not take this wish for the one that it fulfils.
    .set({ uuid: crypto.randomUUID(), next_try: sql<number>`case when next_try < ${due} then next_try else ${due} end` })
    .where("port_id", "=", portId)
    .where("status", "=", "PENDING")
    .where("type", "=", "sync_port")
    .executeTakeFirstOrThrow();
  if (numUpdatedRows > 0n) return notify(tx);
  await insert(tx, {
    uuid: crypto.randomUUID(),
    type: "sync_port",
    status: "PENDING",
    node_id: null,
    nic_id: null,
    port_id: portId,
    switch_id: switchId,
    network_id: null,
    node: null,
    nic: null,
    new_network: null,
    channel: null,
    created_at: Date.now(),
    next_try: due,
    reason: null,
    ended_at: null,
  });
}

/** Nobody gets these ports before they have been brought to what their attachments say, in so many milliseconds. */
export async function suspectPorts(
  tx: Tx,
  switchId: number,
  portIds: readonly number[],
  { reason, inMs }: { reason: string; inMs: number },
): Promise<void> {
  for (const portId of portIds) {
    const { numUpdatedRows } = await tx.updateTable("port").set({ suspect: reason }).where("id", "=", portId).executeTakeFirstOrThrow();
    if (numUpdatedRows > 0n) await enqueueSync(tx, { portId, switchId, inMs });
  }
}

/** The ids of the ports of a switch. */
export async function portIdsOf(db: Db, switchId: number): Promise<number[]> {
  const ports = await db.selectFrom("port").select("id").where("switch_id", "=", switchId).orderBy("id").execute();
  return ports.map(({ id }) => id);
}

async function insert(
  tx: Tx,
  row: Omit<Insertable<Tables["networking_action"]>, "next_try"> & { next_try?: RawBuilder<number> },
): Promise<void> {
  await tx.insertInto("networking_action").values(row).execute();
  await notify(tx);
}

/** Delivered at the commit, to the workers of every process. */
async function notify(tx: Tx): Promise<void> {
  if (isPostgres(tx)) await sql`select pg_notify(${journalChannel}, '')`.execute(tx);
}

export async function isPending(db: Db, nicId: number): Promise<boolean> {
  const row = await db
    .selectFrom("networking_action")
    .select("id")
    .where("nic_id", "=", nicId)
    .where("status", "=", "PENDING")
    .executeTakeFirst();
  return row !== undefined;
}

/** Whether somebody's change of the port is pending; haas's own wish to have it right does not count. */
export async function isChangePending(db: Db, portId: number): Promise<boolean> {
  return (await changesOf(db, portId).where("status", "=", "PENDING").executeTakeFirst()) !== undefined;
}

/** Whether anybody ever asked for a change of the port. */
export async function wasEverChanged(db: Db, portId: number): Promise<boolean> {
  return (await changesOf(db, portId).executeTakeFirst()) !== undefined;
}

const changesOf = (db: Db, portId: number) =>
  db.selectFrom("networking_action").select("id").where("port_id", "=", portId).where("type", "!=", "sync_port").limit(1);

/** haas's own wish to have the port right. */
const syncOf = (db: Db, portId: number) =>
  db
    .selectFrom("networking_action")
    .select("id")
    .where("port_id", "=", portId)
    .where("status", "=", "PENDING")
    .where("type", "=", "sync_port");

/** Drop haas's own wish to have the port right; with `uuid`, only if that is still its name: see enqueueSync. */
export async function dropSync(tx: Tx, portId: number, uuid?: string): Promise<void> {
  await tx
    .deleteFrom("networking_action")
    .where("port_id", "=", portId)
    .where("status", "=", "PENDING")
    .where("type", "=", "sync_port")
    .$if(uuid !== undefined, (query) => query.where("uuid", "=", uuid!))
    .execute();
}

/** The ports of a switch that wait to be brought to what their attachments say, oldest wish first. */
export async function waitingSyncs(db: Db, switchId: number) {
  return db
    .selectFrom("networking_action as action")
    .innerJoin("port", "port.id", "action.port_id")
    .select(["port.label as port", "action.reason", "action.attempts", "action.next_try"])
    .select(timeLeft(db, "action.next_try").as("due_in_ms"))
    .where("action.switch_id", "=", switchId)
    .where("action.status", "=", "PENDING")
    .where("action.type", "=", "sync_port")
    .orderBy("action.id")
    .execute();
}

export async function findAction(db: Db, uuid: string): Promise<(Action & { due_in_ms: number }) | undefined> {
  return db
    .selectFrom("networking_action as action")
    .selectAll()
    .select(timeLeft(db, "action.next_try").as("due_in_ms"))
    .where("uuid", "=", uuid)
    .executeTakeFirst();
}

/**
 * The actions that are next on their ports. Each port's go in order; a sync waits for all others,
 * because each of them brings the whole port into its desired state, and takes the sync along when it is done.
 *
 * While there is a port that was not read back since the database was replaced, only such ports' syncs are done, which
 * then take away and add nothing (see `unread` in DueAction): any VLAN may be on a port that nobody has read, so none is
 * put on another one.
 */
const nextOnPorts = (db: Db) =>
  db
    .selectFrom("networking_action as action")
    .where("action.status", "=", "PENDING")
    .where((e) => {
      const unread = e.selectFrom("port").select("port.id").where("port.unread", "=", sql.lit(1));
      return e.or([e.not(e.exists(unread)), e.and([e("action.type", "=", "sync_port"), e("action.port_id", "in", unread)])]);
    })
    .where((e) =>
      e.not(
        e.exists(
          e
            .selectFrom("networking_action as other")
            .select("other.id")
            .whereRef("other.port_id", "=", "action.port_id")
            .where("other.status", "=", "PENDING")
            .where("other.type", "!=", "sync_port")
            .where((o) => o.not(o.exists(o.selectFrom("port").select("port.id").where("port.unread", "=", sql.lit(1)))))
            .whereRef("other.id", "!=", "action.id")
            .where((o) => o.or([o("action.type", "=", "sync_port"), o("other.id", "<", o.ref("action.id"))])),
        ),
      ),
    );

/** A switch with something to do, and who holds it. */
export interface BusySwitch {
  id: number;
  label: string;
  type: string;
  settings: string;
}

/** Switches that have an action due. */
export async function busySwitches(db: Db): Promise<BusySwitch[]> {
  return db
    .selectFrom("switch")
    .select(["id", "label", "type", "settings"])
    .where(
      "id",
      "in",
      nextOnPorts(db).select("action.switch_id").where(isPast(db, "action.next_try")).where("action.switch_id", "is not", null),
    )
    .execute();
}

/** In how many milliseconds the earliest action falls due on a switch that nobody holds, or null when there is none. */
export async function nextDueInMs(db: Db): Promise<number | null> {
  const row = await nextOnPorts(db)
    .innerJoin("switch", "switch.id", "action.switch_id")
    .select((e) => e.fn.min(timeLeft(db, "action.next_try")).as("in_ms"))
    .where("switch.lease_owner", "is", null)
    .executeTakeFirst();
  return row?.in_ms ?? null;
}

/** Why a port is suspect that a former holder of its switch may still write to. */
const twoHolders = "haas took its switch over from a process that may still write to it; it is read back once more.";

/**
 * Take the switch for `ms`; null when somebody has it. When its former holder may live, what that one had in hand is
 * suspect, and so is what is changed from now on, until it is read back a second time, when the former holder's lease
 * has been over for as long as a lease lasts: with every line it asks whether it still has it.
 */
export async function leaseSwitch(db: Db, switchId: number, ms: number): Promise<Lease | null> {
  return writeTaking(db, async (tx) => {
    const lease = await takeLease(tx, "switch", switchId, ms);
    if (!lease) return null;
    await tx
      .updateTable("switch")
      .set({ give_up: 0, ...(lease.formerLives && { uncertain_until: databaseTime(tx, ms) }) })
      .where("id", "=", switchId)
      .execute();
    if (lease.formerLives) {
      const inHand = await tx
        .selectFrom("networking_action")
        .select("port_id")
        .distinct()
        .where("switch_id", "=", switchId)
        .where("status", "=", "PENDING")
        .where("port_id", "is not", null)
        .execute();
      await suspectPorts(
        tx,
        switchId,
        inHand.map(({ port_id }) => port_id!),
        { reason: twoHolders, inMs: ms },
      );
    }
    return lease;
  });
}

/** What haas last ran into with the switch, as long as that is not mended; null when there is nothing. */
export async function waitingFor(db: Db, switchId: number): Promise<string | null> {
  const action = await db
    .selectFrom("networking_action")
    .select("reason")
    .where("switch_id", "=", switchId)
    .where("status", "=", "PENDING")
    .where("reason", "is not", null)
    .orderBy("id", "desc")
    .limit(1)
    .executeTakeFirst();
  if (action) return action.reason;
  const row = await db.selectFrom("switch").select("check_error").where("id", "=", switchId).executeTakeFirst();
  return row?.check_error ?? null;
}

/** For a holder that was stopped or lost the switch while it changed these ports: nobody knows what it has left on them. */
export async function doubt(db: Db, switchId: number, portIds: readonly number[]): Promise<void> {
  const reason = "haas was cut off while it changed the port; it is read back once more.";
  await write(db, (tx) => suspectPorts(tx, switchId, portIds, { reason, inMs: 0 }));
}

/** In how many milliseconds what is read back now is to be read once more; 0 when it counts. */
async function uncertainForMs(tx: Tx, switchId: number): Promise<number> {
  const row = await tx.selectFrom("switch").select(timeLeft(tx, "uncertain_until").as("ms")).where("id", "=", switchId).executeTakeFirst();
  return row?.ms ?? 0;
}

/** An action that is due, with its port and the state that the port has to be in when it is done. */
export interface DueAction {
  id: number;
  uuid: string;
  type: Action["type"];
  attempts: number;
  portId: number;
  port: string;
  /** For the log. */
  node: string | null;
  nic: string | null;
  /** The wish to have the port right that is fulfilled with it. */
  syncUuid: string | null;
  /** Not read back since the database was replaced: what the port carries beside `desired` goes, and nothing comes. */
  unread: boolean;
  desired: PortState;
}

/** The actions of a switch that can be done now, oldest first: at most `limit`, one a port, each port's in order. */
export async function dueActions(db: Db, switchId: number, limit: number): Promise<DueAction[]> {
  const rows = await nextOnPorts(db)
    .innerJoin("port", "port.id", "action.port_id")
    .leftJoin("network", "network.id", "action.network_id")
    .leftJoin("networking_action as sync", (join) =>
      join.onRef("sync.port_id", "=", "action.port_id").on("sync.status", "=", "PENDING").on("sync.type", "=", "sync_port"),
    )
    .select([
      "sync.uuid as syncUuid",
      "action.id",
      "action.uuid",
      "action.type",
      "action.attempts",
      "action.node",
      "action.nic",
      "action.new_network",
      "action.network_id",
      "action.channel",
      "network.vlan",
      "port.id as portId",
      "port.label as port",
      "port.unread",
    ])
    .where("action.switch_id", "=", switchId)
    .where(isPast(db, "action.next_try"))
    .orderBy("action.id")
    .limit(limit)
    .execute();
  if (rows.length === 0) return [];
  const attached = await attachedTo(
    db,
    rows.map(({ portId }) => portId),
  );
  return rows.map((action) => ({
    id: action.id,
    uuid: action.uuid,
    type: action.type,
    attempts: action.attempts,
    portId: action.portId,
    port: action.port,
    node: action.node,
    nic: action.nic,
    syncUuid: action.syncUuid,
    unread: action.unread === 1,
    desired: stateOf(attachedAfter(attached.get(action.portId) ?? [], action)),
  }));
}

interface Attached {
  network_id: number;
  channel: string;
  vlan: number | null;
}

/** The attachments of the nics on these ports, by port. A port without any has no entry. */
async function attachedTo(db: Db, portIds: readonly number[]): Promise<Map<number | null, Attached[]>> {
  if (portIds.length === 0) return new Map();
  const rows = await db
    .selectFrom("attachment")
    .innerJoin("nic", "nic.id", "attachment.nic_id")
    .innerJoin("network", "network.id", "attachment.network_id")
    .select(["nic.port_id", "attachment.network_id", "attachment.channel", "network.vlan"])
    .where("nic.port_id", "in", portIds)
    .execute();
  return Map.groupBy(rows, ({ port_id }) => port_id);
}

/** The attachments of a port once an action on it is done. */
function attachedAfter(
  present: readonly Attached[],
  {
    type,
    network_id,
    new_network,
    channel,
    vlan,
  }: Pick<Action, "type" | "network_id" | "new_network" | "channel"> & { vlan: number | null },
): readonly Attached[] {
  if (type === "revert_port") return [];
  if (type === "sync_port" || network_id === null || channel === null) return present;
  const others = present.filter((attachment) => attachment.network_id !== network_id);
  return new_network === null ? others : [...others, { network_id, channel, vlan }];
}

/** What a port with these attachments carries. A network without a VLAN carries nothing. */
function stateOf(carried: readonly { channel: string; vlan: number | null }[]): PortState {
  const native = carried.find(({ channel }) => channel === "vlan/native")?.vlan ?? null;
  const tagged = carried.flatMap(({ channel, vlan }) => (channel === "vlan/native" || vlan === null ? [] : [vlan]));
  return { native, tagged: tagged.sort((a, b) => a - b) };
}

/** The state that a port would have to be in when the action was done. */
export async function desiredAfter(db: Db, { type, portId, network, channel }: NewAction): Promise<PortState> {
  const present = (await attachedTo(db, [portId])).get(portId) ?? [];
  const { id = null, vlan = null, newLabel = null } = network ?? {};
  return stateOf(attachedAfter(present, { type, network_id: id, new_network: newLabel, channel, vlan }));
}

/** A registered port: what is plugged into it, what it has to carry, and whether that is in motion. */
export interface Port {
  id: number;
  label: string;
  node: string | null;
  nic: string | null;
  /** From its attachments. */
  desired: PortState;
  /** An action on it is pending, be it somebody's or haas's own. */
  pending: boolean;
  suspect: string | null;
  /** What it carried when a check found it different, as JSON. */
  drift: string | null;
}

/**
 * The ports of a switch in the order of their registration.
 * Attachments change only when an action is settled, so under the switch's lease `desired` stays as it is.
 */
export async function portsOf(db: Db, switchId: number): Promise<Port[]> {
  const ports = await db
    .selectFrom("port")
    .leftJoin("nic", "nic.port_id", "port.id")
    .leftJoin("node", "node.id", "nic.node_id")
    .select(["port.id", "port.label", "port.suspect", "port.drift", "node.label as node", "nic.label as nic"])
    .where("port.switch_id", "=", switchId)
    .orderBy("port.id")
    .execute();
  const actions = await db
    .selectFrom("networking_action")
    .select("port_id")
    .where("switch_id", "=", switchId)
    .where("status", "=", "PENDING")
    .execute();
  const pending = new Set(actions.map(({ port_id }) => port_id));
  const attached = await attachedTo(
    db,
    ports.map(({ id }) => id),
  );
  return ports.map((port) => ({ ...port, desired: stateOf(attached.get(port.id) ?? []), pending: pending.has(port.id) }));
}

/** How one action of a batch went. */
export type Outcome =
  /** Nothing was sent: for a dry run. Nobody knows more about the port than before, and a wish to have it right stays. */
  | { kind: "pretended"; againInMs: number }
  | { kind: "done" }
  /** Try again in so many milliseconds; `suspect` when the port may hold something else than before. `unreached`: see the column. */
  | { kind: "retry"; reason: string; unreached: boolean; againInMs: number; suspect: boolean }
  /** Give up. The port may hold something else than before; in so many milliseconds it is brought back to what its attachments say. */
  | { kind: "failed"; reason: string; unreached: boolean; againInMs: number };

/** Record the outcomes of a batch, all of them or, when the lease was lost, none. False when it was lost. */
export async function settle(db: Db, held: Lease, outcomes: readonly { action: DueAction; outcome: Outcome }[]): Promise<boolean> {
  return write(db, async (tx) => {
    const holder = await tx
      .selectFrom("switch")
      .select("id")
      .where("id", "=", held.id)
      .where("lease_token", "=", held.token)
      .executeTakeFirst();
    if (!holder) return false;
    for (const { action, outcome } of outcomes) await settleOne(tx, held.id, action, outcome);
    return true;
  });
}

async function settleOne(
  tx: Tx,
  switchId: number,
  { id, uuid, type, portId, syncUuid, unread }: DueAction,
  outcome: Outcome,
): Promise<void> {
  const action = await tx
    .selectFrom("networking_action")
    .selectAll()
    .where("id", "=", id)
    .where("status", "=", "PENDING")
    .executeTakeFirst();
  // A sync goes away with its port.
  if (!action) return;
  const suspect = (reason: string) => tx.updateTable("port").set({ suspect: reason }).where("id", "=", portId).execute();
  const update = (values: Updateable<Tables["networking_action"]>, dueInMs?: number) =>
    tx
      .updateTable("networking_action")
      .set({ ...values, ...(dueInMs !== undefined && { next_try: databaseTime(tx, dueInMs) }) })
      .where("id", "=", id)
      .execute();
  const unreached = "unreached" in outcome && outcome.unreached ? 1 : 0;
  switch (outcome.kind) {
    case "pretended":
      if (type === "sync_port") return void (await update({}, outcome.againInMs));
      return recordDone(tx, action);
    case "done": {
      if (unread) {
        // Its sync stays: when every port has been read, it is brought to what it should carry.
        if (action.uuid === uuid) await tx.updateTable("port").set({ unread: 0 }).where("id", "=", portId).execute();
        return;
      }
      if (syncUuid !== null) await dropSync(tx, portId, syncUuid);
      // A wish that came meanwhile is for a later read-back than this one: what made it necessary still stands.
      await tx
        .updateTable("port")
        .set({ suspect: null, drift: null })
        .where("id", "=", portId)
        .where((e) => e.not(e.exists(syncOf(tx, portId))))
        .execute();
      if (type !== "sync_port") await recordDone(tx, action);
      const inMs = await uncertainForMs(tx, switchId);
      if (inMs > 0) await suspectPorts(tx, switchId, [portId], { reason: twoHolders, inMs });
      return;
    }
    case "retry":
      if (outcome.suspect) await suspect(outcome.reason);
      await update({ reason: outcome.reason, unreached, attempts: action.attempts + 1 }, outcome.againInMs);
      return;
    case "failed":
      await update({ status: "ERROR", reason: outcome.reason, unreached, attempts: action.attempts + 1, ended_at: Date.now() });
      await suspectPorts(tx, switchId, [portId], { reason: outcome.reason, inMs: outcome.againInMs });
      return;
  }
}

async function recordDone(tx: Tx, action: Action): Promise<void> {
  await recordAttachment(tx, action);
  await tx
    .updateTable("networking_action")
    .set({ status: "DONE", reason: null, attempts: action.attempts + 1, ended_at: Date.now() })
    .where("id", "=", action.id)
    .execute();
}

async function recordAttachment(tx: Tx, action: Action): Promise<void> {
  if (action.nic_id === null) return;
  const ofNic = tx.deleteFrom("attachment").where("nic_id", "=", action.nic_id);
  if (action.type === "revert_port") await ofNic.execute();
  else if (action.network_id !== null && action.channel !== null) {
    if (action.new_network === null) await ofNic.where("network_id", "=", action.network_id).execute();
    else {
      await tx.insertInto("attachment").values({ nic_id: action.nic_id, network_id: action.network_id, channel: action.channel }).execute();
    }
  }
}

/**
 * The switch is left alone for so many milliseconds: say so on every action that waits for it and has no reason
 * of its own. Ports that wait to be brought into their state are suspect until then.
 */
export async function postpone(db: Db, switchId: number, reason: string, forMs: number): Promise<void> {
  await write(db, async (tx) => {
    const until = databaseTime(tx, forMs);
    await tx
      .updateTable("networking_action")
      .set({
        reason: sql<string>`coalesce(reason, ${reason} || (select ' Port ''' || label || ''' waits for it.' from port where id = port_id), ${reason})`,
        unreached: sql<Flag>`case when reason is null then 1 else unreached end`,
        next_try: until,
      })
      .where("switch_id", "=", switchId)
      .where("status", "=", "PENDING")
      .where((e) => e.or([e("next_try", "<", until), isPast(tx, "next_try")]))
      .execute();
    await tx
      .updateTable("port")
      .set({ suspect: reason })
      .where("suspect", "is", null)
      .where("id", "in", (waiting) =>
        waiting
          .selectFrom("networking_action")
          .select("port_id")
          .where("switch_id", "=", switchId)
          .where("status", "=", "PENDING")
          .where("type", "=", "sync_port")
          .where("port_id", "is not", null),
      )
      .execute();
  });
}

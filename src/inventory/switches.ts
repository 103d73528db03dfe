import { type Caller, requireAdmin, writeAsAdmin } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import type { Flag } from "../db/tables.ts";
import { type Db, translate, type Tx, write } from "../db/transaction.ts";
import { blocked, duplicate, HaasError, notFound, quote } from "../errors.ts";
import { checkSettings } from "../hardware/settings.ts";
import type { Capability } from "../hardware/switches/driver.ts";
import { inUse } from "../networking/session.ts";
import { isHeld } from "../networking/lease.ts";
import { switchAddress } from "../hardware/switches/index.ts";
import { dropSync, enqueueSync, isChangePending, wasEverChanged } from "../networking/journal.ts";
import { unreadWhenRegistered } from "../networking/lineage.ts";
import { newName } from "./labels.ts";
import { getNic, getNode } from "./nodes.ts";
import { inTurn } from "./waiting.ts";

/** How long the deletion of a switch waits for haas to be done with it. */
const deletionWaitMs = 20_000;

/** With its settings, which hold the password. */
export async function getSwitch(db: Db, label: string) {
  const found = await db.selectFrom("switch").select(["id", "label", "type", "settings"]).where("label", "=", label).executeTakeFirst();
  if (!found) throw notFound("Switch", label);
  return found;
}

export async function getPort(db: Db, switchLabel: string, label: string) {
  const parent = await getSwitch(db, switchLabel);
  const port = await db.selectFrom("port").selectAll().where("switch_id", "=", parent.id).where("label", "=", label).executeTakeFirst();
  if (!port) throw notFound("Port", label, ` on switch ${quote(switchLabel)}`);
  return port;
}

/** The nic that is plugged into a port, with its node. */
export async function nicOnPort(db: Db, portId: number) {
  return db
    .selectFrom("nic")
    .innerJoin("node", "node.id", "nic.node_id")
    .select(["nic.id", "nic.label", "node.id as node_id", "node.label as node", "node.project_id"])
    .where("nic.port_id", "=", portId)
    .executeTakeFirst();
}

export async function listSwitches(db: Db): Promise<string[]> {
  const rows = await db.selectFrom("switch").select("label").orderBy("label").execute();
  return rows.map(({ label }) => label);
}

export async function registerSwitch(
  ctx: Context,
  caller: Caller,
  label: string,
  type: string,
  settings: Record<string, unknown>,
): Promise<void> {
  await translate(
    writeAsAdmin(ctx.db, caller, async (tx) => {
      const look = await newName(tx, { table: "switch", kind: "Switch" }, label);
      const driver = ctx.switches.byType(type);
      checkSettings(driver.settings, settings, `The ${driver.name} switch driver`);
      const address = switchAddress(type, settings);
      if (address !== null) await refuseSecondSwitch(tx, label, address);
      await tx
        .insertInto("switch")
        .values({ label, look, type, settings: JSON.stringify(settings), address, lease_owner: null })
        .execute();
    }),
    { onUnique: () => duplicate(`Switch ${quote(label)}, or one at its address, exists already.`) },
  );
}

/** A switch that is registered twice has ports with two owners, who would each think to be alone. */
async function refuseSecondSwitch(tx: Tx, label: string, address: string): Promise<void> {
  const others = await tx
    .selectFrom("switch")
    .select(["label", "type", "settings", "address"])
    // One that an earlier haas registered a second time has none.
    .where((e) => e.or([e("address", "=", address), e("address", "is", null)]))
    .orderBy("id")
    .execute();
  const first = others.find((other) => (other.address ?? switchAddress(other.type, JSON.parse(other.settings))) === address);
  if (first) throw duplicate(`Switch ${quote(label)} has the same address as ${quote(first.label)}: one switch is registered once.`);
}

/** Never the settings: they hold the password. Ports come in the order of their registration. */
export async function showSwitch(
  ctx: Context,
  label: string,
): Promise<{ name: string; ports: { label: string }[]; capabilities: Capability[] }> {
  const { id, type } = await getSwitch(ctx.db, label);
  const ports = await ctx.db.selectFrom("port").select("label").where("switch_id", "=", id).orderBy("id").execute();
  return { name: label, ports, capabilities: [...ctx.switches.byType(type).capabilities] };
}

/** A switch that haas talks to is waited for; one that does not let haas in is let go. */
export async function removeSwitch(db: Db, caller: Caller, label: string): Promise<void> {
  const check = async (db: Db) => {
    requireAdmin(await caller.rights(db));
    const found = await getSwitch(db, label);
    const port = await db.selectFrom("port").select("label").where("switch_id", "=", found.id).limit(1).executeTakeFirst();
    if (port) throw blocked(`Switch ${quote(label)} still has the port ${quote(port.label)}.`);
    return { id: found.id, label, isHeld: await isHeld(db, "switch", found.id) };
  };
  /** Whoever holds it has to be told so, too. */
  const mayGoOn = async () => {
    const { id, isHeld } = await check(db);
    if (!isHeld) return true;
    const told = await db.selectFrom("switch").select("give_up").where("id", "=", id).executeTakeFirst();
    return told?.give_up !== 1;
  };
  await inTurn(db, caller, deletionWaitMs, mayGoOn, async (patient) => {
    const found = await write(db, async (tx) => {
      const found = await check(tx);
      if (found.isHeld) await tx.updateTable("switch").set({ give_up: 1 }).where("id", "=", found.id).execute();
      else await tx.deleteFrom("switch").where("id", "=", found.id).execute();
      return found;
    });
    if (!found.isHeld) return found;
    if (patient) return null;
    throw await inUse(db, found);
  });
}

/** Forget what the switch is known by, its key and its serial number: the next ones that it presents are taken for its own. */
export async function forgetHostKey(db: Db, caller: Caller, label: string): Promise<void> {
  await writeAsAdmin(db, caller, async (tx) => {
    const { id } = await getSwitch(tx, label);
    const { numUpdatedRows } = await tx
      .updateTable("switch")
      .set({ host_key: null, serial: null })
      .where("id", "=", id)
      .where((e) => e.or([e("host_key", "is not", null), e("serial", "<>", "")]))
      .executeTakeFirstOrThrow();
    if (numUpdatedRows === 0n) throw blocked(`No host key of switch ${quote(label)} is kept.`);
  });
}

/** Why a port can't be had that has drifted. */
export const driftReason = "the last check found something else on it.";
/** Why a port is suspect that was registered just now. */
export const freshPort = "haas has not read it back since it was registered.";

/** How long a call waits for ports that were registered just now. */
export const freshWaitMs = 15_000;

/** Register a port, and queue the change that makes it carry nothing. Until that is done it is suspect. */
export async function registerPort(ctx: Context, caller: Caller, switchLabel: string, label: string): Promise<void> {
  const exists = () => duplicate(`Port ${quote(label)} on switch ${quote(switchLabel)} exists already.`);
  await translate(
    writeAsAdmin(ctx.db, caller, async (tx) => {
      const parent = await getSwitch(tx, switchLabel);
      const within = { column: "switch_id", id: parent.id, words: ` on switch ${quote(switchLabel)}` } as const;
      const driver = ctx.switches.byType(parent.type);
      const look = await newName(tx, { table: "port", kind: "Port", within, check: (name) => driver.validatePort(name) }, label);
      const canonical = driver.canonicalPort?.(label) ?? label;
      // Not by the column: what an earlier haas registered may stand there in another spelling.
      const others = driver.canonicalPort ? await tx.selectFrom("port").select("label").where("switch_id", "=", parent.id).execute() : [];
      const same = others.find((other) => driver.canonicalPort?.(other.label) === canonical);
      if (same) throw duplicate(`Port ${quote(label)} on switch ${quote(switchLabel)} is registered already, as ${quote(same.label)}.`);
      const { id } = await tx
        .insertInto("port")
        .values({
          switch_id: parent.id,
          label,
          look,
          canonical,
          suspect: driver.startsEmpty || ctx.config.dryRun ? null : freshPort,
          unread: driver.startsEmpty || ctx.config.dryRun ? 0 : await unreadWhenRegistered(tx),
        })
        .returning("id")
        .executeTakeFirstOrThrow();
      await enqueueSync(tx, { portId: id, switchId: parent.id, inMs: 0 });
    }),
    { onUnique: exists },
  );
  ctx.wake();
}

export async function removePort(db: Db, caller: Caller, switchLabel: string, label: string): Promise<void> {
  await writeAsAdmin(db, caller, async (tx) => {
    const port = await getPort(tx, switchLabel, label);
    const nic = await nicOnPort(tx, port.id);
    if (nic) throw blocked(`Port ${quote(label)} is still connected to nic ${quote(nic.label)} of node ${quote(nic.node)}.`);
    if (await isChangePending(tx, port.id)) throw blocked(`Port ${quote(label)} has a pending networking action.`);
    await refuseIfUncertain(tx, port);
    await dropSync(tx, port.id);
    await tx.deleteFrom("port").where("id", "=", port.id).execute();
  });
}

/** What haas itself may have left on a port must not be forgotten with the port, or with the cable. */
async function refuseIfUncertain(
  tx: Db,
  { id, label, suspect, drift, unread }: { id: number; label: string; suspect: string | null; drift: string | null; unread: Flag },
) {
  if ((suspect ?? drift) === null || (unread === 0 && !(await wasEverChanged(tx, id)))) return;
  throw blocked(
    `Port ${quote(label)} is not known to carry nothing: ${suspect ?? driftReason} Reconcile its switch, or trust the port, first.`,
  );
}

/** Take an administrator's word for it that a suspect port carries what it should. */
export async function trustPort(ctx: Context, caller: Caller, switchLabel: string, label: string): Promise<void> {
  const suspicion = await writeAsAdmin(ctx.db, caller, async (tx) => {
    const port = await getPort(tx, switchLabel, label);
    if ((port.suspect ?? port.drift) === null) throw blocked(`Port ${quote(label)} is not suspect.`);
    if (await isChangePending(tx, port.id)) throw blocked(`Port ${quote(label)} has a pending networking action.`);
    await dropSync(tx, port.id);
    await tx.updateTable("port").set({ suspect: null, drift: null, unread: 0 }).where("id", "=", port.id).execute();
    return port.suspect ?? driftReason;
  });
  ctx.log.warning("a suspect port was declared good by an administrator", { switch: switchLabel, port: label, suspect: suspicion });
}

export async function showPort(
  db: Db,
  switchLabel: string,
  label: string,
): Promise<Record<string, never> | { node: string; nic: string; networks: Record<string, string> }> {
  const port = await getPort(db, switchLabel, label);
  const nic = await nicOnPort(db, port.id);
  if (!nic) return {};
  const rows = await db
    .selectFrom("attachment")
    .innerJoin("network", "network.id", "attachment.network_id")
    .select(["attachment.channel", "network.label"])
    .where("attachment.nic_id", "=", nic.id)
    .execute();
  return { node: nic.node, nic: nic.label, networks: Object.fromEntries(rows.map((row) => [row.channel, row.label])) };
}

/** Record which nic is plugged into the port. One that was registered just now is waited for where the node is in a project. */
export async function connectNic(
  db: Db,
  caller: Caller,
  switchLabel: string,
  label: string,
  nodeLabel: string,
  nicLabel: string,
): Promise<void> {
  const taken = () => duplicate(`Port ${quote(label)} or nic ${quote(nicLabel)} of node ${quote(nodeLabel)} is connected already.`);
  /** Null when the port is too fresh, and there is time to wait. */
  const check = async (db: Db, patient: boolean) => {
    requireAdmin(await caller.rights(db));
    const port = await getPort(db, switchLabel, label);
    const node = await getNode(db, nodeLabel);
    const nic = await getNic(db, node, nicLabel);
    if (nic.port_id !== null || (await nicOnPort(db, port.id))) throw taken();
    if ((port.suspect ?? port.drift) !== null && node.project_id !== null) {
      if (patient && port.suspect === freshPort) return null;
      throw blocked(
        `Port ${quote(label)} is not known to carry nothing, and node ${quote(nodeLabel)} is in a project: ${port.suspect ?? driftReason}`,
      );
    }
    return { port, nic };
  };
  const mayGoOn = async () => (await check(db, true)) !== null;
  await inTurn(db, caller, freshWaitMs, mayGoOn, (patient) =>
    translate(
      write(db, async (tx) => {
        const found = await check(tx, patient);
        if (found) await tx.updateTable("nic").set({ port_id: found.port.id }).where("id", "=", found.nic.id).execute();
        return found;
      }),
      { onUnique: taken },
    ),
  );
}

export async function detachNic(db: Db, caller: Caller, switchLabel: string, label: string): Promise<void> {
  await writeAsAdmin(db, caller, async (tx) => {
    const port = await getPort(tx, switchLabel, label);
    const nic = await nicOnPort(tx, port.id);
    if (!nic) throw noNic(switchLabel, label);
    if (nic.project_id !== null) throw blocked(`Node ${quote(nic.node)} is not free.`);
    await refuseIfUncertain(tx, port);
    await tx.updateTable("nic").set({ port_id: null }).where("id", "=", nic.id).execute();
  });
}

export const noNic = (switchLabel: string, label: string) =>
  new HaasError("NotFoundError", `No nic is connected to port ${quote(label)} of switch ${quote(switchLabel)}.`);

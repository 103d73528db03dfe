import { type Caller, requireAdmin, requireNodeProject, type Rights } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { shownTime } from "../db/clock.ts";
import { type Db, type Tx, write } from "../db/transaction.ts";
import { badArgument, blocked, HaasError, projectMismatch, quote } from "../errors.ts";
import type { PortState } from "../hardware/switches/driver.ts";
import { getNic, getNode } from "../inventory/nodes.ts";
import { getPort, nicOnPort, noNic } from "../inventory/switches.ts";
import { planPort, readPort, useSwitch } from "./drift.ts";
import { type Action, desiredAfter, enqueue, findAction, isPending, type NewAction } from "./journal.ts";
import { unreadReason } from "./lineage.ts";
import { channelsOf, getNetwork, mayUse, noAccess } from "./networks.ts";
import type { SwitchRow } from "./session.ts";

/** A change of a port that passed every check, and where it would be made. */
interface Change {
  action: NewAction;
  on: SwitchRow;
  port: string;
}

/** Checks a change in the transaction that queues it; the documented errors, in the documented order. */
type Check = (tx: Tx) => Promise<Change>;

/** Queue a change; the id of the action. */
export async function queueChange(ctx: Context, check: Check): Promise<string> {
  const uuid = await write(ctx.db, async (tx) => enqueue(tx, (await check(tx)).action));
  ctx.wake();
  return uuid;
}

export interface Plan {
  switch: string;
  port: string;
  actual: PortState;
  desired: PortState;
  lines: readonly string[];
}

/** What a change would send to its switch, which is read for that. For administrators. */
export async function planChange(ctx: Context, caller: Caller, check: Check): Promise<Plan> {
  requireAdmin(await caller.rights(ctx.db));
  const { action, on, port } = await write(ctx.db, check);
  return useSwitch(ctx, caller, on, async (session, driver) => {
    const desired = await desiredAfter(ctx.db, action);
    const actual = await readPort(session, on, port);
    return { switch: on.label, port, actual, desired, lines: planPort(driver, on, port, actual, desired) };
  });
}

/** Everything that a change of a nic has in common, checked in the documented order. */
async function loadNic(tx: Db, caller: Caller, nodeLabel: string, nicLabel: string, networkLabel: string) {
  const node = await getNode(tx, nodeLabel);
  const nic = await getNic(tx, node, nicLabel);
  const network = await getNetwork(tx, networkLabel);
  if (node.project_id === null) throw projectMismatch(`Node ${quote(nodeLabel)} is not in a project.`);
  requireNodeProject(await caller.rights(tx), node);
  const place = nic.port_id === null ? undefined : await placeOf(tx, nic.port_id);
  const refuseIfPending = async () => {
    if (await isPending(tx, nic.id)) throw blocked(`Nic ${quote(nicLabel)} of node ${quote(nodeLabel)} has a pending networking action.`);
  };
  const attachments = () => tx.selectFrom("attachment").select(["network_id", "channel"]).where("nic_id", "=", nic.id).execute();
  return { node, nic, network, place, projectId: node.project_id, refuseIfPending, attachments };
}

async function placeOf(tx: Db, portId: number): Promise<{ portId: number; port: string; on: SwitchRow }> {
  const { port, ...on } = await tx
    .selectFrom("port")
    .innerJoin("switch", "switch.id", "port.switch_id")
    .select(["port.label as port", "switch.id", "switch.label", "switch.type", "switch.settings"])
    .where("port.id", "=", portId)
    .executeTakeFirstOrThrow();
  return { portId, port, on };
}

/** The connection of a nic to a network. */
export function connection(
  ctx: Context,
  caller: Caller,
  nodeLabel: string,
  nicLabel: string,
  networkLabel: string,
  channelAsked: string | undefined,
): Check {
  return async (tx) => {
    const { node, nic, network, place, projectId, refuseIfPending, attachments } = await loadNic(
      tx,
      caller,
      nodeLabel,
      nicLabel,
      networkLabel,
    );
    if (!place) throw new HaasError("NotFoundError", `Nic ${quote(nicLabel)} of node ${quote(nodeLabel)} is not connected to a port.`);
    await refuseIfPending();
    if (!(await mayUse(tx, projectId, network))) throw noAccess(networkLabel);
    const channel = channelAsked ?? channelsOf(network)[0]!;
    const present = await attachments();
    if (present.some((attachment) => attachment.network_id === network.id)) {
      throw blocked(`Nic ${quote(nicLabel)} is attached to network ${quote(networkLabel)} already.`);
    }
    if (present.some((attachment) => attachment.channel === channel)) {
      throw blocked(`Channel ${quote(channel)} of nic ${quote(nicLabel)} is in use.`);
    }
    if (!channelsOf(network).includes(channel)) {
      throw badArgument(
        `${quote(channel)} is not a channel of network ${quote(networkLabel)}. There are: ${channelsOf(network).join(", ")}.`,
      );
    }
    const { portId, port, on } = place;
    refuseUnlessCapable(ctx, on, network.vlan, channel, present);
    return {
      on,
      port,
      action: {
        type: "modify_port",
        node,
        nic,
        portId,
        switchId: on.id,
        network: { id: network.id, vlan: network.vlan, newLabel: network.label },
        channel,
      },
    };
  };
}

/** Whether the switch can carry the VLAN on this channel, beside what is present on the port. */
function refuseUnlessCapable(
  ctx: Context,
  { label, type, settings }: SwitchRow,
  vlan: number | null,
  channel: string,
  present: readonly { channel: string }[],
): void {
  const driver = ctx.switches.byType(type);
  const unusable = `The switch of this nic can't carry VLAN ${vlan}.`;
  if (vlan !== null && vlan > driver.highestVlan)
    throw blocked(`Switch ${quote(label)} carries VLANs up to ${driver.highestVlan} only.`, unusable);
  if (vlan !== null && vlan === driver.reservedVlan?.(JSON.parse(settings))) {
    throw blocked(
      `VLAN ${vlan} is the dummy VLAN of switch ${quote(label)}, which has to carry nothing: no network on it can be used there.`,
      unusable,
    );
  }
  const hasNative = present.some((attachment) => attachment.channel === "vlan/native");
  if (channel !== "vlan/native" && !hasNative && !driver.capabilities.includes("nativeless-trunk-mode")) {
    throw blocked(
      `Switch ${quote(label)} needs a network on channel 'vlan/native' before any other.`,
      "The nic needs a network on channel 'vlan/native' before any other.",
    );
  }
}

/** The removal of a network from a nic. */
export function detachment(ctx: Context, caller: Caller, nodeLabel: string, nicLabel: string, networkLabel: string): Check {
  return async (tx) => {
    const { node, nic, network, place, refuseIfPending, attachments } = await loadNic(tx, caller, nodeLabel, nicLabel, networkLabel);
    await refuseIfPending();
    const present = await attachments();
    const attachment = present.find(({ network_id }) => network_id === network.id);
    if (!attachment || !place) throw badArgument(`Nic ${quote(nicLabel)} is not attached to network ${quote(networkLabel)}.`);
    const { portId, port, on } = place;
    const driver = ctx.switches.byType(on.type);
    if (attachment.channel === "vlan/native" && present.length > 1 && !driver.capabilities.includes("nativeless-trunk-mode")) {
      throw blocked(
        `Switch ${quote(on.label)} needs the network on channel 'vlan/native' to be the last one to go.`,
        "The network on channel 'vlan/native' has to be the last one to go.",
      );
    }
    return {
      on,
      port,
      action: {
        type: "modify_port",
        node,
        nic,
        portId,
        switchId: on.id,
        network: { id: network.id, vlan: network.vlan, newLabel: null },
        channel: attachment.channel,
      },
    };
  };
}

/** Taking a port off every network. For administrators. */
export function reversion(caller: Caller, switchLabel: string, portLabel: string): Check {
  return async (tx) => {
    requireAdmin(await caller.rights(tx));
    const port = await getPort(tx, switchLabel, portLabel);
    const nic = await nicOnPort(tx, port.id);
    if (!nic) throw noNic(switchLabel, portLabel);
    if (await isPending(tx, nic.id)) throw blocked(`Nic ${quote(nic.label)} of node ${quote(nic.node)} has a pending networking action.`);
    const { on } = await placeOf(tx, port.id);
    return {
      on,
      port: portLabel,
      action: {
        type: "revert_port",
        node: { id: nic.node_id, label: nic.node },
        nic,
        portId: port.id,
        switchId: on.id,
        network: null,
        channel: null,
      },
    };
  };
}

/**
 * The reason of an action. For projects it is one of a few sentences: which switch and port it is, how haas logs in there
 * and what the device says is the administrators' business.
 */
function reasonFor(rights: Rights, { status, reason, unreached }: Action): string | null {
  if (reason === null || rights.isAdmin) return reason;
  if (unreached) return "haas can't use the switch at the moment; an administrator can see why.";
  return status === "PENDING"
    ? "The switch has not taken the change yet, and haas tries again; an administrator can see why."
    : "The switch did not take the change; an administrator can see why.";
}

/** An action as it is published. After its node was deleted, only administrators can see it. */
export async function showAction(db: Db, rights: Rights, uuid: string) {
  const action = await findAction(db, uuid);
  if (!action || action.type === "sync_port") throw new HaasError("NotFoundError", `Networking action ${quote(uuid)} does not exist.`);
  if (action.node_id === null) requireAdmin(rights);
  else
    requireNodeProject(rights, await db.selectFrom("node").select("project_id").where("id", "=", action.node_id).executeTakeFirstOrThrow());
  const held = action.status === "PENDING" ? await unreadReason(db) : null;
  return {
    status: action.status,
    node: action.node,
    nic: action.nic,
    new_network: action.new_network,
    type: action.type,
    channel: action.channel,
    reason: held ? held[rights.isAdmin ? "admin" : "tenant"] : reasonFor(rights, action),
    attempts: action.attempts,
    next_try: action.status === "PENDING" && action.attempts > 0 ? shownTime(db, action.next_try, action.due_in_ms) : null,
  };
}

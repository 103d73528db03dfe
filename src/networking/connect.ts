import { type Caller, requireAdmin, requireNodeProject } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { type Db, write } from "../db/transaction.ts";
import { badArgument, blocked, HaasError, projectMismatch, quote } from "../errors.ts";
import { getNic, getNode } from "../inventory/nodes.ts";
import { getPort, nicOnPort, noNic } from "../inventory/switches.ts";
import { type Action, enqueue, findAction, isPending } from "./journal.ts";
import { channelsOf, getNetwork, mayUse, noAccess } from "./networks.ts";

/** Everything that a change of a nic has in common, checked in the documented order. */
async function loadNic(tx: Db, caller: Caller, nodeLabel: string, nicLabel: string, networkLabel: string) {
  const node = await getNode(tx, nodeLabel);
  const nic = await getNic(tx, node, nicLabel);
  const network = await getNetwork(tx, networkLabel);
  if (node.project_id === null) throw projectMismatch(`Node ${quote(nodeLabel)} is not in a project.`);
  requireNodeProject(caller, node);
  const port =
    nic.port_id === null
      ? undefined
      : await tx
          .selectFrom("port")
          .innerJoin("switch", "switch.id", "port.switch_id")
          .select(["port.id", "switch.id as switch_id", "switch.label as switch", "switch.type"])
          .where("port.id", "=", nic.port_id)
          .executeTakeFirst();
  const refuseIfPending = async () => {
    if (await isPending(tx, nic.id)) throw blocked(`Nic ${quote(nicLabel)} of node ${quote(nodeLabel)} has a pending networking action.`);
  };
  const attachments = () => tx.selectFrom("attachment").select(["network_id", "channel"]).where("nic_id", "=", nic.id).execute();
  return { node, nic, network, port, projectId: node.project_id, refuseIfPending, attachments };
}

/** Queue the connection of a nic to a network; the id of the action. */
export async function connectNetwork(
  ctx: Context,
  caller: Caller,
  nodeLabel: string,
  nicLabel: string,
  networkLabel: string,
  channelAsked: string | undefined,
): Promise<string> {
  const uuid = await write(ctx.db, async (tx) => {
    const { node, nic, network, port, projectId, refuseIfPending, attachments } = await loadNic(
      tx,
      caller,
      nodeLabel,
      nicLabel,
      networkLabel,
    );
    if (!port) throw new HaasError("NotFoundError", `Nic ${quote(nicLabel)} of node ${quote(nodeLabel)} is not connected to a port.`);
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
    const driver = ctx.switches.byType(port.type);
    if (network.vlan !== null && network.vlan > driver.highestVlan) {
      throw blocked(`Switch ${quote(port.switch)} carries VLANs up to ${driver.highestVlan} only.`);
    }
    const hasNative = present.some((attachment) => attachment.channel === "vlan/native");
    if (channel !== "vlan/native" && !hasNative && !driver.capabilities.includes("nativeless-trunk-mode")) {
      throw blocked(`Switch ${quote(port.switch)} needs a network on channel 'vlan/native' before any other.`);
    }
    return enqueue(tx, {
      type: "modify_port",
      node,
      nic,
      portId: port.id,
      switchId: port.switch_id,
      network: { id: network.id, newLabel: network.label },
      channel,
    });
  });
  ctx.wake();
  return uuid;
}

/** Queue the removal of a network from a nic; the id of the action. */
export async function detachNetwork(
  ctx: Context,
  caller: Caller,
  nodeLabel: string,
  nicLabel: string,
  networkLabel: string,
): Promise<string> {
  const uuid = await write(ctx.db, async (tx) => {
    const { node, nic, network, port, refuseIfPending, attachments } = await loadNic(tx, caller, nodeLabel, nicLabel, networkLabel);
    await refuseIfPending();
    const present = await attachments();
    const attachment = present.find(({ network_id }) => network_id === network.id);
    if (!attachment || !port) throw badArgument(`Nic ${quote(nicLabel)} is not attached to network ${quote(networkLabel)}.`);
    const driver = ctx.switches.byType(port.type);
    if (attachment.channel === "vlan/native" && present.length > 1 && !driver.capabilities.includes("nativeless-trunk-mode")) {
      throw blocked(`Switch ${quote(port.switch)} needs the network on channel 'vlan/native' to be the last one to go.`);
    }
    return enqueue(tx, {
      type: "modify_port",
      node,
      nic,
      portId: port.id,
      switchId: port.switch_id,
      network: { id: network.id, newLabel: null },
      channel: attachment.channel,
    });
  });
  ctx.wake();
  return uuid;
}

/** Queue taking a port off every network; the id of the action. For administrators. */
export async function revertPort(ctx: Context, switchLabel: string, portLabel: string): Promise<string> {
  const uuid = await write(ctx.db, async (tx) => {
    const port = await getPort(tx, switchLabel, portLabel);
    const nic = await nicOnPort(tx, port.id);
    if (!nic) throw noNic(switchLabel, portLabel);
    if (await isPending(tx, nic.id)) throw blocked(`Nic ${quote(nic.label)} of node ${quote(nic.node)} has a pending networking action.`);
    return enqueue(tx, {
      type: "revert_port",
      node: { id: nic.node_id, label: nic.node },
      nic,
      portId: port.id,
      switchId: port.switch_id,
      network: null,
      channel: null,
    });
  });
  ctx.wake();
  return uuid;
}

/** An action as it is published. After its node was deleted, only administrators can see it. */
export async function showAction(db: Db, caller: Caller, uuid: string) {
  const action: Action | undefined = await findAction(db, uuid);
  if (!action || action.type === "sync_port") throw new HaasError("NotFoundError", `Networking action ${quote(uuid)} does not exist.`);
  if (action.node_id === null) requireAdmin(caller);
  else
    requireNodeProject(caller, await db.selectFrom("node").select("project_id").where("id", "=", action.node_id).executeTakeFirstOrThrow());
  return {
    status: action.status,
    node: action.node,
    nic: action.nic,
    new_network: action.new_network,
    type: action.type,
    channel: action.channel,
    reason: action.reason,
    attempts: action.attempts,
    next_try: action.status === "PENDING" && action.attempts > 0 ? new Date(action.next_try).toISOString() : null,
  };
}

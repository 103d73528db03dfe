import { type Caller, mayActFor, requireAdmin, requireProject, type Rights } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { type Db, translate, write } from "../db/transaction.ts";
import { badArgument, blocked, duplicate, HaasError, notFound, notPermitted, projectMismatch, quote } from "../errors.ts";
import { newName } from "../inventory/labels.ts";
import { maySee } from "../inventory/nodes.ts";
import { getProject } from "../inventory/projects.ts";
import { refuseWhileUnread } from "./lineage.ts";

export interface Network {
  id: number;
  label: string;
  owner_id: number | null;
  is_public: 0 | 1;
  vlan: number | null;
  allocated: 0 | 1;
}

export async function getNetwork(db: Db, label: string): Promise<Network> {
  const network = await db.selectFrom("network").selectAll().where("label", "=", label).executeTakeFirst();
  if (!network) throw notFound("Network", label);
  return network;
}

/** Whether a project may connect to the network: it is public, or the project is on its access list. */
export async function mayUse(db: Db, projectId: number, network: Network): Promise<boolean> {
  return network.is_public === 1 || (await hasAccess(db, network.id, projectId));
}

async function hasAccess(db: Db, networkId: number, projectId: number): Promise<boolean> {
  const row = await db
    .selectFrom("network_access")
    .select("id")
    .where("network_id", "=", networkId)
    .where("project_id", "=", projectId)
    .executeTakeFirst();
  return row !== undefined;
}

/** The channels on which a nic can join the network. The first one is the default. */
export const channelsOf = ({ vlan }: { vlan: number | null }): string[] => (vlan === null ? ["null"] : ["vlan/native", `vlan/${vlan}`]);

/** The network id as it is published: the VLAN, or a name of our own under the null allocator. */
const networkId = ({ id, vlan }: { id: number; vlan: number | null }): string => (vlan === null ? `null-${id}` : String(vlan));

function requireOwner(rights: Rights, network: Network): void {
  if (!mayActFor(rights, network.owner_id)) throw notPermitted("Only the network's owner or an administrator may do this.");
}

export async function createNetwork(
  ctx: Context,
  caller: Caller,
  label: string,
  { owner, access, net_id }: { owner: string; access: string; net_id: string },
): Promise<void> {
  await translate(
    write(ctx.db, async (tx) => {
      const look = await newName(tx, { table: "network", kind: "Network" }, label);
      const ownerProject = owner === "admin" ? null : await getProject(tx, owner);
      const rights = await caller.rights(tx);
      if (ownerProject) requireProject(rights, ownerProject);
      else requireAdmin(rights);
      const accessProject = access === "" ? null : await getProject(tx, access);
      if (ownerProject && accessProject?.id !== ownerProject.id) {
        throw badArgument(
          "A project's network is for that project alone at first: 'access' must name the owner. More projects can be granted access later.",
        );
      }
      if (ownerProject && net_id !== "") throw badArgument("Only an administrator's network can have a chosen 'net_id'; leave it empty.");
      await refuseWhileUnread(tx);
      const vlan = net_id === "" ? await ctx.allocator.allocate(tx) : parseNetworkId(net_id);
      if (vlan !== null) {
        const user = await tx.selectFrom("network").select("id").where("vlan", "=", vlan).executeTakeFirst();
        if (user) throw duplicate(`Network id ${vlan} is in use by another network.`);
      }
      const { id } = await tx
        .insertInto("network")
        .values({
          label,
          look,
          owner_id: ownerProject?.id ?? null,
          is_public: accessProject ? 0 : 1,
          vlan,
          allocated: net_id === "" ? 1 : 0,
        })
        .returning("id")
        .executeTakeFirstOrThrow();
      if (accessProject) await tx.insertInto("network_access").values({ network_id: id, project_id: accessProject.id }).execute();
    }),
    { onUnique: () => duplicate(`Network ${quote(label)} or its network id exists already.`) },
  );
}

function parseNetworkId(text: string): number {
  const vlan = /^[1-9][0-9]{0,3}$/.test(text) ? Number(text) : 0;
  if (vlan < 1 || vlan > 4094) throw badArgument("'net_id' is not a decimal number from 1 to 4094 without leading zeros.");
  return vlan;
}

/** Administrators see every network, others the public ones. */
export async function listNetworks(db: Db, rights: Rights): Promise<Record<string, { network_id: string; projects: string[] | null }>> {
  let query = db
    .selectFrom("network")
    .leftJoin("network_access", "network_access.network_id", "network.id")
    .leftJoin("project", "project.id", "network_access.project_id")
    .select(["network.id", "network.label", "network.vlan", "network.is_public", "project.label as project"])
    .orderBy("network.label")
    .orderBy("project.label");
  if (!rights.isAdmin) query = query.where("network.is_public", "=", 1);
  const networks = new Map<string, { network_id: string; projects: string[] | null }>();
  for (const row of await query.execute()) {
    const network = networks.get(row.label) ?? { network_id: networkId(row), projects: row.is_public ? null : [] };
    if (row.project !== null) network.projects?.push(row.project);
    networks.set(row.label, network);
  }
  return Object.fromEntries(networks);
}

/** Projects with access come in the order of their grants, the owner first. */
export async function showNetwork(db: Db, rights: Rights, label: string) {
  const network = await getNetwork(db, label);
  const access = await db
    .selectFrom("network_access")
    .innerJoin("project", "project.id", "network_access.project_id")
    .select(["project.id", "project.label"])
    .where("network_access.network_id", "=", network.id)
    .orderBy("network_access.id")
    .execute();
  if (!network.is_public && !rights.isAdmin && !access.some(({ id }) => rights.projects.has(id))) {
    throw notPermitted("Only a project with access to the network or an administrator may do this.");
  }
  const owner =
    network.owner_id === null
      ? null
      : await db.selectFrom("project").select("label").where("id", "=", network.owner_id).executeTakeFirstOrThrow();
  const nodes = new Map<string, string[]>();
  for (const { node, project_id, nic } of await attachedNics(db, network.id)) {
    if (maySee(rights, { project_id })) nodes.set(node, [...(nodes.get(node) ?? []), nic]);
  }
  return {
    name: label,
    owner: owner?.label ?? "admin",
    access: network.is_public ? null : access.map((project) => project.label),
    channels: channelsOf(network),
    "connected-nodes": Object.fromEntries(nodes),
  };
}

async function attachedNics(db: Db, networkId: number) {
  return db
    .selectFrom("attachment")
    .innerJoin("nic", "nic.id", "attachment.nic_id")
    .innerJoin("node", "node.id", "nic.node_id")
    .leftJoin("project", "project.id", "node.project_id")
    .select(["node.label as node", "node.project_id", "nic.label as nic", "attachment.channel", "project.label as project"])
    .where("attachment.network_id", "=", networkId)
    .orderBy("node.label")
    .orderBy("nic.label")
    .execute();
}

/** All attachments for the owner and administrators; otherwise those of one project, on the access list, of the caller's. */
export async function listAttachments(
  db: Db,
  rights: Rights,
  label: string,
  projectLabel: string | undefined,
): Promise<Record<string, { nic: string; channel: string; project: string | null }>> {
  const network = await getNetwork(db, label);
  const project = projectLabel === undefined ? null : await getProject(db, projectLabel);
  if (!mayActFor(rights, network.owner_id)) {
    if (!project) throw notPermitted("Only the network's owner or an administrator may see all of its attachments; name a project.");
    requireProject(rights, project);
    if (!(await hasAccess(db, network.id, project.id))) throw notPermitted("That project has no access to the network.");
  }
  const attachments = new Map<string, { nic: string; channel: string; project: string | null }>();
  for (const row of await attachedNics(db, network.id)) {
    if (project && row.project_id !== project.id) continue;
    attachments.set(row.node, { nic: row.nic, channel: row.channel, project: row.project });
  }
  return Object.fromEntries(attachments);
}

export async function removeNetwork(db: Db, caller: Caller, label: string): Promise<void> {
  await write(db, async (tx) => {
    const network = await getNetwork(tx, label);
    requireOwner(await caller.rights(tx), network);
    const refuseIf = (row: unknown, why: string) => {
      if (row) throw blocked(`Network ${quote(label)} ${why}.`);
    };
    refuseIf(
      await tx.selectFrom("attachment").select("id").where("network_id", "=", network.id).limit(1).executeTakeFirst(),
      "still has nodes attached",
    );
    refuseIf(
      await tx.selectFrom("hnic").select("id").where("network_id", "=", network.id).limit(1).executeTakeFirst(),
      "is still on an hnic",
    );
    refuseIf(await pendingOn(tx, network.id).limit(1).executeTakeFirst(), "has a pending networking action");
    refuseIf(await maybeLeftOn(tx, network.id).limit(1).executeTakeFirst(), "may still be on a port whose last change failed");
    await tx.deleteFrom("network").where("id", "=", network.id).execute();
  });
}

const pendingOn = (db: Db, id: number) =>
  db.selectFrom("networking_action").select("networking_action.id").where("network_id", "=", id).where("status", "=", "PENDING");

/** Ports that may carry the network although nothing says so: an action with it failed, and they are suspect since. */
const maybeLeftOn = (db: Db, networkId: number) =>
  db
    .selectFrom("networking_action as action")
    .innerJoin("port", "port.id", "action.port_id")
    .leftJoin("nic", "nic.port_id", "port.id")
    .leftJoin("node as holder", "holder.id", "nic.node_id")
    .select("port.label")
    .where("action.network_id", "=", networkId)
    .where("action.status", "=", "ERROR")
    .where("port.suspect", "is not", null);

export async function grantAccess(db: Db, caller: Caller, label: string, projectLabel: string): Promise<void> {
  const exists = () => duplicate(`Project ${quote(projectLabel)} has access to network ${quote(label)} already.`);
  await translate(
    write(db, async (tx) => {
      const network = await getNetwork(tx, label);
      const project = await getProject(tx, projectLabel);
      requireOwner(await caller.rights(tx), network);
      if (network.is_public) throw duplicate(`Network ${quote(label)} is public: every project has access already.`);
      if (await hasAccess(tx, network.id, project.id)) throw exists();
      await tx.insertInto("network_access").values({ network_id: network.id, project_id: project.id }).execute();
    }),
    { onUnique: exists },
  );
}

export async function revokeAccess(db: Db, caller: Caller, label: string, projectLabel: string): Promise<void> {
  await write(db, async (tx) => {
    const network = await getNetwork(tx, label);
    const project = await getProject(tx, projectLabel);
    const absent = () =>
      new HaasError("NotFoundError", `Project ${quote(projectLabel)} has no entry in the access list of network ${quote(label)}.`);
    // A public network has no list, which is no secret.
    if (network.is_public) throw absent();
    const rights = await caller.rights(tx);
    if (!mayActFor(rights, network.owner_id)) requireProject(rights, project);
    if (!(await hasAccess(tx, network.id, project.id))) throw absent();
    if (network.owner_id === project.id) throw blocked(`Project ${quote(projectLabel)} owns network ${quote(label)}.`);
    const attached = await tx
      .selectFrom("attachment")
      .innerJoin("nic", "nic.id", "attachment.nic_id")
      .innerJoin("node", "node.id", "nic.node_id")
      .select("node.label")
      .where("attachment.network_id", "=", network.id)
      .where("node.project_id", "=", project.id)
      .limit(1)
      .executeTakeFirst();
    const pending = await pendingOn(tx, network.id)
      .innerJoin("node", "node.id", "networking_action.node_id")
      .where("node.project_id", "=", project.id)
      .limit(1)
      .executeTakeFirst();
    const headnode = await tx
      .selectFrom("hnic")
      .innerJoin("headnode", "headnode.id", "hnic.headnode_id")
      .select("headnode.label")
      .where("hnic.network_id", "=", network.id)
      .where("headnode.project_id", "=", project.id)
      .limit(1)
      .executeTakeFirst();
    const left = await maybeLeftOn(tx, network.id).where("holder.project_id", "=", project.id).limit(1).executeTakeFirst();
    const what = left
      ? "a node on a port whose last change failed, maybe"
      : attached
        ? "nodes attached"
        : pending
          ? "a pending networking action"
          : headnode
            ? "headnodes connected"
            : null;
    if (what) throw blocked(`Project ${quote(projectLabel)} still has ${what} on network ${quote(label)}.`);
    await tx.deleteFrom("network_access").where("network_id", "=", network.id).where("project_id", "=", project.id).execute();
  });
}

export const noAccess = (network: string) => projectMismatch(`The node's project has no access to network ${quote(network)}.`);

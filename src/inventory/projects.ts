import { type Caller, requireProject } from "../auth/caller.ts";
import type { Config } from "../config.ts";
import type { Context } from "../context.ts";
import { type Db, translate, write } from "../db/transaction.ts";
import { badArgument, blocked, duplicate, HaasError, illegalState, messageOf, notFound, quote } from "../errors.ts";
import { readsAs } from "../look.ts";
import { newName } from "./labels.ts";
import { driftReason, freshPort, onceRead } from "./switches.ts";

const maintenanceTimeoutMs = 10_000;

export interface Project {
  id: number;
  label: string;
}

export async function getProject(db: Db, label: string): Promise<Project> {
  const project = await db.selectFrom("project").select(["id", "label"]).where("label", "=", label).executeTakeFirst();
  if (!project) throw notFound("Project", label);
  return project;
}

export async function listProjects(db: Db): Promise<string[]> {
  return labels(await db.selectFrom("project").select("label").orderBy("label").execute());
}

/** As the owner of a network, `admin` is the administrators. Where everybody is one, that tells nobody a lie, and published clients have such a project. */
export const isReserved = ({ auth }: Config, label: string): boolean => auth.backend !== "null" && readsAs(label, "admin");

export async function createProject({ config, db }: Context, label: string): Promise<void> {
  const check = () => {
    if (!isReserved(config, label)) return;
    throw badArgument(`${quote(label)} can't be a project's name: as the owner of a network, 'admin' means the administrators.`);
  };
  await translate(
    write(db, async (tx) => {
      const look = await newName(tx, { table: "project", kind: "Project", check }, label);
      await tx.insertInto("project").values({ label, look }).execute();
    }),
    { onUnique: () => duplicate(`Project ${quote(label)} exists already.`) },
  );
}

export async function removeProject(db: Db, label: string): Promise<void> {
  await write(db, async (tx) => {
    const { id } = await getProject(tx, label);
    const holds = async (table: "node" | "headnode" | "network_access", what: string) => {
      const row = await tx.selectFrom(table).select("id").where("project_id", "=", id).limit(1).executeTakeFirst();
      if (row) throw blocked(`Project ${quote(label)} still has ${what}.`);
    };
    await holds("node", "nodes");
    const owned = await tx.selectFrom("network").select("id").where("owner_id", "=", id).limit(1).executeTakeFirst();
    if (owned) throw blocked(`Project ${quote(label)} still owns networks.`);
    await holds("network_access", "access to networks");
    await holds("headnode", "headnodes");
    await tx.deleteFrom("project").where("id", "=", id).execute();
  });
}

export async function projectNodes(db: Db, caller: Caller, label: string): Promise<string[]> {
  const project = await getProject(db, label);
  requireProject(caller, project);
  return labels(await db.selectFrom("node").select("label").where("project_id", "=", project.id).orderBy("label").execute());
}

/** The networks whose access list names the project. */
export async function projectNetworks(db: Db, caller: Caller, label: string): Promise<string[]> {
  const project = await getProject(db, label);
  requireProject(caller, project);
  return labels(
    await db
      .selectFrom("network_access")
      .innerJoin("network", "network.id", "network_access.network_id")
      .select("network.label")
      .where("network_access.project_id", "=", project.id)
      .orderBy("network.label")
      .execute(),
  );
}

export async function projectHeadnodes(db: Db, caller: Caller, label: string): Promise<string[]> {
  const project = await getProject(db, label);
  requireProject(caller, project);
  return labels(await db.selectFrom("headnode").select("label").where("project_id", "=", project.id).orderBy("label").execute());
}

/** Allocate a free node to the project. One whose ports were registered just now is waited for. */
export async function connectNode(db: Db, caller: Caller, label: string, nodeLabel: string): Promise<void> {
  await onceRead((patient) => allocate(db, caller, label, nodeLabel, patient));
}

/** False when a port is too fresh, and the caller has the time to wait. */
async function allocate(db: Db, caller: Caller, label: string, nodeLabel: string, patient: boolean): Promise<boolean> {
  return write(db, async (tx) => {
    const project = await getProject(tx, label);
    requireProject(caller, project);
    const node = await tx.selectFrom("node").select(["id", "project_id"]).where("label", "=", nodeLabel).executeTakeFirst();
    if (!node) throw notFound("Node", nodeLabel);
    if (node.project_id !== null) throw blocked(`Node ${quote(nodeLabel)} is not free.`);
    const suspect = await tx
      .selectFrom("port")
      .innerJoin("nic", "nic.port_id", "port.id")
      .select(["port.label", "port.suspect"])
      .where("nic.node_id", "=", node.id)
      .where((e) => e.or([e("port.suspect", "is not", null), e("port.drift", "is not", null)]))
      .execute();
    const [first] = suspect.toSorted((a, b) => Number(a.suspect === freshPort) - Number(b.suspect === freshPort));
    if (first) {
      if (patient && first.suspect === freshPort) return false;
      const why = first.suspect ?? driftReason;
      throw blocked(
        `Node ${quote(nodeLabel)} can't be allocated until its port ${quote(first.label)} is known to carry nothing${caller.isAdmin ? `: ${why}` : "; an administrator can see why."}`,
      );
    }
    await tx.updateTable("node").set({ project_id: project.id }).where("id", "=", node.id).where("project_id", "is", null).execute();
    return true;
  });
}

/**
 * Take a node from the project: it becomes free, or goes to the maintenance project where one is
 * configured. Its console log is deleted before anybody else can have the node.
 */
export async function detachNode(ctx: Context, caller: Caller, label: string, nodeLabel: string): Promise<void> {
  const node = await checkDetach(ctx.db, caller, label, nodeLabel);
  await ctx.obm.find(node.obm_type)?.console?.remove(nodeLabel);
  const { maintenance } = ctx.config;
  const moved = await write(ctx.db, async (tx) => {
    const { id } = await checkDetach(tx, caller, label, nodeLabel);
    const target = maintenance && maintenance.project !== label ? await maintenanceProject(tx, maintenance.project) : null;
    await tx.updateTable("node").set({ project_id: target }).where("id", "=", id).execute();
    return target !== null;
  });
  if (moved && maintenance?.url) announce(ctx, maintenance.url, nodeLabel);
}

async function checkDetach(db: Db, caller: Caller, label: string, nodeLabel: string) {
  const project = await getProject(db, label);
  requireProject(caller, project);
  const node = await db
    .selectFrom("node")
    .selectAll()
    .where("label", "=", nodeLabel)
    .where("project_id", "=", project.id)
    .executeTakeFirst();
  if (!node) throw new HaasError("NotFoundError", `Node ${quote(nodeLabel)} is not in project ${quote(label)}.`);
  const attached = await db
    .selectFrom("attachment")
    .innerJoin("nic", "nic.id", "attachment.nic_id")
    .select("nic.label")
    .where("nic.node_id", "=", node.id)
    .limit(1)
    .executeTakeFirst();
  if (attached) throw blocked(`Node ${quote(nodeLabel)} is still attached to a network by its nic ${quote(attached.label)}.`);
  const pending = await db
    .selectFrom("networking_action")
    .select("nic")
    .where("node_id", "=", node.id)
    .where("status", "=", "PENDING")
    .limit(1)
    .executeTakeFirst();
  if (pending) throw blocked(`Node ${quote(nodeLabel)} has a pending networking action on its nic ${quote(pending.nic ?? "")}.`);
  return node;
}

async function maintenanceProject(db: Db, label: string): Promise<number> {
  const project = await db.selectFrom("project").select("id").where("label", "=", label).executeTakeFirst();
  if (!project) throw illegalState(`The configured maintenance project ${quote(label)} does not exist.`);
  return project.id;
}

/** Tell the maintenance service about a node that it got. It may be down: that is logged, and the node stays in its project. */
function announce(ctx: Context, url: string, node: string): void {
  fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ node }),
    signal: AbortSignal.timeout(maintenanceTimeoutMs),
  }).then(
    (answer) => {
      if (!answer.ok) ctx.log.error("maintenance service refused a node", { node, status: answer.status });
    },
    (error) => ctx.log.error("maintenance service can't be reached", { node, error: messageOf(error) }),
  );
}

const labels = (rows: { label: string }[]) => rows.map(({ label }) => label);

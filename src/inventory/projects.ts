import { type Caller, requireProject, type Rights, writeAsAdmin } from "../auth/caller.ts";
import type { Config } from "../config.ts";
import type { Context } from "../context.ts";
import { type Db, translate, type Tx, write } from "../db/transaction.ts";
import { badArgument, blocked, duplicate, HaasError, illegalState, messageOf, notFound, quote } from "../errors.ts";
import { readsAs } from "../look.ts";
import { newName } from "./labels.ts";
import { getNode } from "./nodes.ts";
import { bootDeviceDue, prepareBoot } from "./obm.ts";
import { changesHands, hold, holdInTurn, isHeld, isRunning, newHold, noHold, release, untilIdle } from "./obm-commands.ts";
import { driftReason, freshPort, freshWaitMs } from "./switches.ts";
import { inTurn } from "./waiting.ts";

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

export async function createProject({ config, db }: Context, caller: Caller, label: string): Promise<void> {
  const check = () => {
    if (!isReserved(config, label)) return;
    throw badArgument(`${quote(label)} can't be a project's name: as the owner of a network, 'admin' means the administrators.`);
  };
  await translate(
    writeAsAdmin(db, caller, async (tx) => {
      const look = await newName(tx, { table: "project", kind: "Project", check }, label);
      await tx.insertInto("project").values({ label, look }).execute();
    }),
    { onUnique: () => duplicate(`Project ${quote(label)} exists already.`) },
  );
}

export async function removeProject(db: Db, caller: Caller, label: string): Promise<void> {
  await writeAsAdmin(db, caller, async (tx) => {
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

export async function projectNodes(db: Db, rights: Rights, label: string): Promise<string[]> {
  const project = await getProject(db, label);
  requireProject(rights, project);
  return labels(await db.selectFrom("node").select("label").where("project_id", "=", project.id).orderBy("label").execute());
}

/** The networks whose access list names the project. */
export async function projectNetworks(db: Db, rights: Rights, label: string): Promise<string[]> {
  const project = await getProject(db, label);
  requireProject(rights, project);
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

export async function projectHeadnodes(db: Db, rights: Rights, label: string): Promise<string[]> {
  const project = await getProject(db, label);
  requireProject(rights, project);
  return labels(await db.selectFrom("headnode").select("label").where("project_id", "=", project.id).orderBy("label").execute());
}

/**
 * Allocate a free node to the project. One whose ports were registered just now is waited for. It comes with its OBM
 * enabled, and boots from what its registration says: what the last project set is undone on the BMC first.
 */
export async function connectNode(ctx: Context, caller: Caller, label: string, nodeLabel: string): Promise<void> {
  const allocation = { label, nodeLabel, hold: newHold() };
  const mayGoOn = async () => (await checkAllocation(ctx.db, caller, allocation, true)) !== null;
  const step = await inTurn(ctx.db, caller, freshWaitMs, mayGoOn, (patient) =>
    write(ctx.db, (tx) => allocate(ctx, tx, caller, allocation, { patient, prepared: false })),
  );
  if (step !== "done") await prepareAndAllocate(ctx, caller, allocation, step);
}

interface Allocation {
  label: string;
  nodeLabel: string;
  hold: string;
}

async function prepareAndAllocate(
  ctx: Context,
  caller: Caller,
  allocation: Allocation,
  { node, project, device }: Extract<Step, object>,
): Promise<void> {
  const { hold } = allocation;
  try {
    await prepareBoot(ctx, caller, project, node, device, hold);
    await write(ctx.db, (tx) => allocate(ctx, tx, caller, allocation, { patient: false, prepared: true }));
  } catch (error) {
    await release(ctx.db, node.id, hold).catch(() => {});
    throw error;
  }
}

/** An object: the node is held, for setting what it boots from. */
type Step = "done" | (Allocatable & { device: string });

interface Allocatable {
  node: Awaited<ReturnType<typeof getNode>>;
  project: Project;
}

/** Null when a port is too fresh, or a command runs on the BMC, and the caller has the time to wait for that. */
async function checkAllocation(db: Db, caller: Caller, { label, nodeLabel }: Allocation, patient: boolean): Promise<Allocatable | null> {
  const project = await getProject(db, label);
  requireProject(await caller.rights(db), project);
  const node = await getNode(db, nodeLabel);
  if (node.project_id !== null) throw blocked(`Node ${quote(nodeLabel)} is not free.`);
  const suspect = await db
    .selectFrom("port")
    .innerJoin("nic", "nic.port_id", "port.id")
    .select(["port.label", "port.suspect"])
    .where("nic.node_id", "=", node.id)
    .where((e) => e.or([e("port.suspect", "is not", null), e("port.drift", "is not", null)]))
    .execute();
  const [first] = suspect.toSorted((a, b) => Number(a.suspect === freshPort) - Number(b.suspect === freshPort));
  if (first) {
    if (patient && first.suspect === freshPort) return null;
    throw blocked(
      `Node ${quote(nodeLabel)} can't be allocated until its port ${quote(first.label)} is known to carry nothing: ${first.suspect ?? driftReason}`,
      `Node ${quote(nodeLabel)} can't be allocated until each of its ports is known to carry nothing; an administrator can see why one is not.`,
    );
  }
  if (await isRunning(db, node.id)) {
    if (patient) return null;
    throw blocked(`Node ${quote(nodeLabel)} can't be allocated while a command of its BMC runs; try again.`);
  }
  return { node, project };
}

/** Null: see `checkAllocation`. `prepared`: it boots from what it should. */
async function allocate(
  ctx: Context,
  tx: Tx,
  caller: Caller,
  allocation: Allocation,
  { patient, prepared }: { patient: boolean; prepared: boolean },
): Promise<Step | null> {
  const found = await checkAllocation(tx, caller, allocation, patient);
  if (!found) return null;
  const { node, project } = found;
  const { hold: mine } = allocation;
  const device = bootDeviceDue(ctx, node);
  if (device !== null && !prepared) {
    await hold(tx, node, mine);
    return { node, project, device };
  }
  // Somebody may have had it since it was prepared, when this process was stopped.
  if (prepared ? node.hold !== mine : await isHeld(tx, node.id)) throw changesHands(node.label);
  await tx
    .updateTable("node")
    .set({ project_id: project.id, obm_enabled: 1, ...(!ctx.config.dryRun && { boot_device: null }), ...noHold })
    .where("id", "=", node.id)
    .where("project_id", "is", null)
    .execute();
  return "done";
}

/**
 * Take a node from the project: it becomes free, or goes to the maintenance project where one is
 * configured. From the moment of the call no command to its BMC begins, and those that run end first.
 * Its console log is deleted before anybody else can have the node.
 */
export async function detachNode(ctx: Context, caller: Caller, label: string, nodeLabel: string): Promise<void> {
  const mine = newHold();
  const node = await holdInTurn(ctx.db, caller, nodeLabel, mine, (db) => checkDetach(db, caller, label, nodeLabel));
  const { maintenance } = ctx.config;
  let moved: boolean;
  try {
    await untilIdle(ctx.db, caller, node);
    await ctx.obm.find(node.obm_type)?.console?.remove(nodeLabel);
    moved = await write(ctx.db, async (tx) => {
      const { id } = await checkDetach(tx, caller, label, nodeLabel);
      // The hold may be over, when this process was stopped.
      await hold(tx, node, mine);
      if (id !== node.id || (await isRunning(tx, id))) throw changesHands(nodeLabel);
      const target = maintenance && maintenance.project !== label ? await maintenanceProject(tx, maintenance.project) : null;
      await tx
        .updateTable("node")
        .set({ project_id: target, ...(target !== null && { obm_enabled: 1 }), ...noHold })
        .where("id", "=", id)
        .execute();
      return target !== null;
    });
  } catch (error) {
    await release(ctx.db, node.id, mine).catch(() => {});
    throw error;
  }
  if (moved && maintenance?.url) announce(ctx, maintenance.url, nodeLabel);
}

async function checkDetach(db: Db, caller: Caller, label: string, nodeLabel: string) {
  const project = await getProject(db, label);
  requireProject(await caller.rights(db), project);
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
  if (!project) {
    throw illegalState(
      `The configured maintenance project ${quote(label)} does not exist.`,
      "Nodes can't leave their project at the moment; an administrator can see why.",
    );
  }
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

import { type Caller, requireProject } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { type Db, translate, write } from "../db/transaction.ts";
import { badArgument, duplicate, illegalState, notFound, projectMismatch, quote } from "../errors.ts";
import type { HeadnodeTarget } from "../hardware/headnodes/driver.ts";
import { getNetwork, mayUse } from "../networking/networks.ts";
import { getProject } from "./projects.ts";

async function getHeadnode(db: Db, caller: Caller, label: string) {
  const headnode = await db
    .selectFrom("headnode")
    .innerJoin("project", "project.id", "headnode.project_id")
    .select([
      "headnode.id",
      "headnode.label",
      "headnode.uuid",
      "headnode.base_img",
      "headnode.started",
      "headnode.project_id",
      "project.label as project",
    ])
    .where("headnode.label", "=", label)
    .executeTakeFirst();
  if (!headnode) throw notFound("Headnode", label);
  requireProject(caller, { id: headnode.project_id, label: headnode.project });
  return headnode;
}

type Headnode = Awaited<ReturnType<typeof getHeadnode>>;

async function getHnic(db: Db, headnode: Headnode, label: string) {
  const hnic = await db.selectFrom("hnic").selectAll().where("headnode_id", "=", headnode.id).where("label", "=", label).executeTakeFirst();
  if (!hnic) throw notFound("Hnic", label, ` on headnode ${quote(headnode.label)}`);
  return hnic;
}

function requireNeverStarted(headnode: Headnode): void {
  if (headnode.started) throw illegalState(`Headnode ${quote(headnode.label)} was started already, so its hnics can't change.`);
}

export const listImages = (ctx: Context): string[] => [...ctx.config.headnode.baseImages].sort();

export async function createHeadnode(ctx: Context, caller: Caller, label: string, projectLabel: string, image: string): Promise<void> {
  if (!ctx.config.headnode.baseImages.includes(image)) {
    throw badArgument(`${quote(image)} is not one of the headnode images: ${listImages(ctx).join(", ") || "none are configured"}.`);
  }
  await translate(
    write(ctx.db, async (tx) => {
      const exists = await tx.selectFrom("headnode").select("id").where("label", "=", label).executeTakeFirst();
      if (exists) throw duplicate(`Headnode ${quote(label)} exists already.`);
      const project = await getProject(tx, projectLabel);
      requireProject(caller, project);
      await tx.insertInto("headnode").values({ label, project_id: project.id, base_img: image, uuid: crypto.randomUUID() }).execute();
    }),
    { onUnique: () => duplicate(`Headnode ${quote(label)} exists already.`) },
  );
}

async function targetOf(db: Db, headnode: Headnode): Promise<HeadnodeTarget> {
  const interfaces = await db
    .selectFrom("hnic")
    .innerJoin("network", "network.id", "hnic.network_id")
    .select(["hnic.label", "network.vlan"])
    .where("hnic.headnode_id", "=", headnode.id)
    .orderBy("hnic.id")
    .execute();
  return { label: headnode.label, uuid: headnode.uuid, baseImage: headnode.base_img, interfaces };
}

export async function showHeadnode(ctx: Context, caller: Caller, label: string) {
  const headnode = await getHeadnode(ctx.db, caller, label);
  const hnics = await ctx.db.selectFrom("hnic").select("label").where("headnode_id", "=", headnode.id).orderBy("label").execute();
  return {
    name: label,
    project: headnode.project,
    hnics: hnics.map((hnic) => hnic.label),
    vncport: headnode.started ? await ctx.headnodes.vncPort(await targetOf(ctx.db, headnode)) : null,
    uuid: headnode.uuid,
    base_img: headnode.base_img,
  };
}

/** Destroys the virtual machine with its storage first, so that a failure leaves a headnode that can be deleted again. */
export async function removeHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  const headnode = await getHeadnode(ctx.db, caller, label);
  await ctx.headnodes.remove(await targetOf(ctx.db, headnode));
  await write(ctx.db, (tx) => tx.deleteFrom("headnode").where("id", "=", headnode.id).execute());
}

/**
 * The first start freezes the headnode and makes its virtual machine; a failure to make it unfreezes it.
 * A dry run makes nothing, and so freezes nothing.
 */
export async function startHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  if (ctx.config.dryRun) {
    await getHeadnode(ctx.db, caller, label);
    ctx.log.info("dry run: a headnode would start", { headnode: label });
    return;
  }
  const { headnode, first } = await write(ctx.db, async (tx) => {
    const found = await getHeadnode(tx, caller, label);
    const { numUpdatedRows } = await tx
      .updateTable("headnode")
      .set({ started: 1 })
      .where("id", "=", found.id)
      .where("started", "=", 0)
      .executeTakeFirstOrThrow();
    return { headnode: found, first: numUpdatedRows === 1n };
  });
  const target = await targetOf(ctx.db, headnode);
  if (first) {
    try {
      await ctx.headnodes.create(target);
    } catch (error) {
      await write(ctx.db, (tx) => tx.updateTable("headnode").set({ started: 0 }).where("id", "=", headnode.id).execute());
      throw error;
    }
  }
  await ctx.headnodes.start(target);
}

export async function stopHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  const headnode = await getHeadnode(ctx.db, caller, label);
  await ctx.headnodes.stop(await targetOf(ctx.db, headnode));
}

export async function createHnic(db: Db, caller: Caller, headnodeLabel: string, label: string): Promise<void> {
  await translate(
    write(db, async (tx) => {
      const headnode = await getHeadnode(tx, caller, headnodeLabel);
      const exists = await tx
        .selectFrom("hnic")
        .select("id")
        .where("headnode_id", "=", headnode.id)
        .where("label", "=", label)
        .executeTakeFirst();
      if (exists) throw duplicate(`Hnic ${quote(label)} on headnode ${quote(headnodeLabel)} exists already.`);
      requireNeverStarted(headnode);
      await tx.insertInto("hnic").values({ headnode_id: headnode.id, label, network_id: null }).execute();
    }),
    { onUnique: () => duplicate(`Hnic ${quote(label)} on headnode ${quote(headnodeLabel)} exists already.`) },
  );
}

export async function removeHnic(db: Db, caller: Caller, headnodeLabel: string, label: string): Promise<void> {
  await write(db, async (tx) => {
    const headnode = await getHeadnode(tx, caller, headnodeLabel);
    const hnic = await getHnic(tx, headnode, label);
    requireNeverStarted(headnode);
    await tx.deleteFrom("hnic").where("id", "=", hnic.id).execute();
  });
}

/** Connect an hnic, instead of the network that it had. Only networks from the pool have a bridge on the hypervisor. */
export async function connectHnic(db: Db, caller: Caller, headnodeLabel: string, label: string, networkLabel: string): Promise<void> {
  await write(db, async (tx) => {
    const headnode = await getHeadnode(tx, caller, headnodeLabel);
    const hnic = await getHnic(tx, headnode, label);
    const network = await getNetwork(tx, networkLabel);
    if (!network.allocated)
      throw badArgument(`Network ${quote(networkLabel)} has an id that was not allocated from the pool, so no headnode can join it.`);
    requireNeverStarted(headnode);
    if (!(await mayUse(tx, headnode.project_id, network))) {
      throw projectMismatch(`Project ${quote(headnode.project)} has no access to network ${quote(networkLabel)}.`);
    }
    await tx.updateTable("hnic").set({ network_id: network.id }).where("id", "=", hnic.id).execute();
  });
}

export async function detachHnic(db: Db, caller: Caller, headnodeLabel: string, label: string): Promise<void> {
  await write(db, async (tx) => {
    const headnode = await getHeadnode(tx, caller, headnodeLabel);
    const hnic = await getHnic(tx, headnode, label);
    requireNeverStarted(headnode);
    await tx.updateTable("hnic").set({ network_id: null }).where("id", "=", hnic.id).execute();
  });
}

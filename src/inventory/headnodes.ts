import { randomBytes } from "node:crypto";
import { administrator, type Caller, requireProject } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { type Db, translate, type Tx, write } from "../db/transaction.ts";
import { badArgument, blocked, duplicate, HeadnodeError, illegalState, messageOf, notFound, projectMismatch, quote } from "../errors.ts";
import { HalfMadeError, type HeadnodeTarget } from "../hardware/headnodes/driver.ts";
import { isDead, owner } from "../networking/holder.ts";
import { refuseWhileUnread } from "../networking/lineage.ts";
import { getNetwork, mayUse } from "../networking/networks.ts";
import { getProject } from "./projects.ts";

/** A call waits so long for the one before it on the same headnode. */
const waitTimeoutMs = 20_000;
const waitPauseMs = 100;
/** Above what any call takes (see hardware/headnodes/libvirt.ts), as it is not renewed; a holder that died gives up its lease at once. */
const leaseMs = 15 * 60_000;

/** A headnode that the caller may use; throws what the caller is told. */
export async function getHeadnode(db: Db, caller: Caller, label: string) {
  const headnode = await db
    .selectFrom("headnode")
    .innerJoin("project", "project.id", "headnode.project_id")
    .select(["headnode.id", "headnode.label", "headnode.uuid", "headnode.base_img", "headnode.project_id", "project.label as project"])
    .select(["headnode.started", "headnode.made", "headnode.running", "headnode.vnc_password"])
    .select(["headnode.lease_owner", "headnode.lease_until"])
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

function requireEditable(headnode: Headnode): void {
  if (!headnode.started) return;
  throw illegalState(
    `Headnode ${quote(headnode.label)} was started already, so its hnics can't change. A stopped one can be edited: haas headnode_edit.`,
  );
}

const isHeld = ({ lease_owner, lease_until }: Headnode): boolean =>
  lease_owner !== null && lease_until > Date.now() && !isDead(lease_owner);

/**
 * Work on a headnode's virtual machine, as the only one who does. `before` changes the row in the transaction that
 * takes the headnode; what it returns, the headnode as it was before, goes to `work`.
 */
async function hold<T>(
  ctx: Context,
  caller: Caller,
  label: string,
  work: (headnode: Headnode) => Promise<T>,
  before: (tx: Tx, headnode: Headnode) => Promise<void> = async () => {},
): Promise<T> {
  const deadline = Date.now() + waitTimeoutMs;
  for (;;) {
    const until = Date.now() + leaseMs;
    const headnode = await write(ctx.db, async (tx) => {
      const found = await getHeadnode(tx, caller, label);
      if (isHeld(found)) return null;
      await tx.updateTable("headnode").set({ lease_owner: owner, lease_until: until }).where("id", "=", found.id).execute();
      await before(tx, found);
      return found;
    });
    if (headnode) {
      try {
        return await work(headnode);
      } finally {
        await write(ctx.db, (tx) =>
          tx
            .updateTable("headnode")
            .set({ lease_owner: null, lease_until: 0 })
            .where("id", "=", headnode.id)
            .where("lease_owner", "=", owner)
            .where("lease_until", "=", until)
            .execute(),
        );
      }
    }
    if (Date.now() > deadline) throw blocked(`Headnode ${quote(label)} is busy with an earlier call; try again when that is done.`);
    await Bun.sleep(waitPauseMs);
  }
}

const update = (db: Db, headnode: Headnode, values: { started?: 0 | 1; made?: 0 | 1; running?: 0 | 1 }) =>
  write(db, (tx) => tx.updateTable("headnode").set(values).where("id", "=", headnode.id).execute());

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
  const { label, uuid, base_img, vnc_password } = headnode;
  return { label, uuid, baseImage: base_img, interfaces, vncPassword: vnc_password ?? "" };
}

export async function showHeadnode(ctx: Context, caller: Caller, label: string) {
  const headnode = await getHeadnode(ctx.db, caller, label);
  const hnics = await ctx.db
    .selectFrom("hnic")
    .leftJoin("network", "network.id", "hnic.network_id")
    .select(["hnic.label", "network.label as network"])
    .where("headnode_id", "=", headnode.id)
    .orderBy("hnic.label")
    .execute();
  return {
    name: label,
    project: headnode.project,
    hnics: hnics.map((hnic) => hnic.label),
    networks: Object.fromEntries(hnics.map((hnic) => [hnic.label, hnic.network])),
    ...(await lookAt(ctx, headnode)),
    vnc_password: headnode.vnc_password,
    uuid: headnode.uuid,
    base_img: headnode.base_img,
    editable: headnode.started === 0,
  };
}

interface Look {
  state: "new" | "busy" | "half-made" | "on" | "off" | "lost" | "unknown";
  /** What is not as haas left it. */
  reason: string | null;
  vncport: number | null;
}

/** The virtual machine as it really is, and what is not as haas left it. */
async function lookAt(ctx: Context, headnode: Headnode): Promise<Look> {
  const look = (state: Look["state"], reason: string | null = null, vncport: number | null = null): Look => ({ state, reason, vncport });
  if (isHeld(headnode)) return look("busy", "A call is at work on it; ask again.");
  if (!headnode.made)
    return headnode.started ? look("half-made", "Its first start was cut off; start it again, or delete it.") : look("new");
  const machine = await ctx.headnodes.state(await targetOf(ctx.db, headnode)).catch((error: unknown) => {
    if (!(error instanceof HeadnodeError)) throw error;
    return { kind: "unknown", words: error.message } as const;
  });
  switch (machine.kind) {
    case "unknown":
      return look("unknown", machine.words);
    case "absent":
      return look("lost", "Its virtual machine is gone from the hypervisor. Delete the headnode, and create it again.");
    case "off":
      return look("off", headnode.running ? `It was not haas that stopped it; the hypervisor says: ${machine.words}.` : null);
    case "on":
      return look("on", headnode.running ? null : "It was not haas that started it.", machine.vncPort);
  }
}

/** Destroys the virtual machine with its storage first, so that a failure leaves a headnode that can be deleted again. */
export async function removeHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  await hold(ctx, caller, label, async (headnode) => {
    if (!ctx.config.dryRun) await ctx.headnodes.remove(await targetOf(ctx.db, headnode));
    await write(ctx.db, (tx) => tx.deleteFrom("headnode").where("id", "=", headnode.id).execute());
  });
}

/**
 * The first start freezes the headnode and makes its virtual machine; when that fails, or the machine does not start,
 * nothing is left of it and the headnode is as it was. A dry run makes nothing, and so freezes nothing.
 */
export async function startHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  if (dryRun(ctx, "start", label)) return void (await getHeadnode(ctx.db, caller, label));
  const password = randomPassword();
  const freeze = (tx: Tx, headnode: Headnode) =>
    tx
      .updateTable("headnode")
      .set({ started: 1, running: 1, ...(headnode.vnc_password === null && { vnc_password: password }) })
      .where("id", "=", headnode.id)
      .execute();
  const work = async (headnode: Headnode) => {
    const target = await targetOf(ctx.db, { ...headnode, vnc_password: headnode.vnc_password ?? password });
    if (headnode.made) {
      if ((await ctx.headnodes.state(target)).kind === "absent") {
        throw illegalState(`The virtual machine of headnode ${quote(label)} is gone. Delete the headnode, and create it again.`);
      }
      return ctx.headnodes.start(target);
    }
    // Frozen already: an earlier start was cut off.
    if (headnode.started) await ctx.headnodes.remove(target);
    await ctx.headnodes.create(target);
    await update(ctx.db, headnode, { made: 1 });
    await ctx.headnodes.start(target);
  };
  await hold(
    ctx,
    caller,
    label,
    (headnode) =>
      work(headnode).catch(async (error: unknown) => {
        // It stays frozen: a start that failed late may have left it running.
        if (headnode.made) await update(ctx.db, headnode, { running: headnode.running });
        else await unmake(ctx, headnode, error);
        throw error;
      }),
    async (tx, headnode) => {
      await refuseWhileUnread(tx, caller.isAdmin);
      await freeze(tx, headnode);
    },
  );
}

/** Undo a first start that failed. Where that fails too, the headnode stays half-made: the next start or delete tries again. */
async function unmake(ctx: Context, headnode: Headnode, error: unknown): Promise<void> {
  const { made } = await ctx.db.selectFrom("headnode").select("made").where("id", "=", headnode.id).executeTakeFirstOrThrow();
  let gone = !(error instanceof HalfMadeError);
  if (made) {
    const undone = ctx.headnodes.remove(await targetOf(ctx.db, headnode));
    gone = await undone.then(
      () => true,
      (why: unknown) => {
        ctx.log.warning("a headnode that did not start could not be removed", { headnode: headnode.label, error: messageOf(why) });
        return false;
      },
    );
  }
  await update(ctx.db, headnode, { made: 0, running: 0, ...(gone && { started: 0 }) });
}

/** Remove what a haas that came to its end left half-made. For the start of a server; what fails is left to the next call. */
export async function cleanUpHeadnodes(ctx: Context): Promise<void> {
  if (ctx.config.dryRun) return;
  const rows = await ctx.db.selectFrom("headnode").select("label").where("started", "=", 1).where("made", "=", 0).execute();
  for (const { label } of rows) {
    const undo = hold(ctx, administrator, label, async (headnode) => {
      if (headnode.made || !headnode.started) return;
      await ctx.headnodes.remove(await targetOf(ctx.db, headnode));
      await update(ctx.db, headnode, { started: 0, running: 0 });
      ctx.log.info("the first start of a headnode was cut off, and is undone", { headnode: label });
    });
    await undo.catch((error: unknown) => ctx.log.warning("a half-made headnode is left", { headnode: label, error: messageOf(error) }));
  }
}

export async function stopHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  if (dryRun(ctx, "stop", label)) return void (await getHeadnode(ctx.db, caller, label));
  await hold(ctx, caller, label, async (headnode) => {
    if (!headnode.made) return;
    await ctx.headnodes.stop(await targetOf(ctx.db, headnode));
    await update(ctx.db, headnode, { running: 0 });
  });
}

/** Let the hnics of a stopped headnode change again, until its next start. */
export async function editHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  await hold(ctx, caller, label, async (headnode) => {
    if (!headnode.started) return;
    const target = await targetOf(ctx.db, headnode);
    if (!headnode.made) await ctx.headnodes.remove(target);
    else if ((await ctx.headnodes.state(target)).kind === "on")
      throw illegalState(`Headnode ${quote(label)} is running; stop it before it is edited.`);
    // It may have stopped by itself.
    else await ctx.headnodes.stop(target);
    await update(ctx.db, headnode, { started: 0, running: 0 });
  });
}

/** The TCP port on which the display of a running headnode listens, on loopback. */
export async function displayOf(ctx: Context, caller: Caller, label: string): Promise<number> {
  const headnode = await getHeadnode(ctx.db, caller, label);
  if (ctx.headnodes.displaysElsewhere !== null)
    throw illegalState(`The display of headnode ${quote(label)} can't be reached through haas: ${ctx.headnodes.displaysElsewhere}.`);
  const { vncport, state, reason } = await lookAt(ctx, headnode);
  if (vncport === null)
    throw illegalState(`Headnode ${quote(label)} has no display now: it is ${state}.${reason === null ? "" : ` ${reason}`}`);
  return vncport;
}

function dryRun(ctx: Context, what: string, label: string): boolean {
  if (ctx.config.dryRun) ctx.log.info(`dry run: a headnode would ${what}`, { headnode: label });
  return ctx.config.dryRun;
}

/** As long as VNC allows: 8 characters of 64. */
const randomPassword = (): string => randomBytes(6).toString("base64url");

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
      requireEditable(headnode);
      await tx.insertInto("hnic").values({ headnode_id: headnode.id, label, network_id: null }).execute();
    }),
    { onUnique: () => duplicate(`Hnic ${quote(label)} on headnode ${quote(headnodeLabel)} exists already.`) },
  );
}

export async function removeHnic(db: Db, caller: Caller, headnodeLabel: string, label: string): Promise<void> {
  await write(db, async (tx) => {
    const headnode = await getHeadnode(tx, caller, headnodeLabel);
    const hnic = await getHnic(tx, headnode, label);
    requireEditable(headnode);
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
    requireEditable(headnode);
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
    requireEditable(headnode);
    await tx.updateTable("hnic").set({ network_id: null }).where("id", "=", hnic.id).execute();
  });
}

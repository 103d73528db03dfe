import { randomBytes } from "node:crypto";
import { administrator, type Caller, requireProject, type Rights } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { longestPauseMs } from "../db/clock.ts";
import { type Db, translate, type Tx, write } from "../db/transaction.ts";
import {
  badArgument,
  blocked,
  duplicate,
  HeadnodeError,
  illegalState,
  messageOf,
  notFound,
  projectMismatch,
  quote,
  textFor,
} from "../errors.ts";
import { HalfMadeError, type HeadnodeTarget, unasked } from "../hardware/headnodes/driver.ts";
import { holdsLease, isHeld, type Lease, releaseLease, renewLease, takeLease, writeTaking } from "../networking/lease.ts";
import { refuseWhileUnread } from "../networking/lineage.ts";
import { getNetwork, mayUse } from "../networking/networks.ts";
import { newName } from "./labels.ts";
import { getProject } from "./projects.ts";
import { inTurn } from "./waiting.ts";

/** A call waits so long for the one before it on the same headnode. */
const waitTimeoutMs = 20_000;
/** Renewed while the call lasts, every so often. */
const leaseMs = longestPauseMs;
const renewEveryMs = leaseMs / 6;

/** A headnode that the caller may use; throws what the caller is told. */
export async function getHeadnode(db: Db, rights: Rights, label: string) {
  const headnode = await db
    .selectFrom("headnode")
    .innerJoin("project", "project.id", "headnode.project_id")
    .select(["headnode.id", "headnode.label", "headnode.uuid", "headnode.base_img", "headnode.project_id", "project.label as project"])
    .select(["headnode.started", "headnode.made", "headnode.running", "headnode.vnc_password"])
    .where("headnode.label", "=", label)
    .executeTakeFirst();
  if (!headnode) throw notFound("Headnode", label);
  requireProject(rights, { id: headnode.project_id, label: headnode.project });
  return headnode;
}

type Headnode = Awaited<ReturnType<typeof getHeadnode>>;
type HeldHeadnode = Headnode & { readonly lease: Lease };

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

/**
 * Work on a headnode's virtual machine, as the only one who does. `before` changes the row in the transaction that
 * takes the headnode; what it returns, the headnode as it was before, goes to `work`.
 */
async function hold<T>(
  ctx: Context,
  caller: Caller,
  label: string,
  work: (headnode: HeldHeadnode) => Promise<T>,
  before: (tx: Tx, headnode: Headnode) => Promise<void> = async () => {},
): Promise<T> {
  const mine = async (db: Db) => getHeadnode(db, await caller.rights(db), label);
  const isFree = async () => !(await isHeld(ctx.db, "headnode", (await mine(ctx.db)).id));
  const held = await inTurn(ctx.db, caller, waitTimeoutMs, isFree, async (patient) => {
    const taken = await writeTaking(ctx.db, async (tx) => {
      const headnode = await mine(tx);
      const lease = await takeLease(tx, "headnode", headnode.id, leaseMs);
      if (lease) await before(tx, headnode);
      return lease && { ...headnode, lease };
    });
    if (!taken && !patient) throw blocked(`Headnode ${quote(label)} is busy with an earlier call; try again when that is done.`);
    return taken;
  });
  // A renewal that fails is tried again by the next one.
  const renewing = setInterval(() => void renewLease(ctx.db, held.lease).catch(() => {}), renewEveryMs);
  try {
    return await work(held);
  } finally {
    clearInterval(renewing);
    await releaseLease(ctx.db, held.lease);
  }
}

/** No effect when the headnode was taken over. */
const update = (db: Db, { id, lease }: HeldHeadnode, values: { started?: 0 | 1; made?: 0 | 1; running?: 0 | 1 }) =>
  write(db, (tx) => tx.updateTable("headnode").set(values).where("id", "=", id).where("lease_token", "=", lease.token).execute());

export const listImages = (ctx: Context): string[] => [...ctx.config.headnode.baseImages].sort();

export async function createHeadnode(ctx: Context, caller: Caller, label: string, projectLabel: string, image: string): Promise<void> {
  if (!ctx.config.headnode.baseImages.includes(image)) {
    throw badArgument(`${quote(image)} is not one of the headnode images: ${listImages(ctx).join(", ") || "none are configured"}.`);
  }
  await translate(
    write(ctx.db, async (tx) => {
      const look = await newName(tx, { table: "headnode", kind: "Headnode" }, label);
      const project = await getProject(tx, projectLabel);
      requireProject(await caller.rights(tx), project);
      await tx.insertInto("headnode").values({ label, look, project_id: project.id, base_img: image, uuid: crypto.randomUUID() }).execute();
    }),
    { onUnique: () => duplicate(`Headnode ${quote(label)} exists already.`) },
  );
}

/** Each step of the driver's asks whether the headnode is still held, and whether it is still the caller's right. */
async function targetOf(db: Db, caller: Caller, headnode: Headnode & { readonly lease?: Lease }): Promise<HeadnodeTarget> {
  const interfaces = await db
    .selectFrom("hnic")
    .innerJoin("network", "network.id", "hnic.network_id")
    .select(["hnic.label", "network.vlan"])
    .where("hnic.headnode_id", "=", headnode.id)
    .orderBy("hnic.id")
    .execute();
  const { label, uuid, base_img, vnc_password, lease } = headnode;
  const confirmHeld = async () => {
    if (lease && !(await holdsLease(db, lease))) throw illegalState(`Headnode ${quote(label)} was taken over by a later call.`);
  };
  const confirm = async () => {
    await confirmHeld();
    requireProject(await caller.rights(db), { id: headnode.project_id, label: headnode.project });
  };
  return { label, uuid, baseImage: base_img, interfaces, vncPassword: vnc_password ?? "", confirm, confirmHeld };
}

export async function showHeadnode(ctx: Context, caller: Caller, label: string) {
  const rights = await caller.rights(ctx.db);
  const headnode = await getHeadnode(ctx.db, rights, label);
  const hnics = await ctx.db
    .selectFrom("hnic")
    .leftJoin("network", "network.id", "hnic.network_id")
    .select(["hnic.label", "network.label as network"])
    .where("headnode_id", "=", headnode.id)
    .orderBy("hnic.label")
    .execute();
  const look = await lookAt(ctx, rights, headnode);
  // The hypervisor may have taken its time, and the password of the display is for the project only.
  await getHeadnode(ctx.db, await caller.rights(ctx.db), label);
  return {
    name: label,
    project: headnode.project,
    hnics: hnics.map((hnic) => hnic.label),
    networks: Object.fromEntries(hnics.map((hnic) => [hnic.label, hnic.network])),
    ...look,
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
async function lookAt(ctx: Context, rights: Rights, headnode: Headnode): Promise<Look> {
  const look = (state: Look["state"], reason: string | null = null, vncport: number | null = null): Look => ({ state, reason, vncport });
  if (await isHeld(ctx.db, "headnode", headnode.id)) return look("busy", "A call is at work on it; ask again.");
  if (!headnode.made)
    return headnode.started ? look("half-made", "Its first start was cut off; start it again, or delete it.") : look("new");
  const machine = await ctx.headnodes.state(await targetOf(ctx.db, administrator, headnode)).catch((error: unknown) => {
    if (!(error instanceof HeadnodeError)) throw error;
    return { kind: "unknown", words: textFor(rights.isAdmin, error) } as const;
  });
  switch (machine.kind) {
    case "unknown":
      return look("unknown", machine.words);
    case "absent":
      return look("lost", "Its virtual machine is gone from the hypervisor. Delete the headnode, and create it again.");
    case "off":
      return look(
        "off",
        headnode.running ? `It was not haas that stopped it${rights.isAdmin ? `; the hypervisor says: ${machine.words}.` : "."}` : null,
      );
    case "on":
      return look("on", headnode.running ? null : "It was not haas that started it.", machine.vncPort);
  }
}

/** Destroys the virtual machine with its storage first, so that a failure leaves a headnode that can be deleted again. */
export async function removeHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  await hold(ctx, caller, label, async (headnode) => {
    if (!ctx.config.dryRun) await ctx.headnodes.remove(await targetOf(ctx.db, caller, headnode));
    await write(ctx.db, (tx) => tx.deleteFrom("headnode").where("id", "=", headnode.id).execute());
  });
}

/**
 * The first start freezes the headnode and makes its virtual machine; when that fails, or the machine does not start,
 * nothing is left of it and the headnode is as it was. A dry run makes nothing, and so freezes nothing.
 */
export async function startHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  if (dryRun(ctx, "start", label)) return void (await getHeadnode(ctx.db, await caller.rights(ctx.db), label));
  const password = randomPassword();
  const freeze = (tx: Tx, headnode: Headnode) =>
    tx
      .updateTable("headnode")
      .set({ started: 1, running: 1, ...(headnode.vnc_password === null && { vnc_password: password }) })
      .where("id", "=", headnode.id)
      .execute();
  const work = async (headnode: HeldHeadnode) => {
    const target = await targetOf(ctx.db, caller, { ...headnode, vnc_password: headnode.vnc_password ?? password });
    if (headnode.made) {
      if ((await ctx.headnodes.state(target)).kind === "absent") {
        throw illegalState(`The virtual machine of headnode ${quote(label)} is gone. Delete the headnode, and create it again.`);
      }
      return ctx.headnodes.start(target);
    }
    // Frozen already: an earlier start was cut off.
    if (headnode.started) await ctx.headnodes.remove(unasked(target));
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
      await refuseWhileUnread(tx);
      await freeze(tx, headnode);
    },
  );
}

/** Undo a first start that failed. Where that fails too, the headnode stays half-made: the next start or delete tries again. */
async function unmake(ctx: Context, headnode: HeldHeadnode, error: unknown): Promise<void> {
  const { made } = await ctx.db.selectFrom("headnode").select("made").where("id", "=", headnode.id).executeTakeFirstOrThrow();
  let gone = !(error instanceof HalfMadeError);
  if (made) {
    const undone = ctx.headnodes.remove(unasked(await targetOf(ctx.db, administrator, headnode)));
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
      await ctx.headnodes.remove(await targetOf(ctx.db, administrator, headnode));
      await update(ctx.db, headnode, { started: 0, running: 0 });
      ctx.log.info("the first start of a headnode was cut off, and is undone", { headnode: label });
    });
    await undo.catch((error: unknown) => ctx.log.warning("a half-made headnode is left", { headnode: label, error: messageOf(error) }));
  }
}

export async function stopHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  if (dryRun(ctx, "stop", label)) return void (await getHeadnode(ctx.db, await caller.rights(ctx.db), label));
  await hold(ctx, caller, label, async (headnode) => {
    if (!headnode.made) return;
    await ctx.headnodes.stop(await targetOf(ctx.db, caller, headnode));
    await update(ctx.db, headnode, { running: 0 });
  });
}

/** Let the hnics of a stopped headnode change again, until its next start. */
export async function editHeadnode(ctx: Context, caller: Caller, label: string): Promise<void> {
  await hold(ctx, caller, label, async (headnode) => {
    if (!headnode.started) return;
    const target = await targetOf(ctx.db, caller, headnode);
    if (!headnode.made) await ctx.headnodes.remove(target);
    else if ((await ctx.headnodes.state(target)).kind === "on")
      throw illegalState(`Headnode ${quote(label)} is running; stop it before it is edited.`);
    // It may have stopped by itself.
    else await ctx.headnodes.stop(target);
    await update(ctx.db, headnode, { started: 0, running: 0 });
  });
}

/** The TCP port on which the display of a running headnode listens, on loopback. */
export async function displayOf(ctx: Context, rights: Rights, label: string): Promise<number> {
  const headnode = await getHeadnode(ctx.db, rights, label);
  if (ctx.headnodes.displaysElsewhere !== null)
    throw illegalState(
      `The display of headnode ${quote(label)} can't be reached through haas: ${ctx.headnodes.displaysElsewhere}.`,
      `The display of headnode ${quote(label)} can't be reached through haas; an administrator can see why.`,
    );
  const { vncport, state, reason } = await lookAt(ctx, rights, headnode);
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
      const headnode = await getHeadnode(tx, await caller.rights(tx), headnodeLabel);
      const within = { column: "headnode_id", id: headnode.id, words: ` on headnode ${quote(headnodeLabel)}` } as const;
      const look = await newName(tx, { table: "hnic", kind: "Hnic", within }, label);
      requireEditable(headnode);
      await tx.insertInto("hnic").values({ headnode_id: headnode.id, label, look, network_id: null }).execute();
    }),
    { onUnique: () => duplicate(`Hnic ${quote(label)} on headnode ${quote(headnodeLabel)} exists already.`) },
  );
}

export async function removeHnic(db: Db, caller: Caller, headnodeLabel: string, label: string): Promise<void> {
  await write(db, async (tx) => {
    const headnode = await getHeadnode(tx, await caller.rights(tx), headnodeLabel);
    const hnic = await getHnic(tx, headnode, label);
    requireEditable(headnode);
    await tx.deleteFrom("hnic").where("id", "=", hnic.id).execute();
  });
}

/** Connect an hnic, instead of the network that it had. Only networks from the pool have a bridge on the hypervisor. */
export async function connectHnic(db: Db, caller: Caller, headnodeLabel: string, label: string, networkLabel: string): Promise<void> {
  await write(db, async (tx) => {
    const headnode = await getHeadnode(tx, await caller.rights(tx), headnodeLabel);
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
    const headnode = await getHeadnode(tx, await caller.rights(tx), headnodeLabel);
    const hnic = await getHnic(tx, headnode, label);
    requireEditable(headnode);
    await tx.updateTable("hnic").set({ network_id: null }).where("id", "=", hnic.id).execute();
  });
}

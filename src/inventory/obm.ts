import { type Caller, requireNodeProject, requireProject } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { type Db, type Tx, write } from "../db/transaction.ts";
import { blocked, illegalState, quote } from "../errors.ts";
import type { BmcAddress, ObmDriver, ObmTarget } from "../hardware/obm/driver.ts";
import { getNode } from "./nodes.ts";
import { changesHands, hold, isHeld, isRunning, runCommandOf, untilStripped } from "./obm-commands.ts";
import { inPlace } from "./waiting.ts";

type Node = Awaited<ReturnType<typeof getNode>>;

/** The BMC of a node; `permit` throws unless a command may begin, as things are in the transaction. */
function bmcOf(ctx: Context, caller: Caller, node: Node, permit: (tx: Tx) => Promise<void>) {
  const driver: ObmDriver = ctx.obm.byType(node.obm_type);
  const target: ObmTarget = {
    ...(JSON.parse(node.obm) as BmcAddress),
    command: (run) =>
      runCommandOf(ctx.db, { nodeId: node.id, userId: caller.user?.id ?? null, timeoutMs: driver.commandTimeoutMs, permit, run }),
  };
  return { driver, target };
}

/** Throws unless the caller may use the node's BMC now. `before`: the node as it was when the call came. */
async function requireUse(db: Db, caller: Caller, node: Node, before: Node = node): Promise<void> {
  if (node.id !== before.id || node.project_id !== before.project_id)
    throw blocked(`Node ${quote(node.label)} changed hands while the call waited.`);
  requireNodeProject(await caller.rights(db), node);
  if (!node.obm_enabled) throw blocked(`The OBM of node ${quote(node.label)} is disabled.`);
  if (await isHeld(db, node.id)) throw changesHands(node.label);
}

/**
 * What a power, boot-device or console call needs; refused while the node's OBM is disabled. The right is read again
 * before every command. `bootDevice`: what the call sets, for the next allocation to know of.
 */
export async function useObm(ctx: Context, caller: Caller, label: string, bootDevice?: string) {
  const node = await getNode(ctx.db, label);
  await requireUse(ctx.db, caller, node);
  return bmcOf(ctx, caller, node, async (tx) => {
    await requireUse(tx, caller, await getNode(tx, label), node);
    if (bootDevice !== undefined) await tx.updateTable("node").set({ boot_device: bootDevice }).where("id", "=", node.id).execute();
  });
}

/** The console log of a node; `IllegalStateError` for a driver that has none. */
export async function useConsole(ctx: Context, caller: Caller, label: string) {
  const { driver, target } = await useObm(ctx, caller, label);
  if (!driver.console) throw illegalState(`Consoles are not supported by the ${driver.name} OBM driver.`);
  return { log: driver.console, target };
}

/** When it is disabled, nothing runs on the BMC any more. */
export async function enableObm(ctx: Context, caller: Caller, label: string, enabled: boolean): Promise<void> {
  const change = async () => {
    const { id } = await write(ctx.db, async (tx) => {
      const node = await getNode(tx, label);
      requireNodeProject(await caller.rights(tx), node);
      await tx
        .updateTable("node")
        .set({ obm_enabled: enabled ? 1 : 0 })
        .where("id", "=", node.id)
        .execute();
      return node;
    });
    if (!enabled) await untilStripped(ctx.db, { nodeId: id }, `The OBM of node ${quote(label)} is disabled`);
  };
  // Whoever finds no place to wait in is told so before anything is changed.
  const mustWait = !enabled && (await isRunning(ctx.db, (await getNode(ctx.db, label)).id));
  await (mustWait ? inPlace(ctx.db, caller, change) : change());
}

/** What a free node has to be set to boot from before somebody gets it; null when that is as it should be. */
export function bootDeviceDue(ctx: Context, node: Node): string | null {
  // Nothing was sent, and nothing will be.
  if (ctx.config.dryRun) return null;
  const { bootdev } = JSON.parse(node.obm) as BmcAddress;
  return bootdev ?? (node.boot_device === null ? null : "none");
}

/** Set it, for the call that holds the node. */
export async function prepareBoot(
  ctx: Context,
  caller: Caller,
  project: { id: number; label: string },
  node: Node,
  device: string,
  mine: string,
): Promise<void> {
  const { driver, target } = bmcOf(ctx, caller, node, async (tx) => {
    const now = await getNode(tx, node.label);
    if (now.id !== node.id || now.project_id !== null) throw blocked(`Node ${quote(node.label)} is not free.`);
    requireProject(await caller.rights(tx), project);
    await hold(tx, now, mine);
  });
  await driver.setBootDevice(target, device);
}

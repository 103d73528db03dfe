import { type Caller, mayActFor, requireAdmin, requireNodeProject, type Rights, writeAsAdmin } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { ReadCache } from "../db/cache.ts";
import { prepared } from "../db/prepared.ts";
import { type Db, translate, type Tx, write } from "../db/transaction.ts";
import { badArgument, blocked, duplicate, notFound, quote } from "../errors.ts";
import { checkSettings } from "../hardware/settings.ts";
import { isPending } from "../networking/journal.ts";
import { isLabel, newName } from "./labels.ts";
import { changesHands, dropPast, isHeld, isRunning, untilIdle } from "./obm-commands.ts";

interface NodeRow {
  id: number;
  label: string;
  project_id: number | null;
  obm_type: string;
  obm: string;
  obm_enabled: 0 | 1;
  /** What was set through haas since the node was allocated. */
  boot_device: string | null;
  hold: string | null;
}

const nodeByLabel = prepared((db, label: string) => db.selectFrom("node").selectAll().where("label", "=", label));

export async function getNode(db: Db, label: string): Promise<NodeRow> {
  const [node] = await nodeByLabel(db, label);
  if (!node) throw notFound("Node", label);
  return node;
}

const nicByLabel = prepared((db, nodeId: number, label: string) =>
  db.selectFrom("nic").selectAll().where("node_id", "=", nodeId).where("label", "=", label),
);

export async function getNic(db: Db, node: { id: number; label: string }, label: string) {
  const [nic] = await nicByLabel(db, node.id, label);
  if (!nic) throw notFound("Nic", label, ` on node ${quote(node.label)}`);
  return nic;
}

const allNodes = prepared((db) => db.selectFrom("node").select("label").orderBy("label"));

/** The ports that are suspect or have drifted are few: they come first, and then their nics. */
const freeNodes = prepared((db) =>
  db
    .selectFrom("node")
    .select("label")
    .where("project_id", "is", null)
    .where("id", "not in", (suspect) =>
      suspect
        .selectFrom("nic")
        .select("node_id")
        .where("port_id", "in", (port) =>
          port
            .selectFrom("port")
            .select("id")
            .where("suspect", "is not", null)
            .union(port.selectFrom("port").select("id").where("drift", "is not", null)),
        ),
    )
    .orderBy("label"),
);

const nodeLists = new ReadCache<string>();

/** JSON: sorted names, the free nodes for `free`, all of them for any other word. A node with a port that is suspect, or was found to carry something else, is not free. */
export function listNodes(db: Db, which: string): Promise<string> {
  const [key, query] = which === "free" ? (["free", freeNodes] as const) : (["all", allNodes] as const);
  return nodeLists.get(db, key, async () => JSON.stringify((await query(db)).map(({ label }) => label)));
}

export async function registerNode(
  ctx: Context,
  caller: Caller,
  label: string,
  obm: { type: string } & Record<string, unknown>,
  metadata: Record<string, string>,
): Promise<void> {
  const { type, ...settings } = obm;
  await translate(
    writeAsAdmin(ctx.db, caller, async (tx) => {
      // "Exists already" comes before anything else is looked at.
      const look = await newName(tx, { table: "node", kind: "Node" }, label);
      const driver = ctx.obm.byType(type);
      checkSettings(driver.settings, settings, `The ${driver.name} OBM driver`);
      // Published clients may use the empty label.
      const wrong = Object.keys(metadata).find((key) => key !== "" && !isLabel(key));
      if (wrong !== undefined)
        throw badArgument(`${quote(wrong)} can't be a metadata label: printable, without slashes, no blank at either end.`);
      const obm_address = ctx.obm.address(type, settings);
      if (obm_address !== null) await refuseSecondNode(ctx, tx, label, obm_address);
      const { id } = await tx
        .insertInto("node")
        .values({ label, look, project_id: null, obm_type: type, obm: JSON.stringify(settings), obm_address })
        .returning("id")
        .executeTakeFirstOrThrow();
      for (const [key, value] of Object.entries(metadata)) await addMetadata(tx, { id, label }, key, value);
    }),
    { onUnique: () => duplicate(`Node ${quote(label)}, or one with its BMC, exists already.`) },
  );
}

/** One BMC is one node's: who may use the one could otherwise switch off the other. */
async function refuseSecondNode(ctx: Context, tx: Tx, label: string, address: string): Promise<void> {
  const others = await tx
    .selectFrom("node")
    .select(["label", "obm_type", "obm", "obm_address"])
    // One that an earlier haas registered a second time has none.
    .where((e) => e.or([e("obm_address", "=", address), e("obm_address", "is", null)]))
    .orderBy("id")
    .execute();
  const first = others.find((other) => (other.obm_address ?? ctx.obm.address(other.obm_type, JSON.parse(other.obm))) === address);
  if (!first) return;
  throw duplicate(
    `Node ${quote(label)} has the same BMC as ${quote(first.label)}: one BMC is registered once. Systems of a chassis that share one say which they are, in the field 'system'.`,
  );
}

/** Waits for what runs on the node's BMC. */
export async function removeNode(db: Db, caller: Caller, label: string): Promise<void> {
  for (;;) {
    const node = await removable(db, caller, label);
    await untilIdle(db, caller, node);
    if (await write(db, (tx) => removeIdle(tx, caller, label))) return;
  }
}

/** The node, when nothing but a command on its BMC is in the way. */
async function removable(db: Db, caller: Caller, label: string): Promise<NodeRow> {
  requireAdmin(await caller.rights(db));
  const node = await getNode(db, label);
  if (node.project_id !== null) throw blocked(`Node ${quote(label)} is allocated to a project.`);
  const nic = await db.selectFrom("nic").select("label").where("node_id", "=", node.id).limit(1).executeTakeFirst();
  if (nic) throw blocked(`Node ${quote(label)} still has the nic ${quote(nic.label)}.`);
  const metadata = await db.selectFrom("node_metadata").select("label").where("node_id", "=", node.id).limit(1).executeTakeFirst();
  if (metadata) throw blocked(`Node ${quote(label)} still has the metadata label ${quote(metadata.label)}.`);
  if (await isHeld(db, node.id)) throw changesHands(label);
  return node;
}

/** False when a command runs on the node's BMC. */
async function removeIdle(tx: Tx, caller: Caller, label: string): Promise<boolean> {
  const node = await removable(tx, caller, label);
  if (await isRunning(tx, node.id)) return false;
  await dropPast(tx, node.id);
  await tx.deleteFrom("node").where("id", "=", node.id).execute();
  return true;
}

interface NodeDetails {
  name: string;
  project: string | null;
  obm_enabled: boolean;
  metadata: Record<string, string>;
  nics: { label: string; macaddr: string; networks: Record<string, string>; port?: string | null; switch?: string | null }[];
}

/** A row for each attachment of each nic of the node; one for a nic without any, and one without a nic for a node without any. */
const nodeRows = prepared((db, label: string) =>
  db
    .selectFrom("node")
    .leftJoin("project", "project.id", "node.project_id")
    .leftJoin("nic", "nic.node_id", "node.id")
    .leftJoin("port", "port.id", "nic.port_id")
    .leftJoin("switch", "switch.id", "port.switch_id")
    .leftJoin("attachment", "attachment.nic_id", "nic.id")
    .leftJoin("network", "network.id", "attachment.network_id")
    .select([
      "node.project_id",
      "node.obm_enabled",
      "project.label as project",
      "nic.label as nic",
      "nic.mac_addr",
      "port.label as port",
      "switch.label as switch",
      "attachment.channel",
      "network.label as network",
    ])
    .where("node.label", "=", label)
    .orderBy("nic.label"),
);

const metadataRows = prepared((db, label: string) =>
  db
    .selectFrom("node_metadata as metadata")
    .innerJoin("node", "node.id", "metadata.node_id")
    .select(["metadata.label", "metadata.value"])
    .where("node.label", "=", label)
    .orderBy("metadata.label"),
);

const nodeDetails = new ReadCache<{ projectId: number | null; forAdmins: string; forOthers: string }>();

/** JSON: everything about a node, a `NodeDetails`. Cabling is for administrators only. */
export async function showNode(db: Db, rights: Rights, label: string): Promise<string> {
  const { projectId, forAdmins, forOthers } = await nodeDetails.get(db, label, () => readNode(db, label));
  if (projectId !== null) requireNodeProject(rights, { project_id: projectId });
  return rights.isAdmin ? forAdmins : forOthers;
}

async function readNode(db: Db, label: string) {
  const [rows, metadata] = await Promise.all([nodeRows(db, label), metadataRows(db, label)]);
  const [node] = rows;
  if (!node) throw notFound("Node", label);
  const nics = new Map<string, NodeDetails["nics"][number]>();
  for (const row of rows) {
    if (row.nic === null) continue;
    const nic = nics.get(row.nic) ?? { label: row.nic, macaddr: row.mac_addr!, networks: {}, port: row.port, switch: row.switch };
    if (row.channel !== null) nic.networks[row.channel] = row.network!;
    nics.set(row.nic, nic);
  }
  const details: NodeDetails = {
    name: label,
    project: node.project,
    obm_enabled: node.obm_enabled === 1,
    nics: [...nics.values()],
    metadata: Object.fromEntries(metadata.map((row) => [row.label, row.value])),
  };
  const uncabled = details.nics.map(({ label: nic, macaddr, networks }) => ({ label: nic, macaddr, networks }));
  return {
    projectId: node.project_id,
    forAdmins: JSON.stringify(details),
    forOthers: JSON.stringify({ ...details, nics: uncabled } satisfies NodeDetails),
  };
}

export async function registerNic(db: Db, caller: Caller, nodeLabel: string, label: string, macaddr: string): Promise<void> {
  await translate(
    writeAsAdmin(db, caller, async (tx) => {
      const node = await getNode(tx, nodeLabel);
      const look = await newName(tx, { table: "nic", kind: "Nic", within: inNode(node) }, label);
      await tx.insertInto("nic").values({ node_id: node.id, label, look, mac_addr: macaddr, port_id: null }).execute();
    }),
    { onUnique: () => duplicate(`Nic ${quote(label)} on node ${quote(nodeLabel)} exists already.`) },
  );
}

export async function removeNic(db: Db, caller: Caller, nodeLabel: string, label: string): Promise<void> {
  await writeAsAdmin(db, caller, async (tx) => {
    const node = await getNode(tx, nodeLabel);
    const nic = await getNic(tx, node, label);
    const attached = await tx.selectFrom("attachment").select("id").where("nic_id", "=", nic.id).limit(1).executeTakeFirst();
    if (attached) throw blocked(`Nic ${quote(label)} is still attached to a network.`);
    if (await isPending(tx, nic.id)) throw blocked(`Nic ${quote(label)} has a pending networking action.`);
    await tx.deleteFrom("nic").where("id", "=", nic.id).execute();
  });
}

/** `value` is JSON text. */
export async function setMetadata(db: Db, caller: Caller, nodeLabel: string, label: string, value: string): Promise<void> {
  await writeAsAdmin(db, caller, async (tx) => {
    const node = await getNode(tx, nodeLabel);
    const { numUpdatedRows } = await tx
      .updateTable("node_metadata")
      .set({ value })
      .where("node_id", "=", node.id)
      .where("label", "=", label)
      .executeTakeFirstOrThrow();
    if (numUpdatedRows === 0n) await addMetadata(tx, node, label, value);
  });
}

async function addMetadata(tx: Tx, node: { id: number; label: string }, label: string, value: string): Promise<void> {
  const look = await newName(tx, { table: "node_metadata", kind: "Metadata label", within: inNode(node) }, label);
  await tx.insertInto("node_metadata").values({ node_id: node.id, label, look, value }).execute();
}

const inNode = ({ id, label }: { id: number; label: string }) => ({ column: "node_id", id, words: ` on node ${quote(label)}` }) as const;

export async function removeMetadata(db: Db, caller: Caller, nodeLabel: string, label: string): Promise<void> {
  await writeAsAdmin(db, caller, async (tx) => {
    const node = await getNode(tx, nodeLabel);
    const { numDeletedRows } = await tx
      .deleteFrom("node_metadata")
      .where("node_id", "=", node.id)
      .where("label", "=", label)
      .executeTakeFirstOrThrow();
    if (numDeletedRows === 0n) throw notFound("Metadata label", label, ` on node ${quote(nodeLabel)}`);
  });
}

/** Which of these nodes the caller may see: free ones and those of the caller's projects. */
export const maySee = (rights: Rights, node: { project_id: number | null }): boolean =>
  node.project_id === null || mayActFor(rights, node.project_id);

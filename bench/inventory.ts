import { openDatabase } from "../src/db/open.ts";
import type { Tx } from "../src/db/transaction.ts";

export const nodeCount = 10_000;
/** Nodes 1 to this are in a project; their first nic is attached to a network. */
export const allocatedCount = 2_000;
const nicsPerNode = 2;
const portsPerSwitch = 500;
const projectCount = 20;
const rowsPerInsert = 1_000;

/** The network that benchmarks connect nics to, and the channel for it. */
export const benchNetwork = { label: "storage", channel: "vlan/102" };

export const nodeName = (n: number) => `node-${String(n).padStart(5, "0")}`;

/** A room full of nodes, put into a new database directly. */
export async function fillInventory(uri: string, nodes = nodeCount): Promise<void> {
  const db = await openDatabase(uri);
  await db.transaction().execute(async (tx) => {
    const ids = (count: number) => Array.from({ length: count }, (_, i) => i + 1);
    const nics = ids(nodes * nicsPerNode);
    const allocated = Math.min(allocatedCount, nodes);
    const nodeOf = (nic: number) => Math.ceil(nic / nicsPerNode);
    const mock = "http://schema.massopencloud.org/haas/v0";
    const settings = (hostKey: string, host: string) =>
      JSON.stringify({ [hostKey]: host, ...(hostKey === "host" ? { user: "u" } : { username: "u" }), password: "p" });
    await insert(tx, "project", ids(projectCount), (id) => ({ id, label: `project-${id}` }));
    await insert(tx, "network", [1, 2], (id) => ({
      id,
      label: id === 1 ? "pxe" : benchNetwork.label,
      owner_id: null,
      is_public: 1 as const,
      vlan: 100 + id,
      allocated: 1 as const,
    }));
    await insert(tx, "switch", ids(Math.ceil(nics.length / portsPerSwitch)), (id) => ({
      id,
      label: `switch-${id}`,
      type: `${mock}/switches/mock`,
      settings: settings("hostname", `switch-${id}`),
    }));
    await insert(tx, "port", nics, (id) => ({ id, switch_id: Math.ceil(id / portsPerSwitch), label: `gi1/0/${id}`, suspect: null }));
    await insert(tx, "node", ids(nodes), (id) => ({
      id,
      label: nodeName(id),
      project_id: id <= allocated ? (id % projectCount) + 1 : null,
      obm_type: `${mock}/obm/mock`,
      obm: settings("host", `bmc-${id}`),
    }));
    await insert(tx, "nic", nics, (id) => ({
      id,
      node_id: nodeOf(id),
      label: `nic${((id - 1) % nicsPerNode) + 1}`,
      mac_addr: `02:00:00:${id
        .toString(16)
        .padStart(6, "0")
        .replace(/(..)(?=.)/g, "$1:")}`,
      port_id: id,
    }));
    await insert(tx, "node_metadata", ids(nodes), (id) => ({ node_id: id, label: "location", value: JSON.stringify(`row ${id % 40}`) }));
    await insert(
      tx,
      "attachment",
      nics.filter((id) => nodeOf(id) <= allocated && id % nicsPerNode === 1),
      (id) => ({ nic_id: id, network_id: 1, channel: "vlan/native" }),
    );
  });
  await db.destroy();
}

type Table = Parameters<Tx["insertInto"]>[0];

async function insert(tx: Tx, table: Table, ids: readonly number[], row: (id: number) => object): Promise<void> {
  for (let i = 0; i < ids.length; i += rowsPerInsert) {
    await tx
      .insertInto(table)
      .values(ids.slice(i, i + rowsPerInsert).map(row) as never)
      .execute();
  }
}

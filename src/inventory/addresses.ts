import type { Context } from "../context.ts";
import { write } from "../db/transaction.ts";
import { switchAddress } from "../hardware/switches/index.ts";

/** A device that is registered twice, by an earlier haas. */
export interface SecondOwner {
  readonly kind: "switch" | "node";
  readonly label: string;
  /** Who has the device. */
  readonly first: string;
}

/** Note where the devices are that an earlier haas registered; those that are registered a second time. */
export async function noteAddresses({ db, obm }: Pick<Context, "db" | "obm">): Promise<SecondOwner[]> {
  return write(db, async (tx) => {
    const seconds: SecondOwner[] = [];
    const switches = await tx.selectFrom("switch").select(["id", "label", "type", "settings", "address"]).orderBy("id").execute();
    const switchAt = ownersOf(switches, ({ address }) => address);
    for (const { id, label, type, settings } of switches.filter((row) => row.address === null)) {
      const address = switchAddress(type, JSON.parse(settings));
      if (address === null) continue;
      const first = switchAt.get(address);
      if (first !== undefined) seconds.push({ kind: "switch", label, first });
      else await tx.updateTable("switch").set({ address }).where("id", "=", id).execute();
      switchAt.set(address, first ?? label);
    }
    const nodes = await tx.selectFrom("node").select(["id", "label", "obm_type", "obm", "obm_address"]).orderBy("id").execute();
    const nodeAt = ownersOf(nodes, ({ obm_address }) => obm_address);
    for (const { id, label, obm_type, obm: settings } of nodes.filter((row) => row.obm_address === null)) {
      const address = obm.address(obm_type, JSON.parse(settings));
      if (address === null) continue;
      const first = nodeAt.get(address);
      if (first !== undefined) seconds.push({ kind: "node", label, first });
      else await tx.updateTable("node").set({ obm_address: address }).where("id", "=", id).execute();
      nodeAt.set(address, first ?? label);
    }
    return seconds;
  });
}

const ownersOf = <Row extends { label: string }>(rows: readonly Row[], address: (row: Row) => string | null) =>
  new Map(rows.flatMap((row) => (address(row) === null ? [] : [[address(row)!, row.label]])));

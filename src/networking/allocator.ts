import type { Db, Tx } from "../db/transaction.ts";
import { HaasError } from "../errors.ts";

/** Where the ids of new networks come from. */
export interface Allocator {
  /**
   * An id for a new network, inside the transaction that creates it. Null means that the network has
   * no VLAN. `AllocationError` when there is none left.
   */
  allocate(tx: Tx): Promise<number | null>;
  /** At start: a sentence when the configuration does not fit the networks that exist, else null. */
  check(db: Db): Promise<string | null>;
}

/** Hands out the lowest free VLAN of the pool. */
export function vlanPool(pool: readonly number[]): Allocator {
  return {
    async allocate(tx) {
      const rows = await tx.selectFrom("network").select("vlan").where("vlan", "is not", null).execute();
      const used = new Set(rows.map(({ vlan }) => vlan));
      const free = pool.find((vlan) => !used.has(vlan));
      if (free === undefined) throw new HaasError("AllocationError", "No network id is left in the pool.");
      return free;
    },
    async check(db) {
      const networks = await db.selectFrom("network").select(["label", "vlan"]).where("allocated", "=", 1).orderBy("vlan").execute();
      const allowed = new Set(pool);
      const lost = networks.filter(({ vlan }) => vlan !== null && !allowed.has(vlan));
      if (lost.length === 0) return null;
      const named = lost.slice(0, 5).map(({ label, vlan }) => `${vlan} (network '${label}')`);
      return `VLANs were taken out of the pool that networks still use: ${named.join(", ")}${lost.length > 5 ? `, and ${lost.length - 5} more` : ""}.`;
    },
  };
}

/** Networks without a VLAN, any number of them: for trying haas out without switches. */
export const nullAllocator: Allocator = {
  allocate: async () => null,
  check: async () => null,
};

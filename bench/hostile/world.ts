import { administrator } from "../../src/auth/caller.ts";
import { openDatabase } from "../../src/db/open.ts";
import { freshPort } from "../../src/inventory/switches.ts";
import { createUser } from "../../src/inventory/users.ts";
import { fillInventory, nodeName } from "../inventory.ts";
import { freshCount, nodeCount, people } from "./people.ts";

/** A room of nodes, and the people, in a new database. */
export async function makeWorld(uri: string): Promise<void> {
  await fillInventory(uri, nodeCount);
  const db = await openDatabase(uri);
  try {
    const { admin, tenant, owners } = people;
    for (const { name, password } of [admin, tenant, ...owners]) await createUser(db, administrator, name, password, name === admin.name);
    const { id } = await db.selectFrom("users").select("id").where("label", "=", tenant.name).executeTakeFirstOrThrow();
    await db.insertInto("user_project").values({ user_id: id, project_id: 1 }).execute();
    const fresh = db
      .selectFrom("nic")
      .innerJoin("node", "node.id", "nic.node_id")
      .select("nic.port_id")
      .where("node.label", ">", nodeName(nodeCount - freshCount));
    await db.updateTable("port").set({ suspect: freshPort }).where("id", "in", fresh).execute();
  } finally {
    await db.destroy();
  }
}

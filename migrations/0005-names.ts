import { type Kysely, PostgresAdapter, sql } from "kysely";
import { lookOf } from "../src/look.ts";

/** One owner for one thing: what a person sees of a name, and where a device is, belong to one row each. */
export async function up(db: Kysely<any>): Promise<void> {
  const postgres = db.getExecutor().adapter instanceof PostgresAdapter;
  const text = sql.raw(postgres ? `text collate "C"` : "text");
  const run = (statement: ReturnType<typeof sql>) => statement.execute(db);

  // address, obm_address: the one spelling of where the switch and the BMC are; null for a mock. The drivers know it,
  // so rows that are here already get theirs at the next start.
  await run(sql`alter table switch add column address ${text}`);
  await run(sql`create unique index switch_address on switch (address)`);
  await run(sql`alter table node add column obm_address ${text}`);
  await run(sql`create unique index node_obm_address on node (obm_address)`);

  // look: see src/look.ts. Of names that look alike already, only the first has it.
  for (const [name, parent] of [
    ...["project", "users", "node", "network", "switch", "headnode"].map((top) => [top, null] as const),
    ["nic", "node_id"],
    ["node_metadata", "node_id"],
    ["port", "switch_id"],
    ["hnic", "headnode_id"],
  ] as const) {
    const [table, within] = [sql.table(name), parent === null ? sql.lit(0) : sql.ref(parent)];
    await run(sql`alter table ${table} add column look ${text}`);
    const rows = await sql<{
      id: number;
      label: string;
      place: number;
    }>`select id, label, ${within} as place from ${table} order by id`.execute(db);
    const seen = new Set<string>();
    for (const { id, label, place } of rows.rows) {
      const look = lookOf(label);
      const key = `${place} ${look}`;
      if (!seen.has(key)) await run(sql`update ${table} set look = ${look} where id = ${id}`);
      seen.add(key);
    }
    const columns = parent === null ? sql`look` : sql`${within}, look`;
    await run(sql`create unique index ${sql.raw(`${name}_look`)} on ${table} (${columns})`);
  }

  // For finding what ended long ago; see src/networking/pruner.ts.
  await run(sql`create index action_ended on networking_action (ended_at)`);
}

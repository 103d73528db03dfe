import { type Kysely, PostgresAdapter, sql } from "kysely";

/** What makes a right to a BMC end when it is taken, over all processes on the database. */
export async function up(db: Kysely<any>): Promise<void> {
  const postgres = db.getExecutor().adapter instanceof PostgresAdapter;
  const id = sql.raw(postgres ? "integer generated always as identity primary key" : "integer primary key autoincrement");
  const text = sql.raw(postgres ? `text collate "C"` : "text");
  const time = sql.raw(postgres ? "bigint" : "integer");
  const run = (statement: ReturnType<typeof sql>) => statement.execute(db);

  // boot_device: what was set through haas since the node was allocated; null when nothing was.
  await run(sql`alter table node add column boot_device ${text}`);
  // hold: the call that the node changes hands by; only its commands reach the BMC. hold_until: on the database's clock.
  await run(sql`alter table node add column hold ${text}`);
  await run(sql`alter table node add column hold_until ${time} not null default 0`);

  // A row for each command that runs on a node's BMC. user_id outlives the user. ends_by: on the database's clock.
  await run(sql`create table obm_command (
    id ${id},
    node_id integer not null references node (id),
    user_id integer,
    ends_by ${time} not null)`);
  await run(sql`create index obm_command_node on obm_command (node_id)`);
}

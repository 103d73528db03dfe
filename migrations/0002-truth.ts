import { type Kysely, PostgresAdapter, sql } from "kysely";

/**
 * What haas knows about the real switches: by which key one is known, what the last check of its ports
 * found, and under which one spelling a port is registered.
 */
export async function up(db: Kysely<any>): Promise<void> {
  const postgres = db.getExecutor().adapter instanceof PostgresAdapter;
  const text = sql.raw(postgres ? `text collate "C"` : "text");
  const time = sql.raw(postgres ? "bigint" : "integer");
  const run = (statement: ReturnType<typeof sql>) => statement.execute(db);

  // host_key: as SHA256:…, from the first session on. checked_at, check_error: the last check of all ports.
  await run(sql`alter table switch add column host_key ${text}`);
  await run(sql`alter table switch add column checked_at ${time}`);
  await run(sql`alter table switch add column check_error ${text}`);

  // canonical: the label as the device spells it, so that no port is registered twice.
  // drift: what the port carried instead (JSON) when a check found it different; null when it was right.
  await run(sql`alter table port add column canonical ${text}`);
  await run(sql`alter table port add column drift ${text}`);
  await run(sql`update port set canonical = case
    when (select type from switch where switch.id = port.switch_id) like '%/nexus' then replace(lower(label), ' ', '')
    else label end`);
  // A port that is registered twice already stays so: only the first registration holds the name.
  await run(sql`update port set canonical = null where exists (
    select 1 from port as first
    where first.switch_id = port.switch_id and first.canonical = port.canonical and first.id < port.id)`);
  await run(sql`create unique index port_canonical on port (switch_id, canonical)`);
  await run(sql`create index port_drift on port (id) where drift is not null`);

  // unreached: the reason tells of haas's own way to the switch, which is none of a project's business.
  await run(sql`alter table networking_action add column unreached integer not null default 0 check (unreached in (0, 1))`);

  // The first haas could not drive these, and forgot that their ports had to be made to carry nothing.
  const forgotten = await sql<{ id: number; switch_id: number }>`
    select port.id, port.switch_id from port join switch on switch.id = port.switch_id
    where switch.type not like '%/mock' and switch.type not like '%/ovs'
    and not exists (select 1 from networking_action where port_id = port.id and status = 'PENDING' and type = 'sync_port')`.execute(db);
  for (const port of forgotten.rows) {
    await run(sql`insert into networking_action (uuid, type, status, port_id, switch_id, created_at)
      values (${crypto.randomUUID()}, 'sync_port', 'PENDING', ${port.id}, ${port.switch_id}, ${Date.now()})`);
    await run(sql`update port set suspect = 'haas has not read it back yet' where id = ${port.id} and suspect is null`);
  }
}

import { type Kysely, PostgresAdapter, sql } from "kysely";

/** What makes a paused holder of a lease harmless, and one switch under two names known. */
export async function up(db: Kysely<any>): Promise<void> {
  const postgres = db.getExecutor().adapter instanceof PostgresAdapter;
  const text = sql.raw(postgres ? `text collate "C"` : "text");
  const time = sql.raw(postgres ? "bigint" : "integer");
  const run = (statement: ReturnType<typeof sql>) => statement.execute(db);

  // uncertain_until: what is read back before is to be read once more then, as a former holder may still write (database clock).
  await run(sql`alter table switch add column uncertain_until ${time} not null default 0`);
  // give_up: somebody wants the switch; a holder that is still connecting lets it go.
  await run(sql`alter table switch add column give_up integer not null default 0 check (give_up in (0, 1))`);
  // serial: what the device says it is, whatever it is registered as; empty when it does not tell, null before it was asked.
  await run(sql`alter table switch add column serial ${text}`);
  await run(sql`create unique index switch_serial on switch (serial) where serial <> ''`);
  // Of two switches with one key the second is asked for it again, and refused then.
  await run(sql`update switch set host_key = null where exists (
    select 1 from switch as first where first.host_key = switch.host_key and first.id < switch.id)`);
  await run(sql`create unique index switch_host_key on switch (host_key)`);

  // As of switches: it grows with every holder.
  await run(sql`alter table headnode add column lease_token integer not null default 0`);
}

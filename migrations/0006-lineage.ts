import { type Kysely, PostgresAdapter, sql } from "kysely";

/** Which database this is, how far it has come, and what each server that changes switches last left in it. */
export async function up(db: Kysely<any>): Promise<void> {
  const postgres = db.getExecutor().adapter instanceof PostgresAdapter;
  const text = sql.raw(postgres ? `text collate "C"` : "text");
  const count = sql.raw(postgres ? "bigint" : "integer");
  const run = (statement: ReturnType<typeof sql>) => statement.execute(db);

  // counter: grows with every transaction that writes. replacing: it was put in the place of another database, so there
  // may be ports that it does not know, with anything on them.
  await run(sql`create table lineage (
    id integer primary key check (id = 1),
    identity ${text} not null,
    counter ${count} not null,
    replacing integer not null default 0 check (replacing in (0, 1)))`);
  await run(sql`insert into lineage (id, identity, counter) values (1, ${crypto.randomUUID()}, 0)`);
  if (postgres) {
    await run(sql`create function lineage_grows() returns trigger language plpgsql as $$
      begin raise exception 'the counter of the database only grows'; end $$`);
    await run(sql`create trigger lineage_grows before update on lineage
      for each row when (new.counter < old.counter) execute function lineage_grows()`);
  } else {
    await run(sql`create trigger lineage_grows before update on lineage when new.counter < old.counter
      begin select raise(abort, 'the counter of the database only grows'); end`);
  }

  // server: the identity of a state file. mark: what is written there as well, new before anything is sent to a switch.
  await run(sql`create table lineage_server (
    server ${text} primary key,
    mark ${text} not null)`);

  // unread: not read back since the database was found to be another one than its server remembers.
  await run(sql`alter table port add column unread integer not null default 0 check (unread in (0, 1))`);
  await run(sql`create index port_unread on port (id) where unread = 1`);
}

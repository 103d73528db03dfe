import { type Kysely, PostgresAdapter, sql } from "kysely";

/** What haas knows about the real virtual machine of a headnode. */
export async function up(db: Kysely<any>): Promise<void> {
  const postgres = db.getExecutor().adapter instanceof PostgresAdapter;
  const text = sql.raw(postgres ? `text collate "C"` : "text");
  const time = sql.raw(postgres ? "bigint" : "integer");
  const run = (statement: ReturnType<typeof sql>) => statement.execute(db);

  // started: its hnics are frozen. made: its virtual machine exists, whole. Frozen and not made: it is being
  // made, or a haas that made it came to its end before it was done. running: what haas was last asked for.
  await run(sql`alter table headnode add column made integer not null default 0 check (made in (0, 1))`);
  await run(sql`alter table headnode add column running integer not null default 0 check (running in (0, 1))`);
  // Of its display, from its first start on.
  await run(sql`alter table headnode add column vnc_password ${text}`);
  // One call at a time works on its virtual machine.
  await run(sql`alter table headnode add column lease_owner ${text}`);
  await run(sql`alter table headnode add column lease_until ${time} not null default 0`);

  // The first haas only pretended to make virtual machines.
  await run(sql`update headnode set started = 0`);
}

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { Kysely, Migrator, PostgresDialect, sql } from "kysely";
import { BunSqliteDialect } from "kysely-bun-sqlite";
import { Database } from "bun:sqlite";
import pg from "pg";
import { migrations } from "../../migrations/index.ts";
import { openDatabase, sqlitePath } from "../../src/db/open.ts";
import { databases, freshUri, scratch } from "../support/service.ts";

// A database that an earlier haas made keeps everything that is in it.

describe.each(databases)("a database of an earlier haas on %s", (kind) => {
  let place: ReturnType<typeof scratch>;
  beforeEach(() => {
    place = scratch();
  });
  afterEach(() => place.remove());

  /** A database as it was when `names` were all the migrations there were. */
  async function databaseOf(names: string[], fill: (db: Kysely<any>) => Promise<void>): Promise<string> {
    const uri = await freshUri(kind, place.path);
    const db = new Kysely<any>({
      dialect:
        kind === "postgres"
          ? new PostgresDialect({ pool: new pg.Pool({ connectionString: uri }) })
          : new BunSqliteDialect({ database: new Database(sqlitePath(uri), { create: true }) }),
    });
    const known = Object.fromEntries(names.map((name) => [name, migrations[name]!]));
    const { error } = await new Migrator({ db, provider: { getMigrations: async () => known } }).migrateToLatest();
    if (error) throw error;
    await fill(db);
    await db.destroy();
    return uri;
  }

  test("before canonical port names: each port gets one, and of two for the same port the first", async () => {
    const type = "http://schema.massopencloud.org/haas/v0/switches/";
    const uri = await databaseOf(["0001-init"], async (db) => {
      await sql`insert into switch (label, type, settings) values
        ('nexus', ${`${type}nexus`}, '{}'), ('dell', ${`${type}powerconnect55xx`}, '{}'), ('other', ${`${type}nexus`}, '{}')`.execute(db);
      await sql`insert into port (switch_id, label, suspect) values
        (1, 'Ethernet1/1', null), (1, 'ethernet 1/1', 'why'), (1, 'ethernet1/1', null), (1, 'Ethernet 1/2', null),
        (2, 'gi1/0/1', null), (2, 'GI1/0/1', null), (3, 'ethernet1/1', null)`.execute(db);
    });
    const db = await openDatabase(uri);
    // Its ports were never made to carry nothing, as the earlier haas could not drive their switches.
    const suspect = "haas has not read it back yet";
    try {
      expect(await db.selectFrom("networking_action").select("port_id").where("type", "=", "sync_port").execute()).toHaveLength(7);
      expect(await db.selectFrom("port").select(["switch_id", "label", "canonical", "suspect", "drift"]).orderBy("id").execute()).toEqual([
        { switch_id: 1, label: "Ethernet1/1", canonical: "ethernet1/1", suspect, drift: null },
        { switch_id: 1, label: "ethernet 1/1", canonical: null, suspect: "why", drift: null },
        { switch_id: 1, label: "ethernet1/1", canonical: null, suspect, drift: null },
        { switch_id: 1, label: "Ethernet 1/2", canonical: "ethernet1/2", suspect, drift: null },
        { switch_id: 2, label: "gi1/0/1", canonical: "gi1/0/1", suspect, drift: null },
        { switch_id: 2, label: "GI1/0/1", canonical: "GI1/0/1", suspect, drift: null },
        { switch_id: 3, label: "ethernet1/1", canonical: "ethernet1/1", suspect, drift: null },
      ]);
      expect(await db.selectFrom("switch").select(["label", "host_key", "checked_at", "check_error"]).orderBy("id").execute()).toEqual(
        ["nexus", "dell", "other"].map((label) => ({ label, host_key: null, checked_at: null, check_error: null })),
      );
      const again = db.insertInto("port").values({ switch_id: 1, label: "ethernet  1/1", canonical: "ethernet1/1" });
      await expect(again.execute()).rejects.toThrow(/unique/i);
    } finally {
      await db.destroy();
    }
  });

  test("before names were what people see: each has its look, and of two that look alike the first", async () => {
    const labels = ["é", "e\u0301", "раypal", "paypal", "n1", "nl", "a\u200bb"];
    const looks = ["é", null, "paypal", null, "n1", "nl", "a\u200bb"];
    const uri = await databaseOf(["0001-init", "0002-truth", "0003-headnodes"], async (db) => {
      const each = async (statement: (label: string) => ReturnType<typeof sql>) => {
        for (const label of labels) await statement(label).execute(db);
      };
      await each((label) => sql`insert into project (label) values (${label})`);
      await each((label) => sql`insert into users (label, password_hash, is_admin) values (${label}, 'h', 1)`);
      await each((label) => sql`insert into switch (label, type, settings) values (${label}, 't', '{}')`);
      await each((label) => sql`insert into node (label, obm_type, obm) values (${label}, 't', '{}')`);
      await each((label) => sql`insert into network (label, is_public, allocated) values (${label}, 1, 0)`);
      await each((label) => sql`insert into headnode (label, project_id, base_img, uuid) values (${label}, 1, 'i', ${label})`);
      // Within two parents: what looks alike in another one does not count.
      for (const parent of [1, 2]) {
        await each((label) => sql`insert into port (switch_id, label) values (${parent}, ${label})`);
        await each((label) => sql`insert into nic (node_id, label, mac_addr) values (${parent}, ${label}, 'm')`);
        await each((label) => sql`insert into node_metadata (node_id, label, value) values (${parent}, ${label}, '1')`);
        await each((label) => sql`insert into hnic (headnode_id, label) values (${parent}, ${label})`);
      }
    });
    const db = await openDatabase(uri);
    try {
      for (const table of ["project", "users", "switch", "node", "network", "headnode", "port", "nic", "node_metadata", "hnic"] as const) {
        const rows = await db
          .selectFrom(table as "project")
          .select(["label", "look"])
          .orderBy("id")
          .execute();
        const expected = labels.map((label, i) => ({ label, look: looks[i]! }));
        const parents = ["port", "nic", "node_metadata", "hnic"].includes(table) ? 2 : 1;
        expect([table, rows]).toEqual([table, parents === 2 ? [...expected, ...expected] : expected]);
      }
    } finally {
      await db.destroy();
    }
  });
});

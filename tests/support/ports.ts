import { Database } from "bun:sqlite";
import pg from "pg";
import type { PortState } from "../../src/hardware/switches/driver.ts";
import { seenOnPostgres, seenOnSqlite } from "./seen.ts";

// The database of a running haas, read without haas: what it says of each port at one moment.

export interface OpenDatabase {
  /** Whether another transaction keeps this one from writing now. */
  isLocked(): Promise<boolean>;
  /** Parameters are written `?`. */
  all<Row>(sql: string, ...parameters: readonly (string | number)[]): Promise<Row[]>;
  close(): Promise<void>;
}

const busyTimeoutMs = 15_000;

/** A connection of the test's own, to the database with this URI. */
export async function openDatabase(uri: string): Promise<OpenDatabase> {
  if (uri.startsWith("sqlite:///")) {
    const database = new Database(uri.slice("sqlite:///".length));
    database.run(`pragma busy_timeout = ${busyTimeoutMs}`);
    return {
      all: async (sql, ...parameters) => database.query<any, any[]>(sql).all(...parameters),
      async isLocked() {
        database.run("pragma busy_timeout = 0");
        try {
          database.run("begin immediate");
          database.run("rollback");
          return false;
        } catch {
          return true;
        } finally {
          database.run(`pragma busy_timeout = ${busyTimeoutMs}`);
        }
      },
      close: async () => database.close(),
    };
  }
  // Of one connection: it takes one query after the other.
  const pool = new pg.Pool({ connectionString: uri, max: 1, statement_timeout: busyTimeoutMs });
  pool.on("error", () => {});
  const all: OpenDatabase["all"] = async (sql, ...parameters) => {
    let n = 0;
    return (
      await pool.query(
        sql.replaceAll("?", () => `$${++n}`),
        [...parameters],
      )
    ).rows;
  };
  const others = "datname = current_database() and pid <> pg_backend_pid()";
  return {
    all,
    isLocked: async () => (await all(`select 1 from pg_stat_activity where ${others} and state <> 'idle'`)).length > 0,
    // A pool can't be ended twice.
    close: async () => void (pool.ending || (await pool.end())),
  };
}

/** Have the database write down what becomes of actions and attachments; see seen.ts. */
export async function watchActions(database: OpenDatabase, uri: string): Promise<void> {
  for (const statement of uri.startsWith("sqlite:") ? seenOnSqlite : seenOnPostgres) await database.all(statement);
}

/** What the database says of a port. */
export interface KnownPort {
  readonly switch: string;
  readonly port: string;
  readonly node: string | null;
  readonly project: string | null;
  /** What its attachments say. */
  readonly desired: PortState;
  /** The projects whose networks it is attached to; null for networks of administrators. */
  readonly owners: readonly (string | null)[];
  /** A change of it is pending, be it somebody's or haas's own. */
  readonly pending: boolean;
  readonly suspect: string | null;
}

interface Row {
  switch: string;
  port: string;
  node: string | null;
  project: string | null;
  suspect: string | null;
  pending: number | string;
  channel: string | null;
  vlan: number | null;
  owner: string | null;
}

/** Every port that is registered, all at one moment. */
export async function knownPorts(database: OpenDatabase): Promise<KnownPort[]> {
  const rows = await database.all<Row>(
    `select switch.label as "switch", port.label as port, node.label as node, project.label as project, port.suspect,
       (select count(*) from networking_action as action where action.port_id = port.id and action.status = 'PENDING') as pending,
       attachment.channel, network.vlan, owner.label as owner
     from port join switch on switch.id = port.switch_id
     left join nic on nic.port_id = port.id left join node on node.id = nic.node_id left join project on project.id = node.project_id
     left join attachment on attachment.nic_id = nic.id left join network on network.id = attachment.network_id
     left join project as owner on owner.id = network.owner_id
     order by port.id`,
  );
  return [...Map.groupBy(rows, (row) => `${row.switch} ${row.port}`).values()].map((mine) => {
    const { switch: label, port, node, project, suspect, pending } = mine[0]!;
    const attached = mine.filter(({ channel }) => channel !== null);
    const native = attached.find(({ channel }) => channel === "vlan/native")?.vlan ?? null;
    const tagged = attached.flatMap(({ channel, vlan }) => (channel === "vlan/native" || vlan === null ? [] : [vlan]));
    return {
      switch: label,
      port,
      node,
      project,
      desired: { native, tagged: tagged.toSorted((a, b) => a - b) },
      owners: attached.map(({ owner }) => owner),
      pending: Number(pending) > 0,
      suspect,
    };
  });
}

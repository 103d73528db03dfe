import { Database } from "bun:sqlite";
import pg from "pg";
import { secrets } from "../support/secrets.ts";
import { mockObm, mockSwitch } from "../support/service.ts";
import { pick } from "../support/random.ts";
import { chance, oddNames, type Random } from "./values.ts";

// What exists in the haas that is fuzzed, so that requests reach more than "does not exist"; and what its database says.

/** Who calls. `keeper` puts right what the others take away, and is never a caller of a fuzzed request. */
export const passwords = {
  admin: secrets.admin,
  keeper: secrets.admin,
  alice: secrets.alice,
  bob: secrets.bob,
  carol: secrets.carol,
  good: secrets.carol,
} as const;
export type User = keyof typeof passwords;

export const basic = (name: string, password: string): string => `Basic ${Buffer.from(`${name}:${password}`).toString("base64")}`;
export const credentialsOf = (user: User): string => basic(user, passwords[user]);

const projectOf = { n1: "p1", n2: "p1", n3: "p2" } as const;
const nodes = ["n1", "n2", "n3", "n4", "n5", "n6"];
const ports = ["gi1/0/1", "gi1/0/2", "gi1/0/3", "4", "a b", ".."];
const vlans = ["vlan/100", "vlan/101", "vlan/102", "vlan/103", "vlan/900", "vlan/901"];

/** Names that mostly exist, by what the API calls them: path parameters and members of bodies alike. */
const names: Readonly<Record<string, readonly string[]>> = {
  project: ["p1", "p2", "p3"],
  node: nodes,
  nic: ["nic1", "nic2"],
  switch: ["sw1", "sw2"],
  port: ports,
  network: ["net1", "net2", "public", "private"],
  headnode: ["h1", "h2"],
  hnic: ["hn1", "hn2"],
  user: ["alice", "bob", "carol", "dave"],
  label: ["EK", "rack"],
  which: ["free", "all"],
  owner: ["p1", "p2", "admin"],
  access: ["p1", "p2", ""],
  net_id: ["", "", "900", "901", "101"],
  channel: ["vlan/native", ...vlans],
  base_img: ["base-headnode", "img1"],
  bootdev: ["pxe", "disk", "none"],
  macaddr: ["01:23:45:67:89:ab"],
};

/** Switches and nodes that are no mocks. */
export const deviceNames = ["device1", "device2", "device3"] as const;

/** Users who must not be removed, lest everything else be a 401. */
const kept: readonly string[] = ["admin", "keeper", "good", "raw"];
export const isKept = (user: string): boolean => kept.includes(user);

/** A legal value for a parameter or a member of this name; undefined where only the type is known. */
export function legalName(random: Random, name: string, learnt: readonly string[]): string | undefined {
  if (name === "status_id") return learnt.length > 0 && chance(random, 0.8) ? pick(random, learnt) : "0b1d1a2c-8c0e-4b7e-9a3e-0f6d5c1f0a11";
  const known = names[name];
  return known && (chance(random, 0.9) ? pick(random, known) : pick(random, oddNames));
}

type Call = readonly [method: string, path: string, body?: unknown];

/** Calls that make everything that is missing, in order; each may be refused because it is there. */
export function furnishing(random: Random, auth: "null" | "database"): Call[] {
  const calls: Call[] = [];
  for (const project of names.project!) calls.push(["PUT", `/project/${project}`]);
  if (auth === "database") {
    const members = { alice: "p1", bob: "p2", carol: null } as const;
    for (const [user, project] of Object.entries(members)) {
      if (project !== null) calls.push(["POST", `/auth/basic/user/${user}/add_project`, { project }]);
      calls.push(["PATCH", `/auth/basic/user/${user}`, { is_admin: false }]);
    }
    calls.push(["PATCH", "/auth/basic/user/admin", { is_admin: true }]);
  }
  for (const label of names.switch!) {
    calls.push(["PUT", `/switch/${label}`, mockSwitch]);
    for (const port of ports) calls.push(["PUT", `/switch/${label}/port/${encodeURIComponent(port).replaceAll(".", "%2e")}`]);
  }
  calls.push(["PUT", "/network/net1", { owner: "p1", access: "p1", net_id: "" }]);
  calls.push(["PUT", "/network/net2", { owner: "p2", access: "p2", net_id: "" }]);
  calls.push(["PUT", "/network/public", { owner: "admin", access: "", net_id: "900" }]);
  calls.push(["PUT", "/network/private", { owner: "admin", access: "p1", net_id: "" }]);
  for (const [i, node] of nodes.entries()) {
    calls.push(["PUT", `/node/${node}`, { obm: mockObm, metadata: { EK: "pk", rack: { row: 1 } } }]);
    calls.push(["PUT", `/node/${node}/obm`, { enabled: true }]);
    for (const [j, nic] of names.nic!.entries()) {
      calls.push(["PUT", `/node/${node}/nic/${nic}`, { macaddr: "01:23:45:67:89:ab" }]);
      calls.push([
        "POST",
        `/switch/${names.switch![j]}/port/${encodeURIComponent(ports[i]!).replaceAll(".", "%2e")}/connect_nic`,
        { node, nic },
      ]);
    }
  }
  for (const [node, project] of Object.entries(projectOf)) calls.push(["POST", `/project/${project}/connect_node`, { node }]);
  for (const [headnode, project] of [
    ["h1", "p1"],
    ["h2", "p2"],
  ] as const) {
    calls.push(["PUT", `/headnode/${headnode}`, { project, base_img: "img1" }]);
    for (const hnic of names.hnic!) calls.push(["PUT", `/headnode/${headnode}/hnic/${hnic}`]);
  }
  for (const node of Object.keys(projectOf)) {
    calls.push([
      "POST",
      `/node/${node}/nic/nic1/connect_network`,
      { network: pick(random, names.network!), channel: pick(random, names.channel!) },
    ]);
  }
  return calls;
}

/** Of no project; what stands in its requests may come back in an answer, so its password is no secret. */
export const rawUser = { name: "raw", password: "raw" } as const;

/** The calls that make those users of the database backend that are missing. */
export const userCalls = (present: ReadonlySet<string>): Call[] =>
  [...Object.entries(passwords), [rawUser.name, rawUser.password] as const]
    .filter(([user]) => !present.has(user))
    .map(([user, password]) => ["PUT", `/auth/basic/user/${user}`, { password, is_admin: user === "admin" }]);

/** The database of a running haas, read without haas. */
export interface Witness {
  /** Another number once something was written to it. */
  version(): Promise<number>;
  /** How much of what was asked for is still to be done. */
  pending(): Promise<number>;
  /** Every row of every table, but for the counter; as lines, sorted. */
  dump(): Promise<string[]>;
  close(): Promise<void>;
}

// What haas writes of its own accord: which servers there are, who works at what, and when a switch was last looked at.
const ownColumns = new Set(["counter", "lease_owner", "lease_token", "lease_until", "uncertain_until", "checked_at", "check_error"]);
const ownTables = new Set(["lineage_server", "kysely_migration", "kysely_migration_lock"]);

const lines = (table: string, rows: readonly Record<string, unknown>[]): string[] =>
  rows.map((row) => `${table} ${JSON.stringify(Object.fromEntries(Object.entries(row).filter(([column]) => !ownColumns.has(column))))}`);

export async function openWitness(uri: string): Promise<Witness> {
  const all = await opener(uri);
  const tables = (await all.query<{ name: string }>(all.tables)).map(({ name }) => name).filter((name) => !ownTables.has(name));
  const number = async (sql: string) => Number((await all.query<{ n: number | string }>(sql))[0]!.n);
  return {
    version: () => number(all.version),
    pending: () => number("select count(*) as n from networking_action where status = 'PENDING'"),
    async dump() {
      const found: string[] = [];
      for (const table of tables) found.push(...lines(table, await all.query(`select * from "${table}"`)));
      return found.toSorted();
    },
    close: () => all.close(),
  };
}

async function opener(uri: string) {
  if (uri.startsWith("sqlite:///")) {
    const database = new Database(uri.slice("sqlite:///".length), { readonly: true });
    return {
      tables: "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'",
      version: "select data_version as n from pragma_data_version",
      query: async <Row>(sql: string) => database.query<Row, []>(sql).all(),
      close: async () => database.close(),
    };
  }
  const client = new pg.Client({ connectionString: uri });
  await client.connect();
  return {
    tables: "select table_name as name from information_schema.tables where table_schema = 'public'",
    // It counts transactions that wrote something, also those that were rolled back.
    version: "select pg_snapshot_xmax(pg_current_snapshot())::text as n",
    query: async <Row>(sql: string) => (await client.query(sql)).rows as Row[],
    close: () => client.end(),
  };
}

/** What is in one dump and not in the other. */
export function difference(before: readonly string[], after: readonly string[]): string {
  const [old, now] = [new Set(before), new Set(after)];
  return [
    ...before.filter((line) => !now.has(line)).map((line) => `- ${line}`),
    ...after.filter((line) => !old.has(line)).map((line) => `+ ${line}`),
  ]
    .slice(0, 10)
    .map((line) => line.slice(0, 300))
    .join("\n");
}

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { type Kysely, sql } from "kysely";
import { migrations } from "../../migrations/index.ts";
import { loadConfig } from "../../src/config.ts";
import { openDatabase } from "../../src/db/open.ts";
import type { Db } from "../../src/db/transaction.ts";
import { isPostgres } from "../../src/db/transaction.ts";
import { createLog } from "../../src/log.ts";
import { createContext, serveNetworks } from "../../src/serve.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { configText, databases, freshUri, mockObm, mockSwitch, scratch } from "../support/service.ts";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

interface Reply {
  status: number;
  type: string | null;
  body: any;
}

/** `{"200": 1, "409 DuplicateError": 99}` */
const tally = (replies: readonly Reply[]): Record<string, number> => {
  const counts: Record<string, number> = {};
  for (const { status, type } of replies) {
    const key = type === null ? String(status) : `${status} ${type}`;
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return counts;
};

const times = <T>(n: number, make: (i: number) => T): T[] => Array.from({ length: n }, (_, i) => make(i));

describe.each(databases)("two servers on one database, %s", (kind) => {
  let place: { path: string; remove(): void };
  let uri: string;
  const servers: ServerProcess[] = [];

  const send = async (server: number, method: string, path: string, body?: unknown): Promise<Reply> => {
    const answer = await fetch(servers[server % servers.length]!.url + path, {
      method,
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    const json = text === "" ? null : JSON.parse(text);
    return { status: answer.status, type: json?.type ?? null, body: json };
  };
  const ok = async (method: string, path: string, body?: unknown): Promise<any> => {
    const reply = await send(0, method, path, body);
    if (reply.status >= 300) throw new Error(`${method} ${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
    return reply.body;
  };

  beforeAll(async () => {
    place = scratch();
    uri = await freshUri(kind, place.path);
    const more = "[network-daemon]\nsleep_time = 0.05";
    // Both at once: on an empty database they race for the migration as well. The labels of each test are its own.
    const started = await Promise.allSettled([startServer({ kind, uri, more }), startServer({ kind, uri, more, networks: false })]);
    servers.push(...started.flatMap((one) => (one.status === "fulfilled" ? [one.value] : [])));
    const failed = started.find((one) => one.status === "rejected");
    if (failed) throw failed.reason;
  });
  afterEach(() => expect(servers.map((server) => server.log()).join("")).not.toContain('"level":"error"'));
  afterAll(async () => {
    await Promise.all(servers.map((server) => server.stop()));
    place.remove();
  });

  test.each([
    ["project", (name: string) => [`/project/${name}`, undefined]],
    ["node", (name: string) => [`/node/${name}`, { obm: mockObm, metadata: { a: 1 } }]],
    ["nic", (name: string) => [`/node/shelf/nic/${name}`, { macaddr: "x" }]],
    ["network", (name: string) => [`/network/${name}`, { owner: "admin", access: "", net_id: "" }]],
    ["network id", (_: string, i: number) => [`/network/id-${i}`, { owner: "admin", access: "", net_id: "777" }]],
    ["switch", (name: string) => [`/switch/${name}`, mockSwitch]],
    ["port", (name: string) => [`/switch/shelf/port/${name}`, undefined]],
    ["headnode", (name: string) => [`/headnode/${name}`, { project: "shelf", base_img: "img1" }]],
    ["hnic", (name: string) => [`/headnode/shelf/hnic/${name}`, undefined]],
    ["access", () => ["/network/shelf/access/guest", undefined]],
  ] as [string, (name: string, i: number) => [string, unknown]][])(
    "100 creations of one %s: one wins, 99 are duplicates",
    async (what, make) => {
      if (what === "project") {
        await ok("PUT", "/project/shelf");
        await ok("PUT", "/project/guest");
        await ok("PUT", "/node/shelf", { obm: mockObm });
        await ok("PUT", "/switch/shelf", mockSwitch);
        await ok("PUT", "/headnode/shelf", { project: "shelf", base_img: "img1" });
        await ok("PUT", "/network/shelf", { owner: "shelf", access: "shelf", net_id: "" });
      }
      const replies = await Promise.all(
        times(100, (i) => {
          const [path, body] = make("one", i);
          return send(i, "PUT", path, body);
        }),
      );
      expect(tally(replies)).toEqual({ "200": 1, "409 DuplicateError": 99 });
    },
  );

  test("100 deletions of one project: one wins, 99 find nothing", async () => {
    await ok("PUT", "/project/short-lived");
    const replies = await Promise.all(times(100, (i) => send(i, "DELETE", "/project/short-lived")));
    expect(tally(replies)).toEqual({ "200": 1, "404 NotFoundError": 99 });
  });

  test("100 allocations of one node by two projects: one project has it", async () => {
    await ok("PUT", "/node/wanted", { obm: mockObm });
    for (const project of ["p", "q"]) await ok("PUT", `/project/${project}`);
    // Each project over both servers.
    const replies = await Promise.all(
      times(100, (i) => send(i >> 1, "POST", `/project/${i % 2 === 0 ? "p" : "q"}/connect_node`, { node: "wanted" })),
    );
    expect(tally(replies)).toEqual({ "200": 1, "409 BlockedError": 99 });
    const winner = replies.findIndex(({ status }) => status === 200) % 2 === 0 ? "p" : "q";
    expect((await ok("GET", "/node/wanted")).project).toBe(winner);
    expect(await ok("GET", `/project/${winner === "p" ? "q" : "p"}/nodes`)).toEqual([]);
  });

  test("160 networks from a pool of 100: 100 get a VLAN each, 60 are told that there is none", async () => {
    for (const name of Object.keys(await ok("GET", "/networks"))) await ok("DELETE", `/network/${name}`);
    await ok("PUT", "/project/netters");
    const replies = await Promise.all(
      times(160, (i) => {
        const owner = i % 3 === 0 ? { owner: "netters", access: "netters" } : { owner: "admin", access: "" };
        return send(i, "PUT", `/network/pool-${i}`, { ...owner, net_id: "" });
      }),
    );
    expect(tally(replies)).toEqual({ "200": 100, "400 AllocationError": 60 });
    const networks: Record<string, { network_id: string }> = await ok("GET", "/networks");
    const vlans = Object.values(networks).map(({ network_id }) => Number(network_id));
    expect(vlans.toSorted((a, b) => a - b)).toEqual(times(100, (i) => 100 + i));
    expect(Object.keys(networks).toSorted()).toEqual(replies.flatMap(({ status }, i) => (status === 200 ? [`pool-${i}`] : [])).toSorted());
  });

  test("100 connects of one nic: one is accepted, and ends with one attachment", async () => {
    await rack("racer", "racers");
    const { status_id, replies } = await connectAll((i) => send(i, "POST", "/node/racer/nic/nic/connect_network", { network: "racers-a" }));
    expect(tally(replies)).toEqual({ "202": 1, "409 BlockedError": 99 });
    await untilDone(status_id);
    expect((await ok("GET", "/node/racer")).nics[0].networks).toEqual({ "vlan/native": "racers-a" });
  });

  test("100 connects of one nic to two networks, tagged and untagged: what is accepted adds up", async () => {
    await rack("mixer", "mixers");
    const vlan = (await ok("GET", "/networks"))["mixers-b"].network_id;
    const both = [{ network: "mixers-a" }, { network: "mixers-b", channel: `vlan/${vlan}` }];
    const replies = await Promise.all(times(100, (i) => send(i >> 1, "POST", "/node/mixer/nic/nic/connect_network", both[i % 2])));
    const won = replies.flatMap(({ status }, i) => (status === 202 ? [i] : []));
    // The second network can get in after the first one's action ended; the same one can't get in twice.
    expect(new Set(won.map((i) => i % 2)).size).toBe(won.length);
    expect(won.length).toBeGreaterThan(0);
    expect(tally(replies)).toEqual({ "202": won.length, "409 BlockedError": 100 - won.length });
    for (const i of won) await untilDone(replies[i]!.body.status_id);
    const wanted = won.map((i) => (i % 2 === 0 ? ["vlan/native", "mixers-a"] : [`vlan/${vlan}`, "mixers-b"]));
    expect((await ok("GET", "/node/mixer")).nics[0].networks).toEqual(Object.fromEntries(wanted));
  });

  test("100 nics plugged into one port: one wins", async () => {
    await ok("PUT", "/switch/plugs", mockSwitch);
    await ok("PUT", "/switch/plugs/port/only");
    await ok("PUT", "/node/plugs", { obm: mockObm });
    for (let i = 0; i < 100; i++) await ok("PUT", `/node/plugs/nic/${i}`, { macaddr: "x" });
    const replies = await Promise.all(
      times(100, (i) => send(i, "POST", "/switch/plugs/port/only/connect_nic", { node: "plugs", nic: String(i) })),
    );
    expect(tally(replies)).toEqual({ "200": 1, "409 DuplicateError": 99 });
  });

  test("connecting a nic against taking its node away, 40 rounds: no free node has an attachment or a pending action", async () => {
    await rack("torn", "tears");
    let [connected, freed] = [0, 0];
    for (let round = 0; round < 40; round++) {
      const calls = times(8, async (i) => {
        const connect = (i + round) % 2 === 0;
        // A head start that grows from none to plenty, for one side and then for the other.
        await Bun.sleep(connect === round < 20 ? round % 20 : 0);
        const reply = connect
          ? await send(i >> 1, "POST", "/node/torn/nic/nic/connect_network", { network: "tears-a" })
          : await send(i >> 1, "POST", "/project/tears/detach_node", { node: "torn" });
        return { ...reply, connect };
      });
      // Also while they run: what is committed at any moment holds.
      const [replies] = await Promise.all([Promise.all(calls), holds(), Bun.sleep(3).then(holds), Bun.sleep(6).then(holds)]);
      const of = (connect: boolean) => tally(replies.filter((reply) => reply.connect === connect));
      const accepted = replies.find(({ status }) => status === 202);
      if (accepted) {
        connected++;
        expect({ round, connects: of(true), detaches: of(false) }).toEqual({
          round,
          connects: { "202": 1, "409 BlockedError": 3 },
          detaches: { "409 BlockedError": 4 },
        });
        await untilDone(accepted.body.status_id);
        await untilDone((await ok("POST", "/node/torn/nic/nic/detach_network", { network: "tears-a" })).status_id);
      } else {
        freed++;
        expect({ round, connects: of(true), detaches: of(false) }).toEqual({
          round,
          connects: { "409 ProjectMismatchError": 4 },
          detaches: { "200": 1, "404 NotFoundError": 3 },
        });
        await ok("POST", "/project/tears/connect_node", { node: "torn" });
      }
      await holds();
    }
    // A race that always goes one way would prove nothing.
    expect(Math.min(connected, freed)).toBeGreaterThan(0);
  });

  let inspector: Promise<Db> | null = null;
  afterAll(async () => {
    await (await inspector)?.destroy();
  });
  /** One statement, so one snapshot: the nodes that are free although a nic of theirs is attached or about to be. */
  const holds = async (): Promise<void> => {
    const db = await (inspector ??= openDatabase(uri));
    const { rows } = await sql<{ label: string }>`
      select node.label from node join nic on nic.node_id = node.id
      where node.project_id is null and (
        exists (select 1 from attachment where attachment.nic_id = nic.id)
        or exists (select 1 from networking_action a where a.nic_id = nic.id and a.status = 'PENDING'))`.execute(db);
    expect(rows).toEqual([]);
  };

  /** A node with a nic on a port, in a project with two networks, `<project>-a` and `<project>-b`. */
  const rack = async (node: string, project: string): Promise<void> => {
    for (const name of Object.keys(await ok("GET", "/networks"))) {
      if (name.startsWith("pool-")) await ok("DELETE", `/network/${name}`);
    }
    await ok("PUT", `/switch/${node}`, mockSwitch);
    await ok("PUT", `/switch/${node}/port/1`);
    await ok("PUT", `/node/${node}`, { obm: mockObm });
    await ok("PUT", `/node/${node}/nic/nic`, { macaddr: "x" });
    await ok("POST", `/switch/${node}/port/1/connect_nic`, { node, nic: "nic" });
    await ok("PUT", `/project/${project}`);
    await ok("POST", `/project/${project}/connect_node`, { node });
    for (const name of ["a", "b"]) await ok("PUT", `/network/${project}-${name}`, { owner: project, access: project, net_id: "" });
  };

  const connectAll = async (call: (i: number) => Promise<Reply>) => {
    const replies = await Promise.all(times(100, call));
    return { replies, status_id: String(replies.find(({ status }) => status === 202)?.body.status_id) };
  };

  const untilDone = async (statusId: string): Promise<void> => {
    const limit = 2_000;
    for (let i = 0; ; i++) {
      const action = await ok("GET", `/networking_action/${statusId}`);
      if (action.status === "DONE") return;
      if (action.status === "ERROR" || i === limit) throw new Error(`action ${statusId}: ${JSON.stringify(action)}`);
      await Bun.sleep(10);
    }
  };
});

type Kind = "unique" | "check" | "foreign key";
const codes: Record<Kind, readonly string[]> = {
  unique: ["SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "23505"],
  check: ["SQLITE_CONSTRAINT_CHECK", "23514"],
  "foreign key": ["SQLITE_CONSTRAINT_FOREIGNKEY", "23503"],
};

describe.each(databases)("the schema itself refuses, on %s", (kind) => {
  let place: { path: string; remove(): void };
  let db: Db;

  beforeAll(async () => {
    place = scratch();
    db = await openDatabase(await freshUri(kind, place.path));
    for (const statement of [
      "insert into project (label) values ('p'), ('q')",
      "insert into users (label, password_hash, is_admin) values ('u', 'h', 0)",
      "insert into user_project (user_id, project_id) values (1, 1)",
      "insert into switch (label, type, settings) values ('s', 't', '{}')",
      "insert into port (switch_id, label) values (1, 'a'), (1, 'b'), (1, 'c')",
      "insert into node (label, project_id, obm_type, obm) values ('n', 1, 't', '{}')",
      "insert into nic (node_id, label, mac_addr, port_id) values (1, 'a', 'm', 1), (1, 'b', 'm', 2), (1, 'c', 'm', null), (1, 'd', 'm', null)",
      "insert into node_metadata (node_id, label, value) values (1, 'k', '1')",
      "insert into network (label, owner_id, is_public, vlan, allocated) values ('a', 1, 0, 100, 1), ('b', 2, 0, 101, 1), ('c', null, 1, null, 1), ('d', null, 1, null, 1)",
      "insert into network_access (network_id, project_id) values (1, 1), (2, 2)",
      "insert into attachment (nic_id, network_id, channel) values (1, 1, 'vlan/native')",
      action("u1", "modify_port", "PENDING", 1, 1),
      // As many ended ones as there are, and none of a nic: these are legal.
      action("u2", "modify_port", "DONE", 1, 1),
      action("u3", "modify_port", "ERROR", 1, 1),
      action("u4", "sync_port", "PENDING", null, 3),
      action("u5", "modify_port", "PENDING", null, 3),
      action("u6", "modify_port", "PENDING", null, 3),
      "insert into headnode (label, project_id, base_img, uuid) values ('h', 1, 'i', 'v')",
      "insert into hnic (headnode_id, label, network_id) values (1, 'e', 2)",
      ...["project", "users", "node", "network", "switch", "headnode", "hnic", "node_metadata"].map(
        (table) => `update ${table} set look = 'seen' where id = 1`,
      ),
      "update switch set address = '10.0.0.1'",
      "update node set obm_address = '10.0.0.1'",
      "insert into lineage_server (server, mark) values ('s', 'm')",
      "update lineage set counter = 5",
    ]) {
      await sql.raw(statement).execute(db);
    }
  });
  afterAll(async () => {
    await db?.destroy();
    place.remove();
  });

  function action(uuid: string, type: string, status: string, nic: number | null, port: number): string {
    return `insert into networking_action (uuid, type, status, nic_id, port_id, switch_id, created_at) values ('${uuid}', '${type}', '${status}', ${nic}, ${port}, 1, 0)`;
  }

  const network = (label: string, owner: number | null, isPublic: number, vlan: number | null, allocated = 1) =>
    `insert into network (label, owner_id, is_public, vlan, allocated) values ('${label}', ${owner}, ${isPublic}, ${vlan}, ${allocated})`;

  /** Another row, with the look of the first one. */
  const looksLike = (table: string): string => {
    const others: Record<string, [columns: string, values: string]> = {
      users: ["password_hash, is_admin, ", "'h', 0, "],
      node: ["obm_type, obm, ", "'t', '{}', "],
      network: ["is_public, allocated, ", "1, 0, "],
      switch: ["type, settings, ", "'t', '{}', "],
      headnode: ["project_id, base_img, uuid, ", "1, 'i', 'x', "],
      hnic: ["headnode_id, ", "1, "],
      node_metadata: ["node_id, value, ", "1, '1', "],
    };
    const [columns, values] = others[table] ?? ["", ""];
    return `insert into ${table} (${columns}label, look) values (${values}'lookalike', 'seen')`;
  };

  /** What the rule is, named as the database lists it; the statement that would break it. */
  const attacks: [Kind, string, string][] = [
    ["unique", "project(label)", "insert into project (label) values ('p')"],
    ["unique", "users(label)", "insert into users (label, password_hash, is_admin) values ('u', 'x', 1)"],
    ["unique", "user_project(user_id,project_id)", "insert into user_project (user_id, project_id) values (1, 1)"],
    ["unique", "switch(label)", "insert into switch (label, type, settings) values ('s', 't', '{}')"],
    [
      "unique",
      "switch(host_key)",
      "insert into switch (label, type, settings, host_key) values ('t', 't', '{}', 'k'), ('v', 't', '{}', 'k')",
    ],
    ["unique", "switch(serial)", "insert into switch (label, type, settings, serial) values ('t', 't', '{}', 'k'), ('v', 't', '{}', 'k')"],
    ["check", "switch(give_up)", "update switch set give_up = 2"],
    ["unique", "port(switch_id,label)", "insert into port (switch_id, label) values (1, 'a')"],
    ["unique", "port(switch_id,canonical)", "update port set canonical = 'a'"],
    ["unique", "node(label)", "insert into node (label, obm_type, obm) values ('n', 't', '{}')"],
    ["unique", "nic(node_id,label)", "insert into nic (node_id, label, mac_addr) values (1, 'a', 'm')"],
    ["unique", "nic(port_id)", "update nic set port_id = 1 where label = 'c'"],
    ["unique", "node_metadata(node_id,label)", "insert into node_metadata (node_id, label, value) values (1, 'k', '2')"],
    ["unique", "network(label)", network("a", null, 1, 200)],
    ["unique", "network(vlan)", network("e", null, 1, 100)],
    ["unique", "network_access(network_id,project_id)", "insert into network_access (network_id, project_id) values (1, 1)"],
    ["unique", "attachment(nic_id,network_id)", "insert into attachment (nic_id, network_id, channel) values (1, 1, 'vlan/100')"],
    ["unique", "attachment(nic_id,channel)", "insert into attachment (nic_id, network_id, channel) values (1, 2, 'vlan/native')"],
    ["unique", "networking_action(uuid)", action("u1", "modify_port", "DONE", 2, 2)],
    ["unique", "networking_action(nic_id)", action("u7", "revert_port", "PENDING", 1, 1)],
    ["unique", "networking_action(nic_id)", "update networking_action set status = 'PENDING' where uuid = 'u2'"],
    ["unique", "networking_action(port_id)", action("u8", "sync_port", "PENDING", null, 3)],
    ["unique", "headnode(label)", "insert into headnode (label, project_id, base_img, uuid) values ('h', 1, 'i', 'w')"],
    ...["project", "users", "node", "network", "switch", "headnode"].map((table): [Kind, string, string] => [
      "unique",
      `${table}(look)`,
      looksLike(table),
    ]),
    ["unique", "nic(node_id,look)", "update nic set look = 'a'"],
    ["unique", "port(switch_id,look)", "update port set look = 'a'"],
    ["unique", "hnic(headnode_id,look)", looksLike("hnic")],
    ["unique", "node_metadata(node_id,look)", looksLike("node_metadata")],
    ["unique", "switch(address)", "insert into switch (label, type, settings, address) values ('z', 't', '{}', '10.0.0.1')"],
    ["unique", "node(obm_address)", "insert into node (label, obm_type, obm, obm_address) values ('z', 't', '{}', '10.0.0.1')"],
    ["unique", "headnode(uuid)", "insert into headnode (label, project_id, base_img, uuid) values ('i', 1, 'i', 'v')"],
    ["unique", "hnic(headnode_id,label)", "insert into hnic (headnode_id, label) values (1, 'e')"],
    ["unique", "lineage_server(server)", "insert into lineage_server (server, mark) values ('s', 'n')"],
    ["check", "lineage", "insert into lineage (id, identity, counter) values (2, 'another', 9)"],
    ["check", "lineage", "update lineage set replacing = 2"],
    ["check", "port", "update port set unread = 2"],
    ["check", "users", "update users set is_admin = 2"],
    ["check", "node", "update node set obm_enabled = 2"],
    ["check", "network", network("e", null, 1, 0)],
    ["check", "network", network("e", null, 1, 4095)],
    ["check", "network", network("e", null, 2, null)],
    ["check", "network", network("e", null, 1, null, 2)],
    ["check", "network", network("e", 1, 1, null)],
    ["check", "networking_action", action("u9", "change_port", "DONE", 2, 2)],
    ["check", "networking_action", action("u9", "modify_port", "RUNNING", 2, 2)],
    ["check", "headnode", "update headnode set started = 2"],
    ["check", "headnode", "update headnode set made = 2"],
    ["check", "headnode", "update headnode set running = 2"],
    ["foreign key", "user_project(user_id)", "insert into user_project (user_id, project_id) values (99, 1)"],
    ["foreign key", "user_project(project_id)", "insert into user_project (user_id, project_id) values (1, 99)"],
    ["foreign key", "port(switch_id)", "delete from switch where label = 's'"],
    ["foreign key", "node(project_id)", "update node set project_id = 99"],
    ["foreign key", "node(project_id)", "delete from project where label = 'p'"],
    ["foreign key", "nic(node_id)", "delete from node where label = 'n'"],
    ["foreign key", "nic(port_id)", "delete from port where label = 'b'"],
    ["foreign key", "node_metadata(node_id)", "insert into node_metadata (node_id, label, value) values (99, 'k', '1')"],
    ["foreign key", "network(owner_id)", network("e", 99, 0, null)],
    ["foreign key", "network_access(network_id)", "insert into network_access (network_id, project_id) values (99, 1)"],
    ["foreign key", "network_access(project_id)", "insert into network_access (network_id, project_id) values (3, 99)"],
    ["foreign key", "attachment(nic_id)", "delete from nic where label = 'a'"],
    ["foreign key", "attachment(network_id)", "delete from network where label = 'a'"],
    ["foreign key", "networking_action(node_id)", "update networking_action set node_id = 99"],
    ["foreign key", "networking_action(nic_id)", "update networking_action set nic_id = 99 where uuid = 'u2'"],
    ["foreign key", "networking_action(port_id)", "update networking_action set port_id = 99 where uuid = 'u2'"],
    ["foreign key", "networking_action(switch_id)", "update networking_action set switch_id = 99"],
    ["foreign key", "networking_action(network_id)", "update networking_action set network_id = 99"],
    ["foreign key", "headnode(project_id)", "update headnode set project_id = 99"],
    ["foreign key", "hnic(headnode_id)", "insert into hnic (headnode_id, label) values (99, 'e')"],
    ["foreign key", "hnic(network_id)", "delete from network where label = 'b'"],
    ["foreign key", "obm_command(node_id)", "insert into obm_command (node_id, ends_by) values (99, 0)"],
  ];

  test.each(attacks)("a %s of %s: %s", async (what, _, statement) => {
    const code = await sql
      .raw(statement)
      .execute(db)
      .then(
        () => "it was accepted",
        (error: { code?: string }) => String(error.code),
      );
    expect(codes[what]).toContain(code);
  });

  test("the counter of the database never goes back", async () => {
    await expect(sql.raw("update lineage set counter = 4").execute(db)).rejects.toThrow("the counter of the database only grows");
    await sql.raw("update lineage set counter = 5").execute(db);
  });

  test("every rule of the schema is attacked above", async () => {
    const attacked = (of: Kind) => [...new Set(attacks.flatMap(([what, rule]) => (what === of ? [rule] : [])))].toSorted();
    const rules = isPostgres(db) ? await postgresRules(db) : await sqliteRules(db);
    expect(attacked("unique")).toEqual(rules.unique);
    expect(attacked("foreign key")).toEqual(rules["foreign key"]);
    if (rules.checks) expect(attacks.filter(([what]) => what === "check").length).toBeGreaterThanOrEqual(rules.checks);
  });
});

interface Rules {
  unique: string[];
  "foreign key": string[];
  /** How many checks; null where the database can't tell. */
  checks: number | null;
}

const named = (rows: { table: string; columns: string }[]) =>
  [...new Set(rows.filter(({ table }) => !table.startsWith("kysely")).map(({ table, columns }) => `${table}(${columns})`))].toSorted();

async function sqliteRules(db: Kysely<any>): Promise<Rules> {
  const unique = await sql<{ table: string; columns: string }>`
    select m.name as "table", (select group_concat(name, ',') from (select name from pragma_index_info(i.name) order by seqno)) as columns
    from sqlite_master m join pragma_index_list(m.name) i where m.type = 'table' and i."unique" = 1`.execute(db);
  const foreign = await sql<{ table: string; columns: string }>`
    select m.name as "table", f."from" as columns from sqlite_master m join pragma_foreign_key_list(m.name) f where m.type = 'table'`.execute(
    db,
  );
  return { unique: named(unique.rows), "foreign key": named(foreign.rows), checks: null };
}

async function postgresRules(db: Kysely<any>): Promise<Rules> {
  const unique = await sql<{ table: string; columns: string }>`
    select t.relname as "table", (select string_agg(a.attname, ',' order by k.n) from unnest(i.indkey::int[]) with ordinality k(attnum, n)
      join pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum) as columns
    from pg_index i join pg_class t on t.oid = i.indrelid join pg_namespace n on n.oid = t.relnamespace
    where n.nspname = 'public' and i.indisunique`.execute(db);
  const foreign = await sql<{ table: string; columns: string }>`
    select t.relname as "table", a.attname as columns from pg_constraint c join pg_class t on t.oid = c.conrelid
    join pg_attribute a on a.attrelid = t.oid and a.attnum = c.conkey[1] where c.contype = 'f'`.execute(db);
  const checks = await sql<{
    n: number;
  }>`select count(*)::int as n from pg_constraint c join pg_class t on t.oid = c.conrelid where c.contype = 'c' and t.relnamespace = 'public'::regnamespace`.execute(
    db,
  );
  // The key of every table that counts itself up is not a rule of ours.
  return {
    unique: named(unique.rows).filter((rule) => !rule.endsWith("(id)")),
    "foreign key": named(foreign.rows),
    checks: checks.rows[0]!.n,
  };
}

describe.each(databases)("migrations on %s", (kind) => {
  let place: { path: string; remove(): void };
  let uri: string;
  beforeEach(async () => {
    place = scratch();
    uri = await freshUri(kind, place.path);
  });
  afterEach(() => {
    delete migrations["9000-good"];
    delete migrations["9001-broken"];
    place.remove();
  });

  const tables = async () => {
    const db = await openDatabase(uri);
    try {
      const all = await db.introspection.getTables();
      return all.map(({ name }) => name).toSorted();
    } finally {
      await db.destroy();
    }
  };

  test("a database that is newer than the program is refused in a sentence, and left alone", async () => {
    const before = await tables();
    const db = await openDatabase(uri);
    await sql`insert into kysely_migration (name, timestamp) values ('0999-from-the-future', '2999-01-01')`.execute(db);
    await db.destroy();
    await expect(openDatabase(uri)).rejects.toThrow(
      "The database is newer than this program: it holds migration 0999-from-the-future, which this haas does not know. Use the haas that made it, or a later one.",
    );
    // The program says that, and nothing else.
    const refused = await startServer({ kind, uri }).then(
      (server) => server.stop().then(() => "it started"),
      (error: Error) => error.message,
    );
    expect(refused).toContain("0999-from-the-future, which this haas does not know");
    expect(refused).not.toMatch(/\n\s+at /);
    migrations["0999-from-the-future"] = { up: async () => {} };
    try {
      expect(await tables()).toEqual(before);
    } finally {
      delete migrations["0999-from-the-future"];
    }
  });

  test.each(["an empty database", "a database in use"])("a migration that fails on %s leaves nothing behind", async (state) => {
    const inUse = state === "a database in use";
    if (inUse) {
      const db = await openDatabase(uri);
      await db.insertInto("project").values({ label: "kept" }).execute();
      await db.destroy();
    }
    migrations["9000-good"] = { up: async (db: Kysely<any>) => void (await sql`create table first_half (id integer)`.execute(db)) };
    migrations["9001-broken"] = {
      async up(db: Kysely<any>) {
        await sql`create table second_half (id integer)`.execute(db);
        await sql`alter table project add column more integer`.execute(db);
        await sql`delete from project`.execute(db);
        throw new Error("the disk is full of eels");
      },
    };
    await expect(openDatabase(uri)).rejects.toThrow(/can't be used: the disk is full of eels\.$/);
    delete migrations["9000-good"];
    delete migrations["9001-broken"];
    const after = await tables();
    expect(after).toContain("project");
    expect(after).not.toContain("first_half");
    expect(after).not.toContain("second_half");
    const db = await openDatabase(uri);
    try {
      const { rows } = await sql<Record<string, unknown>>`select * from project`.execute(db);
      expect(rows).toEqual(inUse ? [{ id: 1, label: "kept", look: null }] : []);
      const applied = await sql<{ name: string }>`select name from kysely_migration`.execute(db);
      expect(applied.rows.map(({ name }) => name)).toEqual(Object.keys(migrations));
    } finally {
      await db.destroy();
    }
  });

  test("a pool that lost a VLAN in use is refused at start, in a sentence", async () => {
    const file = join(place.path, "haas.cfg");
    writeFileSync(file, configText({ uri }), { mode: 0o600 });
    const log = createLog("critical", null);
    const ctx = await createContext(loadConfig(file), log, () => {});
    await ctx.db.insertInto("network").values({ label: "kept", owner_id: null, is_public: 1, vlan: 150, allocated: 1 }).execute();
    await ctx.db.destroy();
    writeFileSync(file, configText({ uri, more: "[haas.ext.network_allocators.vlan_pool]\nvlans = 100-149, 151-199" }));
    await expect(createContext(loadConfig(file), log, () => {})).rejects.toThrow(/vlans: .*150 \(network 'kept'\)/);
    await expect(serveNetworks(loadConfig(file), { once: true })).rejects.toThrow(/vlans: .*150 \(network 'kept'\)/);
  });
});

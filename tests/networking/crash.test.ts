import { Database } from "bun:sqlite";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { columnsFor, columnsOfPorts, type OvsLab, startOvs } from "../support/ovs-lab.ts";
import { freePort } from "../support/postgres.ts";
import { randomFrom, seed } from "../support/random.ts";
import { seenOnSqlite } from "../support/seen.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { mockObm, scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// haas is killed again and again while changes flow to a real Open vSwitch. The database has triggers of
// the test's own, so what happened to each action is known from the database itself.

const kills = 50;
const actionsWanted = 500;
/** Four bridges are four switches: haas works on them side by side. */
const bridges = ["b0", "b1", "b2", "b3"];
const nodesPerBridge = 5;
const labTimeoutMs = 60_000;
const settleTimeoutMs = 60_000;
const testTimeoutMs = 300_000;

const nodes = bridges.flatMap((bridge) =>
  Array.from({ length: nodesPerBridge }, (_, i) => ({ bridge, node: `${bridge}n${i}`, port: `${bridge}p${i}` })),
);

let place: { path: string; remove(): void };
let lab: OvsLab;
let uri: string;
let file: string;
let port: number;
let server: ServerProcess;
const ended: ServerProcess[] = [];

const start = (early = false) =>
  startServer({ kind: "sqlite", uri, port, more: "[network-daemon]\nmax_tries = 1000\nsleep_time = 0.5", early });

beforeAll(async () => {
  place = scratch();
  lab = await startOvs({ dir: join(place.path, "ovs"), name: `hcrash${process.pid}`, bridge: "uplink", ports: [] });
  // Ports without a namespace behind them: nobody sends frames here.
  for (const bridge of bridges) {
    const ports = nodes
      .filter((one) => one.bridge === bridge)
      .flatMap((one) => ["--", "add-port", bridge, one.port, "--", "set", "interface", one.port, "type=internal"]);
    await lab.vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev", ...ports);
  }
  file = join(place.path, "haas.db");
  uri = `sqlite:///${file}`;
  port = await freePort();
}, labTimeoutMs);

afterAll(async () => {
  for (const one of [...ended, server]) await one?.stop();
  await lab?.stop();
  place.remove();
}, labTimeoutMs);

/** The answer, or null when there was none: then nobody knows whether the server took the request. */
async function send(method: string, path: string, body?: unknown): Promise<{ status: number; body: any } | null> {
  let text: string;
  let status: number;
  try {
    const answer = await fetch(server.url + path, {
      method,
      keepalive: false,
      signal: AbortSignal.timeout(15_000),
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    status = answer.status;
    text = await answer.text();
  } catch {
    return null;
  }
  // Outside: an answer that is not JSON fails the test.
  return { status, body: text === "" ? null : JSON.parse(text) };
}

const ok = async (method: string, path: string, body?: unknown) => {
  const answer = await send(method, path, body);
  if (!answer || answer.status >= 300) throw new Error(`${method} ${path}: ${JSON.stringify(answer)}`);
  return answer.body;
};

/** Ask until there is an answer. */
const ask = async (path: string) => {
  const deadline = Date.now() + settleTimeoutMs;
  while (Date.now() < deadline) {
    const answer = await send("GET", path);
    if (answer) {
      if (answer.status !== 200) throw new Error(`GET ${path}: ${JSON.stringify(answer)}`);
      return answer.body;
    }
    await Bun.sleep(20);
  }
  throw new Error(`GET ${path}: no server answered for ${settleTimeoutMs} ms`);
};

const networksOf = async (node: string): Promise<Record<string, string>> => (await ask(`/node/${node}`)).nics[0].networks;

test(
  `${kills} kills while ${actionsWanted} actions flow: each ends DONE once, and the switch holds what the database says`,
  async () => {
    console.log(`seed: HAAS_TEST_SEED=${seed}`);
    server = await start();
    await ok("PUT", "/project/p");
    for (const [name, vlan] of [
      ["red", "100"],
      ["blue", "200"],
    ])
      await ok("PUT", `/network/${name}`, { owner: "admin", access: "", net_id: vlan });
    for (const bridge of bridges) {
      await ok("PUT", `/switch/${bridge}`, {
        type: "http://schema.massopencloud.org/haas/v0/switches/ovs",
        ovs_bridge: bridge,
        database: lab.db,
      });
    }
    for (const one of nodes) {
      await ok("PUT", `/switch/${one.bridge}/port/${one.port}`);
      await ok("PUT", `/node/${one.node}`, { obm: mockObm });
      await ok("PUT", `/node/${one.node}/nic/nic`, { macaddr: "x" });
      await ok("POST", `/switch/${one.bridge}/port/${one.port}/connect_nic`, { node: one.node, nic: "nic" });
      await ok("POST", "/project/p/connect_node", { node: one.node });
    }
    const database = new Database(file);
    database.run("pragma busy_timeout = 10000");
    for (const statement of seenOnSqlite) database.run(statement);

    const pending = () =>
      database.query<{ n: number }, []>("select count(*) as n from networking_action where status = 'PENDING'").get()!.n;
    const pendingActions = "select * from networking_action where status = 'PENDING'";
    const until = untilWithin(settleTimeoutMs, () => `pending: ${JSON.stringify(database.query(pendingActions).all())}`);
    // New ports are brought to nothing first.
    await until("the new ports are set up", () => pending() === 0);

    const accepted: string[] = [];
    const refused: string[] = [];
    let unknown = 0;
    let killed = 0;
    let failed = false;

    /** One tenant's script: as soon as a nic is idle, something else about it changes. */
    const submit = async (node: string, random: () => number) => {
      while (!failed && (accepted.length < actionsWanted || killed < kills)) {
        const now = await networksOf(node);
        const free = ["red", "blue"].filter((network) => !Object.values(now).includes(network));
        const network = free[Math.floor(random() * free.length)] ?? "red";
        const vlan = network === "red" ? 100 : 200;
        const connect = free.length === 2 || (free.length === 1 && random() < 0.5);
        const channel = "vlan/native" in now || random() < 0.5 ? `vlan/${vlan}` : "vlan/native";
        const leaving = Object.values(now)[Math.floor(random() * Object.values(now).length)];
        const answer = await (connect
          ? send("POST", `/node/${node}/nic/nic/connect_network`, { network, channel })
          : send("POST", `/node/${node}/nic/nic/detach_network`, { network: leaving }));
        if (!answer) unknown++;
        else if (answer.status === 202) accepted.push(answer.body.status_id);
        // What changed since the look at the node, by an action whose answer was lost.
        else if (answer.status !== 409 && answer.body?.type !== "BadArgumentError") refused.push(JSON.stringify(answer));
        await Bun.sleep(answer?.status === 202 ? 100 : 40);
      }
    };

    /** Kills are spread over the flow, each at a random moment of it; every fifth hits the server while it comes up. */
    const kill = async (random: () => number) => {
      for (; killed < kills; killed++) {
        const upTo = killed * (actionsWanted / kills) * 0.95;
        while (accepted.length < upTo && !failed) await Bun.sleep(5);
        if (failed) return;
        await Bun.sleep(random() * 250);
        await server.kill("SIGKILL");
        ended.push(server);
        await compare(database);
        const early = killed % 5 === 4;
        server = await start(early);
        if (early) {
          await Bun.sleep(random() * 400);
          await server.kill("SIGKILL");
          ended.push(server);
          await compare(database);
          server = await start();
        }
      }
    };

    const random = randomFrom(seed);
    const work = [kill(randomFrom(random() * 2 ** 31)), ...nodes.map(({ node }) => submit(node, randomFrom(random() * 2 ** 31)))];
    // The others stop as well when one fails; nobody answers those who wait for a server that stays dead.
    const outcomes = await Promise.allSettled(work.map((one) => one.catch((error) => ((failed = true), Promise.reject(error)))));
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
    expect(refused).toEqual([]);
    expect(killed).toBe(kills);
    expect(accepted.length).toBeGreaterThanOrEqual(actionsWanted);
    expect(new Set(accepted).size).toBe(accepted.length);

    await until("nothing is pending", () => pending() === 0);

    // Each that was accepted is DONE as the API tells it, and got there once, by the database's own account.
    for (const id of accepted)
      expect({ id, ...(await ask(`/networking_action/${id}`)) }).toMatchObject({ id, status: "DONE", reason: null });
    const rows = database
      .query<{ uuid: string; status: string; created_at: number; ended_at: number | null }, []>("select * from networking_action")
      .all();
    const events = database
      .query<{ uuid: string; event: string }, []>("select uuid, event from seen where uuid is not null order by uuid")
      .all();
    expect(events).toEqual(rows.map(({ uuid }) => ({ uuid, event: "PENDING to DONE" })).toSorted((a, b) => (a.uuid < b.uuid ? -1 : 1)));
    expect(new Set(rows.map(({ uuid }) => uuid)).isSupersetOf(new Set(accepted))).toBe(true);
    // Nothing was queued that no request asked for: the rest are requests whose answer was lost.
    expect(rows.length - accepted.length).toBeLessThanOrEqual(unknown);
    expect(rows.filter(({ created_at, ended_at }) => ended_at === null || ended_at < created_at)).toEqual([]);

    // Every attachment came and went with an action of its own, in order.
    const actions = database
      .query<Attachment & { new_network: string | null }, []>(
        "select nic_id as nic, network_id as network, channel, new_network from networking_action order by nic_id, id",
      )
      .all();
    const changes = database
      .query<Attachment & { event: string }, []>("select nic, network, channel, event from seen where nic is not null order by nic, n")
      .all();
    expect(changes).toEqual(
      actions.map(({ nic, network, channel, new_network }) => ({
        nic,
        network,
        channel,
        event: new_network === null ? "detached" : "attached",
      })),
    );

    // The switch against the database, and against what the API says.
    expect(await compare(database)).toBe(nodes.length);
    for (const { node, port: label } of nodes) {
      const names = { 100: "red", 200: "blue" } as Record<number, string>;
      const wanted = attachmentsOn(database, label).map(({ channel, vlan }) => [channel, names[vlan]!]);
      expect(await networksOf(node)).toEqual(Object.fromEntries(wanted));
    }
    // Both networks, both channels and bare ports were among what was compared.
    expect(
      database.query<{ n: number }, []>("select count(distinct channel || network) as n from seen where event = 'attached'").get()!.n,
    ).toBe(4);
    expect(database.query("pragma integrity_check").all()).toEqual([{ integrity_check: "ok" }]);
    expect(database.query("pragma foreign_key_check").all()).toEqual([]);
    database.close();
    console.log(
      `${accepted.length} accepted, ${rows.length - accepted.length} more whose answer was lost, ${unknown} requests without an answer, ${ended.length} kills`,
    );
  },
  testTimeoutMs,
);

interface Attachment {
  nic: number;
  network: number;
  channel: string;
}

const attachmentsOn = (database: Database, label: string) =>
  database
    .query<{ channel: string; vlan: number }, [string]>(
      `select attachment.channel, network.vlan from attachment join nic on nic.id = attachment.nic_id
       join port on port.id = nic.port_id join network on network.id = attachment.network_id where port.label = ?`,
    )
    .all(label);

/**
 * The switch, asked without haas, holds what the database says, on every port that nothing is pending for; how many
 * those are. Also true at any moment when no server runs: what is DONE is on the switch.
 */
async function compare(database: Database): Promise<number> {
  const busy = database
    .query<{ label: string }, []>("select port.label from networking_action a join port on port.id = a.port_id where a.status = 'PENDING'")
    .all()
    .map(({ label }) => label);
  const idle = nodes.filter(({ port: label }) => !busy.includes(label));
  const onSwitch = await columnsOfPorts(lab);
  for (const { port: label } of idle) {
    const mine = attachmentsOn(database, label);
    const native = mine.find(({ channel }) => channel === "vlan/native")?.vlan ?? null;
    const tagged = mine.flatMap(({ channel, vlan }) => (channel === "vlan/native" ? [] : [vlan])).toSorted((a, b) => a - b);
    expect({ label, ...onSwitch.get(label) }).toEqual({ label, ...columnsFor(native, tagged) });
  }
  return idle.length;
}

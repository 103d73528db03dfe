import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { loadConfig } from "../../src/config.ts";
import { createLog } from "../../src/log.ts";
import { startPruner } from "../../src/networking/pruner.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { configText, databases, freshUri, makeRack, scratch, type Service, startService } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";
import { join } from "node:path";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

// Actions that ended long ago are deleted, but nothing that somebody still asks about.

const day = 86_400_000;
const boundMs = 20_000;

interface Row {
  type?: "modify_port" | "revert_port" | "sync_port";
  status?: "PENDING" | "DONE" | "ERROR";
  port?: number | null;
  network?: number | null;
  /** Days ago; null for never. */
  ended?: number | null;
  created?: number;
}

describe.each(databases)("old actions on %s", (kind) => {
  let service: Service;
  let servers: ServerProcess[] = [];
  let place: ReturnType<typeof scratch>;
  let uri: string;
  let count = 0;

  const open = async (more = "[network-daemon]\nkeep = 30") => {
    service = await startService(kind, { uri, more });
  };
  beforeEach(async () => {
    place = scratch();
    uri = await freshUri(kind, place.path);
    await open();
    await makeRack(service, { nodes: 4, projects: ["p"] });
    await service.apply();
    await service.ok("PUT", "/network/net", { owner: "p", access: "p", net_id: "" });
  });
  afterEach(async () => {
    await Promise.all(servers.map((server) => server.stop()));
    servers = [];
    await service.stop();
    place.remove();
  });

  /** The name that the row is found by. */
  async function action({ type = "modify_port", status = "DONE", port = null, network = null, ended = 100, created = ended ?? 100 }: Row) {
    const uuid = `a${++count}`;
    await service.ctx.db
      .insertInto("networking_action")
      .values({
        ...{ uuid, type, status, port_id: port, network_id: network, node: null, nic: null, switch_id: 1, reason: null },
        created_at: Date.now() - created * day,
        ended_at: ended === null ? null : Date.now() - ended * day,
      })
      .execute();
    return uuid;
  }
  const times = async (n: number, row: Row) => {
    for (let i = 0; i < n; i++) await action(row);
  };
  /** Three to go, by the default, and two to stay. */
  const someOld = async () => {
    await times(3, { ended: 91 });
    await times(2, { ended: 89 });
  };
  const left = async () =>
    (await service.ctx.db.selectFrom("networking_action").select("uuid").orderBy("id").execute()).map(({ uuid }) => uuid);
  const counted = async () => (await left()).length;
  /** One look, to its end; what was logged so far. */
  const look = async () => {
    const pruner = startPruner({ ...service.ctx, log: createLog("info", place.path) });
    await settled();
    await pruner.stop();
    return readdirSync(place.path)
      .filter((name) => name.includes("log"))
      .map((name) => readFileSync(join(place.path, name), "utf8"))
      .join("");
  };
  const settled = async () => {
    let before = -1;
    for (let quiet = 0; quiet < 6;) {
      const now = await counted();
      quiet = now === before ? quiet + 1 : 0;
      before = now;
      await Bun.sleep(50);
    }
  };
  const portId = async (label: string) =>
    (await service.ctx.db.selectFrom("port").select("id").where("label", "=", label).executeTakeFirstOrThrow()).id;

  test("go after the time that is configured; the latest change of each port stays, and what is pending", async () => {
    const [p1, p2, p3, p4] = [await portId("p1"), await portId("p2"), await portId("p3"), await portId("p4")];
    const gone = [
      await action({ port: p1 }),
      await action({ port: p1, type: "revert_port", status: "ERROR" }),
      await action({ port: p3, ended: 31 }),
      await action({ port: null, status: "ERROR" }),
      await action({ port: null, ended: 5000 }),
    ];
    const kept = [
      await action({ port: p1, ended: 99 }),
      await action({ port: p2, ended: 3000 }),
      await action({ port: p2, type: "sync_port", status: "PENDING", ended: null }),
      await action({ port: p3, ended: 29 }),
      await action({ port: p3, status: "PENDING", ended: null, created: 5000 }),
      await action({ port: p4, status: "ERROR", ended: 200 }),
    ];
    await times(100, { port: null, ended: 0 });
    const log = await look();
    expect(await left()).toEqual([...kept, ...(await left()).slice(kept.length)]);
    expect(await counted()).toBe(kept.length + 100);
    for (const uuid of gone) expect((await service.call("GET", `/networking_action/${uuid}`)).status).toBe(404);
    expect(log).toMatch(/old networking actions were deleted.*"deleted":5/);
  });

  test("a failed one stays while its port may still carry what it tried", async () => {
    const [p1, p2, p3] = [await portId("p1"), await portId("p2"), await portId("p3")];
    const network = (await service.ctx.db.selectFrom("network").select("id").executeTakeFirstOrThrow()).id;
    const failed = [await action({ port: p1, status: "ERROR", network }), await action({ port: p2, status: "ERROR" })];
    const other = await action({ port: p3, status: "ERROR" });
    for (const port of [p1, p2, p3]) await action({ port, ended: 90 });
    await times(100, { port: null, ended: 0 });
    const { db } = service.ctx;
    await db.updateTable("port").set({ suspect: "why" }).where("id", "=", p1).execute();
    await db.updateTable("port").set({ drift: "{}" }).where("id", "=", p2).execute();
    await look();
    expect(await left()).toEqual(expect.arrayContaining(failed));
    expect(await left()).not.toContain(other);
    // So the network can't go, and the VLAN to somebody else.
    expect((await service.call("DELETE", "/network/net")).body.msg).toContain("may still be on a port");
    await db.updateTable("port").set({ suspect: null, drift: null }).execute();
    await look();
    for (const uuid of failed) expect(await left()).not.toContain(uuid);
  });

  test("that a port was ever changed is not forgotten: it can't be unplugged while it is uncertain", async () => {
    const p1 = await portId("p1");
    for (const ended of [5000, 4000, 3000]) await action({ port: p1, ended });
    await times(120, { port: null, ended: 0 });
    await look();
    await service.ctx.db.updateTable("port").set({ suspect: "why" }).where("id", "=", p1).execute();
    expect((await service.call("POST", "/switch/sw/port/p1/detach_nic")).body.msg).toContain("not known to carry nothing");
  });

  test("many go in bounded steps, and each look has an end", async () => {
    const row = (i: number) => ({
      ...{ uuid: `m${i}`, type: "modify_port" as const, status: "DONE" as const, port_id: null, network_id: null, node: null, nic: null },
      ...{ switch_id: 1, reason: null, created_at: Date.now() - 100 * day, ended_at: Date.now() - 100 * day },
    });
    for (let i = 0; i < 5000; i += 500) {
      await service.ctx.db
        .insertInto("networking_action")
        .values(Array.from({ length: 500 }, (_, n) => row(i + n)))
        .execute();
    }
    await times(100, { ended: 0 });
    await look();
    expect(await counted()).toBe(1100);
    await look();
    expect(await counted()).toBe(100);
  }, 60_000);

  test.each(["", "[devel]\ndry_run ="])("by haas serve, with %p", async (more) => {
    await someOld();
    const server = await startServer({ kind, uri, more });
    servers.push(server);
    await untilWithin(boundMs, server.log)("the old ones are gone", async () => (await counted()) === 2);
    expect(server.log()).not.toContain('"level":"error"');
  });

  test("by haas serve_networks, which ends when it is told", async () => {
    await someOld();
    const file = join(place.path, "worker.cfg");
    writeFileSync(file, configText({ uri }), { mode: 0o600 });
    const program = process.env.HAAS_BINARY ? [process.env.HAAS_BINARY] : [process.execPath, join(import.meta.dir, "../../src/cli.ts")];
    const child = Bun.spawn([...program, "serve_networks", "--config", file], { cwd: place.path, stdout: "ignore", stderr: "ignore" });
    try {
      await untilWithin(boundMs)("the old ones are gone", async () => (await counted()) === 2);
      child.kill("SIGTERM");
      expect(await Promise.race([child.exited, Bun.sleep(boundMs)])).toBe(0);
    } finally {
      child.kill("SIGKILL");
      await child.exited;
    }
  });

  test("not by a server that leaves networking to others", async () => {
    await someOld();
    servers.push(await startServer({ kind, uri, networks: false }));
    await settled();
    expect(await counted()).toBe(5);
  });
});

test("keep: days, 90 by default", () => {
  const place = scratch();
  const file = join(place.path, "haas.cfg");
  const load = (text: string) => {
    writeFileSync(file, text);
    return loadConfig(file).network.keepMs;
  };
  expect(load("")).toBe(90 * day);
  expect(load("[network-daemon]\nkeep =")).toBe(90 * day);
  expect(load("[network-daemon]\nkeep = 1.5")).toBe(1.5 * day);
  for (const value of ["0", "0.5", "-1", "ninety", "1e9", "40000", "90 days"]) {
    expect(() => load(`[network-daemon]\nkeep = ${value}`)).toThrow(/\[network-daemon\] keep: .*is not a number of days from 1 to 36500/);
  }
  place.remove();
});

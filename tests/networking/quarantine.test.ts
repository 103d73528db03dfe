import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { administrator } from "../../src/auth/caller.ts";
import { emptyPort } from "../../src/hardware/switches/driver.ts";
import { switchTypePrefix } from "../../src/hardware/switches/index.ts";
import { startConsole } from "../sim/console.ts";
import type { Emulator } from "../sim/emulator.ts";
import { secrets } from "../support/secrets.ts";
import { databases, mockObm, type Service, startService } from "../support/service.ts";

// Nobody gets a node whose port is not known to carry nothing.

describe.each(databases)("a port that is not known to carry nothing, on %s", (kind) => {
  let service: Service;
  let device: Emulator;
  const port = "gi1/0/1";
  const ok = (method: string, path: string, body?: unknown) => service.ok(method, path, body);
  const msg = async (method: string, path: string, body?: unknown): Promise<string> => {
    const answer = await service.call(method, path, body);
    expect(answer.status).toBe(409);
    return answer.body.msg;
  };
  const free = async () => (await ok("GET", "/nodes/free")) as string[];
  const applyAll = async () => {
    await service.ctx.db.updateTable("networking_action").set({ next_try: 0 }).execute();
    await service.apply();
  };
  const allocate = () => service.call("POST", "/project/p/connect_node", { node: "n" });

  beforeEach(async () => {
    service = await startService(kind, { more: "[network-daemon]\nmax_tries = 1\nverify_interval = 1" });
    device = await startConsole("delln3000", { transport: "telnet" });
    await ok("PUT", "/project/p");
    await ok("PUT", "/switch/sw", { type: `${switchTypePrefix}delln3000`, ...device.settings });
    await ok("PUT", `/switch/sw/port/${port}`);
    await ok("PUT", "/node/n", { obm: mockObm });
    await ok("PUT", "/node/n/nic/nic", { macaddr: "m" });
    await ok("POST", `/switch/sw/port/${port}/connect_nic`, { node: "n", nic: "nic" });
  });
  afterEach(async () => {
    await service.stop();
    await device.stop();
  });

  test("fresh: its node is not offered, and an allocation waits until it has been read back", async () => {
    expect(device.port(port)).not.toEqual(emptyPort);
    expect(await free()).toEqual([]);
    const allocated = allocate();
    await Bun.sleep(200);
    await service.apply();
    expect((await allocated).status).toBe(200);
    expect(device.port(port)).toEqual(emptyPort);
  });

  describe("fresh, and plugged into a node that is in a project already", () => {
    const other = "gi1/0/2";
    const plugIn = (nic = "nic2") => service.call("POST", `/switch/sw/port/${other}/connect_nic`, { node: "m", nic });
    /** A wait, that has begun. */
    const waiting = async () => {
      const answer = plugIn();
      expect(await Promise.race([answer, Bun.sleep(300)])).toBeUndefined();
      return answer;
    };
    beforeEach(async () => {
      await ok("PUT", "/node/m", { obm: mockObm });
      for (const nic of ["nic2", "nic3"]) await ok("PUT", `/node/m/nic/${nic}`, { macaddr: "m" });
      await ok("POST", "/project/p/connect_node", { node: "m" });
      await ok("PUT", `/switch/sw/port/${other}`);
    });

    test("it waits until it has been read back", async () => {
      expect(device.port(other)).not.toEqual(emptyPort);
      const answer = waiting();
      await Bun.sleep(400);
      await service.apply();
      expect((await answer).status).toBe(200);
      expect(device.port(other)).toEqual(emptyPort);
    });

    test("what becomes of it is told at once: it is suspect for another reason", async () => {
      const answer = waiting();
      await Bun.sleep(400);
      await service.ctx.db.updateTable("port").set({ suspect: "the switch lost power." }).where("label", "=", other).execute();
      expect(await answer).toMatchObject({ status: 409, body: { type: "BlockedError", msg: expect.stringContaining("lost power") } });
    });

    test("the node is given back meanwhile: nobody has to wait", async () => {
      const answer = waiting();
      await Bun.sleep(400);
      await ok("POST", "/project/p/detach_node", { node: "m" });
      expect((await answer).status).toBe(200);
      expect(await free()).toEqual([]);
    });

    test("the port is deleted meanwhile", async () => {
      const answer = waiting();
      await Bun.sleep(400);
      await ok("DELETE", `/switch/sw/port/${other}`);
      expect(await answer).toMatchObject({ status: 404, body: { type: "NotFoundError" } });
    });

    test("the nic, or the port, has another cable meanwhile: a duplicate, and no wait", async () => {
      await ok("PUT", "/node/o", { obm: mockObm });
      await ok("PUT", "/node/o/nic/nic", { macaddr: "m" });
      const answer = waiting();
      await Bun.sleep(400);
      await ok("POST", `/switch/sw/port/${other}/connect_nic`, { node: "o", nic: "nic" });
      expect(await answer).toMatchObject({ status: 409, body: { type: "DuplicateError" } });
      expect(await plugIn("nic3")).toMatchObject({ status: 409, body: { type: "DuplicateError" } });
    });

    test("it is read back at last, or the wait has an end", async () => {
      expect(await plugIn()).toMatchObject({ status: 409, body: { type: "BlockedError", msg: expect.stringContaining(other) } });
    }, 30_000);
  });

  test("fresh, and nothing was ever on it: it can be unplugged and deleted", async () => {
    await ok("POST", `/switch/sw/port/${port}/detach_nic`);
    await ok("DELETE", `/switch/sw/port/${port}`);
  });

  test("suspect after a change: neither unplugged nor deleted nor allocated before it is clean, or trusted", async () => {
    await service.apply();
    await allocate();
    await ok("PUT", "/network/a", { owner: "p", access: "p", net_id: "" });
    device.behaviour.refusesLogins = true;
    const { status_id } = await ok("POST", "/node/n/nic/nic/connect_network", { network: "a" });
    await service.apply();
    expect((await ok("GET", `/networking_action/${status_id}`)).status).toBe("ERROR");
    await ok("POST", "/project/p/detach_node", { node: "n" });
    expect(await free()).toEqual([]);
    expect(await msg("POST", `/switch/sw/port/${port}/detach_nic`)).toContain("not known to carry nothing");
    expect(await msg("POST", "/project/p/connect_node", { node: "n" })).toContain(port);
    await ok("POST", `/switch/sw/port/${port}/trust`);
    expect(await free()).toEqual(["n"]);
    await ok("POST", `/switch/sw/port/${port}/detach_nic`);
    await ok("DELETE", `/switch/sw/port/${port}`);
  });

  test("found to carry something else: its node is not offered until that is mended", async () => {
    await service.apply();
    expect(await free()).toEqual(["n"]);
    await service.ctx.db
      .updateTable("port")
      .set({ drift: JSON.stringify({ native: 300, tagged: [] }) })
      .execute();
    expect(await free()).toEqual([]);
    expect(await msg("POST", "/project/p/connect_node", { node: "n" })).toContain("the last check found something else on it");
    await ok("POST", "/switch/sw/reconcile");
    await applyAll();
    expect(await free()).toEqual(["n"]);
  });

  test("a switch that is being talked to is not deleted before that is over", async () => {
    await service.apply();
    await ok("POST", `/switch/sw/port/${port}/detach_nic`);
    await ok("DELETE", `/switch/sw/port/${port}`);
    device.behaviour.fault = { kind: "slow", at: 1, delayMs: 500 };
    const tested = service.call("POST", "/switch/sw/test");
    while ((await service.ctx.db.selectFrom("switch").select("lease_owner").executeTakeFirstOrThrow()).lease_owner === null)
      await Bun.sleep(5);
    const order: string[] = [];
    const deleted = ok("DELETE", "/switch/sw").then(() => order.push("deleted"));
    void tested.then(() => order.push("tested"));
    expect((await tested).body).toMatchObject({ ok: true });
    await deleted;
    expect(order).toEqual(["tested", "deleted"]);
  });
});

test("a project learns that its change waits, but not how haas logs in to the switch", async () => {
  const service = await startService("sqlite", { auth: "database" });
  const device = await startConsole("delln3000", { transport: "telnet" });
  const as = (user: string, password: string) => ({ authorization: `Basic ${btoa(`${user}:${password}`)}` });
  const call = async (who: Record<string, string>, method: string, path: string, body?: unknown) => service.call(method, path, body, who);
  try {
    const { createUser } = await import("../../src/inventory/users.ts");
    await createUser(service.ctx.db, administrator, "admin", secrets.admin, true);
    await createUser(service.ctx.db, administrator, "alice", secrets.alice, false);
    const [admin, alice] = [as("admin", secrets.admin), as("alice", secrets.alice)];
    const setup: [string, string, unknown?][] = [
      ["PUT", "/project/p"],
      ["POST", "/auth/basic/user/alice/add_project", { project: "p" }],
      ["PUT", "/switch/sw", { type: `${switchTypePrefix}delln3000`, ...device.settings }],
      ["PUT", "/switch/sw/port/gi1/0/1"],
      ["PUT", "/node/n", { obm: mockObm }],
      ["PUT", "/node/n/nic/nic", { macaddr: "m" }],
      ["POST", "/switch/sw/port/gi1/0/1/connect_nic", { node: "n", nic: "nic" }],
      ["PUT", "/network/a", { owner: "p", access: "p", net_id: "" }],
    ];
    for (const [method, path, body] of setup) expect([path, (await call(admin, method, path, body)).status]).toEqual([path, 200]);
    await service.apply();
    expect((await call(alice, "POST", "/project/p/connect_node", { node: "n" })).status).toBe(200);
    device.behaviour.refusesLogins = true;
    const { status_id } = (await call(alice, "POST", "/node/n/nic/nic/connect_network", { network: "a" })).body;
    await service.apply();
    const seen = async (who: Record<string, string>) => (await call(who, "GET", `/networking_action/${status_id}`)).body.reason as string;
    expect(await seen(admin)).toMatch(/'sw'.*'gi1\/0\/1'/);
    expect(await seen(alice)).toBe("haas can't use the switch at the moment; an administrator can see why.");
  } finally {
    await service.stop();
    await device.stop();
  }
});

test("a parameter that is given twice is refused", async () => {
  const service = await startService("sqlite");
  try {
    await service.ok("PUT", "/switch/sw", { type: `${switchTypePrefix}mock`, hostname: "h", username: "u", password: secrets.switch });
    const answer = await service.call("POST", "/switch/sw/reconcile?dry_run=true&dry_run=false");
    expect(answer).toMatchObject({ status: 400, body: { type: "ValidationError" } });
  } finally {
    await service.stop();
  }
});

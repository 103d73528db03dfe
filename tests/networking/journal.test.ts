import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { databases, makeRack, mockObm, type Service, startService } from "../support/service.ts";
import { switchTarget } from "../support/target.ts";

describe.each(databases)("networking on %s", (kind) => {
  let service: Service;
  beforeEach(async () => {
    service = await startService(kind, { more: "[network-daemon]\nmax_tries = 2" });
    await makeRack(service, { nodes: 2, projects: ["p", "q"] });
    await service.ok("POST", "/project/p/connect_node", { node: "n1" });
    for (const name of ["a", "b"]) await service.ok("PUT", `/network/${name}`, { owner: "p", access: "p", net_id: "" });
    await service.apply();
  });
  afterEach(() => service.stop());

  const connect = (network: string, channel?: string) => service.call("POST", "/node/n1/nic/nic/connect_network", { network, channel });
  const portState = async () => {
    const session = await service.ctx.switches.byType("http://schema.massopencloud.org/haas/v0/switches/mock").open(switchTarget("sw"));
    return (await session.readPorts(["p1"])).get("p1");
  };
  const status = (id: string) => service.ok("GET", `/networking_action/${id}`);

  test("a connection is pending until the switch has it, and done afterwards", async () => {
    const { status: code, body } = await connect("a");
    expect(code).toBe(202);
    expect(await status(body.status_id)).toMatchObject({
      status: "PENDING",
      node: "n1",
      nic: "nic",
      new_network: "a",
      type: "modify_port",
      channel: "vlan/native",
    });
    expect((await service.ok("GET", "/node/n1")).nics[0].networks).toEqual({});
    await service.apply();
    expect(await status(body.status_id)).toMatchObject({ status: "DONE", reason: null });
    expect((await service.ok("GET", "/node/n1")).nics[0].networks).toEqual({ "vlan/native": "a" });
    expect(await portState()).toEqual({ native: 100, tagged: [] });
  });

  test("networks add up on a port, leave one by one, and a revert takes all of them", async () => {
    await connect("a");
    await service.apply();
    expect((await connect("b", "vlan/101")).status).toBe(202);
    await service.apply();
    expect(await portState()).toEqual({ native: 100, tagged: [101] });
    await service.ok("POST", "/node/n1/nic/nic/detach_network", { network: "a" });
    await service.apply();
    expect(await portState()).toEqual({ native: null, tagged: [101] });
    await service.ok("POST", "/switch/sw/port/p1/revert");
    await service.apply();
    expect(await portState()).toEqual({ native: null, tagged: [] });
    expect(await service.ok("GET", "/network/b/attachments")).toEqual({});
  });

  test("the checks of connect_network come in the documented order", async () => {
    const refuse = async (path: string, body: unknown, code: number, type: string) =>
      expect(await service.call("POST", path, body)).toMatchObject({ status: code, body: { type } });
    await refuse("/node/nope/nic/nic/connect_network", { network: "a" }, 404, "NotFoundError");
    await refuse("/node/n2/nic/nic/connect_network", { network: "nope" }, 404, "NotFoundError");
    await refuse("/node/n2/nic/nic/connect_network", { network: "a" }, 409, "ProjectMismatchError");
    await service.ok("PUT", "/node/n1/nic/loose", { macaddr: "x" });
    await refuse("/node/n1/nic/loose/connect_network", { network: "a" }, 404, "NotFoundError");
    await service.ok("PUT", "/network/theirs", { owner: "q", access: "q", net_id: "" });
    await refuse("/node/n1/nic/nic/connect_network", { network: "theirs", channel: "nonsense" }, 409, "ProjectMismatchError");
    await refuse("/node/n1/nic/nic/connect_network", { network: "a", channel: "nonsense" }, 400, "BadArgumentError");
    await connect("a");
    await refuse("/node/n1/nic/nic/connect_network", { network: "theirs" }, 409, "BlockedError");
    await service.apply();
    await refuse("/node/n1/nic/nic/connect_network", { network: "a", channel: "vlan/100" }, 409, "BlockedError");
    await refuse("/node/n1/nic/nic/connect_network", { network: "b" }, 409, "BlockedError");
  });

  test("a node with a pending action, or attached, stays in its project", async () => {
    const detach = () => service.call("POST", "/project/p/detach_node", { node: "n1" });
    await connect("a");
    expect((await detach()).status).toBe(409);
    await service.apply();
    expect((await detach()).status).toBe(409);
    await service.ok("POST", "/node/n1/nic/nic/detach_network", { network: "a" });
    expect((await detach()).status).toBe(409);
    await service.apply();
    expect((await detach()).status).toBe(200);
  });

  test("a switch without nativeless trunks takes the native network first in and last out", async () => {
    await service.ok("PUT", "/switch/b", {
      type: "http://schema.massopencloud.org/haas/v0/switches/brocade",
      hostname: "127.0.0.1:9",
      username: "u",
      password: "p",
      interface_type: "TenGigabitEthernet",
    });
    await service.ok("PUT", "/switch/b/port/1/0/10");
    await service.ok("PUT", "/node/n3", { obm: mockObm });
    await service.ok("PUT", "/node/n3/nic/nic", { macaddr: "x" });
    await service.ok("POST", "/switch/b/port/1/0/10/connect_nic", { node: "n3", nic: "nic" });
    await service.apply();
    await service.ok("POST", "/switch/b/port/1/0/10/trust");
    await service.ok("POST", "/project/p/connect_node", { node: "n3" });
    expect(await service.call("POST", "/node/n3/nic/nic/connect_network", { network: "a", channel: "vlan/100" })).toMatchObject({
      status: 409,
      body: { type: "BlockedError" },
    });
    // Nobody listens there: the action waits, and says why.
    const { status_id } = await service.ok("POST", "/node/n3/nic/nic/connect_network", { network: "a" });
    await service.apply();
    expect(await status(status_id)).toMatchObject({ status: "PENDING", reason: expect.stringMatching(/'b'.*'1\/0\/10'/) });
  });

  test("a failing switch leaves the action pending with a reason, then ends it; the port is not offered as free until it is right", async () => {
    const mock = service.ctx.switches.byType("http://schema.massopencloud.org/haas/v0/switches/mock");
    const { open } = mock;
    try {
      // The device accepts the change and then holds something else.
      Object.assign(mock, {
        open: async (target: Parameters<typeof open>[0]) => ({
          ...(await open(target)),
          readPorts: async (ports: readonly string[]) => new Map(ports.map((port) => [port, { native: 666, tagged: [] }])),
        }),
      });
      const { body } = await connect("a");
      await service.apply();
      expect(await status(body.status_id)).toMatchObject({
        status: "PENDING",
        attempts: 1,
        reason: expect.stringMatching(/p1.*native 100.*native 666/),
      });
      await service.ctx.db.updateTable("networking_action").set({ next_try: 0 }).execute();
      await service.apply();
      expect(await status(body.status_id)).toMatchObject({ status: "ERROR", attempts: 2, reason: expect.stringContaining("666") });
      expect((await service.ok("GET", "/node/n1")).nics[0].networks).toEqual({});
      await service.ok("POST", "/project/p/detach_node", { node: "n1" });
      expect(await service.ok("GET", "/nodes/free")).toEqual(["n2"]);
      expect(await service.call("POST", "/project/q/connect_node", { node: "n1" })).toMatchObject({
        status: 409,
        body: { msg: expect.stringContaining("666") },
      });
    } finally {
      Object.assign(mock, { open });
    }
    await service.ctx.db.updateTable("networking_action").set({ next_try: 0 }).execute();
    await service.apply();
    expect(await service.ok("GET", "/nodes/free")).toEqual(["n1", "n2"]);
    expect(await portState()).toEqual({ native: null, tagged: [] });
  });
});

test("a port that hangs delays no other port, and no other switch", async () => {
  const service = await startService("sqlite", { more: "[haas.ext.switches.mock]\ncommand_timeout = 1" });
  const type = "http://schema.massopencloud.org/haas/v0/switches/mock";
  const mock = service.ctx.switches.byType(type);
  const { open } = mock;
  try {
    await makeRack(service, { nodes: 3, projects: ["p"] });
    await service.ok("PUT", "/switch/other", { type, hostname: "h", username: "u", password: "other-secret-55d1" });
    await service.ok("PUT", "/switch/other/port/x");
    await service.ok("PUT", "/node/far", { obm: mockObm });
    await service.ok("PUT", "/node/far/nic/nic", { macaddr: "m" });
    await service.ok("POST", "/switch/other/port/x/connect_nic", { node: "far", nic: "nic" });
    await service.apply();
    await service.ok("PUT", "/network/a", { owner: "p", access: "p", net_id: "" });
    const ids: Record<string, string> = {};
    for (const node of ["n1", "n2", "n3", "far"]) {
      await service.ok("POST", "/project/p/connect_node", { node });
      ids[node] = (await service.ok("POST", `/node/${node}/nic/nic/connect_network`, { network: "a" })).status_id;
    }
    const status = async (node: string) => (await service.ok("GET", `/networking_action/${ids[node]}`)).status;
    const closed: string[] = [];
    Object.assign(mock, {
      open: async (target: Parameters<typeof open>[0]) => {
        const session = await open(target);
        return {
          ...session,
          applyPort: (port: string, desired: Parameters<typeof session.applyPort>[1]) =>
            port === "p2" ? new Promise<void>(() => {}) : session.applyPort(port, desired),
          close: async () => void closed.push(target.label),
        };
      },
    });
    const applied = service.apply();
    while ((await status("far")) !== "DONE") await Bun.sleep(20);
    // The hanging call is under way still.
    expect(await status("n2")).toBe("PENDING");
    await applied;
    // In sessions of their own, after a pause.
    while ((await Promise.all(["n1", "n3"].map(status))).includes("PENDING")) {
      await service.ctx.db.updateTable("networking_action").set({ next_try: 0 }).where("node", "!=", "n2").execute();
      await service.apply();
    }
    expect(await service.ok("GET", `/networking_action/${ids.n2}`)).toMatchObject({
      status: "PENDING",
      attempts: expect.any(Number),
      reason: expect.stringMatching(/'sw', port 'p2': no answer within/),
    });
    expect(closed.filter((label) => label === "sw").length).toBeGreaterThan(1);
  } finally {
    Object.assign(mock, { open });
    await service.stop();
  }
}, 90_000);

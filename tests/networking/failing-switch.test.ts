import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { databaseTime } from "../../src/db/clock.ts";
import { SwitchError } from "../../src/errors.ts";
import { emptyPort, type PortState, type SwitchDriver, type SwitchSession, type SwitchTarget } from "../../src/hardware/switches/driver.ts";
import { startWorker } from "../../src/networking/worker.ts";
import { databases, makeRack, mockObm, mockSwitch, type Service, startService } from "../support/service.ts";
import { switchTarget } from "../support/target.ts";

// A switch that fails between two answers must leave nobody with a VLAN that nothing speaks of.

describe.each(databases)("a failing switch on %s", (kind) => {
  let service: Service;
  let driver: SwitchDriver;
  let open: SwitchDriver["open"];
  const ok = (method: string, path: string, body?: unknown) => service.ok(method, path, body);

  beforeEach(async () => {
    service = await startService(kind, { more: "[network-daemon]\nmax_tries = 2" });
    await makeRack(service, { nodes: 2, projects: ["p", "q"] });
    await service.apply();
    await ok("POST", "/project/p/connect_node", { node: "n1" });
    await ok("PUT", "/network/a", { owner: "p", access: "p", net_id: "" });
    driver = service.ctx.switches.byType(mockSwitch.type);
    open = driver.open.bind(driver);
  });
  afterEach(async () => {
    Object.assign(driver, { open });
    await service.stop();
  });

  /** From now on sessions behave like this. */
  const behave = (change: (session: SwitchSession) => Partial<SwitchSession>) =>
    Object.assign(driver, {
      open: async (target: SwitchTarget) => {
        const session = await open(target);
        return { ...session, ...change(session) };
      },
    });
  const dropsAfterTheWrite = () => behave(() => ({ readPorts: () => Promise.reject(new SwitchError("the connection dropped")) }));
  const unreachable = () => Object.assign(driver, { open: () => Promise.reject(new SwitchError("no route to the switch")) });
  const recovers = () => Object.assign(driver, { open });
  /** Apply what is pending, without waiting for the time of the next try. */
  const tries = async (times: number) => {
    for (let i = 0; i < times; i++) {
      await service.ctx.db.updateTable("networking_action").set({ next_try: 0 }).execute();
      await service.apply();
    }
  };
  const onDevice = async (port: string): Promise<PortState | undefined> => {
    const session = await open(switchTarget("sw"));
    return (await session.readPorts([port])).get(port);
  };
  const connect = async (network: string) => (await ok("POST", "/node/n1/nic/nic/connect_network", { network })).status_id as string;
  const status = async (id: string) => (await ok("GET", `/networking_action/${id}`)).status;

  test("a port that was written once stays suspect when the switch can't be reached any more, until it is clean", async () => {
    dropsAfterTheWrite();
    const id = await connect("a");
    await service.apply();
    unreachable();
    await tries(1);
    expect(await status(id)).toBe("ERROR");
    expect(await onDevice("p1")).toEqual({ native: 100, tagged: [] });
    await ok("POST", "/project/p/detach_node", { node: "n1" });
    expect(await ok("GET", "/nodes/free")).toEqual(["n2"]);
    recovers();
    await tries(1);
    expect(await onDevice("p1")).toEqual(emptyPort);
    expect(await ok("GET", "/nodes/free")).toEqual(["n1", "n2"]);
  });

  test("a wish to clean a port outlives later actions that fail", async () => {
    dropsAfterTheWrite();
    await connect("a");
    await tries(2);
    unreachable();
    await connect("a");
    await tries(2);
    recovers();
    await tries(1);
    expect(await onDevice("p1")).toEqual(emptyPort);
    await ok("POST", "/project/p/detach_node", { node: "n1" });
    expect(await ok("GET", "/nodes/free")).toEqual(["n1", "n2"]);
  });

  test("a VLAN that may be left on a port is nobody else's", async () => {
    await ok("PUT", "/network/shared", { owner: "q", access: "q", net_id: "" });
    await ok("PUT", "/network/shared/access/p");
    dropsAfterTheWrite();
    for (const network of ["a", "shared"]) {
      await connect(network);
      await tries(2);
    }
    for (const path of ["/network/a", "/network/shared", "/network/shared/access/p"]) {
      expect((await service.call("DELETE", path)).body).toMatchObject({ type: "BlockedError" });
    }
    recovers();
    await tries(1);
    for (const path of ["/network/shared/access/p", "/network/a", "/network/shared"]) await ok("DELETE", path);
  });

  test("every port that waits for an unreachable switch is suspect, however many there are", async () => {
    unreachable();
    for (let i = 0; i < 70; i++) await ok("PUT", `/switch/sw/port/more${i}`);
    await service.apply();
    const ports = await service.ctx.db.selectFrom("port").select("suspect").where("label", "like", "more%").execute();
    expect(ports.filter(({ suspect }) => suspect !== null)).toHaveLength(70);
    recovers();
    await tries(2);
    expect(await service.ctx.db.selectFrom("port").select("label").where("suspect", "is not", null).execute()).toEqual([]);
  });

  test("a suspect port takes no nic of a node that is in a project", async () => {
    unreachable();
    await ok("PUT", "/switch/sw/port/fresh");
    await service.apply();
    await ok("PUT", "/node/n1/nic/second", { macaddr: "m" });
    const cable = () => service.call("POST", "/switch/sw/port/fresh/connect_nic", { node: "n1", nic: "second" });
    expect((await cable()).body).toMatchObject({ type: "BlockedError" });
    recovers();
    await tries(1);
    expect((await cable()).status).toBe(200);
  });

  test("a worker that lost its switch writes nothing more to it", async () => {
    await ok("PUT", "/network/b", { owner: "p", access: "p", net_id: "" });
    await ok("POST", "/project/p/connect_node", { node: "n2" });
    const written: string[] = [];
    behave((session) => ({
      applyPort: async (port, desired) => {
        if (written.push(port) === 1) {
          await service.ctx.db
            .updateTable("switch")
            .set((e) => ({
              lease_token: e("lease_token", "+", 1),
              lease_owner: "elsewhere 1 1",
              lease_until: databaseTime(service.ctx.db, 50_000),
            }))
            .execute();
          await ok("POST", "/node/n2/nic/nic/connect_network", { network: "b" });
        }
        await session.applyPort(port, desired);
      },
    }));
    const id = await connect("a");
    await service.apply();
    expect(written).toEqual(["p1"]);
    expect(await status(id)).toBe("PENDING");
  });

  test("an action that waits behind a failed one costs no work meanwhile", async () => {
    dropsAfterTheWrite();
    await ok("POST", "/switch/sw/port/p2/revert");
    await service.apply();
    await service.ctx.db
      .updateTable("networking_action")
      .set({ next_try: databaseTime(service.ctx.db, 50_000) })
      .where("status", "=", "PENDING")
      .execute();
    await ok("POST", "/switch/sw/port/p2/detach_nic");
    await ok("PUT", "/node/m", { obm: mockObm });
    await ok("PUT", "/node/m/nic/nic", { macaddr: "m" });
    await ok("POST", "/switch/sw/port/p2/connect_nic", { node: "m", nic: "nic" });
    await ok("POST", "/project/p/connect_node", { node: "m" });
    await ok("POST", "/node/m/nic/nic/connect_network", { network: "a" });
    const leases = async () => (await service.ctx.db.selectFrom("switch").select("lease_token").executeTakeFirstOrThrow()).lease_token;
    const before = await leases();
    const worker = startWorker(service.ctx);
    for (let i = 0; i < 10; i++) {
      worker.wake();
      await Bun.sleep(20);
    }
    expect(await leases()).toBe(before);
    await worker.stop();
  });
});

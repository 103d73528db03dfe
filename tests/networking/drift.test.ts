import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RawBuilder } from "kysely";
import { ConfigError, loadConfig } from "../../src/config.ts";
import { databaseTime } from "../../src/db/clock.ts";
import { openDatabase } from "../../src/db/open.ts";
import { SessionLostError, SwitchError } from "../../src/errors.ts";
import { emptyPort, type PortState, type SwitchDriver, type SwitchSession, type SwitchTarget } from "../../src/hardware/switches/driver.ts";
import { startVerifier } from "../../src/networking/verifier.ts";
import { startOvs } from "../support/ovs-lab.ts";
import { secrets } from "../support/secrets.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { switchTarget } from "../support/target.ts";
import { configText, databases, freshUri, makeRack, mockSwitch, scratch, type Service, startService } from "../support/service.ts";

// What switches really hold, beside what they should: shown, planned, mended, and checked every so often.

/** The mock driver of a service, and ways to make its switches misbehave until `restore`. */
function misbehaviour(service: Service) {
  const driver: SwitchDriver = service.ctx.switches.byType(mockSwitch.type);
  const original = { ...driver };
  const session = () => original.open(switchTarget("sw"));
  return {
    driver,
    /** From now on sessions behave like this. */
    behave: (change: (session: SwitchSession, target: SwitchTarget) => Partial<SwitchSession>) =>
      Object.assign(driver, {
        open: async (given: SwitchTarget) => {
          const real = await original.open(given);
          return { ...real, ...change(real, given) };
        },
      }),
    unreachable: () => Object.assign(driver, { open: () => Promise.reject(new SwitchError("Switch 'sw': no route to it.")) }),
    restore: () => {
      for (const name of Object.keys(driver)) if (!(name in original)) Reflect.deleteProperty(driver, name);
      Object.assign(driver, original);
    },
    /** Change a port behind haas's back. */
    tamper: async (port: string, state: PortState) => (await session()).applyPort(port, state),
    onDevice: async (port: string) => (await (await session()).readPorts([port])).get(port),
  };
}

describe.each(databases)("real ports on %s", (kind) => {
  let service: Service;
  let device: ReturnType<typeof misbehaviour>;
  const ok = (method: string, path: string, body?: unknown) => service.ok(method, path, body);
  const refused = async (method: string, path: string, status: number, type: string, body?: unknown) => {
    const answer = await service.call(method, path, body);
    expect([method, path, answer.status, answer.body.type]).toEqual([method, path, status, type]);
    return answer.body.msg as string;
  };
  const actual = async () => (await ok("GET", "/switch/sw/ports/actual")).ports;
  const queued = () =>
    service.ctx.db.selectFrom("networking_action").select(["type", "next_try"]).where("status", "=", "PENDING").execute();

  beforeEach(async () => {
    service = await startService(kind, { more: "[network-daemon]\nmax_tries = 2\nverify_interval = 3600" });
    device = misbehaviour(service);
    await makeRack(service, { nodes: 3, projects: ["p"] });
    await ok("POST", "/project/p/connect_node", { node: "n1" });
    for (const network of ["a", "b"]) await ok("PUT", `/network/${network}`, { owner: "p", access: "p", net_id: "" });
    await service.apply();
  });
  afterEach(async () => {
    device.restore();
    await service.stop();
  });

  const attach = async (network: string, channel?: string) => {
    await ok("POST", "/node/n1/nic/nic/connect_network", { network, channel });
    await service.apply();
  };

  test("every port is read, in the order of registration, and compared", async () => {
    await ok("PUT", "/switch/sw/port/a-later-one");
    await service.apply();
    await attach("a");
    await attach("b", "vlan/101");
    await device.tamper("p1", { native: 300, tagged: [101, 400] });
    await device.tamper("p2", { native: null, tagged: [100] });
    await ok("POST", "/switch/sw/port/p3/revert");
    const answer = await ok("GET", "/switch/sw/ports/actual");
    expect(answer.switch).toBe("sw");
    expect(answer.ports).toEqual([
      {
        port: "p1",
        node: "n1",
        nic: "nic",
        desired: { native: 100, tagged: [101] },
        actual: { native: 300, tagged: [101, 400] },
        difference: { missing: { native: 100, tagged: [] }, excess: { native: 300, tagged: [400] } },
        error: null,
        pending: false,
        suspect: null,
      },
      {
        port: "p2",
        node: "n2",
        nic: "nic",
        desired: emptyPort,
        actual: { native: null, tagged: [100] },
        difference: { missing: emptyPort, excess: { native: null, tagged: [100] } },
        error: null,
        pending: false,
        suspect: null,
      },
      {
        port: "p3",
        node: "n3",
        nic: "nic",
        desired: emptyPort,
        actual: emptyPort,
        difference: null,
        error: null,
        pending: true,
        suspect: null,
      },
      {
        port: "a-later-one",
        node: null,
        nic: null,
        desired: emptyPort,
        actual: emptyPort,
        difference: null,
        error: null,
        pending: false,
        suspect: null,
      },
    ]);
    await refused("GET", "/switch/nope/ports/actual", 404, "NotFoundError");
    await ok("PUT", "/switch/bare", mockSwitch);
    expect(await ok("GET", "/switch/bare/ports/actual")).toEqual({ switch: "bare", ports: [] });
  });

  test("a port that can't be read does not hide the others; a lost session ends it", async () => {
    const bad = (failure: SwitchError) =>
      device.behave((session) => ({
        readPorts: (ports) => (ports.includes("p2") ? Promise.reject(failure) : session.readPorts(ports)),
      }));
    bad(new SwitchError("Switch 'sw', port 'p2': there is no such port."));
    const shown = await actual();
    expect(shown.map((port: any) => [port.actual, port.difference, port.error])).toEqual([
      [emptyPort, null, null],
      [null, null, "Switch 'sw', port 'p2': there is no such port."],
      [emptyPort, null, null],
    ]);
    const { plan } = await ok("POST", "/switch/sw/reconcile?dry_run=true");
    expect(plan).toEqual([
      { port: "p2", actual: null, desired: emptyPort, lines: [], error: "Switch 'sw', port 'p2': there is no such port." },
    ]);

    let reads = 0;
    device.behave((session) => ({
      async readPorts(ports) {
        reads++;
        if (ports.length > 1) throw new SwitchError("too much at once");
        if (ports[0] === "p2") throw new SessionLostError("the connection is gone");
        return session.readPorts(ports);
      },
    }));
    expect((await actual()).map((port: any) => port.error)).toEqual([null, "the connection is gone", "the connection is gone"]);
    expect(reads).toBe(3);
  });

  test("a switch that can't be reached is a SwitchError, a fault of ours is not", async () => {
    device.unreachable();
    expect(await refused("GET", "/switch/sw/ports/actual", 500, "SwitchError")).toContain("no route");
    await refused("POST", "/switch/sw/reconcile?dry_run=true", 500, "SwitchError");
    await refused("POST", "/switch/sw/port/p1/revert?dry_run=true", 500, "SwitchError");
    device.behave(() => ({ readPorts: () => Promise.reject(new TypeError("oops")) }));
    expect(await refused("GET", "/switch/sw/ports/actual", 500, "ServerError")).not.toContain("oops");
    // Whatever happened, the switch is free again.
    device.restore();
    expect(await actual()).toHaveLength(3);
  });

  test("a dry run of a change shows what would be sent, and changes and queues nothing", async () => {
    await attach("a");
    const connect = "/node/n1/nic/nic/connect_network";
    const before = await service.ctx.db.selectFrom("networking_action").selectAll().orderBy("id").execute();
    expect(await service.call("POST", `${connect}?dry_run=true`, { network: "b", channel: "vlan/101" })).toMatchObject({
      status: 200,
      body: {
        switch: "sw",
        port: "p1",
        actual: { native: 100, tagged: [] },
        desired: { native: 100, tagged: [101] },
        lines: ["set p1 to native 100, tagged 101"],
      },
    });
    expect(await ok("POST", "/node/n1/nic/nic/detach_network?dry_run=true", { network: "a" })).toMatchObject({
      actual: { native: 100, tagged: [] },
      desired: emptyPort,
      lines: ["set p1 to nothing"],
    });
    await device.tamper("p1", { native: 100, tagged: [300] });
    expect(await ok("POST", "/v0/switch/sw/port/p1/revert?dry_run=true")).toMatchObject({
      actual: { native: 100, tagged: [300] },
      desired: emptyPort,
    });
    expect(await service.ctx.db.selectFrom("networking_action").selectAll().orderBy("id").execute()).toEqual(before);
    expect(await device.onDevice("p1")).toEqual({ native: 100, tagged: [300] });

    // The same errors as the real call.
    await refused("POST", `${connect}?dry_run=true`, 409, "BlockedError", { network: "a" });
    await refused("POST", `${connect}?dry_run=true`, 404, "NotFoundError", { network: "nope" });
    await refused("POST", `${connect}?dry_run=true`, 400, "BadArgumentError", { network: "b", channel: "x" });
    await refused("POST", "/switch/sw/port/nope/revert?dry_run=true", 404, "NotFoundError");
    for (const query of ["dry_run=", "dry_run", "dry_run=1", "dry_run=True", "dry_run=true&x=1"]) {
      await refused("POST", `${connect}?${query}`, 400, "ValidationError", { network: "b" });
      await refused("POST", `/switch/sw/reconcile?${query}`, 400, "ValidationError");
    }
    expect(await service.call("POST", "/switch/sw/port/p1/revert?dry_run=false")).toMatchObject({ status: 202 });
    await refused("POST", `${connect}?dry_run=true`, 409, "BlockedError", { network: "b" });
  });

  test("reconciling brings every port to its state, and tells what waits", async () => {
    await attach("a");
    await device.tamper("p1", { native: 100, tagged: [300] });
    await device.tamper("p3", { native: 200, tagged: [] });
    expect(await ok("POST", "/switch/sw/reconcile?dry_run=true")).toEqual({
      switch: "sw",
      plan: [
        {
          port: "p1",
          actual: { native: 100, tagged: [300] },
          desired: { native: 100, tagged: [] },
          lines: ["set p1 to native 100"],
          error: null,
        },
        { port: "p3", actual: { native: 200, tagged: [] }, desired: emptyPort, lines: ["set p3 to nothing"], error: null },
      ],
    });
    expect(await queued()).toEqual([]);
    expect(await service.call("POST", "/switch/sw/reconcile")).toMatchObject({ status: 202, body: { ports: ["p1", "p2", "p3"] } });
    const waiting = { reason: null, attempts: 0, next_try: null };
    expect(await ok("GET", "/switch/sw/reconcile")).toEqual({
      pending: ["p1", "p2", "p3"].map((port) => ({ port, ...waiting })),
      suspect: [],
    });
    await service.apply();
    expect(await ok("GET", "/switch/sw/reconcile")).toEqual({ pending: [], suspect: [] });
    expect((await actual()).map((port: any) => port.difference)).toEqual([null, null, null]);
    expect(await device.onDevice("p1")).toEqual({ native: 100, tagged: [] });
    for (const method of ["GET", "POST"]) await refused(method, "/switch/nope/reconcile", 404, "NotFoundError");
  });

  test("a port that waits for its next try shows why, and is not kept waiting by a reconciliation", async () => {
    device.behave(() => ({ applyPort: () => Promise.reject(new SwitchError("it is full of eels")) }));
    await ok("POST", "/switch/sw/reconcile");
    await service.apply();
    const { pending, suspect } = await ok("GET", "/switch/sw/reconcile");
    expect(pending).toHaveLength(3);
    const [{ next_try, ...first }] = pending;
    expect(first).toEqual({ port: "p1", reason: expect.stringContaining("eels"), attempts: 1 });
    expect(new Date(next_try).toISOString()).toBe(next_try);
    expect(suspect[0]).toEqual({ port: "p1", reason: expect.stringContaining("eels") });
    await ok("POST", "/switch/sw/reconcile");
    expect((await queued()).map(({ next_try }) => next_try)).toEqual([0, 0, 0]);
    expect((await actual())[0]).toMatchObject({ pending: true, suspect: expect.stringContaining("eels") });
    device.restore();
    await service.apply();
    expect(await ok("GET", "/switch/sw/reconcile")).toEqual({ pending: [], suspect: [] });
  });

  test("an administrator can declare a suspect port good, and only such a one", async () => {
    const trust = "/switch/sw/port/p1/trust";
    await refused("POST", trust, 409, "BlockedError");
    device.behave(() => ({ applyPort: () => Promise.reject(new SwitchError("it is full of eels")) }));
    await ok("POST", "/switch/sw/reconcile");
    await service.apply();
    const { status_id } = await ok("POST", "/switch/sw/port/p1/revert");
    await refused("POST", trust, 409, "BlockedError");
    await service.ctx.db.deleteFrom("networking_action").where("uuid", "=", status_id).execute();
    expect(await service.call("POST", trust)).toMatchObject({ status: 200, body: "" });
    const { pending, suspect } = await ok("GET", "/switch/sw/reconcile");
    expect([pending, suspect].map((ports) => ports.map(({ port }: any) => port))).toEqual([
      ["p2", "p3"],
      ["p2", "p3"],
    ]);
    await refused("POST", "/switch/sw/port/nope/trust", 404, "NotFoundError");
    await ok("PUT", "/switch/sw/port/gi1/0/1");
    await refused("POST", "/switch/sw/port/gi1/0/1/trust", 409, "BlockedError");
  });

  test("a pinned host key can be forgotten once", async () => {
    await service.ctx.db.updateTable("switch").set({ host_key: "SHA256:abc" }).execute();
    expect((await ok("POST", "/switch/sw/test")).host_key).toBe("SHA256:abc");
    await ok("DELETE", "/switch/sw/host_key");
    await refused("DELETE", "/switch/sw/host_key", 409, "BlockedError");
    await refused("DELETE", "/switch/nope/host_key", 404, "NotFoundError");
  });

  test("no network on the VLAN that a switch needs for itself can be connected there", async () => {
    Object.assign(device.driver, { reservedVlan: () => 101 });
    await attach("a");
    const connect = "/node/n1/nic/nic/connect_network";
    expect(await refused("POST", connect, 409, "BlockedError", { network: "b", channel: "vlan/101" })).toContain("dummy VLAN");
    await refused("POST", `${connect}?dry_run=true`, 409, "BlockedError", { network: "b", channel: "vlan/101" });
    // What is no channel of the network is told first.
    await refused("POST", connect, 400, "BadArgumentError", { network: "b", channel: "vlan/102" });
  });

  describe("the periodic check", () => {
    const logged: { message: string; fields: Record<string, unknown> }[] = [];
    beforeEach(() => {
      logged.length = 0;
      Object.assign(service.ctx.log, {
        warning: (message: string, fields: Record<string, unknown>) => void logged.push({ message, fields }),
      });
    });
    const drift = async () => (await ok("GET", "/drift")).switches;
    /** Let it begin, and wait until every switch has been checked. */
    const check = async () => {
      await service.ctx.db.updateTable("switch").set({ checked_at: null }).execute();
      const verifier = startVerifier(service.ctx)!;
      while ((await drift()).some(({ checked_at }: any) => checked_at === null)) await Bun.sleep(10);
      await verifier.stop();
    };

    test("finds, logs and keeps what is not as it should be, and changes nothing", async () => {
      expect(await drift()).toEqual([{ switch: "sw", checked_at: null, error: null, ports: [] }]);
      const written: string[] = [];
      device.behave(() => ({ applyPort: async (port) => void written.push(port) }));
      await device.tamper("p1", { native: 300, tagged: [] });
      await check();
      const entry = {
        port: "p1",
        desired: emptyPort,
        actual: { native: 300, tagged: [] },
        difference: { missing: emptyPort, excess: { native: 300, tagged: [] } },
      };
      expect(await drift()).toEqual([{ switch: "sw", checked_at: expect.any(String), error: null, ports: [entry] }]);
      expect(logged).toEqual([
        { message: expect.any(String), fields: { switch: "sw", port: "p1", should: "nothing", carries: "native 300" } },
      ]);
      expect(written).toEqual([]);
      expect(await queued()).toEqual([]);

      // A switch that can't be reached is still known to differ.
      device.unreachable();
      await check();
      expect(await drift()).toEqual([
        { switch: "sw", checked_at: expect.any(String), error: expect.stringContaining("no route"), ports: [entry] },
      ]);

      device.restore();
      await ok("POST", "/switch/sw/reconcile");
      await service.apply();
      expect((await drift())[0].ports).toEqual([]);
      await check();
      expect(await drift()).toEqual([{ switch: "sw", checked_at: expect.any(String), error: null, ports: [] }]);
    });

    test("clears what has become right by itself, and names what can't be read", async () => {
      await device.tamper("p1", { native: 300, tagged: [] });
      await check();
      expect((await drift())[0].ports).toHaveLength(1);
      await device.tamper("p1", emptyPort);
      device.behave((session) => ({
        readPorts: (ports) => (ports.includes("p2") ? Promise.reject(new SwitchError("no such port.")) : session.readPorts(ports)),
      }));
      await check();
      expect(await drift()).toMatchObject([{ switch: "sw", error: "no such port.", ports: [] }]);
    });

    test("leaves out what is in motion or suspect", async () => {
      for (const port of ["p1", "p2", "p3"]) await device.tamper(port, { native: 300, tagged: [] });
      await ok("POST", "/switch/sw/port/p1/revert");
      await service.ctx.db.updateTable("port").set({ suspect: "eels" }).where("label", "=", "p2").execute();
      const read: string[] = [];
      device.behave((session) => ({
        async readPorts(ports) {
          read.push(...ports);
          return session.readPorts(ports);
        },
      }));
      await check();
      expect(read).toEqual(["p3"]);
      expect((await drift())[0].ports.map(({ port }: any) => port)).toEqual(["p3"]);
    });

    test("is made once, however many processes look, and not on a switch without ports", async () => {
      await ok("PUT", "/switch/other", mockSwitch);
      await ok("PUT", "/switch/other/port/x");
      await ok("PUT", "/switch/bare", mockSwitch);
      await service.apply();
      const checked: string[] = [];
      device.behave((session, { label }) => ({
        async readPorts(ports) {
          checked.push(label);
          return session.readPorts(ports);
        },
      }));
      const verifiers = [1, 2, 3].map(() => startVerifier(service.ctx)!);
      while ((await drift()).some(({ switch: label, checked_at }: any) => label !== "bare" && checked_at === null)) await Bun.sleep(10);
      await Promise.all(verifiers.map((verifier) => verifier.stop()));
      expect(checked.toSorted()).toEqual(["other", "sw"]);
      expect((await drift()).map(({ switch: label, checked_at }: any) => [label, checked_at === null])).toEqual([
        ["bare", true],
        ["other", false],
        ["sw", false],
      ]);
    });

    test("leaves a switch that others hold for later, and delays no other one", async () => {
      await ok("PUT", "/switch/other", mockSwitch);
      await ok("PUT", "/switch/other/port/x");
      await service.apply();
      const lease = (lease_owner: string | null, lease_until: RawBuilder<number> | number) =>
        service.ctx.db.updateTable("switch").set({ lease_owner, lease_until }).where("label", "=", "sw").execute();
      await lease("elsewhere 1 1", databaseTime(service.ctx.db, 50_000));
      const verifier = startVerifier(service.ctx)!;
      const checkedAt = async (label: string) => (await drift()).find((one: any) => one.switch === label).checked_at;
      while ((await checkedAt("other")) === null) await Bun.sleep(10);
      expect(await checkedAt("sw")).toBeNull();
      await lease(null, 0);
      while ((await checkedAt("sw")) === null) await Bun.sleep(10);
      await verifier.stop();
      expect(logged).toEqual([]);
    });
  });

  describe("the test of a switch", () => {
    const run = () => ok("POST", "/switch/sw/test");

    test("tells how each step went, and what went over the wire, without secrets", async () => {
      const { open } = device.driver;
      await device.tamper("p1", { native: 100, tagged: [200] });
      Object.assign(device.driver, {
        open: async (given: SwitchTarget) => {
          given.observer?.step("connect");
          given.observer?.step("log in");
          given.observer?.line("sent", "show ports");
          given.observer?.line("received", `the device repeats ${mockSwitch.password} here`);
          const session = await open(given);
          return { ...session, close: async () => given.observer?.step("leave") };
        },
      });
      const answer = await run();
      expect(answer).toEqual({
        switch: "sw",
        type: mockSwitch.type,
        ok: true,
        steps: ["connect", "log in", "read port p1", "leave"].map((step) => ({ step, ok: true, ms: expect.any(Number) })),
        port: "p1",
        state: { native: 100, tagged: [200] },
        host_key: null,
        error: null,
        recording: [
          { direction: "sent", text: "show ports", ms: expect.any(Number) },
          { direction: "received", text: "the device repeats *** here", ms: expect.any(Number) },
        ],
      });
    });

    test("a failure is the answer", async () => {
      Object.assign(device.driver, {
        open: async (given: SwitchTarget) => {
          given.observer?.step("connect");
          given.observer?.step("log in");
          throw new SwitchError(`Switch 'sw': it refused ${mockSwitch.password}.`);
        },
      });
      expect(await run()).toMatchObject({
        ok: false,
        steps: [
          { step: "connect", ok: true },
          { step: "log in", ok: false },
        ],
        state: null,
        error: "Switch 'sw': it refused ***.",
      });
      device.restore();
      device.behave((_, given) => ({
        readPorts: () => Promise.reject(new SwitchError("no such port.")),
        close: async () => given.observer?.step("leave"),
      }));
      expect(await run()).toMatchObject({
        ok: false,
        steps: [
          { step: "read port p1", ok: false },
          { step: "leave", ok: true },
        ],
        state: null,
        error: "no such port.",
      });
      await refused("POST", "/switch/nope/test", 404, "NotFoundError");
    });

    test("without a port nothing is read; of an endless session the end is kept", async () => {
      await ok("PUT", "/switch/bare", mockSwitch);
      const { open } = device.driver;
      Object.assign(device.driver, {
        open: async (given: SwitchTarget) => {
          for (let i = 0; i < 5_000; i++) given.observer?.line("received", `line ${i}`);
          return { ...(await open(given)), readPorts: () => Promise.reject(new SwitchError("asked")) };
        },
      });
      const { ok: good, port, state, recording } = await ok("POST", "/switch/bare/test");
      expect({ good, port, state, lines: recording.length, last: recording.at(-1).text }).toEqual({
        good: true,
        port: null,
        state: null,
        lines: 2_000,
        last: "line 4999",
      });
    });
  });
});

test("a switch that stays busy is a BlockedError, and stays as it is", async () => {
  const service = await startService("sqlite");
  try {
    await makeRack(service, { nodes: 1, projects: [] });
    await service.apply();
    await service.ctx.db
      .updateTable("switch")
      .set({ lease_owner: "elsewhere 1 1", lease_until: databaseTime(service.ctx.db, 50_000) })
      .execute();
    const answers = await Promise.all([
      service.call("GET", "/switch/sw/ports/actual"),
      service.call("POST", "/switch/sw/reconcile?dry_run=true"),
      service.call("POST", "/switch/sw/port/p1/revert?dry_run=true"),
      service.call("POST", "/switch/sw/test"),
    ]);
    for (const answer of answers)
      expect(answer).toMatchObject({ status: 409, body: { type: "BlockedError", msg: expect.stringContaining("in use by haas") } });
    const { lease_owner } = await service.ctx.db.selectFrom("switch").select("lease_owner").executeTakeFirstOrThrow();
    expect(lease_owner).toBe("elsewhere 1 1");
  } finally {
    await service.stop();
  }
});

test("a real bridge: what it holds, what would be sent, and that it is mended", async () => {
  const { path, remove } = scratch();
  const lab = await startOvs({ dir: path, name: `hdrift${process.pid}`, bridge: "sw0", ports: ["p1", "p2"] });
  const service = await startService("sqlite");
  const ok = (method: string, at: string, body?: unknown) => service.ok(method, at, body);
  try {
    await ok("PUT", "/switch/sw", { type: mockSwitch.type.replace("mock", "ovs"), ovs_bridge: "sw0", database: lab.db });
    // The bridge has no p3.
    for (const port of ["p1", "p2", "p3"]) await ok("PUT", `/switch/sw/port/${port}`);
    await service.apply();
    await lab.vsctl("set", "port", "p1", "vlan_mode=access", "tag=300", "trunks=[]", "protected=false");
    const { ports } = await ok("GET", "/switch/sw/ports/actual");
    expect(ports.map((port: any) => [port.port, port.actual, port.error === null, port.pending, port.suspect === null])).toEqual([
      ["p1", { native: 300, tagged: [] }, true, false, true],
      ["p2", emptyPort, true, false, true],
      ["p3", null, false, true, false],
    ]);
    expect(ports[2].error).toContain("p3");
    const { plan } = await ok("POST", "/switch/sw/reconcile?dry_run=true");
    expect(plan.map(({ port, lines }: any) => [port, lines.length])).toEqual([
      ["p1", 1],
      ["p3", 0],
    ]);
    expect(plan[0].lines[0]).toStartWith("ovs-vsctl ");
    expect(await ok("POST", "/switch/sw/test")).toMatchObject({ ok: true, port: "p1", state: { native: 300, tagged: [] } });
    await ok("POST", "/switch/sw/reconcile");
    await service.apply();
    expect((await ok("GET", "/switch/sw/ports/actual")).ports[0]).toMatchObject({ port: "p1", actual: emptyPort, difference: null });
    await ok("DELETE", "/switch/sw/port/p3");
  } finally {
    await service.stop();
    await lab.stop();
    remove();
  }
});

test("haas serve checks by itself, and warns of a dummy VLAN that networks can get and of ports that are there twice", async () => {
  const { path, remove } = scratch();
  const uri = await freshUri("sqlite", path);
  const call = async (server: ServerProcess, method: string, at: string, body?: unknown) => {
    const answer = await fetch(server.url + at, { method, ...(body !== undefined && { body: JSON.stringify(body) }) });
    if (!answer.ok) throw new Error(`${method} ${at}: ${answer.status} ${await answer.text()}`);
    return answer;
  };
  try {
    const quiet = await startServer({ kind: "sqlite", uri });
    await call(quiet, "PUT", "/switch/cisco", {
      type: mockSwitch.type.replace("mock", "nexus"),
      hostname: "127.0.0.1:9",
      username: "u",
      password: secrets.console,
      dummy_vlan: "150",
    });
    await call(quiet, "PUT", "/switch/sw", mockSwitch);
    await call(quiet, "PUT", "/switch/sw/port/p1");
    await quiet.stop();
    // As an earlier haas may have left it.
    const db = await openDatabase(uri);
    for (const label of ["Ethernet1/1", "ethernet 1/01"]) await db.insertInto("port").values({ switch_id: 1, label }).execute();
    await db.destroy();
    const server = await startServer({ kind: "sqlite", uri, more: "[network-daemon]\nverify_interval = 1" });
    const checked = async () => ((await (await call(server, "GET", "/drift")).json()) as any).switches[1].checked_at;
    while ((await checked()) === null) await Bun.sleep(20);
    await server.stop();
    expect(server.log()).toMatch(/dummy VLAN.*"switch":"cisco","vlan":150/);
    expect(server.log()).toMatch(/registered twice.*"switch":"cisco","port":"ethernet 1\/01","as":"Ethernet1\/1"/);
    expect(quiet.log()).not.toContain("dummy VLAN");
  } finally {
    remove();
  }
});

test("a dry run of haas reads no switch", async () => {
  const service = await startService("sqlite", { more: "[devel]\ndry_run =\n[network-daemon]\nverify_interval = 1" });
  try {
    await makeRack(service, { nodes: 1, projects: [] });
    await service.apply();
    for (const [method, path] of [
      ["GET", "/switch/sw/ports/actual"],
      ["POST", "/switch/sw/reconcile?dry_run=true"],
      ["POST", "/switch/sw/port/p1/revert?dry_run=true"],
      ["POST", "/switch/sw/test"],
    ] as const) {
      expect(await service.call(method, path)).toMatchObject({
        status: 409,
        body: { type: "BlockedError", msg: expect.stringContaining("dry run") },
      });
    }
    expect(startVerifier(service.ctx)).toBeNull();
  } finally {
    await service.stop();
  }
});

describe("the configuration", () => {
  const load = (more: string) => {
    const { path, remove } = scratch();
    try {
      const file = join(path, "haas.cfg");
      writeFileSync(file, configText({ uri: "sqlite:///haas.db", more }));
      return loadConfig(file);
    } finally {
      remove();
    }
  };

  test("says how often ports are checked: by default never", () => {
    expect(load("").network.verifyIntervalMs).toBeNull();
    expect(load("[network-daemon]\nverify_interval = 0").network.verifyIntervalMs).toBeNull();
    expect(load("[network-daemon]\nverify_interval = 1.5").network.verifyIntervalMs).toBe(1_500);
    for (const value of ["0.5", "86401", "-1", "daily"]) {
      expect(() => load(`[network-daemon]\nverify_interval = ${value}`)).toThrow(ConfigError);
    }
  });

  test("says how long each kind of switch may take", () => {
    const { switchLimits, warnings } = load("[haas.ext.switches.nexus]\nconnect_timeout = 5\ncommand_timeout = 600");
    expect(warnings).toEqual([]);
    expect(switchLimits.nexus).toEqual({ connectTimeoutMs: 5_000, commandTimeoutMs: 600_000 });
    expect(switchLimits.dell).toEqual({ connectTimeoutMs: 30_000, commandTimeoutMs: 120_000 });
    for (const option of ["connect_timeout = 601", "connect_timeout = 0", "command_timeout = 3601", "command_timeout = soon"]) {
      expect(() => load(`[haas.ext.switches.dell]\n${option}`)).toThrow(/\[haas\.ext\.switches\.dell\] \w+_timeout/);
    }
  });
});

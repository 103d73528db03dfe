import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { administrator } from "../../src/auth/caller.ts";
import { databaseTime } from "../../src/db/clock.ts";
import { openDatabase } from "../../src/db/open.ts";
import { write } from "../../src/db/transaction.ts";
import { notPermitted } from "../../src/errors.ts";
import { libvirt } from "../../src/hardware/headnodes/libvirt.ts";
import { switchTypePrefix } from "../../src/hardware/switches/index.ts";
import { freshPort } from "../../src/inventory/switches.ts";
import { createUser } from "../../src/inventory/users.ts";
import { startConsole } from "../sim/console.ts";
import { startServer } from "../support/server.ts";
import { type Answer, databases, makeRack, mockObm, mockSwitch, scratch, type Service, startService } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// What waits for something reads its rights again when it acts. BMCs are in rights.test.ts.

const until = untilWithin(20_000);

describe.each(databases)("what waits, on %s", (kind) => {
  let service: Service;
  const as = (user: string, method: string, path: string, body?: unknown): Promise<Answer> =>
    service.call(method, path, body, { authorization: `Basic ${btoa(`${user}:pw`)}` });
  const ok = async (method: string, path: string, body?: unknown) => {
    const answer = await as("root", method, path, body);
    expect([method, path, answer.status]).toEqual([method, path, 200]);
    return answer.body;
  };
  const leave = () => ok("POST", "/auth/basic/user/alice/remove_project", { project: "p" });
  /** Log in, so that nothing but what is tested waits. */
  const demoted = async () => {
    await createUser(service.ctx.db, administrator, "chief", "pw", true);
    await as("chief", "GET", "/projects");
  };

  beforeEach(async () => {
    service = await startService(kind, { auth: "database" });
    await createUser(service.ctx.db, administrator, "root", "pw", true);
    await createUser(service.ctx.db, administrator, "alice", "pw", false);
    await ok("PUT", "/project/p");
    await ok("POST", "/auth/basic/user/alice/add_project", { project: "p" });
    await as("alice", "GET", "/networks");
  });
  afterEach(() => service.stop());

  test("an allocation that waits for a fresh port is none when its member has left", async () => {
    await ok("PUT", "/switch/sw", mockSwitch);
    await ok("PUT", "/switch/sw/port/p1");
    await ok("PUT", "/node/n", { obm: mockObm });
    await ok("PUT", "/node/n/nic/nic", { macaddr: "m" });
    await ok("POST", "/switch/sw/port/p1/connect_nic", { node: "n", nic: "nic" });
    await service.ctx.db.updateTable("port").set({ suspect: freshPort }).execute();
    const allocated = as("alice", "POST", "/project/p/connect_node", { node: "n" });
    await Bun.sleep(300);
    await leave();
    await service.ctx.db.updateTable("port").set({ suspect: null }).execute();
    expect((await allocated).status).toBe(401);
    expect((await ok("GET", "/node/n")).project).toBeNull();
  });

  test("an allocation whose node somebody had after it was prepared begins anew", async () => {
    await ok("PUT", "/node/n", { obm: { ...mockObm, bootdev: "none" } });
    const driver = service.ctx.obm.byType(mockObm.type);
    const { setBootDevice } = driver;
    let times = 0;
    Object.assign(driver, {
      async setBootDevice(...args: Parameters<typeof setBootDevice>) {
        await setBootDevice(...args);
        // As if this process had been stopped for longer than it holds the node.
        if (++times === 1) await service.ctx.db.updateTable("node").set({ hold: null, hold_until: 0, boot_device: "disk" }).execute();
      },
    });
    try {
      expect((await as("alice", "POST", "/project/p/connect_node", { node: "n" })).status).toBe(409);
      expect((await ok("GET", "/node/n")).project).toBeNull();
      expect((await as("alice", "POST", "/project/p/connect_node", { node: "n" })).status).toBe(200);
    } finally {
      Object.assign(driver, { setBootDevice });
    }
  });

  test("a headnode's call that waits for the one before it, or is between two steps, ends where the right does", async () => {
    const { headnodes } = service.ctx;
    const done: string[] = [];
    let go = () => {};
    const gate = new Promise<void>((resolve) => (go = resolve));
    const { create, start, remove } = headnodes;
    Object.assign(headnodes, {
      async create(target: Parameters<typeof create>[0]) {
        await create(target);
        done.push("create");
        await gate;
      },
      start: (target: Parameters<typeof start>[0]) => start(target).then(() => void done.push("start")),
      remove: (target: Parameters<typeof remove>[0]) => remove(target).then(() => void done.push("remove")),
    });
    await as("alice", "PUT", "/headnode/h", { project: "p", base_img: "img1" });
    const started = as("alice", "POST", "/headnode/h/start");
    await until("the machine is made", () => done.length > 0);
    const waiting = ["stop", "start", "edit"].map((call) => as("alice", "POST", `/headnode/h/${call}`));
    const deleted = as("alice", "DELETE", "/headnode/h");
    await Bun.sleep(200);
    await leave();
    go();
    for (const call of [started, ...waiting, deleted]) expect((await call).status).toBe(401);
    // What was begun is undone, as haas's own act.
    expect(done).toEqual(["create", "remove"]);
    expect(await ok("GET", "/headnode/h")).toMatchObject({ state: "new", editable: true });
  });

  test("a call that waits for a switch sends nothing when its caller is no administrator any more", async () => {
    const device = await startConsole("delln3000", { transport: "telnet" });
    try {
      await ok("PUT", "/switch/sw", { type: `${switchTypePrefix}delln3000`, ...device.settings });
      await ok("PUT", "/switch/sw/port/gi1%2F0%2F1");
      await ok("PUT", "/node/n", { obm: mockObm });
      await ok("PUT", "/node/n/nic/nic", { macaddr: "m" });
      await ok("POST", "/switch/sw/port/gi1%2F0%2F1/connect_nic", { node: "n", nic: "nic" });
      await service.apply();
      await demoted();
      device.behaviour.fault = { kind: "slow", at: 1, delayMs: 1_000 };
      const before = device.received.length;
      const first = as("root", "POST", "/switch/sw/test");
      await until("it is asked", () => device.received.length > before);
      const calls = [
        as("chief", "POST", "/switch/sw/test"),
        as("chief", "GET", "/switch/sw/ports/actual"),
        as("chief", "POST", "/switch/sw/reconcile?dry_run=true"),
        as("chief", "POST", "/switch/sw/port/gi1%2F0%2F1/revert?dry_run=true"),
      ];
      await Bun.sleep(200);
      await ok("PATCH", "/auth/basic/user/chief", { is_admin: false });
      expect((await first).body).toMatchObject({ ok: true });
      const after = device.received.length;
      for (const call of calls) expect((await call).status).toBe(401);
      expect(device.received.slice(after)).toEqual([]);
    } finally {
      await device.stop();
    }
  });

  test("a display is opened, and its password told, to nobody who lost the right while the hypervisor was asked", async () => {
    const { headnodes } = service.ctx;
    const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    try {
      await as("alice", "PUT", "/headnode/h", { project: "p", base_img: "img1" });
      await as("alice", "POST", "/headnode/h/start");
      let asked = false;
      let go = () => {};
      const gate = new Promise<void>((resolve) => (go = resolve));
      const state = async () => {
        asked = true;
        await gate;
        return { kind: "on", vncPort: listener.port };
      };
      Object.assign(headnodes, { displaysElsewhere: null, state });
      const headers = { authorization: `Basic ${btoa("alice:pw")}`, upgrade: "websocket" };
      const opened = service.call("GET", "/headnode/h/vnc", undefined, headers);
      const shown = as("alice", "GET", "/headnode/h");
      await until("the hypervisor is asked", () => asked);
      await leave();
      go();
      expect((await opened).status).toBe(401);
      expect(await shown).toMatchObject({ status: 401, body: { type: "AuthorizationError" } });
    } finally {
      listener.stop(true);
    }
  });

  test("a password that took long to verify gives the rights that there are then", async () => {
    const verify = Bun.password.verify;
    let go = () => {};
    let asked = false;
    const gate = new Promise<void>((resolve) => (go = resolve));
    await createUser(service.ctx.db, administrator, "slow", "pw", true);
    await createUser(service.ctx.db, administrator, "gone", "pw", true);
    Bun.password.verify = async (...args) => {
      const right = await verify(...args);
      asked = true;
      await gate;
      return right;
    };
    try {
      const calls = [as("slow", "GET", "/projects"), as("gone", "GET", "/projects")];
      await until("it is verified", () => asked);
      await service.ctx.db.updateTable("users").set({ is_admin: 0 }).where("label", "=", "slow").execute();
      await service.ctx.db.deleteFrom("users").where("label", "=", "gone").execute();
      go();
      for (const call of calls) expect((await call).status).toBe(401);
    } finally {
      Bun.password.verify = verify;
    }
  });
});

/** Somebody in another process, on another machine, who lives. */
const elsewhere = "elsewhere 1 1";

describe.each(databases)("calls that wait, on %s,", (kind) => {
  let service: Service;
  const as = (user: string, method: string, path: string, body?: unknown): Promise<Answer> =>
    service.call(method, path, body, { authorization: `Basic ${btoa(`${user}:pw`)}` });
  const root = (method: string, path: string, body?: unknown) => as("root", method, path, body);
  /** How many transactions that write there were. */
  const writes = async () => (await service.ctx.db.selectFrom("lineage").select("counter").executeTakeFirstOrThrow()).counter;
  const times = <T>(count: number, call: () => Promise<T>) => Array.from({ length: count }, () => call());
  const later = () => databaseTime(service.ctx.db, 50_000);
  const tally = (answers: Answer[]) =>
    Object.fromEntries([...Map.groupBy(answers, ({ status }) => status)].map(([status, of]) => [status, of.length]));

  beforeEach(async () => {
    service = await startService(kind, { auth: "database" });
    const { db } = service.ctx;
    for (const user of ["root", "alice", "bob"]) await createUser(db, administrator, user, "pw", user === "root");
    const setup: [string, string, unknown?][] = [
      ["PUT", "/project/p"],
      ["POST", "/auth/basic/user/alice/add_project", { project: "p" }],
      ["POST", "/auth/basic/user/bob/add_project", { project: "p" }],
      ["PUT", "/switch/sw", mockSwitch],
      ["PUT", "/switch/bare", { ...mockSwitch, hostname: "other" }],
      ["PUT", "/switch/sw/port/p1"],
      ["PUT", "/switch/sw/port/p2"],
      ...["fresh", "taken", "idle"].map((node): [string, string, unknown] => ["PUT", `/node/${node}`, { obm: { ...mockObm, host: node } }]),
      ["PUT", "/node/fresh/nic/nic", { macaddr: "m" }],
      ["PUT", "/node/taken/nic/nic", { macaddr: "m" }],
      ["POST", "/switch/sw/port/p1/connect_nic", { node: "fresh", nic: "nic" }],
      ["POST", "/project/p/connect_node", { node: "taken" }],
      ["PUT", "/headnode/h", { project: "p", base_img: "img1" }],
    ];
    for (const [method, path, body] of setup) expect([path, (await root(method, path, body)).status]).toEqual([path, 200]);
    for (const user of ["alice", "bob"]) await as(user, "GET", "/networks");
    await service.apply();
    await db.updateTable("port").set({ suspect: freshPort }).execute();
  });
  afterEach(() => service.stop());

  test("write nothing while they wait, are bounded for each user, and hold up nobody", async () => {
    const { db } = service.ctx;
    const before = await writes();
    const refused: Answer[] = [];
    const calls = times(60, async () => {
      const answer = await as("alice", "POST", "/project/p/connect_node", { node: "fresh" });
      if (answer.status === 429) refused.push(answer);
      return answer;
    });
    await until("those that are too many are refused", () => refused.length === 44);
    for (const { body, headers } of refused) {
      expect(body).toEqual({ type: "TooManyRequestsError", msg: "16 of your calls wait already; try again when some of them are done." });
      expect(headers.get("retry-after")).toBe("5");
    }
    const others = as("bob", "POST", "/project/p/connect_node", { node: "fresh" });
    await Bun.sleep(1_000);
    expect(await writes()).toBe(before);
    expect((await root("PUT", "/project/q")).status).toBe(200);
    // What needs no waiting needs no place.
    expect((await as("alice", "POST", "/project/p/connect_node", { node: "idle" })).status).toBe(200);
    expect(refused.length).toBe(44);
    await db.updateTable("port").set({ suspect: null }).execute();
    const answers = await Promise.all([...calls, others]);
    expect(tally(answers)).toEqual({ 200: 1, 409: 16, 429: 44 });
    // The places are free again.
    await db.updateTable("port").set({ suspect: freshPort }).execute();
    expect((await root("POST", "/project/p/detach_node", { node: "fresh" })).status).toBe(200);
    const again = times(16, () => as("alice", "POST", "/project/p/connect_node", { node: "fresh" }));
    await Bun.sleep(300);
    await db.updateTable("port").set({ suspect: null }).execute();
    expect(tally(await Promise.all(again))).toEqual({ 200: 1, 409: 15 });
  });

  interface Wait {
    user: string;
    method: string;
    path: string;
    body?: unknown;
    /** Make it wait, and let it go on. */
    begin(): Promise<unknown>;
    end(): Promise<unknown>;
    /** Statuses that its calls end with, besides 429. */
    ends: number[];
    /** Transactions that a call may need before it waits. */
    first?: number;
  }
  const held = { begin: () => holdNode("taken", `x ${elsewhere}`), end: () => holdNode("taken", null) };
  const holdNode = (label: string, hold: string | null) =>
    service.ctx.db
      .updateTable("node")
      .set({ hold, hold_until: hold === null ? 0 : later() })
      .where("label", "=", label)
      .execute();
  const command = (label: string) => ({
    async begin() {
      const { db } = service.ctx;
      const { id } = await db.selectFrom("node").select("id").where("label", "=", label).executeTakeFirstOrThrow();
      await db.insertInto("obm_command").values({ node_id: id, user_id: null, ends_by: later() }).execute();
    },
    end: () => service.ctx.db.deleteFrom("obm_command").execute(),
  });
  const lease = (table: "switch" | "headnode", label: string) => {
    const set = (lease_owner: string | null) =>
      service.ctx.db
        .updateTable(table as "switch")
        .set({ lease_owner, lease_until: lease_owner === null ? 0 : later() })
        .where("label", "=", label)
        .execute();
    return { begin: () => set(elsewhere), end: () => set(null) };
  };
  const fresh = { begin: async () => {}, end: () => service.ctx.db.updateTable("port").set({ suspect: null }).execute() };

  test.each<[string, Wait]>([
    [
      "a detachment, for another call",
      { user: "alice", method: "POST", path: "/project/p/detach_node", body: { node: "taken" }, ...held, ends: [200, 404, 409] },
    ],
    [
      "an allocation, for a BMC",
      { user: "alice", method: "POST", path: "/project/p/connect_node", body: { node: "idle" }, ...command("idle"), ends: [200, 409] },
    ],
    [
      "forbidding the OBM, for a BMC",
      { user: "alice", method: "PUT", path: "/node/taken/obm", body: { enabled: false }, ...command("taken"), ends: [200], first: 1 },
    ],
    [
      "a headnode's call, for another one",
      { user: "alice", method: "POST", path: "/headnode/h/stop", ...lease("headnode", "h"), ends: [200] },
    ],
    [
      "the deletion of a headnode, for another call",
      { user: "alice", method: "DELETE", path: "/headnode/h", ...lease("headnode", "h"), ends: [200, 404] },
    ],
    [
      "a cable, for a fresh port",
      {
        user: "root",
        method: "POST",
        path: "/switch/sw/port/p2/connect_nic",
        body: { node: "taken", nic: "nic" },
        ...fresh,
        ends: [200, 409],
      },
    ],
    ["the deletion of a node, for a BMC", { user: "root", method: "DELETE", path: "/node/idle", ...command("idle"), ends: [200, 404] }],
    [
      "the deletion of a switch, for who has it",
      { user: "root", method: "DELETE", path: "/switch/bare", ...lease("switch", "bare"), ends: [200, 404], first: 1 },
    ],
  ])("%s, write nothing meanwhile, and have their places", async (_, { user, method, path, body, begin, end, ends, first = 0 }) => {
    const places = user === "root" ? 64 : 16;
    await begin();
    const before = await writes();
    const answers: Answer[] = [];
    const calls = times(places + 10, async () => {
      const answer = await as(user, method, path, body);
      answers.push(answer);
      return answer;
    });
    await until("those that are too many are refused", () => answers.length >= 10);
    let began = -1;
    await until("what they do before they wait is done", async () => {
      const last = began;
      began = await writes();
      return began === last;
    });
    await Bun.sleep(700);
    expect(tally(answers)).toEqual({ 429: 10 });
    // The refused ones, too: whoever has the switch is told that it is wanted.
    expect(began - before).toBeLessThanOrEqual(first * (places + 10));
    expect(await writes()).toBe(began);
    await end();
    const all = await Promise.all(calls);
    const others = all.filter(({ status }) => status !== 429);
    expect(others.length).toBe(places);
    for (const { status } of others) expect(ends).toContain(status);
    expect(others.some(({ status }) => status === 200)).toBe(true);
  });

  test("whoever may not do it, or names what does not exist, is told so at once", async () => {
    const before = await writes();
    expect((await as("alice", "DELETE", "/node/idle")).status).toBe(401);
    expect((await as("alice", "DELETE", "/switch/bare")).status).toBe(401);
    expect((await as("alice", "POST", "/switch/sw/port/p2/connect_nic", { node: "taken", nic: "nic" })).status).toBe(401);
    expect((await root("DELETE", "/node/nope")).status).toBe(404);
    expect((await root("DELETE", "/switch/nope")).status).toBe(404);
    expect((await root("POST", "/switch/sw/port/p9/connect_nic", { node: "taken", nic: "nic" })).status).toBe(404);
    expect((await as("alice", "POST", "/project/q/connect_node", { node: "fresh" })).status).toBe(404);
    expect((await as("alice", "POST", "/headnode/nope/stop")).status).toBe(404);
    expect(await writes()).toBe(before);
  });
});

test("where everybody is an administrator, all together have more places", async () => {
  const service = await startService("sqlite");
  try {
    await makeRack(service, { nodes: 1, projects: ["p"] });
    await service.apply();
    await service.ctx.db.updateTable("port").set({ suspect: freshPort }).execute();
    const statuses: number[] = [];
    const calls = Array.from({ length: 300 }, async () => {
      statuses.push((await service.call("POST", "/project/p/connect_node", { node: "n1" })).status);
    });
    await until("those that are too many are refused", () => statuses.length >= 44);
    await Bun.sleep(200);
    expect(statuses).toEqual(Array.from({ length: 44 }, () => 429));
    await service.ctx.db.updateTable("port").set({ suspect: null }).execute();
    await Promise.all(calls);
    expect(statuses.filter((status) => status === 200).length).toBe(1);
  } finally {
    await service.stop();
  }
}, 60_000);

test("clients that go away while their calls wait leave the places at the end of the wait, at the latest", async () => {
  const place = scratch();
  const uri = `sqlite:///${join(place.path, "haas.db")}`;
  const server = await startServer({ kind: "sqlite", uri, networks: false });
  const db = await openDatabase(uri);
  const port = Number(new URL(server.url).port);
  const put = async (method: string, path: string, body?: unknown) =>
    expect((await fetch(`${server.url}${path}`, { method, ...(body !== undefined && { body: JSON.stringify(body) }) })).status).toBe(200);
  try {
    await put("PUT", "/project/p");
    await put("PUT", "/switch/sw", mockSwitch);
    await put("PUT", "/switch/sw/port/p1");
    await put("PUT", "/node/n", { obm: mockObm });
    await put("PUT", "/node/n/nic/nic", { macaddr: "m" });
    await put("POST", "/switch/sw/port/p1/connect_nic", { node: "n", nic: "nic" });
    await db.updateTable("port").set({ suspect: freshPort }).execute();
    const body = JSON.stringify({ node: "n" });
    const sockets = Array.from({ length: 256 }, () => {
      const socket = connect(port, "127.0.0.1");
      socket.on("error", () => {});
      socket.write(`POST /project/p/connect_node HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
      return socket;
    });
    const tried = () =>
      fetch(`${server.url}/project/p/connect_node`, { method: "POST", body, signal: AbortSignal.timeout(500) }).then(
        ({ status }) => status,
        () => "it waits",
      );
    await until("all places are taken", async () => (await tried()) === 429);
    for (const socket of sockets) socket.destroy();
    await until("places are free again", async () => (await tried()) === "it waits");
    await put("PUT", "/project/q");
  } finally {
    await db.destroy();
    await server.stop();
    place.remove();
  }
}, 60_000);

/** Every change that only administrators may make, on something that allows it. */
const changes: [string, string, unknown?][] = [
  ["PUT", "/project/new"],
  ["DELETE", "/project/empty"],
  ["PUT", "/node/new", { obm: mockObm }],
  ["DELETE", "/node/bare"],
  ["PUT", "/node/n/nic/new", { macaddr: "m" }],
  ["PUT", "/node/n/metadata/new", { value: 1 }],
  ["DELETE", "/node/n/metadata/old"],
  ["POST", "/node/n/power_on"],
  ["PUT", "/node/n/obm", { enabled: false }],
  ["PUT", "/switch/new", mockSwitch],
  ["DELETE", "/switch/bare"],
  ["PUT", "/switch/sw/port/new"],
  ["POST", "/switch/sw/port/loose/connect_nic", { node: "n", nic: "loose" }],
  ["POST", "/switch/sw/port/p1/revert"],
  ["POST", "/switch/sw/port/p1/detach_nic"],
  ["DELETE", "/switch/sw/port/p1"],
  ["DELETE", "/node/n/nic/nic"],
  ["POST", "/switch/sw/port/odd/trust"],
  ["DELETE", "/switch/sw/host_key"],
  ["POST", "/switch/sw/reconcile"],
  ["PUT", "/network/new", { owner: "admin", access: "", net_id: "" }],
  ["DELETE", "/network/old"],
  ["PUT", "/network/private/access/r"],
  ["DELETE", "/network/private/access/granted"],
  ["PUT", "/auth/basic/user/new", { password: "pw" }],
  ["PATCH", "/auth/basic/user/other", { is_admin: true }],
  ["POST", "/auth/basic/user/other/add_project", { project: "r" }],
  ["POST", "/auth/basic/user/other/remove_project", { project: "p" }],
  ["DELETE", "/auth/basic/user/other"],
  ["POST", "/project/p/connect_node", { node: "n" }],
  ["POST", "/project/p/detach_node", { node: "taken" }],
  ["PUT", "/headnode/new", { project: "p", base_img: "img1" }],
  ["PUT", "/headnode/h/hnic/new"],
  ["POST", "/headnode/h/start"],
];

test("a change that waits for its turn at the database is none when its administrator is none any more", async () => {
  const service = await startService("postgres", { auth: "database" });
  const as = (user: string, method: string, path: string, body?: unknown) =>
    service.call(method, path, body, { authorization: `Basic ${btoa(`${user}:pw`)}` });
  try {
    const { db } = service.ctx;
    for (const [user, isAdmin] of [
      ["root", true],
      ["chief", true],
      ["other", false],
    ] as const) {
      await createUser(db, administrator, user, "pw", isAdmin);
    }
    const setup: [string, string, unknown?][] = [
      ...["p", "empty", "r", "granted"].map((project): [string, string] => ["PUT", `/project/${project}`]),
      ...["n", "bare", "taken"].map((node): [string, string, unknown] => ["PUT", `/node/${node}`, { obm: { ...mockObm, host: node } }]),
      ["PUT", "/node/n/nic/nic", { macaddr: "m" }],
      ["PUT", "/node/n/nic/loose", { macaddr: "m" }],
      ["PUT", "/node/n/metadata/old", { value: 1 }],
      ...["sw", "bare"].map((label): [string, string, unknown] => ["PUT", `/switch/${label}`, mockSwitch]),
      ...["p1", "loose", "odd"].map((port): [string, string] => ["PUT", `/switch/sw/port/${port}`]),
      ["POST", "/switch/sw/port/p1/connect_nic", { node: "n", nic: "nic" }],
      ["PUT", "/network/old", { owner: "admin", access: "", net_id: "" }],
      ["PUT", "/network/private", { owner: "admin", access: "granted", net_id: "" }],
      ["POST", "/auth/basic/user/other/add_project", { project: "p" }],
      ["POST", "/project/p/connect_node", { node: "taken" }],
      ["PUT", "/headnode/h", { project: "p", base_img: "img1" }],
    ];
    for (const [method, path, body] of setup) expect([path, (await as("root", method, path, body)).status]).toEqual([path, 200]);
    await service.apply();
    await db.updateTable("port").set({ suspect: "odd" }).where("label", "=", "odd").execute();
    await db.updateTable("switch").set({ host_key: "k" }).where("label", "=", "sw").execute();
    await as("chief", "GET", "/projects");
    const rows = async () => {
      // All but the counter, which this test's own transaction moves.
      const tables = (await db.introspection.getTables()).flatMap(({ name }) => (name === "lineage" ? [] : [name as "node"]));
      const all = await Promise.all(tables.map((name) => db.selectFrom(name).selectAll().execute()));
      return JSON.stringify(all.map((of) => of.map((row) => JSON.stringify(row)).toSorted()));
    };

    const before = await rows();
    let calls: Promise<Answer>[] = [];
    await write(db, async (tx) => {
      calls = changes.map(([method, path, body]) => as("chief", method, path, body));
      // All of them were let in, and wait.
      await Bun.sleep(1_500);
      await tx.updateTable("users").set({ is_admin: 0 }).where("label", "=", "chief").execute();
    });
    const statuses = await Promise.all(calls.map(async (call, i) => [changes[i]![1], (await call).status]));
    expect(statuses).toEqual(changes.map(([, path]) => [path, 401]));
    await db.updateTable("users").set({ is_admin: 1 }).where("label", "=", "chief").execute();
    expect(await rows()).toBe(before);
    // They are all possible: nothing but the right was in the way.
    for (const [method, path, body] of changes) {
      const { status } = await as("chief", method, path, body);
      expect([path, status]).toEqual([path, path.endsWith("revert") || path.endsWith("reconcile") ? 202 : 200]);
      await service.apply();
    }
  } finally {
    await service.stop();
  }
});

/** A `virsh` that has one machine, and says what it was told to change. */
const virsh = (dir: string) => `#!/bin/sh
D='${dir}'
while [ "\${1#--}" != "$1" ]; do case "$1" in --connect) shift 2 ;; *) shift ;; esac; done
case "$1" in
  define|start|autostart|destroy|undefine|vol-delete) echo "$*" >> "$D/changes" ;;
esac
case "$1" in
  domstate) cat "$D/state" ;;
  start) echo running > "$D/state" ;;
  destroy) echo "shut off" > "$D/state" ;;
  define) cat > "$D/xml" ;;
  dumpxml) cat "$D/xml" ;;
  pool-list) echo default ;;
  vol-list) [ -f "$D/volume" ] && cat "$D/volume" ;;
  vol-delete) rm "$D/volume" ;;
esac
exit 0
`;

test("each step of the libvirt driver that changes something asks first, and undoing asks nobody", async () => {
  const place = scratch();
  const path = process.env.PATH;
  try {
    const bin = join(place.path, "bin");
    mkdirSync(bin);
    writeFileSync(join(bin, "virsh"), virsh(place.path));
    chmodSync(join(bin, "virsh"), 0o700);
    process.env.PATH = `${bin}:${path}`;
    const driver = libvirt({ endpoint: "qemu:///system", network: "bridges", ovsBridge: "br" });
    const refusal = notPermitted("gone");
    /** What was changed before `confirm` refused for the `at`th time, and after it. */
    const run = async (call: "start" | "stop" | "remove", at: number) => {
      const on = call !== "start";
      writeFileSync(join(place.path, "changes"), "");
      writeFileSync(join(place.path, "state"), on ? "running" : "shut off");
      writeFileSync(join(place.path, "volume"), "headnode-u-vda /images/headnode-u-vda\n");
      const card = "<interface type='bridge'><source bridge='br-vlan7'/><model type='virtio'/></interface>";
      writeFileSync(join(place.path, "xml"), `<domain><name>headnode-u</name><devices>${on ? card : ""}</devices></domain>`);
      const changes = () =>
        readFileSync(join(place.path, "changes"), "utf8")
          .split("\n")
          .filter((line) => line !== "");
      let asked = 0;
      let before: string[] = [];
      const confirm = async () => {
        if (++asked < at) return;
        before = changes();
        throw refusal;
      };
      const target = {
        label: "h",
        uuid: "u",
        baseImage: "i",
        interfaces: [{ label: "e", vlan: 7 }],
        vncPassword: "12345678",
        confirm,
        confirmHeld: async () => {},
      };
      const error = await driver[call](target).then(
        () => null,
        (thrown: unknown) => thrown,
      );
      return { error, asked, before, after: changes().slice(before.length) };
    };
    const undoing = ["autostart --disable headnode-u", "define /dev/stdin"];
    for (const [call, steps] of [
      ["start", 3],
      ["stop", 3],
      ["remove", 5],
    ] as const) {
      const whole = await run(call, Number.POSITIVE_INFINITY);
      expect({ call, error: whole.error, asked: whole.asked, changes: whole.after.length }).toEqual({
        call,
        error: null,
        asked: steps,
        changes: steps,
      });
      for (let at = 1; at <= steps; at++) {
        const { error, before, after } = await run(call, at);
        expect({ call, at, error, before: before.length }).toEqual({ call, at, error: refusal, before: at - 1 });
        // A start that was begun leaves the machine off, and on no network.
        const undone = call === "start" && at > 1 ? [...(at > 2 ? ["destroy headnode-u"] : []), ...undoing] : [];
        expect({ call, at, after }).toEqual({ call, at, after: undone });
      }
    }
  } finally {
    process.env.PATH = path;
    place.remove();
  }
});

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { administrator } from "../../src/auth/caller.ts";
import { openDatabase } from "../../src/db/open.ts";
import { createUser } from "../../src/inventory/users.ts";
import { basicOf, requestFrom } from "../support/from.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { type DatabaseKind, databases, freshUri, scratch } from "../support/service.ts";
import { slowIpmitool, type SlowIpmitool } from "../support/slow-ipmitool.ts";
import { untilWithin } from "../support/until.ts";

// A right that is taken while a call uses it. What reaches a BMC is in one log, in the order in which it happened, and so is
// the moment at which the answer came that took the right: nothing may begin, or still run, after it.

/** What one command takes. */
const commandSeconds = process.env.HAAS_TEST_WHOLE ? 3 : 0.4;
const until = untilWithin(60_000);
const ipmi = "http://schema.massopencloud.org/haas/v0/obm/ipmi";

/** Every call to a BMC, and how many commands it is. */
const calls = [
  ["power_cycle", "POST", { force: false }, 4],
  ["power_off", "POST", undefined, 1],
  ["power_on", "POST", undefined, 1],
  ["power_status", "GET", undefined, 1],
  ["boot_device", "PUT", { bootdev: "disk" }, 2],
] as const;
const moments = calls.flatMap(([call, method, body, commands]) =>
  Array.from({ length: commands }, (_, at) => ({ call, method, body, at: at + 1, commands })),
);

interface Rack {
  servers: ServerProcess[];
  ipmitool: SlowIpmitool;
  send(server: number, user: string, method: string, path: string, body?: unknown): Promise<{ status: number; body: any }>;
  ok(method: string, path: string, body?: unknown): Promise<any>;
  /** A node of project `p`, or of none. */
  node(name: string, project?: string | null, obm?: object): Promise<void>;
  stop(): Promise<void>;
}

async function startRack(kind: DatabaseKind, servers: number, more = "", seconds = commandSeconds): Promise<Rack> {
  const place = scratch();
  const bin = join(place.path, "bin");
  mkdirSync(bin);
  const ipmitool = slowIpmitool(bin, seconds);
  const uri = await freshUri(kind, place.path);
  const db = await openDatabase(uri);
  await createUser(db, administrator, "root", "pw", true);
  await createUser(db, administrator, "member", "pw", false);
  await db.destroy();
  const running: ServerProcess[] = [];
  for (let i = 0; i < servers; i++) running.push(await startServer({ kind, uri, auth: "database", more, programs: bin }));
  const rack: Rack = {
    servers: running,
    ipmitool,
    async send(server, user, method, path, body) {
      const answer = await fetch(`${running[server]!.url}${path}`, {
        method,
        headers: { authorization: `Basic ${btoa(`${user}:pw`)}` },
        ...(body !== undefined && { body: JSON.stringify(body) }),
      });
      const text = await answer.text();
      return { status: answer.status, body: text === "" ? null : JSON.parse(text) };
    },
    async ok(method, path, body) {
      const answer = await rack.send(0, "root", method, path, body);
      if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
      return answer.body;
    },
    async node(name, project = "p", obm = {}) {
      await rack.ok("PUT", `/node/${name}`, { obm: { type: ipmi, host: name, user: "u", password: "pw", ...obm } });
      if (project !== null) await rack.ok("POST", `/project/${project}/connect_node`, { node: name });
    },
    async stop() {
      await Promise.all(running.map((server) => server.stop()));
      place.remove();
    },
  };
  for (const project of ["p", "q"]) await rack.ok("PUT", `/project/${project}`);
  await rack.ok("POST", "/auth/basic/user/member/add_project", { project: "p" });
  return rack;
}

/** Commands of a BMC in a list of its lines: what begins, and what still runs. */
const commandsIn = (lines: readonly string[]) => lines.filter((line) => line.startsWith("begin ") || line.startsWith("end "));
const afterMark = (rack: Rack, host: string, mark: string) => {
  const lines = rack.ipmitool.lines(host);
  expect(lines).toContain(mark);
  return commandsIn(lines.slice(lines.indexOf(mark) + 1));
};
const begun = (rack: Rack, host: string) => rack.ipmitool.lines(host).filter((line) => line.startsWith("begin ")).length;

const installations: [DatabaseKind, number][] = [
  ["sqlite", 1],
  ["sqlite", 2],
  ["postgres", 2],
  ...(process.env.HAAS_TEST_WHOLE ? [["postgres", 1] as [DatabaseKind, number]] : []),
];

describe.each(installations)("on %s, %p server(s)", (kind, count) => {
  let rack: Rack;
  /** The right is used at the first server, and taken at the last. */
  const other = count - 1;
  let names = 0;

  beforeAll(async () => void (rack = await startRack(kind, count)));
  afterAll(() => rack?.stop());

  /** How each right is taken: who has it and how they lose it. */
  const losses = {
    "the node is detached": {
      user: async () => "member",
      take: (node: string) => rack.send(other, "root", "POST", "/project/p/detach_node", { node }),
    },
    "the node is detached and allocated again": {
      user: async () => "member",
      async take(node: string) {
        const detached = await rack.send(other, "root", "POST", "/project/p/detach_node", { node });
        rack.ipmitool.mark(node, "detached");
        if (detached.status !== 200) return detached;
        return rack.send(0, "root", "POST", "/project/q/connect_node", { node });
      },
    },
    "the member leaves the project": {
      async user() {
        const user = await newUser(false);
        await rack.ok("POST", `/auth/basic/user/${user}/add_project`, { project: "p" });
        return user;
      },
      take: (_: string, user: string) => rack.send(other, "root", "POST", `/auth/basic/user/${user}/remove_project`, { project: "p" }),
    },
    "the user is deleted": {
      user: () => newUser(true),
      take: (_: string, user: string) => rack.send(other, "root", "DELETE", `/auth/basic/user/${user}`),
    },
    "the administrator is none any more": {
      user: () => newUser(true),
      take: (_: string, user: string) => rack.send(other, "root", "PATCH", `/auth/basic/user/${user}`, { is_admin: false }),
    },
    "the OBM is disabled": {
      user: async () => "member",
      take: (node: string) => rack.send(other, "root", "PUT", `/node/${node}/obm`, { enabled: false }),
    },
  };

  async function newUser(isAdmin: boolean): Promise<string> {
    const name = `user${++names}`;
    await rack.ok("PUT", `/auth/basic/user/${name}`, { password: "pw", is_admin: isAdmin });
    return name;
  }

  test.each(Object.keys(losses) as (keyof typeof losses)[])("%s, at each command of each call: not one after it", async (how) => {
    const { user: someUser, take } = losses[how];
    const outcomes = moments.map(async ({ call, method, body, at, commands }, i) => {
      const node = `n${++names}-${i}`;
      await rack.node(node);
      const user = await someUser();
      // Logged in already.
      await rack.send(0, user, "GET", "/networks");
      const answer = rack.send(0, user, method, `/node/${node}/${call}`, body);
      await until(`command ${at} of ${call} begins`, () => begun(rack, node) >= at);
      const queued = rack.send(0, user, "POST", `/node/${node}/power_off`);
      const taken = await take(node, user);
      rack.ipmitool.mark(node, "taken");
      const { status } = await answer;
      const behind = await queued;
      // A user who is gone is a wrong guess, which those who come from the same address would wait for.
      const from = `127.0.1.${i + 1}`;
      const path = `/node/${node}/power_on`;
      const again = await requestFrom(from, Number(new URL(rack.servers[other]!.url).port), basicOf(user, "pw"), { method: "POST", path });
      return { node, call, at, commands, taken, status, behind: behind.status, again: again.status };
    });
    for (const { node, call, at, commands, taken, status, behind, again } of await Promise.all(outcomes)) {
      const lines = rack.ipmitool.lines(node);
      const where = { call, at, lines };
      expect({ ...where, taken }).toEqual({ ...where, taken: { status: 200, body: null } });
      // Only a call whose commands all ran succeeds.
      expect([401, 409, ...(lines.length >= 2 * commands ? [200] : [])]).toContain(status);
      expect([401, 409, ...(lines.some((line) => line.includes("power off")) ? [200] : [])]).toContain(behind);
      expect([401, 409]).toContain(again);
      expect({ ...where, after: afterMark(rack, node, "taken") }).toEqual({ ...where, after: [] });
      if (how !== "the node is detached and allocated again") continue;
      // What the last project set is undone in between, and nothing else is sent.
      const undone = ["chassis bootdev none options=persistent", "chassis bootparam get 5"];
      const sent = call === "boot_device" ? undone.flatMap((one) => [`begin ${one}`, `end ${one}`]) : [];
      expect({ ...where, after: afterMark(rack, node, "detached") }).toEqual({ ...where, after: sent });
    }
  });

  test("a node that is deleted has no command running", async () => {
    await rack.node("goes", null);
    const answer = rack.send(0, "root", "POST", "/node/goes/power_cycle");
    await until("the second command begins", () => begun(rack, "goes") >= 2);
    expect(await rack.send(other, "root", "DELETE", "/node/goes")).toEqual({ status: 200, body: null });
    rack.ipmitool.mark("goes", "deleted");
    expect([200, 404]).toContain((await answer).status);
    expect(afterMark(rack, "goes", "deleted")).toEqual([]);
  });

  test("detached by many at once: one frees the node, the others find it gone", async () => {
    await rack.node("once");
    const answer = rack.send(0, "member", "POST", "/node/once/power_cycle");
    await until("the first command begins", () => begun(rack, "once") >= 1);
    const detach = (server: number) => rack.send(server, "root", "POST", "/project/p/detach_node", { node: "once" });
    const statuses = (await Promise.all([detach(0), detach(other), detach(other)])).map(({ status }) => status);
    rack.ipmitool.mark("once", "free");
    expect(statuses.toSorted((a, b) => a - b)).toEqual([200, 404, 404]);
    expect((await answer).status).toBe(409);
    expect(afterMark(rack, "once", "free")).toEqual([]);
  });

  test("a name that is somebody else's now has not the old one's rights", async () => {
    await rack.node("renamed");
    const user = await newUser(true);
    await rack.send(0, user, "GET", "/networks");
    const answer = rack.send(0, user, "POST", "/node/renamed/power_cycle");
    await until("the first command begins", () => begun(rack, "renamed") >= 1);
    await rack.ok("DELETE", `/auth/basic/user/${user}`);
    rack.ipmitool.mark("renamed", "deleted");
    await rack.ok("PUT", `/auth/basic/user/${user}`, { password: "pw", is_admin: true });
    expect((await answer).status).toBe(401);
    expect(afterMark(rack, "renamed", "deleted")).toEqual([]);
  });

  test("an allocation begins with the OBM enabled, and boots from what the registration says", async () => {
    await rack.node("fresh", null);
    await rack.node("registered", null, { bootdev: "pxe" });
    // Nothing is asked of a BMC that nobody touched.
    expect(await rack.send(0, "member", "POST", "/project/p/connect_node", { node: "fresh" })).toMatchObject({ status: 200 });
    expect(rack.ipmitool.lines("fresh")).toEqual([]);
    await rack.ok("POST", "/project/p/connect_node", { node: "registered" });
    expect(rack.ipmitool.bootDevice("registered")).toBe("pxe");
    for (const node of ["fresh", "registered"]) {
      expect((await rack.send(0, "member", "PUT", `/node/${node}/boot_device`, { bootdev: "disk" })).status).toBe(200);
      expect((await rack.send(0, "member", "PUT", `/node/${node}/obm`, { enabled: false })).status).toBe(200);
      expect(await rack.ok("GET", `/node/${node}`)).toMatchObject({ obm_enabled: false });
      expect((await rack.send(other, "member", "POST", "/project/p/detach_node", { node })).status).toBe(200);
      await rack.ok("POST", "/project/q/connect_node", { node });
      expect(await rack.ok("GET", `/node/${node}`)).toMatchObject({ project: "q", obm_enabled: true });
      await rack.ok("POST", "/project/q/detach_node", { node });
    }
    expect(rack.ipmitool.bootDevice("fresh")).toBe("none");
    expect(rack.ipmitool.bootDevice("registered")).toBe("pxe");
    // Not touched since: not asked again.
    const before = begun(rack, "fresh");
    await rack.ok("POST", "/project/p/connect_node", { node: "fresh" });
    expect(begun(rack, "fresh")).toBe(before);
  });

  test("while a node is prepared, nobody else gets it or its BMC, and a member who leaves gets nothing", async () => {
    await rack.node("prepared", null, { bootdev: "pxe" });
    const user = await newUser(false);
    await rack.ok("POST", `/auth/basic/user/${user}/add_project`, { project: "p" });
    await rack.send(0, user, "GET", "/networks");
    const answer = rack.send(0, user, "POST", "/project/p/connect_node", { node: "prepared" });
    await until("the first command begins", () => begun(rack, "prepared") >= 1);
    expect(await rack.send(other, "root", "POST", "/node/prepared/power_on")).toMatchObject({ status: 409 });
    await rack.ok("POST", `/auth/basic/user/${user}/remove_project`, { project: "p" });
    rack.ipmitool.mark("prepared", "removed");
    expect((await answer).status).toBe(401);
    expect(afterMark(rack, "prepared", "removed")).toEqual([]);
    expect(await rack.ok("GET", "/node/prepared")).toMatchObject({ project: null });
    await rack.ok("POST", "/project/q/connect_node", { node: "prepared" });
  });
});

/** The row of a command that nobody ends lives for eight seconds more than this. */
const shortTimeout = "[haas.ext.obm.ipmi]\ntimeout = 4";
const slowSeconds = 2;

test.concurrent.each(databases)("a server that is killed at a command, or while a node leaves, %s", async (kind) => {
  const rack = await startRack(kind, 2, shortTimeout, slowSeconds);
  try {
    await rack.node("alone");
    const lost = rack.send(0, "member", "POST", "/node/alone/power_cycle").catch(() => null);
    await until("the first command begins", () => begun(rack, "alone") >= 1);
    const leaving = rack.send(0, "root", "POST", "/project/p/detach_node", { node: "alone" }).catch(() => null);
    await until(
      "the node leaves",
      async () => (await rack.send(1, "member", "POST", "/node/alone/power_off")).body?.msg?.includes("leaving") ?? false,
    );
    await rack.servers[0]!.kill("SIGKILL");
    // ipmitool outlives it.
    expect(await rack.send(1, "root", "POST", "/project/p/detach_node", { node: "alone" })).toEqual({ status: 200, body: null });
    rack.ipmitool.mark("alone", "free");
    await Promise.all([lost, leaving]);
    await Bun.sleep(2 * slowSeconds * 1000);
    expect(afterMark(rack, "alone", "free")).toEqual([]);
    expect(rack.ipmitool.lines("alone").filter((line) => line.startsWith("end ")).length).toBe(begun(rack, "alone"));
  } finally {
    await rack.stop();
  }
});

test.concurrent.each(databases)("a server that is paused at a command does not go on when it wakes up, %s", async (kind) => {
  const rack = await startRack(kind, 2, shortTimeout, slowSeconds);
  const { pid } = rack.servers[0]!;
  try {
    await rack.node("asleep");
    const answer = rack.send(0, "member", "POST", "/node/asleep/power_cycle");
    await until("the first command begins", () => begun(rack, "asleep") >= 1);
    process.kill(pid, "SIGSTOP");
    // Its command counts as running until its time is up, for nobody can tell.
    expect(await rack.send(1, "root", "POST", "/project/p/detach_node", { node: "asleep" })).toEqual({ status: 200, body: null });
    expect((await rack.send(1, "root", "POST", "/project/q/connect_node", { node: "asleep" })).status).toBe(200);
    rack.ipmitool.mark("asleep", "somebody else's");
    process.kill(pid, "SIGCONT");
    expect((await answer).status).toBe(409);
    expect(afterMark(rack, "asleep", "somebody else's")).toEqual([]);
  } finally {
    process.kill(pid, "SIGCONT");
    await rack.stop();
  }
});

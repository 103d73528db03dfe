import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { administrator } from "../../src/auth/caller.ts";
import { createUser } from "../../src/inventory/users.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { untilWithin } from "../support/until.ts";
import { databases, freshUri, makeRack, mockObm, mockSwitch, scratch, type Service, startService } from "../support/service.ts";

// Names are what people see of them.

const seg = encodeURIComponent;
const admin = { authorization: `Basic ${btoa("root:root-secret-3b1c")}` };

/** Every kind of name: where one is given, and a place beside it where the same name is another one. */
const kinds: [kind: string, path: (name: string) => string, body: unknown, elsewhere: ((name: string) => string) | null][] = [
  ["project", (name) => `/project/${name}`, undefined, null],
  ["user", (name) => `/auth/basic/user/${name}`, { password: "user-secret-90ab" }, null],
  ["node", (name) => `/node/${name}`, { obm: mockObm }, null],
  ["network", (name) => `/network/${name}`, { owner: "admin", access: "", net_id: "" }, null],
  ["switch", (name) => `/switch/${name}`, mockSwitch, null],
  ["headnode", (name) => `/headnode/${name}`, { project: "shelf", base_img: "img1" }, null],
  ["nic", (name) => `/node/shelf/nic/${name}`, { macaddr: "m" }, (name) => `/node/other/nic/${name}`],
  ["metadata label", (name) => `/node/shelf/metadata/${name}`, { value: 1 }, (name) => `/node/other/metadata/${name}`],
  ["port", (name) => `/switch/shelf/port/${name}`, undefined, (name) => `/switch/other/port/${name}`],
  ["hnic", (name) => `/headnode/shelf/hnic/${name}`, undefined, (name) => `/headnode/other/hnic/${name}`],
];

const unseen = {
  "zero width space": "\u200b",
  "zero width joiner": "\u200d",
  "word joiner": "\u2060",
  "byte order mark": "\ufeff",
  "soft hyphen": "\u00ad",
  "right-to-left override": "\u202e",
  "left-to-right isolate": "\u2066",
  "Arabic letter mark": "\u061c",
  "tag letter": "\u{e0061}",
  "variation selector": "\ufe0f",
  "variation selector 256": "\u{e01ef}",
  "combining grapheme joiner": "\u034f",
  "Hangul filler": "\u3164",
  "halfwidth Hangul filler": "\uffa0",
  "Hangul choseong filler": "\u115f",
  "Khmer inherent vowel": "\u17b4",
  "Mongolian vowel separator": "\u180e",
  "braille blank": "\u2800",
  "interlinear annotation": "\ufff9",
  "object replacement": "\ufffc",
  "null notehead": "\u{1d159}",
  "Egyptian full blank": "\u{13441}",
  "private use": "\ue000",
  unassigned: "\u0378",
  "no-break space": "\u00a0",
  "en quad": "\u2000",
  "ideographic space": "\u3000",
  "narrow no-break space": "\u202f",
};

const alike: [string, string][] = [
  ["é", "e\u0301"],
  ["paypal", "раypal"],
  ["Intel", "Іntel"],
  ["node1", "ｎｏｄｅ１"],
  ["node1", "n\u03bfde1"],
  ["node1", "nоdе1"],
  ["ABC", "АВС"],
  ["k8s", "𝐤𝟖𝐬"],
  ["no", "nօ"],
  ["mini", "mını"],
  ["a b", "a  b"],
  ["fi", "ﬁ"],
  ["n-1", "n\u20101"],
  ["n-1", "n\u20131"],
  ["K", "\u212a"],
  ["Ω", "\u2126"],
  ["ë", "ё"],
  ["m", "ⅿ"],
  ["日本", "⽇本"],
];

const different: [string, string][] = [
  ["n1", "nl"],
  ["nI", "nl"],
  ["n0", "nO"],
  ["rn", "m"],
  ["vv", "w"],
  ["a|b", "alb"],
  ["a", "A"],
  ["'x'", '"x"'],
  ["é", "e"],
  ["😀", "😃"],
  ["日本", "日木"],
  ["ж", "x"],
];

describe.each(databases)("names on %s", (kind) => {
  let service: Service;
  const call = (method: string, path: string, body?: unknown) => service.call(method, path, body, admin);
  const ok = async (method: string, path: string, body?: unknown) => {
    const answer = await call(method, path, body);
    expect([method, path, answer.status, answer.body]).toEqual([method, path, 200, answer.body]);
    return answer.body;
  };
  beforeAll(async () => {
    service = await startService(kind, { auth: "database" });
    await createUser(service.ctx.db, administrator, "root", "root-secret-3b1c", true);
    await ok("PUT", "/project/shelf");
    for (const name of ["shelf", "other"]) {
      await ok("PUT", `/node/${name}`, { obm: mockObm });
      await ok("PUT", `/switch/${name}`, mockSwitch);
      await ok("PUT", `/headnode/${name}`, { project: "shelf", base_img: "img1" });
    }
  }, 60_000);
  afterAll(() => service.stop());

  describe.each(kinds)("of a %s", (what, path, body, elsewhere) => {
    // Each user's password takes a tenth of a second.
    const some = <T>(all: T[]): T[] => (what === "user" ? all.slice(0, 3) : all);

    test("have nothing in them that can't be seen", async () => {
      for (const [which, character] of some(Object.entries(unseen))) {
        // At the ends blanks were refused already, with another type.
        const names = [`a${character}b`, `${character}ab`, `ab${character}`, character];
        for (const name of names) {
          const answer = await call("PUT", path(seg(name)), body);
          expect([which, answer.status]).toEqual([which, 400]);
          expect(answer.body.type).toBeOneOf(["BadArgumentError", "ValidationError"]);
          expect(answer.body.msg).not.toContain("secret");
        }
      }
    });

    test("are not given twice, however they are written", async () => {
      for (const [first, second] of some(alike)) {
        for (const [one, two] of [
          [first, second],
          [second, first],
        ] as const) {
          await ok("PUT", path(seg(one)), body);
          const answer = await call("PUT", path(seg(two)), body);
          expect([one, two, answer.status, answer.body.type]).toEqual([one, two, 409, "DuplicateError"]);
          expect(answer.body.msg).toContain(`'${two}'`);
          expect(answer.body.msg).toContain(`looks like '${one}', which exists already.`);
          // It is the first one's name, and nobody else's; elsewhere it is free.
          if (what !== "metadata label") expect((await call("PUT", path(seg(one)), body)).body.msg).toEndWith("exists already.");
          else await ok("PUT", path(seg(one)), { value: 2 });
          expect((await call("DELETE", path(seg(two)))).status).toBe(404);
          if (elsewhere) {
            await ok("PUT", elsewhere(seg(two)), body);
            await ok("DELETE", elsewhere(seg(two)));
          }
          await ok("DELETE", path(seg(one)));
          await ok("PUT", path(seg(two)), body);
          await ok("DELETE", path(seg(two)));
        }
      }
    });

    test("differ where people see a difference, and in ASCII always", async () => {
      for (const pair of some(different)) {
        for (const name of pair) await ok("PUT", path(seg(name)), body);
        for (const name of pair) await ok("DELETE", path(seg(name)));
      }
    });
  });

  test("metadata labels that are registered with their node are names, too", async () => {
    const at = (metadata: Record<string, unknown>) => call("PUT", "/node/labelled", { obm: mockObm, metadata });
    expect((await at({ "a\u200b": 1 })).status).toBe(400);
    expect((await at({ paypal: 1, раypal: 2 })).status).toBe(409);
    expect((await call("GET", "/node/labelled")).status).toBe(404);
    await ok("PUT", "/node/labelled", { obm: mockObm, metadata: { "": 1, n1: 1, nl: 2 } });
  });

  test("what has such a name already keeps it, and can be named", async () => {
    const { db } = service.ctx;
    // As a migration leaves the second of two that look alike.
    const [old, older] = ["ol\u200bd", "older"];
    for (const label of [old, `${older}\u2060`]) await db.insertInto("project").values({ label }).execute();
    expect(await ok("GET", `/project/${seg(old)}/nodes`)).toEqual([]);
    expect((await call("PUT", `/project/${seg(old)}`)).body.msg).toBe("Project 'ol\\u{200b}d' exists already.");
    await ok("PUT", "/node/in-old", { obm: mockObm });
    await ok("POST", `/project/${seg(old)}/connect_node`, { node: "in-old" });
    await ok("POST", `/project/${seg(old)}/detach_node`, { node: "in-old" });
    await ok("DELETE", `/project/${seg(old)}`);
    const node = await db.selectFrom("node").select("id").where("label", "=", "in-old").executeTakeFirstOrThrow();
    await db.insertInto("node_metadata").values({ node_id: node.id, label: old, value: "1" }).execute();
    await ok("PUT", `/node/in-old/metadata/${seg(old)}`, { value: 2 });
    expect((await ok("GET", "/node/in-old")).metadata).toEqual({ [old]: "2" });
  });

  test("no project is called admin, in whatever letters", async () => {
    const names = [
      "admin",
      "ADMIN",
      "Admin",
      "аdmin",
      "ADМIN",
      "ａｄｍｉｎ",
      "adrnin",
      "admın",
      "adm1n",
      "ADMΙN",
      "𝐚𝐝𝐦𝐢𝐧",
      "ⓐⓓⓜⓘⓝ",
      "a\u0323dmin",
    ];
    for (const name of names) {
      const answer = await call("PUT", `/project/${seg(name)}`);
      expect([name, answer.status, answer.body.type]).toEqual([name, 400, "BadArgumentError"]);
    }
    // One that is there already has its name still, and nothing else changed for it.
    await service.ctx.db.insertInto("project").values({ label: "admin" }).execute();
    expect((await call("PUT", "/project/admin")).body.msg).toBe("Project 'admin' exists already.");
    expect((await call("PUT", `/project/${seg("аdmin")}`)).status).toBe(400);
    await ok("DELETE", "/project/admin");
    for (const name of ["admins", "admin2", "ad-min", "badmin", "amin"]) await ok("PUT", `/project/${name}`);
    // Other things may be called so.
    for (const path of ["/node/admin", "/switch/admin"]) await ok("PUT", path, path === "/node/admin" ? { obm: mockObm } : mockSwitch);
  });

  test("the last administrator stays", async () => {
    const refused = async (method: string, body?: unknown, headers = admin) => {
      const answer = await service.call(method, "/auth/basic/user/root", body, headers);
      expect([answer.status, answer.body.type, answer.body.msg]).toEqual([
        409,
        "IllegalStateError",
        "User 'root' is the last administrator.",
      ]);
    };
    await refused("DELETE");
    await ok("PUT", "/auth/basic/user/plain", { password: "p", is_admin: false });
    await refused("DELETE");
    await ok("PUT", "/auth/basic/user/second", { password: "p", is_admin: true });
    const second = { authorization: `Basic ${btoa("second:p")}` };
    expect((await service.call("PATCH", "/auth/basic/user/root", { is_admin: false }, second)).status).toBe(200);
    expect((await service.call("DELETE", "/auth/basic/user/second", undefined, second)).body.msg).toBe(
      "User 'second' is the last administrator.",
    );
    expect((await service.call("PATCH", "/auth/basic/user/root", { is_admin: true }, second)).status).toBe(200);
    await ok("DELETE", "/auth/basic/user/second");
    await ok("DELETE", "/auth/basic/user/plain");
    await refused("DELETE");
  });
});

describe.each(databases)("where everybody is an administrator, on %s", (kind) => {
  let service: Service;
  beforeEach(async () => {
    service = await startService(kind, { auth: "null" });
  });
  afterEach(() => service.stop());

  test("a project can be called admin, as published clients do", async () => {
    await makeRack(service, { nodes: 1, projects: ["admin"] });
    await service.ok("POST", "/project/admin/connect_node", { node: "n1" });
    expect((await service.call("PUT", `/project/${seg("аdmin")}`)).status).toBe(409);
  });
});

describe.each(databases)("two servers and their administrators, on %s", (kind) => {
  let servers: ServerProcess[] = [];
  let place: ReturnType<typeof scratch>;
  beforeAll(async () => {
    place = scratch();
    const uri = await freshUri(kind, place.path);
    const first = await startService(kind, { uri, auth: "database" });
    for (const name of ["a", "b"]) await createUser(first.ctx.db, administrator, name, "pw", true);
    await first.ctx.db.insertInto("project").values({ label: "Admin" }).execute();
    await first.stop();
    servers = await Promise.all([0, 1].map(() => startServer({ kind, uri, auth: "database", networks: false })));
  }, 60_000);
  afterAll(async () => {
    await Promise.all(servers.map((server) => server.stop()));
    place.remove();
  });

  const as = (server: number, user: string, method: string, path: string, body?: unknown) =>
    fetch(servers[server]!.url + path, {
      method,
      headers: { authorization: `Basic ${btoa(`${user}:pw`)}` },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });

  test("their start warns of a project that is named like them", async () => {
    const { log } = servers[0]!;
    await untilWithin(10_000, log)("a warning", () => log().includes("a project is named like the administrators"));
  });

  test.each(["DELETE", "PATCH"])(
    "of two who %s each other at once, one stays",
    async (method) => {
      for (let round = 0; round < 10; round++) {
        const body = method === "PATCH" ? { is_admin: false } : undefined;
        const [one, two] = await Promise.all([
          as(0, "a", method, "/auth/basic/user/b", body),
          as(1, "b", method, "/auth/basic/user/a", body),
        ]);
        const statuses = [one.status, two.status].toSorted((a, b) => a - b);
        expect([
          [200, 401],
          [200, 409],
        ]).toContainEqual(statuses);
        const [left, gone] = one.status === 200 ? ["a", "b"] : ["b", "a"];
        const again =
          method === "PATCH"
            ? await as(0, left, "PATCH", `/auth/basic/user/${gone}`, { is_admin: true })
            : await as(0, left, "PUT", `/auth/basic/user/${gone}`, { password: "pw", is_admin: true });
        expect(again.status).toBe(200);
      }
    },
    60_000,
  );
});

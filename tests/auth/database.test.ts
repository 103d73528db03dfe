import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import { administrator, anonymous, type Authenticator } from "../../src/auth/caller.ts";
import { databaseAuthenticator, hashPassword } from "../../src/auth/database.ts";
import { openDatabase } from "../../src/db/open.ts";
import { CredentialsError, type HaasError } from "../../src/errors.ts";
import { createUser } from "../../src/inventory/users.ts";
import { databases, type Service, startService } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

const basic = (name: string, password: string, scheme = "Basic ") => `${scheme}${Buffer.from(`${name}:${password}`).toString("base64")}`;
const raw = (bytes: string, scheme = "Basic ") => `${scheme}${Buffer.from(bytes, "latin1").toString("base64")}`;

const until = untilWithin(30_000);

let service: Service;
let verifications: ReturnType<typeof spyOn<typeof Bun.password, "verify">>;

const root = basic("root", "root-pw");
const get = (authorization: string | null, path = "/nodes/all", headers: Record<string, string> = {}) =>
  service.call("GET", path, undefined, { ...(authorization !== null && { authorization }), ...headers });
const wrong = (authenticator: Authenticator, name: string, address: string, password: string) =>
  expect((async () => authenticator.authenticate(basic(name, password), address))()).rejects.toBeInstanceOf(CredentialsError);

async function begin(kind: (typeof databases)[number] = "sqlite", more = ""): Promise<void> {
  service = await startService(kind, { auth: "database", more });
  await createUser(service.ctx.db, administrator, "root", "root-pw", true);
  verifications = spyOn(Bun.password, "verify");
}

afterEach(async () => {
  verifications?.mockRestore();
  await service?.stop();
});

const refused = (answer: Awaited<ReturnType<typeof get>>) => {
  expect(answer).toMatchObject({ status: 401, body: { type: "AuthorizationError" } });
  expect(answer.headers.get("www-authenticate")).toBe('Basic realm="haas", charset="UTF-8"');
  expect(answer.headers.get("x-request-id")).toBeTruthy();
};

describe("the header", () => {
  beforeEach(() => begin());

  test.each(["Basic ", "basic ", "BASIC ", "bAsIc ", "Basic   "])("the scheme is written in any case: %j", async (scheme) => {
    expect((await get(basic("root", "root-pw", scheme))).status).toBe(200);
  });

  test.each([
    ["colons in the password", "colons", "a:b::c:"],
    ["letters beyond ASCII in both", "jürgen", "pässwörd ✓ 🐰"],
    ["an empty password", "empty", ""],
    ["blanks at the ends of the password", "blank", " x "],
    ["a password of 4096 characters", "long", "x".repeat(4096)],
    ["control characters in the password", "control", "a\tb\u0001"],
    ["a password that looks like a hash", "hash", "$argon2id$v=19$m=65536,t=2,p=1$AAAA$AAAA"],
  ])("%s", async (_, name, password) => {
    await service.ok("GET", "/swagger/json");
    expect((await service.call("PUT", `/auth/basic/user/${encodeURIComponent(name)}`, { password }, { authorization: root })).status).toBe(
      200,
    );
    expect((await get(basic(name, password))).status).toBe(200);
    refused(await get(basic(name, `${password}x`)));
    if (password !== "") {
      refused(await get(basic(name, password.slice(1))));
      refused(await get(basic(name, "")));
    }
  });

  test("a password is compared to its last character", async () => {
    const long = "p".repeat(3000);
    await createUser(service.ctx.db, administrator, "u", `${long}a`, false);
    expect((await get(basic("u", `${long}a`))).status).toBe(200);
    refused(await get(basic("u", `${long}b`)));
    refused(await get(basic("u", long)));
    await createUser(service.ctx.db, administrator, "nul", "before\0after", false);
    expect((await get(basic("nul", "before\0after"))).status).toBe(200);
    refused(await get(basic("nul", "before")));
  });

  test("names are compared by case, and by their bytes", async () => {
    refused(await get(basic("Root", "root-pw")));
    refused(await get(basic("root ", "root-pw")));
    refused(await get(basic(" root", "root-pw")));
  });

  test.each([
    ["nothing", ""],
    ["the scheme alone", "Basic"],
    ["the scheme and a blank", "Basic "],
    ["no base64", "Basic !!!"],
    ["base64 with rubbish in it", `Basic cm9v@@@dDpyb290LXB3`],
    ["base64 cut off", "Basic cm9vdDpyb290LXB"],
    ["a second word", "Basic cm9vdDpyb290LXB3 x"],
    ["the other alphabet", "Basic cm9v_DpyPz8-"],
    ["no colon", raw("root")],
    ["no name", raw(":root-pw")],
    ["only a colon", raw(":")],
    ["bytes that are no UTF-8", raw("root:\xff\xfe")],
    ["another scheme", "Bearer cm9vdDpyb290LXB3"],
    ["another scheme that begins like it", "Basically cm9vdDpyb290LXB3"],
    ["digest", 'Digest username="root", response="0"'],
    ["a name that no user can have", basic("a/b", "x")],
    ["SQL", basic("root' or '1'='1", "x")],
    ["100 kB of it", `Basic ${"A".repeat(100_000)}`],
  ])("%s is no credential: 401, and says how to log in", async (_, authorization) => {
    refused(await get(authorization));
  });

  test("none at all is 401 as well, before anything else is looked at", async () => {
    refused(await get(null));
    refused(await get(null, "/node/nope"));
    refused(await service.call("PUT", "/project/p", "{"));
    refused(await service.call("PUT", "/project/p?x=1", { unknown: 1 }, { authorization: basic("root", "wrong") }));
    expect(verifications).toHaveBeenCalledTimes(1);
  });

  test("no answer and no thrown error has the password in it", async () => {
    const answer = await get(basic("root", "a-secret-that-is-wrong"));
    expect(JSON.stringify(answer.body)).not.toContain("a-secret");
  });
});

describe("users at creation", () => {
  beforeEach(() => begin());

  test("a password of more than 4096 characters is 400, and is not repeated", async () => {
    const answer = await service.call("PUT", "/auth/basic/user/u", { password: "secret".repeat(1000) }, { authorization: root });
    expect(answer).toMatchObject({ status: 400, body: { type: "ValidationError" } });
    expect(answer.body.msg).not.toContain("secretsecret");
    expect(await service.call("PUT", "/auth/basic/user/u", { password: "x".repeat(5000) }, { authorization: root })).toMatchObject({
      status: 400,
    });
  });

  test("what is stored is an argon2id hash, another one each time", async () => {
    for (const name of ["one", "two"]) await service.call("PUT", `/auth/basic/user/${name}`, { password: "same" }, { authorization: root });
    const rows = await service.ctx.db.selectFrom("users").select("password_hash").where("label", "in", ["one", "two"]).execute();
    expect(rows.map(({ password_hash }) => password_hash)).toEqual([
      expect.stringMatching(/^\$argon2id\$/),
      expect.stringMatching(/^\$argon2id\$/),
    ]);
    expect(rows[0]!.password_hash).not.toBe(rows[1]!.password_hash);
  });

  test("the list of users shows no hash", async () => {
    expect((await get(root, "/auth/basic/users")).body).toEqual({ root: { is_admin: true, projects: [] } });
  });
});

describe.each(databases)("a change of a user counts at once, on %s", (kind) => {
  beforeEach(() => begin(kind));
  const as = (authorization: string, method: string, path: string, body?: unknown) => service.call(method, path, body, { authorization });
  const alice = basic("alice", "pw");

  test("deleted, created again, promoted, demoted, into a project and out", async () => {
    const status = async (path = "/nodes/all") => (await get(alice, path)).status;
    expect((await as(root, "PUT", "/auth/basic/user/alice", { password: "pw" })).status).toBe(200);
    expect(await status()).toBe(200);
    expect(await status("/projects")).toBe(401);
    await as(root, "PATCH", "/auth/basic/user/alice", { is_admin: true });
    expect(await status("/projects")).toBe(200);
    await as(root, "PATCH", "/auth/basic/user/alice", { is_admin: false });
    expect(await status("/projects")).toBe(401);
    await as(root, "PUT", "/project/p");
    expect(await status("/project/p/nodes")).toBe(401);
    await as(root, "POST", "/auth/basic/user/alice/add_project", { project: "p" });
    expect(await status("/project/p/nodes")).toBe(200);
    await as(root, "POST", "/auth/basic/user/alice/remove_project", { project: "p" });
    expect(await status("/project/p/nodes")).toBe(401);
    await as(root, "DELETE", "/auth/basic/user/alice");
    refused(await get(alice));
    await as(root, "PUT", "/auth/basic/user/alice", { password: "other" });
    refused(await get(alice));
    expect((await get(basic("alice", "other"))).status).toBe(200);
  });

  test("also when another process made it", async () => {
    await as(root, "PUT", "/auth/basic/user/alice", { password: "pw", is_admin: true });
    expect((await get(alice, "/projects")).status).toBe(200);
    const other = await openDatabase(service.ctx.config.databaseUri);
    try {
      const elsewhere = databaseAuthenticator(other, true);
      expect(await elsewhere.authenticate(alice, "127.0.0.1")).toMatchObject({
        caller: { user: { label: "alice" } },
        rights: { isAdmin: true },
      });
      await other.updateTable("users").set({ is_admin: 0 }).where("label", "=", "alice").execute();
      expect((await get(alice, "/projects")).status).toBe(401);
      await other
        .updateTable("users")
        .set({ password_hash: await hashPassword("new") })
        .where("label", "=", "alice")
        .execute();
      refused(await get(alice));
      expect((await get(basic("alice", "new"))).status).toBe(200);
      await other.deleteFrom("users").where("label", "=", "alice").execute();
      refused(await get(basic("alice", "new")));
      await expect((async () => elsewhere.authenticate(basic("alice", "new"), "127.0.0.1"))()).rejects.toBeInstanceOf(CredentialsError);
      await createUser(other, administrator, "alice", "pw", false);
      expect(await elsewhere.authenticate(alice, "127.0.0.1")).toMatchObject({
        caller: { user: { label: "alice" } },
        rights: { isAdmin: false },
      });
      expect((await get(alice)).status).toBe(200);
    } finally {
      await other.destroy();
    }
  });
});

describe("guesses", () => {
  beforeEach(() => begin());

  test("a name that is no user costs the same verification as one that is", async () => {
    refused(await get(basic("root", "wrong")));
    const [, ofUser] = verifications.mock.calls[0]!;
    verifications.mockClear();
    refused(await get(basic("nobody", "wrong")));
    refused(await get(basic("nobody-else", "")));
    expect(verifications).toHaveBeenCalledTimes(2);
    // Same algorithm, same cost; and both answers are one sentence.
    const cost = (hash: unknown) => String(hash).split("$").slice(1, 4).join("$");
    for (const [, hash] of verifications.mock.calls) expect(cost(hash)).toBe(cost(ofUser));
    expect((await get(basic("nobody", "wrong"))).body.msg).toBe((await get(basic("root", "wrong"))).body.msg);
  });

  test("the password of the stand-in lets nobody in", async () => {
    for (const password of ["", "haas:", "haas"]) refused(await get(basic("nobody", password)));
  });

  test("a right password is verified once, and a wrong one that is repeated counts once", async () => {
    for (let i = 0; i < 30; i++) expect((await get(root)).status).toBe(200);
    expect(verifications).toHaveBeenCalledTimes(1);
    for (let i = 0; i < 30; i++) refused(await get(basic("root", "the same mistake")));
    expect(verifications).toHaveBeenCalledTimes(2);
  });

  test("who is signed in stays so, however long ago that was and however many guesses there were since", async () => {
    const { authenticator } = service.ctx;
    expect((await get(root)).status).toBe(200);
    refused(await get(basic("root", "the same mistake")));
    verifications.mockImplementation(async () => false);
    for (let i = 0; i < 10_100; i++) await wrong(authenticator, `name-${i}`, `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`, "x");
    verifications.mockClear();
    const now = performance.now.bind(performance);
    const later = spyOn(performance, "now").mockImplementation(() => now() + 40 * 24 * 3600_000);
    try {
      expect((await get(root)).status).toBe(200);
      expect(verifications).not.toHaveBeenCalled();
    } finally {
      later.mockRestore();
    }
  });

  /** How 300 different guesses at once end, by status; `verified` is how many cost a verification. */
  async function storm(of: (i: number) => [name: string, address: string]) {
    verifications.mockClear();
    verifications.mockImplementation(async () => false);
    const answers = await Promise.all(
      Array.from({ length: 300 }, (_, i) =>
        (async () => service.ctx.authenticator.authenticate(basic(of(i)[0], `guess-${i}`), of(i)[1]))().then(
          () => "let in",
          (error: HaasError) => `${error.type} ${error.retryAfterSeconds}`,
        ),
      ),
    );
    const verified = verifications.mock.calls.length;
    const refusals = answers.filter((answer) => answer === "TooManyRequestsError 10").length;
    expect(answers.filter((answer) => answer === "AuthorizationError null").length).toBe(verified);
    expect(verified + refusals).toBe(300);
    return verified;
  }

  // The free ones, and those whose turn comes within ten seconds: which each of them takes.
  const storms: [string, (i: number) => [string, string]][] = [
    ["on one account from one address", () => ["root", "10.0.0.1"]],
    ["on many accounts from one address", (i) => [`user-${i}`, "10.0.0.1"]],
    ["on one account from many addresses", (i) => ["root", `10.0.${i >> 8}.${i & 255}`]],
    ["on a name that is no user, from many addresses", (i) => ["nobody", `10.0.${i >> 8}.${i & 255}`]],
    ["from one IPv6 network", (i) => [`user-${i}`, `2001:db8:1:2:${i.toString(16)}::${i.toString(16)}`]],
    ["from one IPv4 address, in three spellings", (i) => [`user-${i}`, ["::ffff:10.0.0.1", "10.0.0.1", "::FFFF:a00:1"][i % 3]!]],
  ];
  const tried = process.env.HAAS_TEST_WHOLE ? storms : storms.filter((_, i) => i % 2 === 0);
  test.each(tried)("300 guesses at once %s are not all verified", async (_, of) => {
    const verified = await storm(of);
    expect(verified).toBeGreaterThanOrEqual(5);
    expect(verified).toBeLessThanOrEqual(20);
  });

  test("IPv6 networks are counted each by itself", async () => {
    for (let i = 0; i < 12; i++) await wrong(service.ctx.authenticator, `user-${i}`, `2001:db8:1:${i.toString(16)}::1`, "x");
    expect(verifications).toHaveBeenCalledTimes(12);
  });

  test("300 times the same mistake at once is one guess, and so is one right password from everywhere", async () => {
    verifications.mockClear();
    for (const answer of await Promise.all(Array.from({ length: 300 }, () => get(basic("root", "mistake"))))) refused(answer);
    expect(verifications).toHaveBeenCalledTimes(1);
    verifications.mockClear();
    const { authenticator } = service.ctx;
    const logins = Array.from({ length: 50 }, (_, i) => authenticator.authenticate(root, `10.0.0.${i}`));
    for (const { rights } of await Promise.all(logins)) expect(rights.isAdmin).toBe(true);
    expect(verifications).toHaveBeenCalledTimes(1);
  });

  test("many users who log in from one address at once all get in", async () => {
    const { db, authenticator } = service.ctx;
    const password_hash = await hashPassword("pw");
    const users = Array.from({ length: 40 }, (_, i) => `user-${i}`);
    await db
      .insertInto("users")
      .values(users.map((label) => ({ label, look: label, password_hash, is_admin: 0 as const })))
      .execute();
    verifications.mockImplementation(async () => true);
    const logins = await Promise.all(users.map((label) => authenticator.authenticate(basic(label, "pw"), "10.0.0.1")));
    expect(logins.map(({ caller }) => caller.user?.label)).toEqual(users);
    // They were no guesses: the next one has its turn at once.
    verifications.mockImplementation(async () => false);
    for (let i = 0; i < 5; i++) await wrong(authenticator, "user-1", "10.0.0.1", `x${i}`);
    expect(verifications).toHaveBeenCalledTimes(45);
  });

  test("when too many wait, those go whose addresses tried most often, and who comes from elsewhere is next", async () => {
    const { authenticator } = service.ctx;
    const order: string[] = [];
    const gate = Promise.withResolvers<void>();
    let active = 0;
    let most = 0;
    verifications.mockImplementation(async (password) => {
      order.push(String(password));
      most = Math.max(most, ++active);
      await gate.promise;
      active--;
      return String(password) === "haas:root-pw";
    });
    const refusals: string[] = [];
    const answers: Promise<unknown>[] = [];
    for (let i = 0; i < 400; i++) {
      const address = `10.1.0.${i % 10}`;
      answers.push(
        (async () => authenticator.authenticate(basic(`u${i}`, `x${i}`), address))().catch((error: HaasError) => {
          if (error.type === "TooManyRequestsError") refusals.push(address);
        }),
      );
    }
    await until("those that are too many are refused", () => refusals.length > 0 && order.length > 0);
    const first = order.length;
    const login = authenticator.authenticate(root, "10.2.0.1");
    await Bun.sleep(100);
    gate.resolve();
    expect(await login).toMatchObject({ caller: { user: { label: "root" } } });
    expect(order.indexOf("haas:root-pw")).toBe(first);
    await Promise.all(answers);
    expect(most).toBeLessThanOrEqual(2);
    // All are empty again.
    verifications.mockClear();
    await wrong(authenticator, "somebody", "10.2.0.2", "x");
    expect(verifications).toHaveBeenCalledTimes(1);
  }, 60_000);

  test("a password that was changed while it waited lets nobody in", async () => {
    const { authenticator, db } = service.ctx;
    const gate = Promise.withResolvers<void>();
    verifications.mockImplementation(async () => {
      await gate.promise;
      return true;
    });
    const login = (async () => authenticator.authenticate(root, "10.0.0.1"))();
    await until("it is verified", () => verifications.mock.calls.length > 0);
    await db
      .updateTable("users")
      .set({ password_hash: await hashPassword("new") })
      .where("label", "=", "root")
      .execute();
    gate.resolve();
    await expect(login).rejects.toBeInstanceOf(CredentialsError);
  });
});

describe("require_authentication = False", () => {
  beforeEach(() => begin("sqlite", "[auth]\nrequire_authentication = False"));

  test("anonymous callers read what is public, and no more", async () => {
    const asRoot = { authorization: root };
    await service.call("PUT", "/network/public", { owner: "admin", access: "", net_id: "" }, asRoot);
    await service.call("PUT", "/project/p", undefined, asRoot);
    await service.call("PUT", "/network/private", { owner: "p", access: "p", net_id: "" }, asRoot);
    expect((await get(null, "/networks")).body).toEqual({ public: { network_id: "100", projects: null } });
    for (const path of ["/nodes/all", "/nodes/free", "/network/public", "/headnode_images/"])
      expect({ path, status: (await get(null, path)).status }).toEqual({ path, status: 200 });
    for (const path of ["/projects", "/network/private", "/project/p/nodes", "/switches", "/auth/basic/users", "/active_extensions"]) {
      expect({ path, status: (await get(null, path)).status }).toEqual({ path, status: 401 });
    }
    expect(await service.ctx.authenticator.authenticate(null, "127.0.0.1")).toEqual(anonymous);
  });

  test("wrong credentials are 401 there too, right ones count", async () => {
    refused(await get(basic("root", "wrong"), "/networks"));
    refused(await get("Basic rubbish!", "/networks"));
    refused(await get("", "/networks"));
    expect((await get(root, "/projects")).status).toBe(200);
  });
});

test("an authenticator knows nothing of another one's verdicts", async () => {
  await begin();
  const fresh = (): Authenticator => databaseAuthenticator(service.ctx.db, true);
  await fresh().authenticate(root, "127.0.0.1");
  await fresh().authenticate(root, "127.0.0.1");
  expect(verifications).toHaveBeenCalledTimes(2);
});

test("who is calling comes before what is wrong with the body", async () => {
  await begin();
  for (const body of ["junk", "[]", "x".repeat(1_100_000)]) refused(await service.call("PUT", "/project/x", body));
  expect((await service.call("PUT", "/project/x", "x".repeat(1_100_000), { authorization: root })).status).toBe(413);
  expect((await service.call("PUT", "/project/x", "junk", { authorization: root })).status).toBe(400);
});

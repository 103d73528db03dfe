import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { type App, createApp } from "../../src/app.ts";
import { AbortedError, UnavailableError } from "../../src/errors.ts";
import { type Arrival, arrivalOf } from "../../src/http/arrival.ts";
import { Refusals } from "../../src/http/refusals.ts";
import type { Log, LogFields, LogLevel } from "../../src/log.ts";
import { startServer } from "../support/server.ts";
import { mockObm, type Service, startService } from "../support/service.ts";

// What those cost who have shown no credentials: nothing of their body is read, and few lines of the log are theirs.

interface Line extends LogFields {
  level: LogLevel;
  message: string;
}

const lines: Line[] = [];
const at = (level: LogLevel) => (message: string, fields?: LogFields) => void lines.push({ ...fields, level, message });
const log: Log = {
  enabled: (level) => level !== "debug",
  debug: () => {},
  info: at("info"),
  warning: at("warning"),
  error: at("error"),
  critical: at("critical"),
};
const refusals = new Refusals(log);

let service: Service;
let app: App;

const basic = (user: string, password = "pw") => ({ authorization: `Basic ${btoa(`${user}:${password}`)}` });

beforeAll(async () => {
  service = await startService("sqlite", { auth: "database", more: "[auth]\nrequire_authentication = False" });
  app = createApp({ ...service.ctx, log }, refusals);
  const { createUser } = await import("../../src/inventory/users.ts");
  const { administrator } = await import("../../src/auth/caller.ts");
  for (const [name, isAdmin] of [
    ["root", true],
    ["alice", false],
    ["mallory", true],
  ] as const)
    await createUser(service.ctx.db, administrator, name, "pw", isAdmin);
  await ask("PUT", "/node/n", { headers: basic("root"), body: JSON.stringify({ obm: mockObm }) });
});
afterAll(() => service.stop());
beforeEach(() => {
  refusals.flush();
  lines.splice(0);
});

interface Asked {
  status: number;
  type: string | null;
  headers: Headers;
  /** The limits that the body was asked for with. */
  bodies: number[];
  signedIn: number;
}

async function ask(
  method: string,
  path: string,
  {
    headers = {},
    body = "",
    address = "192.0.2.1",
    reading = async () => {},
    to = app,
  }: { headers?: Record<string, string>; body?: string; address?: string; reading?: () => Promise<unknown>; to?: App } = {},
): Promise<Asked> {
  const request = new Request(`http://haas${path}`, { method, headers });
  const bodies: number[] = [];
  let signedIn = 0;
  const arrival: Arrival = {
    ...arrivalOf(request),
    address,
    async body(limit) {
      bodies.push(limit);
      await reading();
      return Buffer.from(body);
    },
    signedIn: () => void signedIn++,
  };
  const answer = await to.handle(request, arrival);
  const text = await answer.text();
  expect(answer.headers.get("x-request-id")).toBeTruthy();
  if (answer.status >= 400) expect(Object.keys(JSON.parse(text))).toEqual(["type", "msg"]);
  return { status: answer.status, type: answer.status < 400 ? null : JSON.parse(text).type, headers: answer.headers, bodies, signedIn };
}

const length = (bytes: number) => ({ "content-length": String(bytes) });
const kib = 1024;

describe("before a byte of the body is asked for", () => {
  const node = JSON.stringify({ obm: mockObm });
  test.each([
    ["an unknown path", "PUT", "/no/such/path", basic("root"), 404],
    ["a method that the path lacks", "PATCH", "/node/x", basic("root"), 405],
    ["a page of another site", "PUT", "/node/x", { ...basic("root"), origin: "http://evil.example" }, 403],
    ["a wrong password", "PUT", "/node/x", basic("root", "guess"), 401],
    ["a user that there is not", "PUT", "/node/x", basic("nobody"), 401],
    ["no credentials that anybody could read", "POST", "/project/p/connect_node", { authorization: "Bearer x" }, 401],
    ["a length over the limit", "PUT", "/switch/x", { ...basic("root"), ...length(64 * kib + 1) }, 413],
    ["a length over the limit of metadata", "PUT", "/node/n/metadata/m", { ...basic("root"), ...length(kib * kib + 1) }, 413],
    ["a large body of a call for administrators only", "PUT", "/v0/node/n/metadata/m", { ...basic("alice"), ...length(64 * kib + 1) }, 401],
    ["the same of somebody who has not signed in", "PUT", "/node/x", length(64 * kib + 1), 401],
    ["a repeated parameter", "PUT", "/node/x?a=1&a=2", basic("root"), 400],
    ["a hundred and one parameters", "PUT", `/node/x?${Array.from({ length: 101 }, (_, i) => `p${i}=1`).join("&")}`, basic("root"), 400],
  ] as const)("%s is refused", async (_, method, path, headers, status) => {
    const asked = await ask(method, path, { headers, body: node });
    expect({ status: asked.status, bodies: asked.bodies }).toEqual({ status, bodies: [] });
  });

  test("64 KiB for every call, 1 MiB for an administrator's metadata", async () => {
    const limit = async (user: string, method: string, path: string) => (await ask(method, path, { headers: basic(user) })).bodies;
    expect(await limit("root", "PUT", "/node/n/metadata/m")).toEqual([kib * kib]);
    expect(await limit("root", "PUT", "/v0/node/n")).toEqual([kib * kib]);
    expect(await limit("alice", "PUT", "/node/n/metadata/m")).toEqual([64 * kib]);
    expect(await limit("root", "PUT", "/switch/s")).toEqual([64 * kib]);
    expect(await limit("root", "DELETE", "/node/nope/metadata/m")).toEqual([kib * kib]);
    expect(await limit("root", "POST", "/node/n/power_off")).toEqual([64 * kib]);
  });

  test("a client is signed in once it has shown who it is, and somebody without credentials is not", async () => {
    expect((await ask("GET", "/nodes/free", { headers: basic("alice") })).signedIn).toBe(1);
    expect((await ask("POST", "/node/n/power_off", { headers: basic("root"), body: "{}" })).signedIn).toBe(1);
    expect((await ask("GET", "/nodes/free")).signedIn).toBe(0);
    expect((await ask("GET", "/nodes/free", { headers: basic("alice", "guess") })).signedIn).toBe(0);
  });
});

test("rights that were taken away while the body was coming are gone", async () => {
  const asked = await ask("PUT", "/node/late", {
    headers: basic("mallory"),
    body: JSON.stringify({ obm: mockObm }),
    reading: () => ask("PATCH", "/auth/basic/user/mallory", { headers: basic("root"), body: '{"is_admin": false}' }),
  });
  expect(asked.status).toBe(401);
  expect((await ask("GET", "/node/late", { headers: basic("root") })).status).toBe(404);
});

test("a client that goes away is no fault of haas", async () => {
  const reading = () => Promise.reject(new AbortedError());
  expect((await ask("PUT", "/node/x", { headers: basic("root"), reading })).status).toBe(400);
  expect((await ask("POST", "/project/p/connect_node", { headers: basic("alice"), reading })).status).toBe(400);
  expect(lines.map(({ level, status }) => [level, status])).toEqual([
    ["info", 400],
    ["info", 400],
  ]);
});

test("no memory for a body: 503 with Retry-After", async () => {
  const reading = () => Promise.reject(new UnavailableError("Too many requests with bodies at once; try again."));
  const { status, type, headers } = await ask("PUT", "/node/x", { headers: basic("root"), reading });
  expect([status, type]).toEqual([503, "UnavailableError"]);
  expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
  expect(lines.filter(({ level }) => level !== "info")).toEqual([]);
});

describe("the log", () => {
  const long = `/${"x".repeat(16_000)}`;

  test("cuts a client's words at 200 characters", async () => {
    await ask("POST", long);
    await ask("POST", `/project/${"y".repeat(3_000)}/connect_node`, { headers: basic("root"), body: "{}" });
    const paths = lines.map(({ path }) => String(path));
    expect(paths.map((path) => path.length)).toEqual([200, 200]);
    expect(paths.every((path) => path.endsWith("…"))).toBe(true);
  });

  test("has ten lines a minute for the refusals of one address, and one for the rest", async () => {
    for (let i = 0; i < 60; i++) await ask("POST", "/nope");
    for (let i = 0; i < 25; i++) await ask("PUT", "/node/x", { headers: basic("root", "guess") });
    await ask("POST", "/nope", { address: "192.0.2.2" });
    expect(lines.filter(({ address }) => address === "192.0.2.1")).toHaveLength(10);
    expect(lines.filter(({ address }) => address === "192.0.2.2")).toHaveLength(1);
    lines.splice(0);
    refusals.flush();
    expect(lines).toEqual([
      { level: "info", message: "refused 75 more requests of strangers", statuses: "25 × 401, 50 × 404", addresses: 1 },
    ]);
    refusals.flush();
    expect(lines).toHaveLength(1);
  });

  test("has a hundred of all addresses, however many there are", async () => {
    for (let i = 0; i < 3_000; i++) await ask("POST", long, { address: `10.${i >> 8}.${i & 255}.1` });
    expect(lines).toHaveLength(100);
    refusals.flush();
    expect(lines).toHaveLength(101);
    expect(lines.at(-1)).toMatchObject({ message: "refused 2900 more requests of strangers" });
    expect(Number(lines.at(-1)!.addresses)).toBeLessThanOrEqual(1_001);
    expect(JSON.stringify(lines).length).toBeLessThan(60_000);
  });

  test("takes a network of IPv6 for one address", async () => {
    for (let i = 0; i < 30; i++) await ask("POST", "/nope", { address: `2001:db8:1:2::${i.toString(16)}` });
    await ask("POST", "/nope", { address: "2001:db8:1:3::1" });
    expect(lines).toHaveLength(11);
  });

  test("has a line for every change that somebody who is signed in asks for, refused or not", async () => {
    for (let i = 0; i < 30; i++) {
      await ask("POST", "/node/n/power_off", { headers: basic("root"), body: "{}" });
      await ask("POST", "/node/n/power_off", { headers: basic("alice"), body: "{}" });
    }
    expect(lines.filter(({ user }) => user === "root")).toHaveLength(30);
    expect(lines.filter(({ user, status }) => user === "alice" && status === 401)).toHaveLength(30);
  });
});

test("a server that ends says what it had not said yet", async () => {
  const server = await startServer({ kind: "sqlite", auth: "database", logLevel: "info", networks: false });
  const before = server.log().split("\n").length;
  for (let i = 0; i < 40; i++) expect((await fetch(`${server.url}/project/p${i}`, { method: "PUT" })).status).toBe(401);
  await server.kill("SIGTERM");
  const said = server
    .log()
    .split("\n")
    .slice(before - 1);
  expect(said.filter((line) => line.includes('"status":401'))).toHaveLength(10);
  expect(said.filter((line) => line.includes("refused 30 more requests of strangers"))).toHaveLength(1);
});

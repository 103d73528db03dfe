import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { arrivalOf } from "../../src/http/arrival.ts";
import { mockObm, type Service, startService } from "../support/service.ts";

// A browser sends its user's credentials along with what a page of another site asks for.

let closed: Service;
let open: Service;

beforeAll(async () => {
  closed = await startService("sqlite", { auth: "database", more: "[auth]\nrequire_authentication = False" });
  open = await startService("sqlite", { more: "[general]\nhosts = Haas.example, b%C3%BC.example., 2001:DB8::7" });
  await open.ok("PUT", "/node/n", { obm: mockObm });
  await open.ok("PUT", "/project/p");
});
afterAll(() => Promise.all([closed.stop(), open.stop()]));

async function ask(
  service: Service,
  method: string,
  path: string,
  headers: Record<string, string>,
  { encrypted = false, boundAddress = "198.51.100.7" } = {},
) {
  const request = new Request(`http://haas${path}`, { method, headers });
  const answer = await service.app.handle(request, { ...arrivalOf(request), address: "192.0.2.1", boundAddress, encrypted });
  const text = await answer.text();
  if (answer.status === 403) {
    expect(JSON.parse(text)).toEqual({ type: "AuthorizationError", msg: expect.stringMatching(/^[A-Z].*\.$/) });
    expect(answer.headers.get("www-authenticate")).toBeNull();
    expect(answer.headers.get("x-request-id")).toBeTruthy();
  }
  return { status: answer.status, text };
}

const changes = [
  ["POST", "/project/p/connect_node"],
  ["POST", "/v0/node/n/power_off"],
  ["PUT", "/project/q"],
  ["DELETE", "/project/q"],
  ["PATCH", "/auth/basic/user/u"],
] as const;

describe("a page of another site changes nothing", () => {
  const host = "haas.example:5000";
  test.each<Record<string, string>>([
    { origin: "http://evil.example" },
    { origin: "http://haas.example" },
    { origin: "http://haas.example:5001" },
    { origin: "http://sub.haas.example:5000" },
    { origin: "null" },
    { origin: "" },
    { origin: "haas.example:5000" },
    { origin: "ftp://haas.example:5000" },
    { origin: "http://haas.example:5000@evil.example" },
    { origin: "http://haas.example:5000, http://evil.example" },
    { "sec-fetch-site": "cross-site" },
    { "sec-fetch-site": "same-site" },
    { "sec-fetch-site": "" },
    { origin: "http://haas.example:5000", "sec-fetch-site": "cross-site" },
    { origin: "http://evil.example", "sec-fetch-site": "same-origin" },
  ])("%p", async (headers) => {
    for (const service of [closed, open]) {
      for (const [method, path] of changes) expect((await ask(service, method, path, { host, ...headers })).status).toBe(403);
      expect((await ask(service, "GET", "/nodes/free", { host, ...headers })).status).toBe(200);
    }
  });

  test("a form's content type makes no difference", async () => {
    const headers = { host, origin: "null", "content-type": "text/plain" };
    expect((await ask(open, "POST", "/node/n/power_off", headers)).status).toBe(403);
  });

  test("over TLS a page without it is another one", async () => {
    const of = (origin: string, encrypted: boolean) => ask(open, "PUT", "/project/tls", { host: "haas.example", origin }, { encrypted });
    expect((await of("http://haas.example", true)).status).toBe(403);
    expect((await of("https://haas.example", true)).status).toBe(200);
    // Behind a proxy that ends TLS and says nothing of it.
    expect((await of("https://haas.example", false)).status).toBe(409);
  });

  test("nor does it open a display", async () => {
    const vnc = (headers: Record<string, string>) => ask(open, "GET", "/headnode/h/vnc", { host, upgrade: "websocket", ...headers });
    expect((await vnc({ origin: "http://evil.example" })).status).toBe(403);
    expect((await vnc({ "sec-fetch-site": "cross-site" })).status).toBe(403);
    expect((await vnc({ origin: "http://haas.example:5000", "sec-fetch-site": "same-origin" })).status).toBe(404);
    expect((await vnc({})).status).toBe(404);
  });
});

test("pages of this server, and what is no page, do as before", async () => {
  for (const [host, origin] of [
    ["haas.example:5000", "http://haas.example:5000"],
    ["HAAS.example", "http://haas.example"],
    ["haas.example:80", "http://haas.example"],
    ["haas.example", "http://haas.example:80"],
    ["haas.example:443", "https://haas.example"],
    ["127.0.0.1:5000", "http://127.0.0.1:5000"],
    ["[::1]:5000", "http://[::1]:5000"],
  ] as const) {
    for (const site of ["same-origin", "none", undefined]) {
      const headers = { host, origin, ...(site !== undefined && { "sec-fetch-site": site }) };
      expect((await ask(open, "POST", "/node/n/power_off", headers)).status).toBe(200);
    }
  }
  expect((await ask(open, "POST", "/node/n/power_off", {})).status).toBe(200);
  expect((await ask(open, "POST", "/node/n/power_off", { host: "localhost:5000" })).status).toBe(200);
});

describe("without authentication a name that leads here by somebody's doing is refused", () => {
  test.each([
    "evil.example",
    "evil.example:5000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "notlocalhost",
    "0.0.0.0:5000",
    "10.0.0.1",
    "198.51.100.8",
    "[2001:db8::8]",
    "evil@127.0.0.1",
    "127.0.0.1/x",
    "127.0.0.1#",
    "haas.example.evil.example",
    "",
    "[::1",
    "%",
  ])("%j", async (host) => {
    for (const [method, path] of [
      ["GET", "/nodes/free"],
      ["GET", "/swagger/json"],
      ["GET", "/no/such"],
      ["HEAD", "/projects"],
      ...changes,
    ] as const) {
      expect((await ask(open, method, path, { host })).status).toBe(403);
    }
    expect((await ask(open, "GET", "/nodes/free", { host })).text).toContain("hosts in [general]");
    expect((await ask(closed, "GET", "/nodes/free", { host })).status).toBe(200);
  });

  test.each([
    "localhost",
    "LOCALHOST:5000",
    "localhost.",
    "haas.localhost:80",
    "127.0.0.1",
    "127.8.9.10:5000",
    "[::1]:5000",
    "[0:0::1]",
    "198.51.100.7:5000",
    "haas.example",
    "HAAS.EXAMPLE.:5000",
    "xn--b-eha.example",
    "[2001:db8:0::7]:5000",
  ])("%j is a name of this server", async (host) => {
    expect((await ask(open, "GET", "/nodes/free", { host })).status).toBe(200);
  });

  test("the address that was connected to is one, in any spelling", async () => {
    for (const [host, boundAddress] of [
      ["203.0.113.5:5000", "::ffff:203.0.113.5"],
      ["[::ffff:203.0.113.5]", "::ffff:203.0.113.5"],
      ["[2001:db8::1]:5000", "2001:db8:0:0:0:0:0:1"],
      ["[fe80::1]", "fe80::1%eth0"],
    ] as const)
      expect((await ask(open, "GET", "/nodes/free", { host }, { boundAddress })).status).toBe(200);
    expect((await ask(open, "GET", "/nodes/free", { host: "203.0.113.6" }, { boundAddress: "203.0.113.5" })).status).toBe(403);
  });
});

import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { createApp } from "../../src/app.ts";
import { networkInterfaces } from "node:os";
import { arrivalOf, type Arrival } from "../../src/http/arrival.ts";
import { selfSignedPair } from "../support/certificates.ts";
import { type ServerOptions, startServer } from "../support/server.ts";
import { scratch, startService } from "../support/service.ts";

const credentials = { authorization: `Basic ${btoa("alice:a-password-9f2e")}` };
const elsewhere = { address: "192.0.2.7", encrypted: false, direct: true };

/** The whole service, asked as the front would. */
async function service(general: string, auth: "null" | "database" = "database") {
  const started = await startService("sqlite", { auth, more: `[general]\n${general}` });
  const lines: string[] = [];
  for (const level of ["info", "warning", "error"] as const)
    spyOn(started.ctx.log, level).mockImplementation((message, fields) => void lines.push(JSON.stringify({ level, message, ...fields })));
  // Not before: it knows the log.
  const app = createApp(started.ctx);
  afterAll(() => started.stop());
  return {
    lines,
    warnings: () => lines.filter((line) => line.includes("plain HTTP")),
    async ask(way: Partial<Arrival>, headers: Record<string, string> = credentials, method = "GET", path = "/networks", body?: string) {
      const request = new Request(`http://haas.test${path}`, { method, headers, ...(body !== undefined && { body }) });
      const answer = await app.handle(request, { ...arrivalOf(request), ...way });
      const text = await answer.text();
      return { status: answer.status, body: text === "" ? null : JSON.parse(text), headers: answer.headers };
    },
  };
}

describe("passwords over plain HTTP from another machine", () => {
  test("go on working, and are warned about once for each address", async () => {
    const { ask, warnings, lines } = await service("");
    for (const address of ["192.0.2.7", "192.0.2.8", "192.0.2.7", "2001:db8::7", "192.0.2.7"])
      expect((await ask({ ...elsewhere, address })).body.type).toBe("AuthorizationError");
    expect(warnings().map((line) => JSON.parse(line).address)).toEqual(["192.0.2.7", "192.0.2.8", "2001:db8::7"]);
    // Neither a password, nor over the network, nor readable.
    await ask({ ...elsewhere, address: "192.0.2.20" }, {});
    await ask({ ...elsewhere, address: "127.0.0.1" });
    await ask({ ...elsewhere, address: "::1" });
    await ask({ ...elsewhere, address: "192.0.2.21", encrypted: true });
    expect(warnings()).toHaveLength(3);
    expect(lines.join()).not.toContain("9f2e");
  });

  test("are warned about no more when there are too many addresses, and that is said", async () => {
    const { ask, warnings } = await service("");
    for (let n = 0; n < 300; n++) await ask({ ...elsewhere, address: `192.0.${n >> 8}.${n & 255}` });
    expect(warnings()).toHaveLength(101);
    expect(warnings().at(-1)).toContain("more addresses");
  });

  test("are refused with require_tls, before anything else is looked at", async () => {
    const { ask, lines } = await service("require_tls = True");
    const refusal = {
      type: "AuthorizationError",
      msg: "This server takes requests from other machines over TLS only: use its https:// address, and change a password that went over http://.",
    };
    for (const [headers, method, path, body] of [
      [credentials, "GET", "/networks"],
      // Nobody is asked for a password that would come the same way.
      [{}, "GET", "/networks"],
      [{ authorization: "Basic !" }, "GET", "/networks"],
      [credentials, "GET", "/no-such-path"],
      [credentials, "PUT", "/project/p", "{"],
      [credentials, "PUT", "/switch/s", '{"password": "a-password-9f2e"}'],
      [credentials, "GET", "/networks?a=1&a=2"],
      [credentials, "BREW", "/networks"],
    ] as const) {
      const answer = await ask(elsewhere, headers, method, path, body);
      expect(answer).toMatchObject({ status: 403, body: refusal });
      expect(answer.headers.has("www-authenticate")).toBe(false);
      expect(answer.headers.get("x-request-id")).toBeString();
    }
    expect((await ask({ ...elsewhere, encrypted: true })).status).toBe(401);
    expect((await ask({ ...elsewhere, address: "127.0.0.1" })).status).toBe(401);
    expect((await ask({ ...elsewhere, address: "::1" })).status).toBe(401);
    expect(lines.join()).not.toContain("9f2e");
  });

  test("are refused with require_tls where a proxy brings them over plain HTTP, whatever address it tells", async () => {
    const { ask } = await service("require_tls = True\ntrusted_proxies = 127.0.0.1, 10.0.0.1");
    for (const address of ["127.0.0.1", "192.0.2.7", "10.0.0.1", "::1"]) {
      expect((await ask({ address, encrypted: false, direct: false })).status).toBe(403);
      expect((await ask({ address, encrypted: true, direct: false })).status).toBe(401);
    }
  });

  test("are refused with the null backend, too: bodies hold passwords", async () => {
    const { ask } = await service("require_tls = True", "null");
    expect((await ask(elsewhere, {}, "PUT", "/project/p", "{}")).status).toBe(403);
    expect((await ask({ ...elsewhere, encrypted: true }, {}, "PUT", "/project/p", "{}")).status).toBe(200);
  });
});

describe("a server that other machines can reach", () => {
  const [other] = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter(({ internal, family }) => !internal && family === "IPv4");
  if (!other) throw new Error("These tests need an IPv4 address of this machine beside the loopback's.");
  const { address } = other;

  /** Its start's warnings about plain HTTP, and what it answers to a password from this machine, and as if from another. */
  async function seen(options: Partial<ServerOptions> & { require?: boolean; proxies?: string }) {
    const { require = false, proxies, ...rest } = options;
    const more = `[general]\nrequire_tls = ${require}\n${proxies === undefined ? "" : `trusted_proxies = ${proxies}\n`}`;
    const server = await startServer({ kind: "sqlite", auth: "database", host: "0.0.0.0", more, ...rest });
    const started = server.log();
    const ask = async (host: string) =>
      (await fetch(`${server.url.replace("127.0.0.1", host)}/networks`, { headers: credentials, tls: { rejectUnauthorized: false } }))
        .status;
    const statuses = [await ask("127.0.0.1"), await ask(address), await ask(address)];
    await server.stop();
    expect(server.log()).not.toContain("9f2e");
    const warnings = (log: string) =>
      log
        .split("\n")
        .filter((line) => /plain HTTP|require_tls/.test(line))
        .map((line) => JSON.parse(line) as Record<string, string>);
    return {
      statuses,
      atStart: warnings(started).map(({ message }) => message!),
      later: warnings(server.log()).slice(warnings(started).length),
    };
  }

  test("warns at its start, and of each password", async () => {
    const { statuses, atStart, later } = await seen({});
    expect(statuses).toEqual([401, 401, 401]);
    expect(atStart).toEqual([expect.stringContaining("other machines send their passwords over plain HTTP")]);
    expect(later.map(({ address }) => address)).toEqual([address]);
  });

  test("refuses them with require_tls, and says so where that is everybody", async () => {
    const { statuses, atStart, later } = await seen({ require: true });
    expect(statuses).toEqual([401, 403, 403]);
    expect(atStart).toEqual([expect.stringContaining("require_tls is set, but there is neither TLS nor a trusted proxy")]);
    expect(later).toEqual([]);
    // A proxy may bring others.
    expect(await seen({ require: true, proxies: "192.0.2.1" })).toEqual({ statuses: [401, 403, 403], atStart: [], later: [] });
    // One that says nothing of its clients is not believed to have any that use TLS.
    expect(await seen({ require: true, proxies: address })).toMatchObject({ statuses: [401, 403, 403] });
    expect(await seen({ require: true, proxies: "127.0.0.1" })).toMatchObject({ statuses: [403, 403, 403] });
  });

  test("has nothing to warn of with TLS, or when only this machine reaches it", async () => {
    const { path, remove } = scratch();
    const tls = selfSignedPair(path, "haas");
    for (const require of [false, true])
      expect(await seen({ tls, require })).toEqual({ statuses: [401, 401, 401], atStart: [], later: [] });
    const local = await startServer({ kind: "sqlite", auth: "database", more: "[general]\nrequire_tls = True" });
    await local.stop();
    expect(local.log()).not.toContain("TLS");
    remove();
  });
});

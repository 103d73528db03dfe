import { afterAll, beforeAll, expect, test } from "bun:test";
import { type Service, startService } from "../support/service.ts";

let service: Service;
beforeAll(async () => void (service = await startService("sqlite", { auth: "database" })));
afterAll(() => service.stop());

const ask = (path: string, headers: Record<string, string> = {}, method = "GET") =>
  service.app.handle(new Request(`http://haas${path}`, { method, headers }));

test.each([
  ["/swagger", "text/html"],
  ["/swagger/json", "application/json"],
  ["/swagger/script", "text/javascript"],
  ["/swagger/bundle", "text/javascript"],
  ["/swagger/style", "text/css"],
])("%s is made once, and not sent to whoever has it", async (path, type) => {
  const [first, second] = [await ask(path), await ask(path)];
  const bytes = await first.bytes();
  expect(bytes.byteLength).toBeGreaterThan(0);
  expect(Buffer.compare(bytes, await second.bytes())).toBe(0);
  for (const { status, headers } of [first, second]) {
    expect(status).toBe(200);
    expect(headers.get("content-type")).toStartWith(type);
    expect(headers.get("cache-control")).toBe("no-cache");
  }
  const etag = first.headers.get("etag")!;
  expect(etag).toMatch(/^"[^"]+"$/);
  expect(second.headers.get("etag")).toBe(etag);
  expect(first.headers.get("x-request-id")).not.toBe(second.headers.get("x-request-id"));

  for (const tags of [etag, `W/${etag}`, `"x", ${etag}`, "*"]) {
    const same = await ask(path, { "if-none-match": tags });
    expect([same.status, same.headers.get("etag"), await same.text()]).toEqual([304, etag, ""]);
    expect(same.headers.get("x-request-id")).toBeTruthy();
  }
  for (const tags of ['"x"', "x", ""]) expect((await ask(path, { "if-none-match": tags })).status).toBe(200);

  const head = await ask(path, {}, "HEAD");
  expect([head.status, head.headers.get("etag"), head.headers.get("content-type"), await head.text()]).toEqual([
    200,
    etag,
    first.headers.get("content-type"),
    "",
  ]);
  expect((await ask(path, { "if-none-match": etag }, "HEAD")).status).toBe(304);
});

test("the description is the same object of JSON as ever", async () => {
  const document: any = await (await ask("/swagger/json")).json();
  expect(document.openapi).toBe("3.0.3");
  expect(Object.keys(document.paths)).toContain("/project/{project}/connect_node");
  expect(JSON.stringify(document)).not.toContain('"error":"');
});

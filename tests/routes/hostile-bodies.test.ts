import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type Answer, mockObm, mockSwitch, type Service, startService } from "../support/service.ts";

let service: Service;
beforeAll(async () => {
  service = await startService("sqlite");
  await service.ok("PUT", "/project/p");
  await service.ok("PUT", "/node/n", { obm: mockObm });
});
afterAll(() => service.stop());

const send = (method: string, path: string, text: string): Promise<Answer> => service.call(method, path, text);

const deep = (depth: number) => `${"[".repeat(depth)}${"]".repeat(depth)}`;
const values = {
  "1.0": "1.0",
  "an infinite number": "1e999",
  "a negative number": "-20",
  "minus zero": "-0",
  "a number that a double can't hold": "9007199254740993",
  "a number in an array": "[1.0]",
  "a number in an object": '{"a": [{"b": 1e400}]}',
  "an object that makes no text": '{"toString": 1, "valueOf": 1}',
  "an object with a prototype": '{"__proto__": null, "constructor": 1e5}',
  "an object that seems a promise": '{"then": 1}',
  "400 levels": deep(400),
  "30,000 levels": deep(30_000),
  "30,000 numbers": `[${"1,".repeat(30_000)}1]`,
};

/** With a value where a string belongs, or a boolean. */
const calls = [
  ["POST", "/project/p/connect_node", (value: string) => `{"node": ${value}}`],
  ["POST", "/project/p/connect_node", (value: string) => `{"node": "n", "other": ${value}}`],
  ["POST", "/project/p/connect_node", (value: string) => value],
  ["PUT", "/node/x", (value: string) => `{"obm": ${value}}`],
  ["PUT", "/node/x", (value: string) => `{"obm": {"type": ${value}}}`],
  ["PUT", "/node/x", (value: string) => JSON.stringify({ obm: { ...mockObm, host: "HERE" } }).replace('"HERE"', value)],
  ["PUT", "/node/x", (value: string) => JSON.stringify({ obm: { ...mockObm, more: "HERE" } }).replace('"HERE"', value)],
  ["PUT", "/switch/x", (value: string) => JSON.stringify({ ...mockSwitch, hostname: "HERE" }).replace('"HERE"', value)],
  ["PUT", "/switch/x", (value: string) => JSON.stringify({ ...mockSwitch, type: "HERE" }).replace('"HERE"', value)],
  ["PUT", "/network/x", (value: string) => `{"owner": "admin", "access": "", "net_id": ${value}}`],
  ["PUT", "/node/n/obm", (value: string) => `{"enabled": ${value}}`],
  ["POST", "/node/n/power_cycle", (value: string) => `{"force": ${value}}`],
  ["PUT", "/headnode/x", (value: string) => `{"project": "p", "base_img": ${value}}`],
  ["PUT", "/node/n/nic/x", (value: string) => `{"macaddr": ${value}}`],
] as const;

describe.each(Object.entries(values))("%s", (_, value) => {
  test("is refused in a sentence wherever something else belongs", async () => {
    for (const [method, path, body] of calls) {
      const answer = await send(method, path, body(value));
      expect(`${method} ${path} ${answer.status}`).toBe(
        `${method} ${path} ${body(value).length > 65_536 && path !== "/node/x" ? 413 : 400}`,
      );
      expect(answer.body).toEqual({ type: expect.any(String), msg: expect.stringMatching(/^[A-Z].{5,300}\.$/) });
    }
  });
});

test("a name that nobody can print is told in a sentence", async () => {
  const { status, body } = await send(
    "POST",
    "/project/p/connect_node",
    JSON.stringify({ node: "n", [`\n\u202e${"x".repeat(5_000)}`]: 1 }),
  );
  expect([status, body.msg]).toEqual([400, expect.stringMatching(/^Body: '\\u\{a\}\\u\{202e\}x+…' is not an argument of this call\.$/)]);
});

let nodes = 0;
describe("metadata comes back as it was sent", () => {
  test.each([
    "1.0",
    "-0",
    "1e999",
    "-20",
    "0.0000001",
    "0.000001",
    "1E5",
    "1e+30",
    "9007199254740993",
    "123456789012345",
    "0.1234567890123456789",
    '[1.0,2,-3.50,{"a":1e400}]',
    '{"n":1.0,"s":"1.0","t":"\\"1.0","u":"\\\\"}',
    '"1.0"',
    '"a\\\\\\"1.0"',
    "null",
    "true",
    deep(400),
    '{"__proto__":1.0}',
  ])("%s", async (text) => {
    const node = `with-${nodes++}`;
    expect((await send("PUT", "/node/n/metadata/m", `{ "value" : ${text} }`)).status).toBe(200);
    expect((await service.ok("GET", "/node/n")).metadata.m).toBe(text);
    expect((await send("PUT", `/node/${node}`, `{"obm": ${JSON.stringify(mockObm)}, "metadata": {"m": ${text}, "k": 1}}`)).status).toBe(
      200,
    );
    expect((await service.ok("GET", `/node/${node}`)).metadata).toEqual({ m: text, k: "1" });
  });

  test.each(["1-2", "01", "1.", ".5", "--1", "1e", "+1", "[1,]", "1.0 1.0", "NaN", "-"])("%s is no JSON", async (text) => {
    expect((await send("PUT", "/node/n/metadata/m", `{"value": ${text}}`)).body).toEqual({
      type: "ValidationError",
      msg: "The body is not JSON.",
    });
  });

  test("but not when it is nested too deep, or too much for one registration", async () => {
    expect((await send("PUT", "/node/n/metadata/m", `{"value": ${deep(500)}}`)).body.msg).toBe(
      "The body is nested deeper than 500 levels.",
    );
    expect((await send("PUT", "/node/n/metadata/m", `{"value": ${deep(500_000)}}`)).status).toBe(400);
    const many = Object.fromEntries(Array.from({ length: 257 }, (_, i) => [`k${i}`, i]));
    expect((await service.call("PUT", "/node/many", { obm: mockObm, metadata: many })).body.msg).toContain("256");
    delete many.k0;
    expect((await service.call("PUT", "/node/many", { obm: mockObm, metadata: many })).status).toBe(200);
  });

  test.each([
    ["of ones", "1,"],
    ["of 1.0", "1.0,"],
    ["of objects", "{},"],
    ["of strings", '"\\"",'],
  ])("1 MiB %s", async (_, item) => {
    const text = `[${item.repeat(Math.floor((1024 * 1024 - 100) / item.length))}1]`;
    expect((await send("PUT", "/node/n/metadata/m", `{"value": ${text}}`)).status).toBe(200);
    expect((await service.ok("GET", "/node/n")).metadata.m === text).toBe(true);
  });

  test.each([
    ["keys", (i: number) => `"k${i}":1`],
    ["keys that are the prototype's", () => '"__proto__":1'],
    ["times the same key", () => '"value":1'],
  ])("50,000 %s make no difference", async (_, entry) => {
    const answer = await send("PUT", "/node/n/metadata/m", `{${Array.from({ length: 50_000 }, (_, i) => entry(i)).join(",")}}`);
    expect(answer.status).toBe(entry(0) === '"value":1' ? 200 : 400);
  });
});

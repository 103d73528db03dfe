import { afterAll, describe, expect, test } from "bun:test";
import { recordingServer } from "./haas.ts";

const server = recordingServer();
afterAll(() => server.stop());

const only = async (argv: string[]) => {
  const { status, err, requests } = await server.run(argv);
  expect({ status, err }).toEqual({ status: 0, err: "" });
  expect(requests).toHaveLength(1);
  return requests[0]!;
};

describe("a value is never reinterpreted", () => {
  const odd = [
    "0123",
    "1e5",
    "0x10",
    "true",
    "null",
    "NaN",
    "",
    " ",
    "-",
    "-x",
    "-secret",
    "--foo",
    "--foo=bar",
    "--no-foo",
    "=",
    "a=b",
    "--wait",
    "--wait=1",
    "--networks",
    "_",
    "é✓",
    "a b",
    "$(id)",
    "\\n",
    "%2F",
    "__proto__",
  ];
  for (const value of odd) {
    test(JSON.stringify(value), async () => {
      expect((await only(["metadata_set", "n1", "k", value])).body).toEqual({ value });
      expect((await only(["node_register_nic", "n1", "nic1", value])).body).toEqual({ macaddr: value });
      // As a password, a lone dash stands for standard input; see below.
      if (value === "-") return;
      const { body } = await only(["node_register", "n1", "ipmi", "h", "u", value]);
      expect(body).toMatchObject({ obm: { password: value } });
    });
  }

  for (const name of ["0123", "1e5", "-x", "--foo", "a b", "50%", "é", "a?b#c", "constructor"]) {
    test(`a node called ${name}`, async () => {
      expect((await only(["node_delete", name])).path).toBe(`/node/${encodeURIComponent(name)}`);
    });
  }

  test("- as a password reads it from standard input", async () => {
    for (const argv of [
      ["node_register", "n1", "ipmi", "h", "u", "-"],
      ["switch_register", "s1", "mock", "h", "u", "-"],
      ["user_create", "bob", "-", "admin"],
    ]) {
      const { status, requests } = await server.run(argv, [], { stdin: "from-stdin\n" });
      expect(status).toBe(0);
      expect(JSON.stringify(requests[0]!.body)).toContain('"password":"from-stdin"');
    }
  });

  // What a command has as an option is an option, but not where a password is due.
  for (const password of ["--json", "-h", "--help", "--config", "--config=x", "--version", "--host"]) {
    test(`the password ${password}`, async () => {
      expect((await only(["user_create", "bob", password, "admin"])).body).toEqual({ password, is_admin: true });
      expect((await only(["user_create", "--json", "bob", password, "admin"])).body).toEqual({ password, is_admin: true });
      expect((await only(["switch_register", "s1", "nexus", "h", "u", password, "17"])).body).toMatchObject({ password, dummy_vlan: "17" });
      expect((await only(["user_create", "--", "bob", password, "admin"])).body).toEqual({ password, is_admin: true });
    });
  }

  // Neither do the options of a switch take a password away.
  for (const password of ["--transport", "--tls=off", "--legacy-algorithms", "--enable-password"]) {
    test(`the switch's password ${password}`, async () => {
      expect((await only(["switch_register", "s1", "mock", "h", "u", password])).body).toMatchObject({ password });
      expect((await only(["switch_register", "s1", "nexus", "h", "u", password, "17"])).body).toEqual({
        type: expect.any(String),
        hostname: "h",
        username: "u",
        password,
        dummy_vlan: "17",
      });
    });
  }

  for (const value of ["0123", "1e5", "-secret", "--json", "=", "true"]) {
    test(`the enable password ${value}`, async () => {
      const { body } = await only(["switch_register", "s1", "powerconnect55xx", "h", "u", "p", "--enable-password", value]);
      expect(body).toMatchObject({ password: "p", enable_password: value });
    });
  }

  test("after -- every word is a value", async () => {
    expect((await only(["project_create", "--", "--json"])).path).toBe("/project/--json");
    expect((await only(["project_create", "--", "--"])).path).toBe("/project/--");
    expect((await only(["node_connect_network", "n1", "nic1", "--", "--wait"])).body).toEqual({ network: "--wait" });
  });

  test("a port's name may hold slashes", async () => {
    expect((await only(["port_delete", "s1", "gi1/0/1"])).path).toBe("/switch/s1/port/gi1%2F0%2F1");
  });

  test("a word that is close to an option is one after --", async () => {
    expect((await only(["node_connect_network", "n1", "nic1", "net", "--", "--wiat"])).body).toEqual({ network: "net", channel: "--wiat" });
  });
});

describe("options are recognised anywhere", () => {
  for (const argv of [
    ["--json", "list_nodes", "all"],
    ["list_nodes", "--json", "all"],
    ["list_nodes", "all", "--json"],
  ]) {
    test(argv.join(" "), async () => {
      const { out } = await server.run(argv, [Response.json(["b", "a"])]);
      expect(out).toBe('["b","a"]\n');
    });
  }
});

describe("a password from standard input", () => {
  for (const [stdin, password] of [
    ["s3cret\nmore\n", "s3cret"],
    ["s3cret", "s3cret"],
    ["-x y\r\n", "-x y"],
  ] as const) {
    test(JSON.stringify(stdin), async () => {
      const { requests } = await server.run(["user_create", "bob", "-", "regular"], [], { stdin });
      expect(requests[0]!.body).toEqual({ password, is_admin: false });
    });
  }

  test("and the enable password after it", async () => {
    for (const [argv, secrets] of [
      [["p", "17", "--enable-password", "-"], { password: "p", enable_password: "first" }],
      [["-", "17", "--enable-password", "e"], { password: "first", enable_password: "e" }],
      [["-", "17", "--enable-password=-"], { password: "first", enable_password: "second" }],
    ] as const) {
      const { requests } = await server.run(["switch_register", "s1", "nexus", "h", "u", ...argv], [], { stdin: "first\nsecond\n" });
      expect(requests[0]!.body).toMatchObject(secrets);
    }
    const { status, err } = await server.run(["switch_register", "s1", "nexus", "h", "u", "-", "17", "--enable-password", "-"], [], {
      stdin: "first\n",
    });
    expect(status).toBe(2);
    expect(err).toContain("no password on standard input");
  });

  test("none is wrong usage", async () => {
    const { status, err, requests } = await server.run(["user_create", "bob", "-", "regular"], [], { stdin: "" });
    expect(requests).toEqual([]);
    expect(status).toBe(2);
    expect(err).toContain("no password on standard input");
  });
});

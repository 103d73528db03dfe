import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { secrets } from "../support/secrets.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { emptyDirectory, haas, recordingServer } from "./haas.ts";

const example = join(import.meta.dir, "../../examples/site-layout.json");
const switchType = (kind: string) => `http://schema.massopencloud.org/haas/v0/switches/${kind}`;

let server: ServerProcess;
const env = () => ({ HAAS_ENDPOINT: server.url });
// The switches are mocks or nowhere; nothing is applied to them.
beforeAll(async () => void (server = await startServer({ kind: "sqlite", networks: false })));
afterAll(() => server.stop());

const directory = emptyDirectory();
let files = 0;
function fileOf(site: unknown, mode = 0o600): string {
  const file = join(directory, `site-${++files}.json`);
  writeFileSync(file, typeof site === "string" ? site : JSON.stringify(site), { mode });
  return file;
}
/** Run it on a file; nothing that it prints is ever a password. */
async function register(file: string, ...options: string[]) {
  const ran = await haas(["site_register", file, ...options], { env: env() });
  expect(ran.out + ran.err).not.toContain("secret");
  return ran;
}
const ask = async (...path: string[]): Promise<any> => (await fetch([server.url, ...path.map(encodeURIComponent)].join("/"))).json();
const lines = (text: string): string[] => text.split("\n").slice(0, -1);

/** A mock switch and nodes on it, of which each test has its own. */
function site(name: string, count = 2) {
  const login = { hostname: name, username: "admin", password: secrets.switch };
  return {
    switches: [{ switch: name, type: switchType("mock"), ...login }],
    nodes: Array.from({ length: count }, (_, i) => ({
      name: `${name}-n${i}`,
      obm: { type: "mock", host: `bmc-${i}`, user: "admin", pass: secrets.mockBmc } as Record<string, unknown>,
      metadata: { rack: [1, { row: "b" }] } as Record<string, unknown>,
      nics: [
        { name: "eth0", mac: `52:54:00:00:0${Math.floor(i / 16)}:0${(i % 16).toString(16)}`, port: `gi1/0/${i + 1}`, switch: name },
      ] as any[],
    })),
  };
}

describe("the example", () => {
  test("is registered, and then there is nothing left to do", async () => {
    const first = await haas(["site_register", example], { env: env() });
    expect({ status: first.status, out: lines(first.out) }).toEqual({
      status: 0,
      out: [
        "switch rack1-dell",
        "switch rack2-nexus",
        "port rack1-dell gi1/0/1",
        "port rack1-dell gi1/0/2",
        "port rack2-nexus ethernet1/1",
        "port rack2-nexus ethernet1/2",
        "port rack2-nexus ethernet1/3",
        "node node-01",
        "nic node-01 eth0",
        "cable node-01 eth0 rack1-dell gi1/0/1",
        "nic node-01 eth1",
        "cable node-01 eth1 rack2-nexus ethernet1/1",
        "node node-02",
        "nic node-02 eth0",
        "cable node-02 eth0 rack1-dell gi1/0/2",
        "nic node-02 eth1",
        "cable node-02 eth1 rack2-nexus ethernet1/2",
        "node node-03",
        "nic node-03 eth0",
        "cable node-03 eth0 rack2-nexus ethernet1/3",
      ],
    });
    expect(await ask("node", "node-01")).toMatchObject({
      metadata: { rack: '"1"', memory_gb: "256" },
      nics: [
        { label: "eth0", macaddr: "52:54:00:a1:00:01", switch: "rack1-dell", port: "gi1/0/1" },
        { label: "eth1", macaddr: "52:54:00:a1:00:02", switch: "rack2-nexus", port: "ethernet1/1" },
      ],
    });
    const again = await haas(["site", "register", example], { env: env() });
    expect(again).toMatchObject({ status: 0, out: "" });
    expect(again.err).toEndWith(`note: all of ${example} is registered already\n`);
    expect(JSON.stringify([first, again])).not.toContain("password-");
  });
});

test("a key of the published format's later versions is left out, with a warning", async () => {
  const wanted = site("later", 1);
  Object.assign(wanted.nodes[0]!, { obmd: { uri: "http://192.0.2.9/node/1", admin_token: "obmd-secret-0bd0" } });
  const file = fileOf(wanted);
  const { status, err } = await register(file);
  expect({ status, err }).toEqual({
    status: 0,
    err: `warning: ${file}: nodes[0].obmd: left out; haas speaks to BMCs itself, by what obm says.\n`,
  });
});

test("a file that others can read is warned of", async () => {
  const file = fileOf(site("readable", 1));
  expect(await register(file, "--dry-run")).toMatchObject({ err: "note: 5 to register; nothing was, because of --dry-run\n" });
  chmodSync(file, 0o640);
  expect((await register(file, "--dry-run")).err).toStartWith(`warning: ${file}: Other users of this machine can read it`);
});

test("--dry-run prints what a run does, and does nothing", async () => {
  const file = fileOf(site("dry"));
  const before = await ask("nodes", "all");
  const { status, out } = await register(file, "--dry-run");
  expect(status).toBe(0);
  expect(await ask("nodes", "all")).toEqual(before);
  expect(await ask("switches")).not.toContain("dry");
  expect((await register(file)).out).toBe(out);
  expect(await register(file, "--dry-run")).toEqual({ status: 0, out: "", err: `note: all of ${file} is registered already\n` });
});

test("--json", async () => {
  const wanted = site("json", 1);
  const { out } = await register(fileOf(wanted), "--json");
  expect(JSON.parse(out)).toEqual({
    registered: [
      ["switch", "json"],
      ["port", "json", "gi1/0/1"],
      ["node", "json-n0"],
      ["nic", "json-n0", "eth0"],
      ["cable", "json-n0", "eth0", "json", "gi1/0/1"],
    ],
    conflicts: [],
    errors: [],
    dry_run: false,
  });
});

test("what was added to the file is registered, and nothing else", async () => {
  const wanted = site("more");
  await register(fileOf(wanted));
  wanted.nodes[0]!.metadata.owner = "lab";
  wanted.nodes[0]!.nics.push({ name: "eth1", mac: "52:54:00:00:00:99", switch: "more", port: "gi1/0/9" });
  wanted.nodes[1]!.nics.push({ name: "eth1", mac: "52:54:00:00:00:98" });
  // The same address in another spelling is no other one.
  wanted.nodes[1]!.nics[0].mac = "52-54-00-00-00-01";
  expect(await register(fileOf({ nodes: wanted.nodes }))).toEqual({
    status: 0,
    out: "port more gi1/0/9\nmetadata more-n0 owner\nnic more-n0 eth1\ncable more-n0 eth1 more gi1/0/9\nnic more-n1 eth1\n",
    err: "",
  });
});

test("what is otherwise on the server is reported and left alone, and the rest is registered", async () => {
  const wanted = site("other", 3);
  await register(fileOf(wanted));
  await haas(["port_detach_nic", "other", "gi1/0/3"], { env: env() });
  const [first, second, third] = wanted.nodes;
  first!.nics[0].mac = "52:54:00:ff:ff:ff";
  first!.metadata.rack = 7;
  second!.nics[0].port = "gi1/0/7";
  third!.nics[0].port = "gi1/0/2";
  third!.nics.push({ name: "eth1", mac: "52:54:00:00:00:97" });
  const before = await ask("node", "other-n0");
  const { status, out, err } = await register(fileOf(wanted));
  expect({ status, out: lines(out), err: lines(err) }).toEqual({
    status: 1,
    out: ["port other gi1/0/7", "nic other-n2 eth1"],
    err: [
      "Error: conflict: metadata other-n0 rack: it has another value on the server",
      "Error: conflict: nic other-n0 eth0: its MAC address is 52:54:00:00:00:00 on the server, and 52:54:00:ff:ff:ff in the file",
      "Error: conflict: nic other-n1 eth0: its cable leads to other gi1/0/2 on the server, and to other gi1/0/7 in the file",
      "Error: conflict: nic other-n2 eth0: its port in the file, other gi1/0/2, has other-n1 eth0 on it on the server",
    ],
  });
  expect(await ask("node", "other-n0")).toEqual(before);
});

test("what the server refuses keeps only that back that needs it", async () => {
  const wanted = site("refused");
  wanted.switches.push({ ...wanted.switches[0]!, switch: "refused-dell", type: "powerconnect55xx" });
  wanted.nodes[0]!.nics[0] = { ...wanted.nodes[0]!.nics[0], switch: "refused-dell", port: "no-port" };
  const { status, out, err } = await register(fileOf(wanted));
  expect(status).toBe(1);
  expect(out).toContain("cable refused-n1 eth0 refused gi1/0/2\n");
  expect(out).not.toContain("no-port");
  expect(err).toStartWith(
    "note: left out, for what they need failed: 1 more\nError: port refused-dell no-port: 'no-port' is not a port name",
  );
});

test("a run that is killed half-way is taken up by the next one", async () => {
  const file = fileOf(site("killed", 8));
  // Half-way: the server does what it is asked, and the answer never comes.
  const stuck = Promise.withResolvers<void>();
  const proxy = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const path = new URL(request.url).pathname;
      const answer = await fetch(server.url + path, {
        method: request.method,
        headers: request.headers,
        body: (await request.text()) || null,
      });
      if (!path.endsWith("/node/killed-n4")) return answer;
      stuck.resolve();
      return new Promise(() => {});
    },
  });
  const cli = join(import.meta.dir, "../../src/cli.ts");
  const child = Bun.spawn([process.execPath, "--no-env-file", cli, "site_register", file], {
    env: { HAAS_ENDPOINT: `http://127.0.0.1:${proxy.port}` },
    stdout: "pipe",
    stderr: "ignore",
  });
  await stuck.promise;
  child.kill("SIGKILL");
  expect(await child.stdout.text()).toEndWith("cable killed-n3 eth0 killed gi1/0/4\n");
  await proxy.stop(true);

  const { status, out, err } = await register(file);
  expect({ status, err }).toEqual({ status: 0, err: "" });
  expect(lines(out)[0]).toBe("nic killed-n4 eth0");
  expect(lines(out).at(-1)).toBe("cable killed-n7 eth0 killed gi1/0/8");
  expect(await register(file)).toMatchObject({ status: 0, out: "" });
  expect(await ask("node", "killed-n4")).toMatchObject({ nics: [{ label: "eth0", switch: "killed", port: "gi1/0/5" }] });
});

describe("a file that is wrong: a line for each fault, and nothing is sent", () => {
  const recorder = recordingServer();
  afterAll(() => recorder.stop());
  const refused = async (content: unknown): Promise<string[]> => {
    const file = fileOf(content);
    const { status, out, err, requests } = await recorder.run(["site_register", file]);
    expect({ status, out, requests }).toEqual({ status: 2, out: "", requests: [] });
    expect(err).not.toContain("secret");
    return lines(err).map((line) => line.replace(`Error: ${file}: `, ""));
  };

  test("all faults of a site at once", async () => {
    const wanted: any = site("wrong", 4);
    wanted.sites = [];
    wanted.switches.push({ ...wanted.switches[0] }, { switch: "b/c", type: secrets.switch, password: secrets.switch }, "x");
    wanted.switches.push({ switch: "nx", type: switchType("nexus"), hostname: {}, username: "u", password: "p", tls: "off" });
    wanted.nodes[0].nics[0].mac = "52:54:00";
    wanted.nodes[0].nics.push({ name: "eth0", mac: "52:54:00:00:00:02", switch: "wrong" });
    wanted.nodes[1].obm = { type: "http://schema.massopencloud.org/haas/v0/obm/ipmi", host: "h", pass: secrets.bmc, password: secrets.bmc };
    wanted.nodes[1].nics[0].port = "gi1/0/3";
    wanted.nodes[3].name = "wrong-n2";
    wanted.nodes[3].nics[0].vlan = 3;
    wanted.nodes.push({ name: " n", nics: {}, metadata: [] });
    expect(await refused(wanted)).toEqual([
      "the file: there is no 'sites' here; there are: switches, nodes",
      "switches[1]: the switch 'wrong' is in switches[0] already",
      "switches[2].switch: 'b/c' can't be a name: only names of ports hold slashes",
      `switches[2].type: is none of: mock, powerconnect55xx, nexus, delln3000, brocade, dellnos9, ovs (with or without ${switchType("")} before it)`,
      "switches[3]: is not an object",
      "switches[3].switch: is missing",
      "switches[3].type: is missing",
      "switches[4]: dummy_vlan is missing",
      "switches[4].hostname: is not a simple value",
      "switches[4]: a nexus switch has no 'tls'; it has: type, hostname, username, password, dummy_vlan, transport, key_file, enable_password, legacy_algorithms",
      "nodes[0].nics[0].mac: '52:54:00' is not a MAC address",
      "nodes[0].nics[1]: the nic 'eth0' is in nodes[0].nics[0] already",
      "nodes[0].nics[1].port: is missing",
      "nodes[1].obm: has pass and password; they are the same thing",
      "nodes[1].obm: user is missing",
      "nodes[2].nics[0].mac: the MAC address '525400000002' is in nodes[0].nics[1].mac already",
      "nodes[2].nics[0].port: the port 'gi1/0/3' is in nodes[1].nics[0].port already",
      "nodes[3]: the node 'wrong-n2' is in nodes[2] already",
      "nodes[3].nics[0]: there is no 'vlan' here; there are: name, mac, port, switch",
      "nodes[4].name: ' n' has blanks at its ends, or control characters",
      "nodes[4].metadata: is not an object",
      "nodes[4].nics: is not a list",
      "nodes[4].obm: is missing",
      "nodes[4].obm.type: is missing",
    ]);
  });

  test("one device under two names", async () => {
    const wanted: any = site("twice", 4);
    const nexus = { type: switchType("nexus"), username: "u", password: secrets.switch, dummy_vlan: "2222" };
    wanted.switches.push({ switch: "a", hostname: "10.0.0.1", ...nexus }, { switch: "b", hostname: "10.1:22", ...nexus });
    wanted.switches.push({ switch: "c", hostname: "10.0.0.1:2222", ...nexus });
    const bmc = { type: "ipmi", user: "u", pass: secrets.bmc };
    for (const [i, more] of [
      { host: "bmc" },
      { host: "BMC.:623" },
      { host: "bmc", system: "0x82" },
      { host: "bmc", system: "130" },
    ].entries()) {
      wanted.nodes[i].obm = { ...bmc, ...more };
    }
    expect(await refused(wanted)).toEqual([
      "switches[2]: the switch at '10.0.0.1' is in switches[1] already",
      "nodes[1].obm: the BMC 'bmc' is in nodes[0].obm already",
      "nodes[3].obm: the BMC 'bmc 0x82@0' is in nodes[2].obm already",
    ]);
  });

  test("no JSON, nothing in it, no file", async () => {
    expect(await refused(`{"switches": [{"password": ${secrets.switch}}]}`)).toEqual([
      expect.stringMatching(/^It is not JSON\. Where it goes wrong is told by: python3 -m json\.tool .*json$/),
    ]);
    expect(await refused([])).toEqual(["the file: is not an object", "the file: neither switches nor nodes are in it"]);
    expect(await refused({})).toEqual(["the file: neither switches nor nodes are in it"]);
    const { status, err } = await haas(["site_register", "/nonexistent/site.json"], { env: env() });
    expect({ status, err }).toEqual({
      status: 2,
      err: "Error: /nonexistent/site.json: It can't be read: ENOENT: no such file or directory, open '/nonexistent/site.json'\n",
    });
  });

  test("a cable to a switch that is nowhere", async () => {
    const wanted = site("lost", 1);
    wanted.nodes[0]!.nics[0].switch = "elsewhere";
    const file = fileOf(wanted);
    expect(await register(file)).toEqual({
      status: 2,
      out: "",
      err: `Error: ${file}: nodes[0].nics[0].switch: there is no switch 'elsewhere' in the file or on the server\n`,
    });
    expect(await ask("switches")).not.toContain("lost");
  });
});

test("a server that is away, or no server", async () => {
  const file = fileOf(site("away"));
  const { status, err } = await haas(["site_register", file], { env: { HAAS_ENDPOINT: "http://127.0.0.1:1" } });
  expect({ status, err }).toEqual({ status: 1, err: "Error: Can't reach http://127.0.0.1:1: connection refused.\n" });
});

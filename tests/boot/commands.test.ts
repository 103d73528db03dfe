import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { run } from "../support/binary.ts";
import { scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";
import { haas, recordingServer } from "../cli/haas.ts";
import { macOf, makeSite, nodeSecret, type Site } from "./site.ts";

// The commands of `haas boot`: what they refuse, before it is too late, and in which words.

let site: Site;
beforeAll(async () => {
  site = await makeSite({ more: `[nodes.node-01]\nmac = ["${macOf(1)}", "${macOf(2).toUpperCase().replaceAll(":", "-")}"]\n` });
});
afterAll(() => site?.remove());

const refused = async (status: number, ...argv: string[]): Promise<string> => {
  const ran = await site.boot(...argv);
  expect([ran.status, ran.out]).toEqual([status, ""]);
  expect(ran.err).not.toMatch(/^\s+at |\.ts:\d+/m);
  return ran.err;
};

describe("arming", () => {
  const config = () => readFileSync(join(site.dir, "boot.toml"), "utf8");

  test("a profile or a machine that there is not, a missing file, a template that does not render: one line, and nothing is armed", async () => {
    const { dir } = site;
    expect(await refused(1, "arm", macOf(1), "--profile", "beos")).toBe("Error: There is no profile beos in boot.toml; it has linux.\n");
    expect(await refused(2, "arm", "node-07", "--profile", "linux")).toStartWith(
      "Error: boot.toml has no node node-07, and no haas server can be asked. No server is configured: ",
    );
    const cases: [toml: string, sentence: string][] = [
      ['kernel = "linux/other"', `Profile bad needs linux/other, which is no file below ${dir}/files.`],
      ['kernel = "linux"', `Profile bad needs linux, which is no file below ${dir}/files.`],
      ['kernel = "linux/vmlinuz"\ninitrd = ["none"]', `Profile bad needs none, which is no file below ${dir}/files.`],
      ['args = "{{ none }}"', `args of profile bad: undefined variable: none, line:1, col:4.`],
      ['args = "{{ mac | shout }}"', `args of profile bad: undefined filter: shout, line:1, col:1.`],
      ['args = "{{ mac"', 'args of profile bad: output "{{ mac" not closed, line:1, col:1.'],
      ['args = "{{ lines }}"\n[profiles.bad.variables]\nlines = "a\\nb"', "args of profile bad: they are more than one line."],
      ['args = "a ${net0/mac}"', "args of profile bad: they hold ${, which iPXE would replace."],
      ['args = "quiet # no"', "args of profile bad: iPXE would not pass on '#'."],
      ['files = { ks = "none.ks" }', 'ENOENT: Failed to lookup "none.ks"'],
      ['files = { ks = "../boot.toml" }', `'../boot.toml' is not a template below ${dir}/templates.`],
      ['files = { ks = "forever.ks" }', "forever.ks: "],
    ];
    site.write("templates/forever.ks", `{% for i in (1..100000000) %}{% for j in (1..100000000) %}${nodeSecret}{% endfor %}{% endfor %}`);
    const good = config();
    for (const [toml, sentence] of cases) {
      const kernel = toml.startsWith("kernel") ? "" : 'kernel = "linux/vmlinuz"\n';
      site.write("boot.toml", `${good}\n[profiles.bad]\n${kernel}${toml}\n`);
      const err = await refused(1, "arm", macOf(3), "node-01", "--profile", "bad");
      expect(err).toContain(sentence);
      expect(err.trimEnd().split("\n")).toHaveLength(1);
      expect(err).not.toContain(nodeSecret);
    }
    site.write("boot.toml", good);
    expect(await site.status()).toEqual([]);
  });

  test("a node of boot.toml with all of its cards, by its name or by one of them; a MAC is in one machine", async () => {
    expect(await site.ok("arm", "node-01", macOf(2), "--profile", "linux")).toBe("node-01\n");
    expect((await site.status()).map(({ macs }) => macs)).toEqual([[macOf(1), macOf(2)]]);
    await site.ok("disarm", macOf(2));
    expect(await site.status()).toEqual([]);
  });

  test("a node of the haas server", async () => {
    const server = recordingServer();
    try {
      const nics = [macOf(4), macOf(5)].map((macaddr, i) => ({ label: `nic${i}`, macaddr, networks: {}, port: null, switch: null }));
      const arm = (answer: Response) => {
        return server.run(["boot", "arm", "n4", "--profile", "linux", "--config", "boot.toml"], [answer], { cwd: site.dir });
      };
      const armed = await arm(Response.json({ name: "n4", project: null, nics, metadata: {} }));
      expect(armed).toMatchObject({ status: 0, out: "n4\n", err: "" });
      expect(armed.requests.map(({ method, path }) => `${method} ${path}`)).toEqual(["GET /node/n4"]);
      expect((await site.status()).map(({ machine, macs }) => [machine, macs])).toEqual([["n4", [macOf(4), macOf(5)]]]);
      // The same card by itself would be a second machine.
      expect(await refused(1, "arm", macOf(3), macOf(5), "--profile", "linux")).toBe(
        `Error: ${macOf(5)} belongs to n4, which is armed: run haas boot disarm n4 first.\n`,
      );
      expect(await site.status()).toHaveLength(1);
      expect(await arm(Response.json({ name: "n4", project: null, nics: [], metadata: {} }))).toMatchObject({
        status: 1,
        err: "Error: n4 has no nic in haas, so its MAC address is not known.\n",
      });
      expect(await arm(Response.json({ type: "NotFoundError", msg: "Node 'n4' does not exist." }, { status: 404 }))).toMatchObject({
        status: 1,
        err: "Error: Node 'n4' does not exist.\n",
      });
      await site.ok("disarm", "n4");
    } finally {
      await server.stop();
    }
  });
});

test("wrong usage", async () => {
  for (const [argv, message, usage] of [
    [["boot", "arm", "--profile", "x"], "Missing: <machine…>.", "haas boot_arm <machine…> [--profile NAME]"],
    [["boot", "arm", "n1"], "Which profile? Name it with --profile.", "Usage:"],
    [["boot_arm", "n1", "n2", "--profle", "x"], "There is no option --profle here. Did you mean --profile?", "Usage:"],
    [["boot", "arm", "n1", "--profile"], "--profile needs a value.", "Usage:"],
    [["boot", "disarm"], "Missing: <machine…>.", "Usage:"],
    [["boot", "status", "x"], "Too many arguments, from 'x' on.", "Usage:"],
    [["boot", "dnsmasq"], "Which interface? Name it with --interface, or in boot.toml.", "Usage:"],
    [["boot", "status"], "There is no boot.toml: name one with --config, or write one of ./boot.toml, /etc/haas/boot.toml.", ""],
    [["boot", "serve", "--config", "/no/such.toml"], "/no/such.toml: no such file.", ""],
  ] as const) {
    const { status, out, err } = await haas(argv);
    expect([argv, status, out]).toEqual([argv, 2, ""]);
    expect(err).toStartWith(`Error: ${message}\n`);
    expect(err).toContain(usage);
  }
  expect((await haas(["help", "boot_arm"])).out).toContain("--config FILE   use this boot.toml; else ./boot.toml, /etc/haas/boot.toml\n");
});

describe("boot.toml that can't be used: one line, exit 2", () => {
  const cases: [toml: string, message: string][] = [
    ["port = ", "is no TOML: Missing value after '='"],
    ["prot = 80", "prot is not known"],
    ['port = "80"', "port is not a whole number from 1 to 65535"],
    ["port = 70000", "port is not a whole number from 1 to 65535"],
    ['address = "10.0.0"', "address is not an IPv4 address like 10.77.0.1"],
    ["dnsmasq = 1", "dnsmasq is not a table"],
    ["[dnsmasq]\nrun = true", "interface is missing; dnsmasq needs it"],
    ['interface = "eth1"\n[dnsmasq]\nrun = true', "dnsmasq.tftp_root is missing; dnsmasq needs it"],
    ['[dnsmasq]\nrange = "10.0.0.1"', "dnsmasq.range is not two IPv4 addresses: 10.77.0.50,10.77.0.250"],
    ['[profiles."a b"]\nkernel = "k"', "profiles.'a b' is no name: letters, digits, dots, dashes and underscores"],
    ["[profiles.a]", "profiles.a.kernel is missing"],
    [
      '[profiles.a]\nkernel = "../k"',
      "profiles.a.kernel '../k' is not a path below root, of letters, digits and . _ + ~ - (none begins with a dot)",
    ],
    [
      '[profiles.a]\nkernel = "k"\nfiles = { "a/b" = "t" }',
      "profiles.a.files.a/b is no name for a file: letters, digits, dots, dashes and underscores",
    ],
    ['[profiles.a]\nkernel = "k"\nvariables = { mac = "x" }', "profiles.a.variables.mac is a name that haas itself gives a value"],
    ["[nodes.n]", 'nodes.n.mac is missing: mac = ["52:54:00:aa:00:01"]'],
    ['[nodes.n]\nmac = ["01:00:5e:00:00:01"]', "nodes.n.mac '01:00:5e:00:00:01' is not the MAC address of a machine"],
    [`[nodes.n]\nmac = ["${macOf(1)}"]\n[nodes.m]\nmac = ["${macOf(1).toUpperCase()}"]`, `nodes.m ${macOf(1)} stands at nodes.n, too`],
  ];
  test.each(cases)("%s", async (toml, message) => {
    const { path, remove } = scratch();
    try {
      await Bun.write(join(path, "boot.toml"), toml);
      for (const command of ["status", "serve"]) {
        const { status, err } = await haas(["boot", command], { cwd: path });
        expect([status, err]).toEqual([2, `Error: ./boot.toml: ${message}.\n`]);
      }
    } finally {
      remove();
    }
  });
});

test("profiles and nodes are read again while it serves; a wrong file changes nothing", async () => {
  const good = readFileSync(join(site.dir, "boot.toml"), "utf8");
  const serving = await site.serve();
  const until = untilWithin(10_000, () => serving.log());
  const said = (words: string) => until(`'${words}' is in the log`, () => serving.log().includes(words));
  site.write("boot.toml", "port = ");
  await said("the configuration is wrong, and stays as it was");
  site.write("boot.toml", good);
  await said("read the configuration again");
  await serving.stop();
});

test("serve says in one line why it can't begin", async () => {
  const serving = await site.serve();
  expect(await refused(1, "serve")).toContain(`Error: Can't listen on 127.0.0.1:${site.port}: `);
  await serving.stop();
  const good = readFileSync(join(site.dir, "boot.toml"), "utf8");
  const started = async (toml: string, env: Record<string, string> = {}) => {
    site.write("boot.toml", toml);
    return (await run([join(import.meta.dir, "../../dist/haas"), "boot", "serve"], { cwd: site.dir, env })).err;
  };
  try {
    expect(await started('interface = "nic0"')).toBe("Error: There is no interface nic0 here; see ip -brief address.\n");
    expect(await started('address = "192.0.2.77"\nport = 8000')).toStartWith("Error: Can't listen on 192.0.2.77:8000: ");
    const child = `interface = "lo"\naddress = "127.0.0.1"\nport = ${site.port}\n[dnsmasq]\nrun = true\ntftp_root = "tftp"\n`;
    const tools = join(site.dir, "tools");
    mkdirSync(tools);
    await Bun.write(join(tools, "ip"), `#!/bin/sh\nexec ${Bun.which("ip")} "$@"\n`);
    Bun.spawnSync(["chmod", "755", join(tools, "ip")]);
    expect(await started(child, { PATH: tools })).toBe(
      "Error: dnsmasq is not installed: apt-get install dnsmasq-base, or set run = false.\n",
    );
    expect(await started(child.replace("[dnsmasq]", '[dnsmasq]\nrange = "10.0.0.5,10.0.0.9"'))).toBe(
      "Error: ./boot.toml: dnsmasq.range is not in the network of lo, 127.0.0.1/8.\n",
    );
  } finally {
    site.write("boot.toml", good);
    rmSync(join(site.dir, "boot.db.dnsmasq"), { recursive: true, force: true });
  }
});

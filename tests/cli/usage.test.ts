import { describe, expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { commands } from "../../src/cli/commands.ts";
import { emptyDirectory, haas } from "./haas.ts";

describe("wrong usage prints the usage and ends with 2", () => {
  const cases: [string[], ...string[]][] = [
    [["list_nodes"], "Missing: <all|free>.", "Usage:\n  haas list_nodes <all|free>\n"],
    [["list_nodes", "some"], "'some' is not one of: all, free.", "Usage:"],
    [
      ["node", "register", "n1"],
      "Missing: <subtype> <host> <user> <password>.",
      "haas node_register <node> <subtype> <host> <user> <password>",
    ],
    [["node_register", "n1", "magic", "h", "u", "p"], "Neither 'n1' nor 'magic' is a kind of OBM", "Usage:"],
    [["switch_register", "s1", "magic", "h"], "'magic' is not a switch type", "haas switch_register <switch> ovs <bridge> [database]"],
    [["switch_register", "s1", "nexus", "h", "u", "p"], "Missing: <dummy_vlan>.", "Usage:"],
    [
      ["switch_register", "s1", "mock", "h", "u"],
      "Error: Missing: <password>.\nUsage:\n  haas switch_register <switch> mock <host> <user> <password>\n",
    ],
    [
      ["switch_register", "s1", "mock", "h", "u", "p", "--transport", "telnet"],
      "Error: 'mock' has no option --transport.\nUsage:\n  haas switch_register <switch> mock <host> <user> <password>\n",
    ],
    [["switch_register", "s1", "ovs", "br", "--legacy-algorithms"], "'ovs' has no option --legacy-algorithms.", "<bridge> [database]\n"],
    [["--tls", "off", "switch_register", "s1", "nexus", "h", "u", "p", "17"], "'nexus' has no option --tls.", "[--transport ssh|telnet]"],
    [
      ["switch_register", "s1", "brocade", "h", "u", "p", "Ten", "--tls", "on"],
      "--tls: 'on' is not one of: off, verify, insecure.",
      "Usage:",
    ],
    [["switch_register", "s1", "nexus", "h", "u", "p", "17", "--key-file="], "--key-file needs a value.", "Usage:"],
    [
      ["switch_register", "s1", "nexus", "h", "u", "p", "17", "--tarnsport", "ssh"],
      "no option --tarnsport here. Did you mean --transport?",
    ],
    [
      ["port_revert", "s1", "p", "--dry-run", "--wait"],
      "--dry-run queues nothing that --wait could follow.",
      "haas port_revert <switch> <port>",
    ],
    [["switch_reconcile", "s1", "--dry-run", "--wait"], "--dry-run queues nothing", "haas switch_reconcile <switch> [--wait] [--dry-run]"],
    [["switch_test", "a/b"], "'a/b' can't be a name", "haas switch_test <switch> [--recording]"],
    [["serve", "--no-network"], "no option --no-network here. Did you mean --no-networks?", "haas serve [port]"],
    [["node_connect_network", "n1", "nic1", "net", "--wiat"], "no option --wiat here. Did you mean --wait?", "Usage:"],
    [["list_nodes", "--jsn"], "no option --jsn here. Did you mean --json?", "Usage:"],
    [["node_delete", ""], "A name can't be empty.", "haas node_delete <node>"],
    [["port_delete", "s1", ""], "A name can't be empty.", "Usage:"],
    [["node_delete", "a/b"], "'a/b' can't be a name: only names of ports hold slashes.", "Usage:"],
    [["node_delete", ".."], "'..' can't be the name of anything.", "Usage:"],
    [["user_create", "bob", "pw", "root"], "'root' is not one of: admin, regular.", "Usage:"],
    [["project_delete", "a", "b"], "Too many arguments, from 'b' on.", "Usage:"],
    [["list_projects", "--jsn"], "no option --jsn here. Did you mean --json?", "Usage:"],
    [["--wait", "list_projects"], "list_projects has no option --wait.", "Usage:"],
    [["list_projects", "--config"], "--config needs a value.", "Usage:"],
    [["serve", "http"], "'http' is not a TCP port.", "haas serve [port]"],
    [["serve", "65536"], "'65536' is not a TCP port.", "Usage:"],
    [["completion", "csh"], "'csh' is not one of: bash, zsh, fish.", "Usage:"],
    [[], "Which command?", "haas help"],
    [["node"], "Which command of node?", "haas node register"],
    [["--bogus"], "no option --bogus"],
  ];
  for (const [argv, ...parts] of cases) {
    test(`haas ${argv.join(" ")}`, async () => {
      const { status, out, err } = await haas(argv, { env: { HAAS_ENDPOINT: "http://127.0.0.1:1" } });
      expect({ status, out }).toEqual({ status: 2, out: "" });
      for (const part of parts) expect(err).toContain(part);
      expect(err).not.toMatch(/^\s+at |\.ts:\d+/m);
    });
  }

  test("of one kind of switch only that kind's", async () => {
    const { err } = await haas(["switch_register", "s1", "mock", "h", "u"]);
    expect(err).toEndWith("Usage:\n  haas switch_register <switch> mock <host> <user> <password>\n");
  });
});

describe("an unknown command suggests the nearest", () => {
  for (const [line, nearest] of [
    ["node_regsiter", "haas node_register"],
    ["list_noodes all", "haas list_nodes"],
    ["node regster n1", "haas node register"],
    ["nod register n1", "haas node register"],
    ["register_node n1", "haas node_register"],
    ["help shwo_node", "haas show_node"],
    ["sevre", "haas serve"],
    ["nod_register -x mock h u p", "haas node_register"],
    ["start headnode h1", "haas headnode start"],
  ] as const) {
    test(line, async () => {
      const { status, out, err } = await haas(line.split(" "));
      expect({ status, out }).toEqual({ status: 2, out: "" });
      expect(err).toContain(`Did you mean ${nearest}`);
    });
  }

  test("never the word that was typed: a group names its commands", async () => {
    for (const line of ["console foo bar", "help console foo"]) {
      const { status, err } = await haas(line.split(" "));
      expect(status).toBe(2);
      expect(err).toStartWith("Error: console has no command 'foo'. It has: start, show, stop.\n");
    }
    expect((await haas(["help", "node", "--json"])).err).toStartWith("Error: node has no command '--json'. It has: register, ");
    expect((await haas(["help", "list_nodes", "all"])).err).toStartWith(
      "Error: list_nodes has no command 'all'. See haas help list_nodes.",
    );
  });

  test("or says where to look", async () => {
    expect(await haas(["xyzzy"])).toEqual({ status: 2, out: "", err: "Error: There is no command 'xyzzy'. See haas help.\n" });
  });
});

describe("help", () => {
  test("haas help names every command", async () => {
    const { status, out, err } = await haas(["help"]);
    expect({ status, err }).toEqual({ status: 0, err: "" });
    for (const { name } of commands) expect(out).toMatch(new RegExp(`^  ${name} `, "m"));
    expect((await haas(["--help"])).out).toBe(out);
  });

  test("of a command, by any name", async () => {
    const { status, out } = await haas(["help", "node_register"]);
    expect(status).toBe(0);
    expect(out).toContain("haas node_register <node> <subtype> <host> <user> <password>");
    for (const line of [
      "help node register",
      "node register --help",
      "node_register -h",
      "node_register n1 --help",
      "--help node_register",
    ]) {
      expect((await haas(line.split(" "))).out).toBe(out);
    }
  });

  test("of a group", async () => {
    const { status, out } = await haas(["node", "--help"]);
    expect(status).toBe(0);
    expect(out).toContain("haas node power_cycle");
    expect(out).not.toContain("haas switch");
    expect((await haas(["help", "node"])).out).toBe(out);
  });

  test("asks for no server and no config", async () => {
    expect((await haas(["help"], { env: { HAAS_CONFIG: "/nonexistent" } })).status).toBe(0);
  });

  test("--version", async () => expect(await haas(["--version"])).toEqual({ status: 0, out: `${packageJson.version}\n`, err: "" }));
});

describe("completion", () => {
  /** What bash offers for a line whose last word is being typed. */
  async function offered(script: string, words: string[]): Promise<string[]> {
    const program = `${script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _haas; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const child = Bun.spawn(["bash", "-c", program, "bash", ...words], { stdout: "pipe", stderr: "inherit" });
    return (await child.stdout.text()).trim().split("\n");
  }

  test("bash", async () => {
    const { out } = await haas(["completion", "bash"]);
    const check = Bun.spawn(["bash", "-n"], { stdin: Buffer.from(out), stderr: "pipe" });
    expect([await check.exited, await check.stderr.text()]).toEqual([0, ""]);
    expect(await offered(out, ["haas", "node_reg"])).toEqual(["node_register", "node_register_nic"]);
    expect(await offered(out, ["haas", "node", "power_o"])).toEqual(["power_on", "power_off"]);
    expect(await offered(out, ["haas", "list_nodes", ""])).toEqual(["all", "free", "--json", "--config", "--help"]);
    expect(await offered(out, ["haas", "node", "connect_network", "n1", "--w"])).toEqual(["--wait"]);
    expect(await offered(out, ["haas", "list", "no"])).toEqual(["nodes"]);
    expect(await offered(out, ["haas", "list", "nodes", "f"])).toEqual(["free"]);
    expect(await offered(out, ["haas", "start", "c"])).toEqual(["console"]);
    expect(await offered(out, ["haas", "help", "node", "re"])).toEqual(["register", "register_nic"]);
    expect(await offered(out, ["haas", "serve", "--"])).toEqual(["--host", "--no-networks", "--config", "--help"]);
    expect(await offered(out, ["haas", "serve", "networks", "--o"])).toEqual(["--once"]);
    expect(await offered(out, ["haas", "node", "--"])).toEqual(["--help"]);
    expect(await offered(out, ["haas", "switch", "re"])).toEqual(["register", "reconcile"]);
    expect(await offered(out, ["haas", "switch", "register", "s1", "nexus", "--t"])).toEqual(["--transport", "--tls"]);
    expect(await offered(out, ["haas", "switch_register", "--tls", ""])).toEqual(["off", "verify", "insecure"]);
    expect(await offered(out, ["haas", "switch_drift", "--"])).toEqual(["--json", "--config", "--help"]);
  });

  for (const shell of ["zsh", "fish"]) {
    test(shell, async () => {
      const { status, out } = await haas(["completion", shell]);
      expect(status).toBe(0);
      for (const { name } of commands) expect(out).toContain(name);
      if (Bun.which(shell)) {
        const check = Bun.spawn([shell, "-n"], { stdin: Buffer.from(out), stderr: "pipe" });
        expect([await check.exited, await check.stderr.text()]).toEqual([0, ""]);
      }
    });
  }
});

test("the launcher of a checkout works through links, from anywhere", async () => {
  const directory = emptyDirectory();
  mkdirSync(join(directory, "a"));
  symlinkSync(join(import.meta.dir, "../../bin/haas"), join(directory, "first"));
  symlinkSync("../first", join(directory, "a/haas"));
  // Neither a .env nor a bunfig.toml that happens to be here has a say.
  writeFileSync(join(directory, ".env"), "HAAS_ENDPOINT=http://127.0.0.1:1\n");
  writeFileSync(join(directory, "bunfig.toml"), `preload = ["./absent.ts"]\n`);
  const child = Bun.spawn([join(directory, "a/haas"), "list_projects"], {
    cwd: directory,
    env: { PATH: process.env.PATH ?? "", HOME: directory },
    stderr: "pipe",
  });
  expect(await child.stderr.text()).toStartWith("Error: No server is configured: set HAAS_ENDPOINT");
  expect(await child.exited).toBe(2);
});

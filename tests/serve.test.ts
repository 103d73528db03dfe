import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startServer } from "./support/server.ts";
import { configText, scratch } from "./support/service.ts";

// What `haas serve` says when it can't start, and what it leaves on disk when it does.

let directory: ReturnType<typeof scratch>;
beforeEach(() => {
  directory = scratch();
});
afterEach(() => directory.remove());

/** Run a local command with this haas.cfg; how it ended. */
function haas(config: string, ...argv: string[]) {
  const file = join(directory.path, "haas.cfg");
  writeFileSync(file, config, { mode: 0o600 });
  const cli = join(import.meta.dir, "../src/cli.ts");
  const { exitCode, stderr } = Bun.spawnSync([process.execPath, cli, ...argv, "--config", file], { cwd: directory.path, timeout: 20_000 });
  return { exitCode, stderr: stderr.toString().trim() };
}
const uri = () => `sqlite:///${join(directory.path, "haas.db")}`;
const applyOnce = ["serve_networks", "--once"];

test("the database is for this user only", () => {
  expect(haas(configText({ uri: uri() }), ...applyOnce).exitCode).toBe(0);
  for (const name of readdirSync(directory.path).filter((file) => file.startsWith("haas.db"))) {
    expect([name, statSync(join(directory.path, name)).mode & 0o777]).toEqual([name, 0o600]);
  }
});

const broken: Record<string, { config(): string; says: RegExp; exitCode: number }> = {
  "a database URI of no known form": {
    config: () => configText({ uri: "mysql://root:db-secret-77aa@localhost/haas" }),
    says: /haas\.cfg: \[database\] uri: the value is not one of sqlite/,
    exitCode: 2,
  },
  "a database file that is none": {
    config: () => {
      writeFileSync(join(directory.path, "haas.db"), "this is no database, and long enough to be looked at".repeat(100));
      return configText({ uri: uri() });
    },
    says: /haas\.db can't be used: file is not a database/,
    exitCode: 1,
  },
  "a folder for logs that can't be had": {
    config: () => {
      writeFileSync(join(directory.path, "file"), "");
      return configText({ uri: uri() }).replace("[general]", `[general]\nlog_dir = ${join(directory.path, "file")}`);
    },
    says: /\[general\] log_dir: .*can't be written/,
    exitCode: 2,
  },
  "a folder for what the server remembers that can't be had": {
    config: () => {
      writeFileSync(join(directory.path, "file"), "");
      return configText({ uri: uri() }).replace("[general]", `[general]\nstate_dir = ${join(directory.path, "file")}`);
    },
    says: /\[general\] state_dir: .*can't be written/,
    exitCode: 2,
  },
  "an impossible cipher suite": {
    config: () => configText({ uri: uri(), more: "[haas.ext.obm.ipmi]\ncipher_suite = 999" }),
    says: /\[haas\.ext\.obm\.ipmi\] cipher_suite: the value is not a whole number from 0 to 255/,
    exitCode: 2,
  },
  "a maintenance address that is none": {
    config: () => configText({ uri: uri(), more: "[maintenance]\nmaintenance_project = m\nurl = garbage" }),
    says: /\[maintenance\] url/,
    exitCode: 2,
  },
};
test.each(Object.entries(broken))("%s is one line", (_, { config, says, exitCode }) => {
  const ran = haas(config(), ...applyOnce);
  expect(ran.stderr).toMatch(says);
  expect(ran.stderr).not.toContain("secret");
  expect(ran.stderr.split("\n")).toHaveLength(1);
  expect(ran.exitCode).toBe(exitCode);
});

test("a pool in a section with the later name hil.ext.… counts", () => {
  const config = configText({ uri: uri() }).replace("[haas.ext.network_allocators", "[hil.ext.network_allocators");
  expect(haas(config, ...applyOnce)).toEqual({ exitCode: 0, stderr: "" });
});

test("a user's name that could never log in is refused", () => {
  const config = configText({ uri: uri(), auth: "database" });
  for (const name of ["", "a:b", " lead", "ad\nmin", "a/b", "x".repeat(256)]) {
    expect([name, haas(config, "create_admin_user", name, "pw").exitCode]).not.toEqual([name, 0]);
  }
});

test("what the server remembers is for this user only, in a folder that it makes", () => {
  const folder = join(directory.path, "some/state");
  expect(haas(configText({ uri: uri() }).replace("[general]", `[general]\nstate_dir = ${folder}`), ...applyOnce).exitCode).toBe(0);
  expect(statSync(folder).mode & 0o777).toBe(0o700);
  expect(readdirSync(folder)).toHaveLength(1);
  expect(statSync(join(folder, readdirSync(folder)[0]!)).mode & 0o777).toBe(0o600);
});

test("a log in a folder is for this user only", () => {
  const logs = join(directory.path, "logs");
  mkdirSync(logs);
  chmodSync(logs, 0o755);
  expect(haas(configText({ uri: uri() }).replace("[general]", `[general]\nlog_dir = ${logs}`), ...applyOnce).exitCode).toBe(0);
  expect(statSync(join(logs, "haas.log")).mode & 0o777).toBe(0o600);
});

test("a server needs no temporary folder, and leaves nothing in one when it is killed", async () => {
  for (const round of [1, 2]) {
    const server = await startServer({ kind: "sqlite", directory: directory.path });
    const temporary = join(directory.path, "tmp");
    expect(readdirSync(temporary)).toEqual([]);
    // Whoever cleans it up, with whatever is in it.
    rmSync(temporary, { recursive: true });
    const put = await fetch(`${server.url}/project/p${round}`, { method: "PUT" });
    expect(put.status).toBe(200);
    await server.kill("SIGKILL");
    expect(existsSync(temporary)).toBe(false);
  }
});

test("how many connections there may be follows from the files that the process may open, and is told", async () => {
  const file = join(directory.path, "haas.cfg");
  writeFileSync(file, configText({ uri: uri(), logLevel: "info" }), { mode: 0o600 });
  const cli = join(import.meta.dir, "../src/cli.ts");
  for (const [soft, hard, files, connections] of [
    [256, 1024, 1024, 768],
    [300, 300, 300, 172],
  ] as const) {
    const child = Bun.spawn(
      ["sh", "-c", `ulimit -Sn ${soft}; ulimit -Hn ${hard}; exec "$@"`, "sh", process.execPath, cli, "serve", "0", "--config", file],
      { cwd: directory.path, stdio: ["ignore", "ignore", "pipe"] },
    );
    let text = "";
    for await (const bytes of child.stderr) {
      const serves = text.includes('"serving"');
      text += Buffer.from(bytes).toString();
      if (!serves && text.includes('"serving"')) child.kill("SIGTERM");
    }
    expect({ ended: await child.exited, text }).toMatchObject({ ended: 0 });
    const line = JSON.parse(text.split("\n").find((one) => one.includes('"serving"'))!);
    expect([line.files, line.connections]).toEqual([files, connections]);
  }
});

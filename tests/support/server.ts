import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { configText, type DatabaseKind, freshUri, scratch } from "./service.ts";
import type { MadePair } from "./certificates.ts";
import type { LogLevel } from "../../src/log.ts";
import { freePort } from "./postgres.ts";

const startTimeoutMs = 20_000;
/** Below every bound that haas itself has for stopping: a server with nothing in hand needs none of them. */
const stopTimeoutMs = 15_000;
const pollMs = 15;

/** `haas serve` as a process of its own, from source or, with HAAS_BINARY, as it is shipped. */
export interface ServerProcess {
  /** `http://127.0.0.1:port`, or https, without a trailing slash. */
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** What it wrote to standard error so far. */
  log(): string;
  /** Send a signal that does not end it: SIGSTOP, SIGCONT. */
  signal(signal: NodeJS.Signals): void;
  /** Send a signal; resolves when the process has ended. */
  kill(signal: NodeJS.Signals): Promise<void>;
  /** End it as an operator would; throws when it does not end, or not with success. Removes its scratch directory. */
  stop(): Promise<void>;
}

export interface ServerOptions {
  /** A database of its own, unless `uri` names one. */
  kind: DatabaseKind;
  uri?: string;
  auth?: "null" | "database";
  logLevel?: LogLevel;
  /** Appended to haas.cfg. */
  more?: string;
  /** False for `--no-networks`. */
  networks?: boolean;
  /** A port to serve on again, after a server that was killed. */
  port?: number;
  /** Serve TLS with these files. */
  tls?: MadePair;
  /** Where it listens; the loopback by default. */
  host?: string;
  /** Resolve as soon as the process exists; it may not answer yet. */
  early?: boolean;
  /** The compiled program, to run that whatever HAAS_BINARY says: it starts ten times as fast. */
  binary?: string;
  /** Beside the few variables that it gets anyway. */
  env?: Readonly<Record<string, string>>;
  /** Where it runs, and keeps what outlives it, instead of a scratch directory. */
  directory?: string;
  /** A directory in which it looks for programs first. */
  programs?: string;
}

const running = new Set<Bun.Subprocess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

const program = () =>
  process.env.HAAS_BINARY ? [process.env.HAAS_BINARY] : [process.execPath, "--no-env-file", join(import.meta.dir, "../../src/cli.ts")];

export async function startServer({
  kind,
  uri,
  auth = "null",
  logLevel,
  more = "",
  networks = true,
  port,
  tls,
  host,
  early = false,
  binary,
  env = {},
  directory,
  programs,
}: ServerOptions): Promise<ServerProcess> {
  const { path, remove } = directory === undefined ? scratch() : { path: directory, remove: () => {} };
  const file = join(path, "haas.cfg");
  if (tls) more = `[general]\ntls_cert = ${tls.certFile}\ntls_key = ${tls.keyFile}\n${more}`;
  writeFileSync(file, configText({ uri: uri ?? (await freshUri(kind, path)), auth, logLevel, more }), { mode: 0o600 });
  const served = port ?? (await freePort());
  const url = `${tls ? "https" : "http"}://127.0.0.1:${served}`;
  const stderr = join(path, "stderr");
  writeFileSync(stderr, "");
  // A killed server can't remove its temporary files, so they are kept where they go with the rest.
  const temporary = join(path, "tmp");
  mkdirSync(temporary, { recursive: true });
  const child = Bun.spawn(
    [
      ...(binary === undefined ? program() : [binary]),
      "serve",
      String(served),
      "--config",
      file,
      ...(networks ? [] : ["--no-networks"]),
      ...(host === undefined ? [] : ["--host", host]),
    ],
    {
      cwd: path,
      env: {
        PATH: [...(programs === undefined ? [] : [programs]), process.env.PATH ?? ""].join(":"),
        HOME: mkdtempSync(join(path, "home-")),
        TMPDIR: temporary,
        ...env,
      },
      stdin: "ignore",
      stdout: "ignore",
      stderr: Bun.file(stderr),
    },
  );
  running.add(child);
  void child.exited.then(() => running.delete(child));
  let text: string | null = null;
  const log = () => text ?? readFileSync(stderr, "utf8");

  const server: ServerProcess = {
    url,
    port: served,
    pid: child.pid,
    log,
    signal: (signal) => child.kill(signal),
    async kill(signal) {
      child.kill(signal);
      await child.exited;
    },
    async stop() {
      const killed = child.signalCode !== null;
      if (child.exitCode === null && !killed) {
        child.kill("SIGTERM");
        // One that is stopped ends when it goes on.
        child.kill("SIGCONT");
      }
      const ended = await Promise.race([child.exited, Bun.sleep(stopTimeoutMs).then(() => null)]);
      if (ended === null) child.kill("SIGKILL");
      await child.exited;
      text = log();
      remove();
      if (ended === null) throw new Error(`haas serve did not end within ${stopTimeoutMs} ms of SIGTERM: ${text}`);
      if (!killed && ended !== 0) throw new Error(`haas serve ended with ${ended}: ${text}`);
    },
  };
  if (early) return server;
  const deadline = Date.now() + startTimeoutMs;
  while (!(await answers(url))) {
    if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
      child.kill("SIGKILL");
      await child.exited;
      const why = log();
      remove();
      throw new Error(`haas serve did not start: ${why || "(it wrote nothing)"}`);
    }
    await Bun.sleep(pollMs);
  }
  return server;
}

/** Any answer will do: with authentication it is a 401. */
async function answers(url: string): Promise<boolean> {
  try {
    const answer = await fetch(`${url}/networks`, {
      keepalive: false,
      signal: AbortSignal.timeout(5_000),
      tls: { rejectUnauthorized: false },
    });
    await answer.arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

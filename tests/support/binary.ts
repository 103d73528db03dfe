import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";

// `dist/haas`, the program that is shipped: made when it is missing or older than what it is made of, and run.

const root = resolve(import.meta.dir, "../..");
const binary = join(root, "dist/haas");
const ingredients = ["src", "migrations", "package.json", "scripts/build.ts"];
const startTimeoutMs = 30_000;
const stopTimeoutMs = 60_000;
const commandTimeoutMs = 120_000;
const pollMs = 20;

/** Path of the compiled program, fresh. However many tests and test runs ask at the same time, one at a time builds. */
export async function haasBinary(): Promise<string> {
  mkdirSync(join(root, "dist"), { recursive: true });
  const build = Bun.spawn(["flock", join(root, "dist/.lock"), process.execPath, "--no-env-file", import.meta.path], {
    cwd: root,
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  const [errors, exitCode] = await Promise.all([build.stderr.text(), build.exited]);
  if (exitCode !== 0) throw new Error(`dist/haas could not be built: ${errors}`);
  return binary;
}

function newest(path: string): number {
  const { mtimeMs } = statSync(path);
  if (!statSync(path).isDirectory()) return mtimeMs;
  return Math.max(mtimeMs, ...readdirSync(path).map((name) => newest(join(path, name))));
}

function buildIfStale(): number {
  const needed = Math.max(...ingredients.map((name) => newest(join(root, name))));
  if (existsSync(binary) && statSync(binary).mtimeMs > needed) return 0;
  return Bun.spawnSync([process.execPath, "--no-env-file", "scripts/build.ts"], { cwd: root, stdio: ["ignore", "ignore", "inherit"] })
    .exitCode;
}

export interface Ran {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

interface Surroundings {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  /** Whether a server there answers, where this process can't ask it: in another network namespace. */
  readonly answers?: (path: string) => Promise<boolean>;
}

/** Nothing of this machine's configuration, and nothing of ours, gets in. */
const environment = ({ cwd, env }: Surroundings) => ({ PATH: process.env.PATH ?? "", HOME: cwd, TMPDIR: cwd, ...env });

/** Run a program to its end. */
export async function run(argv: readonly string[], around: Surroundings): Promise<Ran> {
  const child = Bun.spawn([...argv], {
    cwd: around.cwd,
    env: environment(around),
    stdin: around.stdin === undefined ? "ignore" : Buffer.from(around.stdin),
    stdout: "pipe",
    stderr: "pipe",
    timeout: commandTimeoutMs,
  });
  const [out, err, status] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { status, out, err };
}

/** A `haas serve` under way. */
export interface Served {
  /** `http://127.0.0.1:port`. */
  readonly url: string;
  readonly pid: number;
  /** What it wrote to standard output and standard error so far. */
  output(): string;
  /** End it as an operator would; throws when it does not end, or not with success. */
  stop(): Promise<void>;
}

const servers = new Set<Bun.Subprocess>();
process.on("exit", () => {
  for (const child of servers) child.kill("SIGKILL");
});

/** Start `argv`, a `haas serve` on `port`, and wait until it answers. */
export async function serve(argv: readonly string[], port: number, around: Surroundings): Promise<Served> {
  const url = `http://127.0.0.1:${port}`;
  const file = join(mkdtempSync(join(around.cwd, "output-")), "text");
  const child = Bun.spawn([...argv], {
    cwd: around.cwd,
    env: environment(around),
    stdin: "ignore",
    stdout: Bun.file(`${file}.out`),
    stderr: Bun.file(`${file}.err`),
  });
  servers.add(child);
  void child.exited.then(() => servers.delete(child));
  const read = (path: string) => (existsSync(path) ? readFileSync(path, "utf8") : "");
  const output = () => read(`${file}.out`) + read(`${file}.err`);
  const deadline = Date.now() + startTimeoutMs;
  while (!(await (around.answers?.("/networks") ?? answers(url)))) {
    if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
      child.kill("SIGKILL");
      await child.exited;
      throw new Error(`${argv.join(" ")} does not serve: ${output()}`);
    }
    await Bun.sleep(pollMs);
  }
  return {
    url,
    pid: child.pid,
    output,
    async stop() {
      child.kill("SIGTERM");
      const status = await Promise.race([child.exited, Bun.sleep(stopTimeoutMs).then(() => null)]);
      if (status === 0) return;
      child.kill("SIGKILL");
      throw new Error(
        status === null ? `${argv[0]} did not end within ${stopTimeoutMs} ms of SIGTERM` : `${argv[0]} ended with ${status}: ${output()}`,
      );
    },
  };
}

/** Any answer will do: with authentication it is a 401. */
async function answers(url: string): Promise<boolean> {
  try {
    await (await fetch(`${url}/networks`, { keepalive: false, signal: AbortSignal.timeout(5_000) })).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

if (import.meta.main) process.exit(buildIfStale());

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

// What the benchmarks start, and the directory that all of it works in.

export const startTimeoutMs = 10_000;

const root = join(import.meta.dir, "..");
export const binary = join(root, "dist/haas");
// On the file system of the checkout: /tmp may be in memory, where a commit costs nothing.
mkdirSync(join(root, ".cache"), { recursive: true });
export const scratch = mkdtempSync(join(root, ".cache/bench-"));
const children: Bun.Subprocess[] = [];

/** Run benchmarks with an up-to-date binary, and leave nothing behind. */
export async function bench(main: () => Promise<void>): Promise<void> {
  try {
    build();
    await main();
  } finally {
    for (const child of children) if (child.exitCode === null) child.kill("SIGKILL");
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Compile the binary unless it is newer than its sources. */
function build(): void {
  const newest = (path: string): number =>
    statSync(path).isDirectory() ? Math.max(...readdirSync(path).map((name) => newest(join(path, name)))) : statSync(path).mtimeMs;
  const sources = Math.max(...["src", "migrations", "package.json", "scripts/build.ts"].map((path) => newest(join(root, path))));
  if (!existsSync(binary) || statSync(binary).mtimeMs < sources) run([process.execPath, "scripts/build.ts"]);
}

/** The database of the haas of this name. */
export const databaseOf = (name: string) => join(scratch, `${name}.db`);
export const configOf = (name: string) => join(scratch, `${name}.cfg`);

export function writeConfig(name: string): string {
  const extensions = [
    "auth.null",
    "network_allocators.vlan_pool",
    "obm.mock",
    "switches.mock",
    "switches.dell",
    "switches.n3000",
    "switches.nexus",
  ].map((extension) => `haas.ext.${extension} =\n`);
  writeFileSync(
    configOf(name),
    `[database]\nuri = sqlite:///${databaseOf(name)}\n[extensions]\n${extensions.join("")}[haas.ext.network_allocators.vlan_pool]\nvlans = 100-199\n`,
  );
  return configOf(name);
}

export async function startHaas(name: string, options: string[]): Promise<{ port: number; process: Bun.Subprocess }> {
  const process = spawn([binary, "serve", "0", "--config", configOf(name), ...options], name);
  return { port: Number(/:(\d+)$/.exec(await waitFor(`${name}.err`, /"url":"[^"]+:\d+(?=")/))![1]), process };
}

/** Start a process whose output goes to `<name>.out` and `<name>.err`; `ipc` gets what it sends. */
export function spawn(command: string[], name: string, ipc?: (message: unknown) => void): Bun.Subprocess {
  const child = Bun.spawn(command, {
    cwd: root,
    stdin: "ignore",
    stdout: Bun.file(join(scratch, `${name}.out`)),
    stderr: Bun.file(join(scratch, `${name}.err`)),
    ...(ipc && { ipc }),
  });
  children.push(child);
  return child;
}

/** Run a process to its end; what it wrote to standard output. */
export async function outputOf(command: string[]): Promise<string> {
  const child = Bun.spawn(command, { cwd: root, stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  children.push(child);
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")} failed.`);
  return text;
}

export async function stop(child: Bun.Subprocess): Promise<void> {
  // What a server does on SIGTERM is not measured here, and its data is scratch.
  child.kill("SIGKILL");
  await child.exited;
}

export function run(command: string[], env: Record<string, string | undefined> = process.env): void {
  const { exitCode, stderr } = Bun.spawnSync(command, { cwd: root, env, stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${command.join(" ")} ended with status ${exitCode}: ${stderr.toString()}`);
}

export async function waitFor(file: string, pattern: RegExp): Promise<string> {
  for (const until = performance.now() + startTimeoutMs; performance.now() < until; await Bun.sleep(10)) {
    const path = join(scratch, file);
    const found = existsSync(path) ? pattern.exec(readFileSync(path, "utf8")) : null;
    if (found) return found[0];
  }
  throw new Error(`No ${pattern} in ${file} within ${startTimeoutMs} ms.`);
}

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const cli = join(import.meta.dir, "../../src/cli.ts");

/** An empty directory, so that no haas.cfg of this machine is found. */
export const emptyDirectory = (): string => mkdtempSync(join(tmpdir(), "haas-cli-"));
const home = emptyDirectory();

export interface Ran {
  status: number;
  out: string;
  err: string;
}

export interface Surroundings {
  env?: Record<string, string>;
  stdin?: string;
  cwd?: string;
}

/** Run the real command as a process. */
export async function haas(argv: readonly string[], { env = {}, stdin, cwd = home }: Surroundings = {}): Promise<Ran> {
  const child = Bun.spawn([process.execPath, "--no-env-file", cli, ...argv], {
    cwd,
    env: { PATH: process.env.PATH ?? "", HOME: home, ...env },
    stdin: stdin === undefined ? "ignore" : Buffer.from(stdin),
    stdout: "pipe",
    stderr: "pipe",
    timeout: 20_000,
  });
  const [out, err, status] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { status, out, err };
}

/** Start the real command, with all of its output on a terminal, or its errors in a pipe. */
export function start(argv: readonly string[], env: Record<string, string>, where: "terminal" | "pipe") {
  let text = "";
  const decoder = new TextDecoder();
  const add = (bytes: Uint8Array) => void (text += decoder.decode(bytes, { stream: true }));
  const terminal = where === "terminal" ? new Bun.Terminal({ cols: 80, rows: 24, data: (_, bytes) => add(bytes) }) : undefined;
  const child = Bun.spawn([process.execPath, "--no-env-file", cli, ...argv], {
    cwd: home,
    env: { PATH: process.env.PATH ?? "", HOME: home, ...env },
    ...(terminal ? { terminal } : { stdin: "ignore", stdout: "ignore", stderr: "pipe" }),
  });
  const reading = terminal ? undefined : child.stderr.pipeTo(new WritableStream({ write: add }));
  const exited = child.exited.then(async (status) => {
    await (reading ?? Bun.sleep(50));
    terminal?.close();
    return status;
  });
  return {
    exited,
    /** What it wrote so far, with plain line ends. */
    written: () => text.replaceAll("\r\n", "\n"),
    type: (keys: string) => terminal!.write(keys),
    interrupt: () => {
      child.kill("SIGINT");
      return exited;
    },
  };
}

/** A request, as the recording server saw it: nothing decoded but the JSON of the body. */
export interface Recorded {
  method: string;
  path: string;
  body: unknown;
  headers: Headers;
}

/** A server that writes down what it is asked, and gives the answers that a test puts in its queue. */
export function recordingServer() {
  const requests: Recorded[] = [];
  const answers: Response[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const text = await request.text();
      const { pathname, search } = new URL(request.url);
      requests.push({
        method: request.method,
        path: pathname + search,
        body: text === "" ? undefined : JSON.parse(text),
        headers: request.headers,
      });
      return answers.shift() ?? new Response("");
    },
  });
  const endpoint = `http://127.0.0.1:${server.port}`;
  return {
    endpoint,
    env: { HAAS_ENDPOINT: endpoint },
    requests,
    /** Run a command with these answers ahead; the requests that it made. */
    async run(argv: readonly string[], next: readonly Response[] = [], around: Surroundings = {}): Promise<Ran & { requests: Recorded[] }> {
      requests.length = 0;
      answers.splice(0, answers.length, ...next);
      const ran = await haas(argv, { ...around, env: { HAAS_ENDPOINT: endpoint, ...around.env } });
      return { ...ran, requests: [...requests] };
    },
    stop: () => server.stop(true),
  };
}

export const apiError = (status: number, type: string, msg: string): Response => Response.json({ type, msg }, { status });

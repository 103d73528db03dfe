import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import type { GoodClient } from "./good-client.ts";

// What becomes of the server's process, and of its other clients.

const lookMs = 250;

/** A long file, in pieces of whole lines. */
export function* piecesOf(file: string): Generator<string> {
  const handle = openSync(file, "r");
  const buffer = Buffer.alloc(8 * 1024 * 1024);
  let rest = "";
  for (let read; (read = readSync(handle, buffer)) > 0;) {
    const text = rest + buffer.toString("utf8", 0, read);
    const end = text.lastIndexOf("\n") + 1;
    rest = text.slice(end);
    yield text.slice(0, end);
  }
  closeSync(handle);
  yield rest;
}

/** Memory of a process that is resident; 0 when there is no such process. */
export function residentMiB(pid: number): number {
  try {
    return Math.round(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1024);
  } catch {
    return 0;
  }
}

/** How long a process has kept processors busy. */
export function processorMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

/** The least memory that a process has within `pauseMs`, in which it may collect what it needs no more. */
export async function settledMiB(pid: number, pauseMs: number): Promise<number> {
  let least = Infinity;
  for (let left = pauseMs; left > 0; left -= lookMs) {
    await Bun.sleep(lookMs);
    least = Math.min(least, residentMiB(pid));
  }
  return least;
}

/** See good-client.ts. */
export function startGoodClient(url: string, authorization: string | null): { stop(): Promise<GoodClient> } {
  const child = Bun.spawn([process.execPath, "--no-env-file", join(import.meta.dir, "good-client.ts"), url], {
    env: { PATH: process.env.PATH ?? "", ...(authorization !== null && { FUZZ_AUTHORIZATION: authorization }) },
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  return {
    async stop() {
      await child.stdin.end();
      return JSON.parse(await child.stdout.text()) as GoodClient;
    },
  };
}

import { constants, realpathSync } from "node:fs";
import { type FileHandle, open, readlink } from "node:fs/promises";
import { join, sep } from "node:path";
import { Readable } from "node:stream";

/** An open file below the root, and how long it is. Whoever has it closes it. */
export interface OpenFile {
  readonly handle: FileHandle;
  readonly size: number;
}

/**
 * Open a regular file below `root`, or null. What counts is where the file that is open now lies, so a link
 * that is changed meanwhile leads nowhere.
 */
export async function openBelow(root: string, segments: readonly string[]): Promise<OpenFile | null> {
  if (segments.length === 0 || segments.some((segment) => /^\.{0,2}$|[/\\\p{Cc}]/u.test(segment))) return null;
  let handle: FileHandle;
  let realRoot: string;
  try {
    realRoot = realpathSync(root);
    // Without O_NONBLOCK a pipe that lies there would be waited for.
    handle = await open(join(realRoot, ...segments), constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch {
    return null;
  }
  try {
    const [path, stat] = [await readlink(`/proc/self/fd/${handle.fd}`), await handle.stat()];
    if (stat.isFile() && path.startsWith(realRoot === sep ? sep : realRoot + sep)) return { handle, size: stat.size };
  } catch {
    // It can't be told where it lies.
  }
  await handle.close();
  return null;
}

const chunkBytes = 262_144;

/** The answer to a GET or HEAD: the whole file, or the one range that is asked for. */
export async function fileResponse({ handle, size }: OpenFile, method: string, range: string | null): Promise<Response> {
  const wanted = readRange(range, size);
  const headers = { "content-type": "application/octet-stream", "accept-ranges": "bytes" };
  if (wanted === "unsatisfiable") {
    await handle.close();
    return new Response("The file has no such range.\n", { status: 416, headers: { "content-range": `bytes */${size}` } });
  }
  const { start, end } = wanted ?? { start: 0, end: size };
  const partial = wanted === null ? {} : { "content-range": `bytes ${start}-${end - 1}/${size}` };
  const init = { status: wanted === null ? 200 : 206, headers: { ...headers, ...partial, "content-length": String(end - start) } };
  if (method === "HEAD" || end === start) {
    await handle.close();
    return new Response(null, init);
  }
  const stream = handle.createReadStream({ start, end: end - 1, highWaterMark: chunkBytes, autoClose: true });
  return new Response(Readable.toWeb(stream), init);
}

/** `start` and the byte after the end; null for the whole file, as for ranges of a kind that need not be understood. */
function readRange(range: string | null, size: number): { start: number; end: number } | "unsatisfiable" | null {
  const [, first = "", last = ""] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(range ?? "") ?? [];
  if (first === "" && last === "") return null;
  if (first === "") return last === "0" || size === 0 ? "unsatisfiable" : { start: Math.max(0, size - Number(last)), end: size };
  if (Number(first) >= size) return "unsatisfiable";
  if (last !== "" && Number(last) < Number(first)) return null;
  return { start: Number(first), end: last === "" ? size : Math.min(size, Number(last) + 1) };
}

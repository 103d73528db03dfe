import { STATUS_CODES } from "node:http";
import { statusOf } from "../errors.ts";
import { share } from "./budget.ts";
import type { Refusal } from "./head.ts";

// An answer as bytes.

/** The bytes of answers that are made once and given often; see `madeOnce`. */
const bytesOf = new WeakMap<Response, Uint8Array>();

const blobOf = new WeakMap<Uint8Array, Blob>();

/** An answer of these bytes, which nobody changes any more: however many clients take it slowly, they are in memory once. */
export function madeOnce(bytes: Uint8Array, init: ResponseInit): Response {
  let blob = blobOf.get(bytes);
  if (!blob) {
    blob = new Blob([bytes]);
    blobOf.set(bytes, blob);
    share(bytes);
  }
  // A blob is not copied, as bytes would be.
  const response = new Response(blob, init);
  bytesOf.set(response, bytes);
  return response;
}

/** Answers of these types come as streams: piece by piece, without an end that is known. */
const streamType = "text/event-stream";

/** What is to be sent behind the head. */
export type Content = string | Uint8Array | ReadableStream<Uint8Array>;

export function contentOf(response: Response): Content | Promise<Content> {
  const known = bytesOf.get(response);
  if (known) return known;
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith(streamType)) return response.body ?? "";
  return type.startsWith("application/json") ? response.text() : response.bytes();
}

let dateSecond = 0;
let dateText = "";

function date(): string {
  const second = Math.floor(Date.now() / 1000);
  if (second !== dateSecond) {
    dateSecond = second;
    dateText = new Date(second * 1000).toUTCString();
  }
  return dateText;
}

/** How the client learns where the answer ends. */
export type Ending = { readonly length: number } | "chunked" | "close";

/** Status line and headers, with the empty line. */
export function headOf(response: Response, ending: Ending, { close, old }: { close: boolean; old: boolean }): string {
  const { status } = response;
  let head = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? "Unknown"}\r\n`;
  response.headers.forEach((value, name) => {
    if (name !== "content-length" && name !== "transfer-encoding" && name !== "connection") head += `${name}: ${value}\r\n`;
  });
  head += `date: ${date()}\r\n`;
  if (close) head += "connection: close\r\n";
  else if (old) head += "connection: keep-alive\r\n";
  if (ending === "chunked") head += "transfer-encoding: chunked\r\n";
  else if (ending !== "close" && status !== 204 && status !== 304) head += `content-length: ${ending.length}\r\n`;
  return `${head}\r\n`;
}

/** The error answer to a request that the app never sees. The connection ends with it. */
export function refusalText({ type, msg }: Refusal, id: string): string {
  const status = statusOf[type];
  const body = JSON.stringify({ type, msg });
  return (
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nx-request-id: ${id}\r\ncontent-type: application/json\r\ndate: ${date()}\r\n` +
    `${status === 503 ? "retry-after: 1\r\n" : ""}connection: close\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  );
}

import type { Socket } from "node:net";

/** A request as it came over the wire. */
export interface Call {
  readonly method: string;
  /** As it was sent: percent signs and the query included. */
  readonly path: string;
  /** By their names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

const reasons: Record<number, string> = {
  200: "OK",
  201: "Created",
  204: "No Content",
  400: "Bad Request",
  401: "Unauthorized",
  404: "Not Found",
  405: "Method Not Allowed",
  409: "Conflict",
  415: "Unsupported Media Type",
  500: "Internal Server Error",
  503: "Service Unavailable",
};

/** The bytes of an answer. */
export function encode({ status, headers = {}, body = "" }: Answer): Buffer {
  const content = Buffer.from(body);
  const lines = [`HTTP/1.1 ${status} ${reasons[status] ?? "Unknown"}`, "Cache-Control: private, no-cache, must-revalidate"];
  for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
  if (status !== 204) lines.push(`Content-Length: ${content.length}`);
  return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`), content]);
}

/** Hand each request on this connection to `take`, in order, the next one when it is done with the one before. */
export function onCall(socket: Socket, take: (call: Call) => Promise<void>): void {
  let unread: Buffer = Buffer.alloc(0);
  let busy = false;
  const pump = async () => {
    if (busy) return;
    busy = true;
    for (let next = parse(unread); next && !socket.destroyed; next = parse(unread)) {
      unread = next.rest;
      await take(next.call);
    }
    busy = false;
  };
  socket.on("data", (chunk: Buffer) => {
    unread = Buffer.concat([unread, chunk]);
    void pump();
  });
}

/** The first request in `bytes`, when all of it is there. */
function parse(bytes: Buffer): { call: Call; rest: Buffer } | null {
  const end = bytes.indexOf("\r\n\r\n");
  if (end === -1) return null;
  const [first = "", ...lines] = bytes.toString("latin1", 0, end).split("\r\n");
  const [method = "", path = ""] = first.split(" ");
  const headers = new Map(
    lines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
    }),
  );
  const body = headers.has("transfer-encoding")
    ? readChunks(bytes, end + 4)
    : readLength(bytes, end + 4, Number(headers.get("content-length") ?? 0));
  return body && { call: { method, path, headers, body: body.content.toString() }, rest: bytes.subarray(body.end) };
}

/** A part of `bytes`, and where the rest of them begins. Null when not all of it is there. */
type Body = { content: Buffer; end: number } | null;

const readLength = (bytes: Buffer, start: number, length: number): Body =>
  bytes.length < start + length ? null : { content: bytes.subarray(start, start + length), end: start + length };

/** Transfer-Encoding: chunked, without trailers. */
function readChunks(bytes: Buffer, start: number): Body {
  const chunks: Buffer[] = [];
  for (;;) {
    const lineEnd = bytes.indexOf("\r\n", start);
    if (lineEnd === -1) return null;
    const length = Number.parseInt(bytes.toString("latin1", start, lineEnd), 16);
    const chunk = readLength(bytes, lineEnd + 2, length + 2);
    if (!chunk) return null;
    if (length === 0) return { content: Buffer.concat(chunks), end: chunk.end };
    chunks.push(chunk.content.subarray(0, length));
    start = chunk.end;
  }
}

import type { ErrorType } from "../errors.ts";

// The head of a request (RFC 9112), strictly: what two readers could understand differently is refused.

const headLimitBytes = 32 * 1024;
const firstLineLimitBytes = 16 * 1024;
const headerLimit = 128;
/** Empty lines before a request are passed over, as the RFC asks; not without end. */
const emptyLinesLimitBytes = 64;

/** Methods that a Request can have. Any other token becomes one that no path has, for a clear 405. */
const knownMethods = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]);
const foreignMethod = "TRACE";

/** U+FFFF, percent-encoded. Behind a segment of dots it keeps URLs from folding the path; see routes/controller.ts. */
const dotMark = "%EF%BF%BF";

/** What the head says of the body: its length in bytes, or that it comes in chunks. */
export type Framing = number | "chunked";

export interface Head {
  readonly method: string;
  /** Path and query, with nothing in them that a URL would change. */
  readonly target: string;
  readonly headers: [string, string][];
  readonly body: Framing;
  /** The client keeps the connection for its next request. */
  readonly keepAlive: boolean;
  /** HTTP/1.0, which knows no chunks. */
  readonly old: boolean;
  /** The client sends the body only when it is told to. */
  readonly expectsContinue: boolean;
  /** The client asks for a WebSocket. */
  readonly upgrade: boolean;
}

/** Why a request is not answered by the app. */
export class Refusal {
  constructor(
    readonly type: ErrorType,
    readonly msg: string,
  ) {}
}

const malformed = (msg: string): Refusal => new Refusal("ValidationError", msg);

/**
 * Where the head ends (the index behind it), looking from `from` on; what is before that was looked at already.
 * Null while the end has not come.
 */
export function findHeadEnd(bytes: Buffer, from: number): number | Refusal | null {
  for (let at = bytes.indexOf(10, from); at !== -1; at = bytes.indexOf(10, at + 1)) {
    if (bytes[at - 1] !== 13) return malformed("The request is malformed: a line does not end with CR LF.");
    if (bytes[at - 2] === 10 || at === 1) {
      // Nothing but empty lines so far.
      if (bytes[0] === 13 && isBlank(bytes, at)) continue;
      return at + 1 > headLimitBytes ? tooLarge : at + 1;
    }
  }
  if (bytes.byteLength <= firstLineLimitBytes) return null;
  let first = 0;
  while (first < emptyLinesLimitBytes && (bytes[first] === 13 || bytes[first] === 10)) first++;
  const lineEnd = bytes.indexOf(10, first);
  if (lineEnd === -1 || lineEnd > first + firstLineLimitBytes) return longLine;
  return bytes.byteLength > headLimitBytes ? tooLarge : null;
}

const longLine = new Refusal("UriTooLongError", `The request line is longer than ${firstLineLimitBytes} bytes.`);
const tooLarge = new Refusal("HeadersTooLargeError", `The head of the request is larger than ${headLimitBytes} bytes.`);

function isBlank(bytes: Buffer, end: number): boolean {
  if (end > emptyLinesLimitBytes) return false;
  for (let i = 0; i <= end; i++) if (bytes[i] !== 13 && bytes[i] !== 10) return false;
  return true;
}

const none: readonly string[] = [];
const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
// eslint-disable-next-line no-control-regex
const illegal = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f]/;

/** Read a whole head, which ends, with its empty line, before `end`. */
export function parseHead(bytes: Buffer, end: number): Head | Refusal {
  const text = bytes.toString("latin1", 0, end - 4);
  if (illegal.test(text)) return malformed("The request is malformed: its head holds control characters.");
  const lines = text.split("\r\n");
  if (lines[0] === "")
    lines.splice(
      0,
      lines.findIndex((line) => line !== ""),
    );
  const first = lines[0]!;
  if (first.length > firstLineLimitBytes) return longLine;
  if (lines.length - 1 > headerLimit) return new Refusal("HeadersTooLargeError", `The request has more than ${headerLimit} headers.`);
  const words = first.split(" ");
  const [method = "", target = "", version = ""] = words;
  const minor = version.startsWith("HTTP/1.") ? version.slice(7) : "";
  if (words.length !== 3 || !token.test(method) || !/^\d$/.test(minor) || first.includes("\t") || first.includes("\r"))
    return malformed("The request is malformed: its first line is not like 'GET /nodes/free HTTP/1.1'.");
  const old = minor === "0";

  const pairs: [string, string][] = [];
  let host: string | null = null;
  let length: string | null = null;
  let coding: string | null = null;
  let connection = "";
  let expects = false;
  let upgrade = "";
  for (let i = 1; i < lines.length; i++) {
    const line = lines[i]!;
    const colon = line.indexOf(":");
    const name = line.slice(0, colon);
    // A line that begins with a blank would continue the one above; only the oldest clients did that.
    if (colon < 1 || !token.test(name) || line.includes("\r"))
      return malformed("The request is malformed: a header is not like 'Name: value'.");
    const value = trimBlanks(line, colon + 1);
    pairs.push([name, value]);
    switch (name.length) {
      case 4:
        if (name.toLowerCase() !== "host") break;
        if (host !== null) return malformed("The request has more than one Host header.");
        if (/[\s/?#@\\]/.test(value)) return malformed("The Host header is no name of a server.");
        host = value;
        break;
      case 6:
        if (name.toLowerCase() === "expect") expects = value.toLowerCase() === "100-continue";
        break;
      case 7:
        if (name.toLowerCase() === "upgrade") upgrade = value.toLowerCase();
        break;
      case 10:
        if (name.toLowerCase() === "connection") connection += `,${value.toLowerCase()}`;
        break;
      case 14:
        if (name.toLowerCase() !== "content-length") break;
        if (length !== null || !/^\d{1,15}$/.test(value)) return malformed("The Content-Length is not one whole number.");
        length = value;
        break;
      case 17:
        if (name.toLowerCase() !== "transfer-encoding") break;
        if (coding !== null || value.toLowerCase() !== "chunked")
          return malformed("The only Transfer-Encoding that haas takes is 'chunked'.");
        coding = value;
        break;
      default:
    }
  }
  if (host === null && !old) return malformed("The request has no Host header.");
  if (coding !== null && (length !== null || old))
    return malformed("The length of the body can't be told: Transfer-Encoding beside what denies it.");

  const path = pathOf(target, pairs);
  if (path === null) return malformed("The request is malformed: what it asks for is no path.");
  const upper = method.toUpperCase();
  const options = connection === "" ? none : connection.split(",").map((option) => option.trim());
  return {
    method: knownMethods.has(upper) ? upper : foreignMethod,
    target: path,
    headers: pairs,
    body: coding === null ? Number(length ?? 0) : "chunked",
    keepAlive: old ? options.includes("keep-alive") : !options.includes("close"),
    old,
    expectsContinue: expects && !old,
    upgrade: upper === "GET" && upgrade === "websocket" && options.includes("upgrade"),
  };
}

/** `line` from `start` on, without blanks and tabs at its ends. */
function trimBlanks(line: string, start: number): string {
  let end = line.length;
  while (start < end && isBlankAt(line, start)) start++;
  while (end > start && isBlankAt(line, end - 1)) end--;
  return line.slice(start, end);
}

function isBlankAt(line: string, at: number): boolean {
  const code = line.charCodeAt(at);
  return code === 32 || code === 9;
}

/** Path and query so that every byte of them reaches the router; null where there is none. Proxies may send a whole address. */
function pathOf(target: string, headers: [string, string][]): string | null {
  if (!target.startsWith("/")) {
    const [, authority, rest = ""] = /^https?:\/\/([^/?#@\\]+)(.*)$/i.exec(target) ?? [];
    if (authority === undefined) return target === "*" ? "/*" : null;
    // It is said to count more than the header.
    for (const header of headers) if (header[0].toLowerCase() === "host") header[1] = authority;
    target = rest.startsWith("/") ? rest : `/${rest}`;
  }
  // All that a URL would take out, turn around or fold is rare.
  if (!/[\\#\x7f-\xff]|\/(?:\.|%2e)/i.test(target)) return target;
  const query = target.indexOf("?");
  const path = query === -1 ? target : target.slice(0, query);
  const kept = path.replace(/\/((?:\.|%2e){1,2})(?=\/|$)/gi, `/$1${dotMark}`) + target.slice(path.length);
  return kept.replace(/[\\#\x7f-\xff]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);
}

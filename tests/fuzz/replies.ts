// HTTP answers read off a socket, byte by byte as they come: what is tested is the bytes that haas sends.

export interface Reply {
  readonly status: number;
  /** Names in lower case; the last of equal names counts. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

/** What haas sent is no HTTP. */
export class Garbled extends Error {}

const headLimitBytes = 64 * 1024;
const nothing = Buffer.alloc(0);

/** The answers of one connection, in order. */
export class Replies {
  #bytes: Buffer = nothing;

  push(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#bytes, chunk]);
  }

  /** What was not taken yet. */
  get rest(): Buffer {
    return this.#bytes;
  }

  /**
   * Take the next answer that is no interim one; null when it is not complete yet. `method` is what it answers: an
   * answer to HEAD has no body. `ended`: nothing comes any more.
   */
  take(method: string, ended: boolean): Reply | null {
    for (;;) {
      const end = this.#bytes.indexOf("\r\n\r\n");
      if (end === -1) {
        if (this.#bytes.length > headLimitBytes) throw new Garbled("an endless head");
        return null;
      }
      const head = parseHead(this.#bytes.toString("latin1", 0, end));
      const from = end + 4;
      if (head.status >= 100 && head.status < 200 && head.status !== 101) {
        this.#bytes = this.#bytes.subarray(from);
        continue;
      }
      const body = this.#body(head, method, from, ended);
      if (!body) return null;
      this.#bytes = this.#bytes.subarray(body.end);
      return { ...head, body: body.content };
    }
  }

  #body({ status, headers }: Omit<Reply, "body">, method: string, from: number, ended: boolean): { content: Buffer; end: number } | null {
    if (method === "HEAD" || status < 200 || status === 204 || status === 304) return { content: nothing, end: from };
    if (headers.get("transfer-encoding")?.toLowerCase() === "chunked") return this.#chunks(from);
    const length = headers.get("content-length");
    if (length === undefined) return ended ? { content: this.#bytes.subarray(from), end: this.#bytes.length } : null;
    if (!/^\d{1,9}$/.test(length)) throw new Garbled(`Content-Length: ${length}`);
    const end = from + Number(length);
    return this.#bytes.length < end ? null : { content: Buffer.from(this.#bytes.subarray(from, end)), end };
  }

  #chunks(from: number): { content: Buffer; end: number } | null {
    const parts: Buffer[] = [];
    for (let at = from; ;) {
      const line = this.#bytes.indexOf("\r\n", at);
      if (line === -1) return null;
      const size = this.#bytes.toString("latin1", at, line);
      if (!/^[0-9a-f]{1,8}$/i.test(size)) throw new Garbled(`a chunk of size ${JSON.stringify(size)}`);
      const start = line + 2;
      const end = start + Number.parseInt(size, 16);
      if (this.#bytes.length < end + 2) return null;
      if (end === start) return { content: Buffer.concat(parts), end: end + 2 };
      parts.push(this.#bytes.subarray(start, end));
      at = end + 2;
    }
  }
}

function parseHead(text: string): Omit<Reply, "body"> {
  const [first = "", ...lines] = text.split("\r\n");
  const status = /^HTTP\/1\.1 ([1-5]\d\d) [\x20-\x7e]*$/.exec(first)?.[1];
  if (status === undefined) throw new Garbled(`the status line ${JSON.stringify(first.slice(0, 100))}`);
  const headers = new Map<string, string>();
  for (const line of lines) {
    const colon = line.indexOf(":");
    if (colon < 1 || /[\0\r\n]/.test(line)) throw new Garbled(`the header line ${JSON.stringify(line.slice(0, 100))}`);
    headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
  }
  return { status: Number(status), headers };
}

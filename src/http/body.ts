import type { Framing } from "./head.ts";
import { Refusal } from "./head.ts";

/** Of the line before a chunk, extensions included, and of everything behind the last chunk. */
const chunkLineLimitBytes = 256;
const trailerLimitBytes = 4 * 1024;
/** What may be no data in a body in chunks: so much, and twice the data. Whoever sends crumbs wants haas to work for them. */
const overheadLimitBytes = 16 * 1024;
const overheadPerByte = 2;

const malformed = new Refusal("ValidationError", "The request is malformed: its body is not in chunks as it should be.");

/** Takes a body out of what a connection brings. */
export class BodyDecoder {
  #state: "data" | "size" | "chunk" | "chunkEnd" | "trailer" | "done";
  /** What is missing of the body, or of the chunk. */
  #left = 0;
  #line = "";
  #trailerBytes = 0;
  #overheadBytes = 0;
  #dataBytes = 0;

  constructor(framing: Framing) {
    this.#state = framing === "chunked" ? "size" : framing === 0 ? "done" : "data";
    if (framing !== "chunked") this.#left = framing;
  }

  get done(): boolean {
    return this.#state === "done";
  }

  /** How many bytes are still to come; null where only the client knows. */
  get left(): number | null {
    return this.#state === "done" ? 0 : this.#state === "data" ? this.#left : null;
  }

  /** Give the body's bytes among `bytes` to `take`; how many of `bytes` belonged to the request. */
  feed(bytes: Buffer, take: (part: Buffer) => void): number | Refusal {
    let at = 0;
    while (at < bytes.byteLength && this.#state !== "done") {
      if (this.#state === "data" || this.#state === "chunk") {
        const part = bytes.subarray(at, at + this.#left);
        take(part);
        at += part.byteLength;
        this.#left -= part.byteLength;
        this.#dataBytes += part.byteLength;
        if (this.#left === 0) this.#state = this.#state === "data" ? "done" : "chunkEnd";
        continue;
      }
      // Lines, which may come in pieces.
      const end = bytes.indexOf(10, at);
      const piece = bytes.toString("latin1", at, end === -1 ? bytes.byteLength : end + 1);
      at += piece.length;
      this.#line += piece;
      this.#overheadBytes += piece.length;
      if (this.#overheadBytes > overheadLimitBytes + overheadPerByte * this.#dataBytes) return malformed;
      if (this.#state === "trailer") this.#trailerBytes += piece.length;
      if (
        this.#line.length > (this.#state === "trailer" ? trailerLimitBytes : chunkLineLimitBytes) ||
        this.#trailerBytes > trailerLimitBytes
      )
        return malformed;
      if (end === -1) break;
      if (!this.#takeLine()) return malformed;
      this.#line = "";
    }
    return at;
  }

  /** A whole line; false when it is none that may stand here. */
  #takeLine(): boolean {
    if (!this.#line.endsWith("\r\n") || this.#line.indexOf("\r") !== this.#line.length - 2) return false;
    const line = this.#line.slice(0, -2);
    switch (this.#state) {
      case "size": {
        const size = /^([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?$/.exec(line)?.[1];
        if (size === undefined) return false;
        this.#left = Number.parseInt(size, 16);
        this.#state = this.#left === 0 ? "trailer" : "chunk";
        return true;
      }
      case "chunkEnd":
        this.#state = "size";
        return line === "";
      default:
        if (line === "") this.#state = "done";
        // Trailers are read past: nothing here has a meaning for them.
        return line === "" || line.indexOf(":") > 0;
    }
  }
}

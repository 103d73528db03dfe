import type { Socket } from "bun";
import { compact, keptBy } from "./budget.ts";

/** Bytes that a socket did not take yet. */
export class Outbox {
  #waiting: Uint8Array[] = [];
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  /** How much memory they take. */
  get kept(): number {
    let sum = 0;
    for (const chunk of this.#waiting) sum += keptBy(chunk);
    return sum;
  }

  /** Send what the socket takes at once and keep the rest; true when nothing is left. */
  send(socket: Socket<any> | null, chunk: Uint8Array | string): boolean {
    if (socket && this.#bytes === 0) {
      const written = Math.max(socket.write(chunk), 0);
      const length = typeof chunk === "string" ? Buffer.byteLength(chunk) : chunk.byteLength;
      if (written >= length) return true;
      chunk = (typeof chunk === "string" ? Buffer.from(chunk) : chunk).subarray(written);
    }
    const rest = typeof chunk === "string" ? Buffer.from(chunk) : compact(chunk);
    this.#waiting.push(rest);
    this.#bytes += rest.byteLength;
    return this.#bytes === 0;
  }

  /** The socket takes more. True when nothing is left. */
  drain(socket: Socket<any>): boolean {
    while (this.#waiting.length > 0) {
      const chunk = this.#waiting[0]!;
      const written = Math.max(socket.write(chunk), 0);
      this.#bytes -= written;
      if (written < chunk.byteLength) {
        this.#waiting[0] = compact(chunk.subarray(written));
        return false;
      }
      this.#waiting.shift();
    }
    return true;
  }

  clear(): void {
    this.#waiting = [];
    this.#bytes = 0;
  }
}

/** Memory, in bytes, that everything which clients send or do not take has together. */
export class Budget {
  #used = 0;

  constructor(readonly limit: number) {}

  get exceeded(): boolean {
    return this.#used > this.limit;
  }

  /** Take so many more bytes (or, below 0, give them back), whether there are any left or not. */
  add(bytes: number): void {
    this.#used += bytes;
  }
}

/** Buffers that are in memory once, however many clients are sent them. */
const shared = new WeakSet<ArrayBufferLike>();

export const share = (bytes: Uint8Array): void => void shared.add(bytes.buffer);

/** How much memory ends with these bytes. */
export const keptBy = (bytes: Uint8Array): number => (shared.has(bytes.buffer) ? 0 : bytes.byteLength);

/** Bytes to be kept: the last few of something large must not keep all of it in memory. */
export const compact = (bytes: Uint8Array): Buffer =>
  bytes.byteLength * 2 < bytes.buffer.byteLength && !shared.has(bytes.buffer)
    ? copied(bytes)
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

export const copied = (bytes: Uint8Array): Buffer => Buffer.from(new Uint8Array(bytes).buffer);

/** How long strangers' requests may keep everybody else waiting at a time, in milliseconds. */
const turnMs = 5;

/**
 * Requests of clients that nobody knows wait here for their turns: an address after the other, a few at a time, and others
 * are served between them. So thousands who ask all the time hold up each other, and nobody else.
 */
export class Strangers {
  /** By address; the one that is next comes first. */
  readonly #waiting = new Map<string, (() => void)[]>();
  #serving = false;

  add(from: string, serve: () => void): void {
    const mine = this.#waiting.get(from);
    if (mine) mine.push(serve);
    else this.#waiting.set(from, [serve]);
    if (this.#serving) return;
    this.#serving = true;
    setImmediate(() => this.#serve());
  }

  #serve(): void {
    const began = performance.now();
    for (const [from, mine] of this.#waiting) {
      this.#waiting.delete(from);
      const serve = mine.shift()!;
      if (mine.length > 0) this.#waiting.set(from, mine);
      serve();
      const gone = performance.now() - began;
      if (gone >= turnMs || gone < 0) break;
    }
    this.#serving = this.#waiting.size > 0;
    if (this.#serving) setImmediate(() => this.#serve());
  }
}

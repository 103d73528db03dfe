/** So many at a time, first come, first served. */
export class Turns {
  #free: number;
  #waiting: ((taken: boolean) => void)[] = [];

  /** `waitingLimit`: nobody joins a longer queue. */
  constructor(
    atOnce = 1,
    private readonly waitingLimit = Infinity,
  ) {
    this.#free = atOnce;
  }

  /** False when it took longer than `patienceMs`, when too many wait already, or when they are sent away. */
  async take(patienceMs?: number): Promise<boolean> {
    if (this.#free > 0) {
      this.#free--;
      return true;
    }
    if (this.#waiting.length >= this.waitingLimit) return false;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#waiting.push(resolve);
    if (patienceMs === undefined) return promise;
    const timer = setTimeout(() => {
      this.#waiting = this.#waiting.filter((other) => other !== resolve);
      resolve(false);
    }, patienceMs);
    const taken = await promise;
    clearTimeout(timer);
    return taken;
  }

  pass(): void {
    const next = this.#waiting.shift();
    if (next) next(true);
    else this.#free++;
  }

  /** Whoever waits is told that it is in vain. */
  sendAway(): void {
    for (const waiting of this.#waiting.splice(0)) waiting(false);
  }
}

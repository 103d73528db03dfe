/**
 * A moment in this process's own time: setting the clock moves it by nothing. Should even the monotonic clock go
 * back (a program that fakes it), the deadline has passed: waiting too briefly does less harm than waiting for hours.
 */
export class Deadline {
  readonly #startedAt = performance.now();

  constructor(readonly ms: number) {}

  /** Milliseconds until then; 0 once it has passed. */
  get left(): number {
    const gone = performance.now() - this.#startedAt;
    return gone < 0 ? 0 : Math.max(this.ms - gone, 0);
  }

  get passed(): boolean {
    return this.left === 0;
  }
}

import type { Caller } from "../auth/caller.ts";
import { HaasError } from "../errors.ts";

/**
 * How much of one kind one user has in hand at a time, so that nobody takes everybody's connections with calls that are
 * slow to answer. Where everybody is an administrator there is no bound.
 */
export class InHand {
  readonly #counts = new Map<number, number>();

  /** `what`: in the plural, for the sentence. */
  constructor(
    readonly limit: number,
    readonly what: string,
  ) {}

  /** Begin one more; call what is returned when it has ended. Throws TooManyRequestsError. */
  begin({ user }: Caller): () => void {
    if (user === null) return () => {};
    const count = this.#counts.get(user.id) ?? 0;
    if (count >= this.limit)
      throw new HaasError("TooManyRequestsError", `You have ${this.limit} ${this.what} in hand; let some of them end.`);
    this.#counts.set(user.id, count + 1);
    let ended = false;
    return () => {
      if (ended) return;
      ended = true;
      const left = this.#counts.get(user.id)! - 1;
      if (left > 0) this.#counts.set(user.id, left);
      else this.#counts.delete(user.id);
    };
  }
}

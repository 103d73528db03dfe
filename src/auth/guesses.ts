import { availableParallelism } from "node:os";
import { Deadline } from "../deadline.ts";
import { HaasError } from "../errors.ts";
import { Lru } from "./lru.ts";

// Who may have a password verified, and when. A verification takes 64 MiB and a tenth of a second of one processor, on a
// thread of Bun's pool, which has one per processor and reads files as well: one of them stays free where there are two.

const verifiersAtOnce = Math.max(1, Math.min(2, availableParallelism() - 1));
/** Wrong guesses that cost nobody any time, and how soon one of them is forgotten. */
const freeGuesses = 5;
const forgetMs = 60_000;
/** More are not counted: so much later everything is forgotten. */
const countLimit = 20;
const firstGapMs = 100;
/** The longest pause between two guesses from one address, and at one account. The owner of an attacked account waits for one of the latter. */
const longestGapMs = { address: 5_000, account: 2_000 };
/** Whose turn is later is told so at once. */
const waitLimitMs = 10_000;
/** Whose turn came, and who waits for others to be verified, is told so after this. */
const patienceMs = 30_000;
/** How many may wait: of an address or at an account whose guesses were right so far, and altogether. */
const lineLimit = 64;
const totalLimit = 256;
const memoryLimit = 50_000;

/** A password that somebody sent, and that nobody has verified. */
export interface Attempt {
  readonly account: string;
  readonly address: string;
  /** The same for attempts that have the same verdict. */
  readonly key: string;
  verify(): Promise<boolean>;
}

interface Guess extends Attempt {
  /** How many attempts from its address came before it, lately. Whoever tried less often comes first, and of those who tried equally often the newest. */
  readonly rank: number;
  readonly patience: Deadline;
  readonly verdict: PromiseWithResolvers<boolean>;
}

/**
 * Verifies passwords, few at a time. Guesses from one address and guesses at one account take turns, with longer and
 * longer pauses after wrong ones. Addresses that have tried less often come first, so nobody's guesses, however many, keep
 * out somebody who comes from elsewhere. A guess that would wait for too long is refused: TooManyRequestsError.
 */
export class Guesses {
  /** The oldest first. */
  #waiting: Guess[] = [];
  readonly #active = new Set<Guess>();
  readonly #attempts = new Lru<Tally>(memoryLimit);
  readonly #paces = {
    address: new Lru<Pace>(memoryLimit),
    account: new Lru<Pace>(memoryLimit),
  };
  #timer: Timer | null = null;

  /** Whether the password is right. */
  verdictOn(attempt: Attempt): Promise<boolean> {
    const { key, address, account } = attempt;
    const twin = [...this.#active, ...this.#waiting].find((other) => other.key === key && other.address === address);
    if (twin) return twin.verdict.promise;
    const attempts = this.#attempts.get(address) ?? new Tally();
    this.#attempts.set(address, attempts);
    const guess: Guess = {
      account,
      address,
      key,
      verify: attempt.verify,
      rank: attempts.count,
      patience: new Deadline(patienceMs),
      verdict: Promise.withResolvers(),
    };
    attempts.add(1);
    this.#waiting.push(guess);
    this.#shorten(guess);
    if (this.#waiting.length > totalLimit) this.#refuse(lastOf(this.#waiting));
    this.#goOn();
    return guess.verdict.promise;
  }

  #paceOf(by: "address" | "account", guess: Guess): Pace {
    return this.#paces[by].get(guess[by]) ?? new Pace(longestGapMs[by]);
  }

  /** Refuse who would wait for too long, of those that wait for the same turns as this one. */
  #shorten(guess: Guess): void {
    for (const by of ["address", "account"] as const) {
      const { places } = this.#paceOf(by, guess);
      for (;;) {
        const waiting = this.#waiting.filter((other) => other[by] === guess[by] && !this.#isVerified(other.key));
        // What has one verdict takes one turn.
        const line = [...Map.groupBy(waiting, ({ key }) => key).values()].map(firstOf);
        if (line.length <= places) break;
        this.#refuse(lastOf(line));
      }
    }
  }

  #refuse(guess: Guess): void {
    this.#waiting = this.#waiting.filter((other) => other !== guess);
    guess.verdict.reject(
      new HaasError(
        "TooManyRequestsError",
        `Too many passwords are tried for this user, or from this address; try again in ${waitLimitMs / 1000} s.`,
        {
          retryAfterSeconds: waitLimitMs / 1000,
        },
      ),
    );
  }

  /** Begin what may begin, and come back when something else may. */
  #goOn(): void {
    for (const guess of this.#waiting.filter(({ patience }) => patience.passed)) this.#refuse(guess);
    while (this.#active.size < verifiersAtOnce) {
      const ready = this.#waiting.filter((guess) => this.#waitOf(guess) === 0 && !this.#isVerified(guess.key));
      if (ready.length === 0) break;
      void this.#verify(firstOf(ready));
    }
    clearTimeout(this.#timer ?? undefined);
    const idle = this.#active.size < verifiersAtOnce;
    const pauses = this.#waiting.map((guess) => Math.min(guess.patience.left, (idle && this.#waitOf(guess)) || patienceMs));
    this.#timer = pauses.length === 0 ? null : setTimeout(() => this.#goOn(), Math.ceil(Math.min(...pauses)));
  }

  /** Milliseconds until it may be verified, as far as its address and its account go. */
  #waitOf(guess: Guess): number {
    return Math.max(this.#paceOf("address", guess).gap.left, this.#paceOf("account", guess).gap.left);
  }

  #isVerified(key: string): boolean {
    return [...this.#active].some((guess) => guess.key === key);
  }

  async #verify(guess: Guess): Promise<void> {
    this.#waiting = this.#waiting.filter((other) => other !== guess);
    this.#active.add(guess);
    const paces = (["address", "account"] as const).map((by) => {
      const pace = this.#paceOf(by, guess);
      this.#paces[by].set(guess[by], pace);
      pace.begin();
      return pace;
    });
    let right: boolean | null = null;
    try {
      right = await guess.verify();
      guess.verdict.resolve(right);
    } catch (error) {
      guess.verdict.reject(error);
    }
    this.#active.delete(guess);
    for (const pace of paces) pace.end(right === false);
    const same = right === null ? [] : this.#waiting.filter(({ key }) => key === guess.key);
    this.#waiting = this.#waiting.filter((other) => !same.includes(other));
    for (const other of same) other.verdict.resolve(right!);
    if (right) for (const { address } of [guess, ...same]) this.#attempts.get(address)?.add(-1);
    else this.#shorten(guess);
    this.#goOn();
  }
}

/** Of guesses in the order in which they came. */
const firstOf = (guesses: readonly Guess[]): Guess => guesses.reduce((first, next) => (next.rank <= first.rank ? next : first));
const lastOf = (guesses: readonly Guess[]): Guess => guesses.reduce((last, next) => (next.rank > last.rank ? next : last));

/** A count that goes down by one each `forgetMs`. */
class Tally {
  #forgotten = new Deadline(0);

  get count(): number {
    return Math.ceil(this.#forgotten.left / forgetMs);
  }

  add(n: number): void {
    this.#forgotten = new Deadline(Math.max(0, Math.min(this.#forgotten.left + n * forgetMs, countLimit * forgetMs)));
  }
}

/** The turns of an address, or of an account. */
class Pace {
  readonly #wrong = new Tally();
  #active = 0;
  /** Until the next one may begin. */
  gap = new Deadline(0);

  constructor(readonly longestGapMs: number) {}

  begin(): void {
    // As if it were wrong, so that guesses at the same time don't slip through together.
    this.#active++;
    this.#pause();
  }

  end(wrong: boolean): void {
    this.#active--;
    if (wrong) this.#wrong.add(1);
    else this.#pause();
  }

  #pause(): void {
    this.gap = new Deadline(this.#gapAfter(this.#wrong.count + this.#active));
  }

  #gapAfter(guesses: number): number {
    return guesses < freeGuesses ? 0 : Math.min(firstGapMs * 2 ** (guesses - freeGuesses), this.longestGapMs);
  }

  /** How many can wait and will have their turn in time, should all of them be wrong. */
  get places(): number {
    let { count } = this.#wrong;
    if (count === 0) return lineLimit;
    let places = 0;
    for (let inMs = this.gap.left; inMs <= waitLimitMs && places < lineLimit; places++) inMs += this.#gapAfter(++count);
    return places;
  }
}

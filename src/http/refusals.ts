import { addressKey } from "../auth/address.ts";
import { type Log, type LogFields, type LogLevel, shortened } from "../log.ts";

// Strangers may ask as often as they like, so what the log says of them is bounded: some lines a minute in full, and
// then one that sums up the rest.

const periodMs = 60_000;
const linesPerAddress = 10;
const linesInAll = 100;
/** Addresses that are told apart within a period; the rest counts as one. */
const addressLimit = 1_000;
const textLimit = 200;

/** The line of a request, made by somebody who is not signed in, that was refused. */
export interface Refused extends LogFields {
  readonly request: string;
  readonly status: number;
  readonly address: string;
}

export class Refusals {
  /** Lines of this period in full, by address. */
  readonly #lines = new Map<string, number>();
  #linesInAll = 0;
  /** What had no line of its own. */
  readonly #rest = new Map<number, number>();
  readonly #addresses = new Set<string>();
  #timer: Timer | null = null;

  constructor(readonly log: Log) {}

  note(level: LogLevel, refused: Refused): void {
    if (!this.log.enabled(level)) return;
    this.#timer ??= setTimeout(() => this.flush(), periodMs).unref();
    const { status, address } = refused;
    const from = this.#known(addressKey(address));
    const lines = this.#lines.get(from) ?? 0;
    if (lines < linesPerAddress && this.#linesInAll < linesInAll) {
      this.#lines.set(from, lines + 1);
      this.#linesInAll++;
      const short = Object.entries(refused).map(([name, value]) => [name, typeof value === "string" ? shortened(value, textLimit) : value]);
      return this.log[level]("request", Object.fromEntries(short) as Refused);
    }
    this.#rest.set(status, (this.#rest.get(status) ?? 0) + 1);
    this.#addresses.add(from);
  }

  /** Say what is not said yet, and begin a new period. */
  flush(): void {
    clearTimeout(this.#timer ?? undefined);
    this.#timer = null;
    const statuses = [...this.#rest].toSorted(([a], [b]) => a - b);
    const requests = statuses.reduce((sum, [, count]) => sum + count, 0);
    if (requests > 0) {
      this.log.info(`refused ${requests} more requests of strangers`, {
        statuses: statuses.map(([status, count]) => `${count} × ${status}`).join(", "),
        addresses: this.#addresses.size,
      });
    }
    this.#lines.clear();
    this.#linesInAll = 0;
    this.#rest.clear();
    this.#addresses.clear();
  }

  #known(key: string): string {
    return this.#lines.has(key) || this.#addresses.has(key) || this.#addresses.size + this.#lines.size < addressLimit ? key : "others";
  }
}

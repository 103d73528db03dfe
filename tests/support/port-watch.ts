import { describePort, type PortState, samePort } from "../../src/hardware/switches/driver.ts";
import { type KnownPort, knownPorts, type OpenDatabase } from "./ports.ts";

// Looks at ports and at the database, again and again: is there a port that carries something else than the database
// says, without anybody knowing?

export const keyOf = (port: Pick<KnownPort, "switch" | "port">): string => `${port.switch} ${port.port}`;

/** What is wrong with a port that carries `actual`, or null. */
export type Judge = (known: KnownPort, actual: PortState) => string | null;

/** A port has to carry what its attachments say, unless a change of it is pending or it is suspect. */
export const isNoticed: Judge = ({ desired, pending, suspect }, actual) =>
  pending || suspect !== null || samePort(desired, actual)
    ? null
    : `carries ${describePort(actual)}, and should carry ${describePort(desired)}`;

export interface PortWatchOptions {
  database: OpenDatabase;
  /** What the ports carry now, by key; without those that this watch does not know. */
  read(): Map<string, PortState> | Promise<Map<string, PortState>>;
  judge?: Judge;
  /** For how long a port may be wrong at the moment. */
  graceMs?: () => number;
  pauseMs: number;
}

export class PortWatch {
  readonly violations: string[] = [];
  /** Ports that were suspect at some time since this was emptied. */
  readonly suspects = new Set<string>();
  /** Ports that were not as the database says, known or not, since this was emptied. */
  readonly different = new Set<string>();
  looks = 0;
  checks = 0;
  /** The longest that a port was wrong within the grace. */
  longestMs = 0;
  #since = new Map<string, number>();
  #stopping = false;
  #again = Promise.withResolvers<void>();
  readonly #running: Promise<void>;

  constructor(readonly options: PortWatchOptions) {
    this.#running = this.#run();
    // Told by `stop`.
    this.#running.catch(() => {});
  }

  /** Look at once, or as soon as the look that is under way is over. */
  soon(): void {
    this.#again.resolve();
  }

  /** One more look, and the end; rejects when a look has failed. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.soon();
    await this.#running;
  }

  async #run(): Promise<void> {
    for (;;) {
      const last = this.#stopping;
      this.#again = Promise.withResolvers();
      await this.#look();
      if (last) return;
      await Promise.race([Bun.sleep(this.options.pauseMs), this.#again.promise]);
    }
  }

  async #look(): Promise<void> {
    const { database, read, judge = isNoticed, graceMs = () => 0 } = this.options;
    // A port that carries the same before and after carries it when the database is read.
    const before = await read();
    const ports = await knownPorts(database);
    const after = await read();
    this.looks++;
    for (const known of ports) {
      const key = keyOf(known);
      const actual = after.get(key);
      const former = before.get(key);
      if (!actual || !former) continue;
      if (known.suspect !== null) this.suspects.add(key);
      if (!samePort(actual, former)) continue;
      this.checks++;
      if (!samePort(known.desired, actual)) this.different.add(key);
      const complaint = judge(known, actual);
      if (complaint === null) {
        this.#since.delete(key);
        continue;
      }
      const since = this.#since.get(key) ?? performance.now();
      this.#since.set(key, since);
      const lasts = performance.now() - since;
      this.longestMs = Math.max(this.longestMs, lasts);
      if (lasts < graceMs()) continue;
      this.#since.delete(key);
      this.violations.push(`${key} ${complaint}; and has for ${Math.round(lasts)} ms`);
    }
  }
}

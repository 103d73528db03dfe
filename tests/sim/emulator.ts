import type { PortState } from "../../src/hardware/switches/driver.ts";

/**
 * A switch of some vendor, emulated on a real socket of 127.0.0.1: it keeps a running and a startup
 * config, answers in the vendor's words, and fails on request.
 */
export interface Emulator {
  /** `127.0.0.1:port`. */
  readonly hostname: string;
  /** The fields to register it with, `hostname` among them. The password matches the pattern of test secrets. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** What tests change while it runs. */
  readonly behaviour: Behaviour;
  /** Every line (or HTTP call: `METHOD path body`) that reached it since it started, in order, passwords included. */
  readonly received: string[];
  /** Sessions (or requests) under way now, and the most there ever were at once. */
  readonly sessions: { now: number; most: number };
  /** How often a running config was saved. */
  readonly saves: number;
  /** The truth: what frames the port would pass, from the running config; null when there is no such port. */
  port(label: string): PortState | null;
  /** Put a port into a state behind haas's back, as an operator at the console would. */
  setPort(label: string, state: PortState): void;
  /** Power lost and back: every connection ends, the running config is the startup config again. */
  powerCycle(): void;
  /** A replaced or factory-reset device: every port as it leaves the factory, in the running and the startup config. */
  factoryReset(): void;
  stop(): Promise<void>;
}

/** How it behaves; everything is off by default. */
export interface Behaviour {
  /** How long a login takes, and each command, in milliseconds. */
  loginDelayMs: number;
  commandDelayMs: number;
  /** Every byte is a write of its own. */
  oneByteWrites: boolean;
  /** Pages every long output, whatever it was told about paging. */
  pages: boolean;
  /** Log lines of the device come before, in the middle of and after what it answers, and while it is idle. */
  logs: boolean;
  /** At most so many sessions at once; null for no limit. */
  sessionLimit: number | null;
  /** Refuses every login. */
  refusesLogins: boolean;
  /** Something happens once, at one step. */
  fault: Fault | null;
  /** Consoles: told of every line that arrives, with the number of its connection; see Hold. */
  onLine: ((line: string, session: number) => Hold | null) | null;
  /** How many steps there were since `fault` was set last (or since the start). Set to 0 to count again. */
  steps: number;
}

/**
 * A fault happens at step `at` and is then over (`fault` becomes null), so that a second try succeeds.
 * Steps count from 0: accepting a connection is a step, and so is every line (or request) that arrives.
 */
export interface Fault {
  readonly kind:
    /** The connection ends after `bytes` bytes of the answer to this step; the step has taken effect. */
    | "cut"
    /** The connection ends before the step takes effect. */
    | "drop"
    /** The answer is binary noise, then the usual prompt (REST: a 200 with noise as its body); the step takes no effect. */
    | "garbage"
    /** The device refuses it with an error in its own words; the step takes no effect. */
    | "error"
    /** A connection step: the login is refused. Any other step: as `error`. */
    | "refuse"
    /** Nothing is answered any more on this connection, which stays open; the step takes no effect. */
    | "hang"
    /** As `hang`, but the step has taken effect. */
    | "silent"
    /** Power is lost before the step takes effect, and back at once: see `powerCycle`. */
    | "power"
    /** The answer takes `delayMs` longer. */
    | "slow";
  readonly at: number;
  readonly bytes?: number;
  readonly delayMs?: number;
}

export const calm = (): Behaviour => ({
  loginDelayMs: 0,
  commandDelayMs: 0,
  oneByteWrites: false,
  pages: false,
  logs: false,
  sessionLimit: null,
  refusesLogins: false,
  fault: null,
  onLine: null,
  steps: 0,
});

/** What a line waits for before it takes effect, and what its answer waits for before it is sent. */
export interface Hold {
  readonly effect?: Promise<unknown>;
  readonly answer?: Promise<unknown>;
}

export interface EmulatorOptions {
  /** Ports of the device, by the names that haas registers. Default: two. */
  readonly ports?: readonly string[];
  /** The VLANs that exist on it. Default: all that it can have. */
  readonly vlans?: readonly number[];
  readonly transport?: "ssh" | "telnet";
  readonly behaviour?: Partial<Behaviour>;
}

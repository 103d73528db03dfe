import type { TObject } from "@sinclair/typebox";

export type PowerStatus = "on" | "off";

/** How to reach one node's BMC, as it was registered. `host` may carry a port: `host:port`. */
export interface BmcAddress {
  readonly host: string;
  readonly user: string;
  readonly password: string;
  /** Which of the systems behind the BMC, where several share one. */
  readonly system?: string;
  /** What the node boots from when somebody gets it. Without it: nothing in particular. */
  readonly bootdev?: string;
}

export interface ObmTarget extends BmcAddress {
  /**
   * Everything that is sent to the BMC goes through this, each command by itself and each try of it anew: it rejects, and
   * runs nothing, when the caller may not use the node any more. `run` sends before it awaits anything, and ends within
   * the driver's `commandTimeoutMs`; until then nobody else gets the node.
   */
  command<T>(run: () => Promise<T>): Promise<T>;
}

/** The serial console of a node, logged to a file. */
export interface ConsoleLog {
  /** Start logging. No effect when it is on already. */
  start(node: string, target: ObmTarget): Promise<void>;
  /** Everything logged so far, or null when there is no log. */
  read(node: string): Promise<string | null>;
  /** Stop logging and delete the log. No effect when there is none. */
  remove(node: string): Promise<void>;
}

/**
 * A way to control a node out of band. Every call is bounded in time and rejects with an `OBMError`
 * that says what failed. An ability that a driver lacks is a method that it lacks.
 */
export interface ObmDriver {
  /** The last part of the published type URL, and the name on the command line. */
  readonly name: string;
  readonly settings: TObject;
  /**
   * The one spelling of the BMC, and of the system behind it, so that it is registered once; see ../address.ts.
   * `BadArgumentError` for a system that there can't be. Absent where there is no device.
   */
  address?(target: Pick<ObmTarget, "host" | "system">): string;
  /** The longest that one command takes, after which it is ended. */
  readonly commandTimeoutMs: number;
  /** Power on; no effect when it is on. */
  powerOn(target: ObmTarget): Promise<void>;
  /** Power off at once, without asking the operating system; no effect when it is off. */
  powerOff(target: ObmTarget): Promise<void>;
  /** Boot from the network next, and power-cycle; powers on if it was off. `force` resets instead. */
  powerCycle(target: ObmTarget, force: boolean): Promise<void>;
  powerStatus(target: ObmTarget): Promise<PowerStatus>;
  /** `BadArgumentError`, naming those there are, for a boot device that this driver does not have. */
  checkBootDevice(device: string): void;
  /** Set the boot device until it is set again. `BadArgumentError` for a device that there is not. */
  setBootDevice(target: ObmTarget, device: string): Promise<void>;
  readonly console?: ConsoleLog;
}

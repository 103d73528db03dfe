import { badArgument, quote } from "../../errors.ts";
import type { ObmDriver, ObmTarget } from "./driver.ts";
import { createIpmi, type IpmiOptions } from "./ipmi.ts";
import { mock } from "./mock.ts";

/** Published OBM types share this prefix. */
export const obmTypePrefix = "http://schema.massopencloud.org/haas/v0/obm/";

/** Every driver, by the name that `[extensions]` knows it by (`haas.ext.obm.<name>`). */
export const obmDrivers = {
  ipmi: (options: { ipmi: IpmiOptions }) => createIpmi(options.ipmi),
  mock: () => mock,
} as const satisfies Record<string, (options: { ipmi: IpmiOptions }) => ObmDriver>;

/** The drivers that the configuration switched on, by published type name. */
export class ObmRegistry {
  readonly #drivers: Map<string, ObmDriver>;

  constructor(drivers: readonly ObmDriver[]) {
    this.#drivers = new Map(drivers.map((driver) => [driver.name, driver]));
  }

  /** The driver of a published type URL, or undefined when it is not switched on. */
  find(type: string): ObmDriver | undefined {
    return type.startsWith(obmTypePrefix) ? this.#drivers.get(type.slice(obmTypePrefix.length)) : undefined;
  }

  /** The one spelling of a registered BMC; null where there is none. */
  address(type: string, settings: Record<string, unknown>): string | null {
    return this.find(type)?.address?.(settings as unknown as ObmTarget) ?? null;
  }

  /** The driver of a published type URL; `BadArgumentError` names the types there are. */
  byType(type: string): ObmDriver {
    const driver = this.find(type);
    if (!driver) {
      const known = [...this.#drivers.keys()].map((name) => obmTypePrefix + name).join(", ");
      // Anything else may be a password in the wrong field, and is not shown.
      const shown = type.startsWith(obmTypePrefix) ? quote(type) : "That";
      throw badArgument(`${shown} is not an OBM type of this haas. There are: ${known}.`, "This haas has no driver for that BMC.");
    }
    return driver;
  }
}

/** The driver with its checks, but without its calls: each is reported instead of made, and succeeds. */
export function dryRun(driver: ObmDriver, report: (call: string, host: string) => void): ObmDriver {
  const skip =
    (call: string) =>
    async ({ host }: ObmTarget) =>
      report(`${driver.name} ${call}`, host);
  return {
    name: driver.name,
    settings: driver.settings,
    ...(driver.address && { address: driver.address.bind(driver) }),
    commandTimeoutMs: driver.commandTimeoutMs,
    checkBootDevice: (device) => driver.checkBootDevice(device),
    powerOn: skip("power on"),
    powerOff: skip("power off"),
    powerCycle: skip("power cycle"),
    powerStatus: async (target) => {
      await skip("power status")(target);
      return "off";
    },
    setBootDevice: async (target, device) => {
      driver.checkBootDevice(device);
      await skip(`boot device ${device}`)(target);
    },
    console: {
      start: (_node, target) => skip("console start")(target),
      read: async () => null,
      remove: async () => {},
    },
  };
}

import { badArgument, quote } from "../../errors.ts";
import type { SwitchDriver, SwitchLimits } from "./driver.ts";
import { mock } from "./mock.ts";
import { ovs } from "./ovs.ts";
import { brocade } from "./brocade.ts";
import { dellN3000 } from "./delln3000.ts";
import { dellNos9 } from "./dellnos9.ts";
import { nexus } from "./nexus.ts";
import { powerConnect55xx } from "./powerconnect55xx.ts";

/** Published switch types share this prefix. */
export const switchTypePrefix = "http://schema.massopencloud.org/haas/v0/switches/";

/** Every driver, by the name that `[extensions]` knows it by (`haas.ext.switches.<name>`). */
export const switchDrivers = {
  mock,
  dell: powerConnect55xx,
  n3000: dellN3000,
  nexus,
  brocade,
  dellnos9: dellNos9,
  ovs,
} as const satisfies Record<string, SwitchDriver>;

/** The one spelling of where a switch is, whether its driver is switched on or not; null where there is no device. */
export function switchAddress(type: string, settings: Record<string, unknown>): string | null {
  const driver: SwitchDriver | undefined = Object.values(switchDrivers).find(({ name }) => type === switchTypePrefix + name);
  return driver?.address?.(settings) ?? null;
}

export type SwitchExtension = keyof typeof switchDrivers;

/** The drivers that the configuration switched on, by published type name. */
export class SwitchRegistry {
  readonly #drivers: Map<string, SwitchDriver>;

  readonly #unsaved: ReadonlySet<string>;

  readonly #limits: ReadonlyMap<string, SwitchLimits>;

  /** `unsaved`: the drivers whose switches keep their startup config as it is. */
  constructor(
    active: readonly SwitchExtension[],
    unsaved: ReadonlySet<SwitchExtension>,
    limits: Readonly<Record<SwitchExtension, SwitchLimits>>,
  ) {
    this.#limits = new Map(active.map((extension) => [switchDrivers[extension].name, limits[extension]]));
    this.#unsaved = new Set([...unsaved].map((extension) => switchDrivers[extension].name));
    this.#drivers = new Map(active.map((extension) => [switchDrivers[extension].name, switchDrivers[extension]]));
  }

  /** The driver of a published type URL; `BadArgumentError` names the types there are. */
  byType(type: string): SwitchDriver {
    const driver = type.startsWith(switchTypePrefix) ? this.#drivers.get(type.slice(switchTypePrefix.length)) : undefined;
    if (!driver) {
      const known = [...this.#drivers.keys()].map((name) => switchTypePrefix + name).join(", ");
      // Anything else may be a password in the wrong field, and is not shown.
      const shown = type.startsWith(switchTypePrefix) ? quote(type) : "That";
      throw badArgument(`${shown} is not a switch type of this haas. There are: ${known}.`, "This haas has no driver for that switch.");
    }
    return driver;
  }

  /** How long such a switch may take. */
  limits(driver: SwitchDriver): SwitchLimits {
    return this.#limits.get(driver.name)!;
  }

  /** Whether the running config of such a switch is to be saved. */
  saves(driver: SwitchDriver): boolean {
    return !this.#unsaved.has(driver.name);
  }
}

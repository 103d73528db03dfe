import { type ConsoleKind, type ConsoleOptions, startConsole } from "../sim/console.ts";
import type { Emulator } from "../sim/emulator.ts";
import { startRest } from "../sim/rest.ts";

// The five types of vendor switches that there are emulators of, for tests that have to hold for all of them.

export const consoleVendors = ["powerconnect55xx", "delln3000", "nexus"] as const satisfies ConsoleKind[];
export const restVendors = ["brocade", "dellnos9"] as const;
/** As in the published type. */
export const vendors = [...consoleVendors, ...restVendors] as const;
export type Vendor = (typeof vendors)[number];

export const isConsole = (vendor: Vendor): vendor is ConsoleKind => consoleVendors.some((name) => name === vendor);

/** Names of ports as such a device has them. */
export const portNames: Readonly<Record<Vendor, (number: number) => string>> = {
  powerconnect55xx: (number) => `gi1/0/${number}`,
  delln3000: (number) => `gi1/0/${number}`,
  nexus: (number) => `Ethernet1/${number}`,
  brocade: (number) => `1/0/${number}`,
  dellnos9: (number) => `1/${number}`,
};

/** An emulator; `options` for consoles only are not for the others. */
export function startEmulator(vendor: Vendor, options: ConsoleOptions = {}): Promise<Emulator> {
  return isConsole(vendor) ? startConsole(vendor, options) : startRest(vendor, options);
}

/** The body that registers it. */
export const registration = (vendor: Vendor, { settings }: Pick<Emulator, "settings">, more: Readonly<Record<string, unknown>> = {}) => ({
  type: `http://schema.massopencloud.org/haas/v0/switches/${vendor}`,
  ...settings,
  ...more,
});

/** Look at every line that reaches an emulator from now on, before it takes effect. */
export function onEveryLine({ received }: Emulator, look: (line: string) => void): void {
  received.push = (...lines: string[]) => {
    for (const line of lines) look(line);
    return Array.prototype.push.apply(received, lines);
  };
}

import type { SwitchTarget } from "../../src/hardware/switches/driver.ts";

/** A registered switch as a driver gets it, without a server behind it: any host key will do, and it may always be changed. */
export const switchTarget = (label: string, settings: Record<string, unknown> = {}): SwitchTarget<any> => ({
  label,
  settings,
  connectTimeoutMs: 10_000,
  commandTimeoutMs: 10_000,
  knownHostKey: async (presented) => presented,
  knownSerial: "",
  claimSerial: async () => {},
  confirm: async () => {},
});

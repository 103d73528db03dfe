import { field, fields, secretField } from "../settings.ts";
import type { ObmDriver, PowerStatus } from "./driver.ts";

const power = new Map<string, PowerStatus>();

/** A BMC that is not there: remembers, per host, what it was told, and takes any boot device. It has no console. */
export const mock: ObmDriver = {
  name: "mock",
  settings: fields({
    host: field("Any name", "bmc-01"),
    user: field("Any name", "admin"),
    password: secretField("Any password"),
  }),
  powerOn: async ({ host }) => void power.set(host, "on"),
  powerOff: async ({ host }) => void power.set(host, "off"),
  powerCycle: async ({ host }) => void power.set(host, "on"),
  powerStatus: async ({ host }) => power.get(host) ?? "off",
  checkBootDevice: () => {},
  setBootDevice: async () => {},
  console: {
    start: async () => {},
    read: async () => null,
    remove: async () => {},
  },
};

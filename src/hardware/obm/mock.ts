import { bootDeviceField, field, fields, secretField } from "../settings.ts";
import type { ObmDriver, PowerStatus } from "./driver.ts";

const power = new Map<string, PowerStatus>();

/** A BMC that is not there: remembers, per host, what it was told, and takes any boot device. It has no console. */
export const mock: ObmDriver = {
  name: "mock",
  commandTimeoutMs: 1_000,
  settings: fields({
    host: field("Any name", "bmc-01"),
    user: field("Any name", "admin"),
    password: secretField("Any password"),
    bootdev: bootDeviceField(["pxe", "disk", "none"]),
  }),
  powerOn: ({ host, command }) => command(async () => void power.set(host, "on")),
  powerOff: ({ host, command }) => command(async () => void power.set(host, "off")),
  powerCycle: ({ host, command }) => command(async () => void power.set(host, "on")),
  powerStatus: ({ host, command }) => command(async () => power.get(host) ?? "off"),
  checkBootDevice: () => {},
  setBootDevice: ({ command }) => command(async () => {}),
  console: {
    start: async () => {},
    read: async () => null,
    remove: async () => {},
  },
};

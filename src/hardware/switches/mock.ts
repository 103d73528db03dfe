import { field, fields, secretField } from "../settings.ts";
import { describePort, emptyPort, type PortState, samePort, type SwitchDriver } from "./driver.ts";

const switches = new Map<string, Map<string, PortState>>();

/** A switch that is not there: every port it is asked about exists, and holds what it was told. */
export const mock: SwitchDriver = {
  name: "mock",
  settings: fields({
    hostname: field("Any name", "switch-01"),
    username: field("Any name", "admin"),
    password: secretField("Any password"),
  }),
  positional: ["hostname", "username", "password"],
  capabilities: ["nativeless-trunk-mode"],
  highestVlan: 4094,
  startsEmpty: true,
  validatePort: () => {},
  plan: (port, actual, desired) => (samePort(actual, desired) ? [] : [`set ${port} to ${describePort(desired)}`]),
  async open({ label }) {
    const ports = switches.get(label) ?? new Map<string, PortState>();
    switches.set(label, ports);
    return {
      applyPort: async (port, desired) => void ports.set(port, desired),
      readPorts: async (wanted) => new Map(wanted.map((port) => [port, ports.get(port) ?? emptyPort])),
      close: async () => {},
    };
  },
};

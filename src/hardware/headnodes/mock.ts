import type { HeadnodeDriver } from "./driver.ts";

/** A hypervisor that is not there: every step succeeds, and machines are remembered for as long as the process lives. */
export function mock(): HeadnodeDriver {
  const machines = new Map<string, boolean>();
  return {
    name: "mock",
    displaysElsewhere: "the hypervisor is simulated",
    create: async ({ uuid }) => void machines.set(uuid, false),
    start: async ({ uuid }) => void machines.set(uuid, true),
    stop: async ({ uuid }) => void (machines.has(uuid) && machines.set(uuid, false)),
    remove: async ({ uuid }) => void machines.delete(uuid),
    async state({ uuid }) {
      // After a restart it is as haas left it, whatever that was.
      return machines.get(uuid) === true ? { kind: "on", vncPort: null } : { kind: "off", words: "shut off" };
    },
  };
}

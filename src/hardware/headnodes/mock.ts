import type { HeadnodeDriver, HeadnodeTarget } from "./driver.ts";

const changing = (change: (headnode: HeadnodeTarget) => void) => async (headnode: HeadnodeTarget) => {
  await headnode.confirm();
  change(headnode);
};

/** A hypervisor that is not there: every step succeeds, and machines are remembered for as long as the process lives. */
export function mock(): HeadnodeDriver {
  const machines = new Map<string, boolean>();
  return {
    name: "mock",
    displaysElsewhere: "the hypervisor is simulated",
    create: changing(({ uuid }) => void machines.set(uuid, false)),
    start: changing(({ uuid }) => void machines.set(uuid, true)),
    stop: changing(({ uuid }) => void (machines.has(uuid) && machines.set(uuid, false))),
    remove: changing(({ uuid }) => void machines.delete(uuid)),
    async state({ uuid }) {
      // After a restart it is as haas left it, whatever that was.
      return machines.get(uuid) === true ? { kind: "on", vncPort: null } : { kind: "off", words: "shut off" };
    },
  };
}

import type { HeadnodeDriver } from "./driver.ts";

/** A hypervisor that is not there: every step succeeds and there is no display. */
export const mock: HeadnodeDriver = {
  name: "mock",
  create: async () => {},
  start: async () => {},
  stop: async () => {},
  remove: async () => {},
  vncPort: async () => null,
};

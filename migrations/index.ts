import type { Migration } from "kysely";
import { up as init } from "./0001-init.ts";

/** Every migration in order. An explicit map, so that the compiled binary holds them. */
export const migrations: Record<string, Migration> = {
  "0001-init": { up: init },
};

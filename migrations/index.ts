import type { Migration } from "kysely";
import { up as init } from "./0001-init.ts";
import { up as truth } from "./0002-truth.ts";
import { up as headnodes } from "./0003-headnodes.ts";
import { up as leases } from "./0004-leases.ts";
import { up as names } from "./0005-names.ts";
import { up as lineage } from "./0006-lineage.ts";
import { up as rights } from "./0007-rights.ts";

/** Every migration in order. An explicit map, so that the compiled binary holds them. */
export const migrations: Record<string, Migration> = {
  "0001-init": { up: init },
  "0002-truth": { up: truth },
  "0003-headnodes": { up: headnodes },
  "0004-leases": { up: leases },
  "0005-names": { up: names },
  "0006-lineage": { up: lineage },
  "0007-rights": { up: rights },
};

import type { Authenticator } from "./auth/caller.ts";
import type { Config } from "./config.ts";
import type { Db } from "./db/transaction.ts";
import type { HeadnodeDriver } from "./hardware/headnodes/driver.ts";
import type { ObmRegistry } from "./hardware/obm/index.ts";
import type { SwitchRegistry } from "./hardware/switches/index.ts";
import type { Log } from "./log.ts";
import type { Allocator } from "./networking/allocator.ts";
import type { Lineage } from "./networking/lineage.ts";

/** What a route or the worker can reach. Built once, in serve.ts or by a test. */
export interface Context {
  readonly config: Config;
  readonly db: Db;
  readonly lineage: Lineage;
  readonly log: Log;
  readonly obm: ObmRegistry;
  readonly switches: SwitchRegistry;
  readonly headnodes: HeadnodeDriver;
  readonly allocator: Allocator;
  readonly authenticator: Authenticator;
  /** Aborted when this haas comes to its end: no connection to a device is begun or waited for any more. */
  readonly ending: AbortController;
  /** Tell the worker that the journal has something new. Call it after the commit. */
  wake(): void;
}

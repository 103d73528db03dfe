import pg from "pg";
import { createApp } from "./app.ts";
import { administrator, nullAuthenticator } from "./auth/caller.ts";
import { databaseAuthenticator } from "./auth/database.ts";
import { type Config, ConfigError } from "./config.ts";
import type { Context } from "./context.ts";
import { availabilityOf } from "./db/away.ts";
import { isPostgresUri, openDatabase, redactUri } from "./db/open.ts";
import { StateFile } from "./db/state-file.ts";
import type { Db } from "./db/transaction.ts";
import { messageOf, statusOf, UnavailableError } from "./errors.ts";
import { type Front, listen } from "./http/front.ts";
import { fileLimit } from "./http/places.ts";
import { isLoopback } from "./http/arrival.ts";
import { openCertificates } from "./http/certificates.ts";
import { trustedProxies } from "./http/proxies.ts";
import { Refusals } from "./http/refusals.ts";
import { libvirt } from "./hardware/headnodes/libvirt.ts";
import { mock as mockHeadnodes } from "./hardware/headnodes/mock.ts";
import { dryRun as dryRunObm, obmDrivers, ObmRegistry } from "./hardware/obm/index.ts";
import type { SwitchDriver } from "./hardware/switches/driver.ts";
import { switchDrivers, SwitchRegistry, switchTypePrefix } from "./hardware/switches/index.ts";
import { noteAddresses } from "./inventory/addresses.ts";
import { cleanUpHeadnodes } from "./inventory/headnodes.ts";
import { isReserved } from "./inventory/projects.ts";
import { createUser } from "./inventory/users.ts";
import { Door, operate, type Operation, whilePresent, within } from "./lifetime.ts";
import { createLog, type Log } from "./log.ts";
import { nullAllocator, vlanPool } from "./networking/allocator.ts";
import { journalChannel } from "./networking/journal.ts";
import { trackLineage, untracked } from "./networking/lineage.ts";
import { startPruner } from "./networking/pruner.ts";
import { hangUp } from "./networking/session.ts";
import { startVerifier } from "./networking/verifier.ts";
import { applyPending, startWorker, type Worker } from "./networking/worker.ts";

// The composition root: the only file that builds databases, drivers and workers from a configuration.

const requestGraceMs = 20_000;
/** For what is under way with a switch; connections that are not made yet get none. */
const sessionGraceMs = 8_000;
const reconnectMs = 500;
/** A database that hangs does not keep haas from ending. */
const closeTimeoutMs = 5_000;

interface OpenOptions {
  /** Why the database can't be believed, where that is known already; it has to exist then. */
  replaced?: string | null;
}

/**
 * Build what routes and worker need, on a database that belongs to this server, or else is not believed: see
 * networking/lineage.ts. `wake` is called after every accepted networking action.
 */
export async function createContext(config: Config, log: Log, wake: () => void, { replaced = null }: OpenOptions = {}): Promise<Context> {
  const stateFile = openStateFile(config);
  const db = await openDatabase(config.databaseUri, {
    recall: () => stateFile.mainFile(),
    existing: replaced !== null,
    notice: (level, message, fields) => log[level](message, fields),
  });
  return orDestroy(db, async () => {
    const allocator = config.allocator === "null" ? nullAllocator : vlanPool(config.vlanPool);
    const misfit = await allocator.check(db);
    if (misfit !== null) {
      throw new ConfigError(`${config.file ?? "The default configuration"}: [haas.ext.network_allocators.vlan_pool] vlans: ${misfit}`);
    }
    const lineage = config.dryRun ? untracked(db) : await trackLineage(db, stateFile, log, replaced);
    const quiet = whilePresent(db, log);
    const obm = config.obm.map((name) => obmDrivers[name]({ ipmi: config.ipmi }));
    return {
      config,
      db,
      lineage,
      log: quiet,
      obm: new ObmRegistry(
        config.dryRun ? obm.map((driver) => dryRunObm(driver, (call, host) => quiet.info("dry run: a BMC call", { call, host }))) : obm,
      ),
      switches: new SwitchRegistry(config.switches, config.unsavedSwitches, config.switchLimits),
      headnodes:
        config.headnode.driver === "mock" ? mockHeadnodes() : libvirt({ ...config.headnode, endpoint: config.headnode.libvirtEndpoint }),
      allocator,
      authenticator: config.auth.backend === "null" ? nullAuthenticator : databaseAuthenticator(db, config.auth.requireAuthentication),
      ending: new AbortController(),
      wake,
    };
  });
}

function openStateFile({ file, stateDir, databaseUri }: Config): StateFile {
  try {
    return StateFile.in(stateDir, databaseUri);
  } catch (error) {
    const folder = stateDir === null ? "is not set, and the default" : stateDir;
    throw new ConfigError(`${file ?? "The default configuration"}: [general] state_dir: ${folder} can't be written: ${messageOf(error)}.`);
  }
}

/** Serve the API, and apply networking unless `networks` is false, until SIGTERM or SIGINT. */
export async function serve(config: Config, options: { port: number; host: string; networks: boolean }): Promise<void> {
  requireNamedNullBackend(config, options.host);
  const log = openLog(config);
  const certificates = await openCertificates(config, log);
  const door = new Door();
  const refusals = new Refusals(log);
  let front: Front | null = null;
  let cleaning = Promise.resolve();
  const { open, begin } = networking(config, log, options.networks);
  await operate(config.databaseUri, log, {
    async open(replaced) {
      const ctx = await open(replaced);
      // Before anybody is served: it may have to write.
      if (replaced === null) await orDestroy(ctx.db, () => warnOfSurprises(ctx));
      return ctx;
    },
    begin(ctx) {
      door.open(ctx.db, createApp(ctx, refusals));
      front ??= listen(door, {
        ...options,
        certificate: certificates && (() => certificates.current()),
        proxies: trustedProxies(config.http.trustedProxies),
        refused: ({ type, msg }, { id, address, line }) =>
          refusals.note("info", { request: id, status: statusOf[type], address, line, refused: msg }),
      });
      return begin(ctx);
    },
    async started(ctx) {
      warnOfPlainHttp(config, options.host, log);
      cleaning = cleanUpHeadnodes(ctx).catch((error: unknown) => log.warning("half-made headnodes are left", { error: messageOf(error) }));
      const url = `${certificates === null ? "http" : "https"}://${options.host.includes(":") ? `[${options.host}]` : options.host}:${front!.port}`;
      log.info("serving", {
        url,
        documentation: `${url}/swagger`,
        database: redactUri(config.databaseUri),
        networks: options.networks,
        pid: process.pid,
        connections: front!.places,
        files: fileLimit(),
      });
    },
    stopping: async () => {
      await front?.stop(requestGraceMs);
      certificates?.stop();
      refusals.flush();
      await within(closeTimeoutMs, cleaning);
    },
  });
}

/** The worker and what goes with it, on one database after the other. */
function networking(config: Config, log: Log, wanted: boolean): Pick<Operation, "open" | "begin"> {
  let worker: Worker | null = null;
  return {
    open: (replaced) => createContext(config, log, () => worker?.wake(), { replaced }),
    begin(ctx) {
      worker = wanted ? startWorker(ctx) : null;
      const verifier = worker && startVerifier(ctx);
      const pruner = worker && startPruner(ctx);
      const listener = worker ? listenForWakes(config, ctx, worker) : null;
      const watch = ctx.lineage.watch();
      const stopWaking = availabilityOf(ctx.db).onBack(() => {
        worker?.wake();
        verifier?.wake();
        listener?.reconnect();
      });
      return {
        async stop() {
          watch.stop();
          stopWaking();
          hangUp(ctx, sessionGraceMs);
          await Promise.all([worker?.stop(), verifier?.stop(), pruner?.stop(), listener?.stop()]);
          // How far it came.
          await within(closeTimeoutMs, ctx.lineage.look());
        },
      };
    },
  };
}

function openLog(config: Config): Log {
  try {
    const log = createLog(config.logLevel, config.logDir);
    // On a terminal they were printed already.
    if (config.logDir !== null) for (const warning of config.warnings) log.warning(warning);
    return log;
  } catch (error) {
    throw new ConfigError(`${config.file}: [general] log_dir: ${config.logDir} can't be written: ${messageOf(error)}.`);
  }
}

/** Passwords that others can read on their way, and a demand for TLS that nobody can meet. */
function warnOfPlainHttp({ http, auth }: Config, host: string, log: Log): void {
  if (http.tls !== null || isLocal(host)) return;
  if (http.requireTls) {
    if (http.trustedProxies.length > 0) return;
    log.warning(
      "require_tls is set, but there is neither TLS nor a trusted proxy: all other machines are refused; set tls_cert and tls_key in [general], or trusted_proxies",
    );
  } else if (auth.backend === "database") {
    log.warning(
      "other machines send their passwords over plain HTTP, for whoever is on the way to read: set tls_cert and tls_key in [general] (`haas certificate` makes them), or put a proxy with TLS in front and set require_tls",
      { host },
    );
  }
}

/** What is legal, but may not be what somebody wants. */
async function warnOfSurprises(ctx: Context): Promise<void> {
  const { config, db, log } = ctx;
  await warnOfSwitches(ctx);
  for (const { kind, label, first } of await noteAddresses(ctx)) {
    log.warning(`a ${kind === "switch" ? "switch" : "BMC"} is registered twice: delete one of the two`, { [kind]: label, as: first });
  }
  if (config.file === null) {
    log.warning("no configuration file: a development server, where everybody on this machine is an administrator", {
      database: config.databaseUri,
      vlans: "100-199",
    });
    return;
  }
  if (config.auth.backend === "null" && !config.auth.named) {
    log.warning("no authentication backend is named in [extensions]: everybody on this machine is an administrator");
  }
  if (config.headnode.driver === "mock" && config.headnode.baseImages.length > 0)
    log.warning("headnodes are simulated, as [headnode] driver says");
  if (config.allocator === "vlan_pool" && config.vlanPool.length === 0) {
    log.warning("the VLAN pool is empty: set vlans in [haas.ext.network_allocators.vlan_pool], or no network can get an id");
  }
  for (const { label } of await db.selectFrom("project").select("label").execute()) {
    if (isReserved(config, label))
      log.warning("a project is named like the administrators: whose its networks are can't be told", { project: label });
  }
  const project = config.maintenance?.project;
  if (project !== undefined && !(await db.selectFrom("project").select("id").where("label", "=", project).executeTakeFirst())) {
    log.warning("the maintenance project does not exist, so no node can leave its project; create it", { project });
  }
}

async function warnOfSwitches({ config, db, log }: Context): Promise<void> {
  const pool = new Set(config.allocator === "vlan_pool" ? config.vlanPool : []);
  for (const extension of config.switches) {
    const driver: SwitchDriver = switchDrivers[extension];
    const type = switchTypePrefix + driver.name;
    const rows = await db.selectFrom("switch").select(["id", "label", "settings"]).where("type", "=", type).orderBy("label").execute();
    for (const { id, label, settings } of rows) {
      const vlan = driver.reservedVlan?.(JSON.parse(settings));
      if (vlan !== undefined && pool.has(vlan)) {
        log.warning("the dummy VLAN of a switch is in the VLAN pool: the network that gets it can't be used on that switch", {
          switch: label,
          vlan,
        });
      }
      if (!driver.canonicalPort) continue;
      // Registered by an earlier haas, which did not know.
      const ports = await db.selectFrom("port").select("label").where("switch_id", "=", id).orderBy("id").execute();
      for (const [first, ...more] of Map.groupBy(ports, (port) => driver.canonicalPort!(port.label)).values()) {
        for (const { label: port } of more) {
          log.warning("a port is registered twice: delete one of the two", { switch: label, port, as: first!.label });
        }
      }
    }
  }
}

/** Only the networking worker. `once` applies what is pending now, and returns. */
export async function serveNetworks(config: Config, { once }: { once: boolean }): Promise<void> {
  const log = openLog(config);
  if (once) {
    const ctx = await createContext(config, log, () => {});
    try {
      await applyPending(ctx);
      return await ctx.lineage.look();
    } finally {
      await ctx.db.destroy();
    }
  }
  await operate(config.databaseUri, log, {
    ...networking(config, log, true),
    started: async () => log.info("applying networking actions", { database: redactUri(config.databaseUri), pid: process.pid }),
    stopping: () => Promise.resolve(),
  });
}

/** The first administrator of the database backend. */
export async function createAdminUser(config: Config, username: string, password: string): Promise<void> {
  const stateFile = openStateFile(config);
  const db = await openDatabase(config.databaseUri, {
    recall: () => stateFile.mainFile(),
    notice: (_, message) => void process.stderr.write(`warning: ${message}\n`),
  });
  try {
    await createUser(db, administrator, username, password, true);
  } finally {
    await db.destroy();
  }
}

/** Everybody who can reach a server with the null backend is an administrator of it. */
function requireNamedNullBackend(config: Config, host: string): void {
  if (config.auth.backend === "null" && !config.auth.named && !isLocal(host)) {
    throw new ConfigError(
      `Without authentication haas serves this machine only, not ${host}. Name a backend in [extensions] of haas.cfg: haas.ext.auth.database, or haas.ext.auth.null if that is what you want.`,
    );
  }
}

const isLocal = (host: string): boolean => host === "localhost" || isLoopback(host);

async function orDestroy<T>(db: Db, build: () => Promise<T>): Promise<T> {
  try {
    return await build();
  } catch (error) {
    await db.destroy();
    throw error;
  }
}

/**
 * Wake the worker when another process accepted an action. Only PostgreSQL can tell; with SQLite the
 * worker sees it within `sleep_time`. While the connection is down, that holds here as well.
 */
function listenForWakes(config: Config, { db, log }: Context, worker: Worker): { reconnect(): void; stop(): Promise<void> } | null {
  if (!isPostgresUri(config.databaseUri)) return null;
  let stopped = false;
  let client: pg.Client | null = null;
  let giveUp = () => {};
  let told = false;
  const connect = async (): Promise<void> => {
    while (!stopped) {
      const fresh = new pg.Client({
        connectionString: config.databaseUri,
        application_name: "haas wake",
        connectionTimeoutMillis: closeTimeoutMs,
        query_timeout: closeTimeoutMs,
        keepAlive: true,
      });
      try {
        await availabilityOf(db).requireHere();
        client = fresh;
        const lost = new Promise<void>((resolve) => {
          fresh.on("error", () => resolve());
          fresh.on("end", () => resolve());
          giveUp = resolve;
        });
        await fresh.connect();
        fresh.on("notification", () => worker.wake());
        await fresh.query(`listen ${journalChannel}`);
        told = false;
        worker.wake();
        await lost;
      } catch (error) {
        // That the database is away is told once.
        if (!told && !(error instanceof UnavailableError)) {
          log.warning("not listening for networking actions of other processes", { error: messageOf(error) });
          told = true;
        }
      }
      void fresh.end().catch(() => {});
      if (!stopped) await Bun.sleep(reconnectMs);
    }
  };
  void connect();
  return {
    // It may be dead without knowing it.
    reconnect: () => giveUp(),
    async stop() {
      stopped = true;
      if (client) await within(closeTimeoutMs, client.end());
    },
  };
}

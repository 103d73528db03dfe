import { statSync } from "node:fs";
import type { App } from "./app.ts";
import type { Context } from "./context.ts";
import { goneReason, requirePresent, unavailable } from "./db/lineage.ts";
import { abandonDatabase, isPostgresUri, redactUri, sqlitePath } from "./db/open.ts";
import type { Db } from "./db/transaction.ts";
import { messageOf, statusOf } from "./errors.ts";
import { type Log, type LogLevel, logLevels } from "./log.ts";
import { releaseAll } from "./networking/session.ts";
import { startWatchdog } from "./watchdog.ts";

// From the opening of a database to its end, which may come before that of the server: a database that was replaced,
// put back or deleted is left alone, and when there is one again, everything is built anew on that.

const reopenPauseMs = 1_000;
/** A database that hangs does not keep haas from ending, or from going on. */
const closeTimeoutMs = 5_000;

/** What runs on one open database. */
export interface Work {
  stop(): Promise<void>;
}

export interface Operation {
  /** Open the database. `replaced`: why it can't be believed; then there has to be one. */
  open(replaced: string | null): Promise<Context>;
  /** Start what works on it. */
  begin(ctx: Context): Work;
  /** The first time it is opened. */
  started(ctx: Context): Promise<void>;
  /** The end of the server; what works on the database stops at the same time. */
  stopping(): Promise<unknown>;
}

/** Run until SIGTERM or SIGINT, on whatever database is there. */
export async function operate(uri: string, log: Log, operation: Operation): Promise<void> {
  startWatchdog(log);
  let ctx = await operation.open(null);
  const signal = untilSignal();
  let work: Work | null = null;
  try {
    work = operation.begin(ctx);
    await operation.started(ctx);
  } catch (error) {
    // A front that listens would keep the process alive, and answer without a database.
    await Promise.allSettled([operation.stopping(), work?.stop()]);
    await within(closeTimeoutMs, ctx.db.destroy());
    throw error;
  }
  for (;;) {
    const why = await Promise.race([signal, ctx.lineage.gone]);
    if (why === null) break;
    log.error(`haas has lost its database: ${why}; nothing is written to it any more, and no request is served before there is one again`, {
      database: redactUri(uri),
    });
    // The sessions first: nothing more is sent to a switch.
    await within(closeTimeoutMs, releaseAll());
    try {
      await Promise.all([work.stop(), abandon(uri, ctx.db)]);
    } catch (error) {
      log.critical("the database that is lost can't be closed without harm, so haas ends", { error: messageOf(error) });
      process.exit(1);
    }
    const next = await reopen(uri, log, () => operation.open(why), signal);
    if (next === null) return void (await operation.stopping());
    ctx = next;
    work = operation.begin(ctx);
    log.info("serving again", { database: redactUri(uri) });
  }
  log.info("stopping: finishing what is in hand");
  await Promise.all([operation.stopping(), work.stop()]);
  await within(closeTimeoutMs, releaseAll());
  await (goneReason(ctx.db) === null ? within(closeTimeoutMs, ctx.db.destroy()) : abandon(uri, ctx.db));
  log.info("stopped");
}

/** SQLite's has to be closed before another one is opened at its path; PostgreSQL may hang. */
const abandon = (uri: string, db: Db) => (isPostgresUri(uri) ? within(closeTimeoutMs, abandonDatabase(db)) : abandonDatabase(db));

/** Try until there is a database; null when `ended` resolves first. None is made: whoever deleted it may be about to put another one there. */
async function reopen(uri: string, log: Log, open: () => Promise<Context>, ended: Promise<null>): Promise<Context | null> {
  let stopping = false;
  void ended.then(() => (stopping = true));
  let [told, seen] = ["", ""];
  while (!stopping) {
    const before = seen;
    seen = stateOfFile(uri);
    try {
      // Not while it is still being copied there.
      if (seen === before || seen === "") return await open();
    } catch (error) {
      const why = messageOf(error);
      if (why !== told) log.error("waiting for a database; haas makes a new one only when it is restarted", { why });
      told = why;
    }
    await Promise.race([Bun.sleep(reopenPauseMs), ended]);
  }
  return null;
}

function stateOfFile(uri: string): string {
  if (isPostgresUri(uri)) return "";
  const stat = statSync(sqlitePath(uri), { bigint: true, throwIfNoEntry: false });
  return stat ? `${stat.ino} ${stat.size} ${stat.mtimeNs}` : "";
}

/** Looks at SQLite's file, which costs microseconds; PostgreSQL is looked at every second. A disk that is away may come back. */
function isPresent(db: Db): boolean {
  try {
    requirePresent(db);
    return true;
  } catch {
    return goneReason(db) === null;
  }
}

/** Answers from the database that is open, and with 503 from the moment when that is gone. */
export class Door implements App {
  #open: { db: Db; app: App } | null = null;

  open(db: Db, app: App): void {
    this.#open = { db, app };
  }

  async handle(...request: Parameters<App["handle"]>): Promise<Response> {
    const { db, app } = this.#open!;
    if (isPresent(db)) {
      const response = await app.handle(...request);
      if (goneReason(db) === null) return response;
    }
    const error = unavailable(goneReason(db)!);
    return Response.json(
      { type: error.type, msg: error.message },
      { status: statusOf[error.type], headers: { "retry-after": String(error.retryAfterSeconds) } },
    );
  }
}

/** Says nothing any more once the database is gone: what fails then is told once, by whoever found out. */
export function whilePresent(db: Db, log: Log): Log {
  const at =
    (level: LogLevel): Log[LogLevel] =>
    (message, fields) => {
      if (goneReason(db) === null) log[level](message, fields);
    };
  const levels = Object.fromEntries(logLevels.map((level) => [level, at(level)])) as Record<LogLevel, Log[LogLevel]>;
  return { ...levels, enabled: (level) => log.enabled(level) };
}

function untilSignal(): Promise<null> {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve(null));
  });
}

export function within(ms: number, work: Promise<unknown>): Promise<unknown> {
  return Promise.race([work.catch(() => {}), new Promise((resolve) => setTimeout(resolve, ms).unref())]);
}

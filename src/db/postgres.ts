import {
  type CompiledQuery,
  type DatabaseConnection,
  type DatabaseIntrospector,
  type Dialect,
  type Driver,
  type Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  type QueryResult,
} from "kysely";
import pg from "pg";
import { messageOf } from "../errors.ts";
import { Availability, codeOf, type Probe, type Verdict, verdictOf } from "./away.ts";
import { Turns } from "./turns.ts";

// PostgreSQL by way of `pg`, for Kysely. Its own driver waits for a server that is away, and gives a connection on which
// an answer is still to come to whoever asks next.

// bigint columns hold milliseconds since 1970, which a number holds exactly.
pg.types.setTypeParser(pg.types.builtins.INT8, Number);

const poolSize = 10;
/** Who wants a connection waits for one in a queue of at most so many, for so long. */
const waitingLimit = 1_024;
const patienceMs = 10_000;
const connectTimeoutMs = 5_000;
const lockTimeoutMs = 3_000;
const statementTimeoutMs = 30_000;
/** A process that was stopped in a transaction does not keep everybody else from writing. */
const idleInTransactionMs = 10_000;
/** While the server has no connection left, and this process has others. */
const crowdedPauseMs = 100;

/** What has had no answer for so many ticks makes haas look whether the server answers at all, within so many more. */
const tickMs = 250;
const slowTicks = 4;
const probeTicks = 8;

const tooManyConnections = "53300";
/** From pg, before it has sent anything. */
const unsent = /is not queryable$/;

/** What was in hand when the server was found to be away. */
class Cut extends Error {}

interface Waiting {
  ticks: number;
  reject(error: Cut): void;
}

/** Connections to one database. */
export class PostgresServer implements Probe, Dialect {
  readonly availability = new Availability(this);
  readonly #slots = new Turns(poolSize, waitingLimit);
  readonly #waiting = new Set<Waiting>();
  readonly #ticker: Timer;
  #pool: pg.Pool;
  #connected = 0;
  #connecting = 0;
  #looking = false;
  /** Until the next look, when nothing is answered still. */
  #ticksToLook = 0;

  constructor(private readonly uri: string) {
    this.#pool = this.#newPool();
    this.#ticker = setInterval(() => this.#tick(), tickMs);
    this.#ticker.unref();
  }

  createAdapter(): PostgresAdapter {
    return new PostgresAdapter();
  }

  createQueryCompiler(): PostgresQueryCompiler {
    return new PostgresQueryCompiler();
  }

  createIntrospector(db: Kysely<any>): DatabaseIntrospector {
    return new PostgresIntrospector(db);
  }

  createDriver(): Driver {
    return {
      init: async () => {},
      acquireConnection: () => this.#acquire(),
      beginTransaction: (connection) => (connection as Connection).begin(),
      commitTransaction: (connection) => (connection as Connection).commit(),
      rollbackTransaction: (connection) => (connection as Connection).rollback(),
      releaseConnection: async (connection) => {
        (connection as Connection).release();
        this.#slots.pass();
      },
      destroy: async () => {
        this.availability.close();
        clearInterval(this.#ticker);
        await this.#pool.end();
      },
    };
  }

  #newPool(): pg.Pool {
    const pool = new pg.Pool({
      connectionString: this.uri,
      max: poolSize,
      connectionTimeoutMillis: connectTimeoutMs,
      statement_timeout: statementTimeoutMs,
      // Ours, for a server that hangs.
      query_timeout: statementTimeoutMs + 5_000,
      keepAlive: true,
      lock_timeout: lockTimeoutMs,
      idle_in_transaction_session_timeout: idleInTransactionMs,
      application_name: "haas",
    });
    pool.on("connect", (client) => {
      this.#connected++;
      // The pool listens for errors of idle connections only; the query of a busy one fails with the same error.
      client.on("error", () => {});
    });
    pool.on("remove", () => void this.#connected--);
    // A connection that breaks while idle: the pool replaces it, and the next query says what is wrong.
    pool.on("error", () => {});
    return pool;
  }

  async #acquire(): Promise<Connection> {
    await this.availability.requireHere();
    if (!(await this.#slots.take(patienceMs))) {
      await this.availability.requireHere();
      throw this.availability.refused(new Error("all of its connections are in use"));
    }
    try {
      return new Connection(this, await this.#connect());
    } catch (error) {
      this.#slots.pass();
      throw error;
    }
  }

  async #connect(): Promise<pg.PoolClient> {
    for (let waitedMs = 0; ; waitedMs += crowdedPauseMs) {
      const connecting = this.#pool.connect();
      this.#connecting++;
      try {
        return await this.inHand(connecting);
      } catch (error) {
        if (error instanceof Cut) {
          // One that comes too late.
          void connecting.then((late) => late.release(true)).catch(() => {});
          throw this.failed(error);
        }
        const crowded = codeOf(error) === tooManyConnections && (this.#connected > 0 || this.#connecting > 1);
        // Whatever keeps haas from connecting, nobody can use the database then.
        if (!crowded) throw this.availability.failed(error, "away");
        if (waitedMs >= patienceMs) throw this.availability.refused(error);
      } finally {
        this.#connecting--;
      }
      await Bun.sleep(crowdedPauseMs);
    }
  }

  /** Rejects with Cut when the server is found to be away before this has ended. */
  inHand<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const waiting: Waiting = { ticks: 0, reject };
      this.#waiting.add(waiting);
      work.then(resolve, reject).finally(() => this.#waiting.delete(waiting));
    });
  }

  /** What whoever asked is to be told of an error. */
  failed(error: unknown, verdict = verdictFor(error), unknown = false): unknown {
    return this.availability.failed(error instanceof Cut ? error.cause : error, verdict, unknown);
  }

  /** Ticks, not times: a process that was stopped itself has not waited. */
  #tick(): void {
    for (const waiting of this.#waiting) waiting.ticks++;
    const [oldest] = this.#waiting;
    if (!oldest || oldest.ticks < slowTicks || this.#looking || this.#ticksToLook-- > 0) return;
    this.#looking = true;
    this.#ticksToLook = slowTicks;
    this.probe()
      .catch((error: unknown) => this.availability.lost(error))
      .finally(() => (this.#looking = false));
  }

  /** In a connection of its own. */
  async probe(): Promise<void> {
    const client = new pg.Client({
      connectionString: this.uri,
      connectionTimeoutMillis: connectTimeoutMs,
      query_timeout: connectTimeoutMs,
      application_name: "haas probe",
    });
    client.on("error", () => {});
    const answer = (async () => {
      try {
        await client.connect();
        await client.query("select 1");
      } catch (error) {
        // The database is there, and busy.
        if (codeOf(error) !== tooManyConnections || this.#connected === 0) throw error;
      } finally {
        void client.end().catch(() => {});
      }
    })();
    let answered = false;
    void answer.then(() => (answered = true)).catch(() => (answered = true));
    for (let ticks = 0; !answered && ticks < probeTicks; ticks++) await Promise.race([answer.catch(() => {}), Bun.sleep(tickMs)]);
    if (answered) return answer;
    void client.end().catch(() => {});
    throw new Error("the server does not answer");
  }

  cut(cause: unknown): void {
    for (const { reject } of this.#waiting) reject(new Cut(messageOf(cause), { cause }));
    this.#waiting.clear();
    this.#slots.sendAway();
    // Connections from before may be of no more use without knowing it.
    const before = this.#pool;
    this.#pool = this.#newPool();
    void before.end().catch(() => {});
  }
}

/** Between one `acquireConnection` and its `releaseConnection`. */
class Connection implements DatabaseConnection {
  #broken = false;

  constructor(
    private readonly server: PostgresServer,
    private readonly client: pg.PoolClient,
  ) {}

  async executeQuery<R>({ sql, parameters }: CompiledQuery): Promise<QueryResult<R>> {
    const { command, rowCount, rows } = await this.#query(sql, [...parameters]);
    const changes = command === "INSERT" || command === "UPDATE" || command === "DELETE" || command === "MERGE";
    return { rows: rows as R[], ...(changes && { numAffectedRows: BigInt(rowCount ?? 0) }) };
  }

  streamQuery(): never {
    throw new Error("haas reads no streams from a database.");
  }

  async begin(): Promise<void> {
    await this.#query("begin");
  }

  async commit(): Promise<void> {
    await this.#query("commit", [], true);
  }

  /** Never rejects: that would hide why. */
  async rollback(): Promise<void> {
    if (!this.#broken) await this.#query("rollback").catch(() => (this.#broken = true));
  }

  release(): void {
    this.client.release(this.#broken);
  }

  async #query(sql: string, parameters: unknown[] = [], committing = false): Promise<pg.QueryResult> {
    try {
      return await this.server.inHand(this.client.query(sql, parameters));
    } catch (error) {
      const verdict = verdictFor(error);
      if (verdict === "away" || verdict === "refused") this.#broken = true;
      // Otherwise the server itself says that it did not commit.
      const unknown = committing && (verdict === "away" || !(error instanceof pg.DatabaseError)) && !unsent.test(messageOf(error));
      throw this.server.failed(error, verdict, unknown);
    }
  }
}

/** What is no answer of the server comes from the connection, or from wrong parameters. */
function verdictFor(error: unknown): Verdict {
  if (error instanceof pg.DatabaseError) return verdictOf(error);
  if (error instanceof TypeError || error instanceof RangeError) return "ours";
  // One hangs; whether the others do shows by itself.
  return messageOf(error) === "Query read timeout" ? "refused" : "away";
}

import { createHmac, randomBytes } from "node:crypto";
import type { Db } from "../db/transaction.ts";
import { Deadline } from "../deadline.ts";
import { CredentialsError, HaasError, notPermitted } from "../errors.ts";
import { type Authenticator, anonymous, type Caller, type Identity, type Rights } from "./caller.ts";

const cacheLifeMs = 60_000;
const cacheLimit = 10_000;
/** Wrong guesses before answers slow down, how long they are remembered, and the longest delay. */
const freeGuesses = 5;
const guessLifeMs = 15 * 60_000;
const longestDelayMs = 5_000;
const counterLimit = 50_000;
/** Each verification takes 64 MiB for a tenth of a second or so. */
const verifiersAtOnce = 2;
const verifyQueueLimit = 100;

/** Argon2id, Bun's default cost. Bun refuses an empty password, which HTTP basic allows: hence the prefix. */
export const hashPassword = (password: string): Promise<string> => Bun.password.hash(prefixed(password), { algorithm: "argon2id" });
const prefixed = (password: string) => `haas:${password}`;

/**
 * HTTP basic against the users table.
 *
 * A verified password costs a keyed hash the next time. The key of the cache covers the stored hash,
 * which every request reads: so a user who is changed or deleted, by whatever process, is another
 * user at once. A wrong password is remembered in the same way, so a script that repeats its mistake
 * is one guess, while guesses that differ are slowed down per account and per address.
 */
export function databaseAuthenticator(db: Db, requireAuthentication: boolean): Authenticator {
  const key = randomBytes(32);
  const verdicts = new Map<string, { right: boolean; forgotten: Deadline }>();
  const guesses = new GuessCounter();
  const queue = new VerifyQueue();
  // For names that are no users: verifying takes as long as for one. Made at the first need.
  let decoy: Promise<string> | null = null;

  async function verify(name: string, password: string, storedHash: string | null, address: string) {
    const digest = createHmac("sha256", key)
      .update(JSON.stringify([name, password, storedHash]))
      .digest("base64");
    const known = verdicts.get(digest);
    if (known && !known.forgotten.passed) return { right: known.right, waited: false };
    const counters = [`account ${name}`, `address ${address}`];
    await guesses.delay(counters);
    // Counted before it is known to be wrong, so that guesses at the same time don't slip through together.
    guesses.count(counters);
    const right = await queue.run(async () => {
      const matches = await Bun.password.verify(prefixed(password), storedHash ?? (await (decoy ??= hashPassword(""))));
      return matches && storedHash !== null;
    });
    if (verdicts.size >= cacheLimit) verdicts.clear();
    verdicts.set(digest, { right, forgotten: new Deadline(cacheLifeMs) });
    if (right) guesses.forget(counters);
    return { right, waited: true };
  }

  return {
    async authenticate(authorization, address) {
      if (authorization === null) {
        if (requireAuthentication) throw new CredentialsError("Authentication is required: send a user name and a password by HTTP basic.");
        return anonymous;
      }
      const credentials = parseBasic(authorization);
      if (!credentials) throw new CredentialsError("The Authorization header holds no HTTP basic credentials.");
      const { name, password } = credentials;
      const rows = await usersWithProjects(db).select("users.password_hash").where("users.label", "=", name).execute();
      const user = rows[0];
      const { right, waited } = await verify(name, password, user?.password_hash ?? null, address);
      if (!right || !user) throw new CredentialsError("The user name or the password is wrong.");
      const caller = userCaller(user.id, name);
      // Verifying may take seconds: the user may have changed since.
      return { caller, rights: waited ? await caller.rights(db) : rightsOf(rows)! } satisfies Identity;
    },
  };
}

const usersWithProjects = (db: Db) =>
  db
    .selectFrom("users")
    .leftJoin("user_project", "user_project.user_id", "users.id")
    .select(["users.id", "users.is_admin", "user_project.project_id"]);

/** From a row for each project of a user; null for a user that there is not. */
function rightsOf(rows: readonly { is_admin: 0 | 1; project_id: number | null }[]): Rights | null {
  const projects = new Set(rows.flatMap(({ project_id }) => (project_id === null ? [] : [project_id])));
  return rows[0] ? { isAdmin: rows[0].is_admin === 1, projects } : null;
}

function userCaller(id: number, label: string): Caller {
  return {
    user: { id, label },
    async rights(db) {
      const rights = rightsOf(await usersWithProjects(db).where("users.id", "=", id).execute());
      if (!rights) throw notPermitted("The user who asked for this does not exist any more.");
      return rights;
    },
  };
}

/** Name and password of an HTTP basic header (RFC 7617, UTF-8), or null when it is none. */
function parseBasic(header: string): { name: string; password: string } | null {
  const encoded = /^basic +([A-Za-z0-9+/]+={0,2}) *$/i.exec(header)?.[1];
  if (encoded === undefined) return null;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.from(encoded, "base64"));
    const colon = text.indexOf(":");
    const name = text.slice(0, Math.max(colon, 0));
    // No user's name holds control characters, and PostgreSQL takes no NUL.
    return name === "" || /\p{Cc}/u.test(name) ? null : { name, password: text.slice(colon + 1) };
  } catch {
    return null;
  }
}

/** How many different wrong guesses were made lately, per account and per address. */
class GuessCounter {
  readonly #counters = new Map<string, { guesses: number; forgotten: Deadline }>();

  async delay(names: readonly string[]): Promise<void> {
    const most = Math.max(...names.map((name) => this.#guesses(name)));
    if (most >= freeGuesses) await Bun.sleep(Math.min(100 * 2 ** (most - freeGuesses), longestDelayMs));
  }

  count(names: readonly string[]): void {
    if (this.#counters.size >= counterLimit) this.#counters.clear();
    for (const name of names) this.#counters.set(name, { guesses: this.#guesses(name) + 1, forgotten: new Deadline(guessLifeMs) });
  }

  /** It was no guess: the account's count ends, the address's is one less. */
  forget([account, address]: readonly string[]): void {
    this.#counters.delete(account!);
    const counter = this.#counters.get(address!);
    if (counter) counter.guesses--;
  }

  #guesses(name: string): number {
    const counter = this.#counters.get(name);
    return counter && !counter.forgotten.passed ? counter.guesses : 0;
  }
}

/** Bounds how much memory and time guesses can take from everybody else. */
class VerifyQueue {
  #active = 0;
  readonly #waiting: (() => void)[] = [];

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#active >= verifiersAtOnce) {
      if (this.#waiting.length >= verifyQueueLimit) throw new HaasError("TooManyRequestsError", "Too many log-ins at once; try again.");
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else this.#active++;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#active--;
    }
  }
}

import { createHmac, randomBytes } from "node:crypto";
import type { Db } from "../db/transaction.ts";
import { CredentialsError, notPermitted } from "../errors.ts";
import { addressKey } from "./address.ts";
import { type Authenticator, anonymous, type Caller, type Identity, type Rights } from "./caller.ts";
import { Guesses } from "./guesses.ts";
import { Lru } from "./lru.ts";

/** How many verdicts are remembered, of each kind. */
const verdictLimit = 10_000;

/** Argon2id, Bun's default cost. Bun refuses an empty password, which HTTP basic allows: hence the prefix. */
export const hashPassword = (password: string): Promise<string> => Bun.password.hash(prefixed(password), { algorithm: "argon2id" });
const prefixed = (password: string) => `haas:${password}`;

/**
 * HTTP basic against the users table.
 *
 * A password that was verified once costs a keyed hash from then on. The key of a verdict covers the stored hash, which
 * every request reads: so a user who is changed or deleted, by whatever process, is another user at once, and a verdict
 * is true for ever. A wrong password is remembered in the same way, so a script that repeats its mistake is one guess.
 * Right and wrong ones are kept apart: no number of guesses makes haas forget who is signed in.
 */
export function databaseAuthenticator(db: Db, requireAuthentication: boolean): Authenticator {
  const secret = randomBytes(32);
  const keyOf = (...parts: (string | null)[]) => createHmac("sha256", secret).update(JSON.stringify(parts)).digest("base64");
  const right = new Lru<true>(verdictLimit);
  const wrong = new Lru<true>(verdictLimit);
  const guesses = new Guesses();
  // For names that are no users: verifying takes as long as for one. Made at the first need.
  let decoy: Promise<string> | null = null;

  async function verify(name: string, password: string, storedHash: string | null, address: string): Promise<Verdict> {
    const key = keyOf(name, password, storedHash);
    if (right.get(key)) return "known";
    if (wrong.get(key)) return "wrong";
    const isRight = await guesses.verdictOn({
      account: keyOf(name),
      address: addressKey(address),
      key,
      async verify() {
        const hash = storedHash ?? (await (decoy ??= hashPassword("")));
        return (await Bun.password.verify(prefixed(password), hash)) && storedHash !== null;
      },
    });
    (isRight ? right : wrong).set(key, true);
    return isRight ? "verified" : "wrong";
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
      const rowsOfUser = () => usersWithProjects(db).select("users.password_hash").where("users.label", "=", name).execute();
      let rows = await rowsOfUser();
      const hash = rows[0]?.password_hash ?? null;
      const verdict = await verify(name, password, hash, address);
      // Verifying may take seconds: the user may have changed since, and the password, too.
      if (verdict === "verified") rows = await rowsOfUser();
      const user = rows[0];
      if (verdict === "wrong" || !user || user.password_hash !== hash)
        throw new CredentialsError("The user name or the password is wrong.");
      return { caller: userCaller(user.id, name), rights: rightsOf(rows)! } satisfies Identity;
    },
  };
}

/** Of a password. `known`: it took no time. */
type Verdict = "known" | "verified" | "wrong";

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

import { type Db, type Tx, write } from "../db/transaction.ts";
import { notPermitted } from "../errors.ts";

/**
 * Who sent a request: a name, and no set of rights, so that whatever waited can't act on rights that are gone. Read them
 * in the transaction, or the turn, in which they are used.
 */
export interface Caller {
  /** Null for an anonymous caller and under the null backend. No id is given twice. */
  readonly user: { readonly id: number; readonly label: string } | null;
  /** The rights at this moment. `AuthorizationError` when the user is gone, whoever has the name now. */
  rights(db: Db): Promise<Rights>;
}

/** What somebody may do, at the moment when it was read. */
export interface Rights {
  readonly isAdmin: boolean;
  /** Ids of the projects that the user is a member of. */
  readonly projects: ReadonlySet<number>;
}

const all: Rights = { isAdmin: true, projects: new Set() };
const none: Rights = { isAdmin: false, projects: new Set() };
export const administrator: Caller = { user: null, rights: async () => all };
const anonymousCaller: Caller = { user: null, rights: async () => none };

/** A caller, and the rights as they were when the request came: enough for what waits for nothing. */
export interface Identity {
  readonly caller: Caller;
  readonly rights: Rights;
}

export const anonymous: Identity = { caller: anonymousCaller, rights: none };

/** An authentication backend. */
export interface Authenticator {
  /**
   * Who is calling, from the Authorization header and the client's address.
   * Throws `CredentialsError` when credentials are required and missing, or wrong.
   */
  authenticate(authorization: string | null, address: string): Identity | Promise<Identity>;
}

/** Everybody is an administrator. For a machine of one's own. */
export const nullAuthenticator: Authenticator = { authenticate: () => ({ caller: administrator, rights: all }) };

// The access words of the contract. "anyone" needs no check: whoever got here is authenticated, or needn't be.

/** admin: an administrator. */
export function requireAdmin(rights: Rights): void {
  if (!rights.isAdmin) throw notPermitted("Only an administrator may do this.");
}

/** `write` for what only administrators may change: the caller is one when it is changed, however long that took. */
export const writeAsAdmin = <T>(db: Db, caller: Caller, change: (tx: Tx) => Promise<T>): Promise<T> =>
  write(db, async (tx) => {
    requireAdmin(await caller.rights(tx));
    return change(tx);
  });

/** project P: a member of it, or an administrator. */
export const mayActFor = (rights: Rights, projectId: number | null): boolean =>
  rights.isAdmin || (projectId !== null && rights.projects.has(projectId));

export function requireProject(rights: Rights, project: { id: number; label: string }): void {
  if (!mayActFor(rights, project.id)) throw notPermitted("Only a member of that project or an administrator may do this.");
}

/** node's project: the project that the node is allocated to; only an administrator if it is free. */
export function requireNodeProject(rights: Rights, node: { project_id: number | null }): void {
  if (!mayActFor(rights, node.project_id)) {
    throw notPermitted("Only a member of the node's project or an administrator may do this.");
  }
}

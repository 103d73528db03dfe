import { notPermitted } from "../errors.ts";

/** Who sent a request. */
export interface Caller {
  /** The user's name; null for an anonymous caller and under the null backend. */
  readonly user: string | null;
  readonly isAdmin: boolean;
  /** Ids of the projects that the user is a member of. */
  readonly projects: ReadonlySet<number>;
}

export const administrator: Caller = { user: null, isAdmin: true, projects: new Set() };
export const anonymous: Caller = { user: null, isAdmin: false, projects: new Set() };

/** An authentication backend. */
export interface Authenticator {
  /**
   * Who is calling, from the Authorization header and the client's address.
   * Throws `CredentialsError` when credentials are required and missing, or wrong.
   */
  authenticate(authorization: string | null, address: string): Caller | Promise<Caller>;
}

/** Everybody is an administrator. For a machine of one's own. */
export const nullAuthenticator: Authenticator = { authenticate: () => administrator };

// The access words of the contract. "anyone" needs no check: whoever got here is authenticated, or needn't be.

/** admin: an administrator. */
export function requireAdmin(caller: Caller): void {
  if (!caller.isAdmin) throw notPermitted("Only an administrator may do this.");
}

/** project P: a member of it, or an administrator. */
export const mayActFor = (caller: Caller, projectId: number | null): boolean =>
  caller.isAdmin || (projectId !== null && caller.projects.has(projectId));

export function requireProject(caller: Caller, project: { id: number; label: string }): void {
  if (!mayActFor(caller, project.id)) throw notPermitted("Only a member of that project or an administrator may do this.");
}

/** node's project: the project that the node is allocated to; only an administrator if it is free. */
export function requireNodeProject(caller: Caller, node: { project_id: number | null }): void {
  if (!mayActFor(caller, node.project_id)) {
    throw notPermitted("Only a member of the node's project or an administrator may do this.");
  }
}

/**
 * Every failure that can happen in operation, as a type with one status.
 * An error that is not a HaasError is a fault of ours and becomes `ServerError`.
 */

export const statusOf = {
  ValidationError: 400,
  BadArgumentError: 400,
  AllocationError: 400,
  AuthorizationError: 401,
  NotFoundError: 404,
  MethodNotAllowedError: 405,
  DuplicateError: 409,
  BlockedError: 409,
  ProjectMismatchError: 409,
  IllegalStateError: 409,
  RequestTimeoutError: 408,
  PayloadTooLargeError: 413,
  UriTooLongError: 414,
  TooManyRequestsError: 429,
  HeadersTooLargeError: 431,
  OBMError: 500,
  SwitchError: 500,
  HeadnodeError: 500,
  ServerError: 500,
  UnavailableError: 503,
} as const;

export type ErrorType = keyof typeof statusOf;

/** See the fields of `HaasError`. */
interface Options extends ErrorOptions {
  tenant?: string;
  retryAfterSeconds?: number;
}

/** A failure with a published type and one sentence for a person. The sentence never holds a secret. */
export class HaasError extends Error {
  /**
   * The sentence for whoever is no administrator: it names no BMC, switch, port, hypervisor or project that they can't
   * see otherwise, and holds no device's words. Null when the message is for everybody.
   */
  readonly tenant: string | null;
  /** When it is worth asking again; null where nothing passes by itself. */
  readonly retryAfterSeconds: number | null;

  // Not `code`: Elysia takes an error's `code` for its own registry.
  constructor(
    readonly type: ErrorType,
    message: string,
    { tenant, retryAfterSeconds, ...options }: Options = {},
  ) {
    super(message, options);
    this.name = type;
    this.tenant = tenant ?? tenantDefaults[type] ?? null;
    this.retryAfterSeconds = retryAfterSeconds ?? retryDefaultsSeconds[type] ?? null;
  }
}

/** What a tenant is told of hardware that failed. */
const tenantDefaults: Partial<Record<ErrorType, string>> = {
  OBMError: "The node's BMC failed this call; an administrator can see why in the log.",
  SwitchError: "A switch failed this call; an administrator can see why in the log.",
  HeadnodeError: "The hypervisor failed this call; an administrator can see why in the log.",
};

const retryDefaultsSeconds: Partial<Record<ErrorType, number>> = { TooManyRequestsError: 5, UnavailableError: 5 };

/**
 * A switch that failed, named with its own words.
 */
export class SwitchError extends HaasError {
  constructor(message: string, options?: ErrorOptions) {
    super("SwitchError", message, options);
  }
}

/** The hypervisor failed, or a virtual machine on it; in its own words. */
export class HeadnodeError extends HaasError {
  constructor(message: string, options?: ErrorOptions) {
    super("HeadnodeError", message, options);
  }
}

/** The connection to a switch is gone, or out of step: whatever was asked last may have happened. Open another one. */
export class SessionLostError extends SwitchError {}

/** haas can't answer at the moment; the answer says when to ask again. */
export class UnavailableError extends HaasError {
  constructor(message: string, options?: Options) {
    super("UnavailableError", message, options);
  }
}

/** The client went away before its request was complete: nobody is there to be answered. */
export class AbortedError extends HaasError {
  constructor() {
    super("ValidationError", "The request ended before its body was complete.");
  }
}

/** Credentials are missing or wrong: the answer asks for HTTP basic credentials. */
export class CredentialsError extends HaasError {
  constructor(message: string) {
    super("AuthorizationError", message);
  }
}

/** Not for this caller, whatever the credentials: 403, and none are asked for. */
export class ForbiddenError extends HaasError {
  constructor(message: string) {
    super("AuthorizationError", message);
  }
}

export const notFound = (kind: string, label: string, parent = "") =>
  new HaasError("NotFoundError", `${kind} ${quote(label)} does not exist${parent}.`);

export const noSuchPath = () => new HaasError("NotFoundError", "There is no such path.");
export const duplicate = (message: string) => new HaasError("DuplicateError", message);
export const blocked = (message: string, tenant?: string) => new HaasError("BlockedError", message, told(tenant));
export const badArgument = (message: string, tenant?: string) => new HaasError("BadArgumentError", message, told(tenant));
export const validation = (message: string) => new HaasError("ValidationError", message);
export const projectMismatch = (message: string) => new HaasError("ProjectMismatchError", message);
export const illegalState = (message: string, tenant?: string) => new HaasError("IllegalStateError", message, told(tenant));
export const notPermitted = (message: string) => new HaasError("AuthorizationError", message);

const told = (tenant: string | undefined): Options => (tenant === undefined ? {} : { tenant });

/** A name as it stands in a sentence: quoted, shortened, with anything unprintable escaped. */
export function quote(label: string): string {
  const shown = label.length > 80 ? `${label.slice(0, 77)}…` : label;
  return `'${shown.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0)!.toString(16)}}`)}'`;
}

/** The sentence of an error for an administrator, or for somebody else. */
export const textFor = (isAdmin: boolean, error: HaasError): string => (isAdmin ? error.message : (error.tenant ?? error.message));

/** The text of anything that was thrown. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

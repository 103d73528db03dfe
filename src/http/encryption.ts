import type { Config } from "../config.ts";
import { ForbiddenError } from "../errors.ts";
import type { Log } from "../log.ts";
import { type Arrival, isLoopback } from "./arrival.ts";

/** Addresses that are named in the log. */
const namedLimit = 100;

/**
 * What to do about requests that somebody on the way can read. Passwords in them are warned about, once per client
 * address; with `require_tls` a ForbiddenError is thrown for every such request: the answer to one without a password
 * would ask for it.
 */
export function requireEncrypted({ http }: Config, log: Log): (request: Request, arrival: Arrival) => void {
  const named = new Set<string>();
  const warn = (address: string) => {
    if (named.size > namedLimit || named.has(address)) return;
    named.add(address);
    if (named.size <= namedLimit) log.warning("a password came over plain HTTP: whoever is on the way can read it", { address });
    else log.warning("passwords come over plain HTTP from more addresses than are named here", { named: namedLimit });
  };
  return (request, { address, encrypted, direct }) => {
    // What a proxy brings from this machine may have come over a network all the same.
    if (encrypted || (direct && isLoopback(address))) return;
    if (http.requireTls)
      throw new ForbiddenError(
        "This server takes requests from other machines over TLS only: use its https:// address, and change a password that went over http://.",
      );
    if (request.headers.has("authorization")) warn(address);
  };
}

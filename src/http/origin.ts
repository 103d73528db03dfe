import { isIPv6 } from "node:net";
import { ForbiddenError, quote } from "../errors.ts";
import { isLoopback } from "./arrival.ts";

// A browser sends what it knows of a user along with what pages of other sites ask for, and lets their names lead to
// this server, so that they may read what it answers. These checks are for browsers: programs that send no Origin, and
// call the server by a name of its own, notice nothing.

const readingMethods = new Set(["GET", "HEAD", "OPTIONS"]);

/** Throws `ForbiddenError` for what a page of another site would have changed. */
export function refuseForeignChange({ method, headers }: Request, encrypted: boolean): void {
  if (!readingMethods.has(method)) refuseForeignPage(headers, encrypted);
}

/** Throws `ForbiddenError` for what a page of another site asks for, even if it only reads. */
export function refuseForeignPage(headers: Headers, encrypted: boolean): void {
  const site = headers.get("sec-fetch-site");
  const origin = headers.get("origin");
  if ((site === null || site === "same-origin" || site === "none") && (origin === null || isOwn(origin, headers.get("host"), encrypted)))
    return;
  throw new ForbiddenError("This request comes from a page of another site; only pages of this server may make it.");
}

/** Whether an `Origin` is that of this server's pages. That haas hears no TLS does not mean that there is none: a proxy may have ended it. */
function isOwn(origin: string, host: string | null, encrypted: boolean): boolean {
  if (host === null || !hostForm.test(host) || !URL.canParse(origin)) return false;
  const { protocol, host: asking, username, password } = new URL(origin);
  if (protocol !== "https:" && (protocol !== "http:" || encrypted)) return false;
  if (username !== "" || password !== "") return false;
  const own = `${protocol}//${host}`;
  return URL.canParse(own) && new URL(own).host === asking;
}

/** A `Host` header: a name or an address, and perhaps a port. */
const hostForm = /^(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\\[\]]+)(?::\d{0,5})?$/;

/**
 * Throws `ForbiddenError` for a request by a name that is none of this server's: neither of the loopback, nor the
 * address that was connected to, nor one of `names`. Somebody's page can have any other name lead here.
 */
export function hostCheck(names: readonly string[]): (host: string | null, boundAddress: string) => void {
  const known = new Set(names.map((name) => nameOf(isIPv6(name) ? `[${name}]` : name)));
  /** The last one that was right, as it was written: nearly every request is by the same. */
  let last = "";
  return (host, boundAddress) => {
    if (host === null || host === last) return;
    const name = nameOf(host);
    if (name !== null && (isLoopbackName(name) || known.has(name))) {
      last = host;
      return;
    }
    if (name !== null && name === plainAddress(boundAddress)) return;
    throw new ForbiddenError(
      `Without authentication this server answers only by names that it knows, and ${quote(host)} is none of them: add it to hosts in [general] of haas.cfg.`,
    );
  };
}

/** The name in a `Host` as browsers write it, without brackets, port and final dot; null for what is none. */
function nameOf(host: string): string | null {
  const url = `http://${hostForm.exec(host)?.[1]}`;
  if (!hostForm.test(host) || !URL.canParse(url)) return null;
  const name = new URL(url).hostname;
  return name.startsWith("[") ? plainAddress(name.slice(1, -1)) : name.replace(/\.$/, "");
}

const isLoopbackName = (name: string) => name === "localhost" || name.endsWith(".localhost") || isLoopback(name);

/** An address as browsers write it, IPv4 as such, and without a zone. */
function plainAddress(address: string): string {
  const [withoutZone = ""] = address.split("%");
  if (!isIPv6(withoutZone)) return withoutZone;
  const plain = new URL(`http://[${withoutZone}]`).hostname.slice(1, -1);
  const [, high, low] = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(plain) ?? [];
  if (high === undefined || low === undefined) return plain;
  const [a, b] = [Number.parseInt(high, 16), Number.parseInt(low, 16)];
  return [a >> 8, a & 255, b >> 8, b & 255].join(".");
}

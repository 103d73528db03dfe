import { realpathSync } from "node:fs";
import { isIPv6 } from "node:net";
import { basename, dirname, join, resolve } from "node:path";

// One spelling of an address, so that one device is registered once. Names are not looked up: what they mean can change.

/** The ports of the services by which a switch is managed: whichever it is registered with, it is one switch. */
export const switchPorts = [22, 23, 80, 443, 8008, 8888] as const;
/** RMCP, which carries IPMI. */
export const ipmiPort = 623;
/** OVSDB, RFC 7047. */
const ovsdbPort = 6640;

/** Longer than any address is, and short enough for every pattern here. */
const addressLimitCharacters = 512;

/**
 * The one spelling of `host`, `host:port`, `[v6]:port` or a bare v6 address, with or without `http://` or `https://`
 * before it: without case, trailing dot, zone, and a port among `defaultPorts`. An IP address has one form, whether it is
 * written short, octal, hexadecimal or as an IPv4-mapped one. What is no address is kept as it is, in lower case.
 */
export function canonicalAddress(text: string, defaultPorts: readonly number[]): string {
  if (text.length > addressLimitCharacters) return text;
  const bare = text
    .trim()
    .toLowerCase()
    .replace(/^https?:\/\//, "")
    .replace(/\/+$/, "");
  const [, bracketed, plain, port] = isIPv6(bare)
    ? [bare, bare, undefined, undefined]
    : (/^(?:\[([^\]]*)\]|([^:[\]]*))(?::(\d+))?$/.exec(bare) ?? []);
  // A console's driver takes brackets around any host.
  const host = (bracketed === undefined ? null : v6Of(bracketed)) ?? hostOf(bracketed ?? plain ?? "");
  if (host === null) return bare;
  return port === undefined || defaultPorts.includes(Number(port)) ? host : `${host}:${Number(port)}`;
}

function v6Of(text: string): string | null {
  // A zone says by which interface a link-local address is reached, not whose it is.
  const host = urlHost(`[${text.replace(/%.*$/, "")}]`);
  const [, high, low] = /^\[::ffff:([0-9a-f]+):([0-9a-f]+)\]$/.exec(host ?? "") ?? [];
  if (high === undefined || low === undefined) return host;
  return loopback([high, low].flatMap((word) => [parseInt(word, 16) >> 8, parseInt(word, 16) & 255]).join("."));
}

const hostOf = (text: string): string | null => (/^[^\s/\\?#@%]+$/.test(text) ? urlHost(text.replace(/\.+$/, "")) : null);

/** As WHATWG's parser spells it, which reads IPv4 addresses as inet_aton(3) does; null for what is no host. */
function urlHost(host: string): string | null {
  const url = URL.parse(`http://${host}`);
  return url === null || url.hostname === "" ? null : loopback(url.hostname.replace(/\.+$/, ""));
}

/** This machine's own names, whose meaning is fixed (RFC 6761); the unspecified address connects to it, too. */
const loopback = (host: string): string =>
  /^(.+\.)?localhost$|^ip6-(localhost|loopback)$|^0\.0\.0\.0$|^\[::1?\]$/.test(host) ? "127.0.0.1" : host;

/** A system behind a BMC: its IPMB address, and the channel of the BMC that leads there. */
export interface BridgedSystem {
  readonly target: number;
  readonly channel: number;
}

/** `0x82` or `130`, or with the channel, `0x82@7`; null for what is no IPMB address of a system other than the BMC itself. */
export function parseSystem(text: string): BridgedSystem | null {
  const [, target, channel = "0"] = /^(0x[0-9a-f]{1,2}|[1-9][0-9]{0,2})(?:@(0x[0-9a-f]|[0-9]|1[0-5]))?$/i.exec(text) ?? [];
  const system = { target: Number(target), channel: Number(channel) };
  // IPMB addresses are even; 0x20 is the BMC's own. Channels: IPMI 2.0, table 6-1.
  const legal = system.target > 0 && system.target < 256 && system.target % 2 === 0 && system.target !== 0x20 && system.channel < 12;
  return legal ? system : null;
}

/** The one spelling of a BMC, or of a system behind it. */
export function bmcAddress({ host, system }: { readonly host: string; readonly system?: string | undefined }): string {
  const bmc = canonicalAddress(host, [ipmiPort]);
  const bridged = system === undefined ? null : parseSystem(system);
  return bridged === null ? bmc : `${bmc} 0x${bridged.target.toString(16)}@${bridged.channel}`;
}

/** The one spelling of where an Open vSwitch database listens: the path of a socket, `unix:/path`, `tcp:address:port` or `ssl:…`. */
export function ovsdbAddress(database: string): string {
  const network = /^(?:tcp|ssl):(.*)$/.exec(database)?.[1];
  // A port speaks one of the two.
  if (network !== undefined) return `tcp:${canonicalAddress(network, [ovsdbPort])}`;
  return `unix:${canonicalPath(database.replace(/^unix:/, ""))}`;
}

/** Without symbolic links, as far as the path exists. */
function canonicalPath(asked: string): string {
  try {
    // The system's own, which follows a link before it takes a `..` after it.
    return realpathSync.native(asked);
  } catch {
    const path = resolve("/", asked);
    if (path === "/") return path;
    const parent = canonicalPath(dirname(path));
    // The same on every system that follows the Filesystem Hierarchy Standard, even where the link is not made yet.
    return join(path === "/var/run" ? "/" : parent, basename(path));
  }
}

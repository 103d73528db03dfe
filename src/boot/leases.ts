import { readFileSync, statSync } from "node:fs";
import type { NodeEntry } from "./config.ts";
import { type Mac, parseMac } from "./mac.ts";

/** dnsmasq empties its file and writes it anew, so what was found in it a moment ago may be missing now. */
const rewriteMs = 400;
const pollMs = 40;

/** Who holds which IPv4 address: dnsmasq's lease file, and the fixed addresses of the nodes. Read anew at every question. */
export interface Leases {
  holds(mac: Mac, address: string): Promise<boolean>;
  /** The MAC addresses that an address belongs to. */
  holders(address: string): Promise<readonly Mac[]>;
  /** An address of a MAC, for what is rendered before it has asked. */
  addressOf(mac: Mac): string | null;
}

export function openLeases(file: string, nodes: () => ReadonlyMap<string, NodeEntry>, now: () => number = Date.now): Leases {
  const held = (address: string): Mac[] => {
    const leased = readLeases(file, now()).get(address);
    const fixed = [...nodes().values()].find((node) => node.address === address)?.macs ?? [];
    // A fixed address that is leased to somebody else is in doubt, so nobody holds it.
    if (leased !== undefined && fixed.length > 0 && !fixed.includes(leased)) return [];
    return leased === undefined ? [...fixed] : [...new Set([leased, ...fixed])];
  };
  const settled = async <T>(look: () => T, found: (value: T) => boolean): Promise<T> => {
    for (const end = performance.now() + rewriteMs; ; await Bun.sleep(pollMs)) {
      const value = look();
      if (found(value) || performance.now() > end || !isFresh(file, now())) return value;
    }
  };
  return {
    holds: (mac, address) => settled(() => held(address).includes(mac), Boolean),
    holders: (address) =>
      settled(
        () => held(address),
        (macs) => macs.length > 0,
      ),
    addressOf(mac) {
      const fixed = [...nodes().values()].find((node) => node.macs.includes(mac))?.address;
      return fixed ?? [...readLeases(file, now())].find(([, holder]) => holder === mac)?.[0] ?? null;
    },
  };
}

/** Address → MAC of every lease that has not expired: `expiry mac address host client-id` a line. */
function readLeases(file: string, now: number): Map<string, Mac> {
  const leases = new Map<string, Mac>();
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return leases;
  }
  // A line without its end is being written: its address may be the beginning of another one.
  for (const line of text.split("\n").slice(0, -1)) {
    const [expiry = "", written = "", address = "", ...rest] = line.split(" ");
    // IPv6 leases follow.
    if (expiry === "duid") break;
    const mac = parseMac(written);
    if (rest.length !== 2 || mac === null || !/^\d+$/.test(expiry)) continue;
    if (expiry === "0" || Number(expiry) * 1000 > now) leases.set(address, mac);
  }
  return leases;
}

function isFresh(file: string, now: number): boolean {
  try {
    return now - statSync(file).mtimeMs < 2 * rewriteMs;
  } catch {
    return false;
  }
}

/** `::ffff:10.77.0.51` is 10.77.0.51. */
export const plainAddress = (address: string): string => address.replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, "");

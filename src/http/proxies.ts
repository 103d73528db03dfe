import { BlockList, isIP } from "node:net";

/** No request comes through more proxies; a client can claim any number. */
const proxyLimit = 16;

/** Who sent a request, and how it came here. */
export interface Client {
  /** As far as it is known. */
  readonly address: string;
  /** By TLS to haas, or, as a trusted proxy says, to that. */
  readonly encrypted: boolean;
  /** No trusted proxy brought it: `address` is the peer's own. */
  readonly direct: boolean;
}

export interface Proxies {
  /** Whether what this peer says of its clients is believed. */
  has(peer: string): boolean;
  /** The client, from the address of the peer, whether that speaks TLS, and the headers of a request. */
  clientOf(peer: string, tls: boolean, headers: Headers): Client;
}

/** Only `proxies` (addresses, and ranges in CIDR form) are believed; everybody else could claim anything. */
export function trustedProxies(proxies: readonly string[]): Proxies {
  if (proxies.length === 0) return noProxies;
  const list = new BlockList();
  for (const proxy of proxies) {
    const [address = "", bits] = proxy.split("/");
    const family = familyOf(address);
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  const has = (address: string) => list.check(address, familyOf(address));

  const clientOf = (peer: string, tls: boolean, headers: Headers): Client => {
    if (!has(peer)) return noProxies.clientOf(peer, tls, headers);
    let address = plain(peer);
    // Each proxy adds who spoke to it at the end, so what stands before the first stranger from there is that stranger's word.
    const chain = headers.get("x-forwarded-for") ?? "";
    const proto = headers.get("x-forwarded-proto");
    let end = chain.length;
    for (let proxies = 1; proxies <= proxyLimit && end > 0 && has(address); proxies++) {
      const start = chain.lastIndexOf(",", end - 1) + 1;
      const entry = chain.slice(start, end).trim();
      if (isIP(entry) === 0 || entry.includes("%")) break;
      address = plain(entry);
      end = start - 1;
    }
    // Of whom it brings it has to say it; a request of its own it makes as it makes it.
    const encrypted = proto === null ? tls && chain === "" : lastOf(proto) === "https";
    return { address, encrypted, direct: false };
  };
  return { has, clientOf };
}

export const noProxies: Proxies = {
  has: () => false,
  clientOf: (peer, encrypted) => ({ address: plain(peer), encrypted, direct: true }),
};

const familyOf = (address: string) => (isIP(address) === 6 ? "ipv6" : "ipv4");

/** IPv4 as such, also where IPv6 carries it. */
const plain = (address: string): string => (/^::ffff:\d+\./i.test(address) ? address.slice("::ffff:".length) : address);

/** Of a list in a header; several headers of one name are one list. */
const lastOf = (list: string): string => list.slice(list.lastIndexOf(",") + 1).trim();

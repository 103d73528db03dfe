import { isIPv6 } from "node:net";

/**
 * The same for all addresses that one client can have, as far as that can be told: IPv6 networks are given out by /64.
 * IPv4 as IPv6 writes it is IPv4.
 */
export function addressKey(address: string): string {
  if (!address.includes(":")) return address;
  const plain = address.replace(/%.*$/, "");
  if (!isIPv6(plain)) return plain;
  // The URL parser knows every spelling, and writes IPv4 at the end in hexadecimal.
  const words = new URL(`http://[${plain}]`).hostname.slice(1, -1).split("::");
  const [left = [], right = []] = words.map((half) => (half === "" ? [] : half.split(":")));
  const all = [...left, ...Array.from({ length: 8 - left.length - right.length }, () => "0"), ...right];
  if (all.slice(0, 6).join(":") === "0:0:0:0:0:ffff") {
    const [high = 0, low = 0] = all.slice(6).map((word) => Number.parseInt(word, 16));
    return [high >> 8, high & 255, low >> 8, low & 255].join(".");
  }
  return all.slice(0, 4).join(":");
}

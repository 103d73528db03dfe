/** `52:54:00:aa:00:01`: how every MAC address is kept and compared. */
export type Mac = string & { readonly kind: "mac" };

/** Read colons, hyphens, or nothing between the digits; null when it is no MAC address of one machine. */
export function parseMac(text: string): Mac | null {
  const digits = /^[0-9a-f]{2}([:-]?)[0-9a-f]{2}(\1[0-9a-f]{2}){4}$/i.test(text) ? text.replaceAll(/[:-]/g, "").toLowerCase() : null;
  // Zero is no address, and an odd first octet is a group's.
  if (digits === null || /^0{12}$/.test(digits) || Number.parseInt(digits.slice(0, 2), 16) % 2 === 1) return null;
  return digits.match(/../g)!.join(":") as Mac;
}

export const hyphened = (mac: Mac): string => mac.replaceAll(":", "-");

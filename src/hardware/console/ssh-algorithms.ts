/**
 * What is offered to an SSH server, best first, and no more than Bun can do: it has no chacha20-poly1305 as the library
 * wants it, no group1 and no DSA. `slowKex` are the Diffie-Hellman ones, in the order of what they cost: Bun tests a group's
 * prime whenever it builds the group, which holds the process for 0.4 s (group14) to 26 s (8192 bits).
 */

type Names = readonly string[];

interface Offer {
  readonly kex: Names;
  readonly slowKex: Names;
  readonly serverHostKey: Names;
  readonly cipher: Names;
  readonly hmac: Names;
}

const current: Offer = {
  kex: ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521"],
  slowKex: ["diffie-hellman-group14-sha256", "diffie-hellman-group-exchange-sha256", "diffie-hellman-group16-sha512"],
  serverHostKey: ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256"],
  // For group exchange the size of the group goes by the cipher's key, so the short ones come first.
  cipher: ["aes128-gcm@openssh.com", "aes128-ctr", "aes256-gcm@openssh.com", "aes192-ctr", "aes256-ctr"],
  hmac: ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"],
};

/** What was withdrawn as too weak, for old firmware. */
const withLegacy: Offer = {
  kex: current.kex,
  slowKex: [
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group14-sha1",
    "diffie-hellman-group-exchange-sha256",
    "diffie-hellman-group-exchange-sha1",
    "diffie-hellman-group16-sha512",
  ],
  serverHostKey: [...current.serverHostKey, "ssh-rsa"],
  cipher: [...current.cipher, "aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"],
  hmac: [...current.hmac, "hmac-sha1", "hmac-md5"],
};

export const offerOf = (legacyAlgorithms: boolean): Offer => (legacyAlgorithms ? withLegacy : current);

/** A kind of algorithm of which a server has none that was offered, and those that it has. */
export interface Unmatched {
  /** As the library calls the kind, for instance `KEX method`, `C->S cipher`. */
  readonly kind: string;
  readonly theirs: Names;
}

const kinds = [
  [/KEX/, "the key exchange", ["kex", "slowKex"]],
  [/key format/, "its host key", ["serverHostKey"]],
  [/cipher/, "the cipher", ["cipher"]],
  [/MAC/, "the MAC", ["hmac"]],
] as const satisfies [RegExp, string, (keyof Offer)[]][];

/** They say what a side can do beside, and are no algorithms. */
const markers = /^(?:ext-info-|kex-strict-)/;
const shownNames = 10;

/** Whether it only lacks what is slow. */
export const needsSlowKex = ({ kind, theirs }: Unmatched, legacyAlgorithms: boolean): boolean =>
  kind.includes("KEX") && offerOf(legacyAlgorithms).slowKex.some((name) => theirs.includes(name));

/** A sentence without its end: what the server has, what haas can do, and what somebody can do about it. */
export function unmatchedWords({ kind, theirs }: Unmatched, legacyAlgorithms: boolean): string {
  const known = theirs.filter((name) => name !== "" && !markers.test(name));
  const some = known.slice(0, shownNames).join(", ") + (known.length > shownNames ? ", …" : "");
  const [, what, lists] = kinds.find(([form]) => form.test(kind)) ?? [];
  const intro = "no SSH algorithm is known to both sides:";
  if (what === undefined) return `${intro} it offers no connection without compression`;
  const namesOf = (offer: Offer) => lists.flatMap((list) => offer[list]);
  const it = `${intro} for ${what} it offers only ${some === "" ? "nothing" : some}`;
  if (!legacyAlgorithms && namesOf(withLegacy).some((name) => known.includes(name))) {
    return `${it}; an old switch may need legacy_algorithms`;
  }
  const ours = namesOf(offerOf(legacyAlgorithms)).join(", ");
  return `${it}, which haas can't do; update its firmware or its SSH settings, or register it with transport telnet (haas can do ${ours})`;
}

import { readFileSync } from "node:fs";
import { Deadline } from "../deadline.ts";

// Who may have a connection when there are more than there is room for.

const connectionLimit = 4_096;
/** Part of all places that one address can have, that only known clients can have, and that strangers can have anyway. */
const shareOfAll = 1 / 4;
const reserveOfAll = 1 / 8;
const strangersOfAll = 1 / 2;
/** Files that are left to everything else: databases, switches, BMCs. */
const filesKept = { least: 128, part: 1 / 4 };
/** An address that somebody signed in from is known for so long. */
const knownMs = 15 * 60_000;
const knownLimit = 4_096;

/** How many files the process may have open; Bun has raised it to the hard limit. */
export function fileLimit(): number {
  const line = /^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"));
  return line ? Number(line[1]) : 1_024;
}

/** How many connections that allows. */
export const placesFor = (files: number): number =>
  Math.max(16, Math.min(connectionLimit, files - Math.max(filesKept.least, Math.floor(files * filesKept.part))));

/** A connection as far as its place goes. */
export interface Guest {
  /** See `addressKey`; null for a trusted proxy, which brings many clients. */
  readonly from: string | null;
  /** Somebody signed in on it, or it comes from this machine or an address that somebody signed in from. */
  known: boolean;
  /** Who signed in on it last. */
  user: number | null;
  /** Take its place away; called only while it waits. */
  evict(): void;
}

/** What one address, or one user, has. */
interface Share {
  held: number;
  /** The longest first. */
  readonly waiting: Set<Guest>;
}

/**
 * The places for connections. When there is none for a newcomer, the connection that has waited longest without a
 * complete request has to go: among those of the newcomer's address, or user, when that has its share, among all strangers
 * whose addresses have as many otherwise. Only when there is none the newcomer is refused.
 */
export class Places {
  readonly #limit: number;
  readonly #share: number;
  readonly #strangersLimit: number;
  #strangers = 0;
  #taken = 0;
  readonly #addresses = new Map<string, Share>();
  readonly #users = new Map<number, Share>();
  /** Who waits, the longest first: strangers, and the others. */
  readonly #waitingStrangers = new Set<Guest>();
  readonly #waitingKnown = new Set<Guest>();
  readonly #knownAddresses = new Map<string, Deadline>();

  constructor(limit: number) {
    this.#limit = limit;
    this.#share = Math.max(1, Math.floor(limit * shareOfAll));
    this.#strangersLimit = limit - Math.floor(limit * reserveOfAll);
  }

  isKnown(address: string): boolean {
    const until = this.#knownAddresses.get(address);
    return until !== undefined && !until.passed;
  }

  /** Give the newcomer a place, in which it waits. False when there is none. */
  enter(guest: Guest): boolean {
    const { from, known } = guest;
    const mine = this.#addressOf(guest);
    if (mine && mine.held >= this.#share && !evictFirst(mine.waiting)) return false;
    // Nobody has to go for somebody whose address has more; what a proxy brings has none of its own.
    const evict = (guests: ReadonlySet<Guest>) =>
      evictFirst(guests, (other) => (this.#addressOf(other)?.held ?? Infinity) >= (mine?.held ?? 0));
    if (!known && this.#strangers >= this.#strangersLimit && !evict(this.#waitingStrangers)) return false;
    if (this.#taken >= this.#limit && !evict(this.#waitingStrangers)) {
      const due = known || this.#strangers < this.#limit * strangersOfAll;
      if (!due || !evict(this.#waitingKnown)) return false;
    }
    this.#taken++;
    if (!known) this.#strangers++;
    if (from !== null) {
      const mine = this.#addresses.get(from) ?? { held: 0, waiting: new Set() };
      mine.held++;
      this.#addresses.set(from, mine);
    }
    this.wait(guest);
    return true;
  }

  /** It waits from now on, for a request or for its client to take an answer. */
  wait(guest: Guest): void {
    this.busy(guest);
    (guest.known ? this.#waitingKnown : this.#waitingStrangers).add(guest);
    this.#addressOf(guest)?.waiting.add(guest);
    this.#userOf(guest)?.waiting.add(guest);
  }

  /** Its request is complete, and being answered. */
  busy(guest: Guest): void {
    (guest.known ? this.#waitingKnown : this.#waitingStrangers).delete(guest);
    this.#addressOf(guest)?.waiting.delete(guest);
    this.#userOf(guest)?.waiting.delete(guest);
  }

  /** `user` signed in on it, whose own address is `address` behind a proxy. */
  signedIn(guest: Guest, address: string, user: number): void {
    if (!guest.known) {
      guest.known = true;
      this.#strangers--;
      if (this.#waitingStrangers.delete(guest)) this.#waitingKnown.add(guest);
    }
    if (guest.user !== user) this.#joinUser(guest, user);
    if (guest.from === null || this.isKnown(address)) return;
    this.#knownAddresses.delete(address);
    if (this.#knownAddresses.size >= knownLimit) this.#knownAddresses.delete(this.#knownAddresses.keys().next().value!);
    this.#knownAddresses.set(address, new Deadline(knownMs));
  }

  #joinUser(guest: Guest, user: number): void {
    this.#leaveUser(guest);
    const share = this.#users.get(user) ?? { held: 0, waiting: new Set() };
    this.#users.set(user, share);
    guest.user = user;
    share.held++;
    if (this.#waitingKnown.has(guest)) share.waiting.add(guest);
    if (share.held > this.#share) evictFirst(share.waiting);
  }

  #leaveUser(guest: Guest): void {
    const share = this.#userOf(guest);
    share?.waiting.delete(guest);
    if (share && --share.held === 0) this.#users.delete(guest.user!);
    guest.user = null;
  }

  leave(guest: Guest): void {
    this.busy(guest);
    this.#taken--;
    if (!guest.known) this.#strangers--;
    this.#leaveUser(guest);
    if (guest.from !== null && --this.#addresses.get(guest.from)!.held === 0) this.#addresses.delete(guest.from);
  }

  #addressOf({ from }: Guest): Share | undefined {
    return from === null ? undefined : this.#addresses.get(from);
  }

  #userOf({ user }: Guest): Share | undefined {
    return user === null ? undefined : this.#users.get(user);
  }
}

/** `evict` has to end in `leave`. */
function evictFirst(guests: ReadonlySet<Guest>, mayGo: (guest: Guest) => boolean = () => true): boolean {
  for (const guest of guests) {
    if (!mayGo(guest)) continue;
    guest.evict();
    return true;
  }
  return false;
}

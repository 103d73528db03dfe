import { isObject } from "../client/http.ts";
import { unexpected } from "./output.ts";
import { printable } from "./progress.ts";

// Parts of an answer. What is not of the published shape is no answer of a haas server; text is made fit to print.

export function record(value: unknown): Record<string, unknown> {
  if (!isObject(value)) throw unexpected();
  return value;
}

export function list(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw unexpected();
  return value;
}

export const records = (value: unknown): Record<string, unknown>[] => list(value).map(record);

export function raw(value: unknown): string {
  if (typeof value !== "string") throw unexpected();
  return value;
}

export const word = (value: unknown): string => printable(raw(value));

export const wordOrNull = (value: unknown): string | null => (value === null ? null : word(value));

export function number(value: unknown): number {
  if (typeof value !== "number") throw unexpected();
  return value;
}

/** Words about a switch, or a port of it, behind its name; a server that names it already is not corrected. */
export function about(subject: readonly string[], words: string): string {
  return subject.every((name) => words.includes(`'${name}'`)) ? words : `${subject.join(" ")}: ${words}`;
}

/** Why ports could not be read: a line for each reason, as a session that is lost gives all ports the same one. */
export function unreadable(label: string, ports: readonly Record<string, unknown>[]): string[] {
  const alike = Map.groupBy(ports, ({ error }) => wordOrNull(error) ?? "it was not read.");
  return [...alike].map(([reason, group]) => {
    const names = group.map(({ port }) => word(port));
    const named = names.find((name) => reason.includes(`'${name}'`)) ?? names[0]!;
    const more = names.length - 1;
    return about([label, named], reason) + (more === 0 ? "" : ` (and ${more} more port${more === 1 ? "" : "s"})`);
  });
}

/** What the server knows of a switch without reading it: `3 ports pending, 1 suspect`. */
export function standing({ pending, suspect }: Record<string, unknown>): string {
  const count = list(pending).length;
  return `${count} port${count === 1 ? "" : "s"} pending, ${list(suspect).length} suspect`;
}

/** In no network: drivers say by it that a port is in a state that haas would not write. */
const foreignVlan = 4095;

export const isForeign = (value: unknown): boolean => list(record(value).tagged).includes(foreignVlan);

/** VLANs of a port in words: `native 100, tagged 200, 300-305`. */
export function vlans(value: unknown): string {
  const { native, tagged } = record(value);
  const known = list(tagged)
    .map(number)
    .filter((vlan) => vlan !== foreignVlan);
  const parts = [];
  if (native !== null) parts.push(`native ${number(native)}`);
  if (known.length > 0) parts.push(`tagged ${ranges(known)}`);
  if (isForeign(value)) parts.push("something that is not haas's");
  return parts.join(", ");
}

/** What a port carries, or should. */
export const carried = (value: unknown): string =>
  isForeign(value) ? `${vlans(value)} (not a trunk, or a setting unknown to haas)` : vlans(value) || "nothing";

/** Ascending numbers, runs of them as `first-last`. */
function ranges(numbers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const next of numbers) {
    const last = runs.at(-1);
    if (last && last[1] === next - 1) last[1] = next;
    else runs.push([next, next]);
  }
  return runs.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(", ");
}

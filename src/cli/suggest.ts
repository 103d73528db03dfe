import type { Command } from "./command.ts";
import { findCommand, secondWords, spellings } from "./help.ts";

/** A line for a command that there is not, with the nearest ones that there are. */
export function unknownCommand(commands: readonly Command[], words: readonly string[]): string {
  const both = words.slice(0, 2).join(" ");
  const [first = "", second] = words;
  const known = commands.flatMap(spellings);
  const suggest = (typed: string, names: readonly string[]) =>
    `There is no command '${typed}'.${names.length > 0 ? ` Did you mean ${names.map((name) => `haas ${name}`).join(" or ")}?` : " See haas help."}`;
  // Both words are the name that was meant, or the first one is and the second is a value.
  if (second !== undefined) {
    const seconds = secondWords(commands, first);
    const pairs = first.includes("_") ? [] : known.filter((name) => name.includes(" "));
    const turned = pairs.filter((name) => inOrder(name) === inOrder(both));
    const inGroup = nearest(second, seconds).map((word) => `${first} ${word}`);
    const asBoth = [turned, inGroup, seconds.length > 0 ? [] : nearest(both, pairs)].find((names) => names.length > 0);
    if (asBoth) return suggest(both, asBoth);
    if (seconds.length > 0) return `${first} has no command '${second}'. It has: ${seconds.join(", ")}.`;
    if (findCommand(commands, [first])) return `${first} has no command '${second}'. See haas help ${first}.`;
  }
  const asFirst = nearest(
    first,
    known.flatMap((name) => [name, name.split(" ")[0]!]),
  );
  return suggest(first, asFirst.length > 0 ? asFirst : nearest(inOrder(first), known, inOrder));
}

/** `register_node` and `node_register` read the same. */
const inOrder = (name: string): string => name.split(/[ _]/).sort().join("_");

/** At most two candidates that a slip of the finger explains, nearest first. */
export function nearest(typed: string, candidates: readonly string[], form = (name: string) => name): string[] {
  const limit = Math.max(1, Math.floor(typed.length / 3));
  return [...new Set(candidates)]
    .map((name) => ({ name, distance: editDistance(typed, form(name)) }))
    .filter(({ distance }) => distance <= limit)
    .sort((a, b) => a.distance - b.distance)
    .filter(({ distance }, _, all) => distance === all[0]!.distance)
    .slice(0, 2)
    .map(({ name }) => name);
}

/** Insertions, deletions, substitutions and swaps of neighbours that turn one text into the other. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) row[j] = Math.min(row[j]!, before[j - 2]! + 1);
    }
    [before, last] = [last, row];
  }
  return last[b.length]!;
}

import { isObject } from "../client/http.ts";

/**
 * How an answer is shown. On a terminal a table; in a pipe the same facts as stable plain text:
 * one name a line, a row with tabs between its cells, a fact as `key: value`.
 */
export type Answer = (value: unknown, terminal: boolean) => string;

/** The server's answer is not of the published shape: most likely it is not a haas server. */
class UnexpectedAnswerError extends Error {}

export const unexpected = () => new UnexpectedAnswerError("The answer is not one that a haas server gives; is the endpoint right?");

/** Text of any value as it stands in a cell or after a colon. */
function cell(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(cell).join(" ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A list of names, one a line. */
export const names: Answer = (value) => {
  if (!Array.isArray(value)) throw unexpected();
  return lines(value.map(cell));
};

/** An object of objects as rows, sorted by key: the key, then the columns. */
export const rows =
  (keyTitle: string, columns: Readonly<Record<string, (row: Record<string, unknown>) => unknown>>): Answer =>
  (value, terminal) => {
    if (!isObject(value)) throw unexpected();
    const body = Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, row]) => [key, ...Object.values(columns).map((read) => cell(isObject(row) ? read(row) : row))]);
    return tabular([keyTitle, ...Object.keys(columns)], body, terminal);
  };

/** Rows under their titles; without titles in a pipe. */
export function tabular(titles: readonly string[], body: readonly (readonly string[])[], terminal: boolean): string {
  if (!terminal) return lines(body.map((row) => row.join("\t")));
  return body.length === 0 ? "" : table([titles.map((title) => title.toUpperCase()), ...body]);
}

/** One object as facts, its parts by dotted keys: `nics.nic1.port: gi1/0/1`. */
export const facts: Answer = (value, terminal) => {
  if (!isObject(value)) throw unexpected();
  const list = flatten(value, "");
  return terminal ? table(list.map(([key, fact]) => [key, fact])) : lines(list.map(([key, fact]) => `${key}: ${fact}`.trimEnd()));
};

/** Text as it is. */
export const text: Answer = (value) => (value === null ? "" : typeof value === "string" ? value : JSON.stringify(value));

/** One fact of an object, alone on its line. */
export const only =
  (key: string): Answer =>
  (value) => {
    if (!isObject(value) || value[key] === undefined) throw unexpected();
    return lines([cell(value[key])]);
  };

function flatten(value: Record<string, unknown>, prefix: string): [string, string][] {
  return Object.entries(value).flatMap(([key, part]): [string, string][] => {
    const path = prefix + key;
    if (isObject(part) && Object.keys(part).length > 0) return flatten(part, `${path}.`);
    if (Array.isArray(part) && part.some(isObject)) {
      // Nics and ports name themselves by their label.
      return part.flatMap((item, index) => {
        if (!isObject(item)) return [[`${path}.${index}`, cell(item)] as [string, string]];
        const { label, ...rest } = item;
        const name = typeof label === "string" ? label : String(index);
        return Object.keys(rest).length > 0 ? flatten(rest, `${path}.${name}.`) : [[path, name] as [string, string]];
      });
    }
    return [[path, isObject(part) ? "" : cell(part)]];
  });
}

/** Columns padded to their widest cell. */
export function table(cells: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of cells) for (const [i, text] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, Bun.stringWidth(text));
  const pad = (text: string, i: number) => text + " ".repeat(widths[i]! - Bun.stringWidth(text));
  return lines(cells.map((row) => row.map(pad).join("  ").trimEnd()));
}

export const lines = (list: readonly string[]): string => list.map((line) => `${line}\n`).join("");

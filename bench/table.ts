/** A measurement next to a limit. */
export interface Row {
  what: string;
  value: number;
  unit: string;
  limit: string;
  limitValue: number;
  /** How the value should compare to the limit or, when `absolute`, what it should be. */
  aim: { least: number } | { most: number } | null;
  absolute?: boolean;
}

export function printTable(rows: readonly Row[]): void {
  const number = (value: number) => (value >= 100 ? Math.round(value).toLocaleString("en-US") : value.toFixed(value >= 10 ? 1 : 2));
  const cells = rows.map(({ what, value, unit, limit, limitValue, aim, absolute }) => {
    const ratio = value / limitValue;
    const compared = absolute ? value : ratio;
    const met = aim === null ? "" : ("least" in aim ? compared >= aim.least : compared <= aim.most) ? "ok" : "below aim";
    const goal = aim === null ? "" : "least" in aim ? `>= ${aim.least}` : `<= ${aim.most}${absolute ? ` ${unit}` : ""}`;
    return [what, `${number(value)} ${unit}`, limit, `${number(limitValue)} ${unit}`, ratio.toFixed(2), goal, met];
  });
  const table = [["", "haas", "limit", "", "ratio", "aim", ""], ...cells];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
  const right = new Set([1, 3, 4]);
  for (const row of table) {
    console.log(
      row
        .map((cell, column) => (right.has(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
        .join("  ")
        .trimEnd(),
    );
  }
}

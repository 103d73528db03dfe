import { pick } from "../support/random.ts";

// What nobody expects: strings, numbers and whole JSON texts that programs stumble over.

export type Random = () => number;
export const chance = (random: Random, probability: number): boolean => random() < probability;
export const whole = (random: Random, below: number): number => Math.floor(random() * below);

/** Text that goes into a JSON text as it is. */
export class Raw {
  constructor(readonly text: string) {}
}

/** An object of which a member may come twice. */
export class Members {
  constructor(readonly list: (readonly [string, unknown])[]) {}
}

/** JSON text of a value that may hold Raw and Members. */
export function jsonText(value: unknown): string {
  if (value instanceof Raw) return value.text;
  if (value instanceof Members) return `{${value.list.map(([name, one]) => `${JSON.stringify(name)}:${jsonText(one)}`).join(",")}}`;
  if (Array.isArray(value)) return `[${value.map(jsonText).join(",")}]`;
  if (typeof value === "object" && value !== null) return jsonText(new Members(Object.entries(value)));
  return JSON.stringify(value) ?? "null";
}

/** Legal names, of which some look alike, and some are special to something. */
export const oddNames = [
  "admin",
  "null",
  "undefined",
  "true",
  "0",
  "-1",
  "1e3",
  "__proto__",
  "constructor",
  "toString",
  "hasOwnProperty",
  ".",
  "..",
  "...",
  ".git",
  "~",
  "*",
  "%",
  "%2f",
  "%2e%2e",
  "100%",
  "a b",
  "a?b",
  "a#b",
  "a;b",
  "a&b=c",
  "a+b",
  "a,b",
  "a:b",
  "'; drop table node; --",
  '" or 1=1 --',
  "\\",
  "$(reboot)",
  "`id`",
  "{{7*7}}",
  "${x}",
  "<script>",
  "ü",
  "é",
  "e\u0301",
  "ＡＤＭＩＮ",
  "аdmin",
  "日本語",
  "🦊",
  "👩‍👩‍👧",
  "ß",
  "İ",
  "ﬁ",
  "x".repeat(255),
  "ü".repeat(127),
] as const;

/** What is no legal name, or none that anybody can read. */
const badStrings = [
  "",
  " ",
  "  ",
  " a",
  "a ",
  "\t",
  "a\tb",
  "\n",
  "a\nb",
  "a\r\nX-Injected: 1",
  "\0",
  "a\0b",
  "\x01\x1b[2J",
  "\x7f",
  "\x85",
  "\u2028",
  "\u2029",
  "a\u2028b",
  "\ud800",
  "a\udfffb",
  "\udc00\ud800",
  "\ufffd",
  "\ufffe",
  "\uffff",
  "..\uffff",
  "\ufeff",
  "\ufeffa",
  "\u200b",
  "a\u200bb",
  "\u202eabc",
  "\u2066a\u2069",
  "\u{e0041}",
  "\u00a0",
  "\u3164",
  "a\u0300".repeat(100),
  "/",
  "a/b",
  "../../etc/passwd",
  "/etc/passwd",
  "..\\..\\x",
  "//",
  "a//b",
  "x".repeat(256),
  "ü".repeat(128),
  "x".repeat(5_000),
  "'\"\\",
  "%00",
  "%zz",
  "\x80\xff",
  "-- ",
  "a\0".repeat(50),
] as const;

const numbers = [
  "0",
  "-0",
  "1",
  "-1",
  "1.0",
  "1.5",
  "-20",
  "1e3",
  "1E+2",
  "1e-7",
  "1e999",
  "-1e999",
  "1e-999",
  "0.1e1",
  "9007199254740991",
  "9007199254740992",
  "9007199254740993",
  "-9007199254740993",
  "4294967296",
  "2147483648",
  "18446744073709551616",
  "3.141592653589793238462643383279",
  "0.30000000000000004",
  "100000000000000000000000",
  `1${"0".repeat(400)}`,
  `0.${"0".repeat(400)}1`,
  "9".repeat(3_000),
] as const;

/** Not JSON, though some parsers take it. */
const badNumbers = [
  ".5",
  "5.",
  "0x10",
  "01",
  "+1",
  "1e",
  "- 1",
  "NaN",
  "Infinity",
  "-Infinity",
  "1_000",
  "0b1",
  "1n",
  "--1",
  "1,5",
] as const;

const badLiterals = [
  "undefined",
  "True",
  "nul",
  "'a'",
  "{a:1}",
  "[1,]",
  '{"a":1,}',
  '"\\x41"',
  '"\\ud800"',
  '"\\u12"',
  '"a\nb"',
  "/**/1",
  "1//",
  "{",
  "[",
  '"',
  "",
] as const;

export const someString = (random: Random): string => {
  const kind = random();
  if (kind < 0.4) return pick(random, oddNames);
  if (kind < 0.9) return pick(random, badStrings);
  if (kind < 0.97) return Array.from({ length: 1 + whole(random, 12) }, () => String.fromCharCode(whole(random, 0x10000))).join("");
  return pick(random, ["x", "ü", "\0", "\u202e", '"', "\\", "%", " ", "🦊"]).repeat(10 ** (1 + whole(random, 4)));
};

/** Some JSON value; mostly one that is legal JSON. */
export function someValue(random: Random, depth = 0): unknown {
  const kind = random();
  if (kind < 0.3) return someString(random);
  if (kind < 0.55) return new Raw(pick(random, numbers));
  if (kind < 0.6) return new Raw(pick(random, badNumbers));
  if (kind < 0.63) return new Raw(pick(random, badLiterals));
  if (kind < 0.75) return pick(random, [true, false, null]);
  if (kind < 0.8) return new Raw(nested(random));
  if (depth > 3) return null;
  const size = whole(random, 4);
  if (kind < 0.9) return Array.from({ length: size }, () => someValue(random, depth + 1));
  return new Members(
    Array.from({ length: size }, () => [
      chance(random, 0.3) ? pick(random, ["__proto__", "constructor", "toJSON", "rawJSON", "length", "then", "type"]) : someString(random),
      someValue(random, depth + 1),
    ]),
  );
}

/** Deep or wide JSON, sometimes cut off. */
function nested(random: Random): string {
  const depth = pick(random, [3, 20, 200, 2_000, 10_000]);
  const [open, close] = pick(random, [
    ["[", "]"],
    ['{"a":', "}"],
    ['[{"":', "}]"],
  ] as const);
  const inner = pick(random, ["1", "null", '"x"', "[]", "{}"]);
  const text = open.repeat(depth) + inner + close.repeat(depth);
  if (chance(random, 0.7)) return text;
  return chance(random, 0.5) ? open.repeat(depth) : `[${"1,".repeat(depth)}1]`;
}

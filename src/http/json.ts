import { randomBytes } from "node:crypto";
import { validation } from "../errors.ts";

// Bodies as JSON, in a time that grows no faster than their length, whatever is in them.

/** Making text of a value that is nested deeper takes seconds, and then fails. */
const depthLimit = 500;

/** Throws `ValidationError`. */
export function parseJson(text: string): unknown {
  if (depthOf(text) > depthLimit) throw validation(`The body is nested deeper than ${depthLimit} levels.`);
  try {
    return JSON.parse(text);
  } catch {
    throw validation("The body is not JSON.");
  }
}

/** Begins the strings that stand for numbers. Nobody else can know it. */
const numberMark = randomBytes(12).toString("base64url");
const markedNumbers = new RegExp(`"${numberMark}([^"]*)"`, "g");

/** The JSON text of a value; numbers that `markNumbers` marked are spelled as they were sent. */
export function jsonText(value: unknown): string {
  const text = JSON.stringify(value);
  return text.includes(numberMark) ? text.replace(markedNumbers, "$1") : text;
}

const quotationMark = 0x22;
const backslash = 0x5c;
const [minus, point, zero, nine] = [0x2d, 0x2e, 0x30, 0x39];

function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === quotationMark) at = endOfString(text, at);
    else if (code === 0x5b || code === 0x7b) deepest = Math.max(deepest, ++depth);
    else if (code === 0x5d || code === 0x7d) depth--;
  }
  return deepest;
}

/** Where the string that begins at `start` ends; the text's end when it does not. */
function endOfString(text: string, start: number): number {
  let end = start;
  for (;;) {
    end = text.indexOf('"', end + 1);
    if (end === -1) return text.length;
    let before = end;
    while (text.charCodeAt(before - 1) === backslash) before--;
    // An odd number of backslashes is an escaped quotation mark.
    if ((end - before) % 2 === 0) return end;
  }
}

/**
 * A text that `parseJson` took, in which each number that a double would spell otherwise, or might, is a string that
 * only `jsonText` understands.
 */
export function markNumbers(text: string): string {
  let marked = "";
  let from = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === quotationMark) at = endOfString(text, at);
    else if (code === minus || isDigit(code)) {
      const start = at;
      while (isOfNumber(text.charCodeAt(at + 1))) at++;
      if (staysAsItIs(text, start, at)) continue;
      marked += `${text.slice(from, start)}"${numberMark}${text.slice(start, at + 1)}"`;
      from = at + 1;
    }
  }
  return from === 0 ? text : marked + text.slice(from);
}

const isDigit = (code: number) => code >= zero && code <= nine;
/** Digits, `.`, `+`, `-`, `E`, `e`. */
const isOfNumber = (code: number) => isDigit(code) || code === point || code === minus || code === 0x2b || code === 0x45 || code === 0x65;

/** Whether a double surely spells the number from `start` to `end` the same: a few digits, and none without need. */
function staysAsItIs(text: string, start: number, end: number): boolean {
  if (end - start >= 15 || (text.charCodeAt(start) === minus && text.charCodeAt(start + 1) === zero)) return false;
  for (let at = start + 1; at <= end; at++) {
    const code = text.charCodeAt(at);
    // Below 0.000001 a double is spelled with an exponent.
    if (code === point) return end - at <= 6 && text.charCodeAt(end) !== zero && onlyDigits(text, at + 1, end);
    if (!isDigit(code)) return false;
  }
  return true;
}

function onlyDigits(text: string, start: number, end: number): boolean {
  for (let at = start; at <= end; at++) if (!isDigit(text.charCodeAt(at))) return false;
  return true;
}

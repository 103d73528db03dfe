/** A line that is longer is cut: nobody is to look for a pattern in more than this. */
export const lineLimitCharacters = 4 * 1024;

/**
 * What a terminal would show of a console's output: carriage returns and backspaces move the cursor, what
 * comes then overwrites, and escape sequences go. So pagers that are rubbed out and prompts that are drawn
 * again leave the text that a person would see. May be fed in pieces that end anywhere.
 */
export class Screen {
  #lines: string[] = [];
  #line = "";
  #column = 0;
  #characters = 0;
  #isCut = false;
  /** A sequence that has begun: ESC and what followed. */
  #escape: string | null = null;

  /** Finished lines, without blanks at their ends. */
  get lines(): readonly string[] {
    return this.#lines;
  }

  /** The line that the cursor is on. */
  get line(): string {
    return this.#line.trimEnd();
  }

  /** Characters in the finished lines: a few that arrive can be a long line. */
  get characters(): number {
    return this.#characters;
  }

  /** Whether a line was cut since the last `clear`. */
  get isCut(): boolean {
    return this.#isCut;
  }

  clear(): void {
    this.#lines = [];
    this.#characters = 0;
    this.#isCut = false;
    this.clearLine();
  }

  /** Forget what the cursor's line shows. */
  clearLine(): void {
    this.#line = "";
    this.#column = 0;
  }

  feed(text: string): void {
    for (let at = 0; at < text.length;) {
      if (this.#escape === null) {
        const run = printable(text, at);
        if (run !== "") this.#show(run);
        at += run.length;
      }
      if (at < text.length) this.#control(text[at++]!);
    }
  }

  #show(run: string): void {
    const room = lineLimitCharacters - this.#column;
    if (run.length > room) this.#isCut = true;
    const shown = run.slice(0, room);
    const line = this.#line.padEnd(this.#column);
    // What a pattern would take for the end of a line is none on a terminal.
    this.#line = line.slice(0, this.#column) + shown.replace(/[\t\u2028\u2029]/g, " ") + line.slice(this.#column + shown.length);
    this.#column += shown.length;
  }

  #control(c: string): void {
    if (this.#escape !== null) return this.#continueEscape(c);
    switch (c) {
      case "\x1b":
        this.#escape = "";
        return;
      case "\r":
        this.#column = 0;
        return;
      case "\n": {
        const { line } = this;
        this.#lines.push(line);
        this.#characters += line.length;
        return this.clearLine();
      }
      case "\b":
        this.#column = Math.max(0, this.#column - 1);
        return;
      default:
    }
  }

  /** ECMA-48: a control sequence is `ESC [`, parameters, and a final character from @ to ~; others are one or two characters. */
  #continueEscape(c: string): void {
    this.#escape += c;
    const sequence = this.#escape!;
    const control = sequence.startsWith("[");
    if (control ? sequence.length > 1 && c >= "@" && c <= "~" : !" #()%".includes(c)) {
      this.#escape = null;
      if (control) this.#obey(c, Number.parseInt(sequence.slice(1), 10) || 0);
    } else if (sequence.length > 32) this.#escape = null;
  }

  #obey(final: string, parameter: number): void {
    switch (final) {
      // Erase from the cursor, or all of the line.
      case "J":
      case "K":
        this.#line = parameter === 2 ? "" : this.#line.slice(0, this.#column);
        return;
      case "D":
        this.#column = Math.max(0, this.#column - (parameter || 1));
        return;
      case "C":
        this.#column = Math.min(512, this.#column + (parameter || 1));
        return;
      case "G":
        this.#column = Math.min(512, Math.max(0, (parameter || 1) - 1));
        return;
      default:
    }
  }
}

/** What a terminal shows as it is, from `at` up to the next control character. */
function printable(text: string, at: number): string {
  printableRun.lastIndex = at;
  return printableRun.exec(text)?.[0] ?? "";
}

const printableRun = /[\t\P{Cc}]+/uy;

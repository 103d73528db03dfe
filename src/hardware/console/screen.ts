/**
 * What a terminal would show of a console's output: carriage returns and backspaces move the cursor, what
 * comes then overwrites, and escape sequences go. So pagers that are rubbed out and prompts that are drawn
 * again leave the text that a person would see. May be fed in pieces that end anywhere.
 */
export class Screen {
  #lines: string[] = [];
  #line: string[] = [];
  #column = 0;
  /** A sequence that has begun: ESC and what followed. */
  #escape: string | null = null;

  /** Finished lines, without blanks at their ends. */
  get lines(): readonly string[] {
    return this.#lines;
  }

  /** The line that the cursor is on. */
  get line(): string {
    return this.#line.join("").trimEnd();
  }

  /** How long it is, as it came. */
  get lineLength(): number {
    return this.#line.length;
  }

  clear(): void {
    this.#lines = [];
    this.clearLine();
  }

  /** Forget what the cursor's line shows. */
  clearLine(): void {
    this.#line = [];
    this.#column = 0;
  }

  feed(text: string): void {
    for (const c of text) this.#take(c);
  }

  #take(c: string): void {
    if (this.#escape !== null) return this.#continueEscape(c);
    switch (c) {
      case "\x1b":
        this.#escape = "";
        return;
      case "\r":
        this.#column = 0;
        return;
      case "\n":
        this.#lines.push(this.line);
        return this.clearLine();
      case "\b":
        this.#column = Math.max(0, this.#column - 1);
        return;
      default:
        if (c !== "\t" && (c < " " || c === "\x7f")) return;
        while (this.#line.length < this.#column) this.#line.push(" ");
        this.#line[this.#column++] = c === "\t" ? " " : c;
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
        if (parameter === 2) this.#line = [];
        else this.#line.length = Math.min(this.#line.length, this.#column);
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

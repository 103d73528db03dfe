import type { Socket } from "node:net";
import type { Behaviour, Fault, Hold } from "../emulator.ts";
import { type Answer, type Dialect, execute, nextWords, type Question, Refusal, type Shell } from "./cli.ts";
import { type Device, noVlans } from "./device.ts";

/** What carries a session's bytes. */
export interface Wire {
  write(bytes: Buffer): void;
  /** Close it, after what was written. */
  end(): void;
  /** Close it, now. */
  destroy(): void;
}

/** The switch that sessions log in to. */
export interface Host {
  readonly device: Device;
  readonly dialect: Dialect;
  readonly hostname: string;
  readonly username: string;
  readonly password: string;
  readonly enablePassword: string | null;
  readonly behaviour: Behaviour;
  readonly received: string[];
  /** Counts a step; the fault that happens at it, if any. */
  step(): Fault | null;
  /** The sessions that something can still come of. */
  readonly running: Set<Session>;
  powerCycle(): void;
  /** Counts the messages of the log. */
  messages: number;
  /** Counts the connections. */
  connections: number;
}

/** How a session begins. */
export interface Welcome {
  /** The fault that happened to the connection, as far as the session has to show it. */
  readonly fault: Fault | null;
  readonly tooMany: boolean;
  /** Whether the console asks who it is. */
  readonly asksLogin: boolean;
  /** How wide the terminal is, where it said so. */
  readonly columns?: number | undefined;
}

/** Takes a connection; `fault` has not been shown yet. */
export type Serve = (socket: Socket, host: Host, welcome: Omit<Welcome, "asksLogin">) => void;

/** What comes of a step: it takes effect, is refused, or is lost; or there is nobody left to answer. */
type Verdict = "go" | "refused" | "lost" | "over";

const key = { ctrlC: 3, backspace: 8, tab: 9, lineFeed: 10, carriageReturn: 13, ctrlU: 21, ctrlZ: 26, escape: 27, help: 63, del: 127 };

const maxTries = 3;
const pageLines = 23;
const shortPageLines = 7;
/** How long it is idle before a message of the log comes. */
const idleMs = 3;
const defaultWidth = 80;

/** Every byte there is, out of order, and the end of that line. */
const noise = `${String.fromCharCode(...Array.from({ length: 256 }, (_, i) => (i * 167 + 13) % 256))}\r\n`;

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Somebody at the console: what is typed, what is shown, and what goes wrong. */
export class Session {
  #host: Host;
  #wire: Wire;
  #shell: Shell;
  /** Bytes that came and were not looked at yet; null when no more come. */
  #input: number[] | null = [];
  #wake = () => {};
  #afterReturn = false;
  #pending = "";
  /** What has still to be written, a byte at a time. */
  #slowly: Buffer[] = [];
  #ending = false;
  /** How many bytes can still be written before the connection is cut. */
  #budget: number | null = null;
  /** Nothing is shown any more, and nothing that comes takes effect. */
  #mute = false;
  #hasPower = true;
  readonly #number: number;
  /** What is shown waits. */
  #held = false;

  constructor(host: Host, wire: Wire) {
    this.#host = host;
    this.#number = host.connections++;
    this.#wire = wire;
    const { device, hostname, enablePassword } = host;
    const mode = enablePassword === null ? "exec" : "user";
    this.#shell = { device, hostname, enablePassword, mode, ports: [], vlans: noVlans, paging: true, width: defaultWidth, over: false };
  }

  feed(bytes: Iterable<number>): void {
    for (const byte of bytes) this.#input?.push(byte);
    this.#wake();
  }

  /** The other side is gone. What it has asked for is done all the same. */
  closed(): void {
    this.#input = null;
    this.#mute = true;
    this.#wake();
  }

  /** The switch is off: nothing takes effect any more. */
  powerLost(): void {
    this.#hasPower = false;
    this.closed();
    this.#wire.destroy();
  }

  async run(welcome: Welcome): Promise<void> {
    this.#host.running.add(this);
    await this.#converse(welcome);
    this.#flush();
    this.#host.running.delete(this);
  }

  async #converse({ fault, tooMany, asksLogin, columns = 0 }: Welcome): Promise<void> {
    if (columns > 0) this.#shell.width = columns;
    const { dialect, behaviour } = this.#host;
    if (fault?.kind === "cut") this.#budget = fault.bytes ?? 0;
    if (tooMany || fault?.kind === "error") {
      this.#show(dialect.login.tooManySessions);
      return this.#hangUp();
    }
    if (fault?.kind === "garbage") this.#send(noise);
    this.#show(["", ...dialect.motd]);
    if (asksLogin && !(await this.#login(fault?.kind === "refuse"))) return;
    if (behaviour.logs) this.#show([this.#message()]);
    if (this.#isLast(this.#prompt())) return;
    while (await this.#command());
  }

  // Logging in.

  /** False when that did not work out and the session is over. */
  async #login(refuse: boolean): Promise<boolean> {
    const { dialect, behaviour, username, password } = this.#host;
    for (let tries = 1; tries <= maxTries; tries++) {
      const name = await this.#loginLine(`\r\n${dialect.login.name}`, true);
      if (name === null) return false;
      const secret = name.verdict === "go" ? await this.#loginLine(dialect.login.password, false) : name;
      if (secret === null) return false;
      if (behaviour.loginDelayMs > 0) {
        this.#flush();
        await sleep(behaviour.loginDelayMs);
      }
      const isRight = name.text === username && secret.text === password && !refuse && !behaviour.refusesLogins;
      if (secret.verdict === "go" && isRight) return true;
      if (secret.verdict === "lost") this.#send(noise);
      else this.#show(dialect.login.wrong);
    }
    this.#show(dialect.login.tooManyTries);
    this.#hangUp();
    return false;
  }

  /** A name or a password; null when the session is over. */
  async #loginLine(prompt: string, echo: boolean): Promise<{ text: string; verdict: Verdict } | null> {
    if (this.#isLast(prompt)) return null;
    const text = await this.#line(prompt, { echo });
    if (text === null) return null;
    const verdict = await this.#step(text);
    if (verdict === "over") return null;
    this.#send("\r\n");
    return { text, verdict };
  }

  // Commands.

  /** One line at the prompt. False when the session is over. */
  async #command(): Promise<boolean> {
    const { dialect, behaviour } = this.#host;
    const line = await this.#line(this.#prompt(), { edit: true });
    if (line === null) return false;
    const verdict = await this.#step(line);
    if (verdict === "over") return false;
    this.#send("\r\n");
    if (behaviour.commandDelayMs > 0) {
      this.#flush();
      await sleep(behaviour.commandDelayMs);
      if (!this.#hasPower) return false;
    }
    try {
      if (verdict === "lost") this.#send(noise);
      else if (verdict === "refused") this.#show(dialect.refusal);
      else if (line.length > dialect.lineLimit) this.#show(dialect.tooLong);
      else if (!(await this.#answer(execute(dialect, this.#shell, line)))) return false;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.#show(error.lines);
    }
    if (this.#shell.over) this.#hangUp();
    return !this.#isLast(this.#prompt());
  }

  async #answer(answer: Answer): Promise<boolean> {
    if (!answer) {
      if (this.#host.behaviour.logs) this.#show(this.#withMessages([]));
      return true;
    }
    return "ask" in answer ? this.#ask(answer) : this.#page(this.#withMessages(answer));
  }

  async #ask({ lines, ask, takes, answered }: Question): Promise<boolean> {
    this.#show(lines);
    if (this.#isLast(ask)) return false;
    const reply = takes === "secret" ? await this.#line(ask, {}) : await this.#key(ask);
    if (reply === null) return false;
    if (takes === "key") this.#host.received.push(reply);
    const verdict = await this.#step(reply);
    if (verdict === "over") return false;
    this.#send(takes === "key" ? `${reply.trim()}\r\n` : "\r\n");
    if (verdict === "lost") this.#send(noise);
    else if (verdict === "refused") this.#show(this.#host.dialect.refusal);
    else return this.#answer(answered(reply));
    return true;
  }

  // Pages and the messages of the log.

  /** Shows lines, a page at a time where that is on. False when the session is over. */
  async #page(lines: readonly string[]): Promise<boolean> {
    const { behaviour, dialect } = this.#host;
    if (!this.#shell.paging && !behaviour.pages) {
      this.#show(lines);
      return true;
    }
    const page = behaviour.pages ? shortPageLines : pageLines;
    let shown = 0;
    for (let due = page; ;) {
      this.#show(lines.slice(shown, due));
      shown = due;
      if (shown >= lines.length) return true;
      const { text, erase } = dialect.pager;
      if (this.#isLast(text)) return false;
      for (let chosen = false; !chosen;) {
        const pressed = await this.#key(text);
        if (pressed === null) return false;
        const verdict = await this.#step(pressed);
        if (verdict === "over") return false;
        this.#send(erase);
        if (verdict === "lost") this.#send(noise);
        if (verdict === "refused") this.#show(dialect.refusal);
        if (verdict !== "go" || pressed === "q" || pressed === "Q") return true;
        chosen = pressed === " " || pressed === "\r";
        due = shown + (pressed === " " ? page : 1);
      }
    }
  }

  #message(): string {
    return this.#host.dialect.logLine(this.#host.messages++, this.#host.hostname);
  }

  /** An answer with messages of the log before it, in it, in a line of it, and after it; a counter says where. */
  #withMessages(answer: readonly string[]): readonly string[] {
    if (!this.#host.behaviour.logs) return answer;
    const lines = [...answer];
    const count = this.#host.messages;
    // Only long answers: a line that says that something went right or wrong stays whole.
    if (count % 5 === 4 && lines.length > 5) {
      const at = count % lines.length;
      const line = lines[at]!;
      const middle = Math.ceil(line.length / 2);
      lines.splice(at, 1, line.slice(0, middle), this.#message(), line.slice(middle));
    }
    if (count % 3 > 0 && lines.length > 1) lines.splice(1 + (count % (lines.length - 1)), 0, this.#message());
    if (count % 2 === 0) lines.unshift(this.#message());
    else lines.push(this.#message());
    return lines;
  }

  // Typing.

  #prompt(): string {
    return this.#host.dialect.beforePrompt + this.#host.dialect.prompt(this.#shell);
  }

  /** A single key, after a text without a line end; null when nobody is there any more. */
  async #key(ask: string): Promise<string | null> {
    this.#send(ask);
    const byte = await this.#byte();
    return byte === null ? null : String.fromCharCode(byte);
  }

  /**
   * A line that is typed at a prompt; null when nobody is there any more.
   * With `edit` it is a line of the shell: it has help, completion and messages of the log that come in between.
   */
  async #line(prompt: string, { echo = false, edit = false }: { echo?: boolean; edit?: boolean }): Promise<string | null> {
    const { behaviour, dialect, received } = this.#host;
    let text = "";
    let raw = "";
    const redraw = () => this.#send(prompt.slice(edit ? dialect.beforePrompt.length : 0) + text);
    const interrupt = () => {
      this.#send(`\r\n${this.#message()}\r\n`);
      redraw();
    };
    // Once while it waits, or once while somebody types; by the counter of the messages.
    const turn = edit && behaviour.logs ? this.#host.messages % 4 : null;
    const interruptAt = turn === 1 ? 5 : null;
    const idle = turn === 2 || turn === 3 ? setTimeout(() => (interrupt(), this.#flush()), idleMs) : undefined;
    this.#send(prompt);
    try {
      for (;;) {
        const byte = await this.#byte();
        if (byte === null) return null;
        if (byte === key.carriageReturn) {
          received.push(raw);
          return text;
        }
        raw += String.fromCharCode(byte);
        if (edit && byte === key.ctrlZ) {
          received.push(raw);
          return this.#shell.mode === "exec" || this.#shell.mode === "user" ? "" : "end";
        }
        if (byte === key.ctrlC) {
          text = raw = "";
          this.#send(`^C\r\n${prompt}`);
        } else if (byte === key.ctrlU) {
          if (echo || edit) this.#send("\b \b".repeat(text.length));
          text = "";
        } else if (byte === key.backspace || byte === key.del) {
          if ((echo || edit) && text !== "") this.#send("\b \b");
          text = text.slice(0, -1);
        } else if (byte === key.escape) {
          raw += await this.#escape();
        } else if (edit && byte === key.tab) {
          const rest = this.#completion(text);
          text += rest;
          this.#send(rest);
        } else if (edit && byte === key.help) {
          this.#show(["?", ...nextWords(dialect, this.#shell, text).map((word) => `  ${word}`), ""]);
          redraw();
        } else if (byte >= 32) {
          text += String.fromCharCode(byte);
          // A line that is too long is not shown beyond its limit: the bell rings.
          if (echo || edit) this.#send(text.length > dialect.lineLimit ? "\x07" : String.fromCharCode(byte));
          if (edit && dialect.wrap !== null && (prompt.length + text.length) % this.#shell.width === 0) this.#send(dialect.wrap);
          if (text.length === interruptAt) interrupt();
        }
      }
    } finally {
      clearTimeout(idle);
    }
  }

  /** What the tabulator adds to a line: the rest of a word that is the only one. */
  #completion(text: string): string {
    const [word, ...others] = nextWords(this.#host.dialect, this.#shell, text);
    if (word === undefined || others.length > 0 || word.startsWith("<")) return "";
    const partial = /\S*$/.exec(text)![0];
    return `${word.slice(partial.length)} `;
  }

  /** The rest of a sequence such as `ESC [ A`, an arrow, which does nothing here. */
  async #escape(): Promise<string> {
    let sequence = "";
    do sequence += String.fromCharCode((await this.#byte()) ?? 0);
    while (/^\[[^@-~]*$/.test(sequence) && this.#input);
    return sequence;
  }

  /** The next byte that was typed; any line end is one carriage return. Null when nobody is there any more. */
  async #byte(): Promise<number | null> {
    for (;;) {
      if (this.#input?.length === 0) {
        this.#flush();
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      if (!this.#input) return null;
      const byte = this.#input.shift();
      if (byte === undefined) continue;
      const endsReturn = this.#afterReturn && (byte === key.lineFeed || byte === 0);
      this.#afterReturn = byte === key.carriageReturn;
      if (!endsReturn) return byte === key.lineFeed ? key.carriageReturn : byte;
    }
  }

  // Faults.

  /** A line (or key) has arrived, and is about to take effect. */
  async #step(line: string): Promise<Verdict> {
    this.#flush();
    const hold = this.#host.behaviour.onLine?.(line, this.#number);
    if (hold) await this.#hold(hold);
    const fault = this.#host.step();
    switch (fault?.kind) {
      case undefined:
        return "go";
      case "cut":
        this.#budget = fault.bytes ?? 0;
        return "go";
      case "drop":
        this.#mute = true;
        this.#wire.destroy();
        return "over";
      case "power":
        this.#mute = true;
        this.#host.powerCycle();
        return "over";
      case "hang":
        this.#mute = true;
        return "over";
      case "silent":
        this.#mute = true;
        return "go";
      case "garbage":
        return "lost";
      case "error":
      case "refuse":
        return "refused";
      case "slow":
        await sleep(fault.delayMs ?? 0);
        return this.#hasPower ? "go" : "over";
    }
  }

  async #hold({ effect, answer }: Hold): Promise<void> {
    await effect;
    if (!answer) return;
    this.#held = true;
    void answer.then(() => {
      this.#held = false;
      this.#flush();
    });
  }

  /** Whether the session is over. An answer that is cut ends with this prompt at the latest. */
  #isLast(prompt: string): boolean {
    if (this.#budget !== null) {
      this.#send(prompt);
      this.#hangUp();
    }
    return this.#mute || this.#ending;
  }

  // Showing.

  #show(lines: readonly string[]): void {
    if (lines.length > 0) this.#send(`${lines.join("\r\n")}\r\n`);
  }

  #send(text: string): void {
    this.#pending += text;
  }

  #flush(): void {
    if (this.#held) return;
    let bytes = Buffer.from(this.#pending, "latin1");
    this.#pending = "";
    if (this.#mute || this.#ending) return;
    if (this.#budget !== null) {
      bytes = bytes.subarray(0, this.#budget);
      this.#budget -= bytes.length;
    }
    if (bytes.length === 0) return;
    if (!this.#host.behaviour.oneByteWrites && this.#slowly.length === 0) return this.#wire.write(bytes);
    this.#slowly.push(bytes);
    if (this.#slowly.length === 1) void this.#drip();
  }

  async #drip(): Promise<void> {
    for (; this.#slowly.length > 0; this.#slowly.shift()) {
      for (const byte of this.#slowly[0]!) {
        this.#wire.write(Buffer.of(byte));
        await new Promise(setImmediate);
      }
    }
    if (this.#ending) this.#wire.end();
  }

  /** Ends the connection, after what was shown. */
  #hangUp(): void {
    if (this.#ending) return;
    this.#flush();
    this.#ending = true;
    if (this.#slowly.length === 0) this.#wire.end();
  }
}

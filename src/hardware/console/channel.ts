import { noteWork } from "../../watchdog.ts";
import { redact, redactBeginning } from "../command.ts";
import { lineLimitCharacters, Screen } from "./screen.ts";
import { ConsoleLost, LoginRefused, type Transport } from "./transport.ts";

/** What a kind of console says and expects, beyond the prompts of its modes. */
export interface Dialect {
  /** The pager's question, at the end of what was written so far. A blank gives the next page. */
  readonly pager: RegExp;
  /** A line that says that a command failed. */
  readonly errors: readonly RegExp[];
  /** A line of the device's log, which may stand anywhere. */
  readonly log: RegExp;
}

/** Who watches; lines hold no secrets. */
export interface ChannelObserver {
  step(name: string): void;
  line(direction: "sent" | "received", text: string): void;
}

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

/** The device answered a command with an error of its own. */
export class CommandRefused extends Error {
  constructor(
    readonly command: string,
    readonly words: string,
  ) {
    super(`'${command}' was answered with '${words}'`);
  }
}

export interface CommandOptions {
  /** Awaited right before the line is typed; nothing is typed when it rejects. */
  readonly confirm?: () => Promise<void>;
  /** The answers to questions that the command asks, by the question. */
  readonly questions?: readonly { readonly asked: RegExp; readonly answer: string; readonly secret?: true }[];
}

// How long the device must be silent before a guess is taken for the truth.
const settleMs = 150;
/** Before a prompt is taken for the end of a command whose echo was not seen. */
const echolessMs = 500;
/** Before a prompt that something was written behind is taken for the end of a command. */
const buriedPromptMs = 1_500;
/** Before a device that shows neither question nor prompt is given an empty line. */
const wakeMs = 3_000;
const pokeLimit = 3;
const probes = 5;
const pagesPerCommand = 5_000;
/** More than any device says in answer to one command, or before it lets somebody in: as it comes, and as it shows. */
const outputLimitCharacters = 4 * 1024 * 1024;
/** `show` of every port of the largest switches has 15,000. */
const outputLimitLines = 25_000;
/** A prompt that something was written behind is among the last lines. */
const buriedDepthLines = 20;
/** A device that drips never is silent; so a command ends after so many times the silence that is allowed. */
const silencesPerCommand = 10;
/** A line that is longer is neither a prompt nor a question. */
const promptLimitCharacters = 512;
const wordsLimit = 200;
/** From so many characters of what a device says its words are taken; the line that says why is among so many lines. */
const wordsSoughtCharacters = 4_096;
const lastWordsLines = 50;
const unmistakableLength = 12;
/** More than an echo is long, log lines in front of it included. */
const heardLimit = 4_096;
const heardLimitLines = 64;

// The line must be nothing else: a banner may speak of logins and passwords.
const usernamePrompt = /^(?!last\b)(?:\S+ +)?(?:user ?name|login|user)\s*:$/i;
export const passwordPrompt = /^(?:\S+ +)*password(?: for \S+)?\s*:$/i;
const anyKey = /press (?:any key|return|enter)\b/i;
const refusals =
  /incorrect|denied|fail|invalid|bad (?:password|secret)|not authori[sz]ed|too many|maximum|limit|refused|no more|locked|expired|unavailable/i;
/** Hostname, mode, marker. */
const promptForm = /^(\S.{0,63}?)((?:\([^()]{1,40}\))?[#>])$/;
/** Some devices shorten a long hostname when a mode stands behind it, to no less than this. */
const hostnameKept = 16;
const confirmation = /[([](?:y\/n|yes\/no)[)\]].{0,12}$/i;

/**
 * A console, once somebody is logged in: one command at a time, each answered by its output. Every wait is
 * bounded. Rejects with ConsoleLost when the connection is of no more use, and with CommandRefused.
 */
export class Channel {
  readonly #screen = new Screen();
  /** The prompt begins with it in every mode. */
  #hostname = "";
  /** What followed the hostname when the last command ended, as in `(config)#`. */
  #mode = "";
  #recorded = 0;
  /** Lines of the answer to the last command, up to where it was looked at: see `#digest`. */
  #answer: string[] = [];
  /** The first of them that is an error. */
  #error: string | null = null;
  #digested = 0;
  /** The line that ends with what was typed, or -1. */
  #echoAt = -1;
  /** Characters since the command, or the login, began. */
  #fed = 0;
  /** How the answer to the last command began, as it came: a long line that scrolls sideways overwrites its own echo. */
  #heard = "";
  /** What is under way, for the watchdog. */
  #work: string;

  constructor(
    readonly label: string,
    readonly transport: Transport,
    readonly dialect: Dialect,
    readonly silenceMs: number,
    readonly secrets: readonly string[],
    readonly observer: ChannelObserver | undefined,
  ) {
    this.#work = `switch ${label}: log in`;
  }

  /** What the prompt says of the mode: `#`, `(config)#`, … */
  get mode(): string {
    return this.#mode;
  }

  close(): void {
    this.transport.close();
  }

  /** Without secrets, on one line, short and printable: fit for a message. */
  words(text: string): string {
    const line = redactBeginning(text, this.secrets, wordsSoughtCharacters)
      .replace(/[\p{C}\p{Z}]+/gu, " ")
      .trim();
    return line.length > wordsLimit ? `${line.slice(0, wordsLimit)}…` : line;
  }

  /** Get from whatever the device says first to a prompt. Rejects with LoginRefused as well. */
  async login({ username, password }: Credentials, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    const asked = { username: 0, password: 0, prompt: 0 };
    let candidate: string | null = null;
    let pokes = 0;
    for (;;) {
      const arrived = await this.#settled(deadline);
      const line = this.#prompt();
      if (usernamePrompt.test(line)) {
        if (asked.password > 0 || ++asked.username > 2) throw this.#refused("asks for the name again", "; check username and password");
        this.#next(username);
      } else if (passwordPrompt.test(line)) {
        if (++asked.password > 1) throw this.#refused("asks for the password again", "; check username and password");
        this.#next(password, true);
      } else if (anyKey.test(line)) this.#next("");
      else if (promptForm.test(line)) {
        // A banner may look like a prompt, but only a prompt comes again after an empty line.
        if (line === candidate) {
          const [, hostname, mode] = promptForm.exec(line)!;
          this.#hostname = hostname!;
          this.#mode = mode!;
          return;
        }
        if (++asked.prompt > probes) throw this.#refused("never shows the same prompt twice");
        candidate = line;
        this.#next("");
      } else if (!arrived && ++pokes <= pokeLimit) this.#next("");
    }
  }

  /**
   * Type a line and wait for the prompt; the lines of the answer, without the echo, pagers and log lines.
   * Rejects with CommandRefused when one of them is an error.
   */
  async command(line: string, { questions = [], confirm }: CommandOptions = {}): Promise<string[]> {
    this.#fed = 0;
    await this.#drain();
    this.#screen.clear();
    this.#fed = 0;
    this.#recorded = 0;
    this.#heard = "";
    this.#answer = [];
    this.#error = null;
    this.#digested = 0;
    this.#echoAt = -1;
    await confirm?.();
    this.#work = `switch ${this.label}: ${line}`;
    this.#type(line);
    const started = performance.now();
    let pages = 0;
    const open = [...questions];
    for (;;) {
      const atEnd = this.#modeOf(this.#prompt());
      const mode = atEnd ?? this.#buriedPrompt();
      const patience = mode === null ? this.silenceMs : atEnd === null ? buriedPromptMs : this.#echoed(line) ? 0 : echolessMs;
      const text = await this.transport.read(patience);
      if (text !== null) {
        this.#feed(text);
        if (this.#heard.length < heardLimit) this.#heard += text;
        this.#digest(line);
        if (this.#screen.isCut) throw this.#lost(`'${line}' is answered with a line of more than ${lineLimitCharacters} characters`);
        if (this.#isEndless() || performance.now() - started > this.silenceMs * silencesPerCommand)
          throw this.#lost(`'${line}' is answered without end`);
      } else if (mode !== null) {
        this.#mode = mode;
        break;
      } else throw this.#lost(`'${line}' is not answered within ${this.silenceMs / 1000} s`);
      // Only what the device waits with is a question, and it waits with it at the end of what it wrote.
      const tail = this.#prompt();
      if (this.dialect.pager.test(tail)) {
        if (++pages > pagesPerCommand) throw this.#lost(`'${line}' is answered without end`);
        this.#screen.clearLine();
        this.transport.write(" ");
      } else {
        const known = open.findIndex(({ asked }) => asked.test(tail));
        if (known >= 0) {
          const [{ answer, secret }] = open.splice(known, 1) as [(typeof open)[number]];
          this.#screen.feed("\n");
          this.#type(answer, secret);
        } else if (confirmation.test(tail) && this.#echoed(line)) {
          // What was not foreseen is not agreed to.
          this.#screen.feed("\n");
          this.#type("n");
          throw new CommandRefused(this.words(line), this.words(tail));
        }
      }
    }
    this.#record();
    this.#digest(line);
    if (this.#error !== null) throw new CommandRefused(this.words(line), this.words(this.#error));
    return this.#answer;
  }

  /**
   * Look at the lines that were finished since the last time. What is behind the echo is the answer, except log lines and
   * prompts; until there is an echo, everything.
   */
  #digest(line: string): void {
    const { lines } = this.#screen;
    const typed = squeeze(line);
    for (; this.#digested < lines.length; this.#digested++) {
      const shown = lines[this.#digested]!;
      if (this.#echoAt < 0 && squeeze(shown).endsWith(typed)) {
        this.#echoAt = this.#digested;
        this.#answer = [];
        this.#error = null;
      } else if (!this.dialect.log.test(shown) && !(shown !== "" && this.#modeOf(shown) !== null)) {
        this.#answer.push(shown);
        if (this.#error === null && this.dialect.errors.some((form) => form.test(shown))) this.#error = shown;
      }
    }
  }

  /** Whether the device has shown what was typed, also broken over lines. A short word may as well be part of a log line. */
  #echoed(line: string): boolean {
    if (this.#echoAt >= 0) return true;
    if (line.length < unmistakableLength) return false;
    const shown = [...this.#screen.lines.slice(0, heardLimitLines), this.#screen.line].join("").slice(0, heardLimit);
    return [shown, this.#heard].some((text) => squeeze(text).includes(squeeze(line)));
  }

  /** What the device may be waiting with. */
  #prompt(): string {
    const { line } = this.#screen;
    return line.length > promptLimitCharacters ? "" : line;
  }

  /** What a line that is a prompt and nothing else says of the mode. */
  #modeOf(shown: string): string | null {
    const [, hostname, mode] = promptForm.exec(shown) ?? [];
    if (hostname === undefined || mode === undefined) return null;
    const shortened = hostname.length >= hostnameKept && this.#hostname.startsWith(hostname);
    return hostname === this.#hostname || shortened ? mode : null;
  }

  /** The mode of a prompt behind the echo that the device wrote a log line after. */
  #buriedPrompt(): string | null {
    if (this.#echoAt < 0) return null;
    const { lines, line } = this.#screen;
    const behind = Math.max(this.#echoAt + 1, lines.length - buriedDepthLines);
    const shown = [...lines.slice(behind), line].map((text) => this.#modeOf(beforeBlank(text)));
    return shown.findLast((mode) => mode !== null) ?? null;
  }

  /** Read until the device is silent for a moment; whether it said anything. */
  async #settled(deadline: number): Promise<boolean> {
    let arrived = false;
    for (;;) {
      const left = deadline - performance.now();
      if (left <= 0) throw this.#refused("shows no prompt in time");
      let text: string | null;
      try {
        text = await this.transport.read(Math.min(arrived ? settleMs : wakeMs, left));
      } catch (error) {
        // A device that refuses says so, and hangs up.
        if (error instanceof ConsoleLost && this.#lastWords() !== "") throw this.#refused("ends the connection");
        throw error;
      }
      if (text === null) return arrived;
      arrived = true;
      this.#feed(text);
      if (this.#isEndless()) throw this.#refused("writes without end");
      if (this.#screen.isCut) throw this.#refused("writes a line without end");
    }
  }

  #refused(did: string, hint = ""): LoginRefused {
    this.#record();
    const said = this.#lastWords();
    return new LoginRefused(`while logging in, it ${did}${said === "" ? "" : `; it said '${said}'`}${hint}`);
  }

  /** The line that says why, if there is one, or the last one. */
  #lastWords(): string {
    const lines = [...this.#screen.lines.slice(-lastWordsLines), this.#screen.line].filter((line) => line !== "");
    return this.words(lines.findLast((line) => refusals.test(line)) ?? lines.at(-1) ?? "");
  }

  #lost(what: string): ConsoleLost {
    this.#record();
    const said = this.words([...this.#screen.lines.slice(-lastWordsLines), this.#screen.line].findLast((line) => line !== "") ?? "");
    this.close();
    return new ConsoleLost(this.words(what) + (said === "" ? "" : `; the device said last: '${said}'`));
  }

  /** Take what came while nothing was asked: log lines, mostly. */
  async #drain(): Promise<void> {
    for (let text = await this.transport.read(0); text !== null; text = await this.transport.read(0)) {
      this.#feed(text);
      if (this.#isEndless()) throw this.#lost("the device writes without end, unasked");
    }
  }

  #feed(text: string): void {
    noteWork(this.#work);
    this.#fed += text.length;
    this.#screen.feed(text);
  }

  #isEndless(): boolean {
    const { characters, lines } = this.#screen;
    return this.#fed > outputLimitCharacters || characters > outputLimitCharacters || lines.length > outputLimitLines;
  }

  /** Go on from here: what was shown so far is dealt with. */
  #next(answer: string, secret?: boolean): void {
    this.#screen.feed("\n");
    this.#record();
    this.#screen.clearLine();
    this.#type(answer, secret);
  }

  #type(line: string, secret = false): void {
    this.observer?.line("sent", secret ? "[secret]" : this.#redact(line));
    this.transport.write(line + this.transport.lineEnd);
  }

  /** Hand the lines that were not recorded yet to the observer. */
  #record(): void {
    if (!this.observer) return;
    for (const line of this.#screen.lines.slice(this.#recorded)) this.observer.line("received", this.#redact(line));
    this.#recorded = this.#screen.lines.length;
    if (this.#screen.line !== "") this.observer.line("received", this.#redact(this.#screen.line));
  }

  #redact(text: string): string {
    return redact(text, this.secrets);
  }
}

const squeeze = (text: string): string => text.replace(/\s+/g, "");

/** Up to the marker of a prompt that something follows. */
function beforeBlank(text: string): string {
  const at = text.search(/[#>] /);
  return at < 0 ? text : text.slice(0, at + 1);
}

import { type Device, parsePorts, parseVlans, type PortConfig, type PortKinds, type Vlans } from "./device.ts";

/** Where somebody at the console is. */
export type Mode = "user" | "exec" | "config" | "interface" | "vlan";

/** One login at the console. */
export interface Shell {
  readonly device: Device;
  readonly hostname: string;
  readonly enablePassword: string | null;
  mode: Mode;
  /** The ports that `interface` chose, by key. */
  ports: readonly string[];
  /** The VLANs that `vlan` chose. */
  vlans: Vlans;
  paging: boolean;
  /** Of the terminal, in characters. */
  width: number;
  over: boolean;
}

/** What a command answers: lines, or lines and then a question. */
export type Answer = readonly string[] | Question | void;

export interface Question {
  readonly lines: readonly string[];
  /** Printed without a line end. */
  readonly ask: string;
  /** A single key that is echoed, or a whole line that is not. */
  readonly takes: "key" | "secret";
  answered(reply: string): Answer;
}

/** What the parameters of a command stand for; those that its pattern names are there. */
interface Args {
  readonly vlan: number;
  readonly vlans: Vlans;
  readonly ports: readonly string[];
  readonly number: number;
}

/** By pattern, as `switchport access vlan <vlan>`. */
export type Commands = Readonly<Record<string, (shell: Shell, args: Args) => Answer>>;

/** What is wrong with a line: at a word, or at its end. */
export type Problem = "unknown" | "ambiguous" | "incomplete" | "value" | "no port" | "not a port";

/** A vendor's console. */
export interface Dialect {
  readonly highestVlan: number;
  readonly kinds: PortKinds;
  readonly factory: PortConfig;
  readonly defaultPorts: readonly string[];
  readonly defaultHostname: string;
  /** Whether the dummy VLAN exists on a switch that is set up as the driver's documentation wants it; null without one. */
  readonly dummyExists: boolean | null;
  /** Who says so in the SSH handshake. */
  readonly ident: string;
  readonly motd: readonly string[];
  readonly login: {
    readonly name: string;
    readonly password: string;
    readonly wrong: readonly string[];
    readonly tooManyTries: readonly string[];
    readonly tooManySessions: readonly string[];
  };
  /** Stands before every prompt. */
  readonly beforePrompt: string;
  prompt(shell: Shell): string;
  readonly pager: { readonly text: string; readonly erase: string };
  /** The longest line that it takes, in characters. */
  readonly lineLimit: number;
  readonly tooLong: readonly string[];
  /** What it writes behind the last column while a line is typed; null when it leaves that to the terminal. */
  readonly wrap: string | null;
  /** The answer to a line that it does not understand; `column` counts from 0 and includes the prompt. */
  complain(problem: Problem, column: number): readonly string[];
  /** What it says when it can't do what it was told. */
  readonly refusal: readonly string[];
  /** The message in the log that has this number. */
  logLine(number: number, hostname: string): string;
  readonly commands: Readonly<Record<Mode, Commands>>;
}

/** The device does not do what it was told, and says so. */
export class Refusal extends Error {
  constructor(readonly lines: readonly string[]) {
    super(lines.join("\n"));
  }
}

/** Words; a port's name may have a blank in it (`ethernet 1/42`), and lists of ports have blanks after their commas. */
const words = /(?:\b(?:e|gi|te)[a-z]*\s+(?=\d)|,\s+|\S)+/gi;
const isParameter = (word: string) => word.startsWith("<");

interface Candidate {
  readonly words: readonly string[];
  readonly run: Commands[string];
}

const candidatesOf = (commands: Commands): Candidate[] =>
  Object.entries(commands).map(([pattern, run]) => ({ words: pattern.split(" "), run }));

/** The commands that go on with this word, by the rules of abbreviation. */
function narrow(candidates: readonly Candidate[], position: number, word: string): Candidate[] {
  const keyword = word.toLowerCase();
  const longer = candidates.filter((candidate) => candidate.words.length > position);
  const exact = longer.filter((candidate) => candidate.words[position] === keyword);
  if (exact.length > 0) return exact;
  const abbreviated = longer.filter((candidate) => candidate.words[position]!.startsWith(keyword));
  return abbreviated.length > 0 ? abbreviated : longer.filter((candidate) => isParameter(candidate.words[position]!));
}

/** What a parameter stands for, or the problem with it. */
function parameter(dialect: Dialect, device: Device, name: string, word: string): unknown {
  if (name === "<ports>" || name === "<port>") {
    const keys = parsePorts(word, dialect.kinds);
    if (!keys || (name === "<port>" && keys.length > 1)) return "not a port" satisfies Problem;
    return keys.every((key) => device.running.ports.has(key)) ? keys : ("no port" satisfies Problem);
  }
  if (name === "<vlans>") return parseVlans(word, dialect.highestVlan) ?? ("value" satisfies Problem);
  const number = /^\d{1,5}$/.test(word) ? Number(word) : NaN;
  if (name === "<vlan>" && !(number >= 1 && number <= dialect.highestVlan)) return "value" satisfies Problem;
  return Number.isNaN(number) ? ("value" satisfies Problem) : number;
}

/** Run a line that was typed at the shell's prompt. Throws a `Refusal` in the vendor's words. */
export function execute(dialect: Dialect, shell: Shell, line: string): Answer {
  const promptLength = dialect.prompt(shell).length;
  const refuse = (problem: Problem, index: number) => new Refusal(dialect.complain(problem, promptLength + index));
  // `do` runs a command of the exec mode from a config mode.
  const isDo = shell.mode !== "user" && shell.mode !== "exec" && /^\s*do\s/.test(line);
  let candidates = candidatesOf(dialect.commands[isDo ? "exec" : shell.mode]);
  const args: Record<string, unknown> = {};
  let position = 0;
  for (const { 0: word, index } of [...line.matchAll(words)].slice(isDo ? 1 : 0)) {
    candidates = narrow(candidates, position, word);
    const [first, ...others] = new Set(candidates.map((candidate) => candidate.words[position]!));
    if (first === undefined) throw refuse("unknown", index);
    if (others.length > 0) throw refuse("ambiguous", index);
    if (isParameter(first)) {
      const value = parameter(dialect, shell.device, first, word);
      if (typeof value === "string") throw refuse(value as Problem, index);
      args[first === "<port>" ? "ports" : first.slice(1, -1)] = value;
    }
    position++;
  }
  if (position === 0) return;
  const whole = candidates.find((candidate) => candidate.words.length === position);
  if (!whole) throw refuse("incomplete", line.length);
  return whole.run(shell, args as unknown as Args);
}

/** The words that could come next, or that could end the last word: for `?` and the tabulator. */
export function nextWords(dialect: Dialect, shell: Shell, line: string): string[] {
  const typed = [...line.matchAll(words)].map(([word]) => word);
  const partial = line === "" || line.endsWith(" ") ? "" : typed.pop()!.toLowerCase();
  let candidates = candidatesOf(dialect.commands[shell.mode]);
  for (const [position, word] of typed.entries()) candidates = narrow(candidates, position, word);
  const next = candidates.map((candidate) => candidate.words[typed.length] ?? "<cr>");
  return [...new Set(next)].filter((word) => word.startsWith(partial)).sort();
}

/** The commands that all of these consoles have in common, by mode. */
export const common = {
  user: {
    enable: (shell) => {
      if (shell.enablePassword === null) shell.mode = "exec";
      else return askEnablePassword(shell);
    },
    exit: leave,
    quit: leave,
  },
  exec: {
    enable: () => {},
    disable: (shell) => {
      shell.mode = "user";
    },
    exit: leave,
    quit: leave,
    configure: configure,
    "configure terminal": configure,
  },
  config: {
    exit: (shell) => {
      shell.mode = "exec";
    },
    end,
  },
  /** Of a mode below the config mode. */
  below: {
    exit: (shell) => {
      shell.mode = "config";
    },
    end,
  },
  interface: {
    "switchport mode access": (shell) => changePorts(shell, () => ({ mode: "access" })),
    "switchport mode trunk": (shell) => changePorts(shell, () => ({ mode: "trunk" })),
    "no switchport access vlan": (shell) => changePorts(shell, () => ({ accessVlan: 1 })),
    "no switchport trunk native vlan": (shell) => changePorts(shell, () => ({ native: 1 })),
  },
} satisfies Record<string, Commands>;

export const changePorts = (shell: Shell, change: (port: PortConfig) => Partial<PortConfig>): void =>
  shell.device.change(shell.ports, change);

export function choosePorts(shell: Shell, { ports }: { readonly ports: readonly string[] }): void {
  shell.mode = "interface";
  shell.ports = ports;
}

function leave(shell: Shell): void {
  shell.over = true;
}

function configure(shell: Shell): void {
  shell.mode = "config";
}

function end(shell: Shell): void {
  shell.mode = "exec";
}

const askEnablePassword = (shell: Shell): Question => ({
  lines: [],
  ask: "Password:",
  takes: "secret",
  answered: (reply) => {
    if (reply !== shell.enablePassword) return ["% Bad passwords"];
    shell.mode = "exec";
  },
});

/** A line of `Field: value` whose list goes on below itself, wherever it gets too wide. */
export function wrapped(field: string, parts: readonly string[], width = 79): string[] {
  const lines = [`${field} `];
  for (const [i, part] of parts.entries()) {
    const text = i < parts.length - 1 ? `${part},` : part;
    if (lines.at(-1)!.length + text.length > width) lines.push(" ".repeat(field.length + 1));
    lines[lines.length - 1] += text;
  }
  return lines;
}

/** Below the word that is wrong. */
export const caret = (column: number): string => `${" ".repeat(column)}^`;

import cac from "cac";
import { type Arguments, type Bound, type Command, type OptionName, type Options, optionSpecs, UsageError } from "./command.ts";
import { detail, findCommand, helpFor, optionsOf, shapeOf, valueOf } from "./help.ts";
import { nearest, unknownCommand } from "./suggest.ts";

/** What a command line asks for. */
export type Request =
  | { readonly kind: "print"; readonly text: string }
  | { readonly kind: "version" }
  | { readonly kind: "run"; readonly command: Command; readonly values: Bound; readonly options: Options };

const helpFlags = ["-h", "--help"];

/** Words that were told apart: `flags` are options in cac's spelling. */
interface Words {
  readonly values: readonly string[];
  readonly flags: readonly string[];
  readonly help: boolean;
  /** Those of the values that look like an option, and were not said to be none. */
  readonly dashed: readonly string[];
}

/**
 * cac coerces values (`0123` becomes 123) and takes a value with a leading dash for an option.
 * So every value goes through it behind this character, which comes off again on the other side.
 */
const guard = "=";

export function readCommandLine(argv: readonly string[], commands: readonly Command[]): Request {
  // Options may stand before the command, too; which of them are legal is known once the command is.
  const allOptions = Object.keys(optionSpecs) as OptionName[];
  let rest = [...argv];
  const leading: string[] = [];
  let help = false;
  const takeLeading = () => {
    while (rest[0]?.startsWith("-") && rest[0] !== "-") {
      const word = rest[0];
      if (word === "--") return void rest.shift();
      if (word === "--version") return;
      const taken = helpFlags.includes(word) ? 1 : optionLength(rest, 0, allOptions);
      if (taken === 0) throw new UsageError(unknownOption(word, [...allOptions]));
      if (helpFlags.includes(word)) help = true;
      else leading.push(...rest.slice(0, taken));
      rest = rest.slice(taken);
    }
  };
  takeLeading();
  if (rest[0] === "--version") return { kind: "version" };
  const first = rest[0];
  if (first === undefined) {
    if (help) return { kind: "print", text: helpFor(commands, [])! };
    throw new UsageError("Which command? See haas help.");
  }

  let found = findCommand(commands, rest);
  if (!found) {
    const groupHelp = helpFor(commands, [first]);
    if (groupHelp === null) {
      throw new UsageError(
        unknownCommand(
          commands,
          rest.filter((word) => !word.startsWith("-")),
        ),
      );
    }
    // Perhaps options stand between the words of a grouped name.
    rest.shift();
    takeLeading();
    if (rest.length === 0) {
      if (help) return { kind: "print", text: groupHelp };
      throw new UsageError(`Which command of ${first}?\n\n${groupHelp.trimEnd()}`);
    }
    rest.unshift(first);
    found = findCommand(commands, rest);
    if (!found) throw new UsageError(unknownCommand(commands, rest));
  }
  const { command, length } = found;
  const words = bindWords(command, rest.slice(length));
  if (help || words.help) return { kind: "print", text: helpFor(commands, [command.name])! };
  const before = sortWords(leading, optionsOf(command), []);
  if (before.values.length > 0) throw new UsageError(`${command.name} has no option ${before.values[0]}.`, command);
  return { kind: "run", command, ...runCac(command, words, [...before.flags, ...words.flags]) };
}

/** How many words an option at this place takes: none when it is no option. */
function optionLength(words: readonly string[], index: number, options: readonly OptionName[]): 0 | 1 | 2 {
  const word = words[index]!;
  for (const option of options) {
    const { flag } = optionSpecs[option];
    if (valueOf(option) === null) {
      if (word === flag) return 1;
    } else if (word.startsWith(`${flag}=`)) return 1;
    else if (word === flag) return 2;
  }
  return 0;
}

/**
 * Tell options from values. A word that begins with a dash is an option only if the command has it;
 * everything after `--` is a value, and so is whatever stands where a `verbatim` value is due.
 */
function sortWords(words: readonly string[], options: readonly OptionName[], verbatim: readonly boolean[]): Words {
  const values: string[] = [];
  const flags: string[] = [];
  const dashed: string[] = [];
  let help = false;
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    if (verbatim[values.length] && word !== "--") {
      values.push(word);
      continue;
    }
    if (word === "--") {
      values.push(...words.slice(i + 1));
      break;
    }
    const taken = optionLength(words, i, options);
    if (helpFlags.includes(word)) help = true;
    else if (taken === 0) {
      values.push(word);
      if (word.startsWith("--")) dashed.push(word);
    } else if (taken === 2 || word.includes("=")) {
      const [flag, value] = taken === 2 ? [word, words[i + 1]] : [word.slice(0, word.indexOf("=")), word.slice(word.indexOf("=") + 1)];
      if (value === undefined || value === "") throw new UsageError(`${flag} needs a value.`);
      flags.push(`${flag}=${guard}${value}`);
      i += taken - 1;
    } else flags.push(word);
  }
  return { values, flags, help, dashed };
}

/**
 * A password may be `--json` or `-h`. Where an argument is missing, and a word that looks like an
 * option stands where a password is due, that word is the password.
 */
function bindWords(command: Command, words: readonly string[]): Words {
  const attempt = (verbatim: readonly boolean[]): Words | UsageError => {
    try {
      return sortWords(words, optionsOf(command), verbatim);
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      return new UsageError(error.message, command);
    }
  };
  const sorted = attempt([]);
  const args = Object.values(argumentsFor(command, sorted instanceof UsageError ? words : sorted.values)).map(detail);
  const required = args.filter(({ optional }) => !optional).length;
  if (!(sorted instanceof UsageError) && sorted.values.length >= required) return sorted;
  const verbatim = args.map((argument) => argument.verbatim === true);
  if (verbatim.includes(true)) {
    const literal = attempt(verbatim);
    if (!(literal instanceof UsageError) && literal.values.length >= required && literal.values.length <= args.length) return literal;
  }
  if (sorted instanceof UsageError) throw sorted;
  return sorted;
}

/** The arguments of a command; with variants, those that the second word chooses. */
function argumentsFor(command: Command, values: readonly string[]): Arguments {
  const variant = values[1];
  return variant !== undefined && command.variants && Object.hasOwn(command.variants, variant) ? command.variants[variant]! : command.args;
}

/** Let cac parse the guarded words and count them, and name them by argument. */
function runCac(command: Command, { values, dashed }: Words, flags: readonly string[]): { values: Bound; options: Options } {
  const args = argumentsFor(command, values);
  if (args === command.args && command.variants && values.length > 1) {
    throw new UsageError(
      `'${values[1]}' is not a ${Object.keys(command.args)[0]} type. There are: ${Object.keys(command.variants).join(", ")}.`,
      command,
    );
  }
  const cli = cac("haas");
  const shape = Object.entries(args).map(([name, argument]) => {
    const { optional, variadic } = detail(argument);
    return optional ? `[${name}]` : variadic ? `<...${name}>` : `<${name}>`;
  });
  const registered = cli.command([command.name, ...shape].join(" "), command.about);
  for (const option of optionsOf(command)) {
    const { flag, about } = optionSpecs[option];
    registered.option(valueOf(option) === null ? flag : `${flag} <value>`, about);
  }
  const { args: guarded, options } = cli.parse(["bun", "haas", command.name, ...values.map((value) => guard + value), ...flags], {
    run: false,
  });
  try {
    registered.checkRequiredArgs();
    registered.checkUnusedArgs();
  } catch {
    // In our own words: cac's show the guards.
    throw new UsageError(wrongCount(command, args, values), command, values[1]);
  }
  const named: Record<string, string | readonly string[]> = {};
  for (const [index, [name, argument]] of Object.entries(args).entries()) {
    const { choices, optional, variadic } = detail(argument);
    if (variadic) {
      named[name] = values.slice(index);
      const wrong = dashed.find((word) => values.includes(word, index));
      if (wrong !== undefined) throw new UsageError(unknownOption(wrong, optionsOf(command)), command);
      continue;
    }
    const value = guarded[index]?.slice(guard.length);
    if (value === undefined) continue;
    const options = optionsOf(command);
    if ((choices || optional) && dashed.includes(value) && nearOption(value, options) !== undefined) {
      throw new UsageError(unknownOption(value, options), command, values[1]);
    }
    if (choices && !choices.includes(value)) throw new UsageError(`'${value}' is not one of: ${choices.join(", ")}.`, command);
    named[name] = value;
  }
  const given = unguard(options);
  checkOptions(command, values[1], given);
  return { values: named, options: given };
}

/** Refuse an option that another variant has, and a value that an option does not take. */
function checkOptions(command: Command, variant: string | undefined, given: Options): void {
  for (const option of optionsOf(command)) {
    const value = given[option];
    if (value === undefined) continue;
    const spec = optionSpecs[option];
    if (command.variantOptions && !optionsOf(command, variant).includes(option)) {
      throw new UsageError(`'${variant}' has no option ${spec.flag}.`, command, variant);
    }
    if ("choices" in spec && !spec.choices.some((choice) => choice === value)) {
      throw new UsageError(`${spec.flag}: '${value}' is not one of: ${spec.choices.join(", ")}.`, command, variant);
    }
  }
}

function unguard(options: Readonly<Record<string, unknown>>): Options {
  const last = (value: unknown): unknown => (Array.isArray(value) ? value.at(-1) : value);
  return Object.fromEntries(
    Object.entries(options)
      .filter(([name]) => name !== "--")
      .map(([name, value]) => [name, typeof last(value) === "string" ? String(last(value)).slice(guard.length) : last(value)]),
  );
}

function wrongCount(command: Command, args: Arguments, values: readonly string[]): string {
  const names = Object.entries(args);
  if (values.length < names.length) {
    const missing = names.slice(values.length).filter(([, argument]) => !detail(argument).optional);
    return `Missing: ${missing.map(([name, argument]) => shapeOf(name, argument)).join(" ")}.`;
  }
  const dashed = values.find((value) => value.startsWith("--"));
  return dashed === undefined ? `Too many arguments, from '${values[names.length]}' on.` : unknownOption(dashed, optionsOf(command));
}

function unknownOption(word: string, options: readonly OptionName[]): string {
  const close = nearOption(word, options);
  return `There is no option ${word} here.${close === undefined ? "" : ` Did you mean ${close}?`}`;
}

const nearOption = (word: string, options: readonly OptionName[]): string | undefined =>
  nearest(word, ["--help", "--version", ...options.map((option) => optionSpecs[option].flag)])[0];

import { type Argument, type Arguments, type Command, type OptionName, optionSpecs } from "./command.ts";

/** Every way to write a command: as published, grouped, and as published with a blank for its first underscore. */
export const spellings = ({ name, grouped }: Command): string[] => [...new Set([name, grouped, name.replace("_", " ")])];

/** The command that the words begin with, and how many of them name it. */
export function findCommand(commands: readonly Command[], words: readonly string[]): { command: Command; length: number } | null {
  for (const length of [2, 1]) {
    const wanted = words.slice(0, length).join(" ");
    const command = words.length >= length && commands.find((candidate) => spellings(candidate).includes(wanted));
    if (command) return { command, length };
  }
  return null;
}

/** What may stand after a word that begins two-word spellings. */
export const secondWords = (commands: readonly Command[], word: string): string[] => [
  ...new Set(
    commands
      .flatMap(spellings)
      .filter((spelling) => spelling.startsWith(`${word} `))
      .map((spelling) => spelling.slice(word.length + 1)),
  ),
];

/** The commands whose two-word spelling begins with this word. */
const groupOf = (commands: readonly Command[], word: string): Command[] =>
  commands.filter((command) => spellings(command).some((spelling) => spelling.startsWith(`${word} `)));

/** What a command has as options: in one of its variants, or else in any. */
export const optionsOf = (command: Command, variant?: string): OptionName[] => [
  ...(command.options ?? []),
  ...new Set(
    Object.entries(command.variantOptions ?? {})
      .filter(([name]) => variant === undefined || name === variant)
      .flatMap(([, options]) => options),
  ),
  ...(command.kind === "client" || command.json ? (["json"] as const) : []),
  "config",
];

/** What stands for an option's value, or null where it takes none. */
export function valueOf(option: OptionName): string | null {
  const spec = optionSpecs[option];
  if ("choices" in spec) return spec.choices.join("|");
  return "value" in spec ? spec.value : null;
}

export const detail = (argument: Argument) => (typeof argument === "string" ? { about: argument } : argument);

/** `node_register <node> <subtype> …`; one line for each variant, where there are any, or for the one that is wanted. */
export function usageLines(command: Command, wanted?: string): string[] {
  const variants = Object.entries(command.variants ?? {});
  const chosen = variants.filter(([variant]) => variant === wanted);
  const shapes: [string | null, Arguments][] = chosen.length > 0 ? chosen : variants.length > 0 ? variants : [[null, command.args]];
  return shapes.map(([variant, args]) => {
    const words = Object.entries(args).map(([name, argument]) => {
      return variant !== null && name === "subtype" ? variant : shapeOf(name, argument);
    });
    const names = [...(command.options ?? []), ...((variant !== null && command.variantOptions?.[variant]) || [])];
    const options = names.map((option) => `[${flagText(option)}]`);
    return [command.name, ...words, ...options].join(" ");
  });
}

/** `<node>`, `<all|free>`, `[channel]`. */
export function shapeOf(name: string, argument: Argument): string {
  const { choices, optional, variadic } = detail(argument);
  const text = variadic ? `${name}…` : (choices?.join("|") ?? name);
  return optional ? `[${text}]` : `<${text}>`;
}

function flagText(option: OptionName): string {
  const value = valueOf(option);
  return value === null ? optionSpecs[option].flag : `${optionSpecs[option].flag} ${value}`;
}

/** What `haas help …` prints, or null when there is no such command or group. */
export function helpFor(commands: readonly Command[], words: readonly string[]): string | null {
  if (words.length === 0) return overview(commands);
  const found = findCommand(commands, words);
  if (found && found.length === words.length) return commandHelp(found.command);
  const group = words.length === 1 ? groupOf(commands, words[0]!) : [];
  return group.length > 0 ? groupHelp(words[0]!, group) : null;
}

function commandHelp(command: Command): string {
  const args: Record<string, Argument> = Object.assign({}, command.args, ...Object.values(command.variants ?? {}));
  const also = spellings(command)
    .slice(1)
    .map((spelling) => `haas ${spelling}`);
  return [
    `${sentence(command.about)}\n`,
    `Usage:\n${usageLines(command)
      .map((line) => `  haas ${line}\n`)
      .join("")}`,
    also.length > 0 ? `Also:\n  ${also.join("\n  ")}\n` : "",
    section(
      "Arguments",
      Object.entries(args).map(([name, argument]) => [name, detail(argument).about]),
    ),
    section(
      "Options",
      optionsOf(command).map((option) => [
        flagText(option),
        option === "config" && command.configFile ? `use this ${command.configFile}` : optionSpecs[option].about,
      ]),
    ),
    Object.values(args).some((argument) => detail(argument).verbatim)
      ? "After -- every word is a value, also one that looks like an option.\n"
      : "",
  ]
    .filter((part) => part !== "")
    .join("\n");
}

function groupHelp(word: string, group: readonly Command[]): string {
  const rows = group.map((command): [string, string] => [
    `haas ${spellings(command).find((spelling) => spelling.startsWith(`${word} `))!}`,
    command.about,
  ]);
  return `${section(`Commands of ${word}`, rows)}\nhaas ${word} <command> --help describes one of them.\n`;
}

function overview(commands: readonly Command[]): string {
  const groups = [...new Set(commands.map((command) => command.grouped.split(" ")[0]!))];
  const width = Math.max(...commands.map(({ name }) => name.length));
  const describe = ({ name, about }: Command) => `  ${name.padEnd(width)}  ${about}\n`;
  const lines = groups
    .map((word) =>
      commands
        .filter(({ grouped }) => grouped.split(" ")[0] === word)
        .map(describe)
        .join(""),
    )
    .join("\n");
  return `haas shares a room full of machines between projects.

Usage:
  haas <command> [arguments] [options]
  haas help [command]

Every command has two names: the published one (haas node_register, haas list_nodes) and a
grouped one, noun first (haas node register, haas node list). Its first underscore may also be
a blank (haas list nodes).

Commands:
${lines}
${section("Options", [
  ["--config FILE", "use this haas.cfg; else HAAS_CONFIG, ./haas.cfg, ~/.config/haas/haas.cfg, /etc/haas.cfg"],
  ["--json", optionSpecs.json.about],
  ["-h, --help", "describe a command"],
  ["--version", "print the version"],
  ["--", "every word after this is a value"],
])}
${section("Environment", [
  ["HAAS_ENDPOINT", "address of the server; else endpoint in the [client] section of haas.cfg"],
  ["HAAS_USERNAME, HAAS_PASSWORD", "sent to the server when both are set"],
])}`;
}

function section(title: string, rows: readonly (readonly [string, string])[]): string {
  if (rows.length === 0) return "";
  const width = Math.max(...rows.map(([left]) => left.length));
  return `${title}:\n${rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}\n`).join("")}`;
}

const sentence = (text: string): string => `${text[0]!.toUpperCase()}${text.slice(1)}.`;

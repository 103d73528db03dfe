import { type Argument, type Command, type OptionName, optionSpecs } from "./command.ts";
import { detail, optionsOf, secondWords, spellings } from "./help.ts";

export const shells = ["bash", "zsh", "fish"] as const;

/**
 * A static script. Words are completed in three places: the command, the second word of a grouped
 * name, and after the command its options and the choices of its arguments.
 */
export function completionScript(shell: string, commands: readonly Command[]): string {
  const groups = groupWords(commands);
  const first = [...new Set([...commands.map(({ name }) => name), ...groups.keys()])].sort();
  const makers: Record<string, () => string> = {
    bash: () => bash(first, groups, commands),
    zsh: () => zsh(first, groups, commands),
    fish: () => fish(first, groups, commands),
  };
  return makers[shell]!();
}

/** First word → the second words of the two-word spellings that it begins. */
const groupWords = (commands: readonly Command[]): Map<string, string[]> =>
  new Map(
    commands
      .flatMap(spellings)
      .filter((spelling) => spelling.includes(" "))
      .map((spelling) => spelling.split(" ")[0]!)
      .map((word) => [word, secondWords(commands, word)]),
  );

/** What may follow a command: its options and the choices of its arguments. */
function following(command: Command): string[] {
  const choices = Object.values<Argument>(command.args).flatMap((argument) => detail(argument).choices ?? []);
  return [...choices, ...Object.keys(command.variants ?? {}), ...optionsOf(command).map((option) => optionSpecs[option].flag), "--help"];
}

/** The options whose values are known, with them. */
const optionChoices = (Object.keys(optionSpecs) as OptionName[]).flatMap((option) => {
  const spec = optionSpecs[option];
  return "choices" in spec ? [{ flag: spec.flag, choices: spec.choices.join(" ") }] : [];
});

/** Cases for the spellings of this many words. */
const cases = (commands: readonly Command[], count: 1 | 2, word: (list: string) => string) =>
  commands
    .map((command) => ({ command, names: spellings(command).filter((spelling) => spelling.split(" ").length === count) }))
    .filter(({ names }) => names.length > 0)
    .map(({ command, names }) => `    ${names.map((name) => `'${name}'`).join("|")}) ${word(following(command).join(" "))} ;;`)
    .join("\n");

const groupCases = (groups: ReadonlyMap<string, readonly string[]>, word: (list: string) => string) =>
  [...groups].map(([group, seconds]) => `    ${group}) ${word(seconds.join(" "))} ;;`).join("\n");

function bash(first: readonly string[], groups: ReadonlyMap<string, readonly string[]>, commands: readonly Command[]): string {
  return `# bash completion for haas: source <(haas completion bash)
_haas() {
  local cur=\${COMP_WORDS[COMP_CWORD]} one=\${COMP_WORDS[1]} words=
  if [ "\${COMP_WORDS[COMP_CWORD-1]}" = --config ]; then
    COMPREPLY=($(compgen -f -- "$cur"))
    return
  fi
  case \${COMP_WORDS[COMP_CWORD-1]} in
${optionChoices.map(({ flag, choices }) => `    ${flag}) COMPREPLY=($(compgen -W '${choices}' -- "$cur")); return ;;`).join("\n")}
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '${first.join(" ")} --help --version --json --config' -- "$cur"))
    return
  fi
  local group=$one second=2
  if [ "$one" = help ]; then
    [ "$COMP_CWORD" -eq 2 ] && words='${first.join(" ")}'
    group=\${COMP_WORDS[2]} second=3
  fi
  if [ "$COMP_CWORD" -eq "$second" ]; then
    case $group in
${groupCases(groups, (list) => `words='${list}'`)}
    esac
  fi
  case "$one \${COMP_WORDS[2]}" in
${cases(commands, 2, (list) => `words="$words ${list}"`)}
    *) case $one in
${cases(commands, 1, (list) => `words="$words ${list}"`)}
    *) words="$words --help" ;;
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _haas haas
`;
}

function zsh(first: readonly string[], groups: ReadonlyMap<string, readonly string[]>, commands: readonly Command[]): string {
  return `#compdef haas
# zsh completion for haas: source <(haas completion zsh), or a file _haas on your fpath
_haas() {
  local one=\${words[2]} two=\${words[3]}
  if [[ \${words[CURRENT-1]} == --config ]]; then
    _files
    return
  fi
  case \${words[CURRENT-1]} in
${optionChoices.map(({ flag, choices }) => `    ${flag}) compadd -- ${choices}; return ;;`).join("\n")}
  esac
  if (( CURRENT == 2 )); then
    compadd -- ${first.join(" ")} --help --version --json --config
    return
  fi
  local group=$one second=3
  if [[ $one == help ]]; then
    (( CURRENT == 3 )) && compadd -- ${first.join(" ")}
    group=$two second=4
  fi
  if (( CURRENT == second )); then
    case $group in
${groupCases(groups, (list) => `compadd -- ${list}`)}
    esac
  fi
  case "$one $two" in
${cases(commands, 2, (list) => `compadd -- ${list}`)}
    *) case $one in
${cases(commands, 1, (list) => `compadd -- ${list}`)}
    *) compadd -- --help ;;
    esac ;;
  esac
}
if [ "$funcstack[1]" = _haas ]; then _haas "$@"; else compdef _haas haas; fi
`;
}

function fish(first: readonly string[], groups: ReadonlyMap<string, readonly string[]>, commands: readonly Command[]): string {
  const about = (text: string) => `'${text.replaceAll(/['\\]/g, "\\$&")}'`;
  const described = new Map(commands.map((command) => [command.name, command.about]));
  const lines = first.map(
    (word) => `complete -c haas -n '__fish_is_nth_token 1' -a ${word} -d ${about(described.get(word) ?? `commands of ${word}`)}`,
  );
  lines.push(`complete -c haas -n '__fish_is_nth_token 2; and __fish_seen_subcommand_from help' -a '${first.join(" ")}'`);
  for (const [group, seconds] of groups) {
    const here = `__fish_seen_subcommand_from ${group}`;
    const asked = "__fish_is_nth_token 3; and __fish_seen_subcommand_from help";
    lines.push(`complete -c haas -n '__fish_is_nth_token 2; and ${here}; or begin; ${asked}; and ${here}; end' -a '${seconds.join(" ")}'`);
  }
  for (const command of commands) {
    const words = following(command).filter((word) => word !== "--config");
    const seen = spellings(command).map(
      (spelling) =>
        `begin; ${spelling
          .split(" ")
          .map((word) => `__fish_seen_subcommand_from ${word}`)
          .join("; and ")}; end`,
    );
    lines.push(`complete -c haas -n '${seen.join("; or ")}' -a '${words.join(" ")}'`);
  }
  return `# fish completion for haas: haas completion fish | source
complete -c haas -f
complete -c haas -l config -r -F -d 'use this haas.cfg'
${optionChoices.map(({ flag, choices }) => `complete -c haas -l ${flag.slice(2)} -x -a '${choices}'`).join("\n")}
${lines.join("\n")}
`;
}

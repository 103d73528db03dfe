import { type Argument, type Command, optionSpecs } from "./command.ts";
import { detail, optionsOf, spellings } from "./help.ts";

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

/** Group → the second words of its commands. */
function groupWords(commands: readonly Command[]): Map<string, string[]> {
  const groups = new Map<string, string[]>();
  for (const command of commands) {
    const [word, second] = command.grouped.split(" ");
    if (word !== undefined && second !== undefined) groups.set(word, [...(groups.get(word) ?? []), second]);
  }
  return groups;
}

/** What may follow a command: its options and the choices of its arguments. */
function following(command: Command): string[] {
  const choices = Object.values<Argument>(command.args).flatMap((argument) => detail(argument).choices ?? []);
  return [...choices, ...Object.keys(command.variants ?? {}), ...optionsOf(command).map((option) => optionSpecs[option].flag), "--help"];
}

const cases = (commands: readonly Command[], word: (list: string) => string) =>
  commands
    .map(
      (command) =>
        `    ${spellings(command)
          .map((spelling) => `'${spelling}'`)
          .join("|")}) ${word(following(command).join(" "))} ;;`,
    )
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
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '${first.join(" ")} --help --version --json --config' -- "$cur"))
    return
  fi
  case $one in
    help) words='${first.join(" ")}' ;;
  esac
  if [ "$COMP_CWORD" -eq 2 ]; then
    case $one in
${groupCases(groups, (list) => `words='${list} --help'`).replaceAll(/^/gm, "  ")}
    esac
  fi
  case "$one" in
${cases(
  commands.filter(({ name }) => name !== "help"),
  (list) => `words="$words ${list}"`,
)}
    *) case "$one \${COMP_WORDS[2]}" in
${cases(commands, (list) => `words="$words ${list}"`)}
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
  if (( CURRENT == 2 )); then
    compadd -- ${first.join(" ")} --help --version --json --config
    return
  fi
  if (( CURRENT == 3 )); then
    case $one in
    help) compadd -- ${first.join(" ")} ;;
${groupCases(groups, (list) => `compadd -- ${list} --help`)}
    esac
  fi
  case $one in
${cases(
  commands.filter(({ name }) => name !== "help"),
  (list) => `compadd -- ${list}`,
)}
  esac
  case "$one $two" in
${cases(commands, (list) => `compadd -- ${list}`)}
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
  for (const [group, seconds] of groups) {
    lines.push(`complete -c haas -n '__fish_is_nth_token 2; and __fish_seen_subcommand_from ${group}' -a '${seconds.join(" ")}'`);
  }
  for (const command of commands) {
    const words = following(command).filter((word) => word !== "--config");
    const [group, second] = command.grouped.split(" ");
    const grouped =
      second === undefined ? "" : `; or begin; __fish_seen_subcommand_from ${group}; and __fish_seen_subcommand_from ${second}; end`;
    lines.push(`complete -c haas -n '__fish_seen_subcommand_from ${command.name}${grouped}' -a '${words.join(" ")}'`);
  }
  return `# fish completion for haas: haas completion fish | source
complete -c haas -f
complete -c haas -l config -r -F -d 'use this haas.cfg'
${lines.join("\n")}
`;
}

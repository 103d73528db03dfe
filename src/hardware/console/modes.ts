import type { Channel, CommandOptions } from "./channel.ts";
import { ConsoleLost } from "./transport.ts";

/** A mode of a console: its prompt after the hostname, and the commands that lead to other modes. */
export interface Mode {
  readonly prompt: RegExp;
  readonly to: Readonly<Record<string, string>>;
}

export type ModeGraph<Name extends string> = Readonly<Record<Name, Mode>>;

/** The commands that lead from one mode to another, the fewest. */
export function path<Name extends string>(graph: ModeGraph<Name>, from: Name, to: Name): string[] {
  const reached = new Map<Name, string[]>([[from, []]]);
  for (const [mode, commands] of reached) {
    if (mode === to) return commands;
    for (const [next, command] of Object.entries(graph[mode].to) as [Name, string][]) {
      if (!reached.has(next)) reached.set(next, [...commands, command]);
    }
  }
  throw new Error(`No way leads from mode ${from} to mode ${to}.`);
}

/** Where the prompt says that the console is; null for a mode that is not in the graph. */
export function modeOf<Name extends string>(graph: ModeGraph<Name>, prompt: string): Name | null {
  for (const [name, { prompt: form }] of Object.entries(graph) as [Name, Mode][]) if (form.test(prompt)) return name;
  return null;
}

/** More than any way is long. */
const stepLimit = 10;

/** Find the way to a mode, looking at the prompt after each step. `escape` leads out of a mode that is not in the graph. */
export async function walk<Name extends string>(
  channel: Channel,
  graph: ModeGraph<Name>,
  to: Name,
  escape: string,
  options: CommandOptions,
): Promise<void> {
  for (let step = 0; step < stepLimit; step++) {
    const at = modeOf(graph, channel.mode);
    if (at === to) return;
    const command = at === null ? escape : path(graph, at, to)[0]!;
    const before = channel.mode;
    await channel.command(command, options);
    if (channel.mode === before) throw new ConsoleLost(`'${command}' does not leave the mode whose prompt ends with '${before}'`);
  }
  throw new ConsoleLost(`the mode ${to} can't be reached`);
}

import { bootCommands } from "./boot.ts";
import { certificateCommand } from "./certificate.ts";
import { type Command, local, UsageError } from "./command.ts";
import { completionScript, shells } from "./completion.ts";
import { headnodeCommands } from "./headnodes.ts";
import { helpFor } from "./help.ts";
import { networkCommands } from "./networks.ts";
import { nodeCommands } from "./nodes.ts";
import { projectCommands } from "./projects.ts";
import { serverCommands } from "./server.ts";
import { siteCommand } from "./site.ts";
import { unknownCommand } from "./suggest.ts";
import { switchCommands } from "./switches.ts";
import { userCommands } from "./users.ts";

/** Every command, in the order of `haas help`. */
export const commands: readonly Command[] = [
  ...serverCommands,
  certificateCommand,
  ...userCommands,
  ...projectCommands,
  ...nodeCommands,
  ...networkCommands,
  ...switchCommands,
  ...headnodeCommands,
  siteCommand,
  ...bootCommands,
  local({
    name: "completion",
    grouped: "completion",
    about: "print a completion script for a shell",
    args: { shell: { about: shells.join(", "), choices: shells } },
    run: async ({ shell }) => void process.stdout.write(completionScript(shell, commands)),
  }),
  local({
    name: "help",
    grouped: "help",
    about: "describe every command, a group of them, or one",
    args: {
      command: { about: "a command or a group", optional: true },
      verb: { about: "the second word of a grouped name", optional: true },
    },
    run: async ({ command, verb }) => {
      const words = [command, verb].filter((word) => word !== undefined);
      const help = helpFor(commands, words);
      if (help === null) throw new UsageError(unknownCommand(commands, words));
      process.stdout.write(help);
    },
  }),
];

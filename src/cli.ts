import packageJson from "../package.json" with { type: "json" };
import { readCommandLine } from "./cli/argv.ts";
import { type Bound, type ClientCommand, type Command, type LocalCommand, type Options, UsageError } from "./cli/command.ts";
import { commands } from "./cli/commands.ts";
import { findServer, printWarnings } from "./cli/endpoint.ts";
import { usageLines } from "./cli/help.ts";
import { checkNames } from "./cli/names.ts";
import { ActionError, followAction, printable, withProgress } from "./cli/progress.ts";
import { ConfigError, findConfigFile, loadConfig } from "./config.ts";
import { messageOf } from "./errors.ts";
import { sshClientWord } from "./hardware/console/ssh-process.ts";

/**
 * The `haas` command. Ends with status 0; with 1 when the server or the machine says no; with 2 when
 * the command line or the configuration is wrong. Never with a stack trace.
 */
async function main(argv: readonly string[]): Promise<void> {
  const request = readCommandLine(argv, commands);
  if (request.kind === "print") print(request.text);
  else if (request.kind === "version") print(`${packageJson.version}\n`);
  else {
    const { command, values, options } = request;
    try {
      await (command.kind === "client"
        ? runClient(command, values as Record<string, string>, options)
        : runLocal(command, values, options));
    } catch (error) {
      // A command that finds fault with its values does not know itself by name.
      const { subtype } = values;
      const variant = typeof subtype === "string" ? subtype : undefined;
      throw error instanceof UsageError && !error.command ? new UsageError(error.message, command, variant) : error;
    }
  }
}

async function runClient(command: ClientCommand, values: Record<string, string>, options: Options): Promise<void> {
  const call = await command.call(values, options);
  checkNames(call, values);
  const server = findServer(options.config, process.env);
  const show = (answer: unknown) => {
    if (answer === null) return;
    if (options.json) print(`${JSON.stringify(answer)}\n`);
    else if (command.answer) print(command.answer(answer, process.stdout.isTTY));
  };
  const answer = await withProgress(`waiting for ${server.endpoint}`, () => server.call(call));
  if (!options.wait || !command.action) return show(answer);
  const id = command.action(values, answer);
  const asked = call.method === "GET";
  // The id first: it is what is left to ask with, when the waiting is cut short.
  if (!asked && options.json) process.stderr.write(`networking action ${printable(id)}\n`);
  else if (!asked) show(answer);
  const last = await withProgress(`networking action ${id}`, (progress) => followAction(server, id, progress));
  if (options.json || asked) show(last);
  else print(`${String(last.status)}\n`);
  if (last.status === "ERROR")
    throw new ActionError(`Networking action ${id} failed${typeof last.reason === "string" ? `: ${last.reason}` : "."}`);
}

async function runLocal(command: LocalCommand, values: Bound, options: Options): Promise<void> {
  await command.run(values, options, () => {
    const config = loadConfig(findConfigFile(options.config, process.env));
    printWarnings(config);
    return config;
  });
}

const print = (text: string) => void process.stdout.write(text);

function fail(error: unknown): number {
  const usage = (command: Command, variant?: string) =>
    `Usage:\n${usageLines(command, variant)
      .map((line) => `  haas ${line}\n`)
      .join("")}`;
  if (error instanceof UsageError) {
    process.stderr.write(`Error: ${error.message}\n${error.command ? usage(error.command, error.variant) : ""}`);
    return 2;
  }
  process.stderr.write(`Error: ${printable(messageOf(error))}\n`);
  return error instanceof ConfigError ? 2 : 1;
}

// The reader of a pipe may stop reading (`haas list_nodes all | head -1`); that is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(process.exitCode);
  process.stderr.write(`Error: The answer can't be written: ${printable(messageOf(error))}\n`);
  process.exit(1);
});

// A server runs its SSH client as a process of its own, which is this program again.
if (process.argv[2] === sshClientWord && process.send) await import("./hardware/console/ssh-child.ts");
else {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    process.exitCode = fail(error);
  }
}

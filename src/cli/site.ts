import { ApiError, type Client } from "../client/http.ts";
import { messageOf } from "../errors.ts";
import { local } from "./command.ts";
import { findServer } from "./endpoint.ts";
import { printable, withProgress } from "./progress.ts";
import { LayoutError, readLayout } from "./site-layout.ts";
import { compare, type Plan, shown } from "./site-plan.ts";

export const siteCommand = local({
  name: "site_register",
  grouped: "site register",
  about: "register what a file describes of a site and the server does not have yet: switches, ports, nodes, nics, cables",
  args: { file: "a file such as examples/site-layout.json" },
  options: ["dryRun"],
  json: true,
  async run({ file }, { dryRun = false, json = false, config }) {
    try {
      const { layout, warnings } = readLayout(file);
      for (const warning of warnings) process.stderr.write(`warning: ${printable(file)}: ${warning}\n`);
      const server = findServer(config, process.env);
      const plan = await withProgress(`asking ${server.endpoint} what it has`, () => compare(layout, server));
      process.exitCode = await register(plan, printable(file), dryRun, json, server);
    } catch (error) {
      if (!(error instanceof LayoutError)) throw error;
      for (const fault of error.faults) process.stderr.write(`Error: ${printable(file)}: ${printable(fault)}\n`);
      process.exitCode = 2;
    }
  },
});

/** Do the steps, with a line for each that is done. What fails keeps only that from being done that depends on it. */
async function register({ steps, conflicts }: Plan, file: string, dryRun: boolean, json: boolean, server: Client): Promise<0 | 1> {
  const registered: (readonly string[])[] = [];
  const errors: string[] = [];
  const missing = new Set<string>();
  for (const { words, call, needs } of steps) {
    if (needs.some((need) => missing.has(shown(need)))) {
      missing.add(shown(words));
      continue;
    }
    try {
      if (!dryRun) await server.call(call);
    } catch (error) {
      // Whoever may not register this may not register the rest, either; nor can it be had from a server that is away.
      if (!(error instanceof ApiError) || error.status === 401 || error.status === 403) throw error;
      missing.add(shown(words));
      errors.push(`${shown(words)}: ${printable(messageOf(error))}`);
      continue;
    }
    registered.push(words);
    if (!json) process.stdout.write(`${shown(words)}\n`);
  }
  if (json) process.stdout.write(`${JSON.stringify({ registered, conflicts, errors, dry_run: dryRun })}\n`);
  const left = missing.size - errors.length;
  if (left > 0) process.stderr.write(`note: left out, for what they need failed: ${left} more\n`);
  if (steps.length === 0 && conflicts.length === 0) process.stderr.write(`note: all of ${file} is registered already\n`);
  if (dryRun && steps.length > 0) process.stderr.write(`note: ${registered.length} to register; nothing was, because of --dry-run\n`);
  for (const conflict of conflicts) process.stderr.write(`Error: conflict: ${conflict}\n`);
  for (const error of errors) process.stderr.write(`Error: ${error}\n`);
  return conflicts.length + errors.length > 0 ? 1 : 0;
}

import { isObject } from "../client/http.ts";
import { type ClientCommand, UsageError } from "./command.ts";
import { lines } from "./output.ts";
import { deviceLine } from "./progress.ts";
import { carried, isForeign, list, raw, word } from "./reading.ts";

/** For a call that talks to a switch before it answers: old ones are slow, and may be busy. */
export const switchTimeoutMs = 600_000;

/** `--dry-run` and `--wait` exclude each other. */
export function refuseWaiting(wait: boolean | undefined): void {
  if (wait) throw new UsageError("--dry-run queues nothing that --wait could follow.");
}

/** Give a command that queues a change of a port the option `--dry-run`, which asks for the lines instead. */
export const withDryRun = ({ options = [], call, answer, ...command }: ClientCommand): ClientCommand => ({
  ...command,
  options: [...options, "dryRun"],
  async call(values, given) {
    const change = await call(values, given);
    if (!given.dryRun) return change;
    refuseWaiting(given.wait);
    return { ...change, query: { dry_run: "true" }, timeoutMs: switchTimeoutMs };
  },
  answer: (value, terminal) => (isObject(value) && "lines" in value ? plan(word(value.switch), value) : (answer?.(value, terminal) ?? "")),
});

/** A port of an answer, and below it what would be sent to the switch. */
export function plan(label: string, port: Record<string, unknown>): string {
  const header = `${label} ${word(port.port)}${isForeign(port.actual) ? ` carries ${carried(port.actual)}` : ""}`;
  const sent = list(port.lines).map((line) => `  ${deviceLine(raw(line))}`);
  return lines(sent.length > 0 ? [header, ...sent] : [`${header}: nothing to do`]);
}

import type { Client } from "../client/http.ts";
import { messageOf } from "../errors.ts";
import { conversation } from "./conversation.ts";
import { switchTimeoutMs } from "./dry-run.ts";
import { tabular } from "./output.ts";
import { printable, withProgress } from "./progress.ts";
import { about, carried, list, raw, record, records, standing, unreadable, vlans, word, wordOrNull } from "./reading.ts";

/** How many switches are read at once. */
const parallelReads = 4;
/** For what the server knows already. */
const standingTimeoutMs = 10_000;

/** What was found out about one switch. */
interface Findings {
  /** The server's, or null when there is none. */
  readonly answer: unknown;
  /** A row for each port that differs, unless it is being changed just now. */
  readonly drift: readonly (readonly string[])[];
  readonly notes: readonly string[];
  readonly errors: readonly string[];
}

const difference = ["should carry", "carries", "missing", "too much"];

/** The cells under these titles. */
function differenceOf(port: Record<string, unknown>): string[] {
  const { missing, excess } = record(port.difference);
  return [carried(port.desired), carried(port.actual), vlans(missing), vlans(excess)];
}

const neverChecked =
  "note: no switch was ever checked: the periodic check ([network-daemon] verify_interval) is off, or has not come to one with ports yet\n";

export const driftCommands = [
  conversation({
    name: "switch_drift",
    grouped: "switch drift",
    about: "read a switch and show the ports that do not carry what they should; exit 1 if there are any",
    args: { switch: "name of the switch, or all" },
    async talk({ switch: label }, { json }, server) {
      const all = label === "all";
      const findings = await withProgress(`reading ${all ? "the switches" : label}`, async (progress) => {
        const labels = all ? list(await server.call({ method: "GET", path: ["switches"] })).map(raw) : [label];
        let done = 0;
        return inParallel(labels, async (label) => {
          const found = await inspect(server, label);
          if (all) progress.show(`read ${++done} of ${labels.length} switches`);
          return found;
        });
      });
      const answers = findings.map(({ answer }) => answer).filter((answer) => answer !== null);
      const drift = findings.flatMap(({ drift }) => drift);
      const errors = findings.flatMap(({ errors }) => errors);
      if (!json) process.stdout.write(tabular(["switch", "port", ...difference], drift, process.stdout.isTTY));
      else if (all || answers.length > 0) process.stdout.write(`${JSON.stringify(all ? answers : answers[0])}\n`);
      for (const note of findings.flatMap(({ notes }) => notes)) process.stderr.write(`note: ${note}\n`);
      for (const error of errors) process.stderr.write(`Error: ${error}\n`);
      return drift.length > 0 || errors.length > 0 ? 1 : 0;
    },
  }),
  conversation({
    name: "show_drift",
    grouped: "drift show",
    about: "show what the last periodic check of the switches found",
    args: {},
    async talk(_, { json }, server) {
      const answer = await withProgress(`waiting for ${server.endpoint}`, () => server.call({ method: "GET", path: ["drift"] }));
      const switches = records(record(answer).switches);
      process.stdout.write(json ? `${JSON.stringify(answer)}\n` : lastCheck(switches, process.stdout.isTTY));
      if (switches.length > 0 && switches.every(({ checked_at }) => checked_at === null)) process.stderr.write(neverChecked);
      return 0;
    },
  }),
];

async function inspect(server: Client, label: string): Promise<Findings> {
  const shown = printable(label);
  try {
    const answer = await server.call({ method: "GET", path: ["switch", label, "ports", "actual"], timeoutMs: switchTimeoutMs });
    return { answer, ...sort(shown, records(record(answer).ports)) };
  } catch (error) {
    // One broken switch does not keep the others from being shown.
    const notes = await standingNote(server, label);
    return { answer: null, drift: [], notes, errors: [about([shown], printable(messageOf(error)))] };
  }
}

/** What is known of a switch that can't be read; nothing when that can't be had, either. */
async function standingNote(server: Client, label: string): Promise<string[]> {
  try {
    const state = await server.call({ method: "GET", path: ["switch", label, "reconcile"], timeoutMs: standingTimeoutMs });
    return [`${printable(label)}: ${standing(record(state))}`];
  } catch {
    return [];
  }
}

/** Tell drift from what is to be expected, and from what is not known. */
function sort(label: string, ports: readonly Record<string, unknown>[]): Omit<Findings, "answer"> {
  const isRead = ({ actual, error }: Record<string, unknown>) => actual !== null && error === null;
  const errors = unreadable(
    label,
    ports.filter((port) => !isRead(port)),
  );
  const found = { drift: [] as string[][], notes: [] as string[], errors };
  for (const port of ports.filter(isRead)) {
    const name = word(port.port);
    const [desired, actual] = [carried(port.desired), carried(port.actual)];
    const suspect = wordOrNull(port.suspect);
    if (port.difference !== null) {
      // A suspect port has an action that is tried again and again; that it will succeed is not to be expected.
      if (port.pending !== true || suspect !== null) found.drift.push([label, name, ...differenceOf(port)]);
      else found.notes.push(`${label} ${name} is being changed: it should carry ${desired}, and carries ${actual}`);
    }
    if (suspect !== null) found.notes.push(`${label} ${name} is suspect: ${suspect}`);
  }
  return found;
}

/** A row for each port that differs, else one for the switch; its error is the last cell. */
function lastCheck(switches: readonly Record<string, unknown>[], terminal: boolean): string {
  const rows = switches.flatMap((checked) => {
    const head = [word(checked.switch), wordOrNull(checked.checked_at) ?? ""];
    const ports = records(checked.ports).map((port) => [word(port.port), ...differenceOf(port)]);
    const error = wordOrNull(checked.error) ?? "";
    return (ports.length > 0 ? ports : [["", ...difference.map(() => "")]]).map((cells) => [...head, ...cells, error]);
  });
  return tabular(["switch", "checked at", "port", ...difference, "error"], rows, terminal);
}

/** The results of `work`, in the order of the items. */
async function inParallel<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const index = next++;
      results[index] = await work(items[index]!);
    }
  };
  await Promise.all(Array.from({ length: parallelReads }, worker));
  return results;
}

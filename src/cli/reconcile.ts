import type { Client } from "../client/http.ts";
import { conversation } from "./conversation.ts";
import { plan, refuseWaiting, switchTimeoutMs } from "./dry-run.ts";
import { tabular } from "./output.ts";
import { ActionError, follow, type Progress, withProgress } from "./progress.ts";
import { about, list, record, records, word, wordOrNull } from "./reading.ts";

export const reconcileCommand = conversation({
  name: "switch_reconcile",
  grouped: "switch reconcile",
  about: "bring the ports of a switch to what they should carry; prints how many were queued",
  args: { switch: "name of the switch" },
  options: ["wait", "dryRun"],
  async talk({ switch: label }, { wait, dryRun, json = false }, server) {
    if (dryRun) {
      refuseWaiting(wait);
      return showPlan(label, json, server);
    }
    const answer = await withProgress(`waiting for ${server.endpoint}`, () =>
      server.call({ method: "POST", path: ["switch", label, "reconcile"] }),
    );
    const count = list(record(answer).ports).length;
    const queued = `${count} port${count === 1 ? "" : "s"} queued\n`;
    if (!wait) {
      process.stdout.write(json ? `${JSON.stringify(answer)}\n` : queued);
      return 0;
    }
    (json ? process.stderr : process.stdout).write(queued);
    const last = await withProgress(`reconciling ${label}`, (progress) => untilSettled(label, server, progress));
    const suspect = records(last.suspect).map(({ port, reason }) => [word(port), word(reason)]);
    process.stdout.write(json ? `${JSON.stringify(last)}\n` : tabular(["suspect port", "reason"], suspect, process.stdout.isTTY));
    if (suspect.length > 0)
      throw new ActionError(`Of switch ${label} ${suspect.length} ${suspect.length === 1 ? "port is" : "ports are"} suspect.`);
    return 0;
  },
});

async function showPlan(label: string, json: boolean, server: Client): Promise<0 | 1> {
  const answer = await withProgress(`reading ${label}`, () =>
    server.call({ method: "POST", path: ["switch", label, "reconcile"], query: { dry_run: "true" }, timeoutMs: switchTimeoutMs }),
  );
  const ports = records(record(answer).plan);
  const unread = ports.filter(({ error }) => error !== null);
  if (json) process.stdout.write(`${JSON.stringify(answer)}\n`);
  else for (const port of ports) if (port.error === null) process.stdout.write(plan(label, port));
  for (const { port, error } of unread) process.stderr.write(`Error: ${about([label, word(port)], word(error))}\n`);
  if (ports.length === 0) process.stderr.write(`note: every port of ${label} carries what it should\n`);
  return unread.length > 0 ? 1 : 0;
}

/** Ask until nothing of the switch is pending. The last answer. */
const untilSettled = (label: string, server: Client, progress: Progress): Promise<Record<string, unknown>> =>
  follow(
    server,
    {
      call: { method: "GET", path: ["switch", label, "reconcile"] },
      name: "The reconciliation",
      later: `haas switch_drift ${label}`,
      read(answer) {
        const state = record(answer);
        const pending = records(state.pending);
        if (pending.length === 0) return { ended: state };
        const reason = pending.map(({ reason }) => wordOrNull(reason)).find((reason) => reason !== null);
        return { pending: `${label}: ${pending.length} pending${reason === undefined ? "" : `, ${reason}`}` };
      },
    },
    progress,
  );

import type { Client } from "../client/http.ts";
import { conversation } from "./conversation.ts";
import { plan, refuseWaiting, switchTimeoutMs } from "./dry-run.ts";
import { tabular } from "./output.ts";
import { ActionError, follow, withProgress } from "./progress.ts";
import { list, number, raw, record, records, standing, unreadable, word, wordOrNull } from "./reading.ts";

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
    const last = await untilTried(label, server);
    process.stdout.write(json ? `${JSON.stringify(last)}\n` : suspects(last, process.stdout.isTTY));
    if (list(last.pending).length + list(last.suspect).length > 0) throw new ActionError(outlook(label, last));
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
  for (const error of unreadable(label, unread)) process.stderr.write(`Error: ${error}\n`);
  if (ports.length === 0) process.stderr.write(`note: every port of ${label} carries what it should\n`);
  return unread.length > 0 ? 1 : 0;
}

const later = (label: string): string => `haas switch_drift ${label}`;

/** How it stands with a switch, and how to look again. */
function outlook(label: string, state: Record<string, unknown>): string {
  const goesOn = list(state.pending).length > 0 ? " haas goes on with what is pending." : "";
  return `${label}: ${standing(state)}.${goesOn} Look again with: ${later(label)}`;
}

/** The ports that may hold something else than they should, each with the whole reason. */
const suspects = (state: Record<string, unknown>, terminal: boolean): string =>
  tabular(
    ["suspect port", "reason"],
    records(state.suspect).map(({ port, reason }) => [word(port), word(reason)]),
    terminal,
  );

/** Ask until nothing of the switch is pending, or haas, which never gives up, has tried in vain whatever is. The last answer. */
function untilTried(label: string, server: Client): Promise<Record<string, unknown>> {
  let last: Record<string, unknown> | null = null;
  let sightings: ReadonlyMap<string, Sighting> = new Map();
  const read = (answer: unknown) => {
    last = record(answer);
    const pending = records(last.pending);
    sightings = new Map(pending.map((port) => [raw(port.port), sight(port, sightings.get(raw(port.port)))]));
    if ([...sightings.values()].every(({ tried }) => tried)) return { ended: last };
    const reason = pending.map(({ reason }) => wordOrNull(reason)).find((reason) => reason !== null);
    return { pending: `${label}: ${pending.length} pending${reason === undefined ? "" : `, ${reason}`}` };
  };
  const call = { method: "GET", path: ["switch", label, "reconcile"] } as const;
  return withProgress(
    `reconciling ${label}`,
    (progress) => follow(server, { call, name: "The reconciliation", later: later(label), read }, progress),
    () => (last === null ? "" : `${suspects(last, process.stderr.isTTY)}${outlook(label, last)}\n`),
  );
}

/** What was seen of a port since it was first seen pending. */
interface Sighting {
  /** At first. */
  readonly attempts: number;
  /** Until when it was put off last, and how often it was. */
  readonly nextTry: string | null;
  readonly delays: number;
  readonly tried: boolean;
}

function sight(port: Record<string, unknown>, before?: Sighting): Sighting {
  const attempts = number(port.attempts);
  const first = Math.min(before?.attempts ?? attempts, attempts);
  const nextTry = wordOrNull(port.next_try) ?? before?.nextTry ?? null;
  const delays = (before?.delays ?? 0) + (nextTry === (before?.nextTry ?? null) ? 0 : 1);
  // The first delay may be older than the wish; before the second one the switch was tried. When the session is lost on
  // another port, that is all that shows: this port's own attempts stay as they are.
  return { attempts: first, nextTry, delays, tried: attempts > first || delays > 1 };
}

import { type Client, isObject, UnreachableError } from "../client/http.ts";

/** A line of standard error that shows that work goes on; nothing when that is not a terminal. */
interface Progress {
  show(text: string): void;
}

const frames = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const frameMs = 100;
/** Work that ends sooner shows nothing. */
const silentMs = 400;
/** What a shell makes of a program that Ctrl-C ended. */
const interruptedStatus = 130;

/** Do some work with a line that shows it; the line is gone when the work ends. */
export async function withProgress<T>(text: string, work: (progress: Progress) => Promise<T>): Promise<T> {
  if (!process.stderr.isTTY) return work({ show() {} });
  let frame = 0;
  const started = performance.now();
  const timer = setInterval(() => {
    if (performance.now() - started < silentMs) return;
    const room = (process.stderr.columns || 80) - 3;
    process.stderr.write(`\r${frames[frame++ % frames.length]} ${text.slice(0, room)}\x1b[K`);
  }, frameMs);
  const clear = () => {
    clearInterval(timer);
    if (frame > 0) process.stderr.write("\r\x1b[K");
  };
  const interrupted = () => {
    clear();
    process.exit(interruptedStatus);
  };
  process.once("SIGINT", interrupted);
  try {
    return await work({ show: (next) => void (text = printable(next)) });
  } finally {
    process.off("SIGINT", interrupted);
    clear();
  }
}

/** On one line, and without anything that a terminal would obey. */
export const printable = (text: string): string => text.replace(/\p{Cc}+/gu, " ").trim();

const firstPauseMs = 100;
const longestPauseMs = 2000;
const longestWaitMs = 3_600_000;
/** A server that restarts meanwhile is waited for. */
const toleratedSilenceMs = 30_000;

/** The networking action did not end well. */
export class ActionError extends Error {}

/** Ask for a networking action until it has ended. The last answer. */
export async function followAction(
  client: Client,
  id: string,
  progress: Progress,
  silenceMs = toleratedSilenceMs,
): Promise<Record<string, unknown>> {
  const started = performance.now();
  let pauseMs = firstPauseMs;
  let heard = started;
  while (performance.now() - started < longestWaitMs) {
    try {
      const action = await client.call({ method: "GET", path: ["networking_action", id] });
      heard = performance.now();
      if (!isObject(action) || typeof action.status !== "string") {
        throw new ActionError(`The answer about networking action ${id} is not one that a haas server gives.`);
      }
      if (action.status !== "PENDING") return action;
      progress.show(describe(action));
    } catch (error) {
      if (!(error instanceof UnreachableError)) throw error;
      if (performance.now() - heard >= silenceMs) {
        throw new ActionError(`${error.message} The action goes on; ask with haas show_networking_action ${id}.`);
      }
    }
    await Bun.sleep(pauseMs);
    pauseMs = Math.min(longestPauseMs, pauseMs * 1.5);
  }
  throw new ActionError(
    `Networking action ${id} is still pending after ${longestWaitMs / 60_000} minutes; see haas show_networking_action ${id}.`,
  );
}

function describe(action: Record<string, unknown>): string {
  const parts = [`${String(action.node)} ${String(action.nic)}: pending`];
  if (typeof action.attempts === "number" && action.attempts > 0) parts.push(`tried ${action.attempts} times`);
  if (typeof action.reason === "string" && action.reason !== "") parts.push(action.reason);
  return parts.join(", ");
}

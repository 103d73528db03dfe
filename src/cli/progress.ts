import { type Call, type Client, isObject, UnreachableError } from "../client/http.ts";

/** A line of standard error that shows that work goes on; nothing when that is not a terminal. */
export interface Progress {
  show(text: string): void;
}

const frames = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const frameMs = 100;
/** Work that ends sooner shows nothing. */
const silentMs = 400;
/** What a shell makes of a program that Ctrl-C ended. */
const interruptedStatus = 130;

/**
 * Do some work with a line that shows it; the line is gone when the work ends.
 * `lastWords`: the lines that Ctrl-C leaves on standard error, whatever that is.
 */
export async function withProgress<T>(text: string, work: (progress: Progress) => Promise<T>, lastWords?: () => string): Promise<T> {
  const terminal = process.stderr.isTTY;
  if (!terminal && !lastWords) return work({ show() {} });
  let frame = 0;
  const started = performance.now();
  const draw = () => {
    if (performance.now() - started < silentMs) return;
    const room = (process.stderr.columns || 80) - 3;
    process.stderr.write(`\r${frames[frame++ % frames.length]} ${text.slice(0, room)}\x1b[K`);
  };
  const timer = terminal ? setInterval(draw, frameMs) : undefined;
  const clear = () => {
    clearInterval(timer);
    if (frame > 0) process.stderr.write("\r\x1b[K");
  };
  const interrupted = () => {
    clear();
    process.stderr.write(lastWords?.() ?? "");
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

/** The same for a line that a device takes or gives: every character stays in its column. */
export const deviceLine = (text: string): string => text.replace(/\p{Cc}/gu, " ").trimEnd();

const firstPauseMs = 100;
const longestPauseMs = 2000;
const longestWaitMs = 3_600_000;
/** A server that restarts meanwhile is waited for. */
const toleratedSilenceMs = 30_000;

/** What was queued did not end well. */
export class ActionError extends Error {}

/** Work of the server that goes on until an answer says that it has ended. */
interface Followed<T> {
  readonly call: Call;
  /** How a sentence about it begins, and the command that asks for it later. */
  readonly name: string;
  readonly later: string;
  /** What is shown while it goes on, or what it ended with. Throws when the answer is of neither kind. */
  read(answer: unknown): { pending: string } | { ended: T };
}

/** Ask until it has ended, for an hour. */
export async function follow<T>(
  client: Pick<Client, "call">,
  { call, name, later, read }: Followed<T>,
  progress: Progress,
  silenceMs = toleratedSilenceMs,
): Promise<T> {
  const started = performance.now();
  let pauseMs = firstPauseMs;
  let heard = started;
  while (performance.now() - started < longestWaitMs) {
    try {
      const answer = await client.call(call);
      heard = performance.now();
      const now = read(answer);
      if ("ended" in now) return now.ended;
      progress.show(now.pending);
    } catch (error) {
      if (!(error instanceof UnreachableError)) throw error;
      if (performance.now() - heard >= silenceMs) throw new ActionError(`${error.message} ${name} goes on; ask with ${later}.`);
    }
    await Bun.sleep(pauseMs);
    pauseMs = Math.min(longestPauseMs, pauseMs * 1.5);
  }
  throw new ActionError(`${name} is still pending after ${longestWaitMs / 60_000} minutes; ask with ${later}.`);
}

/** Ask for a networking action until it has ended. The last answer. */
export const followAction = (
  client: Pick<Client, "call">,
  id: string,
  progress: Progress,
  silenceMs?: number,
): Promise<Record<string, unknown>> =>
  follow(
    client,
    {
      call: { method: "GET", path: ["networking_action", id] },
      name: "The action",
      later: `haas show_networking_action ${id}`,
      read(action) {
        if (!isObject(action) || typeof action.status !== "string") {
          throw new ActionError(`The answer about networking action ${id} is not one that a haas server gives.`);
        }
        return action.status === "PENDING" ? { pending: describe(action) } : { ended: action };
      },
    },
    progress,
    silenceMs,
  );

function describe(action: Record<string, unknown>): string {
  const parts = [`${String(action.node)} ${String(action.nic)}: pending`];
  if (typeof action.attempts === "number" && action.attempts > 0) parts.push(`tried ${action.attempts} times`);
  if (typeof action.reason === "string" && action.reason !== "") parts.push(action.reason);
  return parts.join(", ");
}

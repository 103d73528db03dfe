/** Run an external program: bounded in time and output, never through a shell. */

export interface CommandOptions {
  /** The program and its arguments. Other users of the machine can read them: never a secret. */
  readonly argv: readonly [program: string, ...args: string[]];
  /** Added to PATH, LANG=C and LC_ALL=C; nothing else of our own environment is passed on. The place for a secret. */
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  /** Of stdout and of stderr, each. What comes after it is read and dropped. */
  readonly maxOutputBytes: number;
  /** Without it the program reads an empty standard input, so it can't prompt. */
  readonly stdin?: string;
  readonly signal?: AbortSignal;
  /** Have `timeout` end the program at its time even if this process is dead or stopped by then. */
  readonly endsAnyway?: boolean;
}

export interface CommandResult {
  /** Null when the program was killed by a signal, ours included. */
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Output went over `maxOutputBytes`: what is here is only its beginning. */
  readonly truncated: boolean;
  readonly timedOut: boolean;
  readonly durationMs: number;
}

/** The program did not run to an end of its own: it isn't there, it can't be started, or the caller gave up. */
export class CommandError extends Error {
  constructor(
    readonly reason: "not-installed" | "not-started" | "cancelled",
    readonly program: string,
    options?: ErrorOptions,
  ) {
    const words = { "not-installed": "is not installed", "not-started": "could not be started", cancelled: "was cancelled" };
    super(`${program} ${words[reason]}`, options);
    this.name = "CommandError";
  }
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** How long output may still arrive after the program has ended: a grandchild can hold the pipe open for ever. */
const drainTimeoutMs = 250;

/**
 * Always settles: at `timeoutMs` the program and its process group are killed with SIGKILL.
 * A non-zero exit and a time-out are results; only what `CommandError` lists rejects.
 */
export async function runCommand(options: CommandOptions): Promise<CommandResult> {
  const { argv, timeoutMs, maxOutputBytes, signal } = options;
  const program = argv[0];
  const path = process.env["PATH"] || defaultPath;
  const file = Bun.which(program, { PATH: path });
  if (!file) throw new CommandError("not-installed", program);
  if (signal?.aborted) throw new CommandError("cancelled", program, { cause: signal.reason });

  const started = performance.now();
  const child = spawn(file, path, options);
  const stdout = new Capture(child.stdout, maxOutputBytes);
  const stderr = new Capture(child.stderr, maxOutputBytes);

  let timedOut = false;
  const kill = () => killGroup(child.pid);
  const timer = setTimeout(() => {
    timedOut = true;
    kill();
  }, timeoutMs);
  signal?.addEventListener("abort", kill, { once: true });
  try {
    await child.exited;
    const drained = Promise.all([stdout.done, stderr.done]);
    await Promise.race([drained, Bun.sleep(drainTimeoutMs)]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", kill);
    stdout.stop();
    stderr.stop();
  }
  if (signal?.aborted) throw new CommandError("cancelled", program, { cause: signal.reason });
  return {
    exitCode: child.signalCode ? null : child.exitCode,
    stdout: stdout.text(),
    stderr: stderr.text(),
    truncated: stdout.truncated || stderr.truncated,
    timedOut,
    durationMs: performance.now() - started,
  };
}

function spawn(file: string, path: string, { argv, env, stdin, timeoutMs, endsAnyway }: CommandOptions) {
  const guard = endsAnyway ? Bun.which("timeout", { PATH: path }) : null;
  // Whole seconds are all that busybox takes. Above ours, which says so.
  const guarded = guard === null ? [] : [guard, "-s", "KILL", String(Math.ceil(timeoutMs / 1000) + 1)];
  try {
    return Bun.spawn([...guarded, file, ...argv.slice(1)], {
      ...(guard === null && { argv0: argv[0] }),
      env: { PATH: path, LANG: "C", LC_ALL: "C", ...env },
      stdin: stdin === undefined ? "ignore" : new TextEncoder().encode(stdin),
      stdout: "pipe",
      stderr: "pipe",
      // A process group of its own, so that the time-out also ends what the program started.
      detached: true,
    });
  } catch (error) {
    throw new CommandError("not-started", argv[0], { cause: error });
  }
}

function killGroup(pid: number): void {
  for (const target of [-pid, pid]) {
    try {
      process.kill(target, "SIGKILL");
    } catch {
      // It has ended by itself.
    }
  }
}

/** Reads a stream to its end and keeps its beginning. */
class Capture {
  readonly done: Promise<void>;
  truncated = false;
  readonly #reader: { read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>; cancel(): Promise<void> };
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;

  constructor(
    stream: ReadableStream<Uint8Array>,
    readonly maxBytes: number,
  ) {
    this.#reader = stream.getReader();
    this.done = this.#read().catch(() => {});
  }

  async #read(): Promise<void> {
    for (;;) {
      const { done, value } = await this.#reader.read();
      if (done || !value) return;
      const kept = value.subarray(0, this.maxBytes - this.#bytes);
      if (kept.length < value.length) this.truncated = true;
      if (kept.length > 0) this.#chunks.push(kept);
      this.#bytes += kept.length;
    }
  }

  stop(): void {
    this.#reader.cancel().catch(() => {});
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString("utf8");
  }
}

/** What a failure sentence is made of. */
export interface FailureFacts {
  readonly program: string;
  readonly result: CommandResult;
  readonly timeoutMs: number;
  /** Texts that the sentence must not hold. */
  readonly secrets?: readonly string[];
}

/**
 * A failed run in one line, the most important fact first: `ipmitool timed out after 15 s` or
 * `ovs-vsctl ended with code 1: no row "p9" in table Port`. No full stop, no secret.
 */
export function failureSentence({ program, result, timeoutMs, secrets = [] }: FailureFacts): string {
  const what = result.timedOut
    ? `timed out after ${timeoutMs / 1000} s`
    : result.exitCode === null
      ? "was killed by a signal"
      : `ended with code ${result.exitCode}`;
  const words = lastLine(result.stderr);
  return redact(words ? `${program} ${what}: ${words}` : `${program} ${what}`, secrets);
}

const maxWordsCharacters = 300;

/** The last line of a program's output that says something, printable and shortened. */
export function lastLine(output: string): string {
  const line = output.split(/[\r\n]+/).findLast((text) => text.trim() !== "") ?? "";
  const printable = line.replace(/\p{C}/gu, " ").trim();
  return printable.length > maxWordsCharacters ? `${printable.slice(0, maxWordsCharacters - 1)}…` : printable;
}

export function redact(text: string, secrets: readonly string[]): string {
  // Longest first: a secret that is part of another one must not uncover the rest of it.
  const known = secrets.filter((secret) => secret !== "").toSorted((a, b) => b.length - a.length);
  return known.reduce((shown, secret) => shown.replaceAll(secret, "***"), text);
}

/** The first `length` characters of a text, or a little less, without secrets: not even the beginning of one that was cut. */
export function redactBeginning(text: string, secrets: readonly string[], length: number): string {
  if (text.length <= length) return redact(text, secrets);
  const longest = Math.max(0, ...secrets.map((secret) => secret.length));
  const kept = redact(text.slice(0, length + longest), secrets);
  return kept.slice(0, Math.min(length, kept.length - longest));
}

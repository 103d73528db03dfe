import { appendFileSync, closeSync, fstatSync, mkdirSync, openSync, readSync } from "node:fs";
import { join } from "node:path";

export const logLevels = ["debug", "info", "warning", "error", "critical"] as const;
export type LogLevel = (typeof logLevels)[number];

/** Above any text that is worth reading; some come from devices and clients. */
const fieldLimit = 8_000;

/** Facts of a line beside its message. Callers pass facts, never bodies, settings or headers, which hold secrets. */
export type LogFields = Record<string, string | number | boolean | null | undefined>;

// It may be a file on a full disk, or a pipe that nobody reads any more.
process.stderr.on("error", () => {});

export interface Log extends Record<LogLevel, (message: string, fields?: LogFields) => void> {
  /** Whether lines of this level are kept, to save the work of making one. */
  enabled(level: LogLevel): boolean;
}

/**
 * One JSON object a line, to standard error or to `haas.log` in `directory`.
 * A log that can't be written never stops the service.
 */
export function createLog(level: LogLevel, directory: string | null): Log {
  const threshold = logLevels.indexOf(level);
  let writeLine = (line: string) => void process.stderr.write(line);
  if (directory !== null) {
    const file = join(directory, "haas.log");
    // Now, so that a directory that can't be had is an error at start.
    mkdirSync(directory, { recursive: true });
    appendFileSync(file, "", { mode: 0o600 });
    let failing = false;
    writeLine = (line) => {
      try {
        appendFileSync(file, failing && isCutOff(file) ? `\n${line}` : line, { mode: 0o600 });
        failing = false;
      } catch (error) {
        if (!failing) process.stderr.write(`haas: can't write ${file}, so its lines are here: ${String(error)}\n`);
        failing = true;
        process.stderr.write(line);
      }
    };
  }
  const enabled = (of: LogLevel) => logLevels.indexOf(of) >= threshold;
  const at = (of: LogLevel) => (message: string, fields?: LogFields) => {
    if (!enabled(of)) return;
    const line = { time: new Date().toISOString(), level: of, message, ...fields };
    writeLine(`${JSON.stringify(line, (_, value) => (typeof value === "string" ? shortened(value, fieldLimit) : value))}\n`);
  };
  return { enabled, debug: at("debug"), info: at("info"), warning: at("warning"), error: at("error"), critical: at("critical") };
}

/** The beginning of a text that is longer than `limit` characters. */
export const shortened = (text: string, limit: number): string => (text.length > limit ? `${text.slice(0, limit - 1)}…` : text);

/** Whether the last line is not whole. */
function isCutOff(file: string): boolean {
  const descriptor = openSync(file, "r");
  try {
    const { size } = fstatSync(descriptor);
    const last = Buffer.alloc(1);
    return size > 0 && readSync(descriptor, last, 0, 1, size - 1) === 1 && last[0] !== 0x0a;
  } finally {
    closeSync(descriptor);
  }
}

import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

// Processes with a clock of their own, by Debian's libfaketime.

function library(): string {
  for (const triplet of readdirSync("/usr/lib")) {
    const directory = join("/usr/lib", triplet, "faketime");
    try {
      if (readdirSync(directory).includes("libfaketimeMT.so.1")) return join(directory, "libfaketimeMT.so.1");
    } catch {
      // No such directory.
    }
  }
  throw new Error("libfaketime is not installed (Debian package: faketime)");
}

/** The environment of a process whose clock is off by `offset` (`-1h`), as if somebody had set it; with `monotonic`, the clock that nobody can set, too. */
export const clockOffBy = (offset: string, { monotonic = false } = {}): Record<string, string> => ({
  LD_PRELOAD: library(),
  FAKETIME: offset,
  ...(!monotonic && { FAKETIME_DONT_FAKE_MONOTONIC: "1" }),
});

/** The environment of a process whose clock is set to something else whenever `set` is called. It begins with the right time. */
export function settableClock(directory: string): { env: Record<string, string>; set(offset: string): void } {
  const file = join(directory, "clock");
  const set = (offset: string) => writeFileSync(file, `${offset}\n`);
  set("+0");
  return {
    env: { LD_PRELOAD: library(), FAKETIME_TIMESTAMP_FILE: file, FAKETIME_NO_CACHE: "1", FAKETIME_DONT_FAKE_MONOTONIC: "1" },
    set,
  };
}

/** By how many milliseconds a server's clock is off, from the time stamp of the last line that it has just written to its log. */
export function clockErrorOf(log: string): number {
  const last = log.trimEnd().split("\n").at(-1) ?? "";
  return Date.parse((JSON.parse(last) as { time: string }).time) - Date.now();
}

import type { Log } from "./log.ts";

// Tells when something has held the event loop, so that nobody was served, and what ran. To note that costs an assignment.

const tickMs = 50;
/** A gap that is longer is told. */
const gapMs = 200;
const linesPerMinute = 6;
const minuteMs = 60_000;
const labelsKept = 8;
const labelCharacters = 80;

/** The last labels since the last tick, in turns. */
const labels: (string | undefined)[] = Array.from({ length: labelsKept });
let noted = 0;

/** What begins now, in a few words without secrets: `GET /nodes/free`, `switch sw1: show version`. */
export function noteWork(label: string): void {
  labels[noted++ % labelsKept] = label;
}

/** The last ones, oldest first; what strangers wrote into them is made harmless. */
function takeLabels(): string {
  const count = Math.min(noted, labelsKept);
  const taken = Array.from({ length: count }, (_, i) => labels[(noted - count + i) % labelsKept] ?? "");
  const more = noted > count ? [`${noted - count} before`] : [];
  return [...more, ...taken.map((label) => label.slice(0, labelCharacters).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, " "))].join("; ");
}

/**
 * Log a warning for every gap of the event loop of more than 200 ms, a few a minute, and the rest as a sum. `cpu_ms` tells a
 * gap in which haas computed from one in which the machine did not run it. Keeps no process alive.
 */
export function startWatchdog(log: Log): { stop(): void } {
  let [at, cpu] = [performance.now(), cpuMs()];
  let minute = { began: at, told: 0, untold: 0, longest: 0 };
  const tick = () => {
    const gap = performance.now() - at - tickMs;
    const used = cpuMs() - cpu;
    [at, cpu] = [at + tickMs + gap, cpu + used];
    if (at - minute.began >= minuteMs) {
      const { untold, longest } = minute;
      if (untold > 0) log.warning("the event loop was held more often than is told", { times: untold, longest_ms: Math.round(longest) });
      minute = { began: at, told: 0, untold: 0, longest: 0 };
    }
    if (gap > gapMs && minute.told < linesPerMinute) {
      minute.told++;
      log.warning("the event loop was held, so nobody was served", { ms: Math.round(gap), cpu_ms: Math.round(used), ran: takeLabels() });
    } else if (gap > gapMs) {
      minute.untold++;
      minute.longest = Math.max(minute.longest, gap);
    }
    noted = 0;
  };
  const timer = setInterval(tick, tickMs).unref();
  return { stop: () => clearInterval(timer) };
}

function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

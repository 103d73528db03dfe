import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

// Who holds a lease, and whether that process still lives.

function machine(): string {
  try {
    return `${hostname()} ${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return `${hostname()} - -`;
  }
}

/** When the process started, in clock ticks since boot (field 22 of proc(5)'s stat), or null if there is none. */
function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
  } catch {
    return null;
  }
}

/**
 * This process, as a lease names its holder: the machine, since which boot, which process id, started
 * when. So a haas that comes up after a crash sees at once that the former holder is gone.
 */
export const owner = `${machine()} ${process.pid} ${startOf(process.pid) ?? "?"}`;

/** Whether a lease's holder is certainly dead: it ran on this machine, and that process is no more. */
export function isDead(owner: string | null): boolean {
  if (owner === null) return false;
  const parts = owner.split(" ");
  const [pid, start] = [Number(parts.at(-2)), parts.at(-1)];
  return parts.slice(0, -2).join(" ") === machine() && start !== "?" && startOf(pid) !== start;
}

import { appendFileSync, chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * An `ipmitool`, to be first in PATH, whose BMCs take their time: every run sleeps, and tells in one log when it begins and
 * when it ends. A real one shows neither to a test; it is tried in tests/hardware/ipmi.test.ts.
 */
export interface SlowIpmitool {
  /** The directory for PATH. */
  readonly path: string;
  /** The lines about a BMC, in the order in which they happened: `begin <command>`, `end <command>`, and the test's own. */
  lines(host: string): string[];
  /** Add a line of the test's own. */
  mark(host: string, line: string): void;
  /** What the BMC boots from. */
  bootDevice(host: string): string;
}

export function slowIpmitool(dir: string, seconds: number): SlowIpmitool {
  const log = join(dir, "log");
  const program = join(dir, "ipmitool");
  writeFileSync(log, "");
  writeFileSync(program, script(dir, seconds));
  chmodSync(program, 0o700);
  return {
    path: dir,
    lines: (host) =>
      readFileSync(log, "utf8")
        .split("\n")
        .flatMap((line) => (line.startsWith(`${host} `) ? [line.slice(host.length + 1)] : [])),
    mark: (host, line) => appendFileSync(log, `${host} ${line}\n`),
    bootDevice: (host) => readFileSync(join(dir, `boot-${host}`), "utf8").trim(),
  };
}

const script = (dir: string, seconds: number) => `#!/bin/sh
D='${dir}'
while [ $# -gt 0 ]; do
  case "$1" in
    -H) host=$2; shift 2 ;;
    -E) shift ;;
    -*) shift 2 ;;
    *) break ;;
  esac
done
echo "$host begin $*" >> "$D/log"
sleep ${seconds}
case "$*" in
  "chassis power status") echo "Chassis Power is on" ;;
  "chassis bootdev "*) echo "$3" > "$D/boot-$host" ;;
  "chassis bootparam get 5")
    case "$(cat "$D/boot-$host" 2>/dev/null)" in
      pxe) echo " Boot Device Selector : Force PXE" ;;
      disk) echo " Boot Device Selector : Force Boot from default Hard-Drive" ;;
      *) echo " Boot Device Selector : No override" ;;
    esac ;;
esac
echo "$host end $*" >> "$D/log"
`;

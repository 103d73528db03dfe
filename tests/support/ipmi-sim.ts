import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { runCommand } from "../../src/hardware/command.ts";

/** A real BMC on 127.0.0.1 (ipmi_sim), whose power switch starts and stops a real process. */
export interface Bmc {
  /** `127.0.0.1:port`, as a registration has it. */
  readonly host: string;
  readonly user: string;
  readonly password: string;
  /** As a driver's target has it: everything is permitted. */
  command<T>(run: () => Promise<T>): Promise<T>;
  /** What the chassis was asked for, in order: `get power`, `set boot pxe`. */
  calls(): Promise<string[]>;
  /** The id of the process that is the running machine, or null when it is off. */
  machine(): Promise<number | null>;
  stop(): Promise<void>;
}

export interface BmcOptions {
  /** A scratch directory of its own. */
  dir: string;
  name: string;
  port: number;
  user: string;
  password: string;
  /** Called as `program get|set power|boot|reset|… [value]`; prints `power:1`, `boot:pxe`. */
  chassisProgram?: string;
}

const startTimeoutMs = 10_000;

export async function startBmc({ dir, name, port, user, password, chassisProgram }: BmcOptions): Promise<Bmc> {
  await mkdir(join(dir, "state"), { recursive: true });
  const program = join(dir, "chassis.sh");
  await writeFile(program, chassisScript(dir));
  await chmod(program, 0o700);
  await writeFile(join(dir, "lan.conf"), lanConf(name, port, user, password, chassisProgram ?? program));
  await writeFile(join(dir, "sim.emu"), emulator);

  const log = Bun.file(join(dir, "sim.log"));
  const sim = Bun.spawn(["ipmi_sim", "-n", "-c", join(dir, "lan.conf"), "-f", join(dir, "sim.emu"), "-s", join(dir, "state")], {
    stdin: "ignore",
    stdout: log,
    stderr: log,
  });
  const read = (file: string) => readFile(join(dir, file), "utf8").catch(() => "");
  const machine = async () => {
    const pid = Number(await read("machine.pid"));
    return pid > 0 && isAlive(pid) ? pid : null;
  };
  const bmc: Bmc = {
    host: `127.0.0.1:${port}`,
    user,
    password,
    command: (run) => run(),
    machine,
    calls: async () => (await read("calls.log")).split("\n").filter((line) => line !== ""),
    async stop() {
      // ipmi_sim does not end what its chassis program started.
      sim.kill("SIGKILL");
      await sim.exited;
      const pid = await machine();
      if (pid !== null) process.kill(pid, "SIGKILL");
    },
  };
  try {
    await untilItAnswers(port, user, password);
    return bmc;
  } catch (error) {
    await bmc.stop();
    throw new Error(`ipmi_sim did not start: ${await read("sim.log")}`, { cause: error });
  }
}

async function untilItAnswers(port: number, user: string, password: string): Promise<void> {
  const deadline = Date.now() + startTimeoutMs;
  while (Date.now() < deadline) {
    const { exitCode } = await runCommand({
      argv: [
        "ipmitool",
        "-I",
        "lanplus",
        "-C",
        "3",
        "-N",
        "1",
        "-R",
        "1",
        "-H",
        "127.0.0.1",
        "-p",
        String(port),
        "-U",
        user,
        "-E",
        "mc",
        "info",
      ],
      env: { IPMI_PASSWORD: password },
      timeoutMs: 5_000,
      maxOutputBytes: 65_536,
    });
    if (exitCode === 0) return;
    await Bun.sleep(50);
  }
  throw new Error(`no answer within ${startTimeoutMs} ms`);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

const lanConf = (name: string, port: number, user: string, password: string, program: string) => `
name "${name}"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 ${port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  user 1 true "" "test" user 10 none md2 md5 straight
  user 2 true "${user}" "${password}" admin 10 none md2 md5 straight
  chassis_control "${program}"
`;

const emulator = `
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
`;

/** The machine is `sleep`, so a cycle or a reset shows as another process id. */
const chassisScript = (dir: string) => `#!/bin/sh
D='${dir}'
echo "$*" >> "$D/calls.log"
alive() { [ -f "$D/machine.pid" ] && kill -0 "$(cat "$D/machine.pid")" 2>/dev/null; }
start() { sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > "$D/machine.pid"; }
stop() { alive && kill -9 "$(cat "$D/machine.pid")"; rm -f "$D/machine.pid"; }
case "$1 $2" in
  "get power") alive && echo power:1 || echo power:0 ;;
  "set power") if [ "$3" = 1 ]; then alive || start; else stop; fi ;;
  "set reset") alive && { stop; start; } ;;
  "set shutdown") stop ;;
  "set boot") echo "$3" > "$D/boot" ;;
  "get boot") echo "boot:$(cat "$D/boot" 2>/dev/null || echo none)" ;;
esac
exit 0
`;

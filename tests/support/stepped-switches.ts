import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { PortState } from "../../src/hardware/switches/driver.ts";
import type { Emulator } from "../sim/emulator.ts";
import type { ConsoleKind } from "../sim/console.ts";
import { portNames, registration, startEmulator } from "./emulators.ts";
import { columnsOfPorts, type OvsLab, stateOf } from "./ovs-lab.ts";

// Switches that keep a server waiting at a step of a change, so that it can be stopped there. A step is a line that
// reaches a console, or a run of ovs-vsctl.

/**
 * What is held at the step:
 * - `answered`: it has taken effect, and its answer is there as soon as the server is stopped;
 * - `unanswered`: it has taken effect, and its answer comes when the server goes on;
 * - `late`: it was on its way, and takes effect when the server goes on.
 */
export const holdings = ["answered", "unanswered", "late"] as const;
export type Holding = (typeof holdings)[number];

export interface SteppedSwitch {
  readonly name: string;
  /** What it is, for counting. */
  readonly kind: string;
  readonly port: string;
  /** The body that registers it. */
  readonly body: unknown;
  /** How many steps the longest change had that was counted. */
  readonly steps: number;
  /** What was changed since the last time was one change: count its steps. */
  count(): void;
  /** Have the next session wait at this step, counted from 0. */
  arm(step: number, holding: Holding): void;
  /** The step at which a server waits now; null when it has not got there. */
  readonly heldAt: string | null;
  /** The server is stopped. */
  stopped(): void;
  /** The server goes on; nothing is held any more. */
  wentOn(): void;
  /** What that session has sent since the server was stopped. */
  readonly since: readonly string[];
  stop(): Promise<void>;
}

export class ConsoleSwitch implements SteppedSwitch {
  readonly kind: string;
  readonly port: string;
  readonly body: unknown;
  steps = 0;
  heldAt: string | null = null;
  since: string[] = [];
  #counts = new Map<number, number>();
  #armed: { step: number; holding: Holding; session: number | null } | null = null;
  #stopped = Promise.withResolvers<void>();
  #wentOn = Promise.withResolvers<void>();

  private constructor(
    readonly name: string,
    vendor: ConsoleKind,
    transport: "ssh" | "telnet",
    readonly emulator: Emulator,
    readonly onStep: () => void,
  ) {
    this.kind = `${vendor} ${transport}`;
    this.port = portNames[vendor](1);
    this.body = registration(vendor, emulator);
    emulator.behaviour.onLine = (line, session) => this.#heard(line, session);
  }

  /** `onStep` is called at each line, before it takes effect. */
  static async start(name: string, vendor: ConsoleKind, transport: "ssh" | "telnet", onStep: () => void): Promise<ConsoleSwitch> {
    const emulator = await startEmulator(vendor, { ports: [portNames[vendor](1)], transport });
    return new ConsoleSwitch(name, vendor, transport, emulator, onStep);
  }

  get carries(): PortState {
    return this.emulator.port(this.port)!;
  }

  count(): void {
    this.steps = Math.max(this.steps, ...this.#counts.values());
    this.#counts.clear();
  }

  arm(step: number, holding: Holding): void {
    this.#armed = { step, holding, session: null };
    this.heldAt = null;
    this.since = [];
    this.#stopped = Promise.withResolvers();
    this.#wentOn = Promise.withResolvers();
  }

  stopped(): void {
    // An empty line that it typed because no answer came is of before.
    this.since = [];
    this.#stopped.resolve();
  }

  wentOn(): void {
    this.#stopped.resolve();
    this.#wentOn.resolve();
    if (this.heldAt === null) this.#armed = null;
  }

  stop(): Promise<void> {
    this.wentOn();
    return this.emulator.stop();
  }

  #heard(line: string, session: number) {
    this.onStep();
    const n = this.#counts.get(session) ?? 0;
    this.#counts.set(session, n + 1);
    const armed = this.#armed;
    if (!armed || (armed.session ??= session) !== session) return null;
    if (this.heldAt !== null) this.since.push(line);
    if (n !== armed.step) return null;
    this.heldAt = line;
    if (armed.holding === "late") return { effect: this.#wentOn.promise };
    return { answer: (armed.holding === "answered" ? this.#stopped : this.#wentOn).promise };
  }
}

/** The longest that a run of ovs-vsctl is held; nothing of it outlives a test for longer. */
const longestHoldSeconds = 100;

/** A directory to put first into a server's PATH: its ovs-vsctl can be held. `holds` is for OvsSwitch. */
export function heldOvs(directory: string): { path: string; holds: string } {
  const [path, holds] = [join(directory, "bin"), join(directory, "holds")];
  mkdirSync(path, { recursive: true });
  mkdirSync(holds, { recursive: true });
  // The bridge is known by the name of the socket.
  const script = `#!/bin/sh
PATH='${process.env.PATH}'
for word; do case $word in --db=unix:*) name=\${word##*/};; esac; done
dir='${holds}'/\${name%.sock}
echo "$*" >> $dir/runs
n=$(wc -l < $dir/runs)
hold() {
  [ -e $dir/$n.$1 ] || return
  echo "$*" > $dir/arrived
  left=${longestHoldSeconds * 50}
  while [ -e $dir/$n.$1 ] && [ $left -gt 0 ]; do left=$((left - 1)); sleep 0.02; done
}
hold before "$@"
ovs-vsctl "$@"
code=$?
hold after "$@"
exit $code
`;
  writeFileSync(join(path, "ovs-vsctl"), script);
  chmodSync(join(path, "ovs-vsctl"), 0o755);
  return { path, holds };
}

/** A bridge of an Open vSwitch with one port, reached by a socket of its own name. */
export class OvsSwitch implements SteppedSwitch {
  readonly kind = "ovs";
  readonly port: string;
  readonly body: unknown;
  steps = 0;
  #directory: string;
  #hold: { file: string; holding: Holding } | null = null;
  #runsBefore = 0;

  private constructor(
    readonly name: string,
    holds: string,
    socket: string,
  ) {
    this.port = `${name}p`;
    this.#directory = join(holds, name);
    mkdirSync(this.#directory);
    const link = join(this.#directory, `${name}.sock`);
    symlinkSync(socket, link);
    this.body = { type: "http://schema.massopencloud.org/haas/v0/switches/ovs", ovs_bridge: name, database: `unix:${link}` };
  }

  static async start(name: string, lab: OvsLab, holds: string): Promise<OvsSwitch> {
    const one = new OvsSwitch(name, holds, lab.db.slice("unix:".length));
    const bridge = ["add-br", name, "--", "set", "bridge", name, "datapath_type=netdev"];
    await lab.vsctl(...bridge, "--", "add-port", name, one.port, "--", "set", "interface", one.port, "type=internal");
    return one;
  }

  get heldAt(): string | null {
    const arrived = join(this.#directory, "arrived");
    return existsSync(arrived) ? readFileSync(arrived, "utf8") : null;
  }

  get since(): readonly string[] {
    return this.#runs().slice(this.#runsBefore);
  }

  count(): void {
    this.steps = Math.max(this.steps, this.#runs().length);
    rmSync(join(this.#directory, "runs"), { force: true });
  }

  arm(step: number, holding: Holding): void {
    for (const name of ["runs", "arrived"]) rmSync(join(this.#directory, name), { force: true });
    const file = join(this.#directory, `${step + 1}.${holding === "late" ? "before" : "after"}`);
    writeFileSync(file, "");
    this.#hold = { file, holding };
  }

  stopped(): void {
    this.#runsBefore = this.#runs().length;
    if (this.#hold?.holding === "answered") rmSync(this.#hold.file, { force: true });
  }

  wentOn(): void {
    if (this.#hold) rmSync(this.#hold.file, { force: true });
  }

  async stop(): Promise<void> {
    this.wentOn();
  }

  #runs(): string[] {
    const file = join(this.#directory, "runs");
    return existsSync(file) ? readFileSync(file, "utf8").trimEnd().split("\n") : [];
  }
}

/** What the ports of Open vSwitches carry, by name. */
export async function ovsStates(lab: OvsLab): Promise<Map<string, PortState>> {
  return new Map([...(await columnsOfPorts(lab))].map(([name, columns]) => [name, stateOf(columns)]));
}

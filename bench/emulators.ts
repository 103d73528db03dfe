import { type ConsoleKind, type ConsoleOptions, startConsole } from "../tests/sim/console.ts";
import type { Behaviour } from "../tests/sim/emulator.ts";

// Emulated switches, in a process of their own so that they compete with nobody for one event loop. It
// prints what they are to be registered with, and then takes their delays from the process that started it.

export interface EmulatedSwitch extends Pick<ConsoleOptions, "transport" | "ports"> {
  kind: ConsoleKind;
}

/** The fields to register a switch with, beside its type. */
export type Registration = Readonly<Record<string, unknown>>;

export type Delays = Pick<Behaviour, "loginDelayMs" | "commandDelayMs">;

const switches = JSON.parse(process.argv[2]!) as EmulatedSwitch[];
const emulators = await Promise.all(switches.map(({ kind, ...options }) => startConsole(kind, options)));
process.on("message", (delays: Delays) => {
  for (const { behaviour } of emulators) Object.assign(behaviour, delays);
  process.send!("done");
});
process.on("disconnect", () => process.exit());
console.log(JSON.stringify(emulators.map(({ settings }): Registration => settings)));

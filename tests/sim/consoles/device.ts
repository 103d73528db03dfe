import { emptyPort, type PortState } from "../../../src/hardware/switches/driver.ts";

/** A set of VLANs: a flag for each number. Never changed once made, so configs share them. */
export type Vlans = Readonly<Uint8Array>;

const numbersOfVlans = 4096;
export const noVlans: Vlans = new Uint8Array(numbersOfVlans);
export const vlansFrom = (numbers: Iterable<number>): Vlans => {
  const vlans = new Uint8Array(numbersOfVlans);
  for (const number of numbers) vlans[number] = 1;
  return vlans;
};
export const vlansUpTo = (highest: number): Vlans => new Uint8Array(numbersOfVlans).fill(1, 1, highest + 1);
export const both = (a: Vlans, b: Vlans): Vlans => a.map((flag, vlan) => flag & b[vlan]!);
export const either = (a: Vlans, b: Vlans): Vlans => a.map((flag, vlan) => flag | b[vlan]!);
export const without = (a: Vlans, b: Vlans): Vlans => a.map((flag, vlan) => flag & ~b[vlan]! & 1);
export const isEmpty = (vlans: Vlans): boolean => !vlans.includes(1);
export const sameVlans = (a: Vlans, b: Vlans): boolean => a.every((flag, vlan) => flag === b[vlan]);

export function numbersOf(vlans: Vlans): number[] {
  const numbers = [];
  for (let vlan = vlans.indexOf(1); vlan !== -1; vlan = vlans.indexOf(1, vlan + 1)) numbers.push(vlan);
  return numbers;
}

/** `1`, `5-7`: one text for a run of numbers. */
export function rangesOf(vlans: Vlans): string[] {
  const ranges = [];
  for (let first = vlans.indexOf(1); first !== -1;) {
    const end = vlans.indexOf(0, first);
    ranges.push(end - 1 === first ? `${first}` : `${first}-${end - 1}`);
    first = vlans.indexOf(1, end);
  }
  return ranges;
}

/** The VLANs of `1,5-7`; null for anything else, also for a number that the device can't have. */
export function parseVlans(text: string, highest: number): Vlans | null {
  const vlans = new Uint8Array(numbersOfVlans);
  for (const part of text.split(",")) {
    const [, from, to] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part) ?? [];
    const first = Number(from);
    const last = to === undefined ? first : Number(to);
    if (!(first >= 1 && first <= last && last <= highest)) return null;
    vlans.fill(1, first, last + 1);
  }
  return vlans;
}

export interface PortConfig {
  /** False for a routed port (Nexus), which passes no VLAN. */
  readonly switching: boolean;
  readonly mode: "access" | "trunk";
  readonly accessVlan: number;
  readonly native: number | null;
  /** What a trunk passes; kept while the port is in access mode. */
  readonly allowed: Vlans;
}

interface Config {
  readonly exist: Vlans;
  /** VLANs that exist and pass nothing. */
  readonly suspended: Vlans;
  readonly ports: ReadonlyMap<string, PortConfig>;
}

/** The kinds of ports of a device: the short word of a port's key, and the full word that the console takes prefixes of. */
export type PortKinds = Readonly<Record<string, string>>;

/**
 * The ports of `gi1/0/5`, `GigabitEthernet 1/0/5-8,te1/0/1`, … as keys (`gi1/0/5`).
 * Null for what is no port name at all.
 */
export function parsePorts(text: string, kinds: PortKinds): string[] | null {
  const keys: string[] = [];
  for (const part of text.split(/,\s*/)) {
    const [, word = "", numbers = "", last] = /^([a-z]+)\s*(\d{1,3}(?:\/\d{1,3}){1,2})(?:-(\d{1,3}))?$/i.exec(part) ?? [];
    const kind = Object.keys(kinds).find((short) => word.length > 0 && kinds[short]!.startsWith(word.toLowerCase()));
    if (!kind) return null;
    const place = numbers.split("/").map(Number);
    const first = place.pop()!;
    const end = last === undefined ? first : Number(last);
    if (end < first) return null;
    for (let number = first; number <= end; number++) keys.push(`${kind}${[...place, number].join("/")}`);
  }
  return keys;
}

interface Hardware {
  readonly kinds: PortKinds;
  readonly ports: readonly string[];
  readonly vlans: Vlans;
  readonly factory: PortConfig;
  /** The native VLAN of a port that has none. */
  readonly noNative: number | null;
  /** As on its label; no two devices have the same. */
  readonly serial: string;
}

/** What a switch holds: its running and its startup config, and what frames they mean. */
export class Device {
  running: Config;
  startup: Config;
  saves = 0;
  #hardware: Hardware;

  constructor(hardware: Hardware) {
    this.#hardware = hardware;
    this.running = { exist: hardware.vlans, suspended: noVlans, ports: this.#factoryPorts() };
    this.startup = this.running;
  }

  #factoryPorts(): Map<string, PortConfig> {
    const { ports, kinds, factory } = this.#hardware;
    return new Map(
      ports.map((label) => {
        const keys = parsePorts(label, kinds);
        if (keys?.length !== 1) throw new Error(`${label} is no port of such a device`);
        return [keys[0]!, factory];
      }),
    );
  }

  get serial(): string {
    return this.#hardware.serial;
  }

  /** The key of a port's name as haas, or somebody at the console, writes it; null when there is no such port. */
  key(label: string): string | null {
    const keys = parsePorts(label, this.#hardware.kinds);
    return keys?.length === 1 && this.running.ports.has(keys[0]!) ? keys[0]! : null;
  }

  change(keys: readonly string[], change: (port: PortConfig) => Partial<PortConfig>): void {
    const ports = new Map(this.running.ports);
    for (const key of keys) {
      const port = ports.get(key)!;
      ports.set(key, { ...port, ...change(port) });
    }
    this.running = { ...this.running, ports };
  }

  save(): void {
    this.startup = this.running;
    this.saves++;
  }

  powerCycle(): void {
    this.running = this.startup;
  }

  factoryReset(): void {
    this.running = { ...this.running, ports: this.#factoryPorts() };
    this.startup = this.running;
  }

  /** The VLANs that pass frames. */
  get active(): Vlans {
    return without(this.running.exist, this.running.suspended);
  }

  /** What frames a port passes. */
  state(key: string): PortState {
    const { switching, mode, accessVlan, native, allowed } = this.running.ports.get(key)!;
    const active = this.active;
    if (!switching) return emptyPort;
    if (mode === "access") return { native: active[accessVlan] ? accessVlan : null, tagged: [] };
    const passes = both(allowed, active);
    return {
      native: native !== null && passes[native] ? native : null,
      tagged: numbersOf(passes).filter((vlan) => vlan !== native),
    };
  }

  /** Make a port pass exactly these frames, in the way of this vendor. */
  setState(key: string, { native, tagged }: PortState): void {
    const allowed = vlansFrom(native === null ? tagged : [...tagged, native]);
    this.change([key], () => ({ switching: true, mode: "trunk", native: native ?? this.#hardware.noNative, allowed }));
  }
}

import type { TObject } from "@sinclair/typebox";

/** What a port carries: the untagged VLAN, if any, and the tagged ones in ascending order. */
export interface PortState {
  readonly native: number | null;
  readonly tagged: readonly number[];
}

export const emptyPort: PortState = { native: null, tagged: [] };

/** How long a kind of switch may take. */
export interface SwitchLimits {
  /** To connect and log in. */
  readonly connectTimeoutMs: number;
  /** To say anything at all when something was asked of it. */
  readonly commandTimeoutMs: number;
}

/** A registered switch, as a driver gets it. `settings` passed the driver's own `settings` schema. */
export interface SwitchTarget<Settings = Record<string, unknown>> extends SwitchLimits {
  readonly label: string;
  readonly settings: Settings;
  /**
   * The host key by which this switch is known, as `SHA256:…`. The first one that is ever presented is kept and returned;
   * a driver refuses to go on when another one comes back than it presented.
   */
  knownHostKey(presented: string): Promise<string>;
  /** The serial number by which this switch is known: empty when it was asked and did not tell, null when it never was. */
  readonly knownSerial: string | null;
  /** Tell what a switch says that it is, empty when it does not tell. Rejects when that is known as another switch: then go no further. */
  claimSerial(serial: string): Promise<void>;
  /** Rejects when haas may not change this switch any more. Awaited right before each line or call that changes something. */
  confirm(): Promise<void>;
  readonly observer?: SessionObserver | undefined;
  /** Ends the attempt to open a session. */
  readonly signal?: AbortSignal | undefined;
}

/** Somebody who watches a session, for support. Nothing that it is given holds a secret. */
export interface SessionObserver {
  /** A step begins, as in `log in`; the one before it has succeeded. */
  step(name: string): void;
  /** A line (or a call and its answer) as it went over the wire, without line ends. */
  line(direction: "sent" | "received", text: string): void;
}

/**
 * One connection to one switch, for a whole batch. Used by one caller at a time.
 * Every method is bounded in time and rejects with a `SwitchError` that names the switch, the port
 * and the device's own words; with a `SessionLostError` when this session is of no more use.
 */
export interface SwitchSession {
  /**
   * Make the port carry exactly `desired`, and nothing else. Idempotent: a second run changes nothing, and
   * a port that was read in this session and is right already is not touched.
   * An empty state means that no frame passes, tagged or untagged, never the vendor's default.
   */
  applyPort(port: string, desired: PortState): Promise<void>;
  /** The same for several ports at once, where the device takes a range. When it rejects, any of them may have changed. */
  applyPorts?: ((ports: readonly string[], desired: PortState) => Promise<void>) | undefined;
  /**
   * What the device holds now, read from the device, with every applyPort before it in force.
   * A port that the device does not know rejects.
   */
  readPorts(ports: readonly string[]): Promise<Map<string, PortState>>;
  /** Make the running config survive a power cut. Absent where every write is durable already. */
  save?(): Promise<void>;
  /** End the connection, now; a call that is under way rejects. Never rejects itself. */
  close(): Promise<void>;
}

/** Things that some switches can do and others can't; shown by `GET /switch/<switch>`. */
export type Capability = "nativeless-trunk-mode";

/** A type of switch. Knows devices only: never the database, never projects. */
export interface SwitchDriver<Settings = any> {
  /** The last part of the published type URL, and the name on the command line. */
  readonly name: string;
  /** The fields of the registration beside `type`. Fields marked `secret: true` are never shown. */
  readonly settings: TObject;
  /** The order in which the command line takes the required fields. */
  readonly positional: readonly string[];
  readonly capabilities: readonly Capability[];
  /** The highest VLAN that a port of this device can carry. */
  readonly highestVlan: number;
  /** The one spelling of where the switch is, so that it is registered once; see ../address.ts. Absent where there is no device. */
  address?(settings: Settings): string;
  /** Throws `BadArgumentError`, showing a legal form, for a name that this device could not have. */
  validatePort(label: string): void;
  /** The one spelling of a legal port name, where the device takes several for the same port. */
  canonicalPort?(label: string): string;
  /** A port that was never written to carries nothing, so that nobody has to wait until it has been. */
  readonly startsEmpty?: true;
  /** A VLAN that the driver needs for itself on such a switch, so that no network can be on it. */
  reservedVlan?(settings: Settings): number;
  /**
   * The exact lines or calls that bring a port from `actual` to `desired`, in order; empty when they agree.
   * Pure: nothing is sent, and no line holds a secret.
   */
  plan(port: string, actual: PortState, desired: PortState, settings: Settings): readonly string[];
  /**
   * Connect and log in, in bounded time. Rejects with a `SwitchError`.
   */
  open(target: SwitchTarget<Settings>): Promise<SwitchSession>;
}

export const samePort = (a: PortState, b: PortState): boolean =>
  a.native === b.native && a.tagged.length === b.tagged.length && a.tagged.every((vlan, i) => vlan === b.tagged[i]);

/** In no network's reach, so it stands for what a state can't say. */
const reservedVlan = 4095;

/** A port's state in words, for messages: `native 100, tagged 200, 300-305` or `nothing`. */
export function describePort({ native, tagged }: PortState): string {
  const parts = [];
  if (native !== null) parts.push(`native ${native}`);
  const real = tagged.filter((vlan) => vlan !== reservedVlan);
  if (real.length > 0) parts.push(`tagged ${ranges(real)}`);
  if (real.length < tagged.length) parts.push("something that is not haas's");
  return parts.join(", ") || "nothing";
}

const ranges = (vlans: readonly number[]): string =>
  vlanRuns(vlans)
    .map(([first, last]) => (first === last ? first : `${first}-${last}`))
    .join(", ");

/** The first and the last of every run of ascending numbers. */
export function vlanRuns(vlans: readonly number[]): [number, number][] {
  const runs: [number, number][] = [];
  for (const vlan of vlans) {
    const last = runs.at(-1);
    if (last && last[1] === vlan - 1) last[1] = vlan;
    else runs.push([vlan, vlan]);
  }
  return runs;
}

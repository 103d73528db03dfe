import { Type } from "@sinclair/typebox";
import { badArgument, messageOf, quote, SessionLostError, SwitchError } from "../../errors.ts";
import { noteWork } from "../../watchdog.ts";
import { ovsdbAddress } from "../address.ts";
import { CommandError, type CommandResult, failureSentence, runCommand } from "../command.ts";
import { fields } from "../settings.ts";
import { type PortState, samePort, type SwitchDriver } from "./driver.ts";

/**
 * A bridge of Open vSwitch, through `ovs-vsctl`. Facts from ovs-vswitchd.conf.db(5), tables Port, Bridge and
 * Mirror, or measured with Open vSwitch 3.1 and its userspace datapath (tests/hardware/ovs.test.ts).
 *
 * How a port holds a state; the columns that are not named are empty, and `protected` is false:
 *
 * - native only: `access`. It drops every frame with a tag, that of its own VLAN too; `native-untagged` takes those.
 * - native and tagged: `native-untagged` with `trunks`. A frame with another tag is dropped.
 * - tagged only: `trunk` with `trunks`. A frame without a tag is in VLAN 0, which is not among them.
 * - nothing: `trunk` with VLAN 4095 alone, and `protected`. No column means "no VLAN" (an empty list is every
 *   VLAN), so the port keeps the one VLAN that 802.1Q reserves and that no network can have; `protected` stops its
 *   frames between two such ports; and every other port of the bridge loses VLAN 4095 (see `seal`), as one that
 *   carries every VLAN, like the bridge's own, would still exchange frames with it.
 *
 * The columns rule what a bridge does by itself. OpenFlow flows of a controller go past them.
 */

interface Settings {
  readonly ovs_bridge: string;
  readonly database?: string;
}

const highestVlan = 4094;
const reservedVlan = 4095;
const everyVlan: readonly number[] = Array.from({ length: reservedVlan + 1 }, (_, vlan) => vlan);

/** Where ovs-vsctl looks without `--db`, in the environment that runCommand gives it. */
const defaultDatabase = "/var/run/openvswitch/db.sock";

/** ovs-vsctl's own bound, and ours behind it for an ovs-vsctl that hangs. */
const commandTimeoutSeconds = 10;
const processTimeoutMs = (commandTimeoutSeconds + 2) * 1000;
/** A trunk of every VLAN is 20 kB. */
const maxOutputBytes = 32 * 1024 * 1024;
/** How long ovs-vswitchd may lag behind its database when it is read. */
const settleTimeoutMs = 5_000;
const settlePauseMs = 50;

/** ovs-vswitchd has taken a change before it has gone through the flows that it made before: measured, up to 5 ms later with 8,000 flows. A read-back waits for that. */
const flowTimeoutMs = 100;

const namePattern = "^(?!\\.{1,2}$)[A-Za-z0-9._][A-Za-z0-9._-]{0,14}$";
const portName = new RegExp(namePattern);

export const ovs: SwitchDriver<Settings> = {
  name: "ovs",
  settings: fields({
    ovs_bridge: Type.String({ description: "Name of the bridge", examples: ["br0"], pattern: namePattern }),
    database: Type.Optional(
      Type.String({
        description: "Where its database listens: the path of a socket, `unix:/path`, `tcp:address:port` or `ssl:address:port`",
        examples: ["/run/openvswitch/db.sock"],
        maxLength: 1024,
        pattern: "^(unix:/|tcp:|ssl:|/)[^\\s,\\u0000-\\u001f\\u007f]+$",
      }),
    ),
  }),
  positional: ["ovs_bridge"],
  capabilities: ["nativeless-trunk-mode"],
  highestVlan,
  address: ({ ovs_bridge, database }) => `${ovsdbAddress(database ?? defaultDatabase)} ${ovs_bridge}`,

  validatePort(label) {
    if (!portName.test(label)) {
      throw badArgument(
        `${quote(label)} is not a port name of an Open vSwitch bridge. Legal forms: eth1, vnet0.12, up to 15 of A-Z a-z 0-9 . _ -`,
      );
    }
  },

  plan: (port, actual, desired, settings) =>
    samePort(actual, desired) ? [] : [["ovs-vsctl", ...baseArguments(settings), ...setPort(port, desired)].join(" ")],

  async open({ label, settings, claimSerial, confirm, signal }) {
    const ending = new AbortController();
    signal?.addEventListener("abort", () => ending.abort());
    const bridge = new Bridge(`Switch ${quote(label)}`, settings, ending.signal);
    // A bridge has the same uuid by whatever name or socket its database is reached.
    await claimSerial((await bridge.read()).uuid);
    let changedAt = -Infinity;
    return {
      async applyPort(port, desired) {
        const { ports, mirrors } = await bridge.read();
        const row = bridge.find(ports, port);
        const others = isEmpty(desired) ? ports.filter((other) => other !== row).flatMap(seal) : [];
        const before = stateOf(
          row,
          ports.some((other) => seal(other).length > 0),
          mirrors,
        );
        await confirm();
        await bridge.run([...setPort(port, desired), ...others], `port ${quote(port)}: `);
        if (!samePort(before, desired) || others.length > 0) changedAt = performance.now();
        // After the write: a mirror is no reason to leave a port open.
        refuseMirrors(bridge, row, desired, mirrors);
      },
      async readPorts(wanted) {
        await Bun.sleep(Math.max(0, changedAt + flowTimeoutMs - performance.now()));
        const { ports, mirrors } = await bridge.read();
        const leaky = ports.some((port) => seal(port).length > 0);
        const found = new Map<string, PortState>();
        for (const port of wanted) {
          found.set(port, stateOf(bridge.find(ports, port), leaky, mirrors));
          await turn();
        }
        return found;
      },
      close: async () => ending.abort(),
    };
  },
};

const isEmpty = ({ native, tagged }: PortState) => native === null && tagged.length === 0;

/** A mirror adds frames that no column of the port keeps out; it is the operator's, so the operator removes it. */
function refuseMirrors(bridge: Bridge, row: PortRow, desired: PortState, mirrors: readonly MirrorRow[]): void {
  const vlans = isEmpty(desired) ? [reservedVlan] : [...desired.tagged, desired.native];
  for (const { name, outputPort, outputVlan } of mirrors) {
    const into = outputPort === row.uuid ? "into it" : vlans.includes(outputVlan ?? -1) ? `into its VLAN ${outputVlan}` : null;
    if (into) throw bridge.error(`port ${quote(row.name)}: mirror ${quote(name)} sends ${into}; remove that mirror first`);
  }
}

/** The arguments that make a port hold exactly this: every column that decides about frames, in one command. */
function setPort(port: string, { native, tagged }: PortState): string[] {
  const closed = isEmpty({ native, tagged });
  const mode = native === null ? "trunk" : tagged.length === 0 ? "access" : "native-untagged";
  const trunks = closed ? reservedVlan : tagged.join(",");
  return ["set", "port", port, `vlan_mode=${mode}`, `tag=${native ?? "[]"}`, `trunks=[${trunks}]`, "cvlans=[]", `protected=${closed}`];
}

/** What keeps another port from exchanging frames with ports that hold nothing; empty when it can't anyway. */
function seal(other: PortRow): string[] {
  if (other.protected || !carries(other, reservedVlan)) return [];
  const rest = other.trunks.filter((vlan) => vlan !== reservedVlan);
  // Without VLAN 4095 nothing would be left of it, and an empty list means every VLAN: so it is kept apart instead.
  if (other.tag === reservedVlan || (other.trunks.length > 0 && rest.length === 0))
    return ["--", "--if-exists", "set", "port", other.name, "protected=true"];
  return ["--", "--if-exists", "set", "port", other.name, `trunks=${other.trunks.length > 0 ? `[${rest.join(",")}]` : `0-${highestVlan}`}`];
}

interface PortRow {
  readonly uuid: string;
  readonly name: string;
  readonly mode: string;
  readonly tag: number | null;
  readonly trunks: readonly number[];
  readonly protected: boolean;
}

interface MirrorRow {
  readonly name: string;
  readonly outputPort: string | null;
  readonly outputVlan: number | null;
}

/** Only these two keep to their tag. A mode that we do not know is taken to keep to nothing. */
const keepsToTag = ({ mode }: PortRow): boolean => mode === "access" || mode === "dot1q-tunnel";

/** The VLANs whose frames may leave by this port. An empty list of trunks is every VLAN; VLAN 0 is "no VLAN". */
function carried(row: PortRow): Set<number> {
  const { mode, tag, trunks } = row;
  if (keepsToTag(row)) return new Set([tag ?? 0]);
  const vlans = new Set(trunks.length > 0 ? trunks : everyVlan);
  return mode === "trunk" ? vlans : vlans.add(tag ?? 0);
}

/** As `carried`, of one VLAN: this is asked of every port of the bridge. */
function carries(row: PortRow, vlan: number): boolean {
  const { mode, tag, trunks } = row;
  if (!keepsToTag(row) && (trunks.length === 0 || trunks.includes(vlan))) return true;
  return mode !== "trunk" && (tag ?? 0) === vlan;
}

/**
 * What a port holds. VLAN 0 (frames without a tag that are in no network) and VLAN 4095 are in no network's
 * reach, so a state with one of them equals no desired state: that is how everything reads that we would not write.
 * `leaky`: some port of the bridge carries VLAN 4095, and is not kept from those that hold nothing.
 */
function stateOf(row: PortRow, leaky: boolean, mirrors: readonly MirrorRow[]): PortState {
  const vlans = carried(row);
  const mirrored = mirrors.some((m) => m.outputPort === row.uuid || (m.outputVlan !== null && vlans.has(m.outputVlan)));
  const closed = row.mode === "trunk" && row.tag === null && row.protected && row.trunks.length === 1 && row.trunks[0] === reservedVlan;
  if (closed) {
    return { native: null, tagged: mirrored || leaky ? [reservedVlan] : [] };
  }
  const native = row.mode === "trunk" ? (vlans.delete(0) ? 0 : null) : (row.tag ?? 0);
  if (native !== null) vlans.delete(native);
  const ours = row.mode === "access" || row.mode === "native-untagged" || row.mode === "trunk";
  if (!ours || row.protected || mirrored) vlans.add(reservedVlan);
  return { native, tagged: [...vlans].toSorted((a, b) => a - b) };
}

function databaseArgument(database: string | undefined): string[] {
  if (database === undefined) return [];
  return [`--db=${database.startsWith("/") ? `unix:${database}` : database}`];
}

// Never --no-wait: without it ovs-vsctl ends only when ovs-vswitchd has taken the change.
const baseArguments = ({ database }: Settings) => [`--timeout=${commandTimeoutSeconds}`, ...databaseArgument(database)];

/** One bridge and its database, for one session. */
class Bridge {
  constructor(
    readonly title: string,
    readonly settings: Settings,
    /** Ends what is under way. */
    readonly signal: AbortSignal,
  ) {}

  error(words: string, cause?: unknown): SwitchError {
    return new SwitchError(`${this.title}: ${words}.`, { cause });
  }

  find(ports: readonly PortRow[], name: string): PortRow {
    const row = ports.find((port) => port.name === name);
    if (!row) throw this.error(`bridge ${quote(this.settings.ovs_bridge)} has no port ${quote(name)} (ovs-vsctl lists ${listed(ports)})`);
    return row;
  }

  /** Run ovs-vsctl; `about` begins the sentence of a failure. */
  async run(command: readonly string[], about = ""): Promise<CommandResult> {
    const result = await runCommand({
      argv: ["ovs-vsctl", ...baseArguments(this.settings), ...command],
      timeoutMs: processTimeoutMs,
      maxOutputBytes,
      signal: this.signal,
    }).catch((error: unknown) => {
      if (this.signal.aborted) throw new SessionLostError(`${this.title}: the session was closed.`);
      if (error instanceof CommandError && error.reason === "not-installed") {
        throw this.error("ovs-vsctl is not installed on the server (Debian package: openvswitch-switch)", error);
      }
      throw this.error(`${about}${messageOf(error)}`, error);
    });
    // 142 is 128 + SIGALRM, the end that --timeout gives it.
    if (result.timedOut || result.exitCode === 142 || result.exitCode === null) {
      throw this.error(`${about}Open vSwitch did not answer ovs-vsctl within ${commandTimeoutSeconds} s; is ovs-vswitchd running?`);
    }
    if (result.exitCode !== 0) {
      throw this.error(about + failureSentence({ program: "ovs-vsctl", result, timeoutMs: processTimeoutMs }).replace(/\.+$/, ""));
    }
    if (result.truncated) throw this.error(`${about}ovs-vsctl wrote more than ${maxOutputBytes} bytes`);
    return result;
  }

  /** The bridge's ports and mirrors, once ovs-vswitchd has taken everything that its database holds. */
  async read(): Promise<{ uuid: string; ports: PortRow[]; mirrors: MirrorRow[] }> {
    const deadline = performance.now() + settleTimeoutMs;
    for (;;) {
      const [systems, bridges, ports, mirrors] = await this.#tables();
      // ovs-vsctl does not wait when a command changes nothing, so a write that ovs-vswitchd never took,
      // repeated, would look good. These two counters tell (ovs-vswitchd.conf.db(5), table Open_vSwitch).
      const { next_cfg: next, cur_cfg: current } = systems![0] ?? {};
      if (Number(current) >= Number(next)) return this.#select(bridges!, ports!, mirrors!);
      if (performance.now() > deadline) {
        throw this.error(`ovs-vswitchd has not taken the last change of its database within ${settleTimeoutMs / 1000} s; is it running?`);
      }
      await Bun.sleep(settlePauseMs);
    }
  }

  async #tables(): Promise<Record<string, unknown>[][]> {
    const list = (table: string, columns: string) => ["--", `--columns=${columns}`, "list", table];
    const { stdout } = await this.run([
      "--format=json",
      ...list("Open_vSwitch", "next_cfg,cur_cfg"),
      ...list("Bridge", "_uuid,name,ports,mirrors"),
      ...list("Port", "_uuid,name,vlan_mode,tag,trunks,protected"),
      ...list("Mirror", "_uuid,name,output_port,output_vlan"),
    ]);
    noteWork(`bridge ${this.settings.ovs_bridge}: reading its ports`);
    const tables: Record<string, unknown>[][] = [];
    for (const line of stdout.split("\n", maxTables + 1).filter((text) => text.trim() !== "")) tables.push(await this.#rows(line));
    if (tables.length !== 4) throw this.error(`ovs-vsctl answered with ${tables.length} tables instead of 4`);
    return tables;
  }

  /** A table, in JSON. A bridge of many ports that list all VLANs has megabytes of that, which is read in parts. */
  async #rows(line: string): Promise<Record<string, unknown>[]> {
    try {
      const begin = line.indexOf(tableBegin);
      if (begin < 0 || line.length < partCharacters) return records(JSON.parse(line) as Table);
      const rows: Record<string, unknown>[] = [];
      let from = begin + tableBegin.length;
      const end = line.lastIndexOf("]]");
      const { headings } = JSON.parse(line.slice(0, from) + line.slice(end + 1)) as Table;
      while (from < end) {
        const next = line.indexOf(betweenRows, from + partCharacters);
        const to = next < 0 ? end + 1 : next + 1;
        rows.push(...records({ headings, data: JSON.parse(`[${line.slice(from, to)}]`) as unknown[][] }));
        from = to + 1;
        await turn();
      }
      return rows;
    } catch (error) {
      throw this.error("ovs-vsctl's answer is not the JSON that it should be", error);
    }
  }

  #select(bridges: Record<string, unknown>[], ports: Record<string, unknown>[], mirrors: Record<string, unknown>[]) {
    const name = this.settings.ovs_bridge;
    const bridge = bridges.find((row) => row["name"] === name);
    if (!bridge) {
      const known = bridges.map((row) => String(row["name"])).join(", ") || "none";
      throw this.error(`Open vSwitch has no bridge ${quote(name)} (ovs-vsctl lists ${known})`);
    }
    const ours = new Set(members(bridge["ports"]));
    const ourMirrors = new Set(members(bridge["mirrors"]));
    return {
      uuid: String(bridge["_uuid"]),
      ports: ports.filter((row) => ours.has(row["_uuid"])).map(portRow),
      mirrors: mirrors.filter((row) => ourMirrors.has(row["_uuid"])).map(mirrorRow),
    };
  }
}

interface Table {
  readonly headings: readonly string[];
  readonly data: readonly (readonly unknown[])[];
}

const records = ({ headings, data }: Table): Record<string, unknown>[] =>
  data.map((cells) => Object.fromEntries(cells.map((cell, i) => [headings[i]!, plain(cell)])));

const maxTables = 8;
/** So much is read in one go. */
const partCharacters = 256 * 1024;
const tableBegin = '"data":[';
/** Every row of ours begins with its uuid, and no cell can hold this. */
const betweenRows = '],[["uuid",';

/** Let others have their turns. */
const turn = () => new Promise((resolve) => setImmediate(resolve));

const maxListed = 20;
const listed = (ports: readonly PortRow[]) =>
  ports.length === 0
    ? "none"
    : ports
        .slice(0, maxListed)
        .map((port) => port.name)
        .join(", ") + (ports.length > maxListed ? ", …" : "");

/** A cell of ovs-vsctl's JSON (RFC 7047, 5.1): a set becomes a list, unless it has one member; a uuid its text. */
function plain(cell: unknown): unknown {
  if (!Array.isArray(cell)) return cell;
  const [kind, value] = cell as [string, unknown];
  if (kind === "uuid") return value;
  if (kind !== "set") return cell;
  // Thousands of VLANs need no second look.
  return Array.isArray((value as unknown[])[0]) ? (value as unknown[]).map(plain) : value;
}

const members = (cell: unknown): unknown[] => (Array.isArray(cell) ? cell : [cell]);
const numbers = (cell: unknown): number[] => members(cell).filter((member) => typeof member === "number");
const optional = <T>(cell: unknown): T | null => (members(cell)[0] as T | undefined) ?? null;

function portRow(row: Record<string, unknown>): PortRow {
  const tag = optional<number>(row["tag"]);
  return {
    uuid: String(row["_uuid"]),
    name: String(row["name"]),
    // ovs-vswitchd.conf.db(5): without a mode, a port with a tag is an access port, any other one a trunk.
    mode: optional<string>(row["vlan_mode"]) ?? (tag === null ? "trunk" : "access"),
    tag,
    trunks: numbers(row["trunks"]),
    protected: row["protected"] === true,
  };
}

const mirrorRow = (row: Record<string, unknown>): MirrorRow => ({
  name: String(row["name"]),
  outputPort: optional<string>(row["output_port"]),
  outputVlan: optional<number>(row["output_vlan"]),
});

import type { PortState } from "./driver.ts";
import {
  type ConsoleProfile,
  consoleDriver,
  foreignPort,
  parseFields,
  parseVlans,
  type Reading,
  trunkReading,
  vlanChanges,
  vlanLists,
  withoutLeadingZeros,
} from "./console.ts";

/**
 * Cisco Nexus 3000, 5000 and 9000. A trunk always has a native VLAN: without one it is the dummy VLAN, which does
 * not exist on the switch (`no vlan 2222`) and is not allowed, so untagged frames are dropped.
 */
export const nexusProfile: ConsoleProfile = {
  name: "nexus",
  device: "Cisco Nexus",
  dummyVlan: true,
  capabilities: ["nativeless-trunk-mode"],
  highestVlan: 4094,
  portPattern: /^[Ee]thernet ?\d{1,3}(\/\d{1,3}){1,2}$/,
  portExamples: "ethernet1/42, Ethernet1/0/10, ethernet 1/42",
  canonicalPort,
  dialect: {
    pager: /--More--/i,
    errors: [/^\s*% ?[A-Z]/, /^ERROR:/i, /invalid (?:command|number|range|interface)/i, /^Copy failed/i],
    // 2026 Nov 23 06:11:13 switch %ETHPORT-5-IF_UP: Interface Ethernet1/1 is up
    log: /%[A-Z][A-Z0-9_]*-(?:[A-Z0-9_]+-)?[0-7]-[A-Z0-9_]+/,
  },
  modes: {
    user: { prompt: /^>$/, to: { privileged: "enable" } },
    privileged: { prompt: /^#$/, to: { config: "configure terminal" } },
    config: { prompt: /^\(config\)#$/, to: { privileged: "end" } },
    interface: { prompt: /^\(config-if(?:-range)?\)#$/, to: { config: "exit" } },
  },
  escape: "end",
  pagingOff: "terminal length 0",
  showSerial: "show version",
  showPort: (port) => `show interface ${typed(port)} switchport`,
  showAll: { command: "show interface switchport", split },
  parsePort,
  enterInterface: (ports) => `interface ${ports.map(typed).join(", ")}`,
  // About 250 characters a line.
  range: 12,
  change,
  save: {
    command: "copy running-config startup-config",
    question: /\(y\/n\).{0,12}$/i,
    answer: "y",
    done: /copy complete/i,
  },
};

export const nexus = consoleDriver(nexusProfile);

/** A port that routes, and switches nothing: foreign, and told apart by VLAN 0. */
const routedPort: PortState = { native: null, tagged: [0, ...foreignPort.tagged] };

/** `ethernet1/42`, however it was written. */
function canonicalPort(label: string): string {
  return withoutLeadingZeros(label.toLowerCase().replace(" ", ""));
}

const typed = (label: string): string => canonicalPort(label).replace(/^e/, "E");

function split(lines: readonly string[]): Map<string, string[]> {
  const parts = new Map<string, string[]>();
  let part: string[] = [];
  for (const line of lines) {
    const [, name] = /^\s*Name: (\S+)\s*$/.exec(line) ?? [];
    // A name twice is no answer for that port.
    if (name !== undefined) parts.set(canonicalPort(name), (part = parts.has(canonicalPort(name)) ? [] : [line]));
    else part.push(line);
  }
  return parts;
}

function parsePort(lines: readonly string[], port: string, dummyVlan: number | null): Reading | null {
  const fields = parseFields(lines, /^\s*Name:/, /^Trunking VLANs Allowed$/);
  if (!fields || canonicalPort(fields.get("Name")!) !== canonicalPort(port)) return null;
  const mode = fields.get("Operational Mode")?.toLowerCase();
  const natives = parseVlans(fields.get("Trunking Native Mode VLAN") ?? "?");
  const allowed = parseVlans(fields.get("Trunking VLANs Allowed") || "?");
  if (!mode || natives?.length !== 1 || !allowed) return null;
  if (/^disabled/i.test(fields.get("Switchport") ?? "")) return { state: routedPort };
  if (mode === "access") {
    const access = parseVlans(fields.get("Access Mode VLAN") ?? "?");
    return access?.length === 1 ? { state: { native: access[0]!, tagged: [] } } : null;
  }
  if (mode !== "trunk" && mode !== "down") return { state: foreignPort };
  const reading = trunkReading(natives[0]!, allowed, dummyVlan);
  // A port without a link may not say whether it is a trunk.
  return mode === "trunk" ? reading : { ...reading, unsure: true };
}

function change(actual: PortState, desired: PortState, dummyVlan: number | null): string[] {
  const { trunk, wanted, gone, fresh } = vlanChanges(actual, desired);
  const setNative = `switchport trunk native vlan ${desired.native ?? dummyVlan}`;
  // Only a trunk has tagged VLANs. Behind any other mode there may be a list that nobody has seen, by default of
  // every VLAN, so it is set anew, and the mode comes last.
  if (!trunk) {
    const [first = "none", ...more] = vlanLists(wanted);
    return [
      "switchport",
      // A routed port becomes an access port by that, in VLAN 1 until it is told otherwise.
      ...(actual.tagged.includes(0) ? [`switchport access vlan ${dummyVlan}`] : []),
      `switchport trunk allowed vlan ${first}`,
      ...more.map((list) => `switchport trunk allowed vlan add ${list}`),
      setNative,
      "switchport mode trunk",
    ];
  }
  return [
    ...vlanLists(gone).map((list) => `switchport trunk allowed vlan remove ${list}`),
    ...vlanLists(fresh).map((list) => `switchport trunk allowed vlan add ${list}`),
    ...(actual.native === desired.native ? [] : [setNative]),
  ];
}

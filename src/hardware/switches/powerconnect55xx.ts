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
 * Dell PowerConnect 5500. Every VLAN has to exist on the switch before a port can carry it.
 *
 * A port without a native VLAN has `native vlan none`, one without any VLAN `allowed vlan none` as well.
 */
export const powerConnect55xxProfile: ConsoleProfile = {
  name: "powerconnect55xx",
  device: "Dell PowerConnect 5500",
  dummyVlan: false,
  capabilities: ["nativeless-trunk-mode"],
  highestVlan: 4094,
  portPattern: /^(gi|te)\d{1,2}\/\d{1,2}\/\d{1,2}$/,
  portExamples: "gi1/0/5, te1/0/2",
  canonicalPort: withoutLeadingZeros,
  dialect: {
    pager: /More: <space>/i,
    errors: [/^%\s/, /^%(?![A-Z0-9_]+-\w)/, /unrecognized command/i, /bad parameter value/i, /^Copy failed/i],
    // 01-Jan-2000 01:02:03 %LINK-I-Up:  gi1/0/5
    log: /%[A-Z][A-Z0-9_]*-[A-Z]-\w+/,
  },
  modes: {
    user: { prompt: /^>$/, to: { privileged: "enable" } },
    privileged: { prompt: /^#$/, to: { config: "configure" } },
    config: { prompt: /^\(config\)#$/, to: { privileged: "exit" } },
    interface: { prompt: /^\(config-if\)#$/, to: { config: "exit" } },
  },
  escape: "exit",
  pagingOff: "terminal datadump",
  showSerial: "show system id",
  showPort: (port) => `show interfaces switchport ${port}`,
  parsePort,
  enterInterface: ([port]) => `interface ${port}`,
  change,
  save: {
    command: "copy running-config startup-config",
    question: /\(y\/n\).{0,12}$/i,
    answer: "y",
    done: /copy succeeded|copy operation was completed successfully/i,
  },
};

export const powerConnect55xx = consoleDriver(powerConnect55xxProfile);

function parsePort(lines: readonly string[], port: string): Reading | null {
  const fields = parseFields(lines, /^Name:/, /^Trunking VLANs Enabled$/, /^Classification rules:/);
  if (fields?.get("Name")?.toLowerCase() !== withoutLeadingZeros(port)) return null;
  // Not every firmware shows a mode; but where the access VLAN is shown, the mode is.
  const mode = fields.get("Administrative Mode")?.toLowerCase() ?? (fields.has("Access Mode VLAN") ? null : "trunk");
  if (mode === null) return null;
  const natives = parseVlans(fields.get("Trunking Native Mode VLAN") ?? "?");
  const allowed = parseVlans(fields.get("Trunking VLANs Enabled")!);
  if (!natives || natives.length > 1 || !allowed) return null;
  if (mode === "trunk") return trunkReading(natives[0] ?? null, allowed);
  const access = parseVlans(fields.get("Access Mode VLAN") ?? "?");
  if (mode !== "access" || access?.length !== 1) return { state: foreignPort };
  return { state: { native: access[0]!, tagged: [] } };
}

function change(actual: PortState, desired: PortState): string[] {
  const { native } = desired;
  // Only a trunk has tagged VLANs. Behind any other mode there may be a list that nobody has seen, so it is
  // emptied, and the mode comes last.
  const { trunk, gone, fresh } = vlanChanges(actual, desired);
  const nativeStays = trunk && actual.native === native;
  return [
    ...(nativeStays || (trunk && actual.native === null) ? [] : ["switchport trunk native vlan none"]),
    ...(trunk ? vlanLists(gone).map((list) => `switchport trunk allowed vlan remove ${list}`) : ["switchport trunk allowed vlan none"]),
    ...vlanLists(fresh).map((list) => `switchport trunk allowed vlan add ${list}`),
    // It has to be allowed first.
    ...(nativeStays || native === null ? [] : [`switchport trunk native vlan ${native}`]),
    ...(trunk ? [] : ["switchport mode trunk"]),
  ];
}

import type { PortState } from "./driver.ts";
import {
  type ConsoleProfile,
  consoleDriver,
  foreignPort,
  otherVlans,
  parseFields,
  parseVlans,
  type Reading,
  trunkReading,
  vlanChanges,
  vlanLists,
  withoutLeadingZeros,
} from "./console.ts";

const highestVlan = 4093;

/**
 * Dell N3000. A trunk always has a native VLAN: without one it is the dummy VLAN, which is not among the allowed ones,
 * so untagged frames are dropped. VLANs, the dummy one too, have to exist on the switch.
 */
export const dellN3000Profile: ConsoleProfile = {
  name: "delln3000",
  device: "Dell N3000",
  dummyVlan: true,
  capabilities: ["nativeless-trunk-mode"],
  highestVlan,
  portPattern: /^(gi|te)\d{1,2}\/\d{1,2}(\/\d{1,2})?$/,
  portExamples: "gi1/0/11, te1/0/12, gi1/12",
  canonicalPort,
  dialect: {
    pager: /--More--/i,
    errors: [
      /invalid input detected/i,
      /VLAN ID not found/i,
      /invalid interface has been used/i,
      /^%\s/,
      /^(?:error|failure|failed)\b/i,
      /not saved/i,
    ],
    // <189> Jan  1 01:02:03 switch-1 TRAPMGR[…]: traputil.c(721) 12 %% Link Up: Gi1/0/5
    log: /^<\d{1,3}>|%%\s/,
  },
  modes: {
    user: { prompt: /^>$/, to: { privileged: "enable" } },
    privileged: { prompt: /^#$/, to: { config: "configure" } },
    config: { prompt: /^\(config\)#$/, to: { privileged: "exit" } },
    interface: { prompt: /^\(config-if(?:-[a-z]+[\d/]+)?\)#$/i, to: { config: "exit" } },
  },
  escape: "exit",
  pagingOff: "terminal length 0",
  showSerial: "show version",
  showPort: (port) => `show interfaces switchport ${port}`,
  parsePort,
  enterInterface: ([port]) => `interface ${port}`,
  change,
  save: { command: "copy running-config startup-config", question: /\(y\/n\).{0,12}$/i, answer: "y", done: /configuration saved/i },
};

export const dellN3000 = consoleDriver(dellN3000Profile);

/** `gi1/12` is unit and port; the slot between them is 0. */
function canonicalPort(label: string): string {
  return withoutLeadingZeros(label).replace(/^([a-z]+\d+)\/(\d+)$/, "$1/0/$2");
}

function parsePort(lines: readonly string[], port: string, dummyVlan: number | null): Reading | null {
  const fields = parseFields(lines, /^Port:/, /^Trunking Mode VLANs Enabled$/);
  if (!fields || canonicalPort(fields.get("Port")!.toLowerCase()) !== canonicalPort(port)) return null;
  const mode = fields.get("VLAN Membership Mode")?.toLowerCase();
  const natives = parseVlans(fields.get("Trunking Mode Native VLAN") ?? "?");
  const allowed = parseVlans(fields.get("Trunking Mode VLANs Enabled")!, highestVlan);
  if (!mode || natives?.length !== 1 || !allowed) return null;
  const access = parseVlans(fields.get("Access Mode VLAN") ?? "?");
  if (mode.startsWith("access") && access?.length === 1) return { state: { native: access[0]!, tagged: [] } };
  if (!mode.startsWith("trunk")) return { state: foreignPort };
  return trunkReading(natives[0]!, allowed, dummyVlan);
}

function change(actual: PortState, desired: PortState, dummyVlan: number | null): string[] {
  const { native } = desired;
  // Only a trunk has tagged VLANs. Behind any other mode there may be a list that nobody has seen, by default of
  // every VLAN, so everything else is taken off it, and the mode comes last.
  const { trunk, wanted, gone, fresh } = vlanChanges(actual, desired);
  const excluded = trunk ? gone : otherVlans(wanted, highestVlan);
  const becomesNative = native ?? dummyVlan;
  return [
    // A native VLAN has to be allowed when it becomes one. Before the others go, because it can't be removed, only replaced.
    ...(trunk && actual.native === native
      ? []
      : [`switchport trunk allowed vlan add ${becomesNative}`, `switchport trunk native vlan ${becomesNative}`]),
    ...(native === null && !(trunk && actual.native === null) ? [`switchport trunk allowed vlan remove ${dummyVlan}`] : []),
    ...vlanLists(excluded).map((list) => `switchport trunk allowed vlan remove ${list}`),
    ...vlanLists(fresh.filter((vlan) => vlan !== native)).map((list) => `switchport trunk allowed vlan add ${list}`),
    ...(trunk ? [] : ["switchport mode trunk"]),
  ];
}

import {
  type Answer,
  changePorts,
  choosePorts,
  type Commands,
  common,
  type Dialect,
  type Mode,
  Refusal,
  type Shell,
  wrapped,
} from "./cli.ts";
import { both, either, isEmpty, noVlans, numbersOf, rangesOf, type Vlans, vlansFrom, vlansUpTo, without } from "./device.ts";

const highestVlan = 4094;
const allVlans = vlansUpTo(highestVlan);

const modeSuffix: Record<Mode, string> = {
  user: ">",
  exec: "#",
  config: "(config)#",
  interface: "(config-if)#",
  vlan: "(config-vlan)#",
};

/** VLANs must be created (`vlan database`) before a port can carry them. */
function mustExist({ device, ports }: Shell, vlans: Vlans): void {
  const missing = without(vlans, device.running.exist);
  if (isEmpty(missing)) return;
  throw new Refusal([`% Port ${ports[0]}: VLAN ${rangesOf(missing)[0]} was not created by user`]);
}

/**
 * A VLAN that leaves the allowed list stays the native VLAN, with `(Inactive)` behind it, and passes nothing: devices were
 * seen with `Trunking Native Mode VLAN: 3 (Inactive)` beside `Trunking VLANs Enabled: none`. It passes again, untagged,
 * as soon as it is allowed again.
 */
function allow(shell: Shell, change: (allowed: Vlans) => Vlans): void {
  changePorts(shell, ({ allowed }) => ({ allowed: change(allowed) }));
}

function setNative(shell: Shell, vlan: number): void {
  const { ports } = shell.device.running;
  const port = shell.ports.find((key) => !ports.get(key)!.allowed[vlan]);
  if (port !== undefined) throw new Refusal([`% Port ${port}: VLAN ${vlan} is not in the list of the allowed VLANs of the trunk`]);
  changePorts(shell, () => ({ native: vlan }));
}

/** VLANs that pass frames, then those that don't, which begin a line of their own. */
function enabledVlans(allowed: Vlans, active: Vlans): string[] {
  const field = "Trunking VLANs Enabled:";
  const passing = rangesOf(both(allowed, active));
  const inactive = rangesOf(without(allowed, active)).map((range) => `${range} (Inactive)`);
  if (passing.length === 0) return wrapped(field, inactive.length > 0 ? inactive : ["none"]);
  const below = inactive.length > 0 ? wrapped(" ".repeat(field.length), inactive) : [];
  return [...wrapped(field, passing), ...below];
}

function showSwitchport({ device }: Shell, keys: Iterable<string>): string[] {
  const { active } = device;
  return [...keys].flatMap((key) => {
    const { mode, accessVlan, native, allowed } = device.running.ports.get(key)!;
    const works = native !== null && active[native] && allowed[native];
    return [
      `Name: ${key}`,
      "Switchport: enable",
      `Administrative Mode: ${mode}`,
      "Operational Mode: up",
      `Access Mode VLAN: ${accessVlan}${active[accessVlan] ? "" : " (Inactive)"}`,
      "Access Multicast TV VLAN: none",
      `Trunking Native Mode VLAN: ${native === null ? "none" : works ? native : `${native} (Inactive)`}`,
      ...enabledVlans(allowed, active),
      "General PVID: 1",
      "General VLANs Enabled: none",
      "General Egress Tagged VLANs Enabled: none",
      "General Forbidden VLANs: none",
      "General Ingress Filtering: enabled",
      "General Acceptable Frame Type: all",
      "General GVRP status: disabled",
      "General GVRP VLANs: none",
      "Customer Mode VLAN: none",
      "Private-vlan promiscuous-association primary VLAN: none",
      "Private-vlan promiscuous-association Secondary VLANs Enabled: none",
      "Private-vlan host-association primary VLAN: none",
      "Private-vlan host-association Secondary VLAN Enabled: none",
      "DVA: disable",
      "",
      "Classification rules:",
      "",
      "Classification type Group ID VLAN ID",
      "------------------- -------- -------",
      "",
    ];
  });
}

const save = (shell: Shell): Answer => ({
  lines: [],
  ask: "Overwrite file [startup-config].... (Y/N)[N] ?",
  takes: "key",
  answered: (reply) => {
    if (!/^y$/i.test(reply)) return;
    shell.device.save();
    return [
      "01-Oct-2026 11:20:31 %COPY-I-FILECPY: Files Copy - source URL running-config destination URL flash://startup-config",
      "01-Oct-2026 11:20:34 %COPY-N-TRAP: The copy operation was completed successfully",
      "",
      "Copy succeeded",
    ];
  },
});

const exec: Commands = {
  ...common.exec,
  "terminal datadump": (shell) => {
    shell.paging = false;
  },
  "no terminal datadump": (shell) => {
    shell.paging = true;
  },
  "show interfaces switchport": (shell) => showSwitchport(shell, shell.device.running.ports.keys()),
  "show interfaces switchport <port>": (shell, { ports }) => showSwitchport(shell, ports),
  "show system id": ({ device }) => ["Service tag: 7TG5X2S", `Serial number: ${device.serial}`, "Asset tag: none", ""],
  "show vlan": ({ device }) => [
    "",
    "Created by: D-Default, S-Static, G-GVRP, R-Radius Assigned VLAN, V-Voice VLAN",
    "",
    "Vlan       Name           Tagged Ports      UnTagged Ports      Created by    ",
    "---- ----------------- ------------------ ------------------ ----------------",
    ...numbersOf(device.running.exist).map((vlan) => `${`${vlan}`.padStart(4)} ${`${vlan}`.padStart(17)} ${" ".repeat(40)} S`),
    "",
  ],
  "show version": () => [
    "SW version    4.1.0.22 ( date  11-Oct-2015 time  12:42:07 )",
    "Boot version    1.0.0.14",
    "HW version    00.00.02",
    "",
  ],
  "copy running-config startup-config": save,
  "write memory": save,
};

const config: Commands = {
  ...common.config,
  "vlan database": (shell) => {
    shell.mode = "vlan";
  },
  "interface <port>": choosePorts,
  "interface range <ports>": choosePorts,
};

const vlan: Commands = {
  ...config,
  ...common.below,
  "vlan <vlans>": ({ device }, { vlans }) => {
    device.running = { ...device.running, exist: either(device.running.exist, vlans) };
  },
  "no vlan <vlans>": ({ device }, { vlans }) => {
    if (vlans[1]) throw new Refusal(["% Default VLAN can not be deleted"]);
    device.running = { ...device.running, exist: without(device.running.exist, vlans) };
  },
};

const ofInterface: Commands = {
  ...config,
  ...common.below,
  ...common.interface,
  "switchport access vlan <vlan>": (shell, { vlan }) => {
    mustExist(shell, vlansFrom([vlan]));
    changePorts(shell, () => ({ accessVlan: vlan }));
  },
  "switchport trunk allowed vlan all": (shell) => allow(shell, () => allVlans),
  "switchport trunk allowed vlan none": (shell) => allow(shell, () => noVlans),
  "switchport trunk allowed vlan add <vlans>": (shell, { vlans }) => {
    mustExist(shell, vlans);
    allow(shell, (allowed) => either(allowed, vlans));
  },
  "switchport trunk allowed vlan remove <vlans>": (shell, { vlans }) => allow(shell, (allowed) => without(allowed, vlans)),
  "no switchport trunk allowed vlan": (shell) => allow(shell, () => allVlans),
  "switchport trunk native vlan <vlan>": (shell, { vlan }) => {
    mustExist(shell, vlansFrom([vlan]));
    setNative(shell, vlan);
  },
  "switchport trunk native vlan none": (shell) => changePorts(shell, () => ({ native: null })),
};

/** Dell PowerConnect 5500. */
export const powerconnect55xx: Dialect = {
  highestVlan,
  kinds: { gi: "gigabitethernet", te: "tengigabitethernet" },
  factory: { switching: true, mode: "access", accessVlan: 1, native: 1, allowed: allVlans },
  defaultPorts: ["gi1/0/1", "gi1/0/2"],
  defaultHostname: "console",
  dummyExists: null,
  ident: "OpenSSH_5.9p1",
  motd: [
    "##########################################",
    "# Row 3 > rack 7 #  staff only, see sw-07>",
    "# Maintenance: console# is watched #",
  ],
  login: {
    name: "User Name:",
    password: "Password:",
    wrong: ["authentication failed"],
    tooManyTries: ["", "Too many login attempts, the session is closed"],
    tooManySessions: ["% Maximum number of sessions is reached, try again later"],
  },
  beforePrompt: "",
  prompt: ({ hostname, mode, ports }) => hostname + (mode === "interface" && ports.length > 1 ? "(config-if-range)#" : modeSuffix[mode]),
  pager: { text: "More: <space>,  Quit: q, One line: <return> ", erase: `\r${" ".repeat(44)}\r` },
  lineLimit: 254,
  tooLong: ["% Command line is too long"],
  wrap: null,
  complain(problem) {
    switch (problem) {
      case "unknown":
        return ["% Unrecognized command"];
      case "ambiguous":
        return ["% Ambiguous command"];
      case "incomplete":
        return ["% Incomplete command"];
      case "value":
      case "not a port":
      case "no port":
        return ["% bad parameter value"];
    }
  },
  refusal: ["% The operation failed, the system is busy"],
  logLine: (number) =>
    number % 2 === 0
      ? `01-Oct-2026 11:${10 + (number % 50)}:07 %LINK-W-Down:  gi1/0/${(number % 24) + 21}`
      : `01-Oct-2026 11:${10 + (number % 50)}:09 %STP-W-PORTSTATUS: gi1/0/${(number % 24) + 21}: STP status Forwarding`,
  commands: { user: common.user, exec, config, interface: ofInterface, vlan },
};

import { type Answer, caret, changePorts, choosePorts, type Commands, common, type Dialect, Refusal, type Shell, wrapped } from "./cli.ts";
import {
  both,
  type Device,
  either,
  isEmpty,
  noVlans,
  numbersOf,
  type PortConfig,
  rangesOf,
  sameVlans,
  type Vlans,
  vlansFrom,
  vlansUpTo,
  without,
} from "./device.ts";

const highestVlan = 4093;
const allVlans = vlansUpTo(highestVlan);

const display = (key: string) => key[0]!.toUpperCase() + key.slice(1);

const warning = [
  "Warning: The use of large numbers of VLANs or interfaces may cause significant",
  "delays in applying the configuration.",
  "",
];

function mustExist({ running }: Device, vlans: Vlans): void {
  if (!isEmpty(without(vlans, running.exist))) throw new Refusal(["VLAN ID not found."]);
}

/**
 * The native VLAN stays what it is when it leaves the list; untagged frames are dropped then, says the CLI guide
 * of the N-series ("To drop untagged traffic on a trunk port, remove the native VLAN from the trunk port").
 */
function allow(shell: Shell, change: (allowed: Vlans) => Vlans): Answer {
  changePorts(shell, ({ allowed }) => ({ allowed: change(allowed) }));
  return warning;
}

function setNative(shell: Shell, vlan: number): void {
  const { ports } = shell.device.running;
  if (shell.ports.some((key) => !ports.get(key)!.allowed[vlan])) {
    throw new Refusal([`ERROR: VLAN ${vlan} is not in the list of VLANs that are allowed on the trunk.`]);
  }
  changePorts(shell, () => ({ native: vlan }));
}

const named = (vlan: number) => (vlan === 1 ? "1 (default)" : `${vlan}`);

/** The untagged VLAN in brackets, then the tagged ones. */
function members({ mode, accessVlan, native, allowed }: PortConfig, active: Vlans): string[] {
  const untagged = mode === "access" ? accessVlan : native!;
  const tagged = mode === "access" ? noVlans : without(both(allowed, active), vlansFrom([untagged]));
  const isMember = active[untagged] && (mode === "access" || allowed[untagged]);
  return [...(isMember ? [`(${untagged})`] : []), ...rangesOf(tagged)];
}

function showSwitchport({ device }: Shell, keys: Iterable<string>): string[] {
  return [...keys].flatMap((key) => {
    const port = device.running.ports.get(key)!;
    return [
      "",
      `Port: ${display(key)}`,
      `VLAN Membership Mode: ${port.mode === "trunk" ? "Trunk" : "Access"} Mode`,
      ...wrapped("Member of VLANs :", members(port, device.active)),
      `Access Mode VLAN: ${named(port.accessVlan)}`,
      "General Mode PVID: 1 (default)",
      "General Mode Ingress Filtering: Enabled",
      "General Mode Acceptable Frame Type: Admit All",
      "General Mode Dynamically Added VLANs:",
      "General Mode Untagged VLANs: 1",
      "General Mode Tagged VLANs:",
      "General Mode Forbidden VLANs:",
      `Trunking Mode Native VLAN: ${named(port.native!)}`,
      "Trunking Mode Native VLAN Tagging: Disabled",
      // Every VLAN of the device reads `All`.
      ...wrapped("Trunking Mode VLANs Enabled:", sameVlans(port.allowed, allVlans) ? ["All"] : rangesOf(port.allowed)),
      "Private VLAN Host Association: none",
      "Private VLAN Mapping:",
      "Private VLAN Operational Bindings:",
      "Default Priority: 0",
      "Protected: Disabled",
      "",
    ];
  });
}

const save = (shell: Shell): Answer => ({
  lines: ["", "This operation may take a few minutes.", "Management interfaces will not be available during this time.", ""],
  ask: "Are you sure you want to save? (y/n) ",
  takes: "key",
  answered: (reply) => {
    if (!/^y$/i.test(reply)) return ["", "Configuration Not Saved!"];
    shell.device.save();
    return ["", "Configuration Saved!"];
  },
});

const exec: Commands = {
  ...common.exec,
  "terminal length <number>": (shell, { number }) => {
    shell.paging = number > 0;
  },
  "show interfaces switchport": (shell) => showSwitchport(shell, shell.device.running.ports.keys()),
  "show interfaces switchport <port>": (shell, { ports }) => showSwitchport(shell, ports),
  "show vlan": ({ device }) => [
    "",
    "VLAN   Name                             Ports          Type",
    "-----  ---------------                  -------------  --------------",
    ...numbersOf(device.running.exist).map((vlan) =>
      vlan === 1
        ? "1      default                                         Default"
        : `${`${vlan}`.padEnd(7)}VLAN${`${vlan}`.padStart(4, "0")}${" ".repeat(40)}Static`,
    ),
    "",
  ],
  "show version": ({ device }) => [
    "",
    "Machine Description............... Dell Networking Switch",
    "System Model ID................... N3048",
    `Serial Number..................... ${device.serial}`,
    "",
  ],
  "copy running-config startup-config": save,
  "write memory": save,
};

const config: Commands = {
  ...common.config,
  "vlan <vlans>": (shell, { vlans }) => {
    const { device } = shell;
    device.running = { ...device.running, exist: either(device.running.exist, vlans) };
    shell.mode = "vlan";
    shell.vlans = vlans;
  },
  "no vlan <vlans>": ({ device }, { vlans }) => {
    if (vlans[1]) throw new Refusal(["The default VLAN cannot be deleted."]);
    mustExist(device, vlans);
    device.running = { ...device.running, exist: without(device.running.exist, vlans) };
  },
  "interface <port>": choosePorts,
  "interface range <ports>": choosePorts,
};

const ofInterface: Commands = {
  ...config,
  ...common.below,
  ...common.interface,
  "switchport access vlan <vlan>": (shell, { vlan }) => {
    mustExist(shell.device, vlansFrom([vlan]));
    changePorts(shell, () => ({ accessVlan: vlan }));
  },
  "switchport trunk allowed vlan all": (shell) => allow(shell, () => allVlans),
  "switchport trunk allowed vlan <vlans>": (shell, { vlans }) => {
    mustExist(shell.device, vlans);
    return allow(shell, () => vlans);
  },
  "switchport trunk allowed vlan add <vlans>": (shell, { vlans }) => {
    mustExist(shell.device, vlans);
    return allow(shell, (allowed) => either(allowed, vlans));
  },
  "switchport trunk allowed vlan remove <vlans>": (shell, { vlans }) => allow(shell, (allowed) => without(allowed, vlans)),
  "switchport trunk allowed vlan except <vlans>": (shell, { vlans }) => allow(shell, () => without(allVlans, vlans)),
  "no switchport trunk allowed vlan": (shell) => allow(shell, () => allVlans),
  "switchport trunk native vlan <vlan>": (shell, { vlan }) => {
    mustExist(shell.device, vlansFrom([vlan]));
    setNative(shell, vlan);
  },
};

function prompt({ hostname, mode, ports, vlans }: Shell): string {
  switch (mode) {
    case "user":
      return `${hostname}>`;
    case "exec":
      return `${hostname}#`;
    case "config":
      return `${hostname}(config)#`;
    case "interface":
      return ports.length > 1 ? `${hostname}(config-if)#` : `${hostname}(config-if-${display(ports[0]!)})#`;
    case "vlan":
      return `${hostname}(config-vlan${rangesOf(vlans)[0]})#`;
  }
}

/** Dell N3000. */
export const delln3000: Dialect = {
  highestVlan,
  kinds: { gi: "gigabitethernet", te: "tengigabitethernet" },
  factory: { switching: true, mode: "access", accessVlan: 1, native: 1, allowed: allVlans },
  defaultPorts: ["gi1/0/1", "gi1/0/2"],
  defaultHostname: "console",
  dummyExists: true,
  ident: "OpenSSH_6.7",
  motd: ["-----------------------------------------", "Hall B #2 > cold aisle.  Call noc# 4711>", "Do not leave console(config)# open >"],
  login: {
    name: "User:",
    password: "Password:",
    wrong: ["Incorrect Login!  Reason: wrong user name or password."],
    tooManyTries: ["", "Maximum number of login attempts exceeded."],
    tooManySessions: ["Sorry, maximum number of sessions are already open."],
  },
  beforePrompt: "\r\n",
  prompt,
  pager: { text: "--More-- or (q)uit", erase: `\r${" ".repeat(18)}\r` },
  lineLimit: 254,
  tooLong: ["Command line is too long."],
  wrap: null,
  complain(problem, column) {
    switch (problem) {
      case "unknown":
      case "value":
      case "not a port":
        return [caret(column), "% Invalid input detected at '^' marker."];
      case "ambiguous":
        return [caret(column), "% Ambiguous input detected at '^' marker."];
      case "incomplete":
        return ["", "Command not found / Incomplete command. Use ? to list commands."];
      case "no port":
        return ["", "An invalid interface has been used for this function."];
    }
  },
  refusal: ["", "ERROR: The request could not be completed."],
  logLine: (number, hostname) =>
    number % 2 === 0
      ? `<189> Oct  1 11:${10 + (number % 50)}:07 ${hostname}-1 TRAPMGR[trapTask]: traputil.c(721) ${4000 + number} %% NOTE Link Down: Gi1/0/${(number % 24) + 21}`
      : `<190> Oct  1 11:${10 + (number % 50)}:09 ${hostname}-1 CLI_WEB[emWeb]: cmd_logger_api.c(83) ${4000 + number} %% INFO [CLI:admin:10.0.0.7] User logged in`,
  commands: { user: common.user, exec, config, interface: ofInterface, vlan: { ...config, ...common.below } },
};

import {
  type Answer,
  caret,
  changePorts,
  choosePorts,
  type Commands,
  common,
  type Dialect,
  type Mode,
  Refusal,
  type Shell,
} from "./cli.ts";
import { either, noVlans, numbersOf, type PortConfig, rangesOf, type Vlans, vlansUpTo, without } from "./device.ts";

const highestVlan = 4094;
const allVlans = vlansUpTo(highestVlan);

const modeSuffix: Record<Mode, string> = {
  user: "> ",
  exec: "# ",
  config: "(config)# ",
  interface: "(config-if)# ",
  vlan: "(config-vlan)# ",
};

const display = (key: string) => key.replace("eth", "Ethernet");

const factory: PortConfig = { switching: true, mode: "access", accessVlan: 1, native: 1, allowed: allVlans };

const allow = (shell: Shell, change: (allowed: Vlans) => Vlans) => changePorts(shell, ({ allowed }) => ({ allowed: change(allowed) }));

function named(vlan: number, exist: Vlans): string {
  if (!exist[vlan]) return `${vlan} (Vlan not created)`;
  return vlan === 1 ? "1 (default)" : `${vlan} (VLAN${`${vlan}`.padStart(4, "0")})`;
}

function showSwitchport({ device }: Shell, keys: Iterable<string>): string[] {
  const { exist, ports } = device.running;
  return [...keys].flatMap((key) => {
    const { switching, mode, accessVlan, native, allowed } = ports.get(key)!;
    return [
      `Name: ${display(key)}`,
      `  Switchport: ${switching ? "Enabled" : "Disabled"}`,
      "  Switchport Monitor: Not enabled",
      "  Switchport Isolated : Not enabled",
      "  Switchport Block Multicast: Not enabled",
      "  Switchport Block Unicast: Not enabled",
      `  Operational Mode: ${mode}`,
      `  Access Mode VLAN: ${named(accessVlan, exist)}`,
      `  Trunking Native Mode VLAN: ${named(native!, exist)}`,
      `  Trunking VLANs Allowed: ${rangesOf(allowed).join(",") || "none"}`,
      "  Voice VLAN: none",
      "  Extended Trust State : not trusted [COS = 0]",
      "  Administrative private-vlan primary host-association: none",
      "  Administrative private-vlan secondary host-association: none",
      "  Administrative private-vlan primary mapping: none",
      "  Administrative private-vlan secondary mapping: none",
      "  Administrative private-vlan trunk native VLAN: none",
      "  Administrative private-vlan trunk encapsulation: dot1q",
      "  Administrative private-vlan trunk normal VLANs: none",
      "  Administrative private-vlan trunk private VLANs: none",
      "  Operational private-vlan: none",
    ];
  });
}

/** A bar that is drawn over itself until it is full. */
function save(shell: Shell): Answer {
  shell.device.save();
  const bar = [1, 27, 64, 100].map((percent) => `[${"#".repeat(percent * 0.4).padEnd(40)}] ${`${percent}`.padStart(3)}%`);
  return [bar.join("\r"), "Copy complete, now saving to disk (please wait)...", "Copy complete."];
}

const exec: Commands = {
  ...common.exec,
  end: () => {},
  configure: enterConfig,
  "configure terminal": enterConfig,
  "terminal length <number>": (shell, { number }) => {
    shell.paging = number > 0;
  },
  "terminal width <number>": (shell, { number }) => {
    shell.width = number;
  },
  "show interface switchport": (shell) => showSwitchport(shell, shell.device.running.ports.keys()),
  "show interface <ports> switchport": (shell, { ports }) => showSwitchport(shell, ports),
  "show vlan": showVlan,
  "show vlan brief": showVlan,
  "show version": ({ device }) => [
    "Cisco Nexus Operating System (NX-OS) Software",
    "",
    "Software",
    "  system:    version 6.0(2)A8(11)",
    "",
    "Hardware",
    "  cisco Nexus 3548 Chassis",
    `  Processor Board ID ${device.serial}`,
    "",
  ],
  "copy running-config startup-config": save,
};

function enterConfig(shell: Shell): Answer {
  shell.mode = "config";
  return ["Enter configuration commands, one per line.  End with CNTL/Z."];
}

function showVlan({ device }: Shell): string[] {
  const { exist, suspended } = device.running;
  return [
    "",
    "VLAN Name                             Status    Ports",
    "---- -------------------------------- --------- -------------------------------",
    ...numbersOf(exist).map((vlan) => {
      const name = vlan === 1 ? "default" : `VLAN${`${vlan}`.padStart(4, "0")}`;
      return `${`${vlan}`.padEnd(4)} ${name.padEnd(32)} ${suspended[vlan] ? "suspended" : "active"}`;
    }),
    "",
  ];
}

/** Its config modes know the commands of the exec mode too. */
const config: Commands = {
  ...exec,
  ...common.config,
  "vlan <vlans>": (shell, { vlans }) => {
    const { device } = shell;
    device.running = { ...device.running, exist: either(device.running.exist, vlans) };
    shell.mode = "vlan";
    shell.vlans = vlans;
  },
  "no vlan <vlans>": ({ device }, { vlans }) => {
    if (vlans[1]) throw new Refusal(["ERROR: Cannot delete default VLAN"]);
    const { exist, suspended } = device.running;
    device.running = { ...device.running, exist: without(exist, vlans), suspended: without(suspended, vlans) };
  },
  "interface <ports>": choosePorts,
};

const suspend = ({ device, vlans }: Shell) => {
  device.running = { ...device.running, suspended: either(device.running.suspended, vlans) };
};
const activate = ({ device, vlans }: Shell) => {
  device.running = { ...device.running, suspended: without(device.running.suspended, vlans) };
};

const vlan: Commands = {
  ...config,
  ...common.below,
  "state suspend": suspend,
  "state active": activate,
  shutdown: suspend,
  "no shutdown": activate,
};

/** Unlike the others, it takes VLANs that do not exist, in every list and as native VLAN. */
const ofInterface: Commands = {
  ...config,
  ...common.below,
  ...common.interface,
  switchport: (shell) => changePorts(shell, ({ switching }) => (switching ? {} : factory)),
  "no switchport": (shell) => changePorts(shell, () => ({ switching: false })),
  "switchport access vlan <vlan>": (shell, { vlan }) => changePorts(shell, () => ({ accessVlan: vlan })),
  "switchport trunk allowed vlan all": (shell) => allow(shell, () => allVlans),
  "switchport trunk allowed vlan none": (shell) => allow(shell, () => noVlans),
  "switchport trunk allowed vlan <vlans>": (shell, { vlans }) => allow(shell, () => vlans),
  "switchport trunk allowed vlan add <vlans>": (shell, { vlans }) => allow(shell, (allowed) => either(allowed, vlans)),
  "switchport trunk allowed vlan remove <vlans>": (shell, { vlans }) => allow(shell, (allowed) => without(allowed, vlans)),
  "switchport trunk allowed vlan except <vlans>": (shell, { vlans }) => allow(shell, () => without(allVlans, vlans)),
  "no switchport trunk allowed vlan": (shell) => allow(shell, () => allVlans),
  "switchport trunk native vlan <vlan>": (shell, { vlan }) => changePorts(shell, () => ({ native: vlan })),
};

/** Cisco Nexus 3000, 5000 and 9000. */
export const nexus: Dialect = {
  highestVlan,
  kinds: { eth: "ethernet" },
  factory,
  defaultPorts: ["Ethernet1/1", "Ethernet1/2"],
  defaultHostname: "switch",
  dummyExists: false,
  ident: "OpenSSH_7.5",
  motd: ["Nexus of the second floor > racks 20#39", "Tickets go to noc #", "Who needs the switch# asks first>"],
  login: {
    name: "login: ",
    password: "Password: ",
    wrong: ["Login incorrect", ""],
    tooManyTries: ["Maximum login attempts exceeded"],
    tooManySessions: ["User session limit reached, please try again later"],
  },
  beforePrompt: "",
  prompt: ({ hostname, mode, ports }) => hostname + (mode === "interface" && ports.length > 1 ? "(config-if-range)# " : modeSuffix[mode]),
  pager: { text: "--More--", erase: `${"\b".repeat(8)}${" ".repeat(8)}${"\b".repeat(8)}` },
  lineLimit: 511,
  tooLong: ["% Command line is too long"],
  wrap: " \r",
  complain(problem, column) {
    switch (problem) {
      case "unknown":
        return [caret(column), "% Invalid command at '^' marker."];
      case "ambiguous":
        return [caret(column), "% Ambiguous command at '^' marker."];
      case "incomplete":
        return [caret(column), "% Incomplete command at '^' marker."];
      case "value":
        return [caret(column), "% Invalid number at '^' marker."];
      case "not a port":
      case "no port":
        // Without a per cent sign.
        return [caret(column), "Invalid interface format at '^' marker."];
    }
  },
  refusal: ["ERROR: Failed to apply the configuration, resource is busy"],
  logLine: (number, hostname) =>
    number % 2 === 0
      ? `2026 Oct  1 11:${10 + (number % 50)}:07 ${hostname} %ETHPORT-5-IF_DOWN_LINK_FAILURE: Interface Ethernet1/${(number % 24) + 21} is down (Link failure)`
      : `2026 Oct  1 11:${10 + (number % 50)}:09 ${hostname} %ETHPORT-5-SPEED: Interface Ethernet1/${(number % 24) + 21}, operational speed changed to 10 Gbps`,
  commands: { user: common.user, exec, config, interface: ofInterface, vlan },
};

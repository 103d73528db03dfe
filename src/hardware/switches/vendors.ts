import { Type } from "@sinclair/typebox";
import { badArgument, quote, SwitchError } from "../../errors.ts";
import { field, fields, secretField } from "../settings.ts";
import type { SwitchDriver } from "./driver.ts";

/**
 * The vendor switches that can be registered, but not driven yet: their fields and port names are
 * checked, and an action on one ends in ERROR saying so.
 */

const login = {
  hostname: field("Address of the switch: `host` or `host:port`", "switch-01"),
  username: field("Login name", "admin"),
  password: secretField("Login password"),
};

const consoleLogin = {
  ...login,
  transport: Type.Optional(
    Type.Union([Type.Literal("ssh"), Type.Literal("telnet")], { description: "How to reach the console; `ssh` by default" }),
  ),
  key_file: Type.Optional(field("A private key on the server", "/etc/haas/switch.key")),
  enable_password: Type.Optional(secretField("Password of the enable mode")),
};

/** 1 to 4096, as a number or a numeric string. Published clients may name 4095 and 4096, which no device takes. */
const dummyVlan = Type.Union(
  [Type.Integer({ minimum: 1, maximum: 4096 }), Type.RegExp(/^0*(?:[1-9]\d{0,2}|[1-3]\d{3}|40[0-8]\d|409[0-6])$/)],
  {
    description: "A VLAN that exists on the switch and carries nothing: it stands for `no native VLAN`",
    examples: [2222],
  },
);

interface Vendor extends Pick<SwitchDriver, "name" | "settings" | "capabilities" | "highestVlan"> {
  device: string;
  extraPositional: readonly string[];
  portPattern: RegExp;
  portExamples: string;
}

function vendor({ device, extraPositional, portPattern, portExamples, ...driver }: Vendor): SwitchDriver {
  return {
    ...driver,
    positional: ["hostname", "username", "password", ...extraPositional],
    validatePort(label) {
      if (!portPattern.test(label)) throw badArgument(`${quote(label)} is not a port name of a ${device}. Legal forms: ${portExamples}.`);
    },
    plan: () => [],
    async open({ label }) {
      throw new SwitchError(`Switch ${quote(label)}: this haas can't drive a ${device} yet.`, true);
    },
  };
}

export const powerConnect55xx = vendor({
  name: "powerconnect55xx",
  device: "Dell PowerConnect 5500",
  settings: fields(consoleLogin),
  extraPositional: [],
  capabilities: ["nativeless-trunk-mode"],
  highestVlan: 4094,
  portPattern: /^(gi|te)\d{1,2}\/\d{1,2}\/\d{1,2}$/,
  portExamples: "gi1/0/5, te1/0/2",
});

export const dellN3000 = vendor({
  name: "delln3000",
  device: "Dell N3000",
  settings: fields({ ...consoleLogin, dummy_vlan: dummyVlan }),
  extraPositional: ["dummy_vlan"],
  capabilities: ["nativeless-trunk-mode"],
  highestVlan: 4093,
  portPattern: /^(gi|te)\d{1,2}\/\d{1,2}(\/\d{1,2})?$/,
  portExamples: "gi1/0/11, te1/0/12, gi1/12",
});

export const nexus = vendor({
  name: "nexus",
  device: "Cisco Nexus",
  settings: fields({ ...consoleLogin, dummy_vlan: dummyVlan }),
  extraPositional: ["dummy_vlan"],
  capabilities: ["nativeless-trunk-mode"],
  highestVlan: 4094,
  portPattern: /^[Ee]thernet ?\d{1,3}(\/\d{1,3}){1,2}$/,
  portExamples: "ethernet1/42, Ethernet1/0/10, ethernet 1/42",
});

export const brocade = vendor({
  name: "brocade",
  device: "Brocade VDX",
  settings: fields({ ...login, interface_type: field("Kind of the interfaces", "TenGigabitEthernet") }),
  extraPositional: ["interface_type"],
  capabilities: [],
  highestVlan: 4094,
  portPattern: /^\d{1,3}\/\d{1,2}\/\d{1,3}$/,
  portExamples: "1/0/10, 101/0/10",
});

export const dellNos9 = vendor({
  name: "dellnos9",
  device: "Dell Networking OS 9",
  settings: fields({ ...login, interface_type: field("Kind of the interfaces", "GigabitEthernet") }),
  extraPositional: ["interface_type"],
  capabilities: [],
  highestVlan: 4094,
  portPattern: /^\d{1,2}\/\d{1,3}(\/\d{1,3})?$/,
  portExamples: "1/3, 1/0/3",
});

import { type Arguments, client, type OptionName, optionSpecs, type Options } from "./command.ts";
import { driftCommands } from "./drift.ts";
import { withDryRun } from "./dry-run.ts";
import { detail } from "./help.ts";
import { queuedAction } from "./networks.ts";
import { facts, names, only } from "./output.ts";
import { reconcileCommand } from "./reconcile.ts";
import { readSecret } from "./secret.ts";
import { switchTestCommand } from "./switch-test.ts";

const switchName = "name of the switch";
const port = "name of the port, as the switch knows it";
const node = "name of the node";
const nic = "name of the nic";

/** Published types share this prefix. */
export const switchTypePrefix = "http://schema.massopencloud.org/haas/v0/switches/";

const login = {
  host: "address of the switch",
  user: "login name",
  password: { about: "login password; - reads it from standard input", verbatim: true },
} as const;
const dummyVlan = { dummy_vlan: "a VLAN that carries nothing: it stands for no native VLAN" };
const interfaceType = { interface_type: "kind of the interfaces, such as TenGigabitEthernet" };

/** What each kind of switch takes, in order. A test compares it with the drivers. */
const switchArguments: Readonly<Record<string, Arguments>> = {
  mock: login,
  powerconnect55xx: login,
  nexus: { ...login, ...dummyVlan },
  delln3000: { ...login, ...dummyVlan },
  brocade: { ...login, ...interfaceType },
  dellnos9: { ...login, ...interfaceType },
  ovs: {
    bridge: "name of the Open vSwitch bridge",
    database: {
      about: "where its OVSDB listens: path of the socket, unix:/path, tcp:address:port; default: the local one",
      optional: true,
    },
  },
};

const consoleOptions = ["transport", "keyFile", "enablePassword", "legacyAlgorithms"] as const;
const restOptions = ["tls", "caFile"] as const;

/** The optional fields that a kind of switch takes as options. A test compares them with the drivers, too. */
const switchOptions: Readonly<Record<string, readonly OptionName[]>> = {
  powerconnect55xx: consoleOptions,
  nexus: consoleOptions,
  delln3000: consoleOptions,
  brocade: restOptions,
  dellnos9: restOptions,
};

/** The names of the API where the command line's are shorter. */
const fieldOf: Readonly<Record<string, string>> = { host: "hostname", user: "username", bridge: "ovs_bridge" };

const fieldOfOption = (option: OptionName): string => optionSpecs[option].flag.slice(2).replaceAll("-", "_");

/** The fields of the registration of each kind of switch, besides its type. */
export const switchFields: Readonly<Record<string, { readonly required: readonly string[]; readonly optional: readonly string[] }>> =
  Object.fromEntries(
    Object.entries(switchArguments).map(([kind, args]) => {
      const [required, optional] = [false, true].map((wanted) =>
        Object.entries(args)
          .filter(([, argument]) => (detail(argument).optional ?? false) === wanted)
          .map(([name]) => fieldOf[name] ?? name),
      );
      return [kind, { required: required!, optional: [...optional!, ...(switchOptions[kind] ?? []).map(fieldOfOption)] }];
    }),
  );

/** The fields of a registration that were given as options: `--key-file` is `key_file`. */
function optionFields(options: Options): Record<string, string | boolean> {
  const given = [...consoleOptions, ...restOptions].map((option) => [fieldOfOption(option), options[option]]);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined));
}

const head = { switch: switchName, subtype: "kind of switch" };

export const switchCommands = [
  client({
    name: "switch_register",
    grouped: "switch register",
    about: "register a switch and how to reach it",
    args: head,
    variants: Object.fromEntries(Object.entries(switchArguments).map(([subtype, args]) => [subtype, { ...head, ...args }])),
    variantOptions: switchOptions,
    call: async ({ switch: label, subtype, ...others }, options) => {
      const values: Record<string, string> = others;
      const settings: Record<string, string | boolean> = optionFields(options);
      for (const [name, value] of Object.entries(values)) settings[fieldOf[name] ?? name] = value;
      // One after the other: both may be lines of standard input, in this order.
      for (const [field, prompt] of Object.entries({ password: "Password", enable_password: "Enable password" })) {
        if (typeof settings[field] === "string") settings[field] = await readSecret(settings[field], prompt);
      }
      return { method: "PUT", path: ["switch", label], body: { type: switchTypePrefix + subtype, ...settings } };
    },
  }),
  client({
    name: "switch_delete",
    grouped: "switch delete",
    about: "delete a switch without ports",
    args: { switch: switchName },
    call: (a) => ({ method: "DELETE", path: ["switch", a.switch] }),
  }),
  client({
    name: "list_switches",
    grouped: "switch list",
    about: "list the switches",
    args: {},
    call: () => ({ method: "GET", path: ["switches"] }),
    answer: names,
  }),
  client({
    name: "show_switch",
    grouped: "switch show",
    about: "show a switch: its ports and capabilities",
    args: { switch: switchName },
    call: (a) => ({ method: "GET", path: ["switch", a.switch] }),
    answer: facts,
  }),
  switchTestCommand,
  client({
    name: "switch_forget_host_key",
    grouped: "switch forget_host_key",
    about: "forget the SSH host key of a switch; the one that it presents next is kept",
    args: { switch: switchName },
    call: (a) => ({ method: "DELETE", path: ["switch", a.switch, "host_key"] }),
  }),
  ...driftCommands,
  reconcileCommand,
  client({
    name: "port_register",
    grouped: "port register",
    about: "register a port of a switch",
    args: { switch: switchName, port },
    call: (a) => ({ method: "PUT", path: ["switch", a.switch, "port", a.port] }),
  }),
  client({
    name: "port_delete",
    grouped: "port delete",
    about: "delete a port that no nic is cabled to",
    args: { switch: switchName, port },
    call: (a) => ({ method: "DELETE", path: ["switch", a.switch, "port", a.port] }),
  }),
  client({
    name: "port_connect_nic",
    grouped: "port connect_nic",
    about: "say that a nic is cabled to a port",
    args: { switch: switchName, port, node, nic },
    call: (a) => ({ method: "POST", path: ["switch", a.switch, "port", a.port, "connect_nic"], body: { node: a.node, nic: a.nic } }),
  }),
  client({
    name: "port_detach_nic",
    grouped: "port detach_nic",
    about: "say that a port's nic is no longer cabled to it",
    args: { switch: switchName, port },
    call: (a) => ({ method: "POST", path: ["switch", a.switch, "port", a.port, "detach_nic"] }),
  }),
  withDryRun(
    client({
      name: "port_revert",
      grouped: "port revert",
      about: "take a port off every network; prints the id of the networking action",
      args: { switch: switchName, port },
      options: ["wait"],
      call: (a) => ({ method: "POST", path: ["switch", a.switch, "port", a.port, "revert"] }),
      answer: only("status_id"),
      action: queuedAction,
    }),
  ),
  client({
    name: "port_trust",
    grouped: "port trust",
    about: "say that a suspect port is good, without reading it back",
    args: { switch: switchName, port },
    call: (a) => ({ method: "POST", path: ["switch", a.switch, "port", a.port, "trust"] }),
  }),
  client({
    name: "show_port",
    grouped: "port show",
    about: "show what is on a port: node, nic and networks; nothing for a free port",
    args: { switch: switchName, port },
    call: (a) => ({ method: "GET", path: ["switch", a.switch, "port", a.port] }),
    answer: facts,
  }),
];

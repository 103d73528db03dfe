import { client, UsageError } from "./command.ts";
import { facts, names, text } from "./output.ts";
import { readSecret } from "./secret.ts";

const node = "name of the node";
const nic = "name of the nic";
const label = "name of the metadata";

/** Published types share this prefix. Their names here; the server has the drivers. */
export const obmTypePrefix = "http://schema.massopencloud.org/haas/v0/obm/";
export const obmSubtypes = ["ipmi", "mock"];

/** Node and subtype in either order: the published example puts the subtype first, the published usage second. */
function nodeAndSubtype(first: string, second: string): [node: string, subtype: string] {
  if (obmSubtypes.includes(second)) return [first, second];
  if (obmSubtypes.includes(first)) return [second, first];
  throw new UsageError(`Neither '${first}' nor '${second}' is a kind of OBM. There are: ${obmSubtypes.join(", ")}.`);
}

export const nodeCommands = [
  client({
    name: "node_register",
    grouped: "node register",
    about: "register a node and how to control it (its OBM); `node_register <subtype> <node> …` works too",
    args: {
      node,
      subtype: "kind of OBM: ipmi or mock",
      host: "address of the OBM: host or host:port",
      user: "login name of the OBM",
      password: { about: "password of the OBM; - reads it from standard input", verbatim: true },
    },
    options: ["system"],
    call: async (a, { system }) => {
      const [label, subtype] = nodeAndSubtype(a.node, a.subtype);
      const obm = {
        type: obmTypePrefix + subtype,
        host: a.host,
        user: a.user,
        password: await readSecret(a.password),
        ...(system !== undefined && { system }),
      };
      return { method: "PUT", path: ["node", label], body: { obm } };
    },
  }),
  client({
    name: "node_delete",
    grouped: "node delete",
    about: "delete a free node without nics",
    args: { node },
    call: (a) => ({ method: "DELETE", path: ["node", a.node] }),
  }),
  client({
    name: "node_register_nic",
    grouped: "node register_nic",
    about: "register a nic of a node",
    args: { node, nic, macaddr: "the nic's MAC address" },
    call: (a) => ({ method: "PUT", path: ["node", a.node, "nic", a.nic], body: { macaddr: a.macaddr } }),
  }),
  client({
    name: "node_delete_nic",
    grouped: "node delete_nic",
    about: "delete a nic that is on no network",
    args: { node, nic },
    call: (a) => ({ method: "DELETE", path: ["node", a.node, "nic", a.nic] }),
  }),
  client({
    name: "list_nodes",
    grouped: "node list",
    about: "list all nodes, or the free ones",
    args: { which: { about: "all or free", choices: ["all", "free"] } },
    call: (a) => ({ method: "GET", path: ["nodes", a.which] }),
    answer: names,
  }),
  client({
    name: "show_node",
    grouped: "node show",
    about: "show a node: its project, metadata, nics and their networks",
    args: { node },
    call: (a) => ({ method: "GET", path: ["node", a.node] }),
    answer: facts,
  }),
  client({
    name: "node_power_cycle",
    grouped: "node power_cycle",
    about: "boot a node anew, from the network",
    args: { node },
    options: ["force"],
    call: (a, { force }) => ({ method: "POST", path: ["node", a.node, "power_cycle"], ...(force ? { body: { force } } : {}) }),
  }),
  client({
    name: "node_power_on",
    grouped: "node power_on",
    about: "switch a node on",
    args: { node },
    call: (a) => ({ method: "POST", path: ["node", a.node, "power_on"] }),
  }),
  client({
    name: "node_power_off",
    grouped: "node power_off",
    about: "switch a node off, hard",
    args: { node },
    call: (a) => ({ method: "POST", path: ["node", a.node, "power_off"] }),
  }),
  client({
    name: "node_power_status",
    grouped: "node power_status",
    about: "show whether a node is on",
    args: { node },
    call: (a) => ({ method: "GET", path: ["node", a.node, "power_status"] }),
    answer: facts,
  }),
  client({
    name: "node_set_bootdev",
    grouped: "node set_bootdev",
    about: "set what a node boots from, until it is set again",
    args: { node, dev: "for IPMI: pxe, disk or none" },
    call: (a) => ({ method: "PUT", path: ["node", a.node, "boot_device"], body: { bootdev: a.dev } }),
  }),
  client({
    name: "node_set_obm",
    grouped: "node set_obm",
    about: "allow or forbid power, boot-device and console calls, until the node's next allocation",
    args: { node, state: { about: "enabled or disabled", choices: ["enabled", "disabled"] } },
    call: (a) => ({ method: "PUT", path: ["node", a.node, "obm"], body: { enabled: a.state === "enabled" } }),
  }),
  client({
    name: "metadata_set",
    grouped: "metadata set",
    about: "set or replace metadata of a node",
    args: { node, label, value: { about: "any text", verbatim: true } },
    call: (a) => ({ method: "PUT", path: ["node", a.node, "metadata", a.label], body: { value: a.value } }),
  }),
  client({
    name: "metadata_delete",
    grouped: "metadata delete",
    about: "delete metadata of a node",
    args: { node, label },
    call: (a) => ({ method: "DELETE", path: ["node", a.node, "metadata", a.label] }),
  }),
  client({
    name: "start_console",
    grouped: "console start",
    about: "start logging the serial console of a node",
    args: { node },
    call: (a) => ({ method: "PUT", path: ["node", a.node, "console"] }),
  }),
  client({
    name: "show_console",
    grouped: "console show",
    about: "print the console log so far",
    args: { node },
    call: (a) => ({ method: "GET", path: ["node", a.node, "console"], text: true }),
    answer: text,
  }),
  client({
    name: "stop_console",
    grouped: "console stop",
    about: "stop logging the console of a node, and delete the log",
    args: { node },
    call: (a) => ({ method: "DELETE", path: ["node", a.node, "console"] }),
  }),
];

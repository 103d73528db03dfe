import { isObject } from "../client/http.ts";
import { client } from "./command.ts";
import { withDryRun } from "./dry-run.ts";
import { facts, only, rows } from "./output.ts";

const node = "name of the node";
const nic = "name of the nic";
const network = "name of the network";
const project = "name of the project";

/** The id of the networking action that an answer names. */
export const queuedAction = (_: unknown, answer: unknown): string => String(isObject(answer) ? answer.status_id : "");

/** `null` means everyone, which an empty cell would not say. */
const everyone = (projects: unknown): unknown => (projects === null ? "*" : projects);

export const networkCommands = [
  client({
    name: "network_create",
    grouped: "network create",
    about: "create a network",
    args: {
      network,
      owner: "the project that owns it, or admin",
      access: "the project that may use it, or '' for everyone",
      net_id: "its id (a VLAN), or '' for one of the pool",
    },
    call: (a) => ({ method: "PUT", path: ["network", a.network], body: { owner: a.owner, access: a.access, net_id: a.net_id } }),
  }),
  client({
    name: "network_create_simple",
    grouped: "network create_simple",
    about: "create a network that a project owns and uses, with an id of the pool",
    args: { network, project },
    call: (a) => ({ method: "PUT", path: ["network", a.network], body: { owner: a.project, access: a.project, net_id: "" } }),
  }),
  client({
    name: "network_delete",
    grouped: "network delete",
    about: "delete a network that nothing is on",
    args: { network },
    call: (a) => ({ method: "DELETE", path: ["network", a.network] }),
  }),
  client({
    name: "network_grant_project_access",
    grouped: "network grant_project_access",
    about: "let a project use a network",
    args: { project, network },
    call: (a) => ({ method: "PUT", path: ["network", a.network, "access", a.project] }),
  }),
  client({
    name: "network_revoke_project_access",
    grouped: "network revoke_project_access",
    about: "stop a project from using a network",
    args: { project, network },
    call: (a) => ({ method: "DELETE", path: ["network", a.network, "access", a.project] }),
  }),
  client({
    name: "list_networks",
    grouped: "network list",
    about: "list the networks, their ids and the projects that may use them (* is everyone)",
    args: {},
    call: () => ({ method: "GET", path: ["networks"] }),
    answer: rows("network", { "network id": (row) => row.network_id, projects: (row) => everyone(row.projects) }),
  }),
  client({
    name: "show_network",
    grouped: "network show",
    about: "show a network: its owner, access (* is everyone), channels and nodes",
    args: { network },
    call: (a) => ({ method: "GET", path: ["network", a.network] }),
    answer: (value, terminal) => facts(isObject(value) ? { ...value, access: everyone(value.access) } : value, terminal),
  }),
  client({
    name: "list_network_attachments",
    grouped: "network list_attachments",
    about: "list the nodes on a network: nic, channel, project",
    args: { network, project: "only those of this project, or all" },
    call: (a) => ({
      method: "GET",
      path: ["network", a.network, "attachments"],
      ...(a.project === "all" ? {} : { query: { project: a.project } }),
    }),
    answer: rows("node", { nic: (row) => row.nic, channel: (row) => row.channel, project: (row) => row.project }),
  }),
  withDryRun(
    client({
      name: "node_connect_network",
      grouped: "node connect_network",
      about: "connect a nic to a network; prints the id of the networking action",
      args: { node, nic, network, channel: { about: "vlan/native (the default) or vlan/<id>", optional: true } },
      options: ["wait"],
      call: (a) => ({
        method: "POST",
        path: ["node", a.node, "nic", a.nic, "connect_network"],
        body: { network: a.network, ...(a.channel === undefined ? {} : { channel: a.channel }) },
      }),
      answer: only("status_id"),
      action: queuedAction,
    }),
  ),
  withDryRun(
    client({
      name: "node_detach_network",
      grouped: "node detach_network",
      about: "take a nic off a network; prints the id of the networking action",
      args: { node, nic, network },
      options: ["wait"],
      call: (a) => ({ method: "POST", path: ["node", a.node, "nic", a.nic, "detach_network"], body: { network: a.network } }),
      answer: only("status_id"),
      action: queuedAction,
    }),
  ),
  client({
    name: "show_networking_action",
    grouped: "networking_action show",
    about: "show how far a networking action is: PENDING, DONE or ERROR",
    args: { status_id: "the id that the action's command printed" },
    options: ["wait"],
    call: (a) => ({ method: "GET", path: ["networking_action", a.status_id] }),
    answer: facts,
    action: (a) => a.status_id,
  }),
];

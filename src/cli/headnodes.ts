import { client } from "./command.ts";
import { displayCommand } from "./display.ts";
import { facts, names } from "./output.ts";

const headnode = "name of the headnode";
const hnic = "name of the headnode's interface";

export const headnodeCommands = [
  client({
    name: "headnode_create",
    grouped: "headnode create",
    about: "create a headnode: a virtual machine on a project's networks",
    args: { headnode, project: "name of the project", base_img: "the image to clone, see list_headnode_images" },
    call: (a) => ({ method: "PUT", path: ["headnode", a.headnode], body: { project: a.project, base_img: a.base_img } }),
  }),
  client({
    name: "headnode_delete",
    grouped: "headnode delete",
    about: "delete a headnode, its storage and its hnics",
    args: { headnode },
    call: (a) => ({ method: "DELETE", path: ["headnode", a.headnode] }),
  }),
  client({
    name: "headnode_start",
    grouped: "headnode start",
    about: "start a headnode; the first start makes its virtual machine and freezes its hnics",
    args: { headnode },
    // Above what the server takes to copy an image.
    call: (a) => ({ method: "POST", path: ["headnode", a.headnode, "start"], timeoutMs: 260_000 }),
  }),
  client({
    name: "headnode_stop",
    grouped: "headnode stop",
    about: "switch a headnode off, hard",
    args: { headnode },
    call: (a) => ({ method: "POST", path: ["headnode", a.headnode, "stop"] }),
  }),
  client({
    name: "headnode_edit",
    grouped: "headnode edit",
    about: "let the hnics of a stopped headnode change again, until its next start",
    args: { headnode },
    call: (a) => ({ method: "POST", path: ["headnode", a.headnode, "edit"] }),
  }),
  client({
    name: "headnode_create_hnic",
    grouped: "headnode create_hnic",
    about: "give a headnode an interface",
    args: { headnode, hnic },
    call: (a) => ({ method: "PUT", path: ["headnode", a.headnode, "hnic", a.hnic] }),
  }),
  client({
    name: "headnode_delete_hnic",
    grouped: "headnode delete_hnic",
    about: "delete an interface of a headnode",
    args: { headnode, hnic },
    call: (a) => ({ method: "DELETE", path: ["headnode", a.headnode, "hnic", a.hnic] }),
  }),
  client({
    name: "headnode_connect_network",
    grouped: "headnode connect_network",
    about: "put a headnode's interface on a network",
    args: { headnode, hnic, network: "name of the network" },
    call: (a) => ({ method: "POST", path: ["headnode", a.headnode, "hnic", a.hnic, "connect_network"], body: { network: a.network } }),
  }),
  client({
    name: "headnode_detach_network",
    grouped: "headnode detach_network",
    about: "take a headnode's interface off its network",
    args: { headnode, hnic },
    call: (a) => ({ method: "POST", path: ["headnode", a.headnode, "hnic", a.hnic, "detach_network"] }),
  }),
  client({
    name: "show_headnode",
    grouped: "headnode show",
    about: "show a headnode: its project, hnics, state, display with password, and image",
    args: { headnode },
    call: (a) => ({ method: "GET", path: ["headnode", a.headnode] }),
    answer: facts,
  }),
  displayCommand,
  client({
    name: "list_headnode_images",
    grouped: "headnode list_images",
    about: "list the images that a headnode can be made from",
    args: {},
    // With a slash at the end, as published; older servers know no other form.
    call: () => ({ method: "GET", path: ["headnode_images", ""] }),
    answer: names,
  }),
];

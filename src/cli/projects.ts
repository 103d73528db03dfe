import { client } from "./command.ts";
import { names } from "./output.ts";

const project = "name of the project";
const node = "name of the node";

export const projectCommands = [
  client({
    name: "project_create",
    grouped: "project create",
    about: "create a project",
    args: { project },
    call: (a) => ({ method: "PUT", path: ["project", a.project] }),
  }),
  client({
    name: "project_delete",
    grouped: "project delete",
    about: "delete a project that nothing belongs to",
    args: { project },
    call: (a) => ({ method: "DELETE", path: ["project", a.project] }),
  }),
  client({
    name: "project_connect_node",
    grouped: "project connect_node",
    about: "allocate a free node to a project",
    args: { project, node },
    call: (a) => ({ method: "POST", path: ["project", a.project, "connect_node"], body: { node: a.node } }),
  }),
  client({
    name: "project_detach_node",
    grouped: "project detach_node",
    about: "free a node of a project",
    args: { project, node },
    call: (a) => ({ method: "POST", path: ["project", a.project, "detach_node"], body: { node: a.node } }),
  }),
  client({
    name: "list_projects",
    grouped: "project list",
    about: "list the projects",
    args: {},
    call: () => ({ method: "GET", path: ["projects"] }),
    answer: names,
  }),
  client({
    name: "list_project_nodes",
    grouped: "project list_nodes",
    about: "list the nodes of a project",
    args: { project },
    call: (a) => ({ method: "GET", path: ["project", a.project, "nodes"] }),
    answer: names,
  }),
  client({
    name: "list_project_networks",
    grouped: "project list_networks",
    about: "list the networks that name a project on their access list",
    args: { project },
    call: (a) => ({ method: "GET", path: ["project", a.project, "networks"] }),
    answer: names,
  }),
  client({
    name: "list_project_headnodes",
    grouped: "project list_headnodes",
    about: "list the headnodes of a project",
    args: { project },
    call: (a) => ({ method: "GET", path: ["project", a.project, "headnodes"] }),
    answer: names,
  }),
];

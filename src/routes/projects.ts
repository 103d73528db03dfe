import { requireAdmin } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import * as projects from "../inventory/projects.ts";
import { controller, empty, label, names, nothing, object, reference, responses } from "./controller.ts";

const detail = { tags: ["Projects"] };
const params = object({ project: label("Name of the project", "p1") });

export const projectRoutes = (ctx: Context) =>
  controller(ctx)
    .get(
      "/projects",
      ({ rights }) => {
        requireAdmin(rights);
        return projects.listProjects(ctx.db);
      },
      { query: nothing, response: responses({ 200: names("Projects, sorted") }), detail: { ...detail, summary: "List the projects" } },
    )
    .put(
      "/project/:project",
      ({ caller, rights, params }) => {
        requireAdmin(rights);
        return projects.createProject(ctx, caller, params.project);
      },
      { params, query: nothing, body: nothing, response: responses(empty, 409), detail: { ...detail, summary: "Create a project" } },
    )
    .delete(
      "/project/:project",
      ({ caller, rights, params }) => {
        requireAdmin(rights);
        return projects.removeProject(ctx.db, caller, params.project);
      },
      {
        params,
        query: nothing,
        body: nothing,
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Delete a project that holds nothing" },
      },
    )
    .get("/project/:project/nodes", ({ rights, params }) => projects.projectNodes(ctx.db, rights, params.project), {
      params,
      query: nothing,
      response: responses({ 200: names("Nodes, sorted") }, 404),
      detail: { ...detail, summary: "List a project's nodes" },
    })
    .get("/project/:project/networks", ({ rights, params }) => projects.projectNetworks(ctx.db, rights, params.project), {
      params,
      query: nothing,
      response: responses({ 200: names("Networks whose access list names the project, sorted") }, 404),
      detail: { ...detail, summary: "List the networks that a project has access to" },
    })
    .get("/project/:project/headnodes", ({ rights, params }) => projects.projectHeadnodes(ctx.db, rights, params.project), {
      params,
      query: nothing,
      response: responses({ 200: names("Headnodes, sorted") }, 404),
      detail: { ...detail, summary: "List a project's headnodes" },
    })
    .post("/project/:project/connect_node", ({ caller, params, body }) => projects.connectNode(ctx, caller, params.project, body.node), {
      params,
      query: nothing,
      body: object({ node: reference("A free node", "n1") }),
      response: responses(empty, 404, 409, 500),
      detail: { ...detail, summary: "Allocate a free node to a project" },
    })
    .post("/project/:project/detach_node", ({ caller, params, body }) => projects.detachNode(ctx, caller, params.project, body.node), {
      params,
      query: nothing,
      body: object({ node: reference("A node of the project", "n1") }),
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Take a node from a project" },
    });

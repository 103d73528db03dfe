import { t } from "elysia";
import type { Context } from "../context.ts";
import * as networks from "../networking/networks.ts";
import { controller, empty, label, nothing, object, reference, responses } from "./controller.ts";

const detail = { tags: ["Networks"] };
const network = label("Name of the network", "storage");
const params = object({ network });
const accessParams = object({ network, project: label("Name of the project", "p1") });

export const networkRoutes = (ctx: Context) =>
  controller(ctx)
    .get("/networks", ({ rights }) => networks.listNetworks(ctx.db, rights), {
      query: nothing,
      response: responses({
        200: t.Record(t.String(), object({ network_id: t.String(), projects: t.Nullable(t.Array(t.String())) }), {
          description: "By name; `projects` is null for a public network",
          examples: [{ storage: { network_id: "101", projects: ["p1"] }, pxe: { network_id: "100", projects: null } }],
        }),
      }),
      detail: { ...detail, summary: "List the networks: all for administrators, else the public ones" },
    })
    .get("/network/:network", ({ rights, params }) => networks.showNetwork(ctx.db, rights, params.network), {
      params,
      query: nothing,
      response: responses(
        {
          200: object(
            {
              name: t.String(),
              owner: t.String({ description: "A project, or `admin`" }),
              access: t.Nullable(t.Array(t.String()), { description: "null for a public network" }),
              channels: t.Array(t.String(), { examples: [["vlan/native", "vlan/101"]] }),
              "connected-nodes": t.Record(t.String(), t.Array(t.String())),
            },
            { name: "storage", owner: "p1", access: ["p1"], channels: ["vlan/native", "vlan/101"], "connected-nodes": { n1: ["nic1"] } },
          ),
        },
        404,
      ),
      detail: { ...detail, summary: "Show a network" },
    })
    .put("/network/:network", ({ caller, params, body }) => networks.createNetwork(ctx, caller, params.network, body), {
      params,
      query: nothing,
      body: object({
        owner: reference("A project, or `admin`", "p1"),
        access: reference("The owner's name; for owner `admin` a project, or empty for a public network", "p1"),
        net_id: t.String({
          description: "Empty to allocate an id from the pool; for owner `admin` also a VLAN, 1 to 4094",
          examples: [""],
        }),
      }),
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Create a network" },
    })
    .delete("/network/:network", ({ caller, params }) => networks.removeNetwork(ctx.db, caller, params.network), {
      params,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Delete a network that nothing uses" },
    })
    .put(
      "/network/:network/access/:project",
      ({ caller, params }) => networks.grantAccess(ctx.db, caller, params.network, params.project),
      {
        params: accessParams,
        query: nothing,
        body: nothing,
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Grant a project access" },
      },
    )
    .delete(
      "/network/:network/access/:project",
      ({ caller, params }) => networks.revokeAccess(ctx.db, caller, params.network, params.project),
      {
        params: accessParams,
        query: nothing,
        body: nothing,
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Revoke a project's access" },
      },
    )
    .get(
      "/network/:network/attachments",
      ({ rights, params, query }) => networks.listAttachments(ctx.db, rights, params.network, query.project),
      {
        params,
        query: object({
          project: t.Optional(
            t.String({ minLength: 1, pattern: "^[^\\u0000]*$", description: "Only this project's nodes", examples: ["p1"] }),
          ),
        }),
        response: responses(
          {
            200: t.Record(t.String(), object({ nic: t.String(), channel: t.String(), project: t.Nullable(t.String()) }), {
              examples: [{ n1: { nic: "nic1", channel: "vlan/native", project: "p1" } }],
            }),
          },
          404,
        ),
        detail: { ...detail, summary: "List the nodes attached to a network" },
      },
    );

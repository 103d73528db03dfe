import { t } from "elysia";
import { requireAdmin } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { obmTypePrefix } from "../hardware/obm/index.ts";
import { jsonText } from "../http/json.ts";
import * as nodes from "../inventory/nodes.ts";
import { controller, empty, json, label, names, nothing, object, responses } from "./controller.ts";

const detail = { tags: ["Nodes"] };
const node = label("Name of the node", "n1");
const params = object({ node });
const nicParams = object({ node, nic: label("Name of the nic, unique within its node", "nic1") });
// The published service accepts an empty label at registration; such an entry is removed through the path that ends in a slash.
const metadataParams = object({ node, label: label("Label of the metadata entry, unique within its node", "EK") });

const nodeDetails = object(
  {
    name: t.String(),
    project: t.Nullable(t.String({ description: "null for a free node" })),
    obm_enabled: t.Boolean({ description: "Whether power, boot-device and console calls are allowed" }),
    metadata: t.Record(t.String(), t.String({ description: "The value as JSON text" })),
    nics: t.Array(
      object({
        label: t.String(),
        macaddr: t.String(),
        networks: t.Record(t.String(), t.String(), {
          description: "Network by channel",
          examples: [{ "vlan/native": "pxe", "vlan/235": "storage" }],
        }),
        port: t.Optional(t.Nullable(t.String({ description: "For administrators; null when not cabled" }))),
        switch: t.Optional(t.Nullable(t.String({ description: "For administrators; null when not cabled" }))),
      }),
    ),
  },
  {
    name: "n1",
    project: "p1",
    obm_enabled: true,
    metadata: { EK: '"pk"' },
    nics: [
      {
        label: "nic1",
        macaddr: "01:23:45:67:89:ab",
        networks: { "vlan/native": "pxe", "vlan/235": "storage" },
        port: "gi1/0/1",
        switch: "sw1",
      },
    ],
  },
);

export const nodeRoutes = (ctx: Context) =>
  controller(ctx)
    .get("/nodes/:which", async ({ params }) => json(await nodes.listNodes(ctx.db, params.which)), {
      params: object({ which: label("`free` for the free nodes, any other word for all", "free") }),
      query: nothing,
      response: responses({ 200: names("Nodes, sorted") }),
      detail: { ...detail, summary: "List the free nodes, or all" },
    })
    .get("/node/:node", async ({ rights, params }) => json(await nodes.showNode(ctx.db, rights, params.node)), {
      params,
      query: nothing,
      response: responses({ 200: nodeDetails }, 404),
      detail: { ...detail, summary: "Show a node" },
    })
    .put(
      "/node/:node",
      ({ caller, rights, params, body }) => {
        requireAdmin(rights);
        return nodes.registerNode(ctx, caller, params.node, body.obm, jsonTexts(body.metadata ?? {}));
      },
      {
        params,
        query: nothing,
        body: object({
          obm: t.Object(
            { type: t.String({ description: "Published type of the OBM driver" }) },
            {
              additionalProperties: true,
              description: "The type and the driver's own fields",
              examples: [{ type: `${obmTypePrefix}ipmi`, host: "10.0.0.1", user: "admin", password: "secret" }],
            },
          ),
          metadata: t.Optional(
            t.Record(t.String({ format: "printable" }), t.Any(), {
              description: "At most 256 entries; more can be set one by one",
              maxProperties: 256,
              examples: [{ EK: "pk" }],
            }),
          ),
        }),
        response: responses(empty, 409),
        detail: { ...detail, summary: "Register a node" },
      },
    )
    .delete(
      "/node/:node",
      ({ caller, rights, params }) => {
        requireAdmin(rights);
        return nodes.removeNode(ctx.db, caller, params.node);
      },
      {
        params,
        query: nothing,
        body: nothing,
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Delete a free node that holds nothing" },
      },
    )
    .put(
      "/node/:node/nic/:nic",
      ({ caller, rights, params, body }) => {
        requireAdmin(rights);
        return nodes.registerNic(ctx.db, caller, params.node, params.nic, body.macaddr);
      },
      {
        params: nicParams,
        query: nothing,
        body: object({ macaddr: t.String({ format: "printable", description: "Any printable string", examples: ["01:23:45:67:89:ab"] }) }),
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Register a nic" },
      },
    )
    .delete(
      "/node/:node/nic/:nic",
      ({ caller, rights, params }) => {
        requireAdmin(rights);
        return nodes.removeNic(ctx.db, caller, params.node, params.nic);
      },
      {
        params: nicParams,
        query: nothing,
        body: nothing,
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Delete a nic" },
      },
    )
    .put(
      "/node/:node/metadata/:label",
      ({ caller, rights, params, body }) => {
        requireAdmin(rights);
        return nodes.setMetadata(ctx.db, caller, params.node, params.label, jsonText(body.value));
      },
      {
        params: metadataParams,
        query: nothing,
        body: object({ value: t.Any({ description: "Any JSON", examples: ["pk"] }) }),
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Set or replace a metadata entry" },
      },
    )
    .delete(
      "/node/:node/metadata/:label",
      ({ caller, rights, params }) => {
        requireAdmin(rights);
        return nodes.removeMetadata(ctx.db, caller, params.node, params.label);
      },
      {
        params: metadataParams,
        query: nothing,
        body: nothing,
        response: responses(empty, 404),
        detail: { ...detail, summary: "Delete a metadata entry" },
      },
    )
    .delete(
      "/node/:node/metadata/",
      ({ caller, rights, params }) => {
        requireAdmin(rights);
        return nodes.removeMetadata(ctx.db, caller, params.node, "");
      },
      {
        params,
        query: nothing,
        body: nothing,
        response: responses(empty, 404),
        detail: { ...detail, summary: "Delete the metadata entry with the empty label" },
      },
    );

const jsonTexts = (metadata: Record<string, unknown>): Record<string, string> =>
  Object.fromEntries(Object.entries(metadata).map(([key, value]) => [key, jsonText(value)]));

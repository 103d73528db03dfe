import { t } from "elysia";
import type { Context } from "../context.ts";
import { connection, detachment, planChange, queueChange, showAction } from "../networking/connect.ts";
import { controller, label, nothing, object, queued, reference, responses } from "./controller.ts";
import { dryRunQuery, planned } from "./plans.ts";

const detail = { tags: ["Connecting"] };
const params = object({ node: label("Name of the node", "n1"), nic: label("Name of the nic", "nic1") });

export const nicRoutes = (ctx: Context) =>
  controller(ctx)
    .post(
      "/node/:node/nic/:nic/connect_network",
      async ({ caller, params, query, body, status }) => {
        const change = connection(ctx, caller, params.node, params.nic, body.network, body.channel);
        if (query.dry_run === "true") return planChange(ctx, caller, change);
        return status(202, { status_id: await queueChange(ctx, change) });
      },
      {
        params,
        query: dryRunQuery,
        body: object({
          network: reference("The network", "storage"),
          channel: t.Optional(
            t.String({ description: "`vlan/native` (the default), or the network's own tagged channel", examples: ["vlan/101"] }),
          ),
        }),
        response: responses({ ...queued, ...planned }, 404, 409, 500),
        detail: { ...detail, summary: "Queue connecting a nic to a network" },
      },
    )
    .post(
      "/node/:node/nic/:nic/detach_network",
      async ({ caller, params, query, body, status }) => {
        const change = detachment(ctx, caller, params.node, params.nic, body.network);
        if (query.dry_run === "true") return planChange(ctx, caller, change);
        return status(202, { status_id: await queueChange(ctx, change) });
      },
      {
        params,
        query: dryRunQuery,
        body: object({ network: reference("The network", "storage") }),
        response: responses({ ...queued, ...planned }, 404, 409, 500),
        detail: { ...detail, summary: "Queue taking a nic off a network" },
      },
    )
    .get("/networking_action/:status_id", ({ rights, params }) => showAction(ctx.db, rights, params.status_id), {
      params: object({ status_id: label("Id of the action", "0b1d1a2c-8c0e-4b7e-9a3e-0f6d5c1f0a11") }),
      query: nothing,
      response: responses(
        {
          200: object(
            {
              status: t.Union([t.Literal("PENDING"), t.Literal("DONE"), t.Literal("ERROR")]),
              node: t.Nullable(t.String()),
              nic: t.Nullable(t.String()),
              new_network: t.Nullable(t.String({ description: "null when a network goes" })),
              type: t.Union([t.Literal("modify_port"), t.Literal("revert_port")]),
              channel: t.Nullable(t.String()),
              reason: t.Nullable(t.String({ description: "Why it waits or failed; for administrators in the device's own words" })),
              attempts: t.Integer(),
              next_try: t.Nullable(t.String({ description: "When it is tried again" })),
            },
            {
              status: "DONE",
              node: "n1",
              nic: "nic1",
              new_network: "storage",
              type: "modify_port",
              channel: "vlan/101",
              reason: null,
              attempts: 1,
              next_try: null,
            },
          ),
        },
        404,
      ),
      detail: { ...detail, summary: "How far is an action?" },
    });

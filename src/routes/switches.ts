import { t } from "elysia";
import { requireAdmin } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { validation } from "../errors.ts";
import { switchTypePrefix } from "../hardware/switches/index.ts";
import * as switches from "../inventory/switches.ts";
import { planChange, queueChange, reversion } from "../networking/connect.ts";
import { controller, empty, label, names, nothing, object, portLabel, queued, reference, responses } from "./controller.ts";
import { dryRunQuery, planned } from "./plans.ts";

const detail = { tags: ["Switches and ports"] };
const params = object({ switch: label("Name of the switch", "sw1") });
const portParams = object({ switch: label("Name of the switch", "sw1"), port: portLabel() });

/** All of it is for administrators, and says so before anything is looked up. */
export const switchRoutes = (ctx: Context) =>
  controller(ctx)
    .onBeforeHandle(({ rights }) => requireAdmin(rights))
    .get("/switches", () => switches.listSwitches(ctx.db), {
      query: nothing,
      response: responses({ 200: names("Switches, sorted") }),
      detail: { ...detail, summary: "List the switches" },
    })
    .get("/switch/:switch", ({ params }) => switches.showSwitch(ctx, params.switch), {
      params,
      query: nothing,
      response: responses(
        {
          200: object(
            {
              name: t.String(),
              ports: t.Array(object({ label: t.String() }), { description: "In the order of registration" }),
              capabilities: t.Array(t.String()),
            },
            { name: "sw1", ports: [{ label: "gi1/0/1" }], capabilities: ["nativeless-trunk-mode"] },
          ),
        },
        404,
      ),
      detail: { ...detail, summary: "Show a switch, without its password" },
    })
    .put(
      "/switch/:switch",
      ({ caller, params, body }) => {
        if ("switch" in body) throw validation("Body: 'switch' is in the path already.");
        const { type, ...settings } = body;
        return switches.registerSwitch(ctx, caller, params.switch, type, settings);
      },
      {
        params,
        query: nothing,
        body: t.Object(
          { type: t.String({ description: "Published type of the switch" }) },
          {
            additionalProperties: true,
            description: "The type and the driver's own fields",
            examples: [{ type: `${switchTypePrefix}ovs`, ovs_bridge: "br0" }],
          },
        ),
        response: responses(empty, 409),
        detail: { ...detail, summary: "Register a switch" },
      },
    )
    .delete("/switch/:switch", ({ caller, params }) => switches.removeSwitch(ctx.db, caller, params.switch), {
      params,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Delete a switch without ports" },
    })
    .get("/switch/:switch/port/:port", ({ params }) => switches.showPort(ctx.db, params.switch, params.port), {
      params: portParams,
      query: nothing,
      response: responses(
        {
          200: t.Union([nothing, object({ node: t.String(), nic: t.String(), networks: t.Record(t.String(), t.String()) })], {
            examples: [{ node: "n1", nic: "nic1", networks: { "vlan/native": "pxe" } }],
          }),
        },
        404,
      ),
      detail: { ...detail, summary: "Show what is plugged into a port, and its networks" },
    })
    .put("/switch/:switch/port/:port", ({ caller, params }) => switches.registerPort(ctx, caller, params.switch, params.port), {
      params: portParams,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Register a port" },
    })
    .delete("/switch/:switch/port/:port", ({ caller, params }) => switches.removePort(ctx.db, caller, params.switch, params.port), {
      params: portParams,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Delete a port without a nic" },
    })
    .post(
      "/switch/:switch/port/:port/connect_nic",
      ({ caller, params, body }) => switches.connectNic(ctx.db, caller, params.switch, params.port, body.node, body.nic),
      {
        params: portParams,
        query: nothing,
        body: object({ node: reference("The node", "n1"), nic: reference("Its nic", "nic1") }),
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Record which nic is plugged into a port" },
      },
    )
    .post("/switch/:switch/port/:port/detach_nic", ({ caller, params }) => switches.detachNic(ctx.db, caller, params.switch, params.port), {
      params: portParams,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Record that the nic was unplugged" },
    })
    .post(
      "/switch/:switch/port/:port/revert",
      async ({ caller, params, query, status }) => {
        const change = reversion(caller, params.switch, params.port);
        if (query.dry_run === "true") return planChange(ctx, caller, change);
        return status(202, { status_id: await queueChange(ctx, change) });
      },
      {
        params: portParams,
        query: dryRunQuery,
        body: nothing,
        response: responses({ ...queued, ...planned }, 404, 409, 500),
        detail: { ...detail, summary: "Queue taking a port off every network" },
      },
    )
    .post("/switch/:switch/port/:port/trust", ({ caller, params }) => switches.trustPort(ctx, caller, params.switch, params.port), {
      params: portParams,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Declare a suspect port good, without reading it back" },
    })
    .delete("/switch/:switch/host_key", ({ caller, params }) => switches.forgetHostKey(ctx.db, caller, params.switch), {
      params,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Forget the SSH host key by which a switch is known" },
    });

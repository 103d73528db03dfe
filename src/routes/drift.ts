import { t } from "elysia";
import { requireAdmin } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { planReconciliation, reconcile, showActual, showDrift, showReconciliation } from "../networking/drift.ts";
import { testSwitch } from "../networking/probe.ts";
import { controller, label, nothing, object, responses } from "./controller.ts";
import { dryRunQuery, lines, portState } from "./plans.ts";

const detail = { tags: ["Switches and ports"] };
const params = object({ switch: label("Name of the switch", "sw1") });

const port = t.String({ description: "Name of the port", examples: ["gi1/0/1"] });
const difference = object(
  { missing: portState, excess: portState },
  { missing: { native: 100, tagged: [] }, excess: { native: null, tagged: [300] } },
);
const unreadable = t.Nullable(t.String({ description: "Why it could not be read" }));
const time = t.Nullable(t.String({ examples: ["2026-01-31T12:00:00.000Z"] }));

/** What switches really hold. All of it is for administrators, and says so before anything is looked up. */
export const driftRoutes = (ctx: Context) =>
  controller(ctx)
    .onBeforeHandle(({ rights }) => requireAdmin(rights))
    .get("/switch/:switch/ports/actual", ({ caller, params }) => showActual(ctx, caller, params.switch), {
      params,
      query: nothing,
      response: responses(
        {
          200: object({
            switch: t.String(),
            ports: t.Array(
              object({
                port,
                node: t.Nullable(t.String()),
                nic: t.Nullable(t.String()),
                desired: portState,
                actual: t.Nullable(portState),
                difference: t.Nullable(difference),
                error: unreadable,
                pending: t.Boolean({ description: "A change of it is under way" }),
                suspect: t.Nullable(t.String({ description: "Why it may hold something else than it should" })),
              }),
              { description: "In the order of registration" },
            ),
          }),
        },
        404,
        409,
        500,
      ),
      detail: { ...detail, summary: "Read every port of a switch, and compare it with what it should carry" },
    })
    .get("/switch/:switch/reconcile", ({ params }) => showReconciliation(ctx.db, params.switch), {
      params,
      query: nothing,
      response: responses(
        {
          200: object({
            pending: t.Array(
              object({
                port,
                reason: t.Nullable(t.String({ description: "Why it waits, in the device's own words" })),
                attempts: t.Integer(),
                next_try: time,
              }),
            ),
            suspect: t.Array(object({ port, reason: t.String() })),
          }),
        },
        404,
      ),
      detail: { ...detail, summary: "Which ports still wait to be brought to their state, and which are suspect?" },
    })
    .post(
      "/switch/:switch/reconcile",
      async ({ caller, params, query, status }) =>
        query.dry_run === "true"
          ? planReconciliation(ctx, caller, params.switch)
          : status(202, { ports: await reconcile(ctx, caller, params.switch) }),
      {
        params,
        query: dryRunQuery,
        body: nothing,
        response: responses(
          {
            200: object({
              switch: t.String(),
              plan: t.Array(object({ port, actual: t.Nullable(portState), desired: portState, lines, error: unreadable }), {
                description: "The ports that differ, or can't be read",
              }),
            }),
            202: object({ ports: t.Array(t.String()) }, { ports: ["gi1/0/1"] }),
          },
          404,
          409,
          500,
        ),
        detail: { ...detail, summary: "Queue bringing every port of a switch to what it should carry" },
      },
    )
    .post("/switch/:switch/test", ({ caller, params }) => testSwitch(ctx, caller, params.switch), {
      params,
      query: nothing,
      body: nothing,
      response: responses(
        {
          200: object({
            switch: t.String(),
            type: t.String(),
            ok: t.Boolean(),
            steps: t.Array(object({ step: t.String(), ok: t.Boolean(), ms: t.Integer() })),
            port: t.Nullable(t.String({ description: "The first registered one, which was read" })),
            state: t.Nullable(portState),
            host_key: t.Nullable(t.String({ description: "The SSH host key by which the switch is known", examples: ["SHA256:…"] })),
            error: t.Nullable(t.String({ description: "What went wrong" })),
            recording: t.Array(
              object({ direction: t.Union([t.Literal("sent"), t.Literal("received")]), text: t.String(), ms: t.Integer() }),
              { description: "The session, without secrets" },
            ),
          }),
        },
        404,
        409,
      ),
      detail: { ...detail, summary: "Connect to a switch, log in, read a port, and tell how that went" },
    })
    .get("/drift", () => showDrift(ctx.db), {
      query: nothing,
      response: responses({
        200: object({
          switches: t.Array(
            object({
              switch: t.String(),
              checked_at: time,
              error: t.Nullable(t.String({ description: "Why it could not be checked" })),
              ports: t.Array(object({ port, desired: portState, actual: portState, difference })),
            }),
            { description: "Sorted by name" },
          ),
        }),
      }),
      detail: { ...detail, summary: "What the last periodic check of every switch found" },
    });

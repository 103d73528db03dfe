import { t } from "elysia";
import type { Rights } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import * as headnodes from "../inventory/headnodes.ts";
import { HeadnodeError, messageOf, validation } from "../errors.ts";
import { InHand } from "../http/in-hand.ts";
import { refuseForeignPage } from "../http/origin.ts";
import { Tunnel } from "../tunnel.ts";
import { controller, empty, factsOf, identify, label, names, nothing, object, reference, responses } from "./controller.ts";

const detail = { tags: ["Headnodes"] };
const displays = new InHand(32, "displays");
const headnode = label("Name of the headnode", "hn1");
const params = object({ headnode });
const hnicParams = object({ headnode, hnic: label("Name of the hnic, unique within its headnode", "eth0") });
const images = {
  query: nothing,
  response: responses({ 200: names("Images, sorted") }),
  detail: { ...detail, summary: "List the images that a headnode can be made from" },
};

export const headnodeRoutes = (ctx: Context) =>
  controller(ctx)
    .get("/headnode_images/", () => headnodes.listImages(ctx), images)
    .get("/headnode_images", () => headnodes.listImages(ctx), images)
    .put(
      "/headnode/:headnode",
      ({ caller, params, body }) => headnodes.createHeadnode(ctx, caller, params.headnode, body.project, body.base_img),
      {
        params,
        query: nothing,
        body: object({ project: reference("Its project", "p1"), base_img: reference("One of the images", "base-headnode") }),
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Create a headnode" },
      },
    )
    .get("/headnode/:headnode", ({ caller, params }) => headnodes.showHeadnode(ctx, caller, params.headnode), {
      params,
      query: nothing,
      response: responses(
        {
          200: object(
            {
              name: t.String(),
              project: t.String(),
              hnics: t.Array(t.String()),
              networks: t.Record(t.String(), t.Nullable(t.String()), { description: "The network of each hnic" }),
              vncport: t.Nullable(t.Integer({ description: "On the loopback of the hypervisor; null when it is off" })),
              vnc_password: t.Nullable(t.String({ description: "Of its display, from the first start on" })),
              state: t.Union(
                [
                  t.Literal("new"),
                  t.Literal("busy"),
                  t.Literal("half-made"),
                  t.Literal("on"),
                  t.Literal("off"),
                  t.Literal("lost"),
                  t.Literal("unknown"),
                ],
                { description: "Of its virtual machine, as the hypervisor tells" },
              ),
              reason: t.Nullable(t.String({ description: "What is not as haas left it" })),
              editable: t.Boolean({ description: "Whether its hnics can change" }),
              uuid: t.String(),
              base_img: t.String(),
            },
            {
              name: "hn1",
              project: "p1",
              hnics: ["eth0"],
              networks: { eth0: "pxe" },
              vncport: 5900,
              vnc_password: "q8Zk-2bX",
              state: "on",
              reason: null,
              editable: false,
              uuid: "6c0d9d3c-8a42-4f0e-9c55-0b7f9a1b7a77",
              base_img: "base-headnode",
            },
          ),
        },
        404,
      ),
      detail: { ...detail, summary: "Show a headnode" },
    })
    .delete("/headnode/:headnode", ({ caller, params }) => headnodes.removeHeadnode(ctx, caller, params.headnode), {
      params,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 500),
      detail: { ...detail, summary: "Destroy a headnode with its storage and its hnics" },
    })
    .post("/headnode/:headnode/start", ({ caller, params }) => headnodes.startHeadnode(ctx, caller, params.headnode), {
      params,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 500),
      detail: { ...detail, summary: "Start a headnode; the first start makes its virtual machine" },
    })
    .post("/headnode/:headnode/stop", ({ caller, params }) => headnodes.stopHeadnode(ctx, caller, params.headnode), {
      params,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 500),
      detail: { ...detail, summary: "Power a headnode off, hard" },
    })
    .post("/headnode/:headnode/edit", ({ caller, params }) => headnodes.editHeadnode(ctx, caller, params.headnode), {
      params,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409, 500),
      detail: { ...detail, summary: "Let the hnics of a stopped headnode change again, until its next start" },
    })
    .get(
      "/headnode/:headnode/vnc",
      async ({ caller, rights, params, request }) => {
        // A page of another site may open WebSockets with the credentials that the browser keeps for this one.
        refuseForeignPage(request.headers, factsOf.get(request)!.arrival.encrypted);
        const port = await headnodes.displayOf(ctx, rights, params.headnode);
        if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") throw validation("This call is a WebSocket.");
        const ended = displays.begin(caller);
        const tunnel = await Tunnel.connect(port, ended).catch((error: unknown) => {
          ended();
          throw new HeadnodeError(`The display of headnode '${params.headnode}' does not answer: ${messageOf(error)}.`);
        });
        // The right to it may be gone since the call came, and may be taken away meanwhile.
        const allowed = async (rights: Promise<Rights>) => headnodes.getHeadnode(ctx.db, await rights, params.headnode);
        await allowed(caller.rights(ctx.db)).catch((error: unknown) => {
          tunnel.close();
          throw error;
        });
        tunnel.keepWhile(async () => allowed(identify(ctx, request).then(({ rights }) => rights)));
        const binary =
          request.headers
            .get("sec-websocket-protocol")
            ?.split(",")
            .some((protocol) => protocol.trim() === "binary") ?? false;
        if (factsOf.get(request)?.arrival.upgrade?.(tunnel, binary ? { "sec-websocket-protocol": "binary" } : {})) return;
        tunnel.close();
        throw validation("This is no complete WebSocket handshake.");
      },
      {
        params,
        query: nothing,
        response: responses(
          { 101: t.Void({ description: "The bytes of RFB, in binary messages, as noVNC sends and takes them" }) },
          404,
          409,
          500,
        ),
        detail: { ...detail, summary: "The display of a running headnode, as a WebSocket" },
      },
    )
    .put("/headnode/:headnode/hnic/:hnic", ({ caller, params }) => headnodes.createHnic(ctx.db, caller, params.headnode, params.hnic), {
      params: hnicParams,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Give a headnode an hnic" },
    })
    .delete("/headnode/:headnode/hnic/:hnic", ({ caller, params }) => headnodes.removeHnic(ctx.db, caller, params.headnode, params.hnic), {
      params: hnicParams,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Delete an hnic" },
    })
    .post(
      "/headnode/:headnode/hnic/:hnic/connect_network",
      ({ caller, params, body }) => headnodes.connectHnic(ctx.db, caller, params.headnode, params.hnic, body.network),
      {
        params: hnicParams,
        query: nothing,
        body: object({ network: reference("A network whose id came from the pool", "pxe") }),
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Connect an hnic to a network" },
      },
    )
    .post(
      "/headnode/:headnode/hnic/:hnic/detach_network",
      ({ caller, params }) => headnodes.detachHnic(ctx.db, caller, params.headnode, params.hnic),
      {
        params: hnicParams,
        query: nothing,
        body: nothing,
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Take an hnic off its network" },
      },
    );

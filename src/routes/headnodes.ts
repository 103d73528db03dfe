import { t } from "elysia";
import type { Context } from "../context.ts";
import * as headnodes from "../inventory/headnodes.ts";
import { controller, empty, label, names, nothing, object, reference, responses } from "./controller.ts";

const detail = { tags: ["Headnodes"] };
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
              vncport: t.Nullable(t.Integer({ description: "null when it is off" })),
              uuid: t.String(),
              base_img: t.String(),
            },
            {
              name: "hn1",
              project: "p1",
              hnics: ["eth0"],
              vncport: 5900,
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

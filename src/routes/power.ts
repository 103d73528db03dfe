import { t } from "elysia";
import type { Context } from "../context.ts";
import { notFound } from "../errors.ts";
import { enableObm, useConsole, useObm } from "../inventory/obm.ts";
import { controller, empty, label, nothing, object, responses } from "./controller.ts";

const detail = { tags: ["Power and consoles"] };
const params = object({ node: label("Name of the node", "n1") });
const plain = { params, query: nothing, body: nothing };

export const powerRoutes = (ctx: Context) =>
  controller(ctx)
    .post(
      "/node/:node/power_cycle",
      async ({ caller, params, body }) => {
        const { driver, target } = await useObm(ctx, caller, params.node);
        await driver.powerCycle(target, body.force ?? false);
      },
      {
        params,
        query: nothing,
        body: object({ force: t.Optional(t.Boolean({ description: "Reset instead of off and on", examples: [false] })) }),
        response: responses(empty, 404, 409, 500),
        detail: { ...detail, summary: "Boot from the network next, and power-cycle" },
      },
    )
    .post(
      "/node/:node/power_off",
      async ({ caller, params }) => {
        const { driver, target } = await useObm(ctx, caller, params.node);
        await driver.powerOff(target);
      },
      { ...plain, response: responses(empty, 404, 409, 500), detail: { ...detail, summary: "Power off" } },
    )
    .post(
      "/node/:node/power_on",
      async ({ caller, params }) => {
        const { driver, target } = await useObm(ctx, caller, params.node);
        await driver.powerOn(target);
      },
      { ...plain, response: responses(empty, 404, 409, 500), detail: { ...detail, summary: "Power on" } },
    )
    .get(
      "/node/:node/power_status",
      async ({ caller, params }) => {
        const { driver, target } = await useObm(ctx, caller, params.node);
        return { power_status: await driver.powerStatus(target) };
      },
      {
        params,
        query: nothing,
        response: responses(
          { 200: object({ power_status: t.Union([t.Literal("on"), t.Literal("off")]) }, { power_status: "on" }) },
          404,
          409,
          500,
        ),
        detail: { ...detail, summary: "Is it on?" },
      },
    )
    .put(
      "/node/:node/boot_device",
      async ({ caller, params, body }) => {
        const { driver, target } = await useObm(ctx, caller, params.node, body.bootdev);
        await driver.setBootDevice(target, body.bootdev);
      },
      {
        params,
        query: nothing,
        body: object({ bootdev: t.String({ description: "For IPMI: pxe, disk or none", examples: ["pxe"] }) }),
        response: responses(empty, 404, 409, 500),
        detail: { ...detail, summary: "Set the boot device until it is set again" },
      },
    )
    .put("/node/:node/obm", ({ caller, params, body }) => enableObm(ctx, caller, params.node, body.enabled), {
      params,
      query: nothing,
      body: object({ enabled: t.Boolean({ examples: [true] }) }),
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Allow or forbid power, boot-device and console calls" },
    })
    .put(
      "/node/:node/console",
      async ({ caller, params }) => {
        const { log, target } = await useConsole(ctx, caller, params.node);
        await log.start(params.node, target);
      },
      { ...plain, response: responses(empty, 404, 409, 500), detail: { ...detail, summary: "Start logging the serial console" } },
    )
    .get(
      "/node/:node/console",
      async ({ caller, params, set }) => {
        const { log } = await useConsole(ctx, caller, params.node);
        const text = await log.read(params.node);
        if (text === null) throw notFound("A console log of node", params.node);
        set.headers["content-type"] = "text/plain; charset=utf-8";
        return text;
      },
      {
        params,
        query: nothing,
        response: responses(
          { 200: t.String({ description: "The log so far: printable ASCII and newlines", examples: ["login:"] }) },
          404,
          409,
          500,
        ),
        detail: { ...detail, summary: "Read the console log" },
      },
    )
    .delete(
      "/node/:node/console",
      async ({ caller, params }) => {
        const { log } = await useConsole(ctx, caller, params.node);
        await log.remove(params.node);
      },
      { ...plain, response: responses(empty, 404, 409, 500), detail: { ...detail, summary: "Stop logging, and delete the log" } },
    );

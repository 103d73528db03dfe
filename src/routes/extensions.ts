import { requireAdmin } from "../auth/caller.ts";
import { activeExtensions } from "../config.ts";
import type { Context } from "../context.ts";
import { controller, names, nothing, responses } from "./controller.ts";

export const extensionRoutes = (ctx: Context) =>
  controller(ctx).get(
    "/active_extensions",
    ({ rights }) => {
      requireAdmin(rights);
      return activeExtensions(ctx.config);
    },
    {
      query: nothing,
      response: responses({ 200: names("Active drivers and backends, sorted") }),
      detail: { tags: ["Other"], summary: "List the active drivers and backends" },
    },
  );

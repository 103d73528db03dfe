import { t } from "elysia";
import { requireAdmin } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import * as users from "../inventory/users.ts";
import { controller, empty, label, nothing, object, reference, responses } from "./controller.ts";

const detail = { tags: ["Users"] };
const params = object({ user: label("Name of the user", "alice") });
const membership = { params, query: nothing, body: object({ project: reference("The project", "p1") }) };

/** For the database backend only. All of it is for administrators. */
export const userRoutes = (ctx: Context) =>
  controller(ctx)
    .onBeforeHandle(({ rights }) => requireAdmin(rights))
    .get("/auth/basic/users", () => users.listUsers(ctx.db), {
      query: nothing,
      response: responses({
        200: t.Record(t.String(), object({ is_admin: t.Boolean(), projects: t.Array(t.String()) }), {
          examples: [{ alice: { is_admin: false, projects: ["p1"] } }],
        }),
      }),
      detail: { ...detail, summary: "List the users" },
    })
    .put(
      "/auth/basic/user/:user",
      ({ caller, params, body }) => users.createUser(ctx.db, caller, params.user, body.password, body.is_admin ?? false),
      {
        params,
        query: nothing,
        body: object({
          password: t.String({ maxLength: 4096, examples: ["secret"] }),
          is_admin: t.Optional(t.Boolean({ examples: [false] })),
        }),
        response: responses(empty, 409),
        detail: { ...detail, summary: "Create a user" },
      },
    )
    .delete("/auth/basic/user/:user", ({ caller, params }) => users.removeUser(ctx.db, caller, params.user), {
      params,
      query: nothing,
      body: nothing,
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Delete a user, but not the last administrator" },
    })
    .patch("/auth/basic/user/:user", ({ caller, params, body }) => users.setAdmin(ctx.db, caller, params.user, body.is_admin), {
      params,
      query: nothing,
      body: object({ is_admin: t.Boolean({ examples: [true] }) }),
      response: responses(empty, 404, 409),
      detail: { ...detail, summary: "Make another user an administrator, or a regular user" },
    })
    .post(
      "/auth/basic/user/:user/add_project",
      ({ caller, params, body }) => users.addUserToProject(ctx.db, caller, params.user, body.project),
      {
        ...membership,
        response: responses(empty, 404, 409),
        detail: { ...detail, summary: "Make a user a member of a project" },
      },
    )
    .post(
      "/auth/basic/user/:user/remove_project",
      ({ caller, params, body }) => users.removeUserFromProject(ctx.db, caller, params.user, body.project),
      {
        ...membership,
        response: responses(empty, 404),
        detail: { ...detail, summary: "End a user's membership of a project" },
      },
    );

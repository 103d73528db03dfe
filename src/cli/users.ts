import { client } from "./command.ts";
import { rows } from "./output.ts";
import { readSecret } from "./secret.ts";

const username = "the user's name";
const project = "name of the project";
const role = { about: "admin or regular", choices: ["admin", "regular"] } as const;

const userPath = (user: string, ...rest: string[]) => ["auth", "basic", "user", user, ...rest];

export const userCommands = [
  client({
    name: "user_create",
    grouped: "user create",
    about: "create a user",
    args: { username, password: { about: "the user's password; - reads it from standard input", verbatim: true }, role },
    call: async (a) => ({
      method: "PUT",
      path: userPath(a.username),
      body: { password: await readSecret(a.password), is_admin: a.role === "admin" },
    }),
  }),
  client({
    name: "user_delete",
    grouped: "user delete",
    about: "delete a user",
    args: { username },
    call: (a) => ({ method: "DELETE", path: userPath(a.username) }),
  }),
  client({
    name: "user_set_admin",
    grouped: "user set_admin",
    about: "make a user an admin, or a regular user again",
    args: { username, role },
    call: (a) => ({ method: "PATCH", path: userPath(a.username), body: { is_admin: a.role === "admin" } }),
  }),
  client({
    name: "user_add_project",
    grouped: "user add_project",
    about: "make a user a member of a project",
    args: { user: username, project },
    call: (a) => ({ method: "POST", path: userPath(a.user, "add_project"), body: { project: a.project } }),
  }),
  client({
    name: "user_remove_project",
    grouped: "user remove_project",
    about: "take a user out of a project",
    args: { user: username, project },
    call: (a) => ({ method: "POST", path: userPath(a.user, "remove_project"), body: { project: a.project } }),
  }),
  client({
    name: "list_users",
    grouped: "user list",
    about: "list the users, whether they are admins, and their projects",
    args: {},
    call: () => ({ method: "GET", path: ["auth", "basic", "users"] }),
    answer: rows("user", { role: (row) => (row.is_admin === true ? "admin" : "regular"), projects: (row) => row.projects }),
  }),
];

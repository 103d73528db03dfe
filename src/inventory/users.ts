import { type Caller, writeAsAdmin } from "../auth/caller.ts";
import { hashPassword } from "../auth/database.ts";
import { type Db, translate, type Tx } from "../db/transaction.ts";
import { badArgument, duplicate, HaasError, illegalState, notFound, quote } from "../errors.ts";
import { isLabel, labelLimitBytes, newName } from "./labels.ts";
import { untilStripped } from "./obm-commands.ts";
import { getProject } from "./projects.ts";

async function getUser(db: Db, label: string) {
  const user = await db.selectFrom("users").select(["id", "label"]).where("label", "=", label).executeTakeFirst();
  if (!user) throw notFound("User", label);
  return user;
}

export async function listUsers(db: Db): Promise<Record<string, { is_admin: boolean; projects: string[] }>> {
  const rows = await db
    .selectFrom("users")
    .leftJoin("user_project", "user_project.user_id", "users.id")
    .leftJoin("project", "project.id", "user_project.project_id")
    .select(["users.label", "users.is_admin", "project.label as project"])
    .orderBy("users.label")
    .orderBy("project.label")
    .execute();
  const users = new Map<string, { is_admin: boolean; projects: string[] }>();
  for (const row of rows) {
    const user = users.get(row.label) ?? { is_admin: row.is_admin === 1, projects: [] };
    if (row.project !== null) user.projects.push(row.project);
    users.set(row.label, user);
  }
  return Object.fromEntries(users);
}

export async function createUser(db: Db, caller: Caller, label: string, password: string, isAdmin: boolean): Promise<void> {
  // HTTP basic ends the name at the first colon.
  if (!isLabel(label) || label.includes(":")) {
    throw badArgument(`${quote(label)} can't be a user's name: printable, without colons and slashes, at most ${labelLimitBytes} bytes.`);
  }
  const password_hash = await hashPassword(password);
  await translate(
    writeAsAdmin(db, caller, async (tx) => {
      const look = await newName(tx, { table: "users", kind: "User" }, label);
      await tx
        .insertInto("users")
        .values({ label, look, password_hash, is_admin: isAdmin ? 1 : 0 })
        .execute();
    }),
    { onUnique: () => duplicate(`User ${quote(label)} exists already.`) },
  );
}

// Who loses a right with what follows has no command running on a BMC any more when it is done.

export async function removeUser(db: Db, caller: Caller, label: string): Promise<void> {
  const userId = await writeAsAdmin(db, caller, async (tx) => {
    const user = await getUser(tx, label);
    await refuseIfLastAdmin(tx, user);
    await tx.deleteFrom("users").where("id", "=", user.id).execute();
    return user.id;
  });
  await untilStripped(db, { userId }, `User ${quote(label)} is deleted`);
}

/** Without an administrator nobody could make another one. Two who remove each other come here one after the other. */
async function refuseIfLastAdmin(tx: Tx, { id, label }: { id: number; label: string }): Promise<void> {
  const admins = await tx.selectFrom("users").select("id").where("is_admin", "=", 1).limit(2).execute();
  if (admins.length === 1 && admins[0]!.id === id) throw illegalState(`User ${quote(label)} is the last administrator.`);
}

/** Nobody changes their own status. */
export async function setAdmin(db: Db, caller: Caller, label: string, isAdmin: boolean): Promise<void> {
  const userId = await writeAsAdmin(db, caller, async (tx) => {
    const user = await getUser(tx, label);
    if (caller.user?.id === user.id) throw illegalState("Nobody can change whether they are an administrator themselves.");
    if (!isAdmin) await refuseIfLastAdmin(tx, user);
    await tx
      .updateTable("users")
      .set({ is_admin: isAdmin ? 1 : 0 })
      .where("id", "=", user.id)
      .execute();
    return user.id;
  });
  await untilStripped(db, { userId }, `User ${quote(label)} is ${isAdmin ? "an" : "no"} administrator now`);
}

export async function addUserToProject(db: Db, caller: Caller, label: string, projectLabel: string): Promise<void> {
  const member = () => duplicate(`User ${quote(label)} is in project ${quote(projectLabel)} already.`);
  await translate(
    writeAsAdmin(db, caller, async (tx) => {
      const user = await getUser(tx, label);
      const project = await getProject(tx, projectLabel);
      await tx.insertInto("user_project").values({ user_id: user.id, project_id: project.id }).execute();
    }),
    { onUnique: member },
  );
}

export async function removeUserFromProject(db: Db, caller: Caller, label: string, projectLabel: string): Promise<void> {
  const userId = await writeAsAdmin(db, caller, async (tx) => {
    const user = await getUser(tx, label);
    const project = await getProject(tx, projectLabel);
    const { numDeletedRows } = await tx
      .deleteFrom("user_project")
      .where("user_id", "=", user.id)
      .where("project_id", "=", project.id)
      .executeTakeFirstOrThrow();
    if (numDeletedRows === 0n) throw new HaasError("NotFoundError", `User ${quote(label)} is not in project ${quote(projectLabel)}.`);
    return user.id;
  });
  await untilStripped(db, { userId }, `User ${quote(label)} is in project ${quote(projectLabel)} no more`);
}

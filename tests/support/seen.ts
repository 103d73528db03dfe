import { expect } from "bun:test";
import type { OpenDatabase } from "./ports.ts";

// What becomes of actions and attachments, written down by the database itself: the table `seen` holds every change
// of an action's status, every action that went away, and every attachment that came or went.

const events = [
  [
    "change",
    "after update of status on networking_action",
    "new.status <> old.status",
    "uuid",
    "new.uuid, old.status || ' to ' || new.status",
  ],
  ["loss", "after delete on networking_action", "old.type <> 'sync_port'", "uuid", "old.uuid, 'deleted'"],
  ["attach", "after insert on attachment", null, "nic, network, channel", "new.nic_id, new.network_id, new.channel, 'attached'"],
  ["detach", "after delete on attachment", null, "nic, network, channel", "old.nic_id, old.network_id, old.channel, 'detached'"],
] as const;

/** The statements that make the table and its triggers. */
export const seenOnSqlite: readonly string[] = [
  "create table seen (n integer primary key, uuid text, nic integer, network integer, channel text, event text)",
  ...events.map(
    ([name, when, condition, columns, values]) =>
      `create trigger seen_${name} ${when} ${condition === null ? "" : `when ${condition}`}
       begin insert into seen (${columns}, event) values (${values}); end`,
  ),
];

export const seenOnPostgres: readonly string[] = [
  "create table seen (n serial primary key, uuid text, nic integer, network integer, channel text, event text)",
  ...events.flatMap(([name, when, condition, columns, values]) => [
    `create function seen_${name}() returns trigger language plpgsql as
     $$ begin insert into seen (${columns}, event) values (${values}); return null; end $$`,
    `create trigger seen_${name} ${when} for each row ${condition === null ? "" : `when (${condition})`} execute function seen_${name}()`,
  ]),
];

interface Action {
  uuid: string;
  type: string;
  nic_id: number;
  network_id: number | null;
  channel: string | null;
  new_network: string | null;
}

/**
 * By the database's own account: each action got DONE, and once; every attachment came and went with an action of its
 * own. `unknown`: how many requests had no answer, and may have been accepted as well.
 */
export async function expectDoneOnce(database: OpenDatabase, accepted: readonly string[], unknown: number): Promise<void> {
  const actions = await database.all<Action>("select * from networking_action order by id");
  const events = await database.all<{ uuid: string; event: string }>("select uuid, event from seen where uuid is not null");
  const byUuid = (a: { uuid: string }, b: { uuid: string }) => (a.uuid < b.uuid ? -1 : 1);
  expect(events.toSorted(byUuid)).toEqual(actions.map(({ uuid }) => ({ uuid, event: "PENDING to DONE" })).toSorted(byUuid));
  expect(new Set(actions.map(({ uuid }) => uuid)).isSupersetOf(new Set(accepted))).toBe(true);
  // Nothing was queued that no request asked for: the rest are requests whose answer was lost.
  expect(actions.length - accepted.length).toBeLessThanOrEqual(unknown);

  const attachment = ({ network, channel }: { network: number | null; channel: string | null }) => `${network} on ${channel}`;
  for (const [nic, mine] of Map.groupBy(actions, ({ nic_id }) => nic_id)) {
    const held = new Set<string>();
    const expected = mine.flatMap(({ type, network_id, channel, new_network }) => {
      if (type === "revert_port") {
        const gone = [...held].map((one) => `detached ${one}`);
        held.clear();
        return gone;
      }
      const one = attachment({ network: network_id, channel });
      if (new_network === null) held.delete(one);
      else held.add(one);
      return [`${new_network === null ? "detached" : "attached"} ${one}`];
    });
    const seen = await database.all<{ network: number; channel: string; event: string }>(
      "select network, channel, event from seen where nic = ? order by n",
      nic,
    );
    expect({ nic, seen: inOrder(seen.map((row) => `${row.event} ${attachment(row)}`)) }).toEqual({ nic, seen: inOrder(expected) });
  }
}

/** Runs of detachments sorted: in which order a port leaves its networks by one action is nobody's business. */
function inOrder(events: readonly string[]): string[] {
  const runs: string[][] = [];
  for (const event of events) {
    const run = runs.at(-1);
    if (event.startsWith("detached") && run?.[0]?.startsWith("detached")) run.push(event);
    else runs.push([event]);
  }
  return runs.flatMap((run) => run.sort());
}

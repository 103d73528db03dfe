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

import { type Kysely, PostgresAdapter, sql } from "kysely";

/**
 * The whole inventory and the journal of networking actions.
 *
 * Every rule that must hold under concurrent requests is a constraint here; the code only turns
 * a violated constraint into the documented answer.
 * Labels compare and sort by their bytes on both databases. Booleans are 0 or 1, times are
 * milliseconds since 1970.
 */
export async function up(db: Kysely<any>): Promise<void> {
  const postgres = db.getExecutor().adapter instanceof PostgresAdapter;
  const id = sql.raw(postgres ? "integer generated always as identity primary key" : "integer primary key autoincrement");
  const text = sql.raw(postgres ? `text collate "C"` : "text");
  const time = sql.raw(postgres ? "bigint" : "integer");
  const run = (statement: ReturnType<typeof sql>) => statement.execute(db);

  await run(sql`create table project (
    id ${id},
    label ${text} not null unique)`);

  await run(sql`create table users (
    id ${id},
    label ${text} not null unique,
    password_hash ${text} not null,
    is_admin integer not null check (is_admin in (0, 1)))`);

  await run(sql`create table user_project (
    user_id integer not null references users (id) on delete cascade,
    project_id integer not null references project (id) on delete cascade,
    primary key (user_id, project_id))`);

  await run(sql`create table switch (
    id ${id},
    label ${text} not null unique,
    type ${text} not null,
    settings ${text} not null,
    lease_owner ${text},
    lease_token integer not null default 0,
    lease_until ${time} not null default 0)`);

  // suspect: why the port may hold something else than it should; null when it is known good.
  await run(sql`create table port (
    id ${id},
    switch_id integer not null references switch (id),
    label ${text} not null,
    suspect ${text},
    unique (switch_id, label))`);

  await run(sql`create index port_suspect on port (id) where suspect is not null`);

  // One allocation a node: it is in at most one project.
  await run(sql`create table node (
    id ${id},
    label ${text} not null unique,
    project_id integer references project (id),
    obm_type ${text} not null,
    obm ${text} not null,
    obm_enabled integer not null default 1 check (obm_enabled in (0, 1)))`);
  await run(sql`create index node_project on node (project_id, label)`);

  // One nic a port, one port a nic.
  await run(sql`create table nic (
    id ${id},
    node_id integer not null references node (id),
    label ${text} not null,
    mac_addr ${text} not null,
    port_id integer unique references port (id),
    unique (node_id, label))`);

  await run(sql`create table node_metadata (
    id ${id},
    node_id integer not null references node (id),
    label ${text} not null,
    value ${text} not null,
    unique (node_id, label))`);

  // One VLAN, one network. owner_id is null for the administrators' networks.
  // allocated: the id came from the pool. vlan is null only under the null allocator.
  await run(sql`create table network (
    id ${id},
    label ${text} not null unique,
    owner_id integer references project (id),
    is_public integer not null check (is_public in (0, 1)),
    vlan integer unique check (vlan between 1 and 4094),
    allocated integer not null check (allocated in (0, 1)),
    check (is_public = 0 or owner_id is null))`);

  await run(sql`create table network_access (
    id ${id},
    network_id integer not null references network (id) on delete cascade,
    project_id integer not null references project (id),
    unique (network_id, project_id))`);
  await run(sql`create index network_access_project on network_access (project_id)`);

  // No network twice and no channel twice on one nic.
  await run(sql`create table attachment (
    id ${id},
    nic_id integer not null references nic (id),
    network_id integer not null references network (id),
    channel ${text} not null,
    unique (nic_id, network_id),
    unique (nic_id, channel))`);
  await run(sql`create index attachment_network on attachment (network_id)`);

  // The journal. Names are kept beside the ids, because the record outlives the objects.
  // sync_port is haas's own: it brings a port to what its attachments say.
  await run(sql`create table networking_action (
    id ${id},
    uuid ${text} not null unique,
    type ${text} not null check (type in ('modify_port', 'revert_port', 'sync_port')),
    status ${text} not null check (status in ('PENDING', 'DONE', 'ERROR')),
    node_id integer references node (id) on delete set null,
    nic_id integer references nic (id) on delete set null,
    port_id integer references port (id) on delete set null,
    switch_id integer references switch (id) on delete set null,
    network_id integer references network (id) on delete set null,
    node ${text},
    nic ${text},
    new_network ${text},
    channel ${text},
    reason ${text},
    attempts integer not null default 0,
    next_try ${time} not null default 0,
    created_at ${time} not null,
    ended_at ${time})`);
  // One pending action a nic.
  await run(sql`create unique index action_pending_nic on networking_action (nic_id)
    where status = 'PENDING' and nic_id is not null`);
  // One sync of a port waits at a time.
  await run(sql`create unique index action_pending_sync on networking_action (port_id)
    where status = 'PENDING' and type = 'sync_port'`);
  // The journal keeps its history, so whatever looks for what is pending needs an index. Not partial
  // ones: a query whose status is a parameter can't use those.
  await run(sql`create index action_status on networking_action (status, switch_id, id)`);
  for (const object of ["port", "nic", "node", "network"]) {
    await run(sql.raw(`create index action_${object} on networking_action (${object}_id, status)`));
  }

  await run(sql`create table headnode (
    id ${id},
    label ${text} not null unique,
    project_id integer not null references project (id),
    base_img ${text} not null,
    uuid ${text} not null unique,
    started integer not null default 0 check (started in (0, 1)))`);

  await run(sql`create table hnic (
    id ${id},
    headnode_id integer not null references headnode (id) on delete cascade,
    label ${text} not null,
    network_id integer references network (id),
    unique (headnode_id, label))`);
}

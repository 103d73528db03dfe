import type { Generated } from "kysely";

/** 0 or 1: neither database needs a boolean type for it, and both agree on integers. */
export type Flag = 0 | 1;

export type ActionType = "modify_port" | "revert_port" | "sync_port";
export type ActionStatus = "PENDING" | "DONE" | "ERROR";

/** The tables of migrations/, as Kysely sees them. `…_at` is in milliseconds since 1970; `…_until` and `next_try` are on the database's clock (clock.ts). */
export interface Tables {
  project: { id: Generated<number>; label: string; look: string | null };
  users: { id: Generated<number>; label: string; look: string | null; password_hash: string; is_admin: Flag };
  user_project: { user_id: number; project_id: number };
  switch: {
    id: Generated<number>;
    label: string;
    look: string | null;
    type: string;
    settings: string;
    address: string | null;
    lease_owner: string | null;
    lease_token: Generated<number>;
    lease_until: Generated<number>;
    uncertain_until: Generated<number>;
    give_up: Generated<Flag>;
    host_key: string | null;
    serial: string | null;
    checked_at: number | null;
    check_error: string | null;
  };
  port: {
    id: Generated<number>;
    switch_id: number;
    label: string;
    look: string | null;
    canonical: string | null;
    suspect: string | null;
    drift: string | null;
    unread: Generated<Flag>;
  };
  node: {
    id: Generated<number>;
    label: string;
    look: string | null;
    project_id: number | null;
    obm_type: string;
    obm: string;
    obm_address: string | null;
    obm_enabled: Generated<Flag>;
    boot_device: string | null;
    hold: string | null;
    hold_until: Generated<number>;
  };
  obm_command: { id: Generated<number>; node_id: number; user_id: number | null; ends_by: number };
  nic: { id: Generated<number>; node_id: number; label: string; look: string | null; mac_addr: string; port_id: number | null };
  node_metadata: { id: Generated<number>; node_id: number; label: string; look: string | null; value: string };
  network: {
    id: Generated<number>;
    label: string;
    look: string | null;
    owner_id: number | null;
    is_public: Flag;
    vlan: number | null;
    allocated: Flag;
  };
  network_access: { id: Generated<number>; network_id: number; project_id: number };
  attachment: { id: Generated<number>; nic_id: number; network_id: number; channel: string };
  networking_action: {
    id: Generated<number>;
    uuid: string;
    type: ActionType;
    status: ActionStatus;
    node_id: number | null;
    nic_id: number | null;
    port_id: number | null;
    switch_id: number | null;
    network_id: number | null;
    node: string | null;
    nic: string | null;
    new_network: string | null;
    channel: string | null;
    reason: string | null;
    unreached: Generated<Flag>;
    attempts: Generated<number>;
    next_try: Generated<number>;
    created_at: number;
    ended_at: number | null;
  };
  headnode: {
    id: Generated<number>;
    label: string;
    look: string | null;
    project_id: number;
    base_img: string;
    uuid: string;
    started: Generated<Flag>;
    made: Generated<Flag>;
    running: Generated<Flag>;
    vnc_password: string | null;
    lease_owner: string | null;
    lease_token: Generated<number>;
    lease_until: Generated<number>;
  };
  lineage: { id: 1; identity: string; counter: number; replacing: Flag };
  lineage_server: { server: string; mark: string };
  hnic: { id: Generated<number>; headnode_id: number; label: string; look: string | null; network_id: number | null };
}

import { Database } from "bun:sqlite";
import { randomBytes } from "node:crypto";
import { chmodSync, closeSync, openSync } from "node:fs";
import type { Mac } from "./mac.ts";

export type MachineState = "armed" | "installing" | "done";

/** A machine that was armed. */
export interface Machine {
  readonly name: string;
  readonly profile: string;
  readonly state: MachineState;
  /** Of this arming; a new one has another. */
  readonly token: string;
  readonly timeoutMinutes: number;
  readonly armedAt: number;
  /** When it first got the installer of this arming. */
  readonly installingAt: number | null;
  readonly doneAt: number | null;
  /** How often it got the installer. */
  readonly boots: number;
  readonly reportedFrom: string | null;
  readonly macs: readonly Mac[];
}

/** What is armed. */
export interface Arming {
  readonly name: string;
  readonly macs: readonly Mac[];
  readonly profile: string;
  readonly timeoutMinutes: number;
}

export type Report = "done" | "already" | "unknown" | "other-arming" | "not-booted";

/** A machine can't be armed or disarmed as it was asked for: one sentence. */
export class ArmingError extends Error {}

/**
 * The durable state: a SQLite file that several processes use at the same time. Every change is one
 * transaction, on the disk when the function returns.
 */
export interface State {
  /** All or none. A machine that was armed before begins again, with another token. */
  arm(armings: readonly Arming[], now: number): void;
  /** All or none; it is as if they had never been armed. */
  disarm(names: readonly string[]): void;
  list(): Machine[];
  byMac(mac: Mac): Machine | null;
  byName(name: string): Machine | null;
  /** The installer is about to be given to it; false when that arming is over. */
  boot(token: string, now: number): boolean;
  /** The end of an installation; `token` null when the report has none. */
  report(mac: Mac, token: string | null, address: string, now: number): Report;
  /** Changes whenever another process has changed something. */
  version(): number;
  close(): void;
}

const busyTimeoutMs = 10_000;

const schema = `
create table if not exists machine (
  name text primary key check (name <> ''),
  profile text not null,
  state text not null check (state in ('armed', 'installing', 'done')),
  token text not null unique check (length(token) = 32),
  timeout_minutes integer not null check (timeout_minutes > 0),
  armed_at integer not null,
  installing_at integer,
  done_at integer,
  boots integer not null default 0 check (boots >= 0),
  reported_from text,
  check ((installing_at is null) = (boots = 0)),
  check (state <> 'armed' or boots = 0),
  check (state <> 'installing' or boots > 0),
  check ((done_at is not null) = (state = 'done')),
  check ((reported_from is not null) = (state = 'done'))
) strict;
create table if not exists mac (
  mac text primary key check (length(mac) = 17 and mac = lower(mac)),
  machine text not null references machine (name) on delete cascade
) strict;
create index if not exists mac_machine on mac (machine);
`;

export function openState(file: string): State {
  // The tokens in it are secrets; SQLite gives its other files the mode of this one.
  closeSync(openSync(file, "a", 0o600));
  chmodSync(file, 0o600);
  const db = new Database(file, { create: true, readwrite: true, strict: true });
  db.run(`pragma busy_timeout = ${busyTimeoutMs}`);
  db.run("pragma journal_mode = wal");
  db.run("pragma synchronous = full");
  db.run("pragma foreign_keys = on");
  db.transaction(() => db.run(schema)).immediate();

  const macsOf = db.query<{ mac: Mac }, [string]>("select mac from mac where machine = ? order by mac");
  const machine = (row: Row): Machine => ({
    name: row.name,
    profile: row.profile,
    state: row.state,
    token: row.token,
    timeoutMinutes: row.timeout_minutes,
    armedAt: row.armed_at,
    installingAt: row.installing_at,
    doneAt: row.done_at,
    boots: row.boots,
    reportedFrom: row.reported_from,
    macs: macsOf.all(row.name).map(({ mac }) => mac),
  });
  const all = db.query<Row, []>("select * from machine order by name");
  const named = db.query<Row, [string]>("select * from machine where name = ?");
  const ofMac = db.query<Row, [string]>("select machine.* from machine join mac on mac.machine = machine.name where mac.mac = ?");
  const byMac = (mac: Mac) => ((row) => row && machine(row))(ofMac.get(mac));
  const byName = (name: string) => ((row) => row && machine(row))(named.get(name));

  const arm = db.transaction((armings: readonly Arming[], now: number) => {
    for (const { name, macs, profile, timeoutMinutes } of armings) {
      db.run("delete from machine where name = ?", [name]);
      db.run("insert into machine (name, profile, state, token, timeout_minutes, armed_at) values (?, ?, 'armed', ?, ?, ?)", [
        name,
        profile,
        randomBytes(16).toString("hex"),
        timeoutMinutes,
        now,
      ]);
      for (const mac of macs) {
        const other = ofMac.get(mac);
        if (other) {
          throw new ArmingError(
            other.name === name
              ? `${name} has ${mac} twice.`
              : `${mac} belongs to ${other.name}, which is ${other.state}: run haas boot disarm ${other.name} first.`,
          );
        }
        db.run("insert into mac (mac, machine) values (?, ?)", [mac, name]);
      }
    }
  });
  const disarm = db.transaction((names: readonly string[]) => {
    for (const name of names) {
      if (db.run("delete from machine where name = ?", [name]).changes === 0) throw new ArmingError(`${name} is not armed.`);
    }
  });
  const report = db.transaction((mac: Mac, token: string | null, address: string, now: number): Report => {
    const found = byMac(mac);
    if (!found) return "unknown";
    if (token !== null && token !== found.token) return "other-arming";
    if (found.state === "done") return "already";
    // Without a token it may be the installer of the arming before, which ends only now.
    if (token === null && found.state === "armed") return "not-booted";
    db.run("update machine set state = 'done', done_at = ?, reported_from = ? where name = ?", [now, address, found.name]);
    return "done";
  });
  return {
    arm: (armings, now) => void arm.immediate(armings, now),
    disarm: (names) => void disarm.immediate(names),
    list: db.transaction(() => all.all().map(machine)),
    byMac,
    byName,
    boot: (token, now) =>
      db.run(
        "update machine set state = 'installing', boots = boots + 1, installing_at = coalesce(installing_at, ?) where token = ? and state <> 'done'",
        [now, token],
      ).changes === 1,
    report: (...args) => report.immediate(...args),
    version: () => db.query<{ data_version: number }, []>("pragma data_version").get()!.data_version,
    close: () => db.close(),
  };
}

interface Row {
  name: string;
  profile: string;
  state: MachineState;
  token: string;
  timeout_minutes: number;
  armed_at: number;
  installing_at: number | null;
  done_at: number | null;
  boots: number;
  reported_from: string | null;
}

/** When the state that a machine is in began. */
export const since = (machine: Machine): number => machine.doneAt ?? machine.installingAt ?? machine.armedAt;

/** It has had the installer for longer than its profile allows, and has not reported. */
export const isOverdue = (machine: Machine, now: number): boolean =>
  machine.state === "installing" && now - machine.installingAt! > machine.timeoutMinutes * 60_000;

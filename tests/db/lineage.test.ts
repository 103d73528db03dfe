import { afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { constants, Database } from "bun:sqlite";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import pg from "pg";
import { switchTypePrefix } from "../../src/hardware/switches/index.ts";
import { startConsole } from "../sim/console.ts";
import type { Emulator } from "../sim/emulator.ts";
import { haasBinary, run } from "../support/binary.ts";
import { freePort } from "../support/postgres.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { configText, type DatabaseKind, databases, freshUri, mockObm, scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// A database that is not the one that haas left is not believed: no port of a real switch before it has been read back.

let binary: string;
beforeAll(async () => {
  binary = await haasBinary();
}, 120_000);

const boundMs = 30_000;

class Site {
  private constructor(
    readonly kind: DatabaseKind,
    readonly place: ReturnType<typeof scratch>,
    readonly uri: string,
    readonly device: Emulator,
    readonly port: number,
  ) {}
  #server: ServerProcess | null = null;
  /** What the servers that have ended wrote. */
  #log = "";

  static async make(kind: DatabaseKind): Promise<Site> {
    const place = scratch();
    mkdirSync(join(place.path, "state"), { mode: 0o700 });
    const site = new Site(
      kind,
      place,
      await freshUri(kind, place.path),
      await startConsole("delln3000", { transport: "telnet" }),
      await freePort(),
    );
    await site.start();
    for (const project of ["p1", "p2"]) await site.ok("PUT", `/project/${project}`);
    await site.ok("PUT", "/switch/sw", { type: `${switchTypePrefix}delln3000`, ...site.device.settings });
    for (const n of [1, 2]) {
      await site.ok("PUT", `/switch/sw/port/gi1%2F0%2F${n}`);
      await site.ok("PUT", `/node/n${n}`, { obm: mockObm });
      await site.ok("PUT", `/node/n${n}/nic/nic`, { macaddr: "m" });
      await site.ok("POST", `/switch/sw/port/gi1%2F0%2F${n}/connect_nic`, { node: `n${n}`, nic: "nic" });
    }
    await site.within("both nodes are free", async () => (await site.free()).length === 2);
    return site;
  }

  /** SQLite's file. */
  get file(): string {
    return join(this.place.path, "haas.db");
  }
  get config(): string {
    const path = join(this.place.path, "haas.cfg");
    writeFileSync(path, this.text, { mode: 0o600 });
    return path;
  }
  get text(): string {
    return configText({ uri: this.uri, more: this.more });
  }
  readonly more = "[network-daemon]\nsleep_time = 0.05\nmax_tries = 1";
  get stateFile(): string {
    const folder = this.kind === "sqlite" ? this.place.path : /state_dir = (.*)/.exec(this.text)![1]!;
    const files = readdirSync(folder).filter((name) => name.startsWith("haas-lineage-") && name.endsWith(".json"));
    const mine = files.filter(
      (name) => this.kind === "sqlite" || readFileSync(join(folder, name), "utf8").includes(new URL(this.uri).pathname),
    );
    expect(mine).toHaveLength(1);
    return join(folder, mine[0]!);
  }
  get server(): ServerProcess {
    return this.#server!;
  }
  get log(): string {
    return this.#log + (this.#server?.log() ?? "");
  }
  lines(level: string): any[] {
    const all = this.log.split("\n").filter((line) => line.startsWith("{"));
    return all.map((line) => JSON.parse(line)).filter((line) => line.level === level);
  }
  /** The lines that say why the ports are not believed. */
  get reasons(): string[] {
    return this.lines("warning").flatMap(({ message }) => (/real switch/.test(message) ? [message] : []));
  }
  /** Nothing before counts. */
  forget(): void {
    this.#log = "";
  }

  readonly within = untilWithin(boundMs, () => this.log);
  async start(options: { networks?: boolean } = {}): Promise<void> {
    this.#server = await startServer({ kind: this.kind, uri: this.uri, more: this.more, port: this.port, binary, ...options });
  }
  async end(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const server = this.#server;
    this.#server = null;
    if (!server) return;
    if (signal !== "SIGTERM") await server.kill(signal);
    this.#log += server.log();
    await server.stop();
  }
  async call(method: string, path: string, body?: unknown) {
    const answer = await fetch(this.server.url + path, {
      method,
      keepalive: false,
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    return { status: answer.status, headers: answer.headers, body: text === "" ? null : JSON.parse(text) };
  }
  async ok(method: string, path: string, body?: unknown): Promise<any> {
    const answer = await this.call(method, path, body);
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}\n${this.log}`);
    return answer.body;
  }
  free = async (): Promise<string[]> => this.ok("GET", "/nodes/free");
  /** p1 has n1 on a network of its own, on VLAN 100. */
  async connect(): Promise<void> {
    await this.ok("POST", "/project/p1/connect_node", { node: "n1" });
    await this.ok("PUT", "/network/a", { owner: "p1", access: "p1", net_id: "" });
    const { status_id } = await this.ok("POST", "/node/n1/nic/nic/connect_network", { network: "a" });
    await this.within("n1 is connected", async () => (await this.ok("GET", `/networking_action/${status_id}`)).status === "DONE");
    expect(this.device.port("gi1/0/1")).toEqual({ native: 100, tagged: [] });
  }
  haas = (...argv: string[]) => run([binary, ...argv, "--config", this.config], { cwd: this.place.path });
  async backup(file = join(this.place.path, "backup.db")): Promise<string> {
    expect(await this.haas("backup", file)).toMatchObject({ status: 0, err: "" });
    return file;
  }
  async remove(): Promise<void> {
    await this.end();
    await this.device.stop();
    this.place.remove();
  }
}

let site: Site;
afterEach(() => site.remove());

/** Nothing is offered while the switch can't be read, one line says why, and all is well once it can. */
async function expectDisbelief(why: RegExp): Promise<void> {
  expect(site.reasons).toEqual([expect.stringMatching(why)]);
  expect(site.lines("warning").filter(({ message }) => /database/.test(message))).toHaveLength(1);
  expect(await site.free()).toEqual([]);
  for (const node of ["n1", "n2"]) {
    const { status, body } = await site.call("POST", "/project/p2/connect_node", { node });
    expect({ status, body }).toMatchObject({ status: 409, body: { type: "BlockedError" } });
  }
  for (const net_id of ["", "100", "777"]) {
    const { status, body } = await site.call("PUT", "/network/b", { owner: "admin", access: "", net_id });
    expect({ status, body }).toEqual({
      status: 409,
      body: { type: "BlockedError", msg: expect.stringMatching(/read back.*port 'gi1\/0\/\d' of switch 'sw'/) },
    });
  }
  site.device.behaviour.refusesLogins = false;
  await site.ok("POST", "/switch/sw/reconcile");
  await site.within("both nodes are free", async () => (await site.free()).length === 2);
  expect(site.device.port("gi1/0/1")).toEqual({ native: null, tagged: [] });
  await site.ok("PUT", "/network/b", { owner: "p2", access: "p2", net_id: "" });
  expect(site.reasons).toHaveLength(1);
}

const notBelieved = /real switch is suspect/;

const serverIsGone = async () => {
  await site.within("503", async () => (await site.call("GET", "/nodes/free")).status === 503);
  const { body, headers } = await site.call("GET", "/nodes/free");
  expect(body).toEqual({ type: "UnavailableError", msg: expect.stringContaining("haas has lost its database") });
  expect(headers.get("retry-after")).toBe("5");
};
const serverIsBack = () => site.within("no 503", async () => (await site.call("GET", "/nodes/free")).status !== 503);

describe("SQLite", () => {
  beforeEach(async () => {
    site = await Site.make("sqlite");
  }, 60_000);

  /** How a database goes back: what is done, and what haas says. */
  const ways: Record<string, { back(backup: string): Promise<void>; says: RegExp }> = {
    "restored while haas is stopped": {
      async back(backup) {
        await site.end();
        const { status, out } = await site.haas("restore", backup);
        expect({ status, out }).toEqual({
          status: 0,
          out: expect.stringMatching(/is now what .*backup.db holds.*kept as.*before-restore.*: 2\.\n$/s),
        });
        await site.start();
      },
      says: /another database/,
    },
    "copied over it while haas is stopped": {
      async back(backup) {
        await site.end();
        copyFileSync(backup, site.file);
        await site.start();
      },
      says: /went back: this server remembers change \d+, it is at \d+/,
    },
    "copied over it after a crash": {
      async back(backup) {
        await site.end("SIGKILL");
        expect(statSync(`${site.file}-wal`).size).toBeGreaterThan(0);
        copyFileSync(backup, site.file);
        await site.start();
      },
      says: /went back/,
    },
    "moved to its place after a crash": {
      async back(backup) {
        await site.end("SIGKILL");
        renameSync(backup, site.file);
        await site.start();
      },
      says: /went back/,
    },
    "copied over it under the running server": {
      async back(backup) {
        copyFileSync(backup, site.file);
        await serverIsGone();
        await serverIsBack();
      },
      says: /written over under the running server/,
    },
    "moved to its place under the running server": {
      async back(backup) {
        renameSync(backup, site.file);
        await serverIsGone();
        await serverIsBack();
      },
      says: /replaced under the running server/,
    },
    "moved to its place under the running server, which is killed then": {
      async back(backup) {
        process.kill(site.server.pid, "SIGSTOP");
        renameSync(backup, site.file);
        await site.end("SIGKILL");
        await site.start();
      },
      says: /went back/,
    },
    "copied to its place after it was deleted under the running server": {
      async back(backup) {
        rmSync(site.file);
        await serverIsGone();
        copyFileSync(backup, site.file);
        await serverIsBack();
      },
      says: /deleted under the running server/,
    },
  };
  test.each(Object.entries(ways))("%s", async (_, { back, says }) => {
    const backup = await site.backup();
    await site.connect();
    site.device.behaviour.refusesLogins = true;
    await back(backup);
    await expectDisbelief(says);
  });

  test("a copy that another haas moved further, moved back in", async () => {
    const copy = await site.backup();
    await site.connect();
    // Elsewhere, on a device of its own, and further than the database here.
    const elsewhere = new Database(copy);
    elsewhere.run("update lineage set counter = counter + 10000");
    elsewhere.run("update lineage_server set mark = 'elsewhere'");
    elsewhere.close();
    await site.end();
    site.device.behaviour.refusesLogins = true;
    renameSync(copy, site.file);
    await site.start();
    await expectDisbelief(/a copy that went on without this server/);
  });

  test.each(["SIGTERM", "SIGKILL"] as const)(
    "a copy that counted as far as the database here, and knows nothing of what was sent to the switch; haas ended by %s",
    async (signal) => {
      const copy = await site.backup();
      await site.connect();
      await site.end(signal);
      const elsewhere = new Database(copy);
      elsewhere.run("update lineage set counter = counter + 10000");
      elsewhere.close();
      site.device.behaviour.refusesLogins = true;
      renameSync(copy, site.file);
      await site.start();
      await expectDisbelief(/a copy that went on without this server/);
    },
  );

  test("its file was only touched after a crash", async () => {
    await site.connect();
    await site.end("SIGKILL");
    utimesSync(site.file, new Date(), new Date());
    await site.start();
    expect(site.log).not.toMatch(notBelieved);
    expect((await site.ok("GET", "/node/n1")).nics[0].networks).toEqual({ "vlan/native": "a" });
  });

  test("a copy of what was in the main file, put there after a crash", async () => {
    // Another layout, the same counter: only the two together show that they don't belong together.
    await site.ok("PUT", "/project/p3");
    await site.end();
    await site.start();
    await site.end("SIGKILL");
    const main = `file:${site.file}?immutable=1`;
    const alone = new Database(main, constants.SQLITE_OPEN_READONLY | constants.SQLITE_OPEN_URI);
    const copy = join(site.place.path, "copy.db");
    alone.run("vacuum into ?", [copy]);
    alone.close();
    await site.start();
    await site.connect();
    site.device.behaviour.refusesLogins = true;
    await site.end("SIGKILL");
    copyFileSync(copy, site.file);
    await site.start();
    await expectDisbelief(/went back/);
  });

  test.each(["backup", "create_admin_user", "restore"])(
    "after a crash a copy was moved there, and the first to come is haas %s",
    async (command) => {
      const backup = await site.backup();
      const other = await site.backup(join(site.place.path, "other.db"));
      await site.ok("PUT", "/project/after");
      // Nothing was sent to a switch since. How far it came is remembered within a second.
      const remembered = readFileSync(site.stateFile, "utf8");
      await site.within("it is remembered", () => readFileSync(site.stateFile, "utf8") !== remembered);
      await site.end("SIGKILL");
      renameSync(backup, site.file);
      const values = command === "create_admin_user" ? ["root", "pw"] : command === "backup" ? [join(site.place.path, "new.db")] : [other];
      expect(await site.haas(command, ...values)).toMatchObject({ status: 0 });
      site.device.behaviour.refusesLogins = true;
      await site.start();
      expect(await site.ok("GET", "/projects")).toEqual(["p1", "p2"]);
      await expectDisbelief(/went back|another database/);
    },
  );

  test("the whole folder, with what the server remembers", async () => {
    const folder = join(site.place.path, "copies");
    await site.end();
    mkdirSync(folder);
    const files = readdirSync(site.place.path).filter((name) => /^haas(\.db|-lineage)/.test(name));
    for (const name of files) copyFileSync(join(site.place.path, name), join(folder, name));
    await site.start();
    await site.connect();
    site.device.behaviour.refusesLogins = true;
    await site.end();
    for (const name of files) copyFileSync(join(folder, name), join(site.place.path, `${name}.new`));
    for (const name of files) renameSync(join(site.place.path, `${name}.new`), join(site.place.path, name));
    await site.start();
    await expectDisbelief(/haas-lineage-.* is a copy/);
  });

  test("a copy made by SQLite while the change was under way", async () => {
    await site.ok("POST", "/project/p1/connect_node", { node: "n1" });
    await site.ok("PUT", "/network/a", { owner: "p1", access: "p1", net_id: "" });
    site.device.behaviour.commandDelayMs = 100;
    const { status_id } = await site.ok("POST", "/node/n1/nic/nic/connect_network", { network: "a" });
    await site.within("the change is under way", () => site.device.port("gi1/0/1")?.native === 100);
    const backup = await site.backup();
    expect((await site.ok("GET", `/networking_action/${status_id}`)).status).toBe("PENDING");
    site.device.behaviour.commandDelayMs = 0;
    await site.within("n1 is connected", async () => (await site.ok("GET", `/networking_action/${status_id}`)).status === "DONE");
    // What the backup knows of it is still to be done.
    await site.end();
    copyFileSync(backup, site.file);
    await site.start();
    expect(site.reasons).toEqual([expect.stringMatching(/went back|without this server/)]);
    await site.within("n1 is connected", async () => (await site.ok("GET", `/networking_action/${status_id}`)).status === "DONE");
    await site.within(
      "both ports were read back",
      async () => (await site.call("PUT", "/network/b", { owner: "admin", access: "", net_id: "" })).status === 200,
    );
    expect(site.device.port("gi1/0/1")).toEqual({ native: 100, tagged: [] });
  });

  test("deleted, and begun anew: a port that is registered now may carry anything", async () => {
    await site.connect();
    await site.end();
    rmSync(site.file);
    await site.start();
    expect(site.reasons).toEqual([expect.stringMatching(/another database.*it has no port of a real switch/)]);
    await site.ok("PUT", "/project/p2");
    await site.ok("PUT", "/switch/sw", { type: `${switchTypePrefix}delln3000`, ...site.device.settings });
    site.device.behaviour.refusesLogins = true;
    await site.ok("PUT", "/switch/sw/port/gi1%2F0%2F1");
    const network = () => site.call("PUT", "/network/b", { owner: "p2", access: "p2", net_id: "" });
    expect(await network()).toMatchObject({ status: 409, body: { type: "BlockedError" } });
    expect((await site.call("DELETE", "/switch/sw/port/gi1%2F0%2F1")).status).toBe(409);
    site.device.behaviour.refusesLogins = false;
    await site.within("the port was read back", async () => (await network()).status === 200);
    expect(site.device.port("gi1/0/1")).toEqual({ native: null, tagged: [] });
  });

  test("deleted under the running server, and not put back: nothing is made in its place", async () => {
    await site.connect();
    rmSync(site.file);
    await serverIsGone();
    await Bun.sleep(2_500);
    expect(readdirSync(site.place.path).filter((name) => name.startsWith("haas.db"))).toEqual([]);
    expect((await site.call("POST", "/project/p1/detach_node", { node: "n1" })).status).toBe(503);
    expect((await site.call("PUT", "/project/p3")).status).toBe(503);
    expect(site.lines("error").map(({ message }) => message)).toEqual([
      expect.stringContaining("its file was deleted under the running server"),
      expect.stringContaining("waiting for a database; haas makes a new one only when it is restarted"),
    ]);
    // An empty file, or some other one, is none.
    writeFileSync(site.file, "");
    await Bun.sleep(2_500);
    expect(statSync(site.file).size).toBe(0);
    writeFileSync(site.file, "no database at all, but long enough to look like one".repeat(100));
    await Bun.sleep(2_500);
    expect((await site.call("GET", "/nodes/free")).status).toBe(503);
    await site.end();
  });

  test("what was committed goes with a file that is moved away, and nothing after that", async () => {
    const backup = await site.backup();
    await site.connect();
    await site.ok("PUT", "/project/late");
    const away = join(site.place.path, "away.db");
    renameSync(site.file, away);
    expect((await site.call("PUT", "/project/too-late")).status).toBe(503);
    await serverIsGone();
    renameSync(backup, site.file);
    await serverIsBack();
    const projects = (path: string) => {
      const database = new Database(path);
      try {
        expect(database.query("pragma integrity_check").values()).toEqual([["ok"]]);
        return database.query("select label from project order by label").values().flat();
      } finally {
        database.close();
      }
    };
    expect(projects(away)).toEqual(["late", "p1", "p2"]);
    await site.ok("PUT", "/project/p4");
    await site.end();
    expect(projects(site.file)).toEqual(["p1", "p2", "p4"]);
  });

  test.each(["a truncating one", "a passive one", "one amid changes"])(
    "another program makes a checkpoint, %s: nothing is lost",
    async (kind) => {
      const other = new Database(site.file);
      try {
        for (let i = 0; i < 60; i++) {
          await site.ok("PUT", `/project/x${i}`);
          if (kind === "one amid changes" && i % 10 === 5) other.run("pragma wal_checkpoint(passive)");
        }
        if (kind !== "one amid changes") other.run(`pragma wal_checkpoint(${kind === "a passive one" ? "passive" : "truncate"})`);
        if (kind !== "a truncating one") await site.ok("PUT", "/project/y");
        // At once after a crash as well as under the running server.
        for (const waitMs of [0, 2_500]) {
          await Bun.sleep(waitMs);
          await site.end("SIGKILL");
          await site.start();
          expect(await site.ok("GET", "/projects")).toHaveLength(kind === "a truncating one" ? 62 : 63);
        }
        await site.ok("PUT", "/project/z");
        other.run("pragma wal_checkpoint(passive)");
        await Bun.sleep(2_500);
        expect(await site.ok("GET", "/projects")).toContain("z");
        expect(site.log).not.toMatch(/real switch|has lost its database/);
      } finally {
        other.close();
      }
    },
  );

  test("what goes on longer than SQLite's -wal is long is no time travel", async () => {
    await site.ok("PUT", "/node/n3", { obm: mockObm });
    for (let i = 0; i < 1_000; i++)
      await site.ok("POST", "/node/n3/metadata", { label: "m", value: String(i) }).catch(() => site.ok("PUT", `/project/x${i}`));
    await Bun.sleep(1_500);
    await site.end("SIGKILL");
    await site.start();
    expect(site.reasons).toEqual([]);
    expect(site.lines("error")).toEqual([]);
    expect(statSync(site.file).size).toBeGreaterThan(100_000);
    expect(await site.free()).toHaveLength(3);
  });
});

describe.each(databases)("%s", (kind) => {
  beforeEach(async () => {
    site = await Site.make(kind);
  }, 60_000);

  test("a server that is started again believes its own database", async () => {
    await site.connect();
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      await site.end(signal);
      await site.start();
    }
    expect(site.log).not.toMatch(notBelieved);
    expect(await site.free()).toEqual(["n2"]);
    expect(statSync(site.stateFile).mode & 0o777).toBe(0o600);
    expect(readFileSync(site.stateFile, "utf8")).not.toContain("pg-secret");
  });

  test.each([
    ["lost", (file: string) => rmSync(file), /never used the database, or no longer knows it/],
    ["empty", (file: string) => writeFileSync(file, ""), /haas-lineage-.* is damaged/],
    ["half there", (file: string) => writeFileSync(file, readFileSync(file, "utf8").slice(0, 60)), /is damaged/],
    [
      "of another machine",
      (file: string) => writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), server: "s" })),
      /copy that went on/,
    ],
  ] as [string, (file: string) => void, RegExp][])("the state file is %s", async (_, harm, why) => {
    await site.connect();
    await site.end();
    harm(site.stateFile);
    site.device.behaviour.refusesLogins = true;
    await site.start();
    expect(site.reasons).toEqual([expect.stringMatching(why)]);
    expect(await site.free()).toEqual([]);
    expect((await site.call("PUT", "/network/b", { owner: "p2", access: "p2", net_id: "" })).status).toBe(409);
    site.device.behaviour.refusesLogins = false;
    // Nothing is lost by it: n1 keeps its network.
    await site.within("n2 is free", async () => (await site.free()).length === 1);
    await site.within(
      "networks can be made",
      async () => (await site.call("PUT", "/network/b", { owner: "p2", access: "p2", net_id: "" })).status === 200,
    );
    expect(site.device.port("gi1/0/1")).toEqual({ native: 100, tagged: [] });
    site.forget();
    await site.end();
    site.forget();
    await site.start();
    expect(site.log).not.toMatch(notBelieved);
  });

  test("a switch that is gone for good: an administrator's word for its ports", async () => {
    await site.end();
    rmSync(site.stateFile);
    site.device.behaviour.refusesLogins = true;
    await site.start();
    const network = () => site.call("PUT", "/network/b", { owner: "p2", access: "p2", net_id: "" });
    await site.ok("POST", "/switch/sw/port/gi1%2F0%2F1/trust");
    expect((await network()).status).toBe(409);
    await site.ok("POST", "/switch/sw/port/gi1%2F0%2F2/trust");
    expect((await network()).status).toBe(200);
    expect(await site.free()).toHaveLength(2);
  });

  test("the state file is deleted under the running server: it is written again", async () => {
    rmSync(site.stateFile);
    await site.connect();
    expect(existsSync(site.stateFile)).toBe(true);
    await site.end();
    await site.start();
    expect(site.log).not.toMatch(notBelieved);
    expect(site.log).toContain("the state file was gone, and is written again");
  });

  test("the state file is overwritten under the running server: nothing more is believed", async () => {
    site.device.behaviour.refusesLogins = true;
    writeFileSync(site.stateFile, "{}");
    await site.call("PUT", "/project/p3");
    await site.within("one line says so", () => site.reasons.length > 0);
    await site.within("it serves again", async () => (await site.call("GET", "/nodes/free")).status === 200);
    expect(await site.free()).toEqual([]);
    expect(site.reasons).toEqual([expect.stringMatching(/is damaged/)]);
  });
});

describe.each(databases)("%s", (kind) => {
  test("killed at any moment, alone or beside another one: no false alarm", async () => {
    site = await Site.make(kind);
    await site.connect();
    await site.ok("POST", "/project/p2/connect_node", { node: "n2" });
    await site.ok("PUT", "/network/b", { owner: "p2", access: "p2", net_id: "" });
    let stopped = false;
    // Keeps the database, and the switch, busy.
    const busy = async () => {
      for (let i = 0; !stopped; i++) {
        const change = i % 2 === 0 ? "connect_network" : "detach_network";
        await site.call("POST", `/node/n2/nic/nic/${change}`, { network: "b" }).catch(() => Bun.sleep(5));
        await site.call("PUT", `/project/x${i}`).catch(() => Bun.sleep(5));
      }
    };
    const load = busy();
    const beside = await startServer({ kind, uri: site.uri, more: site.more, binary });
    try {
      for (let i = 0; i < 30; i++) {
        await Bun.sleep(Math.random() * 150);
        await site.end("SIGKILL");
        await site.start();
      }
      const said = site.log + beside.log();
      expect(said).not.toMatch(/real switch|has lost its database|state file was gone/);
    } finally {
      stopped = true;
      await load;
      await beside.stop();
    }
    await site.end("SIGKILL");
    await site.start();
    expect(site.log).not.toMatch(/real switch|has lost its database/);
  }, 120_000);
});

describe("PostgreSQL", () => {
  let copies: string[];
  beforeEach(async () => {
    site = await Site.make("postgres");
    copies = [];
  }, 60_000);
  const name = () => new URL(site.uri).pathname.slice(1);
  const administer = async (...statements: string[]) => {
    const client = new pg.Client({ connectionString: site.uri.replace(/[^/]+$/, "postgres") });
    await client.connect();
    try {
      for (const statement of statements) await client.query(statement);
    } finally {
      await client.end();
    }
  };
  /** No pg_dump here: a copy of the database as another one. */
  const copy = async () => {
    const of = `${name()}_${copies.length}`;
    copies.push(of);
    await site.end();
    await administer(`create database ${of} template ${name()}`);
    await site.start();
    return of;
  };
  const putBack = (of: string) => administer(`drop database ${name()} with (force)`, `create database ${name()} template ${of}`);

  test("put back while haas is stopped", async () => {
    const before = await copy();
    await site.connect();
    await site.end();
    site.device.behaviour.refusesLogins = true;
    await putBack(before);
    await site.start();
    await expectDisbelief(/went back/);
  });

  test("put back under the running server", async () => {
    const before = await copy();
    await site.connect();
    site.device.behaviour.refusesLogins = true;
    await putBack(before);
    await site.within("one line says so", () => site.reasons.length > 0);
    await site.within("it serves again", async () => (await site.call("GET", "/nodes/free")).status === 200);
    await expectDisbelief(/put back under the running server, from change \d+ to change \d+|removed under the running server/);
  });

  test("dropped under the running server, made empty, and put back later", async () => {
    const before = await copy();
    await site.connect();
    site.device.behaviour.refusesLogins = true;
    await administer(`drop database ${name()} with (force)`);
    await serverIsGone();
    await administer(`create database ${name()}`);
    await Bun.sleep(2_500);
    expect((await site.call("GET", "/nodes/free")).status).toBe(503);
    const empty = new pg.Client({ connectionString: site.uri });
    await empty.connect();
    expect((await empty.query("select tablename from pg_tables where schemaname = 'public'")).rows).toEqual([]);
    await empty.end();
    await putBack(before);
    await serverIsBack();
    await expectDisbelief(/removed under the running server/);
  });

  test("a copy that went on elsewhere, under the running server", async () => {
    const before = await copy();
    await site.connect();
    site.device.behaviour.refusesLogins = true;
    const elsewhere = new pg.Client({ connectionString: site.uri.replace(/[^/]+$/, before) });
    await elsewhere.connect();
    await elsewhere.query("update lineage set counter = counter + 10000");
    await elsewhere.end();
    await putBack(before);
    await site.within("one line says so", () => site.reasons.length > 0);
    await site.within("it serves again", async () => (await site.call("GET", "/nodes/free")).status === 200);
    await expectDisbelief(/a copy that went on without this server|removed under the running server/);
  });

  test("what another haas left in it, under the running server", async () => {
    site.device.behaviour.refusesLogins = true;
    const client = new pg.Client({ connectionString: site.uri });
    await client.connect();
    await client.query("update lineage_server set mark = 'elsewhere'");
    await client.end();
    await site.within("one line says so", () => site.reasons.length > 0);
    await site.within("it serves again", async () => (await site.call("GET", "/nodes/free")).status === 200);
    expect(site.reasons).toEqual([expect.stringMatching(/a copy that went on without this server/)]);
    expect(await site.free()).toEqual([]);
  });

  test("haas backup and restore leave it to PostgreSQL's programs", async () => {
    expect(await site.haas("backup", join(site.place.path, "b"))).toMatchObject({ status: 1, err: expect.stringContaining("pg_dump") });
    expect(await site.haas("restore", site.config)).toMatchObject({ status: 1, err: expect.stringContaining("pg_restore") });
  });
});

describe("haas backup and restore", () => {
  beforeEach(async () => {
    site = await Site.make("sqlite");
  }, 60_000);
  const inPlace = (name: string) => join(site.place.path, name);
  const leftovers = () => readdirSync(site.place.path).filter((file) => /restoring|-journal|backup.db-/.test(file));

  test("a backup is whole, for this user only, and overwrites nothing", async () => {
    let stopped = false;
    const load = (async () => {
      for (let i = 0; !stopped; i++) await site.ok("PUT", `/project/x${i}`);
    })();
    try {
      for (let i = 0; i < 5; i++) {
        const file = await site.backup(inPlace(`b${i}`));
        expect(statSync(file).mode & 0o777).toBe(0o600);
        const database = new Database(file, { readonly: true });
        expect(database.query("pragma integrity_check").values()).toEqual([["ok"]]);
        database.close();
      }
    } finally {
      stopped = true;
      await load;
    }
    const before = readFileSync(inPlace("b0"));
    expect(await site.haas("backup", inPlace("b0"))).toMatchObject({ status: 1, err: expect.stringContaining("exists already") });
    expect(readFileSync(inPlace("b0")).equals(before)).toBe(true);
    expect(await site.haas("backup", inPlace("no/such/folder"))).toMatchObject({
      status: 1,
      err: expect.stringContaining("can't be written"),
    });
    expect(leftovers()).toEqual([]);
    expect(site.lines("error")).toEqual([]);
  });

  test("a backup that can't be finished leaves no file", async () => {
    for (let i = 0; i < 40; i++) await site.ok("PUT", `/project/${"x".repeat(200)}${i}`);
    const file = inPlace("too-large.db");
    const ran = await run(["bash", "-c", `ulimit -f 40; exec "$@"`, "-", binary, "backup", file, "--config", site.config], {
      cwd: site.place.path,
    });
    expect(ran.status).not.toBe(0);
    // Killed for its size it can't tidy up; told so it does.
    if (ran.status === 1) expect(existsSync(file)).toBe(false);
  });

  test.each(["running", "stopped by SIGSTOP", "serving without networks"])("restore refuses beside a haas that is %s", async (state) => {
    const backup = await site.backup();
    if (state === "serving without networks") {
      await site.end();
      await site.start({ networks: false });
    }
    if (state === "stopped by SIGSTOP") process.kill(site.server.pid, "SIGSTOP");
    const before = statSync(site.file, { bigint: true }).ino;
    const ran = await site.haas("restore", backup);
    process.kill(site.server.pid, "SIGCONT");
    expect(ran).toMatchObject({ status: 1, out: "", err: expect.stringContaining("is in use: stop haas") });
    expect(statSync(site.file, { bigint: true }).ino).toBe(before);
    expect(leftovers()).toEqual([]);
    if (state !== "serving without networks") await site.connect();
    await Bun.sleep(1_500);
    expect(site.log).not.toMatch(/real switch|has lost its database/);
  });

  const refused: Record<string, [(backup: string) => string | Promise<string>, RegExp]> = {
    "a file that is not there": [() => inPlace("nothing"), /There is no backup/],
    "a folder": [() => site.place.path, /it is no file/],
    "a file that is no database": [
      () => (writeFileSync(inPlace("text"), "text ".repeat(5_000)), inPlace("text")),
      /is no database of haas/,
    ],
    "an empty file": [() => (writeFileSync(inPlace("empty"), ""), inPlace("empty")), /is no database of haas/],
    "another program's database": [
      () => {
        new Database(inPlace("other")).run("create table t (x)");
        return inPlace("other");
      },
      /is no database of haas/,
    ],
    "half a backup": [
      (backup) => (writeFileSync(inPlace("half"), readFileSync(backup).subarray(0, 60_000)), inPlace("half")),
      /is damaged|no database/,
    ],
    "a damaged backup": [
      (backup) => {
        const bytes = readFileSync(backup);
        bytes.fill(0xff, 8192, bytes.length - 4096);
        writeFileSync(inPlace("damaged"), bytes);
        return inPlace("damaged");
      },
      /is damaged|no database/,
    ],
    "a backup with a broken reference": [
      (backup) => {
        const database = new Database(backup);
        database.run("pragma foreign_keys = off");
        database.run("update nic set node_id = node_id + 999");
        database.close();
        return backup;
      },
      /a row of nic refers to one that is missing/,
    ],
    "a backup of a later haas": [
      (backup) => {
        const database = new Database(backup);
        database.run("insert into kysely_migration (name, timestamp) values ('9999-later', 'x')");
        database.close();
        return backup;
      },
      /newer than this program/,
    ],
    "the database itself": [() => site.file, /is the database itself/],
  };
  test.each(Object.entries(refused))("restore refuses %s", async (_, [make, says]) => {
    const file = await make(await site.backup());
    await site.end();
    const before = readFileSync(site.file);
    const ran = await site.haas("restore", file);
    expect(ran.err).toMatch(says);
    expect({ ...ran, err: ran.err.split("\n").length }).toEqual({ status: 1, out: "", err: 2 });
    expect(readFileSync(site.file).equals(before)).toBe(true);
    expect(leftovers()).toEqual([]);
    await site.start();
    expect(site.log).not.toMatch(notBelieved);
  });

  test("restore keeps the database before, also a damaged one, and warns of a backup that others can read", async () => {
    const backup = await site.backup();
    chmodSync(backup, 0o644);
    await site.connect();
    await site.end("SIGKILL");
    const harmed = readFileSync(site.file).fill(0xff, 0, 4096);
    writeFileSync(site.file, harmed);
    const { status, out, err } = await site.haas("restore", backup);
    expect({ status, err }).toEqual({ status: 0, err: expect.stringMatching(/^warning: others can read .*backup.db.*chmod 600/) });
    const kept = /kept as (.*)\.\n/.exec(out)![1]!;
    expect(readFileSync(kept).equals(harmed)).toBe(true);
    expect(statSync(kept).mode & 0o777).toBe(0o600);
    expect(existsSync(`${kept}-wal`)).toBe(true);
    expect(existsSync(`${site.file}-wal`)).toBe(false);
    expect(statSync(site.file).mode & 0o777).toBe(0o600);
    site.device.behaviour.refusesLogins = true;
    await site.start();
    await expectDisbelief(/another database/);
  });

  test("restore leaves nothing beside the two databases, and nothing that others can read", async () => {
    const backup = await site.backup();
    await site.end();
    chmodSync(site.file, 0o644);
    const { status, out } = await site.haas("restore", backup);
    expect(status).toBe(0);
    const kept = /kept as (.*)\.\n/.exec(out)![1]!;
    const folder = dirname(site.file);
    const files = readdirSync(folder).filter((name) => name.startsWith(basename(site.file)));
    expect(files.toSorted()).toEqual([basename(site.file), basename(kept)].toSorted());
    for (const name of files) expect({ name, mode: statSync(join(folder, name)).mode & 0o777 }).toEqual({ name, mode: 0o600 });
  });

  test("a restored database is not believed either by a haas that remembers nothing", async () => {
    const backup = await site.backup();
    await site.connect();
    await site.end();
    rmSync(site.stateFile);
    expect(await site.haas("restore", backup)).toMatchObject({ status: 0 });
    site.device.behaviour.refusesLogins = true;
    await site.start();
    await expectDisbelief(/never used the database/);
  });

  test("killed at any moment, restore leaves the old one or the new one, whole", async () => {
    await site.ok("PUT", "/project/old");
    const backup = await site.backup();
    await site.ok("PUT", "/project/new");
    await site.end();
    const seen = new Set<string>();
    for (let i = 0; i < 40; i++) {
      const child = Bun.spawn([binary, "restore", backup, "--config", site.config], {
        cwd: site.place.path,
        stdout: "ignore",
        stderr: "ignore",
      });
      await Bun.sleep(20 + i * 5);
      child.kill("SIGKILL");
      await child.exited;
      const database = new Database(site.file);
      expect(database.query("pragma integrity_check").values()).toEqual([["ok"]]);
      const projects = String(database.query("select label from project where label in ('old', 'new') order by label").values().flat());
      database.run("pragma journal_mode = delete");
      database.close();
      expect(["new,old", "old"]).toContain(projects);
      seen.add(projects);
    }
    expect([...seen]).toContain("new,old");
    expect(await site.haas("restore", backup)).toMatchObject({ status: 0 });
    expect(leftovers()).toEqual([]);
    await site.start();
  }, 120_000);
});

test("a database that others can read is closed to them at the start, and that is said", async () => {
  site = await Site.make("sqlite");
  await site.end("SIGKILL");
  for (const suffix of ["", "-wal", "-shm"]) chmodSync(site.file + suffix, 0o644);
  await site.start();
  for (const suffix of ["", "-wal", "-shm"]) expect([suffix, statSync(site.file + suffix).mode & 0o777]).toEqual([suffix, 0o600]);
  expect(site.lines("warning").filter(({ message }) => message.includes("others could read"))).toHaveLength(3);
  await site.end();
  chmodSync(site.file, 0o640);
  const ran = await site.haas("create_admin_user", "root", "pw");
  expect(ran).toMatchObject({ status: 0, err: expect.stringMatching(/^warning: others could read .*haas\.db \(mode 640\)/) });
  expect(statSync(site.file).mode & 0o777).toBe(0o600);
});

test("what can't be closed to others is refused", async () => {
  site = await Site.make("sqlite");
  await site.end();
  chmodSync(site.file, 0o666);
  chmodSync(site.place.path, 0o777);
  const { text, place } = site;
  writeFileSync(join(place.path, "other.cfg"), text.replace("[general]", `[general]\nstate_dir = ${place.path}`));
  chmodSync(join(place.path, "other.cfg"), 0o644);
  const readable = join(place.path, "haas");
  copyFileSync(binary, readable);
  chmodSync(readable, 0o755);
  const ran = await run(
    [
      "setpriv",
      "--reuid=65534",
      "--regid=65534",
      "--clear-groups",
      readable,
      "serve_networks",
      "--once",
      "--config",
      join(place.path, "other.cfg"),
    ],
    {
      cwd: place.path,
    },
  );
  expect(ran).toMatchObject({
    status: 1,
    err: expect.stringMatching(/Others can read the database file .*haas\.db \(mode 666\).*chmod 600/),
  });
});

test("a dry run, which leaves nothing on a port, hides nothing from the next start", async () => {
  site = await Site.make("sqlite");
  const backup = await site.backup();
  await site.connect();
  await site.end();
  copyFileSync(backup, site.file);
  const sent = site.device.received.length;
  const dry = await startServer({ kind: "sqlite", uri: site.uri, more: `${site.more}\n[devel]\ndry_run =`, binary });
  try {
    const made = await fetch(`${dry.url}/network/b`, { method: "PUT", body: JSON.stringify({ owner: "p2", access: "p2", net_id: "" }) });
    expect(made.status).toBe(200);
    for (let i = 0; i < 50; i++) await fetch(`${dry.url}/project/more${i}`, { method: "PUT" });
    expect(site.device.received.length).toBe(sent);
  } finally {
    await dry.stop();
  }
  site.device.behaviour.refusesLogins = true;
  await site.start();
  expect(await site.free()).toEqual([]);
  site.device.behaviour.refusesLogins = false;
  await site.ok("POST", "/switch/sw/reconcile");
  await site.within("both nodes are free", async () => (await site.free()).length === 2);
});

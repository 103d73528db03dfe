import { afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { type ConsoleKind, startConsole } from "../sim/console.ts";
import type { Emulator } from "../sim/emulator.ts";
import { haasBinary, run } from "../support/binary.ts";
import { portNames, registration } from "../support/emulators.ts";
import { clockErrorOf, settableClock } from "../support/faketime.ts";
import { type OpenDatabase, openDatabase } from "../support/ports.ts";
import { freePort, ownPostgres } from "../support/postgres.ts";
import { whole } from "../support/random.ts";
import { secrets } from "../support/secrets.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { type DatabaseKind, databases, freshUri, mockObm, scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// Somebody sets the clock of a server while things wait: each of them goes on when it would have, within a minute.

const boundMs = 75_000;
const testTimeoutMs = 180_000;
const hourMs = 3_600_000;
const vendor = "powerconnect55xx" satisfies ConsoleKind;
const ports = [portNames[vendor](1), portNames[vendor](2)] as const;
const port = ports[0];
const jumps = ["-1h", "+1h"] as const;
type Jump = (typeof jumps)[number];
const sample: Readonly<Record<DatabaseKind, readonly Jump[]>> = { sqlite: ["-1h"], postgres: ["+1h"] };

let binary: string;
beforeAll(async () => {
  binary = await haasBinary();
}, testTimeoutMs);

describe.each(databases)("on %s", (kind) => {
  let place: { path: string; remove(): void };
  let clock: ReturnType<typeof settableClock>;
  let uri: string;
  let served: number;
  let server: ServerProcess;
  let database: OpenDatabase;
  let auth: "null" | "database";
  const devices: Emulator[] = [];
  const started: ServerProcess[] = [];

  const until = untilWithin(boundMs, () => server.log().slice(-3_000));

  async function start(): Promise<void> {
    const daemon = "[network-daemon]\nlease_time = 5\nmax_tries = 1000\nsleep_time = 0.5\nverify_interval = 1";
    // Longer than anything here may take: what is waited for does not come by itself.
    const more = `${daemon}\n[haas.ext.switches.dell]\nconnect_timeout = 300`;
    const { env } = clock;
    server = await startServer({ kind, uri, port: served, binary, more, env, auth, logLevel: "info", directory: place.path });
    started.push(server);
  }

  /** The server comes back, as after a crash, and its clock says what it said. */
  async function restart(): Promise<void> {
    await server.kill("SIGKILL");
    await start();
  }

  beforeEach(async () => {
    place = scratch();
    clock = settableClock(place.path);
    uri = await freshUri(kind, place.path);
    served = await freePort();
    auth = "null";
    await start();
    database = await openDatabase(uri);
  }, testTimeoutMs);

  afterEach(async () => {
    // First, so that nobody waits for them.
    for (const device of devices.splice(0)) await device.stop();
    await database?.close();
    for (const one of started.splice(0)) await one.stop();
    place.remove();
  }, testTimeoutMs);

  interface Answer {
    status: number;
    body: any;
  }

  async function call(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
    const answer = await fetch(server.url + path, {
      method,
      keepalive: false,
      headers,
      signal: AbortSignal.timeout(boundMs),
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    return { status: answer.status, body: text === "" ? null : JSON.parse(text) };
  }

  async function ok(method: string, path: string, body?: unknown): Promise<any> {
    const answer = await call(method, path, body);
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  /** Set the server's clock, and see that it believes it. */
  async function jump(offset: Jump, headers: Record<string, string> = {}): Promise<void> {
    clock.set(offset);
    // Something that it writes to its log.
    expect((await call("PUT", `/project/jump${crypto.randomUUID()}`, undefined, headers)).status).toBe(200);
    const off = clockErrorOf(server.log());
    expect(Math.round(off / 60_000)).toBe(offset === "-1h" ? -60 : 60);
  }

  /** A switch with a port and a node on it, both called `name`, in project p. With `held`, nothing that is typed takes effect before, and the node is free. */
  async function addSwitch(name: string, held?: Promise<void>): Promise<Emulator> {
    const device = await startConsole(vendor, { ports, transport: "telnet" });
    devices.push(device);
    if (held) device.behaviour.onLine = () => ({ effect: held });
    await ok("PUT", `/switch/${name}`, registration(vendor, device));
    await addNode(name, name, port);
    if (held) {
      await until("the switch is in use", () => device.sessions.now > 0);
      return device;
    }
    await ok("POST", "/project/p/connect_node", { node: name });
    await until("the new port is set up", async () => (await ok("GET", `/switch/${name}/reconcile`)).pending.length === 0);
    return device;
  }

  async function addNode(node: string, on: string, label: string): Promise<void> {
    const path = `/switch/${on}/port/${encodeURIComponent(label)}`;
    await ok("PUT", path);
    await ok("PUT", `/node/${node}`, { obm: mockObm });
    await ok("PUT", `/node/${node}/nic/nic`, { macaddr: "x" });
    await ok("POST", `${path}/connect_nic`, { node, nic: "nic" });
  }

  async function makeProject(): Promise<void> {
    await ok("PUT", "/project/p");
    await ok("PUT", "/network/red", { owner: "admin", access: "", net_id: "100" });
    await ok("PUT", "/network/blue", { owner: "admin", access: "", net_id: "200" });
  }

  const connect = async (node: string, network = "red"): Promise<string> =>
    (await ok("POST", `/node/${node}/nic/nic/connect_network`, { network })).status_id;
  const statusOf = async (action: string) => ok("GET", `/networking_action/${action}`);
  const isDone = async (action: string) => (await statusOf(action)).status === "DONE";
  const hasFailedOnce = async (action: string) => (await statusOf(action)).attempts > 0;

  describe.each(whole ? [...jumps] : [...sample[kind]])("the clock jumps by %s while", (offset) => {
    test(
      "a change waits for its next try, and others come, for the same switch and for another one",
      async () => {
        await makeProject();
        const [broken] = [await addSwitch("broken"), await addSwitch("healthy")];
        await addNode("neighbour", "broken", ports[1]);
        await ok("POST", "/project/p/connect_node", { node: "neighbour" });
        broken.behaviour.refusesLogins = true;
        const waiting = await connect("broken");
        await until("a try has failed", () => hasFailedOnce(waiting));
        await jump(offset);
        broken.behaviour.refusesLogins = false;
        const others = [await connect("neighbour", "blue"), await connect("healthy")];
        await until("the waiting change is done", () => isDone(waiting));
        for (const other of others) await until("the new changes are done", () => isDone(other));
      },
      testTimeoutMs,
    );

    test(
      "a change waits for its next try, and the server is started again with that clock",
      async () => {
        await makeProject();
        const broken = await addSwitch("broken");
        broken.behaviour.refusesLogins = true;
        const waiting = await connect("broken");
        await until("a try has failed", () => hasFailedOnce(waiting));
        await jump(offset);
        await restart();
        broken.behaviour.refusesLogins = false;
        await until("the change is done", () => isDone(waiting));
        expect(broken.port(port)).toEqual({ native: 100, tagged: [] });
      },
      testTimeoutMs,
    );

    test(
      "an allocation waits for a fresh port, which is set up then",
      async () => {
        await makeProject();
        const login = Promise.withResolvers<void>();
        await addSwitch("fresh", login.promise);
        const allocation = call("POST", "/project/p/connect_node", { node: "fresh" });
        await Bun.sleep(300);
        await jump(offset);
        await Bun.sleep(300);
        login.resolve();
        expect(await allocation).toEqual({ status: 200, body: null });
      },
      testTimeoutMs,
    );

    test(
      "an allocation and a reading wait for what does not come: each ends with its refusal",
      async () => {
        await makeProject();
        const never = new Promise<void>(() => {});
        await addSwitch("fresh", never);
        const calls = [call("GET", "/switch/fresh/ports/actual"), call("POST", "/project/p/connect_node", { node: "fresh" })];
        await Bun.sleep(300);
        await jump(offset);
        expect((await Promise.all(calls)).map(({ status }) => status)).toEqual([409, 409]);
      },
      testTimeoutMs,
    );

    test(
      "a call waits for a switch that is in use, which becomes free",
      async () => {
        await makeProject();
        const held = await addSwitch("held");
        const end = Promise.withResolvers<void>();
        held.behaviour.onLine = () => ({ effect: end.promise });
        const action = await connect("held");
        await until("the switch is in use", () => held.sessions.now > 0);
        const reading = call("GET", "/switch/held/ports/actual");
        await Bun.sleep(300);
        await jump(offset);
        await Bun.sleep(300);
        end.resolve();
        expect((await reading).status).toBe(200);
        await until("the change is done", () => isDone(action));
      },
      testTimeoutMs,
    );

    test(
      "a call waits for a headnode that another server holds for some seconds",
      async () => {
        await makeProject();
        await ok("PUT", "/headnode/h", { project: "p", base_img: "img1" });
        const holdMs = 3_000;
        await database.all("update headnode set lease_owner = 'elsewhere 1 1', lease_until = ?", (await databaseNow()) + holdMs);
        const starting = call("POST", "/headnode/h/start");
        await Bun.sleep(300);
        await jump(offset);
        expect(await starting).toMatchObject({ status: 200 });
      },
      testTimeoutMs,
    );

    test(
      "checks of a switch are due again and again, also by a server that is started with that clock",
      async () => {
        await makeProject();
        const device = await addSwitch("sw");
        const isFound = async (native: number) => {
          const { switches } = await ok("GET", "/drift");
          return switches[0].ports.some(({ actual }: any) => actual.native === native);
        };
        device.setPort(port, { native: 666, tagged: [] });
        await until("a check finds what is wrong", () => isFound(666));
        await jump(offset);
        device.setPort(port, { native: 667, tagged: [] });
        await until("a check after the jump finds what is wrong", () => isFound(667));
        await restart();
        device.setPort(port, { native: 668, tagged: [] });
        await until("a check after the restart finds what is wrong", () => isFound(668));
      },
      testTimeoutMs,
    );

    test(
      "guesses are slowed down: they stay slow, and the right password gets in",
      async () => {
        auth = "database";
        await restart();
        const config = join(place.path, "haas.cfg");
        const made = await run([binary, "create_admin_user", "root", "-", "--config", config], {
          cwd: place.path,
          stdin: `${secrets.admin}\n`,
        });
        expect(made).toMatchObject({ status: 0 });
        const as = (password: string) => ({ authorization: `Basic ${Buffer.from(`root:${password}`).toString("base64")}` });
        const guess = async (n: number) => expect((await call("GET", "/nodes/all", undefined, as(`guess ${n}`))).status).toBe(401);
        expect((await call("GET", "/nodes/all", undefined, as(secrets.admin))).status).toBe(200);
        for (let n = 0; n < 8; n++) await guess(n);
        await jump(offset, as(secrets.admin));
        const before = performance.now();
        await guess(8);
        // Guesses before it: it is kept waiting for this long at least.
        expect(performance.now() - before).toBeGreaterThan(500);
        expect((await call("GET", "/nodes/all", undefined, as(secrets.admin))).status).toBe(200);
      },
      testTimeoutMs,
    );
  });

  describe.each(kind === "postgres" ? [...jumps] : [])("the database's own clock jumps by %s while", (offset) => {
    test(
      "a change waits for its next try, and another comes for the same switch",
      async () => {
        // PostgreSQL's own user has to get through to the clock.
        chmodSync(place.path, 0o755);
        const directory = join(place.path, "postgres");
        mkdirSync(directory);
        const clockOfDatabase = settableClock(directory);
        const postgres = await ownPostgres(clockOfDatabase.env);
        try {
          uri = postgres.uri;
          await database.close();
          database = await openDatabase(uri);
          await restart();
          await makeProject();
          const broken = await addSwitch("broken");
          await addNode("neighbour", "broken", ports[1]);
          await ok("POST", "/project/p/connect_node", { node: "neighbour" });
          broken.behaviour.refusesLogins = true;
          const waiting = await connect("broken");
          await until("a try has failed", () => hasFailedOnce(waiting));
          const before = await databaseNow();
          clockOfDatabase.set(offset);
          expect(Math.round(((await databaseNow()) - before) / 60_000)).toBe(offset === "-1h" ? -60 : 60);
          broken.behaviour.refusesLogins = false;
          const other = await connect("neighbour", "blue");
          await until("the waiting change is done", () => isDone(waiting));
          await until("the new change is done", () => isDone(other));
        } finally {
          await server.kill("SIGKILL");
          await database.close();
          await postgres.stop();
        }
      },
      testTimeoutMs,
    );
  });

  test(
    "times that were stored by a clock far ahead count as due: a lease, the next try of a change, a headnode's lease",
    async () => {
      await makeProject();
      const broken = await addSwitch("broken");
      await addSwitch("held");
      await ok("PUT", "/headnode/h", { project: "p", base_img: "img1" });
      broken.behaviour.refusesLogins = true;
      const waiting = await connect("broken");
      await until("a try has failed", () => hasFailedOnce(waiting));
      await server.stop();
      const ahead = Date.now() + hourMs;
      await database.all("update networking_action set next_try = ? where status = 'PENDING'", ahead);
      await database.all("update switch set lease_owner = 'elsewhere 1 1', lease_until = ? where label = 'held'", ahead);
      await database.all("update headnode set lease_owner = 'elsewhere 1 1', lease_until = ?", ahead);
      broken.behaviour.refusesLogins = false;
      await start();
      const held = await connect("held");
      const starting = call("POST", "/headnode/h/start");
      await until("the waiting change is done", () => isDone(waiting));
      await until("the change of the leased switch is done", () => isDone(held));
      expect(await starting).toMatchObject({ status: 200 });
    },
    testTimeoutMs,
  );

  /** The time by the clock that stored times are compared with. */
  async function databaseNow(): Promise<number> {
    if (kind === "sqlite") return Math.round(Number((await Bun.file("/proc/uptime").text()).split(" ")[0]) * 1000);
    const [row] = await database.all<{ now: string }>("select (extract(epoch from clock_timestamp()) * 1000)::bigint as now");
    return Number(row!.now);
  }
});

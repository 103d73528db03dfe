import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import pg from "pg";
import type { ConsoleOptions } from "../sim/console.ts";
import type { Fault } from "../sim/emulator.ts";
import { haasBinary, run, serve } from "../support/binary.ts";
import {
  consoleVendors,
  isConsole,
  onEveryLine,
  portNames,
  registration,
  restVendors,
  startEmulator,
  type Vendor,
  vendors,
} from "../support/emulators.ts";
import { startBmc } from "../support/ipmi-sim.ts";
import { consoleHabits, type Parrot, startConsoleParrot, startRestParrot } from "../support/parrots.ts";
import { freePort } from "../support/postgres.ts";
import { secrets, secretsIn, watchSecrets } from "../support/secrets.ts";
import { configText, type DatabaseKind, databases, freshUri, mockObm, mockSwitch, scratch } from "../support/service.ts";

// A whole server that is asked for everything that could make it say a password: none may stand in an
// answer, a header, a log, a file or a command line, in whatever form. And the passwords are really there.

const types = "http://schema.massopencloud.org/haas/v0";
const ipmi = (host: string, password: string) => ({ type: `${types}/obm/ipmi`, host, user: "admin", password });
const dell = { type: `${types}/switches/powerconnect55xx`, hostname: "127.0.0.1:9", username: "u", password: secrets.console };
const basic = (name: string, password: string) => `Basic ${Buffer.from(`${name}:${password}`).toString("base64")}`;
const boundMs = 30_000;

/** Programs that the server runs: each writes down with what it was called before it becomes the real one. */
const tools = ["ipmitool", "ovs-vsctl"];

/** `haas serve` on a database, with everything that it says kept. */
async function startStage(kind: DatabaseKind, home: string, sections = "") {
  const haas = await haasBinary();
  const port = await freePort();
  const uri = await freshUri(kind, home);
  const logDir = kind === "postgres" ? join(home, "log") : null;
  const config = join(home, "haas.cfg");
  const more = "[haas.ext.obm.ipmi]\ncipher_suite = 3\ntimeout = 5\nretries = 0\n[network-daemon]\nmax_tries = 1\n" + sections;
  const text = configText({ uri, auth: "database", more }).replace(
    "log_level = warning",
    `log_level = debug${logDir ? `\nlog_dir = ${logDir}` : ""}`,
  );
  writeFileSync(config, text, { mode: 0o600 });

  const calls = join(home, "calls");
  const bin = join(home, "bin");
  mkdirSync(bin);
  for (const tool of tools) {
    const real = Bun.which(tool);
    if (real === null) throw new Error(`${tool} is not installed`);
    const given = "${IPMI_PASSWORD:+a password in the environment}";
    writeFileSync(join(bin, tool), `#!/bin/sh\nprintf '%s\\n' "$0 $* ${given}" >> '${calls}'\nexec ${real} "$@"\n`, { mode: 0o700 });
  }

  const watch = watchSecrets();
  const answers: string[] = [];
  const created = await run([haas, "create_admin_user", "root", "-", "--config", config], { cwd: home, stdin: `${secrets.admin}\n` });
  expect(created).toMatchObject({ status: 0, out: "" });
  const server = await serve([haas, "serve", String(port), "--config", config], port, {
    cwd: home,
    env: { PATH: `${bin}:${process.env.PATH}` },
  });

  return {
    uri,
    port,
    server,
    answers,
    watch,
    childCalls: () => readFileSync(calls, "utf8"),
    log: () => (logDir ? readFileSync(join(logDir, "haas.log"), "utf8") : server.output()),
    /** One request; its whole answer is kept. `body` as text goes out as it is. */
    async call(method: string, path: string, body?: unknown, authorization: string | null = basic("root", secrets.admin)) {
      const answer = await fetch(server.url + path, {
        method,
        headers: authorization === null ? {} : { authorization },
        ...(body !== undefined && { body: typeof body === "string" ? body : JSON.stringify(body) }),
      });
      const text = await answer.text();
      answers.push(
        [`${method} ${path.split("?")[0]}: ${answer.status}`, ...[...answer.headers].map((pair) => pair.join(": ")), text].join("\n"),
      );
      return { status: answer.status, text };
    },
    /** Bytes as no decent client sends them; what comes back is kept. */
    async raw(request: string): Promise<string> {
      const socket = connect(port, "127.0.0.1");
      const chunks: Buffer[] = [];
      socket.on("data", (chunk) => chunks.push(Buffer.from(chunk)));
      await new Promise<void>((resolve, reject) => {
        socket.on("close", () => resolve());
        socket.on("error", reject);
        socket.setTimeout(boundMs, () => socket.destroy(new Error("no end of the answer")));
        socket.write(request);
      });
      const text = Buffer.concat(chunks).toString();
      answers.push(text);
      return text;
    },
    /** The command line as a client; what it prints is kept. */
    async cli(env: Record<string, string>, ...argv: string[]) {
      const ran = await run([haas, ...argv], { cwd: home, env });
      answers.push(ran.out + ran.err);
      return ran;
    },
    /** Everything in the scratch directory but the configuration and the database. */
    files: () => textsIn(home).filter(({ path }) => !/haas\.(cfg|db(-wal|-shm)?)$/.test(path)),
  };
}

function textsIn(path: string): { path: string; text: string }[] {
  if (statSync(path).isDirectory()) return readdirSync(path).flatMap((name) => textsIn(join(path, name)));
  return statSync(path).isFile() ? [{ path, text: readFileSync(path, "latin1") }] : [];
}

/** SQL, past haas. */
async function sql(uri: string, text: string): Promise<Record<string, unknown>[]> {
  if (uri.startsWith("sqlite:///")) {
    const db = new Database(uri.slice("sqlite:///".length));
    db.run("pragma busy_timeout = 10000");
    try {
      return db.query<Record<string, unknown>, []>(text).all();
    } finally {
      db.close();
    }
  }
  const client = new pg.Client({ connectionString: uri });
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(text)).rows;
  } finally {
    await client.end();
  }
}

/** Make the database refuse what is called `boom`: a fault that haas did not foresee. */
async function breakTable(uri: string, table: string): Promise<void> {
  const refusal = uri.startsWith("sqlite:")
    ? `create trigger no_boom_${table} before insert on "${table}" when new.label = 'boom' begin select raise(abort, 'no boom'); end`
    : `alter table "${table}" add constraint no_boom_${table} check (label <> 'boom')`;
  await sql(uri, refusal);
}

type Stage = Awaited<ReturnType<typeof startStage>>;

/** A new port is emptied, or suspect. No project gets a node on one that is suspect, unless somebody vouches for it. */
async function vouchFor(call: Stage["call"], label: string, port: string): Promise<void> {
  const deadline = Date.now() + boundMs;
  let state: { pending: { reason: string | null }[]; suspect: unknown[] };
  do {
    await Bun.sleep(50);
    state = JSON.parse((await call("GET", `/switch/${label}/reconcile`)).text);
  } while (state.pending.some(({ reason }) => reason === null) && Date.now() < deadline);
  if (state.suspect.length === 0) return;
  expect([label, (await call("POST", `/switch/${label}/port/${encodeURIComponent(port)}/trust`)).status]).toEqual([label, 200]);
}

/** Register what holds passwords, and check that it does. */
async function fill({ call, uri }: Stage, bmc: string, other: string, silent: string): Promise<void> {
  const done = async (...request: Parameters<Stage["call"]>) =>
    expect([request[1], (await call(...request)).status]).toEqual([request[1], 200]);
  await done("PUT", "/switch/mock", mockSwitch);
  await done("PUT", "/switch/dell", dell);
  await done("PUT", "/switch/ovs", { type: `${types}/switches/ovs`, ovs_bridge: "none0", database: "/nonexistent/db.sock" });
  await done("PUT", "/project/red");
  for (const [name, obm, sw, port] of [
    ["mock", mockObm, "mock", "p1"],
    ["good", ipmi(bmc, secrets.bmc), "ovs", "p1"],
    ["wrong", ipmi(other, secrets.wrongBmc), "dell", "gi1/0/1"],
    ["dead", ipmi(silent, secrets.bmc), null, null],
  ] as const) {
    await done("PUT", `/node/${name}`, { obm });
    await done("PUT", `/node/${name}/nic/eth0`, { macaddr: "00:00:00:00:00:01" });
    if (sw !== null) {
      await done("PUT", `/switch/${sw}/port/${port}`);
      await done("POST", `/switch/${sw}/port/${port}/connect_nic`, { node: name, nic: "eth0" });
      await vouchFor(call, sw, port);
    }
    await done("POST", "/project/red/connect_node", { node: name });
  }
  await done("PUT", "/network/net", { owner: "red", access: "red", net_id: "" });
  await done("PUT", "/auth/basic/user/alice", { password: secrets.alice, is_admin: false });
  await done("POST", "/auth/basic/user/alice/add_project", { project: "red" });

  const stored = JSON.stringify([await sql(uri, "select settings from switch"), await sql(uri, "select obm from node")]);
  for (const secret of [secrets.switch, secrets.console, secrets.mockBmc, secrets.bmc, secrets.wrongBmc]) expect(stored).toContain(secret);
  expect((await call("GET", "/networks", undefined, basic("alice", secrets.alice))).status).toBe(200);
}

/** Everything that can be read, by an admin and by a member. */
async function read({ call }: Stage): Promise<void> {
  const things = ["mock", "good", "wrong", "dead"].map((name) => `/node/${name}`);
  const paths = [
    "/switches",
    "/switch/mock",
    "/switch/dell",
    "/switch/ovs",
    "/switch/mock/port/p1",
    "/projects",
    "/nodes/all",
    "/networks",
    "/network/net",
    "/auth/basic/users",
    "/active_extensions",
    "/swagger",
    "/swagger/json",
  ];
  for (const path of [...things, ...paths]) {
    expect([path, (await call("GET", path)).status]).toEqual([path, 200]);
    await call("GET", path, undefined, basic("alice", secrets.alice));
  }
}

/** BMCs and switches that fail. */
async function failHardware({ call }: Stage): Promise<void> {
  for (const node of ["wrong", "dead"]) {
    for (const [method, verb, body] of [
      ["POST", "power_on", {}],
      ["GET", "power_status", undefined],
      ["PUT", "boot_device", { bootdev: "pxe" }],
    ] as const) {
      const { status, text } = await call(method, `/node/${node}/${verb}`, body);
      expect([status, text]).toEqual([500, expect.stringContaining("OBMError")]);
    }
    await call("PUT", `/node/${node}/console`);
    await call("GET", `/node/${node}/console`);
  }
  expect((await call("POST", "/node/good/power_cycle")).status).toBe(200);
  for (const node of ["good", "wrong", "mock"]) {
    const { status, text } = await call("POST", `/node/${node}/nic/eth0/connect_network`, { network: "net" });
    expect(status).toBe(202);
    const path = `/networking_action/${(JSON.parse(text) as { status_id: string }).status_id}`;
    const deadline = Date.now() + boundMs;
    let action: string;
    do {
      await Bun.sleep(50);
      action = (await call("GET", path)).text;
    } while (action.includes('"PENDING"') && Date.now() < deadline);
    expect(action).toContain(node === "mock" ? '"DONE"' : '"ERROR"');
  }
}

/** Passwords where they do not belong, and in what can't be read. */
async function failRequests({ call, raw }: Stage): Promise<void> {
  const { switch: one, mockBmc: two, alice: three } = secrets;
  const refused: [string, string, unknown][] = [
    ...[
      one,
      [one],
      { password: one },
      { ...mockSwitch, password: [one] },
      { ...mockSwitch, password: { a: one } },
      { ...mockSwitch, secret: one },
    ].map((body): [string, string, unknown] => ["PUT", "/switch/new", body]),
    ["PUT", "/switch/new", { type: one }],
    ["PUT", "/switch/new", { ...mockSwitch, type: one }],
    ["PUT", "/switch/new", { ...mockSwitch, hostname: { a: one } }],
    ["PUT", "/switch/new", { ...dell, transport: secrets.console }],
    ["PUT", "/switch/new", { ...dell, enable_password: [secrets.console] }],
    ["PUT", "/switch/new", { ...dell, type: `${types}/switches/nexus`, dummy_vlan: secrets.console }],
    ["PUT", "/switch/new", { ...mockSwitch, password: `${one}\n` }],
    ["PUT", "/switch/new", { ...mockSwitch, password: one.repeat(200) }],
    ["PUT", "/switch/mock", { ...mockSwitch, password: secrets.console }],
    ["PUT", "/node/new", { obm: two }],
    ["PUT", "/node/new", { obm: [two] }],
    ["PUT", "/node/new", { obm: { password: two } }],
    ["PUT", "/node/new", { obm: { ...mockObm, type: two } }],
    ["PUT", "/node/new", { obm: { ...mockObm, password: { two } } }],
    ["PUT", "/node/new", { obm: { ...mockObm, passwd: two } }],
    ["PUT", "/node/new", { ...mockObm }],
    ["PUT", "/node/new", { obm: mockObm, password: two }],
    ["PUT", "/node/new", { obm: mockObm, metadata: two }],
    ["PUT", "/node/mock", { obm: { ...mockObm, password: secrets.bmc } }],
    ["PUT", "/auth/basic/user/new", { password: [three] }],
    ["PUT", "/auth/basic/user/new", { password: three, is_admin: three }],
    ["PUT", "/auth/basic/user/new", { password: three, pasword: three }],
    ["PUT", "/auth/basic/user/new", three],
    ["PUT", "/auth/basic/user/alice", { password: secrets.bob }],
    ["PATCH", "/auth/basic/user/alice", { is_admin: three }],
    ["PATCH", "/auth/basic/user/alice", { password: three }],
    ["POST", "/auth/basic/user/alice", { password: three }],
    ["PUT", "/project/new", { password: three }],
    ["POST", "/node/mock/power_cycle", { force: two }],
    ["PUT", "/node/mock/obm", { enabled: two }],
    ["PUT", `/switch/new?password=${one}`, {}],
    ["GET", `/networks?password=${three}`, undefined],
    ["PUT", "/nothing/new", mockSwitch],
    // No JSON: cut short, without quotes, with an end that is too much, in another encoding.
    ...[
      JSON.stringify(mockSwitch).slice(0, -1),
      `{password: ${one}}`,
      `{"password": ${one}}`,
      `${JSON.stringify(mockSwitch)}${one}`,
      one,
      `"${one}"`,
      `password=${one}`,
    ].map((body): [string, string, unknown] => ["PUT", "/switch/new", body]),
  ];
  for (const [method, path, body] of refused) {
    const { status, text } = await call(method, path, body);
    expect([method, path, body, status >= 400 && status < 500, text]).toEqual([
      method,
      path,
      body,
      true,
      expect.stringContaining('"type":'),
    ]);
  }

  const wrong = [
    basic("root", secrets.wrongUser),
    basic(secrets.admin, "x"),
    `Bearer ${secrets.admin}`,
    `Basic ${secrets.admin}`,
    `Basic ${Buffer.from(secrets.admin).toString("base64")}`,
    secrets.admin,
  ];
  for (const authorization of wrong) expect((await call("GET", "/projects", undefined, authorization)).status).toBe(401);
  const header = `Authorization: ${basic("root", secrets.admin)}\r\nConnection: close\r\n`;
  for (const line of [
    `GET http://root:${secrets.admin}@127.0.0.1/projects HTTP/1.1`,
    "gEt /projects HTTP/1.1",
    "BREW /projects HTTP/1.1",
    "GET /projects HTTP/9.9",
    "GET /%zz HTTP/1.1",
  ]) {
    expect(await raw(`${line}\r\nHost: haas\r\n${header}\r\n`)).toContain("HTTP/1.1 ");
  }
  await raw(`PUT /switch/new HTTP/1.1\r\nHost: haas\r\n${header}Content-Length: nonsense\r\n\r\n${JSON.stringify(mockSwitch)}`);
  await raw(`PUT /switch/new HTTP/1.1\r\nHost: haas\r\n${header}Transfer-Encoding: chunked\r\n\r\n${one}\r\n${one}\r\n0\r\n\r\n`);
}

/** Faults of haas itself, with passwords in hand. */
async function failInside({ call, uri, log }: Stage): Promise<void> {
  for (const table of ["switch", "node", "users"]) await breakTable(uri, table);
  for (const [path, body] of [
    ["/switch/boom", mockSwitch],
    ["/node/boom", { obm: mockObm }],
    ["/auth/basic/user/boom", { password: secrets.bob }],
  ] as const) {
    const { status, text } = await call("PUT", path, body);
    expect([path, status, text]).toEqual([path, 500, expect.stringContaining("ServerError")]);
    const [id] = /[0-9a-f]{8}-[0-9a-z]+/.exec(text)!;
    expect(log()).toContain(id);
  }
}

/** The command line, whose user can mistake one place for another. */
async function failCommands({ cli, server }: Stage): Promise<void> {
  const account = { HAAS_USERNAME: "root", HAAS_PASSWORD: secrets.admin };
  expect((await cli({ ...account, HAAS_ENDPOINT: server.url }, "show_node", "mock")).status).toBe(0);
  expect((await cli({ ...account, HAAS_ENDPOINT: server.url }, "show_node", "nobody")).status).toBe(1);
  expect((await cli({ ...account, HAAS_ENDPOINT: server.url, HAAS_PASSWORD: secrets.wrongUser }, "list_projects")).status).toBe(1);
  const named = server.url.replace("//", `//root:${secrets.admin}@`);
  expect((await cli({ HAAS_ENDPOINT: named }, "list_projects")).status).toBe(0);
  for (const endpoint of [
    named.replace(/:\d+$/, ":1"),
    named.replace("http", "ftp"),
    `${named}x y`,
    named.replace("root:", "root:x/"),
    `${named.replace("root:", "root:x@")}x y`,
    `${named}/nowhere`,
  ]) {
    expect((await cli({ HAAS_ENDPOINT: endpoint }, "list_projects")).status).not.toBe(0);
  }
}

describe.each(databases)("on %s", (kind) => {
  test("no password leaves the server, in whatever goes wrong", async () => {
    const home = scratch();
    const silent = await Bun.udpSocket({ hostname: "127.0.0.1" });
    const probes = [await Bun.udpSocket({ hostname: "127.0.0.1" }), await Bun.udpSocket({ hostname: "127.0.0.1" })];
    const ports = probes.map(({ port }) => port);
    for (const probe of probes) probe.close();
    const lab = scratch();
    const [bmc, other] = await Promise.all(
      ports.map((port, i) => startBmc({ dir: join(lab.path, `n${i}`), name: `n${i}`, port, user: "admin", password: secrets.bmc })),
    );
    let stage: Stage | null = null;
    try {
      stage = await startStage(kind, home.path);
      await fill(stage, bmc!.host, other!.host, `127.0.0.1:${silent.port}`);
      await read(stage);
      await failHardware(stage);
      await failRequests(stage);
      await failInside(stage);
      await failCommands(stage);
      await read(stage);
      expect(secretsIn(readFileSync(`/proc/${stage.server.pid}/cmdline`, "utf8"))).toEqual([]);
      await stage.server.stop();

      const password = /:([^:@/]+)@/.exec(stage.uri)?.[1];
      const known = [...Object.values(secrets), ...(password === undefined ? [] : [password])];
      const leaks = (text: string) => [...secretsIn(text, known), ...(text.match(/\$argon2\w*\$\S*/g) ?? [])];

      expect(stage.answers.length).toBeGreaterThan(100);
      for (const answer of stage.answers) expect([leaks(answer), answer]).toEqual([[], answer]);

      const log = stage.log();
      for (const said of [
        '"level":"debug"',
        '"level":"warning"',
        '"level":"error"',
        '"user":"root"',
        '"user":"alice"',
        "OBMError",
        "no_boom",
        '"status":401',
      ])
        expect([said, log.includes(said.replace("no_boom", kind === "postgres" ? "no_boom" : "no boom"))]).toEqual([said, true]);
      for (const { path, text } of stage.files()) expect([path, leaks(text)]).toEqual([path, []]);

      // Every call, however short, and what else could be seen of all processes meanwhile.
      const calls = stage.childCalls();
      expect(calls).toMatch(/ovs-vsctl /);
      expect(calls).toMatch(
        /ipmitool .* chassis power cycle a password in the environment|ipmitool .* chassis power on a password in the environment/,
      );
      expect(leaks(calls)).toEqual([]);
      expect(stage.watch.findings).toEqual([]);
    } finally {
      stage?.watch.stop();
      await stage?.server.stop().catch(() => {});
      for (const one of [bmc, other]) await one?.stop();
      silent.close();
      lab.remove();
      home.remove();
    }
  }, 180_000);
});

describe("switches of every vendor, healthy and broken", () => {
  const limits = ["dell", "n3000", "nexus", "brocade", "dellnos9"].map(
    (name) => `[haas.ext.switches.${name}]\nconnect_timeout = 10\ncommand_timeout = 2\n`,
  );

  test("no password leaves the server, whatever a switch does with it", async () => {
    const { hidden, seen } = await expectNoLeak(startEverything);
    // The passwords were there to be seen: in the settings, on the wire, and in what the parrots said.
    for (const secret of [secrets.console, secrets.enable, secrets.wrongConsole, secrets.wrongEnable]) {
      expect([secret, hidden.includes(secret)]).toEqual([secret, true]);
    }
    for (const words of ['"sent":"[secret]"', '"received":"', "you said ***", "is known by SHA256:other"]) {
      expect([words, seen.includes(words)]).toEqual([words, true]);
    }
  }, 120_000);

  test("neither does what is left of an enable password that begins with the login password", async () => {
    const fields = { enable_password: `${secrets.console}/more-secret-6f0e` };
    const { hidden } = await expectNoLeak(async (opened) => {
      const subjects: Subject[] = [];
      for (const vendor of consoleVendors) {
        const parrot = await startConsoleParrot("enable");
        opened.push(parrot);
        subjects.push(parroted(vendor, "enable", parrot, fields));
      }
      return subjects;
    });
    expect(hidden).toContain(fields.enable_password);
  }, 60_000);

  interface Subject {
    readonly label: string;
    readonly vendor: Vendor;
    readonly body: object;
    /** How a change of its port ends. */
    readonly ends: "DONE" | "ERROR";
    /** It is known by another host key than the one that it presents. */
    readonly keyChanged?: true;
  }

  interface Closeable {
    stop(): Promise<void>;
  }

  /** Ask about such switches in every way that there is. All that could be seen, and the columns of the database that hold secrets. */
  async function expectNoLeak(startSubjects: (opened: Closeable[]) => Promise<Subject[]>): Promise<{ seen: string; hidden: string }> {
    const home = scratch();
    const opened: Closeable[] = [];
    let stage: Stage | null = null;
    try {
      stage = await startStage("sqlite", home.path, `[devel]\ndebug = True\n${limits.join("")}`);
      const subjects = await startSubjects(opened);
      for (const [path, body] of [
        ["/network/net", { owner: "admin", access: "", net_id: "100" }],
        ["/project/red", {}],
      ] as const) {
        expect([path, (await stage.call("PUT", path, body)).status]).toEqual([path, 200]);
      }
      await inTurns(subjects, subjects.length, async (subject) => {
        await register(stage!, subject);
        await change(stage!, subject);
      });
      await inTurns(subjects, 16, (subject) => askAbout(stage!, subject));
      const { shown, hidden } = await dumpOf(stage.uri);
      await stage.server.stop();

      const log = stage.log();
      for (const answer of stage.answers) expect([secretsIn(answer), answer]).toEqual([[], answer]);
      for (const line of log.split("\n")) expect([secretsIn(line), line]).toEqual([[], line]);
      for (const { path, text } of stage.files()) expect([path, secretsIn(text)]).toEqual([path, []]);
      expect(secretsIn(shown)).toEqual([]);
      expect(stage.watch.findings).toEqual([]);
      return { seen: [...stage.answers, log].join("\n"), hidden };
    } finally {
      stage?.watch.stop();
      await stage?.server.stop().catch(() => {});
      for (const one of opened) await one.stop();
      home.remove();
    }
  }

  async function startEverything(opened: Closeable[]): Promise<Subject[]> {
    const subjects: Subject[] = [];
    const add = async (
      vendor: Vendor,
      what: string,
      ends: Subject["ends"],
      { options = {}, fields = {}, fault, keyChanged }: Variant = {},
    ) => {
      const emulator = await startEmulator(vendor, options);
      opened.push(emulator);
      if (fault) {
        onEveryLine(emulator, (line) => {
          if (/switchport|interface\/gige|%22/.test(line)) emulator.behaviour.fault = { kind: fault, at: 0 };
        });
      }
      const label = `${vendor}-${what}`;
      subjects.push({ label, vendor, ends, body: registration(vendor, emulator, fields), ...(keyChanged && { keyChanged }) });
    };
    const addParrot = (vendor: Vendor, what: string, parrot: Parrot) => {
      opened.push(parrot);
      subjects.push(parroted(vendor, what, parrot));
    };

    for (const vendor of vendors) {
      await add(vendor, "healthy", "DONE");
      await add(vendor, "wrong-password", "ERROR", { fields: { password: secrets.wrongConsole } });
      await add(vendor, "refusing", "ERROR", { options: { behaviour: { refusesLogins: true } } });
      await add(vendor, "garbage", "ERROR", { fault: "garbage" });
      await add(vendor, "hanging", "ERROR", { fault: "hang" });
    }
    for (const vendor of consoleVendors) {
      const telnet = { transport: "telnet" } as const;
      const enable = { enablePassword: secrets.enable };
      await add(vendor, "telnet", "DONE", { options: { ...telnet, ...enable } });
      await add(vendor, "telnet-wrong", "ERROR", { options: telnet, fields: { password: secrets.wrongConsole } });
      await add(vendor, "enable", "DONE", { options: enable });
      await add(vendor, "enable-wrong", "ERROR", { options: { ...telnet, ...enable }, fields: { enable_password: secrets.wrongEnable } });
      await add(vendor, "another-key", "ERROR", { keyChanged: true });
      for (const habit of consoleHabits) addParrot(vendor, habit, await startConsoleParrot(habit));
    }
    for (const vendor of restVendors) {
      for (const status of [200, 401, 500] as const) addParrot(vendor, `${status}`, startRestParrot(status));
    }
    return subjects;
  }

  function parroted(vendor: Vendor, what: string, { hostname }: Parrot, fields: Readonly<Record<string, unknown>> = {}): Subject {
    const settings = {
      hostname,
      username: "admin",
      password: secrets.console,
      ...(isConsole(vendor) ? { transport: "telnet", enable_password: secrets.enable } : { interface_type: "TenGigabitEthernet" }),
      ...((vendor === "delln3000" || vendor === "nexus") && { dummy_vlan: 2222 }),
    };
    return { label: `${vendor}-parrot-${what}`, vendor, ends: "ERROR", body: registration(vendor, { settings }, fields) };
  }

  interface Variant {
    readonly options?: ConsoleOptions;
    readonly fields?: Readonly<Record<string, unknown>>;
    readonly fault?: Fault["kind"];
    readonly keyChanged?: true;
  }

  /** A switch with a port, and a node of a project on it. */
  async function register({ call, uri }: Stage, { label, vendor, body, keyChanged }: Subject): Promise<void> {
    const port = `/switch/${label}/port/${encodeURIComponent(portNames[vendor](1))}`;
    const done = async (method: string, path: string, sent?: unknown) =>
      expect([path, (await call(method, path, sent)).status]).toEqual([path, 200]);
    await done("PUT", `/switch/${label}`, body);
    if (keyChanged) await sql(uri, `update switch set host_key = 'SHA256:other ' || label where label = '${label}'`);
    await done("PUT", `/node/${label}`, { obm: mockObm });
    await done("PUT", `/node/${label}/nic/eth0`, { macaddr: "m" });
    await done("PUT", port);
    await done("POST", `${port}/connect_nic`, { node: label, nic: "eth0" });
    await vouchFor(call, label, portNames[vendor](1));
    await done("POST", "/project/red/connect_node", { node: label });
  }

  async function change({ call }: Stage, { label, ends }: Subject): Promise<void> {
    const { status, text } = await call("POST", `/node/${label}/nic/eth0/connect_network`, { network: "net" });
    expect([label, status]).toEqual([label, 202]);
    const path = `/networking_action/${(JSON.parse(text) as { status_id: string }).status_id}`;
    const deadline = Date.now() + boundMs;
    let action: string;
    do {
      await Bun.sleep(100);
      action = (await call("GET", path)).text;
    } while (action.includes('"PENDING"') && Date.now() < deadline);
    expect([label, action]).toEqual([label, expect.stringContaining(`"${ends}"`)]);
  }

  /** Everything else that makes the server talk to a switch, and tell about it. */
  async function askAbout({ call, cli, server }: Stage, { label, vendor, ends }: Subject): Promise<void> {
    await call("POST", `/node/${label}/nic/eth0/detach_network?dry_run=true`, { network: "net" });
    await call("POST", `/switch/${label}/port/${encodeURIComponent(portNames[vendor](1))}/revert?dry_run=true`);
    const account = { HAAS_ENDPOINT: server.url, HAAS_USERNAME: "root", HAAS_PASSWORD: secrets.admin };
    for (const argv of [["switch_test", "--recording"], ["switch_drift"]]) {
      expect([label, argv, (await cli(account, ...argv, label)).status]).toEqual([label, argv, ends === "DONE" ? 0 : 1]);
    }
    await call("POST", `/switch/${label}/reconcile?dry_run=true`);
    await call("GET", `/switch/${label}/reconcile`);
  }

  /** All rows: what may be shown, and the columns that are there to hold secrets. */
  async function dumpOf(uri: string): Promise<{ shown: string; hidden: string }> {
    const parts = { shown: "", hidden: "" };
    for (const { name } of await sql(uri, "select name from sqlite_master where type = 'table'")) {
      for (const { settings, obm, password_hash, ...rest } of await sql(uri, `select * from "${String(name)}"`)) {
        parts.shown += `${JSON.stringify(rest)}\n`;
        parts.hidden += JSON.stringify([settings, obm, password_hash]);
      }
    }
    return parts;
  }
});

/** Do something with every item, with so many of them at a time. */
async function inTurns<T>(items: readonly T[], atOnce: number, work: (item: T) => Promise<void>): Promise<void> {
  const waiting = [...items];
  const worker = async () => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

describe("a database that can't be had", () => {
  const uris = {
    "nobody listens": `postgresql://haas:${secrets.database}@127.0.0.1:1/haas`,
    "a password with an @": `postgresql://haas:x@${secrets.database}@127.0.0.1:1/haas`,
    "a password with a slash": `postgresql://haas:x/${secrets.database}@127.0.0.1:1/haas`,
    "a password among the options": `postgresql://haas@127.0.0.1:1/haas?application_name=x&password=${secrets.database}`,
    "another kind of database": `mysql://haas:${secrets.database}@127.0.0.1:1/haas`,
    "no address": `postgresql://haas:${secrets.database}@127.0.0.1:port/haas`,
  };

  test.each(Object.entries(uris))(
    "%s: the error does not show the password",
    async (_, uri) => {
      await withConfig(uri, 0o600, async (haas, config, cwd) => {
        for (const argv of [
          ["serve", "0"],
          ["serve_networks", "--once"],
          ["create_admin_user", "root", "-"],
        ]) {
          const { status, out, err } = await run([haas, ...argv, "--config", config], { cwd, stdin: `${secrets.admin}\n` });
          expect([argv, status === 0, out]).toEqual([argv, false, ""]);
          expect([argv, err, secretsIn(err)]).toEqual([argv, expect.stringMatching(/^Error: [^\n]+\n$/), []]);
        }
      });
    },
    60_000,
  );

  test("a wrong password is not shown, and neither is one in a file that others can read", async () => {
    const right = new URL(await freshUri("postgres", ""));
    right.password = secrets.database;
    for (const mode of [0o600, 0o644]) {
      await withConfig(right.href, mode, async (haas, config, cwd) => {
        const { status, err } = await run([haas, "serve", "0", "--config", config], { cwd });
        expect(status).not.toBe(0);
        expect(err).toContain(mode === 0o600 ? "password authentication failed" : "chmod 600");
        expect(secretsIn(err)).toEqual([]);
      });
    }
  }, 60_000);

  async function withConfig(uri: string, mode: number, work: (haas: string, config: string, cwd: string) => Promise<void>): Promise<void> {
    const { path, remove } = scratch();
    const config = join(path, "haas.cfg");
    writeFileSync(config, configText({ uri, auth: "database" }), { mode });
    try {
      await work(await haasBinary(), config, path);
    } finally {
      remove();
    }
  }
});

describe("the watcher of command lines", () => {
  test("finds what it is there for, and what a user types is the user's own", async () => {
    const { path, remove } = scratch();
    // Not like a password: the whole suite is watched as well.
    const canary = `canary-${process.pid}-${Date.now()}`;
    const report = join(path, "report");
    const watcher = Bun.spawn(
      [process.execPath, Bun.fileURLToPath(import.meta.resolve("../support/secret-watch.ts")), report, canary.replace("-", "[-]")],
      {
        stdio: ["ignore", "inherit", "inherit"],
      },
    );
    const scripts: Bun.Subprocess[] = [];
    try {
      while (!existsSync(report)) await Bun.sleep(10);
      const haas = join(path, "haas");
      writeFileSync(haas, "sleep 100\n");
      // `sh` by another name is `haas` to whoever reads its command line.
      const start = (...argv: [string, ...string[]]) =>
        scripts[scripts.push(Bun.spawn(["/bin/sh", ...argv.slice(1)], { argv0: argv[0], stdio: ["ignore", "ignore", "ignore"] })) - 1]!;
      const typed = start(haas, haas, "node_register", "n1", "ipmi", "h", "u", canary);
      const server = start(haas, haas, "serve", canary);
      const child = start("ipmitool", haas, "-P", canary);
      const found = () => readFileSync(report, "utf8");
      const deadline = Date.now() + boundMs;
      while (found().split("\n").length < 3 && Date.now() < deadline) await Bun.sleep(20);
      const pids = found()
        .trim()
        .split("\n")
        .map((line) => Number(line.split(":")[0]));
      expect(new Set(pids)).toEqual(new Set([server.pid, child.pid]));
      expect(pids).not.toContain(typed.pid);
      watcher.kill("SIGTERM");
      expect(await watcher.exited).toBe(0);
    } finally {
      watcher.kill("SIGKILL");
      for (const script of scripts) script.kill("SIGKILL");
      remove();
    }
  });

  test("knows a secret in every form", () => {
    for (const text of [
      secrets.admin,
      basic("root", secrets.admin),
      basic("r", secrets.admin),
      basic("ro", secrets.admin),
      Buffer.from(secrets.admin).toString("hex"),
    ]) {
      expect(secretsIn(`before ${text} after`)).toContain(secrets.admin);
    }
    expect(secretsIn(JSON.stringify({ name: "n1", "***": basic("root", "another") }))).toEqual([]);
  });
});

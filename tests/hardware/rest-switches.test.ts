import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SessionLostError, SwitchError } from "../../src/errors.ts";
import { checkSettings } from "../../src/hardware/settings.ts";
import { brocade } from "../../src/hardware/switches/brocade.ts";
import { dellNos9 } from "../../src/hardware/switches/dellnos9.ts";
import { emptyPort, type PortState, samePort, type SwitchDriver, type SwitchSession } from "../../src/hardware/switches/driver.ts";
import type { Emulator, Fault } from "../sim/emulator.ts";
import { startRest } from "../sim/rest.ts";
import { secrets, secretsIn } from "../support/secrets.ts";
import { switchTarget } from "../support/target.ts";

const native: PortState = { native: 100, tagged: [] };
const both: PortState = { native: 100, tagged: [200, 4094] };
const others: PortState = { native: 300, tagged: [100, 200] };
const inDefault: PortState = { native: 1, tagged: [5] };
const states = [emptyPort, native, both, others, inDefault];

/** A reading that no desired state equals. */
const isOdd = ({ tagged }: PortState) => tagged.includes(4095);
const vlansOf = ({ native: own, tagged }: PortState) => new Set(own === null ? tagged : [own, ...tagged]);

interface Kind {
  driver: SwitchDriver;
  port: string;
  /** Requests to the emulator that put the port into a state which we would not write, and the VLANs that it passes then. */
  foreign: Record<string, { requests: readonly (readonly [method: string, path: string, body?: string])[]; passes: PortState }>;
  /** The same for VLANs behind a shutdown. */
  hidden: readonly (readonly [method: string, path: string, body?: string])[];
}

const vdx = "/rest/config/running/interface/TenGigabitEthernet/%221/0/1%22";
const vdxTrunk = [
  ["POST", vdx, "<switchport></switchport>"],
  ["PUT", `${vdx}/switchport/mode`, "<mode><vlan-mode>trunk</vlan-mode></mode>"],
] as const;
const os9 = "/api/running/dell/interfaces/interface/gige-1-1";
const os9Commands = (...lines: string[]) =>
  ["POST", "/api/running/dell/_operations/cli", `<input><config-commands>${lines.join("\n")}</config-commands></input>`] as const;
const os9Port = (...lines: string[]) => os9Commands("interface GigabitEthernet 1/1", ...lines);
const os9Vlan = (vlan: number, command: string) => os9Commands(`interface vlan ${vlan}`, `${command} GigabitEthernet 1/1`);

const kinds: Kind[] = [
  {
    driver: brocade,
    port: "1/0/1",
    foreign: {
      "as it leaves the factory": { requests: [], passes: emptyPort },
      "an access port": { requests: [["POST", vdx, "<switchport></switchport>"]], passes: { native: 1, tagged: [] } },
      "a trunk that nothing was set on": { requests: [...vdxTrunk], passes: { native: null, tagged: [1] } },
      "a trunk with a tag on its native VLAN": {
        requests: [...vdxTrunk, ["PUT", `${vdx}/switchport/trunk`, "<trunk><native-vlan>100</native-vlan></trunk>"]],
        passes: { native: null, tagged: [100] },
      },
      "a trunk without a native VLAN": {
        requests: [
          vdxTrunk[0],
          ["PUT", `${vdx}/switchport/mode`, "<mode><vlan-mode>trunk-no-default-native</vlan-mode></mode>"],
          ["PUT", `${vdx}/switchport/trunk/allowed/vlan`, "<vlan><add>200</add></vlan>"],
        ],
        passes: { native: null, tagged: [200] },
      },
    },
    hidden: [
      ["POST", vdx, "<shutdown>true</shutdown>"],
      ...vdxTrunk,
      ["PUT", `${vdx}/switchport/trunk/allowed/vlan`, "<vlan><add>777</add></vlan>"],
    ],
  },
  {
    driver: dellNos9,
    port: "1/1",
    foreign: {
      "an open port that does not switch": { requests: [os9Port("no shutdown")], passes: emptyPort },
      "an access port": {
        requests: [os9Port("switchport", "no shutdown"), os9Vlan(50, "untagged")],
        passes: { native: 50, tagged: [] },
      },
      "a trunk without a native VLAN": {
        requests: [os9Port("switchport", "no shutdown"), os9Vlan(200, "tagged")],
        passes: { native: null, tagged: [200] },
      },
    },
    hidden: [os9Port("portmode hybrid", "switchport"), os9Vlan(777, "tagged"), os9Vlan(778, "untagged")],
  },
];

const authorization = `Basic ${btoa(`admin:${secrets.console}`)}`;

/** What an operator does behind haas's back. */
async function ask({ hostname }: Emulator, [method, path, body]: readonly [method: string, path: string, body?: string]): Promise<void> {
  const init = { method, headers: { Authorization: authorization }, ...(body === undefined ? {} : { body }) };
  const answer = await fetch(`http://${hostname}${path}`, init);
  expect([answer.ok, await answer.text()]).toEqual([true, expect.not.stringContaining("%")]);
}

const failure = (work: Promise<unknown>) =>
  work.then(
    () => Promise.reject(new Error("it succeeded")),
    (error: unknown) => error as SwitchError,
  );

const isWrite = (line: string) => !line.startsWith("GET ") && !line.includes("<show-command>");

describe.each(kinds.map((kind) => [kind.driver.name, kind] as const))("%s", (name, { driver, port, foreign, hidden }) => {
  let sim: Emulator & { ca?: string };
  let session: SwitchSession | undefined;
  /** What the port passed after each answer. */
  const passed: PortState[] = [];
  const recorded: string[] = [];
  const observer = {
    step: (step: string) => void recorded.push(`step ${step}`),
    line(direction: string, text: string) {
      recorded.push(`${direction} ${text}`);
      if (direction === "received") passed.push(sim.port(port)!);
    },
  };
  const start = async (options: Parameters<typeof startRest>[1] = {}) => (sim = await startRest(name as "brocade" | "dellnos9", options));
  const open = async (limits: { connectTimeoutMs?: number; commandTimeoutMs?: number } = {}, settings: Record<string, unknown> = {}) =>
    (session = await driver.open({ ...switchTarget("sw", { ...sim.settings, ...settings }), ...limits, observer }));
  const read = async () => (await session!.readPorts([port])).get(port)!;
  /** Apply a state, and see that the port passed nothing on the way that is in neither of the two. */
  async function apply(desired: PortState): Promise<void> {
    const legal = new Set([...vlansOf(sim.port(port)!), ...vlansOf(desired)]);
    passed.length = 0;
    await session!.applyPort(port, desired).finally(() => {
      for (const state of [...passed, sim.port(port)!]) expect([...vlansOf(state)].filter((vlan) => !legal.has(vlan))).toEqual([]);
    });
  }

  afterEach(async () => {
    await session?.close();
    await sim?.stop();
    session = undefined;
    recorded.length = 0;
  });

  test("the port holds what was applied, never anything else on the way, and the plan is what is sent", async () => {
    await start();
    await open();
    for (const before of states) {
      for (const after of states) {
        await apply(before);
        const planned = driver.plan(port, await read(), after, sim.settings);
        const from = sim.received.length;
        await apply(after);
        expect(sim.port(port)).toEqual(after);
        expect(await read()).toEqual(after);
        const sent = sim.received.slice(from).filter(isWrite);
        expect(sent).toEqual(planned.map((line) => line.replace(`http://${sim.hostname}`, "")));
        expect(sent.length > 0).toBe(before !== after);
      }
    }
    expect(secretsIn(recorded.join("\n"))).toEqual([]);
    expect(recorded.join("\n")).not.toContain("Basic");
  });

  test("what is right is not touched", async () => {
    await start();
    await open();
    for (const state of states) {
      await apply(state);
      const from = sim.received.length;
      await session!.applyPort(port, state);
      expect(sim.received.slice(from).filter(isWrite)).toEqual([]);
    }
  });

  test.each(Object.entries(foreign))(
    "%s reads as nothing that could be wanted, and is brought to every state",
    async (_, { requests, passes }) => {
      for (const desired of states) {
        await start();
        for (const request of requests) await ask(sim, request);
        expect(sim.port(port)).toEqual(passes);
        await open();
        const reading = await read();
        expect(isOdd(reading)).toBe(true);
        expect(driver.plan(port, reading, desired, sim.settings)).not.toEqual([]);
        await apply(desired);
        expect(sim.port(port)).toEqual(desired);
        expect(await read()).toEqual(desired);
        await sim.stop();
      }
    },
  );

  test("VLANs behind a shutdown are taken off, also when nothing is wanted", async () => {
    for (const desired of states) {
      await start();
      for (const request of hidden) await ask(sim, request);
      await open();
      expect(await read()).toEqual(emptyPort);
      await apply(desired);
      expect(sim.port(port)).toEqual(desired);
      if (samePort(desired, emptyPort)) {
        await ask(
          sim,
          name === "brocade"
            ? ["DELETE", `${vdx}/shutdown`]
            : ["PUT", os9, `<interface><name>gige-1-1</name><shutdown>false</shutdown></interface>`],
        );
        expect(sim.port(port)!.tagged).not.toContain(777);
        expect(sim.port(port)!.native).not.toBe(778);
      }
      await sim.stop();
    }
  });

  const faults: Fault["kind"][] = ["cut", "drop", "garbage", "error", "refuse", "hang", "silent", "power"];
  test.each(faults)("%s at any step: the port passes nothing else, and a second try succeeds", async (kind) => {
    for (const [before, after] of [
      [emptyPort, both],
      [both, others],
      [both, emptyPort],
    ] as const) {
      for (let at = 0; ; at++) {
        await start();
        await open();
        await apply(before);
        await session!.save?.();
        await session!.close();
        await open({ commandTimeoutMs: 50 });
        sim.behaviour.fault = { kind, at, bytes: 20 };
        const error = await apply(after).then(
          () => null,
          (thrown: unknown) => thrown,
        );
        const over = sim.behaviour.fault !== null;
        if (error !== null) {
          expect(error).toBeInstanceOf(SwitchError);
          expect((error as Error).message).toStartWith(`Switch 'sw', port '${port}': `);
          expect(secretsIn(Bun.inspect(error))).toEqual([]);
        } else {
          expect(sim.port(port)).toEqual(after);
        }
        await session!.close();
        sim.behaviour.fault = null;
        await open();
        await apply(after);
        expect(sim.port(port)).toEqual(after);
        await session!.close();
        await sim.stop();
        if (over) break;
      }
    }
  });

  test("a wrong password is told when the session is opened, and later", async () => {
    await start();
    const error = await failure(open({}, { password: secrets.wrongUser }));
    expect(error).toBeInstanceOf(SwitchError);
    expect(error.message).toBe("Switch 'sw': it refuses the login as 'admin' (401): check username and password.");
    expect(recorded.filter((line) => line.startsWith("step"))).toEqual(["step connect", "step log in"]);
    await open();
    sim.behaviour.refusesLogins = true;
    expect((await failure(read())).message).toContain(`port '${port}': it refuses the login`);
    expect(secretsIn(recorded.join("\n"))).toEqual([]);
  });

  test("an unreachable switch is told when the session is opened, in bounded time", async () => {
    await start();
    const { hostname } = sim;
    sim.behaviour.fault = { kind: "hang", at: 0 };
    const late = await failure(open({ connectTimeoutMs: 100 }));
    expect(late).toBeInstanceOf(SessionLostError);
    expect(late.message).toContain("no answer within 0.1 s");
    await sim.stop();
    const refused = await failure(open({}, { hostname }));
    expect(refused).toBeInstanceOf(SessionLostError);
    expect(refused.message).toContain("the connection failed");
    expect(recorded.filter((line) => line.startsWith("step"))).toEqual(["step connect", "step connect"]);
  });

  test("close ends what is under way", async () => {
    await start();
    await open();
    sim.behaviour.fault = { kind: "hang", at: 0 };
    const reading = failure(read());
    while (sim.behaviour.fault) await Bun.sleep(5);
    await session!.close();
    const error = await reading;
    expect(error).toBeInstanceOf(SessionLostError);
    expect(error.message).toContain("the session was closed");
    expect(await failure(read())).toBeInstanceOf(SessionLostError);
  });

  test("an answer a byte at a time, and a slow one", async () => {
    await start({ behaviour: { oneByteWrites: true, commandDelayMs: 5 } });
    await open();
    await apply(both);
    expect(await read()).toEqual(both);
  });

  test("a port that is not there is named", async () => {
    await start();
    await open();
    const missing = port.replace(/\d+$/, "77");
    for (const work of [() => session!.readPorts([missing]), () => session!.applyPort(missing, native)]) {
      expect((await failure(work())).message).toContain(`Switch 'sw', port '${missing}': it has no`);
    }
  });

  test("tagged VLANs without a native one are refused before anything is changed", async () => {
    await start();
    await open();
    await apply(both);
    const desired = { native: null, tagged: [200] };
    const error = await failure(session!.applyPort(port, desired));
    expect(error).toMatchObject({ type: "SwitchError" });
    expect(error.message).toStartWith(`Switch 'sw', port '${port}': `);
    expect(() => driver.plan(port, both, desired, sim.settings)).toThrow(SwitchError);
    expect(sim.port(port)).toEqual(both);
  });

  test("what goes comes before what is added, and an open port stays open for tagged VLANs", async () => {
    await start();
    const lines = driver.plan(port, { native: 100, tagged: [200, 201] }, { native: 100, tagged: [201, 300] }, sim.settings);
    expect(lines.map((line) => /\d+(?=<\/(?:add|remove)>|\\r)/.exec(line)?.[0])).toEqual(["200", "300"]);
  });

  test("a port has one spelling", async () => {
    await start();
    await open();
    const padded = port.replace(/\d+$/, (digits) => `0${digits}`);
    driver.validatePort(padded);
    expect(driver.canonicalPort!(padded)).toBe(port);
    await session!.applyPort(padded, native);
    expect(sim.port(port)).toEqual(native);
    expect([...(await session!.readPorts([padded])).keys()]).toEqual([padded]);
  });

  describe("HTTPS", () => {
    let dir: string;
    const file = async (content: string) => {
      const path = join(dir, `${crypto.randomUUID()}.pem`);
      await writeFile(path, content);
      return path;
    };
    beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), "haas-rest-"))));
    afterAll(async () => rm(dir, { recursive: true, force: true }));

    test("trusts who it was told to trust", async () => {
      await start({ tls: true });
      expect(driver.plan(port, emptyPort, native, { ...sim.settings, tls: "verify" })[0]).toContain(`https://${sim.hostname}/`);
      const ca_file = await file(sim.ca!);
      for (const settings of [
        { ca_file },
        { ca_file, tls: "verify" },
        { ca_file, tls: "off" },
        { ca_file, tls: "insecure" },
        { tls: "insecure" },
      ]) {
        checkSettings(driver.settings, { ...sim.settings, ...settings }, "It");
        await open({}, settings);
        await apply(native);
        await apply(emptyPort);
      }
    });

    test("trusts nobody else", async () => {
      const other = await startRest("brocade", { tls: true });
      await other.stop();
      await start({ tls: true });
      const from = sim.received.length;
      const ca_file = await file(other.ca!);
      for (const settings of [{ tls: "verify" }, { ca_file }, { ca_file, tls: "insecure" }]) {
        expect((await failure(open({}, settings))).message).toContain("its certificate is not to be trusted");
      }
      await failure(open({}, { tls: "off" }));
      expect(sim.received.slice(from)).toEqual([]);
    });

    test("a file without authorities is not the system's authorities", async () => {
      await start({ tls: true });
      for (const ca_file of [await file(""), await file("nonsense"), join(dir, "none.pem"), dir, "/dev/zero"]) {
        const error = await failure(open({}, { ca_file }));
        expect(error).toBeInstanceOf(SwitchError);
        expect(error.message).toContain(`ca_file '${ca_file}'`);
      }
    });
  });
});

describe("brocade", () => {
  test("has nothing to save", async () => {
    const sim = await startRest("brocade", {});
    const session = await brocade.open(switchTarget("sw", sim.settings));
    expect(session.save).toBeUndefined();
    await sim.stop();
  });

  test("a VLAN that is not there is refused in the switch's words, and the port stays shut", async () => {
    const sim = await startRest("brocade", { vlans: [100] });
    const session = await brocade.open(switchTarget("sw", sim.settings));
    const error = await failure(session.applyPort("1/0/1", both));
    expect(error.message).toBe(
      "Switch 'sw', port '1/0/1': PUT …/%221/0/1%22/switchport/trunk/allowed/vlan <vlan><add>200</add></vlan>: " +
        "400 Bad Request: %Error: VLAN 200 is not configured.",
    );
    expect(sim.port("1/0/1")).toEqual(emptyPort);
    await sim.stop();
  });

  test("opens with a list of interfaces of any length", async () => {
    const list = `<interface>${"<TenGigabitEthernet/>".repeat(100_000)}</interface>`;
    await withServer(
      () => ({ body: list }),
      async (hostname) => (await brocade.open(switchTarget("sw", brocadeSettings(hostname)))).close(),
    );
  });
});

describe("dellnos9", () => {
  test("saves the running config, and says when that fails", async () => {
    const sim = await startRest("dellnos9", {});
    const session = await dellNos9.open(switchTarget("sw", sim.settings));
    await session.applyPort("1/1", both);
    await session.save!();
    expect(sim.saves).toBe(1);
    sim.powerCycle();
    expect(await session.readPorts(["1/1"])).toEqual(new Map([["1/1", both]]));
    sim.behaviour.fault = { kind: "error", at: 0 };
    expect((await failure(session.save!())).message).toContain(
      "Switch 'sw': saving its configuration: POST …/_operations/cli <input><exec-command>write</exec-command></input>: % Error: ",
    );
    expect(sim.saves).toBe(1);
    await sim.stop();
  });

  test("a command that fails within a good answer is a failure", async () => {
    const sim = await startRest("dellnos9", {});
    const session = await dellNos9.open(switchTarget("sw", sim.settings));
    await session.applyPort("1/1", native);
    // Its two reads, then the first change.
    sim.behaviour.fault = { kind: "error", at: 2 };
    const error = await failure(session.applyPort("1/1", both));
    expect(error.message).toContain("port '1/1': POST …/_operations/cli <input><config-commands>interface vlan 200");
    expect(error.message).toContain("% Error: Unable to process the command");
    await sim.stop();
  });

  test("a third number is another port", () => {
    expect(dellNos9.canonicalPort!("1/3")).not.toBe(dellNos9.canonicalPort!("1/0/3"));
  });
});

// ---- What no emulator does ----

interface StubAnswer {
  status?: number;
  headers?: Record<string, string>;
  body?: string;
}

/** A web server that answers as it is told, for as long as `work` takes. */
async function withServer<T>(
  answer: (request: { method: string; path: string; body: string; authorization: string }) => StubAnswer,
  work: (hostname: string) => Promise<T>,
): Promise<T> {
  const server = createServer((request, response) => {
    const chunks: Uint8Array[] = [];
    request.on("data", (chunk: Uint8Array) => chunks.push(chunk));
    request.on("end", () => {
      const { method = "", url: path = "", headers } = request;
      const {
        status = 200,
        headers: more = {},
        body = "",
      } = answer({
        method,
        path,
        body: Buffer.concat(chunks).toString(),
        authorization: headers.authorization ?? "",
      });
      response.writeHead(status, more).end(body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    return await work(`127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const login = { username: "admin", password: secrets.console };
const brocadeSettings = (hostname: string) => ({ hostname, ...login, interface_type: "TenGigabitEthernet" });
const os9Settings = (hostname: string) => ({ hostname, ...login, interface_type: "GigabitEthernet" });

const vdxName = `<TenGigabitEthernet xmlns="urn:brocade.com:mgmt:brocade-interface"><name>1/0/1</name></TenGigabitEthernet>`;

/** What the driver makes of a VDX's answers. */
const readVdx = ({ port = vdxName, mode = "<mode><vlan-mode>trunk</vlan-mode></mode>", trunk = "" }) =>
  withServer(
    ({ path }) => {
      const body = path.endsWith("/mode") ? mode : path.endsWith("/trunk") ? trunk : path === vdx ? port : "<list/>";
      return body === "404" ? { status: 404 } : { body };
    },
    async (hostname) => {
      const session = await brocade.open(switchTarget("sw", brocadeSettings(hostname)));
      return (await session.readPorts(["1/0/1"])).get("1/0/1")!;
    },
  );

const openPort = "<portmode><hybrid>true</hybrid></portmode><switchport/><shutdown>false</shutdown>";
const membership = (...lines: string[]) => [
  "Name: GigabitEthernet 1/1",
  "802.1QTagged: Hybrid",
  "Vlan membership:",
  "Q       Vlans",
  ...lines,
];

/** What the driver makes of an OS 9's answers. */
const readOs9 = ({ port = openPort, shown = "", answer }: { port?: string; shown?: string; answer?: string }) =>
  withServer(
    ({ method, body }) => {
      if (method === "GET") return { body: `<interface><name>gige-1-1</name>${port}</interface>` };
      if (body.includes(">version<")) return { body: "<output><command>Dell</command></output>" };
      return { body: answer ?? `<output><command>${shown}</command></output>` };
    },
    async (hostname) => {
      const session = await dellNos9.open(switchTarget("sw", os9Settings(hostname)));
      return (await session.readPorts(["1/1"])).get("1/1")!;
    },
  );

describe("what a VDX tells", () => {
  const trunk = (inside: string) => `<trunk>${inside}</trunk>`;
  const list = (inside: string) => `<allowed><rspan-vlan/><vlan>${inside}</vlan></allowed>`;
  const everyVlan = Array.from({ length: 4094 }, (_, i) => i + 1);
  const good: [string, Parameters<typeof readVdx>[0], PortState][] = [
    [
      "a list and a native VLAN",
      { trunk: trunk(`${list("<add>12,14-16</add>")}<native-vlan>10</native-vlan>`) },
      { native: 10, tagged: [12, 14, 15, 16] },
    ],
    [
      "the native VLAN on the list",
      { trunk: trunk(`${list("<add>10,12</add>")}<native-vlan>10</native-vlan>`) },
      { native: 10, tagged: [12] },
    ],
    ["no list", { trunk: trunk(`${list("")}<tag/><native-vlan>10</native-vlan>`) }, { native: 10, tagged: [] }],
    ["none", { trunk: trunk(`${list("<none>true</none>")}<native-vlan>10</native-vlan>`) }, { native: 10, tagged: [] }],
    [
      "prefixes and a declaration",
      { trunk: `<?xml version="1.0"?><b:trunk xmlns:b="urn:x"><b:native-vlan> 10 </b:native-vlan></b:trunk>` },
      { native: 10, tagged: [] },
    ],
    ["shut", { port: vdxName.replace("</name>", "</name><shutdown>true</shutdown>"), trunk: trunk(list("<add>12</add>")) }, emptyPort],
    ["shut, by an element without a type", { port: vdxName.replace("</name>", "</name><shutdown/>"), mode: "404" }, emptyPort],
    ["a default native VLAN", { trunk: trunk(list("<add>12</add>")) }, { native: 1, tagged: [12] }],
  ];
  test.each(good)("%s", async (_, answers, state) => expect(await readVdx(answers)).toEqual(state));

  const odd: [string, Parameters<typeof readVdx>[0], PortState][] = [
    ["all", { trunk: trunk(list("<all>true</all>")) }, { native: 1, tagged: [...everyVlan.slice(1), 4095] }],
    ["all, by an element without a type", { trunk: trunk(list("<all/>")) }, { native: 1, tagged: [...everyVlan.slice(1), 4095] }],
    ["all but some", { trunk: trunk(`${list("<except>12</except>")}<native-vlan>10</native-vlan>`) }, { native: 10, tagged: [4095] }],
    [
      "a tag on the native VLAN",
      { trunk: trunk(`${list("<add>12</add>")}<tag><native-vlan>true</native-vlan></tag><native-vlan>10</native-vlan>`) },
      { native: null, tagged: [10, 12, 4095] },
    ],
    [
      "a VLAN of a fabric",
      { trunk: trunk(`${list("<add>12,5000</add>")}<native-vlan>10</native-vlan>`) },
      { native: 10, tagged: [12, 4095] },
    ],
    [
      "a setting that nobody knows",
      { trunk: trunk(`<native-vlan>10</native-vlan><trunk-vlan-classification><vlan>7</vlan></trunk-vlan-classification>`) },
      { native: 10, tagged: [4095] },
    ],
    ["not switching", { mode: "404" }, { native: null, tagged: [4095] }],
    ["no mode", { mode: "<mode/>" }, { native: null, tagged: [4095] }],
    ["access mode", { mode: "<mode><vlan-mode>access</vlan-mode></mode>" }, { native: null, tagged: [4095] }],
  ];
  test.each(odd)("%s is nothing that could be wanted", async (_, answers, state) => expect(await readVdx(answers)).toEqual(state));

  const bad: [string, Parameters<typeof readVdx>[0]][] = [
    ["no XML", { trunk: "trunk" }],
    ["nothing", { trunk: "" }],
    ["half of it", { trunk: "<trunk><allowed>" }],
    ["another element", { trunk: "<mode/>" }],
    ["two of it", { trunk: "<trunk/><trunk/>" }],
    ["an element twice", { trunk: trunk("<native-vlan>10</native-vlan><native-vlan>11</native-vlan>") }],
    ["two lists", { trunk: trunk(`<allowed><vlan><add>1</add><add>2</add></vlan></allowed>`) }],
    ["entities", { trunk: `<!DOCTYPE trunk [<!ENTITY a "12">]>${trunk(list("<add>&a;</add>"))}` }],
    ["a list that is none", { trunk: trunk(list("<add>12;14</add>")) }],
    ["an empty list", { trunk: trunk(list("<add></add>")) }],
    ["a range that runs backwards", { trunk: trunk(list("<add>14-12</add>")) }],
    ["a VLAN that can't be", { trunk: trunk(list("<add>9000</add>")) }],
    ["VLAN 0", { trunk: trunk(list("<add>0</add>")) }],
    ["the same VLANs again and again", { trunk: trunk(list(`<add>${"1-4094,".repeat(100_000)}1</add>`)) }],
    ["two native VLANs", { trunk: trunk("<native-vlan>10,11</native-vlan>") }],
    ["children where a text should be", { trunk: trunk("<native-vlan><vlan>10</vlan></native-vlan>") }],
    ["no trunk in trunk mode", { trunk: "404" }],
    ["another port", { port: vdxName.replace("1/0/1<", "1/0/2<"), trunk: trunk("") }],
    ["no port", { port: "<TenGigabitEthernet/>", trunk: trunk("") }],
    ["a megabyte of brackets", { trunk: "<".repeat(1_000_000) }],
    ["more than fits", { trunk: trunk(" ".repeat(1_100_000)) }],
    ["more nesting than fits", { trunk: trunk(`${"<a>".repeat(5_000)}${"</a>".repeat(5_000)}`) }],
    ["a name that means something to JavaScript", { trunk: trunk("<__proto__><native-vlan>10</native-vlan></__proto__>") }],
  ];
  test.each(bad)("%s is an error", async (_, answers) => {
    const error = await failure(readVdx(answers));
    expect(error).toBeInstanceOf(SwitchError);
    expect(error.message).toStartWith("Switch 'sw', port '1/0/1': ");
    expect(error.message.length).toBeLessThan(800);
    expect(error.message).not.toMatch(/[\p{C}]/u);
  });
});

describe("what an OS 9 tells", () => {
  const good: [string, Parameters<typeof readOs9>[0], PortState][] = [
    [
      "with blanks here and there",
      {
        shown: [
          "show interfaces switchport GigabitEthernet 1/1",
          "",
          "Codes:  U - Untagged, T - Tagged",
          "        x - Dot1x untagged, X - Dot1x tagged",
          "",
          ...membership("U       1512 ", "T       1511, 1612 - 1614,1700  ", "", "Native VlanId:    1512 .", "", "", ""),
          "Dell-S3048-ON#",
        ].join("\r\n"),
      },
      { native: 1512, tagged: [1511, 1612, 1613, 1614, 1700] },
    ],
    [
      "on several lines, that end as XML writes them",
      { shown: membership("T       10,20,", "        30-31", "T       40", "U       7", "Native VlanId: 7.").join("&#13;&#10;") },
      { native: 7, tagged: [10, 20, 30, 31, 40] },
    ],
    ["without blanks", { shown: membership("U7", "T8,9").join("\n") }, { native: 7, tagged: [8, 9] }],
    [
      "a log line in between",
      { shown: ["%STKUNIT0-M:CP %SYS-5-CONFIG_I: Configured from rest", ...membership("U 7")].join("\n") },
      { native: 7, tagged: [] },
    ],
    ["shut", { port: openPort.replace("false", "true"), shown: membership("U 7").join("\n") }, emptyPort],
    ["shut, without switching", { port: "<shutdown>true</shutdown>" }, emptyPort],
  ];
  test.each(good)("%s", async (_, answers, state) => expect(await readOs9(answers)).toEqual(state));

  const odd: [string, Parameters<typeof readOs9>[0], PortState][] = [
    ["open, without switching", { port: "<shutdown>false</shutdown>" }, { native: null, tagged: [4095] }],
    ["open, in no VLAN", { shown: membership("").join("\n") }, { native: null, tagged: [4095] }],
    ["not hybrid", { port: openPort.replace("true", "false"), shown: membership("U 7").join("\n") }, { native: 7, tagged: [4095] }],
    ["another native VLAN", { shown: membership("U 7", "Native VlanId: 8.").join("\n") }, { native: 7, tagged: [4095] }],
    ["memberships of other features", { shown: membership("U 7", "T 8", "V 9", "M 10").join("\n") }, { native: 7, tagged: [8, 4095] }],
  ];
  test.each(odd)("%s is nothing that could be wanted", async (_, answers, state) => expect(await readOs9(answers)).toEqual(state));

  const bad: [string, Parameters<typeof readOs9>[0]][] = [
    ["no shutdown", { port: "<switchport/>" }],
    ["a shutdown that is neither", { port: "<shutdown>maybe</shutdown>" }],
    ["another answer", { answer: "<interface/>" }],
    ["no command", { answer: "<output/>" }],
    ["no XML", { answer: "\u0000\u0001" }],
    ["nothing", { shown: "" }],
    ["no membership", { shown: membership().slice(0, 2).join("\n") }],
    ["no name", { shown: membership("U 7").slice(1).join("\n") }],
    ["another port", { shown: membership("U 7").join("\n").replace("1/1", "1/11") }],
    ["another kind of port", { shown: membership("U 7").join("\n").replace("Gig", "TenGig") }],
    ["two ports", { shown: [...membership("U 7"), ...membership("U 8")].join("\n") }],
    ["two untagged VLANs", { shown: membership("U 7,8").join("\n") }],
    ["no list", { shown: membership("T all").join("\n") }],
    ["a list that can't be", { shown: membership("T 4095").join("\n") }],
    ["a list that breaks off", { shown: membership("T 10-").join("\n") }],
    ["a list of nothing", { shown: membership("        10").join("\n") }],
    ["an error", { shown: '        ^\r\n% Error: Invalid input at "^" marker.' }],
    ["an error without a blank", { shown: "%Error: busy" }],
    ["an error behind a prompt", { shown: ["Dell#% Error: busy", ...membership("U 7")].join("\n") }],
    ["lines of blanks without end", { shown: "\n ".repeat(500_000) }],
  ];
  test.each(bad)("%s is an error", async (_, answers) => {
    const error = await failure(readOs9(answers));
    expect(error).toBeInstanceOf(SwitchError);
    expect(error.message).toStartWith("Switch 'sw', port '1/1': ");
    expect(error.message.length).toBeLessThan(800);
    expect(error.message).not.toMatch(/[\p{C}]/u);
  });
});

describe("the way to the switch", () => {
  test("is never a proxy, whatever the environment says", async () => {
    const names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NODE_USE_ENV_PROXY", "NO_PROXY", "no_proxy"];
    const before = names.map((name) => [name, process.env[name]] as const);
    const sim = await startRest("brocade", {});
    let proxied = 0;
    await withServer(
      () => (proxied++, {}),
      async (proxy) => {
        try {
          for (const name of names) process.env[name] = name.startsWith("NODE") ? "1" : /^no_/i.test(name) ? "" : `http://${proxy}`;
          const session = await brocade.open(switchTarget("sw", sim.settings));
          await session.applyPort("1/0/1", native);
          expect(proxied).toBe(0);
          expect(sim.port("1/0/1")).toEqual(native);
          // So the environment does name a proxy, to those who ask it.
          await fetch(`http://${sim.hostname}/`);
          expect(proxied).toBe(1);
        } finally {
          for (const [name, value] of before) {
            if (value === undefined) delete process.env[name];
            else process.env[name] = value;
          }
        }
      },
    );
    await sim.stop();
  });

  test("never leads on to another address", async () => {
    let followed = 0;
    await withServer(
      () => (followed++, {}),
      (elsewhere) =>
        withServer(
          () => ({ status: 307, headers: { Location: `http://${elsewhere}/` } }),
          async (hostname) => {
            for (const [driver, settings] of [
              [brocade, brocadeSettings(hostname)],
              [dellNos9, os9Settings(hostname)],
            ] as const) {
              const error = await failure(driver.open(switchTarget("sw", settings)));
              expect(error.message).toContain("which is not followed");
              expect(error.message).not.toContain(elsewhere);
            }
          },
        ),
    );
    expect(followed).toBe(0);
  });

  test("a body that never ends is waited for no longer than a command", async () => {
    const sockets: Socket[] = [];
    const server = createTcpServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => {});
      // The first is the probe.
      socket.once("data", () => {
        socket.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
        if (sockets.length === 1) socket.write(" ".repeat(100));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const target = switchTarget("sw", brocadeSettings(`127.0.0.1:${(server.address() as AddressInfo).port}`));
    const session = await brocade.open({ ...target, commandTimeoutMs: 100 });
    const error = await failure(session.readPorts(["1/0/1"]));
    expect(error).toBeInstanceOf(SessionLostError);
    expect(error.message).toContain("port '1/0/1': GET …/%221/0/1%22: no answer within 0.1 s");
    for (const socket of sockets) socket.destroy();
    server.close();
  });

  test("a device that gives the credentials back gives nothing away", async () => {
    const password = "back<&\"'>-secret-4e57 ä";
    const shown: string[] = [];
    const observer = { step: () => {}, line: (_: string, text: string) => void shown.push(text) };
    const echoes = (authorization: string) => [
      `<errors><error><error-message>bad header ${authorization} of ${password.replaceAll("&", "&amp;").replaceAll("<", "&lt;")}</error-message></error></errors>`,
      `<html>\u0007${encodeURIComponent(password)}\r\n${password} ${Buffer.from(`xadmin:${password}`).toString("base64")} ${authorization}`,
      `no XML: ${authorization} ${Buffer.from(password).toString("base64")}`,
    ];
    for (const which of [0, 1, 2]) {
      for (const status of [200, 400, 500]) {
        let calls = 0;
        await withServer(
          ({ authorization }) => (calls++ === 0 ? {} : { status, body: echoes(authorization)[which]! }),
          async (hostname) => {
            for (const [driver, settings, port] of [
              [brocade, brocadeSettings(hostname), "1/0/1"],
              [dellNos9, os9Settings(hostname), "1/1"],
            ] as const) {
              calls = 0;
              const session = await driver.open({ ...switchTarget("sw", { ...settings, password }), observer });
              const error = await failure(session.applyPort(port, native));
              expect(error).toBeInstanceOf(SwitchError);
              shown.push(Bun.inspect(error));
            }
          },
        );
      }
    }
    expect(secretsIn(shown.join("\n"), [password])).toEqual([]);
    expect(shown.join("\n")).toContain("***");
  });

  test("noise instead of HTTP is an error without the noise", async () => {
    const server = createTcpServer((socket) => {
      socket.on("error", () => {});
      socket.once("data", (data: Uint8Array) => socket.end(data));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const error = await failure(brocade.open(switchTarget("sw", brocadeSettings(`127.0.0.1:${(server.address() as AddressInfo).port}`))));
    expect(error).toBeInstanceOf(SessionLostError);
    expect(secretsIn(Bun.inspect(error))).toEqual([]);
    server.close();
  });
});

describe("registration", () => {
  const refused: [SwitchDriver, string, unknown][] = [
    [brocade, "interface_type", "Ten/../Gig"],
    [brocade, "interface_type", "Ten Gig"],
    [brocade, "interface_type", ""],
    [brocade, "interface_type", "A".repeat(33)],
    [dellNos9, "interface_type", "GigabitEthernet 1/1\nshutdown"],
    [dellNos9, "interface_type", "Ethernet"],
    [dellNos9, "interface_type", "Port-channel"],
    ...[brocade, dellNos9].flatMap((driver): [SwitchDriver, string, unknown][] => [
      [driver, "hostname", "ftp://switch"],
      [driver, "hostname", "switch/x"],
      [driver, "hostname", "admin@switch"],
      [driver, "hostname", "switch:80:80"],
      [driver, "hostname", "switch?x"],
      [driver, "hostname", ""],
      [driver, "hostname", "a b"],
      [driver, "username", "ad:min"],
      [driver, "username", "a\r\nb"],
      [driver, "password", "a\nb"],
      [driver, "tls", "on"],
      [driver, "tls", true],
      [driver, "ca_file", "switch.pem"],
    ]),
  ];
  test.each(refused.map(([driver, ...rest]) => [driver.name, ...rest, driver] as const))(
    "%s: %s %p is refused by its name",
    (_, name, value, driver) => {
      const settings = driver === brocade ? brocadeSettings("h") : os9Settings("h");
      checkSettings(driver.settings, settings, "It");
      expect(() => checkSettings(driver.settings, { ...settings, [name]: value }, "It")).toThrow(`the field '${name}' is not legal`);
    },
  );

  test("addresses of every form", () => {
    for (const hostname of ["switch-01", "switch.example.org:8008", "192.0.2.1", "192.0.2.1:8888", "[2001:db8::1]", "[::1]:80"]) {
      checkSettings(brocade.settings, brocadeSettings(hostname), "It");
      expect(brocade.plan("1/0/1", native, emptyPort, brocadeSettings(hostname))[0]).toContain(`http://${hostname}/rest/`);
    }
  });

  test("every kind of interface has its name on an OS 9", () => {
    const kinds = {
      GigabitEthernet: "gige",
      gigabitethernet: "gige",
      TenGigabitEthernet: "tengig",
      TwentyfiveGigabitEthernet: "twentyfivegig",
      twentyFiveGigE: "twentyfivegig",
      fortyGigE: "fortygig",
      FiftyGigabitEthernet: "fiftygig",
      hundredGigE: "hundredgig",
      peGigabitEthernet: "pegig",
    };
    for (const [interface_type, prefix] of Object.entries(kinds)) {
      const settings = { ...os9Settings("h"), interface_type };
      checkSettings(dellNos9.settings, settings, "It");
      expect(dellNos9.plan("1/0/3", native, emptyPort, settings)).toEqual([
        `POST http://h/api/running/dell/_operations/cli <input><config-commands>interface ${interface_type} 1/0/3\\r\\nshutdown</config-commands></input>`,
        `POST http://h/api/running/dell/_operations/cli <input><config-commands>interface vlan 100\\r\\nno untagged ${interface_type} 1/0/3</config-commands></input>`,
        `PUT http://h/api/running/dell/interfaces/interface/${prefix}-1-0-3 <interface><name>${prefix}-1-0-3</name><portmode><hybrid>false</hybrid></portmode><shutdown>true</shutdown></interface>`,
      ]);
    }
  });

  test("port names", () => {
    const legal = { brocade: ["1/0/10", "101/0/10"], dellnos9: ["1/3", "1/0/3", "0/47"] };
    const illegal = [
      "",
      "1",
      "1/0/1\n",
      "\n1/0/1",
      "1/0/1 ",
      "1/0/x",
      "../1/1",
      "1/0/1%22",
      "1//1",
      "1/0/1/1",
      "gi1/0/1",
      "1/0/1234",
      "１/0/1",
      "1/-1/1",
    ];
    for (const driver of [brocade, dellNos9]) {
      for (const label of legal[driver.name as keyof typeof legal]) driver.validatePort(label);
      for (const label of illegal) expect(() => driver.validatePort(label)).toThrow("Legal forms");
    }
    expect(() => brocade.validatePort("1/3")).toThrow("Legal forms");
  });
});

import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { join } from "node:path";
import { emptyPort, type PortState } from "../../src/hardware/switches/driver.ts";
import type { Emulator } from "../sim/emulator.ts";
import { consoleVendors, portNames, registration, startEmulator, type Vendor, vendors } from "../support/emulators.ts";
import { secrets } from "../support/secrets.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { mockObm, scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// Names that would like to be commands, through the HTTP API of a whole server: refused, or harmless. What
// reaches a switch is told by the switch.

const boundMs = 20_000;
const until = untilWithin(boundMs);

/** What could end a line, begin another command, complete or edit one, leave a URL, a quotation or an element of XML. */
const control = [
  "\n",
  "\r",
  "\r\n",
  "\0",
  "\t",
  "\x03",
  "\b",
  "\x15",
  "\x1a",
  "\x1b[A",
  "\x1b]0;x\x07",
  "\x7f",
  "\x85",
  "\x9b2J",
  "\u2028",
  "\u2029",
];
/** Blanks, and characters that show nothing or turn the text around: no new name has them. */
const unseen = ["\u00a0", "\u00ad", "\u1680", "\u2003", "\u200b", "\u200d", "\u2060", "\u202e", "\u2066", "\u3000", "\ufeff", "\u{e0041}"];
const printable = [
  ...[";", "?", "|", "!", "#", "&", "&&", "*", "~", ",", " ", "-2", "\\", "\\r\\n", "\\n", "^Z", "$(id)", "`id`", "${x}"],
  ...[
    '"',
    "'",
    "<",
    ">",
    "</vlan>",
    "<!--",
    "]]>",
    "&#10;",
    "&lt;",
    "%",
    "%0a",
    "%0D%0A",
    "%00",
    "%22",
    "%2f",
    "..",
    "/..",
    "/../../",
    "//",
    "?x=1",
    "#x",
  ],
  // Letters and marks that look like others, and some that become them when they are normalized or made smaller.
  ...["１", "١", "𝟏", "¹", "і", "ｅ", "ﬁ", "İ", "ſ", "K", "；", "？", "⁄", "∕", "／", "，", "e\u0301"],
];

/** The same text in other alphabets. */
const lookAlikes = (legal: string): string[] => [
  legal.replace(/\d/g, (digit) => String.fromCodePoint(0xff10 + Number(digit))),
  legal.replace(/\d/g, (digit) => String.fromCodePoint(0x660 + Number(digit))),
  legal.replace(/\d/g, (digit) => String.fromCodePoint(0x1d7ce + Number(digit))),
  legal.replaceAll("/", "\u2044"),
  legal.replaceAll("/", "\uff0f"),
  legal.replaceAll("/", "\\"),
  legal.replace(/[ei]/, (letter) => ({ e: "\u0435", i: "\u0456" })[letter]!),
  legal.replace(/[a-z]/, (letter) => String.fromCodePoint(letter.codePointAt(0)! + 0xfee0)),
];

/** Spoiled at its end, at its beginning and in its middle, and with a command behind it. */
const spoiled = (legal: string, ...by: readonly string[]): string[] =>
  by.flatMap((text) => [
    legal + text,
    text + legal,
    legal.slice(0, 3) + text + legal.slice(3),
    `${legal}${text}reload`,
    `${legal}${text}${legal}`,
    `${legal}${text}switchport trunk allowed vlan all`,
  ]);

let place: ReturnType<typeof scratch>;
let server: ServerProcess;
let database: Database;
const emulators = new Map<Vendor, Emulator>();

beforeAll(async () => {
  place = scratch();
  const file = join(place.path, "haas.db");
  server = await startServer({
    kind: "sqlite",
    uri: `sqlite:///${file}`,
    more: "[general]\nlog_level = debug\n[devel]\ndebug = True\n[network-daemon]\nsleep_time = 0.2\n",
  });
  database = new Database(file);
  database.run("pragma busy_timeout = 10000");
  for (const vendor of vendors) emulators.set(vendor, await startEmulator(vendor, { transport: "telnet" }));
}, 60_000);

afterAll(async () => {
  await server?.stop();
  for (const emulator of emulators.values()) await emulator.stop();
  database?.close();
  place?.remove();
}, 60_000);

interface Answer {
  readonly status: number;
  readonly body: any;
}

async function call(method: string, path: string, body?: unknown): Promise<Answer> {
  const answer = await fetch(server.url + path, {
    method,
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

/** A clear no, in a sentence that can be printed anywhere. */
function expectRefusal(what: unknown, { status, body }: Answer): void {
  expect([what, status >= 400 && status < 500, status, body]).toEqual([
    what,
    true,
    status,
    { type: expect.any(String), msg: expect.any(String) },
  ]);
  expect([what, body.msg]).toEqual([what, expect.stringMatching(/^[A-Z'].{9,}\.$/u)]);
  expect([what, /[\p{C}\p{Zl}\p{Zp}]/u.test(body.msg)]).toEqual([what, false]);
}

const seg = encodeURIComponent;
const emulatorOf = (vendor: Vendor): Emulator => emulators.get(vendor)!;
const count = (sql: string, ...values: string[]): number =>
  database.query<{ n: number }, string[]>(`select count(*) as n ${sql}`).get(...values)!.n;

/** Bytes as no decent client sends them; the status of the answer. */
async function raw(line: string): Promise<number> {
  const { hostname, port } = new URL(server.url);
  const socket = connect(Number(port), hostname);
  const chunks: Buffer[] = [];
  socket.on("data", (chunk) => chunks.push(Buffer.from(chunk)));
  await new Promise<void>((resolve, reject) => {
    socket.on("close", () => resolve());
    socket.on("error", reject);
    socket.setTimeout(boundMs, () => socket.destroy(new Error("no end of the answer")));
    socket.write(Buffer.from(`${line}\r\nHost: haas\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`, "latin1"));
  });
  const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(Buffer.concat(chunks).toString()) ?? [];
  return Number(status);
}

describe.each([...vendors])("%s", (vendor) => {
  const legal = portNames[vendor](1);

  test("a port's name that is not the device's is refused; nothing is stored or sent", async () => {
    const { received, sessions } = emulatorOf(vendor);
    const label = `ports-${vendor}`;
    await ok("PUT", `/switch/${label}`, registration(vendor, emulatorOf(vendor)));
    const names = [
      ...new Set([
        ...spoiled(legal, ...control, ...unseen, ...printable),
        ...lookAlikes(legal),
        legal.repeat(100),
        `range ${legal}`,
        "all",
        "-1",
        "vlan 1",
      ]),
    ].filter((name) => name !== legal);
    for (const name of names) {
      const answer = await call("PUT", `/switch/${label}/port/${seg(name)}`);
      expectRefusal(name, answer);
      if (answer.body.type === "BadArgumentError") expect(answer.body.msg).toContain("Legal forms: ");
    }
    for (const [line, ...more] of [
      [`/switch/${label}/port/${legal};reload`],
      [`/switch/${label}/port/${legal}?reload`],
      [`/switch/${label}/port/${legal}#reload`],
      [`/switch/${label}/port/${legal}%0d%0areload`],
      [`/switch/${label}/port/${legal}%00`],
      [`/switch/${label}/port/${legal}%zz`],
      [`/switch/${label}/port/${legal}%c0%8areload`, "a line end, overlong"],
      [`/switch/${label}/port/${legal}%ed%a0%80`, "half a surrogate pair"],
      [`/switch/${label}/port/${legal}\treload`],
      [`/switch/${label}/port/${legal}\x1b[A`],
      [`/switch/${label}/port/${legal}\x00`],
      [`/switch/${label}/port/${legal}\x85`],
      [`/switch/${label}/port/${legal} reload`],
      [`/switch/${label}/port/${legal}/../reload`],
    ] as const) {
      const status = await raw(`PUT ${line} HTTP/1.1`);
      // 505: with a control character in it, what follows is no version of HTTP.
      const refused = (status >= 400 && status < 500) || status === 505;
      expect([line, ...more, refused, status]).toEqual([line, ...more, true, status]);
    }
    expect((await ok("GET", `/switch/${label}`)).ports).toEqual([]);
    expect(count("from port join switch on switch.id = switch_id where switch.label = ?", label)).toBe(0);
    expect([received, sessions.most]).toEqual([[], 0]);
    await ok("DELETE", `/switch/${label}`);
  });
});

test("a channel that is none is refused, and nothing is queued", async () => {
  await ok("PUT", "/project/channels");
  await ok("PUT", "/network/channels", { owner: "admin", access: "", net_id: "100" });
  await ok("PUT", "/switch/channels", {
    type: "http://schema.massopencloud.org/haas/v0/switches/mock",
    hostname: "h",
    username: "u",
    password: secrets.switch,
  });
  await ok("PUT", "/switch/channels/port/p1");
  await ok("PUT", "/node/channels", { obm: mockObm });
  await ok("PUT", "/node/channels/nic/nic", { macaddr: "m" });
  await ok("POST", "/switch/channels/port/p1/connect_nic", { node: "channels", nic: "nic" });
  await ok("POST", "/project/channels/connect_node", { node: "channels" });
  const channels: unknown[] = [
    ...["vlan/native", "vlan/100"].flatMap((channel) => [
      ...spoiled(channel, ...control, ...unseen, ...printable),
      ...lookAlikes(channel),
      channel.toUpperCase(),
      ` ${channel}`,
    ]),
    ...[
      "",
      "vlan",
      "vlan/",
      "vlan/1",
      "vlan/0100",
      "vlan/100-200",
      "vlan/100,200",
      "vlan/1e2",
      "vlan/0x64",
      "vlan/100.0",
      "vlan/-1",
      "vlan/4095",
      "native",
      "100",
    ],
    ...[100, null, true, ["vlan/100"], { "vlan/100": 1 }],
  ].filter((channel) => channel !== "vlan/native" && channel !== "vlan/100");
  for (const channel of channels) {
    expectRefusal(channel, await call("POST", "/node/channels/nic/nic/connect_network", { network: "channels", channel }));
  }
  expect(count("from networking_action where type <> 'sync_port'")).toBe(0);
  expect(count("from attachment")).toBe(0);
  // The same nic takes the right one.
  await change("POST", "/node/channels/nic/nic/connect_network", { network: "channels", channel: "vlan/100" });
  await change("POST", "/node/channels/nic/nic/detach_network", { network: "channels" });
  await ok("DELETE", "/network/channels");
});

test("other names with characters that are controls, or not seen, are refused, and nothing is stored", async () => {
  await ok("PUT", "/node/named", { obm: mockObm });
  const lists = () => Promise.all(["/nodes/all", "/projects", "/networks", "/switches", "/node/named"].map((path) => ok("GET", path)));
  const before = await lists();
  const network = { owner: "admin", access: "", net_id: "" };
  for (const text of [...control, ...unseen, "\ud800", "\ufffd"].map((one) => one.toWellFormed())) {
    for (const name of [`a${text}b`, `a${text}`, `${text}a`, text]) {
      for (const [path, body] of [
        [`/node/${seg(name)}`, { obm: mockObm }],
        [`/node/named/nic/${seg(name)}`, { macaddr: "m" }],
        [`/network/${seg(name)}`, network],
        [`/project/${seg(name)}`, {}],
        [`/switch/${seg(name)}`, registration("nexus", emulatorOf("nexus"))],
      ] as const) {
        expectRefusal([path, name], await call("PUT", path, body));
      }
    }
  }
  expect(await lists()).toEqual(before);
});

test("a login name with control characters is refused, and a password that would end its line", async () => {
  for (const vendor of vendors) {
    const fields =
      vendor === "brocade" || vendor === "dellnos9" ? ["hostname", "username", "interface_type"] : ["hostname", "username", "key_file"];
    for (const field of fields) {
      for (const text of ["\n", "\r", "\r\n", "\0", "\t", "\x1b[A", "\x7f"]) {
        const body = registration(vendor, emulatorOf(vendor), { [field]: `admin${text}reload` });
        expectRefusal([vendor, field, text], await call("PUT", "/switch/fields", body));
      }
    }
    for (const field of ["password", ...(consoleVendors.some((name) => name === vendor) ? ["enable_password"] : [])]) {
      for (const text of ["\n", "\r", "\r\n", "\0"]) {
        const body = registration(vendor, emulatorOf(vendor), { [field]: `${secrets.console}${text}reload` });
        expectRefusal([vendor, field, text], await call("PUT", "/switch/fields", body));
      }
    }
  }
  expect(await ok("GET", "/switches")).not.toContain("fields");
});

/** Queue a change, and wait until it is DONE. */
async function change(method: string, path: string, body?: unknown): Promise<void> {
  const { status_id: id } = await ok(method, path, body);
  const deadline = Date.now() + boundMs;
  let action: any;
  do {
    await Bun.sleep(20);
    action = await ok("GET", `/networking_action/${id}`);
  } while (action.status === "PENDING" && Date.now() < deadline);
  expect([path, action.status, action.reason]).toEqual([path, "DONE", null]);
}

/** All of the printable texts, in names that the API takes. */
const nastyNames: string[] = [""];
for (const text of printable.filter((text) => !text.includes("/"))) {
  const longer = `${nastyNames.at(-1)}${text}`;
  if (Buffer.byteLength(longer) < 120) nastyNames[nastyNames.length - 1] = longer;
  else nastyNames.push(text);
}

/** VLANs of a vendor's networks. */
interface Vlans {
  readonly native: number;
  readonly tagged: number;
}

const steps = ["set up", "native", "tagged too", "native again", "reverted"] as const;

/** What a switch may be sent to learn something, and what has to be sent, in order, for each step. */
interface Expected {
  readonly reads: readonly string[];
  readonly writes: (vlans: Vlans) => Record<(typeof steps)[number], string[]>;
}

const consoleReads = (...lines: string[]) => ["admin", secrets.console, ...lines];
const save = ["copy running-config startup-config", "y"];

const powerConnect = (...lines: string[]) => ["configure", "interface gi1/0/1", ...lines, "exit", "exit", ...save];
const powerConnectEmpty = ["switchport trunk native vlan none", "switchport trunk allowed vlan none"];
const n3000 = powerConnect;
const n3000Dummy = [
  "switchport trunk allowed vlan add 2222",
  "switchport trunk native vlan 2222",
  "switchport trunk allowed vlan remove 2222",
];
const n3000Empty = n3000(...n3000Dummy, "switchport trunk allowed vlan remove 1-4093", "switchport mode trunk");
const nexus = (...lines: string[]) => ["configure terminal", "interface Ethernet1/1", ...lines, "exit", "end", save[0]!];
const nexusTrunk = (allowed: string, native: number) =>
  nexus("switchport", `switchport trunk allowed vlan ${allowed}`, `switchport trunk native vlan ${native}`, "switchport mode trunk");

const vdx = "/rest/config/running/interface/TenGigabitEthernet/%221/0/1%22";
const vdxShut = `POST ${vdx} <shutdown>true</shutdown>`;
const vdxCleared = [
  `POST ${vdx} <switchport></switchport>`,
  `PUT ${vdx}/switchport/mode <mode><vlan-mode>trunk</vlan-mode></mode>`,
  `PUT ${vdx}/switchport/trunk/allowed/vlan <vlan><none>true</none></vlan>`,
  `DELETE ${vdx}/switchport/trunk/tag/native-vlan`,
];
const vdxEmpty = [vdxShut, ...vdxCleared, `DELETE ${vdx}/switchport/trunk/native-vlan`];

const os9 = "/api/running/dell";
const os9Port = (content: string) => `PUT ${os9}/interfaces/interface/gige-1-1 <interface><name>gige-1-1</name>${content}</interface>`;
const os9Hybrid = (shut: boolean) =>
  os9Port(`<portmode><hybrid>true</hybrid></portmode><switchport></switchport><shutdown>${shut}</shutdown>`);
const os9Cli = (kind: string, ...lines: string[]) =>
  `POST ${os9}/_operations/cli <input><${kind}>${lines.join("\\r\\n")}</${kind}></input>`;
const os9Vlan = (vlan: number, line: string) => os9Cli("config-commands", `interface vlan ${vlan}`, `${line} GigabitEthernet 1/1`);
const os9Write = os9Cli("exec-command", "write");

const expected: Readonly<Record<Vendor, Expected>> = {
  powerconnect55xx: {
    reads: consoleReads("terminal datadump", "show system id", "show interfaces switchport gi1/0/1"),
    writes: ({ native, tagged }) => {
      const trunk = (allowed: string) =>
        powerConnect(
          ...powerConnectEmpty,
          `switchport trunk allowed vlan add ${allowed}`,
          `switchport trunk native vlan ${native}`,
          "switchport mode trunk",
        );
      const empty = powerConnect(...powerConnectEmpty, "switchport mode trunk");
      return {
        "set up": empty,
        native: trunk(`${native}`),
        "tagged too": trunk(`${native},${tagged}`),
        "native again": powerConnect(`switchport trunk allowed vlan remove ${tagged}`),
        reverted: empty,
      };
    },
  },
  delln3000: {
    reads: consoleReads("terminal length 0", "show version", "show interfaces switchport gi1/0/1"),
    writes: ({ native, tagged }) => {
      const setNative = [`switchport trunk allowed vlan add ${native}`, `switchport trunk native vlan ${native}`];
      const remove = (vlans: string) => `switchport trunk allowed vlan remove ${vlans}`;
      return {
        "set up": n3000Empty,
        native: n3000(...setNative, remove(`1-${native - 1},${native + 1}-4093`), "switchport mode trunk"),
        "tagged too": n3000(
          ...setNative,
          remove(`1-${native - 1},${native + 1}-${tagged - 1},${tagged + 1}-4093`),
          `switchport trunk allowed vlan add ${tagged}`,
          "switchport mode trunk",
        ),
        "native again": n3000(remove(`${tagged}`)),
        reverted: n3000Empty,
      };
    },
  },
  nexus: {
    reads: consoleReads("terminal length 0", "show version", "show interface Ethernet1/1 switchport"),
    writes: ({ native, tagged }) => ({
      "set up": nexusTrunk("none", 2222),
      native: nexusTrunk(`${native}`, native),
      "tagged too": nexusTrunk(`${native},${tagged}`, native),
      "native again": nexus(`switchport trunk allowed vlan remove ${tagged}`),
      reverted: nexusTrunk("none", 2222),
    }),
  },
  brocade: {
    reads: ["/rest/config/running/interface/TenGigabitEthernet", vdx, `${vdx}/switchport/mode`, `${vdx}/switchport/trunk`].map(
      (url) => `GET ${url}`,
    ),
    writes: ({ native, tagged }) => ({
      "set up": vdxEmpty,
      native: [...vdxCleared, `PUT ${vdx}/switchport/trunk <trunk><native-vlan>${native}</native-vlan></trunk>`, `DELETE ${vdx}/shutdown`],
      "tagged too": [`PUT ${vdx}/switchport/trunk/allowed/vlan <vlan><add>${tagged}</add></vlan>`],
      "native again": [`PUT ${vdx}/switchport/trunk/allowed/vlan <vlan><remove>${tagged}</remove></vlan>`],
      reverted: vdxEmpty,
    }),
  },
  dellnos9: {
    reads: [
      os9Cli("show-command", "version"),
      `GET ${os9}/interfaces/interface/gige-1-1?with-defaults`,
      os9Cli("show-command", "interfaces switchport GigabitEthernet 1/1"),
    ],
    writes: ({ native, tagged }) => ({
      "set up": [os9Write],
      native: [os9Hybrid(true), os9Vlan(native, "untagged"), os9Hybrid(false), os9Write],
      "tagged too": [os9Vlan(tagged, "tagged"), os9Write],
      "native again": [os9Vlan(tagged, "no tagged"), os9Write],
      reverted: [
        os9Cli("config-commands", "interface GigabitEthernet 1/1", "shutdown"),
        os9Vlan(native, "no untagged"),
        os9Port("<portmode><hybrid>false</hybrid></portmode><shutdown>true</shutdown>"),
        os9Write,
      ],
    }),
  },
};

/** Drive a port whose switch, node, nic, project and networks have such names; what reached the switch at each step. */
async function drive(vendor: Vendor, vlans: Vlans): Promise<Record<string, string[]>> {
  const emulator = emulatorOf(vendor);
  const label = portNames[vendor](1);
  const turn = vendors.indexOf(vendor);
  const [sw = "", node = "", nic = "", mac = "", project = "", native = "", tagged = ""] = ["s", "n", "i", "m", "p", "v", "t"].map(
    (kind, i) => `${kind}${turn}${nastyNames[(i + turn) % nastyNames.length]}.`,
  );
  const port = `/switch/${seg(sw)}/port/${seg(label)}`;
  const onNic = `/node/${seg(node)}/nic/${seg(nic)}`;
  const sent: Record<string, string[]> = {};
  /** In a session of its own. */
  const step = async (name: (typeof steps)[number], holds: PortState, work: () => Promise<unknown>) => {
    emulator.received.length = 0;
    await work();
    await until(
      `${sw} is at rest`,
      async () => (await ok("GET", `/switch/${seg(sw)}/reconcile`)).pending.length === 0 && emulator.sessions.now === 0,
    );
    sent[name] = [...emulator.received];
    expect([vendor, name, emulator.port(label)]).toEqual([vendor, name, holds]);
  };

  await ok("PUT", `/switch/${seg(sw)}`, registration(vendor, emulator));
  await step("set up", emptyPort, () => ok("PUT", port));
  await ok("PUT", `/node/${seg(node)}`, { obm: mockObm });
  await ok("PUT", onNic, { macaddr: mac });
  await ok("POST", `${port}/connect_nic`, { node, nic });
  await ok("PUT", `/project/${seg(project)}`);
  await ok("POST", `/project/${seg(project)}/connect_node`, { node });
  await ok("PUT", `/network/${seg(native)}`, { owner: "admin", access: "", net_id: `${vlans.native}` });
  await ok("PUT", `/network/${seg(tagged)}`, { owner: "admin", access: "", net_id: `${vlans.tagged}` });
  const nativeOnly = { native: vlans.native, tagged: [] };
  await step("native", nativeOnly, () => change("POST", `${onNic}/connect_network`, { network: native }));
  await step("tagged too", { native: vlans.native, tagged: [vlans.tagged] }, () =>
    change("POST", `${onNic}/connect_network`, { network: tagged, channel: `vlan/${vlans.tagged}` }),
  );
  await step("native again", nativeOnly, () => change("POST", `${onNic}/detach_network`, { network: tagged }));
  await step("reverted", emptyPort, () => change("POST", `${port}/revert`));

  // Asked about by its name, it is answered about by the same.
  expect(await ok("POST", `/switch/${seg(sw)}/test`)).toMatchObject({ switch: sw, ok: true, error: null });
  expect((await ok("GET", `/switch/${seg(sw)}/ports/actual`)).ports).toMatchObject([{ port: label, node, nic, difference: null }]);
  return sent;
}

test("any printable names of everything else, and what reached the switches", async () => {
  await Promise.all(
    vendors.map(async (vendor, i) => {
      const vlans = { native: 110 + i, tagged: 210 + i };
      const sent = await drive(vendor, vlans);
      const { reads, writes } = expected[vendor];
      const isWrite = (line: string) => line !== "" && !reads.includes(line);
      expect([vendor, Object.fromEntries(steps.map((name) => [name, sent[name]!.filter(isWrite)]))]).toEqual([vendor, writes(vlans)]);
    }),
  );
});

test("no name has made a line of the log of its own", () => {
  const lines = server.log().trimEnd().split("\n");
  expect(lines.length).toBeGreaterThan(1000);
  const strings = { time: expect.any(String), level: expect.any(String), message: expect.any(String) };
  for (const line of lines) expect(JSON.parse(line)).toMatchObject(strings);
});

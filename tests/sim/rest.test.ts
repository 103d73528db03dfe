import { afterEach, describe, expect, test } from "bun:test";
import type { PortState } from "../../src/hardware/switches/driver.ts";
import { emptyPort } from "../../src/hardware/switches/driver.ts";
import { secrets } from "../support/secrets.ts";
import type { Emulator, Fault } from "./emulator.ts";
import { startRest } from "./rest.ts";

const running: Emulator[] = [];

afterEach(async () => {
  for (const emulator of running.splice(0)) await emulator.stop();
});

const start: typeof startRest = async (kind, options) => {
  const emulator = await startRest(kind, options);
  running.push(emulator);
  return emulator;
};

interface Asking {
  password?: string;
  type?: string;
  signal?: AbortSignal;
}

/** One request, on a connection of its own: a client may try a reused one twice. */
const ask = (emulator: Emulator, method: string, path: string, body?: string, { password = secrets.console, type, signal }: Asking = {}) =>
  fetch(`http://${emulator.hostname}${path}`, {
    method,
    headers: { Authorization: `Basic ${btoa(`admin:${password}`)}`, "Content-Type": type ?? "application/xml" },
    ...(body !== undefined && { body }),
    ...(signal && { signal }),
    keepalive: false,
  });

const statusOf = async (...asking: Parameters<typeof ask>) => (await ask(...asking)).status;
const textOf = async (...asking: Parameters<typeof ask>) => (await ask(...asking)).text();

const nothing: PortState = emptyPort;
const vdx = "/rest/config/running/interface/TenGigabitEthernet/%221/0/1%22";
const os9 = "/api/running/dell/interfaces/interface/gige-1-1";
const os9Cli = "/api/running/dell/_operations/cli";

/** What is tested alike: a read, and a write that makes a port pass nothing. */
const kinds = [
  {
    kind: "brocade",
    port: "1/0/1",
    path: vdx,
    method: "POST",
    shut: "<shutdown>true</shutdown>",
    namespace: "urn:brocade.com:mgmt:brocade-interface",
  },
  {
    kind: "dellnos9",
    port: "1/1",
    path: os9,
    method: "PATCH",
    shut: "<interface><shutdown>true</shutdown></interface>",
    namespace: "http://www.dell.com/ns/dell:0.1/root",
  },
] as const;

describe.each(kinds)("what both have in common: $kind", ({ kind, port, path, method, shut, namespace }) => {
  const carrying: PortState = { native: 100, tagged: [200, 300, 301] };

  test("begins with ports that pass nothing, and knows no others", async () => {
    const emulator = await start(kind, {});
    expect(emulator.port(port)).toEqual(nothing);
    expect(emulator.port("9/9/9")).toBeNull();
    expect(await statusOf(emulator, "GET", path)).toBe(200);
    expect(await statusOf(emulator, "GET", path.replaceAll("1", "7"))).toBe(404);
    expect(await statusOf(emulator, "OPTIONS", path)).toBe(405);
    expect(emulator.settings).toMatchObject({ hostname: emulator.hostname, username: "admin", password: secrets.console });
  });

  test("wants the password, and asks for it the way HTTP does", async () => {
    const emulator = await start(kind, {});
    const bare = await fetch(`http://${emulator.hostname}${path}`);
    const wrong = await ask(emulator, "GET", path, undefined, { password: secrets.wrongUser });
    for (const refused of [bare, wrong]) {
      expect(refused.status).toBe(401);
      expect(refused.headers.get("www-authenticate")).toStartWith("Basic realm=");
      expect(await refused.text()).toContain("<error-tag>access-denied</error-tag>");
    }
    emulator.behaviour.refusesLogins = true;
    expect(await statusOf(emulator, "GET", path)).toBe(401);
    emulator.behaviour.refusesLogins = false;
    expect(await statusOf(emulator, "GET", path)).toBe(200);
    expect(emulator.received).toEqual(Array.from({ length: 4 }, () => `GET ${path}`));
  });

  test("takes well-formed XML of its own namespace only", async () => {
    const emulator = await start(kind, {});
    emulator.setPort(port, carrying);
    const bodies = ["", "shutdown", shut.slice(0, -3), `${shut}${shut}`, "<nonsense/>", shut.replace(">", ' xmlns="urn:other">')];
    for (const body of bodies) {
      const refused = await ask(emulator, method, path, body);
      expect([body, refused.status]).toEqual([body, 400]);
      expect(await refused.text()).toContain("<errors xmlns=");
    }
    expect(await statusOf(emulator, method, path, shut, { type: "application/json" })).toBe(415);
    expect(emulator.port(port)).toEqual(carrying);
    expect(await statusOf(emulator, method, path, shut.replace(">", ` xmlns="${namespace}">`))).toBeLessThan(300);
    expect(emulator.port(port)).toEqual(nothing);
    expect(emulator.received.at(-1)).toBe(`${method} ${path} ${shut.replace(">", ` xmlns="${namespace}">`)}`);
  });

  test("takes a body in chunks", async () => {
    const emulator = await start(kind, {});
    emulator.setPort(port, carrying);
    const headers = { Authorization: `Basic ${btoa(`admin:${secrets.console}`)}` };
    const body = new Blob([shut]).stream();
    expect((await fetch(`http://${emulator.hostname}${path}`, { method, headers, body })).ok).toBe(true);
    expect(emulator.port(port)).toEqual(nothing);
  });

  test("a port is what it was set to behind haas's back", async () => {
    const emulator = await start(kind, { vlans: [7] });
    for (const state of [carrying, { native: null, tagged: [5, 6] }, { native: 4094, tagged: [] }, nothing]) {
      emulator.setPort(port, state);
      expect(emulator.port(port)).toEqual(state);
    }
  });

  test("a factory reset leaves nothing, also after the next power cut", async () => {
    const emulator = await start(kind, {});
    emulator.setPort(port, carrying);
    emulator.factoryReset();
    expect(emulator.port(port)).toEqual(nothing);
    emulator.powerCycle();
    expect(emulator.port(port)).toEqual(nothing);
  });

  test("answers byte by byte", async () => {
    const emulator = await start(kind, { behaviour: { oneByteWrites: true } });
    expect(await textOf(emulator, "GET", path)).toContain(`xmlns="${namespace}"`);
  });

  test("speaks HTTPS with a certificate that its CA vouches for", async () => {
    const emulator = await start(kind, { tls: true });
    const headers = { Authorization: `Basic ${btoa(`admin:${secrets.console}`)}` };
    const url = `https://${emulator.hostname}${path}`;
    expect((await fetch(url, { headers, tls: { ca: emulator.ca! } })).status).toBe(200);
    await expect(fetch(url, { headers })).rejects.toThrow();
    expect(emulator.received).toHaveLength(1);
  });

  test("counts sessions, and refuses those above its limit", async () => {
    const emulator = await start(kind, { behaviour: { sessionLimit: 1, fault: { kind: "hang", at: 0 } } });
    const hanging = new AbortController();
    const headers = { Authorization: `Basic ${btoa(`admin:${secrets.console}`)}` };
    const held = fetch(`http://${emulator.hostname}${path}`, { headers, signal: hanging.signal }).catch(() => "aborted");
    while (emulator.sessions.now === 0) await Bun.sleep(5);
    expect(await statusOf(emulator, "GET", path)).toBe(503);
    hanging.abort();
    expect(await held).toBe("aborted");
    while (emulator.sessions.now > 0) await Bun.sleep(5);
    expect(await statusOf(emulator, "GET", path)).toBe(200);
    expect(emulator.sessions).toEqual({ now: 0, most: 1 });
  });

  test("a power cut ends what is under way without an effect", async () => {
    const emulator = await start(kind, { behaviour: { commandDelayMs: 30_000 } });
    const cut = statusOf(emulator, method, path, shut).catch(() => "cut");
    while (emulator.sessions.now === 0) await Bun.sleep(5);
    emulator.powerCycle();
    expect(await cut).toBe("cut");
  });

  const faults: { fault: Omit<Fault, "at">; outcome: "answer" | "failure"; effect: boolean }[] = [
    { fault: { kind: "cut" }, outcome: "failure", effect: true },
    { fault: { kind: "cut", bytes: 20 }, outcome: "failure", effect: true },
    { fault: { kind: "drop" }, outcome: "failure", effect: false },
    { fault: { kind: "garbage" }, outcome: "answer", effect: false },
    { fault: { kind: "error" }, outcome: "answer", effect: false },
    { fault: { kind: "refuse" }, outcome: "answer", effect: false },
    { fault: { kind: "hang" }, outcome: "failure", effect: false },
    { fault: { kind: "silent" }, outcome: "failure", effect: true },
    { fault: { kind: "power" }, outcome: "failure", effect: false },
    { fault: { kind: "slow", delayMs: 20 }, outcome: "answer", effect: true },
  ];
  const statuses: Partial<Record<Fault["kind"], number>> = { garbage: 200, error: 500, refuse: 401 };

  test.each(faults)("the fault $fault happens once, at its step", async ({ fault, outcome, effect }) => {
    const emulator = await start(kind, {});
    if (kind === "dellnos9") await statusOf(emulator, "POST", os9Cli, "<input><exec-command>write</exec-command></input>");
    emulator.setPort(port, carrying);
    emulator.behaviour.fault = { ...fault, at: 1 };
    expect(emulator.behaviour.steps).toBe(0);
    expect(await statusOf(emulator, "GET", path)).toBe(200);
    const waiting = new AbortController();
    const answering = ask(emulator, method, path, shut, { signal: waiting.signal }).catch(() => null);
    if (fault.kind === "hang" || fault.kind === "silent") {
      while (emulator.behaviour.fault || (effect && emulator.port(port)!.native !== null)) await Bun.sleep(5);
      // Long enough for an answer to arrive, were there one.
      await Bun.sleep(50);
      waiting.abort();
    }
    const answer = await answering;
    expect(answer === null).toBe(outcome === "failure");
    if (answer && statuses[fault.kind]) expect(answer.status).toBe(statuses[fault.kind]!);
    if (fault.kind === "garbage") expect(await answer!.text()).not.toMatch(/[<a-z]/);
    // Power is lost: what was not saved is gone, and a Brocade saves everything.
    const lost = fault.kind === "power" && kind === "dellnos9";
    expect(emulator.port(port)).toEqual(effect || lost ? nothing : carrying);
    expect(emulator.behaviour).toMatchObject({ fault: null, steps: 2 });
    expect(await statusOf(emulator, "GET", path)).toBe(200);
    expect(emulator.received.filter((line) => line.includes(shut))).toHaveLength(1);
  });
});

describe("brocade", () => {
  const put = (emulator: Emulator, below: string, body: string) => statusOf(emulator, "PUT", `${vdx}/switchport/${below}`, body);
  const allow = (emulator: Emulator, list: string) => put(emulator, "trunk/allowed/vlan", `<vlan>${list}</vlan>`);
  const trunkOf = (emulator: Emulator) => textOf(emulator, "GET", `${vdx}/switchport/trunk`);

  async function trunking(options: Parameters<typeof startRest>[1] = {}) {
    const emulator = await start("brocade", options);
    expect(await statusOf(emulator, "POST", vdx, "<switchport></switchport>")).toBe(201);
    expect(await put(emulator, "mode", "<mode><vlan-mode>trunk</vlan-mode></mode>")).toBe(204);
    return emulator;
  }

  test("goes from the factory to a trunk, and back", async () => {
    const emulator = await start("brocade", { ports: ["101/0/10"], interfaceType: "FortyGigabitEthernet" });
    const path = "/rest/config/running/interface/FortyGigabitEthernet/%22101/0/10%22";
    const calls: [string, string, string | undefined, number][] = [
      ["GET", "/switchport", undefined, 404],
      ["PUT", "/switchport/mode", "<mode><vlan-mode>trunk</vlan-mode></mode>", 404],
      ["POST", "", "<shutdown>true</shutdown>", 201],
      ["POST", "", "<shutdown>true</shutdown>", 409],
      ["POST", "", "<switchport></switchport>", 201],
      ["POST", "", "<switchport></switchport>", 409],
      ["PUT", "/switchport/trunk/allowed/vlan", "<vlan><add>12</add></vlan>", 400],
      ["PUT", "/switchport/trunk", "<trunk><native-vlan>12</native-vlan></trunk>", 400],
      ["PUT", "/switchport/mode", "<mode><vlan-mode>sideways</vlan-mode></mode>", 400],
      ["PUT", "/switchport/mode", "<mode><vlan-mode>trunk</vlan-mode></mode>", 204],
      ["DELETE", "/switchport/trunk/native-vlan", undefined, 404],
      ["PUT", "/switchport/trunk", "<trunk><native-vlan>12</native-vlan></trunk>", 204],
      ["DELETE", "/switchport/trunk/tag/native-vlan", undefined, 204],
      ["DELETE", "/switchport/trunk/tag/native-vlan", undefined, 404],
      ["PUT", "/switchport/trunk/allowed/vlan", "<vlan><none>true</none></vlan>", 204],
      ["PUT", "/switchport/trunk/allowed/vlan", "<vlan><add>14-16,20</add></vlan>", 204],
      ["PUT", "/switchport/trunk/allowed/vlan", "<vlan><remove>15</remove></vlan>", 204],
    ];
    for (const [method, below, body, status] of calls) {
      expect([method, below, await statusOf(emulator, method, `${path}${below}`, body)]).toEqual([method, below, status]);
      expect(emulator.port("101/0/10")).toEqual(nothing);
    }
    expect(await statusOf(emulator, "DELETE", `${path}/shutdown`)).toBe(204);
    expect(await statusOf(emulator, "DELETE", `${path}/shutdown`)).toBe(404);
    const carrying = { native: 12, tagged: [14, 16, 20] };
    expect(emulator.port("101/0/10")).toEqual(carrying);
    const trunk = await textOf(emulator, "GET", `${path}/switchport/trunk`);
    expect(trunk).toContain("<add>14,16,20</add>");
    expect(trunk).toContain("<native-vlan>12</native-vlan>");
    // Everything is durable at once.
    emulator.powerCycle();
    expect(emulator.port("101/0/10")).toEqual(carrying);
    expect(await statusOf(emulator, "DELETE", `${path}/switchport`)).toBe(204);
    expect(emulator.port("101/0/10")).toEqual(nothing);
  });

  test("a switchport is in VLAN 1 from the start, and a trunk without a native VLAN carries VLAN 1", async () => {
    const emulator = await start("brocade", {});
    await statusOf(emulator, "POST", vdx, "<switchport></switchport>");
    expect(emulator.port("1/0/1")).toEqual({ native: 1, tagged: [] });
    await put(emulator, "mode", "<mode><vlan-mode>trunk</vlan-mode></mode>");
    expect(emulator.port("1/0/1")).toEqual({ native: null, tagged: [1] });
    await statusOf(emulator, "DELETE", `${vdx}/switchport/trunk/tag/native-vlan`);
    expect(emulator.port("1/0/1")).toEqual({ native: 1, tagged: [] });
    await put(emulator, "mode", "<mode><vlan-mode>trunk-no-default-native</vlan-mode></mode>");
    expect(emulator.port("1/0/1")).toEqual(nothing);
    expect(await put(emulator, "trunk", "<trunk><native-vlan>12</native-vlan></trunk>")).toBe(400);
  });

  test("the native VLAN is forwarded whatever the list says, tagged until that is taken away", async () => {
    const emulator = await trunking();
    await put(emulator, "trunk", "<trunk><native-vlan>100</native-vlan></trunk>");
    expect(emulator.port("1/0/1")).toEqual({ native: null, tagged: [100] });
    await allow(emulator, "<add>100,200</add>");
    expect(emulator.port("1/0/1")).toEqual({ native: null, tagged: [100, 200] });
    await statusOf(emulator, "DELETE", `${vdx}/switchport/trunk/tag/native-vlan`);
    expect(emulator.port("1/0/1")).toEqual({ native: 100, tagged: [200] });
    expect(await trunkOf(emulator)).toContain("<add>100,200</add>");
    expect(await put(emulator, "trunk", "<trunk><tag><native-vlan>true</native-vlan></tag></trunk>")).toBe(204);
    expect(emulator.port("1/0/1")).toEqual({ native: null, tagged: [100, 200] });
  });

  test("all means every VLAN that exists, and add does not undo it", async () => {
    const emulator = await trunking({ vlans: [100, 200] });
    await allow(emulator, "<all>true</all>");
    expect(await trunkOf(emulator)).toContain("<all>true</all>");
    await allow(emulator, "<add>100</add>");
    expect(emulator.port("1/0/1")).toEqual({ native: null, tagged: [1, 100, 200] });
    await allow(emulator, "<remove>200</remove>");
    expect(emulator.port("1/0/1")).toEqual({ native: null, tagged: [1, 100] });
    await allow(emulator, "<none>true</none>");
    expect(await trunkOf(emulator)).toContain("<none>true</none>");
    expect(emulator.port("1/0/1")).toEqual({ native: null, tagged: [1] });
  });

  test("refuses VLANs that do not exist, and lists that are none", async () => {
    const emulator = await trunking({ vlans: [100, 200] });
    const refused = await ask(emulator, "PUT", `${vdx}/switchport/trunk/allowed/vlan`, "<vlan><add>100,300</add></vlan>");
    expect([refused.status, await refused.text()]).toEqual([400, expect.stringContaining("VLAN 300 is not configured")]);
    expect(await put(emulator, "trunk", "<trunk><native-vlan>300</native-vlan></trunk>")).toBe(400);
    for (const list of ["<add></add>", "<add>0</add>", "<add>200-100</add>", "<add>4095</add>", "<add>100</add><none>true</none>", ""]) {
      expect([list, await allow(emulator, list)]).toEqual([list, 400]);
    }
    expect(emulator.port("1/0/1")).toEqual({ native: null, tagged: [1] });
  });
});

describe("dellnos9", () => {
  const cli = async (emulator: Emulator, kind: "config-commands" | "show-command" | "exec-command", command: string) => {
    const answer = await ask(emulator, "POST", os9Cli, `<input><${kind}>${command}</${kind}></input>`);
    expect(answer.status).toBe(200);
    return answer.text();
  };
  const configure = (emulator: Emulator, ...lines: string[]) => cli(emulator, "config-commands", lines.join("\r\n "));
  const enable = (hybrid: boolean) =>
    `<interface><name>gige-1-1</name><portmode><hybrid>${hybrid}</hybrid></portmode><switchport></switchport><shutdown>false</shutdown></interface>`;

  async function enabled({ hybrid = true, ...options }: Parameters<typeof startRest>[1] & { hybrid?: boolean } = {}) {
    const emulator = await start("dellnos9", options);
    expect(await statusOf(emulator, "PUT", os9, enable(hybrid))).toBe(204);
    return emulator;
  }

  test("an interface as it leaves the factory is shut down and no switchport", async () => {
    const emulator = await start("dellnos9", {});
    expect(await textOf(emulator, "GET", `${os9}?with-defaults`)).toContain("<shutdown>true</shutdown>");
    const bare = await textOf(emulator, "GET", os9);
    expect(bare).not.toContain("shutdown");
    expect(bare).not.toContain("switchport");
    expect(await configure(emulator, "interface vlan 100", "tagged GigabitEthernet 1/1")).toContain(
      "% Error: Port is not in Layer-2 mode Gi 1/1.",
    );
  });

  test("a switchport is untagged in VLAN 1 until it is put elsewhere, and hybrid it never leaves that way", async () => {
    const emulator = await enabled();
    expect(emulator.port("1/1")).toEqual({ native: 1, tagged: [] });
    expect(await configure(emulator, "interface vlan 100", "tagged GigabitEthernet 1/1")).not.toContain("%");
    expect(emulator.port("1/1")).toEqual({ native: 1, tagged: [100] });
    expect(
      await configure(emulator, "interface vlan 200", "untagged GigabitEthernet 1/1", "interface vlan 300", "untagged gigabitethernet 1/1"),
    ).not.toContain("%");
    expect(emulator.port("1/1")).toEqual({ native: 300, tagged: [100] });
    const shown = await cli(emulator, "show-command", "interfaces switchport GigabitEthernet 1/1");
    expect(shown.split("\r\n").map((line) => line.trim())).toEqual(
      expect.arrayContaining(["802.1QTagged: Hybrid", "U       300", "T       100", "Native VlanId:    300."]),
    );
    expect(await cli(emulator, "show-command", "show interfaces switchport GigabitEthernet 1/1")).toBe(shown);
    expect(await configure(emulator, "interface vlan 300", "no untagged GigabitEthernet 1/1")).not.toContain("%");
    expect(emulator.port("1/1")).toEqual({ native: 1, tagged: [100] });
    expect(await configure(emulator, "interface vlan 100", "no tagged GigabitEthernet 1/1")).not.toContain("%");
    expect(emulator.port("1/1")).toEqual({ native: 1, tagged: [] });
  });

  test("a port that isn't hybrid is tagged or untagged", async () => {
    const emulator = await enabled({ hybrid: false });
    await configure(emulator, "interface vlan 100", "tagged GigabitEthernet 1/1");
    expect(emulator.port("1/1")).toEqual({ native: null, tagged: [100] });
    expect(await configure(emulator, "interface vlan 200", "untagged GigabitEthernet 1/1")).toContain(
      "% Error: Port is tagged in another Vlan Gi 1/1.",
    );
    await configure(emulator, "interface vlan 100", "no tagged GigabitEthernet 1/1", "interface vlan 200", "untagged GigabitEthernet 1/1");
    expect(await configure(emulator, "interface vlan 100", "tagged GigabitEthernet 1/1")).toContain(
      "% Error: Port is untagged in another Vlan Gi 1/1.",
    );
    expect(emulator.port("1/1")).toEqual({ native: 200, tagged: [] });
    expect(await cli(emulator, "show-command", "interfaces switchport GigabitEthernet 1/1")).not.toContain("Native VlanId");
  });

  test("the CLI says in a good answer what it refused, and goes on with the next line", async () => {
    const emulator = await enabled();
    const refusals: [string[], string][] = [
      [["interface vlan 100", "tagged GigabitEthernet 1/1", "untagged GigabitEthernet 1/1"], "Port is a tagged member of Vlan 100"],
      [["interface vlan 101", "untagged GigabitEthernet 1/1", "tagged GigabitEthernet 1/1"], "Port is an untagged member of Vlan 101"],
      [["interface vlan 102", "no tagged GigabitEthernet 1/1"], "Port is not a tagged member of Vlan 102"],
      [["interface vlan 102", "no untagged GigabitEthernet 1/1"], "Port is not an untagged member of Vlan 102"],
      [["interface vlan 102", "tagged GigabitEthernet 1/9"], "No such interface Gi 1/9"],
      [["interface vlan 102", "tagged TenGigabitEthernet 1/1"], "Invalid input"],
      [["interface vlan 1", "tagged GigabitEthernet 1/1"], "Can't change the members of the default Vlan"],
      [["interface vlan 4095"], "Invalid input"],
      [["tagged GigabitEthernet 1/1"], "Invalid input"],
    ];
    for (const [lines, words] of refusals) expect(await configure(emulator, ...lines)).toContain(`% Error: ${words}`);
    expect(emulator.port("1/1")).toEqual({ native: 101, tagged: [100] });
    await configure(emulator, "interface vlan 5000", "interface vlan 103", "tagged GigabitEthernet 1/1");
    expect(emulator.port("1/1")).toEqual({ native: 101, tagged: [100, 103] });
    expect(await cli(emulator, "show-command", "interfaces switchport GigabitEthernet 1/9")).toContain("% Error");
    expect(await cli(emulator, "exec-command", "reload")).toContain("% Error");
  });

  test("takes one command tag in a call, a thousand characters of it, with either form of line end", async () => {
    const emulator = await enabled();
    for (const input of [
      "",
      "<config-commands></config-commands>",
      "<exec-command>write</exec-command><show-command>interfaces</show-command>",
      `<config-commands>interface vlan 100\r\n${"tagged GigabitEthernet 1/1\r\n".repeat(40)}</config-commands>`,
    ]) {
      expect(await statusOf(emulator, "POST", os9Cli, `<input>${input}</input>`)).toBe(400);
    }
    expect(await cli(emulator, "config-commands", "interface vlan 100\\r\\n\ntagged GigabitEthernet 1/1")).not.toContain("%");
    expect(emulator.port("1/1")).toEqual({ native: 1, tagged: [100] });
  });

  test("PUT replaces an interface: it has to be out of its VLANs before it stops being a switchport", async () => {
    const emulator = await enabled();
    await configure(emulator, "interface vlan 100", "untagged GigabitEthernet 1/1");
    const off = "<interface><name>gige-1-1</name><portmode><hybrid>false</hybrid></portmode><shutdown>true</shutdown></interface>";
    const refused = await ask(emulator, "PUT", os9, off);
    expect([refused.status, await refused.text()]).toEqual([
      400,
      expect.stringContaining("Port is a member of a non-default VLAN Gi 1/1."),
    ]);
    expect(emulator.port("1/1")).toEqual({ native: 100, tagged: [] });
    expect(await statusOf(emulator, "PUT", os9, enable(true).replace("false</shutdown>", "true</shutdown>"))).toBe(204);
    expect(emulator.port("1/1")).toEqual(nothing);
    await configure(emulator, "interface vlan 100", "no untagged GigabitEthernet 1/1");
    expect(await statusOf(emulator, "PUT", os9, off)).toBe(204);
    expect(await textOf(emulator, "GET", `${os9}?with-defaults`)).not.toContain("switchport");
  });

  test("a switchport does not become hybrid, and a name has to be right", async () => {
    const emulator = await enabled({ hybrid: false });
    const refused = await ask(emulator, "PUT", os9, enable(true));
    expect([refused.status, await refused.text()]).toEqual([400, expect.stringContaining("Port is in Layer-2 mode Gi 1/1.")]);
    expect(await statusOf(emulator, "PUT", os9, enable(false).replace("gige-1-1", "gige-1-2"))).toBe(400);
    expect(await statusOf(emulator, "PUT", os9, enable(false).replace("gige-1-1", ""))).toBe(400);
    expect(await configure(emulator, "interface GigabitEthernet 1/1", "no switchport", "portmode hybrid", "switchport")).not.toContain("%");
    expect(await statusOf(emulator, "PUT", os9, enable(true))).toBe(204);
  });

  test("names an interface after its type", async () => {
    for (const [interfaceType, name] of [
      ["GigabitEthernet", "gige-1-0-3"],
      ["TenGigabitEthernet", "tengig-1-0-3"],
      ["TwentyfiveGigabitEthernet", "twentyfivegig-1-0-3"],
      ["fortyGigE", "fortygig-1-0-3"],
      ["FiftyGigabitEthernet", "fiftygig-1-0-3"],
      ["HundredGigabitEthernet", "hundredgig-1-0-3"],
      ["peGigabitEthernet", "pegig-1-0-3"],
    ] as const) {
      const emulator = await start("dellnos9", { ports: ["1/0/3"], interfaceType });
      expect(await textOf(emulator, "GET", `/api/running/dell/interfaces/interface/${name}`)).toContain(`<name>${name}</name>`);
    }
  });

  test("what was not written is lost with the power", async () => {
    const emulator = await enabled();
    await configure(emulator, "interface vlan 100", "untagged GigabitEthernet 1/1");
    expect(await cli(emulator, "exec-command", "write")).not.toContain("%");
    await configure(emulator, "interface vlan 200", "tagged GigabitEthernet 1/1");
    expect(emulator.port("1/1")).toEqual({ native: 100, tagged: [200] });
    emulator.powerCycle();
    expect(emulator.port("1/1")).toEqual({ native: 100, tagged: [] });
    expect(emulator.saves).toBe(1);
  });

  test("the fault `error` of the CLI is a good answer with the CLI's words", async () => {
    const emulator = await enabled();
    emulator.behaviour.fault = { kind: "error", at: 0 };
    expect(await configure(emulator, "interface vlan 100", "tagged GigabitEthernet 1/1")).toContain("% Error: ");
    expect(emulator.port("1/1")).toEqual({ native: 1, tagged: [] });
    expect(await configure(emulator, "interface vlan 100", "tagged GigabitEthernet 1/1")).not.toContain("%");
  });
});

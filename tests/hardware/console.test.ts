import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { utils } from "ssh2";
import { Screen } from "../../src/hardware/console/screen.ts";
import { parseAddress } from "../../src/hardware/console/transport.ts";
import { checkSettings } from "../../src/hardware/settings.ts";
import { consoleDriver, foreignPort, parseVlans } from "../../src/hardware/switches/console.ts";
import { dellN3000, dellN3000Profile } from "../../src/hardware/switches/delln3000.ts";
import { emptyPort, type PortState, type SwitchDriver, type SwitchTarget } from "../../src/hardware/switches/driver.ts";
import { nexus, nexusProfile } from "../../src/hardware/switches/nexus.ts";
import { powerConnect55xx, powerConnect55xxProfile } from "../../src/hardware/switches/powerconnect55xx.ts";
import { type ConsoleOptions, startConsole } from "../sim/console.ts";
import type { Emulator } from "../sim/emulator.ts";
import { secrets } from "../support/secrets.ts";
import { switchTarget } from "../support/target.ts";

// What the contract suite and the table of faults do not show: ways to log in, what is typed, what is believed.

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

async function start(kind: Parameters<typeof startConsole>[0], options: ConsoleOptions = {}): Promise<Emulator> {
  const device = await startConsole(kind, options);
  closing.push(() => device.stop());
  return device;
}

async function open(driver: SwitchDriver, settings: Record<string, unknown>, more: Partial<SwitchTarget> = {}) {
  const session = await driver.open({ ...switchTarget("sw", settings), ...more });
  closing.push(() => session.close());
  return session;
}

const failure = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "no failure",
    (error: Error) => error.message,
  );

/** A file that is gone after the test. */
function file(text: string): string {
  const dir = mkdtempSync(join(tmpdir(), "haas-console-"));
  closing.push(() => rmSync(dir, { recursive: true }));
  writeFileSync(join(dir, "file"), text, { mode: 0o600 });
  return join(dir, "file");
}

const one: PortState = { native: 100, tagged: [] };
const port = "gi1/0/1";

describe("logging in", () => {
  const works = async (driver: SwitchDriver, settings: Record<string, unknown>) => {
    const session = await open(driver, settings);
    await session.applyPort(port, one);
    expect(await session.readPorts([port])).toEqual(new Map([[port, one]]));
  };

  test("with a private key instead of the password", async () => {
    const key = utils.generateKeyPairSync("ed25519");
    const device = await start("delln3000", { authorizedKey: key.public });
    const settings = { ...device.settings, password: secrets.wrongUser };
    expect(await failure(open(dellN3000, settings))).toContain("refuses the login of 'admin'; check username and password");
    await works(dellN3000, { ...settings, key_file: file(key.private) });
  });

  test("a key file that can't be used says so, without a word of it", async () => {
    const device = await start("delln3000");
    expect(await failure(open(dellN3000, { ...device.settings, key_file: "/nonexistent/key" }))).toMatch(
      /'sw': its key_file can't be read/,
    );
    const text = await failure(open(dellN3000, { ...device.settings, key_file: file(secrets.bmc) }));
    expect(text).toContain("its key_file holds no private key");
    expect(text).not.toContain(secrets.bmc);
  });

  test.each(["ssh", "telnet"] as const)("with an enable password, over %s", async (transport) => {
    const device = await start("powerconnect55xx", { transport, enablePassword: secrets.bob });
    await works(powerConnect55xx, device.settings);
    const wrong = await failure(open(powerConnect55xx, { ...device.settings, enable_password: secrets.wrongUser }));
    expect(wrong).toContain("'enable'");
    expect(wrong).not.toContain(secrets.wrongUser);
  });

  test("an SSH server that lets everybody in and asks in the shell", async () => {
    const device = await start("powerconnect55xx", { shellLogin: true });
    await works(powerConnect55xx, device.settings);
    expect(await failure(open(powerConnect55xx, { ...device.settings, password: secrets.wrongUser }))).toMatch(
      /again.*check username and password/,
    );
  });

  test("an SSH server that knows nothing newer than 2005, only where that is allowed", async () => {
    const device = await start("nexus", { legacyAlgorithms: true });
    expect(await failure(open(nexus, device.settings))).toContain("legacy_algorithms");
    await open(nexus, { ...device.settings, legacy_algorithms: true });
  });

  test("a wrong password over telnet is told from a silent switch", async () => {
    const device = await start("delln3000", { transport: "telnet" });
    const wrong = await failure(open(dellN3000, { ...device.settings, password: secrets.wrongUser }));
    expect(wrong).toMatch(/while logging in.*check username and password/);
    expect(wrong).not.toContain(secrets.wrongUser);
    device.behaviour.fault = { kind: "hang", at: 0 };
    expect(await failure(open(dellN3000, device.settings, { connectTimeoutMs: 500 }))).toContain("shows no prompt in time");
  });

  test("nobody listens, and no such name", async () => {
    const device = await start("nexus");
    await device.stop();
    expect(await failure(open(nexus, device.settings))).toContain("refuses connections");
    expect(await failure(open(nexus, { ...device.settings, hostname: "a b" }))).toContain("neither `host` nor `host:port`");
  });

  test("a name that looks like a prompt, and one longer than any", async () => {
    for (const hostname of ["sw#1", "rack>7", "a-very-long-name-of-a-switch-in-row-12-rack-4"]) {
      for (const kind of ["powerconnect55xx", "delln3000"] as const) {
        const device = await start(kind, { hostname, transport: "telnet" });
        await works(kind === "delln3000" ? dellN3000 : powerConnect55xx, device.settings);
      }
    }
  });
});

describe("host keys", () => {
  test("the first one is kept, another one is refused before the password is sent", async () => {
    const known: string[] = [];
    const knownHostKey = async (presented: string) => {
      known.push(presented);
      return known[0]!;
    };
    const device = await start("delln3000");
    await open(dellN3000, device.settings, { knownHostKey });
    expect(known[0]).toMatch(/^SHA256:[A-Za-z0-9+/]{43}$/);
    const other = await start("delln3000", { hostKey: utils.generateKeyPairSync("ed25519").private });
    const text = await failure(open(dellN3000, { ...device.settings, hostname: other.hostname }, { knownHostKey }));
    expect(text).toContain("switch_forget_host_key");
    expect(text).toContain(known[0]!);
    expect(text).toContain(known[1]!);
    expect(other.received).toEqual([]);
  });
});

describe("secrets", () => {
  test("a device that says the password, in whatever it says, is not quoted with it", async () => {
    const server = createServer(
      (socket) => socket.on("error", () => {}).write(`SSH-2.0-\u001b[31m${secrets.console} was wrong\r\n\r\n`) && socket.end(),
    );
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    closing.push(() => server.close());
    const address = server.address();
    const hostname = `127.0.0.1:${typeof address === "object" ? address!.port : 0}`;
    const text = await failure(open(nexus, { hostname, username: "u", password: secrets.console, dummy_vlan: 2222 }));
    expect(text).toContain("Switch 'sw'");
    expect(text).not.toContain(secrets.console);
    expect(text).not.toMatch(/\p{C}/u);
  });

  test("a password that could not be told from what a terminal shows is refused", () => {
    for (const password of ["a\tb", "a ", " a", "a\u0001"]) {
      const settings = { hostname: "h", username: "u", password, dummy_vlan: 2222 };
      expect(() => checkSettings(nexus.settings, settings, "It")).toThrow("'password'");
    }
  });
});

describe("what is typed", () => {
  const labels = { powerconnect55xx: port, delln3000: port, nexus: "Ethernet1/1" } as const;
  const states: PortState[] = [
    emptyPort,
    one,
    { native: 200, tagged: [] },
    { native: 100, tagged: [200, 201, 202, 300] },
    { native: 200, tagged: [100, 300] },
    { native: null, tagged: [1, 300] },
    { native: 7, tagged: Array.from({ length: 60 }, (_, i) => 10 + 2 * i) },
  ];

  test.each([
    ["powerconnect55xx", powerConnect55xx],
    ["delln3000", dellN3000],
    ["nexus", nexus],
  ] as const)("on a %s is exactly the plan, and nothing when nothing is to do", async (kind, driver) => {
    const device = await start(kind);
    const session = await open(driver, device.settings);
    const label = labels[kind];
    /** The lines of a change, until the port is read again. */
    const typed = async (work: () => Promise<void>) => {
      const actual = (await session.readPorts([label])).get(label)!;
      const from = device.received.length;
      await work();
      await session.readPorts([label]);
      return { actual, lines: device.received.slice(from, -1) };
    };
    for (const state of [...states, ...states.toReversed()]) {
      const { actual, lines } = await typed(() => session.applyPort(label, state));
      expect(lines).toEqual([...(driver as SwitchDriver).plan(label, actual, state, device.settings)]);
      for (const line of lines) expect(line.length).toBeLessThan(120);
      expect(device.port(label)).toEqual(state);
      expect((await typed(() => session.applyPort(label, state))).lines).toEqual([]);
    }
  });

  test("on a Nexus, ports that need the same lines share them", async () => {
    const ports = Array.from({ length: 15 }, (_, i) => `Ethernet1/${i + 1}`);
    const device = await start("nexus", { ports });
    const session = await open(nexus, device.settings);
    device.setPort("Ethernet1/3", one);
    device.setPort("Ethernet1/4", { native: 5, tagged: [6] });
    await session.readPorts(ports);
    const from = device.received.length;
    await session.applyPorts!(ports, one);
    const lines = device.received.slice(from);
    expect(lines.filter((line) => line.startsWith("interface "))).toEqual([
      `interface ${ports.filter((_, i) => ![2, 3, 14].includes(i)).join(", ")}`,
      "interface Ethernet1/15",
      "interface Ethernet1/4",
    ]);
    expect(ports.map((label) => device.port(label))).toEqual(ports.map(() => one));
  });

  test("a VLAN that is not the device's is refused before anything is typed", async () => {
    const device = await start("delln3000");
    const session = await open(dellN3000, device.settings);
    const from = device.received.length;
    for (const vlan of [0, 4094, 4095, 2222])
      expect(await failure(session.applyPort(port, { native: vlan, tagged: [] }))).toContain(`VLAN ${vlan}`);
    for (const label of [`${port}\nreload`, `${port};reload`])
      expect(await failure(session.applyPort(label, one))).toContain("is not a port name");
    expect(device.received.slice(from)).toEqual([]);
  });

  test("a VLAN that the switch does not have ends in its own words, and leaves the port with nothing new", async () => {
    for (const [kind, driver] of [
      ["powerconnect55xx", powerConnect55xx],
      ["delln3000", dellN3000],
    ] as const) {
      const device = await start(kind, { vlans: [100] });
      const session = await open(driver, device.settings);
      await session.applyPort(port, one);
      const text = await failure(session.applyPort(port, { native: 100, tagged: [300] }));
      expect(text).toMatch(/^Switch 'sw', port 'gi1\/0\/1': 'switchport trunk allowed vlan add (?:100,)?300' was answered with '.+'\.$/);
      expect(device.port(port)!.tagged).toEqual([]);
      // The session is still of use.
      await session.applyPort(port, emptyPort);
      expect(device.port(port)).toEqual(emptyPort);
    }
  });
});

describe("what is believed", () => {
  const reading = (profile: typeof nexusProfile, text: string, label: string) => profile.parsePort(text.split("\n"), label, 2222);
  const nexusText = (mode: string, more = "") =>
    `Name: Ethernet1/1\n  Switchport: Enabled\n  Operational Mode: ${mode}\n  Access Mode VLAN: 3 (Vlan not created)\n  Trunking Native Mode VLAN: 5 (Vlan not created)\n  Trunking VLANs Allowed: 5,10-12${more}\n  Voice VLAN: none`;

  test("a Nexus port in access mode holds its access VLAN, whatever its trunk lines say", () => {
    expect(reading(nexusProfile, nexusText("access"), "ethernet1/1")).toEqual({ state: { native: 3, tagged: [] } });
    expect(reading(nexusProfile, nexusText("trunk"), "ethernet 1/1")).toEqual({ state: { native: 5, tagged: [10, 11, 12] } });
    expect(reading(nexusProfile, nexusText("fex-fabric"), "Ethernet1/1")).toEqual({ state: foreignPort });
    expect(reading(nexusProfile, nexusText("down"), "Ethernet1/1")).toEqual({ state: { native: 5, tagged: [10, 11, 12] }, unsure: true });
    expect(reading(nexusProfile, nexusText("trunk"), "Ethernet1/11")).toBeNull();
  });

  test("an answer that is cut anywhere is none", () => {
    const text = nexusText("trunk");
    const end = text.indexOf("  Voice");
    for (let length = 0; length < end - 1; length++) {
      const cut = reading(nexusProfile, text.slice(0, length), "Ethernet1/1");
      // Without its end a list of VLANs can't be told from a shorter one; the prompt that has to follow tells.
      if (length <= text.indexOf("Allowed:") + 8) expect(cut).toBeNull();
    }
    const log = "2026 Nov 23 06:11:13 switch something that no pattern knows";
    for (let at = text.indexOf("Operational"); at < end - 1; at++) {
      const broken = reading(nexusProfile, `${text.slice(0, at)}\n${log}\n${text.slice(at)}`, "Ethernet1/1");
      if (broken !== null) expect([at, broken.state]).toEqual([at, { native: 5, tagged: [10, 11, 12] }]);
    }
  });

  test("a native VLAN that is not allowed passes nothing, and does not count as right", () => {
    const text = nexusText("trunk").replace("5,10-12", "10-12");
    expect(reading(nexusProfile, text, "Ethernet1/1")).toEqual({ state: { native: null, tagged: [10, 11, 12] }, unsure: true });
  });

  test("noise, and a list that lost an item, are no answer", () => {
    const text = nexusText("trunk");
    expect(reading(nexusProfile, text.replace("5,10-12", "5,10-12,"), "Ethernet1/1")).toBeNull();
    expect(reading(nexusProfile, text.replace("5,10-12", "5,10-\ufffd:"), "Ethernet1/1")).toBeNull();
    expect(
      reading(powerConnect55xxProfile, "Name: gi1/0/5\nTrunking Native Mode VLAN: 1\nTrunking VLANs Enabled: 1,2", "gi1/0/5"),
    ).toBeNull();
  });

  test("a port whose mode is not shown, but could be, is not taken for a trunk", () => {
    const text =
      "Name: gi1/0/5\nAccess Mode VLAN: 666\nTrunking Native Mode VLAN: none\nTrunking VLANs Enabled: none\nClassification rules:";
    expect(reading(powerConnect55xxProfile, text, "gi1/0/5")).toBeNull();
    expect(reading(powerConnect55xxProfile, text.replace("Access", "Administrative Mode: access\nAccess"), "gi1/0/5")).toEqual({
      state: { native: 666, tagged: [] },
    });
  });

  test("a PowerConnect list goes on in indented lines", () => {
    const text = (list: string) =>
      `Name: gi1/0/5\nTrunking Native Mode VLAN: 100 (Inactive)\nTrunking VLANs Enabled: ${list}\nClassification rules:\n\n1 2 3`;
    expect(
      reading(
        powerConnect55xxProfile,
        text("100,200-203,\n                        300,\n                        301 (Inactive)"),
        "gi1/0/5",
      ),
    ).toEqual({
      state: { native: 100, tagged: [200, 201, 202, 203, 300, 301] },
    });
    expect(reading(powerConnect55xxProfile, text("none").replace("100 (Inactive)", "none"), "gi1/0/5")).toEqual({ state: emptyPort });
    expect(reading(powerConnect55xxProfile, text("100,x"), "gi1/0/5")).toBeNull();
  });

  test("an N3000 may name a port by unit and port", () => {
    const text =
      "Port: Gi1/0/12\nVLAN Membership Mode: Trunk Mode\nTrunking Mode Native VLAN: 2222 (dummy)\nTrunking Mode VLANs Enabled: 1-99,101-4093\n";
    expect(reading(dellN3000Profile, text.replace(",101-4093", ""), "gi1/12")?.state.native).toBeNull();
    expect(reading(dellN3000Profile, text, "gi1/0/12")?.state.native).toBe(2222);
    expect(reading(dellN3000Profile, text, "gi1/0/11")).toBeNull();
  });

  test("lists of VLANs", () => {
    expect(parseVlans("1, 5-7 (Inactive)")).toEqual([1, 5, 6, 7]);
    expect(parseVlans("none")).toEqual([]);
    expect(parseVlans("All", 3)).toEqual([1, 2, 3]);
    for (const text of ["7-5", "5-", "x", "1;2", "12345", "1-4096", "--"]) expect([text, parseVlans(text)]).toEqual([text, null]);
  });
});

describe("a terminal", () => {
  const shown = (text: string) => {
    const screen = new Screen();
    for (const c of text) screen.feed(c);
    return [...screen.lines, screen.line];
  };

  test("shows what a person would see", () => {
    expect(shown("a\r\nb")).toEqual(["a", "b"]);
    expect(shown("a\n\rb")).toEqual(["a", "b"]);
    expect(shown("--More--\r        \rnext")).toEqual(["next"]);
    expect(shown("--More--\b\b\b\b\b\b\b\b        \b\b\b\b\b\b\b\bnext")).toEqual(["next"]);
    expect(shown("--More--\r\x1b[Knext")).toEqual(["next"]);
    expect(shown("\x1b[2J\x1b[1;1Hsw\x1b[0m#\x07 ")).toEqual(["sw#"]);
    expect(shown("\x1b]")).toEqual([""]);
    expect(shown(`\x1b[${"1;".repeat(50)}x`).at(-1)).not.toContain("\x1b");
  });
});

describe("addresses", () => {
  test("with and without a port", () => {
    expect(parseAddress("sw.example", 22)).toEqual({ host: "sw.example", port: 22 });
    expect(parseAddress("10.0.0.1:2022", 22)).toEqual({ host: "10.0.0.1", port: 2022 });
    expect(parseAddress("[fe80::1]:23", 22)).toEqual({ host: "fe80::1", port: 23 });
    expect(parseAddress("fe80::1", 22)).toEqual({ host: "fe80::1", port: 22 });
    for (const text of ["", "a b", "host:0", "host:70000", "http://host", "u@h", "h\n"])
      expect([text, parseAddress(text, 22)]).toEqual([text, null]);
  });
});

describe("a device without bounds", () => {
  /** A telnet server that does this. */
  async function serve(behave: (socket: Socket) => void): Promise<string> {
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => {});
      behave(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    closing.push(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    const address = server.address();
    return `127.0.0.1:${typeof address === "object" ? address!.port : 0}`;
  }
  const quick = consoleDriver(dellN3000Profile);
  const limits = { connectTimeoutMs: 1_500, commandTimeoutMs: 300 };
  const settings = { username: "admin", password: secrets.console, transport: "telnet", dummy_vlan: 2222 };
  const drip = (socket: Socket, text: string | Buffer) => {
    const timer = setInterval(() => socket.writable && socket.write(text), 20);
    closing.push(() => clearInterval(timer));
  };

  test.each([
    ["drips before the login", (socket: Socket) => drip(socket, "x"), "no prompt in time"],
    ["floods", (socket: Socket) => drip(socket, "y".repeat(1_000_000)), /without end|no prompt in time/],
    ["floods without a line end", (socket: Socket) => drip(socket, "y".repeat(5_000)), /without end/],
    [
      "negotiates for ever",
      (socket: Socket) => drip(socket, Buffer.from("\xff\xfb\x01\xff\xfd\x18\xff\xfa\x18\x01\xff\xf0", "latin1")),
      "no prompt in time",
    ],
    [
      "says why not and is gone before it is answered",
      (socket: Socket) => {
        socket.write(Buffer.from("\xff\xfb\x01\xff\xfb\x03\xff\xfd\x18\r\nUser session limit reached\r\n", "latin1"));
        socket.resetAndDestroy();
      },
      "it said 'User session limit reached'",
    ],
    [
      "begins a negotiation that never ends",
      (socket: Socket) => socket.write(Buffer.from([255, 250, ...Array.from({ length: 100_000 }, () => 1)])),
      "no prompt in time",
    ],
    [
      "drips after the login",
      (socket: Socket) => {
        socket.write("\r\nsw#");
        socket.on("data", (bytes: Buffer) => (bytes.length < 3 ? socket.write("\r\nsw#") : drip(socket, "z")));
      },
      "answered without end",
    ],
    [
      "pages for ever",
      (socket: Socket) => {
        socket.write("\r\nsw#");
        socket.on("data", (bytes: Buffer) => socket.write(bytes.toString() === "\r\n" ? "\r\nsw#" : `${bytes.toString()}line\r\n--More--`));
      },
      "answered without end",
    ],
    [
      "asks again and again",
      (socket: Socket) => socket.on("data", () => socket.write("\r\nUser:")) && socket.write("User:"),
      "asks for the name again",
    ],
  ] as const)("%s", async (_, behave, words) => {
    const hostname = await serve(behave);
    expect(await failure(open(quick, { ...settings, hostname }, limits))).toMatch(words);
  });
});

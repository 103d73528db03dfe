import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { utils } from "ssh2";
import type { ConsoleOptions } from "../sim/console.ts";
import type { Emulator, Fault } from "../sim/emulator.ts";
import { haasBinary, type Ran, run, type Served, serve } from "../support/binary.ts";
import {
  consoleVendors,
  onEveryLine,
  portNames,
  registration,
  restVendors,
  startEmulator,
  type Vendor,
  vendors,
} from "../support/emulators.ts";
import { freePort } from "../support/postgres.ts";
import { secrets, secretsIn } from "../support/secrets.ts";
import { configText, scratch } from "../support/service.ts";

// What `haas switch_test` prints, from the shipped program against every kind of switch, healthy and broken
// in every way that operators meet. A page must say what to do without anybody looking into the source.

const setUpTimeoutMs = 120_000;
const testTimeoutMs = 60_000;

let place: ReturnType<typeof scratch>;
let haas: string;
let server: Served;
const opened: { stop(): Promise<void> }[] = [];
let switches = 0;

beforeAll(async () => {
  place = scratch();
  haas = await haasBinary();
  const sections = ["dell", "n3000", "nexus", "brocade", "dellnos9"].map(
    (name) => `[haas.ext.switches.${name}]\nconnect_timeout = 5\ncommand_timeout = 3\n`,
  );
  const config = join(place.path, "haas.cfg");
  writeFileSync(config, configText({ uri: `sqlite:///${join(place.path, "haas.db")}`, more: sections.join("") }), { mode: 0o600 });
  const port = await freePort();
  // Without networking: what sets a new port up would be in the way.
  server = await serve([haas, "serve", String(port), "--no-networks", "--config", config], port, { cwd: place.path });
}, setUpTimeoutMs);

afterAll(async () => {
  await server?.stop();
  for (const one of opened) await one.stop();
  place?.remove();
}, testTimeoutMs);

async function call(method: string, path: string, body: unknown = {}): Promise<void> {
  const answer = await fetch(server.url + path, { method, body: JSON.stringify(body) });
  expect([method, path, answer.status, await answer.text()]).toEqual([method, path, 200, ""]);
}

/** Register a switch and its first port; the switch's name. */
async function register(vendor: Vendor, emulator: Pick<Emulator, "settings">, fields: Record<string, unknown> = {}): Promise<string> {
  const label = `sw${++switches}`;
  await call("PUT", `/switch/${label}`, registration(vendor, emulator, fields));
  await call("PUT", `/switch/${label}/port/${encodeURIComponent(portNames[vendor](1))}`);
  return label;
}

async function start(vendor: Vendor, options: ConsoleOptions = {}): Promise<Emulator> {
  const emulator = await startEmulator(vendor, options);
  opened.push(emulator);
  return emulator;
}

const switchTest = (label: string, ...options: string[]): Promise<Ran> =>
  run([haas, "switch_test", label, ...options], { cwd: place.path, env: { HAAS_ENDPOINT: server.url } });

/** A page without what is different every time. */
const stable = (page: string): string =>
  page
    .replace(/\bsw\d+\b/g, "sw")
    .replace(/\d+ ms|\d+\.\d s(?=\n)/g, "TIME")
    .replace(/SHA256:[\w+/]+/g, "SHA256:KEY")
    .replace(/(127\.0\.0\.1(?:, port |:))\d+/g, "$1PORT");

/** The page of a switch that works. */
async function goodPage(label: string): Promise<string> {
  const { status, out, err } = await switchTest(label);
  expect([status, err, out]).toEqual([0, "", expect.stringMatching(/^Switch sw\d+ \(\w+\): ok\n/)]);
  return stable(out);
}

/** The page of a switch that does not work. */
async function badPage(label: string): Promise<string> {
  const { status, out, err } = await switchTest(label);
  expect([status, err, out]).toEqual([1, "", expect.stringMatching(/^Switch sw\d+ \(\w+\): FAILED\n/)]);
  expect(secretsIn(out)).toEqual([]);
  return stable(out);
}

/** The pages of a broken switch of each of these vendors, at the same time. */
async function badPages<V extends Vendor>(of: readonly V[], broken: (vendor: V) => Promise<string>): Promise<Record<V, string>> {
  const pages = await Promise.all(of.map(async (vendor) => [vendor, await badPage(await broken(vendor))] as const));
  return Object.fromEntries(pages) as Record<V, string>;
}

/** Each page has all of these words. */
function expectWords(pages: Readonly<Record<string, string>>, ...words: string[]): void {
  for (const page of Object.values(pages)) for (const word of words) expect(page).toContain(word);
}

/** What it is asked about a port goes wrong like this, every time. */
async function failingReads(vendor: Vendor, fault: Omit<Fault, "at">): Promise<string> {
  const emulator = await start(vendor);
  onEveryLine(emulator, (line) => {
    if (/switchport|interface\/gige|%22/.test(line)) emulator.behaviour.fault = { ...fault, at: 0 };
  });
  return register(vendor, emulator);
}

/** An address at which one device can take the place of another. */
async function startRelay(first: Emulator) {
  const relay = { target: first, hostname: "" };
  const listener = createServer((socket) => {
    const [host, port] = relay.target.hostname.split(":");
    const onward = connect(Number(port), host);
    socket.on("error", () => onward.destroy());
    onward.on("error", () => socket.destroy());
    socket.pipe(onward).pipe(socket);
  });
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  relay.hostname = `127.0.0.1:${(listener.address() as { port: number }).port}`;
  opened.push({ stop: async () => void listener.close() });
  return relay;
}

test("healthy: the steps with their times, and what the port carries", async () => {
  const pages: Partial<Record<Vendor, string>> = {};
  for (const vendor of vendors) {
    const emulator = await start(vendor);
    emulator.setPort(portNames[vendor](1), { native: 100, tagged: [200, 201, 300] });
    const label = await register(vendor, emulator);
    const page = await goodPage(label);
    pages[vendor] = page;
    expect(page).toContain(`Port ${portNames[vendor](1)} carries native 100, tagged 200-201, 300.\n`);
    for (const step of ["connect", "log in", `read port ${portNames[vendor](1)}`]) {
      expect(page).toMatch(new RegExp(`^ {2}${step} +ok +TIME$`, "m"));
    }
    // It has read, and no more.
    expect(emulator.port(portNames[vendor](1))).toEqual({ native: 100, tagged: [200, 201, 300] });
    expect(emulator.saves).toBe(0);
    expect(emulator.received.filter((line) => /^(configure|PUT|PATCH|DELETE)|config-commands|exec-command/.test(line))).toEqual([]);
  }
  expect(pages.nexus).toMatchInlineSnapshot(`
    "Switch sw (nexus): ok

      connect                ok  TIME
      log in                 ok  TIME
      read port Ethernet1/1  ok  TIME
      leave                  ok  TIME

    Port Ethernet1/1 carries native 100, tagged 200-201, 300.
    Its SSH host key is SHA256:KEY.
    "
  `);
  expect(pages.dellnos9).toMatchInlineSnapshot(`
    "Switch sw (dellnos9): ok

      connect        ok  TIME
      log in         ok  TIME
      read port 1/1  ok  TIME
      leave          ok  TIME

    Port 1/1 carries native 100, tagged 200-201, 300.
    "
  `);
});

test("healthy, with --recording", async () => {
  const label = await register("delln3000", await start("delln3000", { transport: "telnet" }));
  const { status, out } = await switchTest(label, "--recording");
  expect(status).toBe(0);
  const recording = out.slice(out.indexOf("Recording:"));
  expect(recording).toMatch(/ > \[secret\]\n/);
  expect(recording).toMatch(/ > show interfaces switchport gi1\/0\/1\n/);
  expect(recording).toMatch(/ < Trunking Mode Native VLAN: 1 \(default\)\n/);
  expect(secretsIn(out)).toEqual([]);
});

test("a port as it leaves the factory", async () => {
  expect(await goodPage(await register("brocade", await start("brocade")))).toMatchInlineSnapshot(`
    "Switch sw (brocade): ok

      connect          ok  TIME
      log in           ok  TIME
      read port 1/0/1  ok  TIME
      leave            ok  TIME

    Port 1/0/1 carries something that is not haas's (not a trunk, or a setting unknown to haas).
    The next change of the port replaces that.
    "
  `);
});

test("a refused login", async () => {
  const refusing = { behaviour: { refusesLogins: true } };
  const words = [
    "Reason: ",
    "check username and password",
    "Check the user name and the password (or key file) that it was registered with",
  ];
  const pages = await badPages(vendors, async (vendor) => register(vendor, await start(vendor, refusing)));
  expectWords(pages, ...words);
  const overTelnet = await badPages(consoleVendors, async (vendor) =>
    register(vendor, await start(vendor, { ...refusing, transport: "telnet" })),
  );
  expectWords(overTelnet, ...words, "it said '");
  expect(overTelnet.nexus).toMatchInlineSnapshot(`
    "Switch sw (nexus): FAILED

      connect  ok      TIME
      log in   FAILED  TIME

    Reason: Switch 'sw': while logging in, it asks for the name again; it said 'Login incorrect'; check username and password.

    - Check the user name and the password (or key file) that it was registered with, by logging in from the server yourself.
    - Some switches take no more logins for a while after wrong ones, or while all of their sessions are in use.
    - A registration can't be changed: to register it anew, delete its ports first, then the switch (haas switch_delete sw).
    - To see what was said: haas switch_test sw --recording
    "
  `);
  expect(pages.brocade).toMatchInlineSnapshot(`
    "Switch sw (brocade): FAILED

      connect  ok      TIME
      log in   FAILED  TIME

    Reason: Switch 'sw': it refuses the login as 'admin' (401): check username and password.

    - Check the user name and the password (or key file) that it was registered with, by logging in from the server yourself.
    - Some switches take no more logins for a while after wrong ones, or while all of their sessions are in use.
    - A registration can't be changed: to register it anew, delete its ports first, then the switch (haas switch_delete sw).
    - To see what was said: haas switch_test sw --recording
    "
  `);
});

test("a wrong enable password", async () => {
  const pages = await badPages(consoleVendors, async (vendor) =>
    register(vendor, await start(vendor, { enablePassword: secrets.enable }), { enable_password: secrets.wrongEnable }),
  );
  expectWords(pages, "'enable' was answered with '% Bad passwords'", "--enable-password");
});

test("nothing listens at its address", async () => {
  const pages = await badPages(vendors, async (vendor) => {
    const emulator = await startEmulator(vendor);
    await emulator.stop();
    return register(vendor, emulator);
  });
  expectWords(pages, "127.0.0.1", "Check the address that it was registered with, and that the server of haas can reach it.");
  for (const vendor of consoleVendors) expect(pages[vendor]).toContain("--transport telnet");
  for (const vendor of restVendors) expect(pages[vendor]).toContain("--tls");
  expect(pages.powerconnect55xx).toMatchInlineSnapshot(`
    "Switch sw (powerconnect55xx): FAILED

      connect  FAILED  TIME

    Reason: Switch 'sw': 127.0.0.1, port PORT refuses connections; is that the switch's address, and is this service enabled on it.

    - Check the address that it was registered with, and that the server of haas can reach it.
    - A switch without SSH is registered with --transport telnet.
    - A registration can't be changed: to register it anew, delete its ports first, then the switch (haas switch_delete sw).
    - To see what was said: haas switch_test sw --recording
    "
  `);
  expect(pages.dellnos9).toMatchInlineSnapshot(`
    "Switch sw (dellnos9): FAILED

      connect  FAILED  TIME

    Reason: Switch 'sw': POST …/_operations/cli <input><show-command>version</show-command></input>: the connection failed: connect ECONNREFUSED 127.0.0.1:PORT.

    - Check the address that it was registered with, and that the server of haas can reach it.
    - HTTP or HTTPS is chosen with --tls off or --tls verify, and the port with an address of host:port.
    - A registration can't be changed: to register it anew, delete its ports first, then the switch (haas switch_delete sw).
    - To see what was said: haas switch_test sw --recording
    "
  `);
});

test("another service listens at its address", async () => {
  const website = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("<html>no such page</html>", { status: 404 }) });
  opened.push({ stop: () => website.stop(true) });
  const [toSsh, toTelnet, toWebsite] = await Promise.all(
    [
      start("nexus").then((emulator) => register("nexus", emulator, { transport: "telnet" })),
      start("nexus", { transport: "telnet" }).then((emulator) => register("nexus", emulator, { transport: "ssh" })),
      start("dellnos9").then((emulator) => register("dellnos9", emulator, { hostname: `127.0.0.1:${website.port}` })),
    ].map(async (label) => badPage(await label)),
  );
  expect(toSsh).toContain("SSH answers at that address: register it without --transport telnet.");
  expect(toTelnet).toContain("One that speaks telnet instead of SSH is registered with --transport telnet.");
  expect(toWebsite).toContain("No REST interface answers at that address: check its port");
});

test("it hangs after the login", async () => {
  const pages = await badPages(vendors, (vendor) => failingReads(vendor, { kind: "hang" }));
  expectWords(pages, " within 3 s", "It is there, but does not answer", "command_timeout");
  for (const page of Object.values(pages)) expect(page).toMatch(/^ {2}read port \S+ +FAILED +TIME$/m);
  expect(pages.delln3000).toMatchInlineSnapshot(`
    "Switch sw (delln3000): FAILED

      connect            ok      TIME
      log in             ok      TIME
      read port gi1/0/1  FAILED  TIME

    Its SSH host key is SHA256:KEY.

    Reason: Switch 'sw', port 'gi1/0/1': 'show interfaces switchport gi1/0/1' is not answered within 3 s; the device said last: 'show interfaces switchport gi1/0/1'.

    - It is there, but does not answer: see at its console whether it is busy, hangs, or waits for somebody.
    - A slow one gets more time by connect_timeout and command_timeout in its section of the server's haas.cfg.
    - To see what was said: haas switch_test sw --recording
    "
  `);
});

test("it hangs before the login", async () => {
  const pages = await badPages(consoleVendors, async (vendor) =>
    register(vendor, await start(vendor, { behaviour: { fault: { kind: "hang", at: 0 } } })),
  );
  expectWords(pages, "does not finish the SSH login within 5 s", "It is there, but does not answer", "connect_timeout");
});

test("its answers can't be read", async () => {
  const pages = await badPages(vendors, (vendor) => failingReads(vendor, { kind: "garbage" }));
  for (const vendor of vendors) expectWords({ page: pages[vendor] }, `Check that it is a ${vendor} indeed`, "--recording");
  expect(pages.brocade).toMatchInlineSnapshot(`
    "Switch sw (brocade): FAILED

      connect          ok      TIME
      log in           ok      TIME
      read port 1/0/1  FAILED  TIME

    Reason: Switch 'sw', port '1/0/1': GET …/%221/0/1%22: the answer is not XML (char '�' is not expected.).

    - Check that it is a brocade indeed: other devices, and other firmware, answer in other words.
    - To see what was said: haas switch_test sw --recording
    "
  `);
  // No byte of it reaches a terminal.
  for (const page of Object.values(pages)) expect(page.replaceAll("\n", "")).not.toMatch(/\p{Cc}/u);
});

test("it refuses to be read", async () => {
  const pages = await badPages(vendors, (vendor) => failingReads(vendor, { kind: "error" }));
  expectWords(pages, "haas show_switch sw\n", "the reason is in the switch's own words");
  expect(pages.nexus).toContain("'ERROR: Failed to apply the configuration, resource is busy'");
});

test("a port that it does not have", async () => {
  const pages = await badPages(vendors, async (vendor) => register(vendor, await start(vendor, { ports: [portNames[vendor](7)] })));
  expectWords(pages, "Check that the switch has a port of this name; these are registered: haas show_switch sw\n");
  expect(pages.powerconnect55xx).toMatchInlineSnapshot(`
    "Switch sw (powerconnect55xx): FAILED

      connect            ok      TIME
      log in             ok      TIME
      read port gi1/0/1  FAILED  TIME

    Its SSH host key is SHA256:KEY.

    Reason: Switch 'sw', port 'gi1/0/1': 'show interfaces switchport gi1/0/1' was answered with '% bad parameter value'.

    - Check that the switch has a port of this name; these are registered: haas show_switch sw
    - If it has, the reason is in the switch's own words: its manual and its log say more.
    - To see what was said: haas switch_test sw --recording
    "
  `);
});

test("it drops the connection", async () => {
  const pages = await badPages(vendors, (vendor) => failingReads(vendor, { kind: "drop" }));
  expectWords(pages, "It ended the session by itself: its log may say why.");
});

test("all of its sessions are in use", async () => {
  const full = { behaviour: { sessionLimit: 0 } };
  const pages = await badPages(vendors, async (vendor) => register(vendor, await start(vendor, full)));
  const overTelnet = await badPages(consoleVendors, async (vendor) =>
    register(vendor, await start(vendor, { ...full, transport: "telnet" })),
  );
  for (const some of [pages, overTelnet]) expectWords(some, "All of its sessions seem to be in use", "end those that nobody needs");
  expect(pages.delln3000).toMatchInlineSnapshot(`
    "Switch sw (delln3000): FAILED

      connect  ok      TIME
      log in   FAILED  TIME

    Its SSH host key is SHA256:KEY.

    Reason: Switch 'sw': while logging in, it ends the connection; it said 'Sorry, maximum number of sessions are already open.'.

    - All of its sessions seem to be in use, and haas needs one: end those that nobody needs, at its console.
    - A session that was cut off may count until the switch has timed it out.
    - To see what was said: haas switch_test sw --recording
    "
  `);
});

test("another host key than before; what the page says to do about it helps", async () => {
  for (const vendor of consoleVendors) {
    const relay = await startRelay(await start(vendor));
    const label = await register(vendor, relay.target, { hostname: relay.hostname });
    const before = await goodPage(label);
    expect(before).toContain("Its SSH host key is SHA256:KEY.");
    relay.target = await start(vendor, { hostKey: utils.generateKeyPairSync("ecdsa", { bits: 256 }).private });
    const page = await badPage(label);
    expect(relay.target.received).toEqual([]);
    if (vendor === "nexus")
      expect(page).toMatchInlineSnapshot(`
      "Switch sw (nexus): FAILED

        connect  FAILED  TIME

      Its SSH host key is SHA256:KEY.

      Reason: Switch 'sw': it presents the host key SHA256:KEY, but is known by SHA256:KEY. Either somebody is in between, or the switch was replaced; then run: haas switch_forget_host_key.

      - If the switch was replaced, or was given a new key, run: haas switch_forget_host_key sw
      - If not, somebody may be between haas and the switch: find that out first.
      - To see what was said: haas switch_test sw --recording
      "
    `);
    const advice = /run: haas (switch_forget_host_key) sw\n/.exec(page)![1]!;
    const forgotten = await run([haas, advice, label], { cwd: place.path, env: { HAAS_ENDPOINT: server.url } });
    expect(forgotten).toEqual({ status: 0, out: "", err: "" });
    expect(await goodPage(label)).toBe(before);
  }
});

test("SSH algorithms that are too old; what the page says to do about it helps", async () => {
  const pages: Partial<Record<Vendor, string>> = {};
  for (const vendor of consoleVendors) {
    const emulator = await start(vendor, { legacyAlgorithms: true });
    const label = await register(vendor, emulator);
    pages[vendor] = await badPage(label);
    expect(pages[vendor]).toContain("register it with --legacy-algorithms");
    await call("DELETE", `/switch/${label}/port/${encodeURIComponent(portNames[vendor](1))}`);
    await call("DELETE", `/switch/${label}`);
    await goodPage(await register(vendor, emulator, { legacy_algorithms: true }));
  }
  expect(pages.powerconnect55xx).toMatchInlineSnapshot(`
    "Switch sw (powerconnect55xx): FAILED

      connect  FAILED  TIME

    Reason: Switch 'sw': no SSH algorithm is known to both sides: for the key exchange it offers only diffie-hellman-group14-sha1; an old switch may need legacy_algorithms.

    - An old switch may need the old SSH algorithms: register it with --legacy-algorithms.
    - A registration can't be changed: to register it anew, delete its ports first, then the switch (haas switch_delete sw).
    - To see what was said: haas switch_test sw --recording
    "
  `);
});

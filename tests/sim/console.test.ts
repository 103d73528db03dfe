import { afterEach, describe, expect, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { Client, type ConnectConfig, utils } from "ssh2";
import { secrets } from "../support/secrets.ts";
import { type ConsoleKind, type ConsoleOptions, startConsole } from "./console.ts";
import type { Emulator, Fault } from "./emulator.ts";

// What the emulated consoles say and do, seen by somebody who types at them.

const password = secrets.console;
const vlans = [100, 200, 201, 202, 300];
const waitMs = 5000;

/** Somebody at a console. */
interface Typist {
  /** Everything that was shown so far, as Latin-1. */
  shown: string;
  type(text: string): void;
  /** Type, wait for what comes, and return what was shown since; without a text, since the last time. */
  say(text: string, until: string | RegExp): Promise<string>;
  readonly closed: Promise<void>;
  leave(): void;
}

const running: Emulator[] = [];
const present: Typist[] = [];

afterEach(async () => {
  for (const typist of present.splice(0)) typist.leave();
  for (const emulator of running.splice(0)) await emulator.stop();
});

async function start(kind: ConsoleKind, options: ConsoleOptions = {}): Promise<Emulator> {
  const emulator = await startConsole(kind, { vlans, ...options });
  running.push(emulator);
  return emulator;
}

const portOf = (emulator: Emulator) => Number(emulator.hostname.split(":")[1]);

function typist(write: (text: string) => void, leave: () => void) {
  const waiting = new Set<() => void>();
  const closed = Promise.withResolvers<void>();
  let isClosed = false;
  let seen = 0;
  const me: Typist = {
    shown: "",
    type: write,
    async say(text, until) {
      const from = text === "" ? seen : me.shown.length;
      if (text !== "") write(text);
      const deadline = Date.now() + waitMs;
      for (;;) {
        const since = me.shown.slice(from);
        const at = typeof until === "string" ? since.indexOf(until) : since.search(until);
        if (at !== -1) {
          seen = me.shown.length;
          return since;
        }
        const left = deadline - Date.now();
        if (left <= 0 || isClosed) throw new Error(`${isClosed ? "closed" : "time is over"} before ${until}: ${JSON.stringify(since)}`);
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, left);
          waiting.add(() => (clearTimeout(timer), resolve()));
        });
      }
    },
    closed: closed.promise,
    leave,
  };
  const wake = () => {
    for (const resolve of waiting) resolve();
    waiting.clear();
  };
  present.push(me);
  return {
    me,
    see(bytes: Uint8Array) {
      me.shown += Buffer.from(bytes).toString("latin1");
      wake();
    },
    end() {
      isClosed = true;
      wake();
      closed.resolve();
    },
  };
}

/** A plain telnet client that negotiates nothing; it sees the negotiation as text. */
function telnet(emulator: Emulator): Typist {
  const socket: Socket = connect(portOf(emulator), "127.0.0.1");
  const { me, see, end } = typist(
    (text) => void socket.write(Buffer.from(text, "latin1")),
    () => void socket.destroy(),
  );
  socket.on("data", (bytes: Buffer) => see(bytes));
  socket.on("error", () => {});
  socket.on("close", end);
  return me;
}

/** A plain SSH client; rejects when it can't log in. */
async function ssh(emulator: Emulator, config: ConnectConfig = {}, columns = 500): Promise<Typist> {
  const client = new Client();
  const shell = Promise.withResolvers<Typist>();
  client.on("error", (error) => shell.reject(error));
  client.on("close", () => shell.reject(new Error("closed")));
  client.on("ready", () => {
    client.shell({ cols: columns }, (error, stream) => {
      if (error) return shell.reject(error);
      const { me, see, end } = typist(
        (text) => void stream.write(Buffer.from(text, "latin1")),
        () => void client.end(),
      );
      stream.on("data", (bytes: Buffer) => see(bytes));
      client.on("close", end);
      shell.resolve(me);
    });
  });
  client.connect({
    host: "127.0.0.1",
    port: portOf(emulator),
    username: "admin",
    password,
    // Bun has no chacha20 as ssh2 wants it.
    algorithms: { cipher: ["aes128-gcm@openssh.com"] },
    ...config,
  });
  return shell.promise;
}

/** Why it went wrong. (`rejects` would stop the loop that the emulator runs in.) */
const failure = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => Promise.reject(new Error("it went well")),
    (error: Error) => error.message,
  );

const names = { powerconnect55xx: "User Name:", delln3000: "User:", nexus: "login: " } as const;
const execPrompt = { powerconnect55xx: "console#", delln3000: "console#", nexus: "switch# " } as const;
const kinds = Object.keys(names) as ConsoleKind[];

/** In the exec mode, over SSH, with paging off. */
async function atPrompt(emulator: Emulator, kind: ConsoleKind): Promise<Typist> {
  const me = await ssh(emulator);
  await me.say("", ending(kind));
  await me.say(kind === "powerconnect55xx" ? "terminal datadump\r" : "terminal length 0\r", ending(kind));
  return me;
}

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
/** The prompt of any mode at the end of what was shown, after the echo of what was typed. */
const anyPrompt = /[\r\n](?:console(?:\([a-zA-Z0-9/-]+\))?[#>]|switch(?:\([a-z-]+\))?[#>] )$/;
/** That of the exec mode, also where a pager was erased. */
const ending = (kind: ConsoleKind) => new RegExp(`[\\r\\n\\x08]${escaped(execPrompt[kind])}$`);

/** Type lines, each after the prompt of the one before; what was shown after the last one. */
async function lines(me: Typist, ...typed: string[]): Promise<string> {
  let shown = "";
  for (const line of typed) shown = await me.say(`${line}\r`, anyPrompt);
  return shown;
}

const enter = (port: string) => ["configure terminal", `interface ${port}`];
const firstPort = { powerconnect55xx: "gi1/0/1", delln3000: "gi1/0/1", nexus: "Ethernet1/1" } as const;

describe.each(kinds)("%s", (kind) => {
  const port = firstPort[kind];

  test("leaves the factory in access mode with every VLAN behind it", async () => {
    const emulator = await start(kind);
    expect(emulator.port(port)).toEqual({ native: 1, tagged: [] });
    expect(emulator.port("nothing")).toBeNull();
    const me = await atPrompt(emulator, kind);
    await lines(me, ...enter(port), "switchport mode trunk");
    const rest = kind === "delln3000" ? [...vlans, 2222] : vlans;
    expect(emulator.port(port)).toEqual({ native: 1, tagged: rest });
  });

  test("keeps what is saved through a power cut, and ends every connection", async () => {
    const emulator = await start(kind);
    const me = await atPrompt(emulator, kind);
    await lines(me, ...enter(port), "switchport mode trunk", "switchport trunk allowed vlan remove 1-4093");
    await lines(me, "switchport trunk allowed vlan add 100,200-202", "end");
    const state = { native: null, tagged: [100, 200, 201, 202] };
    expect(emulator.port(port)).toEqual(state);
    const question = await me.say("copy running-config startup-config\r", /\) $|\?$|complete\.[^]*# $/);
    if (kind !== "nexus") {
      expect(question).toMatch(/\(y\/n\) ?|\(Y\/N\)\[N\] \?$/i);
      expect(emulator.saves).toBe(0);
      expect(await me.say("y", ending(kind))).toMatch(/Copy succeeded|Configuration Saved!/);
    }
    expect(emulator.saves).toBe(1);
    await lines(me, ...enter(port), "switchport trunk allowed vlan remove 1-4093");
    expect(emulator.port(port)).toEqual({ native: null, tagged: [] });
    emulator.powerCycle();
    await me.closed;
    expect(emulator.port(port)).toEqual(state);
    emulator.factoryReset();
    emulator.powerCycle();
    expect(emulator.port(port)).toEqual({ native: 1, tagged: [] });
  });

  test("does not save when the answer is no", async () => {
    if (kind === "nexus") return;
    const emulator = await start(kind);
    const me = await atPrompt(emulator, kind);
    await me.say("copy running-config startup-config\r", /\) $|\?$/);
    await me.say("n", ending(kind));
    expect(emulator.saves).toBe(0);
  });

  test("an operator's change is in the running config only", async () => {
    const emulator = await start(kind);
    emulator.setPort(port, { native: 100, tagged: [200, 300] });
    expect(emulator.port(port)).toEqual({ native: 100, tagged: [200, 300] });
    emulator.setPort(port, { native: null, tagged: [] });
    expect(emulator.port(port)).toEqual({ native: null, tagged: [] });
    emulator.powerCycle();
    expect(emulator.port(port)).toEqual({ native: 1, tagged: [] });
  });

  test("telnet negotiates, asks in the vendor's words and does not show the password", async () => {
    const emulator = await start(kind, { transport: "telnet" });
    expect(emulator.settings).toMatchObject({ hostname: emulator.hostname, username: "admin", password, transport: "telnet" });
    const me = telnet(emulator);
    await me.say("", names[kind]);
    expect(me.shown).toStartWith("\xff\xfb\x01\xff\xfb\x03\xff\xfd\x18\xff\xfd\x1f");
    expect(me.shown).toMatch(/#/);
    expect(me.shown).toMatch(/>/);
    // The terminal type in the middle of a name.
    me.type("ad\xff\xfb\x18");
    await me.say("", "\xff\xfa\x18\x01\xff\xf0");
    await me.say("\xff\xfa\x18\x00xterm\xff\xf0min\r\x00", "Password:");
    await me.say(`${password}\r\n`, ending(kind));
    expect(me.shown).toContain(`${names[kind]}\xff\xfa\x18\x01\xff\xf0admin\r\n`);
    expect(me.shown).not.toContain(password);
    expect(emulator.received).toEqual(["admin", password]);
    // The carriage return and what follows it are one line end.
    await me.say("show version\r\n", ending(kind));
    expect(emulator.received.slice(2)).toEqual(["show version"]);
    await lines(me, "exit").catch(() => {});
    await me.closed;
    expect(emulator.sessions).toEqual({ now: 0, most: 1 });
  });

  test("three wrong logins end a telnet connection", async () => {
    const emulator = await start(kind, { transport: "telnet" });
    const me = telnet(emulator);
    await me.say("", names[kind]);
    const guesses = ["guess-secret-0001", "guess-secret-0002", "guess-secret-0003"] as const;
    for (const word of guesses) {
      await me.say("admin\r", "Password:");
      me.type(`${word}\r`);
      if (word !== guesses[2]) await me.say("", names[kind]);
    }
    await me.closed;
    expect(me.shown).toMatch(/login|attempts/i);
    expect(emulator.received).toEqual(guesses.flatMap((guess) => ["admin", guess]));
  });

  test("SSH takes the password, and nothing else", async () => {
    const emulator = await start(kind);
    expect(await failure(ssh(emulator, { password: secrets.wrongBmc }))).toContain("authentication");
    expect(await failure(ssh(emulator, { username: "root" }))).toContain("authentication");
    emulator.behaviour.refusesLogins = true;
    expect(await failure(ssh(emulator))).toContain("authentication");
    emulator.behaviour.refusesLogins = false;
    const me = await ssh(emulator);
    await me.say("", ending(kind));
    expect(me.shown).toMatch(/#[^]*>|>[^]*#/);
    expect(emulator.settings).not.toHaveProperty("transport");
    expect(emulator.settings["dummy_vlan"]).toBe(kind === "powerconnect55xx" ? undefined : 2222);
  });

  test("takes abbreviations, and answers the vendor's error to anything else", async () => {
    const emulator = await start(kind);
    const me = await atPrompt(emulator, kind);
    await lines(me, "conf t", `int ${kind === "nexus" ? "eth1/1" : "GigabitEthernet 1/0/1"}`, "sw mo tr", "sw tr all vl rem 1-4093");
    expect(emulator.port(port)).toEqual({ native: null, tagged: [] });
    const unknown = await lines(me, "flurb");
    const tooShort = await lines(me, "switchport trunk");
    const ambiguous = await lines(me, "e");
    if (kind === "powerconnect55xx") {
      expect(unknown).toContain("% Unrecognized command");
      expect(tooShort).toContain("% Incomplete command");
      expect(ambiguous).toContain("% Ambiguous command");
    } else {
      const word = kind === "nexus" ? "command" : "input detected";
      expect(unknown).toContain(`^\r\n% Invalid ${word} at '^' marker.`);
      expect(tooShort).toMatch(/incomplete command/i);
      expect(ambiguous).toContain(`% Ambiguous ${word} at '^' marker.`);
      // The caret stands below the word that is wrong.
      const [shown, below] = (await lines(me, "switchport nothing")).split("\r\n");
      const before = kind === "nexus" ? "switch(config-if)# " : "console(config-if-Gi1/0/1)#";
      expect((before + shown!).indexOf("nothing")).toBe(below!.indexOf("^"));
    }
  });

  test("edits the line, helps at once, and completes", async () => {
    const emulator = await start(kind);
    const me = await atPrompt(emulator, kind);
    const before = emulator.received.length;
    expect(await me.say("show ver?", /show ver$/)).toMatch(/\?\r\n {2}version/);
    await me.say("\x15", "\b \b".repeat(8));
    expect(await me.say("show vers\t", "show version ")).toBe("show version ");
    await me.say("\x03", anyPrompt);
    await me.say("flurb\x7f\x7f\x7f\x7f\x7fshow \x1b[Aversion\n", anyPrompt);
    await lines(me, ...enter(port));
    await me.say("swi\x1a", ending(kind));
    expect(emulator.received.slice(before)).toEqual(["flurb\x7f\x7f\x7f\x7f\x7fshow \x1b[Aversion", ...enter(port), "swi\x1a"]);
    // It ends every mode, and nothing where there is none to end.
    await me.say("\x1a", ending(kind));
    expect(me.shown).not.toMatch(/unrecognized|invalid/i);
  });

  test("refuses a line that is too long, as a whole", async () => {
    const emulator = await start(kind);
    const me = await atPrompt(emulator, kind);
    await lines(me, ...enter(port), "switchport mode trunk", "switchport trunk allowed vlan remove 1-4093");
    const answer = await lines(me, `switchport trunk allowed vlan add ${Array(150).fill("100").join(",")}`);
    expect(answer).toContain("line is too long");
    expect(emulator.port(port)).toEqual({ native: null, tagged: [] });
  });

  test("pages until it is told not to", async () => {
    const emulator = await start(kind, { ports: kind === "nexus" ? ["Ethernet1/1", "Ethernet1/2"] : ["gi1/0/1", "gi1/0/2"] });
    const pager = { powerconnect55xx: "More: <space>,  Quit: q, One line: <return> ", delln3000: "--More-- or (q)uit", nexus: "--More--" }[
      kind
    ];
    const command = kind === "nexus" ? "show interface switchport" : "show interfaces switchport";
    const me = await ssh(emulator);
    await me.say("", ending(kind));
    const page = await me.say(`${command}\r`, pager);
    expect(page.split("\r\n").length).toBe(1 + 23 + 1);
    const line = await me.say("\r", pager);
    // The pager is gone from the screen, then there is one line more.
    expect(line).toMatch(/^[\r\b ]+[^\r\n]*\r\n/);
    expect(line.split("\r\n").length).toBe(2);
    const steps = emulator.behaviour.steps;
    await me.say("q", ending(kind));
    expect(emulator.behaviour.steps).toBe(steps + 1);
    await me.say(`${command}\r`, pager);
    for (let left = 10; left > 0 && !ending(kind).test(me.shown); left--) {
      await me.say(" ", new RegExp(`${escaped(pager)}$|${ending(kind).source}`));
    }
    expect(me.shown).toMatch(ending(kind));
    const off = kind === "powerconnect55xx" ? "terminal datadump" : "terminal length 0";
    expect(await lines(me, off, command)).not.toContain(pager);
    emulator.behaviour.pages = true;
    const short = await me.say(`${command}\r`, pager);
    expect(short.split("\r\n").length).toBeLessThan(page.split("\r\n").length);
  });

  test("asks for the enable password when it has one", async () => {
    const enablePassword = "enable-secret-e4ab";
    const emulator = await start(kind, { enablePassword });
    const prompt = execPrompt[kind].replace("#", ">");
    expect(emulator.settings["enable_password"]).toBe(enablePassword);
    const me = await ssh(emulator);
    const user = new RegExp(`[\\r\\n]${escaped(prompt)}$`);
    await me.say("", user);
    expect(await lines(me, "configure")).toMatch(/unrecognized|invalid/i);
    await me.say("enable\r", "Password:");
    await me.say(`${secrets.wrongBmc}\r`, user);
    await me.say("enable\r", "Password:");
    await me.say(`${enablePassword}\r`, ending(kind));
    expect(me.shown).not.toContain(enablePassword);
  });

  test("messages of the log come between and into what it says, in its own format, and the half-typed line is drawn again", async () => {
    const emulator = await start(kind, { behaviour: { logs: true } });
    const me = await ssh(emulator);
    const format = {
      powerconnect55xx: /\d\d-\w{3}-\d{4} \d\d:\d\d:\d\d %[A-Z]+-[A-Z]-/,
      delln3000: /<\d+> \w{3} +\d+ \d\d:\d\d:\d\d console-1 .* %% /,
      nexus: /\d{4} \w{3} +\d+ \d\d:\d\d:\d\d switch %[A-Z]+-\d-/,
    }[kind];
    await me.say("", format);
    for (let i = 0; i < 12; i++) await me.say("show version\r", /version\b[^]*[#] ?$/);
    const drawnAgain = new RegExp(`${escaped(execPrompt[kind])}show \r\n${format.source}[^]*?\r\n${escaped(execPrompt[kind])}show version`);
    expect(me.shown).toMatch(drawnAgain);
    expect(emulator.received).toEqual(Array(12).fill("show version"));
  });

  test("writes single bytes when asked to", async () => {
    const emulator = await start(kind, { behaviour: { oneByteWrites: true } });
    const me = await atPrompt(emulator, kind);
    expect(await lines(me, "show version")).toMatch(/version|Model/);
    await me.say("exit\r", "exit");
    await me.closed;
  });

  test("refuses one session too many in its own words", async () => {
    const emulator = await start(kind, { transport: "telnet", behaviour: { sessionLimit: 1 } });
    const first = telnet(emulator);
    await first.say("", names[kind]);
    const second = telnet(emulator);
    await second.closed;
    expect(second.shown).toMatch(/session/i);
    expect(emulator.sessions).toEqual({ now: 1, most: 1 });
    first.leave();
    await first.closed;
    const third = telnet(emulator);
    await third.say("", names[kind]);
  });

  describe("faults", () => {
    const command = "switchport trunk allowed vlan remove 100";
    /** At the prompt of a trunk that passes VLANs 100 and 200; the fault happens at the next line. */
    async function before(fault: Omit<Fault, "at">): Promise<[Emulator, Typist]> {
      const emulator = await start(kind);
      emulator.setPort(port, { native: null, tagged: [100, 200] });
      const me = await atPrompt(emulator, kind);
      await lines(me, ...enter(port));
      emulator.behaviour.fault = { at: 0, ...fault };
      expect(emulator.behaviour.steps).toBe(0);
      return [emulator, me];
    }
    const untouched = [100, 200];
    const done = [200];

    test("cut ends the connection in the answer, which has taken effect", async () => {
      for (const bytes of [0, 5, 10_000]) {
        const [emulator, me] = await before({ kind: "cut", bytes });
        const from = me.shown.length;
        me.type(`${command}\r`);
        await me.closed;
        const answer = me.shown.slice(from).replace(command, "");
        if (bytes < 10_000) expect(answer.length).toBe(bytes);
        else expect(answer).toMatch(anyPrompt);
        expect(emulator.port(port)!.tagged).toEqual(done);
        expect(emulator.behaviour.fault).toBeNull();
        expect(emulator.behaviour.steps).toBe(1);
      }
    });

    test("drop ends it before that", async () => {
      const [emulator, me] = await before({ kind: "drop" });
      me.type(`${command}\r`);
      await me.closed;
      expect(emulator.port(port)!.tagged).toEqual(untouched);
      expect((await atPrompt(emulator, kind)).shown).toMatch(ending(kind));
    });

    test("garbage is noise and a prompt", async () => {
      const [emulator, me] = await before({ kind: "garbage" });
      const answer = await me.say(`${command}\r`, anyPrompt);
      expect(answer).toMatch(/[\x80-\xff]/);
      expect(answer).toContain("\0");
      expect(emulator.port(port)!.tagged).toEqual(untouched);
      await lines(me, command);
      expect(emulator.port(port)!.tagged).toEqual(done);
    });

    test("error and refuse are a refusal in the vendor's words", async () => {
      for (const fault of ["error", "refuse"] as const) {
        const [emulator, me] = await before({ kind: fault });
        expect(await lines(me, command)).toMatch(/[\r\n](% |ERROR: )/);
        expect(emulator.port(port)!.tagged).toEqual(untouched);
        await lines(me, command);
        expect(emulator.port(port)!.tagged).toEqual(done);
      }
    });

    test("hang and silent answer nothing more, on that connection only", async () => {
      for (const [fault, left] of [
        ["hang", untouched],
        ["silent", done],
      ] as const) {
        const [emulator, me] = await before({ kind: fault });
        const from = me.shown.length;
        me.type(`${command}\r`);
        while (emulator.behaviour.steps === 0) await Bun.sleep(1);
        me.type("switchport trunk allowed vlan remove 200\r");
        const other = await atPrompt(emulator, kind);
        await lines(other, "show version");
        expect(me.shown.slice(from).replace(command, "")).toBe("");
        expect(emulator.port(port)!.tagged).toEqual([...left]);
        expect(emulator.sessions).toEqual({ now: 2, most: 2 });
      }
    });

    test("power ends everything and brings the startup config back", async () => {
      const [emulator, me] = await before({ kind: "power" });
      emulator.behaviour.fault = null;
      const other = await atPrompt(emulator, kind);
      emulator.behaviour.fault = { kind: "power", at: 0 };
      me.type(`${command}\r`);
      await Promise.all([me.closed, other.closed]);
      expect(emulator.port(port)).toEqual({ native: 1, tagged: [] });
    });

    test("nothing takes effect that was under way when the power went", async () => {
      const [emulator, me] = await before({ kind: "slow", delayMs: 50 });
      me.type(`${command}\r`);
      while (emulator.behaviour.steps === 0) await Bun.sleep(1);
      emulator.powerCycle();
      emulator.setPort(port, { native: null, tagged: untouched });
      await me.closed;
      await Bun.sleep(100);
      expect(emulator.port(port)!.tagged).toEqual(untouched);
    });

    test("slow answers after all", async () => {
      const [emulator, me] = await before({ kind: "slow", delayMs: 20 });
      await lines(me, command);
      expect(emulator.port(port)!.tagged).toEqual(done);
    });

    test("happen to connections too, by SSH and telnet", async () => {
      for (const transport of ["ssh", "telnet"] as const) {
        const emulator = await start(kind, { transport });
        const open = async (patienceMs: number) => {
          if (transport === "ssh") return ssh(emulator, { readyTimeout: patienceMs });
          const me = telnet(emulator);
          await Promise.race([me.say("", names[kind]), Bun.sleep(patienceMs)]);
          return me;
        };
        const next = (fault: Omit<Fault, "at">, patienceMs = waitMs) => {
          emulator.behaviour.fault = { at: 0, ...fault };
          return open(patienceMs);
        };
        if (transport === "ssh") {
          for (const fault of ["drop", "power", "refuse"] as const) await failure(next({ kind: fault }));
          for (const fault of ["hang", "silent"] as const) expect(await failure(next({ kind: fault }, 200))).toContain("Timed out");
          await (await next({ kind: "slow", delayMs: 10 })).say("", ending(kind));
          const cut = await next({ kind: "cut", bytes: 8 });
          await cut.closed;
          expect(cut.shown.length).toBe(8);
          const garbage = await next({ kind: "garbage" });
          await garbage.say("", ending(kind));
          expect(garbage.shown).toContain("\0");
        } else {
          for (const fault of ["drop", "power"] as const) expect(await failure(next({ kind: fault }))).toContain("closed");
          for (const fault of ["hang", "silent"] as const) expect((await next({ kind: fault }, 200)).shown).toBe("");
          const refused = await next({ kind: "refuse" });
          await refused.say("admin\r", "Password:");
          await refused.say(`${password}\r`, names[kind]);
          await (await next({ kind: "slow", delayMs: 10 })).say("", "");
        }
        const error = await next({ kind: "error" }).catch(() => present.at(-1)!);
        await error.closed;
        expect(error.shown).toMatch(/session/i);
        await open(waitMs);
      }
    });

    test("count the lines of a login", async () => {
      const emulator = await start(kind, { transport: "telnet", behaviour: { fault: { kind: "hang", at: 2 } } });
      const me = telnet(emulator);
      await me.say("", names[kind]);
      await me.say("admin\r", "Password:");
      me.type(`${password}\r`);
      while (emulator.behaviour.steps < 3) await Bun.sleep(1);
      const other = telnet(emulator);
      await other.say("", names[kind]);
      await other.say("admin\r", "Password:");
      await other.say(`${password}\r`, ending(kind));
      expect(me.shown).toMatch(/Password: ?$/);
    });
  });
});

describe("SSH", () => {
  test("lets an authorized key in, and no other", async () => {
    const mine = utils.generateKeyPairSync("ed25519");
    const other = utils.generateKeyPairSync("ed25519");
    const emulator = await start("nexus", { authorizedKey: mine.public });
    await (await ssh(emulator, { password: "", privateKey: mine.private })).say("", ending("nexus"));
    expect(await failure(ssh(emulator, { password: "", privateKey: other.private }))).toContain("authentication");
  });

  test("shows the host key that it was given", async () => {
    const hostKey = utils.generateKeyPairSync("ecdsa", { bits: 256 });
    const seen: Buffer[] = [];
    const config = { hostVerifier: (key: Buffer) => seen.push(key) > 0 };
    await ssh(await start("nexus", { hostKey: hostKey.private }), config);
    await ssh(await start("nexus"), config);
    await ssh(await start("delln3000"), config);
    expect(seen[0]!.toString("base64")).toBe(hostKey.public.split(" ")[1]!);
    expect(seen[1]!.equals(seen[0]!)).toBe(false);
    expect(seen[2]!.equals(seen[1]!)).toBe(false);
  });

  test("can be as old as its switch", async () => {
    const emulator = await start("powerconnect55xx", { legacyAlgorithms: true });
    expect(await failure(ssh(emulator))).toContain("");
    const me = await ssh(emulator, {
      algorithms: {
        kex: ["diffie-hellman-group14-sha1"],
        serverHostKey: ["ssh-rsa"],
        cipher: ["aes128-cbc"],
        hmac: ["hmac-sha1"],
      },
    });
    await me.say("", ending("powerconnect55xx"));
  });

  test("can leave the login to the console", async () => {
    const emulator = await start("powerconnect55xx", { shellLogin: true });
    const me = await ssh(emulator, { username: "anybody", password: secrets.wrongUser });
    await me.say("", "User Name:");
    await me.say("admin\r", "Password:");
    await me.say(`${password}\r`, ending("powerconnect55xx"));
    expect(emulator.received).toEqual(["admin", password]);
  });
});

const field = (shown: string, name: string) => new RegExp(`[\\r\\n] *${escaped(name)}: ?([^\\r\\n]*)`).exec(shown)?.[1];

describe("Dell PowerConnect 5500", () => {
  const kind = "powerconnect55xx";
  const show = "do show interfaces switchport Gi1/0/1";

  test("wants VLANs to exist and a native VLAN to be allowed", async () => {
    const emulator = await start(kind);
    const me = await atPrompt(emulator, kind);
    await lines(me, ...enter("gi1/0/1"), "switchport mode trunk", "switchport trunk allowed vlan none");
    expect(await lines(me, "switchport trunk allowed vlan add 100,999")).toMatch(/[\r\n]% .*999/);
    expect(await lines(me, "switchport trunk allowed vlan 100")).toContain("% ");
    expect(await lines(me, "switchport trunk native vlan 100")).toContain("% ");
    expect(await lines(me, "switchport trunk native vlan 4095")).toContain("% bad parameter value");
    // The native VLAN of the factory is not allowed any more, but not forgotten.
    expect(field(await lines(me, show), "Trunking Native Mode VLAN")).toBe("1 (Inactive)");
    expect(field(await lines(me, show), "Trunking VLANs Enabled")).toBe("none");
    expect(emulator.port("gi1/0/1")).toEqual({ native: null, tagged: [] });
    await lines(me, "switchport trunk allowed vlan add 100,200-202", "switchport trunk native vlan 100");
    expect(emulator.port("gi1/0/1")).toEqual({ native: 100, tagged: [200, 201, 202] });
    await lines(me, "switchport trunk allowed vlan remove 100");
    expect(emulator.port("gi1/0/1")).toEqual({ native: null, tagged: [200, 201, 202] });
    await lines(me, "switchport trunk native vlan none");
    const shown = await lines(me, show);
    expect(field(shown, "Trunking Native Mode VLAN")).toBe("none");
    expect(field(shown, "Trunking VLANs Enabled")).toBe("200-202");
    expect(shown).toContain("Classification rules:");
  });

  test("a list goes on below itself, and VLANs that do not exist are inactive", async () => {
    const many = Array.from({ length: 60 }, (_, i) => 1000 + 2 * i);
    const emulator = await start(kind, { vlans: many });
    const me = await atPrompt(emulator, kind);
    await lines(me, ...enter("gi1/0/1"), "switchport mode trunk");
    const shown = await lines(me, show);
    const list = /Trunking VLANs Enabled:((?: [^\r\n]*\r\n)+)/.exec(shown)![1]!;
    expect(list.split("\r\n").length).toBeGreaterThan(5);
    expect(list).toMatch(/\r\n +2-999 \(Inactive\),1001 \(Inactive\),/);
    for (const line of shown.split("\r\n")) expect(line.length).toBeLessThanOrEqual(80);
    await lines(me, "end", "configure", "vlan database", "no vlan 1000-1200");
    expect(emulator.port("gi1/0/1")).toEqual({ native: 1, tagged: [] });
    await lines(me, "vlan 1002");
    expect(emulator.port("gi1/0/1")).toEqual({ native: 1, tagged: [1002] });
  });

  test("takes ranges of ports", async () => {
    const emulator = await start(kind, { ports: ["gi1/0/1", "gi1/0/2", "gi1/0/3", "te1/0/1"] });
    const me = await atPrompt(emulator, kind);
    expect(await lines(me, "configure", "interface gi1/0/4")).toContain("% bad parameter value");
    expect(await lines(me, "interface range gi1/0/1-2,te1/0/1")).toEndWith("console(config-if-range)#");
    await lines(me, "switchport access vlan 100");
    expect(["gi1/0/1", "gi1/0/2", "gi1/0/3", "te1/0/1"].map((label) => emulator.port(label)?.native)).toEqual([100, 100, 1, 100]);
  });
});

describe("Dell N3000", () => {
  const kind = "delln3000";
  const show = "do show interfaces switchport gi1/0/1";

  test("has always a native VLAN, which its list may lose", async () => {
    const emulator = await start(kind);
    const me = await atPrompt(emulator, kind);
    await lines(me, ...enter("gi1/0/1"), "switchport mode trunk");
    expect(field(await lines(me, show), "Trunking Mode VLANs Enabled")).toBe("All");
    expect(await lines(me, "switchport trunk native vlan none")).toContain("Invalid input");
    expect(await lines(me, "switchport trunk allowed vlan none")).toContain("Invalid input");
    expect(await lines(me, "switchport trunk allowed vlan add 999")).toContain("VLAN ID not found");
    expect(await lines(me, "switchport trunk native vlan 999")).toContain("VLAN ID not found");
    expect(await lines(me, "switchport trunk native vlan 4094")).toContain("Invalid input");
    await lines(me, "switchport trunk native vlan 2222", "switchport trunk allowed vlan remove 1-4093");
    const empty = await lines(me, show);
    expect(field(empty, "Trunking Mode Native VLAN")).toBe("2222");
    expect(field(empty, "Trunking Mode VLANs Enabled")).toBe("");
    expect(empty).toContain("\r\nPort: Gi1/0/1\r\n");
    expect(emulator.port("gi1/0/1")).toEqual({ native: null, tagged: [] });
    expect(await lines(me, "switchport trunk native vlan 100")).toContain("ERROR");
    await lines(me, "switchport trunk allowed vlan add 100,200", "switchport trunk native vlan 100");
    expect(emulator.port("gi1/0/1")).toEqual({ native: 100, tagged: [200] });
    expect(field(await lines(me, show), "Member of VLANs ")).toBe("(100),200");
    expect(await lines(me, "interface gi1/0/3")).toContain("An invalid interface has been used for this function");
  });

  test("the dummy VLAN may be missing", async () => {
    const me = await atPrompt(await start(kind, { dummyExists: false }), kind);
    await lines(me, ...enter("gi1/0/1"), "switchport mode trunk");
    expect(await lines(me, "switchport trunk native vlan 2222")).toContain("VLAN ID not found");
  });
});

describe("Cisco Nexus", () => {
  const kind = "nexus";

  test("takes VLANs that do not exist, which pass nothing", async () => {
    const emulator = await start(kind);
    const me = await atPrompt(emulator, kind);
    await lines(me, ...enter("ethernet 1/1"), "switchport", "switchport mode trunk", "switchport trunk allowed vlan none");
    const none = await lines(me, "show interface Ethernet1/1 switchport");
    expect(field(none, "Trunking VLANs Allowed")).toBe("none");
    await lines(me, "switchport trunk native vlan 2222", "switchport trunk allowed vlan 100,999,2222");
    expect(emulator.port("ethernet 1/1")).toEqual({ native: null, tagged: [100] });
    const shown = await lines(me, "end", "show interface Ethernet1/1 switchport");
    expect(shown).toMatch(/[\r\n]Name: Ethernet1\/1[\r\n]/);
    expect(field(shown, "Operational Mode")).toBe("trunk");
    expect(field(shown, "Trunking Native Mode VLAN")).toBe("2222 (Vlan not created)");
    expect(field(shown, "Trunking VLANs Allowed")).toBe("100,999,2222");
    // A dummy VLAN that somebody creates joins ports.
    await lines(me, "configure terminal", "vlan 2222");
    expect(emulator.port("ethernet1/1")).toEqual({ native: 2222, tagged: [100] });
    await lines(me, "shutdown");
    expect(emulator.port("ethernet1/1")).toEqual({ native: null, tagged: [100] });
    expect(await lines(me, "no vlan 1")).toContain("ERROR: ");
    expect(await lines(me, ...enter("ethernet1/1"), "switchport trunk native vlan 4095")).toContain("% Invalid number");
    await lines(me, "no switchport");
    expect(emulator.port("ethernet1/1")).toEqual({ native: null, tagged: [] });
    await lines(me, "switchport");
    expect(emulator.port("ethernet1/1")).toEqual({ native: 1, tagged: [] });
  });

  test("takes lists of ports, and shows all of them", async () => {
    const ports = [1, 2, 3, 4].map((n) => `Ethernet1/${n}`);
    const emulator = await start(kind, { ports });
    const me = await atPrompt(emulator, kind);
    expect(await lines(me, "configure terminal", "interface Ethernet1/1, Ethernet1/3-4")).toEndWith("switch(config-if-range)# ");
    await lines(me, "switchport access vlan 200");
    expect(ports.map((label) => emulator.port(label)?.native)).toEqual([200, 1, 200, 200]);
    const all = await lines(me, "show interface switchport");
    expect([...all.matchAll(/Name: (\S+)/g)].map(([, label]) => label)).toEqual(ports);
    expect(await lines(me, "interface Ethernet1/1, Ethernet1/9")).toContain("Invalid interface format at '^' marker.");
  });

  test("breaks the line that is typed behind the last column of the terminal", async () => {
    const emulator = await start(kind);
    const me = await ssh(emulator, {}, 40);
    await me.say("", ending(kind));
    const shown = await lines(me, "show interface Ethernet1/1 switchport");
    expect(shown).toContain("show interface Ethernet1/1 switc \rhport\r\n");
  });
});

test("delays what it is told to delay", async () => {
  const emulator = await start("nexus", { transport: "telnet", behaviour: { loginDelayMs: 30, commandDelayMs: 30 } });
  const me = telnet(emulator);
  await me.say("", "login: ");
  await me.say("admin\r", "Password:");
  await me.say(`${password}\r`, ending("nexus"));
  // What is typed before an answer waits for its turn.
  const shown = await me.say("show version\rshow vlan\r", /VLAN Name[^]*switch# $/);
  expect(shown.indexOf("NX-OS")).toBeLessThan(shown.indexOf("VLAN Name"));
  expect(emulator.received.slice(2)).toEqual(["show version", "show vlan"]);
});

test("twenty switches with many ports fit into one process", async () => {
  const ports = Array.from({ length: 48 }, (_, i) => `Ethernet1/${i + 1}`);
  const emulators = await Promise.all(Array.from({ length: 20 }, () => start("nexus", { ports })));
  await Promise.all(
    emulators.map(async (emulator) => {
      const me = await atPrompt(emulator, "nexus");
      await lines(me, "configure terminal", "interface Ethernet1/1-48", "switchport mode trunk", "switchport trunk allowed vlan 100");
      expect(emulator.port("Ethernet1/48")).toEqual({ native: null, tagged: [100] });
    }),
  );
});

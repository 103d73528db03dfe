import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { Server, utils } from "ssh2";
import { connectSsh, type SshOptions } from "../../src/hardware/console/ssh.ts";
import type { Transport } from "../../src/hardware/console/transport.ts";
import { haasBinary } from "../support/binary.ts";
import { keygen, type Keys, makeKeys, startOpenSsh, thisUser } from "../support/openssh.ts";
import { isRunning } from "../support/processes.ts";
import { secrets } from "../support/secrets.ts";
import { startServer } from "../support/server.ts";
import { untilWithin } from "../support/until.ts";

// Key exchange, host key and login against OpenSSH, which is nobody's emulation; and the processes that all of it runs in.

let keys: Keys;
let port: number;
const ending: (() => unknown)[] = [];
const closing: (() => unknown)[] = [];

beforeAll(async () => {
  keys = makeKeys(["ed25519", "rsa", "dsa"]);
  ending.push(() => keys.remove());
  const server = await startOpenSsh(keys);
  ending.push(() => server.stop());
  ({ port } = server);
});
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
  // All but the one that waits for more.
  await untilWithin(10_000)("the processes of single connections to be gone", () => clientsOf(process.pid).length <= 1);
});
afterAll(async () => {
  for (const end of ending.splice(0).toReversed()) await end();
});

const options = (more: Partial<SshOptions> = {}): SshOptions => ({
  host: "127.0.0.1",
  port,
  timeoutMs: 10_000,
  username: thisUser(),
  password: "",
  keyFile: keys.path("user"),
  legacyAlgorithms: false,
  knownHostKey: async (presented) => presented,
  ...more,
});

async function connect(more: Partial<SshOptions> = {}): Promise<Transport> {
  const transport = await connectSsh(options(more));
  closing.push(() => transport.close());
  return transport;
}

const failure = (more: Partial<SshOptions>) => connect(more).then(String, (error: Error) => error.message);

/** Only with these algorithms, and the port it listens on. */
async function serverWith(...algorithms: string[]): Promise<number> {
  const hostKey = algorithms.some((one) => one.includes("ssh-dss"))
    ? "dsa"
    : algorithms.some((one) => one.includes("rsa"))
      ? "rsa"
      : "ed25519";
  const server = await startOpenSsh(keys, algorithms, hostKey);
  closing.push(() => server.stop());
  return server.port;
}

/** Whether the terminal at the other end shows what is typed. What the shell makes of it depends on this user's own files. */
async function answers(transport: Transport): Promise<boolean> {
  transport.write("echo it-works\n");
  let text = "";
  for (let next: string | null = ""; next !== null && !text.includes("it-works"); text += next ?? "") next = await transport.read(5_000);
  return text.includes("it-works");
}

/** The SSH clients of a process, by their process ids. */
function clientsOf(parent: number): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => pid > 0 && isRunning(pid))
    .filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
        const isChild = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === parent;
        return isChild && /ssh-c(?:hild|lient)/.test(readFileSync(`/proc/${pid}/cmdline`, "utf8"));
      } catch {
        return false;
      }
    });
}

const gone = (pid: number) => untilWithin(10_000)("the process to be gone", () => !isRunning(pid));

test.each([false, true])("a shell of OpenSSH, with legacy algorithms offered: %p", async (legacyAlgorithms) => {
  let presented = "";
  const knownHostKey = async (key: string) => (presented = key);
  const transport = await connect({ legacyAlgorithms, knownHostKey });
  expect(keygen("-lf", `${keys.path("ed25519")}.pub`)).toContain(presented);
  expect(await answers(transport)).toBe(true);
  transport.close();
  expect(await transport.read(1_000).catch((error: Error) => error.message)).toBe("the connection was closed");
});

test("a key that it does not know is refused, and so is a host that is not the one we know", async () => {
  expect(await failure({ keyFile: keys.path("stranger") })).toContain("refuses the login");
  expect(await failure({ knownHostKey: async () => "SHA256:other" })).toContain("is known by SHA256:other");
  expect(await failure({ knownHostKey: () => Promise.reject(new Error("the database is away")) })).toBe("the database is away");
});

describe("algorithms", () => {
  test("four old switches at once don't hold those who have nothing to do with them", async () => {
    const ports = await Promise.all(
      [
        "diffie-hellman-group14-sha256",
        "diffie-hellman-group-exchange-sha256",
        "diffie-hellman-group16-sha512",
        "diffie-hellman-group14-sha1",
      ].map((kex) => serverWith(`KexAlgorithms=${kex}`, "Ciphers=aes256-ctr")),
    );
    let longest = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 10);
    const shells = await Promise.all(ports.map((one) => connect({ port: one, legacyAlgorithms: true, timeoutMs: 50_000 })));
    clearInterval(timer);
    expect(await Promise.all(shells.map(answers))).toEqual([true, true, true, true]);
    // One group of 4096 bits takes Bun three seconds, and all of these together twelve.
    expect(longest).toBeLessThan(2_000);
  });

  test.each([
    ["diffie-hellman-group1-sha1", "KexAlgorithms"],
    ["diffie-hellman-group18-sha512", "KexAlgorithms"],
    ["chacha20-poly1305@openssh.com", "Ciphers"],
    ["ssh-dss", "HostKeyAlgorithms"],
    ["umac-64@openssh.com", "MACs"],
  ])("a switch that has only %s is told so, and what to do", async (name, option) => {
    const more = option === "MACs" ? ["Ciphers=aes128-ctr"] : [];
    const words = await failure({ port: await serverWith(`${option}=${name}`, ...more), legacyAlgorithms: true });
    expect(words).toMatch(/^no SSH algorithm is known to both sides: for .+ it offers only [a-z0-9@.-]+, which haas can't do; /);
    expect(words).toContain(`it offers only ${name}, which`);
    expect(words).toContain("update its firmware or its SSH settings, or register it with transport telnet");
  });

  test.each([
    ["KexAlgorithms=diffie-hellman-group14-sha1", []],
    ["HostKeyAlgorithms=ssh-rsa", []],
    ["Ciphers=3des-cbc", []],
    ["MACs=hmac-md5", ["Ciphers=aes128-ctr"]],
  ])("%s needs legacy_algorithms, and works with it", async (option, more) => {
    const old = await serverWith(option, ...more);
    expect(await failure({ port: old })).toMatch(/an old switch may need legacy_algorithms$/);
    expect(await answers(await connect({ port: old, legacyAlgorithms: true }))).toBe(true);
  });
});

describe("the processes", () => {
  test("many connections share one; a handshake that takes long has its own, for as long as the connection", async () => {
    await Promise.all(Array.from({ length: 6 }, () => connect()));
    const [shared, ...others] = clientsOf(process.pid);
    expect(others).toEqual([]);
    const old = await connect({ port: await serverWith("KexAlgorithms=diffie-hellman-group14-sha256") });
    const own = clientsOf(process.pid).filter((pid) => pid !== shared);
    expect(own.length).toBe(1);
    old.close();
    await gone(own[0]!);
    expect(clientsOf(process.pid)).toEqual([shared!]);
  });

  test("know no secret from the outside, and nothing of the environment", async () => {
    process.env.HAAS_CANARY = secrets.bob;
    closing.push(() => delete process.env.HAAS_CANARY);
    // The one that there is was killed a moment ago, which is not known yet.
    for (const pid of clientsOf(process.pid)) process.kill(pid, "SIGKILL");
    // OpenSSH refuses the password, and is told it.
    expect(await failure({ password: secrets.console, keyFile: keys.path("stranger") })).toContain("refuses the login");
    const [pid] = clientsOf(process.pid);
    const read = (name: string) => readFileSync(`/proc/${pid}/${name}`, "utf8");
    expect(
      read("environ")
        .split("\0")
        .filter((one) => one !== "" && !one.startsWith("NODE_CHANNEL_")),
    ).toEqual([]);
    expect(read("cmdline")).not.toContain(secrets.console);
  });

  test.each(["its own", "a shared"])("the death of %s ends a session with a sentence, and the next connection works", async (whose) => {
    const more = whose === "its own" ? { port: await serverWith("KexAlgorithms=diffie-hellman-group14-sha256") } : {};
    const first = await connect();
    const before = clientsOf(process.pid);
    const transport = whose === "its own" ? await connect(more) : first;
    const pids = whose === "its own" ? clientsOf(process.pid).filter((pid) => !before.includes(pid)) : before;
    expect(pids.length).toBe(1);
    const reading = (async () => {
      for (;;) await transport.read(20_000);
    })().catch((error: Error) => error.message);
    process.kill(pids[0]!, "SIGKILL");
    expect(await reading).toBe("haas's SSH client ended unexpectedly (signal SIGKILL)");
    expect(await answers(await connect(more))).toBe(true);
  });

  test("one that hangs is ended, with a sentence, and the next connection works", async () => {
    const transport = await connect();
    const [pid] = clientsOf(process.pid);
    process.kill(pid!, "SIGSTOP");
    expect(await failure({ timeoutMs: 1_000 })).toBe(`127.0.0.1, port ${port} does not finish the SSH login within 1 s`);
    await gone(pid!);
    const reading = (async () => {
      for (;;) await transport.read(20_000);
    })().catch((error: Error) => error.message);
    expect(await reading).toBe("haas's SSH client hung, and was ended");
    expect(await answers(await connect())).toBe(true);
  });

  test("one that hangs while nobody connects is noticed, too", async () => {
    const transport = await connect();
    const [pid] = clientsOf(process.pid);
    process.kill(pid!, "SIGSTOP");
    const reading = (async () => {
      for (;;) await transport.read(20_000);
    })().catch((error: Error) => error.message);
    expect(await reading).toBe("haas's SSH client hung, and was ended");
    await gone(pid!);
  });

  test("one that hangs in a long handshake ends with the time for it", async () => {
    const before = clientsOf(process.pid);
    const old = await serverWith("KexAlgorithms=diffie-hellman-group16-sha512");
    const failing = failure({ port: old, timeoutMs: 4_000 });
    let own: number[] = [];
    await untilWithin(3_000)("its process", () => (own = clientsOf(process.pid).filter((pid) => !before.includes(pid))).length === 1);
    process.kill(own[0]!, "SIGSTOP");
    expect(await failing).toBe(`127.0.0.1, port ${old} does not finish the SSH login within 4 s`);
    await gone(own[0]!);
  });

  test("what was stopped for longer than the right to change a switch may last types nothing any more", async () => {
    const own = await connect({ port: await serverWith("KexAlgorithms=diffie-hellman-group14-sha256") });
    await answers(own);
    const [pid] = clientsOf(process.pid).slice(-1);
    process.kill(pid!, "SIGSTOP");
    const file = join(keys.dir, "typed");
    own.write(`touch ${file}\n`);
    await Bun.sleep(6_000);
    process.kill(pid!, "SIGCONT");
    const reading = (async () => {
      for (;;) await own.read(20_000);
    })().catch((error: Error) => error.message);
    expect(await reading).toMatch(/^haas's SSH client was held up for \d+ s$/);
    expect(await Bun.file(file).exists()).toBe(false);
  });

  test.each(["alive", "stopped", "computing"])("none outlives a haas that is killed: %s", async (state) => {
    const old = await serverWith("KexAlgorithms=diffie-hellman-group16-sha512");
    const at = state === "computing" ? old : port;
    const program = `
      const { connectSsh } = await import(${JSON.stringify(join(import.meta.dir, "../../src/hardware/console/ssh.ts"))});
      const options = { host: "127.0.0.1", port: ${at}, timeoutMs: 60000, username: ${JSON.stringify(thisUser())}, password: "", keyFile: ${JSON.stringify(keys.path("user"))}, legacyAlgorithms: false, knownHostKey: async (key) => key };
      setInterval(() => {}, 1000);
      await connectSsh(options);
      console.log("connected");`;
    const parent = Bun.spawn([process.execPath, "-e", program], { stdio: ["ignore", "pipe", "inherit"] });
    closing.push(() => parent.kill("SIGKILL"));
    const wanted = state === "computing" ? 2 : 1;
    if (state !== "computing") await parent.stdout.getReader().read();
    let pids: number[] = [];
    await untilWithin(20_000)("its SSH clients", () => (pids = clientsOf(parent.pid)).length === wanted);
    // Far enough to be at it.
    if (state === "computing") await Bun.sleep(300);
    if (state === "stopped") for (const pid of pids) process.kill(pid, "SIGSTOP");
    parent.kill("SIGKILL");
    await parent.exited;
    for (const pid of pids) await gone(pid);
  });

  test("a device that sends without end is not listened to when nobody reads", async () => {
    let sent = 0;
    const device = await startFlood((bytes) => (sent += bytes));
    const transport = await connect({ port: device, password: secrets.console, keyFile: undefined });
    const [pid] = clientsOf(process.pid).slice(-1);
    // It sends until its own buffers are full, and those of the system.
    let before = -1;
    await untilWithin(20_000, () => `${sent} bytes`)("the flood to stand still", async () => {
      [before] = [sent, await Bun.sleep(1_000)];
      return before === sent && sent > 0;
    });
    expect(sent).toBeLessThan(64 * 1024 * 1024);
    const rssMb = Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1024;
    expect(rssMb).toBeLessThan(250);
    // All of it is still to be had, in order.
    let text = "";
    while (text.length < 1_000_000) text += (await transport.read(5_000)) ?? "nothing";
    expect(text.slice(0, 1_000_000)).toBe("0123456789".repeat(100_000));
  });

  test("a device that closes before it has said who it is, and one that says nothing", async () => {
    const sockets = createServer((socket) => void socket.on("error", () => {}).end());
    await new Promise<void>((resolve) => sockets.listen(0, "127.0.0.1", resolve));
    closing.push(() => sockets.close());
    const address = sockets.address() as { port: number };
    expect(await failure({ port: address.port })).toContain("Connection lost before handshake");
    const aborter = new AbortController();
    const mute = createServer((socket) => {
      socket.on("error", () => {});
      aborter.abort();
    });
    await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
    closing.push(() => mute.close());
    expect(await failure({ port: (mute.address() as { port: number }).port, signal: aborter.signal })).toBe("the connection was given up");
  });

  test("the compiled haas does the same, and serves others meanwhile", async () => {
    const server = await startServer({
      kind: "sqlite",
      binary: await haasBinary(),
      more: "[haas.ext.switches.nexus]\nconnect_timeout = 60\n",
    });
    closing.push(() => server.stop());
    const old = await serverWith("KexAlgorithms=diffie-hellman-group16-sha512", "Ciphers=aes256-ctr");
    const call = (method: string, path: string, body?: object) =>
      fetch(server.url + path, { method, ...(body && { body: JSON.stringify(body) }) }).then(
        async (answer) => [answer.status, await answer.text()] as const,
      );
    const fields = { hostname: `127.0.0.1:${old}`, username: thisUser(), password: secrets.console, dummy_vlan: 2222 };
    const type = "http://schema.massopencloud.org/haas/v0/switches/nexus";
    expect((await call("PUT", "/switch/old", { type, ...fields }))[0]).toBeLessThan(300);
    let over = false;
    const testing = call("POST", "/switch/old/test").finally(() => (over = true));
    let longest = 0;
    let served = 0;
    for (; !over; served++) {
      const began = performance.now();
      expect((await call("GET", "/nodes/free"))[0]).toBe(200);
      longest = Math.max(longest, performance.now() - began);
      await Bun.sleep(10);
    }
    expect((await testing)[1]).toContain("refuses the login");
    expect(served).toBeGreaterThan(50);
    expect(longest).toBeLessThan(2_000);
    const clients = clientsOf(server.pid);
    await server.stop();
    for (const pid of clients) await gone(pid);
  });
});

const floodWaitingBytes = 1024 * 1024;

/** A console that lets everybody in, and sends as fast as its connection takes it, without a look at the window that it was given. */
async function startFlood(sent: (bytes: number) => void): Promise<number> {
  const hostKeys = [utils.generateKeyPairSync("ed25519").private];
  const algorithms = { cipher: ["aes128-gcm@openssh.com"] };
  const chunk = "0123456789".repeat(3_000);
  const sockets = createServer((socket) => {
    socket.on("error", () => {});
    closing.push(() => socket.destroy());
    const server = new Server({ hostKeys, algorithms } as unknown as ConstructorParameters<typeof Server>[0], (connection) => {
      connection.on("error", () => {});
      connection.on("authentication", (context) => context.accept());
      connection.on("session", (accept) => {
        const session = accept();
        session.on("pty", (acceptPty) => acceptPty?.());
        session.on("shell", (acceptShell) => {
          const stream = acceptShell();
          stream.on("error", () => {});
          const { outgoing } = stream as unknown as { outgoing: { window: number } };
          const timer = setInterval(() => {
            for (let i = 0; i < 20 && stream.writable && socket.writableLength < floodWaitingBytes; i++) {
              outgoing.window = 2 ** 31;
              stream.write(chunk);
              sent(chunk.length);
            }
          }, 1);
          socket.on("close", () => clearInterval(timer));
        });
      });
    });
    server.injectSocket(socket);
  });
  await new Promise<void>((resolve) => sockets.listen(0, "127.0.0.1", resolve));
  closing.push(() => sockets.close());
  return (sockets.address() as { port: number }).port;
}

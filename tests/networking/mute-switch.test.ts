import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import { switchTypePrefix } from "../../src/hardware/switches/index.ts";
import { startConsole } from "../sim/console.ts";
import type { Emulator } from "../sim/emulator.ts";
import { registration } from "../support/emulators.ts";
import { secrets } from "../support/secrets.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// A switch that takes the connection and says nothing: everybody else goes on, and whoever waits for it is told why.

interface Mute {
  readonly hostname: string;
  readonly server: Server;
  readonly sockets: Set<Socket>;
}

async function startMute(): Promise<Mute> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => void sockets.add(socket.on("error", () => {})));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { hostname: `127.0.0.1:${(server.address() as { port: number }).port}`, server, sockets };
}

/** Of a call that waits for a switch, and then some. */
const callLimitMs = 30_000;

describe("a mute switch", () => {
  let mute: Mute[];
  let place: ReturnType<typeof scratch>;
  let server: ServerProcess;
  const devices: Emulator[] = [];

  const send = async (method: string, path: string, body?: unknown) => {
    const answer = await fetch(server.url + path, {
      method,
      keepalive: false,
      signal: AbortSignal.timeout(callLimitMs),
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    return { status: answer.status, body: text === "" ? null : JSON.parse(text) };
  };
  const ok = async (method: string, path: string, body?: unknown) => {
    const { status, body: answer } = await send(method, path, body);
    if (status >= 300) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(answer)}`);
    return answer;
  };
  const until = untilWithin(callLimitMs, () => server.log());
  const start = () => startServer({ kind: "sqlite", uri: `sqlite:///${place.path}/haas.db`, more: "[network-daemon]\nsleep_time = 0.2" });
  const login = { username: "u", password: secrets.switch };
  const nexus = ({ hostname } = mute[0]!) => ({ type: `${switchTypePrefix}nexus`, hostname, ...login, dummy_vlan: 2222 });
  const brocade = ({ hostname }: Mute) => ({
    type: `${switchTypePrefix}brocade`,
    hostname,
    ...login,
    interface_type: "TenGigabitEthernet",
  });

  beforeEach(async () => {
    place = scratch();
    mute = await Promise.all([startMute(), startMute(), startMute()]);
    server = await start();
  });
  afterEach(async () => {
    await server.stop();
    for (const one of mute) {
      for (const socket of one.sockets) socket.destroy();
      one.server.close();
    }
    for (const device of devices.splice(0)) await device.stop();
    place.remove();
  });

  test("by SSH, telnet or REST: a call that waits for it says what haas waits for, and it can be deleted", async () => {
    const kinds = { ssh: nexus(mute[0]), telnet: { ...nexus(mute[1]), transport: "telnet" }, rest: brocade(mute[2]!) };
    const port = (name: string) => `/switch/${name}/port/${encodeURIComponent(name === "rest" ? "1/0/1" : "Ethernet1/1")}`;
    for (const [name, body] of Object.entries(kinds)) {
      await ok("PUT", `/switch/${name}`, body);
      await ok("PUT", port(name));
    }
    await until("haas talks to all of them", () => mute.every(({ sockets }) => sockets.size > 0));
    await Promise.all(
      Object.keys(kinds).map(async (name) => {
        const { status, body: answer } = await send("POST", `/switch/${name}/test`);
        expect({ status, ...answer }).toMatchObject({ status: 409, type: "BlockedError" });
        expect(answer.msg).toStartWith(`Switch '${name}' is in use by haas, which waits for it to let haas in, since `);
        await ok("DELETE", port(name));
        await ok("DELETE", `/switch/${name}`);
      }),
    );
    expect(await ok("GET", "/switches")).toEqual([]);
  });

  test("after a crash it is deleted at once, whatever the lease says", async () => {
    await ok("PUT", "/switch/sw", nexus());
    await ok("PUT", "/switch/sw/port/Ethernet1%2F1");
    await until("haas talks to it", () => mute[0]!.sockets.size > 0);
    await server.kill("SIGKILL");
    server = await startServer({ kind: "sqlite", uri: `sqlite:///${place.path}/haas.db`, networks: false });
    await ok("DELETE", "/switch/sw/port/Ethernet1%2F1");
    await ok("DELETE", "/switch/sw");
  });

  test.each([
    ["while it is connected to", async () => ok("PUT", "/switch/sw", nexus()), () => mute[0]!.sockets.size > 0],
    [
      "while a command hangs",
      async () => {
        const device = await startConsole("nexus", { transport: "telnet" });
        devices.push(device);
        // The fourth line asks for the port; then nothing comes any more.
        device.behaviour.fault = { kind: "hang", at: 6 };
        await ok("PUT", "/switch/sw", registration("nexus", device));
      },
      () => devices[0]!.behaviour.fault === null,
    ],
  ] as const)("SIGTERM %s: the server ends soon, and says nothing after that", async (_, register, hangs) => {
    await register();
    await ok("PUT", "/switch/sw/port/Ethernet1%2F1");
    await until("it hangs", hangs);
    const test = send("POST", "/switch/sw/test").catch(() => null);
    // Within the bounds of the harness; and it ends with success.
    await server.stop();
    await test;
    const lines = server
      .log()
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.filter(({ level }) => level === "error")).toEqual([]);
  });
});

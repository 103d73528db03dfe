import { createServer, type Socket } from "node:net";
import type { PortState } from "../../src/hardware/switches/driver.ts";
import { secrets } from "../support/secrets.ts";
import type { Dialect } from "./consoles/cli.ts";
import { delln3000 } from "./consoles/delln3000.ts";
import { Device, either, type Vlans, vlansFrom, vlansUpTo, without } from "./consoles/device.ts";
import { nexus } from "./consoles/nexus.ts";
import { powerconnect55xx } from "./consoles/powerconnect55xx.ts";
import type { Host } from "./consoles/session.ts";
import { type SshOptions, sshServer } from "./consoles/ssh.ts";
import { serveTelnet } from "./consoles/telnet.ts";
import { type Behaviour, calm, type Emulator, type EmulatorOptions, type Fault, type Hold } from "./emulator.ts";

const dialects = { powerconnect55xx, delln3000, nexus } as const satisfies Record<string, Dialect>;

export type ConsoleKind = keyof typeof dialects;

export interface ConsoleOptions extends EmulatorOptions, SshOptions {
  /** The name in its prompt. */
  readonly hostname?: string;
  /** With it, a login lands in `name>` and `enable` asks for it. */
  readonly enablePassword?: string;
  /** The dummy VLAN exists on an N3000 and does not on a Nexus, unless this says so. */
  readonly dummyExists?: boolean;
  /** Default: one that no other has. */
  readonly serial?: string;
}

/** How long a connection waits for the ends of others. */
const settleMs = 5;

const username = "admin";
const dummyVlan = 2222;

/** A switch with a console of this type, over SSH or telnet. */
export async function startConsole(kind: ConsoleKind, options: ConsoleOptions = {}): Promise<Emulator> {
  const dialect: Dialect = dialects[kind];
  const behaviour = new CountedBehaviour(options.behaviour);
  const device = new Device({
    kinds: dialect.kinds,
    ports: options.ports ?? dialect.defaultPorts,
    vlans: vlansOf(dialect, options),
    factory: dialect.factory,
    noNative: dialect.dummyExists === null ? null : dummyVlan,
    serial: options.serial ?? `SN${crypto.randomUUID().slice(0, 8).toUpperCase()}`,
  });
  const sockets = new Set<Socket>();
  const sessions = { now: 0, most: 0 };
  const host: Host = {
    device,
    dialect,
    hostname: options.hostname ?? dialect.defaultHostname,
    username,
    password: secrets.console,
    enablePassword: options.enablePassword ?? null,
    behaviour,
    received: [],
    step: () => behaviour.step(),
    running: new Set(),
    powerCycle() {
      for (const session of host.running) session.powerLost();
      for (const socket of sockets) socket.destroy();
      device.powerCycle();
    },
    messages: 0,
    connections: 0,
  };
  const serve = options.transport === "telnet" ? serveTelnet : sshServer(options);
  const server = createServer((socket) => void accept(socket));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const hostname = `127.0.0.1:${typeof address === "object" ? address?.port : ""}`;

  async function accept(socket: Socket): Promise<void> {
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
    // The end of another session may have come before this one, and not have been looked at yet.
    if (sessions.now > 0) await Bun.sleep(settleMs);
    if (socket.destroyed) return;
    const tooMany = behaviour.sessionLimit !== null && sessions.now >= behaviour.sessionLimit;
    if (!tooMany) {
      sessions.most = Math.max(sessions.most, ++sessions.now);
      const ended = once(() => sessions.now--);
      // Whoever ends it first: the client, or the switch.
      for (const event of ["end", "finish", "close"]) socket.on(event, ended);
    }
    const fault = host.step();
    if (fault?.kind === "drop") return void socket.destroy();
    if (fault?.kind === "power") return host.powerCycle();
    // What comes is read and not looked at: an end of the connection has to be noticed.
    if (fault?.kind === "hang" || fault?.kind === "silent") return void socket.resume();
    if (fault?.kind === "slow") await new Promise((resolve) => setTimeout(resolve, fault.delayMs));
    if (!socket.destroyed) serve(socket, host, { fault, tooMany });
  }

  return {
    hostname,
    settings: {
      hostname,
      username,
      password: secrets.console,
      ...(options.transport === "telnet" && { transport: "telnet" }),
      ...(options.enablePassword !== undefined && { enable_password: options.enablePassword }),
      ...(dialect.dummyExists !== null && { dummy_vlan: dummyVlan }),
    },
    behaviour,
    received: host.received,
    sessions,
    get saves() {
      return device.saves;
    },
    port(label): PortState | null {
      const key = device.key(label);
      return key === null ? null : device.state(key);
    },
    setPort(label, state) {
      const key = device.key(label);
      if (key === null) throw new Error(`there is no port ${label}`);
      device.setState(key, state);
    },
    powerCycle: () => host.powerCycle(),
    factoryReset: () => device.factoryReset(),
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function vlansOf(dialect: Dialect, { vlans, dummyExists }: ConsoleOptions): Vlans {
  const exist = vlans ? vlansFrom([1, ...vlans]) : vlansUpTo(dialect.highestVlan);
  const dummy = vlansFrom([dummyVlan]);
  if (dialect.dummyExists === null) return exist;
  return (dummyExists ?? dialect.dummyExists) ? either(exist, dummy) : without(exist, dummy);
}

function once(work: () => void): () => void {
  let isDone = false;
  return () => {
    if (!isDone) work();
    isDone = true;
  };
}

/** Counts the steps, and lets its fault happen at one of them. */
class CountedBehaviour implements Behaviour {
  loginDelayMs = 0;
  commandDelayMs = 0;
  oneByteWrites = false;
  pages = false;
  logs = false;
  sessionLimit: number | null = null;
  refusesLogins = false;
  onLine: ((line: string, session: number) => Hold | null) | null = null;
  steps = 0;
  #fault: Fault | null = null;

  constructor(behaviour: Partial<Behaviour> = {}) {
    Object.assign(this, calm(), behaviour);
  }

  get fault(): Fault | null {
    return this.#fault;
  }

  set fault(fault: Fault | null) {
    this.#fault = fault;
    this.steps = 0;
  }

  step(): Fault | null {
    const fault = this.#fault?.at === this.steps ? this.#fault : null;
    this.steps++;
    if (fault) this.#fault = null;
    return fault;
  }
}

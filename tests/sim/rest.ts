import type { AddressInfo, Socket } from "node:net";
import { createServer } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { secrets } from "../support/secrets.ts";
import type { Behaviour, Emulator, EmulatorOptions, Fault } from "./emulator.ts";
import { calm } from "./emulator.ts";
import { brocade } from "./rest/brocade.ts";
import { dellnos9 } from "./rest/dellnos9.ts";
import { Refusal } from "./rest/device.ts";
import type { Answer, Call } from "./rest/http.ts";
import { encode, onCall } from "./rest/http.ts";

const username = "admin";
const password = secrets.console;
const credentials = `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;

/** What no parser takes for text, let alone for XML. */
const noise = Uint8Array.from({ length: 200 }, (_, i) => 0x80 | (i * 89));

const makers = { brocade, dellnos9 };
const interfaceTypes = { brocade: "TenGigabitEthernet", dellnos9: "GigabitEthernet" };

/**
 * A switch that is driven by REST, on a port of 127.0.0.1; with `tls` it speaks HTTPS only, with a certificate for
 * 127.0.0.1 that `ca` (PEM) vouches for.
 *
 * A step is a request; connections don't count. `loginDelayMs` delays the first request of a connection, `sessionLimit`
 * is the number of requests under way, and `pages` and `logs` mean nothing here. VLANs outlast a factory reset.
 */
export async function startRest(
  kind: keyof typeof makers,
  {
    ports,
    vlans,
    behaviour: initial,
    tls = false,
    interfaceType = interfaceTypes[kind],
  }: EmulatorOptions & { tls?: boolean; interfaceType?: string },
): Promise<Emulator & { ca?: string }> {
  const device = makers[kind]({ ports, vlans, interfaceType });
  const behaviour = behaviourFrom(initial);
  const received: string[] = [];
  const sessions = { now: 0, most: 0 };
  const sockets = new Set<Socket>();
  // Counts power cuts: what was under way before one has no effect and no answer.
  let boots = 0;

  const dropAll = () => {
    boots++;
    for (const socket of sockets) socket.destroy();
  };

  const powerCycle = () => {
    dropAll();
    device.powerCycle();
  };

  /** The answer to a call that is done, or its refusal. */
  function answerTo(call: Call, fault: Fault | null, crowded: boolean): Answer {
    if (fault?.kind === "garbage") return { status: 200, body: noise };
    if (fault?.kind === "error") return device.failure(call);
    try {
      if (crowded) throw new Refusal(503, "resource-denied", "too many sessions");
      if (fault?.kind === "refuse" || behaviour.refusesLogins || call.headers.get("authorization") !== credentials) {
        throw new Refusal(401, "access-denied", "authentication required");
      }
      return device.call(call);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return device.refused(call, error);
    }
  }

  async function serve(socket: Socket, call: Call, { first, crowded }: { first: boolean; crowded: boolean }): Promise<void> {
    received.push(`${call.method} ${call.path} ${call.body}`.trimEnd());
    const step = behaviour.steps++;
    const fault = behaviour.fault?.at === step ? behaviour.fault : null;
    if (fault) behaviour.fault = null;
    if (fault?.kind === "power") return powerCycle();
    if (fault?.kind === "drop") return void socket.destroy();
    if (fault?.kind === "hang") return closed(socket);

    const boot = boots;
    await Bun.sleep((first ? behaviour.loginDelayMs : 0) + behaviour.commandDelayMs);
    if (boot !== boots) return;
    const answer = answerTo(call, fault, crowded);
    if (fault?.kind === "silent") return closed(socket);
    if (fault?.kind === "slow") await Bun.sleep(fault.delayMs ?? 0);

    const headers: Record<string, string> = answer.body === undefined ? {} : { "Content-Type": device.contentType };
    if (answer.status === 401) headers["WWW-Authenticate"] = device.challenge;
    const bytes = encode({ ...answer, headers: { ...headers, ...answer.headers } });
    if (fault?.kind === "cut") socket.end(bytes.subarray(0, fault.bytes ?? 0));
    else if (!behaviour.oneByteWrites) socket.write(bytes);
    else await writeSlowly(socket, bytes);
  }

  const accept = (socket: Socket) => {
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.on("close", () => sockets.delete(socket));
    // The other side may have gone; `close` follows.
    socket.on("error", () => {});
    let first = true;
    onCall(socket, async (call) => {
      // A request that is one too many is refused, and no session.
      const crowded = sessions.now >= (behaviour.sessionLimit ?? Infinity);
      if (!crowded) sessions.most = Math.max(sessions.most, ++sessions.now);
      await serve(socket, call, { first, crowded });
      first = false;
      if (!crowded) sessions.now--;
    });
  };

  const certificate = tls ? selfSigned() : null;
  const server = certificate ? createTlsServer(certificate, accept) : createServer(accept);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const hostname = `127.0.0.1:${(server.address() as AddressInfo).port}`;

  return {
    hostname,
    settings: { hostname, username, password, interface_type: interfaceType },
    behaviour,
    received,
    sessions,
    ...(certificate && { ca: certificate.cert }),
    get saves() {
      return device.saves;
    },
    port: (label) => device.port(label),
    setPort: (label, state) => device.setPort(label, state),
    powerCycle,
    factoryReset: () => device.factoryReset(),
    async stop() {
      dropAll();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Setting a fault counts the steps from 0 again; taking it away doesn't. */
function behaviourFrom(initial: Partial<Behaviour> = {}): Behaviour {
  const { fault: given = null, ...others } = initial;
  let fault = given;
  return {
    ...calm(),
    ...others,
    get fault() {
      return fault;
    },
    set fault(next) {
      fault = next;
      if (next) this.steps = 0;
    },
  };
}

const closed = (socket: Socket) => new Promise<void>((resolve) => (socket.destroyed ? resolve() : socket.once("close", () => resolve())));

/** So that each byte leaves alone. */
async function writeSlowly(socket: Socket, bytes: Buffer): Promise<void> {
  for (let i = 0; i < bytes.length && !socket.destroyed; i++) {
    socket.write(bytes.subarray(i, i + 1));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** A key and a certificate for 127.0.0.1 that vouches for itself, in PEM. */
function selfSigned(): { key: string; cert: string } {
  const args =
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout - -out -";
  const { stdout, stderr, exitCode } = Bun.spawnSync(["openssl", ...args.split(" ")]);
  if (exitCode !== 0) throw new Error(`openssl failed: ${stderr.toString()}`);
  const [, key = "", cert = ""] =
    /(-----BEGIN PRIVATE KEY-----[^]+?-----END PRIVATE KEY-----\n)[^]*?(-----BEGIN CERTIFICATE-----[^]+)/.exec(stdout.toString()) ?? [];
  return { key, cert };
}

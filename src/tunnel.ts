import type { Socket, WebSocketHandler } from "bun";

// A WebSocket that carries the bytes of a TCP connection, in binary messages: the framing of noVNC and websockify.

const connectTimeoutMs = 5_000;
/** So long can a tunnel outlive the right to it. */
const checkPeriodMs = 5_000;
/** What may wait for a slow browser before the TCP side is paused, and for a slow TCP side before all is given up. */
const bufferLimitBytes = 256 * 1024;
const messageLimitBytes = 1024 * 1024;
/** A peer that is gone answers no ping. */
const idleTimeoutSeconds = 120;

/** The WebSocket's end. */
interface Client {
  send(bytes: Uint8Array): number;
  /** Bytes that wait to be sent. */
  buffered(): number;
  close(): void;
}

/** The TCP end. It is connected before the client's handshake is answered, so that a failure is an HTTP answer. */
export class Tunnel {
  #socket: Socket<unknown> | null = null;
  #client: Client | null = null;
  /** What came before the client was there: the other end of VNC speaks first. */
  #early: Uint8Array[] = [];
  #toServer: Uint8Array[] = [];
  #toServerBytes = 0;
  #ended = false;
  #check: Timer | null = null;

  private constructor(readonly onEnd: () => void) {}

  /** Rejects when there is no connection within 5 s. `onEnd` is called, perhaps more than once, when it is over. */
  static async connect(port: number, onEnd: () => void): Promise<Tunnel> {
    const tunnel = new Tunnel(onEnd);
    const connecting = Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: {
        data: (_, chunk) => tunnel.#fromServer(Uint8Array.from(chunk)),
        drain: () => tunnel.#flush(),
        close: () => tunnel.#end(),
        error: () => tunnel.#end(),
      },
    });
    let timer: Timer | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        void connecting.then((socket) => socket.terminate()).catch(() => {});
        reject(new Error(`no connection within ${connectTimeoutMs / 1000} s`));
      }, connectTimeoutMs);
    });
    try {
      tunnel.#socket = await Promise.race([connecting, late]);
    } finally {
      clearTimeout(timer);
    }
    return tunnel;
  }

  /** End the tunnel as soon as `check`, which is repeated from now on, rejects. */
  keepWhile(check: () => Promise<unknown>): void {
    this.#check = setTimeout(
      () =>
        void check().then(
          () => this.#ended || this.keepWhile(check),
          () => this.close(),
        ),
      checkPeriodMs,
    );
  }

  attach(client: Client): void {
    this.#client = client;
    for (const chunk of this.#early.splice(0)) client.send(chunk);
    if (this.#ended) client.close();
  }

  #fromServer(chunk: Uint8Array): void {
    if (!this.#client) return void this.#early.push(chunk);
    this.#client.send(chunk);
    if (this.#client.buffered() > bufferLimitBytes) this.#socket?.pause();
  }

  /** The client takes more. */
  resume(): void {
    this.#socket?.resume();
  }

  toServer(bytes: Uint8Array): void {
    // Bun reuses its buffers.
    this.#toServer.push(Uint8Array.from(bytes));
    this.#toServerBytes += bytes.byteLength;
    if (this.#toServerBytes > messageLimitBytes) return this.close();
    this.#flush();
  }

  #flush(): void {
    while (this.#socket && this.#toServer.length > 0) {
      const chunk = this.#toServer[0]!;
      const written = Math.max(this.#socket.write(chunk), 0);
      this.#toServerBytes -= written;
      if (written < chunk.byteLength) {
        this.#toServer[0] = chunk.subarray(written);
        return;
      }
      this.#toServer.shift();
    }
  }

  #end(): void {
    this.#ended = true;
    if (this.#check) clearTimeout(this.#check);
    this.#client?.close();
    this.onEnd();
  }

  close(): void {
    this.#socket?.end();
    this.#end();
  }
}

/** For `Bun.serve`: every WebSocket of this program is the client's end of a tunnel. */
export const tunnels: WebSocketHandler<Tunnel> = {
  idleTimeout: idleTimeoutSeconds,
  maxPayloadLength: messageLimitBytes,
  open: (ws) =>
    ws.data.attach({ send: (bytes) => ws.sendBinary(bytes), buffered: () => ws.getBufferedAmount(), close: () => ws.close(1000) }),
  message: (ws, message) => ws.data.toServer(typeof message === "string" ? Buffer.from(message) : message),
  drain: (ws) => ws.data.resume(),
  close: (ws) => ws.data.close(),
};

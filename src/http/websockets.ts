import { randomBytes } from "node:crypto";
import { type Tunnel, tunnels } from "../tunnel.ts";

/** A handshake that was agreed to; what is to be sent to `address` for it to be answered. */
export interface Handshake {
  readonly address: string;
  readonly request: string;
  /** It won't be sent. */
  abandon(): void;
}

/**
 * Bun makes WebSockets of its own server's requests only. So there is one on a socket without a file, and a client whose
 * handshake was agreed to is connected to that. It answers nobody who does not know the key of a handshake that waits.
 */
export class WebSockets {
  #server: Bun.Server<Tunnel> | null = null;
  readonly #address = `\0haas-${randomBytes(16).toString("hex")}`;
  readonly #waiting = new Map<string, { tunnel: Tunnel; headers: Record<string, string> }>();

  /** Null when the request is no complete handshake (RFC 6455). */
  accept(request: Headers, tunnel: Tunnel, headers: Record<string, string>): Handshake | null {
    const key = request.get("sec-websocket-key") ?? "";
    if (!/^[A-Za-z0-9+/]{22}==$/.test(key) || request.get("sec-websocket-version") !== "13") return null;
    const protocol = headers["sec-websocket-protocol"];
    const secret = randomBytes(32).toString("hex");
    this.#server ??= Bun.serve<Tunnel>({
      unix: this.#address,
      fetch: (request, server) => {
        const secret = request.headers.get("x-haas-handshake") ?? "";
        const waiting = this.#waiting.get(secret);
        this.#waiting.delete(secret);
        if (waiting && server.upgrade(request, { data: waiting.tunnel, headers: waiting.headers })) return;
        return new Response(null, { status: 404 });
      },
      websocket: tunnels,
      maxRequestBodySize: 0,
      development: false,
    });
    this.#waiting.set(secret, { tunnel, headers });
    const lines = ["Host: haas", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", `Sec-WebSocket-Key: ${key}`];
    if (protocol !== undefined) lines.push(`Sec-WebSocket-Protocol: ${protocol}`);
    return {
      address: this.#address,
      request: `GET / HTTP/1.1\r\n${lines.join("\r\n")}\r\nX-Haas-Handshake: ${secret}\r\n\r\n`,
      abandon: () => {
        if (this.#waiting.delete(secret)) tunnel.close();
      },
    };
  }

  stop(): void {
    for (const { tunnel } of this.#waiting.values()) tunnel.close();
    void this.#server?.stop(true);
  }
}

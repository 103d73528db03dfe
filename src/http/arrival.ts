import { isIP } from "node:net";
import type { Tunnel } from "../tunnel.ts";

/** What the front knows of a request beyond its head. */
export interface Arrival {
  /** The client's address; behind a trusted proxy, the one that the proxy tells. */
  readonly address: string;
  /** The address of this machine that the client, or its proxy, connected to. */
  readonly boundAddress: string;
  /** Whether nobody on the way can read it: by TLS to haas, or to a trusted proxy. */
  readonly encrypted: boolean;
  /** No trusted proxy brought it: `address` is that of whoever is connected. */
  readonly direct: boolean;
  /**
   * The whole body; nothing of it is read before. Rejects with a HaasError: PayloadTooLargeError above `limitBytes`,
   * ValidationError for a body that is malformed, UnavailableError when there is no memory for it.
   */
  body(limitBytes: number): Promise<Uint8Array>;
  /** The client has proved that it is this user: its connection is no stranger's any more. */
  signedIn(user: number): void;
  /** Answer a WebSocket handshake; false when the request is none. Absent where there is no connection to upgrade. */
  readonly upgrade?: (tunnel: Tunnel, headers: Record<string, string>) => boolean;
}

/** A request that no front brought, as tests make one. */
export const arrivalOf = (request: Request): Arrival => ({
  address: "",
  boundAddress: "127.0.0.1",
  encrypted: false,
  direct: true,
  body: async () => new Uint8Array(await request.arrayBuffer()),
  signedIn: () => {},
});

/** 127.0.0.0/8 or ::1, also as IPv6 writes IPv4. */
export function isLoopback(address: string): boolean {
  const plain = address.replace(/^::ffff:/i, "");
  return isIP(plain) === 4 ? plain.startsWith("127.") : plain === "::1";
}

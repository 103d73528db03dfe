import { connect } from "node:net";

/** The answer to one request on a connection of its own. */
export interface Reply {
  status: number;
  retryAfter: number | null;
  body: string;
  ms: number;
}

/**
 * Send one request from a local address (any of 127.0.0.0/8) to a server on 127.0.0.1, and read its answer. Rejects when
 * the connection ends without one.
 */
export function requestFrom(
  address: string,
  port: number,
  authorization: string | null,
  { method = "GET", path = "/nodes/all" }: { method?: string; path?: string } = {},
): Promise<Reply> {
  const sentAt = performance.now();
  const { promise, resolve, reject } = Promise.withResolvers<Reply>();
  const socket = connect({ host: "127.0.0.1", port, localAddress: address }, () => {
    const header = authorization === null ? "" : `Authorization: ${authorization}\r\n`;
    socket.write(`${method} ${path} HTTP/1.1\r\nHost: haas.test\r\n${header}Connection: close\r\n\r\n`);
  });
  let text = "";
  socket.on("data", (chunk) => (text += chunk.toString("latin1")));
  socket.on("error", reject);
  socket.on("close", () => {
    const [head = "", body = ""] = text.split("\r\n\r\n", 2);
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1]);
    if (!status) return reject(new Error(`No answer from port ${port}: ${JSON.stringify(text.slice(0, 200))}`));
    const retryAfter = /\r\nretry-after: (\d+)/i.exec(head)?.[1];
    resolve({ status, retryAfter: retryAfter === undefined ? null : Number(retryAfter), body, ms: performance.now() - sentAt });
  });
  return promise;
}

export const basicOf = (name: string, password: string) => `Basic ${Buffer.from(`${name}:${password}`).toString("base64")}`;

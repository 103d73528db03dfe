import { connect, createServer, type Socket } from "node:net";

/** A second address, on loopback, for something that listens already. */
export interface Relay {
  /** `127.0.0.1:port`. */
  readonly address: string;
  /** How many were made through it so far. */
  connections(): number;
  stop(): void;
}

export async function startRelay(to: { readonly hostname: string } | { readonly unix: string }): Promise<Relay> {
  const sockets = new Set<Socket>();
  let connections = 0;
  const server = createServer((client) => {
    connections++;
    const [host, port] = "hostname" in to ? to.hostname.split(":") : [];
    const upstream = "unix" in to ? connect(to.unix) : connect(Number(port), host);
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(one);
      one.on("error", () => other.destroy());
      one.on("close", () => sockets.delete(one));
      one.pipe(other);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${(server.address() as { port: number }).port}`,
    connections: () => connections,
    stop() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

import type { Socket } from "bun";

// The load generator, a process of its own so that it competes with nobody for one event loop. It
// speaks just enough HTTP to be cheap: keep-alive connections with one request in flight each, and
// answers that are counted by their Content-Length.

export interface Load {
  port: number;
  method: "GET" | "POST";
  /** `#` stands for a number of five digits: `from`, `from` + 1, … `to`, and over again. */
  path: string;
  body?: string;
  from: number;
  to: number;
  status: number;
  connections: number;
  /** Answers in this time are not counted. */
  warmUpMs: number;
  /** Stop at whichever comes first. */
  durationMs: number;
  requests: number;
}

export interface Measured {
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
}

const longestRunMs = 30_000;

interface Connection {
  sentAt: number;
  /** Bytes of the present answer that are still to come; null while its header is incomplete. */
  missing: number | null;
  header: Buffer;
}

function run(load: Load): Promise<Measured> {
  const startedAt = performance.now();
  const latencies: number[] = [];
  let sent = 0;
  let open = 0;
  let countedFrom = startedAt;
  let lastAnswerAt = startedAt;
  const { promise, resolve, reject } = Promise.withResolvers<Measured>();
  setTimeout(() => reject(new Error(`No end after ${longestRunMs} ms: ${JSON.stringify(load)}`)), longestRunMs).unref();

  const requestOf = (n: number) => {
    const path = load.path.replace("#", String(n).padStart(5, "0"));
    const length = load.body === undefined ? "" : `Content-Length: ${load.body.length}\r\n`;
    return `${load.method} ${path} HTTP/1.1\r\nHost: 127.0.0.1:${load.port}\r\n${length}\r\n${load.body ?? ""}`;
  };
  const numbers = load.to - load.from + 1;
  const requests = Array.from({ length: numbers }, (_, i) => requestOf(load.from + i));

  function next(socket: Socket<Connection>): void {
    const now = performance.now();
    if (sent >= load.requests || now - startedAt > load.warmUpMs + load.durationMs) return void socket.end();
    socket.data = { sentAt: now, missing: null, header: Buffer.alloc(0) };
    socket.write(requests[sent++ % numbers]!);
  }

  function receive(socket: Socket<Connection>, chunk: Buffer): void {
    const { data } = socket;
    if (data.missing === null) {
      const all = data.header.byteLength === 0 ? chunk : Buffer.concat([data.header, chunk]);
      const end = all.indexOf("\r\n\r\n");
      if (end === -1) return void (data.header = Buffer.from(all));
      const header = all.toString("latin1", 0, end);
      const length = /\r\ncontent-length: (\d+)/i.exec(header)?.[1];
      if (Number(header.slice(9, 12)) !== load.status || length === undefined)
        return reject(new Error(`Unexpected answer: ${all.toString().slice(0, 500)}`));
      data.missing = Number(length) - (all.byteLength - end - 4);
    } else data.missing -= chunk.byteLength;
    if (data.missing > 0) return;
    const now = performance.now();
    if (now - startedAt >= load.warmUpMs) {
      if (latencies.length === 0) countedFrom = data.sentAt;
      latencies.push(now - data.sentAt);
      lastAnswerAt = now;
    }
    next(socket);
  }

  for (let i = 0; i < load.connections; i++) {
    open++;
    Bun.connect<Connection>({
      hostname: "127.0.0.1",
      port: load.port,
      data: { sentAt: 0, missing: null, header: Buffer.alloc(0) },
      socket: {
        open: next,
        data: receive,
        close() {
          if (--open > 0) return;
          latencies.sort((a, b) => a - b);
          const at = (share: number) => latencies[Math.min(latencies.length - 1, Math.floor(share * latencies.length))] ?? Number.NaN;
          resolve({ perSecond: (1000 * latencies.length) / (lastAnswerAt - countedFrom), p50Ms: at(0.5), p99Ms: at(0.99) });
        },
      },
    }).catch(reject);
  }
  return promise;
}

console.log(JSON.stringify(await run(JSON.parse(process.argv[2]!) as Load)));
process.exit(0);

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { type App, createApp } from "../../src/app.ts";
import type { Arrival } from "../../src/http/arrival.ts";
import { openCertificates } from "../../src/http/certificates.ts";
import { type Front, listen } from "../../src/http/front.ts";
import { trustedProxies } from "../../src/http/proxies.ts";
import { createLog } from "../../src/log.ts";
import { Tunnel } from "../../src/tunnel.ts";
import { type Authority, authority, type MadePair } from "../support/certificates.ts";
import { freePort } from "../support/postgres.ts";
import { startRelay } from "../support/relay.ts";
import { type Service, scratch, startService } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// Debian's nginx and HAProxy, configured as docs/operators.md says, in front of haas. The client has an address of its
// own, 127.0.0.2, as the proxies have 127.0.0.1.

const { path: directory, remove } = scratch();
const clientAddress = "127.0.0.2";
const children: Bun.Subprocess[] = [];
const stops: (() => unknown)[] = [];

let company: Authority;
let pair: MadePair;
/** With a password needed over TLS, as an operator of proxies would have it. */
let service: Service;
let api: App;
/** Sends back what it gets. */
let echo: Server;
/** What a stream sends next. */
let send: (event: string) => void;

/** The service, with what it has no simple call for: who is asking, a WebSocket, a stream. */
const app = {
  async handle(request: Request, arrival?: Arrival): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname === "/whoami") return Response.json({ address: arrival!.address, encrypted: arrival!.encrypted, direct: arrival!.direct });
    if (pathname === "/echo") {
      const tunnel = await Tunnel.connect((echo.address() as { port: number }).port, () => {});
      return arrival!.upgrade?.(tunnel, {}) ? new Response(null, { status: 101 }) : new Response("no WebSocket", { status: 400 });
    }
    if (pathname === "/stream") {
      const stream = new ReadableStream<Uint8Array>({
        start(controller) {
          send = (event) => controller.enqueue(Buffer.from(`data: ${event}\n\n`));
          send("first");
        },
      });
      return new Response(stream, { headers: { "content-type": "text/event-stream" } });
    }
    return api.handle(request, arrival);
  },
};

async function front(tls: boolean, proxies: readonly string[]): Promise<Front> {
  const http = { tls: tls ? pair : null, requireTls: false, trustedProxies: proxies, hosts: [] };
  const certificates = await openCertificates({ ...service.ctx.config, http }, createLog("critical", null));
  const started = listen(app, {
    host: "127.0.0.1",
    port: 0,
    certificate: certificates && (() => certificates.current()),
    proxies: trustedProxies(proxies),
  });
  stops.push(
    () => certificates?.stop(),
    () => started.stop(100),
  );
  return started;
}

/** A way to haas: through a proxy, over TLS or not on both of its sides. */
interface Way {
  readonly proxy: "nginx" | "haproxy";
  readonly client: "http" | "https";
  readonly server: "http" | "https";
  readonly url: string;
  /** Connections that the proxy has made to haas. */
  readonly connections: () => number;
}

beforeAll(async () => {
  company = authority(directory);
  pair = company.issue("haas", { for: "DNS:haas.example.org,IP:127.0.0.1" });
  service = await startService("sqlite", { more: "[general]\nrequire_tls = True" });
  api = createApp(service.ctx);
  echo = createServer((socket: Socket) => socket.on("error", () => {}).pipe(socket));
  await new Promise<void>((resolve) => echo.listen(0, "127.0.0.1", resolve));
  stops.push(
    () => echo.close(),
    () => service.stop(),
  );
});

afterAll(async () => {
  for (const child of children) child.kill("SIGTERM");
  await Promise.all(children.map(({ exited }) => exited));
  for (const stop of stops.toReversed()) await stop();
  remove();
});

/** The address of a front, and how many connections were made to it. */
async function counted(target: Front): Promise<{ address: string; connections(): number }> {
  const relay = await startRelay({ hostname: `127.0.0.1:${target.port}` });
  stops.push(() => relay.stop());
  return { address: relay.address, connections: () => relay.connections() };
}

async function start(command: string[], port: number): Promise<void> {
  const child = Bun.spawn(command, {
    cwd: directory,
    stdout: Bun.file(join(directory, `${command[0]}.out`)),
    stderr: Bun.file(join(directory, `${command[0]}.err`)),
  });
  children.push(child);
  await untilWithin(15_000, () => readFileSync(join(directory, `${command[0]}.err`), "utf8"))(`${command[0]} listens`, async () => {
    if (child.exitCode !== null) throw new Error(readFileSync(join(directory, `${command[0]}.err`), "utf8"));
    return fetch(`http://127.0.0.1:${port}/whoami`).then(
      ({ ok }) => ok,
      () => false,
    );
  });
}

/** The four ways through one proxy: its ports, given where haas is. */
async function ways(
  proxy: Way["proxy"],
  configure: (ports: Record<string, number>, to: { http: string; https: string }) => string,
  command: (config: string) => string[],
): Promise<Way[]> {
  const [plain, encrypted] = [await counted(await front(false, ["127.0.0.1"])), await counted(await front(true, ["127.0.0.1"]))];
  const ports: Record<string, number> = {};
  const found: Way[] = [];
  for (const client of ["http", "https"] as const) {
    for (const server of ["http", "https"] as const) {
      const port = await freePort();
      ports[`${client}-${server}`] = port;
      const { connections } = server === "http" ? plain : encrypted;
      found.push({ proxy, client, server, url: `${client}://127.0.0.1:${port}`, connections });
    }
  }
  const file = join(directory, `${proxy}.conf`);
  writeFileSync(file, configure(ports, { http: plain.address, https: encrypted.address }));
  await start(command(file), ports["http-http"]!);
  return found;
}

const throughNginx = () =>
  ways(
    "nginx",
    (ports, to) => {
      mkdirSync(join(directory, "nginx"), { recursive: true });
      const places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path nginx/${name};`).join("\n");
      const listener = (client: string, server: "http" | "https") => `server {
        listen 127.0.0.1:${ports[`${client}-${server}`]}${client === "https" ? " ssl" : ""};
        ${client === "https" ? `ssl_certificate ${pair.certFile};\nssl_certificate_key ${pair.keyFile};` : ""}
        client_max_body_size 2m;
        location / {
          proxy_pass ${server}://haas-${server};
          proxy_http_version 1.1;
          proxy_set_header Host $http_host;
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          proxy_set_header X-Forwarded-Proto $scheme;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection $connection_upgrade;
          proxy_buffering off;
          proxy_read_timeout 15m;
          ${server === "https" ? `proxy_ssl_trusted_certificate ${company.file};\nproxy_ssl_verify on;\nproxy_ssl_name haas.example.org;\nproxy_ssl_protocols TLSv1.2 TLSv1.3;` : ""}
        }
      }`;
      return `daemon off;
      user root;
      worker_processes 1;
      pid nginx/pid;
      error_log stderr;
      events {}
      http {
        ${places}
        access_log off;
        upstream haas-http { server ${to.http}; keepalive 8; }
        upstream haas-https { server ${to.https}; keepalive 8; }
        map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
        ${[listener("http", "http"), listener("http", "https"), listener("https", "http"), listener("https", "https")].join("\n")}
      }`;
    },
    (file) => ["nginx", "-p", directory, "-c", file, "-e", "stderr"],
  );

const throughHaproxy = () =>
  ways(
    "haproxy",
    (ports, to) => {
      const both = join(directory, "haproxy.pem");
      writeFileSync(both, readFileSync(pair.certFile, "utf8") + readFileSync(pair.keyFile, "utf8"), { mode: 0o600 });
      const listener = (client: string, server: "http" | "https") => `
frontend ${client}-${server}
  bind 127.0.0.1:${ports[`${client}-${server}`]}${client === "https" ? ` ssl crt ${both}` : ""}
  option forwardfor
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend haas-${server}-${client}
backend haas-${server}-${client}
  http-reuse always
  server haas ${to[server]} ${server === "https" ? `ssl verify required ca-file ${company.file} verifyhost haas.example.org sni str(haas.example.org)` : ""}
`;
      return `defaults
  mode http
  timeout connect 5s
  timeout client 15m
  timeout server 15m
  timeout tunnel 1h
${[listener("http", "http"), listener("http", "https"), listener("https", "http"), listener("https", "https")].join("\n")}`;
    },
    (file) => ["haproxy", "-db", "-f", file],
  );

/** Of an answer, where curl prints several. */
const end = "\u001e";

/** What curl is answered, request by request, on one connection. */
async function curl(way: Way, requests: readonly (readonly string[])[]): Promise<{ status: number; body: string }[]> {
  const shared = [
    "--silent",
    "--show-error",
    "--path-as-is",
    "--max-time",
    "30",
    "--interface",
    clientAddress,
    "--cacert",
    company.file,
    "--http1.1",
  ];
  const argv = requests.flatMap(([path = "", ...options], n) => [
    ...(n === 0 ? [] : ["--next"]),
    ...shared,
    "--write-out",
    `\\n%{http_code} %{num_connects}${end}`,
    ...options,
    way.url + path,
  ]);
  const child = Bun.spawn(["curl", ...argv], { stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  if ((await child.exited) !== 0) throw new Error(err);
  const answers = out.split(end).slice(0, -1);
  return answers.map((answer, n) => {
    const lines = answer.trimEnd().split("\n");
    const [status, connects] = lines.pop()!.split(" ");
    if (n > 0 && way.client === "http" && Number(status) < 400) expect(connects).toBe("0");
    return { status: Number(status), body: lines.join("\n") };
  });
}
const json = (body: unknown) => ["--json", JSON.stringify(body)];

for (const [proxy, begin] of [
  ["nginx", throughNginx],
  ["haproxy", throughHaproxy],
] as const) {
  describe(`${proxy} in front of haas`, () => {
    let all: Way[];
    /** By name, as only the tests' names are known before they run. */
    const way = (name: string) => all.find(({ client, server }) => name === `${client} to ${proxy}, ${server} to haas`)!;
    beforeAll(async () => void (all = await begin()));

    describe.each(["http", "https"].flatMap((client) => ["http", "https"].map((server) => `${client} to ${proxy}, ${server} to haas`)))(
      "%s",
      (name) => {
        test("tells who the client is, whatever the client claims", async () => {
          const { client } = way(name);
          const forged = [
            "-H",
            "X-Forwarded-For: 192.0.2.66",
            "-H",
            "X-Forwarded-Proto: https",
            "-H",
            "Forwarded: for=192.0.2.66;proto=https",
          ];
          const answers = await curl(way(name), [["/whoami"], ["/whoami", ...forged], ["/whoami", "-H", "X-Forwarded-For: 127.0.0.1"]]);
          for (const { body } of answers)
            expect(JSON.parse(body)).toEqual({
              address: clientAddress,
              encrypted: client === "https",
              direct: false,
            });
        });

        test("uses a connection for many requests, put and dots among them, and none of them fails", async () => {
          const { connections } = way(name);
          const label = `p-${name.replaceAll(/\W+/g, "-")}`;
          const before = connections();
          const rounds = 8;
          // nginx itself answers 400 to a method in lower case.
          const put = proxy === "nginx" ? "PUT" : "put";
          const requests = Array.from({ length: rounds }, (_, n) => [
            ["/projects"],
            [`/project/${label}-${n}`, "-X", put, ...json({})],
            ["/node/../metadata/..", "-X", put, ...json({ value: 1 })],
            [`/project/${label}-${n}`, "-X", proxy === "nginx" ? "DELETE" : "delete", ...json({})],
            ["/nodes/free"],
          ]).flat();
          const statuses = (await curl(way(name), requests)).map(({ status }) => status);
          // A password would be readable on the way: refused, but by haas.
          const readable = way(name).client === "http";
          expect(statuses).toEqual(requests.map((_, n) => (readable ? 403 : n % 5 === 2 ? 404 : 200)));
          expect(connections() - before).toBeLessThan(rounds);
        });

        test("carries large bodies and answers", async () => {
          if (way(name).client === "http") return;
          const node = `n-${name.replaceAll(/\W+/g, "-")}`;
          const file = join(directory, `${node}.json`);
          writeFileSync(file, JSON.stringify({ value: "v".repeat(900_000) }));
          const obm = { type: "http://schema.massopencloud.org/haas/v0/obm/mock", host: node, user: "u", password: "p" };
          const [made, set, shown] = await curl(way(name), [
            [`/node/${node}`, "-X", "PUT", ...json({ obm })],
            [`/node/${node}/metadata/large`, "-X", "PUT", "-H", "Content-Type: application/json", "--data-binary", `@${file}`],
            [`/node/${node}`],
          ]);
          expect([made!.status, set!.status, shown!.status]).toEqual([200, 200, 200]);
          expect(JSON.parse(shown!.body).metadata.large === JSON.stringify("v".repeat(900_000))).toBe(true);
        });

        test("carries a WebSocket", async () => {
          const socket = new WebSocket(`${way(name).url.replace("http", "ws")}/echo`, { tls: { ca: readFileSync(company.file, "utf8") } });
          socket.binaryType = "arraybuffer";
          let received = 0;
          await new Promise<void>((resolve, reject) => {
            socket.addEventListener("open", () => {
              for (let n = 0; n < 20; n++) socket.send(new Uint8Array(50_000));
            });
            socket.addEventListener("message", ({ data }) => {
              received += (data as ArrayBuffer).byteLength;
              if (received === 1_000_000) socket.close(1000);
            });
            socket.addEventListener("close", ({ code }) =>
              code === 1000 ? resolve() : reject(new Error(`closed with ${code} after ${received}`)),
            );
          });
          expect(received).toBe(1_000_000);
        });

        test("carries a stream piece by piece", async () => {
          const answer = await fetch(`${way(name).url}/stream`, { tls: { ca: readFileSync(company.file, "utf8") } });
          const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
          let text = "";
          for (const event of ["first", "second", "third"]) {
            while (!text.endsWith(`data: ${event}\n\n`)) {
              const { value, done } = await reader.read();
              expect(done).toBe(false);
              text += value;
            }
            // Only now is there a next one.
            send(event === "first" ? "second" : "third");
          }
          await reader.cancel();
        });
      },
    );
  });
}

describe("without a proxy", () => {
  test("what a client claims of itself is not believed, over TLS or not", async () => {
    for (const tls of [false, true]) {
      const { port } = await front(tls, ["127.0.0.1"]);
      const scheme = tls ? "https" : "http";
      const direct = {
        proxy: "nginx",
        client: scheme,
        server: scheme,
        url: `${scheme}://127.0.0.1:${port}`,
        connections: () => 0,
      } as const;
      const [answer, refused] = await curl(direct, [
        ["/whoami", "-H", "X-Forwarded-For: 127.0.0.1", "-H", "X-Forwarded-Proto: https"],
        ["/networks", "-H", "X-Forwarded-For: 127.0.0.1", "-H", "X-Forwarded-Proto: https"],
      ]);
      expect(JSON.parse(answer!.body)).toEqual({ address: clientAddress, encrypted: tls, direct: true });
      // 127.0.0.2 is this machine, too.
      expect(refused!.status).toBe(200);
    }
  });
});

import type { Behaviour } from "./swarm.ts";
import { freshNode, people } from "./people.ts";

// The attacks, each as what one connection does.

const bodyBytes = Math.floor(7.9 * 1024 * 1024);
/** What every call takes. */
const smallBodyBytes = 64 * 1024;
const pieceBytes = 64 * 1024;
const piece = Buffer.alloc(pieceBytes, " ");

const bytes = (text: string) => Buffer.from(text, "latin1");
const basic = (name: string, password: string) => `Authorization: Basic ${btoa(`${name}:${password}`)}\r\n`;
const tenant = basic(people.tenant.name, people.tenant.password);
const wrong = basic(people.tenant.name, "not the password");
const request = (line: string, more = "", body = "") => bytes(`${line} HTTP/1.1\r\nHost: haas\r\n${more}\r\n${body}`);
const withBody = (line: string, body: string, more = "") => request(line, `${more}Content-Length: ${Buffer.byteLength(body)}\r\n`, body);

const once = (...pieces: Uint8Array[]) => ({ says: () => pieces });
function* endless(first: Uint8Array, again: Uint8Array): Iterable<Uint8Array> {
  yield first;
  for (;;) yield again;
}

/** A body that is all there but for its last byte. */
function* body(line: string, more: string, length: number): Iterable<Uint8Array> {
  yield request(line, `${more}Content-Length: ${length}\r\n`);
  for (let left = length - 1; left > 0; left -= pieceBytes) yield piece.subarray(0, Math.min(left, pieceBytes));
}

function* chunkedBody(line: string, more: string, length: number, chunkBytes: number): Iterable<Uint8Array> {
  yield request(line, `${more}Transfer-Encoding: chunked\r\n`);
  const chunk = Buffer.concat([bytes(`${chunkBytes.toString(16)}\r\n`), piece.subarray(0, chunkBytes), bytes("\r\n")]);
  const chunks = Math.ceil(pieceBytes / chunkBytes / 4);
  for (let left = length; left > chunks * chunkBytes; left -= chunks * chunkBytes) yield Buffer.concat(Array<Buffer>(chunks).fill(chunk));
}

const metadata = "PUT /node/node-00001/metadata/big";
const allocation = "POST /project/project-1/connect_node";
const halfHead = bytes("GET /nodes/free HTTP/1.1\r\nHost: haas\r\nX-Half: ");
const unfinishedBody = request(allocation, "Content-Length: 60\r\n", '{"node": "');
const headerLine = (n: number) => `X-Header-${n}: ${"v".repeat(20)}\r\n`;
const manyHeaders = (count: number) => request("GET /nodes/free", Array.from({ length: count }, (_, n) => headerLine(n)).join(""));
const longPath = (method: string) => request(`${method} /node/${"p".repeat(8_000)}`, "Content-Length: 0\r\n");
const bundle = request("GET /swagger/bundle");
const freeNodes = request("GET /nodes/free");
const handshake = (more: string) =>
  request(
    "GET /headnode/hn/vnc",
    `${more}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n`,
  );
/** The first bytes of a TLS ClientHello that announces 512. */
const halfClientHello = Buffer.from("1603010200010001fc0303", "hex");
const ones = `{"node": [${"1,".repeat((smallBodyBytes - 20) / 2)}1]}`;

export const behaviours = {
  bodies: { says: () => body(metadata, "", bodyBytes), afterwards: "hold", reopens: true },
  "bodies-chunked": { says: () => chunkedBody(metadata, "", bodyBytes, pieceBytes), afterwards: "hold", reopens: true },
  "bodies-wrong-password": { says: () => body(metadata, wrong, bodyBytes), afterwards: "hold", reopens: true },
  "bodies-tenant": { says: () => body(allocation, tenant, smallBodyBytes), afterwards: "hold", reopens: true },
  "bodies-forbidden": { says: () => body(metadata, tenant, bodyBytes), afterwards: "hold", reopens: true },
  crumbs: { says: () => chunkedBody(allocation, tenant, smallBodyBytes, 1), afterwards: "hold", reopens: true },
  silent: { ...once(), afterwards: "hold" },
  "half-head": { ...once(halfHead), afterwards: "hold" },
  trickle: { ...once(halfHead), afterwards: "trickle" },
  "unfinished-body": { ...once(unfinishedBody), afterwards: "hold" },
  reopen: { ...once(halfHead), afterwards: "hold", reopens: true },
  close: { ...once(unfinishedBody), afterwards: "close" },
  "half-close": { ...once(unfinishedBody), afterwards: "half-close", reopens: true },
  reset: { ...once(unfinishedBody), afterwards: "reset" },
  "guess-names": {
    says: (n) => [request("GET /nodes/free", basic(`stranger-${process.pid}-${n}`, `guess-${n}`))],
    afterwards: "repeat",
    reopens: true,
  },
  "guess-account": {
    says: (n) => [request("GET /nodes/free", basic(people.owners[0]!.name, `guess-${process.pid}-${n}`))],
    afterwards: "repeat",
    reopens: true,
  },
  "endless-head": {
    says: () => endless(bytes("GET / HTTP/1.1\r\nHost: haas\r\n"), bytes(headerLine(1).repeat(1_000))),
    afterwards: "hold",
    reopens: true,
  },
  "header-bomb": { ...once(manyHeaders(5_000)), afterwards: "repeat", reopens: true },
  "headers-within-limits": { ...once(manyHeaders(90)), afterwards: "repeat", reopens: true },
  "long-path": { ...once(longPath("POST")), afterwards: "repeat", reopens: true },
  "slow-reader": { ...once(bundle), afterwards: "hold", deaf: true, reopens: true },
  "slow-reader-window": { ...once(bundle), afterwards: "hold", deaf: { windowBytes: 1024 }, reopens: true },
  "slow-reader-pipeline": {
    ...once(...Array<Buffer>(100).fill(Buffer.concat(Array<Buffer>(100).fill(bundle)))),
    afterwards: "hold",
    deaf: true,
    reopens: true,
  },
  "slow-reader-tenant": {
    ...once(...Array<Buffer>(1_000).fill(request("GET /nodes/all", tenant))),
    afterwards: "hold",
    deaf: true,
    reopens: true,
  },
  "pipeline-flood": {
    says: () => endless(freeNodes, Buffer.concat(Array<Buffer>(100).fill(freeNodes))),
    afterwards: "hold",
    reopens: true,
  },
  abort: { ...once(freeNodes), afterwards: "reset" },
  "abort-post": { ...once(withBody(allocation, '{"node": "node-02001"}')), afterwards: "reset" },
  "abort-tenant": { ...once(request("GET /nodes/all", tenant)), afterwards: "reset" },
  idle: { ...once(freeNodes), afterwards: "hold" },
  "websocket-stranger": { ...once(handshake("")), afterwards: "hold", reopens: true },
  "websocket-tenant": { ...once(handshake(tenant)), afterwards: "hold", reopens: true },
  "tls-silent": { ...once(), afterwards: "hold", reopens: true },
  "tls-half-hello": { ...once(halfClientHello), afterwards: "hold", reopens: true },
  "tls-handshakes": { ...once(freeNodes), afterwards: "close", tls: true },
  "json-tenant": { ...once(withBody(allocation, ones, tenant)), afterwards: "repeat", reopens: true },
  "swagger-json": { ...once(request("GET /swagger/json")), afterwards: "repeat", reopens: true },
  "fresh-ports": {
    says: (n) => [withBody(allocation, JSON.stringify({ node: freshNode(n) }), tenant)],
    afterwards: "repeat",
    reopens: true,
  },
  "tenant-hold": { ...once(request("GET /nodes/free", tenant)), afterwards: "hold" },
  "tenant-reopen": { ...once(request("GET /nodes/free", tenant)), afterwards: "hold", reopens: true },
  "tenant-flood": { ...once(request("GET /nodes/all", tenant)), afterwards: "repeat", reopens: true },
} as const satisfies Record<string, Behaviour>;

export type BehaviourName = keyof typeof behaviours;

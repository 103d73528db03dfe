import { mockObm, mockSwitch } from "../support/service.ts";
import type { Step } from "./connections.ts";
import type { Reply } from "./replies.ts";
import { basic, credentialsOf, rawUser } from "./world.ts";

// Every input that ever broke the contract. One that the fuzz finds is added here, as small as it can be made.

export interface Kept {
  readonly name: string;
  readonly steps: readonly Step[];
  /** Of the answers, in order; where it is missing, one answer of any status is enough. */
  readonly statuses?: readonly number[];
}

const host = "Host: 127.0.0.1\r\n";
const admin = `Authorization: ${credentialsOf("admin")}\r\n`;
const raw = `Authorization: ${basic(rawUser.name, rawUser.password)}\r\n`;
const bytes = (text: string): Buffer => Buffer.from(text, "latin1");

/** One request of the administrator, in one piece. `target` and `headers` are bytes, the body is text. */
function request(method: string, target: string, body: string | Buffer | null = null, headers = admin): Buffer {
  const content = body === null ? null : Buffer.from(body as string);
  const length = content === null ? "" : `Content-Length: ${content.length}\r\n`;
  return Buffer.concat([bytes(`${method} ${target} HTTP/1.1\r\n${host}${headers}${length}\r\n`), content ?? Buffer.alloc(0)]);
}

const one = (name: string, status: number, ...steps: Step[]): Kept => ({ name, steps: [...steps, "end"], statuses: [status] });

// Numbers whose text is not how JavaScript writes them.
const numbers = [
  "1.0",
  "-0",
  "1e999",
  "-1e999",
  "1e-999",
  "0.1e1",
  "1E+2",
  "9007199254740993",
  "100000000000000000000000",
  "-20",
  "9".repeat(3_000),
  `0.${"0".repeat(400)}1`,
];

/** Places of the API where a number is of the wrong type. */
const places: readonly (readonly [method: string, target: string, body: (number: string) => string])[] = [
  ["POST", "/project/p1/connect_node", (n) => `{"node":${n}}`],
  ["PUT", "/network/x", (n) => `{"owner":"p1","access":${n},"net_id":""}`],
  ["PUT", "/network/x", (n) => `{"owner":[${n},"x",null],"access":"","net_id":""}`],
  ["PUT", "/node/x", (n) => `{"obm":${n}}`],
  ["PUT", "/node/x", (n) => `{"obm":{"type":${n}}}`],
  ["PUT", "/switch/x", (n) => `{"type":[${n}]}`],
  ["PUT", "/node/n1/obm", (n) => `{"enabled":${n}}`],
  ["POST", "/node/n1/power_cycle", (n) => `{"force":${n}}`],
  ["PUT", "/auth/basic/user/dave", (n) => `{"password":${n}}`],
  ["PUT", "/headnode/x", (n) => `{"project":"p1","base_img":"img1","base_img":${n}}`],
  ["POST", "/node/n1/nic/nic1/connect_network", (n) => `{"network":"net1","more":${n}}`],
];

const hostile: Kept[] = places.flatMap(([method, target, body]) =>
  numbers.map((number) => one(`${method} ${target} ${body(number.slice(0, 30))}`, 400, request(method, target, body(number)))),
);

const requestTargets = [
  "/projects",
  "/networks",
  "/headnode_images",
  "/headnode_images/",
  "/switches",
  "/active_extensions",
  "/auth/basic/users",
  "/drift",
];

const malformed: readonly (readonly [name: string, text: string])[] = [
  ["no target", `GET\r\n\r\n`],
  ["no version", `GET /nodes/free\r\n\r\n`],
  ["HTTP/2.0", `GET /nodes/free HTTP/2.0\r\n${host}\r\n`],
  ["a target without a slash", `GET project/x HTTP/1.1\r\n${host}${raw}\r\n`],
  ["a target that is an authority", `GET 127.0.0.1:80 HTTP/1.1\r\n${host}${raw}\r\n`],
  ["an empty target", `GET  HTTP/1.1\r\n${host}${raw}\r\n`],
  ["TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"],
  ["the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
  ["bare line feeds", `GET /nodes/free HTTP/1.1\nHost: 127.0.0.1\n${raw.trim()}\n\n`],
  ["no Host", `GET /nodes/free HTTP/1.1\r\n${raw}\r\n`],
  ["two Hosts", `GET /nodes/free HTTP/1.1\r\n${host}${raw}Host: other\r\n\r\n`],
  ["two Hosts that are equal", `GET /nodes/free HTTP/1.1\r\n${host}${host}${raw}\r\n`],
  ["a folded header", `GET /nodes/free HTTP/1.1\r\n${host}${raw}X: a\r\n b\r\n\r\n`],
  ["a blank before a colon", `GET /nodes/free HTTP/1.1\r\n${host}${raw}X : a\r\n\r\n`],
  ["NUL in a header", `GET /nodes/free HTTP/1.1\r\n${host}${raw}X: a\0b\r\n\r\n`],
  [
    "Content-Length and Transfer-Encoding",
    `POST /project/p1/connect_node HTTP/1.1\r\n${host}${raw}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  ],
  ["two Content-Lengths", `POST /project/p1/connect_node HTTP/1.1\r\n${host}${raw}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x`],
  ["a negative Content-Length", `POST /project/p1/connect_node HTTP/1.1\r\n${host}${raw}Content-Length: -2\r\n\r\n{}`],
  ["a chunk of no size", `POST /project/p1/connect_node HTTP/1.1\r\n${host}${raw}Transfer-Encoding: chunked\r\n\r\ng\r\n{}\r\n0\r\n\r\n`],
  [
    "a chunk longer than its size",
    `POST /project/p1/connect_node HTTP/1.1\r\n${host}${raw}Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n`,
  ],
];

export const corpus: readonly Kept[] = [
  ...hostile,
  one(
    "a number cut over two chunks of a body",
    400,
    bytes(
      `POST /project/p1/connect_node HTTP/1.1\r\n${host}${admin}Transfer-Encoding: chunked\r\n\r\n9\r\n{"node":-\r\n3\r\n20}\r\n0\r\n\r\n`,
    ),
  ),
  one("a number cut over two packets", 400, request("POST", "/project/p1/connect_node", '{"node":-20}').subarray(0, -3), 50, bytes("20}")),

  ...requestTargets.map((target) => one(`a percent sign in the query of ${target}`, 400, request("GET", `${target}?a=%2F`))),
  one("a percent sign in a query that is malformed", 400, request("GET", "/drift?x=%zz")),
  one("NUL in a parameter's name", 400, request("GET", "/node/n1?a%00b=1")),
  one("a line feed in a member's name", 400, request("POST", "/node/n1/power_off", '{"a\\nb":1}')),
  one("a lone surrogate in a member's name", 400, request("POST", "/node/n1/power_off", '{"\\ud800":1}')),
  one(
    "a line feed in the name of a switch's field",
    400,
    request("PUT", "/switch/x", JSON.stringify({ ...mockSwitch, "a\r\nX-Injected: 1": 1 })),
  ),
  one(
    "a lone surrogate in the name of a BMC's field",
    400,
    request("PUT", "/node/x", JSON.stringify({ obm: { ...mockObm, "\ud800": 1 } })),
  ),
  one("a member called __proto__", 400, request("POST", "/node/n1/power_off", '{"__proto__":{"x":1}}')),

  ...malformed.map(([name, text]) => one(`malformed: ${name}`, 400, bytes(text))),
  one("malformed: a path of 20,000 bytes", 414, bytes(`GET /${"x".repeat(20_000)} HTTP/1.1\r\n${host}\r\n`)),
  one(
    "malformed: headers of 200,000 bytes",
    431,
    bytes(`GET /nodes/free HTTP/1.1\r\n${host}${`X: ${"y".repeat(1_000)}\r\n`.repeat(200)}\r\n`),
  ),
  one(
    "a trailer behind a body in chunks",
    400,
    bytes(
      `POST /project/p1/connect_node HTTP/1.1\r\n${host}${admin}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n`,
    ),
  ),

  {
    name: "a stranger's body of 7.9 MiB is not waited for",
    steps: [bytes(`PUT /project/x HTTP/1.1\r\n${host}Content-Length: 8283750\r\n\r\n`)],
    statuses: [401],
  },
  {
    name: "a body of 7.9 MiB is not waited for",
    steps: [bytes(`PUT /project/x HTTP/1.1\r\n${host}${admin}Content-Length: 8283750\r\n\r\n`)],
    statuses: [413],
  },
  one("a mebibyte of ones", 413, request("PUT", "/network/x", `{"owner":[${"1,".repeat(500_000)}1]}`)),
  one("a large answer to a request whose body nobody reads", 200, request("GET", "/swagger/json", "x".repeat(140_000))),
  {
    name: "a request whose client goes before the body is there",
    steps: [request("POST", "/project/p1/connect_node", '{"node":"n1"}').subarray(0, -3), "abort"],
    statuses: [],
  },
  {
    name: "a request whose client closes its side before the body is there",
    steps: [request("POST", "/project/p1/connect_node", '{"node":"n1"}').subarray(0, -3), "end"],
    statuses: [],
  },

  {
    name: "two requests in a row and the sending side closed",
    steps: [request("GET", "/nodes/free"), request("GET", "/nodes/all"), "end"],
    statuses: [200, 200],
  },
  {
    name: "a request in a row behind one that still runs",
    steps: [Buffer.concat([request("PUT", "/project/p1"), request("GET", "/nodes/all"), request("GET", "/project/none/nodes")]), "end"],
    statuses: [409, 200, 404],
  },
  {
    name: "a method in lower case that is not the first of its connection",
    steps: [request("GET", "/nodes/all"), 50, request("put", "/project/p1"), "end"],
    statuses: [200, 409],
  },
  {
    name: "two dots that are not in the first request of their connection",
    steps: [request("GET", "/nodes/all"), 50, request("GET", "/node/../nic"), 50, request("GET", "/node/.."), "end"],
    statuses: [200, 404, 404],
  },

  one(
    "a page of another site powers a node off",
    403,
    request("POST", "/node/n1/power_off", null, `${admin}Origin: https://evil.example\r\n`),
  ),
  one(
    "a page of another site takes a node",
    403,
    request("POST", "/project/p1/connect_node", '{"node":"n6"}', `${admin}Sec-Fetch-Site: cross-site\r\n`),
  ),
];

/** What is wrong with the answers to a kept input. */
export const expected =
  ({ statuses }: Kept) =>
  (replies: readonly Reply[]): string | null => {
    const got = replies.map(({ status }) => status);
    if (statuses === undefined) return got.length === 1 ? null : `${got.length} answers`;
    return got.join() === statuses.join() ? null : `it answers ${got.join()} instead of ${statuses.join()}`;
  };

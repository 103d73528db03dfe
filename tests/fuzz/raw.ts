import { pick } from "../support/random.ts";
import type { Step } from "./connections.ts";
import type { Reply } from "./replies.ts";
import { flipped, someDraft, spliced } from "./mutations.ts";
import { bytesOf, type Draft, type Source } from "./requests.ts";
import { chance, type Random, whole } from "./values.ts";
import { basic, rawUser } from "./world.ts";

// Bytes on a connection of their own, as no HTTP client sends them.

export interface RawCase {
  readonly steps: Step[];
  /** What has to be true of the answers beside the contract; says what is not. */
  readonly expects?: (replies: readonly Reply[]) => string | null;
}

const latin1 = (text: string): Buffer => Buffer.from(text, "latin1");

/** Header lines that every request of a raw case needs. */
const common = ({ host, credentials }: Source): string =>
  `Host: ${host}\r\n${credentials ? `Authorization: ${basic(rawUser.name, rawUser.password)}\r\n` : ""}`;

const refused = (replies: readonly Reply[]): string | null => {
  if (replies.length === 0) return "no answer to a request that is malformed";
  if (replies[0]!.status < 400) return `${replies[0]!.status} to a request that is malformed`;
  return replies.some(({ body }) => body.includes("smuggled")) ? "it read what stood within a body as a request" : null;
};

const answered =
  (count: number) =>
  (replies: readonly Reply[]): string | null =>
    replies.length === count ? null : `${replies.length} answers to ${count} requests`;

const smuggled = "GET /node/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/** Heads that every server has to refuse. `{common}` stands for the usual header lines. */
const malformed: readonly string[] = [
  "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\x00".repeat(40) + "\r\n\r\n",
  "\0\0\0\0\r\n\r\n",
  "GET\r\n\r\n",
  "GET /nodes/free\r\n\r\n",
  "GET /nodes/free HTTP/1.1 x\r\n{common}\r\n",
  "GET  /nodes/free  HTTP/1.1\r\n{common}\r\n",
  "GET\t/nodes/free\tHTTP/1.1\r\n{common}\r\n",
  " GET /nodes/free HTTP/1.1\r\n{common}\r\n",
  "GET /nodes/free HTTP/2.0\r\n{common}\r\n",
  "GET /nodes/free HTTP/11\r\n{common}\r\n",
  "GET /nodes/free http/1.1\r\n{common}\r\n",
  "GET /nodes/free HTTP/1.1\n{common}\r\n",
  "GET /nodes/free XTTP/1.1\r\n{common}\r\n",
  "GET /no\0des HTTP/1.1\r\n{common}\r\n",
  "GET /no des HTTP/1.1\r\n{common}\r\n",
  "G\xffT /nodes/free HTTP/1.1\r\n{common}\r\n",
  "G(T /nodes/free HTTP/1.1\r\n{common}\r\n",
  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}Host: other\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}host: 127.0.0.1\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}X: a\r\n folded\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}X : a\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}X\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}: a\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}X: a\0b\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}X: a\rb\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}X\xff: a\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n{common}X Y: a\r\n\r\n",
  "GET /nodes/free HTTP/1.1\r\n X: a\r\n{common}\r\n",
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: 2, 3\r\n\r\n{}x`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: -2\r\n\r\n{}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: +2\r\n\r\n{}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: 0x2\r\n\r\n{}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: 2.0\r\n\r\n{}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: \r\n\r\n{}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: 1e1\r\n\r\n{}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: 99999999999999999999999\r\n\r\n{}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: ${smuggled.length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n${smuggled}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${smuggled}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n${smuggled}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n${smuggled}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n${smuggled}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n${smuggled}`,
  `POST /project/p1/connect_node HTTP/1.0\r\n{common}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`,
  ...["-1", "g", "", " 2", "2 ", "0x2", "+2", "2;", "fffffffffffffffff", "-0", "2\0", "1_0"]
    .filter((size) => size !== "2;" && size !== "2 ")
    .map((size) => `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n${size}\r\n{}\r\n0\r\n\r\n`),
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n2;${"a".repeat(20_000)}\r\n{}\r\n0\r\n\r\n`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n${"T: x\r\n".repeat(5_000)}\r\n`,
  `GET /${"x".repeat(70_000)} HTTP/1.1\r\n{common}\r\n`,
  `GET /nodes/free HTTP/1.1\r\n{common}X: ${"x".repeat(100_000)}\r\n\r\n`,
  `GET /nodes/free HTTP/1.1\r\n{common}${"X: y\r\n".repeat(5_000)}\r\n`,
];

/** Odd, but legal: each is answered once. */
const odd: readonly string[] = [
  "\r\nGET /nodes/free HTTP/1.1\r\n{common}\r\n",
  "GET /nodes/free HTTP/1.0\r\n{common}\r\n",
  "GET http://127.0.0.1/nodes/free HTTP/1.1\r\n{common}\r\n",
  "OPTIONS * HTTP/1.1\r\n{common}\r\n",
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n2;a=b;c="d"\r\n{}\r\n0\r\n\r\n`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Transfer-Encoding: Chunked\r\n\r\n0002\r\n{}\r\n000\r\n\r\n`,
  `POST /project/p1/connect_node HTTP/1.1\r\n{common}Content-Length: 002\r\n\r\n{}`,
  "put /project/p1 HTTP/1.1\r\n{common}Connection: close\r\n\r\n",
];

function malformedCase(source: Source): RawCase {
  const bytes = latin1(pick(source.random, malformed).replace("{common}", common(source)));
  // A server that refuses closes the connection, whether its client does or not.
  const end: Step[] = chance(source.random, 0.5) ? ["end"] : [];
  return { steps: [...cut(source.random, bytes, whole(source.random, 3)), ...end], expects: refused };
}

function oddCase(source: Source): RawCase {
  const bytes = latin1(pick(source.random, odd).replace("{common}", common(source)));
  return { steps: [...cut(source.random, bytes, whole(source.random, 4)), "end"], expects: answered(1) };
}

/** In so many pieces more, with short pauses or none. */
function cut(random: Random, bytes: Buffer, cuts: number): Step[] {
  const at = Array.from({ length: cuts }, () => whole(random, bytes.length)).toSorted((a, b) => a - b);
  const steps: Step[] = [];
  let from = 0;
  for (const to of [...at, bytes.length]) {
    if (to > from) steps.push(bytes.subarray(from, to), pick(random, [0, 1, 5, 20]));
    from = to;
  }
  return steps;
}

/** Requests of which each answer shows which one it belongs to; sent together or in pieces. */
function pipelined(source: Source): RawCase {
  const { random } = source;
  const names = Array.from({ length: 2 + whole(random, 8) }, (_, i) => `pipelined-${i}-${whole(random, 1e6)}`);
  const requests = names.map((name) => {
    const kind = random();
    if (kind < 0.6) return `GET /network/${name} HTTP/1.1\r\n${common(source)}\r\n`;
    const body = `{"owner":"${name}","access":"","net_id":""}`;
    const head = `${pick(random, ["PUT", "put"])} /network/x HTTP/1.1\r\n${common(source)}`;
    if (kind < 0.8) return `${head}Content-Length: ${body.length}\r\n\r\n${body}`;
    return `${head}Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
  });
  return {
    steps: [...cut(random, latin1(requests.join("")), pick(random, [0, 0, 1, 5])), "end"],
    expects(replies) {
      // Where a refused body is not read, the connection ends, and says so.
      const told = replies.at(-1)?.headers.get("connection") === "close";
      if (replies.length !== names.length && !(told && !source.credentials && source.auth === "database"))
        return `${replies.length} answers to ${names.length} requests in a row`;
      if (source.auth === "database" && !source.credentials) return null;
      const at = replies.findIndex(({ body }, i) => !body.includes(names[i]!));
      return at === -1
        ? null
        : `answer ${at + 1} in a row does not belong to its request: ${replies[at]!.status} ${replies[at]!.body.toString()}`;
    },
  };
}

/** A request with its credentials, which are not changed: a wrong password costs too much time. */
function withCredentials(source: Source, bytes: Buffer): Buffer {
  const end = bytes.indexOf("\r\n");
  if (!source.credentials || end === -1) return bytes;
  return Buffer.concat([
    bytes.subarray(0, end + 2),
    latin1(`Authorization: ${basic(rawUser.name, rawUser.password)}\r\n`),
    bytes.subarray(end + 2),
  ]);
}

/** Whose answer has a body: what comes on a raw connection is read without a look at what was sent. */
const withBody = (draft: Draft): Draft => (/^head$/i.test(draft.method) ? { ...draft, method: "GET" } : draft);

function mutated(source: Source): RawCase {
  const { random } = source;
  let bytes = bytesOf(withBody(someDraft(source, 0.3, "anonymous")), random);
  for (let i = whole(random, 3); i >= 0; i--) bytes = pick(random, [flipped, spliced])(random, bytes);
  bytes = withCredentials(source, bytes);
  return { steps: [...cut(random, bytes, pick(random, [0, 0, 1, 3])), "end"] };
}

/** A request that ends, or is torn off, somewhere. */
function cutOff(source: Source): RawCase {
  const { random } = source;
  const bytes = withCredentials(source, bytesOf(withBody(someDraft(source, 0.3, "anonymous")), random));
  const part = bytes.subarray(0, whole(random, bytes.length + 1));
  return { steps: [...cut(random, part, pick(random, [0, 1])), pick(random, ["end", "abort"])] };
}

/** A legal request, a few bytes at a time. */
function slow(source: Source): RawCase {
  const { random } = source;
  const body = Buffer.from(
    pick(random, ['{"force":-20}', '{"node":-20}', '{"node":1.0}', '{"force":false}', '{"node":"\u00fc"}']),
  ).toString("latin1");
  const bytes = Buffer.from(
    `POST /${pick(random, ["project/p1/connect_node", "node/n1/power_cycle"])} HTTP/1.1\r\n${common(source)}` +
      (chance(random, 0.5)
        ? `Transfer-Encoding: chunked\r\n\r\n${body.replaceAll(/[^]/g, "1\r\n$&\r\n")}0\r\n\r\n`
        : `Content-Length: ${body.length}\r\n\r\n${body}`),
    "latin1",
  );
  return { steps: [...cut(random, bytes, pick(random, [3, 20, 60])), "end"], expects: answered(1) };
}

const kinds: readonly (readonly [weight: number, make: (source: Source) => RawCase])[] = [
  [30, mutated],
  [20, malformedCase],
  [8, oddCase],
  [15, pipelined],
  [20, cutOff],
  [7, slow],
];
const totalWeight = kinds.reduce((sum, [weight]) => sum + weight, 0);

export function someRawCase(source: Source): RawCase {
  let at = source.random() * totalWeight;
  for (const [weight, make] of kinds) if ((at -= weight) < 0) return make(source);
  return mutated(source);
}

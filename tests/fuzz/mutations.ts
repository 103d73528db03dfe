import { pick } from "../support/random.ts";
import { type Caller, type Draft, legalDraft, type Source } from "./requests.ts";
import { chance, jsonText, Members, type Random, Raw, someString, someValue, whole } from "./values.ts";

// Requests with something wrong or odd in any place.

type Mutation = (draft: Draft, source: Source) => void;

const badTargets = [
  "%",
  "%z",
  "%zz",
  "%2",
  "%00",
  "%2f",
  "%2F..%2F",
  "%c0%af",
  "%c0%80",
  "%e0%80%af",
  "%ed%a0%80",
  "%f4%90%80%80",
  "%ff",
  "%fe%ff",
  "%c3",
  "%u0041",
  "%25zz",
  "%ef%bf%bf",
  "%ef%bf%bd",
  "..",
  "%2e%2e",
  ".%2e",
  "../..",
  "./",
  "//",
  "\\",
  "\\..\\",
  ";",
  ";a=b",
  "|",
  "^",
  "`",
  "{}",
  "<>",
  '"',
  "'",
  "\xe9",
  "\xc3\xa9",
  "\xff\xfe",
  "[",
  "]",
  "@",
  ":",
  ":80",
  "*",
  "+",
  "&",
  "=",
  "$",
  "!",
  "~",
];

const mutatePath: Mutation = (draft, { random }) => {
  const [path = "", ...query] = draft.target.split("?");
  const segments = path.split("/");
  const i = 1 + whole(random, segments.length - 1);
  const kind = random();
  if (kind < 0.35) segments[i] = encodeURIComponent(someString(random).toWellFormed());
  else if (kind < 0.6) segments[i] = pick(random, badTargets);
  else if (kind < 0.7) segments[i] = (segments[i] ?? "") + pick(random, badTargets);
  else if (kind < 0.75) segments.splice(i, 0, pick(random, ["", ".", "..", "v0", "%2e", "a".repeat(300)]));
  else if (kind < 0.8) segments.splice(i, 1);
  else if (kind < 0.85) segments.push("");
  else if (kind < 0.9) segments[i] = (segments[i] ?? "").repeat(pick(random, [2, 50, 500]));
  else if (kind < 0.95) segments[i] = swapCase(segments[i] ?? "");
  else segments.splice(1, 0, ...Array.from({ length: pick(random, [1, 10, 1_000]) }, () => pick(random, ["v0", "..", "a", ""])));
  draft.target = [segments.join("/"), ...query].join("?");
};

const swapCase = (text: string): string => text.replaceAll(/[a-z]/gi, (c) => (c === c.toLowerCase() ? c.toUpperCase() : c.toLowerCase()));

const mutateQuery: Mutation = (draft, { random }) => {
  const name = pick(random, ["project", "dry_run", "x", "", "node", "__proto__", "%zz", "a%00b", "project[]"]);
  const value = pick(random, [
    "p1",
    "",
    "true",
    "false",
    "TRUE",
    "1",
    "%",
    "%zz",
    "%00",
    "%ff",
    "a&b",
    "p1&project=p2",
    "\xff",
    "x".repeat(3_000),
  ]);
  const separator = draft.target.includes("?") ? "&" : "?";
  draft.target +=
    separator +
    pick(random, [
      `${name}=${value}`,
      name,
      `${name}=${value}&${name}=${value}`,
      `${name}==${value}`,
      "",
      "&&&",
      "?",
      "=",
      "#x",
      `${name}=${encodeURIComponent(someString(random).toWellFormed())}`,
      Array.from({ length: pick(random, [20, 2_000]) }, (_, i) => `p${i}=1`).join("&"),
      "a=1&".repeat(pick(random, [20, 3_000])),
    ]);
};

const mutateTarget: Mutation = (draft, { random, host }) => {
  draft.target = pick(random, [
    `/v0${draft.target}`,
    `/v0/v0${draft.target}`,
    `//${draft.target}`,
    `http://${host}${draft.target}`,
    `http://other.example${draft.target}`,
    `https://user:pw@other.example:99999${draft.target}`,
    `HTTP://${host}`,
    "*",
    host,
    draft.target.slice(1),
    `${draft.target}#fragment`,
    `${draft.target}/`,
    `${draft.target}%20`,
    `/%2e%2e${draft.target}`,
    `/a/..${draft.target}`,
    `/./${draft.target.slice(1)}`,
    "/",
    "/swagger/json",
    "/swagger",
    "/favicon.ico",
    "/.well-known/security.txt",
    `/node/${"x".repeat(pick(random, [300, 4_000, 12_000, 20_000]))}`,
  ]);
};

const methods = [
  "GET",
  "HEAD",
  "PUT",
  "POST",
  "PATCH",
  "DELETE",
  "OPTIONS",
  "TRACE",
  "CONNECT",
  "PROPFIND",
  "PURGE",
  "QUERY",
  "M-SEARCH",
  "get",
  "Put",
  "dElEtE",
  "head",
  "X",
  "GETGET",
  "a".repeat(200),
];
const mutateMethod: Mutation = (draft, { random }) =>
  void (draft.method = chance(random, 0.3) ? swapCase(draft.method) : pick(random, methods));

/** Every kind of Authorization that holds no right credentials. A password that is well-formed and wrong is not among them: each is worth a tenth of a second. */
function badAuthorization(random: Random): string {
  return pick(random, [
    "",
    "Basic",
    "Basic ",
    "Basic =",
    "Basic ====",
    "Basic YQ",
    "Basic YQ==YQ==",
    "Basic !!!!",
    "Basic \xe9\xe8",
    `Basic ${Buffer.from("no-colon").toString("base64")}`,
    `Basic ${Buffer.from(":").toString("base64")}`,
    `Basic ${Buffer.from(":pw").toString("base64")}`,
    `Basic ${Buffer.from("a\0b:pw").toString("base64")}`,
    `Basic ${Buffer.from("jos\xe9:pw", "latin1").toString("base64")}`,
    `Basic ${Buffer.from([0xff, 0xfe, 0x3a, 0x80]).toString("base64")}`,
    `Basic ${Buffer.from("a\r\nb:pw").toString("base64")}`,
    `Basic ${"QUFB".repeat(pick(random, [10, 1_000, 3_000]))}`,
    `Basic ${Buffer.from("a:b").toString("base64").replaceAll("=", "%3D")}`,
    "Basic YWRt\tSW4=",
    "basic  YQ==  ",
    "Bearer abc",
    "Bearer",
    'Digest username="admin"',
    "Negotiate YII=",
    "AWS4-HMAC-SHA256 Credential=x",
    "admin:pw",
    "x".repeat(pick(random, [10, 7_000])),
  ]);
}

/** Headers, of which each may break something on the way. */
function oddHeader(random: Random): readonly [string, string] {
  return pick<() => readonly [string, string]>(random, [
    () => ["Authorization", badAuthorization(random)],
    () => [
      "Content-Type",
      pick(random, [
        "",
        "text/plain",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "x/y/z",
        ";;",
        "a".repeat(3_000),
        "\xff",
      ]),
    ],
    () => ["Content-Encoding", pick(random, ["gzip", "br", "identity", "deflate, gzip", "x"])],
    () => ["Accept", pick(random, ["*/*", "text/html", "", "x", "application/json;q=9"])],
    () => ["Accept-Encoding", pick(random, ["gzip", "*;q=0", "identity;q=0", ""])],
    () => [
      "Origin",
      pick(random, ["null", "http://evil.example", "https://evil.example", "", "file://", "http://[", "\xff", "http://127.0.0.1"]),
    ],
    () => ["Sec-Fetch-Site", pick(random, ["cross-site", "same-origin", "none", "same-site", "x", ""])],
    () => ["Referer", pick(random, ["http://evil.example/", "x"])],
    () => ["Cookie", pick(random, ["a=b", "x".repeat(4_000), "a=b; ".repeat(500)])],
    () => [
      "X-Forwarded-For",
      pick(random, ["1.2.3.4", "127.0.0.1", "::1", "unknown", "", "1.2.3.4, 5.6.7.8", "x".repeat(2_000), "'", "999.1.1.1", "\xff"]),
    ],
    () => ["X-Forwarded-Proto", pick(random, ["https", "http", "", "x", "https,http"])],
    () => ["X-Forwarded-Host", pick(random, ["evil.example", "", "\xff"])],
    () => ["Forwarded", pick(random, ["for=1.2.3.4;proto=https", 'for="[::1]"', ";;;"])],
    () => ["X-Real-IP", "1.2.3.4"],
    () => ["X-HTTP-Method-Override", "DELETE"],
    () => ["X-Request-Id", pick(random, ["mine", "\xff", "x".repeat(500)])],
    () => ["If-None-Match", pick(random, ["*", '"x"', 'W/"x"', ",", "x".repeat(1_000)])],
    () => ["If-Match", '"x"'],
    () => ["If-Modified-Since", pick(random, ["x", "Thu, 01 Jan 1970 00:00:00 GMT"])],
    () => ["Range", pick(random, ["bytes=0-0", "bytes=-1", "bytes=9-1", "x"])],
    () => ["Connection", pick(random, ["close", "keep-alive", "Keep-Alive, x", "", "host", "te"])],
    () => ["TE", "trailers"],
    () => ["Keep-Alive", "timeout=0, max=0"],
    () => ["Max-Forwards", "0"],
    () => ["Date", "x"],
    () => ["User-Agent", pick(random, ["", "() { :;}; x", "\x80", "x".repeat(2_000)])],
    () => ["Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="],
    () => ["HTTP2-Settings", "AAMAAABkAAQAAP__"],
    () => ["X-Odd", pick(random, ["", " ", "a\tb", "\x80\xff", "=?utf-8?q?x?=", "a".repeat(7_000)])],
    () => [pick(random, ["A", "a-b", "x!#$%&'*+.^_`|~1", "z".repeat(500), "__proto__", "constructor", "content-Length-x"]), "1"],
  ])();
}

const mutateHeader: Mutation = (draft, { random, host }) => {
  const kind = random();
  if (kind < 0.2) replaceHeader(draft, "Authorization", badAuthorization(random));
  else if (kind < 0.25) draft.headers = draft.headers.filter(([name]) => name !== "Authorization");
  else if (kind < 0.32) {
    const name = pick(random, [
      "127.0.0.1",
      "localhost",
      "[::1]",
      "x",
      "evil.example",
      "evil.example:80",
      `${host}.`,
      "127.0.0.1:0",
      "127.0.0.1:99999",
      "a.b.c.d.e",
      "0",
      "",
      "127.0.0.1:",
      "xn--a",
      "UPPER.example",
      "a_b",
    ]);
    replaceHeader(draft, "Host", name);
  } else if (kind < 0.36) draft.headers = draft.headers.map(([name, value]) => [swapCase(name), value] as const);
  else if (kind < 0.4)
    draft.headers = draft.headers.map(
      ([name, value]) => [name, pick(random, [" ", "\t", "  "]) + value + pick(random, ["", " ", "\t "])] as const,
    );
  else if (kind < 0.43) for (let i = 0; i < pick(random, [10, 90, 300]); i++) draft.headers.push([`X-${i}`, "1"]);
  else for (let i = whole(random, 3); i >= 0; i--) draft.headers.push(oddHeader(random));
};

function replaceHeader(draft: Draft, name: string, value: string): void {
  draft.headers = draft.headers.filter(([one]) => one !== name);
  draft.headers.splice(
    whole(() => 0.5, draft.headers.length + 1),
    0,
    [name, value],
  );
}

/** A body of the right shape, with something wrong in it. */
const mutateMembers: Mutation = (draft, source) => {
  const { random } = source;
  const members = [...parsedMembers(draft.body)];
  for (let i = whole(random, 2); i >= 0; i--) {
    const kind = random();
    const at = whole(random, members.length);
    const [name, value] = members[at] ?? ["x", null];
    if (kind < 0.5 && members.length > 0) members[at] = [name, deepMutated(random, value)];
    else if (kind < 0.6) members.splice(at, 1);
    else if (kind < 0.7) members.push([name, chance(random, 0.5) ? value : someValue(random)]);
    else if (kind < 0.9)
      members.push([
        chance(random, 0.6)
          ? pick(random, [
              "__proto__",
              "constructor",
              "prototype",
              "toJSON",
              "node",
              "project",
              "switch",
              "network",
              "user",
              "force",
              "is_admin",
              "password",
              "type",
              "x",
              "",
              "a.b",
              "0",
            ])
          : someString(random),
        someValue(random),
      ]);
    else if (members.length > 0) members[at] = [swapCase(name), value];
  }
  draft.body = Buffer.from(jsonText(new Members(members)));
};

/** The value itself replaced, or something within it. */
function deepMutated(random: Random, value: unknown): unknown {
  if (typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Raw) && chance(random, 0.7)) {
    const inner = Object.entries(value);
    const at = whole(random, inner.length);
    if (inner.length > 0 && chance(random, 0.7)) inner[at] = [inner[at]![0], someValue(random)];
    else if (chance(random, 0.5)) inner.splice(at, 1);
    else inner.push([someString(random), someValue(random)]);
    return new Members(inner);
  }
  return someValue(random);
}

function parsedMembers(body: Buffer | null): [string, unknown][] {
  const text = body?.toString() ?? "";
  // What is nested deep is left alone.
  if (text.split(/[[{]/).length > 200) return [];
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? Object.entries(value) : [];
  } catch {
    return [];
  }
}

const bom = [Buffer.from("\ufeff"), Buffer.from([0xff, 0xfe])];

/** A body that is something else. */
const mutateBody: Mutation = (draft, { random }) => {
  const old = draft.body ?? Buffer.from("{}");
  draft.body = pick<() => Buffer | null>(random, [
    () => Buffer.from(jsonText(someValue(random))),
    () =>
      Buffer.from(
        pick(random, [
          "null",
          "[]",
          "1",
          '""',
          "true",
          "{}{}",
          "{",
          "}",
          "[",
          '{"a"',
          "\n",
          " ",
          "\0",
          "{}\0",
          "node=n1",
          "a=b&c=d",
          "<xml/>",
          "--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--x--",
        ]),
      ),
    () => Buffer.concat([pick(random, bom), old]),
    () => Buffer.from(old.toString(), "utf16le"),
    () => Buffer.from(Bun.gzipSync(Buffer.from(old))),
    () => Buffer.concat([old, Buffer.from([0xff])]),
    () =>
      Buffer.concat([
        old.subarray(0, 2),
        Buffer.from(pick(random, ["\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"]), "latin1"),
        old.subarray(2),
      ]),
    () => null,
    () => old.subarray(0, whole(random, old.length)),
    () => Buffer.concat([old, old]),
    () => flipped(random, old),
    () => spliced(random, old),
    () => Buffer.from(Array.from({ length: whole(random, 64) }, () => whole(random, 256))),
    () => Buffer.from(`{"x":"${"y".repeat(pick(random, [1_000, 60_000, 66_000, 140_000]))}"}`),
    () => Buffer.from(`{"x":[${"1,".repeat(pick(random, [100, 10_000, 30_000]))}1]}`),
    () => Buffer.from(`{${Array.from({ length: pick(random, [100, 2_000]) }, (_, i) => `"k${i}":0`).join(",")}}`),
    () => Buffer.from(`${" ".repeat(pick(random, [10, 5_000]))}${old.toString()}${"\n".repeat(whole(random, 20))}`),
  ])();
};

/** With up to a few bits turned. */
export function flipped(random: Random, bytes: Uint8Array): Buffer {
  const copy = Buffer.from(bytes);
  for (let i = whole(random, 4); i >= 0 && copy.length > 0; i--) copy[whole(random, copy.length)]! ^= 1 << whole(random, 8);
  return copy;
}

/** With a piece removed, repeated or moved. */
export function spliced(random: Random, bytes: Uint8Array): Buffer {
  const from = whole(random, bytes.length);
  const piece = bytes.subarray(from, from + whole(random, 20));
  const to = whole(random, bytes.length);
  return chance(random, 0.5)
    ? Buffer.concat([bytes.subarray(0, from), bytes.subarray(from + piece.length)])
    : Buffer.concat([bytes.subarray(0, to), piece, bytes.subarray(to)]);
}

const mutateFraming: Mutation = (draft, { random }) => {
  pick<() => void>(random, [
    () => void (draft.version = "HTTP/1.0"),
    () => void draft.headers.push(["Expect", pick(random, ["100-continue", "100-Continue", "x", "200-ok", ""])]),
    () =>
      void draft.headers.push(
        ["Connection", "Upgrade"],
        ["Upgrade", pick(random, ["websocket", "h2c", "TLS/1.0", "x"])],
        ["Sec-WebSocket-Version", pick(random, ["13", "8", "x"])],
        ["Sec-WebSocket-Key", pick(random, ["dGhlIHNhbXBsZSBub25jZQ==", "x", ""])],
      ),
    () => void (draft.chunked = !draft.chunked),
  ])();
};

const mutations: readonly (readonly [weight: number, mutation: Mutation])[] = [
  [22, mutatePath],
  [26, mutateMembers],
  [10, mutateBody],
  [8, mutateQuery],
  [6, mutateTarget],
  [8, mutateMethod],
  [14, mutateHeader],
  [4, mutateFraming],
];
const totalWeight = mutations.reduce((sum, [weight]) => sum + weight, 0);

function someMutation(random: Random): Mutation {
  let at = random() * totalWeight;
  for (const [weight, mutation] of mutations) if ((at -= weight) < 0) return mutation;
  return mutatePath;
}

/** A request of which `hostility` of all have something wrong. */
export function someDraft(source: Source, hostility: number, caller?: Caller): Draft {
  const { random } = source;
  const draft = legalDraft(source, caller ?? (chance(random, 0.08) ? "anonymous" : undefined));
  if (!chance(random, hostility)) return draft;
  for (let i = pick(random, [1, 1, 1, 2, 3]); i > 0; i--) {
    const mutation = someMutation(random);
    if (!draft.device || (mutation !== mutatePath && mutation !== mutateTarget)) mutation(draft, source);
  }
  // Whatever else: these two must stay.
  if (/\/user\/(admin|keeper|good|raw)\b/i.test(decoded(draft.target)))
    draft.headers = draft.headers.filter(([name]) => name.toLowerCase() !== "authorization");
  return draft;
}

const decoded = (target: string): string => {
  try {
    return decodeURIComponent(target);
  } catch {
    return target;
  }
};

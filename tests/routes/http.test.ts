import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { connect as connectTcp, type Socket } from "node:net";
import { type Front, listen } from "../../src/http/front.ts";
import type { Arrival } from "../../src/http/arrival.ts";
import { mockObm, mockSwitch, type Service, startService } from "../support/service.ts";

// Bytes on a socket, because what is tested here is what HTTP clients never let one send.

let service: Service;
let front: Front;
/** The client's address of each request, as the app is told. */
const addresses: string[] = [];
/** What the front refused by itself. */
const refused: { id: string; type: string }[] = [];
/** Tells, after a while, what it was asked. */
let slow: Front;

beforeAll(async () => {
  service = await startService("sqlite", { more: "[general]\nhosts = haas, other, a, lab, a.example, 10.0.0.1\n" });
  const app = {
    handle: (request: Request, arrival?: Arrival) => {
      addresses.push(arrival?.address ?? "none");
      return service.app.handle(request, arrival);
    },
  };
  front = listen(app, { host: "0.0.0.0", port: 0, refused: ({ type }, { id }) => void refused.push({ id, type }) });
  slow = listen(
    {
      async handle(request, arrival) {
        await Bun.sleep(30);
        const body = await arrival!.body(1_000);
        return new Response(`${request.method} ${new URL(request.url).pathname} ${Buffer.from(body).toString()}`);
      },
    },
    { host: "127.0.0.1", port: 0 },
  );
});
afterAll(async () => {
  await front.stop(1_000);
  await slow.stop(1_000);
  await service.stop();
});
beforeEach(() => void addresses.splice(0));

interface Reply {
  status: number;
  headers: Headers;
  text: string;
}

/** One connection; answers are read off it in order. */
class Connection {
  #bytes = Buffer.alloc(0);
  #closed = false;
  #more: (() => void)[] = [];

  private constructor(readonly socket: Socket) {
    socket.setNoDelay(true);
    const wake = () => {
      for (const resume of this.#more.splice(0)) resume();
    };
    socket.on("data", (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      wake();
    });
    for (const event of ["end", "close", "error"]) {
      socket.on(event, () => {
        this.#closed = true;
        wake();
      });
    }
  }

  static async open(localAddress = "127.0.0.1", port = front.port): Promise<Connection> {
    const socket = connectTcp({ host: "127.0.0.1", port, localAddress, allowHalfOpen: true });
    await once(socket, "connect");
    return new Connection(socket);
  }

  send(bytes: string | Buffer): this {
    this.socket.write(bytes);
    return this;
  }

  async #until<T>(find: () => T | null): Promise<T> {
    for (;;) {
      const found = find();
      if (found !== null) return found;
      if (this.#closed) throw new Error(`the connection was closed after ${JSON.stringify(this.#bytes.toString("latin1").slice(0, 500))}`);
      await new Promise<void>((resume) => this.#more.push(resume));
    }
  }

  #take(length: number): Buffer {
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return taken;
  }

  /** The next answer. `bare` for one to a HEAD, which has no body. */
  async reply({ bare = false } = {}): Promise<Reply> {
    const headEnd = await this.#until(() => (this.#bytes.includes("\r\n\r\n") ? this.#bytes.indexOf("\r\n\r\n") : null));
    const [statusLine = "", ...lines] = this.#take(headEnd + 4)
      .toString("latin1")
      .trimEnd()
      .split("\r\n");
    const headers = new Headers(
      lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()] as [string, string]),
    );
    const status = Number(statusLine.split(" ")[1]);
    if (bare) return { status, headers, text: "" };
    const parts: Buffer[] = [];
    if (headers.get("transfer-encoding") === "chunked") {
      for (;;) {
        const lineEnd = await this.#until(() => (this.#bytes.includes("\r\n") ? this.#bytes.indexOf("\r\n") : null));
        const size = Number.parseInt(this.#take(lineEnd + 2).toString("latin1"), 16);
        await this.#until(() => (this.#bytes.byteLength >= size + 2 ? true : null));
        parts.push(this.#take(size));
        this.#take(2);
        if (size === 0) break;
      }
    } else {
      const size = Number(headers.get("content-length") ?? 0);
      await this.#until(() => (this.#bytes.byteLength >= size ? true : null));
      parts.push(this.#take(size));
    }
    return { status, headers, text: Buffer.concat(parts).toString("utf8") };
  }

  /** Resolves when the server has closed its side with nothing more to say; what it had left to say otherwise. */
  async rest(): Promise<string> {
    while (!this.#closed) await new Promise<void>((resume) => this.#more.push(resume));
    return this.#bytes.toString("latin1");
  }

  close(): void {
    this.socket.destroy();
  }
}

const head = (line: string, headers: Record<string, string> = {}) =>
  `${line} HTTP/1.1\r\nHost: haas\r\n${Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("")}\r\n`;
const withBody = (line: string, body: string | Buffer, headers: Record<string, string> = {}) =>
  Buffer.concat([Buffer.from(head(line, { "Content-Length": String(Buffer.byteLength(body)), ...headers }), "latin1"), Buffer.from(body)]);

/** One request on a connection of its own. */
async function once1(bytes: string | Buffer, options: { bare?: boolean; from?: string } = {}): Promise<Reply> {
  const connection = await Connection.open(options.from);
  try {
    return await connection.send(bytes).reply(options);
  } finally {
    connection.close();
  }
}

/** Status, and the type of the error where there is one; checks that an error has the published shape. */
function told({ status, headers, text }: Reply): string {
  if (status < 400) return String(status);
  expect(headers.get("content-type")).toBe("application/json");
  const body = JSON.parse(text);
  expect(Object.keys(body).toSorted()).toEqual(["msg", "type"]);
  expect(body.msg).toMatch(/^\S.*\.$/);
  return `${status} ${body.type}`;
}

const projects = async () => JSON.parse((await once1(head("GET /projects"))).text);

describe("methods", () => {
  test.each(["put", "Put", "PUT", "pUt"])("%s is PUT", async (method) => {
    expect(told(await once1(head(`${method} /project/by-${method}`)))).toBe("200");
    expect(await projects()).toContain(`by-${method}`);
    expect(told(await once1(head(`${method === "put" ? "Delete" : "delete"} /project/by-${method}`)))).toBe("200");
    expect(await projects()).not.toContain(`by-${method}`);
  });

  test("every method of the contract in lower case", async () => {
    expect(told(await once1(head("get /projects")))).toBe("200");
    expect(told(await once1(withBody("post /project/nope/connect_node", '{"node": "n"}')))).toBe("404 NotFoundError");
    expect(told(await once1(withBody("put /node/lower", JSON.stringify({ obm: mockObm }))))).toBe("200");
    expect((await once1(head("head /projects"), { bare: true })).status).toBe(200);
  });

  test.each(["FOO", "PROPFIND", "foo", "OPTIONS", "TRACE", "PATCH"])("%s is no method of a known path: 405 with Allow", async (method) => {
    const reply = await once1(head(`${method} /project/p`));
    expect(told(reply)).toBe("405 MethodNotAllowedError");
    expect(reply.headers.get("allow")).toBe("DELETE, PUT");
  });

  test("an unknown path is 404 whatever the method; HEAD counts where GET does", async () => {
    for (const method of ["GET", "PUT", "FOO", "delete"])
      expect(told(await once1(head(`${method} /no/such/path`)))).toBe("404 NotFoundError");
    expect((await once1(head("DELETE /projects"))).headers.get("allow")).toBe("GET, HEAD");
    expect((await once1(head("DELETE /v0/projects"))).headers.get("allow")).toBe("GET, HEAD");
    expect(told(await once1(head("GET /v1/projects")))).toBe("404 NotFoundError");
    expect(told(await once1(head("GET /projects/")))).toBe("404 NotFoundError");
  });

  test("HEAD has the headers of GET and no body, and the connection stays in step", async () => {
    const connection = await Connection.open();
    const get = await connection.send(head("GET /projects")).reply();
    const bare = await connection.send(head("HEAD /projects")).reply({ bare: true });
    expect(bare.status).toBe(200);
    expect(bare.headers.get("content-type")).toBe(get.headers.get("content-type"));
    expect((await connection.send(head("GET /projects")).reply()).text).toBe(get.text);
    connection.close();
  });
});

describe("connections", () => {
  test("a request that had to be mended is one like any other, wherever it stands in its connection", async () => {
    const connection = await Connection.open();
    expect((await connection.send(head("GET /projects")).reply()).status).toBe(200);
    for (const [line, status] of [
      ["put /project/%2e%2e", 200],
      ["get /projects", 200],
      ["delete /project/..", 200],
      ["FOO /projects", 405],
      ["GET /projects", 200],
    ] as const) {
      expect(`${line} ${(await connection.send(head(line)).reply()).status}`).toBe(`${line} ${status}`);
    }
    connection.close();
  });

  test("requests behind one that still runs wait for it, and all are answered in order, also when the client has closed its side", async () => {
    for (const ends of [false, true]) {
      const connection = await Connection.open("127.0.0.1", slow.port);
      const bytes = `${head("GET /1")}${withBody("POST /2", "two").toString()}${head("put /3/..")}${head("GET /4")}`;
      if (ends) connection.socket.end(bytes);
      else connection.send(bytes);
      const texts = [];
      for (let i = 0; i < 4; i++) texts.push((await connection.reply()).text);
      expect(texts).toEqual(["GET /1 ", "POST /2 two", "PUT /3/..%EF%BF%BF ", "GET /4 "]);
      if (ends) expect(await connection.rest()).toBe("");
      connection.close();
    }
  });

  test("requests in one packet have all their answers, when the client has closed its side before the first", async () => {
    const chunked = `${head("PUT /no/such/path", { "Transfer-Encoding": "chunked" })}3\r\nabc\r\n0\r\n\r\n`;
    for (let i = 0; i < 20; i++) {
      const connection = await Connection.open();
      connection.socket.end(head("GET /projects") + chunked + head("GET /no/such/path") + head("GET /projects"));
      const statuses = [];
      for (let i = 0; i < 4; i++) statuses.push((await connection.reply()).status);
      expect(statuses).toEqual([200, 404, 404, 200]);
      expect(await connection.rest()).toBe("");
      connection.close();
    }
  });

  test("a client that goes away within a request is gone, and what it asked for is not done", async () => {
    const whole = withBody("PUT /node/half", JSON.stringify({ obm: mockObm }));
    for (const leave of ["end", "destroy", "resetAndDestroy"] as const) {
      for (const at of [20, whole.indexOf("\r\n\r\n") + 4, whole.byteLength - 1]) {
        const connection = await Connection.open();
        connection.send(whole.subarray(0, at));
        await Bun.sleep(20);
        connection.socket[leave]();
        // Nothing but an ending, or a refusal.
        expect(await connection.rest()).toMatch(/^(|HTTP\/1\.1 4\d\d )/);
      }
    }
    expect(told(await once1(head("GET /node/half")))).toBe("404 NotFoundError");
  });

  test("a body is sent for when it is wanted, and only then", async () => {
    const body = JSON.stringify({ obm: mockObm });
    const asking = (line: string, length: number) => head(line, { Expect: "100-continue", "Content-Length": String(length) });
    const connection = await Connection.open();
    expect((await connection.send(asking("PUT /node/asked", body.length)).reply({ bare: true })).status).toBe(100);
    expect(told(await connection.send(body).reply())).toBe("200");
    // Refused for its path and for its length: no word of a body is asked for.
    expect(told(await connection.send(asking("PUT /no/such/path", body.length)).reply())).toBe("404 NotFoundError");
    expect(await connection.rest()).toBe("");
    expect(told(await once1(asking("PUT /node/asked/metadata/m", 4 * 1024 * 1024)))).toBe("413 PayloadTooLargeError");
  });

  test("what is left of a body that nobody wanted is read past, when it is little", async () => {
    const connection = await Connection.open();
    connection.send(head("PUT /no/such/path", { "Content-Length": "1000" })).send("x".repeat(400));
    expect(told(await connection.reply())).toBe("404 NotFoundError");
    await Bun.sleep(20);
    connection.send("x".repeat(600)).send(head("GET /projects"));
    expect(told(await connection.reply())).toBe("200");
    connection.close();
    const large = await Connection.open();
    large.send(head("PUT /no/such/path", { "Content-Length": "1000000" })).send("x".repeat(1000));
    const reply = await large.reply();
    expect(told(reply)).toBe("404 NotFoundError");
    expect(reply.headers.get("connection")).toBe("close");
    expect(await large.rest()).toBe("");
    large.close();
    const chunks = await Connection.open();
    chunks.send(head("PUT /no/such/path", { "Transfer-Encoding": "chunked" }));
    expect(told(await chunks.reply())).toBe("404 NotFoundError");
    for (let i = 0; i < 10; i++) chunks.send(`2710\r\n${"x".repeat(10_000)}\r\n`);
    expect(await chunks.rest()).toBe("");
    chunks.close();
  });

  test("a normal connection is kept, and takes pipelined requests in order", async () => {
    const connection = await Connection.open();
    for (let i = 0; i < 3; i++) expect((await connection.send(head("GET /projects")).reply()).status).toBe(200);
    connection.send(
      Buffer.concat(
        [
          head("PUT /project/pipe"),
          head("GET /projects"),
          withBody("POST /project/pipe/connect_node", '{"node": "x"}'),
          head("DELETE /project/pipe"),
        ].map((part) => Buffer.from(part)),
      ),
    );
    const replies = [];
    for (let i = 0; i < 4; i++) replies.push(await connection.reply());
    expect(replies.map(told)).toEqual(["200", "200", "404 NotFoundError", "200"]);
    expect(JSON.parse(replies[1]!.text)).toContain("pipe");
    connection.close();
  });

  test("Connection: close is kept as a promise", async () => {
    const connection = await Connection.open();
    expect((await connection.send(head("GET /projects", { Connection: "close" })).reply()).status).toBe(200);
    expect(await connection.rest()).toBe("");
    connection.close();
  });

  test.each(["put", "PUT"])("%s with a chunked body", async (method) => {
    const body = JSON.stringify({ obm: mockObm });
    const chunks = [body.slice(0, 7), body.slice(7, 8), body.slice(8)].map((part) => `${part.length.toString(16)}\r\n${part}\r\n`).join("");
    expect(told(await once1(`${head(`${method} /node/chunked-${method}`, { "Transfer-Encoding": "chunked" })}${chunks}0\r\n\r\n`))).toBe(
      "200",
    );
    expect(told(await once1(head(`GET /node/chunked-${method}`)))).toBe("200");
  });

  test.each(["put", "PUT"])("%s, a byte at a time", async (method) => {
    const connection = await Connection.open();
    for (const byte of withBody(`${method} /node/split-${method}`, JSON.stringify({ obm: mockObm }))) {
      connection.send(Buffer.of(byte));
      await new Promise((resume) => setImmediate(resume));
    }
    expect(told(await connection.reply())).toBe("200");
    connection.close();
  });

  test("every way to cut a request in two", async () => {
    const bytes = withBody("put /network/%2e%2e", '{"owner": "nobody", "access": "", "net_id": ""}');
    const cut = async (at: number) => {
      const connection = await Connection.open();
      connection.send(bytes.subarray(0, at));
      await Bun.sleep(5);
      const reply = await connection.send(bytes.subarray(at)).reply();
      connection.close();
      return told(reply);
    };
    const answers = await Promise.all(Array.from({ length: bytes.byteLength - 1 }, (_, i) => cut(i + 1)));
    expect(new Set(answers)).toEqual(new Set(["404 NotFoundError"]));
  });

  test.each(["get", "GET"])("a client that has closed its sending side gets its answer: %s", async (method) => {
    const connection = await Connection.open();
    connection.socket.end(head(`${method} /projects`));
    expect((await connection.reply()).status).toBe(200);
    expect(await connection.rest()).toBe("");
    connection.close();
  });

  test("a client that says nothing, or half a line, and goes away harms nobody", async () => {
    for (const bytes of ["", "GE", "get /projects HTTP/1.1\r\nHost"]) {
      const connection = await Connection.open();
      if (bytes) connection.send(bytes);
      connection.close();
    }
    expect(told(await once1(head("GET /projects")))).toBe("200");
  });

  test("what is no HTTP at all is refused, and the connection closed", async () => {
    for (const bytes of ["\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n\n\n", "hello\r\n\r\n", "\r\n\r\n\r\n\r\nx y z w\r\n\r\n"]) {
      const connection = await Connection.open();
      connection.send(Buffer.from(bytes, "latin1"));
      expect(await connection.rest()).toMatch(/^(HTTP\/1\.1 4\d\d |$)/);
      connection.close();
    }
    expect(told(await once1(head("GET /projects")))).toBe("200");
  });

  test("clients of two addresses are told apart, also on kept connections", async () => {
    const [one, two] = [await Connection.open("127.0.0.1"), await Connection.open("127.0.0.2")];
    for (let i = 0; i < 3; i++) for (const connection of [one, two]) await connection.send(head("GET /projects")).reply();
    expect(addresses).toEqual(["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2"]);
    one.close();
    two.close();
  });
});

test.each(["a", "lab", "haas", "10.0.0.1:5000", "[::1]:5000", "a.example"])("the server may be called %s", async (host) => {
  for (const method of ["GET", "get"]) expect(told(await once1(`${method} /projects HTTP/1.1\r\nHost: ${host}\r\n\r\n`))).toBe("200");
});

describe("limits", () => {
  test.each(["\r\n\r\n", ""])("a request line that is too long: 414 (it ends in %j)", async (end) => {
    const reply = await once1(`GET /${"x".repeat(20_000)}${end === "" ? "" : ` HTTP/1.1\r\nHost: haas${end}`}`);
    expect(told(reply)).toBe("414 UriTooLongError");
  });

  test.each(["content-length", "chunked"])("a body over 1 MiB: 413, by %s", async (by) => {
    const body = JSON.stringify({ value: "x".repeat(1024 * 1024) });
    const bytes =
      by === "chunked"
        ? Buffer.from(
            `${head("PUT /node/n/metadata/m", { "Transfer-Encoding": "chunked" })}${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
          )
        : withBody("PUT /node/n/metadata/m", body);
    const reply = await once1(bytes);
    expect(told(reply)).toBe("413 PayloadTooLargeError");
    expect(reply.headers.get("x-request-id")).toBeTruthy();
  });

  test("a body of just under 1 MiB is read", async () => {
    expect(told(await once1(withBody("PUT /node/large", JSON.stringify({ obm: mockObm }))))).toBe("200");
    const body = JSON.stringify({ value: "x".repeat(1024 * 1024 - 20) });
    expect(told(await once1(withBody("PUT /node/large/metadata/m", body)))).toBe("200");
  });

  test("a body far over the limit is refused, by a status at least", async () => {
    const connection = await Connection.open();
    connection.send(head("PUT /node/n/metadata/m", { "Content-Length": String(64 * 1024 * 1024) }));
    expect((await connection.reply()).status).toBe(413);
    connection.close();
  });

  test("when there is no place left, the one that has waited longest goes, and never the newcomer; one address has a quarter", async () => {
    const small = listen(service.app, { host: "127.0.0.1", port: 0, files: 192 });
    expect(small.places).toBe(64);
    const held: Connection[] = [];
    const hold = async (address: string, bytes = "") => {
      const connection = await Connection.open(address, small.port);
      held.push(connection.send(bytes));
      if (bytes.endsWith("\r\n\r\n")) expect((await connection.reply()).status).toBe(200);
      return connection;
    };
    try {
      const first = await hold("127.0.0.9", "GET /proj");
      for (let i = 1; i < 16; i++) await hold("127.0.0.9", i % 2 ? head("GET /projects") : "GET");
      // The 17th of its address: that address has had its share.
      await hold("127.0.0.9", head("GET /projects"));
      expect(await first.rest()).toBe("");
      // Four addresses with a share each; then come others, and from this machine, and all are served.
      for (const address of ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4", "127.0.1.5"])
        for (let i = 0; i < 16; i++) await hold(address, "GET /projects HTTP/1.1\r\nHos");
      for (const address of ["127.0.1.7", "127.0.0.1", "127.0.0.8"]) await hold(address, head("GET /projects"));
    } finally {
      for (const connection of held) connection.close();
      await small.stop(1_000);
    }
  }, 120_000);

  test("a user has a quarter of the places, from however many addresses", async () => {
    const users = listen(
      {
        async handle(request, arrival) {
          arrival!.signedIn(Number(request.headers.get("x-user")));
          return new Response("in");
        },
      },
      { host: "127.0.0.1", port: 0, files: 192 },
    );
    const held: Connection[] = [];
    const signIn = async (address: string, user: string) => {
      const connection = (await Connection.open(address, users.port)).send(head("GET /", { "X-User": user }));
      held.push(connection);
      expect((await connection.reply()).text).toBe("in");
      return connection;
    };
    try {
      const other = await signIn("127.0.0.2", "1");
      const first = await signIn("127.0.0.2", "2");
      for (let i = 0; i < 16; i++) await signIn(`127.0.0.${3 + (i % 4)}`, "2");
      expect(await first.rest()).toBe("");
      expect((await other.send(head("GET /")).reply()).text).toBe("in");
    } finally {
      for (const connection of held) connection.close();
      await users.stop(1_000);
    }
  });

  test("strangers who ask without a pause are all answered, and so is who comes after them", async () => {
    const connections = await Promise.all(Array.from({ length: 200 }, (_, i) => Connection.open(`127.0.3.${1 + (i % 20)}`)));
    for (const connection of connections) connection.send(head("GET /projects").repeat(20));
    const later = await Connection.open("127.0.4.1");
    expect((await later.send(head("GET /projects")).reply()).status).toBe(200);
    for (const connection of connections) for (let i = 0; i < 20; i++) expect((await connection.reply()).status).toBe(200);
    for (const connection of [later, ...connections]) connection.close();
  });

  test("a client has one deadline for a whole request, however it fills the time; a kept connection has more", async () => {
    const trickling: Timer[] = [];
    const trickle = (connection: Connection, byte: string) => void trickling.push(setInterval(() => connection.send(byte), 500));
    const started = head("PUT /node/n", { "Content-Length": "1000" });
    const kept = await Connection.open();
    expect((await kept.send(head("GET /projects")).reply()).status).toBe(200);
    const silent = await Connection.open();
    const asked = [
      (await Connection.open()).send("GET /proj"),
      (await Connection.open()).send("GET /projects HTTP/1.1\r\nX: "),
      (await Connection.open()).send(started),
      (await Connection.open()).send(started),
    ];
    trickle(asked[1]!, "x");
    trickle(asked[3]!, " ");
    try {
      for (const connection of asked) expect(told(await connection.reply())).toBe("408 RequestTimeoutError");
      expect(await silent.rest()).toBe("");
      expect((await kept.send(head("GET /projects")).reply()).status).toBe(200);
    } finally {
      for (const timer of trickling) clearInterval(timer);
      for (const connection of [kept, silent, ...asked]) connection.close();
    }
  }, 60_000);

  test("clients that ask without end and take nothing hold no memory", async () => {
    const large = "x".repeat(2_000_000);
    let given = 0;
    const giving = listen(
      {
        async handle() {
          given++;
          return new Response(large);
        },
      },
      { host: "127.0.0.1", port: 0 },
    );
    // In a process of their own: what they hold is no matter here.
    const clients = Bun.spawn([process.execPath, "-e", greedyClients, String(giving.port), head("GET /x").repeat(500)], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    const before = process.memoryUsage().rss;
    let most = 0;
    try {
      for (let i = 0; i < 3_000 && given < 1_200; i++) {
        await Bun.sleep(10);
        most = Math.max(most, process.memoryUsage().rss - before);
      }
      expect(given).toBeGreaterThanOrEqual(1_200);
      // One answer at a time is made for each, 2.4 GB; haas gives them 64 MiB, and the rest is what is collected late.
      expect(most).toBeLessThan(1_200 * 1024 * 1024);
      expect((await (await Connection.open("127.0.0.1", giving.port)).send(head("GET /x")).reply()).text).toBe(large);
    } finally {
      clients.kill("SIGKILL");
      await clients.exited;
      await giving.stop(1_000);
    }
  }, 60_000);
});

/** Twelve hundred that send what they are told to, and read nothing. */
const greedyClients = `
  const [port, bytes] = process.argv.slice(-2);
  for (let i = 0; i < 1200; i++) {
    const socket = require("node:net").connect({ port: Number(port), host: "127.0.0.1", localAddress: "127.0.0." + (2 + (i % 8)) });
    socket.on("error", () => {});
    socket.pause();
    socket.write(bytes);
  }
  setInterval(() => {}, 1000);
`;

describe("heads", () => {
  const refusals: [name: string, bytes: string, answer: string][] = [
    ["two Host headers", "GET /projects HTTP/1.1\r\nHost: haas\r\nhost: haas\r\n\r\n", "400 ValidationError"],
    ["no Host header", "GET /projects HTTP/1.1\r\n\r\n", "400 ValidationError"],
    ["a Host that is a path", "GET /projects HTTP/1.1\r\nHost: haas/x\r\n\r\n", "400 ValidationError"],
    ["a line that ends with LF alone", "GET /projects HTTP/1.1\nHost: haas\n\n", "400 ValidationError"],
    ["a header that ends with LF alone", "GET /projects HTTP/1.1\r\nHost: haas\nX: y\r\n\r\n", "400 ValidationError"],
    ["a carriage return within a header", "GET /projects HTTP/1.1\r\nHost: haas\rX: y\r\n\r\n", "400 ValidationError"],
    ["a header over two lines", "GET /projects HTTP/1.1\r\nHost: haas\r\nX: a\r\n b\r\n\r\n", "400 ValidationError"],
    ["a blank before the colon", "GET /projects HTTP/1.1\r\nHost : haas\r\n\r\n", "400 ValidationError"],
    ["a header without a name", "GET /projects HTTP/1.1\r\nHost: haas\r\n: x\r\n\r\n", "400 ValidationError"],
    ["a NUL", "GET /projects HTTP/1.1\r\nHost: haas\r\nX: a\0b\r\n\r\n", "400 ValidationError"],
    ["two blanks", "GET  /projects HTTP/1.1\r\nHost: haas\r\n\r\n", "400 ValidationError"],
    ["no version", "GET /projects\r\nHost: haas\r\n\r\n", "400 ValidationError"],
    ["another version", "GET /projects HTTP/2.0\r\nHost: haas\r\n\r\n", "400 ValidationError"],
    ["the start of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 ValidationError"],
    ["a method that is none", "G(T /projects HTTP/1.1\r\nHost: haas\r\n\r\n", "400 ValidationError"],
    ["no path", "GET projects HTTP/1.1\r\nHost: haas\r\n\r\n", "400 ValidationError"],
    ["a tunnel", "CONNECT haas:443 HTTP/1.1\r\nHost: haas\r\n\r\n", "400 ValidationError"],
    ["two lengths", "PUT /project/x HTTP/1.1\r\nHost: haas\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", "400 ValidationError"],
    ["a length below 0", "PUT /project/x HTTP/1.1\r\nHost: haas\r\nContent-Length: -20\r\n\r\n{}", "400 ValidationError"],
    ["a length with a sign", "PUT /project/x HTTP/1.1\r\nHost: haas\r\nContent-Length: +2\r\n\r\n{}", "400 ValidationError"],
    ["a list of lengths", "PUT /project/x HTTP/1.1\r\nHost: haas\r\nContent-Length: 2, 2\r\n\r\n{}", "400 ValidationError"],
    ["no length", "PUT /project/x HTTP/1.1\r\nHost: haas\r\nContent-Length:\r\n\r\n{}", "400 ValidationError"],
    [
      "a length and chunks",
      "PUT /project/x HTTP/1.1\r\nHost: haas\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "400 ValidationError",
    ],
    ["another coding", "PUT /project/x HTTP/1.1\r\nHost: haas\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "400 ValidationError"],
    ["an old client's chunks", "PUT /project/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 ValidationError"],
    ["a head without end", `GET /projects HTTP/1.1\r\nHost: haas\r\nX: ${"x".repeat(40_000)}`, "431 HeadersTooLargeError"],
    ["too many headers", `GET /projects HTTP/1.1\r\nHost: haas\r\n${"X: y\r\n".repeat(200)}\r\n`, "431 HeadersTooLargeError"],
  ];
  test.each(refusals)("%s is refused, in the shape of every error, and logged", async (_, bytes, answer) => {
    refused.splice(0);
    for (const piecewise of [false, true]) {
      const connection = await Connection.open();
      if (piecewise) {
        connection.send(Buffer.from(bytes.slice(0, -3), "latin1"));
        await Bun.sleep(3);
        connection.send(Buffer.from(bytes.slice(-3), "latin1"));
      } else connection.send(Buffer.from(bytes, "latin1"));
      const reply = await connection.reply();
      expect(told(reply)).toBe(answer);
      expect(reply.headers.get("x-request-id")).toBe(refused.at(-1)!.id);
      expect(reply.headers.get("connection")).toBe("close");
      expect(await connection.rest()).toBe("");
      connection.close();
    }
    expect(refused.map((one) => one.type)).toEqual(Array(2).fill(answer.slice(4)));
    expect(await projects()).not.toContain("x");
  });

  test.each([
    ["zz\r\n{}\r\n0\r\n\r\n"],
    ["-2\r\n{}\r\n0\r\n\r\n"],
    ["2\n{}\r\n0\r\n\r\n"],
    ["2\r\n{}0\r\n\r\n"],
    ["2\r\n{}\r\n0\r\nno trailer\r\n\r\n"],
    ["2;\x01\r\n{}\r\n0\r\n\r\n"],
    ["2 2\r\n{}\r\n0\r\n\r\n"],
    ["000000002\r\n{}\r\n0\r\n\r\n"],
    [`2;${"x".repeat(500)}\r\n{}\r\n0\r\n\r\n`],
    ["\r\n{}\r\n0\r\n\r\n"],
  ])("chunks like %j are refused", async (chunks) => {
    const connection = await Connection.open();
    connection.send(Buffer.from(head("PUT /project/x", { "Transfer-Encoding": "chunked" }) + chunks, "latin1"));
    const reply = await connection.reply();
    expect(told(reply)).toBe("400 ValidationError");
    expect(reply.headers.get("connection")).toBe("close");
    expect(await connection.rest()).toBe("");
    expect(await projects()).not.toContain("x");
    connection.close();
  });

  test("a body in crumbs is refused before it is whole", async () => {
    const connection = await Connection.open();
    connection.send(head("PUT /project/x", { "Transfer-Encoding": "chunked" }) + "1\r\n \r\n".repeat(8_000));
    expect(told(await connection.reply())).toBe("400 ValidationError");
    connection.close();
  });

  test("chunks with extensions and trailers are a body like any other", async () => {
    const body = JSON.stringify({ obm: mockObm });
    const chunked = `${body.length.toString(16)};a=b;c="d"\r\n${body}\r\n000;x\r\nX-Trailer: y\r\n\r\n`;
    const connection = await Connection.open();
    for (const byte of Buffer.from(head("PUT /node/extended", { "Transfer-Encoding": "chunked" }) + chunked))
      connection.send(Buffer.of(byte));
    expect(told(await connection.reply())).toBe("200");
    expect(told(await connection.send(head("GET /projects")).reply())).toBe("200");
    connection.close();
  });

  test("forms that old clients and proxies use are understood", async () => {
    for (const bytes of [
      "\r\n\r\nGET /projects HTTP/1.1\r\nHost: haas\r\n\r\n",
      "GET http://haas/projects HTTP/1.1\r\nHost: haas\r\n\r\n",
      "GET HTTPS://haas:1/projects HTTP/1.1\r\nHost: other\r\n\r\n",
      "GET /projects HTTP/1.0\r\n\r\n",
      "GET /projects HTTP/1.0\r\nHost: haas\r\nConnection: Keep-Alive\r\n\r\n",
      "GET /projects HTTP/1.1\r\nHost:haas \t \r\nX:\r\n\r\n",
    ]) {
      const connection = await Connection.open();
      expect(`${bytes} ${told(await connection.send(bytes).reply())}`).toBe(`${bytes} 200`);
      if (bytes.includes("HTTP/1.0\r\n\r\n")) expect(await connection.rest()).toBe("");
      connection.close();
    }
    // A name in bytes, as curl sends it, and with what a URL would turn around.
    for (const [path, name] of [
      ["ü", "ü"],
      ["a%5Cb", "a\\b"],
      ["a\\b", "a\\b"],
      ["a#b", "a#b"],
    ] as const) {
      expect(`${path} ${told(await once1(head(`PUT /project/${path}`)))}`).toBe(
        path === "a\\b" ? `${path} 409 DuplicateError` : `${path} 200`,
      );
      expect(await projects()).toContain(name);
    }
    for (const path of ["%C3%BC", "a%5Cb", "a%23b"]) expect(told(await once1(head(`DELETE /project/${path}`)))).toBe("200");
  });
});

describe("paths and names", () => {
  test.each(["/project/%", "/project/%zz", "/project/a%2", "/project/%ff", "/project/%c0%af", "/switch/s/port/%zz", "/v0/project/%"])(
    "%s is malformed: 400",
    async (path) => {
      expect(told(await once1(head(`PUT ${path}`)))).toBe("400 ValidationError");
    },
  );

  test.each(["%2e%2e", "%2E%2e", "..", ".%2e", ".", "%2e"])("%s is a name like any other", async (name) => {
    const plain = decodeURIComponent(name);
    expect(told(await once1(head(`PUT /project/${name}`)))).toBe("200");
    expect(await projects()).toContain(plain);
    expect((await once1(head(`GET /project/${name}/nodes`))).text).toBe("[]");
    expect(told(await once1(head(`PUT /v0/project/${name}`)))).toBe("409 DuplicateError");
    expect(told(await once1(head(`DELETE /project/${name}`)))).toBe("200");
    expect(await projects()).not.toContain(plain);
  });

  test("an encoded name is decoded once", async () => {
    for (const [encoded, name] of [
      ["a%20b", "a b"],
      ["%C3%BC", "ü"],
      ["100%25", "100%"],
      ["%2541", "%41"],
      ["a+b", "a+b"],
      ["%F0%9F%90%B0", "🐰"],
    ] as const) {
      expect(told(await once1(head(`PUT /project/${encoded}`)))).toBe("200");
      expect(await projects()).toContain(name);
      expect(told(await once1(head(`DELETE /project/${encoded}`)))).toBe("200");
    }
  });

  test.each(["%20a", "a%20", "a%0a", "%00", "%7f", "a%E2%80%A8b", "x".repeat(256), "%C3%BC".repeat(128)])(
    "%s is no name: 400",
    async (name) => {
      expect(told(await once1(head(`PUT /project/${name}`)))).toBe("400 ValidationError");
    },
  );

  test("255 bytes are a name; a slash belongs to no name but a port's", async () => {
    expect(told(await once1(head(`PUT /project/${"x".repeat(255)}`)))).toBe("200");
    expect(told(await once1(head("PUT /project/a%2Fb")))).toBe("404 NotFoundError");
    expect(told(await once1(head("PUT /project/")))).toBe("404 NotFoundError");
  });

  test("port names hold slashes, raw and encoded, and both are the same port", async () => {
    expect(told(await once1(withBody("PUT /switch/slashes", JSON.stringify(mockSwitch))))).toBe("200");
    expect(told(await once1(withBody("PUT /node/slashes", JSON.stringify({ obm: mockObm }))))).toBe("200");
    expect(told(await once1(withBody("PUT /node/slashes/nic/nic", '{"macaddr": "x"}')))).toBe("200");
    const forms = ["gi1/0/1", "gi1%2F0%2F1", "gi1%2f0/1"];
    expect(told(await once1(head(`PUT /switch/slashes/port/${forms[0]}`)))).toBe("200");
    for (const form of forms) expect(told(await once1(head(`PUT /switch/slashes/port/${form}`)))).toBe("409 DuplicateError");
    for (const [i, prefix] of ["", "/v0", ""].entries()) {
      const port = `${prefix}/switch/slashes/port/${forms[i]}`;
      expect(told(await once1(withBody(`POST ${port}/connect_nic`, '{"node": "slashes", "nic": "nic"}')))).toBe("200");
      expect(JSON.parse((await once1(head(`GET ${port}`))).text)).toEqual({ node: "slashes", nic: "nic", networks: {} });
      expect(told(await once1(head(`post ${port}/detach_nic`)))).toBe("200");
    }
    expect(JSON.parse((await once1(head("GET /switch/slashes"))).text).ports).toEqual([{ label: "gi1/0/1" }]);
    // A port may be called like a verb, or have dots in it.
    for (const name of ["a/revert", "a/connect_nic", "../x", "a/..", "%2e%2e/%2e"]) {
      expect(`${name} ${told(await once1(head(`PUT /switch/slashes/port/${name}`)))}`).toBe(`${name} 200`);
      expect(`${name} ${told(await once1(head(`GET /switch/slashes/port/${name}`)))}`).toBe(`${name} 200`);
      const { ports } = JSON.parse((await once1(head("GET /switch/slashes"))).text);
      expect(ports).toEqual([{ label: "gi1/0/1" }, { label: decodeURIComponent(name) }]);
      expect(`${name} ${told(await once1(head(`DELETE /switch/slashes/port/${name}`)))}`).toBe(`${name} 200`);
    }
    expect(told(await once1(head("DELETE /switch/slashes/port/gi1/0/1")))).toBe("200");
    expect(told(await once1(head("PUT /switch/slashes/port/")))).toBe("404 NotFoundError");
  });
});

describe("arguments", () => {
  const types = ["application/json", "application/x-www-form-urlencoded", "text/plain", "application/octet-stream", "nonsense", null];
  test.each(types)("a body of content type %s is JSON", async (type) => {
    const headers: Record<string, string> = type === null ? {} : { "Content-Type": type };
    const node = `typed-${types.indexOf(type)}`;
    expect(told(await once1(withBody(`PUT /node/${node}`, JSON.stringify({ obm: mockObm }), headers)))).toBe("200");
    expect(told(await once1(withBody("PUT /project/typed", "a=b", headers)))).toBe("400 ValidationError");
    expect(told(await once1(withBody(`DELETE /node/${node}`, "", headers)))).toBe("200");
  });

  test.each(["[]", "null", "1", '"x"', "{", "{}{}", "\xff{}", '{"unknown": 1}', '{"project": "p"}'])(
    "the body %s is refused: 400",
    async (body) => {
      expect(told(await once1(withBody("PUT /project/refused", Buffer.from(body, "latin1"))))).toBe("400 ValidationError");
      expect(await projects()).not.toContain("refused");
    },
  );

  test("a body on a GET is refused, an empty one is none", async () => {
    expect(told(await once1(withBody("GET /projects", "{}")))).toBe("400 ValidationError");
    expect(told(await once1(`${head("GET /projects", { "Transfer-Encoding": "chunked" })}2\r\n{}\r\n0\r\n\r\n`))).toBe(
      "400 ValidationError",
    );
    expect(told(await once1(head("GET /projects", { "Content-Length": "0" })))).toBe("200");
  });

  test("query parameters: unknown, empty, repeated", async () => {
    expect(told(await once1(withBody("PUT /network/queried", '{"owner": "admin", "access": "", "net_id": ""}')))).toBe("200");
    for (const query of ["project=", "project", "x=1", "project=a&x=1", "project=&project=", "="]) {
      expect(`${query} ${told(await once1(head(`GET /network/queried/attachments?${query}`)))}`).toBe(`${query} 400 ValidationError`);
    }
    expect(told(await once1(head("GET /network/queried/attachments?project=nope")))).toBe("404 NotFoundError");
    expect(told(await once1(head("GET /projects?x=1")))).toBe("400 ValidationError");
    expect(told(await once1(head("PUT /project/queried?x=1")))).toBe("400 ValidationError");
    expect(told(await once1(head("GET /network/queried/attachments?")))).toBe("200");
  });
});

test("every answer has a request id, and no two have the same", async () => {
  const requests = [
    head("GET /projects"),
    head("get /projects"),
    head("GET /nope"),
    head("FOO /projects"),
    head("PUT /project/%"),
    withBody("PUT /project/x", "["),
    head("GET /node/nope"),
    withBody("PUT /node/n/metadata/m", "x".repeat(1024 * 1024 + 1)),
    `GET /${"x".repeat(20_000)}`,
    head("GET /swagger/json"),
    head("HEAD /projects"),
  ];
  const ids = [];
  for (const request of requests) ids.push((await once1(request, { bare: true })).headers.get("x-request-id"));
  expect(ids.filter((id) => !id)).toEqual([]);
  expect(new Set(ids).size).toBe(requests.length);
});

test("a front that stops gives what is in flight its whole answer, and takes nothing more", async () => {
  const text = "x".repeat(3_000_000);
  const gates: (() => void)[] = [];
  let arrived = () => {};
  const gated = listen(
    {
      async handle() {
        await new Promise<void>((resume) => {
          gates.push(resume);
          arrived();
        });
        return new Response(text);
      },
    },
    { host: "127.0.0.1", port: 0 },
  );
  const connections: Connection[] = [];
  for (let i = 0; i < 20; i++) {
    const here = new Promise<void>((resume) => (arrived = resume));
    connections.push((await Connection.open("127.0.0.1", gated.port)).send(head("GET /slow")));
    await here;
  }
  const idle = await Connection.open("127.0.0.1", gated.port);
  const stopped = gated.stop(60_000);
  const replies = connections.map((connection) => connection.reply());
  for (const resume of gates) {
    resume();
    await Bun.sleep(7);
  }
  for (const reply of await Promise.all(replies)) expect(reply.text === text).toBe(true);
  await stopped;
  await idle.rest();
  await expect(Connection.open("127.0.0.1", gated.port)).rejects.toThrow();
});

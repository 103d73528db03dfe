import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { connect as connectTcp, type Socket } from "node:net";
import { type Front, listen } from "../../src/front.ts";
import type { Arrival } from "../../src/http/arrival.ts";
import { mockObm, mockSwitch, type Service, startService } from "../support/service.ts";

// Bytes on a socket, because what is tested here is what HTTP clients never let one send.

let service: Service;
let front: Front;
/** The client's address of each request, as the app is told. */
const addresses: string[] = [];

beforeAll(async () => {
  service = await startService("sqlite");
  const app = {
    handle: (request: Request, arrival?: Arrival) => {
      addresses.push(arrival?.address ?? "none");
      return service.app.handle(request, arrival);
    },
  };
  front = listen(app, { host: "0.0.0.0", port: 0 });
});
afterAll(async () => {
  await front.stop(1_000);
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
  test("a mended request is the last one of its connection", async () => {
    const connection = await Connection.open();
    expect((await connection.send(head("get /projects")).reply()).status).toBe(200);
    expect(await connection.rest()).toBe("");
    connection.close();
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
    expect(told(reply)).toBe("414 ValidationError");
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

  test("the 1025th connection of one address is told 503; other addresses are served", async () => {
    const held: Connection[] = [];
    const limit = 1024;
    try {
      for (let i = 0; i < limit; i++) held.push((await Connection.open("127.0.0.9")).send(head("GET /projects")));
      for (const connection of held) expect((await connection.reply()).status).toBe(200);
      const refused = await Connection.open("127.0.0.9");
      held.push(refused);
      expect(told(await refused.reply())).toBe("503 ServerError");
      expect(told(await once1(head("GET /projects"), { from: "127.0.0.8" }))).toBe("200");
      held.shift()!.close();
      // The place is free as soon as the server has seen the end of it.
      let reply = "";
      for (let i = 0; i < 500 && reply !== "200"; i++, await Bun.sleep(10))
        reply = told(await once1(head("GET /projects"), { from: "127.0.0.9" }));
      expect(reply).toBe("200");
    } finally {
      for (const connection of held) connection.close();
    }
  }, 120_000);
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
  const slow = listen(
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
    connections.push((await Connection.open("127.0.0.1", slow.port)).send(head("GET /slow")));
    await here;
  }
  const idle = await Connection.open("127.0.0.1", slow.port);
  const stopped = slow.stop(60_000);
  const replies = connections.map((connection) => connection.reply());
  for (const resume of gates) {
    resume();
    await Bun.sleep(7);
  }
  for (const reply of await Promise.all(replies)) expect(reply.text === text).toBe(true);
  await stopped;
  await idle.rest();
  await expect(Connection.open("127.0.0.1", slow.port)).rejects.toThrow();
});

import { afterAll, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { authority, type MadePair, selfSignedPair } from "../support/certificates.ts";
import { untilWithin } from "../support/until.ts";
import { emptyDirectory, haas, start } from "./haas.ts";

const directory = emptyDirectory();
const company = authority(directory);
const good = company.issue("good");

const servers: { stop(): void }[] = [];
afterAll(() => {
  for (const server of servers) server.stop();
});

/** A server with one network; what it was sent as credentials. */
function serve(pair: MadePair | null, hostname = "127.0.0.1") {
  const seen: (string | null)[] = [];
  const server = Bun.serve({
    hostname,
    port: 0,
    fetch(request) {
      seen.push(request.headers.get("authorization"));
      return new URL(request.url).pathname === "/networks" ? Response.json({ net: { network_id: "7", projects: [] } }) : new Response("");
    },
    ...(pair && { tls: { cert: Bun.file(pair.certFile), key: Bun.file(pair.keyFile) } }),
  });
  servers.push({ stop: () => void server.stop(true) });
  return { seen, port: server.port!, url: `${pair ? "https" : "http"}://127.0.0.1:${server.port}` };
}

const password = { HAAS_USERNAME: "alice", HAAS_PASSWORD: "a-password-9f2e" };
const run = async (env: Record<string, string>, argv = ["list_networks"]) => {
  const ran = await haas(argv, { env });
  expect(ran.err).not.toContain("9f2e");
  return ran;
};

describe("an https endpoint", () => {
  const server = serve(good);

  test("of a private authority is trusted by HAAS_CA_FILE, with the password", async () => {
    const { status, out, err } = await run({ HAAS_ENDPOINT: server.url, HAAS_CA_FILE: company.file, ...password });
    expect({ status, err }).toEqual({ status: 0, err: "" });
    expect(out).toContain("net");
    expect(server.seen).toEqual([`Basic ${btoa("alice:a-password-9f2e")}`]);
  });

  test("is trusted by [client] ca_file, and HAAS_CA_FILE goes before it", async () => {
    const file = join(directory, "client.cfg");
    writeFileSync(file, `[client]\nendpoint = ${server.url}\nca_file = ${company.file}\n`);
    expect((await run({}, ["list_networks", "--config", file])).status).toBe(0);
    expect((await run({ HAAS_CONFIG: file })).status).toBe(0);
    expect((await run({ HAAS_CONFIG: file, HAAS_CA_FILE: selfSignedPair(directory, "another").certFile })).status).toBe(1);
    writeFileSync(file, `[client]\nendpoint = ${server.url}\nca_file = ${join(directory, "none.pem")}\n`);
    expect((await run({ HAAS_CONFIG: file, HAAS_CA_FILE: company.file })).status).toBe(0);
    expect(await run({ HAAS_CONFIG: file })).toMatchObject({
      status: 2,
      err: expect.stringMatching(/client\.cfg: \[client\] ca_file: .*none\.pem can't be read/),
    });
    // The file is not read where HAAS_ENDPOINT says all.
    expect((await run({ HAAS_CONFIG: file, HAAS_ENDPOINT: server.url, HAAS_CA_FILE: company.file })).status).toBe(0);
    expect((await run({ HAAS_CONFIG: file, HAAS_ENDPOINT: server.url })).err).toContain("authority that is not known here");
  });

  test("is trusted by what the system trusts, beside a file of one's own", async () => {
    const system = { SSL_CERT_FILE: company.file };
    expect((await run({ HAAS_ENDPOINT: server.url, ...system })).status).toBe(0);
    expect((await run({ HAAS_ENDPOINT: server.url, HAAS_CA_FILE: selfSignedPair(directory, "own").certFile, ...system })).status).toBe(0);
  });

  test("is trusted by any certificate of a file with several, and text between them", async () => {
    const bundle = join(directory, "bundle.pem");
    const texts = await Promise.all([selfSignedPair(directory, "first").certFile, company.file].map((file) => Bun.file(file).text()));
    writeFileSync(bundle, `# ours\n${texts.join("\nsubject: the next\n")}`);
    expect((await run({ HAAS_ENDPOINT: server.url, HAAS_CA_FILE: bundle })).status).toBe(0);
  });

  test("of a certificate that haas made is trusted by that certificate", async () => {
    const made = emptyDirectory();
    await haas(["certificate", "127.0.0.1"], { cwd: made });
    const pair = { certFile: join(made, "haas-cert.pem"), keyFile: join(made, "haas-key.pem") };
    expect((await run({ HAAS_ENDPOINT: serve(pair).url, HAAS_CA_FILE: pair.certFile })).status).toBe(0);
  });

  test("that can't be trusted gets no password, and the reason is said", async () => {
    const old = serve(company.issue("old", { at: "2024-01-01", days: 10 }));
    const young = serve(company.issue("young", { at: "2090-01-01", days: 10 }));
    const cases = [
      [server, {}, "is signed by an authority that is not known here; set HAAS_CA_FILE, or ca_file in [client] of haas.cfg"],
      [serve(selfSignedPair(directory, "self")), {}, "is signed by an authority that is not known here"],
      [
        serve(company.issue("named", { for: "DNS:haas.example.org" })),
        { HAAS_CA_FILE: company.file },
        "its certificate is for other names than this one",
      ],
      [old, { HAAS_CA_FILE: company.file }, "its certificate has expired"],
      [young, { HAAS_CA_FILE: company.file }, "its certificate is not valid yet"],
    ] as const;
    for (const [{ url, seen }, env, why] of cases) {
      seen.length = 0;
      // Not even where Bun is told to look away.
      for (const more of [{}, { NODE_TLS_REJECT_UNAUTHORIZED: "0" }]) {
        const { status, out, err } = await run({ HAAS_ENDPOINT: url, ...password, ...env, ...more });
        expect({ status, out }).toEqual({ status: 1, out: "" });
        expect(err).toContain(`Error: Can't reach ${url}: `);
        expect(err).toContain(why);
      }
      expect(seen).toEqual([]);
    }
  });

  test("and a port that speaks the other protocol: the reason is said", async () => {
    const plain = serve(null);
    const plainPort = await run({ HAAS_ENDPOINT: plain.url.replace("http:", "https:"), ...password });
    expect(plainPort).toMatchObject({ status: 1, err: expect.stringContaining("there is no TLS, or none that is safe, on this port") });
    const tlsPort = await run({ HAAS_ENDPOINT: server.url.replace("https:", "http:"), ...password });
    expect(tlsPort).toMatchObject({ status: 1, err: expect.stringContaining("it expects TLS; its address begins with https://") });
    // One that closes for another reason.
    const closing: Server = createServer((socket) => socket.once("data", () => socket.destroy()));
    await new Promise<void>((resolve) => closing.listen(0, "127.0.0.1", resolve));
    servers.push({ stop: () => closing.close() });
    const { port } = closing.address() as { port: number };
    const closed = await run({ HAAS_ENDPOINT: `http://127.0.0.1:${port}` });
    expect(closed.err).toContain("the connection was closed before an answer came");
  });

  test("with a file of authorities that is of no use is refused, and one for plain HTTP is not looked at", async () => {
    const empty = join(directory, "empty.pem");
    writeFileSync(empty, "nothing\n");
    const broken = join(directory, "broken.pem");
    writeFileSync(broken, "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n");
    for (const [file, why] of [
      [join(directory, "no-such.pem"), "can't be read"],
      [directory, "can't be read"],
      [empty, "holds no certificate in PEM form"],
      [good.keyFile, "holds no certificate in PEM form"],
      [broken, "holds a certificate that can't be read"],
    ] as const) {
      const { status, err } = await run({ HAAS_ENDPOINT: server.url, HAAS_CA_FILE: file });
      expect(status).toBe(2);
      expect(err).toStartWith(`Error: HAAS_CA_FILE: ${file} ${why}`);
      expect(err).not.toContain("PRIVATE");
      expect((await run({ HAAS_ENDPOINT: serve(null).url, HAAS_CA_FILE: file })).status).toBe(0);
    }
  });
});

test("a display comes over TLS from a server that is trusted, and from no other", async () => {
  const opened: (string | null)[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    tls: { cert: Bun.file(good.certFile), key: Bun.file(good.keyFile) },
    fetch(request, server) {
      if (!request.url.endsWith("/vnc")) return Response.json({ vnc_password: "q8Zk-2bX" });
      if (request.headers.has("upgrade") && server.upgrade(request)) return void opened.push(request.headers.get("authorization"));
      return Response.json({ type: "ValidationError", msg: "This is no WebSocket." }, { status: 400 });
    },
    websocket: { open: (socket) => void socket.sendBinary(Buffer.from("RFB 003.008\n")), message: () => {} },
  });
  servers.push({ stop: () => void server.stop(true) });
  const display = start(
    ["headnode_vnc", "h", "--json"],
    { HAAS_ENDPOINT: `https://127.0.0.1:${server.port}`, HAAS_CA_FILE: company.file, ...password },
    "terminal",
  );
  await untilWithin(15_000, display.written)("the display's address", () => display.written().includes("address"));
  const [, port] = /127\.0\.0\.1:(\d+)/.exec(display.written())!;
  const viewer = connect(Number(port), "127.0.0.1");
  const [greeting] = (await once(viewer, "data")) as [Buffer];
  expect(greeting.toString()).toBe("RFB 003.008\n");
  expect(opened).toEqual([`Basic ${btoa("alice:a-password-9f2e")}`]);
  viewer.destroy();
  expect(await display.interrupt()).toBe(0);
  expect((await run({ HAAS_ENDPOINT: `https://127.0.0.1:${server.port}`, ...password }, ["headnode_vnc", "h"])).status).toBe(1);
  expect(opened).toHaveLength(1);
});

describe("a password over plain HTTP", () => {
  const [elsewhere] = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter(({ internal, family }) => !internal && family === "IPv4");
  if (!elsewhere) throw new Error("These tests need an IPv4 address of this machine beside the loopback's.");
  const warning = (url: string) => `warning: the password goes to ${url} without TLS: whoever is on the way can read it.\n`;

  test("to another machine is warned about, beside what is printed", async () => {
    const { port } = serve(null, "0.0.0.0");
    const url = `http://${elsewhere.address}:${port}`;
    const { status, out, err } = await run({ HAAS_ENDPOINT: url, ...password }, ["list_networks", "--json"]);
    expect({ status, err }).toEqual({ status: 0, err: warning(url) });
    expect(JSON.parse(out)).toHaveProperty("net");
    expect((await run({ HAAS_ENDPOINT: url.replace("//", "//alice:a-password-9f2e@") })).err).toBe(warning(url));
    // Nothing secret is sent.
    expect((await run({ HAAS_ENDPOINT: url })).err).toBe("");
  });

  test("to a machine that is not there is warned about, too", async () => {
    const { err } = await run({ HAAS_ENDPOINT: "http://haas.invalid:5000", ...password });
    expect(err).toStartWith(warning("http://haas.invalid:5000"));
  });

  test("to this machine is not", async () => {
    const { port } = serve(null);
    for (const host of ["127.0.0.1", "localhost", "127.1", "LOCALHOST"])
      expect((await run({ HAAS_ENDPOINT: `http://${host}:${port}`, ...password })).err).toBe("");
    expect((await run({ HAAS_ENDPOINT: "http://[::1]:1", ...password })).err).not.toContain("warning");
    // Names that only look like it.
    for (const host of ["127.0.0.1.example.invalid", "localhost.example.invalid", "xlocalhost.invalid"])
      expect((await run({ HAAS_ENDPOINT: `http://${host}:${port}`, ...password })).err).toStartWith("warning: ");
  });
});

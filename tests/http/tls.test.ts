import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { chmodSync, copyFileSync, readFileSync, renameSync, statSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { connect as connectTcp } from "node:net";
import { join } from "node:path";
import { connect, type TLSSocket } from "node:tls";
import { ConfigError, loadConfig } from "../../src/config.ts";
import { openCertificates } from "../../src/http/certificates.ts";
import { createLog } from "../../src/log.ts";
import { haas } from "../cli/haas.ts";
import { type Authority, authority, type MadePair, selfSignedPair } from "../support/certificates.ts";
import { configText, scratch } from "../support/service.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { untilWithin } from "../support/until.ts";

// `haas serve` with a certificate, as clients of other make see it.

const { path: directory, remove } = scratch();
afterAll(remove);

let company: Authority;
/** What the server is configured with, and what becomes other files in a test. */
let live: MadePair;
let server: ServerProcess;

/** Replace the server's files, each at once, as renewals do. */
function replace(pair: MadePair, into: MadePair = live): void {
  for (const which of ["certFile", "keyFile"] as const) {
    copyFileSync(pair[which], `${into[which]}.new`);
    chmodSync(`${into[which]}.new`, 0o600);
    renameSync(`${into[which]}.new`, into[which]);
  }
}

/** The common name of the certificate that a new connection is given. */
async function served(port = server.port): Promise<string> {
  const socket = await handshake({ port });
  const { subject } = socket.getPeerCertificate();
  socket.destroy();
  return String(subject.CN);
}

async function handshake({ port = server.port, ca = company.file }): Promise<TLSSocket> {
  const socket = connect({ host: "127.0.0.1", port, ca: readFileSync(ca, "utf8") });
  await once(socket, "secureConnect");
  return socket;
}

const until = untilWithin(30_000, () => server.log());
const messages = () =>
  server
    .log()
    .trim()
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Record<string, string>);
const said = (part: string) => messages().filter(({ message }) => message?.includes(part));

beforeAll(async () => {
  company = authority(directory);
  live = { certFile: join(directory, "live.pem"), keyFile: join(directory, "live.key") };
  replace(company.issue("first"));
  server = await startServer({ kind: "sqlite", tls: live, logLevel: "info" });
});
afterAll(() => server.stop());

/** What OpenSSL says about a handshake, and what it is answered. */
async function openssl(...options: string[]): Promise<string> {
  const child = Bun.spawn(
    [
      "openssl",
      "s_client",
      "-connect",
      `127.0.0.1:${server.port}`,
      "-CAfile",
      company.file,
      "-verify_return_error",
      "-ign_eof",
      ...options,
    ],
    {
      stdin: Buffer.from("GET /networks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
      stdout: "pipe",
      stderr: "pipe",
      timeout: 15_000,
    },
  );
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return out + err;
}

describe("TLS", () => {
  test("is spoken in its versions 1.2 and 1.3, with ciphers that keep what was recorded secret", async () => {
    for (const version of ["-tls1_2", "-tls1_3"]) expect(await openssl(version)).toContain("HTTP/1.1 200 OK");
    for (const cipher of ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"])
      expect(await openssl("-tls1_2", "-cipher", cipher)).toContain("HTTP/1.1 200 OK");
  });

  test("is not spoken in older versions, or with old ciphers", async () => {
    // OpenSSL itself would not without this.
    for (const version of ["-tls1", "-tls1_1"]) {
      const seen = await openssl(version, "-cipher", "ALL:@SECLEVEL=0");
      expect(seen).toContain("alert protocol version");
      expect(seen).not.toContain("HTTP/1.1");
    }
    for (const cipher of [
      "ECDHE-ECDSA-AES128-SHA",
      "ECDHE-ECDSA-AES256-SHA384",
      "ECDHE-ECDSA-AES128-SHA256",
      "AES128-GCM-SHA256",
      "aNULL",
      "eNULL",
    ]) {
      const seen = await openssl("-tls1_2", "-cipher", `${cipher}:@SECLEVEL=0`);
      expect(seen).toContain("alert handshake failure");
      expect(seen).not.toContain("HTTP/1.1");
    }
  });

  test("carries whatever HTTP carries: one connection, put, dots, pipelined requests, and a large body", async () => {
    const socket = await handshake({});
    let text = "";
    socket.on("data", (chunk: Buffer) => void (text += chunk.toString("latin1")));
    const got = (what: string, count: number) => until(`${count} times ${what}`, () => text.split(what).length - 1 === count);
    socket.write("put /project/tls-1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}");
    await got("HTTP/1.1 200 OK", 1);
    socket.write("put /project/.. HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}");
    await got("HTTP/1.1 200 OK", 2);
    socket.write("GET /projects HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20));
    await got('["..","tls-1"]', 20);
    // In pieces of one byte, with an own record each.
    for (const byte of "delete /project/tls-1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}") socket.write(byte);
    await got("HTTP/1.1 200 OK", 23);
    const body = JSON.stringify({ obm: { type: "http://schema.massopencloud.org/haas/v0/obm/mock", host: "h", user: "u", password: "p" } });
    socket.write(`PUT /node/tls-n HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    await got("HTTP/1.1 200 OK", 24);
    const value = JSON.stringify({ value: "v".repeat(900_000) });
    socket.write(`PUT /node/tls-n/metadata/large HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${value.length}\r\n\r\n`);
    socket.write(value);
    await got("HTTP/1.1 200 OK", 25);
    socket.write("GET /node/tls-n HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    await once(socket, "close");
    expect(text).toContain("v".repeat(900_000));
  });

  test("is all that its port speaks: what comes otherwise is dropped, and harms nobody", async () => {
    const inputs = [
      "GET /networks HTTP/1.1\r\nHost: localhost\r\n\r\n",
      "SSH-2.0-x\r\n",
      "\x16\x03\x01\xff\xff",
      "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
      "\x00".repeat(100_000),
      "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
    ];
    for (const input of inputs) {
      const socket = connectTcp(server.port, "127.0.0.1");
      const closed = new Promise((resolve) => socket.once("close", resolve));
      let text = "";
      socket.on("data", (chunk) => void (text += chunk.toString("latin1"))).on("error", () => {});
      await once(socket, "connect");
      socket.write(Buffer.from(input, "latin1"));
      socket.end();
      await closed;
      expect(text).not.toContain("HTTP");
    }
    expect(await openssl("-tls1_3")).toContain("HTTP/1.1 200 OK");
  });
});

describe("new files", () => {
  test("are taken up under load without one failed request, by new connections and beside kept ones", async () => {
    const pairs = Array.from({ length: 20 }, (_, n) => company.issue(`renewed-${n}`));
    const ca = readFileSync(company.file, "utf8");
    const failures: unknown[] = [];
    const counts = { fresh: 0, kept: 0 };
    let ending = false;
    // A connection for each request; one is kept for all of a client's.
    const client = async (kind: keyof typeof counts) => {
      while (!ending) {
        try {
          const answer = await fetch(`${server.url}/networks`, {
            keepalive: kind === "kept",
            headers: kind === "fresh" ? { connection: "close" } : {},
            tls: { ca },
            signal: AbortSignal.timeout(20_000),
          });
          if (answer.status !== 200 || (await answer.text()) !== "{}") failures.push(answer.status);
          counts[kind]++;
        } catch (error) {
          failures.push(error);
        }
      }
    };
    const clients = [client("fresh"), client("fresh"), client("fresh"), client("kept"), client("kept")];
    // One from before all of it, that stays to the end.
    const kept = await handshake({});
    const asked = async () => {
      const answer = once(kept, "data");
      kept.write("GET /networks HTTP/1.1\r\nHost: localhost\r\n\r\n");
      return ((await answer) as [Buffer])[0].toString();
    };
    const names = new Set<string>();
    for (const [n, pair] of pairs.entries()) {
      const before = { ...counts };
      if (n % 2 === 0) replace(pair);
      else {
        // In place, one after the other, and each in two halves: what is there meanwhile is no pair.
        for (const which of ["certFile", "keyFile"] as const) {
          const text = readFileSync(pair[which], "utf8");
          writeFileSync(live[which], text.slice(0, 100));
          await Bun.sleep(30);
          writeFileSync(live[which], text);
        }
      }
      await until(`renewed-${n} is served`, async () => (await served()) === `renewed-${n}`);
      names.add(await served());
      await until("requests on both kinds of connection", () => counts.fresh > before.fresh && counts.kept > before.kept);
      expect(await asked()).toStartWith("HTTP/1.1 200 OK");
    }
    ending = true;
    await Promise.all(clients);
    expect(failures).toEqual([]);
    expect(names.size).toBe(20);
    kept.destroy();
    expect(said("a new TLS certificate is used from now on").map(({ subject }) => subject)).toEqual(pairs.map((_, n) => `CN=renewed-${n}`));
    expect(said("a new TLS certificate").at(-1)).toMatchObject({
      names: "IP Address:127.0.0.1, DNS:localhost",
      expires: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
    });
  }, 120_000);

  test("that are being written are left alone until they are whole", async () => {
    const [before, next] = [said("can't be used").length, company.issue("slow")];
    const text = readFileSync(next.certFile, "utf8");
    copyFileSync(next.keyFile, live.keyFile);
    // For longer than several looks at it. The server may see a pause where this machine has one.
    for (let n = 0; n < 80; n++) {
      writeFileSync(live.certFile, text.slice(0, 100 + n));
      await Bun.sleep(50);
    }
    writeFileSync(live.certFile, text);
    await until("slow is served", async () => (await served()) === "slow");
    expect(said("can't be used").length - before).toBeLessThan(3);
  }, 60_000);

  test("that are no pair leave the one before, and are said once", async () => {
    const before = await served();
    const [other, stranger] = [company.issue("other"), company.issue("stranger")];
    const known = said("can't be used").length;
    const refusals: [why: string, change: () => void][] = [
      ["is not the key of the certificate in", () => copyFileSync(other.certFile, live.certFile)],
      ["holds no certificate in PEM form", () => writeFileSync(live.certFile, "")],
      ["ends within a block: it is not complete", () => writeFileSync(live.certFile, readFileSync(other.certFile, "utf8").slice(0, 300))],
      [
        "holds a certificate that can't be read",
        () => writeFileSync(live.certFile, readFileSync(other.certFile, "utf8").replace(/^MII.{20}/m, "")),
      ],
      ["can't be read", () => unlinkSync(live.certFile)],
      [
        "is not the key of the certificate in",
        () => {
          replace(other);
          copyFileSync(stranger.keyFile, live.keyFile);
        },
      ],
      [
        "holds a private key, but others can read it",
        () => {
          replace(other);
          chmodSync(live.keyFile, 0o640);
        },
      ],
    ];
    for (const [n, [why, change]] of refusals.entries()) {
      change();
      await until(why, () => said("can't be used").length === known + n + 1);
      expect(said("can't be used").at(-1)!.error).toContain(why);
      expect(await served()).toBe(before);
    }
    // Not again while nothing changes, and then the next good one counts.
    await Bun.sleep(2_500);
    expect(said("can't be used")).toHaveLength(known + refusals.length);
    chmodSync(live.keyFile, 0o600);
    await until("other is served", async () => (await served()) === "other");
    expect(server.log()).not.toContain("PRIVATE");
    for (const line of readFileSync(other.keyFile, "utf8")
      .split("\n")
      .filter((line) => line.length > 20 && !line.startsWith("-")))
      expect(server.log()).not.toContain(line.slice(0, 20));
  }, 60_000);

  test("are taken up at a SIGHUP, also behind symbolic links that change, and of another kind of key", async () => {
    const rsa = company.issue("rsa", { key: ["-newkey", "rsa:2048"] });
    for (const which of ["certFile", "keyFile"] as const) {
      symlinkSync(rsa[which], `${live[which]}.link`);
      renameSync(`${live[which]}.link`, live[which]);
    }
    server.signal("SIGHUP");
    await until("rsa is served", async () => (await served()) === "rsa");
    const next = company.issue("next", { key: ["-newkey", "ed25519"] });
    for (const which of ["certFile", "keyFile"] as const) {
      symlinkSync(next[which], `${live[which]}.link`);
      renameSync(`${live[which]}.link`, live[which]);
    }
    await until("next is served", async () => (await served()) === "next");
    expect(statSync(live.keyFile).mode & 0o077).toBe(0);
  }, 60_000);
});

describe("at its start", () => {
  /** Why `haas serve` would not start with these files. */
  async function refusal(tls: MadePair): Promise<string> {
    const config = { ...loadConfig(null), file: "haas.cfg", http: { tls, requireTls: false, trustedProxies: [], hosts: [] } };
    const error: unknown = await openCertificates(config, createLog("critical", null)).then(
      () => new Error("it was accepted"),
      (error: unknown) => error,
    );
    expect(error).toBeInstanceOf(ConfigError);
    const { message } = error as ConfigError;
    expect(message).toStartWith("haas.cfg: [general] tls_");
    expect(message).not.toContain("\n");
    return message.slice("haas.cfg: [general] ".length);
  }

  test("what is no pair ends haas with a sentence, and status 2", async () => {
    const { path, remove } = scratch();
    const file = join(path, "haas.cfg");
    const { certFile } = selfSignedPair(path, "one");
    const { keyFile } = selfSignedPair(path, "other");
    writeFileSync(
      file,
      configText({ uri: `sqlite:///${path}/haas.db`, more: `[general]\ntls_cert = ${certFile}\ntls_key = ${keyFile}\n` }),
    );
    const { status, err } = await haas(["serve", "0", "--config", file], { cwd: path });
    expect({ status, err }).toEqual({
      status: 2,
      err: `Error: ${file}: [general] tls_key: ${keyFile} is not the key of the certificate in ${certFile}.\n`,
    });
    remove();
  });

  test("what is no pair is refused with a sentence", async () => {
    const good = company.issue("good");
    const file = (name: string, text: string, mode = 0o600) => {
      const path = join(directory, name);
      writeFileSync(path, text, { mode });
      chmodSync(path, mode);
      return path;
    };
    const [cert, key] = [readFileSync(good.certFile, "utf8"), readFileSync(good.keyFile, "utf8")];
    const sealed = (name: string, ...options: string[]) => {
      const path = join(directory, name);
      expect(Bun.spawnSync(["openssl", ...options, "-in", good.keyFile, "-out", path, "-passout", "pass:sesame"]).exitCode).toBe(0);
      chmodSync(path, 0o600);
      return path;
    };
    const cases: [files: Partial<MadePair>, sentence: RegExp][] = [
      [{ certFile: join(directory, "none.pem") }, /^tls_cert: .*none\.pem can't be read/],
      [{ keyFile: directory }, /^tls_key: .* can't be read/],
      [{ keyFile: file("open.key", key, 0o644) }, /^tls_key: .*open\.key holds a private key, but others can read it\. Run: chmod 600/],
      [{ keyFile: file("group.key", key, 0o640) }, /^tls_key: .*others can read it/],
      [{ certFile: file("both.pem", cert + key, 0o644) }, /^tls_cert: .*both\.pem holds a private key, but others can read it/],
      [{ keyFile: company.issue("foreign").keyFile }, /^tls_key: .*foreign\.key is not the key of the certificate in/],
      [{ certFile: good.keyFile }, /^tls_cert: .*good\.key holds no certificate in PEM form/],
      [{ keyFile: file("cert-as-key.pem", cert) }, /^tls_key: .* holds no private key in PEM form/],
      [
        { keyFile: sealed("pkcs8.key", "pkcs8", "-topk8") },
        /^tls_key: .*protected by a passphrase, which haas can't ask for; store it without one/,
      ],
      [{ keyFile: sealed("old.key", "ec", "-aes128") }, /^tls_key: .*protected by a passphrase/],
      [{ keyFile: file("cut.key", key.slice(0, 100)) }, /^tls_key: .*ends within a block/],
      [{ keyFile: file("junk.key", key.replace(/^MI.{20}/m, "")) }, /^tls_key: .*can't be read, or is of a kind that haas does not know/],
      [
        { certFile: file("turned.pem", readFileSync(company.file, "utf8") + cert) },
        /^tls_cert: .*has to begin with the server's own certificate/,
      ],
      [{ certFile: file("der.pem", "0\x82\x01\x00") }, /^tls_cert: .* holds no certificate in PEM form/],
    ];
    for (const [files, sentence] of cases) {
      const said = await refusal({ ...good, ...files });
      expect(said).toMatch(sentence);
      expect(said).not.toContain(key.split("\n")[1]!.slice(0, 20));
    }
  }, 60_000);

  test("a chain is served whole, from files with whatever stands between, and a certificate that expires is said", async () => {
    const soon = company.issue("soon", { days: 5 });
    const text = readFileSync(soon.certFile, "utf8");
    writeFileSync(
      soon.certFile,
      `Bag Attributes\r\n${text.replaceAll("\n", "\r\n")}subject=the authority\n${readFileSync(company.file, "utf8")}`,
    );
    writeFileSync(
      soon.keyFile,
      `-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n${readFileSync(soon.keyFile, "utf8")}`,
    );
    const other = await startServer({ kind: "sqlite", tls: soon });
    const socket = await handshake({ port: other.port });
    const { subject, issuerCertificate } = socket.getPeerCertificate(true);
    expect([subject.CN, issuerCertificate.subject.CN]).toEqual(["soon", "authority"]);
    socket.destroy();
    await other.stop();
    expect(other.log()).toContain('"message":"the TLS certificate expires soon","subject":"CN=soon"');
    for (const [name, at, what] of [
      ["expired", "2024-01-01", "has expired"],
      ["future", "2090-01-01", "is not valid yet"],
    ] as const) {
      const started = await startServer({ kind: "sqlite", tls: company.issue(name, { at, days: 10 }) });
      await started.stop();
      expect(started.log()).toContain(`the TLS certificate ${what}`);
    }
  }, 60_000);

  test("a certificate that haas made serves, and is said with its names", async () => {
    const made = selfSignedPair(directory, "own", { for: "DNS:haas.example.org,IP:127.0.0.1" });
    const own = await startServer({ kind: "sqlite", tls: made, logLevel: "info" });
    expect(await fetch(`${own.url}/networks`, { tls: { ca: readFileSync(made.certFile, "utf8") } }).then(({ status }) => status)).toBe(200);
    await own.stop();
    expect(own.log()).toContain('"message":"the TLS certificate","subject":"CN=own","names":"DNS:haas.example.org, IP Address:127.0.0.1"');
    expect(own.log()).toContain(`"url":"https://127.0.0.1:${own.port}"`);
  });
});

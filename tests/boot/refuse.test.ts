import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { secretsIn, watchSecrets } from "../support/secrets.ts";
import { type Asked, ask, loopbackOf, macOf, makeSite, nodeSecret, profileSecret, type Serving, type Site } from "./site.ts";

// What the HTTP server does not give away, and does not take.

let site: Site;
let serving: Serving;
const outside = "what lies outside";
const node = loopbackOf(1);
const get = (path: string, asked: Asked = {}) => ask(serving.url, path, { from: node, ...asked });

beforeAll(async () => {
  site = await makeSite();
  site.lease({ 1: node, 2: loopbackOf(2) });
  site.write("outside.txt", outside);
  site.write("files-of-another/secret.txt", outside);
  const files = join(site.dir, "files");
  symlinkSync(join(site.dir, "outside.txt"), join(files, "absolute-link"));
  symlinkSync("../outside.txt", join(files, "relative-link"));
  symlinkSync("../files-of-another", join(files, "folder-link"));
  symlinkSync("/", join(files, "slash"));
  symlinkSync("linux/vmlinuz", join(files, "inner-link"));
  symlinkSync("loop", join(files, "loop"));
  Bun.spawnSync(["mkfifo", join(files, "pipe")]);
  site.write("files/name with %2e and ü", "odd");
  serving = await site.serve();
});
afterAll(() => site?.remove());

describe("files outside the root", () => {
  const paths = [
    ...["/../outside.txt", "/linux/../../outside.txt", "/%2e%2e/outside.txt", "/..%2foutside.txt", "/%2e%2e%2foutside.txt"],
    ...["/%252e%252e/outside.txt", "/..%252foutside.txt", "/%252e%252e%252foutside.txt", "/linux/..%5c..%5coutside.txt"],
    ...["/..\\outside.txt", "/.%2e/outside.txt", "/%c0%ae%c0%ae/outside.txt", "/linux/%2e%2e/%2e%2e/outside.txt"],
    ...["//etc/passwd", "/%2fetc%2fpasswd", "/etc/passwd", "//../outside.txt", "/linux/vmlinuz%00.txt", "/linux%00/../../outside.txt"],
    ...["/absolute-link", "/relative-link", "/folder-link/secret.txt", "/slash/etc/passwd", "/slash/proc/self/environ", "/loop"],
    ...["/../files-of-another/secret.txt", "-of-another/secret.txt", "/linux/vmlinuz/", "/linux//vmlinuz", "/./linux/../../boot.db"],
    ...["", "/", "/linux", "/linux/", "/pipe", "/%zz", "/%"],
  ];
  test.each(paths)("/files%s", async (path) => {
    const { status, body } = await get(`/files${path}`);
    expect([400, 404]).toContain(status);
    expect(body).toMatch(/^[\w ';]+[.]\n$/);
  });

  test("in an absolute request line, and in any method that reads", async () => {
    const raw = (line: string) =>
      new Promise<string>((resolve) => {
        let text = "";
        const socket = net.connect(site.port, "127.0.0.1", () => socket.write(`${line}\r\nHost: x\r\nConnection: close\r\n\r\n`));
        socket.on("data", (data) => (text += data.toString()));
        socket.on("close", () => resolve(text));
        socket.on("error", () => resolve(text));
      });
    for (const method of ["GET", "HEAD"]) {
      for (const target of [
        "http://x/files/../outside.txt",
        "/files/../outside.txt",
        "//x/files/../../outside.txt",
        "files/../outside.txt",
      ]) {
        const answer = await raw(`${method} ${target} HTTP/1.1`);
        expect(answer).not.toContain(outside);
        expect(answer).not.toMatch(/^HTTP\/1.1 2/);
      }
    }
  });

  test("what lies inside is given: whole, in part, and by a link that stays inside", async () => {
    expect((await get("/files/linux/vmlinuz")).body).toBe("the kernel");
    expect((await get("/files/inner-link")).body).toBe("the kernel");
    expect((await get(`/files/${encodeURIComponent("name with %2e and ü")}`)).body).toBe("odd");
    const part = await get("/files/linux/vmlinuz", { headers: { range: "bytes=4-6" } });
    expect([part.status, part.body, part.headers["content-range"]]).toEqual([206, "ker", "bytes 4-6/10"]);
    expect((await get("/files/linux/vmlinuz", { headers: { range: "bytes=-6" } })).body).toBe("kernel");
    expect((await get("/files/linux/vmlinuz", { headers: { range: "bytes=10-" } })).status).toBe(416);
    const head = await get("/files/linux/initrd.img", { method: "HEAD" });
    expect([head.status, head.body, head.headers["content-length"]]).toEqual([200, "", "700000"]);
  });

  test("a link that is turned outwards while it is asked for", async () => {
    const path = join(site.dir, "files/turning");
    let over = false;
    const turning = (async () => {
      for (let i = 0; !over; i++) {
        symlinkSync(i % 2 === 0 ? "linux/vmlinuz" : "../outside.txt", `${path}.new`);
        renameSync(`${path}.new`, path);
        if (i % 8 === 0) await Bun.sleep(0);
      }
    })();
    const seen = new Map<string, number>();
    for (let i = 0; i < 40; i++) {
      for (const { status, body } of await Promise.all(Array.from({ length: 10 }, () => get("/files/turning")))) {
        const what = status === 200 ? body : String(status);
        seen.set(what, (seen.get(what) ?? 0) + 1);
      }
    }
    over = true;
    await turning;
    expect([...seen.keys()].filter((what) => what !== "404")).toEqual(["the kernel"]);
  });

  test("files that are asked for are closed again", async () => {
    const open = () => readdirSync(`/proc/${serving.pid}/fd`).length;
    const before = open();
    for (let i = 0; i < 40; i++) {
      await Promise.all([get("/files/linux/initrd.img"), get("/files/relative-link"), get("/files/linux/vmlinuz", { method: "HEAD" })]);
      // One who hangs up in the middle.
      await new Promise<void>((resolve) => {
        const socket = net.connect(site.port, "127.0.0.1", () => socket.write("GET /files/linux/initrd.img HTTP/1.1\r\nHost: x\r\n\r\n"));
        socket.once("data", () => void socket.destroy());
        socket.once("close", () => resolve());
      });
    }
    for (const end = Date.now() + 10_000; open() > before + 10 && Date.now() < end;) await Bun.sleep(20);
    expect(open()).toBeLessThanOrEqual(before + 10);
  });
});

describe("writes and what is too large", () => {
  test("nothing can be written", async () => {
    const body = Buffer.from("planted");
    for (const path of ["/files/planted", "/files/linux/vmlinuz", "/boot.ipxe", `/ipxe/${macOf(1)}`, `/node/${macOf(1)}/answers`]) {
      for (const method of ["PUT", "POST", "PATCH", "DELETE"]) {
        const { status, headers, body: text } = await get(path, { method, body });
        expect([method, path, status]).toEqual([method, path, 405]);
        expect(headers.allow).toStartWith("GET");
        expect(text).toEndWith("nothing can be written.\n");
      }
    }
    expect((await get("/done")).status).toBe(405);
    expect((await get(`/${macOf(1)}`)).status).toBe(405);
    expect((await get("/planted", { method: "PUT", body })).status).toBe(404);
    expect(readFileSync(join(site.dir, "files/linux/vmlinuz"), "utf8")).toBe("the kernel");
    expect(readdirSync(join(site.dir, "files"))).not.toContain("planted");
  });

  test("long addresses, large and endless bodies, many headers", async () => {
    expect((await get(`/files/${"a".repeat(4_000)}`)).status).toBe(414);
    const large = Buffer.alloc(65_537);
    expect((await get("/done", { method: "POST", body: large })).status).toBe(413);
    const headers = { "content-length": String(large.length) };
    expect((await get(`/${macOf(1)}`, { method: "DELETE", body: large, headers })).status).toBe(413);
    expect((await get("/done", { method: "POST", body: large, headers: { "transfer-encoding": "chunked" } })).status).toBe(411);
    expect((await get("/boot.ipxe", { headers: { "x-much": "a".repeat(100_000) } })).status).toBe(431);
    expect((await get("/boot.ipxe")).status).toBe(200);
  });
});

describe("a node's rendered file", () => {
  const file = (i: number, from: string, name = "answers") => ask(serving.url, `/node/${macOf(i)}/${name}`, { from });

  test("is given only to the holder of the lease, while it is armed; nothing of it is left anywhere", async () => {
    const watch = watchSecrets();
    const said: string[] = [];
    const refused = async (i: number, from: string, status: number) => {
      const answer = await file(i, from);
      said.push(answer.body);
      expect(answer.status).toBe(status);
    };
    // Not armed yet: also for the holder.
    await refused(1, node, 404);
    await site.ok("arm", macOf(1), "--profile", "linux");
    const given = await file(1, node);
    expect(given.status).toBe(200);
    expect(given.body).toContain(nodeSecret);
    expect(given.body).toContain(profileSecret);
    expect(given.headers["cache-control"]).toBe("no-store");
    for (const from of [loopbackOf(2), loopbackOf(3), "127.0.0.1"]) {
      await refused(1, from, 403);
      // Nor does the script give anything away.
      const script = await ask(serving.url, `/ipxe/${macOf(1)}`, { from });
      expect(script.body).toContain("sanboot");
      expect(script.body).not.toContain("linux");
    }
    for (const name of ["answers.txt", "..%2fanswers", "", "%2e%2e", "ks.cfg"]) {
      expect([403, 404]).toContain((await file(1, node, name)).status);
    }
    // Somebody else has its address now.
    site.lease({ 2: node });
    await refused(1, node, 403);
    site.lease({ 1: node, 2: loopbackOf(2) });
    expect((await get(`/ipxe/${macOf(1)}`)).body).toContain("kernel");
    expect((await file(1, node)).status).toBe(200);
    expect((await get("/done", { method: "POST" })).status).toBe(200);
    await refused(1, node, 404);
    watch.stop();

    const token = /token=(\w+)/.exec(given.body)![1]!;
    expect(statSync(join(site.dir, "boot.db")).mode & 0o777).toBe(0o600);
    const listed = await site.ok("status", "--json");
    for (const text of [serving.log(), listed, ...said]) {
      expect(secretsIn(text, [nodeSecret, profileSecret, token])).toEqual([]);
    }
    expect(watch.findings).toEqual([]);
    const tftp = readdirSync(join(site.dir, "tftp"), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    for (const { parentPath, name } of tftp) expect(secretsIn(readFileSync(join(parentPath, name), "utf8"), [token])).toEqual([]);
  });

  test("a fixed address that is leased to somebody else is nobody's", async () => {
    const toml = readFileSync(join(site.dir, "boot.toml"), "utf8");
    site.write("boot.toml", `${toml}[nodes.node-05]\nmac = ["${macOf(5)}"]\naddress = "${loopbackOf(5)}"\n`);
    await site.ok("arm", "node-05", "--profile", "linux");
    expect((await file(5, loopbackOf(5))).status).toBe(200);
    site.lease({ 1: node, 2: loopbackOf(5) });
    expect((await file(5, loopbackOf(5))).status).toBe(403);
    site.lease({ 1: node, 2: loopbackOf(2) });
  });

  test("a template that is broken after arming is an error in the log, and of one node", async () => {
    await site.ok("arm", macOf(1), "--profile", "linux");
    const template = join(site.dir, "templates/answers.txt");
    const good = readFileSync(template, "utf8");
    writeFileSync(template, `${nodeSecret} {{ no_such_thing }}`);
    const { status, body } = await file(1, node);
    expect([status, body]).toEqual([500, "The boot server can't answer this; its log says why.\n"]);
    expect(serving.log()).toContain("answers.txt: undefined variable: no_such_thing");
    expect(secretsIn(serving.log())).toEqual([]);
    expect((await file(1, node, "user-data")).status).toBe(200);
    writeFileSync(template, good);
    expect((await file(1, node)).status).toBe(200);
  });

  test("a template can't reach what lies outside its folder", async () => {
    mkdirSync(join(site.dir, "templates/parts"));
    symlinkSync("../outside.txt", join(site.dir, "templates/link.txt"));
    for (const reference of ["../outside.txt", "/etc/hostname", "link.txt", "parts/../../outside.txt", "liquidjs/package.json"]) {
      site.write("templates/user-data.txt", `{% render '${reference}' %}`);
      const { status, err } = await site.boot("arm", macOf(1), "--profile", "linux");
      expect([reference, status]).toEqual([reference, 1]);
      expect(err).toStartWith(`Error: ${macOf(1)} can't be armed with linux: user-data.txt: `);
      expect(err).not.toContain(outside);
    }
  });
});

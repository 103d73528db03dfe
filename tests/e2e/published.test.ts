import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { run, serve, type Served } from "../support/binary.ts";
import { freePort } from "../support/postgres.ts";
import { scratch } from "../support/service.ts";

// The lines of the published documentation, typed into a shell as they stand there. Only the port differs,
// because 5000 may be taken on the machine that runs this.

const root = resolve(import.meta.dir, "../..");
const published = {
  switchByCurl: `curl -X put http://127.0.0.1:5000/switch/mockswitch01 -d ' {"type": "http://schema.massopencloud.org/haas/v0/switches/mock", "hostname": "switchhost01", "username": "switchuser01", "password": "password1234"}'`,
  nodeByCurl: `curl -X PUT http://127.0.0.1:5000/node/dummyNode01 -d '{"obm": {"type": "http://schema.massopencloud.org/haas/v0/obm/ipmi", "host": "ipmiHost4node-01", "user": "ipmiUser4node-01", "password": "ipmiPass4node-01"}}'`,
  switchByHaas: "haas switch_register mockswitch02 mock switchhost01 switchuser01 password1234",
  nodeByHaas: "haas node_register ipmi dummyNode02 ipmiHost4node-01 ipmiUser4node-01 ipmiPass4node-01",
};

describe.each(["http://127.0.0.1:5000", "http://127.0.0.1:5000/"])("the development server, with HAAS_ENDPOINT=%s", (endpoint) => {
  const home = scratch();
  let port: number;
  let server: Served;

  beforeAll(async () => {
    port = await freePort();
    // What `npm start` runs, in a directory without a configuration.
    const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { scripts: Record<string, string> };
    expect(scripts["start"]).toBe("bun src/cli.ts serve");
    server = await serve([process.execPath, join(root, "src/cli.ts"), "serve", String(port)], port, { cwd: home.path });
  }, 60_000);
  afterAll(async () => {
    await server?.stop();
    home.remove();
  }, 60_000);

  const here = (text: string) => text.replace("127.0.0.1:5000", `127.0.0.1:${port}`);
  const type = (line: string) =>
    run(["sh", "-c", here(line)], {
      cwd: home.path,
      env: { PATH: `${join(root, "bin")}:${process.env.PATH}`, HAAS_ENDPOINT: here(endpoint) },
    });
  const get = async (path: string): Promise<unknown> => (await fetch(`${server.url}${path}`)).json();

  test("it says what it is, and keeps its data where it was started", () => {
    expect(server.output()).toContain("development server");
    expect(existsSync(join(home.path, "haas.db"))).toBe(true);
  });

  test("curl -X put registers a switch", async () => {
    expect(await type(published.switchByCurl)).toMatchObject({ status: 0, out: "" });
    expect(await get("/switch/mockswitch01")).toMatchObject({ name: "mockswitch01", ports: [] });
    // The same once more is told in the published form.
    const again = await type(published.switchByCurl);
    expect(JSON.parse(again.out)).toMatchObject({ type: "DuplicateError" });
  });

  test("curl -X PUT registers a node", async () => {
    expect(await type(published.nodeByCurl)).toMatchObject({ status: 0, out: "" });
    expect(await get("/node/dummyNode01")).toMatchObject({ name: "dummyNode01", project: null });
  });

  test("haas switch_register and haas node_register do the same", async () => {
    expect(await type(published.switchByHaas)).toEqual({ status: 0, out: "", err: "" });
    // The published lines name one BMC twice.
    const second = await type(published.nodeByHaas);
    expect(second).toMatchObject({ status: 1, out: "" });
    expect(second.err).toStartWith("Error: Node 'dummyNode02' has the same BMC as 'dummyNode01': one BMC is registered once.");
    expect(await type("haas node_delete dummyNode01")).toEqual({ status: 0, out: "", err: "" });
    expect(await type(published.nodeByHaas)).toEqual({ status: 0, out: "", err: "" });
    expect(await get("/switches")).toEqual(["mockswitch01", "mockswitch02"]);
    expect(await get("/nodes/free")).toEqual(["dummyNode02"]);
    expect(await type("haas list_nodes free")).toEqual({ status: 0, out: "dummyNode02\n", err: "" });
  });

  test("haas help describes the commands", async () => {
    const { status, out, err } = await type("haas help");
    expect({ status, err }).toEqual({ status: 0, err: "" });
    for (const command of ["serve", "node_register", "switch_register", "node_connect_network", "help"]) expect(out).toContain(command);
  });
});

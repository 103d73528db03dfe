import { afterAll, describe, expect, test } from "bun:test";
import { followAction } from "../../src/cli/progress.ts";
import { UnreachableError } from "../../src/client/http.ts";
import { apiError, haas, recordingServer } from "./haas.ts";

const server = recordingServer();
afterAll(() => server.stop());

const node = {
  name: "n1",
  project: null,
  metadata: { EK: '"pk"' },
  nics: [{ label: "nic1", macaddr: "01:23", networks: { "vlan/native": "pxe" }, port: "gi1/0/1", switch: "dell-01" }],
};
const action = (status: string, more = {}) =>
  Response.json({ status, node: "n1", nic: "nic1", new_network: "net", type: "modify_port", channel: "vlan/native", ...more });
const queued = () => Response.json({ status_id: "42-a" }, { status: 202 });

describe("plain text in a pipe", () => {
  const cases: [string[], unknown, string][] = [
    [["list_nodes", "all"], ["0123", "n1"], "0123\nn1\n"],
    [["list_nodes", "all"], [], ""],
    [
      ["show_node", "n1"],
      node,
      'name: n1\nproject:\nmetadata.EK: "pk"\nnics.nic1.macaddr: 01:23\nnics.nic1.networks.vlan/native: pxe\nnics.nic1.port: gi1/0/1\nnics.nic1.switch: dell-01\n',
    ],
    [
      ["list_networks"],
      { b: { network_id: "102", projects: ["p1", "p2"] }, a: { network_id: "101", projects: null }, c: { network_id: "7", projects: [] } },
      "a\t101\t*\nb\t102\tp1 p2\nc\t7\t\n",
    ],
    [
      ["list_users"],
      { bob: { is_admin: false, projects: ["p1"] }, al: { is_admin: true, projects: [] } },
      "al\tadmin\t\nbob\tregular\tp1\n",
    ],
    [
      ["list_network_attachments", "net", "all"],
      { n1: { nic: "nic1", channel: "vlan/native", project: "p1" } },
      "n1\tnic1\tvlan/native\tp1\n",
    ],
    [
      ["show_network", "net"],
      { name: "net", owner: "admin", access: null, channels: ["vlan/native", "vlan/101"], "connected-nodes": { n1: ["nic1"] } },
      "name: net\nowner: admin\naccess: *\nchannels: vlan/native vlan/101\nconnected-nodes.n1: nic1\n",
    ],
    [["show_switch", "s1"], { name: "s1", ports: [{ label: "gi1/0/1" }], capabilities: [] }, "name: s1\nports: gi1/0/1\ncapabilities:\n"],
    [["show_node", "n1"], { name: "n1", metadata: {}, nics: [] }, "name: n1\nmetadata:\nnics:\n"],
    [["show_port", "s1", "p"], {}, ""],
    [["node_power_status", "n1"], { power_status: "on" }, "power_status: on\n"],
    [["node_connect_network", "n1", "nic1", "net"], { status_id: "42-a" }, "42-a\n"],
  ];
  for (const [argv, answer, out] of cases) {
    test(argv.join(" "), async () => expect(await server.run(argv, [Response.json(answer)])).toMatchObject({ status: 0, err: "", out }));
  }

  test("a console log as it is", async () => {
    const { out } = await server.run(["show_console", "n1"], [new Response('{"not": "ours"}\nlogin: ')]);
    expect(out).toBe('{"not": "ours"}\nlogin: ');
  });

  test("a long answer is whole", async () => {
    const log = "x".repeat(99).concat("\n").repeat(30_000);
    expect((await server.run(["show_console", "n1"], [new Response(log)])).out).toBe(log);
  });

  test("--json is the answer itself", async () => {
    expect((await server.run(["show_node", "n1", "--json"], [Response.json(node)])).out).toBe(`${JSON.stringify(node)}\n`);
    expect((await server.run(["project_create", "p", "--json"])).out).toBe("");
  });
});

test("a table on a terminal", async () => {
  const cli = new URL("../../src/cli.ts", import.meta.url).pathname;
  let screen = "";
  const terminal = new Bun.Terminal({ cols: 80, rows: 24, data: (_, bytes) => void (screen += Buffer.from(bytes).toString()) });
  const web = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => Response.json({ storage: { network_id: "101", projects: null } }) });
  const child = Bun.spawn([process.execPath, cli, "list_networks"], { terminal, env: { ...process.env, HAAS_ENDPOINT: web.url.href } });
  expect(await child.exited).toBe(0);
  await Bun.sleep(50);
  terminal.close();
  await web.stop(true);
  expect(screen.replaceAll("\r", "")).toContain("NETWORK  NETWORK ID  PROJECTS\nstorage  101         *\n");
});

describe("--wait", () => {
  test("follows an action to its end", async () => {
    const { status, out, err, requests } = await server.run(
      ["node_connect_network", "n1", "nic1", "net", "--wait"],
      [queued(), action("PENDING"), action("PENDING"), action("DONE")],
    );
    expect({ status, out, err }).toEqual({ status: 0, out: "42-a\nDONE\n", err: "" });
    expect(requests.map(({ method, path }) => `${method} ${path}`)).toEqual([
      "POST /node/n1/nic/nic1/connect_network",
      ...Array(3).fill("GET /networking_action/42-a"),
    ]);
  });

  test("an ERROR is status 1, with the reason", async () => {
    const { status, out, err } = await server.run(
      ["port_revert", "s1", "p", "--wait"],
      [queued(), action("ERROR", { reason: "s1: timed out" })],
    );
    expect({ status, out, err }).toEqual({ status: 1, out: "42-a\nERROR\n", err: "Error: Networking action 42-a failed: s1: timed out\n" });
  });

  test("show_networking_action waits, too", async () => {
    const { status, out } = await server.run(["show_networking_action", "42-a", "--wait"], [action("PENDING"), action("DONE")]);
    expect(status).toBe(0);
    expect(out).toStartWith("status: DONE\nnode: n1\n");
  });

  test("with --json the last answer is printed, alone", async () => {
    const { out, err } = await server.run(["node_detach_network", "n1", "nic1", "net", "--wait", "--json"], [queued(), action("DONE")]);
    expect(JSON.parse(out)).toMatchObject({ status: "DONE" });
    // What is left to ask with, when the waiting is cut short.
    expect(err).toBe("networking action 42-a\n");
  });

  test("a server that restarts is waited for, but not for ever", async () => {
    const gone = (calls: number) => {
      let call = 0;
      return {
        endpoint: "http://h",
        hasCredentials: false,
        call: async () => {
          if (call++ < calls) throw new UnreachableError("http://h", "connection refused");
          return { status: "DONE" };
        },
      };
    };
    expect(await followAction(gone(6), "42-a", { show() {} })).toEqual({ status: "DONE" });
    expect(followAction(gone(Infinity), "42-a", { show() {} }, 200)).rejects.toThrow(
      "Can't reach http://h: connection refused. The action goes on; ask with haas show_networking_action 42-a.",
    );
  });

  test("Ctrl-C leaves an empty line", async () => {
    let screen = "";
    const terminal = new Bun.Terminal({ cols: 80, rows: 24, data: (_, bytes) => void (screen += Buffer.from(bytes).toString()) });
    const silent = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Promise<Response>(() => {}) });
    const cli = new URL("../../src/cli.ts", import.meta.url).pathname;
    const child = Bun.spawn([process.execPath, cli, "list_networks"], {
      terminal,
      env: { ...process.env, HAAS_ENDPOINT: silent.url.href },
    });
    while (!screen.includes("waiting for")) await Bun.sleep(20);
    child.kill("SIGINT");
    expect(await child.exited).toBe(130);
    await Bun.sleep(50);
    terminal.close();
    await silent.stop(true);
    expect(screen).toEndWith("\r\x1b[K");
  });
});

describe("errors", () => {
  test("of the API", async () => {
    const ran = await server.run(["node_delete", "n1"], [apiError(409, "BlockedError", "Node 'n1' has nics.")]);
    expect(ran).toMatchObject({ status: 1, out: "", err: "Error: Node 'n1' has nics.\n" });
    expect(await server.run(["node_delete", "n1", "--json"], [apiError(404, "NotFoundError", "No.")])).toMatchObject({
      status: 1,
      err: "Error: No.\n",
    });
  });

  test("of something between here and the API", async () => {
    expect(
      await server.run(["list_projects"], [new Response("<h1>Bad Gateway</h1>", { status: 502, statusText: "Bad Gateway" })]),
    ).toMatchObject({ status: 1, err: "Error: The server answered 502 Bad Gateway.\n" });
    const moved = await server.run(["list_projects"], [Response.redirect("https://u:pw@elsewhere/projects", 301)]);
    expect(moved.status).toBe(1);
    expect(moved.err).toContain("https://elsewhere/projects");
    expect(await server.run(["list_projects"], [new Response("<h1>Welcome</h1>")])).toMatchObject({ status: 1, out: "" });
  });

  test("a 401 says how to give credentials, where there are none", async () => {
    const refused = async (env: Record<string, string>) =>
      (await server.run(["list_projects"], [apiError(401, "AuthorizationError", "Who are you?")], { env })).err;
    expect(await refused({})).toBe("Error: Who are you? (set HAAS_USERNAME and HAAS_PASSWORD)\n");
    expect(await refused({ HAAS_USERNAME: "bob" })).toBe("Error: Who are you? (HAAS_PASSWORD is not set)\n");
    expect(await refused({ HAAS_PASSWORD: "pw" })).toBe("Error: Who are you? (HAAS_USERNAME is not set)\n");
    expect(await refused({ HAAS_USERNAME: "bob", HAAS_PASSWORD: "pw" })).toBe("Error: Who are you?\n");
  });

  test("of a full disk, but not of a reader that stops", async () => {
    const run = async (redirection: string) => {
      const child = Bun.spawn(["bash", "-c", `set -o pipefail; "$0" src/cli.ts help ${redirection}`, process.execPath], {
        cwd: new URL("../..", import.meta.url).pathname,
        stdout: "ignore",
        stderr: "pipe",
      });
      return { err: await child.stderr.text(), status: await child.exited };
    };
    expect(await run(">/dev/full")).toEqual({ status: 1, err: expect.stringMatching(/^Error: The answer can't be written: .*\n$/) });
    expect(await run("| head -1")).toEqual({ status: 0, err: "" });
  });

  test("of a host that there is not", async () => {
    const { status, err } = await haas(["list_projects"], { env: { HAAS_ENDPOINT: "http://nosuch.invalid" } });
    expect({ status, err }).toEqual({ status: 1, err: "Error: Can't reach http://nosuch.invalid: no such host.\n" });
  });

  test("a message stays on one line, and can't drive the terminal", async () => {
    const { err } = await server.run(["list_projects"], [apiError(400, "BadArgumentError", "a\nb\x1b[2Jc")]);
    expect(err).toBe("Error: a b [2Jc\n");
  });

  test("an unreachable server is named", async () => {
    const ran = await server.run(["list_projects"], [], {
      env: { HAAS_ENDPOINT: "http://me:s3cret@127.0.0.1:1/", HAAS_PASSWORD: "s3cret" },
    });
    expect(ran).toMatchObject({ status: 1, out: "", err: "Error: Can't reach http://127.0.0.1:1: connection refused.\n" });
  });
});

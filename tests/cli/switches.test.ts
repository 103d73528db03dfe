import { afterAll, describe, expect, test } from "bun:test";
import { secrets } from "../support/secrets.ts";
import { startServer } from "../support/server.ts";
import { freePort } from "../support/postgres.ts";
import { apiError, haas, recordingServer, start } from "./haas.ts";

const server = recordingServer();
afterAll(() => server.stop());

const nothing = { native: null, tagged: [] };
const native = (vlan: number) => ({ native: vlan, tagged: [] });
/** A port of `GET …/ports/actual`, as it should be. */
const right = (port: string, more = {}) => ({
  port,
  node: "n1",
  nic: "nic1",
  desired: native(100),
  actual: native(100),
  difference: null,
  error: null,
  pending: false,
  suspect: null,
  ...more,
});
const wrong = (port: string, more = {}) =>
  right(port, {
    desired: { native: 100, tagged: [200, 201, 202, 205] },
    actual: { native: null, tagged: [7] },
    difference: { missing: { native: 100, tagged: [200, 201, 202, 205] }, excess: { native: null, tagged: [7] } },
    ...more,
  });
const wrongRow = "native 100, tagged 200-202, 205\ttagged 7\tnative 100, tagged 200-202, 205\ttagged 7";
const ports = (label: string, ...list: unknown[]) => Response.json({ switch: label, ports: list });

describe("switch_drift", () => {
  test("says nothing where all is well", async () => {
    const { status, out, err, requests } = await server.run(["switch_drift", "sw1"], [ports("sw1", right("gi1/0/1"), right("gi1/0/2"))]);
    expect({ status, out, err }).toEqual({ status: 0, out: "", err: "" });
    expect(requests.map(({ method, path }) => `${method} ${path}`)).toEqual(["GET /switch/sw1/ports/actual"]);
  });

  test("a row for a port that differs", async () => {
    const answer = [ports("sw1", right("gi1/0/1"), wrong("gi1/0/2"), right("gi1/0/3", { desired: nothing, actual: nothing }))];
    const { status, out, err } = await server.run(["switch", "drift", "sw1"], answer);
    expect({ status, out, err }).toEqual({ status: 1, out: `sw1\tgi1/0/2\t${wrongRow}\n`, err: "" });
  });

  test("a port that lost all, or carries what it should not", async () => {
    const lost = right("a", { actual: nothing, difference: { missing: native(100), excess: nothing } });
    const extra = right("b", { desired: nothing, difference: { missing: nothing, excess: native(100) } });
    const { out } = await server.run(["switch_drift", "sw1"], [ports("sw1", lost, extra)]);
    expect(out).toBe("sw1\ta\tnative 100\tnothing\tnative 100\t\nsw1\tb\tnothing\tnative 100\t\tnative 100\n");
  });

  test("what is under way or suspect is a note, what can't be read an error", async () => {
    const pending = await server.run(
      ["switch_drift", "sw1"],
      [ports("sw1", wrong("p1", { pending: true }), right("p2", { suspect: "no read-back" }))],
    );
    expect(pending).toMatchObject({ status: 0, out: "" });
    expect(pending.err).toBe(
      "note: sw1 p1 is being changed: it should carry native 100, tagged 200-202, 205, and carries tagged 7\nnote: sw1 p2 is suspect: no read-back\n",
    );
    // A server's words that name the port are not repeated.
    const named = "Switch 'sw1', port 'p1': it is silent.";
    expect((await server.run(["switch_drift", "sw1"], [ports("sw1", right("p1", { actual: null, error: named }))])).err).toBe(
      `Error: ${named}\n`,
    );
    const unread = await server.run(["switch_drift", "sw1"], [ports("sw1", right("p1", { actual: null, error: "no such\nport\x1b[2J" }))]);
    expect(unread).toMatchObject({ status: 1, out: "", err: "Error: sw1 p1: no such port [2J\n" });
  });

  test("a session that was lost: one line for each reason, and what is on record is not asked for", async () => {
    const lost = "Switch 'sw1', port 'gi1/0/2': it dropped the connection.";
    const unread = (port: string, error: string | null) => right(port, { actual: null, error });
    const many = Array.from({ length: 48 }, (_, index) => unread(`gi1/0/${index + 1}`, lost));
    const { status, out, err, requests } = await server.run(
      ["switch_drift", "sw1"],
      [ports("sw1", ...many, unread("te1/0/1", "no such port"))],
    );
    expect({ status, out, err }).toEqual({
      status: 1,
      out: "",
      err: `Error: ${lost} (and 47 more ports)\nError: sw1 te1/0/1: no such port\n`,
    });
    expect(requests).toHaveLength(1);
    expect((await server.run(["switch_drift", "sw1"], [ports("sw1", unread("p1", null), unread("p2", null))])).err).toBe(
      "Error: sw1 p1: it was not read. (and 1 more port)\n",
    );
  });

  test("VLAN 4095 is said in words", async () => {
    const foreign = { native: null, tagged: [4095] };
    const open = { native: 1, tagged: [2, 3, 4, 4095] };
    const { out } = await server.run(
      ["switch_drift", "sw1"],
      [
        ports(
          "sw1",
          right("a", { desired: nothing, actual: foreign, difference: { missing: nothing, excess: foreign } }),
          right("b", { actual: open, difference: { missing: native(100), excess: open } }),
        ),
      ],
    );
    const [words, why] = ["something that is not haas's", "(not a trunk, or a setting unknown to haas)"];
    expect(out).toBe(
      `sw1\ta\tnothing\t${words} ${why}\t\t${words}\n` +
        `sw1\tb\tnative 100\tnative 1, tagged 2-4, ${words} ${why}\tnative 100\tnative 1, tagged 2-4, ${words}\n`,
    );
  });

  test("a switch that can't be read at all", async () => {
    const silent = () => apiError(500, "SwitchError", "Switch 'sw1': it is silent.");
    const known = await server.run(["switch_drift", "sw1"], [silent(), Response.json({ pending: [{}, {}, {}], suspect: [{}] })]);
    expect(known).toMatchObject({ status: 1, out: "", err: "note: sw1: 3 ports pending, 1 suspect\nError: Switch 'sw1': it is silent.\n" });
    expect(known.requests.map(({ method, path }) => `${method} ${path}`)).toEqual([
      "GET /switch/sw1/ports/actual",
      "GET /switch/sw1/reconcile",
    ]);
    expect(await server.run(["switch_drift", "sw1"], [apiError(500, "SwitchError", "Switch 'sw1': it is silent.")])).toMatchObject({
      status: 1,
      out: "",
      err: "Error: Switch 'sw1': it is silent.\n",
    });
    expect(await server.run(["switch_drift", "sw1"], [new Response("")])).toMatchObject({
      status: 1,
      out: "",
      err: "Error: sw1: The answer is not one that a haas server gives; is the endpoint right?\n",
    });
  });

  /** Three switches, the second of them broken. */
  async function withRack(argv: string[]) {
    const answers: Record<string, () => Response> = {
      "/switches": () => Response.json(["a", "b", "c"]),
      "/switch/a/ports/actual": () => ports("a", wrong("p1")),
      "/switch/b/ports/actual": () => apiError(500, "SwitchError", "It is silent."),
      "/switch/b/reconcile": () => apiError(500, "ServerError", "The database is away."),
      "/switch/c/ports/actual": () => ports("c", wrong("p1"), right("p2")),
    };
    const web = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request) => answers[new URL(request.url).pathname]!() });
    try {
      return await haas(argv, { env: { HAAS_ENDPOINT: web.url.href } });
    } finally {
      await web.stop(true);
    }
  }

  test("all: one that is broken does not hide the others", async () => {
    expect(await withRack(["switch_drift", "all"])).toEqual({
      status: 1,
      out: `a\tp1\t${wrongRow}\nc\tp1\t${wrongRow}\n`,
      err: "Error: b: It is silent.\n",
    });
  });

  test("--json", async () => {
    const { status, out } = await withRack(["switch_drift", "all", "--json"]);
    expect(status).toBe(1);
    expect(JSON.parse(out).map((answer: { switch: string }) => answer.switch)).toEqual(["a", "c"]);
    const one = await withRack(["switch_drift", "c", "--json"]);
    expect(JSON.parse(one.out)).toMatchObject({ switch: "c" });
    expect(await withRack(["switch_drift", "b", "--json"])).toMatchObject({ status: 1, out: "", err: "Error: b: It is silent.\n" });
  });
});

describe("show_drift", () => {
  test("without any check says why that may be", async () => {
    const unchecked = { switch: "a", checked_at: null, error: null, ports: [] };
    const answer = () => Response.json({ switches: [unchecked, { ...unchecked, switch: "b" }] });
    const { status, out, err, requests } = await server.run(["drift", "show"], [answer()]);
    expect({ status, out }).toEqual({ status: 0, out: "a\t\t\t\t\t\t\t\nb\t\t\t\t\t\t\t\n" });
    expect(err).toMatch(/^note: no switch was ever checked: .*\[network-daemon\] verify_interval.*\n$/);
    expect(requests.map(({ method, path }) => `${method} ${path}`)).toEqual(["GET /drift"]);
    const json = await server.run(["show_drift", "--json"], [answer()]);
    expect(JSON.parse(json.out).switches).toHaveLength(2);
    expect(json.err).toBe(err);
    expect(await server.run(["show_drift"], [Response.json({ switches: [] })])).toMatchObject({ status: 0, out: "", err: "" });
  });

  test("shows every switch, and when it was read", async () => {
    const at = "2030-01-02T03:04:05.000Z";
    const { port, desired, actual, difference } = wrong("p1");
    const { status, out, err } = await server.run(
      ["show_drift"],
      [
        Response.json({
          switches: [
            { switch: "a", checked_at: at, error: null, ports: [] },
            { switch: "b", checked_at: at, error: null, ports: [{ port, desired, actual, difference }] },
            { switch: "c", checked_at: null, error: "it is\tsilent", ports: [] },
          ],
        }),
      ],
    );
    expect(status).toBe(0);
    expect(out).toBe(`a\t${at}\t\t\t\t\t\t\nb\t${at}\tp1\t${wrongRow}\t\nc\t\t\t\t\t\t\tit is silent\n`);
    expect(err).toBe("");
  });
});

describe("switch_reconcile", () => {
  const queued = () => Response.json({ ports: ["p1", "p2"] }, { status: 202 });
  const state = (pending: unknown[], suspect: unknown[] = []) => Response.json({ pending, suspect });
  const waiting = { port: "p1", reason: "it is silent", attempts: 1, next_try: null };

  test("prints how many ports were queued", async () => {
    const { status, out, err, requests } = await server.run(["switch_reconcile", "sw1"], [queued()]);
    expect({ status, out, err }).toEqual({ status: 0, out: "2 ports queued\n", err: "" });
    expect(requests.map(({ method, path }) => `${method} ${path}`)).toEqual(["POST /switch/sw1/reconcile"]);
    expect((await server.run(["switch_reconcile", "sw1"], [Response.json({ ports: ["p1"] })])).out).toBe("1 port queued\n");
  });

  test("--wait follows them until none is pending", async () => {
    const { status, out, err, requests } = await server.run(
      ["switch_reconcile", "sw1", "--wait"],
      [queued(), state([waiting, waiting]), state([waiting]), state([])],
    );
    expect({ status, out, err }).toEqual({ status: 0, out: "2 ports queued\n", err: "" });
    expect(requests.map(({ method, path }) => `${method} ${path}`)).toEqual([
      "POST /switch/sw1/reconcile",
      ...Array(3).fill("GET /switch/sw1/reconcile"),
    ]);
  });

  test("what is suspect in the end is status 1", async () => {
    const answers = () => [queued(), state([], [{ port: "p2", reason: "it\ndropped the connection" }])];
    expect(await server.run(["switch_reconcile", "sw1", "--wait"], answers())).toMatchObject({
      status: 1,
      out: "2 ports queued\np2\tit dropped the connection\n",
      err: "Error: sw1: 0 ports pending, 1 suspect. Look again with: haas switch_drift sw1\n",
    });
    const json = await server.run(["switch_reconcile", "sw1", "--wait", "--json"], answers());
    expect(json.status).toBe(1);
    expect(JSON.parse(json.out)).toMatchObject({ pending: [], suspect: [{ port: "p2" }] });
    expect(json.err).toStartWith("2 ports queued\n");
  });

  const inVain = [{ port: "p1", reason: "it is silent" }];
  const givenUp = {
    status: 1,
    out: "2 ports queued\np1\tit is silent\n",
    err: "Error: sw1: 1 port pending, 1 suspect. haas goes on with what is pending. Look again with: haas switch_drift sw1\n",
  };

  test("--wait ends when all that is pending was tried in vain", async () => {
    const other = { ...waiting, port: "p2", attempts: 0, reason: null };
    const states = [
      state([waiting, other], inVain),
      // Its own attempts have grown, but the other one's have not.
      state([{ ...waiting, attempts: 2 }, other], inVain),
      state([{ ...waiting, attempts: 2 }], inVain),
    ];
    const ran = await server.run(["switch_reconcile", "sw1", "--wait"], [queued(), ...states]);
    expect(ran).toMatchObject(givenUp);
    expect(ran.requests).toHaveLength(4);
  });

  test("--wait believes no reason that is older than the wish", async () => {
    const put = (until: string | null) => state([{ ...waiting, attempts: 7, next_try: until }], inVain);
    const [first, second] = ["2030-01-02T03:04:05.000Z", "2030-01-02T03:05:05.000Z"];
    const ran = await server.run(
      ["switch_reconcile", "sw1", "--wait"],
      [queued(), put(null), put(first), put(first), put(null), put(null), put(second)],
    );
    expect(ran).toMatchObject(givenUp);
    expect(ran.requests).toHaveLength(7);
    // It was tried after the first delay, and that went well.
    expect(await server.run(["switch_reconcile", "sw1", "--wait"], [queued(), put(first), put(null), state([])])).toMatchObject({
      status: 0,
      out: "2 ports queued\n",
      err: "",
    });
  });

  test("a port that was right for a moment, and is queued anew, begins anew", async () => {
    const tried = (attempts: number) => state([{ ...waiting, attempts }], inVain);
    const ran = await server.run(["switch_reconcile", "sw1", "--wait"], [queued(), tried(3), tried(0), tried(1)]);
    expect(ran).toMatchObject(givenUp);
    expect(ran.requests).toHaveLength(4);
  });

  for (const where of ["terminal", "pipe"] as const) {
    test(`Ctrl-C leaves what is known, and how to look again: ${where}`, async () => {
      const reason = `Switch 'sw1': ${"it is silent, ".repeat(20)}and cold.`;
      let polls = 0;
      const answers = () => (polls++ === 0 ? queued() : state([{ ...waiting, reason }], [{ port: "p1", reason }]));
      const web = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answers });
      const { written, interrupt } = start(["switch_reconcile", "sw1", "--wait"], { HAAS_ENDPOINT: web.url.href }, where);
      // The third poll comes when the answer to the second one was read.
      while (polls < 4) await Bun.sleep(20);
      expect(await interrupt()).toBe(130);
      await web.stop(true);
      expect(written()).toMatch(
        new RegExp(`p1\\s+${reason}\nsw1: 1 port pending, 1 suspect\\. .* Look again with: haas switch_drift sw1\n$`),
      );
    });
  }

  const plan = (...list: unknown[]) => Response.json({ switch: "sw1", plan: list });
  const planned = {
    port: "p1",
    actual: nothing,
    desired: native(100),
    lines: ["interface p1", " switchport trunk native vlan 100\x1b[2J"],
    error: null,
  };

  test("--dry-run prints what would be sent", async () => {
    const { status, out, err, requests } = await server.run(
      ["switch_reconcile", "sw1", "--dry-run"],
      [plan(planned, { ...planned, port: "p2" })],
    );
    const commands = "  interface p1\n   switchport trunk native vlan 100 [2J\n";
    expect({ status, out, err }).toEqual({ status: 0, out: `sw1 p1\n${commands}sw1 p2\n${commands}`, err: "" });
    expect(requests.map(({ method, path }) => `${method} ${path}`)).toEqual(["POST /switch/sw1/reconcile?dry_run=true"]);
    const foreign = { ...planned, actual: { native: null, tagged: [4095] }, lines: ["interface p1"] };
    expect((await server.run(["switch_reconcile", "sw1", "--dry-run"], [plan(foreign)])).out).toBe(
      "sw1 p1 carries something that is not haas's (not a trunk, or a setting unknown to haas)\n  interface p1\n",
    );
  });

  test("--dry-run of what is right, and of what can't be read", async () => {
    expect(await server.run(["switch_reconcile", "sw1", "--dry-run"], [plan()])).toMatchObject({
      status: 0,
      out: "",
      err: "note: every port of sw1 carries what it should\n",
    });
    const unread = { ...planned, actual: null, lines: [], error: "no such port" };
    expect(await server.run(["switch_reconcile", "sw1", "--dry-run"], [plan({ ...planned, port: "p9" }, unread)])).toMatchObject({
      status: 1,
      out: expect.stringMatching(/^sw1 p9\n/),
      err: "Error: sw1 p1: no such port\n",
    });
    const lost = { ...unread, error: "Switch 'sw1', port 'p2': it dropped the connection." };
    expect((await server.run(["switch_reconcile", "sw1", "--dry-run"], [plan(lost, { ...lost, port: "p2" })])).err).toBe(
      `Error: ${lost.error} (and 1 more port)\n`,
    );
  });
});

describe("--dry-run of a networking command", () => {
  const answer = (sent: string[]) => Response.json({ switch: "sw1", port: "gi1/0/1", actual: nothing, desired: native(100), lines: sent });
  for (const argv of [
    ["node_connect_network", "n1", "nic1", "net"],
    ["node_detach_network", "n1", "nic1", "net"],
    ["port_revert", "sw1", "gi1/0/1"],
  ]) {
    test(argv[0]!, async () => {
      const { status, out, err } = await server.run([...argv, "--dry-run"], [answer(["interface gi1/0/1", "switchport mode trunk"])]);
      expect({ status, out, err }).toEqual({ status: 0, out: "sw1 gi1/0/1\n  interface gi1/0/1\n  switchport mode trunk\n", err: "" });
      expect((await server.run([...argv, "--dry-run"], [answer([])])).out).toBe("sw1 gi1/0/1: nothing to do\n");
      // Without it, the id of the action as ever.
      expect((await server.run(argv, [Response.json({ status_id: "42-a" })])).out).toBe("42-a\n");
    });
  }
});

describe("switch_test", () => {
  const good = {
    switch: "sw1",
    type: "powerconnect55xx",
    ok: true,
    steps: [
      { step: "connect", ok: true, ms: 12 },
      { step: "log in", ok: true, ms: 1234 },
      { step: "read port gi1/0/1", ok: true, ms: 88.4 },
    ],
    port: "gi1/0/1",
    state: { native: 100, tagged: [200, 201] },
    host_key: "SHA256:abc",
    error: null,
    recording: [
      { direction: "sent", text: "show interfaces", ms: 13 },
      { direction: "received", text: "  Name:\tgi1/0/1\x1b[K\n  Mode: trunk", ms: 20 },
    ],
  };
  const failing = (steps: string[], error: string, more = {}) => ({
    ...good,
    ok: false,
    steps: steps.map((step, index) => ({ step, ok: index < steps.length - 1, ms: 10 })),
    state: null,
    host_key: null,
    error,
    ...more,
  });
  const tested = (answer: unknown, ...options: string[]) => server.run(["switch_test", "sw1", ...options], [Response.json(answer)]);

  const anew = "A registration can't be changed: to register it anew, delete its ports first, then the switch (haas switch_delete sw1).";

  test("a page for one that works", async () => {
    const { status, out, err, requests } = await tested(good);
    expect({ status, err }).toEqual({ status: 0, err: "" });
    expect(requests.map(({ method, path }) => `${method} ${path}`)).toEqual(["POST /switch/sw1/test"]);
    expect(out).toBe(`Switch sw1 (powerconnect55xx): ok

  connect            ok  12 ms
  log in             ok  1.2 s
  read port gi1/0/1  ok  88 ms

Port gi1/0/1 carries native 100, tagged 200-201.
Its SSH host key is SHA256:abc.
`);
  });

  test("a port that haas did not set up", async () => {
    const { out } = await tested({ ...good, state: { native: 1, tagged: [4095] } });
    expect(out).toContain(
      "\nPort gi1/0/1 carries native 1, something that is not haas's (not a trunk, or a setting unknown to haas).\nThe next change of the port replaces that.\n",
    );
  });

  test("without a registered port", async () => {
    const { out } = await tested({ ...good, port: null, state: null, host_key: null });
    expect(out).toEndWith("\nNone of its ports is registered, so none was read.\n");
  });

  test("a page for one that does not", async () => {
    const { status, out } = await tested(
      failing(["connect", "log in"], "Switch 'sw1': it refuses the login of 'admin'", { host_key: "SHA256:abc" }),
    );
    expect(status).toBe(1);
    expect(out).toBe(`Switch sw1 (powerconnect55xx): FAILED

  connect  ok      10 ms
  log in   FAILED  10 ms

Its SSH host key is SHA256:abc.

Reason: Switch 'sw1': it refuses the login of 'admin'.

- Check the user name and the password (or key file) that it was registered with, by logging in from the server yourself.
- Some switches take no more logins for a while after wrong ones, or while all of their sessions are in use.
- ${anew}
- To see what was said: haas switch_test sw1 --recording
`);
  });

  // SSH logs in while it connects, so the words count for more than the step.
  const advice: [string[], string, string, string][] = [
    [
      ["connect"],
      "powerconnect55xx",
      "it presents the host key SHA256:b, but is known by SHA256:a",
      "run: haas switch_forget_host_key sw1\n",
    ],
    [
      ["connect"],
      "nexus",
      "no SSH algorithm is known to both sides: for the key exchange it offers only diffie-hellman-group14-sha1; an old switch may need legacy_algorithms",
      "--legacy-algorithms",
    ],
    [["connect"], "nexus", "it refuses the login of 'admin'; check username and password", "Check the user name and the password"],
    [["connect"], "nexus", "10.0.0.1, port 22 refuses connections", "--transport telnet"],
    [["connect"], "brocade", "10.0.0.1, port 80 refuses connections", "--tls verify"],
    [["connect"], "brocade", "self signed certificate", "--ca-file FILE"],
    [["connect", "log in"], "nexus", "it asks for an enable password", "--enable-password"],
    [["connect", "log in", "read port p9"], "nexus", "% Invalid interface", "haas show_switch sw1\n"],
  ];
  for (const [steps, type, error, hint] of advice) {
    test(`advice: ${error}`, async () => {
      const { status, out } = await tested(failing(steps, error, { type }));
      expect(status).toBe(1);
      expect(out).toContain(`\nReason: ${error}.\n\n- `);
      expect(out).toContain(hint);
      // Whatever asks for another registration says what that takes.
      expect(out.includes(anew)).toBe(!/forget_host_key|show_switch/.test(hint));
    });
  }

  test("a type that can't be driven, with no step at all", async () => {
    const { status, out } = await tested(failing([], "this haas can't drive it yet."));
    expect(status).toBe(1);
    expect(out).toBe(
      "Switch sw1 (powerconnect55xx): FAILED\n\nReason: this haas can't drive it yet.\n\n- To see what was said: haas switch_test sw1 --recording\n",
    );
  });

  test("--recording shows what was said", async () => {
    const { out } = await tested(good, "--recording");
    expect(out).toEndWith("\nRecording:\n   13 ms > show interfaces\n   20 ms <   Name: gi1/0/1 [K\n         <   Mode: trunk\n");
  });

  test("--json is the answer itself", async () => {
    const { status, out } = await tested(failing(["connect"], "silent"), "--json");
    expect(status).toBe(1);
    expect(JSON.parse(out)).toMatchObject({ ok: false, error: "silent" });
  });

  test("one that is busy, or is none", async () => {
    expect(await server.run(["switch_test", "sw1"], [apiError(409, "BlockedError", "Switch 'sw1' is busy.")])).toMatchObject({
      status: 1,
      out: "",
      err: "Error: Switch 'sw1' is busy.\n",
    });
  });
});

test("a registration asks for each of its passwords by name", async () => {
  const argv = ["switch_register", "sw1", "nexus", "h", "u", "-", "17", "--enable-password", "-"];
  const bodies: unknown[] = [];
  const web = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      bodies.push(await request.json());
      return new Response("");
    },
  });
  const { written, type, exited } = start(argv, { HAAS_ENDPOINT: web.url.href }, "terminal");
  for (const [prompt, secret] of [
    ["Password: ", secrets.console],
    ["Enable password: ", secrets.enable],
  ] as const) {
    while (!written().endsWith(prompt)) await Bun.sleep(20);
    type(`${secret}\n`);
  }
  expect(await exited).toBe(0);
  await web.stop(true);
  expect(bodies).toEqual([expect.objectContaining({ password: secrets.console, enable_password: secrets.enable })]);
  expect(written().trim().split(/\n+/)).toEqual(["Password: ", "Enable password:"]);
});

test("a real server gives the answers that are expected", async () => {
  const real = await startServer({ kind: "sqlite" });
  const run = (line: string) => haas(line.split(" "), { env: { HAAS_ENDPOINT: real.url } });
  const silently = { status: 0, out: "", err: "" };
  for (const line of [
    `switch_register s1 mock h u ${secrets.switch}`,
    "port_register s1 p1",
    `node_register n1 mock h u ${secrets.mockBmc}`,
    "node_register_nic n1 nic1 01:23:45:67:89:ab",
    "port_connect_nic s1 p1 n1 nic1",
    "project_create pr",
    "project_connect_node pr n1",
    "network_create_simple net pr",
  ]) {
    expect(await run(line)).toEqual(silently);
  }
  const tested = await run("switch_test s1 --recording");
  expect(tested).toMatchObject({ status: 0, err: "", out: expect.stringContaining("Port p1 carries nothing.") });
  expect(await run("node_connect_network n1 nic1 net --dry-run")).toMatchObject({ status: 0, out: expect.stringMatching(/^s1 p1\n {2}/) });
  expect((await run("node_connect_network n1 nic1 net --wait")).out).toEndWith("\nDONE\n");
  expect(await run("port_revert s1 p1 --dry-run")).toMatchObject({ status: 0, out: expect.stringMatching(/^s1 p1\n {2}/) });
  expect(await run("switch_drift all")).toEqual(silently);
  expect(await run("show_drift")).toMatchObject({
    status: 0,
    out: expect.stringMatching(/^s1\t/),
    err: expect.stringContaining("verify_interval"),
  });
  expect(await run("switch_reconcile s1 --dry-run")).toMatchObject({ status: 0, out: "" });
  expect(await run("switch_reconcile s1 --wait")).toEqual({ status: 0, out: "1 port queued\n", err: "" });
  expect(await run("port_trust s1 p1")).toMatchObject({ status: 1, out: "" });
  expect(await run("switch_forget_host_key s1")).toMatchObject({ status: 1, out: "" });
  expect(await run("switch_drift s2")).toEqual({ status: 1, out: "", err: "Error: Switch 's2' does not exist.\n" });
  // Nothing listens there.
  expect(await run(`switch_register dead powerconnect55xx 127.0.0.1:${await freePort()} u ${secrets.console} --transport telnet`)).toEqual(
    silently,
  );
  for (const port of ["gi1/0/1", "gi1/0/2"]) expect(await run(`port_register dead ${port}`)).toEqual(silently);
  expect(await run("switch_reconcile dead --wait")).toEqual({
    status: 1,
    out: expect.stringMatching(/^2 ports queued\n(gi1\/0\/\d\tSwitch 'dead': .* refuses connections.*\n){2}$/),
    err: "Error: dead: 2 ports pending, 2 suspect. haas goes on with what is pending. Look again with: haas switch_drift dead\n",
  });
  expect(await run("switch_drift dead")).toEqual({
    status: 1,
    out: "",
    err: expect.stringMatching(/^note: dead: 2 ports pending, 2 suspect\nError: Switch 'dead': .* refuses connections.*\n$/),
  });
  await real.stop();
});

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { administrator } from "../../src/auth/caller.ts";
import { SwitchError } from "../../src/errors.ts";
import { emptyPort, type SwitchSession } from "../../src/hardware/switches/driver.ts";
import { libvirt } from "../../src/hardware/headnodes/libvirt.ts";
import { obmTypePrefix } from "../../src/hardware/obm/index.ts";
import { switchTypePrefix } from "../../src/hardware/switches/index.ts";
import { createUser } from "../../src/inventory/users.ts";
import { type Answer, mockSwitch, scratch, type Service, startService } from "../support/service.ts";

// What a tenant can learn from the errors and reasons of hardware: nothing that `GET /node` hides from them. An
// administrator gets the same failure in the device's own words.

/** All of it can be told from any other text. */
const words = {
  switch: "quuxswitch",
  port: "quuxport",
  switchHost: "quuxswitchhost.lab",
  bmcHost: "quuxbmc.lab",
  bmcUser: "quuxbmcuser",
  hypervisor: "quuxhypervisor",
  otherProject: "quuxproject",
  maintenance: "quuxmaintenance",
  device: "quuxwords",
} as const;

let service: Service;
let place: ReturnType<typeof scratch>;
let count = 0;
const path = process.env.PATH;

/** How `ipmitool` and `virsh` behave. */
const mood = (program: string, shell: string) => writeFileSync(join(place.path, `${program}.mood`), shell);

const as = (user: string, method: string, path: string, body?: unknown): Promise<Answer> =>
  service.call(method, path, body, { authorization: `Basic ${btoa(`${user}:pw`)}` });
async function ok(method: string, path: string, body?: unknown): Promise<any> {
  const answer = await as("root", method, path, body);
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body;
}

/** What a text gives away beside what `GET /node` shows. */
async function leaks(text: string, node?: string): Promise<string[]> {
  const shown = node === undefined ? "" : JSON.stringify((await as("alice", "GET", `/node/${node}`)).body);
  return Object.values(words).filter((word) => text.includes(word) && !shown.includes(word));
}

/** A call fails for the tenant and the administrator alike, and only the latter is told of `word`. */
async function expectTwoTexts(
  [method, path, body]: [string, string, unknown?],
  { status, word, node }: { status: number; word: string; node?: string },
): Promise<void> {
  const [tenant, admin] = [await as("alice", method, path, body), await as("root", method, path, body)];
  const where = { method, path, body };
  expect({ ...where, tenant: tenant.status, admin: admin.status }).toEqual({ ...where, tenant: status, admin: status });
  expect(tenant.body.type).toBe(admin.body.type);
  expect(admin.body.msg).toContain(word);
  expect(tenant.body.msg).not.toBe("");
  expect({ ...where, msg: tenant.body.msg, leaks: await leaks(JSON.stringify(tenant.body), node) }).toEqual({
    ...where,
    msg: tenant.body.msg,
    leaks: [],
  });
  if (status >= 500) expect(tenant.body.msg).toContain(tenant.headers.get("x-request-id")!);
}

const bmc = { type: `${obmTypePrefix}ipmi`, host: words.bmcHost, user: words.bmcUser, password: "pw" };

/** A node of alice's project on a port of a switch of this type; its name is that of its switch's port, too. */
async function cabledNode(type: string, more: object = {}, project: string | null = "p"): Promise<{ node: string; port: string }> {
  const n = ++count;
  const [node, sw] = [`n${n}`, `${words.switch}-${n}`];
  const port = type === "mock" ? `${words.port}-${n}` : type === "brocade" ? "1/0/1" : "gi1/0/1";
  await ok("PUT", `/node/${node}`, { obm: { ...bmc, host: `${words.bmcHost}:${1000 + n}` } });
  await ok("PUT", `/node/${node}/nic/nic`, { macaddr: "m" });
  await ok("PUT", `/switch/${sw}`, {
    ...mockSwitch,
    hostname: `${words.switchHost}:${1000 + n}`,
    type: `${switchTypePrefix}${type}`,
    ...more,
  });
  await ok("PUT", `/switch/${sw}/port/${encodeURIComponent(port)}`);
  await ok("POST", `/switch/${sw}/port/${encodeURIComponent(port)}/connect_nic`, { node, nic: "nic" });
  await service.ctx.db.updateTable("port").set({ suspect: null }).execute();
  await service.ctx.db.deleteFrom("networking_action").where("type", "=", "sync_port").execute();
  if (project !== null) await ok("POST", `/project/${project}/connect_node`, { node });
  return { node, port: `/switch/${sw}/port/${encodeURIComponent(port)}` };
}

beforeAll(async () => {
  place = scratch();
  const bin = join(place.path, "bin");
  mkdirSync(bin);
  for (const program of ["ipmitool", "virsh", "virt-clone"]) {
    writeFileSync(join(bin, program), `#!/bin/sh\n. '${join(place.path, program === "virt-clone" ? "virsh" : program)}.mood'\n`);
    chmodSync(join(bin, program), 0o700);
  }
  process.env.PATH = `${bin}:${path}`;
  mood("ipmitool", "exit 0");
  mood("virsh", "exit 0");
  service = await startService("sqlite", {
    auth: "database",
    more: `
[haas.ext.obm.ipmi]
timeout = 1
retries = 0
[network-daemon]
max_tries = 2
[maintenance]
maintenance_project = ${words.maintenance}
[haas.ext.network_allocators.vlan_pool]
vlans = 100-199`,
  });
  const headnodes = libvirt({ endpoint: `qemu+ssh://${words.hypervisor}/system`, network: "bridges", ovsBridge: "br" });
  Object.assign(service.ctx, { headnodes });
  await createUser(service.ctx.db, administrator, "root", "pw", true);
  await createUser(service.ctx.db, administrator, "alice", "pw", false);
  for (const project of ["p", words.otherProject]) await ok("PUT", `/project/${project}`);
  await ok("POST", "/auth/basic/user/alice/add_project", { project: "p" });
  for (const network of ["a", "b"]) await ok("PUT", `/network/${network}`, { owner: "p", access: "p", net_id: "" });
});

afterAll(async () => {
  process.env.PATH = path;
  await service.stop();
  place.remove();
});

describe("a BMC", () => {
  const calls: [string, string, unknown?][] = [
    ["POST", "power_cycle"],
    ["POST", "power_on"],
    ["POST", "power_off"],
    ["GET", "power_status"],
    ["PUT", "boot_device", { bootdev: "pxe" }],
  ];
  test.each([
    ["is silent", "sleep 3", words.bmcHost],
    ["refuses the session", `echo "Error: Unable to establish IPMI v2 / RMCP+ session ${words.device}" >&2; exit 1`, words.bmcHost],
    ["is unknown", `echo "Address lookup for ${words.bmcHost} failed" >&2; exit 1`, words.bmcHost],
    ["refuses the command", `echo "Invalid command: ${words.device}" >&2; exit 1`, words.device],
    ["fails", `echo "${words.device}" >&2; exit 1`, words.device],
    ["crashes", "kill -9 $$", words.bmcHost],
  ])("%s", async (_, shell, word) => {
    const { node } = await cabledNode("mock");
    mood("ipmitool", shell);
    for (const [method, call, body] of calls) {
      await expectTwoTexts([method, `/node/${node}/${call}`, body], { status: 500, word, node });
    }
  });

  test("answers something else, has no address, or a driver that is switched off", async () => {
    const { node } = await cabledNode("mock");
    const boot: [string, string, unknown] = ["PUT", `/node/${node}/boot_device`, { bootdev: "pxe" }];
    mood("ipmitool", `echo "Boot Device Selector : ${words.device}"`);
    await expectTwoTexts(boot, { status: 500, word: words.device, node });
    await expectTwoTexts(["GET", `/node/${node}/power_status`], { status: 500, word: words.device, node });
    const set = (values: { obm?: string; obm_type?: string }) =>
      service.ctx.db.updateTable("node").set(values).where("label", "=", node).execute();
    await set({ obm: JSON.stringify({ ...bmc, host: `${words.bmcHost}:x` }) });
    await expectTwoTexts(boot, { status: 500, word: words.bmcHost, node });
    await set({ obm_type: `${obmTypePrefix}${words.device}` });
    await expectTwoTexts(boot, { status: 400, word: words.device, node });
  });

  test("fails what an allocation asks of it", async () => {
    const { node } = await cabledNode("mock", {}, null);
    await service.ctx.db.updateTable("node").set({ boot_device: "disk" }).where("label", "=", node).execute();
    mood("ipmitool", `echo "${words.device}" >&2; exit 1`);
    await expectTwoTexts(["POST", "/project/p/connect_node", { node }], { status: 500, word: words.device, node });
    expect(await ok("GET", `/node/${node}`)).toMatchObject({ project: null });
    // Nothing is left of it.
    mood("ipmitool", `case "$*" in *bootparam*) echo "Boot Device Selector : No override" ;; esac`);
    expect((await as("alice", "POST", "/project/p/connect_node", { node })).status).toBe(200);
  });
});

describe("a switch", () => {
  const connect = (node: string, network: string, channel?: string): [string, string, unknown] => [
    "POST",
    `/node/${node}/nic/nic/connect_network`,
    { network, ...(channel !== undefined && { channel }) },
  ];

  test("that can't carry a network", async () => {
    const login = { dummy_vlan: "2222" };
    await ok("PUT", "/network/high", { owner: "admin", access: "", net_id: "4094" });
    await ok("PUT", "/network/dummy", { owner: "admin", access: "", net_id: "2222" });
    const n3000 = await cabledNode("delln3000", login);
    await expectTwoTexts(connect(n3000.node, "high"), { status: 409, word: words.switch, node: n3000.node });
    await expectTwoTexts(connect(n3000.node, "dummy"), { status: 409, word: words.switch, node: n3000.node });

    const { node } = await cabledNode("brocade", { interface_type: "TenGigabitEthernet" });
    const [, channel] = (await ok("GET", "/network/a")).channels;
    await expectTwoTexts(connect(node, "a", channel), { status: 409, word: words.switch, node });
    const { id: nic_id } = await service.ctx.db
      .selectFrom("nic")
      .innerJoin("node", "node.id", "nic.node_id")
      .select("nic.id")
      .where("node.label", "=", node)
      .executeTakeFirstOrThrow();
    const id = async (label: string) =>
      (await service.ctx.db.selectFrom("network").select("id").where("label", "=", label).executeTakeFirstOrThrow()).id;
    await service.ctx.db
      .insertInto("attachment")
      .values([
        { nic_id, network_id: await id("a"), channel: "vlan/native" },
        { nic_id, network_id: await id("b"), channel: "vlan/101" },
      ])
      .execute();
    const detach: [string, string, unknown] = ["POST", `/node/${node}/nic/nic/detach_network`, { network: "a" }];
    await expectTwoTexts(detach, { status: 409, word: words.switch, node });
    await service.ctx.db
      .updateTable("switch")
      .set({ type: `${switchTypePrefix}${words.device}` })
      .execute();
    await expectTwoTexts(detach, { status: 400, word: words.device, node });
    await service.ctx.db.deleteFrom("attachment").execute();
    await expectTwoTexts(connect(node, "a"), { status: 400, word: words.device, node });
  });

  test("whose port is not cabled, suspect, or drifted", async () => {
    const { node, port } = await cabledNode("mock", {}, null);
    const allocate: [string, string, unknown] = ["POST", "/project/p/connect_node", { node }];
    const marks = { suspect: `Switch '${words.switch}', port '${words.port}': ${words.device}.`, drift: null };
    await service.ctx.db.updateTable("port").set(marks).execute();
    await expectTwoTexts(allocate, { status: 409, word: words.device, node });
    await service.ctx.db
      .updateTable("port")
      .set({ suspect: null, drift: JSON.stringify(emptyPort) })
      .execute();
    await expectTwoTexts(allocate, { status: 409, word: words.port, node });
    await service.ctx.db.updateTable("port").set({ drift: null }).execute();
    await ok("POST", `${port}/detach_nic`);
    expect((await as("alice", ...allocate)).status).toBe(200);
    const answer = await as("alice", ...connect(node, "a"));
    expect(answer.status).toBe(404);
    expect(await leaks(JSON.stringify(answer.body), node)).toEqual([]);
  });

  test.each([
    ["can't be reached", true],
    ["refuses the change", false],
  ])("that %s: why an action waits, and why it failed", async (_, unreached) => {
    const { node } = await cabledNode("mock");
    const driver = service.ctx.switches.byType(mockSwitch.type);
    const { open } = driver;
    const fail = () => Promise.reject(new SwitchError(`Switch '${words.switch}' at ${words.switchHost}: ${words.device}.`));
    const session: SwitchSession = {
      applyPort: fail,
      readPorts: async (ports) => new Map(ports.map((label) => [label, emptyPort])),
      close: async () => {},
    };
    Object.assign(driver, { open: unreached ? fail : async () => session });
    try {
      const [method, path, body] = connect(node, "a");
      const { status_id } = (await as("alice", method, path, body)).body;
      const reasons = new Set<string>();
      for (const status of ["PENDING", "ERROR"]) {
        await service.ctx.db.updateTable("networking_action").set({ next_try: 0 }).execute();
        await service.apply();
        const [tenant, admin] = [
          (await as("alice", "GET", `/networking_action/${status_id}`)).body,
          (await as("root", "GET", `/networking_action/${status_id}`)).body,
        ];
        expect([tenant.status, admin.status]).toEqual([status, status]);
        expect(admin.reason).toContain(words.device);
        expect(tenant.reason).toContain("an administrator can see why");
        expect(await leaks(JSON.stringify(tenant), node)).toEqual([]);
        reasons.add(tenant.reason);
      }
      expect(reasons.size).toBe(unreached ? 1 : 2);
    } finally {
      Object.assign(driver, { open });
    }
  });
});

describe("a hypervisor", () => {
  test.each([
    ["can't be reached", `echo "error: failed to connect to the hypervisor ${words.device}" >&2; exit 1`, words.hypervisor],
    ["fails", `echo "error: ${words.device}" >&2; exit 1`, words.device],
    ["hangs up", "kill -9 $$", "signal"],
  ])("that %s", async (_, shell, word) => {
    const headnode = `h${++count}`;
    await ok("PUT", `/headnode/${headnode}`, { project: "p", base_img: "img1" });
    const set = (values: { made: 0 | 1; started: 0 | 1; running?: 0 | 1 }) =>
      service.ctx.db.updateTable("headnode").set(values).where("label", "=", headnode).execute();
    mood("virsh", shell);
    await expectTwoTexts(["POST", `/headnode/${headnode}/start`], { status: 500, word });
    await set({ made: 1, started: 1, running: 1 });
    for (const call of ["start", "stop", "edit"]) await expectTwoTexts(["POST", `/headnode/${headnode}/${call}`], { status: 500, word });
    await expectTwoTexts(["DELETE", `/headnode/${headnode}`], { status: 500, word });
    await expectTwoTexts(["GET", `/headnode/${headnode}/vnc`], { status: 409, word: words.hypervisor });
    expect((await ok("GET", `/headnode/${headnode}`)).reason).toContain(word);
    const shown = (await as("alice", "GET", `/headnode/${headnode}`)).body;
    expect(shown.state).toBe("unknown");
    expect(await leaks(JSON.stringify(shown))).toEqual([]);

    Object.assign(service.ctx.headnodes, { displaysElsewhere: null });
    await expectTwoTexts(["GET", `/headnode/${headnode}/vnc`], { status: 409, word });
    mood("virsh", `echo "shut off (${words.device})"`);
    await expectTwoTexts(["GET", `/headnode/${headnode}/vnc`], { status: 409, word: words.device });
    expect((await ok("GET", `/headnode/${headnode}`)).reason).toContain(words.device);
    expect(await leaks(JSON.stringify((await as("alice", "GET", `/headnode/${headnode}`)).body))).toEqual([]);
    Object.assign(service.ctx.headnodes, { displaysElsewhere: `displays listen on ${words.hypervisor}` });
  });
});

test("a maintenance project that is not there", async () => {
  const { node } = await cabledNode("mock");
  await expectTwoTexts(["POST", "/project/p/detach_node", { node }], { status: 409, word: words.maintenance, node });
  expect((await as("alice", "GET", `/node/${node}`)).body).toMatchObject({ project: "p" });
});

test("a node of another project shows nothing, and nothing of its switch", async () => {
  const { node } = await cabledNode("mock", {}, words.otherProject);
  mood("ipmitool", `echo "${words.device}" >&2; exit 1`);
  for (const [method, path, body] of [
    ["POST", `/node/${node}/power_on`],
    ["POST", "/project/p/connect_node", { node }],
    ["POST", "/project/p/detach_node", { node }],
    ["POST", `/node/${node}/nic/nic/connect_network`, { network: "a" }],
  ] as [string, string, unknown?][]) {
    const answer = await as("alice", method, path, body);
    expect([401, 404, 409]).toContain(answer.status);
    expect({ path, leaks: await leaks(JSON.stringify(answer.body)) }).toEqual({ path, leaks: [] });
  }
});

test("who is no administrator any more gets the tenant's text, even for a call that began before", async () => {
  const { node } = await cabledNode("mock");
  mood("ipmitool", "sleep 0.5; exit 1");
  await createUser(service.ctx.db, administrator, "chief", "pw", true);
  await ok("POST", "/auth/basic/user/chief/add_project", { project: "p" });
  await as("chief", "GET", "/projects");
  const answer = as("chief", "POST", `/node/${node}/power_on`);
  await Bun.sleep(200);
  await ok("PATCH", "/auth/basic/user/chief", { is_admin: false });
  const { status, body } = await answer;
  expect(status).toBe(500);
  expect(await leaks(JSON.stringify(body), node)).toEqual([]);
});

test("the log keeps the administrator's text, with the request id that the tenant is told", async () => {
  const { node } = await cabledNode("mock");
  mood("ipmitool", `echo "${words.device}" >&2; exit 1`);
  const lines: unknown[] = [];
  const { warning } = service.ctx.log;
  Object.assign(service.ctx.log, { warning: (text: string, fields: unknown) => void lines.push({ text, fields }) });
  try {
    const answer = await as("alice", "POST", `/node/${node}/power_on`);
    const request = answer.headers.get("x-request-id");
    expect(lines).toEqual([
      { text: "hardware failed a request", fields: { request, type: "OBMError", error: expect.stringContaining(words.device) } },
    ]);
  } finally {
    Object.assign(service.ctx.log, { warning });
  }
});

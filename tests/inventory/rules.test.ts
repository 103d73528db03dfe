import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { databases, makeRack, mockObm, mockSwitch, type Service, startService } from "../support/service.ts";

// The rules of the contract beside networking, through the front door, on both databases.

describe.each(databases)("the inventory on %s", (kind) => {
  let service: Service;
  beforeEach(async () => {
    service = await startService(kind);
  });
  afterEach(() => service.stop());

  /** Send, and expect this status and error type. */
  const refused = async (method: string, path: string, body: unknown, status: number, type: string) => {
    const answer = await service.call(method, path, body);
    expect([method, path, answer.status, answer.body.type]).toEqual([method, path, status, type]);
    return answer.body.msg as string;
  };
  const ok = (method: string, path: string, body?: unknown) => service.ok(method, path, body);

  test("projects: unique, listed in order, deleted only when they hold nothing", async () => {
    for (const name of ["b", "a", "Ä", "B"]) await ok("PUT", `/project/${encodeURIComponent(name)}`);
    expect(await ok("GET", "/projects")).toEqual(["B", "a", "b", "Ä"]);
    await refused("PUT", "/project/a", undefined, 409, "DuplicateError");
    await refused("DELETE", "/project/nope", undefined, 404, "NotFoundError");
    await ok("PUT", "/node/n", { obm: mockObm });
    await ok("POST", "/project/a/connect_node", { node: "n" });
    expect(await refused("DELETE", "/project/a", undefined, 409, "BlockedError")).toContain("nodes");
    await ok("POST", "/project/a/detach_node", { node: "n" });
    await ok("PUT", "/network/net", { owner: "a", access: "a", net_id: "" });
    expect(await refused("DELETE", "/project/a", undefined, 409, "BlockedError")).toContain("networks");
    await ok("PUT", "/network/net/access/b");
    expect(await refused("DELETE", "/project/b", undefined, 409, "BlockedError")).toContain("access");
    await ok("DELETE", "/network/net");
    await ok("PUT", "/headnode/h", { project: "a", base_img: "img1" });
    expect(await refused("DELETE", "/project/a", undefined, 409, "BlockedError")).toContain("headnodes");
    await ok("DELETE", "/headnode/h");
    await ok("DELETE", "/project/a");
    expect(await ok("GET", "/projects")).toEqual(["B", "b", "Ä"]);
  });

  test("nodes: registration, details, and what keeps one from being deleted", async () => {
    await ok("PUT", "/node/n", { obm: mockObm, metadata: { EK: "pk", big: 1 } });
    expect(await ok("GET", "/node/n")).toEqual({
      name: "n",
      project: null,
      obm_enabled: true,
      nics: [],
      metadata: { EK: '"pk"', big: "1" },
    });
    await refused("PUT", "/node/n", { obm: mockObm }, 409, "DuplicateError");
    await refused("PUT", "/node/m", { obm: { ...mockObm, type: "nonsense" } }, 400, "BadArgumentError");
    await refused("PUT", "/node/m", { obm: { type: mockObm.type, host: "h", user: "u" } }, 400, "BadArgumentError");
    await refused("PUT", "/node/m", { obm: { ...mockObm, host: 5 } }, 400, "BadArgumentError");
    await refused("PUT", "/node/m", { obm: { ...mockObm, extra: "x" } }, 400, "BadArgumentError");
    await refused("PUT", "/node/m", { obm: mockObm, extra: 1 }, 400, "ValidationError");
    await refused("PUT", "/node/m", { obm: mockObm, node: "m" }, 400, "ValidationError");
    expect(await ok("GET", "/nodes/all")).toEqual(["n"]);
    await ok("PUT", "/node/n/nic/eth0", { macaddr: "any" });
    await refused("PUT", "/node/n/nic/eth0", { macaddr: "any" }, 409, "DuplicateError");
    await refused("DELETE", "/node/n", undefined, 409, "BlockedError");
    await ok("DELETE", "/node/n/nic/eth0");
    await refused("DELETE", "/node/n/nic/eth0", undefined, 404, "NotFoundError");
    for (const label of ["EK", "big"]) await ok("DELETE", `/node/n/metadata/${label}`);
    await ok("DELETE", "/node/n");
    await refused("GET", "/node/n", undefined, 404, "NotFoundError");
  });

  test("metadata comes back as the JSON text that it was", async () => {
    await ok("PUT", "/node/n", { obm: mockObm });
    for (const json of ['"pk"', "null", "[1,2.5]", "12345678901234567890123", "5.0", '{"b":1,"a":"é"}', '""']) {
      await ok("PUT", "/node/n/metadata/k", `{"value": ${json}}`);
      expect((await ok("GET", "/node/n")).metadata.k).toBe(json);
    }
    await refused("PUT", "/node/n/metadata/k", {}, 400, "ValidationError");
    await refused("DELETE", "/node/n/metadata/other", undefined, 404, "NotFoundError");
  });

  test("a node is in one project at most, and free again afterwards", async () => {
    await makeRack(service, { nodes: 2, projects: ["p", "q"] });
    expect(await ok("GET", "/nodes/free")).toEqual(["n1", "n2"]);
    await ok("POST", "/project/p/connect_node", { node: "n1" });
    await refused("POST", "/project/q/connect_node", { node: "n1" }, 409, "BlockedError");
    await refused("POST", "/project/q/detach_node", { node: "n1" }, 404, "NotFoundError");
    await refused("POST", "/project/nope/connect_node", { node: "n2" }, 404, "NotFoundError");
    expect(await ok("GET", "/nodes/free")).toEqual(["n2"]);
    expect(await ok("GET", "/project/p/nodes")).toEqual(["n1"]);
    await refused("DELETE", "/node/n1", undefined, 409, "BlockedError");
    await ok("POST", "/project/p/detach_node", { node: "n1" });
    expect(await ok("GET", "/nodes/free")).toEqual(["n1", "n2"]);
  });

  test("switches and ports", async () => {
    await makeRack(service, { nodes: 1, projects: [] });
    expect(await ok("GET", "/switch/sw")).toEqual({ name: "sw", ports: [{ label: "p1" }], capabilities: ["nativeless-trunk-mode"] });
    await refused("PUT", "/switch/sw", mockSwitch, 409, "DuplicateError");
    await refused("PUT", "/switch/x", { ...mockSwitch, type: "nonsense" }, 400, "BadArgumentError");
    await refused("PUT", "/switch/x", { ...mockSwitch, extra: 1 }, 400, "BadArgumentError");
    await refused("DELETE", "/switch/sw", undefined, 409, "BlockedError");
    // Slashes in port names, raw and encoded.
    await ok("PUT", "/switch/sw/port/gi1/0/1");
    await refused("PUT", "/switch/sw/port/gi1%2F0%2F1", undefined, 409, "DuplicateError");
    expect(await ok("GET", "/v0/switch/sw/port/gi1/0/1")).toEqual({});
    expect(await ok("GET", "/switch/sw/port/p1")).toEqual({ node: "n1", nic: "nic", networks: {} });
    await ok("PUT", "/node/n1/nic/other", { macaddr: "m" });
    await refused("POST", "/switch/sw/port/p1/connect_nic", { node: "n1", nic: "other" }, 409, "DuplicateError");
    await refused("POST", "/switch/sw/port/gi1/0/1/connect_nic", { node: "n1", nic: "nic" }, 409, "DuplicateError");
    await ok("POST", "/switch/sw/port/gi1/0/1/connect_nic", { node: "n1", nic: "other" });
    await refused("DELETE", "/switch/sw/port/gi1/0/1", undefined, 409, "BlockedError");
    await ok("POST", "/switch/sw/port/gi1%2F0%2F1/detach_nic");
    await refused("POST", "/switch/sw/port/gi1/0/1/detach_nic", undefined, 404, "NotFoundError");
    await refused("POST", "/switch/sw/port/gi1/0/1/revert", undefined, 404, "NotFoundError");
    await ok("DELETE", "/switch/sw/port/gi1/0/1");
    await ok("PUT", "/project/p");
    await ok("POST", "/project/p/connect_node", { node: "n1" });
    await refused("POST", "/switch/sw/port/p1/detach_nic", undefined, 409, "BlockedError");
  });

  test("each vendor's switch can be registered with its own fields and port names", async () => {
    const type = (name: string) => `http://schema.massopencloud.org/haas/v0/switches/${name}`;
    const login = (hostname: string) => ({ hostname, username: "u", password: "vendor-secret-19fe" });
    const vendors: [string, Record<string, unknown>, string, string][] = [
      ["powerconnect55xx", { ...login("h1:22"), transport: "telnet" }, "gi1/0/5", "gi1/0"],
      ["delln3000", { ...login("h2:22"), dummy_vlan: "2222" }, "te1/0/12", "Ethernet1/1"],
      ["nexus", { ...login("h3:22"), dummy_vlan: 2222 }, "Ethernet1/0/10", "gi1/0/5"],
      ["brocade", { ...login("h4:22"), interface_type: "TenGigabitEthernet" }, "101/0/10", "gi1/0/5"],
      ["dellnos9", { ...login("h5:22"), interface_type: "GigabitEthernet" }, "1/0/3", "x"],
      ["ovs", { ovs_bridge: "br0" }, "eth0.5", "a;b"],
    ];
    for (const [name, settings, port, wrong] of vendors) {
      const [field] = Object.keys(settings).slice(-1);
      const { [field!]: _, ...incomplete } = settings;
      if (name !== "powerconnect55xx")
        await refused("PUT", `/switch/${name}`, { type: type(name), ...incomplete }, 400, "BadArgumentError");
      await ok("PUT", `/switch/${name}`, { type: type(name), ...settings });
      await ok("PUT", `/switch/${name}/port/${port}`);
      expect(await refused("PUT", `/switch/${name}/port/${encodeURIComponent(wrong)}`, undefined, 400, "BadArgumentError")).toContain(
        "Legal forms",
      );
      expect(JSON.stringify(await ok("GET", `/switch/${name}`))).not.toContain("secret");
    }
  });

  test("a port that a device takes several spellings of is registered once", async () => {
    await makeRack(service, { nodes: 1, projects: [] });
    const driver = service.ctx.switches.byType(mockSwitch.type);
    Object.assign(driver, { canonicalPort: (label: string) => label.toLowerCase().replaceAll(" ", "") });
    try {
      await ok("PUT", "/switch/sw/port/Ethernet1/42");
      for (const spelling of ["ethernet1/42", "ethernet%201/42"]) {
        expect(await refused("PUT", `/switch/sw/port/${spelling}`, undefined, 409, "DuplicateError")).toContain("as 'Ethernet1/42'");
      }
      await refused("PUT", "/switch/sw/port/Ethernet1/42", undefined, 409, "DuplicateError");
      await refused("GET", "/switch/sw/port/ethernet1/42", undefined, 404, "NotFoundError");
      await ok("PUT", "/switch/other", mockSwitch);
      await ok("PUT", "/switch/other/port/ethernet1/42");
      // Not even when two requests check at the same time.
      const { switch_id } = await service.ctx.db.selectFrom("port").select("switch_id").where("label", "=", "p1").executeTakeFirstOrThrow();
      const another = service.ctx.db.insertInto("port").values({ switch_id, label: "ETHERNET1/42", canonical: "ethernet1/42" });
      await expect(another.execute()).rejects.toThrow(/unique/i);
      await ok("DELETE", "/switch/sw/port/Ethernet1/42");
      await ok("PUT", "/switch/sw/port/ethernet%201/42");
    } finally {
      Reflect.deleteProperty(driver, "canonicalPort");
    }
  });

  test("networks: who may have which, and one VLAN for one network", async () => {
    for (const project of ["p", "q"]) await ok("PUT", `/project/${project}`);
    const make = (name: string, owner: string, access: string, net_id: string) =>
      service.call("PUT", `/network/${name}`, { owner, access, net_id });
    expect((await make("a", "p", "p", "")).status).toBe(200);
    expect(await make("a", "nope", "nope", "x")).toMatchObject({ status: 409, body: { type: "DuplicateError" } });
    for (const [owner, access, net_id] of [
      ["p", "q", ""],
      ["p", "", ""],
      ["p", "p", "150"],
      ["admin", "", "0"],
      ["admin", "", "4095"],
      ["admin", "", "007"],
      ["admin", "", " 7"],
    ] as const) {
      expect([owner, access, net_id, (await make("x", owner, access, net_id)).body.type]).toEqual([
        owner,
        access,
        net_id,
        "BadArgumentError",
      ]);
    }
    expect((await make("x", "nope", "nope", "")).body.type).toBe("NotFoundError");
    expect((await make("x", "admin", "", "100")).body.type).toBe("DuplicateError");
    // An administrator may take an id out of the pool.
    await ok("PUT", "/network/taken", { owner: "admin", access: "", net_id: "101" });
    await ok("PUT", "/network/b", { owner: "p", access: "p", net_id: "" });
    expect(await ok("GET", "/networks")).toEqual({
      a: { network_id: "100", projects: ["p"] },
      taken: { network_id: "101", projects: null },
      b: { network_id: "102", projects: ["p"] },
    });
    await ok("DELETE", "/network/a");
    await ok("PUT", "/network/c", { owner: "q", access: "q", net_id: "" });
    expect((await ok("GET", "/network/c")).channels).toEqual(["vlan/native", "vlan/100"]);
  });

  test("public is no side effect of an empty access list", async () => {
    await ok("PUT", "/project/p");
    await ok("PUT", "/network/private", { owner: "admin", access: "p", net_id: "" });
    await ok("DELETE", "/network/private/access/p");
    expect((await ok("GET", "/network/private")).access).toEqual([]);
    await ok("PUT", "/network/public", { owner: "admin", access: "", net_id: "" });
    await refused("PUT", "/network/public/access/p", undefined, 409, "DuplicateError");
    expect((await ok("GET", "/network/public")).access).toBeNull();
  });

  test("an access can't be revoked from the owner, or while it is used", async () => {
    await makeRack(service, { nodes: 1, projects: ["p", "q"] });
    await ok("PUT", "/network/net", { owner: "p", access: "p", net_id: "" });
    await refused("DELETE", "/network/net/access/p", undefined, 409, "BlockedError");
    await refused("DELETE", "/network/net/access/q", undefined, 404, "NotFoundError");
    await ok("PUT", "/network/net/access/q");
    await refused("PUT", "/network/net/access/q", undefined, 409, "DuplicateError");
    await ok("POST", "/project/q/connect_node", { node: "n1" });
    await ok("POST", "/node/n1/nic/nic/connect_network", { network: "net" });
    await refused("DELETE", "/network/net/access/q", undefined, 409, "BlockedError");
    await refused("DELETE", "/network/net", undefined, 409, "BlockedError");
    await service.apply();
    await refused("DELETE", "/network/net/access/q", undefined, 409, "BlockedError");
    await refused("DELETE", "/network/net", undefined, 409, "BlockedError");
    await refused("DELETE", "/node/n1/nic/nic", undefined, 409, "BlockedError");
    expect(await ok("GET", "/network/net/attachments?project=q")).toEqual({ n1: { nic: "nic", channel: "vlan/native", project: "q" } });
    expect(await ok("GET", "/network/net/attachments?project=p")).toEqual({});
  });

  test("an empty pool is an AllocationError that changes nothing", async () => {
    for (let i = 0; i < 100; i++) await ok("PUT", `/network/n${i}`, { owner: "admin", access: "", net_id: "" });
    await refused("PUT", "/network/more", { owner: "admin", access: "", net_id: "" }, 400, "AllocationError");
    await refused("GET", "/network/more", undefined, 404, "NotFoundError");
  });

  test("headnodes freeze at their first start; their hnics go with them", async () => {
    await ok("PUT", "/project/p");
    await ok("PUT", "/network/net", { owner: "p", access: "p", net_id: "" });
    await ok("PUT", "/network/fixed", { owner: "admin", access: "", net_id: "2000" });
    await refused("PUT", "/headnode/h", { project: "p", base_img: "nope" }, 400, "BadArgumentError");
    await refused("PUT", "/headnode/h", { project: "nope", base_img: "img1" }, 404, "NotFoundError");
    await ok("PUT", "/headnode/h", { project: "p", base_img: "img1" });
    await ok("PUT", "/headnode/h/hnic/eth0");
    await refused("PUT", "/headnode/h/hnic/eth0", undefined, 409, "DuplicateError");
    await refused("POST", "/headnode/h/hnic/eth0/connect_network", { network: "fixed" }, 400, "BadArgumentError");
    await ok("POST", "/headnode/h/hnic/eth0/connect_network", { network: "net" });
    await refused("DELETE", "/network/net", undefined, 409, "BlockedError");
    await ok("POST", "/headnode/h/start");
    for (const [method, path, body] of [
      ["PUT", "/headnode/h/hnic/eth1", undefined],
      ["DELETE", "/headnode/h/hnic/eth0", undefined],
      ["POST", "/headnode/h/hnic/eth0/connect_network", { network: "net" }],
      ["POST", "/headnode/h/hnic/eth0/detach_network", undefined],
    ] as const) {
      await refused(method, path, body, 409, "IllegalStateError");
    }
    expect(await ok("GET", "/headnode/h")).toMatchObject({ name: "h", project: "p", hnics: ["eth0"], vncport: null, base_img: "img1" });
    await ok("POST", "/headnode/h/stop");
    await ok("DELETE", "/headnode/h");
    await ok("DELETE", "/network/net");
  });

  test("a disabled OBM refuses every call that would use it", async () => {
    await ok("PUT", "/node/n", { obm: mockObm });
    await ok("POST", "/node/n/power_on");
    expect(await ok("GET", "/node/n/power_status")).toEqual({ power_status: "on" });
    await ok("PUT", "/node/n/obm", { enabled: false });
    for (const [method, path, body] of [
      ["POST", "power_cycle", {}],
      ["POST", "power_on", undefined],
      ["POST", "power_off", undefined],
      ["GET", "power_status", undefined],
      ["PUT", "boot_device", { bootdev: "disk" }],
      ["PUT", "console", undefined],
      ["GET", "console", undefined],
      ["DELETE", "console", undefined],
    ] as const) {
      await refused(method, `/node/n/${path}`, body, 409, "BlockedError");
    }
    await ok("PUT", "/node/n/obm", { enabled: true });
    await ok("POST", "/node/n/power_cycle", { force: true });
  });

  test("names that JavaScript objects have by themselves are names like any other", async () => {
    await makeRack(service, { nodes: 0, projects: ["p"] });
    await ok("PUT", "/network/net", { owner: "admin", access: "", net_id: "" });
    for (const node of ["constructor", "__proto__", "toString"]) {
      await ok("PUT", `/node/${node}`, { obm: mockObm });
      await ok("PUT", `/node/${node}/nic/nic`, { macaddr: "m" });
      await ok("PUT", `/switch/sw/port/${node}`);
      await ok("POST", `/switch/sw/port/${node}/connect_nic`, { node, nic: "nic" });
      await ok("POST", "/project/p/connect_node", { node });
      await ok("POST", `/node/${node}/nic/nic/connect_network`, { network: "net" });
    }
    await service.apply();
    const { "connected-nodes": connected } = await ok("GET", "/network/net");
    expect(Object.keys(connected).sort()).toEqual(["__proto__", "constructor", "toString"]);
    expect(Object.keys(await ok("GET", "/network/net/attachments")).sort()).toEqual(["__proto__", "constructor", "toString"]);
  });

  test("a reference with a NUL in it is a 400, whatever the database", async () => {
    await makeRack(service, { nodes: 1, projects: ["p"] });
    await refused("POST", "/project/p/connect_node", { node: "n\0" }, 400, "ValidationError");
    await refused("PUT", "/network/x", { owner: "a\0", access: "", net_id: "" }, 400, "ValidationError");
    await ok("PUT", "/network/net", { owner: "p", access: "p", net_id: "" });
    await refused("GET", "/network/net/attachments?project=%00", undefined, 400, "ValidationError");
    await refused("PUT", "/node/m", { obm: mockObm, metadata: { "a/b": 1 } }, 400, "BadArgumentError");
  });

  test("a driver without consoles says so, in a 4xx", async () => {
    await ok("PUT", "/node/n", { obm: { ...mockObm, type: mockObm.type.replace("mock", "ipmi") } });
    expect(await refused("PUT", "/node/n/console", undefined, 409, "IllegalStateError")).toContain("ipmi");
  });
});

describe.each(databases)("the maintenance pool on %s", (kind) => {
  test("a node that is given back goes there, and the service is told", async () => {
    const told: unknown[] = [];
    const listener = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      async fetch(request) {
        told.push(await request.json());
        return new Response();
      },
    });
    const service = await startService(kind, { more: `[maintenance]\nmaintenance_project = repair\nurl = ${listener.url.href}` });
    try {
      await makeRack(service, { nodes: 1, projects: ["p"] });
      await service.ok("POST", "/project/p/connect_node", { node: "n1" });
      expect((await service.call("POST", "/project/p/detach_node", { node: "n1" })).body.type).toBe("IllegalStateError");
      await service.ok("PUT", "/project/repair");
      await service.ok("POST", "/project/p/detach_node", { node: "n1" });
      expect((await service.ok("GET", "/node/n1")).project).toBe("repair");
      while (told.length === 0) await Bun.sleep(10);
      expect(told).toEqual([{ node: "n1" }]);
      await service.ok("POST", "/project/repair/detach_node", { node: "n1" });
      expect(await service.ok("GET", "/nodes/free")).toEqual(["n1"]);
    } finally {
      await service.stop();
      await listener.stop(true);
    }
  });
});

describe.each(databases)("a dry run on %s", (kind) => {
  test("counts every change as done, and makes none", async () => {
    const service = await startService(kind, { more: "[devel]\ndry_run =" });
    try {
      await makeRack(service, { nodes: 1, projects: ["p"] });
      await service.ok("PUT", "/switch/far", { type: mockSwitch.type.replace("mock", "ovs"), ovs_bridge: "nowhere" });
      await service.ok("PUT", "/switch/far/port/x");
      await service.ok("PUT", "/node/n2", { obm: { ...mockObm, type: mockObm.type.replace("mock", "ipmi"), host: "127.0.0.1:9" } });
      await service.ok("PUT", "/node/n2/nic/nic", { macaddr: "m" });
      await service.ok("POST", "/switch/far/port/x/connect_nic", { node: "n2", nic: "nic" });
      await service.ok("POST", "/project/p/connect_node", { node: "n2" });
      await service.ok("PUT", "/network/net", { owner: "p", access: "p", net_id: "" });
      const { status_id } = await service.ok("POST", "/node/n2/nic/nic/connect_network", { network: "net" });
      await service.apply();
      expect(await service.ok("GET", `/networking_action/${status_id}`)).toMatchObject({ status: "DONE" });
      await service.ok("POST", "/node/n2/power_cycle");
      expect((await service.call("PUT", "/node/n2/boot_device", { bootdev: "floppy" })).body.type).toBe("BadArgumentError");
    } finally {
      await service.stop();
    }
  });
});

describe.each(databases)("the null allocator on %s", (kind) => {
  test("gives any number of networks without a VLAN, and ports carry nothing of them", async () => {
    const service = await startService(kind, { allocator: "null" });
    try {
      await makeRack(service, { nodes: 1, projects: ["p"] });
      for (const name of ["a", "b"]) await service.ok("PUT", `/network/${name}`, { owner: "p", access: "p", net_id: "" });
      expect((await service.ok("GET", "/network/a")).channels).toEqual(["null"]);
      const ids = Object.values<{ network_id: string }>(await service.ok("GET", "/networks")).map((network) => network.network_id);
      expect(new Set(ids).size).toBe(2);
      await service.ok("POST", "/project/p/connect_node", { node: "n1" });
      expect((await service.call("POST", "/node/n1/nic/nic/connect_network", { network: "a", channel: "vlan/native" })).status).toBe(400);
      const { status_id } = await service.ok("POST", "/node/n1/nic/nic/connect_network", { network: "a" });
      await service.apply();
      expect(await service.ok("GET", `/networking_action/${status_id}`)).toMatchObject({ status: "DONE", channel: "null" });
      expect(await service.ok("GET", "/switch/sw/port/p1")).toEqual({ node: "n1", nic: "nic", networks: { null: "a" } });
      expect((await service.ok("GET", "/switch/sw/ports/actual")).ports).toMatchObject([
        { port: "p1", actual: { native: null, tagged: [] } },
      ]);
    } finally {
      await service.stop();
    }
  });
});

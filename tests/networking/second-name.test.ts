import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { switchTypePrefix } from "../../src/hardware/switches/index.ts";
import { startConsole } from "../sim/console.ts";
import type { Emulator } from "../sim/emulator.ts";
import { consoleVendors, portNames, registration } from "../support/emulators.ts";
import { type Relay, startRelay } from "../support/relay.ts";
import { startOvs } from "../support/ovs-lab.ts";
import { databases, mockObm, scratch, type Service, startService } from "../support/service.ts";

// One switch under two names, which only the switch itself can tell: its addresses differ.

describe.each(databases)("a switch that is registered under a second name, on %s", (kind) => {
  let service: Service;
  const devices: Emulator[] = [];
  const relays: Relay[] = [];
  const ok = (method: string, path: string, body?: unknown) => service.ok(method, path, body);

  beforeEach(async () => {
    service = await startService(kind);
  });
  afterEach(async () => {
    await service.stop();
    for (const device of devices.splice(0)) await device.stop();
    for (const relay of relays.splice(0)) relay.stop();
  });

  /** The same place by another address. */
  const alias = async (place: { hostname: string } | { unix: string }): Promise<string> => {
    const relay = await startRelay(place);
    relays.push(relay);
    return relay.address;
  };
  const suspicions = async (name: string) => (await ok("GET", `/switch/${name}/reconcile`)).suspect.map(({ reason }: any) => reason);

  /** With a node on its port. */
  async function register(name: string, body: Record<string, unknown>, port: string): Promise<void> {
    await ok("PUT", `/switch/${name}`, body);
    await ok("PUT", `/switch/${name}/port/${encodeURIComponent(port)}`);
    await ok("PUT", `/node/${name}-n`, { obm: mockObm });
    await ok("PUT", `/node/${name}-n/nic/nic`, { macaddr: "m" });
    await ok("POST", `/switch/${name}/port/${encodeURIComponent(port)}/connect_nic`, { node: `${name}-n`, nic: "nic" });
    await service.apply();
  }

  test.each(["ssh", "telnet"] as const)("is refused when it is first reached by %s, and its ports are suspect", async (transport) => {
    for (const vendor of consoleVendors) {
      const device = await startConsole(vendor, { transport, ports: [1, 2].map(portNames[vendor]) });
      devices.push(device);
      const body = registration(vendor, device);
      await register(`${vendor}-a`, body, portNames[vendor](1));
      const seen = device.received.length;
      // The other port, too: it is the switch that has two owners.
      await register(`${vendor}-b`, { ...body, hostname: await alias(device) }, portNames[vendor](2));
      expect(await suspicions(`${vendor}-a`)).toEqual([]);
      const [reason] = await suspicions(`${vendor}-b`);
      expect(reason).toContain(`of switch '${vendor}-a': it is the same one, registered twice`);
      expect(reason).toContain(transport === "ssh" ? "SSH host key" : "serial number");
      expect(device.received.slice(seen).filter((line) => line.includes("switchport mode"))).toEqual([]);
      expect(await ok("GET", "/nodes/free")).not.toContain(`${vendor}-b-n`);
      // When the first one goes, the second one is the switch's name.
      await ok("POST", `/switch/${vendor}-a/port/${encodeURIComponent(portNames[vendor](1))}/detach_nic`);
      await ok("DELETE", `/switch/${vendor}-a/port/${encodeURIComponent(portNames[vendor](1))}`);
      await ok("DELETE", `/switch/${vendor}-a`);
      await service.ctx.db.updateTable("networking_action").set({ next_try: 0 }).execute();
      await service.apply();
      expect(await suspicions(`${vendor}-b`)).toEqual([]);
      expect(await ok("GET", "/nodes/free")).toContain(`${vendor}-b-n`);
    }
  });

  test("whose ports were clean already: they are suspect from then on", async () => {
    const [first, second] = [await startConsole("nexus"), await startConsole("nexus")];
    devices.push(first, second);
    await register("a", registration("nexus", first), "Ethernet1/1");
    await register("b", registration("nexus", second), "Ethernet1/1");
    expect(await ok("GET", "/nodes/free")).toEqual(["a-n", "b-n"]);
    // The cable, or the address, was moved: behind the second name there is the first switch now, with a new key.
    await service.ctx.db
      .updateTable("switch")
      .set({ settings: JSON.stringify({ ...first.settings, hostname: await alias(first) }), host_key: null })
      .where("label", "=", "b")
      .execute();
    await ok("POST", "/switch/b/reconcile");
    await service.apply();
    expect((await suspicions("b"))[0]).toContain("registered twice");
    expect(await ok("GET", "/nodes/free")).toEqual(["a-n"]);
  });

  test("of which one is told by its key and the other one by its serial number", async () => {
    const serial = "FDO21120ABC";
    const [ssh, telnet] = [await startConsole("nexus", { serial }), await startConsole("nexus", { serial, transport: "telnet" })];
    devices.push(ssh, telnet);
    await register("a", registration("nexus", ssh), "Ethernet1/1");
    await register("b", registration("nexus", telnet), "Ethernet1/2");
    expect((await suspicions("b"))[0]).toContain("has the serial number of switch 'a'");
  });

  test("an Open vSwitch bridge by another socket of its database", async () => {
    const { path, remove } = scratch();
    const lab = await startOvs({ dir: join(path, "ovs"), name: `twice-${kind}`, bridge: "br0", ports: ["p1", "p2"] });
    try {
      const socket = lab.db.replace("unix:", "");
      const ovs = (database: string) => ({ type: `${switchTypePrefix}ovs`, ovs_bridge: "br0", database });
      await register("a", ovs(socket), "p1");
      await register("b", ovs(`tcp:${await alias({ unix: socket })}`), "p2");
      expect((await suspicions("b"))[0]).toContain("has the serial number of switch 'a'");
      expect(await ok("GET", "/nodes/free")).toEqual(["a-n"]);
    } finally {
      await lab.stop();
      remove();
    }
  });
});

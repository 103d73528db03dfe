import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { write } from "../../src/db/transaction.ts";
import { emptyPort, type PortState } from "../../src/hardware/switches/driver.ts";
import { adopt } from "../../src/networking/lineage.ts";
import type { Emulator } from "../sim/emulator.ts";
import { onEveryLine, portNames, registration, startEmulator, type Vendor } from "../support/emulators.ts";
import { freePort } from "../support/postgres.ts";
import { databases, mockObm, type Service, startService } from "../support/service.ts";

// After a database was replaced: every port loses what it should not carry before any of them gains something.

describe.each(databases)("ports that were not read back since the database was replaced, on %s", (kind) => {
  let service: Service;
  const devices = new Map<string, { vendor: Vendor; device: Emulator; ports: number }>();
  const ok = (method: string, path: string, body?: unknown) => service.ok(method, path, body);
  const portPath = (sw: string, n: number) => `/switch/${sw}/port/${encodeURIComponent(portNames[devices.get(sw)!.vendor](n))}`;

  async function addSwitch(sw: string, vendor: Vendor, ports: number): Promise<void> {
    const names = Array.from({ length: ports }, (_, i) => portNames[vendor](i + 1));
    const device = await startEmulator(vendor, { ports: names, transport: "telnet" });
    devices.set(sw, { vendor, device, ports });
    await ok("PUT", `/switch/${sw}`, registration(vendor, device));
    for (let n = 1; n <= ports; n++) {
      await ok("PUT", portPath(sw, n));
      await ok("PUT", `/node/${sw}-${n}`, { obm: mockObm });
      await ok("PUT", `/node/${sw}-${n}/nic/nic`, { macaddr: "m" });
      await ok("POST", `${portPath(sw, n)}/connect_nic`, { node: `${sw}-${n}`, nic: "nic" });
    }
    await service.apply();
    for (let n = 1; n <= ports; n++) await ok("POST", "/project/p/connect_node", { node: `${sw}-${n}` });
  }
  const carries = (sw: string, n: number): PortState => devices.get(sw)!.device.port(portNames[devices.get(sw)!.vendor](n))!;
  const set = (sw: string, n: number, state: PortState) => devices.get(sw)!.device.setPort(portNames[devices.get(sw)!.vendor](n), state);
  const connect = async (node: string, network: string, channel = "vlan/native"): Promise<string> =>
    (await ok("POST", `/node/${node}/nic/nic/connect_network`, { network, channel })).status_id;
  /** Apply what is pending, also what waits for its next try. */
  const applyAll = async () => {
    await service.ctx.db.updateTable("networking_action").set({ next_try: 0 }).execute();
    await service.apply();
  };

  beforeEach(async () => {
    service = await startService(kind, { more: "[network-daemon]\nmax_tries = 100" });
    await ok("PUT", "/project/p");
    for (const [name, id] of Object.entries({ red: "300", blue: "301", green: "302" }))
      await ok("PUT", `/network/${name}`, { owner: "admin", access: "", net_id: id });
  });
  afterEach(async () => {
    await service.stop();
    for (const { device } of devices.values()) await device.stop();
    devices.clear();
  });

  test("lose first, on every switch, and gain then; what they carry rightly stays", async () => {
    await addSwitch("n", "nexus", 3);
    await addSwitch("d", "dellnos9", 2);
    await connect("n-1", "red");
    await connect("n-2", "blue");
    await connect("d-1", "green");
    await service.apply();
    await connect("n-2", "green", "vlan/302");
    await connect("d-1", "red", "vlan/300");
    await service.apply();
    // What another history has left.
    set("n", 1, emptyPort);
    set("n", 2, { native: 300, tagged: [302] });
    set("n", 3, { native: null, tagged: [300, 302] });
    set("d", 1, { native: 301, tagged: [300] });
    set("d", 2, { native: 300, tagged: [] });
    const places = [...devices].flatMap(([sw, { ports }]) => Array.from({ length: ports }, (_, i) => [sw, i + 1] as const));
    const vlansOf = ({ native, tagged }: PortState) => [...(native === null ? [] : [native]), ...tagged];
    // The dummy VLAN stands for no native one, and exists nowhere.
    const all = () => places.map(([sw, n]) => vlansOf(carries(sw, n)).filter((vlan) => vlan !== 2222));
    const before = all();
    const rightful = [[300], [301, 302], [301], [302, 300], []];
    const isRid = (now: number[][]) => now.every((vlans, i) => vlans.every((vlan) => rightful[i]!.includes(vlan)));
    const gains: string[] = [];
    let looks = 0;
    for (const { device } of devices.values()) {
      onEveryLine(device, (line) => {
        const now = all();
        looks++;
        const gained = now.some((vlans, i) => vlans.some((vlan) => !before[i]!.includes(vlan)));
        if (gained && !isRid(now)) gains.push(`${line}: ${JSON.stringify(now)}`);
      });
    }
    await write(service.ctx.db, (tx) => adopt(tx, false));
    const waits = await connect("n-3", "blue");
    expect((await ok("GET", `/networking_action/${waits}`)).reason).toStartWith(
      "Nothing new is offered until every switch port has been read back",
    );
    expect((await service.call("PUT", "/network/new", { owner: "p", access: "p", net_id: "" })).status).toBe(409);
    for (let i = 0; i < 4; i++) await applyAll();
    expect(gains).toEqual([]);
    expect(looks).toBeGreaterThan(20);
    expect(places.map(([sw, n]) => carries(sw, n))).toEqual([
      { native: 300, tagged: [] },
      { native: 301, tagged: [302] },
      { native: 301, tagged: [] },
      { native: 302, tagged: [300] },
      emptyPort,
    ]);
    for (const sw of devices.keys()) expect(await ok("GET", `/switch/${sw}/reconcile`)).toEqual({ pending: [], suspect: [] });
    await ok("PUT", "/network/new", { owner: "p", access: "p", net_id: "" });
  });

  test("stay so when they were being changed at that moment: what was read back before does not count", async () => {
    await addSwitch("n", "nexus", 1);
    const { db } = service.ctx;
    const { device } = devices.get("n")!;
    let adopted: Promise<unknown> | null = null;
    const after: { suspect: string | null; unread: number }[] = [];
    const look = async () => void after.push(await db.selectFrom("port").select(["suspect", "unread"]).executeTakeFirstOrThrow());
    device.behaviour.onLine = (line) => {
      // The port has been read back, and its change is not settled yet.
      if (adopted === null) return line.startsWith("copy") ? { answer: (adopted = write(db, (tx) => adopt(tx, false))) } : null;
      return { answer: look() };
    };
    const id = await connect("n-1", "red");
    await service.apply();
    expect((await ok("GET", `/networking_action/${id}`)).status).toBe("DONE");
    expect(after[0]).toEqual({ suspect: expect.stringContaining("has not read it back"), unread: 1 });
    expect(await ok("GET", "/switch/n/reconcile")).toEqual({ pending: [], suspect: [] });
    expect(carries("n", 1)).toEqual({ native: 300, tagged: [] });
  });

  test("of a switch that is gone keep everybody waiting, until an administrator vouches for them", async () => {
    await addSwitch("n", "nexus", 1);
    await addSwitch("gone", "powerconnect55xx", 1);
    await devices.get("gone")!.device.stop();
    await service.ctx.db
      .updateTable("switch")
      .set({ settings: JSON.stringify({ ...devices.get("gone")!.device.settings, hostname: `127.0.0.1:${await freePort()}` }) })
      .where("label", "=", "gone")
      .execute();
    await write(service.ctx.db, (tx) => adopt(tx, false));
    const id = await connect("n-1", "red");
    for (let i = 0; i < 2; i++) await applyAll();
    const waiting = await ok("GET", `/networking_action/${id}`);
    expect(waiting).toMatchObject({ status: "PENDING", reason: expect.stringContaining("port 'gi1/0/1' of switch 'gone'") });
    expect(carries("n", 1)).toEqual(emptyPort);
    // Neither may it be forgotten meanwhile.
    await ok("POST", "/project/p/detach_node", { node: "gone-1" });
    expect((await service.call("POST", `${portPath("gone", 1)}/detach_nic`)).status).toBe(409);
    await ok("POST", `${portPath("gone", 1)}/trust`);
    for (let i = 0; i < 2; i++) await applyAll();
    expect((await ok("GET", `/networking_action/${id}`)).status).toBe("DONE");
    expect(carries("n", 1)).toEqual({ native: 300, tagged: [] });
  });
});

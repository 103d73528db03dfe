import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { switchTypePrefix } from "../../src/hardware/switches/index.ts";
import { noteAddresses } from "../../src/inventory/addresses.ts";
import { startServer } from "../support/server.ts";
import { databases, freshUri, mockObm, mockSwitch, scratch, type Service, startService } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// One switch has one name, and one BMC one node, however their address is spelled.

const login = { username: "u", password: "owner-secret-70aa" };
const fieldsOf = {
  powerconnect55xx: {},
  delln3000: { dummy_vlan: "2222" },
  nexus: { dummy_vlan: "2222" },
  brocade: { interface_type: "TenGigabitEthernet" },
  dellnos9: { interface_type: "GigabitEthernet" },
} as const;
type Vendor = keyof typeof fieldsOf;
const vendors = Object.keys(fieldsOf) as Vendor[];
const isRest = (vendor: Vendor) => vendor === "brocade" || vendor === "dellnos9";
const vendorSwitch = (vendor: Vendor, hostname: string, more: Record<string, unknown> = {}) => ({
  type: switchTypePrefix + vendor,
  hostname,
  ...login,
  ...fieldsOf[vendor],
  ...more,
});
const ovs = (settings: Record<string, unknown>) => ({ type: `${switchTypePrefix}ovs`, ...settings });
const ipmi = (host: string, system?: string) => ({
  obm: {
    type: "http://schema.massopencloud.org/haas/v0/obm/ipmi",
    host,
    user: "u",
    password: "owner-secret-70ab",
    ...(system !== undefined && { system }),
  },
});

/** Each line: spellings of one host, of which the first is registered. */
const hosts = [
  ["sw-01.example", "SW-01.Example", "sw-01.example.", "Sw-01.EXAMPLE."],
  ["10.0.0.1", "10.1", "0xa.0.0.1", "0X0A000001", "167772161", "012.0.0.1", "10.0.0.1."],
  ["2001:db8::1", "[2001:DB8:0:0::1]", "[2001:0db8:0:0:0:0:0:1]", "2001:db8::0:1"],
  ["192.0.2.7", "[::ffff:192.0.2.7]", "::FFFF:c000:207"],
  ["fe80::1", "[fe80::1]", "fe80:0::1"],
  ["127.0.0.1", "localhost", "LocalHost.", "127.1", "[::1]", "0.0.0.0"],
] as const;

describe.each(databases)("one owner for one thing, on %s", (kind) => {
  let service: Service;
  beforeEach(async () => {
    service = await startService(kind);
  });
  afterEach(() => service.stop());

  const register = (what: "switch" | "node", name: string, body: unknown) => service.call("PUT", `/${what}/${name}`, body);
  /** It is refused as a second registration of `first`, and nothing is left of it. */
  const refused = async (what: "switch" | "node", name: string, body: unknown, first: string) => {
    const answer = await register(what, name, body);
    expect([body, answer.status, answer.body.type]).toEqual([body, 409, "DuplicateError"]);
    expect(answer.body.msg).toContain(
      what === "switch" ? `'${name}' has the same address as '${first}'` : `'${name}' has the same BMC as '${first}'`,
    );
    expect(answer.body.msg).not.toContain("secret");
    expect((await service.call("GET", `/${what}/${name}`)).status).toBe(404);
  };

  test.each(hosts.map((spellings) => [spellings[0], spellings] as const))(
    "a switch at %s, in each spelling and as each type",
    async (_, spellings) => {
      const [first] = spellings;
      await service.ok("PUT", "/switch/first", vendorSwitch("nexus", first));
      for (const vendor of vendors) {
        for (const spelling of spellings) {
          const bare = spelling.includes(":") && !spelling.startsWith("[") ? `[${spelling}]` : spelling;
          // A REST setting takes brackets only, and no zone.
          if (!isRest(vendor)) await refused("switch", "second", vendorSwitch(vendor, spelling), "first");
          const ports = isRest(vendor) ? [":80", ":443", ":8008", ":08888", ":22"] : [":22", ":23", ":0022", ":443"];
          for (const port of ports) await refused("switch", "second", vendorSwitch(vendor, bare + port), "first");
          if (!isRest(vendor)) continue;
          for (const form of [`http://${bare}`, `https://${bare}/`, `https://${bare}:443/`]) {
            await refused("switch", "second", vendorSwitch(vendor, form), "first");
          }
        }
        if (!isRest(vendor)) await refused("switch", "second", vendorSwitch(vendor, first, { transport: "telnet" }), "first");
      }
      // The label comes first, and a switch that is gone is no owner any more.
      expect((await register("switch", "first", vendorSwitch("nexus", first))).body.msg).toBe("Switch 'first' exists already.");
      await service.ok("DELETE", "/switch/first");
      await service.ok("PUT", "/switch/second", vendorSwitch("delln3000", spellings.at(-1)!));
    },
  );

  test("a link-local address is one, whichever interface leads there", async () => {
    await service.ok("PUT", "/switch/first", vendorSwitch("nexus", "fe80::1%eth0"));
    for (const spelling of ["fe80::1", "[fe80::1%eth1]:22", "[fe80::1%eth0]:23"]) {
      await refused("switch", "second", vendorSwitch("delln3000", spelling), "first");
    }
  });

  test("brackets, which a console takes around any host, make no other one", async () => {
    await service.ok("PUT", "/switch/first", vendorSwitch("nexus", "sw01"));
    await service.ok("PUT", "/switch/second", vendorSwitch("nexus", "10.0.0.1"));
    for (const form of ["[sw01]", "[SW01]:22"]) await refused("switch", "third", vendorSwitch("delln3000", form), "first");
    for (const form of ["[10.0.0.1]:23", "[0x0a.1]"]) await refused("switch", "third", vendorSwitch("delln3000", form), "second");
  });

  test("other ports, other hosts and mocks are others", async () => {
    const others = [
      "console.example:2222",
      "console.example:2223",
      "console.example",
      "sw",
      "sw1",
      "10.0.0.1",
      "10.0.0.2",
      "[2001:db8::1]:2222",
    ];
    for (const [i, host] of others.entries()) await service.ok("PUT", `/switch/s${i}`, vendorSwitch("nexus", host));
    for (const name of ["m1", "m2"]) await service.ok("PUT", `/switch/${name}`, { ...mockSwitch, hostname: "10.0.0.1" });
    for (const name of ["n1", "n2"]) await service.ok("PUT", `/node/${name}`, { obm: { ...mockObm, host: "10.0.0.9" } });
    for (const [i, host] of ["10.0.0.9", "10.0.0.9:6230", "10.0.0.9:6231", "bmc"].entries())
      await service.ok("PUT", `/node/i${i}`, ipmi(host));
  });

  test("a bridge of Open vSwitch, by each name of its database", async () => {
    const folder = join(service.directory, "real");
    mkdirSync(folder);
    writeFileSync(join(folder, "db.sock"), "");
    symlinkSync(folder, join(service.directory, "link"));
    symlinkSync(join(folder, "db.sock"), join(service.directory, "alias.sock"));
    mkdirSync(join(service.directory, "deep/er"), { recursive: true });
    symlinkSync(join(service.directory, "deep/er"), join(service.directory, "into"));
    symlinkSync(join(folder, "db.sock"), join(service.directory, "deep/db.sock"));
    const tables: [name: string, (string | undefined)[]][] = [
      ["default", [undefined, "/var/run/openvswitch/db.sock", "unix:/run/openvswitch/db.sock", "/run//openvswitch/./x/../db.sock"]],
      [
        "socket",
        [
          join(folder, "db.sock"),
          `unix:${join(folder, "db.sock")}`,
          join(service.directory, "link/db.sock"),
          `unix:${service.directory}//alias.sock`,
          `${folder}/../link/./db.sock`,
          // A link is followed before the `..` after it.
          join(service.directory, "into") + "/../db.sock",
        ],
      ],
      ["missing", [join(folder, "not/yet.sock"), `unix:${join(service.directory, "link/not/yet.sock")}`]],
      ["tcp", ["tcp:OVS-1.example:6640", "tcp:ovs-1.example", "ssl:ovs-1.example.:06640"]],
      ["v6", ["tcp:[2001:db8::5]:6641", "ssl:[2001:DB8:0::5]:6641"]],
    ];
    for (const [name, [first, ...others]] of tables) {
      const body = (database: string | undefined) => ovs({ ovs_bridge: "br0", ...(database !== undefined && { database }) });
      await service.ok("PUT", `/switch/${name}`, body(first));
      for (const database of [first, ...others]) await refused("switch", "second", body(database), name);
      await service.ok("PUT", `/switch/${name}-1`, ovs({ ovs_bridge: "br1", ...(first !== undefined && { database: first }) }));
      await refused("switch", "second", ovs({ ovs_bridge: "br1", ...(others[0] !== undefined && { database: others[0] }) }), `${name}-1`);
    }
  });

  test.each(hosts.map((spellings) => [spellings[0], spellings] as const))("a BMC at %s, in each spelling", async (_, spellings) => {
    await service.ok("PUT", "/node/first", ipmi(spellings[0]));
    for (const spelling of spellings) {
      const bare = spelling.includes(":") && !spelling.startsWith("[") ? `[${spelling}]` : spelling;
      for (const form of [spelling, `${bare}:623`, `${bare}:0623`]) await refused("node", "second", ipmi(form), "first");
    }
    expect((await register("node", "first", ipmi(spellings[0]))).body.msg).toBe("Node 'first' exists already.");
    await service.ok("DELETE", "/node/first");
    await service.ok("PUT", "/node/second", ipmi(spellings.at(-1)!));
  });

  test("systems of a chassis share its BMC, each once", async () => {
    await service.ok("PUT", "/node/chassis", ipmi("cmm.example"));
    await service.ok("PUT", "/node/blade1", ipmi("cmm.example", "0x82"));
    await service.ok("PUT", "/node/blade2", ipmi("cmm.example", "0x84"));
    await service.ok("PUT", "/node/blade3", ipmi("cmm.example", "0x82@7"));
    for (const system of ["0x82", "0X82", "130", "0x82@0", "130@0x0"])
      await refused("node", "second", ipmi("CMM.example.:623", system), "blade1");
    await refused("node", "second", ipmi("cmm.example", "130@7"), "blade3");
    await refused("node", "second", ipmi("cmm.example"), "chassis");
    // The BMC's own address would be the chassis by a second name.
    for (const system of ["0x20", "32", "0x00", "0", "0x83", "256", "0x182", "-t", "", "0x82@12", "0x82@", "0x82 ", "82;reboot"]) {
      const answer = await register("node", "second", ipmi("cmm.example", system));
      expect([system, answer.status, answer.body.type]).toEqual([system, 400, "BadArgumentError"]);
    }
    const mock = await register("node", "second", { obm: { ...mockObm, system: "0x82" } });
    expect([mock.status, mock.body.type]).toEqual([400, "BadArgumentError"]);
  });

  test("what an earlier haas registered twice: the first has the address, the start tells, and there is no third", async () => {
    const { db } = service.ctx;
    const { type, ...settings } = vendorSwitch("nexus", "old.example:22");
    for (const [label, hostname] of [
      ["a", "OLD.example"],
      ["b", "old.example:22"],
      ["c", "other.example"],
    ]) {
      await db
        .insertInto("switch")
        .values({ label: label!, type, settings: JSON.stringify({ ...settings, hostname }) })
        .execute();
    }
    const { type: obm_type, ...obm } = ipmi("old-bmc.example").obm;
    for (const label of ["n1", "n2"])
      await db
        .insertInto("node")
        .values({ label, obm_type, obm: JSON.stringify(obm), project_id: null })
        .execute();
    // Before the start has noted where they are, too.
    await refused("switch", "d", vendorSwitch("delln3000", "old.example"), "a");
    await refused("node", "n3", ipmi("old-bmc.example"), "n1");
    const twice = [
      { kind: "switch", label: "b", first: "a" },
      { kind: "node", label: "n2", first: "n1" },
    ] as const;
    for (let start = 0; start < 2; start++) expect(await noteAddresses(service.ctx)).toEqual([...twice]);
    const rows = await db.selectFrom("switch").select(["label", "address"]).orderBy("label").execute();
    expect(rows).toEqual([
      { label: "a", address: "old.example" },
      { label: "b", address: null },
      { label: "c", address: "other.example" },
    ]);
    // The first goes: its second is one that has the address, or will have.
    await service.ok("DELETE", "/switch/a");
    await refused("switch", "d", vendorSwitch("delln3000", "old.example"), "b");
    expect(await noteAddresses(service.ctx)).toEqual([twice[1]]);
    await refused("switch", "d", vendorSwitch("delln3000", "old.example"), "b");
  });
});

test.each(databases)("a server's start says which devices are registered twice, on %s", async (kind) => {
  const place = scratch();
  const uri = await freshUri(kind, place.path);
  const before = await startService(kind, { uri });
  const { type, ...settings } = vendorSwitch("nexus", "old.example");
  for (const label of ["a", "b"])
    await before.ctx.db
      .insertInto("switch")
      .values({ label, type, settings: JSON.stringify(settings) })
      .execute();
  await before.stop();
  const server = await startServer({ kind, uri });
  await untilWithin(10_000, server.log)("a line about it", () => /a switch is registered twice.*"switch":"b","as":"a"/.test(server.log()));
  expect(server.log()).not.toContain("secret");
  await server.stop();
  place.remove();
});

test("100 registrations of one switch by two servers, under as many names: one wins", async () => {
  const place = scratch();
  const uri = await freshUri("postgres", place.path);
  const servers = await Promise.all([
    startServer({ kind: "postgres", uri, networks: false }),
    startServer({ kind: "postgres", uri, networks: false }),
  ]);
  const answers = await Promise.all(
    Array.from({ length: 100 }, async (_, i) => {
      const body = JSON.stringify(vendorSwitch("nexus", i % 3 === 0 ? "RACED.example" : "raced.example:23"));
      return (await fetch(`${servers[i % 2]!.url}/switch/s${i}`, { method: "PUT", body })).status;
    }),
  );
  expect(answers.toSorted((a, b) => a - b)).toEqual([200, ...Array.from({ length: 99 }, () => 409)]);
  await Promise.all(servers.map((server) => server.stop()));
  place.remove();
});

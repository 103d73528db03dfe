import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { emptyPort, type PortState, samePort, type SwitchSession } from "../../src/hardware/switches/driver.ts";
import { ovs } from "../../src/hardware/switches/ovs.ts";
import { type Frame, type OvsLab, startOvs } from "../support/ovs-lab.ts";
import { switchTarget } from "../support/target.ts";

const bridge = "sw0";
const ports = ["p1", "p2", "p3", "p4"];
/** Like an uplink: never touched by the driver's caller, so it carries whatever its columns say. */
const uplink = "uplink";
const startTimeoutMs = 60_000;

let dir: string;
let lab: OvsLab;
let session: SwitchSession;
const target = () => switchTarget("rack-1", { ovs_bridge: bridge, database: lab.db });

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "haas-ovs-"));
  lab = await startOvs({ dir, name: `hovs${process.pid}`, bridge, ports: [...ports, uplink] });
  session = await ovs.open(target());
}, startTimeoutMs);

afterAll(async () => {
  await lab?.stop();
  await rm(dir, { recursive: true, force: true });
}, startTimeoutMs);

/** Every port as a new Open vSwitch port is: a trunk for every VLAN. */
beforeEach(async () => {
  const open = [...ports, uplink, bridge].flatMap((p) => [
    "--",
    "set",
    "port",
    p,
    "vlan_mode=[]",
    "tag=[]",
    "trunks=[]",
    "cvlans=[]",
    "protected=false",
  ]);
  await lab.vsctl(...open.slice(1));
});

const state = (native: number | null, ...tagged: number[]): PortState => ({ native, tagged });
const apply = async (states: Record<string, PortState>) => {
  for (const [port, desired] of Object.entries(states)) await session.applyPort(port, desired);
  // A change counts from its read-back on.
  await session.readPorts(Object.keys(states));
};
const read = async (port: string) => (await session.readPorts([port])).get(port)!;
const failure = (work: Promise<unknown>) =>
  work.then(
    () => Promise.reject(new Error("it succeeded")),
    (error: { type: string; message: string }) => error,
  );

/** What a hostile node would try: no tag, the priority tag, the edges, the networks of its neighbours, two tags. */
const probes: Frame[] = [
  { label: "plain", vlans: [] },
  ...[0, 1, 100, 200, 300, 4000, 4094, 4095].map((vlan) => ({ label: `v${vlan}`, vlans: [vlan] })),
  ...[
    [4095, 4095],
    [0, 100],
    [0, 4095],
    [100, 100],
    [100, 200],
    [4095, 100],
  ].map((vlans) => ({ label: `v${vlans.join(".")}`, vlans })),
];

describe("frames", () => {
  test("a new port carries every VLAN, which is what the driver has to end", async () => {
    const seen = await lab.send("p1", probes, ["p2", uplink, bridge]);
    expect(seen["p2"]!.length).toBe(probes.length);
    expect(seen[uplink]!.length).toBe(probes.length);
    expect(seen[bridge]!.length).toBe(probes.length);
  });

  test("a port that holds nothing passes no frame, whatever its tag, and gets none", async () => {
    await apply({ p1: emptyPort, p2: emptyPort, p3: state(100, 200), p4: state(null, 100, 200, 300) });
    const everyone = [...ports, uplink, bridge];
    for (const from of ["p1", "p2"]) {
      const seen = await lab.send(
        from,
        probes,
        everyone.filter((port) => port !== from),
      );
      for (const [port, frames] of Object.entries(seen)) expect([from, port, frames]).toEqual([from, port, []]);
    }
    for (const from of ["p3", "p4", uplink, bridge]) {
      const others = everyone.filter((port) => port !== from);
      const seen = await lab.send(from, probes, others);
      expect([from, seen["p1"], seen["p2"]]).toEqual([from, [], []]);
      // The same frames do arrive where they may: silence alone proves nothing.
      expect(others.flatMap((port) => seen[port]!).length).toBeGreaterThan(0);
    }
  }, 60_000);

  test("all 4096 tags from and to a port that holds nothing", async () => {
    const all = Array.from({ length: 4096 }, (_, vlan) => ({ label: `v${vlan}`, vlans: [vlan] }));
    await apply({ p1: emptyPort, p2: emptyPort });
    const outward = await lab.send("p1", all, ["p2", "p3", uplink, bridge]);
    expect(outward).toEqual({ p2: [], p3: [], [uplink]: [], [bridge]: [] });
    const inward = await lab.send(uplink, all, ["p1", "p2", "p3"]);
    expect([inward["p1"], inward["p2"]]).toEqual([[], []]);
    expect(inward["p3"]!.length).toBeGreaterThan(4000);
  }, 60_000);

  test("native only: frames without a tag pass, and every frame with one is dropped, its own VLAN's too", async () => {
    await apply({ p1: state(100), p2: state(100), p3: state(200), p4: state(null, 100) });
    const seen = await lab.send("p1", probes, ["p2", "p3", "p4", uplink]);
    // VLAN 0 is a priority, not a VLAN; what is inside it is the two members' own business.
    expect(seen["p2"]!.toSorted()).toEqual(["plain:untagged", "v0.100:100", "v0.4095:4095", "v0:untagged"]);
    expect(seen["p4"]!.toSorted()).toEqual(["plain:100", "v0.100:100.100", "v0.4095:100.4095", "v0:100"]);
    expect(seen["p3"]).toEqual([]);
  });

  test("native and tagged: only the listed tags pass", async () => {
    await apply({ p1: state(100, 200), p2: state(100), p3: state(200), p4: state(null, 100, 200, 300) });
    const seen = await lab.send(
      "p1",
      probes.filter(({ vlans }) => vlans.length < 2),
      ["p2", "p3", "p4"],
    );
    expect(seen["p2"]!.toSorted()).toEqual(["plain:untagged", "v0:untagged", "v100:untagged"]);
    expect(seen["p3"]).toEqual(["v200:untagged"]);
    expect(seen["p4"]!.toSorted()).toEqual(["plain:100", "v0:100", "v100:100", "v200:200"]);
    const back = await lab.send(
      "p4",
      probes.filter(({ vlans }) => vlans.length < 2),
      ["p1", "p2", "p3"],
    );
    expect(back["p1"]!.toSorted()).toEqual(["v100:untagged", "v200:200"]);
    expect([back["p2"], back["p3"]]).toEqual([["v100:untagged"], ["v200:untagged"]]);
  });

  test("tagged only: a frame without a tag is dropped in both directions", async () => {
    await apply({ p1: state(null, 200), p2: state(null, 200, 300), p3: state(100) });
    const seen = await lab.send(
      "p1",
      probes.filter(({ vlans }) => vlans.length < 2),
      ["p2", "p3", "p4", uplink],
    );
    expect(seen).toEqual({ p2: ["v200:200"], p3: [], p4: ["v200:200"], [uplink]: ["v200:200"] });
    const back = await lab.send(
      uplink,
      probes.filter(({ vlans }) => vlans.length < 2),
      ["p1"],
    );
    expect(back["p1"]).toEqual(["v200:200"]);
  });

  test("nodes reach each other in a network, not outside it, and not after they left it", async () => {
    await apply({ p1: state(100), p2: state(100), p3: state(200), p4: emptyPort });
    expect(await lab.ping("p1", "p2")).toBe(true);
    expect(await lab.ping("p1", "p3")).toBe(false);
    expect(await lab.ping("p1", "p4")).toBe(false);
    await apply({ p3: state(100), p2: emptyPort });
    expect(await lab.ping("p1", "p3")).toBe(true);
    expect(await lab.ping("p1", "p2")).toBe(false);
    expect(await lab.ping("p2", "p4")).toBe(false);
  });
});

describe("what is read", () => {
  const states = [emptyPort, state(100), state(4094), state(null, 1), state(100, 200, 300), state(null, 100, 4094)];

  test("every state reads back as it was applied, from whatever was there before", async () => {
    for (const before of states) {
      for (const after of states) {
        await session.applyPort("p1", before);
        await session.applyPort("p1", after);
        expect(await read("p1")).toEqual(after);
      }
    }
  }, 60_000);

  const foreign: Record<string, string[]> = {
    "nothing set": [],
    "an explicit open trunk": ["vlan_mode=trunk"],
    "VLAN 4095 without protection": ["vlan_mode=trunk", "trunks=4095"],
    "access to VLAN 4095": ["tag=4095"],
    "access to VLAN 4095, protected": ["tag=4095", "protected=true"],
    "access without a tag": ["vlan_mode=access"],
    "native without a tag": ["vlan_mode=native-untagged", "trunks=200"],
    "native and every VLAN": ["vlan_mode=native-untagged", "tag=100"],
    "native-tagged": ["vlan_mode=native-tagged", "tag=100", "trunks=200"],
    "a tunnel": ["vlan_mode=dot1q-tunnel", "tag=100"],
    "a tunnel of one VLAN": ["vlan_mode=dot1q-tunnel", "tag=4095", "cvlans=4095", "protected=true"],
    "a protected network": ["tag=100", "protected=true"],
    "VLAN 0 in a trunk": ["vlan_mode=trunk", "trunks=[0,200]"],
  };

  test.each(Object.entries(foreign))("%s never reads as a state that could be wanted", async (_, columns) => {
    if (columns.length > 0) await lab.vsctl("set", "port", "p1", ...columns);
    const { native, tagged } = await read("p1");
    const held = [...(native === null ? [] : [native]), ...tagged];
    expect(held.some((vlan) => vlan < 1 || vlan > 4094)).toBe(true);
    for (const wanted of states) expect(samePort(await read("p1"), wanted)).toBe(false);
    // And it can be put right.
    await session.applyPort("p1", emptyPort);
    expect(await read("p1")).toEqual(emptyPort);
    await session.applyPort("p1", state(100));
    expect(await read("p1")).toEqual(state(100));
  });

  test("a port that holds nothing reads as open once another port carries VLAN 4095", async () => {
    await session.applyPort("p1", emptyPort);
    for (const columns of [["trunks=[]"], ["trunks=[7,4095]"], ["tag=4095"]]) {
      await lab.vsctl("set", "port", uplink, "tag=[]", ...columns);
      expect(await read("p1")).toEqual(state(null, 4095));
      await session.applyPort("p1", emptyPort);
      expect(await read("p1")).toEqual(emptyPort);
    }
  });

  test("an uplink keeps every VLAN that a network can have", async () => {
    await lab.vsctl("set", "port", "p4", "trunks=[7,4095]");
    await apply({ p1: emptyPort, p2: state(null, 4094) });
    const trunks = JSON.parse(await lab.vsctl("get", "port", uplink, "trunks")) as number[];
    expect(trunks).toEqual(Array.from({ length: 4095 }, (_, vlan) => vlan));
    expect((await lab.vsctl("get", "port", "p4", "trunks")).trim()).toBe("[7]");
    expect((await lab.send("p2", [{ label: "a", vlans: [4094] }], [uplink]))[uplink]).toEqual(["a:4094"]);
  });

  test("a mirror into a port is never overlooked", async () => {
    await lab.vsctl(
      "--",
      "--id=@p",
      "get",
      "port",
      "p1",
      "--",
      "--id=@m",
      "create",
      "mirror",
      "name=spy",
      "select_all=true",
      "output_port=@p",
      "--",
      "set",
      "bridge",
      bridge,
      "mirrors=@m",
    );
    expect(samePort(await read("p1"), emptyPort)).toBe(false);
    expect((await failure(session.applyPort("p1", emptyPort))).message).toContain("mirror 'spy'");
    await lab.vsctl("set", "mirror", "spy", "output_port=[]", "output_vlan=4095");
    await session.applyPort("p2", state(100));
    expect((await failure(session.applyPort("p1", emptyPort))).message).toContain("mirror 'spy'");
    await lab.vsctl("clear", "bridge", bridge, "mirrors");
    await session.applyPort("p1", emptyPort);
    expect(await read("p1")).toEqual(emptyPort);
  });
});

describe("failures", () => {
  test("a port that is not on the bridge is named", async () => {
    await lab.vsctl("add-br", "other", "--", "set", "bridge", "other", "datapath_type=netdev");
    try {
      for (const port of ["p9", "other"]) {
        for (const work of [() => session.readPorts([port]), () => session.applyPort(port, emptyPort)]) {
          const error = await failure(work());
          expect(error).toMatchObject({ type: "SwitchError" });
          expect(error.message).toContain("Switch 'rack-1'");
          expect(error.message).toContain(`bridge 'sw0' has no port '${port}'`);
        }
      }
    } finally {
      await lab.vsctl("del-br", "other");
    }
  });

  test("a missing bridge and a missing database are told apart", async () => {
    const bridgeError = await failure(ovs.open(switchTarget("rack-1", { ovs_bridge: "nope", database: lab.db })));
    expect(bridgeError).toMatchObject({
      type: "SwitchError",
      message: "Switch 'rack-1': Open vSwitch has no bridge 'nope' (ovs-vsctl lists sw0).",
    });
    const databaseError = await failure(ovs.open(switchTarget("rack-1", { ovs_bridge: bridge, database: join(dir, "none.sock") })));
    expect(databaseError).toMatchObject({ type: "SwitchError" });
    expect(databaseError.message).toContain("database connection failed (No such file or directory)");
  });

  test("the database may be the path of a socket", async () => {
    const byPath = await ovs.open(switchTarget("rack-1", { ovs_bridge: bridge, database: lab.db.slice("unix:".length) }));
    expect((await byPath.readPorts(["p1"])).size).toBe(1);
    await byPath.close();
  });

  test("a write that ovs-vswitchd does not take fails in bounded time, and again when it is repeated", async () => {
    await session.applyPort("p1", emptyPort);
    process.kill(lab.vswitchd, "SIGSTOP");
    try {
      const started = performance.now();
      expect((await failure(session.applyPort("p1", state(100)))).message).toContain("is ovs-vswitchd running?");
      expect((await failure(session.applyPort("p1", state(100)))).message).toContain("is it running?");
      expect((await failure(session.readPorts(["p1"]))).message).toContain("is it running?");
      expect(performance.now() - started).toBeLessThan(45_000);
    } finally {
      process.kill(lab.vswitchd, "SIGCONT");
    }
    await session.applyPort("p1", state(100));
    expect(await read("p1")).toEqual(state(100));
  }, 60_000);
});

test("the plan is the command line that is sent", async () => {
  const [line, ...rest] = ovs.plan("p1", emptyPort, state(100, 200, 300), target().settings);
  expect(rest).toEqual([]);
  expect(line).toBe(
    `ovs-vsctl --timeout=10 --db=${lab.db} set port p1 vlan_mode=native-untagged tag=100 trunks=[200,300] cvlans=[] protected=false`,
  );
  await lab.vsctl(...line!.split(" ").slice(3));
  expect(await read("p1")).toEqual(state(100, 200, 300));
});

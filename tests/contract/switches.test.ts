import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { HaasError } from "../../src/errors.ts";
import { checkSettings } from "../../src/hardware/settings.ts";
import { emptyPort, type PortState, type SwitchDriver, type SwitchSession } from "../../src/hardware/switches/driver.ts";
import { brocade } from "../../src/hardware/switches/brocade.ts";
import { connectConsole, consoleDriver, type ConsoleProfile } from "../../src/hardware/switches/console.ts";
import { dellN3000Profile } from "../../src/hardware/switches/delln3000.ts";
import { dellNos9 } from "../../src/hardware/switches/dellnos9.ts";
import { switchDrivers } from "../../src/hardware/switches/index.ts";
import { mock } from "../../src/hardware/switches/mock.ts";
import { nexusProfile } from "../../src/hardware/switches/nexus.ts";
import { ovs } from "../../src/hardware/switches/ovs.ts";
import { powerConnect55xxProfile } from "../../src/hardware/switches/powerconnect55xx.ts";
import { type ConsoleKind, startConsole } from "../sim/console.ts";
import type { Emulator } from "../sim/emulator.ts";
import { startRest } from "../sim/rest.ts";
import { type OvsLab, startOvs } from "../support/ovs-lab.ts";
import { switchTarget } from "../support/target.ts";

/**
 * What every switch driver has to keep. A new driver gets an entry in `subjects`: its driver, a device
 * (or an emulator of one) with the ports that it names, and labels that the device could not have.
 */
interface Subject {
  name: string;
  driver: SwitchDriver;
  /** Two ports that the device has. */
  ports: [string, string];
  /** A legal name of a port that the device does not have; null when it has every port. */
  missingPort: string | null;
  illegalLabels: string[];
  start(): Promise<Device>;
}

interface Device extends Partial<Pick<Emulator, "port" | "factoryReset">> {
  readonly settings: Readonly<Record<string, unknown>>;
  stop(): Promise<void>;
}

const consoles = [powerConnect55xxProfile, dellN3000Profile, nexusProfile];

/** An emulated console, over a transport; `drip`: what it says arrives a byte at a time. */
function consoleSubject(profile: ConsoleProfile, transport: "ssh" | "telnet", { drip = false } = {}): Subject {
  const nexus = profile === nexusProfile;
  return {
    name: `${profile.name} over ${transport}${drip ? ", one byte per read" : ""}`,
    driver: consoleDriver(profile, drip ? dripping : connectConsole),
    ports: nexus ? ["Ethernet1/1", "Ethernet1/2"] : ["gi1/0/1", "gi1/0/2"],
    missingPort: nexus ? "Ethernet1/77" : "gi1/0/77",
    illegalLabels: consoleIllegalLabels,
    start: () => startConsole(profile.name as ConsoleKind, { transport }),
  };
}

const consoleIllegalLabels = [
  ...[
    "",
    "gi1/0/1\n",
    "\ngi1/0/1",
    "gi1/0/1\rend",
    "gi1/0/1;reload",
    "gi1/0/1 ?",
    "gi1/0/1\t",
    "gi1/0/1\u001b[A",
    "gi1/0/1\u0003",
    "gi1/0/1,2",
  ],
  ...[
    "gi１/0/1",
    "gi1/0/1-48",
    "ethernet1/1\n",
    "ethernet1/1\r\nreload",
    "Ethernet1/1, Ethernet1/2",
    "ethernet1/1 ?",
    "ethernet\t1/1",
    "еthernet1/1",
  ],
  ...["gi1\u20440\u20441", "all", "-1", "vlan 1", "gi1/0/123456", "ethernet1/1\u2028reload"],
];

const dripping: typeof connectConsole = async (target) => {
  const transport = await connectConsole(target);
  let waiting = "";
  return {
    ...transport,
    async read(timeoutMs) {
      if (waiting === "") waiting = (await transport.read(timeoutMs)) ?? "";
      const [first = null, ...rest] = waiting;
      waiting = rest.join("");
      return first;
    },
  };
};

const restSubject = (driver: SwitchDriver, kind: "brocade" | "dellnos9", ports: [string, string]): Subject => ({
  name: kind,
  driver,
  ports,
  missingPort: ports[0].replace(/\d+$/, "77"),
  illegalLabels: [
    "",
    "1",
    "1/0/1\n",
    "\r1/0/1",
    "1/0/1;x",
    "1/0/1?x=1",
    "1/0/1#",
    "1/0/1%2f",
    "1/0/..",
    "１/0/1",
    "1/0/1 ",
    "1/0/1\t",
    "gi1/0/1",
    "1/0/1/1/1",
  ],
  start: () => startRest(kind, { ports }),
});

const startTimeoutMs = 60_000;

const subjects: Subject[] = [
  {
    name: "mock",
    driver: mock,
    ports: ["gi1/0/1", "gi1/0/2"],
    missingPort: null,
    illegalLabels: [],
    start: async () => ({ settings: { hostname: "any", username: "any", password: "any" }, stop: async () => {} }),
  },
  {
    name: "ovs",
    driver: ovs,
    ports: ["p1", "p2"],
    missingPort: "p3",
    illegalLabels: ["", "-x", "--db=x", ".", "..", "a b", "p1;id", "p1\n", "\np1", "p1\u0000", "p1/2", "pört", "p1,p2", "a123456789012345"],
    async start() {
      const dir = await mkdtemp(join(tmpdir(), "haas-contract-"));
      const lab: OvsLab = await startOvs({ dir, name: `hcon${process.pid}`, bridge: "sw0", ports: ["p1", "p2"] });
      const stop = async () => {
        await lab.stop();
        await rm(dir, { recursive: true, force: true });
      };
      return { settings: { ovs_bridge: "sw0", database: lab.db }, stop };
    },
  },
  ...consoles.flatMap((profile) => [
    consoleSubject(profile, "ssh"),
    consoleSubject(profile, "telnet"),
    consoleSubject(profile, "ssh", { drip: true }),
  ]),
  restSubject(brocade, "brocade", ["1/0/1", "1/0/2"]),
  restSubject(dellNos9, "dellnos9", ["1/1", "1/2"]),
];

test("every driver is among the subjects", () => {
  expect(new Set(subjects.map(({ driver }) => driver.name))).toEqual(new Set(Object.values(switchDrivers).map(({ name }) => name)));
});

describe.each(subjects.map((subject) => [subject.name, subject] as const))(
  "%s",
  (_, { driver, ports, missingPort, illegalLabels, start }) => {
    const [port, other] = ports;
    const native: PortState = { native: 100, tagged: [] };
    const both: PortState = { native: 100, tagged: [200, driver.highestVlan] };
    const taggedOnly: PortState = { native: null, tagged: [1, 200] };
    const states = [emptyPort, native, both, ...(driver.capabilities.includes("nativeless-trunk-mode") ? [taggedOnly] : [])];

    let device: Device | undefined;
    let session: SwitchSession;
    const open = () => driver.open(switchTarget("contract", device!.settings));
    /** What the driver reads; the device, where it can be asked behind the driver's back, agrees. */
    const read = async (label: string) => {
      const state = (await session.readPorts([label])).get(label);
      if (device!.port) expect(state).toEqual(device!.port(label)!);
      return state;
    };

    beforeAll(async () => {
      device = await start();
    }, startTimeoutMs);
    afterAll(async () => device?.stop(), startTimeoutMs);
    beforeEach(async () => {
      session = await open();
      await session.applyPort(port, emptyPort);
      await session.applyPort(other, emptyPort);
    });

    test("its settings are legal, its positional fields are its required ones, and what is unknown is refused", () => {
      checkSettings(driver.settings, device!.settings, "It");
      expect(driver.positional.toSorted()).toEqual((driver.settings.required ?? []).toSorted());
      expect(() => checkSettings(driver.settings, { ...device!.settings, no_such_field: "x" }, "It")).toThrow("no_such_field");
      for (const name of driver.positional) {
        const { [name]: _dropped, ...rest } = device!.settings;
        expect(() => checkSettings(driver.settings, rest, "It")).toThrow(name);
      }
    });

    test(
      "what is applied is what is read, from any state to any other",
      async () => {
        for (const before of states) {
          for (const after of states) {
            await session.applyPort(port, before);
            await session.applyPort(port, after);
            expect(await read(port)).toEqual(after);
          }
        }
      },
      startTimeoutMs,
    );

    test(
      "applying twice is applying once",
      async () => {
        for (const state of states) {
          await session.applyPort(port, state);
          await session.applyPort(port, state);
          expect(await read(port)).toEqual(state);
        }
      },
      startTimeoutMs,
    );

    test(
      "a device fresh from the factory holds what it is told, and nothing else",
      async () => {
        for (const state of states) {
          if (!device!.factoryReset) return;
          device!.factoryReset();
          await session.close();
          session = await open();
          await session.applyPort(port, state);
          expect(await read(port)).toEqual(state);
          // Whatever it left alone.
          await session.applyPort(other, state);
          expect(await read(other)).toEqual(state);
        }
      },
      startTimeoutMs,
    );

    test("several ports at once", async () => {
      if (!session.applyPorts) return;
      for (const state of states) {
        await session.applyPorts([port, other], state);
        expect([await read(port), await read(other)]).toEqual([state, state]);
      }
    });

    test("a port does not touch another port", async () => {
      await session.applyPort(other, both);
      for (const state of states) await session.applyPort(port, state);
      expect(await session.readPorts([other, port])).toEqual(
        new Map([
          [other, both],
          [port, states.at(-1)!],
        ]),
      );
    });

    test("another session finds what this one left", async () => {
      await session.applyPort(port, both);
      await session.save?.();
      await session.close();
      session = await open();
      expect(await read(port)).toEqual(both);
    });

    test("reading no port is no error", async () => {
      expect(await session.readPorts([])).toEqual(new Map());
    });

    test("the plan is empty when there is nothing to do, and says something otherwise", () => {
      for (const actual of states) {
        for (const desired of states) {
          const lines = driver.plan(port, actual, desired, device!.settings);
          expect(lines.length > 0).toBe(actual !== desired);
          for (const line of lines) expect(line).not.toMatch(/[\r\n]/);
        }
      }
    });

    test("legal port names are taken, others refused with a sentence", () => {
      for (const label of ports) driver.validatePort(label);
      for (const label of illegalLabels) {
        let error: { type?: string; message?: string } = {};
        try {
          driver.validatePort(label);
        } catch (thrown) {
          error = thrown as HaasError;
        }
        expect([label, error.type]).toEqual([label, "BadArgumentError"]);
        expect(error.message).toContain("Legal forms");
      }
    });

    if (missingPort !== null) {
      test("a port that the device does not have rejects, naming switch and port", async () => {
        driver.validatePort(missingPort);
        for (const work of [
          () => session.readPorts([missingPort]),
          () => session.applyPort(missingPort, native),
          () => session.applyPort(missingPort, emptyPort),
        ]) {
          const error = await work().catch((thrown: unknown) => thrown);
          expect(error).toMatchObject({ type: "SwitchError" });
          expect((error as Error).message).toContain("'contract'");
          expect((error as Error).message).toContain(`'${missingPort}'`);
        }
      });
    }

    test("close never rejects", async () => {
      await session.close();
      await session.close();
    });
  },
);

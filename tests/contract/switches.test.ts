import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { HaasError } from "../../src/errors.ts";
import { checkSettings } from "../../src/hardware/settings.ts";
import { emptyPort, type PortState, type SwitchDriver, type SwitchSession } from "../../src/hardware/switches/driver.ts";
import { mock } from "../../src/hardware/switches/mock.ts";
import { ovs } from "../../src/hardware/switches/ovs.ts";
import { type OvsLab, startOvs } from "../support/ovs-lab.ts";

/**
 * What every switch driver has to keep. A new driver gets an entry in `subjects`: its driver, a device
 * (or an emulator of one) with the ports that it names, and labels that the device could not have.
 */
interface Subject {
  driver: SwitchDriver;
  /** Two ports that the device has. */
  ports: [string, string];
  /** A legal name of a port that the device does not have; null when it has every port. */
  missingPort: string | null;
  illegalLabels: string[];
  start(): Promise<{ settings: Record<string, unknown>; stop(): Promise<void> }>;
}

const startTimeoutMs = 60_000;

const subjects: Subject[] = [
  {
    driver: mock,
    ports: ["gi1/0/1", "gi1/0/2"],
    missingPort: null,
    illegalLabels: [],
    start: async () => ({ settings: { hostname: "any", username: "any", password: "any" }, stop: async () => {} }),
  },
  {
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
];

describe.each(subjects.map((subject) => [subject.driver.name, subject] as const))(
  "%s",
  (_, { driver, ports, missingPort, illegalLabels, start }) => {
    const [port, other] = ports;
    const native: PortState = { native: 100, tagged: [] };
    const both: PortState = { native: 100, tagged: [200, driver.highestVlan] };
    const taggedOnly: PortState = { native: null, tagged: [1, 200] };
    const states = [emptyPort, native, both, ...(driver.capabilities.includes("nativeless-trunk-mode") ? [taggedOnly] : [])];

    let device: Awaited<ReturnType<typeof start>> | undefined;
    let session: SwitchSession;
    const open = () => driver.open({ label: "contract", settings: device!.settings });
    const read = async (label: string) => (await session.readPorts([label])).get(label);

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

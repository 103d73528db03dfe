import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { join } from "node:path";
import { databaseTime, longestPauseMs } from "../../src/db/clock.ts";
import { write } from "../../src/db/transaction.ts";
import { emptyPort } from "../../src/hardware/switches/driver.ts";
import { holdsLease, takeLease } from "../../src/networking/lease.ts";
import { onEveryLine, portNames, registration, startEmulator, type Vendor, vendors } from "../support/emulators.ts";
import { databases, mockObm, mockSwitch, type Service, startService } from "../support/service.ts";

// Another process takes the switch over between two lines of a change, as when this one was stopped there: nothing more
// of the change is sent, and nobody is offered the port before it was read back.

/** Changes what a port carries; the order of a console's questions and modes does not. */
const changing = /^(interface|switchport|shutdown|no shutdown|copy)|^(PUT|PATCH|DELETE)|^POST .*(<config-commands>|<switchport|<shutdown)/i;

interface Taken {
  service: Service;
  /** The changing lines that came, until the switch was taken over and after that. */
  before: string[];
  after: string[];
}

/** Connect a nic to a network, on a switch of this kind that is taken over at the changing line with this number. */
async function connectAndLose(vendor: Vendor, at: number): Promise<Taken & { stop(): Promise<void> }> {
  const service = await startService("sqlite");
  const device = await startEmulator(vendor, { ports: [portNames[vendor](1)], transport: "telnet" });
  const port = `/switch/sw/port/${encodeURIComponent(portNames[vendor](1))}`;
  const setUp: [string, string, unknown?][] = [
    ["PUT", "/project/p"],
    ["PUT", "/network/a", { owner: "p", access: "p", net_id: "" }],
    ["PUT", "/switch/sw", registration(vendor, device)],
    ["PUT", port],
    ["PUT", "/node/n", { obm: mockObm }],
    ["PUT", "/node/n/nic/nic", { macaddr: "m" }],
    ["POST", `${port}/connect_nic`, { node: "n", nic: "nic" }],
  ];
  for (const call of setUp) await service.ok(...call);
  await service.apply();
  await service.ok("POST", "/project/p/connect_node", { node: "n" });
  const [before, after]: [string[], string[]] = [[], []];
  const other = new Database(join(service.directory, "haas.db"));
  let taken = false;
  onEveryLine(device, (line) => {
    if (!changing.test(line)) return;
    (taken ? after : before).push(line);
    if (taken || before.length <= at) return;
    taken = true;
    // Far from over: only asking tells.
    other.run("update switch set lease_token = lease_token + 1, lease_owner = 'elsewhere 1 1'");
  });
  await service.ok("POST", "/node/n/nic/nic/connect_network", { network: "a" });
  await service.apply();
  other.close();
  const stop = async () => {
    await service.stop();
    await device.stop();
  };
  return { service, before, after, stop };
}

test.each(vendors)("a %s that is taken over between any two lines of a change gets no more of them", async (vendor) => {
  for (let at = 0; ; at++) {
    const { service, before, after, stop } = await connectAndLose(vendor, at);
    try {
      const { status } = await service.ctx.db
        .selectFrom("networking_action")
        .select("status")
        .where("type", "=", "modify_port")
        .executeTakeFirstOrThrow();
      // All of it was sent before: the change has no more lines.
      if (status === "DONE") {
        expect(before.length).toBeLessThanOrEqual(at);
        expect(at).toBeGreaterThan(1);
        return;
      }
      expect({ at, line: before.at(-1), after }).toEqual({ at, line: before.at(-1), after: [] });
      expect(status).toBe("PENDING");
      expect(await service.ok("GET", "/nodes/free")).toEqual([]);
      const { suspect, pending } = await service.ok("GET", "/switch/sw/reconcile");
      expect(suspect).toEqual([{ port: portNames[vendor](1), reason: expect.stringContaining("cut off while it changed the port") }]);
      expect(pending).toHaveLength(1);
      // The other one is gone: what was left is mended.
      await service.ctx.db.updateTable("switch").set({ lease_owner: null, lease_until: 0 }).execute();
      await service.apply();
      expect((await service.ok("GET", "/switch/sw/ports/actual")).ports[0].actual).not.toEqual(emptyPort);
      expect((await service.ok("GET", "/switch/sw/reconcile")).suspect).toEqual([]);
    } finally {
      await stop();
    }
  }
});

test.each(databases)("a holder that renews its lease while it is asked is never told that it lost it, on %s", async (kind) => {
  const service = await startService(kind);
  try {
    const { db } = service.ctx;
    await service.ok("PUT", "/switch/sw", mockSwitch);
    const { id } = await db.selectFrom("switch").select("id").executeTakeFirstOrThrow();
    const lease = (await write(db, (tx) => takeLease(tx, "switch", id, longestPauseMs)))!;
    const answers: boolean[] = [];
    for (let i = 0; i < 20; i++) {
      const asked = Promise.withResolvers<boolean>();
      await write(db, async (tx) => {
        // The question is put now, and answered when the renewal has been written.
        void holdsLease(db, lease).then(asked.resolve, asked.reject);
        await Bun.sleep(25);
        await tx
          .updateTable("switch")
          .set({ lease_until: databaseTime(tx, lease.ms) })
          .execute();
      });
      answers.push(await asked.promise);
    }
    expect(answers.filter((held) => !held)).toEqual([]);
  } finally {
    await service.stop();
  }
});

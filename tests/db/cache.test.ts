import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { databases, makeRack, mockObm, type Service, startService } from "../support/service.ts";

// What is kept of reads must never be older than the data, whoever changed it.

describe.each(databases)("reads on %s", (kind) => {
  let service: Service;
  let other: Service;
  beforeEach(async () => {
    service = await startService(kind);
    other = await startService(kind, { uri: service.ctx.config.databaseUri });
    await makeRack(service, { nodes: 2, projects: ["p"] });
  });
  afterEach(async () => {
    await other.stop();
    await service.stop();
  });

  test("see what this server and another one on the same database changed", async () => {
    for (const [round, writer] of [service, other, service, other, other].entries()) {
      for (const reader of [service, other]) {
        await reader.ok("GET", "/node/n1");
        await reader.ok("GET", "/nodes/free");
      }
      await writer.ok("PUT", "/node/n1/metadata/round", { value: round });
      await writer.ok("PUT", `/node/extra${round}`, { obm: mockObm });
      for (const reader of [service, other]) {
        expect((await reader.ok("GET", "/node/n1")).metadata.round).toBe(String(round));
        expect(await reader.ok("GET", "/nodes/free")).toContain(`extra${round}`);
        expect(await reader.ok("GET", "/nodes/all")).toContain(`extra${round}`);
      }
    }
  });

  test("a change that was answered is in every later read, under concurrency", async () => {
    let confirmed = -1;
    let writing = true;
    const read = async (reader: Service) => {
      while (writing) {
        const least = confirmed;
        const { metadata } = await reader.ok("GET", "/node/n2");
        expect(Number(metadata.n ?? -1)).toBeGreaterThanOrEqual(least);
      }
    };
    const write = async () => {
      for (let n = 0; n < 60; n++) {
        await (n % 3 === 0 ? other : service).ok("PUT", "/node/n2/metadata/n", { value: n });
        confirmed = n;
      }
      writing = false;
    };
    await Promise.all([read(service), read(other), read(service), write()]);
    expect(confirmed).toBe(59);
  });

  test("cabling is for administrators, also the second time", async () => {
    const { nics } = await service.ok("GET", "/node/n1");
    expect(nics[0]).toMatchObject({ port: "p1", switch: "sw" });
    const member = { isAdmin: false, projects: new Set<number>() };
    const { showNode } = await import("../../src/inventory/nodes.ts");
    expect(JSON.parse(await showNode(service.ctx.db, member, "n1")).nics[0]).toEqual({
      label: "nic",
      macaddr: "00:00:00:00:00:01",
      networks: {},
    });
    await service.ok("POST", "/project/p/connect_node", { node: "n1" });
    await service.ok("GET", "/node/n1");
    expect(showNode(service.ctx.db, member, "n1")).rejects.toMatchObject({ type: "AuthorizationError" });
  });
});

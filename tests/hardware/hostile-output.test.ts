import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { brocade } from "../../src/hardware/switches/brocade.ts";
import { dellN3000 } from "../../src/hardware/switches/delln3000.ts";
import { dellNos9 } from "../../src/hardware/switches/dellnos9.ts";
import type { SwitchDriver } from "../../src/hardware/switches/driver.ts";
import { nexus } from "../../src/hardware/switches/nexus.ts";
import { ovs } from "../../src/hardware/switches/ovs.ts";
import { powerConnect55xx } from "../../src/hardware/switches/powerconnect55xx.ts";
import type { Hostility } from "../support/hostile-console.ts";
import { secrets } from "../support/secrets.ts";
import { switchTarget } from "../support/target.ts";

// Whatever a device says, it costs others no more than a moment: what haas computes of it, it computes in small pieces.

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

/** Measured: 20 ms at most. The least of these texts took half a second before, and some took minutes. */
const pieceCpuMs = 250;

/** What work gave, or why it failed; and the most CPU time between two turns of the event loop meanwhile. */
async function watched<T>(work: () => Promise<T>): Promise<{ outcome: string; pieceMs: number }> {
  const cpuMs = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  };
  let before = cpuMs();
  let pieceMs = 0;
  const look = () => {
    const now = cpuMs();
    pieceMs = Math.max(pieceMs, now - before);
    before = now;
  };
  const timer = setInterval(look, 1);
  const outcome = await work().then(String, (error: Error) => error.message);
  clearInterval(timer);
  look();
  return { outcome, pieceMs };
}

async function hostile(what: Hostility, when: "answer" | "banner"): Promise<string> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../support/hostile-console.ts"), what, when], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  closing.push(() => child.kill("SIGKILL"));
  return `127.0.0.1:${new TextDecoder().decode((await child.stdout.getReader().read()).value).trim()}`;
}

async function read(driver: SwitchDriver, hostname: string, ports: readonly string[]): Promise<{ outcome: string; pieceMs: number }> {
  const settings = { hostname, username: "admin", password: secrets.console, transport: "telnet", dummy_vlan: 2222 };
  const target = { ...switchTarget("sw", settings), commandTimeoutMs: 5_000, connectTimeoutMs: 20_000 };
  return watched(async () => {
    const session = await driver.open(target);
    try {
      return await session.readPorts(ports);
    } finally {
      await session.close();
    }
  });
}

const unreadable = /^Switch 'sw', port '.+': the answer to 'show .+' can't be read: /;
const endless = /^Switch 'sw'(?:, port '.+')?: 'show .+' is answered without end/;
const tooLong = /^Switch 'sw'(?:, port '.+')?: 'show .+' is answered with a line of more than 4096 characters/;
const negotiates = /: the device negotiates without end\.$/;

const answers: [Hostility, RegExp][] = [
  ["long lines of blanks", tooLong],
  ["one line", tooLong],
  ["lines of blanks", unreadable],
  ["lines of tabs", unreadable],
  ["lists of all VLANs", unreadable],
  ["separators of lines that are none", unreadable],
  ["a line drawn again and again", unreadable],
  ["prompts", unreadable],
  ["short lines", endless],
  ["empty lines", endless],
  ["lines made long by the cursor", endless],
  // One of them asks for more in other words, which are taken for the end of a silent answer.
  ["pages", /is answered without end|is not answered within/],
  ["log lines", /can't be read|was answered with '%A/],
  ["negotiation", negotiates],
  ["no operations", negotiates],
];

test.each(answers)("a console answers with %s", async (what, words) => {
  const hostname = await hostile(what, "answer");
  for (const [driver, ports] of [
    [dellN3000, ["gi1/0/1"]],
    [powerConnect55xx, ["gi1/0/1"]],
    [nexus, ["ethernet1/1", "ethernet1/2", "ethernet1/3", "ethernet1/4"]],
  ] as const) {
    const { outcome, pieceMs } = await read(driver, hostname, ports);
    expect(outcome).toMatch(words);
    expect(outcome.length).toBeLessThan(700);
    expect(pieceMs).toBeLessThan(pieceCpuMs);
  }
});

test.each([
  ["long lines of blanks", /while logging in, it writes a line without end/],
  ["one line", /while logging in, it writes a line without end/],
  ["short lines", /while logging in, it writes without end/],
  ["lines made long by the cursor", /while logging in, it writes without end/],
  ["negotiation", negotiates],
  ["separators of lines that are none", unreadable],
] as const)("a console begins with %s", async (what, words) => {
  const { outcome, pieceMs } = await read(dellN3000, await hostile(what, "banner"), ["gi1/0/1"]);
  expect(outcome).toMatch(words);
  expect(outcome.length).toBeLessThan(700);
  expect(pieceMs).toBeLessThan(pieceCpuMs);
});

const megabyte = 1024 * 1024 - 100;
const filled = (unit: string) => `<output>${unit.repeat(Math.floor(megabyte / unit.length))}</output>`;
test.each([
  ["elements", filled("<a/>")],
  ["elements of other namespaces", filled("<x:y:z/>")],
  ["instructions", filled("<?a b?>")],
  ["elements without an end", `<output>${"<a ".repeat(megabyte / 3)}`],
  ["nesting", `<output>${"<a>".repeat(megabyte / 7)}${"</a>".repeat(megabyte / 7)}</output>`],
  ["attributes", `<output ${Array.from({ length: 90_000 }, (_, i) => `a${i}="1"`).join(" ")}/>`],
  ["entities", filled("&#65;")],
  ["lines", `<output><command>${"1\n".repeat(32_000)}</command></output>`],
])("a switch answers with a megabyte of %s", async (_, body) => {
  const server = createServer((_request, response) => void response.end(body));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closing.push(() => server.close());
  const hostname = `127.0.0.1:${(server.address() as { port: number }).port}`;
  for (const [driver, port, kind] of [
    [brocade, "1/0/1", "TenGigabitEthernet"],
    [dellNos9, "1/1", "GigabitEthernet"],
  ] as const) {
    const { outcome, pieceMs } = await watched(async () => {
      const settings = { hostname, username: "u", password: secrets.console, interface_type: kind };
      return (await (driver as SwitchDriver).open(switchTarget("sw", settings))).readPorts([port]);
    });
    expect(outcome).toMatch(/^Switch 'sw', port '.+': GET …\/.+: the answer /);
    expect(outcome.length).toBeLessThan(700);
    expect(pieceMs).toBeLessThan(pieceCpuMs);
  }
});

test("a bridge with a thousand ports, each with a list of all VLANs", async () => {
  const programs = mkdtempSync(join(tmpdir(), "haas-ovs-"));
  closing.push(() => rmSync(programs, { recursive: true }));
  const table = (headings: string[], data: unknown[][]) => JSON.stringify({ data, headings });
  const uuid = (name: string) => ["uuid", name];
  const trunks = ["set", Array.from({ length: 4_095 }, (_, vlan) => vlan)];
  // A name may look like the end of a row.
  const names = Array.from({ length: 1_000 }, (_, i) => (i === 500 ? '],[["uuid","' : `p${i}`));
  const closed = ["trunk", ["set", []], 4095, true];
  const row = (name: string, i: number) => [uuid(`u${i}`), name, ...(i === 1 ? closed : ["trunk", ["set", []], trunks, false])];
  const tables = [
    table(["next_cfg", "cur_cfg"], [[1, 1]]),
    table(["_uuid", "name", "ports", "mirrors"], [[uuid("b"), "br0", ["set", names.map((_, i) => uuid(`u${i}`))], ["set", []]]]),
    table(["_uuid", "name", "vlan_mode", "tag", "trunks", "protected"], names.map(row)),
    table(["_uuid", "name", "output_port", "output_vlan"], []),
  ];
  writeFileSync(join(programs, "tables"), `${tables.join("\n")}\n`);
  writeFileSync(join(programs, "ovs-vsctl"), `#!/bin/sh\nexec cat ${join(programs, "tables")}\n`, { mode: 0o755 });
  const { PATH } = process.env;
  process.env.PATH = `${programs}:${PATH}`;
  closing.push(() => (process.env.PATH = PATH));
  const asked = names.slice(0, 48);
  let states = new Map<string, unknown>();
  const { pieceMs } = await watched(async () => {
    const session = await ovs.open(switchTarget("sw", { ovs_bridge: "br0" }) as never);
    states = await session.readPorts([...asked, names[500]!, "p999"]);
  });
  expect(states.size).toBe(50);
  // Others carry VLAN 4095's frames to it no more: they list all but that.
  expect(states.get("p1")).toEqual({ native: null, tagged: [] });
  for (const name of ["p0", "p47", names[500]!, "p999"]) {
    expect(states.get(name)).toEqual({ native: 0, tagged: Array.from({ length: 4_094 }, (_, i) => i + 1) });
  }
  expect(pieceMs).toBeLessThan(pieceCpuMs);
});

import { afterEach, expect, test } from "bun:test";
import { createServer } from "node:http";
import { join } from "node:path";
import { brocade } from "../../src/hardware/switches/brocade.ts";
import { dellN3000 } from "../../src/hardware/switches/delln3000.ts";
import { dellNos9 } from "../../src/hardware/switches/dellnos9.ts";
import type { SwitchDriver } from "../../src/hardware/switches/driver.ts";
import { nexus } from "../../src/hardware/switches/nexus.ts";
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
  const timer = setInterval(() => {
    const now = cpuMs();
    pieceMs = Math.max(pieceMs, now - before);
    before = now;
  }, 1);
  try {
    return { outcome: await work().then(String, (error: Error) => error.message), pieceMs };
  } finally {
    clearInterval(timer);
  }
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

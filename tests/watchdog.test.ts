import { expect, test } from "bun:test";
import type { Log } from "../src/log.ts";
import { noteWork, startWatchdog } from "../src/watchdog.ts";
import { startServer } from "./support/server.ts";
import { untilWithin } from "./support/until.ts";

const block = (ms: number) => {
  for (const until = performance.now() + ms; performance.now() < until;);
};

test("a gap of the event loop is a warning with what ran; of a flood of them most are counted", async () => {
  const lines: { message: string; fields: Record<string, unknown> }[] = [];
  const warning = (message: string, fields = {}) => void lines.push({ message, fields });
  const watchdog = startWatchdog({ warning } as unknown as Log);
  const held = async (ms: number) => {
    block(ms);
    await Bun.sleep(120);
  };
  try {
    await Bun.sleep(120);
    noteWork("GET /nodes/free");
    noteWork(`GET /${"x".repeat(5_000)}\u001b[31m\n`);
    await held(600);
    // On a busy machine there are gaps of others, too.
    const line = lines.find(({ fields }) => String(fields.ran).startsWith("GET /nodes/free; GET /xxx"));
    expect(line?.message).toBe("the event loop was held, so nobody was served");
    const { ms, cpu_ms: cpu, ran } = line!.fields as { ms: number; cpu_ms: number; ran: string };
    expect(ms).toBeGreaterThan(400);
    expect(cpu).toBeGreaterThan(50);
    expect(ran.length).toBeLessThan(200);
    expect(ran).not.toMatch(/\p{C}/u);
    for (let i = 0; i < 100; i++) noteWork(`GET /${i}`);
    await held(300);
    expect(lines.at(-1)!.fields.ran).toBe("92 before; GET /92; GET /93; GET /94; GET /95; GET /96; GET /97; GET /98; GET /99");
    for (let i = 0; i < 9; i++) await held(300);
    expect(lines.length).toBe(6);
    // What ran before an earlier gap is not told again.
    expect(lines.at(-1)!.fields.ran).toBe("");
  } finally {
    watchdog.stop();
  }
});

test("a server that was stopped for a while says so, and that it did not compute", async () => {
  const server = await startServer({ kind: "sqlite" });
  try {
    server.signal("SIGSTOP");
    await Bun.sleep(1_500);
    server.signal("SIGCONT");
    await untilWithin(10_000, () => server.log())("a warning", () =>
      /held, so nobody was served","ms":1[0-9]{3},"cpu_ms":\d+,"ran":/.test(server.log()),
    );
    expect((await fetch(`${server.url}/nodes/free`)).status).toBe(200);
  } finally {
    await server.stop();
  }
});

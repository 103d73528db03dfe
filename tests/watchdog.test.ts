import { expect, test } from "bun:test";
import type { Log } from "../src/log.ts";
import { noteWork, startWatchdog } from "../src/watchdog.ts";

const block = (ms: number) => {
  for (const until = performance.now() + ms; performance.now() < until;);
};

test("a gap of the event loop is one warning, with what ran; the rest of a flood of them is counted", async () => {
  const lines: { message: string; fields: Record<string, unknown> }[] = [];
  const warning = (message: string, fields = {}) => void lines.push({ message, fields });
  const watchdog = startWatchdog({ warning } as unknown as Log);
  try {
    await Bun.sleep(120);
    expect(lines).toEqual([]);
    noteWork("GET /nodes/free");
    noteWork(`GET /${"x".repeat(5_000)}\u001b[31m\n`);
    block(600);
    await Bun.sleep(120);
    expect(lines.map(({ message }) => message)).toEqual(["the event loop was held, so nobody was served"]);
    const { ms, cpu_ms: cpu, ran } = lines[0]!.fields as { ms: number; cpu_ms: number; ran: string };
    expect(ms).toBeGreaterThan(400);
    expect(cpu).toBeGreaterThan(100);
    expect(ran).toStartWith("GET /nodes/free; GET /xxx");
    expect(ran.length).toBeLessThan(200);
    expect(ran).not.toMatch(/\p{C}/u);
    for (let i = 0; i < 100; i++) noteWork(`GET /${i}`);
    for (let i = 0; i < 9; i++) {
      block(300);
      await Bun.sleep(60);
    }
    // What ran before the first of them is not told again.
    expect(lines.length).toBe(6);
    expect(lines[1]!.fields.ran).toBe("92 before; GET /92; GET /93; GET /94; GET /95; GET /96; GET /97; GET /98; GET /99");
    expect(lines[5]!.fields.ran).toBe("");
  } finally {
    watchdog.stop();
  }
});

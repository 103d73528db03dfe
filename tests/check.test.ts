import { afterAll, beforeAll, expect, test } from "bun:test";
import { appendFileSync, cpSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { scratch } from "./support/service.ts";

// `bun run check` on a copy of the tree: green as it is, red for each kind of fault planted in it.

const root = resolve(import.meta.dir, "..");
const copy = scratch();

beforeAll(() => {
  const listed = Bun.spawnSync(["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"], { cwd: root });
  for (const file of listed.stdout.toString().trim().split("\n")) {
    const target = join(copy.path, file);
    mkdirSync(dirname(target), { recursive: true });
    cpSync(join(root, file), target);
  }
  symlinkSync(join(root, "node_modules"), join(copy.path, "node_modules"));
});
afterAll(copy.remove);

function check(): { exitCode: number; output: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, "scripts/check.ts"], { cwd: copy.path });
  return { exitCode, output: stdout.toString() + stderr.toString() };
}

test("the tree passes", () => {
  const { exitCode, output } = check();
  expect(output).not.toContain("FAILED");
  expect(exitCode).toBe(0);
}, 120_000);

const faults: Record<string, { file: string; text: string; failing: string }> = {
  "an upward import": { file: "src/inventory/projects.ts", text: 'export { createApp } from "../app.ts";\n', failing: "FAILED lint" },
  "a driver that reads the database": {
    file: "src/hardware/switches/mock.ts",
    text: 'import "../../db/open.ts";\n',
    failing: "FAILED lint",
  },
  "an unused file": { file: "src/networking/unused.ts", text: "export const unused = 1;\n", failing: "FAILED dead code" },
  "a type error": { file: "src/errors.ts", text: 'const wrong: number = "text";\n', failing: "FAILED types" },
};

test.each(Object.entries(faults))(
  "%s turns it red",
  (_, { file, text, failing }) => {
    const path = join(copy.path, file);
    const fresh = file.includes("unused");
    if (fresh) writeFileSync(path, text);
    else appendFileSync(path, text);
    try {
      const { exitCode, output } = check();
      expect(output).toContain(failing);
      expect(exitCode).not.toBe(0);
    } finally {
      if (fresh) rmSync(path);
      else cpSync(join(root, file), path);
    }
  },
  120_000,
);

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { CommandError, failureSentence, redact, runCommand } from "../../src/hardware/command.ts";
import { isRunning } from "../support/processes.ts";
import { scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

const until = untilWithin(20_000);

const bounds = { timeoutMs: 10_000, maxOutputBytes: 65_536 };

describe("runCommand", () => {
  test("gives both outputs and the exit code, and no shell sees the arguments", async () => {
    const echoed = await runCommand({ argv: ["printf", "%s", "$(id); `id` * 'x'"], ...bounds });
    expect(echoed).toMatchObject({ exitCode: 0, stdout: "$(id); `id` * 'x'", stderr: "", timedOut: false, truncated: false });
    const failed = await runCommand({ argv: ["sh", "-c", "echo out; echo err >&2; exit 3"], ...bounds });
    expect(failed).toMatchObject({ exitCode: 3, stdout: "out\n", stderr: "err\n" });
  });

  test("passes on only a small environment", async () => {
    process.env["HAAS_TEST_SECRET"] = "must not leak";
    const { stdout } = await runCommand({ argv: ["env"], env: { GIVEN: "yes" }, ...bounds });
    delete process.env["HAAS_TEST_SECRET"];
    const names = stdout
      .trim()
      .split("\n")
      .map((line) => line.split("=")[0]!);
    expect(names.toSorted()).toEqual(["GIVEN", "LANG", "LC_ALL", "PATH"]);
  });

  test("gives stdin, and nothing to read without one", async () => {
    expect((await runCommand({ argv: ["cat"], stdin: "text", ...bounds })).stdout).toBe("text");
    expect((await runCommand({ argv: ["cat"], ...bounds })).stdout).toBe("");
  });

  test("keeps the beginning of an endless output", async () => {
    const result = await runCommand({
      argv: ["sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x; echo end >&2"],
      timeoutMs: 30_000,
      maxOutputBytes: 1000,
    });
    expect(result).toMatchObject({ exitCode: 0, truncated: true, stdout: "x".repeat(1000), stderr: "end\n" });
  });

  test("a program that hangs is killed, with what it started", async () => {
    const started = performance.now();
    const result = await runCommand({ argv: ["sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait"], timeoutMs: 300, maxOutputBytes: 1000 });
    expect(result).toMatchObject({ timedOut: true, exitCode: null });
    expect(performance.now() - started).toBeLessThan(10_000);
    const grandchild = Number(result.stdout);
    expect(grandchild).toBeGreaterThan(0);
    // Dead, or a zombie that nobody has waited for.
    const state = await Bun.file(`/proc/${grandchild}/stat`)
      .text()
      .catch(() => "gone");
    expect(state === "gone" || / Z /.test(state)).toBe(true);
  });

  test.each(["SIGKILL", "SIGSTOP"] as const)("ends what may not outlive its time, after a %s of this program", async (signal) => {
    const { path, remove } = scratch();
    const file = join(path, "pid");
    const module = join(import.meta.dir, "../../src/hardware/command.ts");
    const argv = ["sh", "-c", `echo $$ > ${file}; exec sleep 60`];
    const options = JSON.stringify({ argv, timeoutMs: 1_000, maxOutputBytes: 1, endsAnyway: true });
    const haas = Bun.spawn([process.execPath, "-e", `require(${JSON.stringify(module)}).runCommand(${options})`]);
    try {
      const pid = async () =>
        Number(
          await Bun.file(file)
            .text()
            .catch(() => ""),
        ) || null;
      await until("it runs", async () => (await pid()) !== null);
      haas.kill(signal);
      await until("it is ended", async () => !isRunning((await pid())!));
    } finally {
      haas.kill("SIGKILL");
      await haas.exited;
      remove();
    }
  });

  test("resolves although a grandchild in another session keeps the pipe open", async () => {
    const started = performance.now();
    const result = await runCommand({ argv: ["sh", "-c", "setsid sleep 60 & echo $!"], ...bounds });
    expect(performance.now() - started).toBeLessThan(5_000);
    expect(result.exitCode).toBe(0);
    process.kill(Number(result.stdout), "SIGKILL");
  });

  test("a missing program and a cancelled one are typed", async () => {
    const missing = await runCommand({ argv: ["no-such-program-here"], ...bounds }).catch((error: unknown) => error);
    expect(missing).toBeInstanceOf(CommandError);
    expect(missing).toMatchObject({
      reason: "not-installed",
      program: "no-such-program-here",
      message: "no-such-program-here is not installed",
    });
    const cancelled = await runCommand({ argv: ["sleep", "60"], signal: AbortSignal.timeout(100), ...bounds }).catch(
      (error: unknown) => error,
    );
    expect(cancelled).toMatchObject({ reason: "cancelled" });
  });
});

describe("failureSentence", () => {
  const result = { exitCode: 1, stdout: "", stderr: "first\nbad key s3cret\n\n", truncated: false, timedOut: false, durationMs: 5 };

  test("says the most important fact first, and the program's last words without secrets", () => {
    expect(failureSentence({ program: "tool", result, timeoutMs: 1500, secrets: ["s3cret", ""] })).toBe(
      "tool ended with code 1: bad key ***",
    );
    const timedOut = { ...result, exitCode: null, timedOut: true, stderr: "" };
    expect(failureSentence({ program: "tool", result: timedOut, timeoutMs: 1500 })).toBe("tool timed out after 1.5 s");
  });

  test("a secret inside another one uncovers nothing", () => {
    expect(redact("abcdef abc", ["abc", "abcdef"])).toBe("*** ***");
  });
});

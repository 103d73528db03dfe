import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

// The whole test suite on a machine that has nothing but Node, npm and Debian's package client: installs
// the tools that stand in for hardware, watches all process lists for secrets meanwhile, and closes with
// one line that counts. Words on the command line narrow it down, as with `bun test`.

const bun = process.execPath;
const only = process.argv.slice(2);

installTools();
const { passed, failed } = await runTests();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);

/** A test that can't have its tools must fail, so they are installed first, or the suite stops here. */
function installTools(): void {
  const wanted = readFileSync("scripts/debian-packages.txt", "utf8").split(/\s+/).filter(Boolean);
  const missing = wanted.filter((name) => !run(["dpkg-query", "-W", "-f=${Status}", name]).output.includes("install ok installed"));
  if (missing.length === 0) return;
  console.log(`Installing Debian packages: ${missing.join(" ")}`);
  const apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"];
  const installed =
    run([...apt, "update"]).ok &&
    run([...apt, "install", "-y", "--no-install-recommends", ...missing], { DEBIAN_FRONTEND: "noninteractive" }).ok;
  if (!installed) {
    console.error(
      `The suite needs the Debian packages ${missing.join(" ")}, and they can't be installed here. As root: apt-get install ${missing.join(" ")}`,
    );
    console.log("0 passed, 1 failed");
    process.exit(1);
  }
}

function run(argv: string[], env: Record<string, string> = {}): { ok: boolean; output: string } {
  try {
    const { exitCode, stdout, stderr } = Bun.spawnSync(argv, { env: { ...process.env, ...env }, stdout: "pipe", stderr: "pipe" });
    if (exitCode !== 0 && argv[0] === "apt-get") console.error(stderr.toString());
    return { ok: exitCode === 0, output: stdout.toString() };
  } catch {
    return { ok: false, output: "" };
  }
}

async function runTests(): Promise<{ passed: number; failed: number }> {
  const directory = mkdtempSync(join(tmpdir(), "haas-suite-"));
  const findings = join(directory, "secrets");
  const watcher = Bun.spawn([bun, "tests/support/secret-watch.ts", findings], { stdio: ["ignore", "inherit", "inherit"] });
  try {
    const tests = Bun.spawn([bun, "test", "--parallel=2", "--timeout", "60000", ...only], {
      stdin: "ignore",
      stdout: "inherit",
      stderr: "pipe",
    });
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of tests.stderr) {
      process.stderr.write(chunk);
      text += decoder.decode(chunk, { stream: true });
    }
    const exitCode = await tests.exited;
    printFailures(text);
    const count = (what: string) =>
      Number(new RegExp(`^\\s*(\\d+) ${what}`, "m").exec(text.slice(text.lastIndexOf(" pass") - 20))?.[1] ?? 0);
    let [passed, failed] = [count("pass"), count("fail")];
    // A test file that could not be loaded is an error without a failed test.
    if (exitCode !== 0 && failed === 0) failed = 1;
    watcher.kill("SIGTERM");
    if ((await watcher.exited) !== 0) {
      console.error("FAILED: the watcher for secrets in process lists did not run to the end.");
      failed++;
    } else if (existsSync(findings) && readFileSync(findings, "utf8") !== "") {
      console.error(`FAILED: secrets stood in process lists:\n${readFileSync(findings, "utf8")}`);
      failed++;
    } else passed++;
    return { passed, failed };
  } finally {
    watcher.kill("SIGKILL");
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Why tests failed, once more: what is kept of a long log is its end. */
function printFailures(text: string): void {
  const verdicts = text.split(/^\d+ tests? failed:$/m)[0]!.split(/^(\((?:pass|fail)\).*)$/m);
  for (const [i, verdict] of verdicts.entries()) {
    if (!verdict.startsWith("(fail)")) continue;
    console.error(`\nWhy: ${verdict}\n${verdicts[i - 1]!.split("\n").slice(-80).join("\n")}`);
  }
}

// Types, lint with import directions, formatting, dead code. Runs all of them, and fails if one did.

const checks: Record<string, string[]> = {
  types: ["tsc", "--noEmit"],
  lint: ["oxlint", "--type-aware", "--deny-warnings", "."],
  format: ["oxfmt", "--check", "."],
  "dead code": ["knip", "--no-progress"],
};

let failed = 0;
for (const [name, [program, ...args]] of Object.entries(checks)) {
  const { exitCode } = Bun.spawnSync([`node_modules/.bin/${program}`, ...args], { stdio: ["ignore", "inherit", "inherit"] });
  console.log(`${exitCode === 0 ? "ok    " : "FAILED"} ${name}`);
  if (exitCode !== 0) failed++;
}
process.exit(failed === 0 ? 0 : 1);

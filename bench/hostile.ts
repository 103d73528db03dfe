import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { haasBinary } from "../tests/support/binary.ts";
import { Field, type Outcome } from "./hostile/field.ts";
import { type Scenario, scenarios } from "./hostile/scenarios.ts";

// `bun run bench:hostile [scenario …] [--seconds N] [--binary FILE]`: what a good client notices of each attack, and what
// it costs the server; a table in Markdown.

const defaultSeconds = 10;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: "string" }, binary: { type: "string" }, evidence: { type: "boolean" } },
});
const unknown = positionals.filter((name) => !scenarios.some((scenario) => scenario.name === name));
if (unknown.length > 0) {
  console.error(`There is no ${unknown.join(", ")}. There are: ${scenarios.map(({ name }) => name).join(", ")}.`);
  process.exit(2);
}
const wanted = positionals.length === 0 ? scenarios : scenarios.filter(({ name }) => positionals.includes(name));
const field = await Field.make(values.binary === undefined ? await haasBinary() : resolve(values.binary));
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    field.leave();
    process.exit(1);
  });
}
const started = performance.now();
try {
  console.log("| attack | p50 ms | p99 ms | longest ms | failed | first log-in ms | peak MiB | CPU s | log KiB | well after s |");
  console.log("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
  for (const scenario of wanted) {
    try {
      const outcome = await field.run(scenario, Number(values.seconds ?? defaultSeconds));
      console.log(row(scenario, outcome));
      if (values.evidence) console.error(evidence(scenario, outcome));
    } catch (error) {
      console.log(`| ${scenario.what} | ${error instanceof Error ? error.message.slice(0, 200).replaceAll("\n", " ") : String(error)} |`);
    }
  }
} finally {
  field.leave();
}
console.log(`\n${((performance.now() - started) / 1000).toFixed(0)} s`);

function row({ what, newcomers: awaited }: Scenario, outcome: Outcome): string {
  const { answers, newcomers, recoveryMs, peakMiB, cpuSeconds, logBytes, stopped } = outcome;
  const times = answers.map(({ ms }) => ms).sort((a, b) => a - b);
  const at = (share: number) => (times[Math.min(times.length - 1, Math.floor(share * times.length))] ?? Number.NaN).toFixed(1);
  const failed = answers.filter(({ result }) => result !== 200).length;
  const lateNewcomers = newcomers.filter(({ result }) => result !== 200).length;
  const cells = [
    stopped === null ? what : `${what} (stopped: ${stopped})`,
    at(0.5),
    at(0.99),
    at(1),
    failed === 0 ? "0" : `${failed} of ${answers.length}`,
    newcomers.length === 0
      ? awaited
        ? "none answered"
        : ""
      : Math.max(...newcomers.map(({ ms }) => ms)).toFixed(0) + (lateNewcomers > 0 ? `, ${lateNewcomers} failed` : ""),
    peakMiB.toFixed(0),
    cpuSeconds.toFixed(1),
    (logBytes / 1024).toFixed(0),
    recoveryMs === null ? "never" : (recoveryMs / 1000).toFixed(1),
  ];
  return `| ${cells.join(" | ")} |`;
}

/** What the table leaves out. */
function evidence({ name }: Scenario, { answers, newcomers, tally, beforeMiB, afterMiB }: Outcome): string {
  const results = Map.groupBy([...answers, ...newcomers], ({ lane, result }) => `${lane}: ${String(result).slice(0, 150)}`);
  const counts = [...results].map(([what, those]) => `  ${those.length} × ${what}`);
  return [`${name}: ${JSON.stringify(tally)}; ${beforeMiB.toFixed(0)} MiB before, ${afterMiB.toFixed(0)} after`, ...counts].join("\n");
}

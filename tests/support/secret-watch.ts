import { appendFileSync, writeFileSync } from "node:fs";
import { watchSecrets } from "./secrets.ts";

// `bun tests/support/secret-watch.ts REPORTFILE [PATTERN]`: until SIGTERM, a line in the report for every
// process with a secret on its command line.

const [report, pattern] = process.argv.slice(2);
if (report === undefined) throw new Error("Where is the report to be written?");
// The file is there as soon as somebody looks.
writeFileSync(report, "", { mode: 0o600 });
process.on("SIGTERM", () => process.exit(0));
watchSecrets({ ...(pattern !== undefined && { pattern: new RegExp(pattern) }), found: (line) => appendFileSync(report, `${line}\n`) });

import { mkdirSync } from "node:fs";

// One binary that is server and command line. It reads neither .env nor bunfig.toml of the folder
// that it is started in: those could redirect it, and its password, to another server.

mkdirSync("dist", { recursive: true });
const { exitCode } = Bun.spawnSync(
  [
    process.execPath,
    "build",
    "--compile",
    "--minify",
    "--bytecode",
    "--format=esm",
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
    // pg looks for its native twin, which haas does not use.
    "--external=pg-native",
    // ssh2 does without its native helper.
    "--external=cpu-features",
    "src/cli.ts",
    "--outfile",
    "dist/haas",
  ],
  { stdio: ["ignore", "inherit", "inherit"] },
);
process.exit(exitCode);

import { UsageError } from "./command.ts";

/** A password: as given, or for `-` the first line of standard input, which a terminal is asked for without echo. */
export async function readSecret(argument: string, prompt = "Password"): Promise<string> {
  if (argument !== "-") return argument;
  const terminal = process.stdin.isTTY;
  if (terminal) {
    Bun.spawnSync(["stty", "-echo"], { stdin: "inherit" });
    process.stderr.write(`${prompt}: `);
  }
  try {
    for await (const line of console) {
      if (line !== "") return line.replace(/\r$/, "");
      break;
    }
    throw new UsageError("There is no password on standard input.");
  } finally {
    if (terminal) {
      Bun.spawnSync(["stty", "echo"], { stdin: "inherit" });
      process.stderr.write("\n");
    }
  }
}

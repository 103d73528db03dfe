import { readdirSync, readFileSync } from "node:fs";
import { basename } from "node:path";

// Every password of the tests can be told from all other text, so that a test can look where one turns up.

/** What the passwords of all tests look like. */
export const secretPattern = /[a-z]+-secret-[0-9a-f]{4}/;

/** The passwords that more than one test uses, and those that the tests of whole programs use. */
export const secrets = {
  /** Of mock switches and nodes; see service.ts. */
  switch: "switch-secret-7c1e",
  mockBmc: "bmc-secret-51aa",
  /** Of switches with a console. */
  console: "console-secret-c05e",
  /** Of their enable mode, and ones that they refuse. */
  enable: "enable-secret-e4ab",
  wrongConsole: "typo-secret-70ff",
  wrongEnable: "slip-secret-51b0",
  /** Of real BMCs, and one that they refuse. */
  bmc: "bmc-secret-1b3c",
  wrongBmc: "wrong-secret-0bad",
  /** Of users. */
  admin: "admin-secret-a11c",
  alice: "alice-secret-a71c",
  bob: "bob-secret-b0bb",
  carol: "carol-secret-ca10",
  wrongUser: "guess-secret-9e55",
  /** Of a database that can't be reached. */
  database: "db-secret-da7a",
} as const;

/** Every text by which a secret could be told: itself, in hexadecimal, and within any base64, whatever stands before it. */
function formsOf(secret: string): string[] {
  const inBase64 = [0, 1, 2].map((offset) => {
    const text = Buffer.concat([Buffer.alloc(offset), Buffer.from(secret)]).toString("base64");
    // What shares a character with a neighbour is left out.
    return text.slice(offset === 0 ? 0 : offset + 1, Math.floor((secret.length + offset) / 3) * 4);
  });
  return [
    secret,
    Buffer.from(secret).toString("hex"),
    ...inBase64,
    ...inBase64.map((text) => text.replaceAll("+", "-").replaceAll("/", "_")),
  ];
}

/** The secrets that a text gives away, in whatever form. */
export function secretsIn(text: string, known: Iterable<string> = Object.values(secrets)): string[] {
  const found = [...known].filter((secret) => formsOf(secret).some((form) => text.includes(form)));
  return [...new Set([...found, ...(text.match(new RegExp(secretPattern, "g")) ?? [])])];
}

const pollMs = 20;

/** The `haas` command line, compiled or the checkout's: what a user types is the user's own. Not its children, and not the server. */
function isTyped([program = "", ...rest]: readonly string[]): boolean {
  const script = /^bun(\.exe)?$/.test(basename(program)) ? rest.findIndex((word) => word.endsWith("/src/cli.ts")) : -1;
  if (basename(program) !== "haas" && script === -1) return false;
  return !rest.slice(script + 1).some((word) => word === "serve" || word === "serve_networks");
}

export interface SecretWatch {
  /** A line for every process that had a secret on its command line: `pid: words`. */
  readonly findings: readonly string[];
  stop(): void;
}

/**
 * Look at the command lines of all processes of this machine about every 20 ms. What lives shorter than
 * that can be missed, so a test that needs certainty about one program puts itself before it on PATH.
 */
export function watchSecrets({
  pattern = secretPattern,
  found = () => {},
}: { pattern?: RegExp; found?: (line: string) => void } = {}): SecretWatch {
  const findings: string[] = [];
  const seen = new Set<string>();
  const look = () => {
    for (const pid of readdirSync("/proc")) {
      if (!/^\d+$/.test(pid)) continue;
      const text = commandLine(pid);
      if (!pattern.test(text)) continue;
      const argv = text.split("\0");
      const line = `${pid}: ${argv.join(" ").trim().replace(/\s/g, " ")}`;
      if (isTyped(argv) || seen.has(line)) continue;
      seen.add(line);
      findings.push(line);
      found(line);
    }
  };
  look();
  const timer = setInterval(look, pollMs);
  return { findings, stop: () => clearInterval(timer) };
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    // It has ended.
    return "";
  }
}

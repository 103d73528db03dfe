import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "./postgres.ts";

// OpenSSH servers, which are nobody's emulation, for the user that runs this.

const startTimeoutMs = 20_000;

/** Host keys of every type, and those of two users: `user` may log in, `stranger` may not. */
export interface Keys {
  readonly dir: string;
  path(name: HostKey | "user" | "stranger"): string;
  remove(): void;
}

const hostKeys = {
  ed25519: ["ed25519"],
  ecdsa256: ["ecdsa", "256"],
  ecdsa384: ["ecdsa", "384"],
  ecdsa521: ["ecdsa", "521"],
  rsa: ["rsa", "3072"],
  dsa: ["dsa"],
};
export type HostKey = keyof typeof hostKeys;

export function keygen(...args: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["ssh-keygen", ...args], { stdin: "ignore" });
  if (exitCode !== 0) throw new Error(`ssh-keygen ${args.join(" ")}: ${stderr.toString()}`);
  return stdout.toString();
}

export function makeKeys(types: readonly HostKey[] = ["ed25519"]): Keys {
  const dir = mkdtempSync(join(tmpdir(), "haas-ssh-"));
  const path = (name: string) => join(dir, name);
  const make = (name: string, [type, bits]: readonly string[]) =>
    keygen("-q", "-t", type!, ...(bits === undefined ? [] : ["-b", bits]), "-N", "", "-f", path(name));
  for (const type of types) make(type, hostKeys[type]);
  for (const user of ["user", "stranger"]) make(user, ["ed25519"]);
  writeFileSync(path("authorized"), readFileSync(path("user.pub")));
  return { dir, path, remove: () => rmSync(dir, { recursive: true, force: true }) };
}

export const thisUser = (): string => Bun.spawnSync(["id", "-un"]).stdout.toString().trim();

export interface OpenSsh {
  readonly port: number;
  stop(): Promise<void>;
}

/** A server with these options of sshd_config(5) beside what it needs, for instance `KexAlgorithms=…`. */
export async function startOpenSsh(keys: Keys, options: readonly string[] = [], hostKey: HostKey = "ed25519"): Promise<OpenSsh> {
  const port = await freePort();
  const log = join(keys.dir, `log-${port}`);
  writeFileSync(log, "");
  // What the package's own service would make.
  Bun.spawnSync(["mkdir", "-p", "/run/sshd"]);
  const all = [
    `Port=${port}`,
    "ListenAddress=127.0.0.1",
    `HostKey=${keys.path(hostKey)}`,
    `AuthorizedKeysFile=${join(keys.dir, "authorized")}`,
    "StrictModes=no",
    "PasswordAuthentication=no",
    "PermitRootLogin=yes",
    "PidFile=none",
    "UsePAM=no",
    ...options,
  ];
  const server = Bun.spawn(["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", ...all.flatMap((option) => ["-o", option])], {
    stdio: ["ignore", "ignore", Bun.file(log)],
  });
  for (const until = performance.now() + startTimeoutMs; !readFileSync(log, "utf8").includes("Server listening"); await Bun.sleep(25)) {
    if (server.exitCode !== null || performance.now() > until) throw new Error(`sshd does not start: ${readFileSync(log, "utf8")}`);
  }
  return {
    port,
    async stop() {
      server.kill();
      await server.exited;
    },
  };
}

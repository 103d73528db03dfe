import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectSsh, type SshOptions } from "../../src/hardware/console/ssh.ts";
import { freePort } from "../support/postgres.ts";

// Key exchange, host key and login against OpenSSH, which is nobody's emulation.

let dir: string;
let port: number;
let server: ReturnType<typeof Bun.spawn>;

const keygen = (...args: string[]) => {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["ssh-keygen", ...args], { stdin: "ignore" });
  if (exitCode !== 0) throw new Error(`ssh-keygen ${args.join(" ")}: ${stderr.toString()}`);
  return stdout.toString();
};

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "haas-ssh-"));
  port = await freePort();
  for (const name of ["host", "user", "stranger"]) keygen("-q", "-t", "ed25519", "-N", "", "-f", join(dir, name));
  writeFileSync(join(dir, "authorized"), readFileSync(join(dir, "user.pub")));
  writeFileSync(
    join(dir, "config"),
    [
      `Port ${port}`,
      "ListenAddress 127.0.0.1",
      `HostKey ${join(dir, "host")}`,
      `AuthorizedKeysFile ${join(dir, "authorized")}`,
      "StrictModes no",
      "PasswordAuthentication no",
      "PermitRootLogin yes",
      `PidFile ${join(dir, "pid")}`,
      "UsePAM no",
    ].join("\n"),
  );
  // What the package's own service would make.
  Bun.spawnSync(["mkdir", "-p", "/run/sshd"]);
  server = Bun.spawn(["/usr/sbin/sshd", "-D", "-e", "-f", join(dir, "config")], {
    stdio: ["ignore", "ignore", Bun.file(join(dir, "log"))],
  });
  for (let i = 0; !readFileSync(join(dir, "log"), "utf8").includes("Server listening"); i++) {
    if (i > 200) throw new Error(`sshd does not start: ${readFileSync(join(dir, "log"), "utf8")}`);
    await Bun.sleep(25);
  }
});
afterAll(async () => {
  server?.kill();
  await server?.exited;
  rmSync(dir, { recursive: true, force: true });
});

const options = (more: Partial<SshOptions> = {}): SshOptions => ({
  host: "127.0.0.1",
  port,
  timeoutMs: 10_000,
  username: Bun.spawnSync(["id", "-un"]).stdout.toString().trim(),
  password: "",
  keyFile: join(dir, "user"),
  legacyAlgorithms: false,
  knownHostKey: async (presented) => presented,
  ...more,
});

test.each([false, true])("a shell of OpenSSH, with legacy algorithms offered: %p", async (legacyAlgorithms) => {
  let presented = "";
  const knownHostKey = async (key: string) => (presented = key);
  const transport = await connectSsh(options({ legacyAlgorithms, knownHostKey }));
  expect(keygen("-lf", join(dir, "host.pub"))).toContain(presented);
  transport.write("echo it-$((40 + 2))\n");
  let text = "";
  while (!text.includes("it-42")) text += (await transport.read(5_000)) ?? "nothing arrived: it-42";
  expect(text).not.toContain("nothing arrived");
  transport.close();
  expect(await transport.read(1_000).catch((error: Error) => error.message)).toBe("the connection was closed");
});

test("a key that it does not know is refused, and so is a host that is not the one we know", async () => {
  const failure = (more: Partial<SshOptions>) => connectSsh(options(more)).then(String, (error: Error) => error.message);
  expect(await failure({ keyFile: join(dir, "stranger") })).toContain("refuses the login");
  expect(await failure({ knownHostKey: async () => "SHA256:other" })).toContain("is known by SHA256:other");
});

import { expect } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { haasBinary, type Ran, run, serve, type Served } from "./binary.ts";
import type { LibvirtLab } from "./libvirt-lab.ts";
import { freePort } from "./postgres.ts";
import { secrets } from "./secrets.ts";

// `haas serve` in the namespaces of a libvirtd, and the command lines of its users; all of it the compiled program.

const passwords = { root: secrets.admin, alice: secrets.alice, bob: secrets.bob, carol: secrets.carol };
type User = keyof typeof passwords;

export interface LabService {
  /** The compiled program. */
  readonly haas: string;
  readonly port: number;
  /** `words`: what stands before the program, such as `env`. */
  serve(...words: string[]): Promise<Served>;
  /** A command as a user types it. */
  argvOf(user: User, argv: readonly string[]): string[];
  start(user: User, argv: readonly string[], stdin?: string): Promise<Ran>;
  /** Standard output of a command that has to succeed. */
  ok(user: User, ...argv: string[]): Promise<string>;
  /** Once the server runs. */
  addUser(user: User, project: string): Promise<void>;
}

/** With the administrator `root` already; `config` is the path of its haas.cfg, `dir` a scratch directory. */
export async function makeLabService(lab: LibvirtLab, dir: string, config: string): Promise<LabService> {
  const [haas, port] = [await haasBinary(), await freePort()];
  const passwordFile = (user: string) => join(dir, `password-${user}`);
  for (const [user, password] of Object.entries(passwords)) writeFileSync(passwordFile(user), password, { mode: 0o600 });
  const created = await run([haas, "create_admin_user", "root", "-", "--config", config], { cwd: dir, stdin: `${secrets.admin}\n` });
  expect(created.status).toBe(0);
  const service: LabService = {
    haas,
    port,
    serve: (...words) =>
      serve([...lab.enter, ...words, haas, "serve", String(port), "--config", config], port, {
        cwd: dir,
        answers: async (path) =>
          (await lab.run("curl", "-s", "-o", "/dev/null", "-m", "2", `http://127.0.0.1:${port}${path}`)).exitCode === 0,
      }),
    argvOf(user, argv) {
      // The password comes from a file, and so stands in no list of processes.
      const script = `HAAS_PASSWORD=$(cat ${passwordFile(user)}) && export HAAS_PASSWORD && exec "$@"`;
      const env = ["env", `HAAS_ENDPOINT=http://127.0.0.1:${port}`, `HAAS_USERNAME=${user}`];
      return [...lab.enter, ...env, "sh", "-c", script, "sh", haas, ...argv];
    },
    start: (user, argv, stdin = "") => run(service.argvOf(user, argv), { cwd: dir, stdin }),
    async ok(user, ...argv) {
      const { status, out, err } = await service.start(user, argv);
      expect({ argv, status, err }).toEqual({ argv, status: 0, err: "" });
      return out;
    },
    async addUser(user, project) {
      expect((await service.start("root", ["user_create", user, "-", "regular"], `${passwords[user]}\n`)).status).toBe(0);
      await service.ok("root", "user_add_project", user, project);
    },
  };
  return service;
}

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, cpSync, lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { join, resolve } from "node:path";
import { haas } from "../cli/haas.ts";
import { scratch } from "../support/service.ts";

// examples/kickstart_headnode/README.md, "Try it on one machine": its commands, word for word, in a fresh clone. All of it
// lives in a network namespace that they make, so that two of these tests do not meet.

const root = resolve(import.meta.dir, "../..");
const directory = scratch();
const clone = join(directory.path, "haas");
const readme = readFileSync(join(root, "examples/kickstart_headnode/README.md"), "utf8");
const limitMs = 180_000;

/** The commands of a section, a block at a time. */
function commandsOf(title: string): string[] {
  const section = readme.slice(readme.indexOf(`## ${title}\n`) + 3).split(/^## /m)[0]!;
  return [...section.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, commands]) => commands!);
}
const [prepare, ...blocks] = commandsOf("Try it on one machine");

/** End the commands and all that they started. */
function end(group: number): void {
  try {
    process.kill(-group, "SIGKILL");
  } catch {
    // It has ended.
  }
  for (const name of readdirSync(directory.path).filter((name) => name.startsWith("tmp."))) {
    Bun.spawnSync([join(clone, "examples/rack/down.sh")], { env: { ...process.env, RACK: join(directory.path, name) } });
  }
}

const sh = (argv: string[], cwd: string): string => {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv, { cwd });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString()}`);
  return stdout.toString();
};

beforeAll(() => {
  // dnsmasq gives up root's rights, and has to get at its files below this all the same.
  chmodSync(directory.path, 0o711);
  // As it stands in the work tree, committed or not.
  mkdirSync(clone);
  sh(["git", "clone", "--quiet", "--no-hardlinks", root, clone], directory.path);
  const files = sh(["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard", "--deduplicate"], root).split("\0");
  for (const file of files.filter((name) => lstatSync(join(root, name), { throwIfNoEntry: false })?.isFile())) {
    sh(["cp", "--parents", "--preserve=mode", file, clone], root);
  }
  symlinkSync(join(root, "node_modules"), join(clone, "node_modules"));
});
afterAll(directory.remove);

describe("the example on one machine", () => {
  test("asks for nothing that this suite does not install, too", () => {
    const [install, npm] = prepare!.trim().split("\n");
    const asked = install!.replace("apt-get install --no-install-recommends ", "").split(" ");
    const installed = readFileSync(join(root, "scripts/debian-packages.txt"), "utf8").split("\n");
    expect(asked.filter((name) => !installed.includes(name))).toEqual([]);
    // What a fresh clone gets by this is linked into the clone.
    expect(npm).toBe("npm install");
  });

  test(
    "installs two nodes, which then run from their disks",
    async () => {
      const shell = Bun.spawn(["bash"], {
        cwd: clone,
        env: { PATH: process.env.PATH ?? "", HOME: directory.path, TMPDIR: directory.path },
        // The shell that `unshare` opens reads on from here.
        stdin: Buffer.from(blocks.join("")),
        stdout: "pipe",
        stderr: "pipe",
        // A process group of its own, to be ended as a whole.
        detached: true,
      });
      const late = setTimeout(() => end(shell.pid), limitMs - 20_000);
      const [out, err] = await Promise.all([shell.stdout.text(), shell.stderr.text(), shell.exited]);
      clearTimeout(late);
      const said = `${out}\n--- standard error:\n${err}`;
      const left = readdirSync(directory.path).filter((name) => name.startsWith("tmp."));
      end(shell.pid);
      expect(said).toContain("cable node-02 eth0 rack0 port2\n");
      expect(said).toContain("node-01 runs from its disk.");
      expect(said).toContain("node-02 runs from its disk.");
      for (const node of ["node-01", "node-02"]) expect(out).toMatch(new RegExp(`^${node}\\b.*\\bdone\\b`, "m"));
      expect(err).not.toContain("Error");
      expect(shell.exitCode).toBe(0);
      expect(left).toEqual([]);
    },
    limitMs,
  );
});

test("every profile of the example can be armed, and uses a template", async () => {
  const folder = join(directory.path, "headnode");
  cpSync(join(root, "examples/kickstart_headnode"), folder, { recursive: true });
  const { profiles } = Bun.TOML.parse(readFileSync(join(folder, "boot.toml"), "utf8")) as any;
  const used: string[] = [];
  for (const [name, { kernel, initrd, files }] of Object.entries<any>(profiles)) {
    used.push(...Object.values<string>(files));
    // Instead of what fetch-images.sh brings.
    for (const file of [kernel, ...initrd]) await Bun.write(join(folder, "files", file), "");
    const { status, err } = await haas(["boot_arm", `52:54:00:00:00:0${used.length}`, "--profile", name], { cwd: folder });
    expect({ name, status, err: err.replace(/^warning: .*\n/, "") }).toEqual({ name, status: 0, err: "" });
  }
  expect(readdirSync(join(folder, "templates")).sort()).toEqual(used.sort());
});

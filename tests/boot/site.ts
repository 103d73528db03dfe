import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import { dirname, join } from "node:path";
import { haasBinary, type Ran, run } from "../support/binary.ts";
import { freePort } from "../support/postgres.ts";
import { scratch } from "../support/service.ts";

// A site that boots over the network, in a scratch directory: boot.toml, files, templates, leases, and `haas boot serve`.

/** In every rendered file; see secrets.ts for what it looks like. */
export const nodeSecret = "root-secret-b007";
export const profileSecret = "mirror-secret-77aa";

export const macOf = (i: number): string =>
  `52:54:00:aa:${(i >> 8).toString(16).padStart(2, "0")}:${(i & 255).toString(16).padStart(2, "0")}`;
/** Every address of 127.0.0.0/8 is ours to call from. */
export const loopbackOf = (i: number): string => `127.77.${i >> 8}.${i & 255}`;

export interface Answer {
  readonly status: number;
  readonly body: string;
  readonly headers: http.IncomingHttpHeaders;
}

export interface Asked {
  /** The address to ask from. */
  readonly from?: string;
  readonly method?: string;
  readonly body?: Buffer;
  readonly headers?: Record<string, string>;
}

const requestTimeoutMs = 20_000;

/** One request, exactly as the path is written. Rejects when there is no answer. */
export function ask(url: string, path: string, { from, method = "GET", body, headers }: Asked = {}): Promise<Answer> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const options = { hostname, port, path, method, headers: headers ?? {}, timeout: requestTimeoutMs, agent: false as const };
    const request = http.request({ ...options, ...(from !== undefined && { localAddress: from }) }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => {
        resolve({ status: response.statusCode!, body: Buffer.concat(chunks).toString("latin1"), headers: response.headers });
      });
    });
    request.on("error", reject);
    request.on("timeout", () => request.destroy(new Error("no answer in time")));
    request.end(body);
  });
}

export interface Serving {
  readonly url: string;
  readonly pid: number;
  log(): string;
  /** SIGKILL, as the kernel or an operator would. */
  kill(): Promise<void>;
  /** SIGTERM; throws when it does not end with success. */
  stop(): Promise<void>;
}

export interface Site {
  readonly dir: string;
  readonly port: number;
  /** Below the site's folder. */
  write(name: string, text: string | Buffer): void;
  /** `index` → the lease of `macOf(index)` is that address. */
  lease(holders: Readonly<Record<number, string>>, expiry?: number): void;
  /** Run `haas boot …` with this site's boot.toml. */
  boot(...argv: string[]): Promise<Ran>;
  /** The same, but it must succeed. */
  ok(...argv: string[]): Promise<string>;
  status(): Promise<Status[]>;
  serve(): Promise<Serving>;
  remove(): Promise<void>;
}

export interface Status {
  machine: string;
  macs: string[];
  profile: string;
  state: string;
  since: string;
  boots: number;
  reported_from: string | null;
}

const startTimeoutMs = 20_000;
const stopTimeoutMs = 15_000;
const running = new Set<Bun.Subprocess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

export interface SiteOptions {
  /** The beginning of boot.toml; without it, it serves on 127.0.0.1. */
  readonly head?: string;
  readonly url?: string;
  /** Appended to boot.toml. */
  readonly more?: string;
  /** Words before every command, such as `ip netns exec …`. */
  readonly within?: readonly string[];
}

export async function makeSite({ head, url, more = "", within = [] }: SiteOptions = {}): Promise<Site> {
  const { path: dir, remove } = scratch();
  const binary = await haasBinary();
  const port = await freePort();
  const served = url ?? `http://127.0.0.1:${port}`;
  const mine = new Set<Bun.Subprocess>();
  const write: Site["write"] = (name, text) => {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), text, { mode: 0o600 });
  };
  write(
    "boot.toml",
    `${head ?? `address = "127.0.0.1"\nport = ${port}\n`}leases = "leases"
${head === undefined ? '[dnsmasq]\ntftp_root = "tftp"\n' : ""}
[profiles.linux]
kernel = "linux/vmlinuz"
initrd = ["linux/initrd.img"]
args = "auto url={{ files_url }}/answers quiet"
timeout_minutes = 30
files = { "answers" = "answers.txt", "user-data" = "user-data.txt" }
[profiles.linux.variables]
mirror = "http://user:${profileSecret}@mirror.test/"
${more}`,
  );
  write("leases", "");
  mkdirSync(join(dir, "tftp"));
  write("files/linux/vmlinuz", "the kernel");
  write("files/linux/initrd.img", Buffer.alloc(700_000, "initrd."));
  write("templates/answers.txt", `for {{ node }} {{ mac }} {{ address }}\npassword ${nodeSecret} {{ mirror }}\nreport {{ done_url }}\n`);
  write("templates/user-data.txt", "#cloud-config\n{% if mac_hyphen contains '-' %}hostname: {{ node }}{% endif %}\n");
  const argv = (...words: string[]) => [...within, binary, "boot", ...words, "--config", "boot.toml"];
  const boot: Site["boot"] = (...words) => run(argv(...words), { cwd: dir });
  const ok: Site["ok"] = async (...words) => {
    const { status, out, err } = await boot(...words);
    if (status !== 0) throw new Error(`haas boot ${words.join(" ")}: ${err}`);
    return out;
  };
  return {
    dir,
    port,
    write,
    boot,
    ok,
    lease(holders, expiry = Math.floor(Date.now() / 1000) + 3600) {
      const lines = Object.entries(holders).map(([i, address]) => `${expiry} ${macOf(Number(i))} ${address} * *\n`);
      write("leases", lines.join(""));
    },
    status: async () => JSON.parse(await ok("status", "--json")),
    async serve() {
      const log = join(dir, `log-${Bun.randomUUIDv7()}`);
      writeFileSync(log, "");
      const child = Bun.spawn(argv("serve"), {
        cwd: dir,
        env: { PATH: process.env.PATH ?? "", HOME: dir, TMPDIR: dir },
        stdin: "ignore",
        stdout: "ignore",
        stderr: Bun.file(log),
      });
      for (const set of [running, mine]) set.add(child);
      const read = () => readFileSync(log, "utf8");
      for (const end = Date.now() + startTimeoutMs; !read().includes('"serving"'); await Bun.sleep(10)) {
        if (child.exitCode === null && Date.now() < end) continue;
        child.kill("SIGKILL");
        throw new Error(`haas boot serve did not start: ${read()}`);
      }
      return {
        url: served,
        pid: child.pid,
        log: read,
        async kill() {
          child.kill("SIGKILL");
          await child.exited;
        },
        async stop() {
          child.kill("SIGTERM");
          const status = await Promise.race([child.exited, Bun.sleep(stopTimeoutMs).then(() => null)]);
          if (status !== 0) throw new Error(`haas boot serve ended with ${status}: ${read()}`);
        },
      };
    },
    async remove() {
      for (const child of mine) {
        child.kill("SIGKILL");
        await child.exited;
        running.delete(child);
      }
      remove();
    },
  };
}

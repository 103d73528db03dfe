import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Orders } from "./attacker.ts";
import type { Answer, Errands } from "./client.ts";
import { people } from "./people.ts";
import type { Scenario } from "./scenarios.ts";
import type { Tally } from "./swarm.ts";
import { makeWorld } from "./world.ts";

// One scenario: a server of its own, the good client, the attackers, each as processes; and what is measured of them.

const startTimeoutMs = 20_000;
/** The good client is well when every lane had a good answer within this, and nothing went wrong for a while. */
const slowMs = 250;
const wellForMs = 1_000;
const recoveryLimitMs = 90_000;
const attackersPerSwarm = 2;
const lookEveryMs = 100;
/** Where a scenario is stopped, to spare the machine. */
const serverLimitMiB = 3 * 1024;
const machineReserveMiB = 4 * 1024;
const clockTicksPerSecond = 100;

export interface Outcome {
  /** What the good client had for answers during the attack. */
  answers: readonly Answer[];
  /** First log-ins during the attack. */
  newcomers: readonly Answer[];
  /** From the end of the attack until the good client was well again; null when it was not. */
  recoveryMs: number | null;
  /** Resident memory of the server. */
  beforeMiB: number;
  peakMiB: number;
  afterMiB: number;
  /** Files that the server has open. */
  filesBefore: number;
  filesAfter: number;
  /** Processor time of the server during the attack. */
  cpuSeconds: number;
  /** What it wrote into its log. */
  logBytes: number;
  /** What the attackers counted, all together. */
  tally: Tally;
  /** Why the attack was ended early. */
  stopped: string | null;
}

/** What a server is started with. */
type Surroundings = Pick<Scenario, "files" | "tls" | "ipv6">;

/** The directory that everything works in, with a world to copy. Remove it with `leave`. */
export class Field {
  readonly directory = mkdtempSync(join(tmpdir(), "haas-hostile-"));
  readonly #children = new Set<Bun.Subprocess>();
  readonly #namespace = `haas-hostile-${process.pid}`;
  #serial = 0;

  private constructor(readonly binary: string) {}

  static async make(binary: string): Promise<Field> {
    const field = new Field(binary);
    await makeWorld(`sqlite:///${join(field.directory, "world.db")}`);
    return field;
  }

  leave(): void {
    for (const child of this.#children) child.kill("SIGKILL");
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Let the scenario happen for `seconds`. `meanwhile` runs when the attack is at its height. */
  run(scenario: Scenario, seconds: number, meanwhile?: (server: Server) => Promise<void>): Promise<Outcome> {
    return this.serve(scenario, (server) => this.#measure(scenario, server, seconds, meanwhile));
  }

  /** A server of its own while `act` goes on. */
  async serve<T>(around: Surroundings, act: (server: Server) => Promise<T>): Promise<T> {
    if (around.ipv6) this.#makeNamespace();
    try {
      const server = await this.#startServer(around);
      try {
        return await act(server);
      } finally {
        await this.#end(server.child, "SIGKILL");
      }
    } finally {
      if (around.ipv6) runProgram(["ip", "netns", "delete", this.#namespace]);
    }
  }

  async #measure(scenario: Scenario, server: Server, seconds: number, meanwhile?: (server: Server) => Promise<void>): Promise<Outcome> {
    const client = this.#startClient(scenario, server.port);
    await firstAnswers(client, server);
    const beforeMiB = server.memory().now;
    const filesBefore = server.openFiles();
    server.resetPeak();
    const [cpuBefore, logBefore, start] = [server.cpuSeconds(), server.logBytes(), Date.now()];
    const attackers = this.#attack(scenario, server.port);
    let stopped: string | null = null;
    const held = meanwhile && Bun.sleep((1000 * seconds) / 2).then(() => meanwhile(server));
    for (let look = Date.now(); stopped === null && Date.now() - start < 1000 * seconds; look += lookEveryMs) {
      await Bun.sleep(Math.max(0, look + lookEveryMs - Date.now()));
      stopped = server.trouble();
    }
    await held;
    const end = Date.now();
    const cpuSeconds = server.cpuSeconds() - cpuBefore;
    const tallies = await Promise.all(attackers.map(endAttacker));
    const recoveryMs = server.child.exitCode === null ? await recovery(client.answers, end, client.lanes) : null;
    await this.#end(client.child, "SIGKILL");
    const { now, peak } = server.memory();
    const during = client.answers.filter(({ at, ms }) => at + ms >= start && at <= end);
    return {
      answers: during.filter(({ lane }) => lane !== "newcomer"),
      newcomers: client.answers.filter(({ lane }) => lane === "newcomer"),
      recoveryMs,
      beforeMiB,
      peakMiB: peak,
      afterMiB: now,
      filesBefore,
      filesAfter: server.openFiles(),
      cpuSeconds,
      logBytes: server.logBytes() - logBefore,
      tally: sum(tallies),
      stopped,
    };
  }

  async #startServer({ files, tls, ipv6 }: Surroundings): Promise<Server> {
    const place = join(this.directory, `server-${++this.#serial}`);
    mkdirSync(join(place, "tmp"), { recursive: true });
    copyFileSync(join(this.directory, "world.db"), join(place, "haas.db"));
    const config = join(place, "haas.cfg");
    const extensions = ["auth.database", "network_allocators.vlan_pool", "obm.mock", "switches.mock"].map((name) => `haas.ext.${name} =`);
    writeFileSync(
      config,
      [
        "[general]",
        "log_level = info",
        ...(tls ? this.#certificate() : []),
        "[headnode]",
        "driver = mock",
        "base_imgs = base",
        `[database]\nuri = sqlite:///${join(place, "haas.db")}`,
        "[extensions]",
        ...extensions,
        "[haas.ext.network_allocators.vlan_pool]\nvlans = 100-199\n",
      ].join("\n"),
      { mode: 0o600 },
    );
    const limits = files ? ["prlimit", `--nofile=${files.soft}:${files.hard}`] : [];
    const log = join(place, "log");
    const child = this.#spawn(
      [...this.#inside(ipv6), ...limits, this.binary, "serve", "0", "--config", config, "--host", ipv6 ? "::" : "0.0.0.0"],
      {
        cwd: place,
        env: { PATH: process.env.PATH ?? "", HOME: place, TMPDIR: join(place, "tmp") },
        stdout: "ignore",
        stderr: Bun.file(log),
      },
    );
    for (const deadline = Date.now() + startTimeoutMs; Date.now() < deadline && child.exitCode === null; await Bun.sleep(20)) {
      const port = /"serving","url":"[^"]+:(\d+)"/.exec(readFileSync(log, "utf8"))?.[1];
      if (port !== undefined) return new Server(child, Number(port), log);
    }
    throw new Error(`haas serve did not start: ${readFileSync(log, "utf8")}`);
  }

  /** The lines of haas.cfg for a certificate of its own. */
  #certificate(): string[] {
    const [cert, key] = [join(this.directory, "cert.pem"), join(this.directory, "key.pem")];
    const wanted = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=haas", "-days", "30"];
    runProgram(["openssl", "req", "-x509", ...wanted, "-keyout", key, "-out", cert]);
    return [`tls_cert = ${cert}`, `tls_key = ${key}`];
  }

  #startClient({ tls, ipv6, newcomers }: Scenario, port: number) {
    const errands: Errands = {
      host: ipv6 ? "fd00:2::1" : "127.0.0.1",
      port,
      tls: tls ?? false,
      // Not only from where the loopback's reserve is.
      from: ipv6 ? ["fd00:2::2", "fd00:3::2"] : ["127.0.0.1", "127.0.9.9"],
      ...people.admin,
      newcomers: newcomers ? people.owners : [],
      newcomersFrom: "127.0.9.10",
    };
    const child = this.#spawn([...this.#inside(ipv6), process.execPath, join(import.meta.dir, "client.ts"), JSON.stringify(errands)], {
      stdout: "pipe",
    });
    const answers: Answer[] = [];
    void readLines(child.stdout as ReadableStream<Uint8Array>, (line) => answers.push(JSON.parse(line) as Answer));
    return { child, answers, lanes: 2 * errands.from.length };
  }

  #attack({ swarms, ipv6 }: Scenario, port: number): Bun.Subprocess[] {
    return swarms.flatMap(({ behaviour, connections, addresses }) => {
      const processes = Math.min(attackersPerSwarm, connections);
      const from = Array.from({ length: addresses }, (_, n) =>
        ipv6 ? `fd00:1::${(n + 1).toString(16)}` : `127.0.${1 + Math.floor(n / 250)}.${1 + (n % 250)}`,
      );
      return Array.from({ length: processes }, (_, n) => {
        const orders: Orders = {
          behaviour,
          host: ipv6 ? "fd00:2::1" : "127.0.0.1",
          port,
          from: addresses >= processes ? from.filter((_, i) => i % processes === n) : from,
          connections: Math.ceil(connections / processes),
        };
        // On one processor, so that the server has the rest for itself, as if they were somewhere else.
        return this.#spawn(
          [...this.#inside(ipv6), "taskset", "-c", "0", process.execPath, join(import.meta.dir, "attacker.ts"), JSON.stringify(orders)],
          { stdout: "pipe" },
        );
      });
    });
  }

  #inside = (ipv6: true | undefined) => (ipv6 ? ["ip", "netns", "exec", this.#namespace] : []);

  /** A network of its own, all of whose addresses in fd00::/16 are this machine. */
  #makeNamespace(): void {
    runProgram(["ip", "netns", "add", this.#namespace]);
    runProgram(["ip", "-n", this.#namespace, "link", "set", "lo", "up"]);
    runProgram(["ip", "-n", this.#namespace, "route", "add", "local", "fd00::/16", "dev", "lo"]);
    runProgram(["ip", "netns", "exec", this.#namespace, "sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1"]);
  }

  #spawn(argv: string[], options: { cwd?: string; env?: Record<string, string>; stdout: "pipe" | "ignore"; stderr?: Bun.BunFile }) {
    const child = Bun.spawn(argv, { stdin: "ignore", stderr: "inherit", ...options });
    this.#children.add(child);
    void child.exited.then(() => this.#children.delete(child));
    return child;
  }

  async #end(child: Bun.Subprocess, signal: NodeJS.Signals): Promise<void> {
    child.kill(signal);
    await child.exited;
  }
}

/** The server under attack, looked at from outside. */
export class Server {
  constructor(
    readonly child: Bun.Subprocess,
    readonly port: number,
    readonly logFile: string,
  ) {}

  log = () => readFileSync(this.logFile, "utf8");
  logBytes = () => statSync(this.logFile).size;

  memory(): { now: number; peak: number } {
    const status = readFileSync(`/proc/${this.child.pid}/status`, "utf8");
    const mebibytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? Number.NaN) / 1024;
    return { now: mebibytes("VmRSS"), peak: mebibytes("VmHWM") };
  }

  resetPeak(): void {
    writeFileSync(`/proc/${this.child.pid}/clear_refs`, "5");
  }

  openFiles = () => readdirSync(`/proc/${this.child.pid}/fd`).length;
  limits = () => readFileSync(`/proc/${this.child.pid}/limits`, "utf8");

  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.child.pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / clockTicksPerSecond;
  }

  /** Why the attack has to end now. */
  trouble(): string | null {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return "the server has ended";
    if (this.memory().now > serverLimitMiB) return `the server has more than ${serverLimitMiB} MiB`;
    const free = Number(/^MemAvailable:\s+(\d+) kB/m.exec(readFileSync("/proc/meminfo", "utf8"))![1]) / 1024;
    return free < machineReserveMiB ? "the machine has no memory left" : null;
  }
}

/** The good client is signed in on all its lanes. */
async function firstAnswers({ answers, lanes }: { answers: readonly Answer[]; lanes: number }, server: Server): Promise<void> {
  for (const deadline = Date.now() + startTimeoutMs; Date.now() < deadline; await Bun.sleep(20)) {
    if (new Set(answers.filter(({ result }) => result === 200).map(({ lane }) => lane)).size >= lanes) return;
  }
  throw new Error(`The good client had no answer before the attack: ${JSON.stringify(answers[0])}\n${server.log()}`);
}

/** How long after `end` the good client was well again. */
async function recovery(answers: readonly Answer[], end: number, lanes: number): Promise<number | null> {
  for (; Date.now() - end < recoveryLimitMs; await Bun.sleep(lookEveryMs)) {
    let sick = end;
    for (const { lane, at, ms, result } of answers)
      if (lane !== "newcomer" && (result !== 200 || ms > slowMs)) sick = Math.max(sick, at + ms);
    const well = answers.filter(({ at, result }) => at >= sick && result === 200);
    if (new Set(well.map(({ lane }) => lane)).size >= lanes && Date.now() - sick > wellForMs) return sick - end;
  }
  return null;
}

async function endAttacker(child: Bun.Subprocess): Promise<Tally> {
  child.kill("SIGTERM");
  const stubborn = setTimeout(() => child.kill("SIGKILL"), 2_000);
  const text = await new Response(child.stdout as ReadableStream).text();
  clearTimeout(stubborn);
  return text === "" ? {} : (JSON.parse(text) as Tally);
}

function sum(tallies: readonly Tally[]): Tally {
  const total: Tally = {};
  for (const tally of tallies) for (const [word, count] of Object.entries(tally)) total[word] = (total[word] ?? 0) + count;
  return total;
}

async function readLines(stream: ReadableStream<Uint8Array>, take: (line: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    lines.forEach(take);
  }
}

function runProgram(argv: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(argv, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString()}`);
}

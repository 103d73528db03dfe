import { readFileSync } from "node:fs";
import { join } from "node:path";
import { switchTypePrefix } from "../src/hardware/switches/index.ts";
import { type HostKey, type Keys, makeKeys, startOpenSsh, thisUser } from "../tests/support/openssh.ts";
import { secrets } from "../tests/support/secrets.ts";
import { bench, binary, configOf, spawn, stop, waitFor, writeConfig } from "./processes.ts";

// What a switch costs everybody else: for every algorithm of Debian's OpenSSH alone, how long haas takes to find out what
// the switch is, and what `GET /nodes/free` takes meanwhile. The longest answer is at least the longest gap of the
// event loop; `cpu` is what the server itself computed during it, so that a busy machine is told from a held server.

const root = join(import.meta.dir, "..");
const pauseMs = 2;
/** The kernel counts in these. */
const clockTickMs = 10;

interface Case {
  readonly option: string;
  readonly name: string;
  readonly hostKey?: HostKey;
  readonly more?: readonly string[];
}

const known = (kind: string) => Bun.spawnSync(["ssh", "-Q", kind]).stdout.toString().trim().split("\n");

const hostKeys = [
  ["ssh-ed25519", "ed25519"],
  ["ecdsa-sha2-nistp256", "ecdsa256"],
  ["ecdsa-sha2-nistp384", "ecdsa384"],
  ["ecdsa-sha2-nistp521", "ecdsa521"],
  ["rsa-sha2-512", "rsa"],
  ["rsa-sha2-256", "rsa"],
  ["ssh-rsa", "rsa"],
  ["ssh-dss", "dsa"],
] as const;

const cases: Case[] = [
  ...known("kex").map((name) => ({ option: "KexAlgorithms", name })),
  ...hostKeys.map(([name, hostKey]) => ({ option: "HostKeyAlgorithms", name, hostKey })),
  ...known("cipher").map((name) => ({ option: "Ciphers", name })),
  ...known("mac").map((name) => ({ option: "MACs", name, more: ["Ciphers=aes128-ctr"] })),
  // By the cipher's key a group is asked for.
  ...["aes128-ctr", "aes256-ctr", "3des-cbc"].map((cipher) => ({
    option: "KexAlgorithms",
    name: "diffie-hellman-group-exchange-sha256",
    more: [`Ciphers=${cipher}`],
  })),
];

async function measure(argv: readonly string[], title: string, keys: Keys): Promise<void> {
  const name = `ssh-${title}`;
  writeConfig(name);
  const haas = spawn([...argv, "serve", "0", "--config", configOf(name)], name);
  const port = Number(/:(\d+)$/.exec(await waitFor(`${name}.err`, /"url":"[^"]+:\d+(?=")/))![1]);
  const call = async (method: string, path: string, body?: object) => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method, ...(body && { body: JSON.stringify(body) }) });
    return answer.text();
  };
  console.log(
    `\n${title}\n\n| algorithm | with | outcome | took ms | answers | p99 ms | longest ms | cpu ms |\n| --- | --- | --- | --- | --- | --- | --- | --- |`,
  );
  for (const [i, one] of cases.entries()) {
    const server = await startOpenSsh(keys, [`${one.option}=${one.name}`, ...(one.more ?? [])], one.hostKey ?? "ed25519");
    const label = `switch-${i}`;
    const login = { hostname: `127.0.0.1:${server.port}`, username: thisUser(), password: secrets.console };
    await call("PUT", `/switch/${label}`, { type: `${switchTypePrefix}nexus`, ...login, dummy_vlan: 2222, legacy_algorithms: true });
    let over = false;
    const began = performance.now();
    const testing = call("POST", `/switch/${label}/test`).finally(() => (over = true));
    const times: { ms: number; cpuMs: number }[] = [];
    while (!over) {
      const [at, cpu] = [performance.now(), cpuMs(haas.pid)];
      await call("GET", "/nodes/free");
      times.push({ ms: performance.now() - at, cpuMs: cpuMs(haas.pid) - cpu });
      await Bun.sleep(pauseMs);
    }
    const outcome = /refuses the login/.test(await testing)
      ? "login"
      : /can't do/.test(await testing)
        ? "refused with a sentence"
        : await testing;
    const took = performance.now() - began;
    const sorted = times.toSorted((a, b) => a.ms - b.ms);
    const longest = sorted.at(-1)!;
    const p99 = sorted[Math.floor((sorted.length - 1) * 0.99)]!;
    const cells = [
      one.name,
      one.more?.join(" ") ?? "",
      outcome,
      took.toFixed(0),
      times.length,
      p99.ms.toFixed(1),
      longest.ms.toFixed(1),
      longest.cpuMs,
    ];
    console.log(`| ${cells.join(" | ")} |`);
    await call("DELETE", `/switch/${label}`);
    await server.stop();
  }
  await stop(haas);
}

function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * clockTickMs;
}

if (import.meta.main) {
  await bench(async () => {
    const keys = makeKeys(["ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa", "dsa"]);
    try {
      await measure([process.execPath, "--no-env-file", join(root, "src/cli.ts")], "from source", keys);
      await measure([binary], "compiled", keys);
    } finally {
      keys.remove();
    }
  });
}

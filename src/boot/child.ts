import { chownSync, copyFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { messageOf } from "../errors.ts";
import { failureSentence, lastLine, runCommand } from "../hardware/command.ts";
import { type Attachment, attachmentOf, InterfaceError } from "./address.ts";
import type { BootConfig } from "./config.ts";
import { dnsmasqConfig, dnsmasqUser, ipv6Of } from "./dnsmasq.ts";
import type { Say } from "./server.ts";

/** dnsmasq as our child, started again whenever it ends. */
export interface DnsmasqChild {
  stop(): Promise<void>;
}

const firstPauseMs = 1_000;
const longestPauseMs = 60_000;
/** One that ran for so long was well; the next pause is short again. */
const steadyMs = 60_000;
const commandTimeoutMs = 10_000;
const endTimeoutMs = 3_000;
const maxOutputBytes = 65_536;

/**
 * Its standard input is a pipe of ours. When we are gone, by whatever signal, the pipe ends, and so does dnsmasq.
 * (The signal on the parent's death that Linux has is lost when dnsmasq becomes another user.)
 */
const guard = `exec 3<&0
dnsmasq --keep-in-foreground --conf-file="$0" </dev/null 3<&- &
child=$!
{ read -r line; kill "$child"; } <&3 >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait "$child"
status=$?
kill "$watch" 2>/dev/null
exit "$status"`;

/** Boot loaders that Debian's packages pxelinux, syslinux-common and ipxe bring. */
const loaders: Record<string, string> = {
  "lpxelinux.0": "/usr/lib/PXELINUX/lpxelinux.0",
  "ldlinux.c32": "/usr/lib/syslinux/modules/bios/ldlinux.c32",
  "snponly.efi": "/usr/lib/ipxe/snponly.efi",
};

/** Check, prepare and start. Throws a sentence when dnsmasq can't be had; what happens later is logged. */
export async function startDnsmasq(config: BootConfig, say: Say): Promise<DnsmasqChild> {
  const attachment = await attachmentOf(config.interface!, config.address);
  if (process.getuid?.() !== 0) throw new InterfaceError("dnsmasq needs root: run haas boot serve as root, or set run = false.");
  if (Bun.which("dnsmasq", { PATH: searchPath() }) === null) {
    throw new InterfaceError("dnsmasq is not installed: apt-get install dnsmasq-base, or set run = false.");
  }
  const folder = `${config.state}.dnsmasq`;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const [file, pidFile] = [join(folder, "dnsmasq.conf"), join(folder, "dnsmasq.pid")];
  writeFileSync(file, dnsmasqConfig({ attachment, config, pidFile }), { mode: 0o600 });
  const test = await command("dnsmasq", "--test", `--conf-file=${file}`);
  if (test !== null) throw new InterfaceError(`The configuration of dnsmasq is no good: ${test}.`);
  await endLeftover(pidFile, file, say);
  prepareTftp(config.dnsmasq.tftpRoot!, say);
  await addPrefix(attachment, say);

  let stopped = false;
  let child: ReturnType<typeof spawn> | null = null;
  let wake = () => {};
  const loop = async () => {
    for (let pauseMs = firstPauseMs; !stopped;) {
      const started = performance.now();
      child = spawn(file);
      say("info", "dnsmasq runs", { interface: attachment.name });
      const words = await listen(child.stderr, say);
      const status = await child.exited;
      if (stopped) return;
      if (performance.now() - started > steadyMs) pauseMs = firstPauseMs;
      say("error", "dnsmasq ended; it is started again", { status, words, pause_s: pauseMs / 1000 });
      await Promise.race([pause(pauseMs), new Promise<void>((resolve) => (wake = resolve))]);
      pauseMs = Math.min(longestPauseMs, pauseMs * 2);
      await endLeftover(pidFile, file, say);
    }
  };
  const running = loop();
  return {
    async stop() {
      stopped = true;
      wake();
      void child?.stdin.end();
      await Promise.race([running, pause(endTimeoutMs)]);
      await endLeftover(pidFile, file, say);
    },
  };
}

/** Keeps nobody from ending. */
const pause = (ms: number) => new Promise<void>((resolve) => void setTimeout(resolve, ms).unref());

const searchPath = () => process.env.PATH || "/usr/sbin:/usr/bin:/sbin:/bin";

const spawn = (file: string) =>
  Bun.spawn(["/bin/sh", "-c", guard, file], {
    env: { PATH: searchPath(), LC_ALL: "C" },
    stdin: "pipe",
    stdout: "ignore",
    stderr: "pipe",
    // Ctrl-C is ours to handle.
    detached: true,
  });

/** Log what it says; the last of it when it has ended. */
async function listen(stderr: ReadableStream<Uint8Array>, say: Say): Promise<string> {
  let rest = "";
  let last = "";
  const decoder = new TextDecoder();
  for await (const chunk of stderr) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!.slice(-maxOutputBytes);
    for (const line of lines.map(lastLine)) {
      if (line === "") continue;
      // Its very last words never say why.
      if (!line.endsWith("FAILED to start up")) last = line;
      say(/fail|error|cannot|unknown|no address/i.test(line) ? "warning" : "info", "dnsmasq says", { words: line });
    }
  }
  return lastLine(rest) || last;
}

/** One that outlived a server; only if the id in its file is still that of a dnsmasq with our configuration. */
async function endLeftover(pidFile: string, file: string, say: Say): Promise<void> {
  const pid = Number(existsSync(pidFile) ? readFileSync(pidFile, "utf8").trim() : "0");
  const isOurs = () => {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      return pid > 1 && /(^|\/)dnsmasq$/.test(argv[0] ?? "") && argv.includes(`--conf-file=${file}`);
    } catch {
      return false;
    }
  };
  if (!isOurs()) return;
  say("warning", "ending a dnsmasq that was left behind", { pid });
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    try {
      process.kill(pid, signal);
    } catch {
      return;
    }
    for (const end = performance.now() + endTimeoutMs; performance.now() < end && isOurs();) await Bun.sleep(20);
    if (!isOurs()) return;
  }
}

/** The folder and the boot loaders, owned by dnsmasq's user. A loader that is there already stays as it is. */
function prepareTftp(root: string, say: Say): void {
  const owner = userId();
  if (!existsSync(root)) mkdirSync(root, { recursive: true, mode: 0o755 });
  for (let folder = dirname(root); owner !== null && folder !== dirname(folder); folder = dirname(folder)) {
    const { mode, uid } = statSync(folder);
    if (uid === owner || (mode & 0o001) !== 0) continue;
    throw new InterfaceError(`dnsmasq, as user ${dnsmasqUser}, can't reach ${root}: chmod o+x ${folder}, or choose another tftp_root.`);
  }
  if (owner !== null && statSync(root).uid === 0) chownSync(root, owner, statSync(root).gid);
  for (const [name, source] of Object.entries(loaders)) {
    const path = join(root, name);
    if (existsSync(path)) continue;
    if (!existsSync(source)) {
      say("warning", "a boot loader is missing: firmware that asks for it can't boot", { file: name, usually: source });
      continue;
    }
    copyFileSync(source, path);
    const { uid, gid } = statSync(root);
    chownSync(path, uid, gid);
  }
}

function userId(): number | null {
  const line = readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .find((text) => text.startsWith(`${dnsmasqUser}:`));
  return line === undefined ? null : Number(line.split(":")[2]);
}

/** Router advertisements need an address of their prefix; without it iPXE only waits. */
async function addPrefix(attachment: Attachment, say: Say): Promise<void> {
  const { address, missing } = ipv6Of(attachment);
  if (!missing) return;
  const error = await command("ip", "address", "replace", `${address}/64`, "dev", attachment.name, "nodad");
  if (error === null) say("info", "added an address for router advertisements", { address, interface: attachment.name });
  else say("warning", "no router advertisements, so iPXE waits some seconds", { why: error });
}

/** Null, or why it failed. */
async function command(program: string, ...args: string[]): Promise<string | null> {
  try {
    const result = await runCommand({ argv: [program, ...args], timeoutMs: commandTimeoutMs, maxOutputBytes });
    return result.exitCode === 0 ? null : failureSentence({ program, result, timeoutMs: commandTimeoutMs });
  } catch (error) {
    return messageOf(error);
  }
}

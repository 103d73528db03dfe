import { readFile, stat } from "node:fs/promises";
import { messageOf } from "../../errors.ts";
import { needsSlowKex, offerOf, type Unmatched, unmatchedWords } from "./ssh-algorithms.ts";
import type { Failure, Opening } from "./ssh-child.ts";
import { type Link, sharedSshProcess, SshProcess, type Watcher } from "./ssh-process.ts";
import { ConsoleLost, connectionProblem, type Endpoint, Incoming, LoginRefused, type Transport } from "./transport.ts";

export interface SshOptions extends Endpoint {
  readonly username: string;
  readonly password: string;
  /** Path of a private key, tried before the password. */
  readonly keyFile: string | undefined;
  /** Also offer what was withdrawn as too weak, for old firmware. */
  readonly legacyAlgorithms: boolean;
  /** The key that the switch is known by, given the one that it presents; both as `SHA256:…`. */
  knownHostKey(presented: string): Promise<string>;
}

const keyLimitBytes = 64 * 1024;

/** Servers that only have a key exchange that takes long, by their addresses: the next connection needs not find out again. */
const slowServers = new Set<string>();
const slowServersLimit = 10_000;
/** What was read is reported in portions of this size at least. */
const takenBytes = 32 * 1024;

/** Connect, check the host key, authenticate, open a shell. Rejects with LoginRefused or ConsoleLost. */
export async function connectSsh(options: SshOptions): Promise<Transport> {
  const startedAt = performance.now();
  const { kex, slowKex, ...offer } = offerOf(options.legacyAlgorithms);
  const privateKey = options.keyFile === undefined ? undefined : await readKey(options.keyFile);
  const connect = (own: boolean) => {
    const { host, port, username, password } = options;
    const algorithms = { ...offer, kex: own ? [...kex, ...slowKex] : kex };
    const leftMs = Math.max(0, options.timeoutMs - (performance.now() - startedAt));
    return connectIn(own, { host, port, username, password, privateKey, algorithms }, options, leftMs);
  };
  const server = `${options.host}:${options.port}`;
  if (!slowServers.has(server)) {
    try {
      // A process may have ended before it is asked, which is noticed a moment later.
      return await connect(false).catch((error: unknown) => (error instanceof NotTaken ? connect(false) : Promise.reject(error)));
    } catch (error) {
      if (!(error instanceof NoMatch) || !needsSlowKex(error.unmatched, options.legacyAlgorithms)) throw error;
    }
    if (slowServers.size >= slowServersLimit) slowServers.clear();
    slowServers.add(server);
  }
  return connect(true);
}

/** The server has none of the algorithms that were offered. */
class NoMatch extends ConsoleLost {
  constructor(
    readonly unmatched: Unmatched,
    legacyAlgorithms: boolean,
  ) {
    super(unmatchedWords(unmatched, legacyAlgorithms));
  }
}

/** The process has ended, and had not begun with what it was asked for. */
class NotTaken extends ConsoleLost {}

/** Connect in a process that others share, or in one of its own. */
function connectIn(own: boolean, opening: Opening, options: SshOptions, timeoutMs: number): Promise<Transport> {
  return new Promise((resolve, reject) => {
    let taken = 0;
    const incoming = new Incoming((bytes) => {
      taken += bytes;
      if (taken < takenBytes) return;
      link.order({ kind: "taken", id: link.id, bytes: taken });
      taken = 0;
    });
    let settled = false;
    let isTaken = false;
    /** The host key that was found right: the device may begin a new key exchange whenever it likes. */
    let accepted: string | null = null;
    const settle = () => {
      settled = true;
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", giveUp);
    };
    const fail = (error: Error) => {
      incoming.end(error.message);
      if (settled) return link.end();
      settle();
      reject(error);
      link.end();
    };
    const giveUp = () => fail(new ConsoleLost("the connection was given up"));
    const silent = () => {
      const words = `${options.host}, port ${options.port} does not finish the SSH login within ${options.timeoutMs / 1000} s`;
      fail(new ConsoleLost(words));
      // It computes, or it hangs.
      if (own || !isTaken) link.kill("haas's SSH client hung, and was ended");
    };
    const checkHostKey = async (presented: string) => {
      const known = accepted ?? (await options.knownHostKey(presented));
      if (known === presented) {
        accepted = known;
        return link.order({ kind: "verify", id: link.id, valid: true });
      }
      throw new LoginRefused(
        `it presents the host key ${presented}, but is known by ${known}. Either somebody is in between, or the switch was replaced; then run: haas switch_forget_host_key`,
      );
    };
    const ready = () => {
      settle();
      resolve({
        lineEnd: "\n",
        read: (ms) => incoming.read(ms),
        write: (text) => link.order({ kind: "write", id: link.id, text }),
        close: () => {
          incoming.end("the connection was closed");
          link.end();
        },
      });
    };
    const watcher: Watcher = {
      report(report) {
        switch (report.kind) {
          case "opening":
            isTaken = true;
            return;
          case "hostKey":
            return void checkHostKey(report.presented).catch((error: unknown) =>
              fail(error instanceof Error ? error : new Error(String(error))),
            );
          case "ready":
            if (own && !report.kex.startsWith("diffie-hellman")) slowServers.delete(`${options.host}:${options.port}`);
            return ready();
          case "data":
            return incoming.push(report.bytes);
          case "failed":
            return fail(sshProblem(report.failure, options));
          case "ended":
            return incoming.end(report.why);
          default:
            report satisfies never;
        }
      },
      lost(why) {
        fail(isTaken ? new ConsoleLost(why) : new NotTaken(why));
      },
    };
    const timer = setTimeout(silent, timeoutMs);
    let link: Link;
    try {
      link = (own ? new SshProcess(true) : sharedSshProcess()).open(opening, watcher);
    } catch (error) {
      settle();
      return reject(new ConsoleLost(`haas's SSH client can't be started (${messageOf(error)})`));
    }
    options.signal?.addEventListener("abort", giveUp);
    if (options.signal?.aborted) giveUp();
  });
}

async function readKey(path: string): Promise<string> {
  let text: string;
  try {
    const { size } = await stat(path).then((found) => (found.isFile() ? found : Promise.reject(new Error("no file"))));
    if (size > keyLimitBytes) throw new Error("too large");
    text = await readFile(path, "utf8");
  } catch (error) {
    throw new LoginRefused(`its key_file can't be read on the server (${(error as NodeJS.ErrnoException).code ?? "it is no key file"})`);
  }
  return text;
}

function sshProblem(failure: Failure, options: SshOptions): Error {
  const { message, level, code, unmatched } = failure;
  if (unmatched) return new NoMatch(unmatched, options.legacyAlgorithms);
  switch (level) {
    case "client-authentication":
      return new LoginRefused(
        `it refuses the login of '${options.username}'; check username and password${options.keyFile ? ", and key_file" : ""}`,
      );
    case "key":
      return new LoginRefused("its key_file holds no private key that can be used without a passphrase");
    case "shell":
      return new ConsoleLost(`the device gives no shell (${message})`);
    case "start":
      return new ConsoleLost(`haas's SSH client can't start (${message})`);
    case "gone":
      return new ConsoleLost(message);
    default:
      return new ConsoleLost(connectionProblem({ message, ...(code !== undefined && { code }) }, options));
  }
}

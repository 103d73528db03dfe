import { readFile, stat } from "node:fs/promises";
import type { Algorithms, AnyAuthMethod, ConnectConfig } from "ssh2";
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

// Without chacha20-poly1305, which ssh2 can't do under Bun.
const algorithms = {
  kex: [
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group-exchange-sha256",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512",
  ],
  serverHostKey: ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256"],
  cipher: ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr"],
  hmac: ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"],
} as const;

const legacy = {
  kex: ["diffie-hellman-group14-sha1", "diffie-hellman-group-exchange-sha1", "diffie-hellman-group1-sha1"],
  serverHostKey: ["ssh-rsa", "ssh-dss"],
  cipher: ["aes256-cbc", "aes192-cbc", "aes128-cbc", "3des-cbc"],
  hmac: ["hmac-sha1", "hmac-md5"],
} as const;

const keyLimitBytes = 64 * 1024;

/** Connect, check the host key, authenticate, open a shell. Rejects with LoginRefused or ConsoleLost. */
export async function connectSsh(options: SshOptions): Promise<Transport> {
  // Only now: it takes 20 ms to load, which the start of haas need not wait for.
  const { Client } = await import("ssh2");
  const privateKey = options.keyFile === undefined ? undefined : await readKey(options.keyFile);
  return new Promise((resolve, reject) => {
    const incoming = new Incoming();
    const client = new Client();
    // Set when we break off ourselves; the library's error is only a consequence then.
    let refusal: Error | null = null;
    let ended = false;
    const fail = (error: Error) => {
      ended = true;
      clearTimeout(timer);
      reject(refusal ?? error);
      incoming.end(error.message);
      client.destroy();
    };
    const silent = new ConsoleLost(
      `${options.host}, port ${options.port} does not finish the SSH login within ${options.timeoutMs / 1000} s`,
    );
    // The library's own limit ends with the login; this one holds until there is a shell.
    const timer = setTimeout(() => fail(silent), options.timeoutMs);
    options.signal?.addEventListener("abort", () => fail(new ConsoleLost("the connection was given up")));
    client.on("ready", () => {
      client.shell({ term: "vt100", cols: 500, rows: 500 }, (error, stream) => {
        clearTimeout(timer);
        if (error) return fail(new ConsoleLost(`the device gives no shell (${error.message})`));
        stream.on("data", (bytes: Buffer) => incoming.push(bytes));
        stream.stderr.on("data", (bytes: Buffer) => incoming.push(bytes));
        stream.on("close", () => incoming.end("the device closed the connection"));
        resolve({
          lineEnd: "\n",
          read: (timeoutMs) => incoming.read(timeoutMs),
          write: (text) => void (stream.writable && stream.write(text)),
          close: () => {
            incoming.end("the connection was closed");
            client.end();
            // A device that does not answer the goodbye.
            setTimeout(() => client.destroy(), 1000).unref();
          },
        });
      });
    });
    client.on("error", (error) => fail(sshProblem(error, options)));
    client.on("close", () => fail(new ConsoleLost("the device closed the connection")));
    const { username, password } = options;
    // The library wants a call; a promise that it gets is a yes.
    const hostVerifier = (key: Buffer, verify: (valid: boolean) => void): void => {
      const presented = `SHA256:${new Bun.CryptoHasher("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
      options.knownHostKey(presented).then(
        (known) => {
          if (known !== presented) {
            refusal = new LoginRefused(
              `it presents the host key ${presented}, but is known by ${known}. Either somebody is in between, or the switch was replaced; then run: haas switch_forget_host_key`,
            );
          }
          if (!ended) verify(known === presented);
        },
        (error: unknown) => {
          refusal = error instanceof Error ? error : new Error(String(error));
          if (!ended) verify(false);
        },
      );
    };
    // `none` first: some switches ask for name and password in the shell instead.
    const methods: AnyAuthMethod[] = [
      { type: "none", username },
      ...(privateKey === undefined ? [] : [{ type: "publickey" as const, username, key: privateKey }]),
      { type: "password", username, password },
      { type: "keyboard-interactive", username, prompt: (_name, _about, _lang, prompts, finish) => finish(prompts.map(() => password)) },
    ];
    const config: ConnectConfig = {
      host: options.host,
      port: options.port,
      username,
      readyTimeout: options.timeoutMs,
      hostVerifier,
      algorithms: algorithmsFor(options.legacyAlgorithms),
      authHandler: methods,
    };
    try {
      client.connect(config);
    } catch (error) {
      fail(new ConsoleLost(`the SSH client can't start (${error instanceof Error ? error.message : String(error)})`));
    }
  });
}

/** The library's list types are closed; it checks the names itself. */
function algorithmsFor(withLegacy: boolean): Algorithms {
  const names = (kind: keyof typeof algorithms) => [...algorithms[kind], ...(withLegacy ? legacy[kind] : [])];
  return {
    kex: names("kex"),
    serverHostKey: names("serverHostKey"),
    cipher: names("cipher"),
    hmac: names("hmac"),
  } as Algorithms;
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
  const { utils } = await import("ssh2");
  const parsed = utils.parseKey(text);
  // Never the parser's words: they may quote the key.
  if (parsed instanceof Error) throw new LoginRefused("its key_file holds no private key that can be used without a passphrase");
  return text;
}

function sshProblem(error: Error & { code?: string; level?: string }, options: SshOptions): Error {
  if (error.level === "client-authentication") {
    return new LoginRefused(
      `it refuses the login of '${options.username}'; check username and password${options.keyFile ? ", and key_file" : ""}`,
    );
  }
  if (/no matching/i.test(error.message)) {
    const hint = options.legacyAlgorithms ? "" : "; an old switch may need legacy_algorithms";
    return new ConsoleLost(`no SSH algorithm is known to both sides (${error.message})${hint}`);
  }
  if (error.level === "client-timeout") return new ConsoleLost(`it does not finish the SSH login within ${options.timeoutMs / 1000} s`);
  return new ConsoleLost(connectionProblem(error, options));
}

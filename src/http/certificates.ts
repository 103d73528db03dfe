import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { open, stat } from "node:fs/promises";
import { createSecureContext } from "node:tls";
import type { TLSOptions } from "bun";
import { type Config, ConfigError } from "../config.ts";
import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";

const pollMs = 500;
const dayMs = 24 * 60 * 60 * 1000;
const warnBeforeMs = 14 * dayMs;
const fileLimitBytes = 1024 * 1024;

/** TLS 1.2, and the ciphers of it that keep what was recorded secret when the key is lost; those of TLS 1.3 all do. */
const protocol = {
  minVersion: 0x0303,
  ciphers: ["ECDSA", "RSA"]
    .flatMap((key) => ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"].map((cipher) => `ECDHE-${key}-${cipher}`))
    .join(":"),
};

/** The certificate that new connections are given. It follows its files. */
export interface Certificates {
  /** For `upgradeTLS`. */
  current(): TLSOptions;
  /** Take up new files now, instead of when they have not changed for a moment. */
  reload(): Promise<void>;
  stop(): void;
}

type Files = NonNullable<Config["http"]["tls"]>;

interface Pair {
  readonly options: TLSOptions;
  /** With its chain, as it stands in the file: another one is another pair. */
  readonly identity: string;
  readonly certificate: X509Certificate;
}

/** Read the certificate and its key. Rejects with ConfigError when they are of no use. */
export async function openCertificates({ file, http: { tls } }: Config, log: Log): Promise<Certificates | null> {
  if (tls === null) return null;
  try {
    return new FollowedFiles(tls, await readPair(tls), log);
  } catch (error) {
    if (error instanceof PairError) throw new ConfigError(`${file}: [general] ${error.option}: ${error.message}.`);
    throw error;
  }
}

class FollowedFiles implements Certificates {
  #pair: Pair;
  /** What the files were when they were last read, or found to be no pair. */
  #seen = "";
  /** What they were at the last look. They are read when they stay so: a renewal writes one after the other. */
  #last = "";
  #warnedAt = Number.NEGATIVE_INFINITY;
  #timer: Timer | null = null;
  #stopped = false;
  readonly #onHangup = () => void this.reload();

  constructor(
    readonly files: Files,
    pair: Pair,
    readonly log: Log,
  ) {
    this.#pair = pair;
    this.#say("the TLS certificate");
    process.on("SIGHUP", this.#onHangup);
    this.#schedule();
  }

  current(): TLSOptions {
    return this.#pair.options;
  }

  stop(): void {
    this.#stopped = true;
    if (this.#timer) clearTimeout(this.#timer);
    process.off("SIGHUP", this.#onHangup);
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => void this.#look().finally(() => this.#schedule()), pollMs);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    const state = await stateOf(this.files);
    const settled = state === this.#last;
    this.#last = state;
    if (settled && state !== this.#seen) await this.#read(state);
    this.#warnOfExpiry();
  }

  async reload(): Promise<void> {
    await this.#read(await stateOf(this.files));
  }

  async #read(state: string): Promise<void> {
    this.#seen = state;
    try {
      const pair = await readPair(this.files);
      if (pair.identity === this.#pair.identity) return;
      this.#pair = pair;
      this.#say("a new TLS certificate is used from now on");
    } catch (error) {
      const why = error instanceof PairError ? `${error.option}: ${error.message}` : messageOf(error);
      this.log.warning("the TLS certificate or its key has changed, but can't be used: the one before stays", { error: why });
    }
  }

  #say(message: string): void {
    const { certificate } = this.#pair;
    const { subject, subjectAltName, validTo } = certificate;
    this.log.info(message, { subject: oneLine(subject), names: subjectAltName ?? "", expires: new Date(validTo).toISOString() });
    this.#warnedAt = Number.NEGATIVE_INFINITY;
    this.#warnOfExpiry();
  }

  #warnOfExpiry(): void {
    const now = Date.now();
    const { subject, validFrom, validTo } = this.#pair.certificate;
    const [from, to] = [Date.parse(validFrom), Date.parse(validTo)];
    if ((now >= from && now < to - warnBeforeMs) || now - this.#warnedAt < dayMs) return;
    this.#warnedAt = now;
    const what = now >= to ? "has expired" : now < from ? "is not valid yet" : "expires soon";
    this.log.warning(`the TLS certificate ${what}`, {
      subject: oneLine(subject),
      from: new Date(from).toISOString(),
      expires: new Date(to).toISOString(),
    });
  }
}

/** Why there is no pair: a sentence without its end, and the option that it is about. Never holds anything of a key. */
class PairError extends Error {
  constructor(
    readonly option: "tls_cert" | "tls_key",
    message: string,
  ) {
    super(message);
  }
}

async function readPair({ certFile, keyFile }: Files): Promise<Pair> {
  const certText = await readPem("tls_cert", certFile);
  const chain = blocks("tls_cert", certFile, certText).filter(({ label }) => label === "CERTIFICATE");
  if (chain.length === 0) throw new PairError("tls_cert", `${certFile} holds no certificate in PEM form`);
  let certificates: X509Certificate[];
  try {
    certificates = chain.map(({ text }) => new X509Certificate(text));
  } catch {
    throw new PairError("tls_cert", `${certFile} holds a certificate that can't be read`);
  }
  const key = await readKey(keyFile);
  const holder = certificates.findIndex((certificate) => certificate.checkPrivateKey(key.object));
  if (holder < 0) throw new PairError("tls_key", `${keyFile} is not the key of the certificate in ${certFile}`);
  if (holder > 0) throw new PairError("tls_cert", `${certFile} has to begin with the server's own certificate; its chain follows`);
  const cert = chain.map(({ text }) => text).join("\n");
  try {
    createSecureContext({ cert, key: key.text });
  } catch {
    throw new PairError("tls_cert", `${certFile} holds a certificate, or a chain, that TLS can't use`);
  }
  return { options: { cert, key: key.text, ...protocol }, identity: cert, certificate: certificates[0]! };
}

async function readKey(file: string): Promise<{ text: string; object: KeyObject }> {
  const found = blocks("tls_key", file, await readPem("tls_key", file)).find(({ label }) => label.endsWith("PRIVATE KEY"));
  if (!found) throw new PairError("tls_key", `${file} holds no private key in PEM form`);
  if (found.label.startsWith("ENCRYPTED") || found.text.includes("ENCRYPTED"))
    throw new PairError("tls_key", `the key in ${file} is protected by a passphrase, which haas can't ask for; store it without one`);
  try {
    return { text: found.text, object: createPrivateKey(found.text) };
  } catch {
    throw new PairError("tls_key", `${file} holds a private key that can't be read, or is of a kind that haas does not know`);
  }
}

/** The text of a file. Whichever of the two holds a private key has to be nobody else's. */
async function readPem(option: "tls_cert" | "tls_key", file: string): Promise<string> {
  let text: string;
  let mode: number;
  try {
    await using handle = await open(file, "r");
    const facts = await handle.stat();
    if (!facts.isFile()) throw new Error("it is no file");
    if (facts.size > fileLimitBytes) throw new Error(`it is larger than ${fileLimitBytes} bytes`);
    mode = facts.mode;
    text = await handle.readFile("latin1");
  } catch (error) {
    throw new PairError(option, `${file} can't be read (${messageOf(error)})`);
  }
  if ((mode & 0o077) !== 0 && (option === "tls_key" || text.includes("PRIVATE KEY-----")))
    throw new PairError(option, `${file} holds a private key, but others can read it. Run: chmod 600 ${file}`);
  return text;
}

/** What a PEM file holds. One that ends within a block is being written. */
function blocks(option: "tls_cert" | "tls_key", file: string, text: string): { label: string; text: string }[] {
  const lines = text.split(/\r?\n/);
  const found: { label: string; text: string }[] = [];
  let begun: { label: string; line: number } | null = null;
  for (const [line, content] of lines.entries()) {
    const [, edge, label = ""] = /^-----(BEGIN|END) ([A-Z0-9 ]{1,40})-----\s*$/.exec(content.slice(0, 80)) ?? [];
    if (edge === "BEGIN") begun = { label, line };
    else if (edge === "END" && begun?.label === label) {
      found.push({ label, text: `${lines.slice(begun.line, line + 1).join("\n")}\n` });
      begun = null;
    }
  }
  if (begun) throw new PairError(option, `${file} ends within a block: it is not complete`);
  return found;
}

/** Tells whether the files were changed or replaced; nothing of what is in them. */
async function stateOf({ certFile, keyFile }: Files): Promise<string> {
  const states = [certFile, keyFile].map((file) =>
    stat(file, { bigint: true }).then(
      ({ dev, ino, size, mode, mtimeNs, ctimeNs }) => [dev, ino, size, mode, mtimeNs, ctimeNs].join(),
      () => "none",
    ),
  );
  return (await Promise.all(states)).join(" ");
}

/** A subject, which has a line for each of its parts. */
const oneLine = (subject: string): string => subject.replaceAll("\n", ", ");

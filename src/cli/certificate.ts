import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { isIP } from "node:net";
import { resolve } from "node:path";
import { domainToASCII } from "node:url";
import { messageOf } from "../errors.ts";
import { local, UsageError } from "./command.ts";
import { printable } from "./progress.ts";

export const certificateCommand = local({
  name: "certificate",
  grouped: "certificate",
  about: "make a self-signed certificate for `haas serve`, and its key",
  args: { host: { about: "a name or an IP address that clients reach the server by", variadic: true } },
  options: ["cert", "key"],
  async run({ host }, { cert = "haas-cert.pem", key = "haas-key.pem" }) {
    if (cert === "" || key === "") throw new UsageError("--cert and --key need a FILE.");
    const hosts = [...new Set(host.map(readHost))];
    const { selfSigned } = await import("../http/self-signed.ts");
    const made = selfSigned(hosts);
    create(key, made.key, 0o600);
    try {
      create(cert, made.cert, 0o644);
    } catch (error) {
      rmSync(key);
      throw error;
    }
    const [first = ""] = hosts;
    process.stdout
      .write(`# ${printable(cert)} and ${printable(key)} are made, for ${hosts.join(", ")}, until ${made.expires.toISOString().slice(0, 10)}.
# In haas.cfg of the server; its user must own the key:
[general]
tls_cert = ${printable(resolve(cert))}
tls_key = ${printable(resolve(key))}
# In haas.cfg of each client, with a copy of the certificate (or HAAS_ENDPOINT and HAAS_CA_FILE in its environment):
[client]
endpoint = https://${isIP(first) === 6 ? `[${first}]` : first.replace(/^\*/, "www")}:5000
ca_file = ${printable(resolve(cert))}
`);
  },
});

/** A DNS name as certificates hold it, in lower case and IDNA, or an IP address. */
function readHost(word: string): string {
  const address = word.replace(/^\[(.*)\]$/, "$1");
  if (isIP(address) !== 0 && !address.includes("%")) return address;
  const [, wildcard = "", plain = ""] = /^(\*\.)?(.*?)\.?$/s.exec(word) ?? [];
  const name = /^[\p{L}\p{M}\p{N}._-]+$/u.test(plain) ? domainToASCII(plain) : "";
  const labels = name.split(".");
  // A number at the end makes an address of it, and that it is none.
  if (name.length > 253 || !labels.every((label) => /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/.test(label)) || /^\d+$/.test(labels.at(-1)!))
    throw new UsageError(`'${printable(word)}' is neither a name nor an IP address, as they stand between https:// and the port.`);
  return wildcard + name;
}

/** A new file; one that is there already stays as it is. */
function create(file: string, text: string, mode: number): void {
  let descriptor: number;
  try {
    descriptor = openSync(file, "wx", mode);
  } catch (error) {
    const exists = (error as NodeJS.ErrnoException).code === "EEXIST";
    throw new Error(exists ? `${file} exists already; it is not overwritten.` : `${file} can't be made: ${messageOf(error)}.`, {
      cause: error,
    });
  }
  try {
    writeSync(descriptor, text);
  } finally {
    closeSync(descriptor);
  }
}

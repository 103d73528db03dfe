import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";

// Certificates as sites have them, made by OpenSSL.

export interface MadePair {
  readonly certFile: string;
  readonly keyFile: string;
}

export interface Authority {
  /** Its certificate. */
  readonly file: string;
  /** A certificate that it signed for names and addresses (`DNS:a`, `IP:127.0.0.1`), and its key. */
  issue(name: string, options?: { for?: string; key?: readonly string[]; at?: string; days?: number }): MadePair;
}

const p256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

function openssl(args: readonly string[], at?: string): void {
  const command = [...(at === undefined ? [] : ["faketime", at]), "openssl", ...args];
  const { exitCode, stderr } = Bun.spawnSync(command, { stderr: "pipe", stdout: "ignore" });
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString()}`);
}

/** A certificate that is its own authority, and its key. */
export function selfSignedPair(directory: string, name: string, { for: names = "IP:127.0.0.1", key = p256 } = {}): MadePair {
  const [certFile, keyFile] = [join(directory, `${name}.pem`), join(directory, `${name}.key`)];
  openssl([
    "req",
    "-x509",
    "-nodes",
    ...key,
    "-keyout",
    keyFile,
    "-out",
    certFile,
    "-days",
    "90",
    "-subj",
    `/CN=${name}`,
    "-addext",
    `subjectAltName=${names}`,
  ]);
  chmodSync(keyFile, 0o600);
  return { certFile, keyFile };
}

/** A private authority, as companies have them. */
export function authority(directory: string, name = "authority"): Authority {
  const [file, signer] = [join(directory, `${name}.pem`), join(directory, `${name}.key`)];
  openssl(["req", "-x509", "-nodes", ...p256, "-keyout", signer, "-out", file, "-days", "3650", "-subj", `/CN=${name}`]);
  return {
    file,
    issue(label, { for: names = "IP:127.0.0.1,DNS:localhost", key = p256, at, days = 90 } = {}) {
      const [certFile, keyFile, request, extensions] = ["pem", "key", "csr", "ext"].map((end) => join(directory, `${label}.${end}`)) as [
        string,
        string,
        string,
        string,
      ];
      openssl(["req", "-new", "-nodes", ...key, "-keyout", keyFile, "-out", request, "-subj", `/CN=${label}`]);
      writeFileSync(extensions, `subjectAltName=${names}\n`);
      openssl(
        [
          "x509",
          "-req",
          "-in",
          request,
          "-CA",
          file,
          "-CAkey",
          signer,
          "-CAcreateserial",
          "-out",
          certFile,
          "-days",
          String(days),
          "-extfile",
          extensions,
        ],
        at,
      );
      chmodSync(keyFile, 0o600);
      return { certFile, keyFile };
    },
  };
}

import { describe, expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { emptyDirectory, haas } from "./haas.ts";

const certificate = async (cwd: string, ...argv: string[]) => haas(["certificate", ...argv], { cwd });

describe("haas certificate", () => {
  test("makes a pair for names and addresses, and says what to write into haas.cfg", async () => {
    const cwd = emptyDirectory();
    const { status, out, err } = await certificate(
      cwd,
      "haas.example.org",
      "10.1.2.3",
      "2001:db8::7",
      "[::1]",
      "*.Lab.example.org.",
      "bücher.example",
    );
    expect({ status, err }).toEqual({ status: 0, err: "" });
    const [certFile, keyFile] = [join(cwd, "haas-cert.pem"), join(cwd, "haas-key.pem")];
    expect(out).toContain(`[general]\ntls_cert = ${certFile}\ntls_key = ${keyFile}\n`);
    expect(out).toContain(`[client]\nendpoint = https://haas.example.org:5000\nca_file = ${certFile}\n`);
    expect(statSync(keyFile).mode & 0o777).toBe(0o600);
    const made = new X509Certificate(readFileSync(certFile));
    for (const host of ["haas.example.org", "a.lab.example.org", "xn--bcher-kva.example"]) expect(made.checkHost(host)).toBeString();
    for (const address of ["10.1.2.3", "2001:db8::7", "::1"]) expect(made.checkIP(address)).toBeString();
    expect(made.checkHost("other.example.org")).toBeUndefined();
    expect(made.ca).toBe(false);
    expect(made.publicKey.asymmetricKeyDetails?.namedCurve).toBe("prime256v1");
    const days = (Date.parse(made.validTo) - Date.parse(made.validFrom)) / 86_400_000;
    expect(days).toBeGreaterThan(398);
    expect(days).toBeLessThan(825);
    // As strictly as OpenSSL can, without haas.
    for (const args of [
      ["verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", "10.1.2.3", "-CAfile", certFile, certFile],
      ["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "haas.example.org", "-CAfile", certFile, certFile],
      ["pkey", "-in", keyFile, "-check", "-noout"],
    ])
      expect(Bun.spawnSync(["openssl", ...args]).exitCode).toBe(0);
  });

  test("puts them where it is told to, under a name that is longer than a common name can be", async () => {
    const cwd = emptyDirectory();
    const long = `${"a".repeat(60)}.${"b".repeat(60)}.example`;
    const { status, out } = await certificate(cwd, "--cert", "c.pem", "--key", join(cwd, "k.pem"), long);
    expect(status).toBe(0);
    expect(out).toContain(`tls_cert = ${join(cwd, "c.pem")}\ntls_key = ${join(cwd, "k.pem")}\n`);
    expect(new X509Certificate(readFileSync(join(cwd, "c.pem"))).checkHost(long)).toBeString();
    expect(readdirSync(cwd).sort()).toEqual(["c.pem", "k.pem"]);
  });

  test("overwrites nothing, and leaves nothing half made", async () => {
    const cwd = emptyDirectory();
    writeFileSync(join(cwd, "haas-cert.pem"), "old");
    expect(await certificate(cwd, "a.example")).toEqual({
      status: 1,
      out: "",
      err: "Error: haas-cert.pem exists already; it is not overwritten.\n",
    });
    expect(readdirSync(cwd)).toEqual(["haas-cert.pem"]);
    expect(readFileSync(join(cwd, "haas-cert.pem"), "utf8")).toBe("old");
    writeFileSync(join(cwd, "haas-key.pem"), "old");
    expect((await certificate(cwd, "--cert", "new.pem", "a.example")).err).toBe(
      "Error: haas-key.pem exists already; it is not overwritten.\n",
    );
    expect((await certificate(cwd, "--key", "no/such/folder.pem", "--cert", "new.pem", "a.example")).status).toBe(1);
    expect((await certificate(cwd, "--key", "same.pem", "--cert", "same.pem", "a.example")).status).toBe(1);
    expect(readdirSync(cwd).sort()).toEqual(["haas-cert.pem", "haas-key.pem"]);
  });

  test("takes names and addresses only", async () => {
    const cwd = emptyDirectory();
    for (const word of [
      "",
      "https://a.example",
      "a.example:5000",
      "a b",
      "a..b",
      "-a.example",
      "10.0.0.300",
      "*",
      "a.*.example",
      "fe80::1%eth0",
      "a/b",
      "a\nb",
    ]) {
      const { status, err } = await certificate(cwd, "b.example", word);
      expect([word, status]).toEqual([word, 2]);
      expect(err).toContain("is neither a name nor an IP address");
    }
    expect((await certificate(cwd)).status).toBe(2);
    expect(readdirSync(cwd)).toEqual([]);
  });
});

import { AsnConvert, OctetString } from "@peculiar/asn1-schema";
import * as x509 from "@peculiar/asn1-x509";
import { createHash, generateKeyPairSync, randomBytes, sign, X509Certificate } from "node:crypto";
import { isIP } from "node:net";

const dayMs = 24 * 60 * 60 * 1000;
/** The longest that every client takes: Apple's take no more, not even of an authority of one's own. */
const validDays = 825;
/** For clients whose clock is behind. */
const backdatedMs = dayMs;
/** The longest common name that X.509 allows. */
const commonNameLimit = 64;

const ecdsaWithSha256 = "1.2.840.10045.4.3.2";
const commonName = "2.5.4.3";

/**
 * A certificate for `hosts` (DNS names and IP addresses, at least one) that is its own authority, and its key (P-256),
 * as PEM. Clients that are given the certificate as an authority trust this server, and with it nobody else: it can't
 * sign others.
 */
export function selfSigned(hosts: readonly string[]): { cert: string; key: string; expires: Date } {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const notBefore = new Date(Date.now() - backdatedMs);
  const expires = new Date(notBefore.getTime() + validDays * dayMs - 1000);
  const spki = publicKey.export({ type: "spki", format: "der" });
  const keyId = new OctetString(createHash("sha1").update(spki).digest());
  const name = distinguishedName(hosts.find((host) => host.length <= commonNameLimit) ?? "haas");
  const algorithm = new x509.AlgorithmIdentifier({ algorithm: ecdsaWithSha256 });
  const tbsCertificate = new x509.TBSCertificate({
    version: x509.Version.v3,
    serialNumber: serialNumber(),
    signature: algorithm,
    issuer: name,
    subject: name,
    validity: new x509.Validity({ notBefore, notAfter: expires }),
    subjectPublicKeyInfo: AsnConvert.parse(spki, x509.SubjectPublicKeyInfo),
    extensions: new x509.Extensions([
      extension(x509.id_ce_basicConstraints, new x509.BasicConstraints({ cA: false }), true),
      extension(x509.id_ce_keyUsage, new x509.KeyUsage(x509.KeyUsageFlags.digitalSignature), true),
      extension(x509.id_ce_extKeyUsage, new x509.ExtendedKeyUsage([x509.id_kp_serverAuth])),
      extension(x509.id_ce_subjectKeyIdentifier, new x509.SubjectKeyIdentifier(keyId.buffer)),
      extension(
        x509.id_ce_subjectAltName,
        new x509.SubjectAlternativeName(
          hosts.map((host) => new x509.GeneralName(isIP(host) === 0 ? { dNSName: host } : { iPAddress: host })),
        ),
      ),
    ]),
  });
  const signature = sign("sha256", new Uint8Array(AsnConvert.serialize(tbsCertificate)), privateKey);
  const certificate = new x509.Certificate({
    tbsCertificate,
    signatureAlgorithm: algorithm,
    signatureValue: new Uint8Array(signature).buffer,
  });
  return {
    cert: new X509Certificate(new Uint8Array(AsnConvert.serialize(certificate))).toString(),
    key: privateKey.export({ type: "pkcs8", format: "pem" }),
    expires,
  };
}

const extension = (extnID: string, value: unknown, critical = false) =>
  new x509.Extension({ extnID, critical, extnValue: new OctetString(AsnConvert.serialize(value)) });

const distinguishedName = (name: string) =>
  new x509.Name([
    new x509.RelativeDistinguishedName([
      new x509.AttributeTypeAndValue({ type: commonName, value: new x509.AttributeValue({ utf8String: name }) }),
    ]),
  ]);

/** Positive, and of full length. */
function serialNumber(): ArrayBuffer {
  const bytes = new Uint8Array(randomBytes(16));
  bytes[0] = (bytes[0]! & 0x3f) | 0x40;
  return bytes.buffer;
}

import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { ApiError, type Client, createClient, EndpointError } from "../client/http.ts";
import { type Config, ConfigError, findConfigFile, loadConfig } from "../config.ts";
import { messageOf } from "../errors.ts";

type Env = Record<string, string | undefined>;

/**
 * The server that this command talks to: HAAS_ENDPOINT, else the config file, which is read only if it is needed or
 * asked for. So is the file of the certificate authority: HAAS_CA_FILE, else what the config file names, if it is read.
 */
export function findServer(configOption: string | undefined, env: Env): Client {
  const fromEnv = env.HAAS_ENDPOINT || null;
  const file = fromEnv === null || configOption !== undefined ? findConfigFile(configOption, env) : null;
  const config = file === null ? null : loadConfig(file);
  const endpoint = fromEnv ?? config?.clientEndpoint ?? null;
  if (endpoint === null) {
    // Perhaps it is there, under a name with a slip in it.
    if (config) printWarnings(config);
    const where = file === null ? "in the [client] section of haas.cfg" : `in the [client] section of ${file}`;
    throw new ConfigError(`No server is configured: set HAAS_ENDPOINT, for example to http://127.0.0.1:5000, or endpoint ${where}.`);
  }
  const caFile = env.HAAS_CA_FILE || config?.clientCaFile || null;
  const ca =
    caFile === null || !/^https:/i.test(endpoint)
      ? undefined
      : readAuthority(caFile, env.HAAS_CA_FILE ? "HAAS_CA_FILE" : `${file}: [client] ca_file`);
  try {
    const client = createClient({ endpoint, username: env.HAAS_USERNAME, password: env.HAAS_PASSWORD, ca });
    if (client.exposed && client.hasCredentials)
      process.stderr.write(`warning: the password goes to ${client.endpoint} without TLS: whoever is on the way can read it.\n`);
    return hinting(client, env);
  } catch (error) {
    if (error instanceof EndpointError)
      throw new ConfigError(`${fromEnv === null ? `${file}: [client] endpoint` : "HAAS_ENDPOINT"}: ${error.message}`);
    throw error;
  }
}

/** The certificates (PEM) in a file. `option` is what named it. */
function readAuthority(file: string, option: string): string {
  let text: string;
  try {
    text = readFileSync(file, "latin1");
  } catch (error) {
    throw new ConfigError(`${option}: ${file} can't be read: ${messageOf(error)}.`);
  }
  const certificates = text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  try {
    certificates.map((certificate) => new X509Certificate(certificate));
  } catch {
    throw new ConfigError(`${option}: ${file} holds a certificate that can't be read.`);
  }
  if (certificates.length === 0) throw new ConfigError(`${option}: ${file} holds no certificate in PEM form.`);
  return certificates.join("\n");
}

export function printWarnings({ warnings }: Config): void {
  for (const warning of warnings) process.stderr.write(`warning: ${warning}\n`);
}

/** The client; where it has no credentials, it says with a 401 how to give them. */
function hinting(client: Client, env: Env): Client {
  if (client.hasCredentials) return client;
  const missing = ["HAAS_USERNAME", "HAAS_PASSWORD"].filter((name) => env[name] === undefined);
  const hint = missing.length === 1 ? `${missing[0]} is not set` : `set ${missing.join(" and ")}`;
  return {
    ...client,
    call: (call) =>
      client.call(call).catch((error: unknown) => {
        if (!(error instanceof ApiError) || error.status !== 401) throw error;
        throw new ApiError(error.type, `${error.msg} (${hint})`, error.status, error.requestId);
      }),
  };
}

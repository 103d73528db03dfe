import { type Client, createClient, EndpointError } from "../client/http.ts";
import { ConfigError, findConfigFile, loadConfig } from "../config.ts";
import { UsageError } from "./command.ts";

/** The server that this command talks to: HAAS_ENDPOINT, else the config file, which is read only if it is needed or asked for. */
export function findServer(configOption: string | undefined, env: Record<string, string | undefined>): Client {
  const fromEnv = env.HAAS_ENDPOINT || null;
  const file = fromEnv === null || configOption !== undefined ? findConfigFile(configOption, env) : null;
  const fromFile = file === null ? null : loadConfig(file).clientEndpoint;
  const endpoint = fromEnv ?? fromFile;
  if (endpoint === null) {
    const where = file === null ? "in the [client] section of haas.cfg" : `in the [client] section of ${file}`;
    throw new ConfigError(`No server is configured: set HAAS_ENDPOINT, for example to http://127.0.0.1:5000, or endpoint ${where}.`);
  }
  try {
    return createClient({ endpoint, username: env.HAAS_USERNAME, password: env.HAAS_PASSWORD });
  } catch (error) {
    if (error instanceof EndpointError)
      throw new UsageError(`${fromEnv === null ? `${file}: [client] endpoint` : "HAAS_ENDPOINT"}: ${error.message}`);
    throw error;
  }
}

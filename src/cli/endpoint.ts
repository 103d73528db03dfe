import { ApiError, type Client, createClient, EndpointError } from "../client/http.ts";
import { type Config, ConfigError, findConfigFile, loadConfig } from "../config.ts";

type Env = Record<string, string | undefined>;

/** The server that this command talks to: HAAS_ENDPOINT, else the config file, which is read only if it is needed or asked for. */
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
  try {
    return hinting(createClient({ endpoint, username: env.HAAS_USERNAME, password: env.HAAS_PASSWORD }), env);
  } catch (error) {
    if (error instanceof EndpointError)
      throw new ConfigError(`${fromEnv === null ? `${file}: [client] endpoint` : "HAAS_ENDPOINT"}: ${error.message}`);
    throw error;
  }
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

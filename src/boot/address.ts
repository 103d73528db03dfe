import { failureSentence, runCommand } from "../hardware/command.ts";
import { type BootConfig, BootConfigError } from "./config.ts";

/** Our interface on the nodes' network can't be used as it is: one sentence that says what to do. */
export class InterfaceError extends Error {}

/** The addresses of an interface on the nodes' network. */
export interface Attachment {
  readonly name: string;
  readonly address: string;
  readonly prefix: number;
  /** The first of its IPv6 addresses that is not link-local; null when it has none of a /64 network. */
  readonly ipv6: string | null;
}

interface IpAddress {
  readonly family: string;
  readonly local: string;
  readonly prefixlen: number;
  readonly scope: string;
}

const commandTimeoutMs = 5_000;

/** `wanted`: of several addresses this one. (By `ip`: a runtime's own list leaves out an interface without a carrier.) */
export async function attachmentOf(name: string, wanted: string | null = null): Promise<Attachment> {
  const argv = ["ip", "-json", "address", "show", "dev", name] as const;
  const result = await runCommand({ argv, timeoutMs: commandTimeoutMs, maxOutputBytes: 1_048_576 });
  if (result.exitCode !== 0) {
    if (/does not exist/.test(result.stderr)) throw new InterfaceError(`There is no interface ${name} here; see ip -brief address.`);
    throw new InterfaceError(`${failureSentence({ program: "ip", result, timeoutMs: commandTimeoutMs })}.`);
  }
  const [link] = JSON.parse(result.stdout) as [{ addr_info?: IpAddress[] }];
  const addresses = link.addr_info ?? [];
  const ipv4 = addresses.find(({ family, local }) => family === "inet" && (wanted === null || local === wanted));
  if (!ipv4) {
    const missing = wanted === null ? "no IPv4 address" : `not the address ${wanted}`;
    throw new InterfaceError(`${name} has ${missing}; for example: ip address add ${wanted ?? "10.77.0.1"}/24 dev ${name}`);
  }
  const ipv6 = addresses.find(({ family, scope, prefixlen }) => family === "inet6" && scope === "global" && prefixlen === 64);
  return { name, address: ipv4.local, prefix: ipv4.prefixlen, ipv6: ipv6?.local ?? null };
}

/** Where the nodes reach us: `address`, else the first IPv4 address of `interface`. */
export async function addressOf(config: BootConfig): Promise<string> {
  if (config.address !== null) return config.address;
  if (config.interface === null) throw new BootConfigError(`${config.file}: interface is missing, and so is address.`);
  return (await attachmentOf(config.interface)).address;
}

export const serverUrl = async (config: BootConfig): Promise<string> => `http://${await addressOf(config)}:${config.port}`;

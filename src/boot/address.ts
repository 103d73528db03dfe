import { networkInterfaces } from "node:os";
import { type BootConfig, BootConfigError } from "./config.ts";

/** Our interface on the nodes' network can't be used as it is: one sentence that says what to do. */
export class InterfaceError extends Error {}

/** The addresses of an interface on the nodes' network. */
export interface Attachment {
  readonly name: string;
  readonly address: string;
  readonly netmask: string;
  readonly prefix: number;
  /** The first of its IPv6 addresses that is not link-local, without the part of the host; null when it has none. */
  readonly ipv6: string | null;
}

/** `wanted`: of several addresses this one. */
export function attachmentOf(name: string, wanted: string | null = null): Attachment {
  const interfaces = networkInterfaces();
  // Without an address it is not in the list; whether it exists makes another sentence.
  const addresses = interfaces[name] ?? [];
  const ipv4 = addresses.find(({ family, address }) => family === "IPv4" && (wanted === null || address === wanted));
  if (!ipv4) {
    if (addresses.length === 0 && !exists(name)) throw new InterfaceError(`There is no interface ${name} here; see ip -brief address.`);
    throw new InterfaceError(
      `${name} has not the address ${wanted ?? "of IPv4"} (or is down): ip address add ${wanted ?? "10.77.0.1"}/24 dev ${name}`,
    );
  }
  const ipv6 = addresses.find(({ family, address }) => family === "IPv6" && !/^fe[89ab]/i.test(address));
  return {
    name,
    address: ipv4.address,
    netmask: ipv4.netmask,
    prefix: Number(ipv4.cidr?.split("/")[1] ?? 24),
    ipv6: ipv6?.cidr?.endsWith("/64") ? ipv6.address : null,
  };
}

function exists(name: string): boolean {
  return Bun.file(`/sys/class/net/${name}/address`).size > 0;
}

/** Where the nodes reach us: `address`, else the first IPv4 address of `interface`. */
export function addressOf(config: BootConfig): string {
  if (config.address !== null) return config.address;
  if (config.interface === null) throw new BootConfigError(`${config.file}: interface is missing, and so is address.`);
  return attachmentOf(config.interface).address;
}

export const serverUrl = (config: BootConfig): string => `http://${addressOf(config)}:${config.port}`;

import type { Attachment } from "./address.ts";
import { type BootConfig, BootConfigError, defaultLeases, defaultPort } from "./config.ts";

export interface DnsmasqSettings {
  readonly attachment: Attachment;
  /** boot.toml, where there is one. */
  readonly config: BootConfig | null;
  /** For a child of ours: its own pid file, and no log but standard error. */
  readonly pidFile?: string;
}

export const defaultTftpRoot = "/srv/tftp";
/** Debian's package makes this user. */
export const dnsmasqUser = "dnsmasq";

/** How many transfers at once, below the 1024 files that a process may open. */
const tftpMax = 400;

/** A configuration for dnsmasq that serves DHCP and TFTP, and no DNS, on one interface. */
export function dnsmasqConfig({ attachment, config, pidFile }: DnsmasqSettings): string {
  const { name, address, prefix } = attachment;
  const server = `http://${address}:${config?.port ?? defaultPort}`;
  const [first, last] = checkRange(attachment, config) ?? defaultRange(attachment);
  const fixed = [...(config?.nodes.values() ?? [])].filter((node) => node.address !== null);
  return `# DHCP and TFTP for the nodes behind ${name}, by haas boot dnsmasq.
port=0
interface=${name}
except-interface=lo
bind-interfaces
user=${dnsmasqUser}
group=nogroup
${pidFile === undefined ? "" : `pid-file=${pidFile}\nlog-facility=-\n`}
# One address for a MAC, whether its firmware, iPXE or an installer asks.
dhcp-range=${first},${last},${toText(maskOf(prefix))},1h
dhcp-authoritative
dhcp-ignore-clid
no-ping
dhcp-lease-max=10000
dhcp-leasefile=${config?.leases ?? defaultLeases}
${fixed.map(({ name, macs, address }) => `dhcp-host=${macs.join(",")},${address},${name}\n`).join("")}
# iPXE (it sends option 175) gets a script, other firmware a boot loader.
dhcp-match=set:ipxe,175
dhcp-match=set:bios,option:client-arch,0
dhcp-match=set:efi,option:client-arch,7
dhcp-match=set:efi,option:client-arch,9
dhcp-boot=tag:ipxe,${server}/boot.ipxe
dhcp-boot=tag:!ipxe,tag:bios,lpxelinux.0
dhcp-boot=tag:!ipxe,tag:efi,snponly.efi
# iPXE need not look for a ProxyDHCP server.
dhcp-option=tag:ipxe,encap:175,176,1b

# iPXE waits for a router advertisement; this one makes nobody a router. It needs an address of the prefix:
# ip address add ${ipv6Of(attachment).address}/64 dev ${name}
enable-ra
dhcp-range=${ipv6Of(attachment).prefix},ra-only,64
ra-param=${name},10,0
quiet-ra

# Only files that ${dnsmasqUser} owns are given away, so no link leads out.
enable-tftp=${name}
tftp-root=${config?.dnsmasq.tftpRoot ?? defaultTftpRoot}
tftp-secure
tftp-max=${tftpMax}
`;
}

/** The interface's own IPv6 prefix, else a private one that is made of its IPv4 network. */
export function ipv6Of({ ipv6, address, prefix }: Attachment): { address: string; prefix: string; missing: boolean } {
  if (ipv6 !== null) {
    const groups = fullGroups(ipv6).slice(0, 4).join(":");
    return { address: ipv6, prefix: `${groups}::`, missing: false };
  }
  const network = (toNumber(address) & maskOf(prefix)) >>> 0;
  const hex = network.toString(16).padStart(8, "0");
  const start = `fd${hex.slice(0, 2)}:${hex.slice(2, 6)}:${hex.slice(6)}00`;
  return { address: `${start}::1`, prefix: `${start}::`, missing: true };
}

function fullGroups(address: string): string[] {
  const [head = "", tail] = address.split("%")[0]!.split("::");
  const groups = (text: string | undefined) => (text ? text.split(":") : []);
  if (tail === undefined) return groups(head);
  return [...groups(head), ...Array<string>(8 - groups(head).length - groups(tail).length).fill("0"), ...groups(tail)];
}

function checkRange({ address, prefix, name }: Attachment, config: BootConfig | null): readonly [string, string] | null {
  const range = config?.dnsmasq.range ?? null;
  if (range === null) return null;
  const [first, last, own] = [range[0], range[1], address].map(toNumber) as [number, number, number];
  const inside = (value: number) => ((value ^ own) & maskOf(prefix)) === 0;
  const bad = (why: string) => new BootConfigError(`${config!.file}: dnsmasq.range ${why}.`);
  if (!inside(first) || !inside(last)) throw bad(`is not in the network of ${name}, ${address}/${prefix}`);
  if (first > last) throw bad("begins behind its end");
  if (first <= own && own <= last) throw bad(`holds our own address, ${address}`);
  return range;
}

/** The larger side of our own address, without its first fifth, which is left for fixed addresses. */
function defaultRange({ address, prefix, name }: Attachment): [string, string] {
  const own = toNumber(address);
  const network = (own & maskOf(prefix)) >>> 0;
  const broadcast = (network | ~maskOf(prefix)) >>> 0;
  const [low, high] = own - network > broadcast - own ? [network + 1, own - 1] : [own + 1, broadcast - 1];
  if (prefix > 30 || low > high) throw new BootConfigError(`The network of ${name}, ${address}/${prefix}, has no room for nodes.`);
  return [toText(low + Math.floor((high - low + 1) / 5)), toText(high)];
}

const maskOf = (prefix: number): number => (prefix === 0 ? 0 : (~0 << (32 - prefix)) >>> 0);
const toNumber = (address: string): number => address.split(".").reduce((value, part) => value * 256 + Number(part), 0);
const toText = (value: number): string => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join(".");

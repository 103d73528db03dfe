import { existsSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import { HaasError, messageOf } from "../../errors.ts";

/** The longest name that Linux gives an interface (IFNAMSIZ without its final zero). */
const longestName = 15;
const commandTimeoutMs = 30_000;

export interface BridgeSettings {
  /** The interface that carries every VLAN, tagged. */
  readonly trunkNic: string;
  readonly vlans: readonly number[];
  /** Print the commands instead of running them. */
  readonly dryRun: boolean;
  print(line: string): void;
  /** Where the kernel lists its interfaces. */
  readonly sysfs?: string;
}

/**
 * For every VLAN the interface `<trunk>.<N>`, enslaved to the bridge `br-vlan<N>`, both up.
 * Idempotent: what is there already is left alone. What is there and different is an error.
 */
export async function createBridges({ trunkNic, vlans, dryRun, print, sysfs = "/sys/class/net" }: BridgeSettings): Promise<void> {
  if (vlans.length === 0) throw failure("No VLANs: the pool is empty; set vlans in [haas.ext.network_allocators.vlan_pool].");
  if (!dryRun && !existsSync(`${sysfs}/${trunkNic}`)) throw failure(`[headnode] trunk_nic: this machine has no interface '${trunkNic}'.`);
  for (const vlan of vlans) {
    for (const command of bridgeCommands(trunkNic, vlan, sysfs)) {
      print(command.join(" "));
      if (!dryRun) await run(command);
    }
  }
}

/** The commands that are still missing for one VLAN. */
function bridgeCommands(trunk: string, vlan: number, sysfs: string): string[][] {
  const nic = `${trunk}.${vlan}`;
  const bridge = `br-vlan${vlan}`;
  if (nic.length > longestName)
    throw failure(`The interface '${nic}' would have more than ${longestName} characters; give '${trunk}' a shorter name.`);
  const has = (path: string) => existsSync(`${sysfs}/${path}`);
  const commands: string[][] = [];

  if (!has(nic)) commands.push(["ip", "link", "add", "link", trunk, "name", nic, "type", "vlan", "id", String(vlan)]);
  else if (!has(`${nic}/lower_${trunk}`)) throw failure(`The interface '${nic}' exists, but is not on '${trunk}'.`);

  if (!has(bridge)) commands.push(["ip", "link", "add", "name", bridge, "type", "bridge"]);
  else if (!has(`${bridge}/bridge`)) throw failure(`The interface '${bridge}' exists, but is not a bridge.`);

  const master = has(`${nic}/master`) ? basename(readlinkSync(`${sysfs}/${nic}/master`)) : null;
  if (master === null) commands.push(["ip", "link", "set", "dev", nic, "master", bridge]);
  else if (master !== bridge) throw failure(`The interface '${nic}' is in the bridge '${master}' already.`);

  // No effect on one that is up; its state in sysfs says up or down of the cable, not of the interface.
  commands.push(["ip", "link", "set", "dev", nic, "up"], ["ip", "link", "set", "dev", bridge, "up"]);
  return commands;
}

async function run(command: readonly string[]): Promise<void> {
  let child;
  try {
    child = Bun.spawn([...command], { stdin: "ignore", stdout: "ignore", stderr: "pipe", timeout: commandTimeoutMs });
  } catch (error) {
    throw failure(`Can't run '${command[0]}': ${messageOf(error)}.`);
  }
  const [words, status] = await Promise.all([child.stderr.text(), child.exited]);
  if (status !== 0)
    throw failure(`'${command.join(" ")}' failed: ${words.trim().replace(/\s+/g, " ").replace(/\.$/, "") || `status ${status}`}.`);
}

const failure = (message: string) => new HaasError("ServerError", message);

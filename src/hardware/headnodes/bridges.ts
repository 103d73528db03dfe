import { existsSync, readdirSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import { HeadnodeError, messageOf } from "../../errors.ts";
import { failureSentence, runCommand } from "../command.ts";

// What headnodes' interfaces are plugged into, on the hypervisor: made and removed by hand or at boot, not by the server.

/** The longest name that Linux gives an interface (IFNAMSIZ without its final zero). */
const longestName = 15;
const commandTimeoutMs = 30_000;
const maxOutputBytes = 65_536;

export interface BridgeSettings {
  /** The interface that carries every VLAN, tagged. */
  readonly trunkNic: string;
  readonly vlans: readonly number[];
  /** `bridges`: a Linux bridge a VLAN. `ovs`: one bridge of Open vSwitch for all, with a tag an interface. */
  readonly network: "bridges" | "ovs";
  readonly ovsBridge: string;
  /** Print the commands instead of running them. */
  readonly dryRun: boolean;
  print(line: string): void;
  /** Where the kernel lists its interfaces. */
  readonly sysfs?: string;
}

/**
 * `bridges`: for every VLAN the interface `<trunk>.<N>`, enslaved to the bridge `br-vlan<N>`, both up. `ovs`: the bridge,
 * with the trunk as a port. Idempotent: what is there already is left alone. What is there and different is an error.
 */
export async function createBridges(settings: BridgeSettings): Promise<void> {
  const { trunkNic, vlans, dryRun, network, sysfs = defaultSysfs } = settings;
  if (!dryRun && !existsSync(`${sysfs}/${trunkNic}`)) throw failure(`[headnode] trunk_nic: this machine has no interface '${trunkNic}'.`);
  if (network === "ovs") return run(settings, ovsCommands(settings));
  if (vlans.length === 0) throw failure("No VLANs: the pool is empty; set vlans in [haas.ext.network_allocators.vlan_pool].");
  for (const vlan of vlans) await run(settings, bridgeCommands(trunkNic, vlan, sysfs));
}

/**
 * Removes what `createBridges` made, and does nothing where that is gone. A bridge that something else is plugged into,
 * such as a running headnode, is an error before anything is removed.
 */
export async function deleteBridges(settings: BridgeSettings): Promise<void> {
  const { trunkNic, vlans, dryRun, network, ovsBridge, sysfs = defaultSysfs } = settings;
  if (network === "ovs") {
    const ports = dryRun ? "" : await output(["ovs-vsctl", "--timeout=10", "--if-exists", "get", "bridge", ovsBridge, "ports"]);
    const known = ports === "" || dryRun ? [] : (await output(["ovs-vsctl", "--timeout=10", "list-ports", ovsBridge])).split("\n");
    refuseOthers(
      ovsBridge,
      known.filter((port) => port !== "" && port !== trunkNic),
    );
    return run(settings, [["ovs-vsctl", "--timeout=10", "--if-exists", "del-br", ovsBridge]]);
  }
  for (const vlan of vlans) {
    const members = `${sysfs}/br-vlan${vlan}/brif`;
    refuseOthers(`br-vlan${vlan}`, existsSync(members) ? readdirSync(members).filter((name) => name !== `${trunkNic}.${vlan}`) : []);
  }
  for (const vlan of vlans) {
    const names = [`br-vlan${vlan}`, `${trunkNic}.${vlan}`].filter((name) => existsSync(`${sysfs}/${name}`));
    await run(
      settings,
      names.map((name) => ["ip", "link", "del", "dev", name]),
    );
  }
}

const defaultSysfs = "/sys/class/net";

function refuseOthers(bridge: string, others: readonly string[]): void {
  if (others.length === 0) return;
  throw failure(`The bridge '${bridge}' has other ports: ${others.join(", ")}. Stop the headnodes on it first.`);
}

const ovsCommands = ({ trunkNic, ovsBridge }: BridgeSettings): string[][] => [
  ["ovs-vsctl", "--timeout=10", "--may-exist", "add-br", ovsBridge, "--", "--may-exist", "add-port", ovsBridge, trunkNic],
  ["ip", "link", "set", "dev", trunkNic, "up"],
];

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

async function run({ dryRun, print }: BridgeSettings, commands: readonly string[][]): Promise<void> {
  for (const command of commands) {
    print(command.join(" "));
    if (!dryRun) await output(command);
  }
}

async function output(command: readonly string[]): Promise<string> {
  const [program = "", ...args] = command;
  const result = await runCommand({ argv: [program, ...args], timeoutMs: commandTimeoutMs, maxOutputBytes }).catch((error: unknown) => {
    throw failure(`${messageOf(error)}.`);
  });
  if (result.exitCode === 0) return result.stdout.trim();
  throw failure(`'${command.join(" ")}' failed: ${failureSentence({ program, result, timeoutMs: commandTimeoutMs })}.`);
}

const failure = (message: string) => new HeadnodeError(message);

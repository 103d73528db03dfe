import { statSync } from "node:fs";
import { messageOf } from "../errors.ts";
import { serverUrl } from "./address.ts";
import type { BootConfig, Profile } from "./config.ts";
import { openBelow } from "./files.ts";
import { openLeases } from "./leases.ts";
import { type Mac, parseMac } from "./mac.ts";
import { writePxelinux } from "./pxelinux.ts";
import { renderArgs, RenderError, renderFile } from "./render.ts";
import { type Arming, ArmingError, type Machine, openState } from "./state.ts";

/** Asks elsewhere for the MAC addresses of a node that boot.toml does not have. */
export type AskForMacs = (node: string) => Promise<readonly string[]>;

/**
 * Arm machines: names of nodes, or MAC addresses. Everything that their next boot needs is looked at now, so
 * that nobody finds out at night; all are armed, or none.
 */
export async function arm(config: BootConfig, words: readonly string[], profileName: string, ask: AskForMacs): Promise<string[]> {
  const profile = config.profiles.get(profileName);
  if (!profile) {
    const known = [...config.profiles.keys()].join(", ");
    throw new ArmingError(`There is no profile ${profileName} in ${config.file}; it has ${known || "none"}.`);
  }
  await checkFiles(config, profile);
  const armings = new Map<string, Arming>();
  for (const word of words) {
    const { name, macs } = await machineOf(config, word, ask);
    armings.set(name, { name, macs, profile: profile.name, timeoutMinutes: profile.timeoutMinutes });
  }
  for (const arming of armings.values()) await checkTemplates(config, profile, arming);
  const state = openState(config.state);
  try {
    state.arm([...armings.values()], Date.now());
    await publish(config, state.list());
  } finally {
    state.close();
  }
  return [...armings.keys()];
}

/** Disarm machines, by the same words. */
export async function disarm(config: BootConfig, words: readonly string[]): Promise<void> {
  const state = openState(config.state);
  try {
    state.disarm([
      ...new Set(
        words.map((word) => {
          const mac = parseMac(word);
          const name = mac === null ? word : state.byMac(mac)?.name;
          if (name === undefined) throw new ArmingError(`${mac} is not armed.`);
          return name;
        }),
      ),
    ]);
    await publish(config, state.list());
  } finally {
    state.close();
  }
}

/** What pxelinux reads. The server does it again within a second, so this need not succeed. */
async function publish(config: BootConfig, machines: readonly Machine[]): Promise<void> {
  try {
    if (config.dnsmasq.tftpRoot !== null) writePxelinux(config.dnsmasq.tftpRoot, await serverUrl(config), machines);
  } catch (error) {
    process.stderr.write(`warning: pxelinux.cfg is left to haas boot serve: ${messageOf(error)}\n`);
  }
}

async function machineOf(config: BootConfig, word: string, ask: AskForMacs): Promise<{ name: string; macs: readonly Mac[] }> {
  const mac = parseMac(word);
  if (mac !== null) {
    const node = [...config.nodes.values()].find(({ macs }) => macs.includes(mac));
    return node ?? { name: mac, macs: [mac] };
  }
  const node = config.nodes.get(word);
  if (node) return node;
  const macs = (await ask(word)).map((text) => {
    const parsed = parseMac(text);
    if (parsed === null) throw new ArmingError(`${word} has a nic with the address ${text}, which is not that of a machine.`);
    return parsed;
  });
  if (macs.length === 0) throw new ArmingError(`${word} has no nic in haas, so its MAC address is not known.`);
  return { name: word, macs: [...new Set(macs)] };
}

async function checkFiles({ root }: BootConfig, { name, kernel, initrd }: Profile): Promise<void> {
  if (!statSync(root, { throwIfNoEntry: false })?.isDirectory()) throw new ArmingError(`The root of the files, ${root}, is not there.`);
  for (const path of [kernel, ...initrd]) {
    const file = await openBelow(root, path.split("/"));
    if (file === null) throw new ArmingError(`Profile ${name} needs ${path}, which is no file below ${root}.`);
    await file.handle.close();
  }
}

async function checkTemplates(config: BootConfig, profile: Profile, { name, macs }: Arming): Promise<void> {
  const leases = openLeases(config.leases, () => config.nodes);
  const target = {
    config,
    profile,
    server: await serverUrl(config),
    machine: { name, token: "0".repeat(32) },
    mac: macs[0]!,
    // It may not have one before it boots.
    address: leases.addressOf(macs[0]!) ?? "0.0.0.0",
  };
  try {
    await renderArgs(target);
    for (const template of profile.files.values()) await renderFile(target, template);
  } catch (error) {
    if (error instanceof RenderError) throw new ArmingError(`${name} can't be armed with ${profile.name}: ${error.message}.`);
    throw error;
  }
}

import { createHash } from "node:crypto";
import { dirname, extname, join } from "node:path";
import { HeadnodeError, messageOf, quote } from "../../errors.ts";
import { CommandError, type CommandResult, lastLine, redact, runCommand } from "../command.ts";
import { Domain, type Interface, type Join } from "./domain.ts";
import { HalfMadeError, type HeadnodeDriver, type HeadnodeTarget, type MachineState, unasked } from "./driver.ts";

/**
 * Headnodes as virtual machines of libvirt, through `virsh` and `virt-clone`. Facts from their manuals, or measured with
 * libvirt 9.0 and virtinst 4.1 (tests/hardware/libvirt.test.ts).
 *
 * A headnode's machine is called `headnode-<uuid>`, and so is every volume of it, with more behind it.
 * So whatever is left of one can be found, without anything that a project wrote in a command line. A base image is a
 * machine that is shut off, named as in `base_imgs`.
 */

export interface LibvirtSettings {
  /** libvirt's connection URI. */
  readonly endpoint: string;
  /** `bridges`: the Linux bridge `br-vlan<N>` of each VLAN. `ovs`: the Open vSwitch bridge `ovsBridge`, with a tag an interface. */
  readonly network: "bridges" | "ovs";
  readonly ovsBridge: string;
}

const commandTimeoutMs = 30_000;
/** Copies the image. Below the time that the front leaves a call. */
const cloneTimeoutMs = 200_000;
const maxOutputBytes = 4 * 1024 * 1024;
const defaultCard = "virtio";
/** `virsh` says so of a machine that there isn't; the words before are the machine's name. */
const noDomain = /failed to get domain|Domain not found/i;
const noVolume = /Storage volume not found|failed to get vol/i;

export function libvirt(settings: LibvirtSettings): HeadnodeDriver {
  return new Libvirt(settings);
}

const machineName = (headnode: HeadnodeTarget): string => `headnode-${headnode.uuid}`;

interface VirshOptions {
  unless?: RegExp;
  stdin?: string;
  secrets?: readonly string[];
}

class Libvirt implements HeadnodeDriver {
  readonly name = "libvirt";
  readonly displaysElsewhere: string | null;

  constructor(readonly settings: LibvirtSettings) {
    // qemu+ssh://host/system has a host, qemu:///system is this machine.
    const host = /^[\w+]+:\/\/(?:[^@/]*@)?([^/:?]*)/.exec(settings.endpoint)?.[1] ?? "";
    this.displaysElsewhere = host === "" ? null : `displays listen on the loopback of the hypervisor ${quote(host)}; connect there`;
  }

  async create(headnode: HeadnodeTarget): Promise<void> {
    const name = machineName(headnode);
    const base = await this.#describe(headnode, headnode.baseImage);
    if (base === null) throw this.#failure(headnode, `its image ${quote(headnode.baseImage)} is not on the hypervisor`);
    if ((await this.#describe(headnode, name)) !== null)
      throw this.#failure(headnode, `a virtual machine ${quote(name)} exists already, and haas did not make it; remove it first`);
    const [foreign] = await this.#volumes(headnode);
    if (foreign !== undefined)
      throw this.#failure(headnode, `a volume ${quote(foreign)} exists already, and haas did not make it; remove it first`);
    const copies = base.storage().map(({ target, source }) => join(dirname(source), `${name}-${target}${extname(source)}`));
    try {
      await this.#clone(headnode, copies);
    } catch (error) {
      await this.remove(unasked(headnode)).catch((undoing: unknown) => {
        throw new HalfMadeError(`${messageOf(error)} What there is of it could not be removed: ${messageOf(undoing)}`, { cause: error });
      });
      throw error;
    }
  }

  async #clone(headnode: HeadnodeTarget, copies: readonly string[]): Promise<void> {
    await headnode.confirm();
    const files = copies.flatMap((file) => ["--file", file]);
    const argv = ["virt-clone", "--connect", this.settings.endpoint, "--quiet", "--original", headnode.baseImage] as const;
    const result = await this.#run(headnode, [...argv, "--name", machineName(headnode), ...files], { timeoutMs: cloneTimeoutMs });
    if (result.exitCode !== 0)
      throw this.#failure(headnode, `cloning ${quote(headnode.baseImage)}: ${this.#words(result, cloneTimeoutMs)}`);
  }

  async start(headnode: HeadnodeTarget): Promise<void> {
    const name = machineName(headnode);
    const joins = headnode.interfaces.map((one) => this.#join(headnode, one.vlan));
    // Whoever else started it started it without networks.
    if ((await this.state(headnode)).kind === "on") return this.#confirm(headnode, joins, "; stop it, and start it again");
    const domain = await this.#describe(headnode, name, "--inactive");
    if (domain === null) throw this.#failure(headnode, "its virtual machine is gone from the hypervisor");
    // One that was stopped has no card left to look at, its image does.
    const card = domain.card ?? (await this.#describe(headnode, headnode.baseImage))?.card ?? defaultCard;
    await this.#define(
      headnode,
      domain,
      headnode.interfaces.map((one, i) => ({ mac: macOf(headnode, one.label), card, join: joins[i]! })),
    );
    try {
      await this.#change(headnode, ["start", name]);
      await this.#confirm(headnode, joins, ", so it was stopped again");
    } catch (error) {
      // Also when it did not start: its networks may be given up before anybody else starts it.
      await this.stop(unasked(headnode));
      throw error;
    }
  }

  /** Read back where a running machine is, as a hook of the hypervisor may have put it elsewhere; then it may start with the host. */
  async #confirm(headnode: HeadnodeTarget, joins: readonly Join[], advice: string): Promise<void> {
    const name = machineName(headnode);
    const actual = (await this.#describe(headnode, name))?.joins;
    if (JSON.stringify(actual) !== JSON.stringify(joins))
      throw this.#failure(headnode, `its interfaces are not on the networks that they should be on${advice}`);
    await this.#change(headnode, ["autostart", name]);
  }

  async stop(headnode: HeadnodeTarget): Promise<void> {
    const name = machineName(headnode);
    const { kind } = await this.state(headnode);
    if (kind === "absent") return;
    if (kind === "on") await this.#change(headnode, ["destroy", name], { unless: /domain is not running/i });
    await this.#change(headnode, ["autostart", "--disable", name]);
    // Its networks may be given up, and their VLANs be somebody else's, before it is started again, by whomever.
    const domain = await this.#describe(headnode, name, "--inactive");
    if (domain !== null && domain.joins.length > 0) await this.#define(headnode, domain, []);
  }

  /** Store a machine's description, with these interfaces and its own display. */
  async #define(headnode: HeadnodeTarget, domain: Domain, interfaces: readonly Interface[]): Promise<void> {
    domain.title = headnode.label;
    domain.interfaces = interfaces;
    domain.vncPassword = headnode.vncPassword;
    // From standard input: a file or an argument would show the password.
    await this.#change(headnode, ["define", "/dev/stdin"], { stdin: domain.toString(), secrets: [headnode.vncPassword] });
  }

  async remove(headnode: HeadnodeTarget): Promise<void> {
    const name = machineName(headnode);
    await this.stop(headnode);
    // Not --remove-all-storage: that would also remove what the image shares with others, such as a CD-ROM.
    const flags = ["--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--nvram"];
    await this.#change(headnode, ["undefine", name, ...flags], { unless: noDomain });
    for (const path of await this.#volumes(headnode)) await this.#change(headnode, ["vol-delete", path], { unless: noVolume });
    const [left] = await this.#volumes(headnode);
    if (left !== undefined) throw this.#failure(headnode, `its volume ${quote(left)} is still there`);
  }

  async state(headnode: HeadnodeTarget): Promise<MachineState> {
    const name = machineName(headnode);
    const words = await this.#virsh(headnode, ["domstate", "--reason", name], { unless: noDomain });
    if (words === null) return { kind: "absent" };
    if (/^(shut off|crashed)/.test(words)) return { kind: "off", words: lastLine(words) };
    return { kind: "on", vncPort: (await this.#describe(headnode, name))?.vncPort ?? null };
  }

  /** The bridge that carries a VLAN. */
  #join(headnode: HeadnodeTarget, vlan: number | null): Join {
    if (vlan === null) throw this.#failure(headnode, "a network without a VLAN can't be joined");
    return this.settings.network === "ovs" ? { bridge: this.settings.ovsBridge, tag: vlan } : { bridge: `br-vlan${vlan}`, tag: null };
  }

  /** The paths of a headnode's volumes, in whatever pool. A pool is asked to look again first: a copy that was cut off is not known to it. */
  async #volumes(headnode: HeadnodeTarget): Promise<string[]> {
    // With a dash the copies of disks, with an underscore the variables of UEFI.
    const prefix = machineName(headnode);
    const found: string[] = [];
    for (const pool of lines(await this.#virsh(headnode, ["pool-list", "--name"]))) {
      // Somebody else's pool that is out of order is no reason to fail.
      await this.#virsh(headnode, ["pool-refresh", pool], { unless: /./ });
      for (const line of lines(await this.#virsh(headnode, ["vol-list", pool], { unless: /not active|not found|no storage pool/i }))) {
        const [, volume, path] = /^(\S+)\s+(\S.*)$/.exec(line) ?? [];
        if (volume?.startsWith(prefix) && path !== undefined) found.push(path);
      }
    }
    return found;
  }

  async #describe(headnode: HeadnodeTarget, name: string, ...flags: string[]): Promise<Domain | null> {
    const xml = await this.#virsh(headnode, ["dumpxml", ...flags, "--domain", name], { unless: noDomain });
    if (xml === null) return null;
    try {
      return new Domain(xml);
    } catch (error) {
      throw this.#failure(headnode, `virsh dumpxml: ${messageOf(error)}`);
    }
  }

  /** `#virsh` for what changes or destroys something. */
  async #change(headnode: HeadnodeTarget, command: readonly [string, ...string[]], more: VirshOptions = {}): Promise<void> {
    await headnode.confirm();
    await this.#virsh(headnode, command, more);
  }

  /** What virsh prints; null when it fails with words that match `unless`. */
  async #virsh(
    headnode: HeadnodeTarget,
    command: readonly [string, ...string[]],
    { unless, stdin, secrets = [] }: VirshOptions = {},
  ): Promise<string | null> {
    const argv = ["virsh", "--quiet", "--connect", this.settings.endpoint, ...command] as const;
    const result = await this.#run(headnode, argv, { timeoutMs: commandTimeoutMs, ...(stdin !== undefined && { stdin }) });
    if (result.exitCode === 0) return result.stdout;
    if (/failed to connect to the hypervisor/i.test(result.stderr))
      throw new HeadnodeError(
        `The hypervisor ${quote(this.settings.endpoint)} can't be reached: ${this.#words(result, commandTimeoutMs)}.`,
      );
    if (unless?.test(result.stderr)) return null;
    throw this.#failure(headnode, redact(`virsh ${command[0]}: ${this.#words(result, commandTimeoutMs)}`, secrets));
  }

  async #run(
    headnode: HeadnodeTarget,
    argv: readonly [string, ...string[]],
    more: { timeoutMs: number; stdin?: string },
  ): Promise<CommandResult> {
    try {
      return await runCommand({ argv, maxOutputBytes, ...more });
    } catch (error) {
      if (error instanceof CommandError) throw this.#failure(headnode, messageOf(error));
      throw error;
    }
  }

  /** Why a program failed: all that it said, in one line. */
  #words({ stderr, exitCode, timedOut }: CommandResult, timeoutMs: number): string {
    if (timedOut) return `no answer within ${timeoutMs / 1000} s`;
    const said = lines(stderr).map((line) => line.replace(/^(error:|ERROR)\s*/, "").replace(/\.$/, ""));
    const told = said.map((line) =>
      /Cannot get interface MTU on 'br-vlan\d+'/.test(line) ? `${line} (run \`haas create_bridges\` on the hypervisor)` : line,
    );
    return lastLine(told.slice(0, 3).join(": ")) || `it ended with ${exitCode === null ? "a signal" : `code ${exitCode}`}`;
  }

  #failure(headnode: HeadnodeTarget, words: string): HeadnodeError {
    return new HeadnodeError(`Headnode ${quote(headnode.label)}: ${words}.`);
  }
}

const lines = (text: string | null): string[] =>
  (text ?? "")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");

/** The same address for as long as there is an hnic of that name, in QEMU's range. */
function macOf(headnode: HeadnodeTarget, label: string): string {
  const digest = createHash("sha256")
    .update(JSON.stringify([headnode.uuid, label]))
    .digest("hex");
  return `52:54:00:${digest.slice(0, 2)}:${digest.slice(2, 4)}:${digest.slice(4, 6)}`;
}

import { type TProperties, Type } from "@sinclair/typebox";
import { badArgument, HaasError, messageOf, quote, SessionLostError, SwitchError } from "../../errors.ts";
import { canonicalAddress, switchPorts } from "../address.ts";
import { Channel, CommandRefused, type Dialect, passwordPrompt } from "../console/channel.ts";
import { type ModeGraph, path, walk } from "../console/modes.ts";
import { connectSsh } from "../console/ssh.ts";
import { connectTelnet } from "../console/telnet.ts";
import { ConsoleLost, LoginRefused, parseAddress, type Transport } from "../console/transport.ts";
import { redact } from "../command.ts";
import { field, fields, secretField } from "../settings.ts";
import { type Capability, type PortState, samePort, type SwitchDriver, type SwitchSession, type SwitchTarget, vlanRuns } from "./driver.ts";

/** What every switch with a console is registered with. */
export interface ConsoleSettings {
  readonly hostname: string;
  readonly username: string;
  readonly password: string;
  readonly transport?: "ssh" | "telnet";
  readonly key_file?: string;
  readonly enable_password?: string;
  readonly legacy_algorithms?: boolean;
  /** Present where the device needs one; a number or its digits. */
  readonly dummy_vlan?: number | string;
}

/** What can be typed on a console, and told from everything else that it shows. */
const typedSecret = (description: string) => ({ ...secretField(description), pattern: "^(?! )[^\\u0000-\\u001f\\u007f]*(?<! )$" });

const consoleFields = {
  hostname: field("Address of the switch: `host` or `host:port`", "switch-01"),
  username: field("Login name", "admin"),
  password: typedSecret("Login password"),
  transport: Type.Optional(
    Type.Union([Type.Literal("ssh"), Type.Literal("telnet")], { description: "How to reach the console; `ssh` by default" }),
  ),
  key_file: Type.Optional(field("Path of a private key on the server, tried before the password", "/etc/haas/switch.key")),
  enable_password: Type.Optional(typedSecret("Password of the enable mode")),
  legacy_algorithms: Type.Optional(
    Type.Boolean({ description: "Also offer the SSH algorithms that were withdrawn as weak, for old firmware; false by default" }),
  ),
};

/** 1 to 4096, as a number or a numeric string. Published clients may name 4095 and 4096, which no device takes. */
const dummyVlan = Type.Union(
  [Type.Integer({ minimum: 1, maximum: 4096 }), Type.RegExp(/^0*(?:[1-9]\d{0,2}|[1-3]\d{3}|40[0-8]\d|409[0-6])$/)],
  { description: "A VLAN that exists on the switch and carries nothing: it stands for `no native VLAN`", examples: [2222] },
);

export type ConsoleMode = "user" | "privileged" | "config" | "interface";

/** What a port's `show` said. */
export interface Reading {
  readonly state: PortState;
  /** The device did not say all that decides about frames, so the port is written even if it looks right. */
  readonly unsure?: true;
}

/** A kind of switch with a console, as data as far as possible. Lines never hold a secret. */
export interface ConsoleProfile {
  readonly name: string;
  readonly device: string;
  readonly dummyVlan: boolean;
  readonly capabilities: readonly Capability[];
  readonly highestVlan: number;
  /** The whole label. */
  readonly portPattern: RegExp;
  readonly portExamples: string;
  canonicalPort(label: string): string;
  readonly dialect: Dialect;
  readonly modes: ModeGraph<ConsoleMode>;
  /** Leads out of a mode that is not among these. */
  readonly escape: string;
  readonly pagingOff: string;
  /** Shows the device's serial number, among other things. */
  readonly showSerial: string;
  /** Shows what `parsePort` reads. */
  showPort(port: string): string;
  /** Shows all ports, each as `showPort` would; `split` makes one text a port of it, by canonical name. */
  readonly showAll?: { readonly command: string; split(lines: readonly string[]): Map<string, string[]> };
  /** Null when the answer is not whole, or not about this port. */
  parsePort(lines: readonly string[], port: string, dummyVlan: number | null): Reading | null;
  /** From `config` into the interfaces; more than one only where `range` is set. */
  enterInterface(ports: readonly string[]): string;
  /** Up to so many interfaces at once. */
  readonly range?: number;
  /** In the interface mode: the lines that bring a port from one state to another one. */
  change(actual: PortState, desired: PortState, dummyVlan: number | null): string[];
  readonly save: { readonly command: string; readonly question: RegExp; readonly answer: string; readonly done: RegExp };
}

/** Connects to a console; tests put something in between. */
export type Connect = (target: SwitchTarget<ConsoleSettings>) => Promise<Transport>;

export async function connectConsole(target: SwitchTarget<ConsoleSettings>): Promise<Transport> {
  const { settings, connectTimeoutMs } = target;
  const telnet = settings.transport === "telnet";
  const address = parseAddress(settings.hostname, telnet ? 23 : 22);
  if (!address) throw new ConsoleLost("its hostname is neither `host` nor `host:port`");
  const endpoint = { ...address, timeoutMs: connectTimeoutMs, signal: target.signal };
  if (telnet) return connectTelnet(endpoint);
  return connectSsh({
    ...endpoint,
    username: settings.username,
    password: settings.password,
    keyFile: settings.key_file,
    legacyAlgorithms: settings.legacy_algorithms ?? false,
    knownHostKey: target.knownHostKey,
  });
}

const dummyOf = ({ dummy_vlan: vlan }: ConsoleSettings): number | null => (vlan === undefined ? null : Number(vlan));

export function consoleDriver(profile: ConsoleProfile, connect: Connect = connectConsole): SwitchDriver<ConsoleSettings> {
  const extra: TProperties = profile.dummyVlan ? { dummy_vlan: dummyVlan } : {};
  const validatePort = (label: string) => {
    if (!profile.portPattern.test(label)) {
      throw badArgument(`${quote(label)} is not a port name of a ${profile.device}. Legal forms: ${profile.portExamples}.`);
    }
  };
  return {
    name: profile.name,
    settings: fields({ ...consoleFields, ...extra }),
    positional: ["hostname", "username", "password", ...Object.keys(extra)],
    capabilities: profile.capabilities,
    highestVlan: profile.highestVlan,
    address: ({ hostname }) => canonicalAddress(hostname, switchPorts),
    validatePort,
    canonicalPort: (label) => profile.canonicalPort(label),
    ...(profile.dummyVlan && { reservedVlan: (settings: ConsoleSettings) => dummyOf(settings)! }),
    plan(port, actual, desired, settings) {
      validatePort(port);
      if (samePort(actual, desired)) return [];
      return [
        ...path(profile.modes, "privileged", "config"),
        profile.enterInterface([port]),
        ...profile.change(actual, desired, dummyOf(settings)),
        ...path(profile.modes, "interface", "privileged"),
      ];
    },
    async open(target) {
      const { settings, observer, commandTimeoutMs } = target;
      const secrets = secretsOf(settings);
      const started = performance.now();
      let channel: Channel | null = null;
      try {
        observer?.step("connect");
        const transport = await connect(target);
        target.signal?.addEventListener("abort", () => transport.close());
        if (target.signal?.aborted) transport.close();
        channel = new Channel(target.label, transport, profile.dialect, commandTimeoutMs, secrets, observer);
        observer?.step("log in");
        await channel.login(settings, target.connectTimeoutMs - (performance.now() - started));
        const session = new ConsoleSession(target, profile, channel, validatePort);
        await session.begin();
        return session;
      } catch (error) {
        channel?.close();
        throw failure(target.label, null, error, secrets);
      }
    },
  };
}

const secretsOf = ({ password, enable_password: enable = "" }: ConsoleSettings): string[] => [password, enable];

/** What went wrong, as an error that names the switch and the port. */
function failure(label: string, port: string | null, error: unknown, secrets: readonly string[]): Error {
  if (error instanceof HaasError) return error;
  const where = `Switch ${quote(label)}${port === null ? "" : `, port ${quote(port)}`}`;
  // Without the cause, which has the device's words as they came.
  const text = `${where}: ${redact(messageOf(error), secrets).replace(/[\p{C}\p{Zl}\p{Zp}]+/gu, " ")}.`;
  if (error instanceof ConsoleLost) return new SessionLostError(text);
  if (error instanceof CommandRefused || error instanceof LoginRefused || error instanceof Unreadable) return new SwitchError(text);
  return error instanceof Error ? error : new Error(String(error));
}

/** An answer that is not what it should be. */
class Unreadable extends Error {}

/** A log line may break an answer; then the question is asked again, so many times in all. */
const readTries = 4;
/** From so many ports on, all of them are asked for at once, where the device can. */
const showAllFrom = 4;

/** Cisco says "Processor Board ID", Dell "Serial number", with a colon or a row of dots behind it. */
const serialForm = /^\s{0,8}(?:serial number|processor board id)[\s.:]{1,80}([A-Z0-9][A-Z0-9-]{3,39})\s*$/i;

/** Enough for a sentence. */
const firstLines = (lines: readonly string[]): string[] => lines.slice(0, 100).filter((line) => line !== "");

const unlessRefused = (error: unknown): undefined => {
  if (!(error instanceof CommandRefused)) throw error;
};

class ConsoleSession implements SwitchSession {
  /** What ports were read to hold, and have not been told otherwise since. */
  readonly #known = new Map<string, PortState>();
  readonly applyPorts: SwitchSession["applyPorts"];
  readonly #dummyVlan: number | null;
  #lost = false;

  constructor(
    readonly target: SwitchTarget<ConsoleSettings>,
    readonly profile: ConsoleProfile,
    readonly channel: Channel,
    readonly validatePort: (label: string) => void,
  ) {
    this.#dummyVlan = dummyOf(target.settings);
    const { range } = profile;
    this.applyPorts = range === undefined ? undefined : (ports, desired) => this.#applyRanges(ports, desired, range);
  }

  /** From the prompt after the login to one that commands can be given at. */
  async begin(): Promise<void> {
    await this.#walk("privileged");
    // A device that knows no such command will page, which the channel can take.
    await this.channel.command(this.profile.pagingOff).catch(unlessRefused);
    if (this.target.knownSerial !== null) return;
    const answer = (await this.channel.command(this.profile.showSerial).catch(unlessRefused)) ?? [];
    const serials = answer.flatMap((line) => serialForm.exec(line)?.[1] ?? []);
    // The first one of a stack is its master's.
    await this.target.claimSerial(serials[0]?.toUpperCase() ?? "");
  }

  async applyPort(port: string, desired: PortState): Promise<void> {
    await this.#named(port, async () => {
      this.#check(port, desired);
      const actual = await this.#actual(port);
      if (!samePort(actual, desired)) await this.#change([port], actual, desired);
    });
  }

  /** What the port holds; `foreignPort` when that is not sure, so that all of it is written. */
  async #actual(port: string): Promise<PortState> {
    if (!this.#known.has(port)) await this.#read(port);
    return this.#known.get(port) ?? foreignPort;
  }

  async #applyRanges(ports: readonly string[], desired: PortState, range: number): Promise<void> {
    for (const port of ports) this.#check(port, desired);
    // Where the same lines have to be sent, they are sent once.
    const alike = new Map<string, { actual: PortState; ports: string[] }>();
    for (const port of ports) {
      const actual = await this.#named(port, () => this.#actual(port));
      if (samePort(actual, desired)) continue;
      const key = this.profile.change(actual, desired, this.#dummyVlan).join("\n");
      const group = alike.get(key) ?? { actual, ports: [] };
      group.ports.push(port);
      alike.set(key, group);
    }
    for (const { actual, ports: group } of alike.values()) {
      for (let i = 0; i < group.length; i += range) {
        const some = group.slice(i, i + range);
        await this.#named(some.length === 1 ? some[0]! : null, () => this.#change(some, actual, desired));
      }
    }
  }

  async readPorts(ports: readonly string[]): Promise<Map<string, PortState>> {
    const { showAll } = this.profile;
    const found = new Map<string, PortState>();
    if (showAll && ports.length >= showAllFrom) {
      const answer = await this.#named(null, () => this.#show(showAll.command)).catch((error: unknown) => {
        // One that does not know this command is asked port by port.
        if (error instanceof SessionLostError) throw error;
        return [];
      });
      const parts = showAll.split(answer);
      for (const port of ports) {
        const lines = parts.get(this.profile.canonicalPort(port));
        const reading = lines && this.profile.parsePort(lines, port, this.#dummyVlan);
        if (reading) found.set(port, this.#note(port, reading));
      }
    }
    for (const port of ports) {
      this.validatePort(port);
      if (!found.has(port)) found.set(port, (await this.#named(port, () => this.#read(port))).state);
    }
    return found;
  }

  async save(): Promise<void> {
    const { command, question, answer, done } = this.profile.save;
    await this.#named(null, async () => {
      await this.#walk("privileged");
      const { confirm } = this.target;
      const output = await this.channel.command(command, { questions: [{ asked: question, answer }], confirm });
      if (!output.some((line) => done.test(line))) {
        throw new CommandRefused(command, this.channel.words(output.findLast((line) => line !== "") ?? ""));
      }
    });
  }

  async close(): Promise<void> {
    this.#lost = true;
    this.channel.close();
  }

  /** A state that a network can want, on a port with a name that is safe to type. */
  #check(port: string, { native, tagged }: PortState): void {
    this.validatePort(port);
    for (const vlan of native === null ? tagged : [native, ...tagged]) {
      if (!Number.isInteger(vlan) || vlan < 1 || vlan > this.profile.highestVlan) throw new Unreadable(`it can't carry VLAN ${vlan}`);
      if (vlan === this.#dummyVlan) throw new Unreadable(`VLAN ${vlan} is its dummy VLAN, so no network can be on it`);
    }
  }

  async #change(ports: readonly string[], actual: PortState, desired: PortState): Promise<void> {
    for (const port of ports) this.#known.delete(port);
    const { confirm } = this.target;
    await this.#walk("config");
    await this.channel.command(this.profile.enterInterface(ports), { confirm });
    const { mode } = this.channel;
    // Where the prompt names the interface, it has to be this one.
    const [, named] = /-([a-z]+[\d/]+)\)#$/i.exec(mode) ?? [];
    const right =
      named === undefined || ports.some((port) => this.profile.canonicalPort(named.toLowerCase()) === this.profile.canonicalPort(port));
    if (!right || !this.profile.modes.interface.prompt.test(mode)) {
      throw new Unreadable(`the prompt does not say that this is the interface, but ends with '${this.channel.words(mode)}'`);
    }
    for (const line of this.profile.change(actual, desired, this.#dummyVlan)) await this.channel.command(line, { confirm });
    await this.#walk("config");
  }

  async #read(port: string): Promise<Reading> {
    const command = this.profile.showPort(port);
    let answer: string[] = [];
    for (let attempt = 0; attempt < readTries; attempt++) {
      answer = await this.#show(command);
      const reading = this.profile.parsePort(answer, port, this.#dummyVlan);
      if (reading) {
        this.#note(port, reading);
        return reading;
      }
    }
    throw new Unreadable(`the answer to '${command}' can't be read: '${this.channel.words(firstLines(answer).join(" / "))}'`);
  }

  #note(port: string, { state, unsure }: Reading): PortState {
    if (unsure) this.#known.delete(port);
    else this.#known.set(port, state);
    return state;
  }

  async #show(command: string): Promise<string[]> {
    await this.#walk("privileged");
    return this.channel.command(command);
  }

  async #walk(to: ConsoleMode): Promise<void> {
    const { password, enable_password: enablePassword = password } = this.target.settings;
    const questions = [{ asked: passwordPrompt, answer: enablePassword, secret: true as const }];
    await walk(this.channel, this.profile.modes, to, this.profile.escape, { questions });
  }

  /** Do something with a port, with errors that name the switch and the port. */
  async #named<T>(port: string | null, work: () => Promise<T>): Promise<T> {
    try {
      if (this.#lost) throw new ConsoleLost("the session is over");
      return await work();
    } catch (error) {
      const known = failure(this.target.label, port, error, secretsOf(this.target.settings));
      // Nothing more is typed into a console that is out of step.
      if (known instanceof SessionLostError) await this.close();
      throw known;
    }
  }
}

/** A port that holds something which no desired state says: VLAN 4095 is in no network's reach. */
export const foreignPort: PortState = { native: null, tagged: [4095] };

/** What a trunk with this native VLAN and this list passes. `none`: the VLAN that stands for no native one. */
export function trunkReading(native: number | null, allowed: readonly number[], none: number | null = null): Reading {
  if (native === null || (native === none && !allowed.includes(native))) return { state: { native: null, tagged: allowed } };
  // It passes no untagged frame, but will as soon as the list holds the VLAN again.
  if (!allowed.includes(native)) return { state: { native: null, tagged: allowed }, unsure: true };
  return { state: { native, tagged: allowed.filter((vlan) => vlan !== native) } };
}

/** Whether a port that reads like this is a trunk for certain: only those have tagged VLANs. */
const isTrunk = ({ tagged }: PortState): boolean => tagged.length > 0 && !tagged.includes(4095);

/** Which VLANs a port has to get and to lose. Behind a mode other than trunk nobody knows what there is: then all that is wanted is fresh. */
export function vlanChanges(actual: PortState, desired: PortState): { trunk: boolean; wanted: number[]; gone: number[]; fresh: number[] } {
  const vlansOf = ({ native, tagged }: PortState) => [...(native === null ? [] : [native]), ...tagged].toSorted((a, b) => a - b);
  const trunk = isTrunk(actual);
  const present = trunk ? vlansOf(actual) : [];
  const wanted = vlansOf(desired);
  return { trunk, wanted, gone: present.filter((vlan) => !wanted.includes(vlan)), fresh: wanted.filter((vlan) => !present.includes(vlan)) };
}

/** A port's name with its numbers as devices print them. */
export const withoutLeadingZeros = (label: string): string => label.replace(/\d+/g, (digits) => String(Number(digits)));

/** Every VLAN alone, with a remark at each. */
const vlanListLimitCharacters = 128 * 1024;
const namedVlansLimit = 3 * 4096;

/** The VLANs of a list as devices print it, `1,5-7`, with remarks in parentheses; null for anything else. `all` goes up to `highest`. */
export function parseVlans(text: string, highest = 4094): number[] | null {
  if (text.length > vlanListLimitCharacters) return null;
  const list = text.replace(/\([^()]*\)/g, "").trim();
  if (/^all$/i.test(list)) return otherVlans([], highest);
  if (/^(?:none|)$/i.test(list)) return [];
  // An item is missing: something cut the list.
  if (/(?:^|,)\s*(?:,|$)/.test(list)) return null;
  const vlans = new Set<number>();
  let named = 0;
  for (const item of list.split(/[,\s]+/).filter((part) => part !== "")) {
    const [, first, last = first] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(item) ?? [];
    if (first === undefined || Number(first) > Number(last) || Number(last) > 4095) return null;
    // A device may name one twice; what names all of them again and again is no list.
    named += Number(last) - Number(first) + 1;
    if (named > namedVlansLimit) return null;
    for (let vlan = Number(first); vlan <= Number(last); vlan++) vlans.add(vlan);
  }
  return [...vlans].toSorted((a, b) => a - b);
}

/** As devices take it: `1,5-7`, in pieces that fit on a line. */
export function vlanLists(vlans: readonly number[]): string[] {
  const lists: string[] = [];
  for (const [first, last] of vlanRuns(vlans)) {
    const item = first === last ? `${first}` : `${first}-${last}`;
    const list = lists.at(-1);
    if (list !== undefined && list.length + item.length < listLimit) lists[lists.length - 1] = `${list},${item}`;
    else lists.push(item);
  }
  return lists;
}

const listLimit = 60;

/** Every VLAN from 1 to `highest` that is not among these. */
export function otherVlans(vlans: readonly number[], highest: number): number[] {
  const taken = new Set(vlans);
  return Array.from({ length: highest }, (_, i) => i + 1).filter((vlan) => !taken.has(vlan));
}

/** What a device says of one port has some thirty, and more where a list of VLANs goes on. */
const fieldsLimitLines = 2_000;

/**
 * The fields of a `Key: value` answer, from the one to the other. An indented line continues the value above it.
 * Null when they are not all there, or when a piece of a line stands alone before `end`: then a log line has cut it.
 */
export function parseFields(lines: readonly string[], first: RegExp, last: RegExp, end?: RegExp): Map<string, string> | null {
  if (lines.length > fieldsLimitLines) return null;
  const from = lines.findIndex((line) => first.test(line));
  const to = end ? lines.findIndex((line) => end.test(line)) : -1;
  if (from < 0 || (end && to < from)) return null;
  // Noise: bytes that are no text.
  if (lines.some((line) => line.includes("\ufffd"))) return null;
  const found = new Map<string, string>();
  let key = "";
  let complete = false;
  for (const line of lines.slice(from, end ? to : undefined)) {
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(colon, 0)).trim();
    if (name !== "") {
      const value = line.slice(colon + 1).trim();
      complete ||= last.test(key);
      // The same field twice: two answers ran into each other.
      if (!complete && found.has(name)) return null;
      if (!complete) found.set(name, value);
      key = name;
    } else if (complete ? /^[\d,(-]/.test(line) && !/^-+( |$)/.test(line) : /^\S/.test(line)) return null;
    // Only lists of numbers go on in the next line; any other piece of a line is missed where it is needed.
    else if (!complete && /^\s+[\d,(]/.test(line)) found.set(key, `${found.get(key)} ${line.trim()}`);
  }
  return complete || last.test(key) ? found : null;
}

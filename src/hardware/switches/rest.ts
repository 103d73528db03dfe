import { readFile, stat } from "node:fs/promises";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { type TSchema, Type } from "@sinclair/typebox";
import { XMLBuilder, XMLParser, XMLValidator } from "fast-xml-parser";
import { messageOf, quote, SessionLostError, SwitchError } from "../../errors.ts";
import { noteWork } from "../../watchdog.ts";
import { canonicalAddress, switchPorts } from "../address.ts";
import { redactBeginning } from "../command.ts";
import { fields, secretField } from "../settings.ts";
import { describePort, emptyPort, type PortState, samePort, type SwitchSession, type SwitchTarget } from "./driver.ts";

/**
 * What the switches with an XML interface over HTTP share: the fields of their registration, a client for one
 * switch, and the order in which a port is changed.
 */

export interface RestSettings {
  readonly hostname: string;
  readonly username: string;
  readonly password: string;
  readonly interface_type: string;
  readonly tls?: "off" | "verify" | "insecure";
  readonly ca_file?: string;
}

export const restFields = ({ hostname, interfaceType }: { hostname: string; interfaceType: TSchema }) =>
  fields({
    hostname: Type.String({
      description: "Address of the switch: `host` or `host:port`, with or without `http://` or `https://` before it",
      examples: [hostname],
      maxLength: 255,
      pattern: "^(https?://)?([A-Za-z0-9][A-Za-z0-9._-]*|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?/?$",
    }),
    // HTTP basic has no way to say a colon.
    username: Type.String({
      description: "Login name",
      examples: ["admin"],
      maxLength: 1024,
      pattern: "^[^:\\u0000-\\u001f\\u007f]*$",
    }),
    password: secretField("Login password"),
    interface_type: interfaceType,
    tls: Type.Optional(
      Type.Union([Type.Literal("off"), Type.Literal("verify"), Type.Literal("insecure")], {
        description:
          "`off` (the default, unless hostname says https): HTTP, so whoever is on the way can read the password. `verify`: HTTPS; the certificate has to name the host and " +
          "come from an authority that the server trusts. `insecure`: HTTPS with any certificate, so whoever is on the way can pretend to be the switch",
      }),
    ),
    ca_file: Type.Optional(
      Type.String({
        description:
          "A PEM file on the server: HTTPS, verified, and only the certificates in this file are trusted as authorities, whatever `tls` says",
        examples: ["/etc/haas/switch-ca.pem"],
        maxLength: 1024,
        pattern: "^/[^\\u0000-\\u001f\\u007f]*$",
      }),
    ),
  });

export const restAddress = ({ hostname }: RestSettings): string => canonicalAddress(hostname, switchPorts);

// ---- The client ----

/** `path` is what follows the device's `base`, as it stands in the URL. */
export interface Call {
  readonly method: "GET" | "PUT" | "POST" | "DELETE";
  readonly path: string;
  readonly body?: string;
}

/** A call that changes something. `already`: the statuses by which the switch says that it is so already. */
export interface Step {
  readonly call: Call;
  readonly already?: readonly number[];
}

interface Answer {
  readonly status: number;
  readonly reason: string;
  readonly text: string;
}

const maxBodyBytes = 1024 * 1024;
const maxWordsCharacters = 300;
/** From so many characters of what a device says its words are taken. */
const maxSoughtCharacters = 8 * 1024;
const maxRecordedCharacters = 20_000;

const isSecure = ({ hostname, tls, ca_file }: RestSettings) =>
  ca_file !== undefined || (tls === undefined ? hostname.startsWith("https:") : tls !== "off");
const origin = (settings: RestSettings) =>
  `${isSecure(settings) ? "https" : "http"}://${settings.hostname.replace(/^https?:\/\//, "").replace(/\/$/, "")}`;

/** A call in one line, as a plan shows it. */
const showCall = (settings: RestSettings, base: string, { method, path, body }: Call): string =>
  [method, origin(settings) + base + path, body].filter((part) => part !== undefined).join(" ");

/**
 * One switch that speaks HTTP. Every call has a connection of its own: the web servers of switches are slow to
 * notice that a kept one is gone, and few.
 */
class RestClient {
  readonly #secrets: readonly string[];
  #underWay: AbortController | null = null;
  #closed = false;

  private constructor(
    readonly target: SwitchTarget<RestSettings>,
    readonly base: string,
    readonly trust: { readonly rejectUnauthorized: boolean; readonly ca?: string },
  ) {
    this.#secrets = formsOf(target.settings);
  }

  /** Log in, by a read that costs the switch little. Rejects when it can't be reached or refuses. */
  static async open(target: SwitchTarget<RestSettings>, base: string, probe: Step): Promise<RestClient> {
    const { settings, observer } = target;
    observer?.step("connect");
    const ca = settings.ca_file === undefined ? {} : { ca: await readCertificates(target.label, settings.ca_file) };
    const client = new RestClient(target, base, {
      rejectUnauthorized: settings.ca_file !== undefined || settings.tls !== "insecure",
      ...ca,
    });
    target.signal?.addEventListener("abort", () => client.close());
    const answer = await client.#exchange(probe.call, aboutSwitch, target.connectTimeoutMs, "beginning");
    observer?.step("log in");
    client.#check(answer, probe, aboutSwitch);
    return client;
  }

  /** End what is under way; nothing is sent from now on. */
  close(): void {
    this.#closed = true;
    this.#underWay?.abort();
  }

  /** Send one call. An answer that is neither a success nor in `already` rejects. `about` is what the failure concerns: see aboutPort. */
  async send(step: Step, about: string): Promise<Answer> {
    if (step.call.method !== "GET") await this.target.confirm();
    const answer = await this.#exchange(step.call, about, this.target.commandTimeoutMs, "all");
    this.#check(answer, step, about);
    return answer;
  }

  /** What `understand` makes of the element `root` that a call answers with; null when there is no such resource (404). */
  async read<T>(call: Call, about: string, root: string, understand: (element: Xml) => T): Promise<T | null> {
    const answer = await this.send({ call, already: [404] }, about);
    if (answer.status === 404) return null;
    return this.understand(call, about, () => understand(parseXml(answer.text, root)));
  }

  /** The result of something that throws what a device said when a call's answer is not what it should be. */
  understand<T>(call: Call, about: string, work: () => T): T {
    try {
      return work();
    } catch (error) {
      // Without a cause, here as below: it would hold what the device said as it came.
      throw this.error(`${about}${this.#name(call)}: ${this.#words(messageOf(error))}`);
    }
  }

  error(words: string): SwitchError {
    return new SwitchError(`Switch ${quote(this.target.label)}${words}.`);
  }

  /** What a device said, as it may stand in a sentence: one short printable line without a secret. */
  #words(text: string): string {
    return oneLine(redactBeginning(text, this.#secrets, maxSoughtCharacters)).replace(/\.+$/, "");
  }

  #name({ method, path, body = "" }: Call): string {
    return oneLine(`${method} ${path === "" ? this.base : `…${path}`} ${body}`);
  }

  #lost(words: string): SessionLostError {
    return new SessionLostError(`Switch ${quote(this.target.label)}${words}.`);
  }

  #check({ status, reason, text }: Answer, { call, already = [] }: Step, about: string): void {
    if ((status >= 200 && status < 300) || already.includes(status)) return;
    if (status === 401) {
      throw this.error(`${about}it refuses the login as ${quote(this.target.settings.username)} (401): check username and password`);
    }
    const redirects =
      status >= 300 && status < 400 ? "it sends haas to another address, which is not followed; check hostname, port and tls" : "";
    const words = redirects || this.#words(errorText(text));
    throw this.error(`${about}${this.#name(call)}: ${this.#words(`${status} ${reason}`)}${words && `: ${words}`}`);
  }

  async #exchange(call: Call, about: string, timeoutMs: number, wanted: "all" | "beginning"): Promise<Answer> {
    if (this.#closed) throw this.#lost(`${about}the session is closed`);
    this.#record("sent", [call.method, this.base + call.path, call.body ?? ""].join(" ").trimEnd());
    const aborter = new AbortController();
    this.#underWay = aborter;
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      aborter.abort();
    }, timeoutMs);
    try {
      const answer = await this.#request(call, aborter.signal, wanted);
      noteWork(`switch ${this.target.label}: ${call.method} ${call.path}`);
      this.#record("received", redactBeginning(`${answer.status} ${answer.reason}\n${answer.text}`, this.#secrets, maxRecordedCharacters));
      return answer;
    } catch (error) {
      const name = `${about}${this.#name(call)}`;
      if (error instanceof TooLong) throw this.error(`${name}: the answer is longer than ${maxBodyBytes} bytes`);
      if (late) throw this.#lost(`${name}: no answer within ${timeoutMs / 1000} s`);
      if (this.#closed) throw this.#lost(`${name}: the session was closed`);
      throw this.#lost(`${name}: ${this.#failure(error)}`);
    } finally {
      clearTimeout(timer);
      // Whatever is left of the connection.
      aborter.abort();
      this.#underWay = null;
    }
  }

  #failure(error: unknown): string {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    const words = this.#words(messageOf(error));
    if (!/CERT|ALTNAME|SELF_SIGNED|ISSUER/.test(code)) return `the connection failed: ${words}`;
    return `its certificate is not to be trusted (${words}); name its authority by ca_file, or give up on knowing the switch with "tls": "insecure"`;
  }

  /**
   * By node:http and not by fetch: Bun's fetch sends a request, password included, to the proxy of HTTP_PROXY, even with
   * an empty `proxy`. A redirect is an answer like any other.
   */
  #request({ method, path, body }: Call, signal: AbortSignal, wanted: "all" | "beginning"): Promise<Answer> {
    const { settings } = this.target;
    const request = isSecure(settings) ? httpsRequest : httpRequest;
    return new Promise((resolve, reject) => {
      const options = {
        ...this.trust,
        method,
        signal,
        // No agent: nothing is kept, and nothing comes from the environment.
        agent: false as const,
        headers: {
          Authorization: `Basic ${credentials(settings)}`,
          Accept: "*/*",
          // No Content-Type: each of the two has another name for its XML, and both take a body without one.
          ...(body === undefined ? {} : { "Content-Length": Buffer.byteLength(body) }),
        },
      };
      const sent = request(
        origin(settings) + this.base + path,
        options,
        (response) => void collect(response, wanted).then(resolve, reject),
      );
      sent.on("error", reject);
      sent.end(body);
    });
  }

  #record(direction: "sent" | "received", text: string): void {
    for (const line of text.slice(0, maxRecordedCharacters).split(/[\r\n]+/)) {
      const shown = line.replace(/\p{C}/gu, " ").trimEnd();
      if (shown !== "") this.target.observer?.line(direction, shown);
    }
  }
}

function oneLine(text: string): string {
  const line = text.replace(/[\s\p{C}]+/gu, " ").trim();
  return line.length > maxWordsCharacters ? `${line.slice(0, maxWordsCharacters - 1)}…` : line;
}

class TooLong extends Error {}

/** `beginning`: what is more than the longest body is left unread. */
async function collect(response: IncomingMessage, wanted: "all" | "beginning"): Promise<Answer> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Uint8Array>) {
    bytes += chunk.length;
    if (bytes > maxBodyBytes) {
      if (wanted === "all") throw new TooLong();
      break;
    }
    chunks.push(chunk);
  }
  return { status: response.statusCode ?? 0, reason: response.statusMessage ?? "", text: Buffer.concat(chunks).toString("utf8") };
}

const credentials = ({ username, password }: RestSettings) => Buffer.from(`${username}:${password}`).toString("base64");

/** Every form in which a device could give the password back. */
function formsOf(settings: RestSettings): string[] {
  const { password } = settings;
  const inBase64 = [0, 1, 2].map((offset) => {
    const text = Buffer.concat([Buffer.alloc(offset), Buffer.from(password)]).toString("base64");
    // What shares a character with its neighbours is left out.
    return text.slice(offset === 0 ? 0 : offset + 1, Math.floor((Buffer.byteLength(password) + offset) / 3) * 4);
  });
  const inXml = new XMLBuilder({}).build({ p: password }).slice("<p>".length, -"</p>".length);
  return [credentials(settings), password, inXml, encodeURIComponent(password), ...inBase64.filter((form) => form.length >= 4)];
}

/** The authorities to trust. An empty file would mean the system's. */
async function readCertificates(label: string, path: string): Promise<string> {
  const fail = (words: string, cause?: unknown) => new SwitchError(`Switch ${quote(label)}: ca_file ${quote(path)} ${words}.`, { cause });
  let text: string;
  try {
    const { size } = await stat(path).then((found) => (found.isFile() ? found : Promise.reject(new Error("it is not a file"))));
    if (size > maxBodyBytes) throw new Error("it is too long");
    text = await readFile(path, "utf8");
  } catch (error) {
    throw fail(`can't be read: ${messageOf(error)}`, error);
  }
  if (!text.includes("-----BEGIN CERTIFICATE-----")) throw fail("holds no certificate");
  return text;
}

// ---- XML ----

/** An element: its text, or its children by name without prefix; several of one name are a list. Attributes are left out. */
export type Xml = string | Xml[] | { readonly [name: string]: Xml };

const xmlBuilder = new XMLBuilder({});
const xmlParser = new XMLParser({ removeNSPrefix: true, parseTagValue: false, htmlEntities: true });

/** `{ vlan: { add: 5 } }` is `<vlan><add>5</add></vlan>`. */
export const buildXml = (element: Readonly<Record<string, unknown>>): string => xmlBuilder.build(element);

/** What a device says of one port has some thousand characters, and ten thousand with every other VLAN of all. */
const maxXmlCharacters = 64 * 1024;
/** Of elements, comments and the like, each of which costs some microseconds. */
const maxMarkup = 2_000;
/** Of a text that was printed for people. */
export const maxPrintedLines = 2_000;

/**
 * The one element of a document. Its name is checked and its namespace isn't: a device answers about the resource that it
 * was asked for, and the namespaces differ between versions of the firmware.
 */
export function parseXml(text: string, root: string): Xml {
  if (text.length > maxXmlCharacters) throw new Error(`the answer is longer than ${maxXmlCharacters} characters`);
  if (text.split("<", maxMarkup + 2).length > maxMarkup + 1) throw new Error(`the answer has more than ${maxMarkup} elements`);
  // Entities of its own could make a megabyte into anything.
  if (/<!DOCTYPE/i.test(text)) throw new Error("the answer has a document type");
  const valid = XMLValidator.validate(text);
  if (valid !== true) throw new Error(`the answer is not XML (${valid.err.msg})`);
  const { "?xml": _declaration, ...elements } = xmlParser.parse(text) as Record<string, Xml>;
  const [name, ...more] = Object.keys(elements);
  if (name !== root || more.length > 0 || Array.isArray(elements[root])) throw new Error(`the answer is not one <${root}>`);
  return elements[root]!;
}

/** The element at a path below `element`, or null. More than one on the way throws. */
export function find(element: Xml, ...path: readonly string[]): Xml | null {
  let found: Xml = element;
  for (const name of path) {
    if (typeof found === "string") return null;
    const next: Xml | undefined = (found as { readonly [name: string]: Xml })[name];
    if (next === undefined) return null;
    if (Array.isArray(next)) throw new Error(`the answer has more than one <${name}>`);
    found = next;
  }
  return found;
}

/** The text at a path; null when there is no such element. An element with children throws. */
export function findText(element: Xml, ...path: readonly string[]): string | null {
  const found = find(element, ...path);
  if (found !== null && typeof found !== "string") throw new Error(`<${path.at(-1)}> in the answer is not a text`);
  return found;
}

/** Every text below an element with the names that lead there, as `allowed/vlan/add`. */
export function texts(element: Xml, path = ""): [path: string, text: string][] {
  if (typeof element === "string") return element === "" ? [] : [[path, element]];
  if (Array.isArray(element)) return element.flatMap((one) => texts(one, path));
  return Object.entries(element).flatMap(([name, child]) => texts(child, path === "" ? name : `${path}/${name}`));
}

/** What an error's body says: the messages in it, or all of its text when it is another document or none. */
function errorText(body: string): string {
  let found: [path: string, text: string][] = [];
  try {
    found = texts(parseXml(body, "errors"));
  } catch {
    return body.slice(0, maxXmlCharacters).replace(/<[^<>]*>/g, " ");
  }
  const messages = found.filter(([path]) => path.endsWith("error-message"));
  return (messages.length > 0 ? messages : found).map(([, text]) => text).join(" ");
}

/** `12, 14-18` in ascending order. Throws for everything else, an empty list and a VLAN that is in it twice too. */
export function parseVlans(list: string, highest: number): number[] {
  const vlans = new Set<number>();
  const shown = list.slice(0, maxWordsCharacters);
  for (const item of list.split(",")) {
    const [, from, to = from] = /^\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\s*$/.exec(item) ?? [];
    const [first, last] = [Number(from), Number(to)];
    if (!(first >= 1 && first <= last && last <= highest)) throw new Error(`'${shown}' is not a list of VLANs`);
    for (let vlan = first; vlan <= last; vlan++) {
      if (vlans.has(vlan)) throw new Error(`VLAN ${vlan} is twice in '${shown}'`);
      vlans.add(vlan);
    }
  }
  return [...vlans].toSorted((a, b) => a - b);
}

// ---- Ports ----

/** What a port is set to, also behind a shutdown. */
export interface Held {
  /** Not shut. */
  readonly open: boolean;
  /** Switching as we set it up, in another way, or not at all. */
  readonly mode: "ours" | "other" | "none";
  /** Something that `PortState` can't say, or that can't be told. */
  readonly odd: boolean;
  readonly native: number | null;
  readonly tagged: readonly number[];
}

/** Where both devices put frames without a tag on a port that has no other VLAN for them. */
export const defaultVlan = 1;

/** No network can have it, so a state with it equals no desired state. */
const impossibleVlan = 4095;

/** What differs between the devices. Nothing but `read` sends anything. */
export interface RestDevice {
  /** The path that all calls begin with. */
  base(settings: RestSettings): string;
  /** The one spelling of a port's name, as the device has it. */
  spelling(label: string): string;
  /** A read that only somebody who is logged in may do. */
  readonly probe: Step;
  /** Null when the device has no such port. */
  read(client: RestClient, port: string, about: string): Promise<Held | null>;
  /** Throws when a successful answer to a change says that there was none. */
  check?(call: Call, answer: string): void;
  /** Shut the port, whatever its mode, and leave the rest as it is. */
  shut(settings: RestSettings, port: string): Step;
  /** Take every VLAN off a port that is shut. */
  empty(settings: RestSettings, port: string, held: Held): Step[];
  /** Take every VLAN off a port that is shut, and make it ready for others. */
  prepare(settings: RestSettings, port: string, held: Held): Step[];
  native(settings: RestSettings, port: string, vlan: number): Step[];
  tag(settings: RestSettings, port: string, vlan: number): Step;
  untag(settings: RestSettings, port: string, vlan: number): Step;
  open(settings: RestSettings, port: string): Step;
  readonly save?: Step;
}

/** What stands between the switch and what is wrong, in a failure. */
const aboutPort = (label: string) => `, port ${quote(label)}: `;
const aboutSwitch = ": ";

const isNothing = ({ native, tagged }: PortState) => native === null && tagged.length === 0;

/** What frames a port passes. What we would not leave behind holds the impossible VLAN. */
function stateOf({ open, mode, odd, native, tagged }: Held): PortState {
  if (!open) return emptyPort;
  const proper = mode === "ours" && !odd && !isNothing({ native, tagged });
  return { native, tagged: proper ? tagged : [...tagged, impossibleVlan] };
}

/** What a port that reads like this is set to, as far as that can be told. */
function heldFrom(state: PortState): Held {
  const nothing = isNothing(state);
  const odd = state.tagged.includes(impossibleVlan);
  return {
    open: !nothing,
    mode: nothing ? "none" : odd ? "other" : "ours",
    odd,
    native: state.native,
    tagged: state.tagged.filter((vlan) => vlan !== impossibleVlan),
  };
}

function isRight(held: Held, desired: PortState): boolean {
  if (!samePort(stateOf(held), desired)) return false;
  // A shut port keeps nothing either: somebody may open it by hand.
  return held.open || (!held.odd && held.tagged.length === 0 && (held.native ?? defaultVlan) === defaultVlan);
}

/** To be sent in this order: `shutting`; `changing`, once the port reads as shut when it was to be shut; `opening`, once it holds what it should. */
interface Changes {
  readonly shutting: readonly Step[];
  readonly changing: readonly Step[];
  readonly opening: readonly Step[];
}

/**
 * The calls that bring a port from one state to another. At no time it passes a VLAN that is in neither of the two.
 * `about` begins the sentence of a refusal.
 */
function changesOf(device: RestDevice, settings: RestSettings, label: string, held: Held, desired: PortState, about: string): Changes {
  const port = device.spelling(label);
  if (isRight(held, desired)) return { shutting: [], changing: [], opening: [] };
  const shutting = held.open ? [device.shut(settings, port)] : [];
  if (isNothing(desired)) return { shutting, changing: device.empty(settings, port, held), opening: [] };
  const { native, tagged } = desired;
  if (native === null) throw new SwitchError(`${about}a switch of this type can't carry tagged VLANs without a native one.`);
  const add = (vlans: readonly number[]) => vlans.map((vlan) => device.tag(settings, port, vlan));
  // On its way from one native VLAN to another a port is in the default VLAN, so it is shut for that.
  if (!held.open || held.mode !== "ours" || held.odd || held.native !== native) {
    const changing = [...device.prepare(settings, port, held), ...device.native(settings, port, native), ...add(tagged)];
    return { shutting, changing, opening: [device.open(settings, port)] };
  }
  const removed = held.tagged.filter((vlan) => !tagged.includes(vlan)).map((vlan) => device.untag(settings, port, vlan));
  const added = add(tagged.filter((vlan) => !held.tagged.includes(vlan)));
  return { shutting: [], changing: [...removed, ...added], opening: [] };
}

export function planPort(device: RestDevice, label: string, actual: PortState, desired: PortState, settings: RestSettings): string[] {
  const { shutting, changing, opening } = changesOf(device, settings, label, heldFrom(actual), desired, `Port ${quote(label)}: `);
  return [...shutting, ...changing, ...opening].map(({ call }) => showCall(settings, device.base(settings), call));
}

export async function openRest(device: RestDevice, target: SwitchTarget<RestSettings>): Promise<SwitchSession> {
  const { settings } = target;
  const client = await RestClient.open(target, device.base(settings), device.probe);
  const send = async (steps: readonly Step[], about: string) => {
    for (const step of steps) {
      const { text } = await client.send(step, about);
      client.understand(step.call, about, () => device.check?.(step.call, text));
    }
  };
  const read = async (label: string): Promise<Held> => {
    const port = device.spelling(label);
    const held = await device.read(client, port, aboutPort(label));
    if (held === null) throw client.error(`${aboutPort(label)}it has no ${settings.interface_type} ${port}`);
    return held;
  };

  return {
    async applyPort(label, desired) {
      const about = aboutPort(label);
      const where = `Switch ${quote(target.label)}${about}`;
      const { shutting, changing, opening } = changesOf(device, settings, label, await read(label), desired, where);
      if ([shutting, changing, opening].every((steps) => steps.length === 0)) return;
      if (shutting.length > 0) {
        await send(shutting, about);
        if ((await read(label)).open) throw client.error(`${about}it was told to shut, but is open; nothing else was changed`);
      }
      await send(changing, about);
      if (opening.length > 0) {
        const behind = stateOf({ ...(await read(label)), open: true });
        if (!samePort(behind, desired)) {
          throw client.error(`${about}it stays shut, for it would carry ${describePort(behind)} instead of ${describePort(desired)}`);
        }
        await send(opening, about);
      }
      const after = stateOf(await read(label));
      if (!samePort(after, desired)) {
        throw client.error(`${about}it should carry ${describePort(desired)}, but reads back ${describePort(after)}`);
      }
    },
    async readPorts(labels) {
      const found = new Map<string, PortState>();
      for (const label of labels) found.set(label, stateOf(await read(label)));
      return found;
    },
    ...(device.save && { save: () => send([device.save!], ": saving its configuration: ") }),
    close: async () => client.close(),
  };
}

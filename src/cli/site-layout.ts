import { fstatSync, openSync, readFileSync } from "node:fs";
import { isObject } from "../client/http.ts";
import { bmcAddress, canonicalAddress, switchPorts } from "../hardware/address.ts";
import { obmSubtypes, obmTypePrefix } from "./nodes.ts";
import { printable } from "./progress.ts";
import { switchFields, switchTypePrefix } from "./switches.ts";

/** A site as its file describes it: the bodies of the registrations, passwords and all. */
export interface Layout {
  readonly switches: readonly { readonly label: string; readonly body: Record<string, unknown> }[];
  readonly nodes: readonly SiteNode[];
}

interface SiteNode {
  readonly label: string;
  readonly obm: Record<string, unknown>;
  readonly metadata: Record<string, unknown>;
  readonly nics: readonly SiteNic[];
}

export interface SiteNic {
  readonly label: string;
  readonly macaddr: string;
  /** Where it is cabled; `place` is where the file says so. */
  readonly cable: { readonly switch: string; readonly port: string; readonly place: string } | null;
}

/** What is wrong with the file, a line for each fault. Nothing was sent. */
export class LayoutError extends Error {
  constructor(readonly faults: readonly string[]) {
    super(faults.join("\n"));
  }
}

const longestFileBytes = 64 * 1024 * 1024;

/**
 * Read the file and check all of it but what only the server knows. Throws `LayoutError`, whose lines never hold a value
 * that could be a password.
 */
export function readLayout(file: string): { layout: Layout; warnings: string[] } {
  const { text, readable } = readText(file);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    // The parser's own words may quote a password.
    throw new LayoutError([`It is not JSON. Where it goes wrong is told by: python3 -m json.tool ${file}`]);
  }
  const reader = new Reader();
  const layout = reader.layout(parsed);
  if (reader.faults.length > 0) throw new LayoutError(reader.faults);
  const open = readable ? [`Other users of this machine can read it, and the passwords in it. See to that with: chmod 600 ${file}`] : [];
  return { layout, warnings: [...open, ...reader.warnings] };
}

/** `readable`: by others than its owner. A pipe is nobody else's. */
function readText(file: string): { text: string; readable: boolean } {
  try {
    const descriptor = openSync(file, "r");
    const stat = fstatSync(descriptor);
    if (stat.size > longestFileBytes) throw new Error("it is too long for a site");
    return { text: readFileSync(descriptor, "utf8"), readable: stat.isFile() && (stat.mode & 0o077) !== 0 };
  } catch (error) {
    throw new LayoutError([`It can't be read: ${(error as Error).message}`]);
  }
}

const macPattern = /^[0-9a-f]{2}([:-][0-9a-f]{2}){5,19}$/i;
/** One spelling of a MAC address, to compare it. */
export const sameMac = (a: string, b: string): boolean => plainMac(a) === plainMac(b);
const plainMac = (mac: string): string => mac.toLowerCase().replaceAll(/[:-]/g, "");

/** Collects what is wrong, so that one run shows all of it. A place is written as `jq` takes it: `nodes[0].nics[1]`. */
class Reader {
  readonly faults: string[] = [];
  readonly warnings: string[] = [];
  /** What may stand in the file once only, and where it stood first. */
  readonly #taken = new Map<string, string>();

  layout(value: unknown): Layout {
    const root = this.#record(value, "the file", ["switches", "nodes"]);
    const switches = this.#list(root.switches, "switches").map((item, i) => this.#switch(item, `switches[${i}]`));
    const nodes = this.#list(root.nodes, "nodes").map((item, i) => this.#node(item, `nodes[${i}]`));
    if (switches.length + nodes.length === 0) this.#fault("the file", "neither switches nor nodes are in it");
    return { switches, nodes };
  }

  #switch(value: unknown, at: string): Layout["switches"][number] {
    const { switch: name, type, ...settings } = this.#record(value, at);
    const label = this.#name(name, `${at}.switch`);
    this.#once(at, "switch", label);
    const kind = this.#kind(type, `${at}.type`, switchTypePrefix, Object.keys(switchFields));
    if (kind !== null) this.#fields(settings, at, switchFields[kind]!, `a ${kind} switch`);
    if (kind !== "mock" && typeof settings.hostname === "string") {
      this.#once(at, "switch at", canonicalAddress(settings.hostname, switchPorts));
    }
    return { label, body: { type: `${switchTypePrefix}${kind}`, ...settings } };
  }

  #node(value: unknown, at: string): SiteNode {
    const node = this.#record(value, at, ["name", "nics", "obm", "metadata", "obmd"]);
    const label = this.#name(node.name, `${at}.name`);
    this.#once(at, "node", label);
    if (node.obmd !== undefined) this.warnings.push(`${at}.obmd: left out; haas speaks to BMCs itself, by what obm says.`);
    const metadata = node.metadata === undefined ? {} : this.#record(node.metadata, `${at}.metadata`);
    for (const key of Object.keys(metadata)) this.#name(key, `${at}.metadata`);
    const nics = this.#list(node.nics, `${at}.nics`).map((item, i) => this.#nic(item, `${at}.nics[${i}]`));
    return { label, obm: this.#obm(node.obm, `${at}.obm`), metadata, nics };
  }

  #obm(value: unknown, at: string): Record<string, unknown> {
    const { type, pass, ...given } = this.#record(value, at);
    if (pass !== undefined && given.password !== undefined) this.#fault(at, "has pass and password; they are the same thing");
    const settings = pass === undefined ? given : { ...given, password: pass };
    const kind = this.#kind(type, `${at}.type`, obmTypePrefix, obmSubtypes);
    const optional = kind === "ipmi" ? ["bootdev", "system"] : ["bootdev"];
    if (kind !== null) this.#fields(settings, at, { required: ["host", "user", "password"], optional }, "an obm");
    const { host, system } = settings;
    if (kind === "ipmi" && typeof host === "string" && (system === undefined || typeof system === "string")) {
      this.#once(at, "BMC", bmcAddress({ host, system }));
    }
    return { type: `${obmTypePrefix}${kind}`, ...settings };
  }

  #nic(value: unknown, at: string): SiteNic {
    const nic = this.#record(value, at, ["name", "mac", "port", "switch"]);
    const label = this.#name(nic.name, `${at}.name`);
    this.#once(at, "nic", label, at.replace(/\.nics\[\d+\]$/, ""));
    const macaddr = this.#text(nic.mac, `${at}.mac`);
    if (!macPattern.test(macaddr) && macaddr !== "") this.#fault(`${at}.mac`, `'${printable(macaddr)}' is not a MAC address`);
    else if (macaddr !== "") this.#once(`${at}.mac`, "MAC address", plainMac(macaddr));
    if ((nic.port ?? null) === null && (nic.switch ?? null) === null) return { label, macaddr, cable: null };
    const cable = { switch: this.#name(nic.switch, `${at}.switch`), port: this.#name(nic.port, `${at}.port`, true), place: `${at}.switch` };
    this.#once(`${at}.port`, "port", cable.port, cable.switch);
    return { label, macaddr, cable };
  }

  /** The fields of a driver; what the server makes of their values is its own business. */
  #fields(given: Record<string, unknown>, at: string, known: { required: readonly string[]; optional: readonly string[] }, what: string) {
    const names = [...known.required, ...known.optional];
    for (const name of known.required) if (given[name] === undefined) this.#fault(at, `${name} is missing`);
    for (const [name, value] of Object.entries(given)) {
      if (!names.includes(name)) this.#fault(at, `${what} has no '${printable(name).slice(0, 80)}'; it has: type, ${names.join(", ")}`);
      else if (!["string", "number", "boolean"].includes(typeof value)) this.#fault(`${at}.${name}`, "is not a simple value");
    }
  }

  /** The last part of a type, which may be all of it. A wrong one is not shown: it may be anything, in the wrong place. */
  #kind(value: unknown, at: string, prefix: string, kinds: readonly string[]): string | null {
    const text = this.#text(value, at);
    const kind = text.startsWith(prefix) ? text.slice(prefix.length) : text;
    if (kinds.includes(kind)) return kind;
    if (text !== "") this.#fault(at, `is none of: ${kinds.join(", ")} (with or without ${prefix} before it)`);
    return null;
  }

  #name(value: unknown, at: string, isPort = false): string {
    const text = this.#text(value, at);
    if (text === "") return text;
    const shown = `'${text.replaceAll(/\p{Cc}/gu, " ")}'`;
    if (text === "." || text === "..") this.#fault(at, `${shown} can't be the name of anything`);
    else if (text.trim() !== text || printable(text) !== text) this.#fault(at, `${shown} has blanks at its ends, or control characters`);
    else if (text.includes("/") && !isPort) this.#fault(at, `${shown} can't be a name: only names of ports hold slashes`);
    return text;
  }

  #text(value: unknown, at: string): string {
    if (typeof value === "string" && value !== "") return value;
    this.#fault(at, value === undefined ? "is missing" : value === "" ? "is empty" : "is not a text");
    return "";
  }

  #list(value: unknown, at: string): readonly unknown[] {
    if (value === undefined) return [];
    if (!Array.isArray(value)) this.#fault(at, "is not a list");
    return Array.isArray(value) ? value : [];
  }

  #record(value: unknown, at: string, keys?: readonly string[]): Record<string, unknown> {
    if (!isObject(value)) this.#fault(at, value === undefined ? "is missing" : "is not an object");
    const found = isObject(value) ? value : {};
    for (const key of Object.keys(found)) {
      if (keys && !keys.includes(key)) this.#fault(at, `there is no '${printable(key).slice(0, 80)}' here; there are: ${keys.join(", ")}`);
    }
    return found;
  }

  #once(at: string, what: string, ...names: readonly string[]): void {
    if (names.includes("")) return;
    const key = JSON.stringify([what, ...names]);
    const first = this.#taken.get(key);
    if (first === undefined) this.#taken.set(key, at);
    else this.#fault(at, `the ${what} '${printable(names[0]!)}' is in ${first} already`);
  }

  #fault(at: string, what: string): void {
    this.faults.push(`${at}: ${what}`);
  }
}

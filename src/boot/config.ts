import { existsSync, readFileSync, statSync } from "node:fs";
import { isIPv4 } from "node:net";
import { dirname, resolve } from "node:path";
import { messageOf, quote } from "../errors.ts";
import { type Mac, parseMac } from "./mac.ts";

/** A boot.toml that can't be used: one line naming file and key. Ends the program with status 2. */
export class BootConfigError extends Error {}

export type Variables = Readonly<Record<string, unknown>>;

/** What a machine installs. */
export interface Profile {
  readonly name: string;
  /** Paths below `root`. */
  readonly kernel: string;
  readonly initrd: readonly string[];
  /** A template. */
  readonly args: string;
  readonly timeoutMinutes: number;
  /** The name in the URL → the template below `templates`. */
  readonly files: ReadonlyMap<string, string>;
  readonly variables: Variables;
}

/** What is known of a machine beforehand. */
export interface NodeEntry {
  readonly name: string;
  readonly macs: readonly Mac[];
  readonly address: string | null;
  readonly variables: Variables;
}

export interface DnsmasqConfig {
  readonly run: boolean;
  readonly range: readonly [first: string, last: string] | null;
  readonly tftpRoot: string | null;
}

/** Everything that boot.toml can say, checked, with absolute paths. */
export interface BootConfig {
  readonly file: string;
  readonly interface: string | null;
  readonly address: string | null;
  readonly port: number;
  readonly root: string;
  readonly state: string;
  readonly templates: string;
  readonly leases: string;
  readonly dnsmasq: DnsmasqConfig;
  readonly profiles: ReadonlyMap<string, Profile>;
  readonly nodes: ReadonlyMap<string, NodeEntry>;
  /** Legal, but perhaps not what somebody wants. */
  readonly warnings: readonly string[];
}

/** What every template gets from haas; a variable can't have one of these names. */
export const givenVariables = ["mac", "mac_hyphen", "node", "profile", "address", "server", "files_url", "done_url"] as const;

export const defaultLeases = "/var/lib/misc/dnsmasq.leases";
export const defaultPort = 8000;

const places = ["./boot.toml", "/etc/haas/boot.toml"];
const longestTimeoutMinutes = 10_080;

/** `--config`, else ./boot.toml, else /etc/haas/boot.toml; null when there is none. */
export function findBootConfig(option: string | undefined): string | null {
  if (option === undefined) return places.find((file) => existsSync(file)) ?? null;
  if (!existsSync(option)) throw new BootConfigError(`${option}: no such file.`);
  return option;
}

export function requireBootConfig(option: string | undefined): BootConfig {
  const file = findBootConfig(option);
  if (file === null) throw new BootConfigError(`There is no boot.toml: name one with --config, or write one of ${places.join(", ")}.`);
  return loadBootConfig(file);
}

export function loadBootConfig(file: string): BootConfig {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new BootConfigError(`${file}: can't be read (${messageOf(error)}).`);
  }
  let parsed: unknown;
  try {
    parsed = Bun.TOML.parse(text);
  } catch (error) {
    throw new BootConfigError(
      `${file}: is no TOML: ${
        messageOf(error)
          .replace(/^TOML Parse error: /, "")
          .split("\n")[0]
      }.`,
    );
  }
  return read(new Table(file, "", parsed as Record<string, unknown>), text.includes("variables") && isOpen(file));
}

const isOpen = (file: string) => (statSync(file).mode & 0o077) !== 0;

function read(top: Table, open: boolean): BootConfig {
  const path = (value: string) => resolve(dirname(resolve(top.file)), value);
  const dnsmasq = top.table("dnsmasq");
  const config: BootConfig = {
    file: top.file,
    interface: top.match("interface", /^[^\s/,]{1,15}$/, "the name of an interface"),
    address: top.address("address"),
    port: top.number("port", defaultPort, 65_535),
    root: path(top.text("root") ?? "files"),
    state: path(top.text("state") ?? "boot.db"),
    templates: path(top.text("templates") ?? "templates"),
    leases: path(top.text("leases") ?? defaultLeases),
    dnsmasq: {
      run: dnsmasq?.boolean("run") ?? false,
      range: readRange(dnsmasq),
      tftpRoot: ((root) => (root == null ? null : path(root)))(dnsmasq?.line("tftp_root")),
    },
    profiles: new Map(top.tables("profiles").map(([name, table]) => [name, readProfile(name, table)])),
    nodes: new Map(top.tables("nodes").map(([name, table]) => [name, readNode(name, table)])),
    warnings: open ? [`${top.file}: others can read the file, and its variables may hold secrets: chmod 600 ${top.file}`] : [],
  };
  dnsmasq?.finish();
  if (config.dnsmasq.run && config.interface === null) throw top.bad("interface", "is missing; dnsmasq needs it");
  if (config.dnsmasq.run && config.dnsmasq.tftpRoot === null) throw top.bad("dnsmasq.tftp_root", "is missing; dnsmasq needs it");
  top.finish();
  checkUnique(top, config.nodes);
  return config;
}

function readRange(table: Table | null): [string, string] | null {
  const text = table?.text("range") ?? null;
  if (text === null) return null;
  const [first = "", last = "", ...more] = text.split(",").map((part) => part.trim());
  if (!isIPv4(first) || !isIPv4(last) || more.length > 0) throw table!.bad("range", "is not two IPv4 addresses: 10.77.0.50,10.77.0.250");
  return [first, last];
}

function readProfile(name: string, table: Table): Profile {
  const files = table.table("files");
  const profile: Profile = {
    name,
    kernel: table.filePath("kernel", table.need("kernel")),
    initrd: table.texts("initrd").map((value) => table.filePath("initrd", value)),
    args: table.line("args") ?? "",
    timeoutMinutes: table.number("timeout_minutes", 60, longestTimeoutMinutes),
    files: new Map(
      (files?.keys() ?? []).map((key) => {
        if (!namePattern.test(key)) throw files!.bad(key, "is no name for a file: letters, digits, dots, dashes and underscores");
        return [key, files!.need(key)];
      }),
    ),
    variables: table.variables(),
  };
  table.finish();
  return profile;
}

function readNode(name: string, table: Table): NodeEntry {
  const macs = table.texts("mac").map((text) => {
    const mac = parseMac(text);
    if (mac === null) throw table.bad("mac", `${quote(text)} is not the MAC address of a machine`);
    return mac;
  });
  if (macs.length === 0) throw table.bad("mac", 'is missing: mac = ["52:54:00:aa:00:01"]');
  if (parseMac(name) !== null) throw table.bad("mac", "a node can't have a MAC address for its name");
  const node = { name, macs, address: table.address("address"), variables: table.variables() };
  table.finish();
  return node;
}

/** No MAC address and no fixed address in two places: it would be given to two machines. */
function checkUnique(top: Table, nodes: ReadonlyMap<string, NodeEntry>): void {
  const seen = new Map<string, string>();
  for (const { name, macs, address } of nodes.values()) {
    for (const value of [...macs, ...(address === null ? [] : [address])]) {
      const other = seen.get(value);
      if (other !== undefined) throw top.bad(`nodes.${name}`, `${value} stands at ${other === name ? "it twice" : `nodes.${other}, too`}`);
      seen.set(value, name);
    }
  }
}

const namePattern = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$/;
/** A path that means the same in a URL, in an iPXE script and in a pxelinux configuration. */
const pathPattern = /^[A-Za-z0-9_+~-][A-Za-z0-9._+~-]*(\/[A-Za-z0-9_+~-][A-Za-z0-9._+~-]*)*$/;

/** One table of the file, and which of its keys were asked for. */
class Table {
  readonly #known = new Set<string>();

  constructor(
    readonly file: string,
    readonly path: string,
    readonly values: Readonly<Record<string, unknown>>,
  ) {}

  bad = (key: string, why: string): BootConfigError => new BootConfigError(`${this.file}: ${this.path}${key} ${why}.`);

  keys = (): string[] => Object.keys(this.values);

  #get(key: string): unknown {
    this.#known.add(key);
    return Object.hasOwn(this.values, key) ? this.values[key] : undefined;
  }

  #typed<T>(key: string, is: (value: unknown) => value is T, what: string): T | null {
    const value = this.#get(key);
    if (value === undefined) return null;
    // The value is not shown: it may be a secret.
    if (!is(value)) throw this.bad(key, `is not ${what}`);
    return value;
  }

  text = (key: string) => this.#typed(key, isText, "a text");
  line = (key: string) => this.match(key, /^\P{Cc}+$/u, "a text of one line");
  boolean = (key: string) => this.#typed(key, (value): value is boolean => typeof value === "boolean", "true or false");
  address = (key: string) => this.#typed(key, (value): value is string => isText(value) && isIPv4(value), "an IPv4 address like 10.77.0.1");

  match(key: string, form: RegExp, what: string): string | null {
    return this.#typed(key, (value): value is string => typeof value === "string" && form.test(value), what);
  }

  need(key: string): string {
    const value = this.text(key);
    if (value === null) throw this.bad(key, "is missing");
    return value;
  }

  /** A text, or a list of them. */
  texts(key: string): string[] {
    const are = (value: unknown): value is string | string[] => isText(value) || (Array.isArray(value) && value.every(isText));
    return [this.#typed(key, are, "a list of texts") ?? []].flat();
  }

  filePath(key: string, value: string): string {
    if (pathPattern.test(value)) return value;
    throw this.bad(key, `${quote(value)} is not a path below root, of letters, digits and . _ + ~ - (none begins with a dot)`);
  }

  number(key: string, fallback: number, most: number): number {
    const fits = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 1 && (value as number) <= most;
    return this.#typed(key, fits, `a whole number from 1 to ${most}`) ?? fallback;
  }

  table(key: string): Table | null {
    const value = this.#typed(key, isTable, "a table");
    return value === null ? null : new Table(this.file, `${this.path}${key}.`, value);
  }

  tables(key: string): [string, Table][] {
    const parent = this.table(key);
    return (parent?.keys() ?? []).map((name) => {
      if (!namePattern.test(name)) throw parent!.bad(quote(name), "is no name: letters, digits, dots, dashes and underscores");
      const table = parent!.table(name)!;
      return [name, table];
    });
  }

  variables(): Variables {
    const table = this.table("variables");
    for (const key of table?.keys() ?? []) {
      if (givenVariables.some((name) => name === key)) throw table!.bad(key, "is a name that haas itself gives a value");
    }
    return table?.values ?? {};
  }

  finish(): void {
    const unknown = this.keys().find((key) => !this.#known.has(key));
    if (unknown !== undefined) throw this.bad(/^[\w.-]{1,64}$/.test(unknown) ? unknown : quote(unknown), "is not known");
  }
}

const isText = (value: unknown): value is string => typeof value === "string" && value !== "" && !value.includes("\0");

const isTable = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);

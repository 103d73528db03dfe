import { existsSync, readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { isIP } from "node:net";
import { join } from "node:path";
import { type LogLevel, logLevels } from "./log.ts";

/** A configuration that can't be used: one line naming file, section and option. Ends the program with status 2. */
export class ConfigError extends Error {}

const switchExtensions = ["mock", "dell", "n3000", "nexus", "brocade", "dellnos9", "ovs"] as const;
const obmExtensions = ["ipmi", "mock"] as const;
const allocators = ["null", "vlan_pool"] as const;
const headnodeDrivers = ["libvirt", "mock"] as const;
const headnodeNetworks = ["bridges", "ovs"] as const;
/** An interface's name, as Linux takes it. */
const interfaceForm = /^(?!\.{1,2}$)[A-Za-z0-9._-]{1,15}$/;
const authBackends = ["null", "database"] as const;

/** Everything that haas.cfg can say, checked, with every default filled in. Read once and never changed. */
export interface Config {
  /** The file, or null for the development default. */
  readonly file: string | null;
  readonly logLevel: LogLevel;
  readonly logDir: string | null;
  /** Where a server remembers how far its database had come; null for beside SQLite's file, or the working directory. */
  readonly stateDir: string | null;
  readonly http: {
    /** Files of the certificate, with its chain, and of its key (PEM); null for plain HTTP. */
    readonly tls: { readonly certFile: string; readonly keyFile: string } | null;
    /** Refuse passwords that come from another machine over plain HTTP. */
    readonly requireTls: boolean;
    /** Addresses, or ranges in CIDR form, whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed. */
    readonly trustedProxies: readonly string[];
    /** Names of this server, in lower case and without a port, that the null backend answers to beside the loopback's and its address. */
    readonly hosts: readonly string[];
  };
  readonly auth: {
    readonly backend: (typeof authBackends)[number];
    /** The backend was asked for by name. Only then may the null backend serve other machines. */
    readonly named: boolean;
    readonly requireAuthentication: boolean;
  };
  readonly headnode: {
    readonly driver: (typeof headnodeDrivers)[number];
    readonly trunkNic: string | null;
    readonly baseImages: readonly string[];
    readonly libvirtEndpoint: string;
    /** How headnodes join a VLAN: by its Linux bridge, or as a tagged port of an Open vSwitch bridge. */
    readonly network: (typeof headnodeNetworks)[number];
    readonly ovsBridge: string;
  };
  readonly clientEndpoint: string | null;
  /** Certificates (PEM) that the command line trusts beside the system's. */
  readonly clientCaFile: string | null;
  readonly databaseUri: string;
  readonly dryRun: boolean;
  readonly debug: boolean;
  readonly network: {
    /** The longest the worker waits between looks at the journal. */
    readonly sleepTimeMs: number;
    /** How often an action is tried before it ends in ERROR. */
    readonly maxTries: number;
    /** How long a process has a switch to itself before it has to ask for more time. */
    readonly leaseMs: number;
    /** How often the ports of every switch are compared with what they should carry; null for never. */
    readonly verifyIntervalMs: number | null;
    /** How long an action is kept after its end. */
    readonly keepMs: number;
  };
  readonly maintenance: { readonly project: string; readonly url: string | null } | null;
  readonly allocator: (typeof allocators)[number];
  /** The VLANs to allocate from, ascending. */
  readonly vlanPool: readonly number[];
  readonly obm: readonly (typeof obmExtensions)[number][];
  readonly ipmi: { readonly cipherSuite: string | null; readonly interface: string; readonly retries: number; readonly timeoutMs: number };
  readonly switches: readonly (typeof switchExtensions)[number][];
  /** Published type names of switches whose running config is not to be saved. */
  readonly unsavedSwitches: ReadonlySet<(typeof switchExtensions)[number]>;
  /** How long a switch of each kind may take to connect and log in, and be silent within a command. */
  readonly switchLimits: Readonly<
    Record<(typeof switchExtensions)[number], { readonly connectTimeoutMs: number; readonly commandTimeoutMs: number }>
  >;
  /** Unknown sections and options: one line each. */
  readonly warnings: readonly string[];
}

const databaseUriForm = /^(sqlite:\/\/\/.+|postgres(ql)?:\/\/[^/\s]+\/.+)$/;
const databaseUriForms = "one of sqlite:///relative.db, sqlite:////absolute.db, postgresql://user:password@host:5432/name";

const dayMs = 24 * 60 * 60 * 1000;

/** The development default, for `haas serve` without any file. */
const developmentPool = range(100, 199);
const developmentImages = ["base-headnode"];

/** Where the file is looked for, in order: --config, HAAS_CONFIG, here, the user's, the system's. */
export function findConfigFile(option: string | undefined, env: Record<string, string | undefined>): string | null {
  const asked = option ?? env.HAAS_CONFIG;
  if (asked !== undefined && asked !== "") {
    if (!existsSync(asked)) throw new ConfigError(`${asked}: no such file.`);
    return asked;
  }
  const home = env.HOME ?? homedir();
  return ["./haas.cfg", join(home, ".config/haas/haas.cfg"), "/etc/haas.cfg"].find((file) => existsSync(file)) ?? null;
}

/** Read and check a file, or make the development default from `null`. */
export function loadConfig(file: string | null): Config {
  if (file === null) return readOptions(new Options(null, new Map()));
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new ConfigError(`${file}: can't be read (${error instanceof Error ? error.message : String(error)}).`);
  }
  const options = new Options(file, parseIni(text, file));
  if ((statSync(file).mode & 0o077) !== 0) options.refuseSecrets();
  return readOptions(options);
}

/**
 * Sections, options and values of an INI file as Python's ConfigParser reads it: names keep their
 * case, `#` and `;` begin a comment at the start of a line or after a blank, an indented line
 * continues the value above. (The npm parsers turn `true` into a boolean and split names at dots.)
 */
function parseIni(text: string, file: string): Map<string, Map<string, string>> {
  const sections = new Map<string, Map<string, string>>();
  let section: Map<string, string> | undefined;
  let option: string | undefined;
  for (const [index, raw] of text
    .replace(/^\ufeff/, "")
    .split(/\r?\n/)
    .entries()) {
    const where = `${file}, line ${index + 1}`;
    const line = raw.replace(/(^|\s)[#;].*$/, "").trimEnd();
    if (line === "") continue;
    const header = /^\[([^\]]+)\]$/.exec(line);
    if (header) {
      // An extension's section may carry the original's later name.
      const name = header[1]!.replace(/^hil\.ext\./, "haas.ext.");
      section = sections.get(name) ?? new Map();
      sections.set(name, section);
      option = undefined;
    } else if (/^\s/.test(line) && section && option !== undefined) {
      section.set(option, `${section.get(option)!}\n${line.trim()}`.trim());
    } else {
      const [, name, value = ""] = /^\s*([^=:]+?)\s*(?:[=:]\s*(.*))?$/.exec(line) ?? [];
      if (name === undefined) throw new ConfigError(`${where}: neither a [section] nor an option.`);
      if (!section) throw new ConfigError(`${where}: option '${name}' stands before the first [section].`);
      section.set(name, value);
      option = name;
    }
  }
  return sections;
}

/** Names of options, and of parameters in addresses, whose value is a secret. */
const secretName = /(?:password|passwd|passphrase|pwd|secret|token|bearer|jwt|(?:api|access|auth|private|secret)[-_.]?key|signature)$/i;
const parameterSecretName = /^(?:pass|pw|key|sig|auth|authorization|credentials?)$/i;
/** `user:password@` in an address of any scheme, the password as people write it, and any user in one of the web, which may be a token. */
const userinfo = /[a-z][a-z0-9+.-]*:\/\/[^\s:@/?#]*:(?!\d*(?:[\s/?#]|$)).+@|https?:\/\/[^\s@/?#]+@/i;

/** Whether the value of an option, known or not, holds what others must not see. */
function holdsSecret(option: string, value: string): boolean {
  if (value === "") return false;
  if (secretName.test(option) || userinfo.test(value)) return true;
  return [...value.matchAll(/(?:^|[?&#;\s])([^\s?&#;=]+)=[^\s&#;]/g)].some(([, name = ""]) => {
    const plain = new URLSearchParams(name).keys().next().value ?? name;
    return secretName.test(plain) || parameterSecretName.test(plain);
  });
}

/** The sections of one file, and which of their options were asked for. */
class Options {
  readonly #known = new Map<string, Set<string>>();

  constructor(
    readonly file: string | null,
    readonly sections: ReadonlyMap<string, ReadonlyMap<string, string>>,
  ) {}

  /** The value as written, or undefined. Marks section and option as known. */
  get(section: string, option: string): string | undefined {
    const known = this.#known.get(section) ?? new Set();
    this.#known.set(section, known.add(option));
    return this.sections.get(section)?.get(option);
  }

  text(section: string, option: string): string | null {
    return this.get(section, option) || null;
  }

  /** A text of a certain form; null when it is empty or absent. The value is not shown: it may hold a password. */
  matching(section: string, option: string, form: RegExp, described: string): string | null {
    const value = this.text(section, option);
    if (value !== null && !form.test(value)) throw this.bad(section, option, `the value is not ${described}`);
    return value;
  }

  boolean(section: string, option: string, fallback: boolean): boolean {
    const value = this.get(section, option);
    if (value === undefined || value === "") return fallback;
    if (/^(1|yes|true|on)$/i.test(value)) return true;
    if (/^(0|no|false|off)$/i.test(value)) return false;
    throw this.bad(section, option, `'${value}' is neither True nor False`);
  }

  number(section: string, option: string, fallback: number, legal: (value: number) => boolean, form: string): number {
    const value = this.get(section, option);
    if (value === undefined || value === "") return fallback;
    const number = /^\d+(\.\d+)?$/.test(value) ? Number(value) : Number.NaN;
    if (!legal(number)) throw this.bad(section, option, `'${value}' is not ${form}`);
    return number;
  }

  choice<T extends string>(section: string, option: string, fallback: T, legal: readonly T[]): T {
    const value = this.get(section, option);
    if (value === undefined || value === "") return fallback;
    const found = legal.find((candidate) => candidate === value.toLowerCase());
    if (found === undefined) throw this.bad(section, option, `'${value}' is none of ${legal.join(", ")}`);
    return found;
  }

  list(section: string, option: string): string[] {
    const items = (this.get(section, option) ?? "").split(/[,\n]/).map((item) => item.trim());
    return items.filter((item) => item !== "");
  }

  bad(section: string, option: string, why: string): ConfigError {
    return new ConfigError(`${this.file}: [${section}] ${option}: ${why}.`);
  }

  /** For a file that others can read. */
  refuseSecrets(): void {
    for (const [section, options] of this.sections) {
      for (const [option, value] of options) {
        if (!holdsSecret(option, value)) continue;
        throw new ConfigError(
          `${this.file}: [${section}] ${option} holds a password, but others can read the file. Run: chmod 600 ${this.file}`,
        );
      }
    }
  }

  /** One line for each section and option that nobody asked for. */
  unknown(): string[] {
    const lines: string[] = [];
    for (const [section, options] of this.sections) {
      const known = this.#known.get(section);
      if (!known) lines.push(`${this.file}: unknown section [${section}].`);
      else for (const option of options.keys()) if (!known.has(option)) lines.push(`${this.file}: [${section}]: unknown option ${option}.`);
    }
    return lines;
  }
}

function readOptions(options: Options): Config {
  const extensions = readExtensions(options);
  const development = options.file === null;
  const poolText = options.get("haas.ext.network_allocators.vlan_pool", "vlans");
  const maintenanceProject = options.text("maintenance", "maintenance_project");
  const verifyIntervalMs =
    1000 *
    options.number(
      "network-daemon",
      "verify_interval",
      0,
      (s) => s === 0 || (s >= 1 && s <= 86_400),
      "0 or a number of seconds from 1 to 86400",
    );
  const maintenanceUrl = options.matching("maintenance", "url", /^https?:\/\/[^\s/]+/, "an http:// or https:// address");
  if (maintenanceUrl !== null && maintenanceProject === null) {
    throw options.bad("maintenance", "url", "it is of no use without a maintenance_project");
  }
  return {
    file: options.file,
    logLevel: options.choice("general", "log_level", "info", logLevels),
    logDir: options.text("general", "log_dir"),
    stateDir: options.text("general", "state_dir"),
    http: {
      tls: readTls(options),
      requireTls: options.boolean("general", "require_tls", false),
      trustedProxies: readProxies(options),
      hosts: options.list("general", "hosts").map((host) => host.toLowerCase()),
    },
    auth: {
      backend: extensions.auth.name,
      named: extensions.auth.named,
      requireAuthentication: options.boolean("auth", "require_authentication", true),
    },
    headnode: {
      driver: options.choice("headnode", "driver", development ? "mock" : "libvirt", headnodeDrivers),
      trunkNic: options.text("headnode", "trunk_nic"),
      baseImages: development ? developmentImages : options.list("headnode", "base_imgs"),
      libvirtEndpoint: options.text("headnode", "libvirt_endpoint") ?? "qemu:///system",
      network: options.choice("headnode", "network", "bridges", headnodeNetworks),
      ovsBridge: options.matching("headnode", "ovs_bridge", interfaceForm, "the name of a bridge") ?? "br-trunk",
    },
    clientEndpoint: options.text("client", "endpoint"),
    clientCaFile: options.text("client", "ca_file"),
    databaseUri: options.matching("database", "uri", databaseUriForm, databaseUriForms) ?? "sqlite:///haas.db",
    dryRun: options.get("devel", "dry_run") !== undefined,
    debug: options.boolean("devel", "debug", false),
    network: {
      sleepTimeMs:
        1000 * options.number("network-daemon", "sleep_time", 2, (s) => s > 0 && s < 3600, "a number of seconds between 0 and 3600"),
      maxTries: options.number(
        "network-daemon",
        "max_tries",
        8,
        (n) => Number.isInteger(n) && n >= 1 && n <= 1000,
        "a whole number from 1 to 1000",
      ),
      leaseMs: 1000 * options.number("network-daemon", "lease_time", 45, (s) => s >= 3 && s <= 55, "a number of seconds from 3 to 55"),
      verifyIntervalMs: verifyIntervalMs === 0 ? null : verifyIntervalMs,
      keepMs:
        dayMs * options.number("network-daemon", "keep", 90, (days) => days >= 1 && days <= 36_500, "a number of days from 1 to 36500"),
    },
    maintenance: maintenanceProject === null ? null : { project: maintenanceProject, url: maintenanceUrl },
    allocator: extensions.allocator,
    vlanPool: poolText === undefined ? (development ? developmentPool : []) : readPool(options, poolText),
    obm: extensions.obm,
    ipmi: {
      cipherSuite: options.matching(
        "haas.ext.obm.ipmi",
        "cipher_suite",
        /^(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])$/,
        "a whole number from 0 to 255",
      ),
      interface: options.choice("haas.ext.obm.ipmi", "interface", "lanplus", ["lanplus", "lan"]),
      retries: options.number("haas.ext.obm.ipmi", "retries", 1, (n) => Number.isInteger(n) && n <= 10, "a whole number from 0 to 10"),
      timeoutMs: 1000 * options.number("haas.ext.obm.ipmi", "timeout", 15, (s) => s >= 1 && s <= 300, "a number of seconds from 1 to 300"),
    },
    switches: extensions.switches,
    unsavedSwitches: new Set(switchExtensions.filter((name) => !options.boolean(`haas.ext.switches.${name}`, "save", true))),
    switchLimits: readSwitchLimits(options),
    warnings: options.unknown(),
  };
}

function readTls(options: Options): Config["http"]["tls"] {
  const certFile = options.text("general", "tls_cert");
  const keyFile = options.text("general", "tls_key");
  if (certFile !== null && keyFile !== null) return { certFile, keyFile };
  if (certFile !== null) throw options.bad("general", "tls_cert", "it is of no use without tls_key");
  if (keyFile !== null) throw options.bad("general", "tls_key", "it is of no use without tls_cert");
  return null;
}

function readProxies(options: Options): string[] {
  const proxies = options.list("general", "trusted_proxies");
  for (const proxy of proxies) {
    const [, address = "", bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(proxy) ?? [];
    const version = isIP(address);
    if (version === 0 || (bits !== undefined && Number(bits) > (version === 4 ? 32 : 128))) {
      throw options.bad("general", "trusted_proxies", `'${proxy}' is neither an address nor a range like 10.0.0.0/8`);
    }
  }
  return proxies;
}

function readSwitchLimits(options: Options): Config["switchLimits"] {
  const ms = (name: string, option: string, fallback: number, most: number) =>
    1000 *
    options.number(`haas.ext.switches.${name}`, option, fallback, (s) => s >= 1 && s <= most, `a number of seconds from 1 to ${most}`);
  const limits = switchExtensions.map((name) => [
    name,
    { connectTimeoutMs: ms(name, "connect_timeout", 30, 600), commandTimeoutMs: ms(name, "command_timeout", 120, 3600) },
  ]);
  return Object.fromEntries(limits) as Config["switchLimits"];
}

function readPool(options: Options, text: string): number[] {
  const bad = (why: string) => options.bad("haas.ext.network_allocators.vlan_pool", "vlans", why);
  const vlans = new Set<number>();
  for (const item of text.split(/[,\n]/).map((part) => part.trim())) {
    if (item === "") continue;
    const [, first, last = first] = /^(\d+)(?:\s*-\s*(\d+))?$/.exec(item) ?? [];
    if (first === undefined) throw bad(`'${item}' is neither a VLAN nor a range like 500-700`);
    if (Number(first) < 1 || Number(last) > 4094 || Number(first) > Number(last)) {
      throw bad(`'${item}' is not within 1 to 4094, lower end first`);
    }
    for (const vlan of range(Number(first), Number(last))) vlans.add(vlan);
  }
  return [...vlans].sort((a, b) => a - b);
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/** The `[extensions]` section: exactly one auth backend and one allocator; every driver when there is no such section. */
function readExtensions(options: Options) {
  const section = options.sections.get("extensions");
  if (!section) {
    return {
      auth: { name: "null" as const, named: false },
      allocator: "vlan_pool" as const,
      obm: obmExtensions,
      switches: switchExtensions,
    };
  }
  // Names that this haas does not know stay unasked for, and so become warnings.
  const legalNames: Record<string, readonly string[]> = {
    auth: authBackends,
    network_allocators: allocators,
    obm: obmExtensions,
    switches: switchExtensions,
  };
  const named = new Set<string>();
  for (const option of section.keys()) {
    const [, kind = "", name = ""] = /^(?:haas|hil)\.ext\.(\w+)\.(\w+)$/.exec(option) ?? [];
    if (!legalNames[kind]?.includes(name)) continue;
    options.get("extensions", option);
    named.add(`${kind}.${name}`);
  }
  const pick = <T extends string>(kind: string, legal: readonly T[]): T[] => legal.filter((name) => named.has(`${kind}.${name}`));
  const one = <T extends string>(kind: string, legal: readonly T[], what: string): T => {
    const [name, ...more] = pick(kind, legal);
    if (name === undefined || more.length > 0) {
      throw options.bad(
        "extensions",
        `haas.ext.${kind}.…`,
        `name exactly one ${what}: ${legal.map((l) => `haas.ext.${kind}.${l}`).join(" or ")}`,
      );
    }
    return name;
  };
  return {
    auth: { name: one("auth", authBackends, "authentication backend"), named: true },
    allocator: one("network_allocators", allocators, "network allocator"),
    obm: pick("obm", obmExtensions),
    switches: pick("switches", switchExtensions),
  };
}

/** The active extensions' published names, sorted. */
export function activeExtensions(config: Config): string[] {
  return [
    `haas.ext.auth.${config.auth.backend}`,
    `haas.ext.network_allocators.${config.allocator}`,
    ...config.obm.map((name) => `haas.ext.obm.${name}`),
    ...config.switches.map((name) => `haas.ext.switches.${name}`),
  ].sort();
}

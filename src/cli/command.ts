import type { Call } from "../client/http.ts";
import type { Config } from "../config.ts";
import type { Answer } from "./output.ts";

/** An argument: its description, or more than that. */
export type Argument =
  | string
  | {
      readonly about: string;
      readonly optional?: true;
      /** The only values that are accepted. */
      readonly choices?: readonly string[];
      /** A value that may look like an option: see `readOptions` in argv.ts. */
      readonly verbatim?: true;
      /** This one and all that follow, at least one; only the last argument can be so. */
      readonly variadic?: true;
    };

export type Arguments = Readonly<Record<string, Argument>>;

/** The words of the command line, by argument. */
export type Values<A extends Arguments> = {
  readonly [K in keyof A]: A[K] extends { variadic: true }
    ? readonly string[]
    : A[K] extends { optional: true }
      ? string | undefined
      : string;
};

/** The same, of a command that is not known yet. */
export type Bound = Readonly<Record<string, string | readonly string[]>>;

/** How an option is written. `value` names the word after it; with `choices` it is one of those. */
interface OptionSpec {
  readonly flag: string;
  readonly value?: string;
  readonly choices?: readonly string[];
  readonly about: string;
}

/** Every option that there is. A command has those that it names, and `config` and (clients) `json`. */
export const optionSpecs = {
  config: { flag: "--config", value: "FILE", about: "use this haas.cfg" },
  interface: { flag: "--interface", value: "NAME", about: "the interface on the nodes' network; else that of boot.toml" },
  profile: { flag: "--profile", value: "NAME", about: "what to install: a profile of boot.toml" },
  json: { flag: "--json", about: "print the answer of the API, as JSON" },
  wait: { flag: "--wait", about: "follow what was queued to its end; exit 1 if it fails" },
  force: { flag: "--force", about: "reset the node instead of switching it off and on" },
  host: { flag: "--host", value: "ADDRESS", about: "listen on this address (default 127.0.0.1)" },
  networks: { flag: "--no-networks", about: "leave networking to `haas serve_networks`" },
  once: { flag: "--once", about: "apply what is pending, then exit" },
  dryRun: { flag: "--dry-run", about: "print what would be done instead of doing it" },
  recording: { flag: "--recording", about: "print also what was sent and received" },
  transport: { flag: "--transport", choices: ["ssh", "telnet"], about: "how to reach the console (default ssh)" },
  keyFile: { flag: "--key-file", value: "FILE", about: "a private key on the server, to log in with" },
  enablePassword: {
    flag: "--enable-password",
    value: "PASSWORD",
    about: "password of the enable mode; - reads it from standard input, after the login password",
  },
  legacyAlgorithms: { flag: "--legacy-algorithms", about: "offer the SSH algorithms of old switches, too" },
  tls: {
    flag: "--tls",
    choices: ["off", "verify", "insecure"],
    about: "HTTPS: not at all, with a certificate that is checked, or with any",
  },
  system: {
    flag: "--system",
    value: "ADDRESS",
    about: "for a system of a chassis whose systems share one BMC: its IPMB address, as in 0x82 or 0x82@7 (with the BMC's channel)",
  },
  caFile: { flag: "--ca-file", value: "FILE", about: "certificates on the server that the switch's is checked against" },
  cert: { flag: "--cert", value: "FILE", about: "where to put the certificate (default haas-cert.pem)" },
  key: { flag: "--key", value: "FILE", about: "where to put its key (default haas-key.pem)" },
} as const satisfies Record<string, OptionSpec>;

export type OptionName = keyof typeof optionSpecs;

/** Options as given. `networks` is false after `--no-networks`. */
export type Options = {
  readonly [Name in OptionName]?: (typeof optionSpecs)[Name] extends { value: string } | { choices: readonly string[] } ? string : boolean;
};

export interface Described<A extends Arguments> {
  /** The published name, `node_register`. */
  readonly name: string;
  /** The grouped name, `node register`. */
  readonly grouped: string;
  readonly about: string;
  readonly args: A;
  /** Complete arguments by the value of the second one, where they depend on it. */
  readonly variants?: Readonly<Record<string, Arguments>>;
  readonly options?: readonly OptionName[];
  /** What `--config` names, and where it is looked for, when that is not haas.cfg. */
  readonly configFile?: string;
  /** Options that only some variants have, by the same value. */
  readonly variantOptions?: Readonly<Record<string, readonly OptionName[]>>;
}

/** A command that makes one call to the server. */
export interface ClientCommand<A extends Arguments = any> extends Described<A> {
  readonly kind: "client";
  call(values: Values<A>, options: Options): Call | Promise<Call>;
  /** What to make of the answer; nothing is printed without it. */
  readonly answer?: Answer;
  /** The answer names a networking action that `--wait` follows. */
  readonly action?: (values: Values<A>, answer: unknown) => string;
}

/** A command that does its work here, or asks the server more than once (see conversation.ts). */
export interface LocalCommand<A extends Arguments = any> extends Described<A> {
  readonly kind: "local";
  /** It talks to the server, and has `--json`. */
  readonly json?: true;
  /** `config` reads haas.cfg, and prints its warnings. */
  run(values: Values<A>, options: Options, config: () => Config): Promise<void>;
}

export type Command = ClientCommand | LocalCommand;

export const client = <const A extends Arguments>(command: Omit<ClientCommand<A>, "kind">): ClientCommand<A> => ({
  kind: "client",
  ...command,
});
export const local = <const A extends Arguments>(command: Omit<LocalCommand<A>, "kind">): LocalCommand<A> => ({
  kind: "local",
  ...command,
});

/** The command line is wrong. Ends the program with status 2, after the usage of the command, if it is known, or of its variant. */
export class UsageError extends Error {
  constructor(
    message: string,
    readonly command?: Command,
    readonly variant?: string,
  ) {
    super(message);
  }
}

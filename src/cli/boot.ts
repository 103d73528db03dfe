import { type BootConfig, BootConfigError, findBootConfig, loadBootConfig, requireBootConfig } from "../boot/config.ts";
import { isOverdue, type Machine, since } from "../boot/state.ts";
import { ConfigError } from "../config.ts";
import { type Arguments, type Described, local, type LocalCommand, type Options, UsageError, type Values } from "./command.ts";
import { findServer } from "./endpoint.ts";
import { checkNames } from "./names.ts";
import { tabular } from "./output.ts";
import { printable, withProgress } from "./progress.ts";
import { list, raw, record } from "./reading.ts";

const machine = { about: "a node of boot.toml or of the haas server, or a MAC address", variadic: true } as const;

/** A command that reads boot.toml. What it does beyond that is loaded when it runs. */
const boot = <const A extends Arguments>(
  described: Described<A> & { readonly json?: true },
  run: (values: Values<A>, options: Options) => Promise<void>,
): LocalCommand<A> =>
  local({
    ...described,
    configFile: "boot.toml; else ./boot.toml, /etc/haas/boot.toml",
    async run(values, options) {
      try {
        await run(values, options);
      } catch (error) {
        throw error instanceof BootConfigError ? new ConfigError(error.message) : error;
      }
    },
  });

export const bootCommands = [
  boot(
    {
      name: "boot_serve",
      grouped: "boot serve",
      about: "serve kernels, installers and boot scripts to nodes that boot over the network",
      args: {},
    },
    async (_, options) => {
      const config = requireBootConfig(options.config);
      const { createLog } = await import("../log.ts");
      const { serveBoot } = await import("../boot/serve.ts");
      const log = createLog("info", null);
      const ended = new Promise<void>((resolve) => {
        for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.once(signal, () => resolve());
      });
      await serveBoot(config, (level, message, facts) => log[level](message, facts), ended);
    },
  ),
  boot(
    {
      name: "boot_dnsmasq",
      grouped: "boot dnsmasq",
      about: "print a configuration of dnsmasq for the nodes' network",
      args: {},
      options: ["interface"],
    },
    async (_, options) => {
      const file = findBootConfig(options.config);
      const config = file === null ? null : loadBootConfig(file);
      const name = options.interface ?? config?.interface ?? null;
      if (name === null) throw new UsageError("Which interface? Name it with --interface, or in boot.toml.");
      const { attachmentOf } = await import("../boot/address.ts");
      const { dnsmasqConfig } = await import("../boot/dnsmasq.ts");
      const attachment = await attachmentOf(name, name === config?.interface ? config.address : null);
      process.stdout.write(dnsmasqConfig({ attachment, config }));
    },
  ),
  boot(
    {
      name: "boot_arm",
      grouped: "boot arm",
      about: "give machines an installer when they next boot over the network, once",
      args: { machine },
      options: ["profile"],
    },
    async ({ machine: words }, options) => {
      if (options.profile === undefined) throw new UsageError("Which profile? Name it with --profile.");
      const config = requireBootConfig(options.config);
      const { arm } = await import("../boot/arm.ts");
      const names = await arm(config, words, options.profile, askServer);
      process.stdout.write(names.map((name) => `${printable(name)}\n`).join(""));
    },
  ),
  boot(
    { name: "boot_disarm", grouped: "boot disarm", about: "let machines boot from disk again, and forget them", args: { machine } },
    async ({ machine: words }, options) => {
      const config = requireBootConfig(options.config);
      const { disarm } = await import("../boot/arm.ts");
      await disarm(config, words);
    },
  ),
  boot(
    {
      name: "boot_status",
      grouped: "boot status",
      about: "show which machines are armed, installing, done, or overdue",
      args: {},
      json: true,
    },
    async (_, options) => {
      const machines = await readState(requireBootConfig(options.config));
      const now = Date.now();
      process.stdout.write(
        options.json
          ? `${JSON.stringify(machines.map((found) => facts(found, now)))}\n`
          : tabular(
              ["machine", "macs", "profile", "state", "since", "boots", "reported from"],
              machines.map((found) => Object.values(facts(found, now)).map((cell) => [cell ?? ""].flat().join(" "))),
              process.stdout.isTTY,
            ),
      );
    },
  ),
];

async function readState(config: BootConfig): Promise<Machine[]> {
  const { openState } = await import("../boot/state.ts");
  const state = openState(config.state);
  try {
    return state.list();
  } finally {
    state.close();
  }
}

/** Everything but the token. */
const facts = (found: Machine, now: number) => ({
  machine: found.name,
  macs: found.macs,
  profile: found.profile,
  state: isOverdue(found, now) ? "overdue" : found.state,
  since: new Date(since(found)).toISOString(),
  boots: found.boots,
  reported_from: found.reportedFrom,
});

/** The MAC addresses of a node's nics, by the haas server. */
async function askServer(node: string): Promise<string[]> {
  let server;
  try {
    server = findServer(undefined, process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new ConfigError(`boot.toml has no node ${printable(node)}, and no haas server can be asked. ${error.message}`);
  }
  const call = { method: "GET", path: ["node", node] } as const;
  checkNames(call, { node });
  const answer = await withProgress(`waiting for ${server.endpoint}`, () => server.call(call));
  return list(record(answer).nics).map((nic) => raw(record(nic).macaddr));
}

import { type Config, ConfigError } from "../config.ts";
import type { BridgeSettings } from "../hardware/headnodes/bridges.ts";
import { local, UsageError } from "./command.ts";
import { printable } from "./progress.ts";
import { readSecret } from "./secret.ts";

/** The commands that run on the server itself. What they need is loaded when they run: clients start without it. */
export const serverCommands = [
  local({
    name: "serve",
    grouped: "serve",
    about: "migrate the database, serve the API and apply networking",
    args: { port: { about: "TCP port (default 5000)", optional: true } },
    options: ["host", "networks"],
    async run({ port = "5000" }, { host = "127.0.0.1", networks = true }, config) {
      if (!/^(0|[1-9]\d{0,4})$/.test(port) || Number(port) > 65535) throw new UsageError(`'${port}' is not a TCP port.`);
      if (host === "") throw new UsageError("--host needs an ADDRESS.");
      const settings = config();
      const { serve } = await import("../serve.ts");
      await serve(settings, { port: Number(port), host, networks });
    },
  }),
  local({
    name: "serve_networks",
    grouped: "serve networks",
    about: "apply networking only, beside a `haas serve --no-networks`",
    args: {},
    options: ["once"],
    async run(_, { once = false }, config) {
      const settings = config();
      const { serveNetworks } = await import("../serve.ts");
      await serveNetworks(settings, { once });
    },
  }),
  local({
    name: "create_admin_user",
    grouped: "user create_admin",
    about: "create the first admin, in the database itself",
    args: { username: "the admin's name", password: { about: "the admin's password; - reads it from standard input", verbatim: true } },
    async run({ username, password }, _, config) {
      const settings = config();
      const secret = await readSecret(password);
      const { createAdminUser } = await import("../serve.ts");
      await createAdminUser(settings, username, secret);
      // Another URI may hold a password, and comes from a file.
      const where = settings.databaseUri.startsWith("sqlite:") ? settings.databaseUri : `of ${settings.file}`;
      process.stderr.write(`'${printable(username)}' is an admin now, in the database ${where}.\n`);
      if (settings.auth.backend === "null") {
        process.stderr.write("warning: the null authentication backend is configured: it lets everybody in, and asks for no user.\n");
      }
    },
  }),
  local({
    name: "backup",
    grouped: "database backup",
    about: "copy the SQLite database, as it is now, into a new file; the server may run",
    args: { file: "the copy; it must not exist yet" },
    options: [],
    async run({ file }, _, config) {
      const settings = config();
      const { backUp } = await import("../backup.ts");
      backUp(settings, file);
    },
  }),
  local({
    name: "restore",
    grouped: "database restore",
    about: "put a backup in the place of the SQLite database; no server may run",
    args: { file: "a copy that `haas backup` made" },
    options: [],
    async run({ file }, _, config) {
      const settings = config();
      const { restore } = await import("../backup.ts");
      const { path, kept, ports, warnings } = await restore(settings, file);
      for (const warning of warnings) process.stderr.write(`warning: ${printable(warning)}\n`);
      process.stdout.write(`${printable(path)} is now what ${printable(file)} holds.\n`);
      if (kept !== null) process.stdout.write(`The database before it is kept as ${printable(kept)}.\n`);
      process.stdout.write(`Switch ports that the next haas reads back before it offers their nodes or any new network: ${ports}.\n`);
    },
  }),
  local({
    name: "create_bridges",
    grouped: "bridges create",
    about: "create what headnodes are plugged into: a bridge for every VLAN of the pool, or one of Open vSwitch",
    args: {},
    options: ["dryRun"],
    async run(_, { dryRun = false }, config) {
      const { createBridges } = await import("../hardware/headnodes/bridges.ts");
      await createBridges(bridgeSettings(config(), dryRun));
    },
  }),
  local({
    name: "delete_bridges",
    grouped: "bridges delete",
    about: "remove what create_bridges made; no headnode may run",
    args: {},
    options: ["dryRun"],
    async run(_, { dryRun = false }, config) {
      const { deleteBridges } = await import("../hardware/headnodes/bridges.ts");
      await deleteBridges(bridgeSettings(config(), dryRun));
    },
  }),
];

function bridgeSettings(config: Config, dryRun: boolean): BridgeSettings {
  const { trunkNic, network, ovsBridge } = config.headnode;
  if (trunkNic === null) {
    throw new ConfigError(`${config.file ?? "haas.cfg"}: [headnode] trunk_nic: name the interface that carries the VLANs.`);
  }
  return {
    trunkNic,
    network,
    ovsBridge,
    vlans: config.vlanPool,
    dryRun: dryRun || config.dryRun,
    print: (line) => console.log(line),
  };
}

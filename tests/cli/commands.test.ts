import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { optionSpecs } from "../../src/cli/command.ts";
import { commands } from "../../src/cli/commands.ts";
import { spellings, usageLines } from "../../src/cli/help.ts";
import { switchDrivers } from "../../src/hardware/switches/index.ts";
import { recordingServer } from "./haas.ts";

const server = recordingServer();
afterAll(() => server.stop());

const obm = "http://schema.massopencloud.org/haas/v0/obm/";
const switches = "http://schema.massopencloud.org/haas/v0/switches/";
const login = { hostname: "h", username: "u", password: "p" };

/** Command line → method, path, body. Every published command that talks to the server. */
const published: [argv: string, method: string, path: string, body?: unknown][] = [
  ["user_create bob pw admin", "PUT", "/auth/basic/user/bob", { password: "pw", is_admin: true }],
  ["user_create bob pw regular", "PUT", "/auth/basic/user/bob", { password: "pw", is_admin: false }],
  ["user_delete bob", "DELETE", "/auth/basic/user/bob"],
  ["user_set_admin bob admin", "PATCH", "/auth/basic/user/bob", { is_admin: true }],
  ["user_set_admin bob regular", "PATCH", "/auth/basic/user/bob", { is_admin: false }],
  ["user_add_project bob p1", "POST", "/auth/basic/user/bob/add_project", { project: "p1" }],
  ["user_remove_project bob p1", "POST", "/auth/basic/user/bob/remove_project", { project: "p1" }],
  ["list_users", "GET", "/auth/basic/users"],
  ["project_create p1", "PUT", "/project/p1"],
  ["project_delete p1", "DELETE", "/project/p1"],
  ["project_connect_node p1 n1", "POST", "/project/p1/connect_node", { node: "n1" }],
  ["project_detach_node p1 n1", "POST", "/project/p1/detach_node", { node: "n1" }],
  ["list_projects", "GET", "/projects"],
  ["list_project_nodes p1", "GET", "/project/p1/nodes"],
  ["list_project_networks p1", "GET", "/project/p1/networks"],
  ["list_project_headnodes p1", "GET", "/project/p1/headnodes"],
  ["node_register n1 ipmi h u p", "PUT", "/node/n1", { obm: { type: `${obm}ipmi`, host: "h", user: "u", password: "p" } }],
  [
    "node_register n1 ipmi h u p --system 0x82@7",
    "PUT",
    "/node/n1",
    { obm: { type: `${obm}ipmi`, host: "h", user: "u", password: "p", system: "0x82@7" } },
  ],
  ["node_register n1 mock h u p", "PUT", "/node/n1", { obm: { type: `${obm}mock`, host: "h", user: "u", password: "p" } }],
  [
    "node_register ipmi dummyNode01 ipmiHost4node-01 ipmiUser4node-01 ipmiPass4node-01",
    "PUT",
    "/node/dummyNode01",
    { obm: { type: `${obm}ipmi`, host: "ipmiHost4node-01", user: "ipmiUser4node-01", password: "ipmiPass4node-01" } },
  ],
  // A node that is called like a subtype: the documented order counts.
  ["node_register ipmi mock h u p", "PUT", "/node/ipmi", { obm: { type: `${obm}mock`, host: "h", user: "u", password: "p" } }],
  ["node_delete n1", "DELETE", "/node/n1"],
  ["node_register_nic n1 nic1 01:23:45:67:89:ab", "PUT", "/node/n1/nic/nic1", { macaddr: "01:23:45:67:89:ab" }],
  ["node_delete_nic n1 nic1", "DELETE", "/node/n1/nic/nic1"],
  ["metadata_set n1 EK 17", "PUT", "/node/n1/metadata/EK", { value: "17" }],
  ["metadata_delete n1 EK", "DELETE", "/node/n1/metadata/EK"],
  ["list_nodes all", "GET", "/nodes/all"],
  ["list_nodes free", "GET", "/nodes/free"],
  ["show_node n1", "GET", "/node/n1"],
  ["node_power_cycle n1", "POST", "/node/n1/power_cycle"],
  ["node_power_cycle n1 --force", "POST", "/node/n1/power_cycle", { force: true }],
  ["node_power_on n1", "POST", "/node/n1/power_on"],
  ["node_power_off n1", "POST", "/node/n1/power_off"],
  ["node_power_status n1", "GET", "/node/n1/power_status"],
  ["node_set_bootdev n1 pxe", "PUT", "/node/n1/boot_device", { bootdev: "pxe" }],
  ["node_set_obm n1 disabled", "PUT", "/node/n1/obm", { enabled: false }],
  ["node_set_obm n1 enabled", "PUT", "/node/n1/obm", { enabled: true }],
  ["node_connect_network n1 nic1 net", "POST", "/node/n1/nic/nic1/connect_network", { network: "net" }],
  ["node_connect_network n1 nic1 net vlan/100", "POST", "/node/n1/nic/nic1/connect_network", { network: "net", channel: "vlan/100" }],
  ["node_detach_network n1 nic1 net", "POST", "/node/n1/nic/nic1/detach_network", { network: "net" }],
  ["node_connect_network n1 nic1 net --dry-run", "POST", "/node/n1/nic/nic1/connect_network?dry_run=true", { network: "net" }],
  ["node_detach_network n1 nic1 net --dry-run", "POST", "/node/n1/nic/nic1/detach_network?dry_run=true", { network: "net" }],
  ["show_networking_action 8b7e", "GET", "/networking_action/8b7e"],
  ["start_console n1", "PUT", "/node/n1/console"],
  ["show_console n1", "GET", "/node/n1/console"],
  ["stop_console n1", "DELETE", "/node/n1/console"],
  ["network_create net admin '' 101", "PUT", "/network/net", { owner: "admin", access: "", net_id: "101" }],
  ["network_create net p1 p1 ''", "PUT", "/network/net", { owner: "p1", access: "p1", net_id: "" }],
  ["network_create_simple net p1", "PUT", "/network/net", { owner: "p1", access: "p1", net_id: "" }],
  ["network_delete net", "DELETE", "/network/net"],
  ["network_grant_project_access p1 net", "PUT", "/network/net/access/p1"],
  ["network_revoke_project_access p1 net", "DELETE", "/network/net/access/p1"],
  ["list_networks", "GET", "/networks"],
  ["show_network net", "GET", "/network/net"],
  ["list_network_attachments net all", "GET", "/network/net/attachments"],
  ["list_network_attachments net p1", "GET", "/network/net/attachments?project=p1"],
  ["switch_register s1 mock h u p", "PUT", "/switch/s1", { type: `${switches}mock`, ...login }],
  ["switch_register s1 powerconnect55xx h u p", "PUT", "/switch/s1", { type: `${switches}powerconnect55xx`, ...login }],
  ["switch_register s1 nexus h u p 2222", "PUT", "/switch/s1", { type: `${switches}nexus`, ...login, dummy_vlan: "2222" }],
  ["switch_register s1 delln3000 h u p 2222", "PUT", "/switch/s1", { type: `${switches}delln3000`, ...login, dummy_vlan: "2222" }],
  ["switch_register s1 brocade h u p Ten", "PUT", "/switch/s1", { type: `${switches}brocade`, ...login, interface_type: "Ten" }],
  ["switch_register s1 dellnos9 h u p Gig", "PUT", "/switch/s1", { type: `${switches}dellnos9`, ...login, interface_type: "Gig" }],
  ["switch_register s1 ovs br0", "PUT", "/switch/s1", { type: `${switches}ovs`, ovs_bridge: "br0" }],
  ["switch_register s1 ovs br0 /run/db", "PUT", "/switch/s1", { type: `${switches}ovs`, ovs_bridge: "br0", database: "/run/db" }],
  [
    "switch_register s1 nexus h u p 2222 --transport telnet --key-file /k --legacy-algorithms --enable-password e",
    "PUT",
    "/switch/s1",
    {
      type: `${switches}nexus`,
      ...login,
      dummy_vlan: "2222",
      transport: "telnet",
      key_file: "/k",
      enable_password: "e",
      legacy_algorithms: true,
    },
  ],
  [
    "switch_register --tls=verify s1 brocade h u p Ten --ca-file 0123",
    "PUT",
    "/switch/s1",
    { type: `${switches}brocade`, ...login, interface_type: "Ten", tls: "verify", ca_file: "0123" },
  ],
  ["switch_delete s1", "DELETE", "/switch/s1"],
  ["list_switches", "GET", "/switches"],
  ["show_switch s1", "GET", "/switch/s1"],
  ["switch_forget_host_key s1", "DELETE", "/switch/s1/host_key"],
  ["port_register s1 gi1/0/1", "PUT", "/switch/s1/port/gi1%2F0%2F1"],
  ["port_delete s1 gi1/0/1", "DELETE", "/switch/s1/port/gi1%2F0%2F1"],
  ["port_connect_nic s1 gi1/0/1 n1 nic1", "POST", "/switch/s1/port/gi1%2F0%2F1/connect_nic", { node: "n1", nic: "nic1" }],
  ["port_detach_nic s1 gi1/0/1", "POST", "/switch/s1/port/gi1%2F0%2F1/detach_nic"],
  ["port_revert s1 gi1/0/1", "POST", "/switch/s1/port/gi1%2F0%2F1/revert"],
  ["port_revert s1 gi1/0/1 --dry-run", "POST", "/switch/s1/port/gi1%2F0%2F1/revert?dry_run=true"],
  ["port_trust s1 gi1/0/1", "POST", "/switch/s1/port/gi1%2F0%2F1/trust"],
  ["show_port s1 gi1/0/1", "GET", "/switch/s1/port/gi1%2F0%2F1"],
  ["headnode_create h1 p1 img1", "PUT", "/headnode/h1", { project: "p1", base_img: "img1" }],
  ["headnode_delete h1", "DELETE", "/headnode/h1"],
  ["headnode_start h1", "POST", "/headnode/h1/start"],
  ["headnode_edit h1", "POST", "/headnode/h1/edit"],
  ["headnode_stop h1", "POST", "/headnode/h1/stop"],
  ["headnode_create_hnic h1 eth0", "PUT", "/headnode/h1/hnic/eth0"],
  ["headnode_delete_hnic h1 eth0", "DELETE", "/headnode/h1/hnic/eth0"],
  ["headnode_connect_network h1 eth0 net", "POST", "/headnode/h1/hnic/eth0/connect_network", { network: "net" }],
  ["headnode_detach_network h1 eth0", "POST", "/headnode/h1/hnic/eth0/detach_network"],
  ["show_headnode h1", "GET", "/headnode/h1"],
  ["list_headnode_images", "GET", "/headnode_images/"],
];

const split = (line: string): string[] => line.split(" ").map((word) => (word === "''" ? "" : word));

describe("every published command makes its request", () => {
  for (const [line, method, path, body] of published) {
    test(line, async () => {
      const { status, err, requests } = await server.run(split(line));
      expect({ status, err }).toEqual({ status: 0, err: "" });
      expect(requests.map((request) => [request.method, request.path, request.body])).toEqual([[method, path, body]]);
    });
  }

  test("and none is left out", () => {
    const covered = new Set(published.map(([line]) => line.split(" ")[0]));
    const clients = commands.filter(({ kind }) => kind === "client").map(({ name }) => name);
    expect(clients.filter((name) => !covered.has(name))).toEqual([]);
    // Those that ask more than once have their own tests; see switches.test.ts.
    expect(commands.filter((command) => command.kind === "local" && !command.json).map(({ name }) => name)).toEqual([
      "serve",
      "serve_networks",
      "create_admin_user",
      "backup",
      "restore",
      "create_bridges",
      "delete_bridges",
      "certificate",
      "boot_serve",
      "boot_dnsmasq",
      "boot_arm",
      "boot_disarm",
      "completion",
      "help",
    ]);
  });
});

describe("grouped names", () => {
  const pairs: [string, string, string][] = [
    ["node register n1 mock h u p", "PUT", "/node/n1"],
    ["switch register s1 mock h u p", "PUT", "/switch/s1"],
    ["network grant_project_access p1 net", "PUT", "/network/net/access/p1"],
    ["node list free", "GET", "/nodes/free"],
    ["list nodes free", "GET", "/nodes/free"],
    ["node show n1", "GET", "/node/n1"],
    ["project list_nodes p1", "GET", "/project/p1/nodes"],
    ["node --json list all", "GET", "/nodes/all"],
    ["switch forget_host_key s1", "DELETE", "/switch/s1/host_key"],
    ["port trust s1 p1", "POST", "/switch/s1/port/p1/trust"],
    // A node whose name is part of another command's name.
    ["node delete nic", "DELETE", "/node/nic"],
    ["node_delete nic", "DELETE", "/node/nic"],
  ];
  for (const [line, method, path] of pairs) {
    test(line, async () => {
      const { requests } = await server.run(split(line));
      expect(requests.map((request) => [request.method, request.path])).toEqual([[method, path]]);
    });
  }

  test("no two commands share a name", () => {
    const all = commands.flatMap(spellings);
    expect(all.filter((name, i) => all.indexOf(name) !== i)).toEqual([]);
  });
});

test("a switch's arguments and options are those that its driver names, in its order", () => {
  const register = commands.find(({ name }) => name === "switch_register")!;
  const fields: Record<string, string> = { host: "hostname", user: "username", bridge: "ovs_bridge" };
  for (const driver of Object.values(switchDrivers)) {
    const [, , ...args] = Object.entries(register.variants![driver.name]!);
    const required = args.filter(([, argument]) => typeof argument === "string" || !argument.optional);
    expect(required.map(([name]) => fields[name] ?? name)).toEqual([...driver.positional]);
    const flags = (register.variantOptions![driver.name] ?? []).map((option) => optionSpecs[option].flag);
    const optional = Object.keys(driver.settings.properties).filter((name) => !driver.positional.includes(name));
    const names = args.map(([name]) => name);
    expect(optional.filter((name) => !names.includes(name) && !flags.some((flag) => flag === `--${name.replaceAll("_", "-")}`))).toEqual(
      [],
    );
  }
});

test("the reference describes every command", () => {
  const reference = readFileSync(join(import.meta.dir, "../../docs/cli.md"), "utf8");
  const missing = commands
    .flatMap((command) => [...usageLines(command), command.about])
    .filter((text) => !reference.includes(text.replaceAll("|", "\\|")));
  expect(missing).toEqual([]);
});

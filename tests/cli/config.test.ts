import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { activeExtensions, ConfigError, loadConfig } from "../../src/config.ts";
import { emptyDirectory, haas, recordingServer } from "./haas.ts";

const server = recordingServer();
afterAll(() => server.stop());

const directory = emptyDirectory();
let files = 0;
function written(text: string, mode = 0o644): string {
  const file = join(directory, `${files++}.cfg`);
  writeFileSync(file, text);
  chmodSync(file, mode);
  return file;
}
const load = (text: string, mode?: number) => loadConfig(written(text, mode));

/** The one line that a broken file is refused with, without its path. */
function refusal(text: string, mode?: number): string {
  const file = written(text, mode);
  try {
    loadConfig(file);
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    const { message } = error as ConfigError;
    expect(message).toStartWith(file);
    expect(message).not.toContain("\n");
    return message.slice(file.length);
  }
  throw new Error("The file was accepted.");
}

const published = `
[general]
log_level = warning
[auth]
require_authentication = False
[headnode]
trunk_nic = eth0
base_imgs = base-headnode, img1, img2 # as published
libvirt_endpoint = qemu:///system
[client]
endpoint = http://127.0.0.1:5000
[database]
uri = sqlite:///haas.db
[devel]
dry_run = True
[extensions]
haas.ext.switches.mock =
hil.ext.switches.nexus =
haas.ext.switches.dell
haas.ext.obm.mock =
haas.ext.obm.ipmi = ; a comment
haas.ext.network_allocators.vlan_pool =
haas.ext.auth.null =
[haas.ext.network_allocators.vlan_pool]
vlans = 100-102, 7
`;

test("a published file works unchanged", () => {
  const config = load(published);
  expect(config).toMatchObject({
    logLevel: "warning",
    auth: { backend: "null", named: true, requireAuthentication: false },
    headnode: {
      driver: "libvirt",
      trunkNic: "eth0",
      baseImages: ["base-headnode", "img1", "img2"],
      libvirtEndpoint: "qemu:///system",
      network: "bridges",
      ovsBridge: "br-trunk",
    },
    clientEndpoint: "http://127.0.0.1:5000",
    databaseUri: "sqlite:///haas.db",
    dryRun: true,
    allocator: "vlan_pool",
    vlanPool: [7, 100, 101, 102],
    warnings: [],
  });
  expect(activeExtensions(config)).toEqual([
    "haas.ext.auth.null",
    "haas.ext.network_allocators.vlan_pool",
    "haas.ext.obm.ipmi",
    "haas.ext.obm.mock",
    "haas.ext.switches.dell",
    "haas.ext.switches.mock",
    "haas.ext.switches.nexus",
  ]);
});

test("without a file: the development server", () => {
  const config = loadConfig(null);
  expect(config).toMatchObject({ file: null, auth: { backend: "null", named: false }, databaseUri: "sqlite:///haas.db", dryRun: false });
  expect([config.vlanPool[0], config.vlanPool.at(-1), config.vlanPool.length]).toEqual([100, 199, 100]);
});

test("names are case-sensitive, and values keep what is inside them", () => {
  const config = load("[general]\nLOG_LEVEL = debug\n[client]\nendpoint = http://h/#a;b\n[maintenance]\nmaintenance_project = a=b:c\n");
  expect(config.logLevel).toBe("info");
  expect(config.clientEndpoint).toBe("http://h/#a;b");
  expect(config.maintenance?.project).toBe("a=b:c");
  expect(config.warnings).toHaveLength(1);
  expect(config.warnings[0]).toMatch(/\[general\].*LOG_LEVEL/);
});

test("unknown sections and options are warnings", () => {
  expect(load("[nonsense]\na = b\n[client]\nendpiont = x\n").warnings.map((line) => line.replace(/^.*cfg: /, ""))).toEqual([
    "unknown section [nonsense].",
    "[client]: unknown option endpiont.",
  ]);
});

describe("an impossible value is one line naming file, section and option", () => {
  const cases: [string, string, string][] = [
    ["general", "log_level", "loud"],
    ["auth", "require_authentication", "maybe"],
    ["network-daemon", "sleep_time", "0"],
    ["network-daemon", "sleep_time", "3600"],
    ["network-daemon", "sleep_time", "soon"],
    ["haas.ext.network_allocators.vlan_pool", "vlans", "0-10"],
    ["haas.ext.network_allocators.vlan_pool", "vlans", "4095"],
    ["haas.ext.network_allocators.vlan_pool", "vlans", "20-10"],
    ["haas.ext.network_allocators.vlan_pool", "vlans", "ten"],
    ["haas.ext.switches.nexus", "save", "perhaps"],
  ];
  for (const [section, option, value] of cases) {
    test(`[${section}] ${option} = ${value}`, () => {
      const message = refusal(`[${section}]\n${option} = ${value}\n`);
      expect(message).toContain(`[${section}] ${option}`);
    });
  }

  test("two authentication backends, or none", () => {
    expect(refusal("[extensions]\nhaas.ext.auth.null=\nhaas.ext.auth.database=\nhaas.ext.network_allocators.null=\n")).toContain(
      "[extensions]",
    );
    expect(refusal("[extensions]\nhaas.ext.network_allocators.null=\n")).toContain("exactly one authentication backend");
    expect(refusal("[extensions]\nhaas.ext.auth.null=\n")).toContain("exactly one network allocator");
  });

  test("what is not INI", () => {
    expect(refusal("a = b\n")).toContain("line 1");
    expect(refusal("[general]\n= b\n")).toContain("line 2");
  });
});

test("a file that others can read must hold no password", () => {
  const text = "[database]\nuri = postgresql://haas:s3cret@db:5432/haas\n";
  expect(refusal(text, 0o644)).toMatch(/\[database\] uri .*chmod 600/);
  expect(refusal(text, 0o640)).not.toContain("s3cret");
  expect(load(text, 0o600).databaseUri).toBe("postgresql://haas:s3cret@db:5432/haas");
  expect(load("[database]\nuri = postgresql://haas@db/haas\n", 0o644).databaseUri).toBe("postgresql://haas@db/haas");
});

describe("a file that others can read must hold no secret in any option, known or not", () => {
  const pool = "[maintenance]\nmaintenance_project = m\n";
  test.each([
    ["maintenance", "url", "http://u:s3cret@127.0.0.1:8080/"],
    ["maintenance", "url", "https://s3cret@hooks.example/"],
    ["maintenance", "url", "https://h/x?token=s3cret"],
    ["maintenance", "url", "https://h/x?a=1&Api-Key=s3cret"],
    ["maintenance", "url", "https://h/x?pass%77ord=s3cret"],
    ["maintenance", "url", "https://h/x#access_token=s3cret"],
    ["client", "endpoint", "https://u:s3/cret@h:5000"],
    ["database", "uri", "postgresql://h/d?sslmode=require&password=s3cret"],
    ["database", "uri", "postgresql://h/d?sslpassword=s3cret"],
    ["database", "uri", "postgres://u:1234@h/d"],
    ["headnode", "libvirt_endpoint", "qemu+tcp://u:s3cret@h/system"],
    ["headnode", "base_imgs", "one, http://u:s3cret@h/two"],
    ["general", "log_dir", "ftp://:s3cret@h/"],
    ["general", "hosts", "a,\n http://u:s3cret@h"],
    ["hil.ext.auth.keystone", "admin_token", "s3cret"],
    ["nonsense", "web", "HTTPS://u:s3cret@h"],
    ["obm", "dsn", "host=h password=s3cret"],
  ])("[%s] %s = %s", (section, option, value) => {
    const text = `[${section}]\n${option} = ${value}\n${pool}`;
    for (const mode of [0o644, 0o640, 0o604, 0o620]) {
      const message = refusal(text, mode);
      const shown = section.replace(/^hil/, "haas");
      expect(message).toMatch(/^: \[\S+\] \S+ holds a password, but others can read the file\. Run: chmod 600 \S+$/);
      expect(message).toContain(`[${shown}] ${option} holds`);
      expect(message).not.toContain("s3");
    }
    load(text, 0o600);
  });

  test.each([
    ["maintenance", "url", "https://host:8080/path/a@b?node=n1&mode=key"],
    ["maintenance", "url", "http://127.0.0.1:8080/~user:x"],
    ["client", "endpoint", "http://127.0.0.1:5000/v0"],
    ["database", "uri", "postgresql://haas@db:5432/haas?sslkey=/etc/key.pem&passfile=/etc/pass"],
    ["database", "uri", "sqlite:////var/lib/haas/a:b@c.db"],
    ["headnode", "libvirt_endpoint", "qemu+ssh://root@host:22/system?keyfile=/root/.ssh/id_rsa&no_verify=1"],
    ["maintenance", "maintenance_project", "a=b:c@d"],
    ["general", "state_dir", "/var/lib/secret/token"],
    ["nonsense", "password", ""],
    ["nonsense", "token_file", "/etc/token"],
  ])("but [%s] %s = %s is none", (section, option, value) => {
    load(`${pool}[${section}]\n${option} = ${value}\n`, 0o644);
  });
});

describe("which server a client talks to", () => {
  const config = (endpoint: string) => written(`[client]\nendpoint = ${endpoint}\n`);
  const nowhere = config("http://127.0.0.1:1");
  const here = config(server.endpoint);
  const broken = written("[general]\nlog_level = loud\n");

  test("the variable wins over the file", async () => {
    expect((await server.run(["list_projects", "--config", nowhere])).requests).toHaveLength(1);
    expect((await server.run(["list_projects"], [], { env: { HAAS_CONFIG: nowhere } })).requests).toHaveLength(1);
  });

  test("--config, then HAAS_CONFIG, then ./haas.cfg, then the user's", async () => {
    const cwd = emptyDirectory();
    const home = emptyDirectory();
    mkdirSync(join(home, ".config/haas"), { recursive: true });
    const place = (file: string, endpoint: string) => writeFileSync(file, `[client]\nendpoint = ${endpoint}\n`);
    const asked = async (argv: string[], env = {}) =>
      (await server.run(["list_projects", ...argv], [], { cwd, env: { HAAS_ENDPOINT: "", HOME: home, ...env } })).requests.length;
    place(join(home, ".config/haas/haas.cfg"), server.endpoint);
    expect(await asked([])).toBe(1);
    place(join(cwd, "haas.cfg"), "http://127.0.0.1:1");
    expect(await asked([])).toBe(0);
    expect(await asked([], { HAAS_CONFIG: here })).toBe(1);
    expect(await asked([`--config=${nowhere}`], { HAAS_CONFIG: here })).toBe(0);
    expect(await asked([`--config=${here}`], { HAAS_CONFIG: nowhere })).toBe(1);
  });

  test("a trailing slash makes no difference, and a path stays", async () => {
    for (const [suffix, path] of [
      ["", "/projects"],
      ["/", "/projects"],
      ["//", "/projects"],
      ["/v0", "/v0/projects"],
      ["/v0/", "/v0/projects"],
    ] as const) {
      const { requests } = await server.run(["list_projects"], [], { env: { HAAS_ENDPOINT: server.endpoint + suffix } });
      expect(requests.map((request) => request.path)).toEqual([path]);
      expect(
        (await server.run(["list_projects", "--config", config(server.endpoint + suffix)], [], { env: { HAAS_ENDPOINT: "" } })).requests[0]
          ?.path,
      ).toBe(path);
    }
  });

  test("credentials are sent when both are set", async () => {
    const sent = async (env: Record<string, string>) =>
      (await server.run(["list_projects"], [], { env })).requests[0]!.headers.get("authorization");
    expect(await sent({ HAAS_USERNAME: "bøb", HAAS_PASSWORD: "p:w" })).toBe(`Basic ${Buffer.from("bøb:p:w").toString("base64")}`);
    expect(await sent({ HAAS_USERNAME: "bob" })).toBeNull();
    expect(await sent({ HAAS_PASSWORD: "pw" })).toBeNull();
  });

  test("nothing configured: what to set", async () => {
    const { status, out, err } = await haas(["list_projects"]);
    expect({ status, out }).toEqual({ status: 2, out: "" });
    expect(err).toMatch(/^Error: .*HAAS_ENDPOINT.*\[client\].*\n$/);
  });

  test("a broken file matters only when it is needed, or named", async () => {
    expect((await server.run(["list_projects"], [], { env: { HAAS_CONFIG: broken } })).status).toBe(0);
    for (const ran of [
      await server.run(["list_projects", "--config", broken]),
      await haas(["list_projects"], { env: { HAAS_CONFIG: broken } }),
    ]) {
      expect(ran.status).toBe(2);
      expect(ran.err).toMatch(/^Error: .*\[general\] log_level.*\n$/);
    }
    expect((await server.run(["list_projects", "--config", "/nonexistent"])).status).toBe(2);
  });

  test("an endpoint that is none", async () => {
    for (const endpoint of [
      "localhost:5000",
      "127.0.0.1",
      "ftp://h",
      "http://",
      "http://u%zz:s3cret@h",
      "u:s3cret@h:1",
      "http://u:s3cret@h?x",
    ]) {
      const { status, err } = await haas(["list_projects"], { env: { HAAS_ENDPOINT: endpoint } });
      expect(status).toBe(2);
      expect(err).toMatch(/^Error: HAAS_ENDPOINT: The .*endpoint .*\n$/);
      expect(err).not.toContain("s3cret");
    }
    const file = config("ftp://h");
    const { status, err } = await haas(["list_projects", "--config", file]);
    expect({ status, err }).toEqual({
      status: 2,
      err: `Error: ${file}: [client] endpoint: The endpoint "ftp://h" is not an address like http://127.0.0.1:5000.\n`,
    });
  });

  test("no endpoint in a file: its warnings may tell why", async () => {
    const { status, err } = await haas(["list_projects", "--config", written("[clinet]\nendpoint = http://h\n")]);
    expect(status).toBe(2);
    expect(err).toMatch(/^warning: .*unknown section \[clinet\]\.\nError: No server is configured: .*\n$/);
  });
});

test("haas serve with a broken file ends with 2 and one line", async () => {
  for (const command of ["serve", "serve_networks", "create_bridges"]) {
    const { status, err } = await haas([command, "--config", written("[general]\nlog_level = loud\n")]);
    expect(status).toBe(2);
    expect(err).toMatch(/^Error: .*\[general\] log_level.*\n$/);
  }
});

test("create_admin_user says where the admin is", async () => {
  const cwd = emptyDirectory();
  const created = async (backend: string, name: string) => {
    const text = `[database]\nuri = sqlite:///admins.db\n[extensions]\nhaas.ext.auth.${backend} =\nhaas.ext.network_allocators.null =\n`;
    return haas(["create_admin_user", name, "pw", "--config", written(text)], { cwd });
  };
  const said = (name: string) => `'${name}' is an admin now, in the database sqlite:///admins.db.\n`;
  expect(await created("database", "root")).toEqual({ status: 0, out: "", err: said("root") });
  expect(await created("null", "other")).toEqual({
    status: 0,
    out: "",
    err: `${said("other")}warning: the null authentication backend is configured: it lets everybody in, and asks for no user.\n`,
  });
});

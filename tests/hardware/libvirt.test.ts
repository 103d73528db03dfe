import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Served } from "../support/binary.ts";
import { type LabService, makeLabService } from "../support/lab-service.ts";
import { type LibvirtLab, makeBaseImage, startLibvirt } from "../support/libvirt-lab.ts";
import { secrets } from "../support/secrets.ts";
import { scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// Headnodes on a real libvirtd with QEMU, by the compiled program's command line, in namespaces of their own.

const home = scratch();
const netns = `hvirt${process.pid}`;
const images = join(home.path, "images");
/** A file system of 6 MiB. */
const small = join(home.path, "small");
const config = join(home.path, "haas.cfg");
const plans = join(home.path, "plans");
const until = untilWithin(30_000);
let lab: LibvirtLab;
let service: LabService;
let server: Served;

/** `virsh` and `virt-clone` as haas finds them: the real ones, unless a plan says otherwise for one of their commands. */
function plant(): void {
  const bin = join(home.path, "bin");
  mkdirSync(bin);
  mkdirSync(plans);
  for (const program of ["virsh", "virt-clone"]) {
    const text = `#!/bin/sh
for word in "$@"; do
  if [ -f "${plans}/$word" ]; then
    case $(cat "${plans}/$word") in
      fail) [ -f "${plans}/--disable" ] && case " $* " in *" --disable "*) exec /usr/bin/${program} "$@" ;; esac
        echo "error: planted: $word" >&2; exit 1 ;;
      hang) /usr/bin/${program} "$@"; touch "${plans}/hanging"; exec sleep 60 ;;
    esac
  fi
done
exec /usr/bin/${program} "$@"
`;
    writeFileSync(join(bin, program), text);
    chmodSync(join(bin, program), 0o755);
  }
}
const plan = (word: string, what: "fail" | "hang") => writeFileSync(join(plans, word), what);
const unplan = () => {
  for (const name of readdirSync(plans)) rmSync(join(plans, name));
};

const startServer = async () => {
  server = await service.serve("env", `PATH=${join(home.path, "bin")}:${process.env.PATH}`);
};

const as = (user: Parameters<LabService["ok"]>[0]) => ({
  ok: (...argv: string[]) => service.ok(user, ...argv),
  async refused(...argv: string[]): Promise<string> {
    const { status, out, err } = await service.start(user, argv);
    expect({ argv, status, out }).toEqual({ argv, status: 1, out: "" });
    expect(err).toMatch(/^Error: [^\n]+\n$/);
    return err;
  },
  show: async (name: string) => JSON.parse(await as(user).ok("show_headnode", name, "--json")) as Record<string, any>,
});
const admin = as("root");
const alice = as("alice");
const bob = as("bob");

const machines = async () => (await lab.virsh("list", "--all", "--name")).split("\n").filter((name) => name.startsWith("headnode-"));
/** Files of headnodes, wherever images are. */
const storage = () => [images, small].flatMap((path) => readdirSync(path)).filter((name) => name.startsWith("headnode-"));
const interfaces = async (uuid: string) =>
  [...(await lab.virsh("domiflist", `headnode-${uuid}`)).matchAll(/^\s*\S+\s+bridge\s+(\S+)\s+(\S+)/gm)].map(
    ([, bridge, model]) => `${bridge} ${model}`,
  );

beforeAll(async () => {
  for (const path of [images, small]) mkdirSync(path);
  plant();
  lab = await startLibvirt({ dir: join(home.path, "lv"), netns });
  for (const vlan of [100, 101]) {
    await lab.must("ip", "link", "add", `br-vlan${vlan}`, "type", "bridge");
    await lab.must("ip", "link", "set", `br-vlan${vlan}`, "up");
  }
  await lab.must("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small);
  await makeBaseImage(lab, images, "base-headnode");
  const text = `[headnode]
base_imgs = base-headnode, not-there, too-big
[database]
uri = sqlite:///${home.path}/haas.db
[extensions]
haas.ext.auth.database =
haas.ext.network_allocators.vlan_pool =
haas.ext.obm.mock =
haas.ext.switches.mock =
[haas.ext.network_allocators.vlan_pool]
vlans = 100-109
`;
  writeFileSync(config, text, { mode: 0o600 });
  service = await makeLabService(lab, home.path, config);
  await startServer();
  for (const project of ["red", "blue"]) await admin.ok("project_create", project);
  for (const [user, project] of [
    ["alice", "red"],
    ["bob", "blue"],
    ["carol", "red"],
  ] as const)
    await service.addUser(user, project);
  for (const network of ["one", "two", "bridgeless"]) await alice.ok("network_create_simple", network, "red");
}, 120_000);

afterAll(async () => {
  const [ended] = await Promise.allSettled([server?.stop()]);
  await lab?.run("umount", small);
  await lab?.stop();
  home.remove();
  if (ended.status === "rejected") throw ended.reason;
}, 60_000);

/** A display's answer to a handshake; over the WebSocket with `user`. */
async function vnc(target: number | string, password: string, env: Record<string, string> = {}): Promise<string> {
  const variables = Object.entries({ VNC_PASSWORD: password, ...env }).map(([name, value]) => `${name}='${value}'`);
  const script = join(home.path, `vnc-${crypto.randomUUID()}.sh`);
  writeFileSync(script, `${variables.map((line) => `export ${line}`).join("\n")}\nexec "$@"\n`, { mode: 0o600 });
  return (
    await lab.must("sh", script, process.execPath, "--no-env-file", join(import.meta.dir, "../support/vnc-client.ts"), String(target))
  ).trim();
}
const socketOf = (name: string) => `ws://127.0.0.1:${service.port}/headnode/${name}/vnc`;

test("from its creation to its deletion, with its display and an edit between", async () => {
  expect(await alice.ok("list_headnode_images")).toBe("base-headnode\nnot-there\ntoo-big\n");
  await alice.ok("headnode_create", "hn", "red", "base-headnode");
  for (const hnic of ["eth0", "eth1"]) await alice.ok("headnode_create_hnic", "hn", hnic);
  await alice.ok("headnode_connect_network", "hn", "eth0", "one");
  expect(await alice.show("hn")).toMatchObject({
    state: "new",
    vncport: null,
    vnc_password: null,
    editable: true,
    networks: { eth0: "one", eth1: null },
  });
  await alice.ok("headnode_start", "hn");

  const { uuid, vncport, vnc_password: password, ...shown } = await alice.show("hn");
  expect(shown).toMatchObject({ state: "on", reason: null, editable: false });
  expect(await machines()).toEqual([`headnode-${uuid}`]);
  // One a connected hnic, of the image's kind of card, and nothing that the image was on.
  expect(await interfaces(uuid)).toEqual(["br-vlan100 e1000"]);
  expect(await lab.virsh("dominfo", `headnode-${uuid}`)).toMatch(/Autostart:\s+enable\n/);
  expect(await lab.virsh("dumpxml", "--xpath", "//graphics/@listen", `headnode-${uuid}`)).toBe(' listen="127.0.0.1"\n');
  await alice.ok("headnode_start", "hn");
  expect((await alice.show("hn")).vncport).toBe(vncport);

  expect(password).toMatch(/^[\w-]{8}$/);
  expect(await vnc(vncport, password)).toMatch(/^ok \d+x\d+ QEMU/);
  expect(await vnc(vncport, "wrong-pw")).toMatch(/^refused/);
  const credentials = { HAAS_CREDENTIALS: `alice:${secrets.alice}` };
  // Open displays last; that of a user who leaves the project does not.
  const lasting = vnc(socketOf("hn"), password, { ...credentials, HOLD_MS: "12000" });
  const opened = join(home.path, "opened");
  const left = vnc(socketOf("hn"), password, { HAAS_CREDENTIALS: `carol:${secrets.carol}`, HOLD_MS: "18000", OPENED: opened });
  await until("her display is open", () => existsSync(opened));
  await admin.ok("user_remove_project", "carol", "red");
  expect(await vnc(socketOf("hn"), password, credentials)).toMatch(/^ok \d+x\d+ QEMU/);
  expect(await vnc(socketOf("hn"), "wrong-pw", credentials)).toMatch(/^refused/);
  expect(await vnc(socketOf("hn"), password, { ...credentials, ORIGIN: `http://127.0.0.1:${service.port}` })).toMatch(/^ok/);
  expect(await vnc(socketOf("hn"), password, { ...credentials, ORIGIN: "http://evil.example" })).toBe("closed");
  expect(await vnc(socketOf("hn"), password, { HAAS_CREDENTIALS: `bob:${secrets.bob}` })).toBe("closed");
  expect(await vnc(socketOf("hn"), password)).toBe("closed");
  const shownToViewers = Bun.spawn(service.argvOf("alice", ["headnode_vnc", "hn", "--json"]), {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  try {
    const { value } = await shownToViewers.stdout.getReader().read();
    const { address, password: told } = JSON.parse(new TextDecoder().decode(value));
    expect(told).toBe(password);
    expect(await vnc(Number(address.split(":")[1]), password)).toMatch(/^ok/);
    expect(await vnc(Number(address.split(":")[1]), "wrong-pw")).toMatch(/^refused/);
  } finally {
    shownToViewers.kill("SIGINT");
  }
  expect(await shownToViewers.exited).toBe(0);
  expect(await bob.refused("headnode_vnc", "hn")).toContain("member of that project");
  expect(await bob.refused("show_headnode", "hn")).toContain("member of that project");
  expect(server.output()).not.toContain(password);

  expect(await left).toBe("closed early");
  expect(await lasting).toMatch(/^ok/);
  expect(await alice.refused("headnode_edit", "hn")).toContain("is running; stop it");
  expect(await alice.refused("headnode_connect_network", "hn", "eth1", "two")).toContain("was started already");
  await alice.ok("headnode_stop", "hn");
  expect(await alice.show("hn")).toMatchObject({ state: "off", reason: null, vncport: null });
  expect(await alice.refused("headnode_vnc", "hn")).toContain("has no display now: it is off.");
  expect(await lab.virsh("dominfo", `headnode-${uuid}`)).toMatch(/Autostart:\s+disable\n/);
  // Whoever starts it now, it is on no network: VLANs may have changed hands.
  expect(await interfaces(uuid)).toEqual([]);
  await alice.ok("headnode_stop", "hn");
  expect(await alice.refused("headnode_connect_network", "hn", "eth1", "two")).toContain("headnode_edit");
  await alice.ok("headnode_edit", "hn");
  await alice.ok("headnode_connect_network", "hn", "eth1", "two");
  await alice.ok("headnode_start", "hn");
  expect(await interfaces(uuid)).toEqual(["br-vlan100 e1000", "br-vlan101 e1000"]);
  expect(await vnc((await alice.show("hn")).vncport, password)).toMatch(/^ok/);

  await alice.ok("headnode_delete", "hn");
  expect([await machines(), storage()]).toEqual([[], []]);
  expect((await lab.must("ls", "/sys/class/net/br-vlan100/brif", "/sys/class/net/br-vlan101/brif")).match(/vnet/)).toBeNull();
  // What the image shares with it, or is, stays.
  expect(readdirSync(images)).toEqual(expect.arrayContaining(["base-headnode.qcow2", "shared.iso"]));
}, 120_000);

/** A headnode with one hnic; its uuid. */
const fresh = async (name: string, image = "base-headnode", network = "one") => {
  await alice.ok("headnode_create", name, "red", image);
  await alice.ok("headnode_create_hnic", name, "eth0");
  await alice.ok("headnode_connect_network", name, "eth0", network);
  return (await alice.show(name)).uuid as string;
};

describe("a step that fails is undone, and says why", () => {
  const isAsBefore = async (name: string) => {
    expect([await machines(), storage()]).toEqual([[], []]);
    expect(await alice.show(name)).toMatchObject({ state: "new", editable: true, vncport: null });
  };
  const gone = async (name: string) => {
    await alice.ok("headnode_delete", name);
    expect([await machines(), storage()]).toEqual([[], []]);
  };

  test("an image that is not on the hypervisor", async () => {
    await fresh("h1", "not-there");
    expect(await admin.refused("headnode_start", "h1")).toContain("'not-there' is not on the hypervisor");
    await isAsBefore("h1");
    await gone("h1");
  });

  test("a full disk", async () => {
    await makeBaseImage(lab, images, "too-big");
    // 4 MiB that can't be written a second time.
    await lab.must("sh", "-c", `head -c 4194304 /dev/urandom > ${small}/too-big.raw`);
    const xml = await lab.virsh("dumpxml", "too-big");
    const edited = join(home.path, "too-big.xml");
    writeFileSync(edited, xml.replace(`${images}/too-big.qcow2`, `${small}/too-big.raw`).replace("type='qcow2'", "type='raw'"));
    await lab.virsh("define", edited);
    await fresh("h2", "too-big");
    expect(await admin.refused("headnode_start", "h2")).toMatch(/cloning 'too-big'.*(not enough free space|No space left)/);
    await isAsBefore("h2");
    await gone("h2");
  }, 60_000);

  test("a machine of that name, or a volume", async () => {
    const uuid = await fresh("h3");
    const xml = join(home.path, "taken.xml");
    writeFileSync(xml, `<domain type='qemu'><name>headnode-${uuid}</name><memory>8192</memory><os><type>hvm</type></os></domain>`);
    await lab.virsh("define", xml);
    expect(await admin.refused("headnode_start", "h3")).toContain(`'headnode-${uuid}' exists already, and haas did not make it`);
    expect(await machines()).toEqual([`headnode-${uuid}`]);
    await lab.virsh("undefine", `headnode-${uuid}`);
    writeFileSync(join(images, `headnode-${uuid}-vda.qcow2`), "somebody's");
    expect(await admin.refused("headnode_start", "h3")).toContain("exists already, and haas did not make it");
    expect(readFileSync(join(images, `headnode-${uuid}-vda.qcow2`), "utf8")).toBe("somebody's");
    rmSync(join(images, `headnode-${uuid}-vda.qcow2`));
    await isAsBefore("h3");
    await gone("h3");
  }, 60_000);

  test("a network whose bridge is not there", async () => {
    await fresh("h4", "base-headnode", "bridgeless");
    expect(await admin.refused("headnode_start", "h4")).toMatch(/'br-vlan102'.*haas create_bridges/);
    await isAsBefore("h4");
    await gone("h4");
  }, 60_000);

  test("a hypervisor that is down, before and in the middle", async () => {
    await fresh("h5");
    await lab.kill();
    expect(await admin.refused("headnode_start", "h5")).toContain("The hypervisor 'qemu:///system' can't be reached");
    await lab.start();
    await isAsBefore("h5");
    // Made, started, and then out of sight.
    await alice.ok("headnode_start", "h5");
    await lab.kill();
    expect(await alice.show("h5")).toMatchObject({ state: "unknown", vncport: null });
    expect(await admin.refused("headnode_delete", "h5")).toContain("can't be reached");
    await lab.start();
    expect(await alice.show("h5")).toMatchObject({ state: "on" });
    await gone("h5");
  }, 60_000);

  test.each(["dumpxml", "domstate", "pool-list", "--original", "define", "start", "autostart"])(
    "%s",
    async (word) => {
      await fresh("h6");
      plan(word, "fail");
      expect(await admin.refused("headnode_start", "h6")).toContain(`planted: ${word}`);
      unplan();
      // Where the same command is part of undoing, the next call does it.
      if ((await alice.show("h6")).state === "half-made") await alice.ok("headnode_edit", "h6");
      await isAsBefore("h6");
      await gone("h6");
    },
    60_000,
  );

  test("a later start that fails at its end leaves it off, and frozen", async () => {
    await fresh("h9");
    await alice.ok("headnode_start", "h9");
    await alice.ok("headnode_stop", "h9");
    await alice.ok("headnode_edit", "h9");
    // Not the one of stopping, which has --disable.
    plan("autostart", "fail");
    writeFileSync(join(plans, "--disable"), "pass");
    expect(await admin.refused("headnode_start", "h9")).toContain("planted: autostart");
    unplan();
    expect(await alice.show("h9")).toMatchObject({ state: "off", editable: false, vncport: null });
    await gone("h9");
  }, 60_000);

  test.each(["vol-delete", "undefine", "destroy"])(
    "deleting can be repeated after %s failed",
    async (word) => {
      await fresh("h7");
      await alice.ok("headnode_start", "h7");
      plan(word, "fail");
      expect(await admin.refused("headnode_delete", "h7")).toContain(`planted: ${word}`);
      unplan();
      await gone("h7");
    },
    60_000,
  );

  test("a server killed while it clones", async () => {
    await fresh("h8");
    plan("--original", "hang");
    const starting = service.start("alice", ["headnode_start", "h8"]);
    await until("it clones", () => existsSync(join(plans, "hanging")));
    expect([(await machines()).length, storage().length]).toEqual([1, 1]);
    process.kill(server.pid, "SIGKILL");
    expect((await starting).status).toBe(1);
    unplan();
    await startServer();
    await until("h8 is new again", async () => (await alice.show("h8")).state === "new");
    await isAsBefore("h8");
    await alice.ok("headnode_start", "h8");
    expect(await alice.show("h8")).toMatchObject({ state: "on" });
    await gone("h8");
  }, 90_000);
});

describe("what happens behind the back of haas is noticed", () => {
  test("a machine that was stopped, and one that was removed", async () => {
    await fresh("hb");
    await alice.ok("headnode_start", "hb");
    const { uuid } = await admin.show("hb");
    await lab.virsh("destroy", `headnode-${uuid}`);
    expect(await admin.show("hb")).toMatchObject({
      state: "off",
      vncport: null,
      reason: expect.stringContaining("not haas that stopped it; the hypervisor says: shut off (destroyed)"),
    });
    await lab.virsh("start", `headnode-${uuid}`);
    await alice.ok("headnode_start", "hb");
    await alice.ok("headnode_stop", "hb");
    // It is on no network now, and so is not what a start of ours would make of it.
    await lab.virsh("start", `headnode-${uuid}`);
    expect(await alice.show("hb")).toMatchObject({ state: "on", reason: "It was not haas that started it." });
    expect(await admin.refused("headnode_start", "hb")).toContain("should be on; stop it, and start it again");
    await alice.ok("headnode_stop", "hb");
    await lab.virsh("undefine", `headnode-${uuid}`, "--storage", "vda");
    expect(await alice.show("hb")).toMatchObject({ state: "lost", reason: expect.stringContaining("is gone") });
    expect(await alice.refused("headnode_start", "hb")).toContain("is gone. Delete the headnode");
    await alice.ok("headnode_delete", "hb");
  }, 60_000);

  test("two starts at once make one machine", async () => {
    // A name goes into the machine's description, and nowhere else.
    const name = `<&> "h' $(id) --x`;
    await alice.ok("headnode_create", name, "red", "base-headnode");
    const ran = await Promise.all([1, 2, 3].map(() => service.start("alice", ["headnode_start", name])));
    expect(ran.map(({ status, err }) => [status, err])).toEqual([0, 0, 0].map((status) => [status, ""]));
    const [machine, ...more] = await machines();
    expect(more).toEqual([]);
    expect((await lab.virsh("desc", "--title", machine!)).trim()).toBe(name);
    await alice.ok("headnode_delete", name);
    expect([await machines(), storage()]).toEqual([[], []]);
  }, 60_000);
});

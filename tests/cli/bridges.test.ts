import { expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createBridges, deleteBridges } from "../../src/hardware/headnodes/bridges.ts";
import { emptyDirectory, haas } from "./haas.ts";

const directory = emptyDirectory();
const config = (text: string): string => {
  const file = join(directory, "haas.cfg");
  writeFileSync(file, text);
  return file;
};
const pool = "[haas.ext.network_allocators.vlan_pool]\nvlans = 100, 105\n";

test("create_bridges --dry-run prints the commands", async () => {
  const { status, out, err } = await haas(["create_bridges", "--dry-run", "--config", config(`[headnode]\ntrunk_nic = eth7\n${pool}`)]);
  expect({ status, err }).toEqual({ status: 0, err: "" });
  expect(out).toBe(
    [100, 105]
      .map((vlan) =>
        [
          `ip link add link eth7 name eth7.${vlan} type vlan id ${vlan}`,
          `ip link add name br-vlan${vlan} type bridge`,
          `ip link set dev eth7.${vlan} master br-vlan${vlan}`,
          `ip link set dev eth7.${vlan} up`,
          `ip link set dev br-vlan${vlan} up\n`,
        ].join("\n"),
      )
      .join(""),
  );
});

test("create_bridges says what is missing", async () => {
  const without = await haas(["create_bridges", "--config", config(pool)]);
  expect(without.status).toBe(2);
  expect(without.err).toMatch(/^Error: .*haas\.cfg: \[headnode\] trunk_nic: .*\n$/);
  const absent = await haas(["create_bridges", "--config", config(`[headnode]\ntrunk_nic = nosuch0\n${pool}`)]);
  expect(absent).toMatchObject({ status: 1, out: "", err: "Error: [headnode] trunk_nic: this machine has no interface 'nosuch0'.\n" });
});

/** What is still to do, on a machine whose interfaces are these. */
async function plan(
  paths: string[],
  links: [path: string, target: string][] = [],
  trunkNic = "eth0",
  work = createBridges,
): Promise<string[]> {
  const sysfs = emptyDirectory();
  for (const path of paths) mkdirSync(join(sysfs, path), { recursive: true });
  for (const [path, target] of links) symlinkSync(target, join(sysfs, path));
  const lines: string[] = [];
  const settings = { trunkNic, vlans: [100], network: "bridges", ovsBridge: "br-trunk", dryRun: true, sysfs } as const;
  await work({ ...settings, print: (line) => lines.push(line) });
  return lines;
}

test("what is there already is left alone", async () => {
  const ours = ["eth0.100/lower_eth0", "br-vlan100/bridge"];
  expect(await plan(ours, [["eth0.100/master", "../br-vlan100"]])).toEqual([
    "ip link set dev eth0.100 up",
    "ip link set dev br-vlan100 up",
  ]);
  expect((await plan(ours))[0]).toBe("ip link set dev eth0.100 master br-vlan100");
});

test("what is there and is something else is refused", async () => {
  expect(plan(["eth0.100/lower_eth9"])).rejects.toThrow("is not on 'eth0'");
  expect(plan(["br-vlan100"])).rejects.toThrow("is not a bridge");
  expect(plan(["eth0.100/lower_eth0", "br-x"], [["eth0.100/master", "../br-x"]])).rejects.toThrow("in the bridge 'br-x' already");
  expect(plan([], [], "enp129s0f0np0")).rejects.toThrow("more than 15 characters");
});

test("what was made is removed, and nothing else", async () => {
  const ours = ["eth0.100/lower_eth0", "br-vlan100/brif/eth0.100", "br-vlan7/brif"];
  expect(await plan(ours, [], "eth0", deleteBridges)).toEqual(["ip link del dev br-vlan100", "ip link del dev eth0.100"]);
  expect(await plan([], [], "eth0", deleteBridges)).toEqual([]);
  expect(plan([...ours, "br-vlan100/brif/vnet3"], [], "eth0", deleteBridges)).rejects.toThrow("has other ports: vnet3. Stop the headnodes");
});

test("with Open vSwitch it is one bridge", async () => {
  const file = config(`[headnode]\ntrunk_nic = eth7\nnetwork = ovs\novs_bridge = br-hn\n${pool}`);
  expect(await haas(["create_bridges", "--dry-run", "--config", file])).toMatchObject({
    status: 0,
    out: "ovs-vsctl --timeout=10 --may-exist add-br br-hn -- --may-exist add-port br-hn eth7\nip link set dev eth7 up\n",
  });
  expect(await haas(["delete_bridges", "--dry-run", "--config", file])).toMatchObject({
    status: 0,
    out: "ovs-vsctl --timeout=10 --if-exists del-br br-hn\n",
  });
});

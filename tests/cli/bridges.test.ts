import { expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createBridges } from "../../src/hardware/headnodes/bridges.ts";
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
async function plan(paths: string[], links: [path: string, target: string][] = [], trunkNic = "eth0"): Promise<string[]> {
  const sysfs = emptyDirectory();
  for (const path of paths) mkdirSync(join(sysfs, path), { recursive: true });
  for (const [path, target] of links) symlinkSync(target, join(sysfs, path));
  const lines: string[] = [];
  await createBridges({ trunkNic, vlans: [100], dryRun: true, print: (line) => lines.push(line), sysfs });
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

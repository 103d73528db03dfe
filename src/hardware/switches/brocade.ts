import { Type } from "@sinclair/typebox";
import { badArgument, quote } from "../../errors.ts";
import type { SwitchDriver } from "./driver.ts";
import {
  buildXml,
  type Call,
  defaultVlan,
  find,
  findText,
  type Held,
  openRest,
  parseVlans,
  planPort,
  type RestDevice,
  restAddress,
  restFields,
  type RestSettings,
  type Step,
  texts,
  type Xml,
} from "./rest.ts";

/**
 * Brocade VDX with Network OS, by its REST interface. Facts are from the Network OS Administrator's Guide 4.1.1,
 * "Default-native-VLAN trunk mode": a port in trunk mode always has a native VLAN, 1 unless another one is set, and forwards
 * it whether it is among the allowed ones or not. So there is no trunk without a native VLAN, and a port without a network
 * is shut. The native VLAN has a tag as long as `tag native-vlan` is set, as it is when a port enters trunk mode.
 *
 * There is no `save`: in logical chassis mode, where one address configures the whole fabric, every change is kept at once.
 */

const highestVlan = 4094;
/** Beyond those of 802.1Q there are the VLANs of virtual fabrics. */
const highestFabricVlan = 8191;

const portName = /^\d{1,3}\/\d{1,2}\/\d{1,3}$/;

const portUrl = (port: string) => `/%22${port}%22`;
const switchportUrl = (port: string) => `${portUrl(port)}/switchport`;
const trunkUrl = (port: string) => `${switchportUrl(port)}/trunk`;

const get = (path: string): Call => ({ method: "GET", path });
const put = (path: string, body: Record<string, unknown>): Step => ({ call: { method: "PUT", path, body: buildXml(body) } });
const post = (path: string, body: Record<string, unknown>): Step => ({
  call: { method: "POST", path, body: buildXml(body) },
  already: [409],
});
const remove = (path: string): Step => ({ call: { method: "DELETE", path }, already: [404] });
const allow = (port: string, change: Record<string, unknown>): Step => put(`${trunkUrl(port)}/allowed/vlan`, { vlan: change });

/** From any mode: a trunk with nothing on its list, and no tag on its native VLAN. */
const cleared = (port: string): Step[] => [
  post(portUrl(port), { switchport: "" }),
  put(`${switchportUrl(port)}/mode`, { mode: { "vlan-mode": "trunk" } }),
  allow(port, { none: true }),
  remove(`${trunkUrl(port)}/tag/native-vlan`),
];

/** An element without a type, like `<none/>`, says yes by being there. */
const isSet = (element: Xml, ...path: readonly string[]): boolean => (findText(element, ...path) ?? "false") !== "false";

const trunkParts = ["allowed/vlan/add", "allowed/vlan/none", "tag/native-vlan", "native-vlan"];

/** What `GET …/switchport/trunk` tells. */
function readTrunk(trunk: Xml): Pick<Held, "odd" | "native" | "tagged"> {
  const list = findText(trunk, "allowed", "vlan", "add");
  const allowed = list === null ? [] : parseVlans(list, highestFabricVlan);
  const [native = defaultVlan, ...more] = parseVlans(findText(trunk, "native-vlan") ?? String(defaultVlan), highestFabricVlan);
  if (more.length > 0) throw new Error("the answer has more than one native VLAN");
  const nativeHasTag = isSet(trunk, "tag", "native-vlan");
  const everything = find(trunk, "allowed", "vlan", "all") !== null;
  const unknown = texts(trunk).some(([path]) => !trunkParts.includes(path));
  const vlans = new Set(everything ? Array.from({ length: highestVlan }, (_, i) => i + 1) : allowed);
  if (nativeHasTag) vlans.add(native);
  else vlans.delete(native);
  return {
    odd: nativeHasTag || everything || unknown || [native, ...allowed].some((vlan) => vlan > highestVlan),
    native: nativeHasTag ? null : native,
    tagged: [...vlans].filter((vlan) => vlan <= highestVlan).toSorted((a, b) => a - b),
  };
}

const device: RestDevice = {
  base: ({ interface_type }) => `/rest/config/running/interface/${interface_type}`,
  // With a leading zero it would be another key of the same list.
  spelling: (label) => label.split("/").map(Number).join("/"),
  // The list of all interfaces. Without any of this kind there is none; whether a port is there is asked later.
  probe: { call: get(""), already: [404] },

  async read(client, port, about) {
    const { interface_type } = client.target.settings;
    const shut = await client.read(get(portUrl(port)), about, interface_type, (element) => {
      if (findText(element, "name") !== port) throw new Error("the answer is about another port");
      return isSet(element, "shutdown");
    });
    if (shut === null) return null;
    const mode = await client.read(get(`${switchportUrl(port)}/mode`), about, "mode", (element) => findText(element, "vlan-mode"));
    const held: Held = { open: !shut, mode: "none", odd: false, native: null, tagged: [] };
    if (mode === null) return held;
    // Which VLAN an access port is in was not asked.
    if (mode !== "trunk") return { ...held, mode: "other", odd: true };
    const trunk = await client.read(get(trunkUrl(port)), about, "trunk", readTrunk);
    if (trunk === null) throw client.error(`${about}it is in trunk mode, but has no trunk`);
    return { ...held, mode: "ours", ...trunk };
  },

  shut: (_settings, port) => post(portUrl(port), { shutdown: true }),
  empty: (_settings, port) => [...cleared(port), remove(`${trunkUrl(port)}/native-vlan`)],
  prepare: (_settings, port) => cleared(port),
  native: (_settings, port, vlan) => [put(trunkUrl(port), { trunk: { "native-vlan": vlan } })],
  tag: (_settings, port, vlan) => allow(port, { add: vlan }),
  untag: (_settings, port, vlan) => allow(port, { remove: vlan }),
  open: (_settings, port) => remove(`${portUrl(port)}/shutdown`),
};

export const brocade: SwitchDriver<RestSettings> = {
  name: "brocade",
  settings: restFields({
    hostname: "switch-01",
    interfaceType: Type.String({
      description: "Kind of the interfaces, spelled as the switch does",
      examples: ["TenGigabitEthernet"],
      pattern: "^[A-Za-z]{1,32}$",
    }),
  }),
  positional: ["hostname", "username", "password", "interface_type"],
  capabilities: [],
  highestVlan,
  address: restAddress,
  validatePort(label) {
    if (!portName.test(label)) throw badArgument(`${quote(label)} is not a port name of a Brocade VDX. Legal forms: 1/0/10, 101/0/10.`);
  },
  canonicalPort: device.spelling,
  plan: (port, actual, desired, settings) => planPort(device, port, actual, desired, settings),
  open: (target) => openRest(device, target),
};

import type { Device, DeviceOptions, Element } from "./device.ts";
import { allVlans, ascending, childrenOf, escapeXml, highestVlan, parseXml, Refusal, writeRanges } from "./device.ts";
import type { Answer, Call } from "./http.ts";

const namespace = "urn:brocade.com:mgmt:brocade-interface";

type Mode = "access" | "trunk" | "trunk-no-default-native";
const modes: readonly string[] = ["access", "trunk", "trunk-no-default-native"] satisfies Mode[];

interface Switchport {
  mode: Mode;
  access: number;
  /** `none` was said in so many words; an empty set is a list that nothing was added to. */
  allowed: "all" | "none" | Set<number>;
  native: number | null;
  tagsNative: boolean;
}

interface Interface {
  shutdown: boolean;
  switchport: Switchport | null;
}

const factory = (): Interface => ({ shutdown: false, switchport: null });

// A port that begins to trunk tags its native VLAN: that has to be taken away before untagged frames pass.
const fresh = (mode: Mode): Switchport => ({ mode, access: 1, allowed: new Set(), native: null, tagsNative: mode === "trunk" });

const missing = () => new Refusal(404, "data-missing", "Object not found");
const exists = () => new Refusal(409, "data-exists", "object already exists");
const invalid = (message: string) => new Refusal(400, "invalid-value", message);

/** `12,14-18`; throws a `Refusal` for anything else, and for a VLAN that is not configured. */
function readRanges(text: string, existing: ReadonlySet<number>): number[] {
  const vlans = text.split(",").flatMap((run) => {
    const [, first, last = first] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(run) ?? [];
    const [from, to] = [Number(first), Number(last)];
    if (!(from >= 1 && from <= to && to <= highestVlan)) throw invalid(`"${text}" is not a valid value.`);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
  const absent = vlans.find((vlan) => !existing.has(vlan));
  if (absent !== undefined) throw invalid(`%Error: VLAN ${absent} is not configured`);
  return vlans;
}

const leaf = (name: string, value: string | number | boolean) => `<${name}>${value}</${name}>`;

/** A leaf that is there or not: `<none>true</none>`, or empty. */
function present(element: Element): void {
  if (element.children.length > 0 || !["", "true"].includes(element.text)) throw invalid(`"${element.text}" is not a valid value.`);
}

/**
 * A Brocade VDX with Network OS, in logical chassis mode: its configuration database is written through, so that there
 * is nothing to save and a power cut loses nothing. (Standalone, or in fabric cluster mode, a VDX does need
 * `copy running-config startup-config`, which is not emulated.)
 *
 * A port in the mode `trunk` always has a native VLAN, which is VLAN 1 when none is configured; it is forwarded
 * whatever the allowed list says, tagged as long as `tag native-vlan` is there (Network OS Administrator's Guide 4.1.1,
 * "Default-native-VLAN trunk mode"). Only `trunk-no-default-native` has none. Writes merge: `add` adds to the list.
 */
export function brocade({ ports = ["1/0/1", "1/0/2"], vlans = allVlans(), interfaceType }: DeviceOptions): Device {
  const interfaces = new Map(ports.map((label) => [label, factory()]));
  // VLAN 1 can't be removed.
  const existing = new Set([1, ...vlans]);
  const base = `/rest/config/running/interface/${interfaceType}/`;

  /** Everything below a port's URL that can be read, by its path; what is not configured is not there. */
  function tree({ shutdown, switchport }: Interface, self: string): Map<string, string> {
    const parts = new Map<string, string>();
    const container = (path: string, content: string) => {
      const name = path.split("/").at(-1)!;
      const text = `<${name} y:self="${self}/${path}">${content}</${name}>`;
      parts.set(path, text);
      return text;
    };
    const part = (path: string, value: string | number | boolean) => {
      const text = leaf(path.split("/").at(-1)!, value);
      parts.set(path, text);
      return text;
    };
    if (shutdown) part("shutdown", true);
    if (!switchport) return parts;
    const { mode, access, allowed, native, tagsNative } = switchport;
    let list = "";
    if (allowed === "all" || allowed === "none") list = part(`switchport/trunk/allowed/vlan/${allowed}`, true);
    else if (allowed.size > 0) list = part("switchport/trunk/allowed/vlan/add", writeRanges(allowed));
    const trunk = [
      container(
        "switchport/trunk/allowed",
        container("switchport/trunk/allowed/rspan-vlan", "") + container("switchport/trunk/allowed/vlan", list),
      ),
      container("switchport/trunk/tag", tagsNative ? part("switchport/trunk/tag/native-vlan", true) : ""),
      native === null ? "" : part("switchport/trunk/native-vlan", native),
    ];
    const content = [container("switchport/mode", part("switchport/mode/vlan-mode", mode))];
    if (mode === "access") content.push(container("switchport/access", part("switchport/access/vlan", access)));
    else content.push(container("switchport/trunk", trunk.join("")));
    container("switchport", content.join(""));
    return parts;
  }

  function get(port: Interface, label: string, self: string, path: string): Answer {
    const parts = tree(port, self);
    const whole = `<${interfaceType} y:self="${self}">${leaf("name", label)}${parts.get("switchport") ?? ""}${parts.get("shutdown") ?? ""}</${interfaceType}>`;
    const text = path === "" ? whole : parts.get(path);
    if (text === undefined) throw missing();
    return {
      status: 200,
      body: `<?xml version="1.0" encoding="UTF-8"?>\n${text.replace(/^<[^ >]+/, `$& xmlns="${namespace}" xmlns:y="http://brocade.com/ns/rest"`)}\n`,
    };
  }

  function create(port: Interface, element: Element): void {
    if (element.name === "shutdown") {
      present(element);
      if (port.shutdown) throw exists();
      port.shutdown = true;
    } else if (element.name === "switchport") {
      childrenOf(element, []);
      if (port.switchport) throw exists();
      port.switchport = fresh("access");
    } else {
      throw new Refusal(400, "unknown-element", `unknown element: ${element.name}`);
    }
  }

  function trunkOf(port: Interface): Switchport {
    if (!port.switchport) throw missing();
    if (port.switchport.mode === "access") throw invalid("%Error: Interface is not in trunk mode");
    return port.switchport;
  }

  function setMode(port: Interface, element: Element): void {
    if (!port.switchport) throw missing();
    const mode = childrenOf(element, ["vlan-mode"]).get("vlan-mode")?.text;
    if (mode === undefined || !modes.includes(mode)) throw invalid(`"${mode ?? ""}" is not a valid value.`);
    // Another mode forgets what belonged to the one before.
    if (port.switchport.mode !== mode) port.switchport = fresh(mode as Mode);
  }

  function setAllowed(trunk: Switchport, element: Element): void {
    const [[kind, value] = [], ...others] = childrenOf(element, ["add", "remove", "none", "all"]);
    if (!kind || !value || others.length > 0) throw invalid("%Error: exactly one of add, remove, none and all expected");
    if (kind === "none" || kind === "all") {
      present(value);
      trunk.allowed = kind;
      return;
    }
    const chosen = readRanges(value.text, existing);
    if (kind === "add" && trunk.allowed !== "all") {
      trunk.allowed = new Set([...(trunk.allowed === "none" ? [] : trunk.allowed), ...chosen]);
    } else if (kind === "remove" && trunk.allowed !== "none") {
      trunk.allowed = new Set([...(trunk.allowed === "all" ? existing : trunk.allowed)].filter((vlan) => !chosen.includes(vlan)));
    }
  }

  function setNative(trunk: Switchport, element: Element): void {
    if (trunk.mode !== "trunk") throw invalid("%Error: Native VLAN is not supported in trunk-no-default-native mode");
    const [vlan, ...others] = readRanges(element.text, existing);
    if (vlan === undefined || others.length > 0) throw invalid(`"${element.text}" is not a valid value.`);
    trunk.native = vlan;
  }

  function setTag(trunk: Switchport, element: Element): void {
    present(element);
    trunk.tagsNative = true;
  }

  /** Write `element` over what is at `path`. All of it is good or none of it is done: a trunk is changed in a copy. */
  function put(port: Interface, path: string, element: Element): void {
    if (element.name !== path.split("/").at(-1)) throw invalid(`unexpected element: ${element.name}`);
    if (path === "switchport/mode") return setMode(port, element);
    const trunk = structuredClone(trunkOf(port));
    if (path === "switchport/trunk") {
      const parts = childrenOf(element, ["native-vlan", "allowed", "tag"]);
      const native = parts.get("native-vlan");
      const list = parts.has("allowed") ? childrenOf(parts.get("allowed")!, ["vlan"]).get("vlan") : undefined;
      const tag = parts.has("tag") ? childrenOf(parts.get("tag")!, ["native-vlan"]).get("native-vlan") : undefined;
      if (native) setNative(trunk, native);
      if (list) setAllowed(trunk, list);
      if (tag) setTag(trunk, tag);
    } else if (path === "switchport/trunk/allowed/vlan") {
      setAllowed(trunk, element);
    } else if (path === "switchport/trunk/native-vlan") {
      setNative(trunk, element);
    } else if (path === "switchport/trunk/tag/native-vlan") {
      setTag(trunk, element);
    } else {
      throw missing();
    }
    port.switchport = trunk;
  }

  function remove(port: Interface, self: string, path: string): void {
    if (!tree(port, self).has(path)) throw missing();
    if (path === "shutdown") port.shutdown = false;
    else if (path === "switchport") port.switchport = null;
    else if (path === "switchport/trunk/native-vlan") port.switchport!.native = null;
    else if (path === "switchport/trunk/tag/native-vlan") port.switchport!.tagsNative = false;
    else throw new Refusal(405, "operation-not-supported", "Method not allowed");
  }

  return {
    contentType: "application/vnd.configuration.resource+xml",
    challenge: 'Basic realm="Brocade Network OS"',
    saves: 0,
    call(call: Call) {
      const { method, path } = call;
      const [, label = "", below = ""] = path.startsWith(base) ? (/^%22(.+?)%22(?:\/(.+))?$/.exec(path.slice(base.length)) ?? []) : [];
      const port = interfaces.get(label);
      if (!port) throw missing();
      const self = `${base}%22${label}%22`;
      if (method === "GET") return get(port, label, self, below);
      if (method === "DELETE" && below !== "") {
        remove(port, self, below);
        return { status: 204 };
      }
      if (method === "POST" && below === "") {
        const element = parseXml(call, namespace);
        create(port, element);
        return { status: 201, headers: { Location: `${self}/${element.name}` } };
      }
      if ((method === "PUT" || method === "PATCH") && below !== "") {
        put(port, below, parseXml(call, namespace));
        return { status: 204 };
      }
      throw new Refusal(405, "operation-not-supported", "Method not allowed");
    },
    refused: ({ path }, { status, tag, message }) => ({
      status,
      body: `<?xml version="1.0" encoding="UTF-8"?>\n<errors xmlns="http://brocade.com/ns/rest"><error><error-type>application</error-type>${leaf("error-tag", tag)}${leaf("error-path", escapeXml(path))}${leaf("error-message", escapeXml(message))}</error></errors>\n`,
    }),
    failure(call) {
      return this.refused(call, new Refusal(500, "operation-failed", "%Error: Configuration database is locked by another session"));
    },
    port(label) {
      const port = interfaces.get(label);
      if (!port) return null;
      if (port.shutdown || !port.switchport) return { native: null, tagged: [] };
      const { mode, access, allowed, native, tagsNative } = port.switchport;
      if (mode === "access") return { native: access, tagged: [] };
      const list = allowed === "all" ? existing : new Set(allowed === "none" ? [] : allowed);
      if (mode === "trunk-no-default-native") return { native: null, tagged: ascending(list) };
      const own = native ?? 1;
      if (tagsNative) return { native: null, tagged: ascending(new Set([...list, own])) };
      return { native: own, tagged: ascending(list).filter((vlan) => vlan !== own) };
    },
    setPort(label, { native, tagged }) {
      const port = interfaces.get(label);
      if (!port) throw new Error(`There is no port ${label}.`);
      for (const vlan of native === null ? tagged : [native, ...tagged]) existing.add(vlan);
      port.shutdown = native === null && tagged.length === 0;
      const mode = native === null ? "trunk-no-default-native" : "trunk";
      port.switchport = port.shutdown ? null : { ...fresh(mode), allowed: new Set(tagged), native, tagsNative: false };
    },
    powerCycle() {},
    factoryReset() {
      for (const label of interfaces.keys()) interfaces.set(label, factory());
    },
  };
}

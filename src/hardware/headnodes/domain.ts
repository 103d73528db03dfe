import { XMLBuilder, XMLParser } from "fast-xml-parser";

// libvirt's description of a virtual machine (https://libvirt.org/formatdomain.html): what haas reads in it and changes.
// Everything else of the base image's description stays as it is, in its order.

/** An element or a text, as fast-xml-parser has it with `preserveOrder`: the tag's name holds the children, `:@` the attributes. */
type XmlNode = { readonly [tag: string]: XmlNode[] } & { ":@"?: Record<string, string> };

const options = {
  preserveOrder: true,
  ignoreAttributes: false,
  attributeNamePrefix: "",
  parseTagValue: false,
  parseAttributeValue: false,
  trimValues: false,
  processEntities: true,
} as const;
const parser = new XMLParser(options);
const builder = new XMLBuilder({ ...options, suppressEmptyNode: true });

const isA = (tag: string) => (node: XmlNode) => Object.hasOwn(node, tag);
const attribute = (node: XmlNode | undefined, name: string): string | null => node?.[":@"]?.[name] ?? null;

function element(tag: string, attributes: Readonly<Record<string, string>> = {}, children: readonly XmlNode[] = []): XmlNode {
  return { [tag]: [...children], ...(Object.keys(attributes).length > 0 && { ":@": { ...attributes } }) } as XmlNode;
}

/** A domain's description, to look into and to change. Throws when it is none. */
export class Domain {
  readonly #document: XmlNode[];
  readonly #domain: XmlNode[];
  readonly #devices: XmlNode[];

  constructor(xml: string) {
    this.#document = parser.parse(xml) as XmlNode[];
    const domain = this.#document.find(isA("domain"))?.["domain"];
    const devices = domain?.find(isA("devices"))?.["devices"];
    if (!domain || !devices) throw new Error("not the description of a domain");
    this.#domain = domain;
    this.#devices = devices;
  }

  /** The files or devices that a clone needs copies of, by the guest's name for each (`vda`): not CD-ROMs, and nothing read-only or shared. */
  storage(): { target: string; source: string }[] {
    return this.#devices.filter(isA("disk")).flatMap((disk) => {
      const parts = disk["disk"]!;
      const kind = attribute(disk, "device") ?? "disk";
      if (kind !== "disk" || parts.some(isA("readonly")) || parts.some(isA("shareable"))) return [];
      const source = parts.find(isA("source"));
      const path = attribute(source, "file") ?? attribute(source, "dev");
      const target = attribute(parts.find(isA("target")), "dev");
      return path === null || target === null ? [] : [{ target, source: path }];
    });
  }

  /** The TCP port of its VNC display; null when it has none, which is so while it is off. */
  get vncPort(): number | null {
    const vnc = this.#devices.find((node) => isA("graphics")(node) && attribute(node, "type") === "vnc");
    const port = Number(attribute(vnc, "port") ?? "-1");
    return port > 0 ? port : null;
  }

  /** The name that operators see beside the machine's own. */
  set title(text: string) {
    this.#replace(this.#domain, "title", [element("title", {}, [{ "#text": text } as unknown as XmlNode])], "name");
  }

  /** The kind of its network cards (`virtio`), which what is installed on it has a driver for; null when it has none. */
  get card(): string | null {
    const first = this.#devices.find(isA("interface"));
    return attribute(first?.["interface"]!.find(isA("model")), "type");
  }

  /** Exactly these interfaces, whatever it had. */
  set interfaces(list: readonly Interface[]) {
    const elements = list.map(({ mac, card, join }) =>
      element("interface", { type: "bridge" }, [
        element("mac", { address: mac }),
        element("source", { bridge: join.bridge }),
        ...(join.tag === null
          ? []
          : [element("virtualport", { type: "openvswitch" }), element("vlan", {}, [element("tag", { id: String(join.tag) })])]),
        element("model", { type: card }),
      ]),
    );
    this.#replace(this.#devices, "interface", elements);
  }

  /**
   * One display: VNC with a password, on the hypervisor's loopback, on a port that it chooses. What only a SPICE display
   * carries (virt-install's channel and USB redirection) goes: libvirt refuses it without one.
   */
  set vncPassword(password: string) {
    const listen = element("listen", { type: "address", address: "127.0.0.1" });
    const graphics = element("graphics", { type: "vnc", port: "-1", autoport: "yes", listen: "127.0.0.1", passwd: password }, [listen]);
    this.#replace(this.#devices, "graphics", [graphics]);
    const rest = this.#devices.filter((node) => !attribute(node, "type")?.startsWith("spice"));
    this.#devices.splice(0, this.#devices.length, ...rest);
  }

  /** What each interface is on, in order. */
  get joins(): Join[] {
    return this.#devices.filter(isA("interface")).map((node) => {
      const parts = node["interface"]!;
      const tag = parts.find(isA("vlan"))?.["vlan"]!.find(isA("tag"));
      return { bridge: attribute(parts.find(isA("source")), "bridge") ?? "", tag: tag ? Number(attribute(tag, "id")) : null };
    });
  }

  toString(): string {
    return builder.build(this.#document);
  }

  #replace(parent: XmlNode[], tag: string, elements: readonly XmlNode[], after?: string): void {
    const first = parent.findIndex(isA(tag));
    const rest = parent.filter((node) => !isA(tag)(node));
    const at = first >= 0 ? first : after === undefined ? rest.length : rest.findIndex(isA(after)) + 1;
    parent.splice(0, parent.length, ...rest.slice(0, at), ...elements, ...rest.slice(at));
  }
}

export interface Interface {
  readonly mac: string;
  readonly card: string;
  readonly join: Join;
}

/** The bridge that an interface is on; with a tag it is one of Open vSwitch, and the interface an access port in that VLAN. */
export interface Join {
  readonly bridge: string;
  readonly tag: number | null;
}

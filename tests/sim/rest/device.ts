import { XMLParser, XMLValidator } from "fast-xml-parser";
import type { PortState } from "../../../src/hardware/switches/driver.ts";
import type { Answer, Call } from "./http.ts";

/** What a vendor's device can do, without the wire. */
export interface Device {
  /** The media type of its answers. */
  readonly contentType: string;
  readonly saves: number;
  /** Do what the call asks; throws a `Refusal`. */
  call(call: Call): Answer;
  /** The vendor's form of a refusal. */
  refused(call: Call, refusal: Refusal): Answer;
  /** What it answers to this call when it fails for a reason of its own. */
  failure(call: Call): Answer;
  /** The value of WWW-Authenticate. */
  readonly challenge: string;
  port(label: string): PortState | null;
  setPort(label: string, state: PortState): void;
  powerCycle(): void;
  factoryReset(): void;
}

/** How to make a device. Without `ports` it has two, without `vlans` all VLANs exist on it (which matters to a device that creates none). */
export interface DeviceOptions {
  readonly ports?: readonly string[] | undefined;
  readonly vlans?: readonly number[] | undefined;
  /** As the CLI writes it. */
  readonly interfaceType: string;
}

/** The device's refusal of one call: becomes an answer in the vendor's XML. `tag` is one of NETCONF's error tags. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly tag: string,
    message: string,
  ) {
    super(message);
  }
}

export interface Element {
  readonly name: string;
  readonly text: string;
  readonly children: readonly Element[];
}

const parser = new XMLParser({ preserveOrder: true, ignoreAttributes: false, attributeNamePrefix: "", parseTagValue: false });

/** The one element that a body has to hold, in the vendor's namespace or in none. Throws a `Refusal` for anything else. */
export function parseXml(call: Call, namespace: string): Element {
  const type = call.headers.get("content-type");
  // Without a type both devices take a body for XML.
  if (type !== undefined && !/^[^;]*xml/i.test(type)) throw new Refusal(415, "malformed-message", "Unsupported media type");
  const verdict = XMLValidator.validate(call.body);
  if (verdict !== true) throw new Refusal(400, "malformed-message", `XML parse error on line ${verdict.err.line}: ${verdict.err.msg}`);
  const elements = elementsOf(parser.parse(call.body) as XmlNode[], namespace);
  if (elements.length !== 1) throw new Refusal(400, "malformed-message", "XML parse error: exactly one root element expected");
  return elements[0]!;
}

type XmlNode = Record<string, unknown>;

function elementsOf(nodes: readonly XmlNode[], namespace: string): Element[] {
  const elements: Element[] = [];
  for (const node of nodes) {
    const name = Object.keys(node).find((key) => key !== ":@" && !key.startsWith("?") && key !== "#text");
    if (name === undefined) continue;
    const own = (node[":@"] as Record<string, string> | undefined)?.["xmlns"];
    if (own !== undefined && own !== namespace) throw new Refusal(400, "unknown-namespace", `unknown namespace: ${own}`);
    const inside = node[name] as XmlNode[];
    const text = inside.map((child) => child["#text"] ?? "").join("");
    elements.push({ name, text: text.trim(), children: elementsOf(inside, namespace) });
  }
  return elements;
}

/** Each child once and only these; throws a `Refusal`. */
export function childrenOf(element: Element, known: readonly string[]): Map<string, Element> {
  const children = new Map<string, Element>();
  for (const child of element.children) {
    if (!known.includes(child.name)) throw new Refusal(400, "unknown-element", `unknown element: ${child.name}`);
    if (children.has(child.name)) throw new Refusal(400, "bad-element", `duplicate element: ${child.name}`);
    children.set(child.name, child);
  }
  return children;
}

export const escapeXml = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);

export const ascending = (numbers: Iterable<number>): number[] => [...numbers].sort((a, b) => a - b);

/** `12,14-18`, as both vendors write a list of VLANs. */
export function writeRanges(vlans: Iterable<number>): string {
  const runs: [number, number][] = [];
  for (const vlan of ascending(vlans)) {
    const last = runs.at(-1);
    if (last && last[1] === vlan - 1) last[1] = vlan;
    else runs.push([vlan, vlan]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}

export const highestVlan = 4094;

export const allVlans = (): number[] => Array.from({ length: highestVlan }, (_, i) => i + 1);

import type { Call, Client } from "../client/http.ts";
import { printable } from "./progress.ts";
import { list, raw, record, records, wordOrNull } from "./reading.ts";
import { type Layout, LayoutError, sameMac, type SiteNic } from "./site-layout.ts";

/** One thing to register. */
interface Step {
  /** What it is, then its names: `port`, `dell-01`, `gi1/0/1`. */
  readonly words: readonly string[];
  readonly call: Call;
  /** What it can't be done without, as far as that may have to be registered first. */
  readonly needs: readonly (readonly string[])[];
}

/** What is to be done, in this order, and what the server has otherwise than the file. */
export interface Plan {
  readonly steps: Step[];
  readonly conflicts: string[];
}

export const shown = (words: readonly string[]): string => printable(words.join(" "));

/**
 * Ask the server what it has of all this. Addresses, logins and passwords can't be compared, as it shows them to nobody.
 * Throws `LayoutError` for a switch that is nowhere.
 */
export async function compare(layout: Layout, server: Client): Promise<Plan> {
  const get = (...path: string[]) => server.call({ method: "GET", path });
  const switches = list(await get("switches")).map(raw);
  const nodes = list(await get("nodes", "all")).map(raw);
  const cables = layout.nodes.flatMap(({ nics }) => nics.flatMap(({ cable }) => cable ?? []));
  refuseUnknown(cables, new Set([...switches, ...layout.switches.map(({ label }) => label)]));

  const plan: Plan = { steps: [], conflicts: [] };
  for (const { label, body } of layout.switches) {
    if (!switches.includes(label)) plan.steps.push(put(["switch", label], ["switch", label], [], body));
  }
  /** What is cabled to each port that the server has: a node and a nic, or nothing. */
  const ports = new Map<string, Record<string, unknown>>();
  for (const label of new Set(cables.map((cable) => cable.switch))) {
    const present = switches.includes(label) ? records(record(await get("switch", label)).ports).map((port) => raw(port.label)) : [];
    for (const { port } of cables.filter((cable) => cable.switch === label)) {
      const words = ["port", label, port];
      if (present.includes(port)) ports.set(shown(words), record(await get("switch", label, "port", port)));
      else plan.steps.push(put(words, ["switch", label, "port", port], [["switch", label]]));
    }
  }
  for (const node of layout.nodes) {
    const { label, obm, metadata } = node;
    const found = nodes.includes(label) ? record(await get("node", label)) : null;
    if (found) compareMetadata(node, record(found.metadata), plan);
    else plan.steps.push(put(["node", label], ["node", label], [], { obm, metadata }));
    for (const nic of node.nics) {
      const present = found ? records(found.nics).find((other) => raw(other.label) === nic.label) : undefined;
      if (!present)
        plan.steps.push(put(["nic", label, nic.label], ["node", label, "nic", nic.label], [["node", label]], { macaddr: nic.macaddr }));
      else if (!sameMac(raw(present.macaddr), nic.macaddr)) {
        const [there, here] = [printable(raw(present.macaddr)), nic.macaddr];
        plan.conflicts.push(`${shown(["nic", label, nic.label])}: its MAC address is ${there} on the server, and ${here} in the file`);
        // It may be another nic: its cable is nobody's to guess.
        continue;
      }
      compareCable(label, nic, present, ports, plan);
    }
  }
  return plan;
}

const put = (words: Step["words"], path: readonly string[], needs: Step["needs"], body?: unknown): Step => ({
  words,
  call: { method: "PUT", path, body },
  needs,
});

function refuseUnknown(cables: readonly NonNullable<SiteNic["cable"]>[], switches: ReadonlySet<string>): void {
  const unknown = cables.filter((cable) => !switches.has(cable.switch));
  if (unknown.length === 0) return;
  throw new LayoutError(unknown.map(({ place, switch: label }) => `${place}: there is no switch '${label}' in the file or on the server`));
}

function compareMetadata({ label, metadata }: Layout["nodes"][number], present: Record<string, unknown>, { steps, conflicts }: Plan): void {
  for (const [key, value] of Object.entries(metadata)) {
    const words = ["metadata", label, key];
    if (!Object.hasOwn(present, key)) steps.push(put(words, ["node", label, "metadata", key], [["node", label]], { value }));
    // The server keeps JSON as text.
    else if (!Bun.deepEquals(JSON.parse(raw(present[key])), value)) conflicts.push(`${shown(words)}: it has another value on the server`);
  }
}

/** `present`: the nic, as the server has it. What is cabled otherwise is left as it is. */
function compareCable(
  node: string,
  { label, cable }: SiteNic,
  present: Record<string, unknown> | undefined,
  ports: ReadonlyMap<string, Record<string, unknown>>,
  { steps, conflicts }: Plan,
): void {
  if (!cable) return;
  const nic = shown(["nic", node, label]);
  const port = ["port", cable.switch, cable.port];
  const cabled = present ? wordOrNull(present.port) : null;
  const occupant = ports.get(shown(port));
  if (present && cabled !== null) {
    if (raw(present.switch) === cable.switch && raw(present.port) === cable.port) return;
    const there = shown([raw(present.switch), cabled]);
    conflicts.push(`${nic}: its cable leads to ${there} on the server, and to ${shown(port.slice(1))} in the file`);
  } else if (occupant && typeof occupant.nic === "string") {
    conflicts.push(
      `${nic}: its port in the file, ${shown(port.slice(1))}, has ${shown([raw(occupant.node), occupant.nic])} on it on the server`,
    );
  } else {
    const call: Call = { method: "POST", path: ["switch", cable.switch, "port", cable.port, "connect_nic"], body: { node, nic: label } };
    steps.push({ words: ["cable", node, label, cable.switch, cable.port], call, needs: [port, ["nic", node, label]] });
  }
}

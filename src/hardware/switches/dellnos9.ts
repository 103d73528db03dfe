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
  maxPrintedLines,
  openRest,
  parseVlans,
  parseXml,
  planPort,
  type RestDevice,
  restAddress,
  restFields,
  type RestSettings,
  type Step,
  type Xml,
} from "./rest.ts";

/**
 * Dell Networking OS 9, by its REST interface and the command line that it offers there. Facts are from Dell's Open
 * Automation Guide, "REST API Framework to Execute the CLIs", and the OS 9 Configuration Guide, "Layer 2" and "VLANs":
 *
 * - A port has one VLAN without a tag and any number with one when it is in hybrid mode; the mode can only be changed
 *   while it is no switchport, and it can only stop being one when it is in no VLAN but the default one.
 * - What leaves its untagged VLAN falls into the default VLAN, and can't leave that. So a port without a network is shut.
 * - A port has to leave its untagged VLAN before it can enter another one.
 * - The commands of one call have at most 1000 characters, so each VLAN has a call of its own.
 */

const highestVlan = 4094;

const portName = /^\d{1,2}\/\d{1,3}(\/\d{1,3})?$/;

/** GigabitEthernet, TenGigabitEthernet, fortyGigE, …: the command line takes them in any case. */
const interfaceKind = /^(pe|ten|twentyfive|forty|fifty|hundred)?gig(?:abitethernet|e)$/i;

/** What the REST interface calls a port: `gige-1-3`, `tengig-1-3`. */
function restName({ interface_type }: Pick<RestSettings, "interface_type">, port: string): string {
  const speed = interfaceKind.exec(interface_type)?.[1]?.toLowerCase();
  return `${speed === undefined ? "gige" : `${speed}gig`}-${port.replaceAll("/", "-")}`;
}

const portUrl = (settings: RestSettings, port: string) => `/interfaces/interface/${restName(settings, port)}`;

const cliPath = "/_operations/cli";

/** The guide's separator of commands: a backslash, r, a backslash, n. */
const separator = "\\r\\n";

const cli = (kind: "config-commands" | "show-command" | "exec-command", ...lines: readonly string[]): Call => ({
  method: "POST",
  path: cliPath,
  body: buildXml({ input: { [kind]: lines.join(separator) } }),
});

const cliName = ({ interface_type }: RestSettings, port: string) => `${interface_type} ${port}`;

const configure = (...lines: readonly string[]): Step => ({ call: cli("config-commands", ...lines) });

const changeVlan = (settings: RestSettings, port: string, vlan: number, command: string): Step =>
  configure(`interface vlan ${vlan}`, `${command} ${cliName(settings, port)}`);

/** PUT replaces: without `switchport` it is none. */
const putPort = (settings: RestSettings, port: string, { switching, shut }: { switching: boolean; shut: boolean }): Step => ({
  call: {
    method: "PUT",
    path: portUrl(settings, port),
    body: buildXml({
      interface: {
        name: restName(settings, port),
        portmode: { hybrid: switching },
        ...(switching ? { switchport: "" } : {}),
        shutdown: shut,
      },
    }),
  },
});

const leaveVlans = (settings: RestSettings, port: string, { native, tagged }: Held): Step[] => [
  ...tagged.map((vlan) => changeVlan(settings, port, vlan, "no tagged")),
  ...(native === null || native === defaultVlan ? [] : [changeVlan(settings, port, native, "no untagged")]),
];

/** A line of the log begins with a percent sign too, as in `%STKUNIT0-M:CP %SYS-5-CONFIG_I: …`; an error may follow its prompt. */
const refusalForm = /^(?:\S*[#>])?\s*(?:Error:|%(?![A-Z0-9_]+-[A-Z0-9]))/;

/** The lines that the command line printed. A refused command, whose call is answered with 200 like any other, throws. */
function printed(output: Xml): string[] {
  const text = findText(output, "command");
  if (text === null) throw new Error("the answer has no <command>");
  const lines = text.split(/[\r\n]+/, maxPrintedLines + 1).map((line) => line.trim());
  if (lines.length > maxPrintedLines) throw new Error(`the answer has more than ${maxPrintedLines} lines`);
  const refused = lines.find((line) => refusalForm.test(line));
  if (refused !== undefined) throw new Error(refused);
  return lines;
}

const nameRow = /^Name:\s*([A-Za-z]+)\s*([\d/]+)$/;
const vlanRow = /^(?:([A-Za-z])\s*)?(\d[\d,\s-]*?),?$/;
const nativeRow = /^Native\s*Vlan\s*Id\s*:\s*(\d+)\s*\.?$/i;
/** The head of the table, and the prompt at the end. */
const otherRows = /^(?:|Q\s+Vlans|\S+[#>])$/i;

/** The VLANs of a port, from what `show interfaces switchport` prints about it alone. */
function readMembership(lines: readonly string[], restPort: string): Pick<Held, "odd" | "native" | "tagged"> {
  const [, kind = "", port = ""] = nameRow.exec(lines.find((line) => line.startsWith("Name:")) ?? "") ?? [];
  if (restName({ interface_type: kind }, port) !== restPort) throw new Error(`the answer is about '${kind} ${port}'`);
  const start = lines.findIndex((line) => /^Vlan\s+membership:$/i.test(line)) + 1;
  if (start === 0) throw new Error("the answer does not tell the VLANs");

  const lists = new Map<string, string[]>();
  let nativeSaid: string | undefined;
  let last: string | undefined;
  for (const line of lines.slice(start).filter((row) => !otherRows.test(row))) {
    const native = nativeRow.exec(line)?.[1];
    nativeSaid ??= native;
    if (native !== undefined) continue;
    // A long list goes on in the next line, without its letter.
    const [, letter = last, list] = vlanRow.exec(line) ?? [];
    if (letter === undefined || list === undefined) throw new Error(`'${line}' is no list of VLANs`);
    if (!lists.has(letter)) lists.set(letter, []);
    lists.get(letter)!.push(list);
    last = letter;
  }
  const vlansOf = (letter: string) => (lists.has(letter) ? parseVlans(lists.get(letter)!.join(","), highestVlan) : []);
  const [native = null, ...excess] = vlansOf("U");
  if (excess.length > 0) throw new Error("the answer tells more than one untagged VLAN");
  // Other letters are memberships that other features made.
  const odd =
    [...lists.keys()].some((letter) => letter !== "U" && letter !== "T") || (nativeSaid !== undefined && Number(nativeSaid) !== native);
  return { odd, native, tagged: vlansOf("T") };
}

function readTruth(element: Xml, ...path: readonly string[]): boolean {
  const text = findText(element, ...path);
  if (text !== "true" && text !== "false") throw new Error(`<${path.at(-1)}> is neither true nor false`);
  return text === "true";
}

const device: RestDevice = {
  base: () => "/api/running/dell",
  spelling: (label) => label.split("/").map(Number).join("/"),
  probe: { call: cli("show-command", "version") },

  async read(client, port, about) {
    const { settings } = client.target;
    const name = restName(settings, port);
    const call: Call = { method: "GET", path: `${portUrl(settings, port)}?with-defaults` };
    const found = await client.read(call, about, "interface", (element) => {
      if (findText(element, "name") !== name) throw new Error("the answer is about another port");
      return {
        open: !readTruth(element, "shutdown"),
        switching: (findText(element, "switchport") ?? "false") !== "false",
        hybrid: find(element, "portmode", "hybrid") !== null && readTruth(element, "portmode", "hybrid"),
      };
    });
    if (found === null) return null;
    const { open, switching, hybrid } = found;
    // What is no switchport is in no VLAN, and asking for its VLANs is an error.
    if (!switching) return { open, mode: "none", odd: false, native: null, tagged: [] };
    const show = cli("show-command", `interfaces switchport ${cliName(settings, port)}`);
    const membership = await client.read(show, about, "output", (output) => readMembership(printed(output), name));
    if (membership === null) throw client.error(`${about}it has no command line at this address`);
    return { open, mode: hybrid ? "ours" : "other", ...membership };
  },

  check({ path }, answer) {
    if (path === cliPath) printed(parseXml(answer, "output"));
  },
  // Not by PUT, which would have to know the mode.
  shut: (settings, port) => configure(`interface ${cliName(settings, port)}`, "shutdown"),
  empty: (settings, port, held) => [...leaveVlans(settings, port, held), putPort(settings, port, { switching: false, shut: true })],
  prepare: (settings, port, held) => [
    ...leaveVlans(settings, port, held),
    ...(held.mode === "other" ? [putPort(settings, port, { switching: false, shut: true })] : []),
    ...(held.mode === "ours" ? [] : [putPort(settings, port, { switching: true, shut: true })]),
  ],
  // It is in the default VLAN already, which takes no commands.
  native: (settings, port, vlan) => (vlan === defaultVlan ? [] : [changeVlan(settings, port, vlan, "untagged")]),
  tag: (settings, port, vlan) => changeVlan(settings, port, vlan, "tagged"),
  untag: (settings, port, vlan) => changeVlan(settings, port, vlan, "no tagged"),
  open: (settings, port) => putPort(settings, port, { switching: true, shut: false }),
  save: { call: cli("exec-command", "write") },
};

export const dellNos9: SwitchDriver<RestSettings> = {
  name: "dellnos9",
  settings: restFields({
    hostname: "switch-01:8008",
    interfaceType: Type.RegExp(interfaceKind, {
      description:
        "Kind of the interfaces: GigabitEthernet, TenGigabitEthernet, twentyFiveGigE, fortyGigE, fiftyGigE, hundredGigE or peGigE",
      examples: ["GigabitEthernet"],
    }),
  }),
  positional: ["hostname", "username", "password", "interface_type"],
  capabilities: [],
  highestVlan,
  address: restAddress,
  validatePort(label) {
    if (!portName.test(label)) throw badArgument(`${quote(label)} is not a port name of a Dell Networking OS 9. Legal forms: 1/3, 1/0/3.`);
  },
  // 1/3 and 1/0/3 are different ports: a third number is one of the ports that port 1/0 was split into, or of a port extender.
  canonicalPort: device.spelling,
  plan: (port, actual, desired, settings) => planPort(device, port, actual, desired, settings),
  open: (target) => openRest(device, target),
};

import type { Device, DeviceOptions } from "./device.ts";
import { ascending, childrenOf, escapeXml, highestVlan, parseXml, Refusal, writeRanges } from "./device.ts";
import type { Answer, Call } from "./http.ts";

const namespace = "http://www.dell.com/ns/dell:0.1/root";
const cliPath = "/api/running/dell/_operations/cli";
const interfacesPath = "/api/running/dell/interfaces/interface/";

/** The most characters of commands in one call (Open Automation Guide, "REST API Framework to Execute the CLIs"). */
const commandLimit = 1000;

const defaultVlan = 1;

interface Interface {
  shutdown: boolean;
  switchport: boolean;
  hybrid: boolean;
  untagged: number;
  tagged: Set<number>;
}

const factory = (): Interface => ({ shutdown: true, switchport: false, hybrid: false, untagged: defaultVlan, tagged: new Set() });

/** A port that isn't hybrid leaves the default VLAN when it is tagged somewhere; a hybrid one stays in it. */
const nativeOf = ({ hybrid, untagged, tagged }: Interface): number | null => (hybrid || tagged.size === 0 ? untagged : null);

/** A command that the CLI refuses: what it prints. */
class CliError extends Error {}

const invalidInput = () => new CliError('% Error: Invalid input at "^" marker.');

/** How the REST API spells a type of interface: `gige` for GigabitEthernet, `tengig` for TenGigabitEthernet or tenGigE. */
function restType(interfaceType: string): string {
  const [, speed] = /^(|ten|twentyfive|forty|fifty|hundred|pe)gig(?:abitethernet|e)$/i.exec(interfaceType) ?? [];
  if (speed === undefined) throw new Error(`There is no interface type ${interfaceType}.`);
  return speed === "" ? "gige" : `${speed.toLowerCase()}gig`;
}

/**
 * A Dell switch with Networking OS 9. What is configured is lost with the power until `write`.
 *
 * PUT replaces an interface: what isn't in the body falls back to its default (no switchport, not hybrid, shut down); PATCH
 * merges. A port has to be in no VLAN but the default one before it stops being a switchport, and to be none before
 * `portmode hybrid` changes (Configuration Guide, "Configuring Native VLANs"). `interface vlan N` creates the VLAN, so that
 * each of them may as well have been there.
 */
export function dellnos9({ ports = ["1/1", "1/2"], interfaceType }: DeviceOptions): Device {
  const factoryConfig = () => new Map(ports.map((label) => [label, factory()]));
  let running = factoryConfig();
  let startup = factoryConfig();
  let saves = 0;
  const type = restType(interfaceType);
  const restName = (label: string) => `${type}-${label.replaceAll("/", "-")}`;
  const cliName = (label: string) => `${interfaceType[0]!.toUpperCase()}${interfaceType[1]} ${label}`;

  function setSwitchport(label: string, port: Interface, on: boolean): void {
    if (!on && (port.untagged !== defaultVlan || port.tagged.size > 0)) {
      throw new CliError(`% Error: Port is a member of a non-default VLAN ${cliName(label)}.`);
    }
    port.switchport = on;
  }

  function setHybrid(label: string, port: Interface, on: boolean): void {
    if (port.hybrid === on) return;
    if (port.switchport) throw new CliError(`% Error: Port is in Layer-2 mode ${cliName(label)}.`);
    port.hybrid = on;
  }

  function tag(label: string, port: Interface, vlan: number): void {
    if (port.untagged === vlan) throw new CliError(`% Error: Port is an untagged member of Vlan ${vlan} ${cliName(label)}.`);
    if (!port.hybrid && port.untagged !== defaultVlan) throw new CliError(`% Error: Port is untagged in another Vlan ${cliName(label)}.`);
    port.tagged.add(vlan);
  }

  function untag(label: string, port: Interface, vlan: number): void {
    if (port.tagged.has(vlan)) throw new CliError(`% Error: Port is a tagged member of Vlan ${vlan} ${cliName(label)}.`);
    if (!port.hybrid && port.tagged.size > 0) throw new CliError(`% Error: Port is tagged in another Vlan ${cliName(label)}.`);
    port.untagged = vlan;
  }

  /** `tagged GigabitEthernet 1/3` and the like, inside `interface vlan N`. */
  function changeMembership(vlan: number, words: readonly string[]): void {
    const no = words[0] === "no";
    const [verb, kind, label = "", ...more] = no ? words.slice(1) : words;
    const isPort = kind?.toLowerCase() === interfaceType.toLowerCase() && more.length === 0;
    if ((verb !== "tagged" && verb !== "untagged") || !isPort) throw invalidInput();
    const port = running.get(label);
    if (!port) throw new CliError(`% Error: No such interface ${cliName(label)}.`);
    if (!port.switchport) throw new CliError(`% Error: Port is not in Layer-2 mode ${cliName(label)}.`);
    if (vlan === defaultVlan) throw new CliError("% Error: Can't change the members of the default Vlan.");
    if (no && verb === "tagged") {
      if (!port.tagged.delete(vlan)) throw new CliError(`% Error: Port is not a tagged member of Vlan ${vlan} ${cliName(label)}.`);
    } else if (no) {
      if (port.untagged !== vlan) throw new CliError(`% Error: Port is not an untagged member of Vlan ${vlan} ${cliName(label)}.`);
      port.untagged = defaultVlan;
    } else if (verb === "tagged") {
      tag(label, port, vlan);
    } else {
      untag(label, port, vlan);
    }
  }

  function configurePort(label: string, words: readonly string[]): void {
    const port = running.get(label)!;
    const on = words[0] !== "no";
    const command = (on ? words : words.slice(1)).join(" ");
    if (command === "shutdown") port.shutdown = on;
    else if (command === "switchport") setSwitchport(label, port, on);
    else if (command === "portmode hybrid") setHybrid(label, port, on);
    else throw invalidInput();
  }

  /** What the console would show for these lines in configuration mode. A line that fails doesn't end the others. */
  function configure(lines: readonly string[]): string {
    interface Mode {
      prompt: string;
      run(words: readonly string[]): void;
    }
    const top: Mode = {
      prompt: "Dell(conf)#",
      run() {
        throw invalidInput();
      },
    };
    let mode = top;
    const enter = (words: readonly string[]) => {
      const [, kind = "", name = "", ...more] = words;
      if (more.length > 0) throw invalidInput();
      if (kind === "vlan" && /^\d{1,4}$/.test(name) && Number(name) >= 1 && Number(name) <= highestVlan) {
        const vlan = Number(name);
        mode = { prompt: `Dell(conf-if-vl-${vlan})#`, run: (command) => changeMembership(vlan, command) };
      } else if (kind.toLowerCase() === interfaceType.toLowerCase() && running.has(name)) {
        mode = {
          prompt: `Dell(conf-if-${cliName(name).toLowerCase().replace(" ", "-")})#`,
          run: (command) => configurePort(name, command),
        };
      } else {
        throw invalidInput();
      }
    };
    const shown = ["conf"];
    for (const line of lines) {
      shown.push(`${mode.prompt}${line}`);
      const words = line.split(/\s+/);
      try {
        if (words[0] === "interface") enter(words);
        else if (words[0] === "exit") mode = top;
        else mode.run(words);
      } catch (error) {
        if (!(error instanceof CliError)) throw error;
        shown.push(error.message);
      }
    }
    return [...shown, `${mode.prompt}end`, "Dell#"].join("\r\n");
  }

  function showSwitchport(label: string): string {
    const port = running.get(label);
    if (!port) return '                  ^\r\n% Error: Invalid input at "^" marker.';
    if (!port.switchport) return `% Error: Port is not in Layer-2 mode ${cliName(label)}.`;
    const native = nativeOf(port);
    const mode = port.hybrid ? "Hybrid" : native === null ? "True" : "False";
    return [
      "",
      "Codes:  U - Untagged, T - Tagged",
      "        x - Dot1x untagged, X - Dot1x tagged",
      "        G - GVRP tagged, M - Trunk",
      "        i - Internal untagged, I - Internal tagged, v - VLT untagged, V - VLT tagged",
      "",
      `Name: ${interfaceType} ${label}`,
      `802.1QTagged: ${mode}`,
      "Vlan membership:",
      "Q       Vlans",
      ...(native === null ? [] : [`U       ${native} `]),
      ...(port.tagged.size === 0 ? [] : [`T       ${writeRanges(port.tagged)} `]),
      "",
      // Only a hybrid port has a native VLAN by that name.
      ...(port.hybrid ? [`Native VlanId:    ${native}.`, ""] : []),
    ].join("\r\n");
  }

  function show(command: string): string {
    // The word `show` may be left out.
    const words = command.replace(/^show\s+/, "").split(/\s+/);
    const [interfaces, switchport, kind = "", label = "", ...more] = words;
    const known =
      interfaces === "interfaces" && switchport === "switchport" && kind.toLowerCase() === interfaceType.toLowerCase() && more.length === 0;
    return [`show ${words.join(" ")}`, known ? showSwitchport(label) : '% Error: Invalid input at "^" marker.', "", "Dell#"].join("\r\n");
  }

  function execute(command: string): string {
    if (!/^wr(ite)?( memory)?$/.test(command)) return [command, '% Error: Invalid input at "^" marker.', "Dell#"].join("\r\n");
    startup = structuredClone(running);
    saves++;
    return [command, "!", "Dell#"].join("\r\n");
  }

  /** One kind of command in one call. It is well whatever becomes of the command: the CLI's text says so. */
  function cli(call: Call): Answer {
    const input = parseXml(call, namespace);
    if (input.name !== "input") throw new Refusal(400, "unknown-element", `unknown element: ${input.name}`);
    const [[kind, command] = [], ...others] = childrenOf(input, ["config-commands", "show-command", "exec-command"]);
    if (!kind || !command || others.length > 0)
      throw new Refusal(400, "malformed-message", "exactly one command tag expected inside input");
    if (command.text === "" || command.text.length > commandLimit) throw new Refusal(400, "invalid-value", `invalid value for: ${kind}`);
    // The manual writes the separator as a backslash, r, backslash, n; the bytes themselves will do.
    const lines = command.text.split(/\\r\\n|[\r\n]/).flatMap((line) => line.trim() || []);
    if (kind === "config-commands") return cliAnswer(configure(lines));
    if (lines.length !== 1) throw new Refusal(400, "invalid-value", `invalid value for: ${kind}`);
    return cliAnswer(kind === "show-command" ? show(lines[0]!) : execute(lines[0]!));
  }

  const cliAnswer = (text: string): Answer => ({
    status: 200,
    headers: { "Content-Type": "application/vnd.yang.operation+xml" },
    body: `<output xmlns='${namespace}'>\n  <command>${escapeXml(text)}</command>\n</output>\n`,
  });

  function getInterface(label: string, { shutdown, switchport, hybrid }: Interface, withDefaults: boolean): Answer {
    const lines = [
      `<interface xmlns="${namespace}" xmlns:y="http://tail-f.com/ns/rest" xmlns:dell="${namespace}">`,
      `  <name>${restName(label)}</name>`,
    ];
    if (hybrid || withDefaults) lines.push("  <portmode>", `    <hybrid>${hybrid}</hybrid>`, "  </portmode>");
    if (switchport) lines.push("  <switchport/>");
    // Shut down is the default.
    if (!shutdown || withDefaults) lines.push(`  <shutdown>${shutdown}</shutdown>`);
    return { status: 200, body: `${lines.join("\n")}\n</interface>\n` };
  }

  function truth(name: string, text: string | undefined): boolean {
    if (text !== "true" && text !== "false") throw new Refusal(400, "invalid-value", `invalid value for: ${name}`);
    return text === "true";
  }

  function putInterface(call: Call, label: string, port: Interface): void {
    const element = parseXml(call, namespace);
    if (element.name !== "interface") throw new Refusal(400, "unknown-element", `unknown element: ${element.name}`);
    const parts = childrenOf(element, ["name", "portmode", "switchport", "shutdown"]);
    const merges = call.method === "PATCH";
    const name = parts.get("name")?.text;
    if (name !== restName(label) && !(merges && name === undefined)) throw new Refusal(400, "invalid-value", "invalid value for: name");
    const portmode = parts.get("portmode");
    const switchport = parts.has("switchport") || (merges && port.switchport);
    const hybrid = portmode ? truth("hybrid", childrenOf(portmode, ["hybrid"]).get("hybrid")?.text) : merges && port.hybrid;
    const shutdown = parts.has("shutdown") ? truth("shutdown", parts.get("shutdown")!.text) : !merges || port.shutdown;
    const changed = structuredClone(port);
    try {
      if (!switchport) setSwitchport(label, changed, false);
      setHybrid(label, changed, hybrid);
      if (switchport) setSwitchport(label, changed, true);
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      throw new Refusal(400, "operation-failed", error.message);
    }
    running.set(label, { ...changed, shutdown });
  }

  return {
    contentType: "application/vnd.yang.data+xml",
    challenge: 'Basic realm="restricted"',
    get saves() {
      return saves;
    },
    call(call: Call) {
      const [path = "", query = ""] = call.path.split("?");
      const allowed = path === cliPath ? ["POST"] : ["GET", "PUT", "PATCH"];
      const [label, port] = [...running].find(([label]) => path === `${interfacesPath}${restName(label)}`) ?? [];
      if (path !== cliPath && !port) throw new Refusal(404, "invalid-value", "instance does not exist");
      if (!allowed.includes(call.method)) throw new Refusal(405, "operation-not-supported", "method not allowed");
      if (!port) return cli(call);
      if (call.method === "GET") return getInterface(label!, port, query.split("&").includes("with-defaults"));
      putInterface(call, label!, port);
      return { status: 204 };
    },
    refused: ({ path }, { status, tag, message }) => ({
      status,
      body: `<errors xmlns="http://tail-f.com/ns/tailf-rest-error">\n  <error>\n    <error-message>${escapeXml(message)}</error-message>\n    <error-urlpath>${escapeXml(path)}</error-urlpath>\n    <error-tag>${tag}</error-tag>\n  </error>\n</errors>\n`,
    }),
    failure(call) {
      if (call.path === cliPath) return cliAnswer("% Error: Unable to process the command, the system is busy.\r\nDell#");
      return this.refused(call, new Refusal(500, "operation-failed", "the configuration database is locked by session 17 admin console"));
    },
    port(label) {
      const port = running.get(label);
      if (!port) return null;
      if (port.shutdown || !port.switchport) return { native: null, tagged: [] };
      return { native: nativeOf(port), tagged: ascending(port.tagged) };
    },
    setPort(label, { native, tagged }) {
      if (!running.has(label)) throw new Error(`There is no port ${label}.`);
      const empty = native === null && tagged.length === 0;
      const port = { shutdown: false, switchport: true, hybrid: native !== null, untagged: native ?? defaultVlan, tagged: new Set(tagged) };
      running.set(label, empty ? factory() : port);
    },
    powerCycle() {
      running = structuredClone(startup);
    },
    factoryReset() {
      running = factoryConfig();
      startup = factoryConfig();
    },
  };
}

import { isAbsolute } from "node:path";
import { Liquid } from "liquidjs";
import { messageOf, quote } from "../errors.ts";
import type { BootConfig, Profile } from "./config.ts";
import { hyphened, type Mac } from "./mac.ts";
import type { Machine } from "./state.ts";

/** A template that gives no text for this machine: one sentence, without a full stop. */
export class RenderError extends Error {}

/** Who something is rendered for. */
export interface Target {
  readonly config: BootConfig;
  /** `http://address:port` of this server. */
  readonly server: string;
  readonly machine: Pick<Machine, "name" | "token">;
  readonly profile: Profile;
  readonly mac: Mac;
  /** That of its lease. */
  readonly address: string;
}

const renderTimeoutMs = 2_000;
const maxRenderedBytes = 4_194_304;

/** The text of one of the profile's files. Read from the disk every time: what an operator mends is mended. */
export function renderFile(target: Target, template: string): Promise<string> {
  // The library itself refuses what a link in the folder leads out to.
  if (isAbsolute(template) || template.split("/").includes("..")) {
    return Promise.reject(new RenderError(`${quote(template)} is not a template below ${target.config.templates}`));
  }
  return attempt(template, () => engine(target).renderFile(template, variablesOf(target)));
}

/** The kernel's arguments. One line that an iPXE script and a pxelinux configuration can hold. */
export async function renderArgs(target: Target): Promise<string> {
  const { args, name } = target.profile;
  const what = `args of profile ${name}`;
  const text: string = await attempt(what, () => engine(target).parseAndRender(args, variablesOf(target)));
  if (/\p{Cc}/u.test(text)) throw new RenderError(`${what}: they are more than one line`);
  if (text.includes("${")) throw new RenderError(`${what}: they hold \${, which iPXE would replace`);
  const operator = text.split(/\s+/).find((word) => /^(#.*|\|\||&&|;)$/.test(word));
  if (operator !== undefined) throw new RenderError(`${what}: iPXE would not pass on ${quote(operator)}`);
  return text.trim();
}

const engine = ({ config }: Target) =>
  new Liquid({
    root: config.templates,
    strictVariables: true,
    strictFilters: true,
    ownPropertyOnly: true,
    // A name that the library does not find there would be looked for as a module's.
    dynamicPartials: true,
    renderLimit: renderTimeoutMs,
    parseLimit: maxRenderedBytes,
    memoryLimit: maxRenderedBytes,
  });

function variablesOf({ config, server, machine, profile, mac, address }: Target): Record<string, unknown> {
  return {
    ...profile.variables,
    ...config.nodes.get(machine.name)?.variables,
    mac,
    mac_hyphen: hyphened(mac),
    node: machine.name,
    profile: profile.name,
    address,
    server,
    files_url: `${server}/node/${mac}`,
    done_url: `${server}/done?mac=${mac}&token=${machine.token}`,
  };
}

async function attempt(what: string, render: () => Promise<string>): Promise<string> {
  let text: string;
  try {
    text = await render();
  } catch (error) {
    // The lines after the first one show the template.
    throw new RenderError(`${what}: ${messageOf(error).split("\n")[0]}`);
  }
  if (Buffer.byteLength(text) > maxRenderedBytes) throw new RenderError(`${what}: the text has more than ${maxRenderedBytes} bytes`);
  return text;
}

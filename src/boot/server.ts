import { messageOf } from "../errors.ts";
import type { BootConfig, Profile } from "./config.ts";
import { fileResponse, openBelow } from "./files.ts";
import { type Leases, plainAddress } from "./leases.ts";
import { type Mac, parseMac } from "./mac.ts";
import { renderArgs, RenderError, renderFile, type Target } from "./render.ts";
import { bootScript, diskScript, installConfig, installScript, localbootConfig } from "./scripts.ts";
import type { Machine, Report, State } from "./state.ts";

/** One line for each event. Facts only: never a query, a token or a rendered text. */
export type Say = (level: "info" | "warning" | "error", message: string, facts?: Record<string, string | number | null>) => void;

export interface BootServer {
  /** The configuration as it is now: profiles and nodes may change while we serve. */
  readonly config: () => BootConfig;
  readonly state: State;
  readonly leases: Leases;
  readonly say: Say;
  readonly now: () => number;
  /** After every change of the state. */
  readonly changed: () => void;
}

const maxUrlCharacters = 2_048;
const maxBodyBytes = 65_536;
/** A node's card may pause while it writes. */
const idleTimeoutSeconds = 120;

/** Serve HTTP on one address. Throws when it can't be had. */
export function listen(ctx: BootServer, hostname: string, port: number): Bun.Server<undefined> {
  const server = `http://${hostname}:${port}`;
  return Bun.serve({
    hostname,
    port,
    maxRequestBodySize: maxBodyBytes,
    idleTimeout: idleTimeoutSeconds,
    development: false,
    // Otherwise Bun, outside of development, lets a second server have the same port.
    reusePort: false,
    async fetch(request, bun) {
      const address = plainAddress(bun.requestIP(request)?.address ?? "");
      try {
        return await answer({ ...ctx, server }, request, address);
      } catch (error) {
        const why = error instanceof RenderError ? error.message : `fault: ${messageOf(error)}`;
        ctx.say("error", "a request failed", { address, why });
        return text(500, "The boot server can't answer this; its log says why.");
      }
    },
    error: () => text(500, "The boot server can't answer this."),
  });
}

type Ctx = BootServer & { readonly server: string };

async function answer(ctx: Ctx, request: Request, address: string): Promise<Response> {
  if (request.url.length > maxUrlCharacters) return text(414, "The address is too long.");
  if (request.headers.has("transfer-encoding")) return text(411, "A body needs its length.");
  if (Number(request.headers.get("content-length") ?? 0) > maxBodyBytes) return text(413, "The body is too large.");
  const { pathname, searchParams } = new URL(request.url);
  const segments = decode(pathname);
  if (segments === null) return text(400, "The path can't be read.");
  const [first = "", second = "", ...more] = segments;
  const only = (...methods: string[]) => (methods.includes(request.method) ? null : notAllowed(methods));
  const reading = () => only("GET", "HEAD");

  if (first === "files") {
    const refusal = reading();
    if (refusal) return refusal;
    const file = await openBelow(ctx.config().root, segments.slice(1));
    if (file) return fileResponse(file, request.method, request.headers.get("range"));
    ctx.say("warning", "no such file", { address, path: segments.slice(1).join("/") });
    return text(404, "There is no such file.");
  }
  if (first === "boot.ipxe" && segments.length === 1) return reading() ?? text(200, bootScript(ctx.server));
  if (first === "done" && segments.length === 1) {
    return only("POST") ?? report(ctx, address, searchParams.get("mac"), searchParams.get("token"));
  }
  if (segments.length === 1 && parseMac(first) !== null) {
    return only("DELETE") ?? report(ctx, address, first, searchParams.get("token"));
  }
  if ((first === "ipxe" || first === "pxelinux") && segments.length === 2) {
    const mac = parseMac(second);
    // HEAD would count as a boot.
    return only("GET") ?? (mac === null ? text(400, "That is no MAC address.") : boot(ctx, first, mac, address));
  }
  if (first === "node" && segments.length === 3) {
    const mac = parseMac(second);
    return only("GET") ?? (mac === null ? text(400, "That is no MAC address.") : nodeFile(ctx, mac, more[0]!, address));
  }
  return text(404, "There is no such path.");
}

/** The segments, each decoded once; null for what no client of ours sends. */
function decode(pathname: string): string[] | null {
  try {
    const segments = pathname.slice(1).split("/").map(decodeURIComponent);
    return segments.some((segment) => segment.includes("\0")) ? null : segments;
  } catch {
    return null;
  }
}

/** What a machine boots. Whatever is in doubt boots from disk, and changes nothing. */
async function boot(ctx: Ctx, loader: "ipxe" | "pxelinux", mac: Mac, address: string, again = true): Promise<Response> {
  const fromDisk = (why: string) => text(200, loader === "ipxe" ? diskScript(why) : localbootConfig);
  const machine = ctx.state.byMac(mac);
  if (machine === null || machine.state === "done") {
    ctx.say("info", "boots from disk", { mac, address, node: machine?.name ?? null });
    return fromDisk(machine === null ? "not armed" : "installed");
  }
  if (!(await ctx.leases.holds(mac, address))) {
    ctx.say("warning", "refused the installer: the address does not hold the lease of this MAC", { mac, address, node: machine.name });
    return fromDisk("this address does not hold the lease of this MAC");
  }
  const target = targetOf(ctx, machine, mac, address);
  const args = await renderArgs(target);
  // On the disk before it is answered: a boot that nobody knows of would be an installation that nobody misses.
  if (!ctx.state.boot(machine.token, ctx.now())) {
    // It was armed or disarmed meanwhile. The boot loader asks again, too.
    return again ? boot(ctx, loader, mac, address, false) : text(503, "This machine is being armed; ask again.");
  }
  ctx.changed();
  ctx.say("info", "gets the installer", { mac, address, node: machine.name, profile: machine.profile, boots: machine.boots + 1 });
  const { server } = ctx;
  return text(
    200,
    loader === "ipxe" ? installScript(server, machine.name, target.profile, args) : installConfig(server, target.profile, args),
  );
}

/** A rendered file, which may hold secrets: for the holder of the lease, and only while the machine is armed. */
async function nodeFile(ctx: Ctx, mac: Mac, name: string, address: string): Promise<Response> {
  const refuse = (status: number, sentence: string) => {
    ctx.say("warning", "refused a node's file", { mac, address, status });
    return text(status, sentence);
  };
  if (!(await ctx.leases.holds(mac, address))) return refuse(403, "This address does not hold the lease of this MAC.");
  const machine = ctx.state.byMac(mac);
  if (machine === null || machine.state === "done") return refuse(404, "This MAC is not armed.");
  const target = targetOf(ctx, machine, mac, address);
  const template = target.profile.files.get(name);
  if (template === undefined) return refuse(404, `Profile ${target.profile.name} has no such file.`);
  const body = await renderFile(target, template);
  ctx.say("info", "gives a node's file", { mac, address, node: machine.name, file: name });
  return text(200, body);
}

function targetOf(ctx: Ctx, machine: Machine, mac: Mac, address: string): Target {
  const config = ctx.config();
  const profile: Profile | undefined = config.profiles.get(machine.profile);
  if (!profile) throw new RenderError(`${machine.name} is armed with profile ${machine.profile}, which is no longer in ${config.file}`);
  return { config, server: ctx.server, machine, profile, mac, address };
}

const answers: Record<Report, [status: number, sentence: string]> = {
  done: [200, "Done."],
  already: [200, "Done."],
  unknown: [404, "This MAC was never armed."],
  "other-arming": [409, "This token is not that of the last arming."],
  "not-booted": [409, "This machine has not got its installer since it was armed; a report with its token would be taken."],
};

async function report(ctx: Ctx, address: string, named: string | null, token: string | null): Promise<Response> {
  const refuse = (status: number, sentence: string, mac: string | null) => {
    ctx.say("warning", "refused a report", { mac, address, status, why: sentence });
    return text(status, sentence);
  };
  const given = named === null ? null : parseMac(named);
  if (named !== null && given === null) return refuse(400, "That is no MAC address.", null);
  const mac = given ?? (await reporter(ctx, address));
  if (mac === null || !(await ctx.leases.holds(mac, address))) {
    return refuse(403, given === null ? "This address holds no lease." : "This address does not hold the lease of this MAC.", given);
  }
  const result = ctx.state.report(mac, token, address, ctx.now());
  const [status, sentence] = answers[result];
  if (status !== 200) return refuse(status, sentence, mac);
  if (result === "done") ctx.changed();
  ctx.say("info", result === "done" ? "done" : "reported again", { mac, address, node: ctx.state.byMac(mac)?.name ?? null });
  return text(200, sentence);
}

/** The MAC of the caller's lease; of several, one that was armed. */
async function reporter({ leases, state }: Ctx, address: string): Promise<Mac | null> {
  const macs = await leases.holders(address);
  return macs.find((mac) => state.byMac(mac) !== null) ?? macs[0] ?? null;
}

const notAllowed = (methods: readonly string[]) =>
  text(405, `Only ${methods.join(" and ")} here; nothing can be written.`, { allow: methods.join(", ") });

const text = (status: number, body: string, headers: Record<string, string> = {}): Response =>
  new Response(body.endsWith("\n") ? body : `${body}\n`, {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", "cache-control": "no-store", ...headers },
  });

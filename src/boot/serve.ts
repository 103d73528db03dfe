import { statSync } from "node:fs";
import { messageOf } from "../errors.ts";
import { addressOf, InterfaceError } from "./address.ts";
import { startDnsmasq } from "./child.ts";
import { type BootConfig, loadBootConfig } from "./config.ts";
import { openLeases } from "./leases.ts";
import { writePxelinux } from "./pxelinux.ts";
import { listen, type Say } from "./server.ts";
import { openState } from "./state.ts";

const reconcileMs = 500;

/** Serve the nodes until `ended` resolves. Throws a sentence when it can't begin. */
export async function serveBoot(first: BootConfig, say: Say, ended: Promise<unknown>): Promise<void> {
  const address = await addressOf(first);
  const url = `http://${address}:${first.port}`;
  const config = liveConfig(first, say);
  const state = openState(first.state);
  let version = -1;
  const reconcile = () => {
    const root = first.dnsmasq.tftpRoot;
    if (root === null) return;
    try {
      version = state.version();
      writePxelinux(root, url, state.list());
    } catch (error) {
      version = -1;
      say("error", "pxelinux.cfg can't be written", { why: messageOf(error) });
    }
  };
  const leases = openLeases(first.leases, () => config().nodes);
  const http = bind({ config, state, leases, say, now: Date.now, changed: reconcile }, address, first.port);
  try {
    // Before the first client asks; a port that is taken was refused before that.
    const dnsmasq = first.dnsmasq.run ? await startDnsmasq(first, say) : null;
    reconcile();
    const timer = setInterval(() => {
      config();
      if (state.version() !== version) reconcile();
    }, reconcileMs);
    say("info", "serving", { url, pid: process.pid, dnsmasq: dnsmasq ? "runs as our child" : "is somebody else's" });
    for (const warning of first.warnings) say("warning", warning);
    await ended;
    clearInterval(timer);
    await dnsmasq?.stop();
    say("info", "stopped");
  } finally {
    await http.stop(true);
    state.close();
  }
}

function bind(...[ctx, address, port]: Parameters<typeof listen>) {
  try {
    return listen(ctx, address, port);
  } catch (error) {
    throw new InterfaceError(`Can't listen on ${address}:${port}: ${messageOf(error).split("\n")[0]!.replace(/\.$/, "")}.`);
  }
}

/** Profiles and nodes as the file has them now; a file that is wrong changes nothing, and is said once. */
function liveConfig(first: BootConfig, say: Say): () => BootConfig {
  const stamp = () => {
    try {
      const { mtimeMs, size, ino } = statSync(first.file);
      return `${mtimeMs} ${size} ${ino}`;
    } catch {
      return "";
    }
  };
  let current = first;
  let seen = stamp();
  return () => {
    const now = stamp();
    if (now === seen || now === "") return current;
    seen = now;
    try {
      const fresh = loadBootConfig(first.file);
      current = { ...first, profiles: fresh.profiles, nodes: fresh.nodes };
      say("info", "read the configuration again: profiles and nodes are the new ones");
    } catch (error) {
      say("error", "the configuration is wrong, and stays as it was", { why: messageOf(error) });
    }
    return current;
  };
}

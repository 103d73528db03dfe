import { chownSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hyphened, type Mac } from "./mac.ts";
import { localbootConfig, pointerConfig } from "./scripts.ts";
import type { Machine } from "./state.ts";

const ours = /^01(-[0-9a-f]{2}){6}$/;

/**
 * Make `pxelinux.cfg` below the TFTP root say what the database says: a file for every MAC that may get the
 * installer, and `default`, which boots from disk. Files are replaced as a whole, and belong to the owner of
 * the TFTP root, as dnsmasq's tftp-secure wants it.
 */
export function writePxelinux(tftpRoot: string, server: string, machines: readonly Machine[]): void {
  const folder = join(tftpRoot, "pxelinux.cfg");
  const owner = statSync(tftpRoot);
  const own = (path: string) => {
    const { uid, gid } = statSync(path);
    if (uid !== owner.uid || gid !== owner.gid) chownSync(path, owner.uid, owner.gid);
  };
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  own(folder);
  const wanted = new Map<string, string>([["default", localbootConfig]]);
  for (const machine of machines) {
    if (machine.state !== "done") for (const mac of machine.macs) wanted.set(nameOf(mac), pointerConfig(server, mac));
  }
  for (const [name, text] of wanted) {
    const path = join(folder, name);
    if (read(path) === text) continue;
    const temporary = join(folder, `.${name}.${process.pid}`);
    writeFileSync(temporary, text, { mode: 0o644 });
    own(temporary);
    renameSync(temporary, path);
  }
  for (const name of readdirSync(folder)) if (ours.test(name) && !wanted.has(name)) rmSync(join(folder, name), { force: true });
}

const nameOf = (mac: Mac): string => `01-${hyphened(mac)}`;

function read(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

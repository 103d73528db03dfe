import { createHash } from "node:crypto";
import {
  closeSync,
  fchmodSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { messageOf } from "../errors.ts";
import { isDiskAway } from "./away.ts";
import type { MainFile } from "./main-file.ts";
import { isPostgresUri, redactUri, sqlitePath } from "./open.ts";

/** What a server remembers of a database, outside of it. */
export interface Remembered {
  /** The identity of this file. */
  server: string;
  /** Of the database. */
  identity: string;
  /** What its counter had certainly reached. */
  counter: number;
  /** The database holds one of them for this server. The second is the newer one; the first is null when it may hold none. */
  marks: [string | null, string];
  /** Of SQLite; null while the -wal is being folded in. */
  main: MainFile | null;
}

/** The state file is there, and not to be used; `forNow`: its disk is away. */
export class StateFileError extends Error {
  constructor(
    message: string,
    readonly forNow = false,
  ) {
    super(message);
  }
}

/** One small file for each database that servers of this folder use. Read and written under the database's write lock. */
export class StateFile {
  readonly path: string;
  readonly #shown: string;

  private constructor(uri: string, directory: string) {
    this.#shown = redactUri(uri);
    const place = isPostgresUri(uri) ? this.#shown : realPath(sqlitePath(uri));
    this.path = join(directory, `haas-lineage-${createHash("sha256").update(place).digest("hex").slice(0, 12)}.json`);
  }

  /** In `directory`, or beside SQLite's file, or here. Throws when nothing can be written there. */
  static in(directory: string | null, uri: string): StateFile {
    const folder = directory ?? (isPostgresUri(uri) ? process.cwd() : dirname(realPath(sqlitePath(uri))));
    if (directory !== null) mkdirSync(folder, { recursive: true, mode: 0o700 });
    const file = new StateFile(uri, folder);
    // Where SQLite's file can't be either, that is to be said.
    if (directory === null && !isPostgresUri(uri)) return file;
    const probe = `${file.path}.${process.pid}`;
    closeSync(openSync(probe, "w", 0o600));
    rmSync(probe);
    return file;
  }

  /** Null when there is none. */
  read(): Remembered | null {
    let text: string;
    try {
      text = readFileSync(this.path, "utf8");
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
      throw new StateFileError(`${this.path} can't be read (${messageOf(error)})`, isDiskAway(error));
    }
    try {
      const { inode, ...remembered } = parse(JSON.parse(text));
      if (inode === String(statSync(this.path, { bigint: true }).ino)) return remembered;
    } catch {
      throw new StateFileError(`${this.path} is damaged`);
    }
    throw new StateFileError(`${this.path} is a copy`);
  }

  /** SQLite's main file, as it was left; null when that is not known. */
  mainFile(): MainFile | null {
    try {
      return this.read()?.main ?? null;
    } catch {
      return null;
    }
  }

  /** All of it or nothing, whenever the machine may stop. */
  write(remembered: Remembered): void {
    const temporary = `${this.path}.${process.pid}`;
    try {
      const descriptor = openSync(temporary, "w", 0o600);
      try {
        fchmodSync(descriptor, 0o600);
        // A copy tells that it is one: it may have been restored together with the database.
        const inode = String(fstatSync(descriptor, { bigint: true }).ino);
        // Unlike write(2), which writes less when the disk is nearly full.
        writeFileSync(descriptor, `${JSON.stringify({ database: this.#shown, inode, ...remembered }, null, 2)}\n`);
        fsyncSync(descriptor);
      } finally {
        closeSync(descriptor);
      }
      renameSync(temporary, this.path);
      syncFolder(this.path);
    } catch (error) {
      // So that it takes nothing of a full disk. On a read-only one it can't be removed.
      try {
        rmSync(temporary, { force: true });
      } catch {}
      throw new StateFileError(`${this.path} can't be written (${messageOf(error)})`, isDiskAway(error));
    }
  }
}

/** Make what was renamed, linked or removed there last. */
export function syncFolder(path: string): void {
  const folder = openSync(dirname(path), "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

/** Where links end, also for a file that is not there. */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}

function parse(value: unknown): Remembered & { inode: string } {
  const { inode, server, identity, counter, marks, main } = value as Remembered & { inode: string };
  const [first, second, ...more] = marks;
  const texts = [inode, server, identity, second, ...(first === null ? [] : [first])];
  const sound = texts.every((text) => typeof text === "string" && text !== "") && Number.isSafeInteger(counter) && more.length === 0;
  if (!sound) throw new TypeError();
  return { inode, server, identity, counter, marks: [first, second], main };
}

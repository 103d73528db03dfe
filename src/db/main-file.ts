import { constants, Database } from "bun:sqlite";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { endianness } from "node:os";
import { messageOf } from "../errors.ts";

// SQLite's main file without its -wal: what has been folded into it. SQLite believes that a -wal beside a database is that
// database's, whatever was copied or moved there in the meantime; the mixture is neither of the two.

const settlePauseMs = 500;
const settleLooks = 120;

/** What a server remembers of the main file. It changes only when haas folds the -wal into it. */
export interface MainFile {
  /** Which file it is, and which its -wal. */
  file: string;
  wal: string | null;
  /** Of its content. */
  stamp: string;
  /** Of the database that is in it, without the -wal; null when there is none yet. */
  counter: number | null;
  /** What SQLite counts up whenever it begins the -wal anew, and how many frames of it were in the main file. */
  folded: [number | null, number | null];
}

/** The main file as it is now; null when there is none. `frames`: see MainFile. */
export function lookAtMainFile(path: string, frames: number | null): MainFile | null {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (!stat) return null;
  return {
    file: which(stat),
    wal: walOf(path),
    stamp: `${stat.size}.${stat.mtimeNs}`,
    counter: counterIn(path),
    folded: [generationOf(path), frames],
  };
}

/** Whether the file at the path has certainly not been written to since. */
export function isUntouched(path: string, { file, stamp }: MainFile): boolean {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stat !== undefined && which(stat) === file && `${stat.size}.${stat.mtimeNs}` === stamp;
}

/**
 * Before a database is opened: set a -wal aside that was left by another database at this path. What that was, when
 * it was so; throws when what is there is neither the one nor the other. `recall`: what is remembered now.
 */
export function setForeignWalAside(path: string, recall: () => MainFile | null): string | null {
  const remembered = recall();
  if (!remembered || !existsSync(path)) return null;
  const real = realpathSync(path);
  const wal = `${real}-wal`;
  // Another -wal than ours has come together with the database.
  if (walOf(real) !== remembered.wal || remembered.wal === null || statSync(wal).size === 0) return null;
  if (isUntouched(real, remembered)) return null;
  const now = lookAtMainFile(real, framesIn(`${real}-shm`))!;
  if (now.file === remembered.file && now.folded[1] !== null && isFoldedIn(remembered, now.folded)) return null;
  if (now.file === remembered.file && now.counter === remembered.counter && isWholeTogether(real)) return null;
  const whole = isWhole(withoutWal(real));
  // A haas that runs is folding it in just now: it says so first.
  if (JSON.stringify(recall()) !== JSON.stringify(remembered)) return null;
  if (!whole) {
    throw new Error(`it was overwritten, and is not whole; restore a backup. What was beside it, ${wal}, is of the database before`);
  }
  const aside = setAside(wal);
  rmSync(`${real}-shm`, { force: true });
  return `${wal} was of the database that was here before, and is ${aside} now`;
}

/** Keep a file under another name; which. */
export function setAside(path: string): string {
  const aside = `${path}.of-another-${new Date().toISOString().replace(/[-:]/g, "")}`;
  renameSync(path, aside);
  return aside;
}

/**
 * Whether somebody has folded the -wal into the main file since, which is no harm. After haas did, SQLite begins it
 * anew once: whenever that, or what was folded in, is not as it was then, it was somebody else.
 */
export function isFoldedIn({ folded: [generation, frames] }: MainFile, now: MainFile["folded"]): boolean {
  if (generation === null || now[0] === null) return true;
  const same = now[0] === generation && now[1] === frames;
  const anew = now[0] === (generation + 1) % 2 ** 32 && now[1] === 0;
  return !same && !anew;
}

/** Salt-1 in the header of the -wal, which SQLite counts up (https://www.sqlite.org/fileformat2.html#walformat), on which SQLite has no locks; null without one. */
function generationOf(path: string): number | null {
  const descriptor = openSync(`${realpathSync(path)}-wal`, "r");
  try {
    const header = Buffer.alloc(32);
    return readSync(descriptor, header, 0, 32, 0) === 32 ? header.readUInt32BE(16) : null;
  } finally {
    closeSync(descriptor);
  }
}

/** nBackfill of the -shm (https://www.sqlite.org/walformat.html), while this process has no locks on it. */
function framesIn(shm: string): number | null {
  try {
    const bytes = readFileSync(shm);
    return endianness() === "LE" ? bytes.readUInt32LE(96) : bytes.readUInt32BE(96);
  } catch {
    return null;
  }
}

/** Make a file of its own of what was written over an open database, so that SQLite lets go of it without adding to it. */
export async function moveAway(path: string): Promise<void> {
  const real = realpathSync(path);
  // It may still be on its way.
  for (let [before, looks] = ["", 0]; looks < settleLooks; looks++) {
    const { size, mtimeNs } = statSync(real, { bigint: true });
    if (`${size}.${mtimeNs}` === before) break;
    before = `${size}.${mtimeNs}`;
    await Bun.sleep(settlePauseMs);
  }
  const copy = `${real}.${process.pid}`;
  try {
    copyFileSync(real, copy);
    chmodSync(copy, 0o600);
    renameSync(copy, real);
  } finally {
    rmSync(copy, { force: true });
  }
}

/** An inode's number may be used again; with the time of its birth it is unique. */
const which = ({ ino, birthtimeNs }: { ino: bigint; birthtimeNs: bigint }) => `${ino}.${birthtimeNs}`;

function walOf(path: string): string | null {
  const stat = statSync(`${realpathSync(path)}-wal`, { bigint: true, throwIfNoEntry: false });
  return stat ? which(stat) : null;
}

/** The connection must be closed. It takes no locks, and so may read what is half written. */
function withoutWal(path: string): Database {
  const flags = constants.SQLITE_OPEN_READONLY | constants.SQLITE_OPEN_URI;
  return new Database(`file:${encodeURI(realpathSync(path)).replaceAll("?", "%3F").replaceAll("#", "%23")}?immutable=1`, flags);
}

function counterIn(path: string): number | null {
  let database: Database | null = null;
  try {
    database = withoutWal(path);
    return database.query<{ counter: number }, []>("select counter from lineage").get()?.counter ?? null;
  } catch {
    return null;
  } finally {
    database?.close();
  }
}

/** Whether a database and its -wal are whole together. Looked at in copies: SQLite folds the one into the other when it closes them. */
function isWholeTogether(real: string): boolean {
  const copy = `${real}.check-${process.pid}`;
  try {
    for (const suffix of ["", "-wal"]) {
      copyFileSync(real + suffix, copy + suffix);
      chmodSync(copy + suffix, 0o600);
    }
    return isWhole(new Database(copy, { create: false, readwrite: true }));
  } finally {
    for (const suffix of ["", "-wal", "-shm"]) rmSync(copy + suffix, { force: true });
  }
}

/** Whether nothing is damaged or missing. Closes the database. */
function isWhole(database: Database): boolean {
  try {
    return faultOf(database) === null;
  } finally {
    database.close();
  }
}

/** What is wrong with a database; null when nothing is. */
export function faultOf(database: Database): string | null {
  try {
    const [[line] = ["ok"]] = database.query("pragma integrity_check(1)").values();
    if (line !== "ok") return String(line);
    const [broken] = database.query("pragma foreign_key_check").values();
    return broken ? `a row of ${String(broken[0])} refers to one that is missing` : null;
  } catch (error) {
    return messageOf(error);
  }
}

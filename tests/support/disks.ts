import { closeSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { basename, join } from "node:path";

// Small disks of a test's own, which can be filled, and go wrong. They need root: a test that can't have one fails.

export interface SmallDisk {
  readonly path: string;
  /** Until not one byte more can be written. */
  fill(): void;
  /** Give back what `fill` took. */
  free(): void;
  end(): void;
}

const mounted = new Set<string>();
process.on("exit", () => {
  for (const path of mounted) Bun.spawnSync(["umount", "-l", path]);
});

function must(...argv: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv);
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${exitCode} ${stderr.toString()}`);
  return stdout.toString().trim();
}

function mount(path: string, ...options: string[]): void {
  must("mount", ...options, path);
  mounted.add(path);
}

function unmount(path: string): void {
  if (mounted.delete(path)) must("umount", path);
}

/** In memory, below `directory`; `remount` makes it read-only or writable, as long as no file of it is open for writing. */
export function memoryDisk(directory: string, sizeKiB: number): SmallDisk & { remount(how: "ro" | "rw"): void } {
  const path = join(directory, "disk");
  mkdirSync(path);
  mount(path, "-t", "tmpfs", "-o", `size=${sizeKiB}k`, "tmpfs");
  return {
    ...filling(path),
    remount: (how) => void must("mount", "-o", `remount,${how}`, path),
    end: () => unmount(path),
  };
}

/** A real file system in a file; `fail` makes it read-only under whoever has it open, as after an error of the disk, and `repair` whole, once nobody has. */
export function fileDisk(directory: string, sizeMiB: number): SmallDisk & { fail(): void; repair(): void } {
  const path = join(directory, "disk");
  const image = join(directory, "image");
  mkdirSync(path);
  must("truncate", "-s", `${sizeMiB}M`, image);
  must("mkfs.ext4", "-q", image);
  const options = ["-o", "loop,errors=remount-ro", image];
  mount(path, ...options);
  return {
    ...filling(path),
    fail: () => writeFileSync(`/sys/fs/ext4/${basename(must("findmnt", "-n", "-o", "SOURCE", path))}/trigger_fs_error`, "a test"),
    repair() {
      unmount(path);
      // 1 is: there was something to repair.
      const { exitCode, stdout } = Bun.spawnSync(["fsck.ext4", "-f", "-y", image]);
      if (exitCode > 1) throw new Error(`fsck.ext4: ${exitCode} ${stdout.toString()}`);
      mount(path, ...options);
    },
    end: () => unmount(path),
  };
}

function filling(path: string): Pick<SmallDisk, "path" | "fill" | "free"> {
  const ballast = join(path, "ballast");
  return {
    path,
    fill() {
      const descriptor = openSync(ballast, "a");
      for (let size = 1 << 20; size >= 1;) {
        try {
          if (writeSync(descriptor, Buffer.alloc(size)) < size) size >>= 1;
        } catch {
          size >>= 1;
        }
      }
      closeSync(descriptor);
    },
    free: () => rmSync(ballast, { force: true }),
  };
}

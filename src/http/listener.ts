import { dlopen, FFIType } from "bun:ffi";

// What Bun has no options for. Sockets that are accepted have it from the one that listens.

/** What the kernel keeps of a client that haas does not read from, in bytes; and the most that one event brings. It doubles the number. */
const receiveBufferBytes = 64 * 1024;
/** Connections that are made, and wait to be accepted; the system's own limit (net.core.somaxconn) holds as well. */
const backlog = 4_096;
const [SOL_SOCKET, SO_RCVBUF] = [1, 8];

/**
 * Bound what clients can pile up in the kernel, whose memory for TCP belongs to everybody on the machine, and have more
 * of them wait their turn than Bun's 512. Where the system's library can't be called haas works without.
 */
export function tuneListener(descriptor: number): void {
  try {
    const { symbols } = dlopen("libc.so.6", {
      setsockopt: { args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
      listen: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 },
    });
    const value = new Int32Array([receiveBufferBytes]);
    symbols.setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, value, value.byteLength);
    symbols.listen(descriptor, backlog);
  } catch {
    // Another C library.
  }
}

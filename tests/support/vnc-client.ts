import { createCipheriv } from "node:crypto";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";

// `bun tests/support/vnc-client.ts PORT|ws://…`, run where the display is: the handshake of RFB 3.8 (RFC 6143) with VNC
// authentication, over TCP or over a WebSocket. The password is VNC_PASSWORD, HTTP credentials HAAS_CREDENTIALS, the
// page's origin ORIGIN. It makes the file OPENED, and holds the connection for HOLD_MS. Prints `ok WIDTHxHEIGHT NAME`,
// `refused REASON`, `closed` or `closed early` as one line.

const [target = ""] = process.argv.slice(2);
const { VNC_PASSWORD = "", HAAS_CREDENTIALS, ORIGIN, OPENED, HOLD_MS = "0" } = process.env;
const timeoutMs = 20_000 + Number(HOLD_MS);
setTimeout(() => finish("timeout"), timeoutMs).unref();

let buffer = Buffer.alloc(0);
let wake = () => {};
let closed = false;
const add = (bytes: Uint8Array) => {
  buffer = Buffer.concat([buffer, bytes]);
  wake();
};
const end = () => {
  closed = true;
  wake();
};

function finish(line: string): never {
  console.log(line);
  process.exit(0);
}

async function take(count: number): Promise<Buffer> {
  while (buffer.length < count) {
    if (closed) finish("closed");
    await new Promise<void>((resolve) => (wake = resolve));
  }
  const taken = buffer.subarray(0, count);
  buffer = buffer.subarray(count);
  return taken;
}

function open(): (bytes: Uint8Array) => void {
  if (!target.startsWith("ws://")) {
    const socket = connect(Number(target), "127.0.0.1");
    socket.on("data", add).on("close", end).on("error", end);
    return (bytes) => socket.write(bytes);
  }
  const socket = new WebSocket(target, {
    protocols: ["binary"],
    headers: {
      ...(HAAS_CREDENTIALS && { authorization: `Basic ${Buffer.from(HAAS_CREDENTIALS).toString("base64")}` }),
      ...(ORIGIN && { origin: ORIGIN }),
    },
  });
  socket.binaryType = "arraybuffer";
  socket.addEventListener("message", ({ data }) =>
    typeof data === "string" ? finish("text message") : add(new Uint8Array(data as ArrayBuffer)),
  );
  socket.addEventListener("close", end);
  return (bytes) => socket.send(bytes);
}

/** DES with the password as key, each byte's bits in reverse. */
function answerTo(challenge: Buffer): Buffer {
  const reverse = (byte: number) => [...Array(8).keys()].reduce((sum, bit) => sum | (((byte >> bit) & 1) << (7 - bit)), 0);
  const key = Buffer.alloc(8);
  Buffer.from(VNC_PASSWORD).copy(key);
  return createCipheriv("des-ecb", key.map(reverse), null).setAutoPadding(false).update(challenge);
}

const send = open();
const version = (await take(12)).toString();
if (!version.startsWith("RFB 003.008")) finish(`version ${version}`);
send(Buffer.from("RFB 003.008\n"));
const types = [...(await take((await take(1))[0]!))];
if (types.includes(1)) finish("no password is asked for");
if (!types.includes(2)) finish(`types ${types.join()}`);
send(Buffer.from([2]));
send(answerTo(await take(16)));
if ((await take(4)).readUInt32BE() !== 0) finish(`refused ${(await take((await take(4)).readUInt32BE())).toString()}`);
send(Buffer.from([1]));
const init = await take(24);
const name = (await take(init.readUInt32BE(20))).toString();
if (OPENED) writeFileSync(OPENED, "");
const until = Date.now() + Number(HOLD_MS);
while (!closed && Date.now() < until) await Bun.sleep(50);
if (closed) finish("closed early");
finish(`ok ${init.readUInt16BE(0)}x${init.readUInt16BE(2)} ${name}`);

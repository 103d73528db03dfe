import dgram from "node:dgram";
import { ask, macOf } from "./site.ts";

// `bun swarm.ts SERVER PORT COUNT`, within the nodes' network: so many nodes boot at once, each from its own address. Firmware
// loads its boot loader and configuration by TFTP, the loader asks by HTTP; a line for every node that fares otherwise than the rest.

/** For `bun`. */
export const swarmProgram = import.meta.path;

const windowTimeoutMs = 2_000;
const tries = 15;
const blockBytes = 1_408;

/** Read a file by TFTP with blocks that fill a frame (RFC 1350, 2348), as firmware does. Rejects with the server's words. */
export async function tftpGet(server: string, name: string, from: string, mode: "get" | "put" = "get"): Promise<Buffer> {
  const socket = dgram.createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, from, resolve));
  const blocks: Buffer[] = [];
  const request = Buffer.concat([Buffer.from([0, mode === "get" ? 1 : 2]), Buffer.from(`${name}\0octet\0blksize\0${blockBytes}\0`)]);
  let last = { packet: request, port: 69 };
  try {
    return await new Promise<Buffer>((resolve, reject) => {
      let left = tries;
      const send = () => socket.send(last.packet, last.port, server);
      const timer = setInterval(() => (left-- > 0 ? send() : reject(new Error("no answer"))), windowTimeoutMs);
      const end = (settle: () => void) => {
        clearInterval(timer);
        settle();
      };
      socket.on("message", (message, { port }) => {
        const [code, number] = [message.readUInt16BE(0), message.readUInt16BE(2)];
        if (code === 5) return end(() => reject(new Error(message.subarray(4).toString().replaceAll("\0", ""))));
        if (code === 4) return end(() => resolve(Buffer.from("taken")));
        // The block size is agreed on: that is acknowledged as block 0.
        if (code === 6 && blocks.length === 0) {
          last = { packet: Buffer.from([0, 4, 0, 0]), port };
          return send();
        }
        if (code === 3 && number === blocks.length + 1) blocks.push(message.subarray(4));
        const acknowledged = Buffer.from([0, 4, message[2]!, message[3]!]);
        last = { packet: acknowledged, port };
        if (code === 3 && number <= blocks.length) send();
        if (code === 3 && number === blocks.length && message.length < blockBytes + 4) end(() => resolve(Buffer.concat(blocks)));
      });
      send();
    });
  } finally {
    socket.close();
  }
}

async function story(server: string, port: string, i: number, from: string): Promise<string> {
  const url = `http://${server}:${port}`;
  const mac = macOf(i);
  const loader = await tftpGet(server, "lpxelinux.0", from);
  const entry = (await tftpGet(server, `pxelinux.cfg/01-${mac.replaceAll(":", "-")}`, from)).toString();
  const next = / CONFIG (\S+)/.exec(entry)?.[1] ?? "";
  const config = await ask(url, new URL(next).pathname, { from });
  const kernel = await ask(url, "/files/linux/vmlinuz", { from });
  const initrd = await ask(url, "/files/linux/initrd.img", { from });
  const answers = await ask(url, `/node/${mac}/answers`, { from });
  const done = await ask(url, `/${mac}`, { from, method: "DELETE" });
  const again = await ask(url, new URL(next).pathname, { from });
  const facts = [loader.length > 10_000, config.body.includes("APPEND"), kernel.status, initrd.body.length];
  const more = [answers.body.startsWith(`for ${mac} ${mac} ${from}\n`), done.status, again.body.includes("LOCALBOOT")];
  return [...facts, ...more].join();
}

if (import.meta.main) {
  const [server = "", port = "", count = ""] = process.argv.slice(2);
  const addressOf = (i: number) => `10.78.1.${i}`;
  const stories = await Promise.all(
    Array.from({ length: Number(count) }, (_, k) => k + 1).map((i) => story(server, port, i, addressOf(i)).catch((error) => String(error))),
  );
  console.log([...new Set(stories)].join("\n"));
}

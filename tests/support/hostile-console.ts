import { createServer, type Socket } from "node:net";

// A telnet console that means harm, in a process of its own: `bun hostile-console.ts <what> [banner]` prints its port. It
// answers every `show` with what its name says, or says it before it lets anybody in.

const blanks = " ".repeat(15_000);
const trunk = "Port: Gi1/0/1\r\nVLAN Membership Mode: Trunk\r\nTrunking Mode Native VLAN: 1\r\nTrunking Mode VLANs Enabled: 1-4094\r\n";

const texts = {
  "long lines of blanks": () => `${blanks}x\r\n`.repeat(200),
  "lines of blanks": () => `Port: Gi1/0/1\r\n${`${blanks.slice(0, 4_000)}x\r\n`.repeat(900)}`,
  "lines of tabs": () => `Port: Gi1/0/1\r\n${`${"\t".repeat(4_000)}x\r\n`.repeat(900)}`,
  "short lines": () => "ab\r\n".repeat(970_000),
  "empty lines": () => "\n".repeat(3_900_000),
  "one line": () => `${"y".repeat(4_000_000)}\r\n`,
  "lists of all VLANs": () => trunk + ` ${"1-4094,".repeat(500)}1\r\n`.repeat(1_000),
  "lines made long by the cursor": () => "\u001b[500Cx\n".repeat(400_000),
  "a line drawn again and again": () => `\u001b[2K\u001b[500Cx`.repeat(300_000),
  "log lines": () => `${"%A".repeat(2_000)}\r\n`.repeat(900),
  "separators of lines that are none": () => `${"# ".repeat(1_900)}\u2028\r\n`.repeat(900),
  prompts: () => "\rsw#".repeat(900_000),
  negotiation: () => Buffer.from(Array.from({ length: 3_900_000 }, (_, i) => [255, 253, Math.floor(i / 3) % 200][i % 3]!)),
  "no operations": () => Buffer.alloc(3_900_000, Buffer.from([255, 241])),
  pages: () => "",
} as const satisfies Record<string, () => string | Buffer>;

export type Hostility = keyof typeof texts;

const pagesAtMost = 20_000;

if (import.meta.main) {
  const [what, when] = process.argv.slice(2) as [Hostility, string?];
  const text = texts[what]();
  const server = createServer((socket) => {
    socket.on("error", () => {});
    if (when === "banner") socket.write(text);
    socket.write("\r\nsw#");
    let pages = 0;
    socket.on("data", (bytes: Buffer) => {
      const line = bytes.toString().trim();
      if (bytes.toString() === " " && pages++ < pagesAtMost) return void page(socket);
      socket.write(`${line}\r\n`);
      if (line.startsWith("show")) {
        socket.write(text);
        if (what === "pages") return page(socket);
      }
      socket.write("\r\nsw#");
    });
  });
  server.listen(0, "127.0.0.1", () => console.log((server.address() as { port: number }).port));
}

function page(socket: Socket): void {
  socket.write(`${"line line line\r\n".repeat(20)}--More--`);
}

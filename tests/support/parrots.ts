import { type AddressInfo, createServer, type Socket } from "node:net";
import { secrets } from "./secrets.ts";

// Switches that have no sense of what a secret is: they repeat the passwords that they are told.

export interface Parrot {
  /** `127.0.0.1:port`. */
  readonly hostname: string;
  stop(): Promise<void>;
}

/** How a console repeats passwords; every one but `refusal` lets in, and quotes them in the error that answers each command. */
export const consoleHabits = ["errors", "echo", "bytewise", "refusal", "prompt", "enable", "banner"] as const;
export type ConsoleHabit = (typeof consoleHabits)[number];

/** A console over telnet. */
export async function startConsoleParrot(habit: ConsoleHabit): Promise<Parrot> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => {});
    converse(socket, habit);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    hostname: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function converse(socket: Socket, habit: ConsoleHabit): void {
  /** All lines so far: the name, the password, and what came then. */
  const told: string[] = [];
  const echoesPassword = habit === "echo" || habit === "bytewise";
  const say = (text: string) => {
    if (habit !== "bytewise") socket.write(text);
    else for (const byte of Buffer.from(text)) socket.write(Buffer.of(byte));
  };
  const prompt = () => (habit === "prompt" ? `${told[1]}#` : habit === "enable" && told.length < 5 ? "parrot>" : "parrot#");
  const answer = (line: string): string => {
    told.push(line);
    if (told.length === 1) return `${line}\r\nPassword:`;
    // With a sequence of the terminal in it, as where a line is drawn anew.
    if (told.length === 2 && echoesPassword) return `${line.slice(0, 7)}\x1b[K${line.slice(7)}\r\n${prompt()}`;
    if (told.length === 2 && habit === "refusal") return `\r\nLogin incorrect, admin: you said ${line}\r\nlogin: `;
    if (told.length === 2 || line === "") return `\r\n${prompt()}`;
    if (line === "enable" && habit === "enable") return `${line}\r\nPassword:`;
    return `${line}\r\n% Invalid: you said ${told[1]}, and then ${line}\r\n${prompt()}`;
  };
  say(habit === "banner" ? `The passwords are ${secrets.console} and ${secrets.enable}.\r\n\r\nlogin: ` : "login: ");
  let typed = "";
  socket.on("data", (bytes: Buffer) => {
    const lines = (typed + bytes.toString("latin1")).replaceAll("\n", "").split("\r");
    typed = lines.pop()!;
    for (const line of lines) say(answer(line));
  });
}

/** A REST interface of either vendor that answers every call with this status, and says who it was called by. */
export function startRestParrot(status: 200 | 401 | 500): Parrot {
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const header = request.headers.get("authorization")!;
      const [, password] = Buffer.from(header.split(" ")[1]!, "base64").toString().split(":");
      const body =
        status === 200
          ? contentFor(request, `you said ${password}`)
          : element("errors", "error", "error-message", `${header}: you said ${password}`);
      return new Response(body, { status, headers: { "content-type": "application/xml" } });
    },
  });
  return { hostname: `127.0.0.1:${server.port}`, stop: () => server.stop(true) };
}

/** What the driver asks for, with these words where it looks for names, VLANs or the words of the command line. */
function contentFor({ method, url }: Request, said: string): string {
  if (method === "POST") return element("output", "command", `% Error: ${said}`);
  if (url.endsWith("/mode")) return element("mode", "vlan-mode", "trunk");
  if (url.endsWith("/trunk")) return element("trunk", "allowed", "vlan", "add", said);
  if (url.includes("/interfaces/")) return element("interface", "name", said);
  return element("TenGigabitEthernet", "name", "1/0/1");
}

/** Elements inside each other around a text, which comes last. */
function element(...path: string[]): string {
  const text = path.pop()!;
  return (
    path.map((name) => `<${name}>`).join("") +
    text +
    path
      .toReversed()
      .map((name) => `</${name}>`)
      .join("")
  );
}

import { createConnection } from "node:net";
import { ConsoleLost, connectionProblem, type Endpoint, Incoming, type Transport, Valve } from "./transport.ts";

// RFC 854 and 855; options: ECHO 857, SUPPRESS-GO-AHEAD 858, TERMINAL-TYPE 1091, NAWS 1073.
const [SE, SB, WILL, WONT, DO, DONT, IAC] = [240, 250, 251, 252, 253, 254, 255];
const [echo, suppressGoAhead, terminalType, windowSize] = [1, 3, 24, 31];
const [IS, SEND] = [0, 1];
/** So that nothing we type is wrapped; a height of 0 is "unlimited". */
const columns = 500;
const subnegotiationLimitBytes = 512;
/** A device that goes on and on negotiating wants nothing else. */
const answersLimit = 1_000;
const negotiationLimitBytes = 1024 * 1024;

/** Connect; rejects with ConsoleLost. There is no login yet: the device asks for it in its own words. */
export function connectTelnet(endpoint: Endpoint): Promise<Transport> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host: endpoint.host, port: endpoint.port, noDelay: true });
    const valve = new Valve(socket);
    const incoming = new Incoming((bytes) => valve.taken(bytes));
    const giveUp = (why: string) => {
      clearTimeout(timer);
      socket.destroy();
      reject(new ConsoleLost(why));
    };
    const silent = `${endpoint.host}, port ${endpoint.port} does not answer within ${endpoint.timeoutMs / 1000} s`;
    const timer = setTimeout(() => giveUp(silent), endpoint.timeoutMs);
    endpoint.signal?.addEventListener("abort", () => giveUp("the connection was given up"));
    let answers = 0;
    let negotiatedBytes = 0;
    const negotiation = new Negotiation();
    socket.on("connect", () => {
      clearTimeout(timer);
      socket.setKeepAlive(true, 10_000);
      resolve({
        lineEnd: "\r\n",
        read: (timeoutMs) => incoming.read(timeoutMs),
        // In a text no byte is IAC: that value does not occur in UTF-8.
        write: (text) => void socket.write(text),
        close: () => {
          incoming.end("the connection was closed");
          socket.destroy();
        },
      });
    });
    socket.on("data", (bytes: Buffer) => {
      const { text, replies } = negotiation.filter(bytes);
      valve.arrived(text.length);
      incoming.push(text);
      answers += replies.length;
      negotiatedBytes += bytes.length - text.length;
      if (answers > answersLimit || negotiatedBytes > negotiationLimitBytes) {
        incoming.end("the device negotiates without end");
        socket.destroy();
      } else if (replies.length > 0) {
        // In one write: a device that refuses hangs up behind its words, and a second write, which fails, may lose them.
        socket.write(Buffer.concat(replies));
      }
    });
    socket.on("error", (error) => {
      clearTimeout(timer);
      const why = connectionProblem(error, endpoint);
      incoming.end(why);
      reject(new ConsoleLost(why));
    });
    socket.on("close", () => incoming.end("the device closed the connection"));
  });
}

/** Takes telnet's commands out of what arrives, and knows the answers to them. */
class Negotiation {
  #state: "data" | "return" | "command" | "option" | "sub" | "subCommand" = "data";
  #verb = 0;
  #sub: number[] = [];
  /** What was agreed already: to answer that again would never end. */
  readonly #settled = new Set<string>();
  #replies: Uint8Array[] = [];
  #text = new Uint8Array();
  #length = 0;

  filter(bytes: Uint8Array): { text: Uint8Array; replies: Uint8Array[] } {
    // No byte becomes more than one.
    this.#text = new Uint8Array(bytes.length);
    this.#length = 0;
    for (const byte of bytes) this.#take(byte);
    const replies = this.#replies;
    this.#replies = [];
    return { text: this.#text.subarray(0, this.#length), replies };
  }

  #take(byte: number): void {
    switch (this.#state) {
      case "return":
        this.#state = "data";
        // CR NUL is a carriage return alone.
        if (byte === 0) return;
        return this.#take(byte);
      case "data":
        if (byte === IAC) this.#state = "command";
        else {
          this.#text[this.#length++] = byte;
          if (byte === 13) this.#state = "return";
        }
        return;
      case "command":
        if (byte === IAC) this.#text[this.#length++] = IAC;
        if (byte === SB) this.#sub = [];
        if (byte >= WILL && byte <= DONT) this.#verb = byte;
        this.#state = byte === SB ? "sub" : byte >= WILL && byte <= DONT ? "option" : "data";
        return;
      case "option":
        this.#state = "data";
        return this.#answer(this.#verb, byte);
      case "sub":
        if (byte === IAC) this.#state = "subCommand";
        else if (this.#sub.length < subnegotiationLimitBytes) this.#sub.push(byte);
        return;
      case "subCommand":
        this.#state = byte === SE ? "data" : "sub";
        if (byte === SE && this.#sub[0] === terminalType && this.#sub[1] === SEND) {
          this.#replies.push(Uint8Array.from([IAC, SB, terminalType, IS, ...Buffer.from("vt100"), IAC, SE]));
        }
        return;
      default:
        this.#state satisfies never;
    }
  }

  #answer(verb: number, option: number): void {
    const key = `${verb} ${option}`;
    if (this.#settled.has(key)) return;
    this.#settled.add(key);
    const say = (answer: number) => this.#replies.push(Uint8Array.from([IAC, answer, option]));
    if (verb === WILL) say(option === echo || option === suppressGoAhead ? DO : DONT);
    else if (verb === DO) {
      const willing = option === suppressGoAhead || option === terminalType || option === windowSize;
      say(willing ? WILL : WONT);
      if (option === windowSize) this.#replies.push(Uint8Array.from([IAC, SB, windowSize, columns >> 8, columns & 255, 0, 0, IAC, SE]));
    }
    // WONT and DONT say what holds anyway, unless it was agreed otherwise before.
    else if (this.#settled.delete(`${verb === WONT ? WILL : DO} ${option}`)) say(verb === WONT ? DONT : WONT);
  }
}

import { type Serve, Session, type Wire } from "./session.ts";

const telnet = { SE: 240, SB: 250, WILL: 251, WONT: 252, DO: 253, DONT: 254, IAC: 255 };
const option = { echo: 1, suppressGoAhead: 3, terminalType: 24, windowSize: 31 };

export const serveTelnet: Serve = (socket, host, welcome) => {
  const wire: Wire = {
    write: (bytes) =>
      void socket.write(bytes.includes(telnet.IAC) ? Buffer.from([...bytes].flatMap((b) => (b === telnet.IAC ? [b, b] : [b]))) : bytes),
    end: () => void socket.end(),
    destroy: () => void socket.destroy(),
  };
  const session = new Session(host, wire);
  const text = telnetText((reply) => void socket.write(Buffer.from(reply)));
  const { IAC, WILL, DO } = telnet;
  socket.write(
    Buffer.from([IAC, WILL, option.echo, IAC, WILL, option.suppressGoAhead, IAC, DO, option.terminalType, IAC, DO, option.windowSize]),
  );
  socket.on("data", (bytes: Buffer) => session.feed(text(bytes)));
  socket.on("close", () => session.closed());
  void session.run({ ...welcome, asksLogin: true });
};

/** Takes the negotiation out of what comes, and answers it. Its state is kept from one chunk to the next. */
function telnetText(reply: (bytes: number[]) => void): (bytes: Uint8Array) => number[] {
  const { SE, SB, WILL, WONT, DO, DONT, IAC } = telnet;
  let state: "text" | "command" | "option" | "parameter" | "parameter command" = "text";
  let verb = 0;
  const answerOption = (what: number) => {
    if (verb === WILL && what === option.terminalType) reply([IAC, SB, what, 1, IAC, SE]);
    else if (verb === WILL && what !== option.windowSize) reply([IAC, DONT, what]);
    else if (verb === DO && what !== option.echo && what !== option.suppressGoAhead) reply([IAC, WONT, what]);
  };
  return (bytes) => {
    const text: number[] = [];
    for (const byte of bytes) {
      if (state === "text") {
        if (byte === IAC) state = "command";
        else text.push(byte);
      } else if (state === "command") {
        verb = byte;
        if (byte === IAC) text.push(byte);
        state = byte === SB ? "parameter" : byte >= WILL && byte <= DONT ? "option" : "text";
      } else if (state === "option") {
        answerOption(byte);
        state = "text";
      } else if (state === "parameter") {
        if (byte === IAC) state = "parameter command";
      } else {
        state = byte === SE ? "text" : "parameter";
      }
    }
    return text;
  };
}

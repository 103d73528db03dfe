/** The connection is gone, or of no more use: out of step, silent for too long, flooded. The message is a sentence without its end. */
export class ConsoleLost extends Error {}

/** The device does not let us in. The message is a sentence without its end. */
export class LoginRefused extends Error {}

/** A connection to a console: bytes as text, in both directions. */
export interface Transport {
  /** What ends a line that is typed. */
  readonly lineEnd: "\n" | "\r\n";
  /** The next text that arrived, never an empty one; null when none came within `timeoutMs`. Rejects with ConsoleLost after the end. */
  read(timeoutMs: number): Promise<string | null>;
  write(text: string): void;
  /** End the connection, now. */
  close(): void;
}

/** Where a connection goes. Times in milliseconds. */
export interface Endpoint {
  readonly host: string;
  readonly port: number;
  readonly timeoutMs: number;
  /** Gives the connection up while it is being made. */
  readonly signal?: AbortSignal | undefined;
}

/** `host`, `host:port`, `[address]:port` or an IPv6 address alone; null for anything else. */
export function parseAddress(text: string, defaultPort: number): { host: string; port: number } | null {
  const [, bracketed, name, port] = /^(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:[\]/@]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = bracketed ?? name ?? (/^[0-9A-Fa-f:.]+$/.test(text) && text.includes(":") ? text : undefined);
  const number = port === undefined ? defaultPort : Number(port);
  return host === undefined || number < 1 || number > 65_535 ? null : { host, port: number };
}

/** More than any device says between two of our questions. */
const floodBytes = 4 * 1024 * 1024;

/** What arrived and was not read yet. */
export class Incoming {
  readonly #decoder = new TextDecoder();
  #text = "";
  #end: ConsoleLost | null = null;
  #arrived: (() => void) | null = null;

  push(bytes: Uint8Array): void {
    if (this.#end) return;
    this.#text += this.#decoder.decode(bytes, { stream: true });
    if (this.#text.length > floodBytes) this.end("the device sends without end");
    else if (this.#text !== "") this.#arrived?.();
  }

  /** Nothing more will arrive; `why` completes "Switch 'x': …". What arrived can still be read. */
  end(why: string): void {
    this.#end ??= new ConsoleLost(why);
    this.#arrived?.();
  }

  async read(timeoutMs: number): Promise<string | null> {
    if (this.#text === "" && !this.#end && timeoutMs > 0) await this.#wait(timeoutMs);
    const text = this.#text;
    this.#text = "";
    if (text !== "") return text;
    if (this.#end) throw this.#end;
    return null;
  }

  #wait(timeoutMs: number): Promise<void> {
    return new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#arrived = () => {
        clearTimeout(timer);
        resolve();
      };
    }).then(() => void (this.#arrived = null));
  }
}

/** Why a connection could not be made or ended, in words, from what the socket's error says. */
export function connectionProblem(error: Error & { code?: string }, { host, port }: { host: string; port: number }): string {
  const where = `${host}, port ${port}`;
  switch (error.code) {
    case "ECONNREFUSED":
      return `${where} refuses connections; is that the switch's address, and is this service enabled on it`;
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return `the name ${host} is not known`;
    case "EHOSTUNREACH":
    case "ENETUNREACH":
      return `there is no route to ${host}`;
    case "ETIMEDOUT":
      return `${where} does not answer`;
    case "ECONNRESET":
    case "EPIPE":
      return "the device dropped the connection";
    default:
      return `the connection failed (${error.message})`;
  }
}

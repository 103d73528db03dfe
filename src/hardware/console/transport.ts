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

/** What one `read` gives at most, so that nobody works for long on what one device says. */
const sliceCharacters = 8 * 1024;
/** So much may wait to be read; a device that says more is not listened to until half of it has been. */
const waitingBytes = 256 * 1024;

/** Keeps a device from saying more than somebody reads: its socket is paused, and so in the end is the device. */
export class Valve {
  #waiting = 0;
  #isShut = false;

  constructor(readonly socket: { pause(): unknown; resume(): unknown }) {}

  arrived(bytes: number): void {
    this.#waiting += bytes;
    if (this.#isShut || this.#waiting <= waitingBytes) return;
    this.#isShut = true;
    this.socket.pause();
  }

  taken(bytes: number): void {
    this.#waiting -= bytes;
    if (!this.#isShut || this.#waiting > waitingBytes / 2) return;
    this.#isShut = false;
    this.socket.resume();
  }
}

/** What arrived and was not read yet. `taken` is told how many of the bytes have been read; whoever pushes is to bound the rest. */
export class Incoming {
  readonly #decoder = new TextDecoder();
  #slices: { text: string; bytes: number }[] = [];
  #end: ConsoleLost | null = null;
  #arrived: (() => void) | null = null;

  constructor(readonly taken: (bytes: number) => void) {}

  push(bytes: Uint8Array): void {
    if (this.#end) return;
    for (let from = 0; from < bytes.length; from += sliceCharacters) {
      const some = bytes.subarray(from, from + sliceCharacters);
      const text = this.#decoder.decode(some, { stream: true });
      const last = this.#slices.at(-1);
      if (last && last.text.length + text.length <= sliceCharacters) {
        last.text += text;
        last.bytes += some.length;
      } else this.#slices.push({ text, bytes: some.length });
    }
    if (this.#slices.some(({ text }) => text !== "")) this.#arrived?.();
  }

  /** Nothing more will arrive; `why` completes "Switch 'x': …". What arrived can still be read. */
  end(why: string): void {
    this.#end ??= new ConsoleLost(why);
    this.#arrived?.();
  }

  async read(timeoutMs: number): Promise<string | null> {
    // Whoever reads all of a flood lets others have their turns in between.
    if (this.#slices.length > 1) await new Promise((resolve) => setImmediate(resolve));
    else if (this.#slices.length === 0 && !this.#end && timeoutMs > 0) await this.#wait(timeoutMs);
    for (let slice = this.#slices.shift(); slice; slice = this.#slices.shift()) {
      this.taken(slice.bytes);
      if (slice.text !== "") return slice.text;
    }
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
export function connectionProblem(error: { message: string; code?: string }, { host, port }: { host: string; port: number }): string {
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

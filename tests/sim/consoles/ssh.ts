import type { Socket } from "node:net";
import { type AuthContext, type Connection, type ParsedKey, Server, type ServerChannel, utils } from "ssh2";
import { type Host, type Serve, Session, type Welcome, type Wire } from "./session.ts";

export interface SshOptions {
  /** A public key, as in `authorized_keys`, that logs in as well as the password. */
  readonly authorizedKey?: string;
  /** The private key of the SSH server, PEM. Default: a new one. */
  readonly hostKey?: string;
  /** An SSH server that knows nothing newer than 2005. */
  readonly legacyAlgorithms?: true;
  /** An SSH server that lets everybody in; the console asks who it is. */
  readonly shellLogin?: true;
}

const legacyAlgorithms = {
  kex: ["diffie-hellman-group14-sha1"],
  serverHostKey: ["ssh-rsa"],
  cipher: ["aes128-cbc"],
  hmac: ["hmac-sha1"],
} as const;
// Bun has no chacha20 as ssh2 wants it.
const algorithms = { cipher: ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr"] } as const;

export function sshServer(options: SshOptions): Serve {
  const hostKeys = [{ key: parseKey(options.hostKey ?? newHostKey(options.legacyAlgorithms === true)) }];
  const authorizedKey = options.authorizedKey === undefined ? null : parseKey(options.authorizedKey);
  return (socket, host, welcome) => {
    const { ident } = host.dialect;
    const config = { hostKeys, ident, algorithms: options.legacyAlgorithms ? legacyAlgorithms : algorithms };
    const server = new Server(config as unknown as ConstructorParameters<typeof Server>[0], (connection) => {
      connection.on("error", () => {});
      const refuse = welcome.fault?.kind === "refuse" && !options.shellLogin;
      authenticate(connection, host, { authorizedKey, refuse, everybody: options.shellLogin === true });
      connection.on("session", (acceptSession) => {
        const channel = acceptSession();
        let columns = 0;
        channel.on("pty", (acceptPty, _reject, { cols }) => {
          columns = cols;
          acceptPty?.();
        });
        channel.on("window-change", (acceptChange) => acceptChange?.());
        channel.on("shell", (acceptShell) => {
          const stream = acceptShell();
          runShell(stream, connection, socket, host, { ...welcome, asksLogin: options.shellLogin === true, columns });
        });
      });
    });
    server.injectSocket(socket);
  };
}

const newHostKey = (legacy: boolean): string =>
  (legacy ? utils.generateKeyPairSync("rsa", { bits: 2048 }) : utils.generateKeyPairSync("ecdsa", { bits: 256 })).private;

function parseKey(text: string): ParsedKey {
  const key = utils.parseKey(text);
  if (key instanceof Error) throw key;
  return Array.isArray(key) ? key[0]! : key;
}

function runShell(stream: ServerChannel, connection: Connection, socket: Socket, host: Host, welcome: Welcome): void {
  const wire: Wire = {
    write: (bytes) => void (stream.writable && stream.write(bytes)),
    end() {
      stream.end();
      connection.end();
    },
    destroy: () => void socket.destroy(),
  };
  const session = new Session(host, wire);
  stream.on("data", (bytes: Buffer) => session.feed(bytes));
  stream.on("error", () => {});
  stream.on("close", () => session.closed());
  socket.on("close", () => session.closed());
  void session.run(welcome);
}

const maxTries = 3;

function authenticate(
  connection: Connection,
  { behaviour, username, password }: Host,
  { authorizedKey, refuse, everybody }: { authorizedKey: ParsedKey | null; refuse: boolean; everybody: boolean },
): void {
  let wrong = 0;
  const methods: AuthContext["method"][] = ["password", "keyboard-interactive", ...(authorizedKey ? (["publickey"] as const) : [])];
  const decide = (context: AuthContext, isRight: boolean) => {
    const answer = () => {
      if (isRight && !refuse && !behaviour.refusesLogins && context.username === username) return context.accept();
      context.reject(methods);
      if (++wrong === maxTries) connection.end();
    };
    if (behaviour.loginDelayMs > 0) setTimeout(answer, behaviour.loginDelayMs);
    else answer();
  };
  connection.on("authentication", (context) => {
    if (everybody) return context.accept();
    switch (context.method) {
      case "password":
        return decide(context, context.password === password);
      case "keyboard-interactive":
        return context.prompt([{ prompt: "Password: ", echo: false }], (answers) => decide(context, answers[0] === password));
      case "publickey": {
        const { key, signature, blob, hashAlgo } = context;
        const isKnown = authorizedKey !== null && authorizedKey.getPublicSSH().equals(key.data);
        // Without a signature it only asks whether that key would do.
        if (!signature) return isKnown ? context.accept() : context.reject(methods);
        // It may also be an error, which its type hides.
        const verified: unknown = isKnown && authorizedKey.verify(blob!, signature, hashAlgo);
        return decide(context, verified === true);
      }
      default:
        return context.reject(methods);
    }
  });
}

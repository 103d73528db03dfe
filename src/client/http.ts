import { connect, getCACertificates } from "node:tls";
import { messageOf } from "../errors.ts";

const probeTimeoutMs = 3_000;

export type Method = "GET" | "PUT" | "POST" | "PATCH" | "DELETE";

/** One call of the API. Every segment of the path is a name as the user wrote it; encoding happens here. `.` and `..` are no names. */
export interface Call {
  readonly method: Method;
  readonly path: readonly string[];
  readonly body?: unknown;
  readonly query?: Readonly<Record<string, string>>;
  /** The answer is text, whatever it looks like. */
  readonly text?: boolean;
  /** For the whole of this request, instead of the client's own limit. */
  readonly timeoutMs?: number;
}

/** An error answer, in the server's words. */
export class ApiError extends Error {
  constructor(
    readonly type: string,
    readonly msg: string,
    readonly status: number,
    readonly requestId: string | null,
  ) {
    super(msg);
    this.name = "ApiError";
  }
}

/** No answer came. The message names the endpoint. */
export class UnreachableError extends Error {
  constructor(endpoint: string, why: string) {
    super(`Can't reach ${endpoint}: ${why}.`);
    this.name = "UnreachableError";
  }
}

/** An endpoint that is not an http address. */
export class EndpointError extends Error {}

export interface ClientSettings {
  readonly endpoint: string;
  /** Sent as HTTP basic credentials when both are given. */
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  /** Certificates (PEM) of authorities to trust beside the system's; for an https endpoint. */
  readonly ca?: string | undefined;
  /** For the whole request. Power commands wait for a BMC, hence the long default. */
  readonly requestTimeoutMs?: number;
}

export interface Client {
  readonly endpoint: string;
  readonly hasCredentials: boolean;
  /** Others can read what is sent: it leaves this machine without TLS. */
  readonly exposed: boolean;
  /** The answer: parsed JSON, else text, else null when it is empty. Rejects with ApiError or UnreachableError. */
  call(call: Call): Promise<unknown>;
  /** A WebSocket, with the same credentials. */
  socket(path: readonly string[]): WebSocket;
}

export function createClient({ endpoint, username, password, ca, requestTimeoutMs = 120_000 }: ClientSettings): Client {
  const base = parseEndpoint(endpoint);
  const tls = base.encrypted ? { tls: { ca: authorities(ca), rejectUnauthorized: true } } : {};
  const headers: Record<string, string> = { accept: "application/json, text/plain" };
  const credentials = username !== undefined && password !== undefined ? `${username}:${password}` : base.credentials;
  if (credentials !== null) headers.authorization = `Basic ${Buffer.from(credentials).toString("base64")}`;

  return {
    endpoint: base.shown,
    hasCredentials: credentials !== null,
    exposed: !base.encrypted && !base.local,
    socket: (path) => new WebSocket(base.address.replace(/^http/, "ws") + encodePath(path), { protocols: ["binary"], headers, ...tls }),
    async call({ method, path, body, query, text, timeoutMs = requestTimeoutMs }) {
      let response: Response;
      let answer: string;
      try {
        response = await fetch(base.address + encodePath(path) + encodeQuery(query), {
          method,
          headers: body === undefined ? headers : { ...headers, "content-type": "application/json" },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
          // A redirect would take the password to wherever the answer points.
          redirect: "manual",
          signal: AbortSignal.timeout(timeoutMs),
          // Bun gives up by itself after six minutes of silence; the signal is the only limit.
          timeout: false,
          ...tls,
        });
        answer = await response.text();
      } catch (error) {
        const why = isClosed(error) && !base.encrypted && (await speaksTls(base.address)) ? plainToTls : reason(error, timeoutMs);
        throw new UnreachableError(base.shown, why);
      }
      if (!response.ok) throw toApiError(response, answer);
      if (answer === "") return null;
      if (text) return answer;
      const value = parseJson(answer);
      return value === undefined ? answer : value;
    },
  };
}

interface Endpoint {
  /** Without a trailing slash, and without credentials. */
  readonly address: string;
  readonly shown: string;
  readonly credentials: string | null;
  readonly encrypted: boolean;
  /** It is this machine, by a name or an address of the loopback. */
  readonly local: boolean;
}

/** Credentials in the address are used, but never shown. */
function parseEndpoint(endpoint: string): Endpoint {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : null;
  const shown = JSON.stringify(endpoint.replace(/^(\w+:\/\/)?.*@/s, "$1"));
  if (!url || !/^https?:$/.test(url.protocol) || url.search !== "" || url.hash !== "") {
    throw new EndpointError(`The endpoint ${shown} is not an address like http://127.0.0.1:5000.`);
  }
  let credentials: string | null;
  try {
    credentials = url.username === "" ? null : `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  } catch {
    throw new EndpointError(`The credentials of the endpoint ${shown} hold a % that is no escape; write it as %25.`);
  }
  const address = url.origin + url.pathname.replace(/\/+$/, "");
  const local = /^(.+\.)?localhost\.?$|^127(\.\d+){3}$|^\[::1\]$/.test(url.hostname);
  return { address, shown: address, credentials, encrypted: url.protocol === "https:", local };
}

/** Everybody's, the system's, and one's own. */
const authorities = (own: string | undefined): string[] => [
  ...new Set([...getCACertificates("default"), ...getCACertificates("system"), ...(own === undefined ? [] : [own])]),
];

const encodePath = (segments: readonly string[]): string =>
  segments.map((segment) => `/${encodeURIComponent(segment.toWellFormed())}`).join("");

function encodeQuery(query: Readonly<Record<string, string>> = {}): string {
  const text = Object.entries(query).map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value.toWellFormed())}`);
  return text.length > 0 ? `?${text.join("&")}` : "";
}

/** The published error body, else what can be said about an answer that a proxy or another program gave. */
function toApiError(response: Response, answer: string): ApiError {
  const requestId = response.headers.get("x-request-id");
  const body = parseJson(answer);
  if (isObject(body) && typeof body.msg === "string") {
    return new ApiError(typeof body.type === "string" ? body.type : "Error", body.msg, response.status, requestId);
  }
  const location = response.headers.get("location");
  const where = response.status < 400 && location !== null ? `, which points to ${location.replace(/\/\/[^/@]*@/, "//")}` : "";
  return new ApiError(
    "Error",
    `The server answered ${`${response.status} ${response.statusText}`.trim()}${where}.`,
    response.status,
    requestId,
  );
}

const unknownAuthority =
  "its certificate is signed by an authority that is not known here; set HAAS_CA_FILE, or ca_file in [client] of haas.cfg, to a file with the authority's certificate";
const plainToTls = "it expects TLS; its address begins with https://";

/** What is wrong with the TLS of a server, by the code of Bun's error. */
const tlsReasons: Record<string, string> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: unknownAuthority,
  SELF_SIGNED_CERT_IN_CHAIN: unknownAuthority,
  UNABLE_TO_GET_ISSUER_CERT: unknownAuthority,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: unknownAuthority,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: unknownAuthority,
  ERR_TLS_CERT_ALTNAME_INVALID: "its certificate is for other names than this one",
  CERT_HAS_EXPIRED: "its certificate has expired",
  CERT_NOT_YET_VALID: "its certificate is not valid yet; is the clock of this machine right?",
  EPROTO: "there is no TLS, or none that is safe, on this port",
};

const isClosed = (error: unknown): boolean => isObject(error) && (error.code === "ConnectionClosed" || error.code === "ECONNRESET");

/** Whether a server that closed the connection for plain HTTP would have taken TLS. Nothing is sent to it but the handshake. */
function speaksTls(address: string): Promise<boolean> {
  const { hostname, port } = new URL(address);
  const host = hostname.replace(/^\[(.*)\]$/, "$1");
  return new Promise((resolve) => {
    const socket = connect({ host, port: Number(port || 80), rejectUnauthorized: false, timeout: probeTimeoutMs });
    const end = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket
      .once("secureConnect", () => end(true))
      .once("timeout", () => end(false))
      .once("error", () => end(false))
      .once("close", () => end(false));
  });
}

/** Why there was no answer, in words that do not repeat the address. */
function reason(error: unknown, timeoutMs: number): string {
  if (error instanceof DOMException && error.name === "TimeoutError") return `no answer within ${timeoutMs / 1000} s`;
  const code = isObject(error) ? error.code : undefined;
  if (code === "ConnectionRefused" || code === "ECONNREFUSED") return "connection refused";
  if (isClosed(error)) return "the connection was closed before an answer came";
  if (typeof code === "string" && code in tlsReasons) return tlsReasons[code]!;
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") return "no such host";
  if (code === "FailedToOpenSocket") return "no such host, or no way to it";
  return messageOf(error)
    .split("\n")[0]!
    .replace(/[.?\s]+$/, "");
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

import { pick } from "../support/random.ts";
import { mockObm, mockSwitch } from "../support/service.ts";
import { credentialsOf, deviceNames, isKept, legalName } from "./world.ts";
import { chance, jsonText, Members, type Random, someValue, whole } from "./values.ts";

// Legal requests, made from the OpenAPI document.

export interface Operation {
  readonly method: string;
  /** With parameters in braces. */
  readonly path: string;
  readonly parameters: readonly { readonly in: string; readonly name: string; readonly schema: Schema }[];
  readonly body: Schema | null;
}

interface Schema {
  type?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  enum?: unknown[];
  anyOf?: Schema[];
  additionalProperties?: unknown;
  example?: unknown;
}

export function operationsOf(document: any): Operation[] {
  return Object.entries<any>(document.paths).flatMap(([path, methods]) =>
    Object.entries<any>(methods).map(([method, operation]) => ({
      method: method.toUpperCase(),
      path,
      parameters: operation.parameters ?? [],
      body: operation.requestBody?.content["application/json"].schema ?? null,
    })),
  );
}

export const nameOf = ({ method, path }: Operation): string => `${method} ${path}`;

/** A request before it is bytes. Strings of `target`, `headers` and `body` stand for bytes: each character is one. */
export interface Draft {
  method: string;
  target: string;
  version: string;
  headers: (readonly [string, string])[];
  body: Buffer | null;
  /** How the body is sent. */
  chunked: boolean;
  /** What it was made from. */
  readonly operation: Operation;
  /** It registers a device that is no mock: its target has to stay as it is. */
  device: boolean;
}

const safe: ReadonlySet<string> = new Set(["GET", "HEAD"]);
/** Whether nothing may change by it, whatever is answered. */
export const isSafe = (method: string): boolean => safe.has(method.toUpperCase());

export const callers = ["anonymous", "alice", "bob", "carol", "admin"] as const;
export type Caller = (typeof callers)[number];

const legalUsers: readonly Caller[] = ["alice", "bob", "carol", "admin", "admin", "admin", "admin"];

export interface Source {
  readonly random: Random;
  readonly operations: readonly Operation[];
  /** Ids of networking actions that there were. */
  readonly learnt: readonly string[];
  /** Under the null backend nobody has to say who it is. */
  readonly auth: "null" | "database";
  /** Whether raw requests carry some. */
  readonly credentials: boolean;
  readonly host: string;
}

/** Hashing a password takes as long as a hundred other calls. */
const costly = (operation: Operation): boolean => operation.method === "PUT" && operation.path === "/auth/basic/user/{user}";

/** A legal request, as far as the document says; what it names mostly exists. `caller` if somebody in particular sends it. */
export function legalDraft(source: Source, caller: Caller = pick(source.random, legalUsers)): Draft {
  const { random, operations, learnt } = source;
  let operation = pick(random, operations);
  while (costly(operation) && !chance(random, 0.02)) operation = pick(random, operations);
  const path = operation.path.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    let value = legalName(random, name, learnt) ?? "x";
    if (name === "user" && (isKept(value) || operation.method === "DELETE")) value = "dave";
    return encoded(random, value, name === "port");
  });
  const query = operation.parameters
    .filter((one) => one.in === "query" && chance(random, 0.5))
    .map(({ name, schema }) => `${name}=${encodeURIComponent(String(legalValue(source, name, schema)))}`);
  const target = path + (query.length > 0 ? `?${query.join("&")}` : "");
  const headers: (readonly [string, string])[] = [["Host", source.host]];
  if (source.auth === "database" && caller !== "anonymous") headers.push(["Authorization", credentialsOf(caller)]);
  const draft: Draft = {
    method: operation.method,
    target,
    version: "HTTP/1.1",
    headers,
    body: null,
    chunked: chance(random, 0.1),
    operation,
    device: false,
  };
  if (operation.body) {
    draft.body = Buffer.from(jsonText(legalValue(source, "", operation.body)));
    if (operation.method === "PUT" && devices[operation.path] && chance(random, 0.15))
      Object.assign(draft, registration(random, operation.path));
    if (chance(random, 0.5)) headers.push(["Content-Type", pick(random, ["application/json", "application/x-www-form-urlencoded"])]);
  }
  return draft;
}

/** A name as it stands in a path. */
function encoded(random: Random, name: string, isPort: boolean): string {
  const text = encodeURIComponent(name.toWellFormed());
  if (isPort && chance(random, 0.5)) return text.replaceAll("%2F", "/");
  // Either spelling is the same name; a dot is special to URLs.
  return chance(random, 0.1) ? text.replaceAll(".", "%2e").replaceAll(/%../g, (code) => code.toLowerCase()) : text;
}

function legalValue(source: Source, name: string, schema: Schema): unknown {
  const { random, learnt } = source;
  if (name === "metadata")
    return new Members(["", "EK", "a b"].filter(() => chance(random, 0.5)).map((label) => [label, someValue(random)]));
  if (name === "obm") return new Members(Object.entries(mockObm));
  if (schema.properties && "type" in schema.properties && name === "") return new Members(Object.entries(mockSwitch));
  if (schema.enum) return pick(random, schema.enum);
  if (schema.anyOf) return legalValue(source, name, pick(random, schema.anyOf));
  if (schema.type === "object") {
    const members = Object.entries(schema.properties ?? {}).filter(([one]) => schema.required?.includes(one) || chance(random, 0.5));
    return new Members(members.map(([one, of]) => [one, legalValue(source, one, of)]));
  }
  if (schema.type === "boolean") return chance(random, 0.5);
  if (schema.type === "string") return legalName(random, name, learnt) ?? "x";
  return someValue(random);
}

// Devices that are no mocks can be registered only, under names that nothing else uses: haas must not look for them.
const devices: Readonly<Record<string, readonly string[]>> = {
  "/switch/{switch}": [
    "switches/nexus",
    "switches/delln3000",
    "switches/powerconnect55xx",
    "switches/dellnos9",
    "switches/ovs",
    "switches/brocade",
  ],
  "/node/{node}": ["obm/ipmi"],
};
const fieldsOfDevices = [
  "host",
  "hostname",
  "user",
  "username",
  "password",
  "enable_password",
  "ovs_bridge",
  "interface_type",
  "port",
  "dummy_vlan",
  "ssh",
  "host_key",
  "bootdev",
  "x",
];

function registration(random: Random, path: string): Pick<Draft, "target" | "body" | "device"> {
  const type = `http://schema.massopencloud.org/haas/v0/${pick(random, devices[path]!)}`;
  const fields = fieldsOfDevices.filter(() => chance(random, 0.5));
  const values = fields.map(
    (field) =>
      [field, chance(random, 0.6) ? pick(random, ["127.0.0.1", "127.0.0.1:22", "[::1]:22", "br0", "100"]) : someValue(random)] as const,
  );
  const described = new Members([["type", type], ...values]);
  const body = path === "/node/{node}" ? new Members([["obm", described]]) : described;
  return { target: path.replace(/\{\w+\}/, pick(random, deviceNames)), body: Buffer.from(jsonText(body)), device: true };
}

/** The bytes of a request that is well framed, as far as its head goes; a body in chunks where the draft says so. */
export function bytesOf(draft: Draft, random: Random): Buffer {
  const { method, version, body } = draft;
  const headers = [...draft.headers];
  const parts: Buffer[] = [];
  if (body !== null && draft.chunked && version === "HTTP/1.1") {
    headers.push(["Transfer-Encoding", "chunked"]);
    for (let at = 0; at < body.length;) {
      const size = Math.min(1 + whole(random, pick(random, [3, 100, 20_000])), body.length - at);
      parts.push(Buffer.from(`${size.toString(16)}\r\n`), body.subarray(at, at + size), Buffer.from("\r\n"));
      at += size;
    }
    parts.push(Buffer.from("0\r\n\r\n"));
  } else if (body !== null) {
    headers.push(["Content-Length", String(body.length)]);
    parts.push(body);
  }
  const head = `${method} ${draft.target} ${version}\r\n${headers.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`;
  return Buffer.concat([Buffer.from(head, "latin1"), ...parts]);
}

import { FormatRegistry } from "@sinclair/typebox";
import { Elysia, t } from "elysia";
import { type Identity, requireAdmin, type Rights } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { HaasError, noSuchPath, validation } from "../errors.ts";
import type { Arrival } from "../http/arrival.ts";
import { InHand } from "../http/in-hand.ts";
import { markNumbers, parseJson } from "../http/json.ts";
import { isLabel, isPortLabel, isPrintable, labelLimitBytes } from "../inventory/labels.ts";

// What every resource's controller shares: who is calling, how a body is read, and the shapes that
// recur in schemas.

const bodyLimitBytes = 64 * 1024;
/** Of calls that take metadata, from administrators. */
const metadataLimitBytes = 1024 * 1024;
const metadataCall = /^(?:\/v0)?\/node\/:node(?:\/metadata\/:label)?$/;

/** Facts about a request that the HTTP layer knows and a route may need; see app.ts. */
export interface RequestFacts {
  readonly id: string;
  readonly arrival: Arrival;
  readonly receivedAt: number;
  /** Filled in by authentication. */
  identity: Identity | null;
  /** Called when the request is answered. */
  ended: () => void;
}

export const factsOf = new WeakMap<Request, RequestFacts>();

FormatRegistry.Set("label", isLabel);
FormatRegistry.Set("port", isPortLabel);
FormatRegistry.Set("printable", isPrintable);

export const label = (what: string, example: string) =>
  t.String({
    format: "label",
    description: `${what}: printable, without slashes, at most ${labelLimitBytes} bytes, no blank at either end`,
    examples: [example],
  });
/** Port names hold slashes; each switch driver has rules of its own. */
export const portLabel = () => t.String({ format: "port", description: "Name of the port, slashes raw or as %2F", examples: ["gi1/0/1"] });
/** A name in a body that refers to something: any string, which then exists or does not. */
export const reference = (what: string, example: string) => t.String({ description: what, examples: [example], pattern: "^[^\\u0000]*$" });

export const object = <P extends Parameters<typeof t.Object>[0]>(properties: P, example?: unknown) =>
  t.Object(properties, { additionalProperties: false, ...(example !== undefined && { examples: [example] }) });
export const nothing = object({});
export const names = (what: string) => t.Array(t.String(), { description: what, examples: [["one", "two"]] });

const errorBody = (description: string, type: string, msg: string) =>
  t.Object({ type: t.String(), msg: t.String() }, { description, examples: [{ type, msg }] });

const errors = {
  400: errorBody("The request is malformed, or a value is not legal", "ValidationError", "Body: 'node' is required."),
  401: errorBody("Not authenticated, or not permitted", "AuthorizationError", "Only an administrator may do this."),
  404: errorBody("Something that was named does not exist", "NotFoundError", "Node 'n1' does not exist."),
  409: errorBody("It exists already, is in another state, or something must change first", "BlockedError", "Node 'n1' is not free."),
  500: errorBody(
    "A BMC, a switch or the hypervisor failed, or haas did; the answer says which",
    "OBMError",
    "The BMC at 10.0.0.1 did not answer.",
  ),
};

/** The responses of a call: what success looks like, and how it can fail beside 400 and 401. */
export function responses<S extends Record<number, unknown>>(success: S, ...failures: (404 | 409 | 500)[]) {
  const failing = Object.fromEntries([400, 401, ...failures].map((status) => [status, errors[status as keyof typeof errors]]));
  return { ...failing, ...success } as unknown as S;
}

export const empty = { 200: t.Void({ description: "Done" }) };
export const queued = {
  202: object({
    status_id: t.String({ description: "Id for GET /networking_action/{status_id}", examples: ["0b1d1a2c-8c0e-4b7e-9a3e-0f6d5c1f0a11"] }),
  }),
};

/** An answer whose JSON text is there already. */
export const json = (text: string) => new Response(text, { headers: { "content-type": "application/json" } });

/** Who sent a request, as things are now. */
export const identify = async (ctx: Context, request: Request): Promise<Identity> =>
  ctx.authenticator.authenticate(request.headers.get("authorization"), factsOf.get(request)!.arrival.address);

const calls = new InHand(256, "calls");

/** Who sent a request, as it was found first. */
async function signIn(ctx: Context, request: Request): Promise<Identity> {
  const facts = factsOf.get(request)!;
  if (facts.identity) return facts.identity;
  facts.identity = await identify(ctx, request);
  facts.ended = calls.begin(facts.identity.caller);
  const { user } = facts.identity.caller;
  if (user !== null) facts.arrival.signedIn(user.id);
  return facts.identity;
}

/** The start of every controller: knows the caller, reads any body as JSON, refuses what is unknown. */
export function controller(ctx: Context) {
  return (
    new Elysia({ normalize: false, strictPath: true })
      // Nothing is read for a stranger, or for a path that there is not.
      .onParse(async ({ request, route, params }) => {
        const { rights } = await signIn(ctx, request);
        decodePath(request.url, params);
        const metadata = metadataCall.test(route);
        const text = await readText(request, metadata ? rights : null);
        return parseBody(text, metadata);
      })
      .derive(async ({ request }) => ({ ...(await signIn(ctx, request)) }))
      .onTransform(({ request: { method, headers, url }, params }) => {
        if (method !== "GET" && method !== "HEAD") return;
        decodePath(url, params);
        if (Number(headers.get("content-length") ?? 0) > 0 || headers.has("transfer-encoding")) {
          throw validation(`A ${method} request takes no body.`);
        }
      })
  );
}

/** What is left to do about percent-encoding in a path, after the router decoded each segment. Paths without parameters have no `params`. */
function decodePath(url: string, params: Record<string, unknown> | undefined): void {
  if (!params || !url.includes("%")) return;
  for (const [name, value] of Object.entries(params)) {
    if (typeof value !== "string") continue;
    // An encoded slash is a slash: it belongs to no name but a port's.
    if (name !== "port" && value.includes("/")) throw noSuchPath();
    // A segment of dots comes marked from front.ts, lest Bun fold the path. A port's name may hold several.
    params[name] = value.replaceAll(/(?<=^|\/)(\.{1,2})\uffff(?=\/|$)/g, "$1");
  }
}

/**
 * The body's text, whatever its content type says: `curl -d` sends a form type. A multipart form is no body of ours and
 * counts as empty. `metadata`: the rights of the caller of a call that takes metadata.
 */
async function readText(request: Request, metadata: Rights | null): Promise<string> {
  const { headers } = request;
  if (headers.get("content-type")?.startsWith("multipart/form-data")) return "";
  const limit = metadata?.isAdmin ? metadataLimitBytes : bodyLimitBytes;
  if (Number(headers.get("content-length") ?? 0) > limit) {
    if (metadata) requireAdmin(metadata);
    throw new HaasError("PayloadTooLargeError", `The body is larger than ${limit} bytes.`);
  }
  const bytes = await factsOf.get(request)!.arrival.body(limit);
  if (bytes.byteLength > limit) throw new HaasError("PayloadTooLargeError", `The body is larger than ${limit} bytes.`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw validation("The body is not UTF-8.");
  }
}

/** `metadata`: the body may hold some, whose numbers come back as they were sent; see `jsonText`. */
async function parseBody(text: string, metadata: boolean): Promise<Record<string, unknown>> {
  if (text.trim() === "") return {};
  const body = parseJson(text);
  if (!isObject(body)) throw validation("The body is not a JSON object.");
  if (!metadata) return body;
  // Each step takes some 20 ms for the longest body.
  if (text.length > bodyLimitBytes) await breath();
  const marked = markNumbers(text);
  if (marked === text) return body;
  if (text.length > bodyLimitBytes) await breath();
  const kept = JSON.parse(marked) as Record<string, unknown>;
  for (const name of ["value", "metadata"]) if (name in body) body[name] = kept[name];
  if (text.length > bodyLimitBytes) await breath();
  return body;
}

/** Let others have their turn. */
const breath = () => new Promise<void>((resolve) => setImmediate(resolve));

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

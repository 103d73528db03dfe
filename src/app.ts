import { Elysia, ValidationError } from "elysia";
import { randomBytes } from "node:crypto";
import packageJson from "../package.json" with { type: "json" };
import type { Context } from "./context.ts";
import { availabilityOf } from "./db/away.ts";
import { CredentialsError, HaasError, messageOf, noSuchPath, statusOf, textFor, UnavailableError, validation } from "./errors.ts";
import { factsOf, type RequestFacts } from "./routes/controller.ts";
import { type Arrival, arrivalOf } from "./http/arrival.ts";
import { documentationRoutes } from "./routes/documentation.ts";
import { driftRoutes } from "./routes/drift.ts";
import { extensionRoutes } from "./routes/extensions.ts";
import { headnodeRoutes } from "./routes/headnodes.ts";
import { networkRoutes } from "./routes/networks.ts";
import { nicRoutes } from "./routes/nics.ts";
import { nodeRoutes } from "./routes/nodes.ts";
import { powerRoutes } from "./routes/power.ts";
import { projectRoutes } from "./routes/projects.ts";
import { switchRoutes } from "./routes/switches.ts";
import { userRoutes } from "./routes/users.ts";

export interface App {
  /** Answer one request. Never rejects. The answer is of no use once the request was upgraded to a WebSocket. */
  handle(request: Request, arrival?: Arrival): Promise<Response>;
}

/** The whole HTTP service as a function; it listens to nothing (see front.ts). */
export function createApp(ctx: Context): App {
  const routes = new Elysia({ normalize: false, strictPath: true, aot: true })
    .use(projectRoutes(ctx))
    .use(nodeRoutes(ctx))
    .use(powerRoutes(ctx))
    .use(networkRoutes(ctx))
    .use(nicRoutes(ctx))
    .use(switchRoutes(ctx))
    .use(driftRoutes(ctx))
    .use(headnodeRoutes(ctx))
    .use(extensionRoutes(ctx));
  if (ctx.config.auth.backend === "database") routes.use(userRoutes(ctx));

  // Elysia otherwise looks for the path behind the first four characters of the host, which may be shorter.
  const elysia = new Elysia({ normalize: false, strictPath: true, handler: { standardHostname: false } })
    .onError(({ code, error, request, path }) => {
      if (code === "NOT_FOUND") return errorResponse(ctx, request, unknownRoute(methods, path));
      return errorResponse(ctx, request, error);
    })
    .use(routes)
    .use(new Elysia({ prefix: "/v0", normalize: false, strictPath: true }).use(routes))
    .use(documentationRoutes(packageJson.version));
  const methods = methodTable(elysia.routes);

  // Unique over restarts, and readable aloud.
  const idPrefix = randomBytes(4).toString("hex");
  let count = 0;

  return {
    async handle(request, arrival = arrivalOf(request)) {
      const routed = encodePortName(request);
      const facts: RequestFacts = {
        id: `${idPrefix}-${(++count).toString(36)}`,
        arrival,
        receivedAt: performance.now(),
        caller: null,
      };
      factsOf.set(routed, facts);
      let response: Response;
      try {
        if (repeatsParameter(request.url)) throw validation("Query: a parameter is given more than once.");
        response = await elysia.fetch(routed);
      } catch (error) {
        response = await errorResponse(ctx, routed, error);
      }
      response.headers.set("X-Request-Id", facts.id);
      logRequest(ctx, routed, response.status, facts);
      return response;
    },
  };
}

/** Reads are worth a line only when somebody looks for one; the rest is what an operator asks for later. */
function logRequest(ctx: Context, request: Request, status: number, facts: RequestFacts): void {
  const usual = request.method === "GET" && status < 500;
  // Why nothing can be answered is told once.
  const level = usual || status === statusOf.UnavailableError ? "debug" : "info";
  if (!ctx.log.enabled(level)) return;
  ctx.log[level]("request", {
    request: facts.id,
    method: request.method,
    path: pathOf(request.url),
    status,
    ms: Math.round((performance.now() - facts.receivedAt) * 10) / 10,
    user: facts.caller?.user?.label ?? null,
    address: facts.arrival.address,
  });
}

const pathOf = (url: string): string => {
  const start = url.indexOf("/", url.indexOf("//") + 2);
  const query = url.indexOf("?", start);
  return url.slice(start, query === -1 ? undefined : query);
};

/**
 * Port names hold slashes, raw or encoded; the router wants them encoded. What follows `/port/` is
 * the name, up to the verb of a POST.
 */
function encodePortName(request: Request): Request {
  const { url } = request;
  if (!url.includes("/port/")) return request;
  const [, before, after] = /^(\w+:\/\/[^/]*(?:\/v0)?\/switch\/[^/?]+\/port\/)([^?]*)/.exec(url) ?? [];
  if (before === undefined || after === undefined) return request;
  const verb = request.method === "POST" ? (/\/(?:connect_nic|detach_nic|revert|trust)$/.exec(after)?.[0] ?? "") : "";
  const name = after.slice(0, after.length - verb.length);
  // A name can't begin with a slash: such a path is unknown.
  if (!name.includes("/") || name.startsWith("/")) return request;
  return new Request(before + name.replaceAll("/", "%2F") + verb + url.slice(before.length + after.length), request);
}

type MethodTable = { pattern: RegExp; methods: Set<string> }[];

/** Which methods each path has, to tell an unknown path from a method that the path lacks. */
function methodTable(routes: readonly { method: string; path: string }[]): MethodTable {
  const table = new Map<string, Set<string>>();
  for (const { method, path } of routes) {
    const known = table.get(path) ?? new Set();
    known.add(method);
    if (method === "GET") known.add("HEAD");
    table.set(path, known);
  }
  return [...table].map(([path, methods]) => ({ pattern: new RegExp(`^${path.replace(/:\w+/g, "[^/]+")}$`), methods }));
}

class MethodNotAllowed extends HaasError {
  constructor(readonly allow: string) {
    super("MethodNotAllowedError", `This path has no such method. There are: ${allow}.`);
  }
}

function unknownRoute(table: MethodTable, path: string): HaasError {
  const allowed = new Set(table.filter(({ pattern }) => pattern.test(path)).flatMap(({ methods }) => [...methods]));
  return allowed.size === 0 ? noSuchPath() : new MethodNotAllowed([...allowed].sort().join(", "));
}

/** The one place where an error becomes an answer, and where it is decided which of its two texts that has. */
async function errorResponse(ctx: Context, request: Request, thrown: unknown): Promise<Response> {
  const error = toHaasError(thrown);
  const facts = factsOf.get(request);
  const status = statusOf[error.type];
  const headers: Record<string, string> = { "content-type": "application/json" };
  // Credentials are wrong, or there are none where some would have helped.
  if (error instanceof CredentialsError || (error.type === "AuthorizationError" && !request.headers.has("authorization")))
    headers["www-authenticate"] = 'Basic realm="haas", charset="UTF-8"';
  if (error instanceof MethodNotAllowed) headers.allow = error.allow;
  if (error instanceof UnavailableError) headers["retry-after"] = String(error.retryAfterSeconds);
  let msg = error.message;
  if (error.tenant !== null) msg = textFor(await isAdmin(ctx, facts), error);
  if (error.type === "ServerError") {
    const cause = error.cause ?? thrown;
    ctx.log.error("a request failed by a fault of haas", {
      request: facts?.id,
      error: messageOf(cause),
      stack: cause instanceof Error ? cause.stack : undefined,
    });
    msg = `${msg} Request id: ${facts?.id ?? "unknown"}.`;
  } else if (error instanceof UnavailableError) {
    // Said once, by whoever lost the database.
    availabilityOf(ctx.db).countRefused();
  } else if (status >= 500) {
    ctx.log.warning("hardware failed a request", { request: facts?.id, type: error.type, error: error.message });
    if (msg !== error.message) msg = `${msg} Request id: ${facts?.id ?? "unknown"}.`;
  } else if (msg !== error.message) {
    ctx.log.info("a request was refused", { request: facts?.id, type: error.type, error: error.message });
  }
  return new Response(JSON.stringify({ type: error.type, msg }), { status, headers });
}

/** Whether the caller is an administrator now; who is not known is none. */
async function isAdmin({ db }: Context, facts: RequestFacts | undefined): Promise<boolean> {
  const rights = await facts?.caller?.rights(db).catch(() => null);
  return rights?.isAdmin ?? false;
}

function toHaasError(thrown: unknown): HaasError {
  if (thrown instanceof HaasError) return thrown;
  if (thrown instanceof ValidationError && thrown.type !== "response") return validation(validationMessage(thrown));
  // Elysia wraps what a body parser throws.
  if (thrown instanceof Error && thrown.cause instanceof HaasError) return thrown.cause;
  return new HaasError("ServerError", "haas failed to answer this request; the server's log says more.", { cause: thrown });
}

/** What is wrong with the arguments, in a sentence that never quotes a value: it may be a password. */
function validationMessage(error: ValidationError): string {
  const where = { body: "Body", query: "Query", params: "Path" }[error.type] ?? error.type;
  const first = error.all.find((one): one is Extract<typeof one, { path: string }> => "path" in one);
  const name = first?.path.split("/")[1]?.slice(0, 80) ?? "";
  if (!first) return `${where}: not legal.`;
  if (first.message === "Unexpected property") return `${where}: '${name}' is not an argument of this call.`;
  if (first.message.startsWith("Expected required property")) return `${where}: '${name}' is required.`;
  const description: unknown = first.schema.description;
  return `${where}: '${name}' is not legal: ${first.message.toLowerCase()}${typeof description === "string" ? ` (${description})` : ""}.`;
}

/** A parameter that is given twice could mean either. */
function repeatsParameter(url: string): boolean {
  const query = url.indexOf("?");
  if (query < 0) return false;
  const names = [...new URLSearchParams(url.slice(query)).keys()];
  return new Set(names).size < names.length;
}

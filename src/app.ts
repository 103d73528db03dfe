import { Elysia, ParseError, ValidationError } from "elysia";
import { randomBytes } from "node:crypto";
import packageJson from "../package.json" with { type: "json" };
import type { Context } from "./context.ts";
import { anonymous } from "./auth/caller.ts";
import { availabilityOf } from "./db/away.ts";
import {
  CredentialsError,
  ForbiddenError,
  HaasError,
  messageOf,
  noSuchPath,
  statusOf,
  textFor,
  UnavailableError,
  validation,
} from "./errors.ts";
import { type Arrival, arrivalOf } from "./http/arrival.ts";
import { requireEncrypted } from "./http/encryption.ts";
import { hostCheck, refuseForeignChange } from "./http/origin.ts";
import { Refusals } from "./http/refusals.ts";
import { shortened } from "./log.ts";
import { factsOf, type RequestFacts } from "./routes/controller.ts";
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
import { validationMessage, withoutDetails } from "./routes/validation.ts";
import { noteWork } from "./watchdog.ts";

const parameterLimit = 100;
/** Of a client's words in the log. */
const loggedTextLimit = 200;

export interface App {
  /** Answer one request. Never rejects. The answer is of no use once the request was upgraded to a WebSocket. */
  handle(request: Request, arrival?: Arrival): Promise<Response>;
}

/** The whole HTTP service as a function; it listens to nothing (see front.ts). Whoever gives `refusals` flushes them at the end. */
export function createApp(ctx: Context, refusals = new Refusals(ctx.log)): App {
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
  for (const { hooks } of elysia.routes) withoutDetails(hooks.body);
  // Everybody who can reach it may do everything, and a browser reaches it for whatever page it shows.
  const checkHost = ctx.config.auth.backend === "null" ? hostCheck(ctx.config.http.hosts) : null;
  const checkEncryption = requireEncrypted(ctx.config, ctx.log);

  // Unique over restarts, and readable aloud.
  const idPrefix = randomBytes(4).toString("hex");
  let count = 0;

  return {
    async handle(request, arrival = arrivalOf(request)) {
      noteWork(`${request.method} ${pathOf(request.url)}`);
      const routed = encodePortName(request);
      const facts: RequestFacts = {
        id: `${idPrefix}-${(++count).toString(36)}`,
        arrival,
        receivedAt: performance.now(),
        identity: null,
        ended: () => {},
      };
      factsOf.set(routed, facts);
      let response: Response;
      try {
        checkEncryption(request, arrival);
        checkHost?.(request.headers.get("host"), arrival.boundAddress);
        refuseForeignChange(request, arrival.encrypted);
        checkQuery(request.url);
        response = await elysia.fetch(routed);
      } catch (error) {
        response = await errorResponse(ctx, routed, error);
      }
      facts.ended();
      response.headers.set("X-Request-Id", facts.id);
      logRequest(ctx, refusals, routed, response.status, facts);
      return response;
    },
  };
}

/** Reads are worth a line only when somebody looks for one; the rest is what an operator asks for later. */
function logRequest({ log }: Context, refusals: Refusals, request: Request, status: number, facts: RequestFacts): void {
  const usual = request.method === "GET" && status < 500;
  // Why nothing can be answered is told once.
  const level = usual || status === statusOf.UnavailableError ? "debug" : "info";
  if (!log.enabled(level)) return;
  const { id, arrival, identity } = facts;
  const line = {
    request: id,
    method: request.method,
    path: shortened(pathOf(request.url), loggedTextLimit),
    status,
    ms: Math.round((performance.now() - facts.receivedAt) * 10) / 10,
    user: identity?.caller.user?.label ?? null,
    address: arrival.address,
  };
  const isStranger = identity === null || identity === anonymous;
  if (status === statusOf.TooManyRequestsError || (status >= 400 && isStranger)) refusals.note(level, line);
  else log[level]("request", line);
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
  const { method, headers } = request;
  return new Request(before + name.replaceAll("/", "%2F") + verb + url.slice(before.length + after.length), { method, headers });
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
  const status = error instanceof ForbiddenError ? 403 : statusOf[error.type];
  const headers: Record<string, string> = { "content-type": "application/json" };
  // Credentials are wrong, or there are none where some would have helped.
  if (error instanceof CredentialsError || (status === 401 && !request.headers.has("authorization")))
    headers["www-authenticate"] = 'Basic realm="haas", charset="UTF-8"';
  if (error instanceof MethodNotAllowed) headers.allow = error.allow;
  if (error.retryAfterSeconds !== null) headers["retry-after"] = String(error.retryAfterSeconds);
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
  const rights = await facts?.identity?.caller.rights(db).catch(() => null);
  return rights?.isAdmin ?? false;
}

function toHaasError(thrown: unknown): HaasError {
  if (thrown instanceof HaasError) return thrown;
  if (thrown instanceof ValidationError && thrown.type !== "response") return validation(validationMessage(thrown));
  if (thrown instanceof ParseError) return toHaasError(thrown.cause);
  return new HaasError("ServerError", "haas failed to answer this request; the server's log says more.", { cause: thrown });
}

/** A parameter that is given twice could mean either. */
function checkQuery(url: string): void {
  const query = url.indexOf("?");
  if (query < 0) return;
  if (url.split("&", parameterLimit + 1).length > parameterLimit) throw validation(`Query: more than ${parameterLimit} parameters.`);
  const names = [...new URLSearchParams(url.slice(query)).keys()];
  if (new Set(names).size < names.length) throw validation("Query: a parameter is given more than once.");
}

import { swagger } from "@elysiajs/swagger";
import { Elysia } from "elysia";
import { createHash } from "node:crypto";
import { madeOnce } from "../http/answer.ts";
import bundle from "swagger-ui-dist/swagger-ui-bundle.js" with { type: "file" };
import style from "swagger-ui-dist/swagger-ui.css" with { type: "file" };

// The plugin makes the OpenAPI document. Its page would load a script from the internet; this one shows the document
// with the Swagger UI that is part of the program.
const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>haas</title>
</head>
<body>
<script src="/swagger/script"></script>
</body>
</html>
`;
const script = `
const style = document.createElement("link");
style.rel = "stylesheet";
style.href = "/swagger/style";
document.head.append(style);
const place = document.createElement("div");
document.body.append(place);
const bundle = document.createElement("script");
bundle.src = "/swagger/bundle";
bundle.onload = () => SwaggerUIBundle({ url: "/swagger/json", domNode: place, deepLinking: true, validatorUrl: null });
document.body.append(bundle);
`;

const text = (content: string, type: string) => new Response(content, { headers: { "content-type": type } });
const file = (path: string, type: string) => new Response(Bun.file(path), { headers: { "content-type": type } });

/** An answer that is the same for everybody, for as long as haas runs. */
class Kept {
  private constructor(
    readonly bytes: Uint8Array<ArrayBuffer>,
    readonly headers: { readonly "content-type": string; readonly etag: string; readonly "cache-control": string },
  ) {}

  static async of(response: Response): Promise<Kept> {
    const bytes = new Uint8Array(await response.arrayBuffer());
    const etag = `"${createHash("sha256").update(bytes).digest("base64url")}"`;
    return new Kept(bytes, { "content-type": response.headers.get("content-type")!, etag, "cache-control": "no-cache" });
  }

  answer(ifNoneMatch: string | null): Response {
    const tags = ifNoneMatch?.split(",").map((tag) => tag.trim().replace(/^W\//, "")) ?? [];
    const known = tags.includes(this.headers.etag) || tags.includes("*");
    return known ? new Response(null, { status: 304, headers: this.headers }) : madeOnce(this.bytes, { headers: this.headers });
  }
}
const hide = { detail: { hide: true } };

type Json = { [key: string]: any };

/**
 * The plugin's document in the shape of OpenAPI 3.0: it repeats every body under content types that
 * haas does not use, leaves examples where the format has no place for them, and gives empty answers a body.
 */
function tidy(document: Json): Json {
  for (const path of Object.values<Json>(document.paths)) {
    for (const operation of Object.values<Json>(path)) {
      if (operation.requestBody) {
        operation.requestBody.content = onlyJson(operation.requestBody.content);
        const { properties, additionalProperties } = operation.requestBody.content["application/json"].schema;
        if (additionalProperties === false && Object.keys(properties).length === 0) delete operation.requestBody;
      }
      for (const [status, response] of Object.entries<Json>(operation.responses)) {
        const { description, examples, content } = response;
        const media = onlyJson(content);
        const empty =
          !media || media["application/json"].schema.type === "void" || Object.keys(media["application/json"].schema).length === 0;
        if (media && examples) media["application/json"].schema.example = examples[0];
        operation.responses[status] = { description: description ?? "Success", ...(!empty && { content: media }) };
      }
    }
  }
  // The one answer that is no JSON.
  const log = document.paths["/node/{node}/console"].get.responses[200];
  log.content = { "text/plain": log.content["application/json"] };
  return { ...document, paths: toOpenApi(document.paths) };
}

const onlyJson = (content: Json | undefined): Json | undefined => content && { "application/json": content["application/json"] };

/** JSON Schema's `examples`, null types and `patternProperties` in the words of OpenAPI 3.0, all the way down. */
function toOpenApi(schema: unknown): any {
  if (Array.isArray(schema)) return schema.map(toOpenApi);
  if (typeof schema !== "object" || schema === null) return schema;
  const result: Json = {};
  for (const [key, value] of Object.entries(schema)) {
    if (key === "example") result.example = value;
    else if (key === "examples" && Array.isArray(value)) result.example = value[0];
    else if (key === "const") result.enum = [value];
    else if (key === "patternProperties" && value) result.additionalProperties = toOpenApi(Object.values(value as Json)[0]);
    else if (key === "anyOf" && Array.isArray(value) && value.some((one) => one.type === "null")) {
      const [only, ...more] = value.filter((one) => one.type !== "null").map(toOpenApi);
      Object.assign(result, more.length > 0 ? { anyOf: [only, ...more] } : only, { nullable: true });
    } else if (!(key === "secret")) result[key] = toOpenApi(value);
  }
  return result;
}

/** The OpenAPI document at /swagger/json and its page at /swagger; readable without internet access, and by anyone: so each part is made once. */
export function documentationRoutes(version: string) {
  const kept = new Map<string, Kept>();
  return new Elysia()
    .onBeforeHandle(({ path, request }) => kept.get(path)?.answer(request.headers.get("if-none-match")))
    .onAfterHandle(async ({ path, request, response }) => {
      if (kept.has(path)) return;
      const made = path === "/swagger/json" ? Response.json(tidy(structuredClone(response as Json))) : (response as Response);
      const entry = await Kept.of(made);
      kept.set(path, entry);
      return entry.answer(request.headers.get("if-none-match"));
    })
    .use(
      swagger({
        path: "/swagger",
        exclude: [/^\/v0\//],
        documentation: {
          info: {
            title: "haas",
            version,
            description:
              "Hardware as a Service. Every call is also served under /v0. A body is one JSON object, whatever its content type. " +
              "Errors are `{type, msg}`; every answer carries an `X-Request-Id` that is also in the server's log.",
          },
          components: { securitySchemes: { basic: { type: "http", scheme: "basic" } } },
          security: [{ basic: [] }],
        },
      }),
    )
    .get("/swagger", () => text(page, "text/html; charset=utf-8"), hide)
    .get("/swagger/script", () => text(script, "text/javascript"), hide)
    .get("/swagger/bundle", () => file(bundle, "text/javascript"), hide)
    .get("/swagger/style", () => file(style, "text/css"), hide);
}

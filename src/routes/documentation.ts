import { swagger } from "@elysiajs/swagger";
import { Elysia } from "elysia";
import bundle from "swagger-ui-dist/swagger-ui-bundle.js" with { type: "file" };
import style from "swagger-ui-dist/swagger-ui.css" with { type: "file" };

// The plugin's page loads one script, by default from the internet. This one is ours instead: it
// shows the plugin's OpenAPI document with the Swagger UI that is part of the program.
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

const file = (path: string, type: string) => new Response(Bun.file(path), { headers: { "content-type": type } });
const hide = { detail: { hide: true } };

/** The OpenAPI document at /swagger/json and its page at /swagger; readable without internet access, and by anyone. */
export const documentationRoutes = (version: string) =>
  new Elysia()
    .use(
      swagger({
        path: "/swagger",
        scalarCDN: "/swagger/script",
        scalarConfig: { customCss: "" },
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
    .get("/swagger/script", () => new Response(script, { headers: { "content-type": "text/javascript" } }), hide)
    .get("/swagger/bundle", () => file(bundle, "text/javascript"), hide)
    .get("/swagger/style", () => file(style, "text/css"), hide);

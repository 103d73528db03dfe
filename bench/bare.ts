import { Elysia } from "elysia";
import { readFileSync } from "node:fs";
import { listen } from "../src/http/front.ts";

// The limit: an Elysia handler that does nothing but send the bytes of a file, once on Bun's HTTP
// server alone and once behind the front of haas.

export interface BarePorts {
  direct: number;
  behindFront: number;
}

const node = readFileSync(process.argv[2]!, "utf8");
const nodes = readFileSync(process.argv[3]!, "utf8");

const app = new Elysia()
  .get("/node/:node", ({ set }) => {
    set.headers["content-type"] = "application/json";
    return node;
  })
  .get("/nodes/:which", ({ set }) => {
    set.headers["content-type"] = "application/json";
    return nodes;
  });

const direct = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: (request) => app.fetch(request), development: false });
const behindFront = listen({ handle: async (request) => app.fetch(request) }, { host: "127.0.0.1", port: 0 });
console.log(JSON.stringify({ direct: direct.port!, behindFront: behindFront.port } satisfies BarePorts));

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type App, createApp } from "../../src/app.ts";
import { loadConfig } from "../../src/config.ts";
import type { Context } from "../../src/context.ts";
import { arrivalOf } from "../../src/http/arrival.ts";
import { createLog, type LogLevel } from "../../src/log.ts";
import { applyPending } from "../../src/networking/worker.ts";
import { createContext } from "../../src/serve.ts";
import { freshPostgres } from "./postgres.ts";

export const databases = ["sqlite", "postgres"] as const;
export type DatabaseKind = (typeof databases)[number];

const extensions = ["obm.ipmi", "obm.mock"].concat(
  ["mock", "dell", "n3000", "nexus", "brocade", "dellnos9", "ovs"].map((name) => `switches.${name}`),
);

export interface ServiceOptions {
  auth?: "null" | "database";
  allocator?: "null" | "vlan_pool";
  logLevel?: LogLevel | undefined;
  more?: string;
}

/** What servers on PostgreSQL remember of their databases: all of this test run on this machine remember the same. */
const stateDir = mkdtempSync(join(tmpdir(), "haas-state-"));
process.on("exit", () => rmSync(stateDir, { recursive: true, force: true }));

/** The text of a haas.cfg for tests; `more` is appended. */
export function configText({
  uri,
  auth = "null",
  allocator = "vlan_pool",
  logLevel = "warning",
  more = "",
}: ServiceOptions & { uri: string }): string {
  const lines = [`auth.${auth}`, `network_allocators.${allocator}`, ...extensions].map((name) => `haas.ext.${name} =`).join("\n");
  return `[general]
log_level = ${logLevel}${uri.startsWith("postgres") ? `\nstate_dir = ${stateDir}` : ""}
[headnode]
driver = mock
base_imgs = base-headnode, img1
[database]
uri = ${uri}
[extensions]
${lines}
[haas.ext.network_allocators.vlan_pool]
vlans = 100-199
${more}
`;
}

/** A scratch directory that is removed by `remove`. */
export function scratch(): { path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), "haas-test-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

export async function freshUri(kind: DatabaseKind, directory: string): Promise<string> {
  return kind === "postgres" ? freshPostgres() : `sqlite:///${join(directory, "haas.db")}`;
}

/** The whole service in this process, on a database of its own, without a listening socket. */
export interface Service {
  readonly ctx: Context;
  readonly app: App;
  readonly directory: string;
  /** Send a request; the answer's status, JSON (or text) and headers. */
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
  /** Like `call`, but throws unless the status is below 300. */
  ok(method: string, path: string, body?: unknown): Promise<any>;
  /** Apply what is pending in the journal. */
  apply(): Promise<void>;
  stop(): Promise<void>;
}

export interface Answer {
  status: number;
  body: any;
  headers: Headers;
}

export async function startService(kind: DatabaseKind, options: ServiceOptions & { uri?: string } = {}): Promise<Service> {
  const { path: directory, remove } = scratch();
  const file = join(directory, "haas.cfg");
  writeFileSync(file, configText({ ...options, uri: options.uri ?? (await freshUri(kind, directory)) }), { mode: 0o600 });
  const ctx = await createContext(
    loadConfig(file),
    createLog((process.env.HAAS_TEST_LOG as "debug" | undefined) ?? "critical", null),
    () => {},
  );
  const app = createApp(ctx);
  const call: Service["call"] = async (method, path, body, headers = {}) => {
    const request = new Request(`http://haas.test${path}`, {
      method,
      headers,
      ...(body !== undefined && { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const answer = await app.handle(request, { ...arrivalOf(request), address: "127.0.0.1" });
    const text = await answer.text();
    return { status: answer.status, body: parse(text), headers: answer.headers };
  };
  return {
    ctx,
    app,
    directory,
    call,
    async ok(method, path, body) {
      const answer = await call(method, path, body);
      if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
      return answer.body;
    },
    apply: () => applyPending(ctx),
    async stop() {
      await ctx.db.destroy();
      remove();
    },
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const types = "http://schema.massopencloud.org/haas/v0";
export const mockSwitch = { type: `${types}/switches/mock`, hostname: "switch-host", username: "u", password: "switch-secret-7c1e" };
export const mockObm = { type: `${types}/obm/mock`, host: "bmc-host", user: "u", password: "bmc-secret-51aa" };

/** A switch `sw` with ports p1…, nodes n1… with a nic `nic` on each, and the projects. */
export async function makeRack(service: Service, { nodes, projects }: { nodes: number; projects: string[] }): Promise<void> {
  await service.ok("PUT", "/switch/sw", mockSwitch);
  for (const project of projects) await service.ok("PUT", `/project/${project}`);
  for (let i = 1; i <= nodes; i++) {
    await service.ok("PUT", `/node/n${i}`, { obm: mockObm });
    await service.ok("PUT", `/node/n${i}/nic/nic`, { macaddr: `00:00:00:00:00:${i.toString(16).padStart(2, "0")}` });
    await service.ok("PUT", `/switch/sw/port/p${i}`);
    await service.ok("POST", `/switch/sw/port/p${i}/connect_nic`, { node: `n${i}`, nic: "nic" });
  }
}

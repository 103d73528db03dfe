import type { BehaviourName } from "./behaviours.ts";

// Which attacks are tried, and how large.

export interface Swarm {
  behaviour: BehaviourName;
  connections: number;
  /** From so many addresses. */
  addresses: number;
}

export interface Scenario {
  name: string;
  /** For the table. */
  what: string;
  swarms: readonly Swarm[];
  /** The limit of open files that the server is started with. */
  files?: { soft: number; hard: number };
  tls?: true;
  /** All attackers in one IPv6 /64, in a network of its own. */
  ipv6?: true;
  /** People log in for the first time meanwhile. */
  newcomers?: true;
}

const one = (name: BehaviourName, what: string, connections: number, addresses: number, more: Partial<Scenario> = {}): Scenario => ({
  name,
  what,
  swarms: [{ behaviour: name, connections, addresses }],
  ...more,
});
const named = (name: string, scenario: Scenario): Scenario => ({ ...scenario, name });

const hard1024 = { files: { soft: 1_024, hard: 1_024 } };

export const scenarios: readonly Scenario[] = [
  { name: "quiet", what: "nothing", swarms: [] },
  one("bodies", "600 strangers send bodies of 7.9 MiB, never finished", 600, 16),
  one("bodies-chunked", "the same in chunks", 600, 16),
  one("bodies-wrong-password", "the same with a wrong password", 600, 16),
  one("bodies-forbidden", "the same by a tenant who may not", 600, 16),
  one("bodies-tenant", "2,000 bodies of 64 KiB by a tenant, never finished", 2_000, 16),
  one("crumbs", "the same in chunks of one byte", 2_000, 16),
  one("silent", "10,000 connections that say nothing", 10_000, 16),
  one("half-head", "10,000 after half a head", 10_000, 16),
  one("trickle", "10,000 that send a byte a second", 10_000, 16),
  one("unfinished-body", "10,000 with an unfinished body", 10_000, 16),
  one("reopen", "10,000 with half a head, replaced as soon as they are cut", 10_000, 16),
  named("one-address", one("reopen", "4,000 of these from one address", 4_000, 1)),
  one("close", "unfinished bodies, closed at once, again and again", 512, 16),
  one("half-close", "4,096 unfinished bodies, half-closed", 4_096, 16),
  one("reset", "unfinished bodies, reset at once, again and again", 512, 16),
  named("files-hard", one("reopen", "2,000 with half a head, and 1,024 files at most (hard limit)", 2_000, 16, hard1024)),
  named("files-hard-close", one("close", "unfinished bodies closed at once, and 1,024 files at most", 1_024, 16, hard1024)),
  named(
    "files-soft",
    one("reopen", "2,000 with half a head, and a soft limit of 1,024 files", 2_000, 16, { files: { soft: 1_024, hard: 20_000 } }),
  ),
  one("guess-names", "400 guess names and passwords from one address", 400, 1, { newcomers: true }),
  named("guess-addresses", one("guess-names", "400 guess from 200 addresses", 400, 200, { newcomers: true })),
  named("guess-flood", one("guess-names", "4,000 guess from 200 addresses", 4_000, 200, { newcomers: true })),
  one("guess-account", "300 guess at one account at once, from one address", 300, 1, { newcomers: true }),
  named("guess-account-addresses", one("guess-account", "300 guess at one account, from 200 addresses", 300, 200, { newcomers: true })),
  one("endless-head", "64 heads without an end", 64, 16),
  one("header-bomb", "heads of 5,000 headers at full speed", 64, 16),
  one("headers-within-limits", "heads of 90 headers at full speed", 64, 16),
  one("long-path", "paths of 8,000 characters at full speed, by strangers", 8, 8),
  one("slow-reader", "1,000 ask for /swagger/bundle and never read", 1_000, 16),
  one("slow-reader-window", "the same with tiny receive windows", 1_000, 16),
  one("slow-reader-pipeline", "100 ask for it 10,000 times and never read", 100, 16),
  one("slow-reader-tenant", "200 of a tenant ask 1,000 times for all nodes and never read", 200, 16),
  one("pipeline-flood", "32 pipeline requests without a pause", 32, 16),
  one("abort", "requests, reset as soon as they are sent", 256, 16),
  one("abort-post", "the same with complete bodies", 256, 16),
  one("abort-tenant", "the same by a tenant", 64, 16),
  one("idle", "10,000 idle after one answer", 10_000, 16),
  one("websocket-stranger", "2,000 WebSocket handshakes by strangers, held", 2_000, 16),
  one("websocket-tenant", "500 WebSocket handshakes by a tenant, held", 500, 16),
  one("tls-silent", "4,000 connections to a TLS port that say nothing", 4_000, 16, { tls: true }),
  one("tls-half-hello", "4,000 with half a TLS greeting", 4_000, 16, { tls: true }),
  one("tls-handshakes", "TLS handshakes at full speed", 32, 16, { tls: true }),
  one("json-tenant", "16 of a tenant send 64 KiB of JSON, again and again", 16, 1),
  one("tenant-hold", "10,000 idle ones of a tenant", 10_000, 16),
  one("tenant-reopen", "the same, replaced as soon as they are cut", 10_000, 16),
  one("tenant-flood", "32 of a tenant ask for all nodes, again and again", 32, 1),
  one("swagger-json", "32 ask for /swagger/json, again and again", 32, 16),
  one("fresh-ports", "400 calls of a tenant that wait for a port", 400, 1),
  named("ipv6", one("reopen", "4,000 with half a head from as many addresses of one IPv6 /64", 4_000, 4_000, { ipv6: true })),
];

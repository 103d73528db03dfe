import { readFileSync } from "node:fs";
import { join } from "node:path";
import { administrator } from "../src/auth/caller.ts";
import { openDatabase } from "../src/db/open.ts";
import { createUser } from "../src/inventory/users.ts";
import { scratch } from "../tests/support/service.ts";
import { basicOf, requestFrom } from "../tests/support/from.ts";
import { startServer } from "../tests/support/server.ts";

// `bun run bench:logins`: what guessing strangers cost everybody else. Each attack has a server of its own. For each: how
// many guesses were verified and how many refused, the p99 of a client that is signed in, how long a first log-in from a
// clean address takes, and the most memory that the server ever had.

const attackMs = 15_000;
const guessPauseMs = 250;
const loginAtMs = 5_000;
const loginTries = 5;

interface Attack {
  what: string;
  guessers: number;
  /** Each guesser sends one guess only. */
  once?: boolean;
  address: (n: number) => string;
  name: (n: number) => string;
}

const attacks: Attack[] = [
  { what: "nobody", guessers: 0, address: () => "", name: () => "" },
  { what: "50 from one address, many names", guessers: 50, address: () => "127.0.0.2", name: (n) => `name-${n}` },
  { what: "400 from one address, many names", guessers: 400, address: () => "127.0.0.2", name: (n) => `name-${n}` },
  {
    what: "400 from 400 addresses, many names",
    guessers: 400,
    address: (n) => `127.0.${2 + (n >> 8)}.${n & 255}`,
    name: (n) => `name-${n}`,
  },
  { what: "300 at once, one account, one address", guessers: 300, once: true, address: () => "127.0.0.2", name: () => "owner" },
  { what: "300 addresses on one account", guessers: 300, address: (n) => `127.0.${2 + (n >> 8)}.${n & 255}`, name: () => "owner" },
];

const [, , reader] = process.argv;
if (reader !== undefined) await readSignedIn(Number(reader));
for (const attack of attacks) console.log(await run(attack));
process.exit(0);

/** A process of its own, lest it wait for the guessers' event loop. Ends when its standard input does, and prints the latencies. */
async function readSignedIn(port: number): Promise<never> {
  const latencies: number[] = [];
  let over = false;
  void Bun.stdin.text().then(() => (over = true));
  while (!over) {
    latencies.push((await requestFrom("127.0.0.1", port, basicOf("root", "right"), { path: "/nodes/free" })).ms);
    await Bun.sleep(5);
  }
  latencies.sort((a, b) => a - b);
  const at = (share: number) => latencies[Math.floor((latencies.length - 1) * share)]?.toFixed(1);
  console.log(`signed in p50 ${at(0.5)} p99 ${at(0.99)} max ${at(1)} ms`);
  process.exit(0);
}

async function run({ what, guessers, once = false, address, name }: Attack): Promise<string> {
  const place = scratch();
  const uri = `sqlite:///${join(place.path, "haas.db")}`;
  const db = await openDatabase(uri);
  for (const user of ["root", "owner"]) await createUser(db, administrator, user, "right", user === "root");
  await db.destroy();
  const server = await startServer({ kind: "sqlite", uri, auth: "database", networks: false });
  const port = Number(new URL(server.url).port);
  const statuses: Record<string, number> = {};
  let over = false;
  try {
    await requestFrom("127.0.0.1", port, basicOf("root", "right"));
    let serial = 0;
    const guesser = async (n: number) => {
      do {
        const status = await requestFrom(address(n), port, basicOf(name(n), `wrong-${serial++}`)).then(
          (reply) => reply.status,
          () => 0,
        );
        if (!over) statuses[status] = (statuses[status] ?? 0) + 1;
        await Bun.sleep(guessPauseMs);
      } while (!over && !once);
    };
    const login = async () => {
      await Bun.sleep(loginAtMs);
      const startedAt = performance.now();
      for (let tries = 1; tries <= loginTries; tries++) {
        const { status, retryAfter } = await requestFrom("127.0.0.9", port, basicOf("owner", "right"));
        if (status === 200) return `${((performance.now() - startedAt) / 1000).toFixed(1)} s, ${tries} tries`;
        await Bun.sleep(1000 * (retryAfter ?? 1));
      }
      return `none in ${loginTries} tries`;
    };
    const guessing = Array.from({ length: guessers }, (_, n) => guesser(n));
    const reading = Bun.spawn([process.execPath, import.meta.path, String(port)], { stdin: "pipe", stdout: "pipe" });
    const [loggedIn] = await Promise.all([login(), Bun.sleep(attackMs)]);
    over = true;
    const memory = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, "utf8"))?.[1];
    void reading.stdin.end();
    const signedIn = (await new Response(reading.stdout).text()).trim();
    await Promise.race([Promise.all(guessing), Bun.sleep(20_000)]);
    return `${what}: in ${attackMs / 1000} s ${JSON.stringify(statuses)}; ${signedIn}; first log-in ${loggedIn}; peak ${Math.round(Number(memory) / 1024)} MiB`;
  } finally {
    await server.kill("SIGKILL");
    await server.stop();
    place.remove();
  }
}

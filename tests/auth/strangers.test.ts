import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import { administrator } from "../../src/auth/caller.ts";
import { openDatabase } from "../../src/db/open.ts";
import { createUser } from "../../src/inventory/users.ts";
import { basicOf, type Reply, requestFrom } from "../support/from.ts";
import { type ServerProcess, startServer } from "../support/server.ts";
import { scratch } from "../support/service.ts";
import { untilWithin } from "../support/until.ts";

// Strangers who guess passwords, at a server of its own with real connections, while others log in.

const until = untilWithin(60_000);
const owner = basicOf("owner", "right");

let server: ServerProcess | undefined;
let place: ReturnType<typeof scratch> | undefined;
let port: number;

afterEach(async () => {
  await server?.stop();
  place?.remove();
});

async function begin(): Promise<void> {
  place = scratch();
  const uri = `sqlite:///${join(place.path, "haas.db")}`;
  const db = await openDatabase(uri);
  for (const user of ["root", "owner"]) await createUser(db, administrator, user, "right", user === "root");
  await db.destroy();
  server = await startServer({ kind: "sqlite", uri, auth: "database", networks: false });
  port = Number(new URL(server.url).port);
}

/** `count` strangers, each of whom guesses until `stop`. */
function strangers(count: number, of: (n: number) => [name: string, address: string]) {
  const replies: Reply[] = [];
  let over = false;
  let serial = 0;
  const one = async (n: number) => {
    const [name, address] = of(n);
    while (!over) {
      const reply = await requestFrom(address, port, basicOf(name, `wrong-${serial++}`));
      replies.push(reply);
      await Bun.sleep(500);
    }
  };
  const all = Promise.all(Array.from({ length: count }, (_, n) => one(n)));
  return {
    verified: () => replies.filter(({ status }) => status === 401).length,
    refused: () => replies.filter(({ status }) => status === 429).length,
    async stop() {
      over = true;
      await all;
      for (const { status, retryAfter, body } of replies) {
        expect([401, 429]).toContain(status);
        if (status === 429) expect({ retryAfter, type: JSON.parse(body).type }).toEqual({ retryAfter: 10, type: "TooManyRequestsError" });
      }
    },
  };
}

const oneAddress = (n: number): [string, string] => [`name-${n}`, "127.0.0.2"];
const from = (n: number) => `127.0.${2 + (n >> 8)}.${n & 255}`;

test.each<[string, number, (n: number) => [string, string]]>([
  ["50 from one address", 50, oneAddress],
  ["400 from one address", 400, oneAddress],
  ["50 from one address at the same account", 50, () => ["owner", "127.0.0.2"]],
  ["100 from as many addresses at the same account", 100, (n) => ["owner", from(n)]],
  ["80 from as many addresses at as many accounts", 80, (n) => [`name-${n}`, from(n)]],
])(
  "a first log-in goes before strangers: %s",
  async (_, count, of) => {
    await begin();
    expect((await requestFrom("127.0.0.1", port, basicOf("root", "right"))).status).toBe(200);
    const guessing = strangers(count, of);
    await until("they are at it", () => guessing.verified() + guessing.refused() >= 30);
    const before = guessing.verified();
    const login = await requestFrom("127.0.0.9", port, owner);
    const after = guessing.verified();
    const signedIn = await requestFrom("127.0.0.1", port, basicOf("root", "right"));
    expect({ login: login.status, signedIn: signedIn.status }).toEqual({ login: 200, signedIn: 200 });
    // The one that was at it, and what the answers took on their way.
    expect(after - before).toBeLessThanOrEqual(5);
    await guessing.stop();
  },
  120_000,
);

test("300 guesses at once on one account: few are verified, and its owner gets in", async () => {
  await begin();
  const guesses = Array.from({ length: 300 }, (_, i) => requestFrom("127.0.0.2", port, basicOf("owner", `wrong-${i}`)));
  expect((await requestFrom("127.0.0.9", port, owner)).status).toBe(200);
  const statuses = (await Promise.all(guesses)).map(({ status }) => status);
  const verified = statuses.filter((status) => status === 401).length;
  expect(verified).toBeGreaterThanOrEqual(1);
  expect(verified).toBeLessThanOrEqual(15);
  expect(statuses.filter((status) => status === 429).length).toBe(300 - verified);
}, 60_000);

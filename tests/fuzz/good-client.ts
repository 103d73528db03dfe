// A good client, in a process of its own: it asks `GET /nodes/free` again and again until its standard input ends, and
// then prints how long the answers took, in milliseconds. Arguments: the server's address; its Authorization, or nothing.

export interface GoodClient {
  answers: number;
  refused: number;
  p50: number;
  p99: number;
  longest: number;
}

const pauseMs = 10;
const [url = ""] = process.argv.slice(2);
const authorization = process.env.FUZZ_AUTHORIZATION;
const took: number[] = [];
let refused = 0;
let over = false;
process.stdin.on("end", () => void (over = true)).resume();

while (!over) {
  const from = performance.now();
  try {
    const answer = await fetch(`${url}/nodes/free`, {
      headers: authorization ? { authorization } : {},
      signal: AbortSignal.timeout(60_000),
    });
    await answer.arrayBuffer();
    if (answer.status !== 200) refused++;
  } catch {
    refused++;
  }
  took.push(performance.now() - from);
  await Bun.sleep(pauseMs);
}
took.sort((a, b) => a - b);
const at = (share: number) => Math.round((took[Math.min(Math.floor(took.length * share), took.length - 1)] ?? 0) * 10) / 10;
console.log(JSON.stringify({ answers: took.length, refused, p50: at(0.5), p99: at(0.99), longest: at(1) } satisfies GoodClient));

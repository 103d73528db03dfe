/** What a test run depends on beside the code: HAAS_TEST_SEED repeats one. */
export const seed = Number(process.env.HAAS_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** Whether long tests run at full length (`npm run test:all`) rather than as a sample. */
export const whole = process.env.HAAS_TEST_WHOLE === "1";

/** mulberry32: numbers from 0 to 1, the same for the same state. */
export function randomFrom(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const pick = <T>(random: () => number, from: readonly T[]): T => from[Math.floor(random() * from.length)]!;

/** In another order. */
export function shuffled<T>(random: () => number, from: readonly T[]): T[] {
  return from
    .map((one) => [random(), one] as const)
    .sort(([a], [b]) => a - b)
    .map(([, one]) => one);
}

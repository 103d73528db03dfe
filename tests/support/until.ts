/**
 * Something that asks again and again until `holds`, and throws when that takes longer than `boundMs`: what it waited
 * for, and what `evidence` shows.
 */
export const untilWithin =
  (boundMs: number, evidence: () => string = () => "", pauseMs = 50) =>
  async (what: string, holds: () => boolean | Promise<boolean>): Promise<void> => {
    for (const deadline = Date.now() + boundMs; !(await holds()); await Bun.sleep(pauseMs)) {
      if (Date.now() > deadline) throw new Error(`not within ${boundMs} ms: ${what}\n${evidence()}`);
    }
  };

import type { Caller } from "../auth/caller.ts";
import type { Context } from "../context.ts";
import { SwitchError } from "../errors.ts";
import { redact } from "../hardware/command.ts";
import type { PortState, SessionObserver, SwitchDriver } from "../hardware/switches/driver.ts";
import { getSwitch } from "../inventory/switches.ts";
import { readPort, useSwitch } from "./drift.ts";
import type { SwitchReader } from "./session.ts";

/** The last so many lines are kept, and so much of each. */
const recordingLimitLines = 2_000;
const lineLimit = 2_000;

interface Step {
  step: string;
  ok: boolean;
  /** How long it took. */
  ms: number;
}

interface Line {
  direction: "sent" | "received";
  text: string;
  /** Since the start. */
  ms: number;
}

/** Connect to a switch, log in, read its first port and leave; how that went, and every line of it. A failure is a result. */
export async function testSwitch(ctx: Context, caller: Caller, label: string) {
  const row = await getSwitch(ctx.db, label);
  const driver = ctx.switches.byType(row.type);
  const port = (await ctx.db.selectFrom("port").select("label").where("switch_id", "=", row.id).orderBy("id").limit(1).executeTakeFirst())
    ?.label;
  const recorder = new Recorder(secretsOf(driver, JSON.parse(row.settings)));
  let state: PortState | null = null;
  let error: string | null = null;
  const read = async (session: SwitchReader) => {
    if (port !== undefined) {
      recorder.step(`read port ${port}`);
      state = await readPort(session, row, port).catch((thrown: unknown) => {
        // Now: the driver may announce that it leaves.
        recorder.end(false);
        throw thrown;
      });
    }
    recorder.step("leave");
  };
  try {
    await useSwitch(ctx, caller, row, read, recorder);
    recorder.end(true);
  } catch (thrown) {
    if (!(thrown instanceof SwitchError)) throw thrown;
    error = recorder.redact(thrown.message);
    recorder.end(recorder.steps.some(({ ok }) => !ok));
  }
  const known = await ctx.db.selectFrom("switch").select("host_key").where("id", "=", row.id).executeTakeFirst();
  const { steps, recording } = recorder;
  return {
    switch: label,
    type: row.type,
    ok: error === null,
    steps,
    port: port ?? null,
    state,
    host_key: known?.host_key ?? null,
    error,
    recording,
  };
}

/** Steps and lines of a session, with their times. */
class Recorder implements SessionObserver {
  readonly steps: Step[] = [];
  readonly recording: Line[] = [];
  readonly #startedAt = performance.now();
  #stepAt = this.#startedAt;
  #underWay: Step | null = null;

  constructor(readonly secrets: readonly string[]) {}

  step(name: string): void {
    // A driver may announce what its caller has announced.
    if (this.#underWay?.step === name) return;
    this.end(true);
    this.#stepAt = performance.now();
    this.#underWay = { step: name, ok: true, ms: 0 };
    this.steps.push(this.#underWay);
  }

  /** The step that is under way, if there is one, ends like this. */
  end(ok: boolean): void {
    if (this.#underWay) Object.assign(this.#underWay, { ok, ms: Math.round(performance.now() - this.#stepAt) });
    this.#underWay = null;
  }

  line(direction: Line["direction"], text: string): void {
    if (this.recording.length === recordingLimitLines) this.recording.shift();
    this.recording.push({
      direction,
      text: this.redact(text).slice(0, lineLimit),
      ms: Math.round(performance.now() - this.#startedAt),
    });
  }

  /** Drivers pass no secret on; but a device may repeat one where its driver does not expect it. */
  redact(text: string): string {
    return redact(text, this.secrets);
  }
}

/** The values of the settings that nobody may see. */
const secretsOf = (driver: SwitchDriver, settings: Record<string, unknown>): string[] =>
  Object.entries(driver.settings.properties).flatMap(([name, schema]) => {
    const value = settings[name];
    return schema.secret === true && typeof value === "string" && value !== "" ? [value] : [];
  });

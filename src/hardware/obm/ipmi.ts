import { isIP, isIPv6 } from "node:net";
import { Type } from "@sinclair/typebox";
import { badArgument, HaasError, quote } from "../../errors.ts";
import { type BridgedSystem, bmcAddress, ipmiPort, parseSystem } from "../address.ts";
import { CommandError, type CommandResult, failureSentence, lastLine, redact, runCommand } from "../command.ts";
import { bootDeviceField, field, fields, secretField } from "../settings.ts";
import type { ObmDriver, ObmTarget, PowerStatus } from "./driver.ts";

export interface IpmiOptions {
  /** The cipher suite (`-C`); null leaves ipmitool's own choice. Many BMCs want "3" or "17". */
  cipherSuite: string | null;
  /** ipmitool's interface (`-I`), "lanplus" for IPMI 2.0. */
  interface: string;
  /** How often a session that could not be established is tried once more. */
  retries: number;
  /** Bound of one run of ipmitool. */
  timeoutMs: number;
}

const maxOutputBytes = 64 * 1024;
/** Between two tries: a BMC is a small computer, often with one or two sessions to give. */
const retryPauseMs = 1_000;
/** Calls that may wait for one BMC, and how long each may. */
const maxWaiting = 16;
const waitTimeoutMs = 60_000;
/** ipmitool and IPMI 2.0 refuse anything longer. */
const maxPasswordBytes = 20;
const maxUserBytes = 16;
/** ipmitool's word for it, and what `chassis bootparam get 5` then says (measured with ipmitool 1.8.19). */
const bootDevices: Record<string, RegExp> = {
  pxe: /^Force PXE$/,
  disk: /^Force Boot from default Hard-Drive$/,
  none: /^No override$/,
};

function checkBootDevice(device: string): void {
  if (!Object.hasOwn(bootDevices, device)) {
    throw badArgument(`${quote(device)} is not a boot device. There are: ${Object.keys(bootDevices).join(", ")}.`);
  }
}

interface Bmc {
  readonly host: string;
  readonly port: number;
  /** As it stands in a sentence. */
  readonly name: string;
  readonly user: string;
  readonly password: string;
  readonly system: BridgedSystem | null;
}

type Run = (...command: string[]) => Promise<CommandResult>;

/** Real BMCs, through `ipmitool`. One command at a time per BMC. It has no console yet. */
export function createIpmi(options: IpmiOptions): ObmDriver {
  const turns = new Turns();

  /** `work` as one unit: no other command reaches this BMC meanwhile. */
  const withBmc = async <T>(target: ObmTarget, work: (run: Run, bmc: Bmc) => Promise<T>): Promise<T> => {
    const bmc = parseTarget(target);
    return turns.take(`${bmc.host.toLowerCase()} ${bmc.port}`, bmc.name, async () => {
      const run: Run = (...command) => ipmitool(options, bmc, command, target.command);
      return work(run, bmc);
    });
  };

  const setBoot = async (run: Run, bmc: Bmc, device: string, ...persistence: string[]) => {
    const { stderr } = await run("chassis", "bootdev", device, ...persistence);
    // It ends with 0 even after `Set Chassis Boot Parameter … failed`.
    if (/fail|invalid|error/i.test(stderr)) {
      throw obmError(`${bmc.name} did not take the boot device '${device}': ${words(stderr, bmc)}.`);
    }
    const { stdout } = await run("chassis", "bootparam", "get", "5");
    const held = /Boot Device Selector *:(.*)$/m.exec(stdout)?.[1]?.trim();
    // Whether it is persistent is not compared: ipmi_sim and some BMCs read back "only next boot" for both.
    if (held === undefined || !bootDevices[device]!.test(held)) {
      throw obmError(`${bmc.name} was told to boot from '${device}', but reads back ${held ? quote(held) : "nothing"}.`);
    }
  };

  const readPower = async (run: Run, bmc: Bmc): Promise<PowerStatus> => {
    const { stdout } = await run("chassis", "power", "status");
    const status = /Chassis Power is (on|off)/i.exec(stdout)?.[1]?.toLowerCase();
    if (status === "on" || status === "off") return status;
    throw obmError(`${bmc.name} gave no power status, but ${quote(lastLine(stdout))}.`);
  };

  return {
    name: "ipmi",
    commandTimeoutMs: options.timeoutMs,
    settings: fields({
      host: field("Address of the BMC: `host` or `host:port`", "10.0.0.42"),
      user: field("User of the BMC", "admin"),
      password: secretField("Password of the BMC, at most 20 bytes"),
      system: Type.Optional(
        Type.String({
          description:
            "For a system of a chassis whose systems share one BMC: its IPMB address, as in `0x82`, or with the channel of the BMC that leads there, as in `0x82@7`",
          examples: ["0x82"],
          maxLength: 16,
        }),
      ),
      bootdev: bootDeviceField(Object.keys(bootDevices)),
    }),
    address({ host, system }) {
      if (system !== undefined && parseSystem(system) === null) throw badArgument(notASystem(system));
      return bmcAddress({ host, system });
    },
    // On when on and off when off succeed on the BMC itself, so there is nothing to ask first.
    powerOn: (target) => withBmc(target, async (run) => void (await run("chassis", "power", "on"))),
    powerOff: (target) => withBmc(target, async (run) => void (await run("chassis", "power", "off"))),
    powerStatus: (target) => withBmc(target, readPower),
    powerCycle: (target, force) =>
      withBmc(target, async (run, bmc) => {
        await setBoot(run, bmc, "pxe");
        // IPMI 2.0, 28.3: a cycle or reset of a machine that is off may do nothing.
        const action = (await readPower(run, bmc)) === "off" ? "on" : force ? "reset" : "cycle";
        await run("chassis", "power", action);
      }),
    checkBootDevice,
    async setBootDevice(target, device) {
      checkBootDevice(device);
      await withBmc(target, (run, bmc) => setBoot(run, bmc, device, "options=persistent"));
    },
  };
}

/** One command, with the retries that it may have. Rejects with an `OBMError` unless it ended with 0. */
async function ipmitool(
  options: IpmiOptions,
  bmc: Bmc,
  command: readonly string[],
  permitted: ObmTarget["command"],
): Promise<CommandResult> {
  for (let tries = 1; ; tries++) {
    const failure = await permitted(() => runOnce(options, bmc, command));
    if ("result" in failure) return failure.result;
    if (!failure.mayRetry || tries > options.retries) throw failure.error;
    await Bun.sleep(retryPauseMs);
  }
}

type Outcome = { result: CommandResult } | { error: HaasError; mayRetry: boolean };

async function runOnce(options: IpmiOptions, bmc: Bmc, command: readonly string[]): Promise<Outcome> {
  // With -R 1 a silent host costs twice -N: 2 s or 4 s (measured), so that ipmitool itself can say what was wrong.
  const retransmitSeconds = options.timeoutMs >= 6_000 ? 2 : 1;
  const cipher = options.cipherSuite === null ? [] : ["-C", options.cipherSuite];
  const result = await runCommand({
    argv: [
      "ipmitool",
      ...["-I", options.interface, "-H", bmc.host, "-p", String(bmc.port), "-U", bmc.user, "-E"],
      ...["-N", String(retransmitSeconds), "-R", "1", ...cipher],
      ...(bmc.system === null ? [] : ["-t", `0x${bmc.system.target.toString(16)}`, "-b", String(bmc.system.channel)]),
      ...command,
    ],
    env: { IPMI_PASSWORD: bmc.password },
    timeoutMs: options.timeoutMs,
    maxOutputBytes,
    endsAnyway: true,
  }).catch((error: unknown) => {
    if (error instanceof CommandError && error.reason === "not-installed") {
      throw obmError("ipmitool is not installed on the server (Debian package: ipmitool).", error);
    }
    throw obmError(`ipmitool could not be run: ${error instanceof Error ? error.message : "unknown reason"}.`, error);
  });
  if (result.exitCode === 0) return { result };

  const shown = `ipmitool ${command.join(" ")}`;
  if (result.timedOut) {
    return { mayRetry: false, error: obmError(`${bmc.name} did not answer within ${options.timeoutMs / 1000} s (${shown}).`) };
  }
  if (/Address lookup for .* failed/i.test(result.stderr)) {
    return { mayRetry: false, error: obmError(`${bmc.name} is unreachable: its address can't be looked up.`) };
  }
  if (/unable to establish (IPMI|LAN|RMCP)|get session challenge|activate session/i.test(result.stderr)) {
    // A refusal and a silent host print the same line; only a silent host takes longer than one retransmission.
    const answered = result.durationMs < retransmitSeconds * 1000;
    const sentence = answered
      ? `${bmc.name} answered but refused the session: check user, password, privilege and cipher suite (${words(result.stderr, bmc)}).`
      : `${bmc.name} is unreachable: it did not answer within ${Math.round(result.durationMs / 1000)} s.`;
    return { mayRetry: true, error: obmError(sentence) };
  }
  if (/invalid command|not supported|insufficient privilege|unsupported/i.test(result.stderr)) {
    return { mayRetry: false, error: obmError(`${bmc.name} refused the command '${command.join(" ")}': ${words(result.stderr, bmc)}.`) };
  }
  const sentence = failureSentence({ program: shown, result, timeoutMs: options.timeoutMs, secrets: [bmc.password] });
  return { mayRetry: false, error: obmError(`${bmc.name}: ${sentence}.`) };
}

/** The device's own words in one line. */
const words = (stderr: string, bmc: Bmc) => redact(lastLine(stderr).replace(/\.+$/, ""), [bmc.password]);

const obmError = (sentence: string, cause?: unknown) => new HaasError("OBMError", sentence, { cause });

/** `host`, `host:port`, `[v6]:port` or a bare v6 address. What ipmitool can't take is refused here, so no value becomes an option. */
function parseTarget({ host: registered, user, password, system }: ObmTarget): Bmc {
  const [, bracketed, bracketedPort] = /^\[([^\]]*)\](?::(\d{1,5}))?$/.exec(registered) ?? [];
  const [, plain, plainPort] = isIP(registered) ? [registered, registered] : (/^([^:]*)(?::(\d{1,5}))?$/.exec(registered) ?? []);
  const host = bracketed !== undefined && isIPv6(bracketed) ? bracketed : plain;
  const port = Number(bracketedPort ?? plainPort ?? ipmiPort);
  const legal = host !== undefined && (isIP(host) > 0 || /^[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})$/.test(host)) && port >= 1 && port <= 65_535;
  const name = `BMC ${quote(registered)}`;
  const bridged = system === undefined ? null : parseSystem(system);
  if (system !== undefined && bridged === null) throw obmError(`${name}: ${notASystem(system)}`);
  if (!legal) throw obmError(`${name} is not an address. Legal forms: host, host:port, [IPv6 address]:port.`);
  if (user.startsWith("-")) throw obmError(`${name}: a user must not begin with '-'.`);
  if (Buffer.byteLength(user) > maxUserBytes)
    throw obmError(`${name}: its user is longer than ${maxUserBytes} bytes, which IPMI can't take.`);
  if (Buffer.byteLength(password) > maxPasswordBytes) {
    throw obmError(`${name}: its password is longer than ${maxPasswordBytes} bytes, which IPMI can't take.`);
  }
  // Without a password ipmitool asks for one; an environment variable can't hold a NUL.
  if (password.includes("\0")) throw obmError(`${name}: its password holds a NUL byte, which IPMI can't take.`);
  const shown = quote(isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`);
  return { host, port, name: `BMC ${shown}${bridged ? `, system ${quote(system!)}` : ""}`, user, password, system: bridged };
}

const notASystem = (system: string) =>
  `${quote(system)} is not a system behind a BMC. Legal forms: an even IPMB address other than the BMC's own 0x20, as in 0x82 or 130, and with a channel from 0 to 11, as in 0x82@7.`;

/** A bounded queue per BMC: many give one session at a time, and a power cycle is several commands. */
class Turns {
  readonly #queues = new Map<string, { tail: Promise<void>; length: number }>();

  async take<T>(key: string, name: string, work: () => Promise<T>): Promise<T> {
    const queue = this.#queues.get(key) ?? { tail: Promise.resolve(), length: 0 };
    if (queue.length > maxWaiting) throw obmError(`${name} is busy: ${maxWaiting} commands are waiting for it already.`);
    this.#queues.set(key, queue);
    queue.length++;
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    const before = queue.tail;
    queue.tail = before.then(() => ended);
    try {
      await inTime(before, name);
      return await work();
    } finally {
      end();
      if (--queue.length === 0) this.#queues.delete(key);
    }
  }
}

async function inTime(turn: Promise<void>, name: string): Promise<void> {
  const { promise: tooLate, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(obmError(`${name} is busy: no turn within ${waitTimeoutMs / 1000} s.`)), waitTimeoutMs);
  try {
    await Promise.race([turn, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}

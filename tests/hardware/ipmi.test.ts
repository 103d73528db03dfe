import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HaasError } from "../../src/errors.ts";
import { createIpmi, type IpmiOptions } from "../../src/hardware/obm/ipmi.ts";
import { type Bmc, startBmc } from "../support/ipmi-sim.ts";

// With what a shell would take apart.
const password = "a-secret-7a3f$(i);'";
const options: IpmiOptions = { cipherSuite: "3", interface: "lanplus", retries: 0, timeoutMs: 15_000 };
const ipmi = createIpmi(options);
const port = 26_231;
let dir: string;
let bmc: Bmc;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "haas-ipmi-"));
  bmc = await startBmc({ dir: join(dir, "n1"), name: "n1", port, user: "admin", password });
}, 30_000);

afterAll(async () => {
  await bmc?.stop();
  await rm(dir, { recursive: true, force: true });
});

const failure = (work: Promise<unknown>) =>
  work.then(
    () => Promise.reject(new Error("it succeeded")),
    (error: { type: string; message: string }) => error,
  );
const since = async (count: number) => (await bmc.calls()).slice(count);

/** A host that takes every packet and answers none. */
async function withSilentHost<T>(work: (host: string) => Promise<T>): Promise<T> {
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1" });
  try {
    return await work(`127.0.0.1:${socket.port}`);
  } finally {
    socket.close();
  }
}

describe("a real BMC", () => {
  test("a call that waited asks once more before it touches the node", async () => {
    await ipmi.powerOn(bmc);
    const before = await bmc.calls();
    const command = async () => Promise.reject(new HaasError("BlockedError", "the node changed hands"));
    const answers = await Promise.allSettled([
      ipmi.powerStatus(bmc),
      ipmi.powerOff({ ...bmc, command }),
      ipmi.setBootDevice({ ...bmc, command }, "disk"),
    ]);
    expect(answers.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "rejected"]);
    expect((await bmc.calls()).slice(before.length).filter((call) => /boot (disk|default)|shutdown/.test(call))).toEqual([]);
    expect(await ipmi.powerStatus(bmc)).toBe("on");
    await ipmi.powerOff(bmc);
  });

  test("power on and off start and end the machine, and are idempotent", async () => {
    expect(await ipmi.powerStatus(bmc)).toBe("off");
    await ipmi.powerOff(bmc);
    await ipmi.powerOn(bmc);
    const machine = await bmc.machine();
    expect(machine).not.toBeNull();
    expect(await ipmi.powerStatus(bmc)).toBe("on");
    await ipmi.powerOn(bmc);
    expect(await bmc.machine()).toBe(machine);
    await ipmi.powerOff(bmc);
    await ipmi.powerOff(bmc);
    expect(await ipmi.powerStatus(bmc)).toBe("off");
    expect(await bmc.machine()).toBeNull();
  });

  test("a power cycle sets the network as next boot first; off is powered on, force resets", async () => {
    await ipmi.powerOff(bmc);
    let before = (await bmc.calls()).length;
    await ipmi.powerCycle(bmc, false);
    let calls = (await since(before)).filter((call) => call.startsWith("set"));
    expect(calls).toEqual(["set boot pxe", "set power 1"]);
    const first = await bmc.machine();
    expect(first).not.toBeNull();

    before = (await bmc.calls()).length;
    await ipmi.powerCycle(bmc, false);
    // The BMC waits a second between off and on.
    for (let i = 0; i < 100 && ((await bmc.machine()) ?? first) === first; i++) await Bun.sleep(50);
    calls = (await since(before)).filter((call) => call.startsWith("set"));
    expect(calls).toEqual(["set boot pxe", "set power 0", "set power 1"]);
    const second = await bmc.machine();
    expect(second).not.toBe(first);

    before = (await bmc.calls()).length;
    await ipmi.powerCycle(bmc, true);
    calls = (await since(before)).filter((call) => call.startsWith("set"));
    expect(calls).toEqual(["set boot pxe", "set reset 1"]);
    expect(await bmc.machine()).not.toBe(second);
  });

  test("boot devices are set and read back", async () => {
    for (const [device, asked] of [
      ["pxe", "pxe"],
      ["disk", "default"],
      ["none", "none"],
    ] as const) {
      const before = (await bmc.calls()).length;
      await ipmi.setBootDevice(bmc, device);
      const calls = await since(before);
      expect(calls).toContain(`set boot ${asked}`);
      expect(calls.at(-1)).toBe("get boot");
    }
  });

  test("another boot device is refused before the BMC hears of it", async () => {
    const before = (await bmc.calls()).length;
    for (const device of ["cdrom", "", "pxe options=efiboot", "toString"]) {
      const error = await failure(ipmi.setBootDevice(bmc, device));
      expect(error).toMatchObject({ type: "BadArgumentError" });
      expect(error.message).toContain("pxe, disk, none");
    }
    expect(await since(before)).toEqual([]);
  });

  test("power cycles at the same time do not mix", async () => {
    const before = (await bmc.calls()).length;
    await Promise.all([ipmi.powerCycle(bmc, true), ipmi.powerCycle(bmc, true), ipmi.powerCycle(bmc, true)]);
    const sets = (await since(before)).filter((call) => call.startsWith("set"));
    expect(sets).toEqual(["set boot pxe", "set reset 1", "set boot pxe", "set reset 1", "set boot pxe", "set reset 1"]);
  });

  test("too many callers for one BMC are told that it is busy", async () => {
    const calls = Array.from({ length: 40 }, () =>
      ipmi.powerStatus(bmc).then(
        () => "fine",
        (error: Error) => error.message,
      ),
    );
    const answers = await Promise.all(calls);
    expect(answers.filter((answer) => answer === "fine").length).toBeGreaterThan(10);
    expect(answers.some((answer) => answer.includes("is busy"))).toBe(true);
    expect(["on", "off"]).toContain(await ipmi.powerStatus(bmc));
  });

  test("a wrong password is told apart from a dead host, and is in no error", async () => {
    const error = await failure(ipmi.powerStatus({ ...bmc, password: "wrong-secret-0bad" }));
    expect(error).toMatchObject({ type: "OBMError" });
    expect(error.message).toContain(`BMC '${bmc.host}' answered but refused the session: check user, password, privilege and cipher suite`);
    expect(error.message).not.toContain("wrong-secret-0bad");
  });

  test("an unsupported command or user is an error and becomes no option", async () => {
    expect(await failure(ipmi.powerStatus({ ...bmc, user: "-V" }))).toMatchObject({ type: "OBMError" });
    for (const host of ["-V", "", "a b", "x;y", "[::1", "127.0.0.1:99999", "host:", "127.0.0.1:1:2"]) {
      const error = await failure(ipmi.powerStatus({ ...bmc, host }));
      expect(error).toMatchObject({ type: "OBMError" });
      expect(error.message).toContain("is not an address");
    }
  });

  test("a long password is refused without being shown", async () => {
    const error = await failure(ipmi.powerOn({ ...bmc, password: "123456789012345678901" }));
    expect(error).toMatchObject({ type: "OBMError" });
    expect(error.message).toContain("longer than 20 bytes");
    expect(error.message).not.toContain("1234567890123456789");
  });
});

describe("a BMC that does not answer", () => {
  test("fails in bounded time, and the password is in no process list", async () => {
    await withSilentHost(async (host) => {
      const started = performance.now();
      const call = failure(ipmi.powerStatus({ ...bmc, host, password: "proc-secret-70c5" }));
      await Bun.sleep(500);
      const lines = await commandLines();
      expect(lines.some((line) => line.includes("ipmitool") && line.includes("127.0.0.1"))).toBe(true);
      expect(lines.filter((line) => line.includes("proc-secret-70c5"))).toEqual([]);
      const error = await call;
      expect(error).toMatchObject({ type: "OBMError" });
      expect(error.message).toContain(`BMC '${host}' is unreachable: it did not answer within`);
      expect(performance.now() - started).toBeLessThan(15_000);
    });
  });

  test("the bound of one run is kept", async () => {
    await withSilentHost(async (host) => {
      const error = await failure(createIpmi({ ...options, timeoutMs: 700 }).powerStatus({ ...bmc, host }));
      expect(error.message).toContain("did not answer within 0.7 s");
    });
  });

  test("one silent BMC does not delay another one", async () => {
    await withSilentHost(async (host) => {
      let silentEnded = false;
      const silent = failure(ipmi.powerStatus({ ...bmc, host })).then(() => (silentEnded = true));
      await ipmi.powerStatus(bmc);
      expect(silentEnded).toBe(false);
      await silent;
    });
  });
});

describe("a BMC that fails", () => {
  let broken: Bmc;
  beforeAll(async () => {
    const program = join(dir, "broken.sh");
    await writeFile(
      program,
      "#!/bin/sh\n[ \"$1 $2\" = 'set boot' ] && exit 0\n[ \"$1 $2\" = 'get boot' ] && echo boot:default\n[ \"$1 $2\" = 'get power' ] && echo power:1\n[ \"$1 $2\" = 'set power' ] && { echo no >&2; exit 1; }\nexit 0\n",
    );
    await chmod(program, 0o700);
    broken = await startBmc({ dir: join(dir, "n2"), name: "n2", port: port + 1, user: "admin", password, chassisProgram: program });
  }, 30_000);
  afterAll(() => broken?.stop());

  test("a boot device that does not read back is an error", async () => {
    const error = await failure(ipmi.setBootDevice(broken, "pxe"));
    expect(error).toMatchObject({ type: "OBMError" });
    expect(error.message).toContain("was told to boot from 'pxe', but reads back 'Force Boot from default Hard-Drive'");
    await ipmi.setBootDevice(broken, "disk");
  });

  test("a command that the BMC fails is an error with its words", async () => {
    const error = await failure(ipmi.powerOff(broken));
    expect(error).toMatchObject({ type: "OBMError" });
    expect(error.message).toContain("chassis power off");
  });
});

test("without ipmitool the error names the package", async () => {
  const path = process.env["PATH"];
  process.env["PATH"] = dir;
  const error = await failure(ipmi.powerStatus(bmc)).finally(() => (process.env["PATH"] = path));
  expect(error).toMatchObject({ type: "OBMError", message: "ipmitool is not installed on the server (Debian package: ipmitool)." });
});

async function commandLines(): Promise<string[]> {
  const processes = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  return Promise.all(processes.map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")));
}

test("a system behind a BMC: its address and channel go before the command, and its turns are the BMC's", async () => {
  // ipmi_sim has nothing behind it, so here a program in ipmitool's place tells how it was called, and whether it was alone.
  const place = await mkdtemp(join(dir, "bridged-"));
  const script = `#!/bin/sh
mkdir ${place}/busy || echo "not alone" >> ${place}/calls
echo "$*" >> ${place}/calls
sleep 0.1
rmdir ${place}/busy
echo "Chassis Power is on"
`;
  await writeFile(join(place, "ipmitool"), script);
  await chmod(join(place, "ipmitool"), 0o755);
  const path = process.env["PATH"];
  process.env["PATH"] = `${place}:${path}`;
  const target = { host: "10.0.0.1", user: "admin", password, command: bmc.command };
  try {
    await Promise.all(
      [undefined, "0X82", "132@7"].map((system) => ipmi.powerStatus(system === undefined ? target : { ...target, system })),
    );
  } finally {
    process.env["PATH"] = path;
  }
  const calls = (await readFile(join(place, "calls"), "utf8")).trim().split("\n");
  const start = "-I lanplus -H 10.0.0.1 -p 623 -U admin -E -N 2 -R 1 -C 3";
  expect(calls).toEqual([
    `${start} chassis power status`,
    `${start} -t 0x82 -b 0 chassis power status`,
    `${start} -t 0x84 -b 7 chassis power status`,
  ]);
  // As registered by something that did not check: never the BMC itself instead.
  expect((await failure(ipmi.powerOff({ ...target, system: "0x20" }))).message).toContain("is not a system behind a BMC");
});

import { Database } from "bun:sqlite";
import { afterEach, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type Answer, ask, loopbackOf, macOf, makeSite, type Serving, type Site, type SiteOptions } from "./site.ts";

// Boot once, through the real command and real sockets, while everything happens at the worst moment.

const sites: Site[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

async function siteWith(options: SiteOptions = {}): Promise<Site> {
  const site = await makeSite(options);
  sites.push(site);
  return site;
}

const boots = (serving: Serving, i: number): Promise<Answer> => ask(serving.url, `/ipxe/${macOf(i)}`, { from: loopbackOf(i) });
const reports = (serving: Serving, i: number): Promise<Answer> =>
  ask(serving.url, `/${macOf(i)}`, { from: loopbackOf(i), method: "DELETE" });
const installs = ({ status, body }: Answer) => status === 200 && body.includes("/files/linux/vmlinuz");
const fromDisk = ({ status, body }: Answer) => status === 200 && body.includes("sanboot") && !body.includes("kernel");
const states = async (site: Site) => (await site.status()).map(({ machine, state, boots }) => `${machine} ${state} ${boots}`);
const tokenOf = async (serving: Serving, i: number) =>
  /token=(\w+)/.exec((await ask(serving.url, `/node/${macOf(i)}/answers`, { from: loopbackOf(i) })).body)![1]!;

test("armed, installed once, then from disk: with iPXE and with pxelinux, by either report", async () => {
  const site = await siteWith({ more: `[nodes.node-02]\nmac = ["${macOf(2)}"]\naddress = "${loopbackOf(2)}"\n` });
  site.lease({ 1: loopbackOf(1) });
  const serving = await site.serve();
  const pxelinux = (i: number) => ask(serving.url, `/pxelinux/${macOf(i).replaceAll(":", "-")}`, { from: loopbackOf(i) });
  const entry = (i: number) => join(site.dir, `tftp/pxelinux.cfg/01-${macOf(i).replaceAll(":", "-")}`);
  expect(fromDisk(await boots(serving, 1))).toBe(true);
  expect((await pxelinux(2)).body).toContain("LOCALBOOT");
  expect(await site.ok("arm", macOf(1), "node-02", "--profile", "linux")).toBe(`${macOf(1)}\nnode-02\n`);
  expect([existsSync(entry(1)), existsSync(entry(2))]).toEqual([true, true]);

  const script = (await boots(serving, 1)).body;
  expect(script).toStartWith("#!ipxe\n");
  expect(script).toContain(
    `kernel ${serving.url}/files/linux/vmlinuz initrd=initrd0 auto url=${serving.url}/node/${macOf(1)}/answers quiet\n`,
  );
  expect(script).toContain(`initrd --name initrd0 ${serving.url}/files/linux/initrd.img\n`);
  expect((await pxelinux(2)).body).toContain(`  APPEND auto url=${serving.url}/node/${macOf(2)}/answers quiet\n`);
  const answers = (await ask(serving.url, `/node/${macOf(2)}/answers`, { from: loopbackOf(2) })).body;
  expect(answers).toStartWith(`for node-02 ${macOf(2)} ${loopbackOf(2)}\n`);
  expect((await ask(serving.url, `/node/${macOf(2)}/user-data`, { from: loopbackOf(2) })).body).toBe("#cloud-config\nhostname: node-02\n");
  expect(await states(site)).toEqual([`${macOf(1)} installing 1`, "node-02 installing 1"]);

  expect((await reports(serving, 1)).status).toBe(200);
  // As an installer would: the address that its file names.
  const { pathname, search } = new URL(/report (\S+)/.exec(answers)![1]!);
  expect((await ask(serving.url, pathname + search, { from: loopbackOf(2), method: "POST" })).status).toBe(200);
  expect(fromDisk(await boots(serving, 1))).toBe(true);
  expect((await pxelinux(2)).body).toContain("LOCALBOOT");
  expect([existsSync(entry(1)), existsSync(entry(2))]).toEqual([false, false]);
  const [one] = await site.status();
  expect(one).toMatchObject({ state: "done", boots: 1, reported_from: loopbackOf(1), macs: [macOf(1)], profile: "linux" });
  await serving.stop();
});

test("killed between arm and done, at any point: what was answered is never lost, and the story goes on", async () => {
  const site = await siteWith();
  site.lease({ 1: loopbackOf(1) });
  // How long after a request the kill comes: before it arrives, while it is served, after its answer.
  const delays = [0, 1, 2, 4, null];
  let serving = await site.serve();
  const during = async (step: (serving: Serving) => Promise<Answer>, delay: number | null): Promise<Answer | null> => {
    const answer = step(serving).catch(() => null);
    if (delay === null) await answer;
    else await Bun.sleep(delay);
    await serving.kill();
    const known = await answer;
    serving = await site.serve();
    return known;
  };
  for (const delay of delays) {
    await site.ok("arm", macOf(1), "--profile", "linux");
    await serving.kill();
    serving = await site.serve();
    expect(await states(site)).toEqual([`${macOf(1)} armed 0`]);

    const script = await during((on) => boots(on, 1), delay);
    const counted = (await site.status())[0]!.boots;
    // An installer that was given is known of; one that was not may have been about to be given.
    if (script !== null) expect([installs(script), counted]).toEqual([true, 1]);
    else expect(counted).toBeLessThanOrEqual(1);
    expect(installs(await boots(serving, 1))).toBe(true);
    expect(await states(site)).toEqual([`${macOf(1)} installing ${counted + 1}`]);

    const done = await during((on) => reports(on, 1), delay);
    if (done !== null) expect([done.status, ...(await states(site))]).toEqual([200, `${macOf(1)} done ${counted + 1}`]);
    // Who has no answer reports again.
    expect((await reports(serving, 1)).status).toBe(200);
    expect(fromDisk(await boots(serving, 1))).toBe(true);
    expect(await states(site)).toEqual([`${macOf(1)} done ${counted + 1}`]);
  }
  await serving.stop();
});

test("arm is killed: all of its machines are armed, or none", async () => {
  const site = await siteWith();
  const macs = Array.from({ length: 50 }, (_, i) => macOf(i));
  for (const delay of [20, 40, 50, 60, 70, 80, 100, 130, 200]) {
    const arming = Bun.spawn(
      [process.env.HAAS_BINARY ?? join(import.meta.dir, "../../dist/haas"), "boot", "arm", ...macs, "--profile", "linux"],
      {
        cwd: site.dir,
        env: { PATH: process.env.PATH ?? "", HOME: site.dir },
        stdio: ["ignore", "ignore", "ignore"],
      },
    );
    await Bun.sleep(delay);
    arming.kill("SIGKILL");
    await arming.exited;
    const armed = (await site.status()).length;
    expect([0, macs.length]).toContain(armed);
    if (armed > 0) await site.ok("disarm", ...macs);
  }
});

test("many reports at once are one", async () => {
  const site = await siteWith();
  site.lease({ 1: loopbackOf(1) });
  const serving = await site.serve();
  await site.ok("arm", macOf(1), "--profile", "linux");
  await boots(serving, 1);
  const token = await tokenOf(serving, 1);
  const from = loopbackOf(1);
  const answers = await Promise.all(
    Array.from({ length: 30 }, (_, i) =>
      i % 3 === 0
        ? reports(serving, 1)
        : ask(serving.url, i % 3 === 1 ? "/done" : `/done?mac=${macOf(1)}&token=${token}`, { from, method: "POST" }),
    ),
  );
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
  expect(serving.log().match(/"message":"done"/g)).toHaveLength(1);
  const [{ since } = { since: "" }] = await site.status();
  expect((await reports(serving, 1)).status).toBe(200);
  expect((await site.status())[0]!.since).toBe(since);
  await serving.stop();
});

test("a report counts only from the address that holds the lease, and only for what is armed", async () => {
  const site = await siteWith();
  site.lease({ 1: loopbackOf(1), 2: loopbackOf(2) });
  const serving = await site.serve();
  await site.ok("arm", macOf(1), "--profile", "linux");
  await boots(serving, 1);
  const token = await tokenOf(serving, 1);
  const report = async (path: string, from: string, method = "POST") => (await ask(serving.url, path, { from, method })).status;
  // Another node, an address without a lease, the server's own.
  for (const from of [loopbackOf(2), loopbackOf(3), "127.0.0.1"]) {
    expect(await report(`/${macOf(1)}`, from, "DELETE")).toBe(403);
    expect(await report(`/done?mac=${macOf(1)}&token=${token}`, from)).toBe(403);
  }
  expect(await report("/done", loopbackOf(3))).toBe(403);
  // Never armed; and nobody's.
  expect(await report(`/${macOf(2)}`, loopbackOf(2), "DELETE")).toBe(404);
  expect(await report("/done", loopbackOf(2))).toBe(404);
  expect(await report(`/${macOf(9)}`, loopbackOf(2), "DELETE")).toBe(403);
  expect(await report("/done?mac=nonsense", loopbackOf(1))).toBe(400);
  expect(await report(`/done?mac=${macOf(1)}&token=${"0".repeat(32)}`, loopbackOf(1))).toBe(409);
  // A lease that has ended is none; nor is one whose line is not written to its end.
  site.lease({ 1: loopbackOf(1) }, Math.floor(Date.now() / 1000) - 1);
  expect(await report(`/${macOf(1)}`, loopbackOf(1), "DELETE")).toBe(403);
  site.write("leases", `0 ${macOf(1)} ${loopbackOf(1)} * *`);
  expect(await report(`/${macOf(1)}`, loopbackOf(1), "DELETE")).toBe(403);
  expect(await states(site)).toEqual([`${macOf(1)} installing 1`]);
  // A lease without an end is one.
  site.lease({ 1: loopbackOf(1) }, 0);
  expect(await report(`/${macOf(1)}`, loopbackOf(1), "DELETE")).toBe(200);
  await serving.stop();
});

test("a lease file that is being rewritten takes no node's installer away", async () => {
  const site = await siteWith();
  const serving = await site.serve();
  await site.ok("arm", macOf(1), "--profile", "linux");
  let over = false;
  const rewriting = (async () => {
    for (let full = false; !over; full = !full) {
      if (full) site.lease({ 1: loopbackOf(1) });
      else site.write("leases", "");
      await Bun.sleep(15);
    }
  })();
  for (let i = 0; i < 30; i++) expect(installs(await boots(serving, 1))).toBe(true);
  over = true;
  await rewriting;
  await serving.stop();
});

test("a node that boots again before it reports gets the installer again", async () => {
  const site = await siteWith();
  site.lease({ 1: loopbackOf(1) });
  const serving = await site.serve();
  await site.ok("arm", macOf(1), "--profile", "linux");
  for (const _ of [1, 2]) expect(installs(await boots(serving, 1))).toBe(true);
  expect(await states(site)).toEqual([`${macOf(1)} installing 2`]);
  expect((await reports(serving, 1)).status).toBe(200);
  expect(fromDisk(await boots(serving, 1))).toBe(true);
  expect(await states(site)).toEqual([`${macOf(1)} done 2`]);
  await serving.stop();
});

test("armed again: the installer of before can't report for the new one", async () => {
  const site = await siteWith();
  site.lease({ 1: loopbackOf(1) });
  const serving = await site.serve();
  const report = async (token: string) =>
    (await ask(serving.url, `/done?mac=${macOf(1)}&token=${token}`, { from: loopbackOf(1), method: "POST" })).status;
  await site.ok("arm", macOf(1), "--profile", "linux");
  await boots(serving, 1);
  const old = await tokenOf(serving, 1);
  await site.ok("arm", macOf(1), "--profile", "linux");
  expect(await states(site)).toEqual([`${macOf(1)} armed 0`]);
  expect(await report(old)).toBe(409);
  expect((await reports(serving, 1)).status).toBe(409);
  expect(installs(await boots(serving, 1))).toBe(true);
  expect(await report(old)).toBe(409);
  const fresh = await tokenOf(serving, 1);
  expect(fresh).not.toBe(old);
  expect(await report(fresh)).toBe(200);
  expect(await report(fresh)).toBe(200);
  expect(await report(old)).toBe(409);
  await serving.stop();
});

test("an installer that never reports is overdue; disarmed, the machine boots from disk", async () => {
  const site = await siteWith();
  site.lease({ 1: loopbackOf(1) });
  const serving = await site.serve();
  await site.ok("arm", macOf(1), macOf(2), "--profile", "linux");
  await boots(serving, 1);
  const aged = new Database(join(site.dir, "boot.db"));
  aged.run("update machine set armed_at = armed_at - 1860000, installing_at = installing_at - 1860000");
  aged.close();
  const rows = (await site.ok("status")).split("\n").map((line) => line.split("\t"));
  expect(rows[0]).toEqual([macOf(1), macOf(1), "linux", "overdue", expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/), "1", ""]);
  // It never booted: nothing is overdue.
  expect(rows[1]!.slice(3, 4)).toEqual(["armed"]);
  expect((await site.boot("disarm", macOf(1), macOf(3))).err).toBe(`Error: ${macOf(3)} is not armed.\n`);
  expect(await states(site)).toHaveLength(2);
  await site.ok("disarm", macOf(1), macOf(2));
  expect(await states(site)).toEqual([]);
  expect(fromDisk(await boots(serving, 1))).toBe(true);
  await serving.stop();
});

test("200 nodes arm, boot, fetch and report at once, each from its own address", async () => {
  const site = await siteWith();
  const nodes = Array.from({ length: 200 }, (_, i) => i + 1);
  site.lease(Object.fromEntries(nodes.map((i) => [i, loopbackOf(i)])));
  const serving = await site.serve();
  await site.ok("arm", ...nodes.map(macOf), "--profile", "linux");
  const stories = await Promise.all(
    nodes.map(async (i) => {
      const from = loopbackOf(i);
      const script = await boots(serving, i);
      const kernel = await ask(serving.url, "/files/linux/vmlinuz", { from });
      const initrd = await ask(serving.url, "/files/linux/initrd.img", { from });
      const { status, body } = await ask(serving.url, `/node/${macOf(i)}/answers`, { from });
      const mine = status === 200 && body.startsWith(`for ${macOf(i)} ${macOf(i)} ${from}\n`);
      const done = await reports(serving, i);
      const after = await boots(serving, i);
      return [installs(script), kernel.body === "the kernel", initrd.body.length, mine, done.status, fromDisk(after)].join();
    }),
  );
  expect([...new Set(stories)]).toEqual(["true,true,700000,true,200,true"]);
  expect([...new Set((await site.status()).map(({ state, boots }) => `${state} ${boots}`))]).toEqual(["done 1"]);
  expect(readdirSync(join(site.dir, "tftp/pxelinux.cfg"))).toEqual(["default"]);
  await serving.stop();
});

import { conversation } from "./conversation.ts";
import { switchTimeoutMs } from "./dry-run.ts";
import { lines, table } from "./output.ts";
import { deviceLine, withProgress } from "./progress.ts";
import { carried, isForeign, number, raw, record, records, word, wordOrNull } from "./reading.ts";

export const switchTestCommand = conversation({
  name: "switch_test",
  grouped: "switch test",
  about: "connect to a switch, log in and read a port; says what to do if that fails",
  args: { switch: "name of the switch" },
  options: ["recording"],
  async talk({ switch: label }, { recording = false, json }, server) {
    const answer = await withProgress(`testing ${label}`, () =>
      server.call({ method: "POST", path: ["switch", label, "test"], timeoutMs: switchTimeoutMs }),
    );
    const test = record(answer);
    process.stdout.write(json ? `${JSON.stringify(answer)}\n` : page(test, recording));
    return test.ok === true ? 0 : 1;
  },
});

/** What an operator reads, in paragraphs: the steps, what was found, what went wrong and what to do about it. */
function page(test: Record<string, unknown>, withRecording: boolean): string {
  const label = word(test.switch);
  const type = word(test.type).split("/").at(-1)!;
  const steps = records(test.steps).map(({ step, ok, ms }) => ({ step: word(step), ok: ok === true, ms: number(ms) }));
  const [port, hostKey, error] = [wordOrNull(test.port), wordOrNull(test.host_key), wordOrNull(test.error)];
  const found = [
    ...(test.state === null ? [] : [`Port ${port} carries ${carried(test.state)}.`]),
    ...(test.state !== null && isForeign(test.state) ? ["The next change of the port replaces that."] : []),
    ...(port === null && test.ok === true ? ["None of its ports is registered, so none was read."] : []),
    ...(hostKey === null ? [] : [`Its SSH host key is ${hostKey}.`]),
  ];
  const failedStep = steps.find(({ ok }) => !ok)?.step ?? "";
  const advice = test.ok === true ? [] : hints(label, type, failedStep, error ?? "");
  if (test.ok !== true && !withRecording) advice.push(`To see what was said: haas switch_test ${label} --recording`);
  const paragraphs = [
    lines([`Switch ${label} (${type}): ${test.ok === true ? "ok" : "FAILED"}`]),
    table(steps.map(({ step, ok, ms }) => [`  ${step}`, ok ? "ok" : "FAILED", duration(ms)])),
    lines(found),
    lines(error === null ? [] : [`Reason: ${error.replace(/(?<![.?!])$/, ".")}`]),
    lines(advice.map((hint) => `- ${hint}`)),
    withRecording ? recordingOf(records(test.recording)) : "",
  ];
  return paragraphs.filter((paragraph) => paragraph !== "").join("\n");
}

const duration = (ms: number): string => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** `>` is what was sent, `<` what came back. */
function recordingOf(recording: readonly Record<string, unknown>[]): string {
  const shown = recording.flatMap(({ direction, text, ms }) =>
    raw(text)
      .split(/\r?\n/)
      .map((line, index) => {
        const when = index === 0 ? duration(number(ms)) : "";
        return `${when.padStart(8)} ${direction === "sent" ? ">" : "<"} ${deviceLine(line)}`.trimEnd();
      }),
  );
  return lines(["Recording:", ...(shown.length > 0 ? shown : ["  nothing was sent or received"])]);
}

const consoles = ["powerconnect55xx", "delln3000", "nexus"];
const restful = ["brocade", "dellnos9"];

/** What to do about a failure; the words of the failure tell more than the step in which it came. */
function hints(label: string, type: string, step: string, error: string): string[] {
  const anew = `A registration can't be changed: to register it anew, delete its ports first, then the switch (haas switch_delete ${label}).`;
  if (error.includes("registered twice")) return [`Keep the one whose ports are in use. ${anew}`];
  if (/host key/i.test(error)) {
    return [
      `If the switch was replaced, or was given a new key, run: haas switch_forget_host_key ${label}`,
      "If not, somebody may be between haas and the switch: find that out first.",
    ];
  }
  if (/legacy_algorithms/.test(error))
    return ["An old switch may need the old SSH algorithms: register it with --legacy-algorithms.", anew];
  if (/certificate|self.signed|\bTLS\b/i.test(error)) {
    return ["Register it with --ca-file FILE, the certificates that its own is checked against, or with --tls insecure to take any.", anew];
  }
  if (/\benable\b/i.test(error)) return ["Register it with the --enable-password that it asks for, or with a login that needs none.", anew];
  if (/\bsessions\b|session limit|too many|\b503\b/i.test(error)) {
    return [
      "All of its sessions seem to be in use, and haas needs one: end those that nobody needs, at its console.",
      "A session that was cut off may count until the switch has timed it out.",
    ];
  }
  if (/ within [\d.]+ s\b| in time\b| without end/.test(error) && (step !== "connect" || error.includes("SSH login"))) {
    return [
      "It is there, but does not answer: see at its console whether it is busy, hangs, or waits for somebody.",
      "A slow one gets more time by connect_timeout and command_timeout in its section of the server's haas.cfg.",
      ...(step === "connect" ? ["One that speaks telnet instead of SSH is registered with --transport telnet.", anew] : []),
    ];
  }
  if (/'SSH-\d/.test(error)) return ["SSH answers at that address: register it without --transport telnet.", anew];
  if (restful.includes(type) && /\b404\b/.test(error)) {
    return ["No REST interface answers at that address: check its port, and that the interface is enabled on the switch.", anew];
  }
  if (step === "log in" || /log ?in|password|credential|authenticat|unauthori[sz]ed|key_file/i.test(error)) {
    return [
      "Check the user name and the password (or key file) that it was registered with, by logging in from the server yourself.",
      "Some switches take no more logins for a while after wrong ones, or while all of their sessions are in use.",
      anew,
    ];
  }
  if (step.startsWith("read port")) {
    if (/connection/i.test(error))
      return ["It ended the session by itself: its log may say why. Run the test again; once may be an accident."];
    if (/can't be read|is not XML|the answer /.test(error)) {
      return [`Check that it is a ${type} indeed: other devices, and other firmware, answer in other words.`];
    }
    return [
      `Check that the switch has a port of this name; these are registered: haas show_switch ${label}`,
      "If it has, the reason is in the switch's own words: its manual and its log say more.",
    ];
  }
  if (step !== "connect") return [];
  return [
    "Check the address that it was registered with, and that the server of haas can reach it.",
    ...(consoles.includes(type) ? ["A switch without SSH is registered with --transport telnet."] : []),
    ...(restful.includes(type)
      ? ["HTTP or HTTPS is chosen with --tls off or --tls verify, and the port with an address of host:port."]
      : []),
    anew,
  ];
}

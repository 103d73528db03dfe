import type { Client } from "../client/http.ts";
import { type Arguments, type Described, local, type LocalCommand, type Options, type Values } from "./command.ts";
import { findServer } from "./endpoint.ts";
import { checkNames } from "./names.ts";

interface Conversation<A extends Arguments> extends Described<A> {
  /** Ask, print, and give the exit status. */
  talk(values: Values<A>, options: Options, server: Client): Promise<0 | 1>;
}

/** A command that asks the server more than once, or says with its exit status what it found. All of its arguments are names. */
export const conversation = <const A extends Arguments>({ talk, ...described }: Conversation<A>): LocalCommand<A> =>
  local({
    ...described,
    json: true,
    async run(values, options) {
      const names: Readonly<Record<string, string | undefined>> = values as Record<string, string>;
      checkNames({ method: "GET", path: Object.values(values) }, names);
      process.exitCode = await talk(values, options, findServer(options.config, process.env));
    },
  });

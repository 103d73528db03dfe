import type { Call } from "../client/http.ts";
import { UsageError } from "./command.ts";

/** Refuse values that can't be a part of the call's path, where the server would see another path. */
export function checkNames(call: Call, values: Readonly<Record<string, string | undefined>>): void {
  for (const [argument, value] of Object.entries(values)) {
    if (value === undefined || !call.path.includes(value)) continue;
    if (value === "") throw new UsageError("A name can't be empty.");
    // Every parser of URLs takes these, and their encoded forms, for a walk up the path.
    if (value === "." || value === "..") throw new UsageError(`'${value}' can't be the name of anything.`);
    if (value.includes("/") && argument !== "port") throw new UsageError(`'${value}' can't be a name: only names of ports hold slashes.`);
  }
}

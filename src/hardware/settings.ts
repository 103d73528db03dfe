import { type TObject, type TProperties, Type } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { badArgument, quote } from "../errors.ts";

/** The fields with which a driver is registered. */
export const fields = <P extends TProperties>(properties: P) => Type.Object(properties, { additionalProperties: false });

export const field = (description: string, example: string) =>
  Type.String({ description, examples: [example], maxLength: 1024, pattern: "^[^\\u0000-\\u001f\\u007f]*$" });

/** A field that no answer, log line or error text may show. */
export const secretField = (description: string) =>
  Type.String({ description, examples: ["secret"], maxLength: 1024, pattern: "^[^\\u0000\\n\\r]*$", secret: true });

/** What a node boots from when somebody gets it. */
export const bootDeviceField = (devices: readonly string[]) =>
  Type.Optional(
    Type.Union(
      devices.map((device) => Type.Literal(device)),
      { description: `What the node boots from when somebody gets it: ${devices.join(", ")}`, examples: [devices[0]] },
    ),
  );

/**
 * Check a registration's fields; a clear `BadArgumentError` names the field and never quotes its value.
 * `what` begins the sentence, as in "The mock switch driver".
 */
export function checkSettings(schema: TObject, settings: Record<string, unknown>, what: string): void {
  const error = Value.Errors(schema, settings).First();
  if (!error) return;
  const name = error.path.slice(1).split("/")[0] ?? "";
  const known = Object.keys(schema.properties).join(", ") || "none";
  if (!Object.hasOwn(schema.properties, name)) throw badArgument(`${what} has no field ${quote(name)}. Its fields: ${known}.`);
  if (settings[name] === undefined) throw badArgument(`${what} needs the field '${name}'. Its fields: ${known}.`);
  throw badArgument(`${what}: the field '${name}' is not legal: ${error.message}.`);
}

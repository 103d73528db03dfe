import { Kind } from "@sinclair/typebox";
import type { ValidationError } from "elysia";
import { quote } from "../errors.ts";

/**
 * Keep the library from writing a refused value, and everything in it, into its error. That is never shown; it takes
 * seconds for some values, and fails for others.
 */
export function withoutDetails(schema: unknown): void {
  if (typeof schema !== "object" || schema === null) return;
  // Elysia takes this for the error's message. Not enumerable, so that it is no part of the API's description.
  if (Kind in schema) Object.defineProperty(schema, "error", { value: "not legal", configurable: true });
  for (const part of Object.values(schema)) withoutDetails(part);
}

/** What is wrong with the arguments, in a sentence that never quotes a value: it may be a password. */
export function validationMessage({ type, valueError }: ValidationError): string {
  const where = { body: "Body", query: "Query", params: "Path" }[type] ?? type;
  if (!valueError) return `${where}: not legal.`;
  const { message, path, schema } = valueError;
  const name = quote(path.split("/", 2)[1] ?? "");
  if (message === "Unexpected property") return `${where}: ${name} is not an argument of this call.`;
  if (message.startsWith("Expected required property")) return `${where}: ${name} is required.`;
  const description: unknown = schema.description;
  return `${where}: ${name} is not legal: ${message.toLowerCase()}${typeof description === "string" ? ` (${description})` : ""}.`;
}

import { type ErrorType, statusOf } from "../../src/errors.ts";
import { secretsIn } from "../support/secrets.ts";
import type { Reply } from "./replies.ts";

// What every answer has to be, whatever was asked.

const types: ReadonlyMap<string, number> = new Map(Object.entries(statusOf) as [ErrorType, number][]);
const messageLimit = 1_000;

/** Why an answer breaks the contract; null when it does not. `method` and `target` may be unknown: then they are empty. */
export function breach({ status, headers, body }: Reply, method: string, target = ""): string | null {
  if (status === 101) return null;
  if (!headers.get("x-request-id")) return "it has no X-Request-Id";
  const type = headers.get("content-type")?.split(";")[0] ?? "";
  if (status < 400) {
    if (body.length === 0) return null;
    if (type === "application/json") return isJson(body) ? null : "its body is no JSON";
    // The documentation's pages, and what a console wrote.
    return /\/(swagger|console)\b/.test(target) || target === "" ? null : `its content type is '${type}'`;
  }
  if (status === 503) {
    if (!headers.has("retry-after")) return "503 without Retry-After";
  } else if (status >= 500) return `status ${status}`;
  if (type !== "application/json") return `a refusal whose content type is '${type}'`;
  if (method === "HEAD") return null;
  let refusal: unknown;
  try {
    refusal = JSON.parse(body.toString());
  } catch {
    return "a refusal that is no JSON";
  }
  if (typeof refusal !== "object" || refusal === null || Object.keys(refusal).toSorted().join() !== "msg,type")
    return "a refusal that is not {type, msg}";
  const { type: name, msg } = refusal as { type: unknown; msg: unknown };
  // A page of another site: the caller is known, and it is not the caller who asks.
  const isForeign = status === 403 && name === "AuthorizationError";
  if (typeof name !== "string" || (types.get(name) !== status && !isForeign)) return `${status} of type ${JSON.stringify(name)}`;
  if (typeof msg !== "string" || !/^\S.*\.$/su.test(msg)) return "a message that is no sentence";
  if (/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/u.test(msg)) return "a message with characters that can't be printed";
  if (msg.length > messageLimit) return `a message of ${msg.length} characters`;
  if (status === 405 && !headers.has("allow")) return "405 without Allow";
  return null;
}

function isJson(body: Buffer): boolean {
  try {
    JSON.parse(body.toString());
    return true;
  } catch {
    return false;
  }
}

const textLimit = 200_000;

/** Looks for secrets in much text: pieces are gathered, and looked through together. */
export class SecretSearch {
  #pieces: string[] = [];
  #size = 0;

  constructor(readonly found: (secrets: string[], around: string) => void) {}

  add(piece: string): void {
    this.#pieces.push(piece);
    this.#size += piece.length;
    if (this.#size > textLimit) this.flush();
  }

  flush(): void {
    const text = this.#pieces.splice(0).join("\n");
    this.#size = 0;
    const secrets = secretsIn(text);
    if (secrets.length === 0) return;
    const at = Math.max(text.indexOf(secrets[0]!) - 200, 0);
    this.found(secrets, text.slice(at, at + 400));
  }
}

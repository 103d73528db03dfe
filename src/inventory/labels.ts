import { sql } from "kysely";
import type { Tables } from "../db/tables.ts";
import type { Tx } from "../db/transaction.ts";
import { badArgument, duplicate, quote } from "../errors.ts";
import { isVisible, lookOf } from "../look.ts";

/** The longest name, in bytes of UTF-8. */
export const labelLimitBytes = 255;

// Not printable: control and surrogate code points, line and paragraph separators. U+FFFD stands for
// bytes that were no UTF-8.
const unprintable = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\ufffd]/u;

/** Printable and not too long; it may be empty. */
export const isPrintable = (text: string) => !unprintable.test(text) && Buffer.byteLength(text) <= labelLimitBytes;

/** A switch port's name: as any other, but it may hold slashes. */
export const isPortLabel = (text: string) => text.length > 0 && text.trim() === text && isPrintable(text);

/** What may be a name: printable, without slashes, no blank at either end, not empty. */
export const isLabel = (text: string) => isPortLabel(text) && !text.includes("/");

type Named = { [Table in keyof Tables]: Tables[Table] extends { label: string; look: string | null } ? Table : never }[keyof Tables];

/** Where a name is to be the only one of its kind. */
export interface NameSpace {
  readonly table: Named;
  /** Begins a sentence, as in "Nic". */
  readonly kind: string;
  /** Throws for a name that this kind of thing can't have. */
  readonly check?: (label: string) => void;
  /** The object that it is a name within: its column and id, and how a sentence says so. */
  readonly within?: { readonly column: `${string}_id`; readonly id: number; readonly words: string };
}

/**
 * Check a name that is about to be given; its look, to be stored beside it. `DuplicateError` when it exists already, or
 * one that looks like it; `BadArgumentError` for one that can't be seen. Names that exist already are not asked about.
 */
export async function newName(tx: Tx, { table, kind, within, check }: NameSpace, label: string): Promise<string> {
  const look = lookOf(label);
  const rows = await tx
    .selectFrom(table as "project")
    .select(["label", "look"])
    // Of names that an earlier haas let look alike, only the first holds the look.
    .where((e) => e.or([e("label", "=", label), e("look", "=", look), e("look", "is", null)]))
    .$if(within !== undefined, (query) => query.where(sql.ref(within!.column), "=", within!.id))
    .execute();
  const here = within?.words ?? "";
  if (rows.some((row) => row.label === label)) throw duplicate(`${kind} ${quote(label)}${here} exists already.`);
  check?.(label);
  if (!isVisible(label)) {
    throw badArgument(`${quote(label)} can't be a new name: it holds characters that can't be seen, or blanks of an unusual kind.`);
  }
  const alike = rows.find((row) => (row.look ?? lookOf(row.label)) === look);
  if (alike) throw duplicate(`${kind} ${quote(label)}${here} looks like ${quote(alike.label)}, which exists already.`);
  return look;
}

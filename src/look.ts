import unhomoglyph from "unhomoglyph";

// What a person sees of a name, so that no two names of one kind look alike.

/**
 * What can't be seen, or changes how the rest is seen: controls, formats (zero width, bidirectional, tags), unassigned
 * and private characters; what Unicode lets a font leave out (fillers, variation selectors); and what has a glyph
 * without ink: the braille blank, the blanks among the hieroglyphs, and three that stand for nothing.
 */
const unseen = /[\u{16fe4}\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800\ufffc\u{13441}\u{13442}\u{1d159}]/u;
/** A blank of another width than the usual one. */
const oddBlank = /(?! )\p{Zs}/u;

/** Whether all of a name can be seen, and its blanks are the usual ones. */
export const isVisible = (label: string): boolean => !unseen.test(label) && !oddBlank.test(label);

/**
 * The same text for names that look alike: one spelling of each character (NFKC), letters of other scripts as the ASCII
 * ones that they look like (Unicode's confusables), runs of blanks as one. ASCII characters stay as they are: `n1` and
 * `nl` are names that people give.
 */
export function lookOf(label: string): string {
  const spelled = label.normalize("NFKD").replace(/[^\0-\x7f]/gu, nearest);
  return spelled.normalize("NFKC").replace(/\s+/gu, " ").trim();
}

/** Unicode has one prototype for `I`, `l`, `1` and `|`, and so for more that ASCII tells apart: which of them a character is most like. */
function nearest(character: string): string {
  const prototype = unhomoglyph(character);
  const isNumber = /\p{N}/u.test(character);
  switch (prototype) {
    case "l":
      return isNumber ? "1" : /\p{Lu}/u.test(character) ? "I" : prototype;
    case "O":
      return isNumber ? "0" : prototype;
    case "rn":
      return "m";
    case "''":
      return '"';
    default:
      return prototype;
  }
}

/** Whether a name can be read as this word, in whatever letters. Stricter than `lookOf`: for a word that stands for something. */
export const readsAs = (label: string, word: string): boolean => read(label) === read(word);

const read = (text: string): string => strict(strict(text).toLowerCase()).replaceAll(/[l1|]/g, "i");
const strict = (text: string): string => unhomoglyph(text.normalize("NFKD").replace(/\p{M}/gu, ""));

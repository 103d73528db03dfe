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

/**
 * Names that people have, in ASCII: what the grammar takes is written as it is, and everything else as
 * percent-encoded UTF-8, in one spelling alone, so that two names are the same exactly where their bytes are.
 */
export interface Grammar {
  /** What may stand anywhere, and what may stand first, as sets of a regular expression. */
  readonly anywhere: RegExp;
  readonly first: RegExp;
}

export const NAME_GRAMMAR: Grammar = { anywhere: /^[A-Za-z0-9._:@|+~-]$/, first: /^[A-Za-z0-9]$/ };

/** Characters at most, decoded, and bytes as they are written. */
const MAX_CHARACTERS = 128;
const MAX_WRITTEN = 256;

/** Controls, format characters, surrogates, private use, unassigned; separators of lines and paragraphs. */
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]/u;

/** The one spelling of a name; undefined where it can have none. */
export function spelled(name: string, { anywhere, first }: Grammar = NAME_GRAMMAR): string | undefined {
  if (!name.isWellFormed()) return undefined;
  const normal = name.normalize("NFC");
  const characters = [...normal];
  if (characters.length === 0 || characters.length > MAX_CHARACTERS || UNSEEN.test(normal)) return undefined;
  if (normal === "." || normal === "..") return undefined;
  const written = characters.map((c, i) => ((i === 0 ? first : anywhere).test(c) ? c : encoded(c))).join("");
  return written.length > MAX_WRITTEN ? undefined : written;
}

const encoded = (character: string) =>
  [...new TextEncoder().encode(character)]
    .map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`)
    .join("");

/** Whether a text is a name in its one spelling. */
export function isSpelled(text: string, grammar: Grammar = NAME_GRAMMAR): boolean {
  if (text.length > MAX_WRITTEN || !/^[\x21-\x7e]+$/.test(text)) return false;
  if (!text.includes("%")) return spelled(text, grammar) === text;
  try {
    return spelled(decodeURIComponent(text), grammar) === text;
  } catch {
    return false; // not UTF-8, or a percent sign by itself
  }
}

/** How it would be written, for an error's hint: of what is written in another way as of what is not written at all. */
export function hintFor(text: string): string {
  let name = text;
  try {
    name = decodeURIComponent(text);
  } catch {
    // taken as it is
  }
  const right = spelled(name);
  return right === undefined || right === text ? "" : `; write ${right}`;
}

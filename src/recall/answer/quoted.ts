/**
 * Stored text as one JSON string on one line, whatever it contains: a parser gets the text back, and
 * nothing in it begins a line, a quotation, a tag or a source of its own. Written as escapes are
 *
 * - controls, also those beyond ASCII (U+0085) and the separators of lines and paragraphs
 * - what has no look or changes the direction of others; but for joiners inside of words and pictures,
 *   and the sign behind a picture that it is one
 * - what is no character: surrogates alone, private use, unassigned
 * - `<`, which begins a tag
 */
export function quoted(text: string): string {
  return JSON.stringify(text).replace(UNSEEN, (found, at: number, whole: string) =>
    isPartOfLook(found, whole, at) ? found : escaped(found),
  );
}

const UNSEEN = /[\p{C}\p{Default_Ignorable_Code_Point}\u2028\u2029\u2800<]/gu;
/** Letters of the scripts that are written with joiners, and pictures. */
const JOINED =
  /[\p{Script=Arabic}\p{Script=Devanagari}\p{Script=Bengali}\p{Script=Gujarati}\p{Script=Gurmukhi}\p{Script=Kannada}\p{Script=Malayalam}\p{Script=Oriya}\p{Script=Sinhala}\p{Script=Tamil}\p{Script=Telugu}\p{Script=Khmer}\p{Script=Mongolian}\p{Script=Syriac}\p{Extended_Pictographic}\p{Emoji_Modifier}]|\ufe0f/u;
const PICTURE = /\p{Extended_Pictographic}$/u;

function isPartOfLook(character: string, whole: string, at: number): boolean {
  const before = [...whole.slice(Math.max(0, at - 2), at)].at(-1) ?? "";
  if (character === "\ufe0f") return PICTURE.test(before);
  if (character !== "\u200c" && character !== "\u200d") return false;
  const after = String.fromCodePoint(whole.codePointAt(at + 1) ?? 0);
  return JOINED.test(before) && JOINED.test(after);
}

const escaped = (character: string) =>
  Array.from(
    { length: character.length },
    (_, i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, "0")}`,
  ).join("");

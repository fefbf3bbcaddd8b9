/**
 * Stored text as one JSON string on one line, whatever it contains: a parser gets the text back, and
 * nothing in it begins a line, a quotation, a tag or a source of its own. Written as escapes are
 *
 * - controls, also those beyond ASCII (U+0085) and the separators of lines and paragraphs
 * - what has no look or changes the direction of others: format characters, but for joiners inside of words
 * - what is no character: surrogates alone, private use, unassigned
 * - the `<` of what looks like a tag
 */
export function quoted(text: string): string {
  return JSON.stringify(text)
    .replace(
      /(?<=[\p{L}\p{M}\p{Emoji}])[\u200c\u200d](?=[\p{L}\p{M}\p{Emoji}])|[\p{C}\u2028\u2029]/gu,
      (found, at: number, whole) => (isJoiner(found) && isInside(whole, at) ? found : escaped(found)),
    )
    .replace(/<(?=[\p{L}/!?|$%])/gu, "\\u003c");
}

const isJoiner = (text: string) => text === "\u200c" || text === "\u200d";
const isInside = (whole: string, at: number) =>
  /[\p{L}\p{M}\p{Emoji}]$/u.test(whole.slice(Math.max(0, at - 2), at)) &&
  /^[\p{L}\p{M}\p{Emoji}]/u.test(whole.slice(at + 1, at + 3));

const escaped = (character: string) =>
  Array.from(
    { length: character.length },
    (_, i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, "0")}`,
  ).join("");

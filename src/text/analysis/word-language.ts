import { type Language, languageOf } from "./languages.ts";
import { HAN_OR_KANA, type Word } from "./words.ts";

/** One language stands for each script that has several. */
export const scriptOf = ({ script, code }: Language): string => (script === "other" ? code : script);

/** The script of a word of an alphabet, as {@link scriptOf} names it, by its first letter. */
function scriptOfWord(word: string): string {
  for (const character of word) {
    const code = character.codePointAt(0) ?? 0;
    if ((code >= 97 && code <= 122) || (code >= 0xaa && code < 0x250) || (code >= 0x1e00 && code < 0x1f00))
      return "latin";
    if (code < 0x370) continue;
    if (code < 0x400 || (code >= 0x1f00 && code < 0x2000)) return "el";
    if (code < 0x530) return "cyrillic";
    if (code < 0x590) return "hy";
    if (code < 0x600) return "he";
    if (code < 0x780 || (code >= 0xfb50 && code < 0xfeff)) return "arabic";
    if (code >= 0x900 && code < 0x980) return "devanagari";
    if (code >= 0xb80 && code < 0xc00) return "ta";
    return "";
  }
  return "latin";
}

function keyOfWord({ kind, lower }: Word): string {
  if (kind === "hangul") return "ko";
  if (kind === "unspaced") return HAN_OR_KANA.test(lower) ? "ja" : "th";
  return scriptOfWord(lower);
}

/** The language of a word among those of its text. */
export const languageOfWord = (word: Word, byScript: ReadonlyMap<string, Language>): Language => {
  const key = keyOfWord(word);
  return byScript.get(key) ?? (key === "ja" ? (byScript.get("zh") ?? languageOf("zh")) : languageOf(key));
};

/** The languages in which a word is asked: those of the visible texts in its script. */
export function languagesFor(
  word: Word,
  visible: readonly string[],
  byScript: ReadonlyMap<string, Language>,
): Language[] {
  const key = keyOfWord(word);
  const ways = visible.map(languageOf).filter((language) => scriptOf(language) === key);
  const own = byScript.get(key);
  return ways.length > 0 ? ways : own === undefined ? [languageOf(key)] : [own];
}

import { eld } from "eld/small";
import { LANGUAGES, type Script } from "./languages.ts";

/** What a text is taken for where nothing speaks for another language, by script. */
const USUAL: Readonly<Record<Exclude<Script, "other">, string>> = {
  latin: "en",
  cyrillic: "ru",
  arabic: "ar",
  devanagari: "hi",
};
const SCRIPTS: readonly (readonly [Exclude<Script, "other">, RegExp])[] = [
  ["latin", /\p{sc=Latin}/u],
  ["cyrillic", /\p{sc=Cyrillic}/u],
  ["arabic", /\p{sc=Arabic}/u],
  ["devanagari", /\p{sc=Devanagari}/u],
];
/** Scripts that have one language here. */
const ALONE: readonly (readonly [string, RegExp])[] = [
  ["ja", /[\p{sc=Hira}\p{sc=Kana}]/u],
  ["zh", /\p{sc=Han}/u],
  ["ko", /\p{sc=Hangul}/u],
  ["th", /\p{sc=Thai}/u],
  ["el", /\p{sc=Greek}/u],
  ["he", /\p{sc=Hebrew}/u],
  ["hy", /\p{sc=Armenian}/u],
  ["ta", /\p{sc=Tamil}/u],
];
const ASCII = /^[\0-\x7f]*$/;

/** The library tells more languages apart than there are stemmers for. */
const STEMMED_AS: Readonly<Record<string, string>> = {
  hr: "sr",
  bs: "sr",
  sk: "cs",
  nb: "no",
  nn: "no",
  ms: "id",
  be: "ru",
};
/** What the usual language is ahead by, and what each word of a language's own stop words is worth, in the library's scores. */
const AHEAD = 0.04;
const STOP_WORD = 0.06;
/** Characters that are looked at. */
const LOOKED_AT = 240;
/** A text of so many words without a stop word of any language is no language's: identifiers, names, numbers. */
const WORDS_WITHOUT_STOPS = 8;

/** The languages of one script that have a word among their stop words, as bits in the order of LANGUAGES. */
const CODES = [...LANGUAGES.keys()];
const STOPS = new Map<string, number>();
for (const [i, { script, stops }] of [...LANGUAGES.values()].entries()) {
  if (script === "other" || i > 30) continue;
  for (const word of stops) STOPS.set(word, (STOPS.get(word) ?? 0) | (1 << i));
}

/**
 * The languages of a text, by its scripts and, where a script has several, by its stop words and a detector
 * (Efficient Language Detector): `["ja", "en"]`, the order being that of the scripts here.
 *
 * @param words of the text, folded
 * @param known the language that all texts are in, for its script; undefined: it is found out
 * @param among the only ones that come into question; undefined: all
 */
export function languagesIn(
  text: string,
  words: readonly string[],
  known?: string,
  among?: ReadonlySet<string>,
): string[] {
  const looked = text.length > LOOKED_AT ? text.slice(0, LOOKED_AT) : text;
  if (ASCII.test(looked)) return /[a-z]/i.test(looked) ? [ofScript("latin", looked, words, known, among)] : [];
  const found: string[] = [];
  for (const [code, letters] of ALONE) {
    // Japanese has ideographs as well.
    if (letters.test(looked) && !(code === "zh" && found.includes("ja"))) found.push(code);
  }
  for (const [script, letters] of SCRIPTS) {
    if (letters.test(looked)) found.push(ofScript(script, looked, words, known, among));
  }
  return found;
}

function ofScript(
  script: Exclude<Script, "other">,
  text: string,
  words: readonly string[],
  known: string | undefined,
  among: ReadonlySet<string> | undefined,
): string {
  if (known !== undefined && LANGUAGES.get(known)?.script === script) return known;
  const isCandidate = (code: string) =>
    LANGUAGES.get(code)?.script === script && (among === undefined || among.has(code));
  const usual = USUAL[script];
  const stops = countStops(words);
  let [best, second] = [0, 0];
  let winner = usual;
  for (const [code, count] of stops) {
    if (!isCandidate(code)) continue;
    if (count > best) [best, second, winner] = [count, best, code];
    else if (count > second) second = count;
  }
  // Words that only one language has so many of leave no doubt.
  if (best >= 3 && best >= 2 * second) return winner;
  if (stops.size === 0 && words.length >= WORDS_WITHOUT_STOPS && ASCII.test(text) && isCandidate(usual)) return usual;
  const scores = new Map<string, number>();
  for (const [detected, score] of Object.entries(eld.detect(text).getScores())) {
    const code = STEMMED_AS[detected] ?? detected;
    if (isCandidate(code)) scores.set(code, Math.max(scores.get(code) ?? 0, score));
  }
  for (const [code, count] of stops)
    if (isCandidate(code)) scores.set(code, (scores.get(code) ?? 0) + STOP_WORD * count);
  if (isCandidate(usual)) scores.set(usual, (scores.get(usual) ?? 0) + AHEAD);
  let top = 0;
  for (const [code, score] of scores) if (score > top) [top, winner] = [score, code];
  return winner;
}

function countStops(words: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const word of words.slice(0, 100)) {
    let bits = STOPS.get(word) ?? 0;
    while (bits !== 0) {
      const i = 31 - Math.clz32(bits);
      bits &= ~(1 << i);
      const code = CODES[i] ?? "";
      counts.set(code, (counts.get(code) ?? 0) + 1);
    }
  }
  return counts;
}

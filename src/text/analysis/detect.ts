import { detectAll } from "tinyld/light";
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

/** Letters that few languages of a script write. */
const LETTERS: ReadonlyMap<string, readonly string[]> = new Map(
  Object.entries({
    ß: "de",
    ä: "de fi sv",
    ö: "de fi sv tr hu",
    ü: "de tr hu",
    å: "sv no da",
    ø: "no da",
    æ: "no da",
    ñ: "es",
    "¿": "es",
    "¡": "es",
    ã: "pt",
    õ: "pt",
    ç: "fr pt tr",
    è: "fr it",
    ê: "fr pt",
    ë: "nl fr",
    œ: "fr",
    ù: "fr it",
    ò: "it",
    ì: "it",
    ł: "pl",
    ż: "pl",
    ź: "pl",
    ś: "pl",
    ć: "pl sr",
    ń: "pl",
    ą: "pl lt",
    ę: "pl lt",
    ř: "cs",
    ě: "cs",
    ů: "cs",
    č: "cs sr lt",
    š: "cs sr lt",
    ž: "cs sr lt",
    ğ: "tr",
    ı: "tr",
    ş: "tr",
    ő: "hu",
    ű: "hu",
    ă: "ro",
    ș: "ro",
    ț: "ro",
    ţ: "ro",
    đ: "sr",
    ė: "lt",
    ų: "lt",
    į: "lt",
    ĳ: "nl",
    і: "uk",
    ї: "uk",
    є: "uk",
    ґ: "uk",
    ы: "ru",
    э: "ru",
    ё: "ru",
    ъ: "bg",
    پ: "fa ur",
    چ: "fa ur",
    گ: "fa ur",
    ژ: "fa",
    ٹ: "ur",
    ڈ: "ur",
    ے: "ur",
    ں: "ur",
    ळ: "mr",
  }).map(([letter, codes]) => [letter, codes.split(" ")]),
);
const NOT_ASCII = /[^\0-\x7f]/g;
/** Points for a language: for each of its stop words in a text. */
const STOP_WORD_POINTS = 1;
/** For a letter, shared by the languages that write it. */
const LETTER_POINTS = 2;
/** For the detector's guess about a text of so many words; for a shorter one less. */
const GUESS = { points: 0.9, words: 7 };
/** For what a text is usually taken for. */
const USUAL_POINTS = 0.8;
/** From so many points on, and twice or two more than any other's, a language is taken without the detector. */
const CLEAR_POINTS = 3;
/** A text of so many words without a stop word of any language is no language's: identifiers, names, numbers. */
const WORDS_WITHOUT_STOPS = 8;
/** How much of a text is looked at: characters, characters by the detector, and words. */
const LOOKED_AT = 240;
const GUESSED_BY = 100;
const COUNTED_WORDS = 100;
/** The detector tells some apart for which there is one stemmer. */
const STEMMED_AS: Readonly<Record<string, string>> = { nb: "no", nn: "no" };

/** The languages that are told by stop words: one bit each. */
const TOLD = [...LANGUAGES.values()].filter(({ script }) => script !== "other");
if (TOLD.length > 31) throw new Error(`languages are told apart by 31 bits, and there are ${TOLD.length}`);
/** Those that have a word among their stop words. */
const STOPS = new Map<string, number>();
for (const [i, { stops }] of TOLD.entries()) {
  for (const word of stops) STOPS.set(word, (STOPS.get(word) ?? 0) | (1 << i));
}

/**
 * The languages of a text, by its scripts and, where a script has several, by its stop words, its letters and
 * a detector (tinyld): `["ja", "en"]`, the order being that of the scripts here.
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
  if (among !== undefined) {
    const candidates = [...among].filter(isCandidate);
    if (candidates.length <= 1) return candidates[0] ?? usual;
  }
  const scores = countStops(words);
  if (scores.size === 0 && words.length >= WORDS_WITHOUT_STOPS && ASCII.test(text) && isCandidate(usual)) return usual;
  for (const letter of new Set(text.toLowerCase().match(NOT_ASCII) ?? [])) {
    const codes = LETTERS.get(letter) ?? [];
    for (const code of codes) scores.set(code, (scores.get(code) ?? 0) + LETTER_POINTS / codes.length);
  }
  const [best, second] = [...scores].filter(([code]) => isCandidate(code)).sort(([, a], [, b]) => b - a);
  // So much that speaks for one alone leaves no doubt.
  if (
    best !== undefined &&
    best[1] >= CLEAR_POINTS &&
    best[1] >= Math.min(2 * (second?.[1] ?? 0), (second?.[1] ?? 0) + 2)
  )
    return best[0];
  const [guess] = detectAll(text.slice(0, GUESSED_BY));
  if (guess !== undefined) {
    const code = STEMMED_AS[guess.lang] ?? guess.lang;
    if (guess.accuracy > 0)
      scores.set(code, (scores.get(code) ?? 0) + GUESS.points * Math.min(1, words.length / GUESS.words));
  }
  scores.set(usual, (scores.get(usual) ?? 0) + USUAL_POINTS);
  let [winner, top] = [usual, 0];
  for (const [code, score] of scores) if (isCandidate(code) && score > top) [winner, top] = [code, score];
  return winner;
}

function countStops(words: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const word of words.slice(0, COUNTED_WORDS)) {
    let bits = STOPS.get(word) ?? 0;
    while (bits !== 0) {
      const i = 31 - Math.clz32(bits);
      bits &= ~(1 << i);
      const code = TOLD[i]?.code ?? "";
      counts.set(code, (counts.get(code) ?? 0) + STOP_WORD_POINTS);
    }
  }
  return counts;
}

import { normalForm } from "../normal-form.ts";
import { mayJoin } from "./compounds.ts";
import { languagesIn } from "./detect.ts";
import { folded } from "./fold.ts";
import { IRREGULAR_FORMS } from "./irregular.ts";
import { type Language, languageOf } from "./languages.ts";
import { languageOfWord, languagesFor, scriptOf } from "./word-language.ts";
import { HAN_OR_KANA, lettersOf, unspacedRuns, type Word, wordsIn } from "./words.ts";

/**
 * The version of what this folder makes of a text, with that of the dictionaries by which Thai and its
 * likes are split (ICU, which comes with Node). Texts of an earlier one are analysed again (src/jobs/bring-up.ts).
 */
export const ANALYSER = 1_000 + Number.parseInt(process.versions.icu ?? "0", 10);

/** A term that only stands inside a compound: `+haus` of `Krankenhaus`. */
export const IN_COMPOUND = "+";
/** A looser form of a word: `~maraa` of the Finnish `maraton`. */
const NEAR = "~";
const MAX_FREQUENCY = 127;
const MAX_LENGTH = 65_535;
/** Of one text so many different terms are kept, the first ones. */
const MAX_TERMS = 16_384;
/** The shortest and the longest word that is looked at as a compound, and the shortest part of one and of its stem, in letters. */
const COMPOUND = { from: 8, to: 40, part: 4, stem: 3 };

export interface Analysis {
  /** ISO 639-1, by the scripts of the text. */
  readonly languages: readonly string[];
  /** In words, without stop words: BM25's length of a document. */
  readonly length: number;
  /** How often each term is in the text, 1 to 127. */
  readonly terms: ReadonlyMap<string, number>;
  /** Those of them that stand for what the text is about: one form of each word that is no stop word. */
  readonly main: ReadonlySet<string>;
}

/**
 * What texts and questions are found by: one for all that is analysed together, since it keeps the stems of
 * a batch. The same words give the same terms whatever else is there.
 */
export class Analyser {
  readonly #known: string | undefined;
  readonly #stems = new Map<string, Map<string, string>>();

  /** @param known the language that texts are in, where it is known; undefined: each text's is found out */
  constructor(known?: string) {
    this.#known = known === "auto" ? undefined : known;
  }

  /** @param text as it was sent */
  text(text: string): Analysis {
    const written = normalForm(text);
    const words = wordsIn(written);
    const languages = languagesIn(
      written,
      words.map(({ exact }) => exact),
      this.#known,
    );
    const byScript = new Map(languages.map((code) => [scriptOf(languageOf(code)), languageOf(code)]));
    const terms = new Map<string, number>();
    const main = new Set<string>();
    const add = (term: string) => {
      // A stroke between Arabic letters, alone, is a word of none.
      if (term === "") return;
      const known = terms.get(term);
      if (known !== undefined) terms.set(term, Math.min(known + 1, MAX_FREQUENCY));
      else if (terms.size < MAX_TERMS) terms.set(term, 1);
    };
    let length = 0;
    for (const word of words) {
      const language = languageOfWord(word, byScript);
      const isStop = isStopWord(word, language);
      if (!isStop) length++;
      if (word.kind === "unspaced") {
        for (const term of unspacedTerms(word)) add(term);
        if (!isStop) main.add(word.lower);
        continue;
      }
      add(word.exact);
      if (isStop) continue;
      main.add(word.kind === "number" || word.parts.length > 0 ? word.exact : this.#stem(word.lower, language));
      // The short way of what is below, for most words of most texts.
      if (
        word.kind === "alphabet" &&
        word.parts.length === 0 &&
        !language.hasCompounds &&
        language.near === undefined
      ) {
        const stem = this.#stem(word.lower, language);
        if (stem !== word.exact && stem !== "" && !language.stops.has(stem)) add(stem);
        continue;
      }
      for (const term of this.#more(word, language)) add(term);
    }
    for (const run of unspacedRuns(written)) {
      const letters = lettersOf(run);
      for (const term of pairsOf(letters)) add(term);
      for (const letter of letters) if (HAN.test(letter)) add(letter);
    }
    return { languages, length: Math.min(Math.max(length, Math.min(words.length, 1)), MAX_LENGTH), terms, main };
  }

  /** What a word is found by besides its own form. */
  #more(word: Word, language: Language): string[] {
    const { lower, exact, parts, kind } = word;
    if (kind === "number") return [];
    const found = new Set<string>();
    if (kind === "hangul") for (const pair of pairsOf([...lower])) found.add(pair);
    const isWhole = parts.length === 0;
    if (isWhole) {
      const stem = this.#stem(lower, language);
      if (!language.stops.has(stem)) found.add(stem);
    }
    for (const part of parts) {
      found.add(folded(part));
      found.add(this.#stem(part, language));
    }
    if (language.hasCompounds && isWhole) {
      for (const part of this.#joints(lower, language).flat())
        if (part.length >= COMPOUND.stem) found.add(`${IN_COMPOUND}${part}`);
    }
    const near = language.near?.(exact) ?? "";
    if (near !== "") found.add(`${NEAR}${near}`);
    found.delete(exact);
    found.delete("");
    return [...found];
  }

  /** A word's stem, folded. */
  #stem(lower: string, language: Language): string {
    let stems = this.#stems.get(language.code);
    if (stems === undefined) {
      stems = new Map();
      this.#stems.set(language.code, stems);
    }
    let stem = stems.get(lower);
    if (stem === undefined) {
      stem = folded(stemOf(lower, language));
      stems.set(lower, stem);
    }
    return stem;
  }

  /** The two stems of each way in which a word may be made of two. */
  #joints(lower: string, language: Language): (readonly [front: string, back: string])[] {
    const joints: (readonly [string, string])[] = [];
    if (lower.length < COMPOUND.from || lower.length > COMPOUND.to) return joints;
    for (let at = COMPOUND.part; at <= lower.length - COMPOUND.part; at++) {
      const [front, back] = [lower.slice(0, at), lower.slice(at)];
      if (mayJoin(front, back)) joints.push([this.#stem(front, language), this.#stem(back, language)]);
    }
    return joints;
  }

  /**
   * The words of a question, each with what it finds.
   *
   * @param visible the languages of the texts that are asked
   * @param ignored words that are not asked for, folded, besides stop words; undefined: none, and a question of nothing
   *   but stop words is about these (`The Who`, `to be or not to be`)
   */
  question(text: string, visible: readonly string[], ignored?: ReadonlySet<string>): AskedWord[] {
    const written = normalForm(text);
    const words = wordsIn(written).slice(0, MAX_ASKED);
    const asked = languagesIn(
      written,
      words.map(({ exact }) => exact),
      this.#known,
      new Set(visible),
    );
    const byScript = new Map(asked.map((code) => [scriptOf(languageOf(code)), languageOf(code)]));
    const isStop = words.map(
      (word) => isStopWord(word, languageOfWord(word, byScript)) || ignored?.has(word.exact) === true,
    );
    const isAllStops = ignored === undefined && isStop.every((stop) => stop);
    const found = new AskedWords();
    for (const [i, word] of words.entries()) {
      if (isStop[i] === true && !isAllStops) continue;
      if (word.kind === "unspaced") {
        const beside = (at: number) => (isStop[at] === true && !isAllStops ? undefined : words[at]);
        this.#askUnspaced(found, word, beside(i - 1), beside(i + 1));
      } else this.#ask(found, word, languagesFor(word, visible, byScript));
    }
    return found.words();
  }

  #ask(found: AskedWords, word: Word, languages: readonly Language[]): void {
    const { lower, exact, parts, kind } = word;
    // What one language takes for a stem may be another's stop word: `Theo` is `the` in Spanish.
    const stems = (kind === "number" ? [] : languages.map((language) => this.#stem(lower, language))).filter(
      (stem) => stem === exact || !languages.some(({ stops }) => stops.has(stem)),
    );
    if (parts.length > 0) {
      found.add({ variants: [[exact, 1]], weight: 1 });
      for (const part of parts) {
        const forms = languages.map((language) => this.#stem(part, language));
        found.add({ variants: [folded(part), ...forms].map((form) => [form, 1]), weight: 1 });
      }
      return;
    }
    const compounding = kind === "alphabet" ? languages.filter(({ hasCompounds }) => hasCompounds) : [];
    const inside = compounding
      .map((language) => this.#stem(lower, language))
      .filter((stem) => stem.length >= COMPOUND.stem);
    const genitive = languages.some(({ hasGenitiveS }) => hasGenitiveS)
      ? [`${exact}s`, ...(exact.length > 3 && exact.endsWith("s") ? [exact.slice(0, -1)] : [])]
      : [];
    const irregular = languages.some(({ code }) => code === "en") ? (IRREGULAR_FORMS.get(exact) ?? []) : [];
    const near = languages.map((language) => language.near?.(exact) ?? "").filter((form) => form !== "");
    found.add({
      variants: [
        ...[exact, ...stems, ...irregular, ...genitive].map((form): [string, number] => [form, 1]),
        ...inside.map((part): [string, number] => [`${IN_COMPOUND}${part}`, INSIDE_COMPOUND]),
      ],
      weight: 1,
      near: near.map((form) => `${NEAR}${form}`),
      joints: compounding.flatMap((language) => this.#joints(lower, language)),
    });
    if (kind === "hangul") {
      const pairs = pairsOf([...lower]);
      for (const pair of pairs) found.add({ variants: [[pair, 1]], weight: PAIRS_WEIGHT / pairs.length });
    }
  }

  #askUnspaced(found: AskedWords, word: Word, before: Word | undefined, after: Word | undefined): void {
    const letters = lettersOf(word.lower);
    const isSingle = ({ lower, kind }: Word) => kind === "unspaced" && HAN.test(lower) && lettersOf(lower).length === 1;
    const isWhole = letters.length >= 3;
    for (const term of unspacedTerms(word)) found.add({ variants: [[term, 1]], weight: isWhole ? PAIRS_WEIGHT : 1 });
    const pairs = pairsOf(letters);
    for (const pair of pairs) found.add({ variants: [[pair, 1]], weight: isWhole ? PAIRS_WEIGHT / pairs.length : 1 });
    // Ideographs that stand in a row by themselves are a name: they count as pairs.
    const isOfName = (other: Word | undefined) => other !== undefined && isSingle(other);
    if (isSingle(word) && !isOfName(before) && !isOfName(after)) found.add({ variants: [[word.lower, 1]], weight: 1 });
    if (after?.kind === "unspaced") {
      const pair = `${letters.at(-1) ?? ""}${lettersOf(after.lower)[0] ?? ""}`;
      found.add({ variants: [[pair, 1]], weight: isSingle(word) && isSingle(after) ? 1 : BETWEEN_WORDS });
    }
  }
}

/** A word of a question: a text has it as often as the most frequent of its variants there. */
export interface AskedWord {
  /** Terms, each with the share of its frequency that counts. */
  readonly variants: readonly (readonly [term: string, share: number])[];
  /** What it counts for beside the others. */
  readonly weight: number;
  /** Looser forms. */
  readonly near: readonly string[];
  /** The ways in which it may be made of two words: the stems of both. */
  readonly joints: readonly (readonly [front: string, back: string])[];
}

/** Words of one question that are looked for. */
const MAX_ASKED = 128;
/** A word inside of a compound is not quite that word. */
export const INSIDE_COMPOUND = 0.8;
/** What all pairs of letters of a word count for together, and the word as a whole. */
const PAIRS_WEIGHT = 0.6;
/** A pair of letters at the limit of two words. */
const BETWEEN_WORDS = 0.3;

/** Endings behind an apostrophe are no words: `Selin'in`. */
const ENDS_BEHIND_APOSTROPHE = new Set(["tr", "fi", "hu"]);

const isStopWord = ({ exact, followsApostrophe }: Word, { code, stops }: Language): boolean =>
  stops.has(exact) || (followsApostrophe === true && ENDS_BEHIND_APOSTROPHE.has(code));

/** Longer runs of letters are no words. */
const LONGEST_STEMMED = 64;

/** A word that a stemmer of the library fails on stays as it is: theirs are not made for any input. */
function stemOf(lower: string, language: Language): string {
  if (lower.length > LONGEST_STEMMED) return lower;
  try {
    return language.stem(lower);
  } catch {
    return lower;
  }
}

class AskedWords {
  readonly #words = new Map<string, AskedWord & { readonly variants: [string, number][] }>();

  /** One that is asked twice counts once. */
  add({ variants, weight, near = [], joints = [] }: Pick<AskedWord, "variants" | "weight"> & Partial<AskedWord>): void {
    const shares = new Map<string, number>();
    for (const [term, share] of variants) if (term !== "") shares.set(term, Math.max(shares.get(term) ?? 0, share));
    const [first] = shares.keys();
    if (first === undefined) return;
    const known = this.#words.get(first);
    if (known !== undefined && known.weight >= weight) return;
    this.#words.set(first, { variants: [...shares], weight, near: [...new Set(near)], joints });
  }

  words(): AskedWord[] {
    return [...this.#words.values()];
  }
}

const HAN = /\p{sc=Han}/u;
const pairsOf = (letters: readonly string[]): string[] => letters.slice(1).map((letter, i) => `${letters[i]}${letter}`);

/** A word of three letters or more; and of a Japanese word what stands before its ending: 買 of 買った. (Shorter words are pairs.) */
function unspacedTerms({ lower }: Word): string[] {
  const letters = lettersOf(lower);
  const terms = letters.length >= 3 || (letters.length > 0 && !HAN_OR_KANA.test(lower)) ? [lower] : [];
  const ending = letters.findIndex((letter) => !HAN.test(letter));
  if (ending > 0) terms.push(`${letters.slice(0, ending).join("")}…`);
  return terms;
}

import { folded } from "./fold.ts";

/** A word as it stands in a text. */
export interface Word {
  /** Of lower case. */
  readonly lower: string;
  /** What it is found by as it is: without the marks that people leave out. */
  readonly exact: string;
  /** Identifiers and joined words: the parts, of lower case; empty where it has none. */
  readonly parts: readonly string[];
  /** It stands behind an apostrophe: in some languages it is an ending. */
  readonly followsApostrophe?: true;
  /** How it is taken apart further. */
  readonly kind: "alphabet" | "hangul" | "unspaced" | "number";
}

/** Letters and digits, joined by what stands in names of things, with the signs of `.NET`, `C++` and `C#`. */
const TOKEN =
  /(?<![\p{L}\p{N}\p{M}.])\.(?=\p{L}{2})[\p{L}\p{N}]+|[\p{L}\p{N}][\p{L}\p{N}\p{M}]*(?:(?:[.\-_@/:&’'·]|:\/\/|::|->)[\p{L}\p{N}][\p{L}\p{N}\p{M}]*)*(?:\+\+|#(?![\p{L}\p{N}]))?/gu;
/** The same for ASCII, which most texts are. */
const ASCII_TOKEN =
  /(?<![a-z0-9.])\.(?=[a-z]{2})[a-z0-9]+|[a-z0-9]+(?:(?:[.\-_@/:&']|:\/\/|::|->)[a-z0-9]+)*(?:\+\+|#(?![a-z0-9]))?/gi;
const ASCII = /^[\0-\x7f]*$/;

const JOINT = /[^\p{L}\p{N}\p{M}]+/u;
const CAMEL = /(?<=\p{Ll})(?=\p{Lu})|(?<=[\p{Lu}\p{N}])(?=\p{Lu}\p{Ll})/u;
/** Longer ones are taken apart at their joints alone. */
const LONGEST_IDENTIFIER = 200;
/** Letters beside digits: `ABC1234`, `v12`. */
const MIXED = /(?<=\p{L})(?=\p{N})|(?<=\p{N})(?=\p{L})/u;
const HAS_CAMEL = /\p{Ll}\p{Lu}|\p{Lu}\p{Lu}\p{Ll}/u;
const POSSESSIVE = /['’]s?$/u;
/** `l'école`, `dell'acqua`, `O'Brien`: two words. */
const APOSTROPHE = /['’]/u;

/** Ideographs and kana are written without spaces, and so are the others, whose letters have marks. */
const CHARACTERS = String.raw`\p{scx=Han}\p{scx=Hira}\p{scx=Kana}`;
const MARKED = String.raw`\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}`;
export const HAN_OR_KANA = new RegExp(`[${CHARACTERS}]`, "u");
const SEGMENTED = new RegExp(`[${MARKED}]`, "u");
const HANGUL = /\p{sc=Hangul}/u;
const UNSPACED = new RegExp(String.raw`[${CHARACTERS}${MARKED}\p{sc=Hangul}]`, "u");
const UNSPACED_RUN = String.raw`[${CHARACTERS}]+|[${MARKED}][${MARKED}\p{M}]*`;
const UNSPACED_RUNS = new RegExp(UNSPACED_RUN, "gu");
const RUN = new RegExp(String.raw`${UNSPACED_RUN}|[\p{sc=Hangul}]+|[^${CHARACTERS}${MARKED}\p{sc=Hangul}]+`, "gu");
const NUMBER = /^\p{N}+$/u;

let segmenter: Intl.Segmenter | undefined;
/** ICU is slow in long runs, and from 65,536 characters on a hundred times slower: they are cut, wherever that is. */
const SEGMENTED_AT_ONCE = 2_000;
/** In one text so much is split into words; of the rest there are pairs of letters. */
const MOST_SEGMENTED = 20_000;

/** The words of a run without spaces. (ICU takes its dictionaries by the script, whatever the locale.) */
function segments(run: string): string[] {
  segmenter ??= new Intl.Segmenter("und", { granularity: "word" });
  const found: string[] = [];
  for (let from = 0; from < run.length; ) {
    let to = Math.min(from + SEGMENTED_AT_ONCE, run.length);
    // Not inside of a letter: before a mark, or the second half of a pair.
    while (to < run.length && to > from + 1 && /[\p{M}\ud800-\udfff]/u.test(run.charAt(to))) to--;
    for (const { segment, isWordLike } of segmenter.segment(run.slice(from, to))) {
      if (isWordLike === true) found.push(segment);
    }
    from = to;
  }
  return found;
}

/** The words of a text in the normal form, in their order. */
export function wordsIn(text: string): Word[] {
  const found: Word[] = [];
  const isAscii = ASCII.test(text);
  let left = MOST_SEGMENTED;
  for (const token of text.match(isAscii ? ASCII_TOKEN : TOKEN) ?? []) {
    if (isAscii || !UNSPACED.test(token)) {
      add(found, token);
      continue;
    }
    for (const run of token.match(RUN) ?? []) {
      if (HAN_OR_KANA.test(run) || SEGMENTED.test(run)) {
        const some = run.slice(0, Math.max(0, left));
        left -= run.length;
        for (const word of segments(some)) found.push(unspaced(word, "unspaced"));
      } else if (HANGUL.test(run)) found.push(unspaced(run, "hangul"));
      else add(found, run);
    }
  }
  return found;
}

/** The runs without spaces in a text: pairs of letters go over the words' limits. */
export const unspacedRuns = (text: string): string[] =>
  HAN_OR_KANA.test(text) || SEGMENTED.test(text) ? (text.match(UNSPACED_RUNS) ?? []) : [];

/** What a reader takes for one letter: with its marks. */
export const lettersOf = (run: string): string[] => run.match(/\P{M}\p{M}*/gu) ?? [];

const unspaced = (word: string, kind: Word["kind"]): Word => ({ lower: word, exact: word, parts: [], kind });

/** Most words: nothing is to be looked for in them. */
const PLAIN = /^[A-Za-z][a-z]*$/;
const NO_PARTS: readonly string[] = [];

function add(found: Word[], token: string): void {
  if (PLAIN.test(token)) {
    const lower = token.toLowerCase();
    found.push({ lower, exact: lower, parts: NO_PARTS, kind: "alphabet" });
    return;
  }
  const written = token.replace(POSSESSIVE, "");
  if (written === "") return;
  if (APOSTROPHE.test(written)) {
    const [first = "", ...behind] = written.split(APOSTROPHE);
    if (first !== "") found.push(wordOf(first));
    for (const part of behind) if (part !== "") found.push({ ...wordOf(part), followsApostrophe: true });
    return;
  }
  found.push(wordOf(written));
}

function wordOf(written: string): Word {
  const lower = written.toLowerCase();
  const exact = folded(lower);
  if (NUMBER.test(written)) return { lower, exact, parts: NO_PARTS, kind: "number" };
  const pieces = written.split(JOINT).filter((piece) => piece !== "");
  // The letter of `C++` and `C#` is another name.
  const parts = pieces.length === 1 && pieces[0]?.length === 1 ? [] : pieces.filter((piece) => piece !== written);
  if (written.length <= LONGEST_IDENTIFIER) {
    const inside = pieces.flatMap((piece) => [
      ...(HAS_CAMEL.test(piece) ? piece.split(CAMEL) : []),
      ...(/\p{N}/u.test(piece) && /\p{L}/u.test(piece) ? piece.split(MIXED).filter((part) => part.length > 1) : []),
    ]);
    for (const part of inside) if (part !== written && !parts.includes(part)) parts.push(part);
  }
  return { lower, exact, parts: parts.map((part) => part.toLowerCase()), kind: "alphabet" };
}

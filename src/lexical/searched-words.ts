import { type AskedWord, IN_COMPOUND, INSIDE_COMPOUND } from "../text/analysis/analyse.ts";
import { termHash } from "../text/analysis/term-hash.ts";
import type { LexicalState } from "./state.ts";

/** A word that is looked for, as BM25 counts it. */
export interface SearchedWord {
  /** Terms, each with the share of its frequency that counts: a text has the word as often as the most frequent of them. */
  readonly variants: readonly (readonly [term: string, share: number])[];
  /** What it counts for beside the others. */
  readonly weight: number;
  /** The place of the word that it stands in for where a text does not have that one: then alone it counts. */
  readonly insteadOf?: number;
}

/** Looser forms of a word, and what a compound may be made of, count for less, where the word itself is not. */
const NEAR_WEIGHT = 0.3;
const PART_WEIGHT = 0.4;

/** The words of a question as they are looked for. */
export function searchedWords(asked: readonly AskedWord[]): SearchedWord[] {
  const words: SearchedWord[] = [];
  for (const { variants, weight, near, joints } of asked) {
    const insteadOf = words.push({ variants, weight }) - 1;
    if (near.length > 0)
      words.push({
        variants: near.map((term): [string, number] => [term, 1]),
        weight: weight * NEAR_WEIGHT,
        insteadOf,
      });
    for (const part of new Set(joints.flat())) {
      const inside = [`${IN_COMPOUND}${part}`, INSIDE_COMPOUND] as const;
      words.push({ variants: [[part, 1], inside], weight: weight * PART_WEIGHT, insteadOf });
    }
  }
  return words;
}

/** Terms that are hashed for all visible scopes together: of a question to very many the later words are left out. */
const MOST_HASHES = 200_000;
export function limitTerms(words: readonly SearchedWord[], { keys }: LexicalState): readonly SearchedWord[] {
  const most = MOST_HASHES / keys.size;
  let terms = 0;
  const end = words.findIndex(({ variants }) => {
    terms += variants.length;
    return terms > most;
  });
  return end < 1 ? (end === 0 ? words.slice(0, 1) : words) : words.slice(0, end);
}

/** What a scope's hashes stand for: the word's place, and the share of the frequency that counts. */
export type Hashes = ReadonlyMap<number, ReadonlyMap<number, readonly (readonly [word: number, share: number])[]>>;

export function hashesOf(words: readonly SearchedWord[], { keys }: LexicalState): Hashes {
  const hashes = new Map<number, Map<number, (readonly [number, number])[]>>();
  for (const [scope, key] of keys) {
    const known = new Map<number, (readonly [number, number])[]>();
    for (const [w, { variants }] of words.entries()) {
      for (const [term, share] of variants) {
        const hash = termHash(key, term);
        const meant = known.get(hash);
        if (meant === undefined) known.set(hash, [[w, share]]);
        else meant.push([w, share]);
      }
    }
    hashes.set(scope, known);
  }
  return hashes;
}

/** Frequencies in one text, where what stands in for a word counts only without it. */
export const alone = (words: readonly SearchedWord[], frequencies: readonly number[]): number[] =>
  frequencies.map((tf, w) => {
    const { insteadOf } = words[w] ?? {};
    return insteadOf !== undefined && (frequencies[insteadOf] ?? 0) > 0 ? 0 : tf;
  });

import { areAlike, type Words, wordsOf } from "../../documents/similarity.ts";
import type { Hit } from "./hits.ts";

/** Keeps the best `k` hits, and of near-duplicates only the best one. */
export function foldDuplicates(hits: readonly Hit[], k: number): Hit[] {
  const kept: { hit: Hit; words: Words }[] = [];
  for (const hit of hits) {
    if (kept.length === k) break;
    const words = wordsOf(hit.text);
    if (!kept.some((other) => areAlike(words, other.words))) kept.push({ hit, words });
  }
  return kept.map(({ hit }) => hit);
}

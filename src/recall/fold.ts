import type { Hit } from "./passages.ts";

/** Texts that share this part of their words (Jaccard) are the same memory said twice. */
const NEAR = 0.9;

/** Of a long text its beginning decides: comparing all of 100 long texts took seconds. */
const COMPARED = 2_000;

const wordsOf = (text: string) =>
  new Set(
    text
      .slice(0, COMPARED)
      .toLowerCase()
      .match(/[\p{L}\p{N}]+/gu) ?? [text],
  );

function jaccard(a: ReadonlySet<string>, b: ReadonlySet<string>): number {
  const [small, large] = a.size < b.size ? [a, b] : [b, a];
  if (small.size < NEAR * large.size) return 0; // they cannot share enough
  let shared = 0;
  for (const word of small) if (large.has(word)) shared++;
  return shared / (a.size + b.size - shared);
}

/** Whether two texts are the same memory said twice. */
export const areNearDuplicates = (a: string, b: string) => jaccard(wordsOf(a), wordsOf(b)) >= NEAR;

/** Keeps the best `k` hits, and of near-duplicates only the best one. */
export function foldDuplicates(hits: readonly Hit[], k: number): Hit[] {
  const kept: { hit: Hit; words: ReadonlySet<string> }[] = [];
  for (const hit of hits) {
    if (kept.length === k) break;
    const words = wordsOf(hit.text);
    if (!kept.some((other) => jaccard(words, other.words) >= NEAR)) kept.push({ hit, words });
  }
  return kept.map(({ hit }) => hit);
}

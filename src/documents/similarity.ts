/** Texts that share this part of their words (Jaccard) say the same thing twice. */
const NEAR = 0.9;

/** Of a long text its beginning decides: comparing all of 100 long texts took seconds. */
const COMPARED = 2_000;

/** The words of a text's beginning. */
export type Words = ReadonlySet<string>;

export const wordsOf = (text: string): Words =>
  new Set(
    text
      .slice(0, COMPARED)
      .toLowerCase()
      .match(/[\p{L}\p{N}]+/gu) ?? [text],
  );

/** Whether two texts are near-duplicates of each other, by their words. */
export function areAlike(a: Words, b: Words): boolean {
  const [small, large] = a.size < b.size ? [a, b] : [b, a];
  if (small.size < NEAR * large.size) return false; // they cannot share enough
  let shared = 0;
  for (const word of small) if (large.has(word)) shared++;
  return shared >= NEAR * (a.size + b.size - shared);
}

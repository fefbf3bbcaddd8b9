/** Okapi BM25's parameters, with the defaults of Robertson & Zaragoza (2009). */
export interface Bm25Parameters {
  readonly k1: number;
  readonly b: number;
}
export const BM25_DEFAULTS: Bm25Parameters = { k1: 1.2, b: 0.75 };

/**
 * What a text scores.
 *
 * @param frequencies how often it has each word
 * @param length its length, as a multiple of the mean
 */
export function bm25(
  words: readonly { readonly weight: number; readonly idf: number }[],
  frequencies: readonly number[],
  length: number,
  { k1, b }: Bm25Parameters = BM25_DEFAULTS,
): number {
  const norm = k1 * (1 - b + b * length);
  return words.reduce((sum, { weight, idf }, w) => {
    const tf = frequencies[w] ?? 0;
    return tf === 0 ? sum : sum + (weight * idf * tf * (k1 + 1)) / (tf + norm);
  }, 0);
}

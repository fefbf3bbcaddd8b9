import type { Analysis } from "../text/analysis/analyse.ts";
import { TERM_BYTES, type TermKey, termHash } from "../text/analysis/term-hash.ts";

/**
 * A passage's terms as they are stored: the hashes of all, 6 bytes each and the smallest first, then for each
 * of them a byte with how often it occurs, of which the highest bit says that it is one of the words that the
 * text is about.
 */
export const BYTES_A_TERM = TERM_BYTES + 1;
const MAIN = 0x80;

export function packTerms({ terms, main }: Pick<Analysis, "terms" | "main">, key: TermKey): Buffer {
  const hashes = new Float64Array(terms.size);
  const frequencies = new Map<number, number>();
  let n = 0;
  for (const [term, frequency] of terms) {
    const hash = termHash(key, term);
    hashes[n++] = hash;
    frequencies.set(hash, frequency | (main.has(term) ? MAIN : 0));
  }
  hashes.sort();
  const packed = Buffer.allocUnsafe(n * BYTES_A_TERM);
  let at = 0;
  for (const [i, hash] of hashes.entries()) {
    const [high, low] = [Math.floor(hash / 2 ** 32), hash >>> 0];
    packed[at++] = high >>> 8;
    packed[at++] = high;
    packed[at++] = low >>> 24;
    packed[at++] = low >>> 16;
    packed[at++] = low >>> 8;
    packed[at++] = low;
    packed[n * TERM_BYTES + i] = frequencies.get(hash) ?? 1;
  }
  return packed;
}

/** A hash of 6 bytes. */
export const hashAt = (bytes: Uint8Array, at: number): number =>
  (((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)) * 2 ** 32 +
  ((((bytes[at + 2] ?? 0) << 24) |
    ((bytes[at + 3] ?? 0) << 16) |
    ((bytes[at + 4] ?? 0) << 8) |
    (bytes[at + 5] ?? 0)) >>>
    0);

/** Goes through packed terms between two places of a buffer. */
export function eachTerm(
  bytes: Uint8Array,
  from: number,
  to: number,
  visit: (hash: number, frequency: number, isMain: boolean) => void,
): void {
  const n = (to - from) / BYTES_A_TERM;
  const frequencies = from + n * TERM_BYTES;
  for (let i = 0; i < n; i++) {
    const byte = bytes[frequencies + i] ?? 0;
    visit(hashAt(bytes, from + i * TERM_BYTES), byte & ~MAIN, (byte & MAIN) !== 0);
  }
}

import type { Analysis } from "../text/analysis/analyse.ts";
import { TERM_BYTES, type TermKey, termHash } from "../text/analysis/term-hash.ts";

/**
 * A passage's terms as they are stored: the hashes of all, 6 bytes each and the smallest first, then for each
 * of them a byte with how often it occurs, of which the highest bit says that it is one of the words that the
 * text is about.
 */
export const BYTES_A_TERM = TERM_BYTES + 1;
export const MAIN = 0x80;

export function packTerms({ terms, main }: Pick<Analysis, "terms" | "main">, key: TermKey): Buffer {
  const hashed = [...terms].map(([term, frequency]) => ({
    hash: termHash(key, term),
    byte: frequency | (main.has(term) ? MAIN : 0),
  }));
  hashed.sort((a, b) => a.hash - b.hash);
  const packed = Buffer.allocUnsafe(hashed.length * BYTES_A_TERM);
  for (const [i, { hash, byte }] of hashed.entries()) {
    packed.writeUIntBE(hash, i * TERM_BYTES, TERM_BYTES);
    packed[hashed.length * TERM_BYTES + i] = byte;
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

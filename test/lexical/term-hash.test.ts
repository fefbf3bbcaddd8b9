import { expect, test } from "vitest";
import { termHash, termKey } from "../../src/text/analysis/term-hash.ts";

/** SipHash-2-4 of the bytes 0, 1, 2, … of these lengths under the key 0, 1, … 15: the authors' reference vectors. */
const REFERENCE: readonly (readonly [length: number, hash: bigint])[] = [
  [0, 0x726fdb47dd0e0e31n],
  [2, 0x0d6c8009d9a94f5an],
  [4, 0xcf2794e0277187b7n],
  [6, 0xcbc9466e58fee3cen],
  [8, 0x93f5f5799a932462n],
  [10, 0x7a5dbbc594ddb9f3n],
  [12, 0x751e8fbc860ee5fbn],
  [14, 0xf723ca908e7af2een],
];

test.each(REFERENCE)("%i bytes as UTF-16 have the lower 48 bits of SipHash-2-4", (length, hash) => {
  const key = termKey(Uint8Array.from({ length: 16 }, (_, i) => i));
  const term = Buffer.from(Array.from({ length }, (_, i) => i)).toString("utf16le");
  expect(BigInt(termHash(key, term))).toBe(hash & 0xffffffffffffn);
});

test("another key gives another hash, and each letter counts", () => {
  const keys = [0, 1].map((last) => termKey(Uint8Array.from({ length: 16 }, (_, i) => (i === 15 ? last : i))));
  const hashes = keys.flatMap((key) =>
    ["", "a", "b", "ab", "ba", "abcd", "abcde", "größe"].map((term) => termHash(key, term)),
  );
  expect(new Set(hashes).size).toBe(hashes.length);
});

/** The keyed hash of a term, by SipHash-2-4 (Aumasson & Bernstein 2012): who does not have the key can tell no word by it. */

/** 16 bytes as four words, little-endian. */
export type TermKey = Int32Array;

/** Bytes of a term's hash. */
export const TERM_BYTES = 6;
/** Hashes are below this. */
export const TERM_RANGE = 2 ** 48;

export function termKey(bytes: Uint8Array): TermKey {
  if (bytes.length !== 16) throw new Error(`a term key has 16 bytes, not ${bytes.length}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
  return Int32Array.from({ length: 4 }, (_, i) => view.getInt32(4 * i, true));
}

/** A term's hash: the lower 48 bits, for its UTF-16 in little-endian order, as a whole number. */
export function termHash([k0 = 0, k1 = 0, k2 = 0, k3 = 0]: TermKey, term: string): number {
  // The state of four times 64 bits, in halves. All in one function, whose variables are local: a batch makes a
  // hundred thousand of these.
  let l0 = k0 ^ 0x70736575;
  let h0 = k1 ^ 0x736f6d65;
  let l1 = k2 ^ 0x6e646f6d;
  let h1 = k3 ^ 0x646f7261;
  let l2 = k0 ^ 0x6e657261;
  let h2 = k1 ^ 0x6c796765;
  let l3 = k2 ^ 0x79746573;
  let h3 = k3 ^ 0x74656462;
  const { length } = term;
  const blocks = (length >> 2) + 1;
  // Each block of four letters, the last of which has the length too, takes two rounds; the end takes four.
  for (let block = 0; block <= blocks; block++) {
    let low = 0;
    let high = 0;
    let rounds = 2;
    if (block === blocks) {
      l2 ^= 0xff;
      rounds = 4;
    } else {
      const at = 4 * block;
      if (at < length) low = term.charCodeAt(at);
      if (at + 1 < length) low |= term.charCodeAt(at + 1) << 16;
      if (at + 2 < length) high = term.charCodeAt(at + 2);
      high |= at + 3 < length ? term.charCodeAt(at + 3) << 16 : (2 * length) << 24;
      l3 ^= low;
      h3 ^= high;
    }
    for (let round = 0; round < rounds; round++) {
      let sum = (l0 >>> 0) + (l1 >>> 0);
      h0 = (h0 + h1 + (sum > 0xffffffff ? 1 : 0)) | 0;
      l0 = sum | 0;
      sum = (l2 >>> 0) + (l3 >>> 0);
      h2 = (h2 + h3 + (sum > 0xffffffff ? 1 : 0)) | 0;
      l2 = sum | 0;
      let turned = (h1 << 13) | (l1 >>> 19);
      l1 = ((l1 << 13) | (h1 >>> 19)) ^ l0;
      h1 = turned ^ h0;
      turned = (h3 << 16) | (l3 >>> 16);
      l3 = ((l3 << 16) | (h3 >>> 16)) ^ l2;
      h3 = turned ^ h2;
      turned = h0;
      h0 = l0;
      l0 = turned;
      sum = (l2 >>> 0) + (l1 >>> 0);
      h2 = (h2 + h1 + (sum > 0xffffffff ? 1 : 0)) | 0;
      l2 = sum | 0;
      sum = (l0 >>> 0) + (l3 >>> 0);
      h0 = (h0 + h3 + (sum > 0xffffffff ? 1 : 0)) | 0;
      l0 = sum | 0;
      turned = (h1 << 17) | (l1 >>> 15);
      l1 = ((l1 << 17) | (h1 >>> 15)) ^ l2;
      h1 = turned ^ h2;
      turned = (h3 << 21) | (l3 >>> 11);
      l3 = ((l3 << 21) | (h3 >>> 11)) ^ l0;
      h3 = turned ^ h0;
      turned = h2;
      h2 = l2;
      l2 = turned;
    }
    l0 ^= low;
    h0 ^= high;
  }
  return ((h0 ^ h1 ^ h2 ^ h3) & 0xffff) * 2 ** 32 + ((l0 ^ l1 ^ l2 ^ l3) >>> 0);
}

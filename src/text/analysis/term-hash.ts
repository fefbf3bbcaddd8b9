/** The keyed hash of a term, by SipHash-2-4 (Aumasson & Bernstein 2012): who does not have the key can tell no word by it. */

/** 16 bytes as four words, little-endian. */
export type TermKey = Int32Array;

/** Bytes of a term's hash. */
export const TERM_BYTES = 6;
/** Hashes are below this. */
export const TERM_RANGE = 2 ** 48;

export function termKey(bytes: Uint8Array): TermKey {
  if (bytes.length !== 16) throw new Error("a key has 16 bytes");
  const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
  return Int32Array.from({ length: 4 }, (_, i) => view.getInt32(4 * i, true));
}

// The state, as pairs of 32 bits. (Module variables: half a million calls a second make no objects.)
let h0 = 0;
let l0 = 0;
let h1 = 0;
let l1 = 0;
let h2 = 0;
let l2 = 0;
let h3 = 0;
let l3 = 0;

function round(): void {
  let l = (l0 >>> 0) + (l1 >>> 0);
  h0 = (h0 + h1 + (l > 0xffffffff ? 1 : 0)) | 0;
  l0 = l | 0;
  l = (l2 >>> 0) + (l3 >>> 0);
  h2 = (h2 + h3 + (l > 0xffffffff ? 1 : 0)) | 0;
  l2 = l | 0;
  let h = (h1 << 13) | (l1 >>> 19);
  l1 = ((l1 << 13) | (h1 >>> 19)) ^ l0;
  h1 = h ^ h0;
  h = (h3 << 16) | (l3 >>> 16);
  l3 = ((l3 << 16) | (h3 >>> 16)) ^ l2;
  h3 = h ^ h2;
  h = h0;
  h0 = l0;
  l0 = h;
  l = (l2 >>> 0) + (l1 >>> 0);
  h2 = (h2 + h1 + (l > 0xffffffff ? 1 : 0)) | 0;
  l2 = l | 0;
  l = (l0 >>> 0) + (l3 >>> 0);
  h0 = (h0 + h3 + (l > 0xffffffff ? 1 : 0)) | 0;
  l0 = l | 0;
  h = (h1 << 17) | (l1 >>> 15);
  l1 = ((l1 << 17) | (h1 >>> 15)) ^ l2;
  h1 = h ^ h2;
  h = (h3 << 21) | (l3 >>> 11);
  l3 = ((l3 << 21) | (h3 >>> 11)) ^ l0;
  h3 = h ^ h0;
  h = h2;
  h2 = l2;
  l2 = h;
}

function begin([k0 = 0, k1 = 0, k2 = 0, k3 = 0]: TermKey): void {
  l0 = k0 ^ 0x70736575;
  h0 = k1 ^ 0x736f6d65;
  l1 = k2 ^ 0x6e646f6d;
  h1 = k3 ^ 0x646f7261;
  l2 = k0 ^ 0x6e657261;
  h2 = k1 ^ 0x6c796765;
  l3 = k2 ^ 0x79746573;
  h3 = k3 ^ 0x74656462;
}

function absorb(low: number, high: number): void {
  l3 ^= low;
  h3 ^= high;
  round();
  round();
  l0 ^= low;
  h0 ^= high;
}

/** Leaves the hash in h0 and l0. */
function end(): void {
  l2 ^= 0xff;
  for (let i = 0; i < 4; i++) round();
  l0 ^= l1 ^ l2 ^ l3;
  h0 ^= h1 ^ h2 ^ h3;
}

/** All 64 bits, for bytes. */
export function sipHash(key: TermKey, bytes: Uint8Array): bigint {
  begin(key);
  const word = (at: number) =>
    (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24);
  const rest = bytes.length & 7;
  for (let at = 0; at < bytes.length - rest; at += 8) absorb(word(at), word(at + 4));
  absorb(word(bytes.length - rest), word(bytes.length - rest + 4) | (bytes.length << 24));
  end();
  return (BigInt(h0 >>> 0) << 32n) | BigInt(l0 >>> 0);
}

/** A term's hash: the lower 48 bits, for its UTF-16 in little-endian order, as a whole number. */
export function termHash(key: TermKey, term: string): number {
  begin(key);
  const { length } = term;
  const rest = length & 3;
  let at = 0;
  for (; at < length - rest; at += 4) {
    absorb(
      term.charCodeAt(at) | (term.charCodeAt(at + 1) << 16),
      term.charCodeAt(at + 2) | (term.charCodeAt(at + 3) << 16),
    );
  }
  const unit = (i: number) => (i < length ? term.charCodeAt(i) : 0);
  absorb(unit(at) | (unit(at + 1) << 16), unit(at + 2) | ((2 * length) << 24));
  end();
  return (h0 & 0xffff) * 2 ** 32 + (l0 >>> 0);
}

const BANDS = 4;
const BITS = 16;

/**
 * The 64-bit SimHash (Charikar 2002) of a text's words and word pairs, in four bands of 16 bits, each
 * with its number in front. Texts that differ in at most three bits share a band, so near-duplicates
 * are found by equality.
 */
export function bandsOf(text: string): number[] {
  const words = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [text];
  const weights = new Int32Array(BANDS * BITS);
  for (let i = 0; i < words.length; i++) {
    addFeature(weights, words[i] ?? "");
    if (i > 0) addFeature(weights, `${words[i - 1]} ${words[i]}`);
  }
  return Array.from({ length: BANDS }, (_, band) => {
    let bits = 0;
    for (let i = 0; i < BITS; i++) if ((weights[band * BITS + i] ?? 0) > 0) bits |= 1 << i;
    return (band << BITS) | bits;
  });
}

function addFeature(weights: Int32Array, feature: string): void {
  let low = 0x811c9dc5;
  let high = 0x9e3779b9;
  for (let i = 0; i < feature.length; i++) {
    const unit = feature.charCodeAt(i);
    low = Math.imul(low ^ unit, 0x01000193);
    high = Math.imul(high ^ unit, 0x85ebca6b);
  }
  low ^= low >>> 15;
  high ^= high >>> 13;
  for (let i = 0; i < 32; i++) {
    weights[i] = (weights[i] ?? 0) + ((low >>> i) & 1 ? 1 : -1);
    weights[32 + i] = (weights[32 + i] ?? 0) + ((high >>> i) & 1 ? 1 : -1);
  }
}

const WORDS = Array.from({ length: 4_000 }, (_, i) => {
  const syllables = ["ba", "ko", "mi", "ru", "se", "to", "va", "zen", "lor", "pin", "dax", "fen"];
  return (
    (syllables[i % 12] ?? "") +
    (syllables[Math.floor(i / 12) % 12] ?? "") +
    (syllables[Math.floor(i / 144) % 12] ?? "") +
    (i >= 1728 ? "x" : "")
  );
});

/** Words with the frequencies of language (Zipf), the same in every run. */
export function randomText(random: () => number, length: number): string {
  return Array.from(
    { length },
    () => WORDS[Math.min(WORDS.length - 1, Math.floor(WORDS.length ** random()) - 1)] ?? "",
  ).join(" ");
}

/** mulberry32 */
export function seeded(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

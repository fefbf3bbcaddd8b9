import { setImmediate } from "node:timers/promises";
import { Embeddings } from "@langchain/core/embeddings";

const DIMENSIONS = 384;

/** Too common to tell texts apart. */
const STOP_WORDS = new Set(
  (
    "a an and are as at be been but by can could did do does for from had has have he her him his how i if in into is it its " +
    "just like me my no not of on or our she so some than that the their them then there they this to was we were what when " +
    "where which who why will with would you your"
  ).split(" "),
);

/** FNV-1a, 32 bits. */
function fnv1a(text: string, seed: number): number {
  let hash = 0x811c9dc5 ^ seed;
  for (let i = 0; i < text.length; i++) {
    hash ^= text.charCodeAt(i);
    hash = Math.imul(hash, 0x01000193);
  }
  hash ^= hash >>> 15;
  return hash >>> 0;
}

/**
 * The built-in embedder: feature hashing (Weinberger et al. 2009) of words and of the letter
 * trigrams inside them. It is lexical: it knows spelling, not meaning. It needs no model and no
 * key, and gives unit vectors of 384 dimensions.
 */
export class LexicalEmbeddings extends Embeddings {
  static readonly dimensions = DIMENSIONS;

  constructor() {
    super({});
  }

  override async embedDocuments(documents: string[]): Promise<number[][]> {
    const vectors = [];
    let since = 0;
    for (const document of documents) {
      vectors.push(hashFeatures(document));
      since += document.length;
      if (since < 10_000) continue;
      since = 0;
      await setImmediate();
    }
    return vectors;
  }

  override async embedQuery(document: string): Promise<number[]> {
    return hashFeatures(document);
  }
}

function hashFeatures(text: string): number[] {
  const counts = new Map<string, number>();
  const add = (feature: string, weight: number) => counts.set(feature, (counts.get(feature) ?? 0) + weight);
  for (const word of text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []) {
    if (STOP_WORDS.has(word)) continue;
    const short = word.slice(0, 64);
    add(`w:${short}`, 1);
    const framed = `^${short}$`;
    // All trigrams of a word together weigh about as much as half the word.
    const share = 0.5 / Math.sqrt(Math.max(1, framed.length - 2));
    for (let i = 0; i + 3 <= framed.length; i++) add(`t:${framed.slice(i, i + 3)}`, share);
  }
  const vector = new Array<number>(DIMENSIONS).fill(0);
  for (const [feature, count] of counts) {
    const weight = feature.startsWith("w:") ? 1 + Math.log(count) : Math.sqrt(count);
    const hash = fnv1a(feature, 0);
    const at = hash % DIMENSIONS;
    vector[at] = (vector[at] ?? 0) + (fnv1a(feature, 0x9e3779b9) & 1 ? weight : -weight);
  }
  const norm = Math.hypot(...vector);
  return norm === 0 ? vector : vector.map((x) => x / norm);
}

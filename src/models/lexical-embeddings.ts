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

/** FNV-1a, 32 bits: its beginnings for where a feature lies, and for its sign. */
const OFFSET = 0x811c9dc5;
const SIGN_OFFSET = OFFSET ^ 0x9e3779b9;
const fnvStep = (hash: number, unit: number): number => Math.imul(hash ^ unit, 0x01000193);
const fnvEnd = (hash: number): number => (hash ^ (hash >>> 15)) >>> 0;
const begun = (offset: number, kind: string): number => fnvStep(fnvStep(offset, kind.charCodeAt(0)), ":".charCodeAt(0));
/** Words and trigrams are told apart by what stands before them. */
const WORD = { place: begun(OFFSET, "w"), sign: begun(SIGN_OFFSET, "w") };
const TRIGRAM = { place: begun(OFFSET, "t"), sign: begun(SIGN_OFFSET, "t") };

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

interface Feature {
  readonly place: number;
  readonly isPositive: boolean;
  readonly isWord: boolean;
  count: number;
}

function hashFeatures(text: string): number[] {
  const features = new Map<number, Feature>();
  const add = (place: number, sign: number, isWord: boolean, count: number) => {
    const hash = fnvEnd(place);
    const known = features.get(hash);
    if (known === undefined)
      features.set(hash, { place: hash % DIMENSIONS, isPositive: (fnvEnd(sign) & 1) === 1, isWord, count });
    else known.count += count;
  };
  for (const word of text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []) {
    if (STOP_WORDS.has(word)) continue;
    const short = word.slice(0, 64);
    let { place, sign } = WORD;
    for (let i = 0; i < short.length; i++) {
      const unit = short.charCodeAt(i);
      place = fnvStep(place, unit);
      sign = fnvStep(sign, unit);
    }
    add(place, sign, true, 1);
    const framed = `^${short}$`;
    // All trigrams of a word together weigh about as much as half the word.
    const share = 0.5 / Math.sqrt(Math.max(1, framed.length - 2));
    for (let i = 0; i + 3 <= framed.length; i++) {
      const [a, b, c] = [framed.charCodeAt(i), framed.charCodeAt(i + 1), framed.charCodeAt(i + 2)];
      add(
        fnvStep(fnvStep(fnvStep(TRIGRAM.place, a), b), c),
        fnvStep(fnvStep(fnvStep(TRIGRAM.sign, a), b), c),
        false,
        share,
      );
    }
  }
  const vector = new Array<number>(DIMENSIONS).fill(0);
  for (const { place, isPositive, isWord, count } of features.values()) {
    const weight = isWord ? 1 + Math.log(count) : Math.sqrt(count);
    vector[place] = (vector[place] ?? 0) + (isPositive ? weight : -weight);
  }
  const norm = Math.hypot(...vector);
  return norm === 0 ? vector : vector.map((x) => x / norm);
}

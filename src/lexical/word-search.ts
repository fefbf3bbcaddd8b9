import { analyserOf } from "../context/settings.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { Slices } from "../load/slices.ts";
import type { Bm25Parameters } from "./bm25-score.ts";
import { BYTES_A_TERM, eachTerm } from "./packed-terms.ts";
import { alone, type Hashes, hashesOf, limitTerms, type SearchedWord, searchedWords } from "./searched-words.ts";
import { readSources, type Source } from "./sources.ts";
import { type LexicalState, lexicalState } from "./state.ts";

/** A word as it stands in the visible scopes. */
interface CountedWord extends SearchedWord {
  /** Passages that have it. */
  readonly df: number;
  /** ln(1 + (N − df + ½) / (df + ½)), as in Lucene. */
  readonly idf: number;
}

/** A passage that was found, by where it lies. */
export interface Place {
  readonly scopeId: number;
  readonly segmentId: number | undefined;
  /** In its segment. */
  readonly place: number;
  /** Of the tail: its number. */
  readonly seq: number | undefined;
  readonly score: number;
  /** How often each word is in it. */
  readonly frequencies: readonly number[];
}

/** What the visible scopes say of a question's words. */
export class WordSearch {
  readonly words: readonly CountedWord[];
  /** The same, also where nothing is visible. */
  readonly asked: readonly SearchedWord[];
  /** Visible passages, and their mean length in words. */
  readonly passages: number;
  readonly meanLength: number;
  readonly #hashes: Hashes;
  readonly #sources: readonly Source[];
  readonly #slices = new Slices();

  private constructor(
    words: readonly SearchedWord[],
    { passages, words: length }: Pick<LexicalState, "passages" | "words">,
    hashes: Hashes,
    sources: readonly Source[],
  ) {
    this.passages = Math.max(passages, 1);
    this.meanLength = Math.max(length, 1) / this.passages;
    this.#hashes = hashes;
    this.#sources = sources;
    this.asked = words;
    this.words = words.map((word, w) => {
      const df = sources.reduce((sum, { postings }) => sum + (postings[w]?.size ?? 0), 0);
      return { ...word, df, idf: Math.log(1 + (Math.max(this.passages, df) - df + 0.5) / (df + 0.5)) };
    });
  }

  /** Reads the postings of a question's words in the visible scopes, in one statement. */
  static async of(tx: ScopedTransaction, question: string): Promise<WordSearch> {
    const state = await lexicalState(tx);
    return WordSearch.for(tx, searchedWords(analyserOf(tx).question(question, state.languages)));
  }

  static async for(tx: ScopedTransaction, asked: readonly SearchedWord[]): Promise<WordSearch> {
    const state = await lexicalState(tx);
    if (asked.length === 0 || state.keys.size === 0)
      return new WordSearch(asked, { passages: 0, words: 0 }, new Map(), []);
    const words = limitTerms(asked, state);
    const hashes = hashesOf(words, state);
    return new WordSearch(words, state, hashes, await readSources(tx, state, words, hashes));
  }

  /**
   * BM25 over all passages that have any of the words (Robertson & Zaragoza 2009), the best first; of those that
   * score alike the older.
   */
  async best(limit: number, { k1, b }: Bm25Parameters): Promise<Place[]> {
    const found = new Best(limit);
    for (const [s, { postings }] of this.#sources.entries()) {
      let size = 0;
      for (const posted of postings) size = Math.max(size, posted?.end ?? 0);
      const scores = new Float64Array(size);
      for (const [w, posted] of postings.entries()) {
        const { weight = 0, idf = 0 } = this.words[w] ?? {};
        if (posted === undefined) continue;
        posted.addScores(scores, weight * idf * (k1 + 1), k1 * (1 - b), (k1 * b) / this.meanLength);
        await this.#slices.pause();
      }
      for (let place = 0; place < size; place++) {
        const score = scores[place] ?? 0;
        if (score > 0 && score >= found.least) found.add(score, s, place);
      }
    }
    return found.sorted().map(([score, s, place]) => this.#placeOf(score, s, place));
  }

  /** The passages that score at least so much by how often they have each word, the best first. */
  async select(score: (frequencies: readonly number[]) => number, least: number): Promise<Place[]> {
    const found: [score: number, source: number, place: number][] = [];
    for (const [s, { postings }] of this.#sources.entries()) {
      const next = postings.map(() => 0);
      const frequencies = postings.map(() => 0);
      for (;;) {
        let place = Number.POSITIVE_INFINITY;
        for (const [w, posted] of postings.entries()) place = Math.min(place, posted?.placeAt(next[w] ?? 0) ?? place);
        if (place === Number.POSITIVE_INFINITY) break;
        for (const [w, posted] of postings.entries()) {
          const i = next[w] ?? 0;
          const isHere = posted?.placeAt(i) === place;
          frequencies[w] = isHere ? (posted?.frequencyAt(i) ?? 0) : 0;
          if (isHere) next[w] = i + 1;
        }
        const sum = score(frequencies);
        if (sum >= least) found.push([sum, s, place]);
        await this.#slices.pause();
      }
    }
    found.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]);
    return found.map(([sum, s, place]) => this.#placeOf(sum, s, place));
  }

  /** How often each word is in a passage of a scope, by the passage's own terms; undefined: nothing of that scope was visible. */
  frequenciesIn(scopeId: number, terms: Uint8Array): number[] | undefined {
    const known = this.#hashes.get(scopeId);
    if (known === undefined) return undefined;
    const frequencies = new Array<number>(this.words.length).fill(0);
    eachTerm(terms, 0, terms.length - (terms.length % BYTES_A_TERM), (hash, frequency) => {
      for (const [w, share] of known.get(hash) ?? []) frequencies[w] = Math.max(frequencies[w] ?? 0, share * frequency);
    });
    return alone(this.words, frequencies);
  }

  #placeOf(score: number, s: number, place: number): Place {
    const source = this.#sources[s];
    if (source === undefined) throw new Error(`there is no source ${s} of ${this.#sources.length}`);
    const frequencies = source.postings.map((posted) => posted?.frequencyOf(place) ?? 0);
    const { scopeId, segmentId, seqs } = source;
    return {
      scopeId,
      segmentId,
      place,
      seq: segmentId === undefined ? seqs[place] : undefined,
      score,
      frequencies,
    };
  }
}

/** The best so many of what is added. */
class Best {
  readonly #limit: number;
  #rows: [score: number, source: number, place: number][] = [];
  /** Nothing that scores less is kept. */
  least = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  add(score: number, source: number, place: number): void {
    this.#rows.push([score, source, place]);
    if (this.#rows.length >= 4 * this.#limit + 64) this.#cut();
  }

  sorted(): [number, number, number][] {
    this.#cut();
    return this.#rows;
  }

  #cut(): void {
    this.#rows.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]);
    this.#rows = this.#rows.slice(0, this.#limit);
    if (this.#rows.length === this.#limit) this.least = this.#rows.at(-1)?.[0] ?? 0;
  }
}

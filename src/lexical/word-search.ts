import { analyserOf } from "../context/settings.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { type AskedWord, IN_COMPOUND, INSIDE_COMPOUND } from "../text/analysis/analyse.ts";
import { TERM_BYTES, TERM_RANGE, termHash } from "../text/analysis/term-hash.ts";
import { eachEntry, frequencyAt, lengthAt, placeAt } from "./block.ts";
import { BYTES_A_TERM, eachTerm } from "./packed-terms.ts";
import { Slices } from "./slices.ts";
import { type LexicalState, lexicalState } from "./state.ts";

/** A word that is looked for, as BM25 counts it. */
export interface SearchedWord {
  /** Terms, each with the share of its frequency that counts: a text has the word as often as the most frequent of them. */
  readonly variants: readonly (readonly [term: string, share: number])[];
  /** What it counts for beside the others. */
  readonly weight: number;
  /** The place of the word that it stands in for where a text does not have that one: then alone it counts. */
  readonly insteadOf?: number;
}

/** A word as it stands in the visible scopes. */
export interface CountedWord extends SearchedWord {
  /** Passages that have it. */
  readonly df: number;
  /** ln(1 + (N − df + ½) / (df + ½)), as in Lucene. */
  readonly idf: number;
}

/** Looser forms of a word, and what a compound may be made of, count for less, where the word itself is not. */
const NEAR_WEIGHT = 0.3;
const PART_WEIGHT = 0.4;

/** The words of a question as they are looked for. */
export function searchedWords(asked: readonly AskedWord[]): SearchedWord[] {
  const words: SearchedWord[] = [];
  for (const { variants, weight, near, joints } of asked) {
    const insteadOf = words.push({ variants, weight }) - 1;
    if (near.length > 0)
      words.push({
        variants: near.map((term): [string, number] => [term, 1]),
        weight: weight * NEAR_WEIGHT,
        insteadOf,
      });
    for (const part of new Set(joints.flat())) {
      const inside = [`${IN_COMPOUND}${part}`, INSIDE_COMPOUND] as const;
      words.push({ variants: [[part, 1], inside], weight: weight * PART_WEIGHT, insteadOf });
    }
  }
  return words;
}

/** Terms that are hashed for all visible scopes together: of a question to very many the later words are left out. */
const MOST_HASHES = 200_000;
/** So many passages of a tail are read whole: of more the database looks which have any of the words. */
const TAIL_READ_WHOLE = 1_500;
/** Passages of a tail in one value: one large value takes the driver longer than several. */
const PASSAGES_A_ROW = 40;

/** Passages that lie together: a segment, or a scope's tail. Each is known by its place. */
interface Source {
  readonly scopeId: number;
  /** Undefined: the tail. */
  readonly segmentId: number | undefined;
  /** Of a tail: the passages' numbers by their places. */
  readonly seqs: number[];
  /** By the words' places. */
  readonly postings: (Postings | undefined)[];
}

interface Postings {
  readonly places: number[];
  readonly frequencies: number[];
  readonly lengths: number[];
  /** How many terms they are of: of several one passage may be there more than once. */
  terms: number;
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
  /** Its length in words. */
  readonly length: number;
}

/** What the visible scopes say of a question's words. */
export class WordSearch {
  readonly words: readonly CountedWord[];
  /** The same, also where nothing is visible. */
  readonly asked: readonly SearchedWord[];
  /** Visible passages, and their mean length in words. */
  readonly passages: number;
  readonly meanLength: number;
  readonly #sources: readonly Source[];
  readonly #slices = new Slices();

  private constructor(words: readonly SearchedWord[], passages: number, length: number, sources: readonly Source[]) {
    this.passages = Math.max(passages, 1);
    this.meanLength = Math.max(length, 1) / this.passages;
    this.#sources = sources;
    this.asked = words;
    this.words = words.map((word, w) => {
      const df = sources.reduce((sum, { postings }) => sum + (postings[w]?.places.length ?? 0), 0);
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
    if (asked.length === 0 || state.keys.size === 0) return new WordSearch(asked, 0, 0, []);
    const words = withinReason(asked, state);
    const hashes = hashesOf(words, state);
    const rows = await tx.rows<RawRow>(postingsSql(tx, state, hashes));
    const collected = new Collector(words, hashes);
    const slices = new Slices();
    for (const row of rows) {
      collected.add(row);
      await slices.pause();
    }
    return new WordSearch(words, collected.passages, collected.length, collected.sources());
  }

  /**
   * BM25 over all passages that have any of the words (Robertson & Zaragoza 2009), the best first; of those that
   * score alike the older.
   */
  async best(limit: number, { k1, b }: { readonly k1: number; readonly b: number }): Promise<Place[]> {
    const found = new Best(limit);
    for (const [s, { postings }] of this.#sources.entries()) {
      let size = 0;
      for (const posted of postings) size = Math.max(size, (posted?.places.at(-1) ?? -1) + 1);
      const scores = new Float64Array(size);
      for (const [w, posted] of postings.entries()) {
        const { weight = 0, idf = 0 } = this.words[w] ?? {};
        if (posted === undefined) continue;
        const { places, frequencies, lengths } = posted;
        const [base, slope, gain] = [k1 * (1 - b), (k1 * b) / this.meanLength, weight * idf * (k1 + 1)];
        for (let i = 0; i < places.length; i++) {
          const tf = frequencies[i] ?? 0;
          const place = places[i] ?? 0;
          scores[place] = (scores[place] ?? 0) + (gain * tf) / (tf + base + slope * (lengths[i] ?? 0));
        }
        await this.#slices.pause();
      }
      for (let place = 0; place < size; place++) {
        const score = scores[place] ?? 0;
        if (score > 0) found.add(score, s, place);
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
        for (const [w, posted] of postings.entries()) place = Math.min(place, posted?.places[next[w] ?? 0] ?? place);
        if (place === Number.POSITIVE_INFINITY) break;
        for (const [w, posted] of postings.entries()) {
          const i = next[w] ?? 0;
          const isHere = posted?.places[i] === place;
          frequencies[w] = isHere ? (posted?.frequencies[i] ?? 0) : 0;
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

  #placeOf(score: number, s: number, place: number): Place {
    const source = this.#sources[s];
    if (source === undefined) throw new Error("a place in no source");
    let length = 0;
    const frequencies = source.postings.map((posted) => {
      const i = posted === undefined ? -1 : indexOf(posted.places, place);
      if (posted === undefined || i < 0) return 0;
      length = posted.lengths[i] ?? 0;
      return posted.frequencies[i] ?? 0;
    });
    const { scopeId, segmentId, seqs } = source;
    return {
      scopeId,
      segmentId,
      place,
      seq: segmentId === undefined ? seqs[place] : undefined,
      score,
      frequencies,
      length,
    };
  }
}

/** The best so many of what is added. */
class Best {
  readonly #limit: number;
  #rows: [score: number, source: number, place: number][] = [];
  #least = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  add(score: number, source: number, place: number): void {
    if (score < this.#least) return;
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
    if (this.#rows.length === this.#limit) this.#least = this.#rows.at(-1)?.[0] ?? 0;
  }
}

function indexOf(places: readonly number[], wanted: number): number {
  let [low, high] = [0, places.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((places[middle] ?? 0) < wanted) low = middle + 1;
    else high = middle;
  }
  return places[low] === wanted ? low : -1;
}

function withinReason(words: readonly SearchedWord[], { keys }: LexicalState): readonly SearchedWord[] {
  const most = MOST_HASHES / keys.size;
  let terms = 0;
  const end = words.findIndex(({ variants }) => {
    terms += variants.length;
    return terms > most;
  });
  return end < 1 ? (end === 0 ? words.slice(0, 1) : words) : words.slice(0, end);
}

/** What a scope's hashes stand for: the word's place, and the share of the frequency that counts. */
type Hashes = ReadonlyMap<number, ReadonlyMap<number, readonly (readonly [word: number, share: number])[]>>;

export function hashesOf(words: readonly SearchedWord[], { keys }: Pick<LexicalState, "keys">): Hashes {
  const hashes = new Map<number, Map<number, (readonly [number, number])[]>>();
  for (const [scope, key] of keys) {
    const known = new Map<number, (readonly [number, number])[]>();
    for (const [w, { variants }] of words.entries()) {
      for (const [term, share] of variants) {
        const hash = termHash(key, term);
        const meant = known.get(hash);
        if (meant === undefined) known.set(hash, [[w, share]]);
        else meant.push([w, share]);
      }
    }
    hashes.set(scope, known);
  }
  return hashes;
}

interface RawRow {
  /** 0: the size, 1: a block, 2: passages of a tail. */
  readonly what: number;
  readonly scopeId: number | null;
  /** Of a block its segment; of the size the passages. */
  readonly n: number | null;
  /** Of the size the words. */
  readonly length: number | null;
  readonly data: Uint8Array | null;
}

/** Size, blocks and tails in one statement, that is of one moment: of two one might see a passage twice, or not at all. */
function postingsSql(tx: ScopedTransaction, { keys, tail }: LexicalState, hashes: Hashes): SQL {
  const scopes: number[] = [];
  const numbers: number[] = [];
  for (const [scope, known] of hashes) {
    for (const hash of known.keys()) {
      scopes.push(scope);
      numbers.push(hash);
    }
  }
  const isRead = tail > TAIL_READ_WHOLE ? tailFilter([...keys.keys()], hashes) : undefined;
  return sql`
    WITH word AS MATERIALIZED (
      SELECT w.scope_id, w.hash FROM unnest(${list(scopes)}::int[], ${list(numbers)}::bigint[]) AS w(scope_id, hash)),
    seg AS MATERIALIZED (
      SELECT g.scope_id, g.id, g.bits, g.last_seq FROM ${tx.read("segment", "g")}),
    -- Each word is looked for by plain columns: nothing else uses an index under row security.
    want AS MATERIALIZED (
      SELECT DISTINCT s.scope_id, s.id, k.key FROM seg s JOIN word w ON w.scope_id = s.scope_id,
        LATERAL (VALUES (w.hash & ((1::bigint << s.bits) - 1)), (w.hash + ${TERM_RANGE}::bigint)) k(key)),
    mark AS MATERIALIZED (
      SELECT z.scope_id, ${isRead?.columns ?? sql`1`} AS sought, coalesce((SELECT max(s.last_seq) FROM seg s WHERE s.scope_id = z.scope_id), 0) AS last
      FROM ${isRead?.from ?? sql`unnest(${list([...keys.keys()])}::int[]) AS z(scope_id)`})
    SELECT 0 AS what, NULL::int AS "scopeId", sum(c.passages)::float8 AS n, sum(c.lexemes)::float8 AS length, NULL::bytea AS data
    FROM ${tx.read("scope_counter", "c")}
    UNION ALL
    SELECT 1, b.scope_id, b.segment_id::float8, NULL, b.data
    FROM want w JOIN ${tx.read("posting_block", "b")} ON b.scope_id = w.scope_id AND b.segment_id = w.id AND b.key = w.key
    UNION ALL
    SELECT 2, m.scope_id, NULL, NULL, t.data
    FROM mark m, LATERAL (
      SELECT string_agg(int8send(x.seq) || int4send(x.lexemes) || int4send(octet_length(x.terms)) || x.terms, ''::bytea ORDER BY x.seq) AS data
      FROM (SELECT p.seq, p.lexemes, p.terms, (row_number() OVER (ORDER BY p.seq) - 1) / ${PASSAGES_A_ROW}::int AS part FROM ${tx.read("passage", "p")}
            WHERE p.scope_id = m.scope_id AND p.seq > m.last AND p.terms IS NOT NULL AND p.expired_at IS NULL${isRead?.condition ?? sql``}) x
      GROUP BY x.part ORDER BY x.part) t`;
}

/** The hashes of each scope as one value, of which a passage's terms have to have one. */
function tailFilter(scopes: readonly number[], hashes: Hashes) {
  const most = Math.max(...[...hashes.values()].map(({ size }) => size));
  const needles = scopes.map((scope) => {
    const known = [...(hashes.get(scope)?.keys() ?? [])];
    const packed = Buffer.alloc(most * TERM_BYTES);
    for (let i = 0; i < most; i++) packed.writeUIntBE(known[i] ?? known[0] ?? 0, i * TERM_BYTES, TERM_BYTES);
    return packed.toString("hex");
  });
  const conditions = Array.from(
    { length: most },
    (_, i) => sql`position(substring(m.sought FROM ${1 + i * TERM_BYTES}::int FOR ${TERM_BYTES}::int) IN p.terms) > 0`,
  );
  return {
    columns: sql`decode(z.hex, 'hex')`,
    from: sql`unnest(${list(scopes)}::int[], ${list(needles)}::text[]) AS z(scope_id, hex)`,
    condition: sql` AND (${sql.join(conditions, sql` OR `)})`,
  };
}

/** Puts together what the statement brought. */
class Collector {
  passages = 0;
  length = 0;
  readonly #words: readonly SearchedWord[];
  readonly #hashes: Hashes;
  readonly #sources = new Map<string, Source>();

  constructor(words: readonly SearchedWord[], hashes: Hashes) {
    this.#words = words;
    this.#hashes = hashes;
  }

  add({ what, scopeId, n, length, data }: RawRow): void {
    if (what === 0) {
      this.passages = n ?? 0;
      this.length = length ?? 0;
    } else if (data !== null && scopeId !== null) {
      if (what === 1) this.#addBlock(scopeId, n ?? 0, data);
      else this.#addTail(scopeId, data);
    }
  }

  /** In an order that does not depend on how passages are packed. */
  sources(): Source[] {
    const sources = [...this.#sources.values()].sort(
      (a, b) =>
        a.scopeId - b.scopeId || (a.segmentId ?? Number.MAX_SAFE_INTEGER) - (b.segmentId ?? Number.MAX_SAFE_INTEGER),
    );
    for (const { postings } of sources) {
      for (const [w, posted] of postings.entries()) if (posted !== undefined) postings[w] = settled(posted);
      for (const [w, { insteadOf }] of this.#words.entries()) {
        const [own, other] = [postings[w], insteadOf === undefined ? undefined : postings[insteadOf]];
        if (own !== undefined && other !== undefined) postings[w] = without(own, other.places);
      }
    }
    return sources;
  }

  #source(scopeId: number, segmentId: number | undefined): Source {
    const key = `${scopeId} ${segmentId}`;
    let source = this.#sources.get(key);
    if (source === undefined) {
      source = { scopeId, segmentId, seqs: [], postings: new Array<undefined>(this.#words.length).fill(undefined) };
      this.#sources.set(key, source);
    }
    return source;
  }

  #addBlock(scopeId: number, segmentId: number, data: Uint8Array): void {
    const hashes = this.#hashes.get(scopeId);
    if (hashes === undefined) return;
    const source = this.#source(scopeId, segmentId);
    eachEntry(data, (hash, n, at) => {
      for (const [w, share] of hashes.get(hash) ?? []) {
        const posted = postingsOf(source, w);
        posted.terms++;
        for (let i = 0; i < n; i++) {
          posted.places.push(placeAt(data, at, i));
          posted.frequencies.push(share * frequencyAt(data, at, n, i));
          posted.lengths.push(lengthAt(data, at, n, i));
        }
      }
    });
  }

  #addTail(scopeId: number, data: Uint8Array): void {
    const hashes = this.#hashes.get(scopeId);
    if (hashes === undefined) return;
    const source = this.#source(scopeId, undefined);
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    let at = 0;
    while (at + 16 <= data.length) {
      const place = source.seqs.length;
      source.seqs.push(Number(view.getBigInt64(at)));
      const length = view.getInt32(at + 8);
      const end = at + 16 + view.getInt32(at + 12);
      eachTerm(data, at + 16, end, (hash, frequency) => {
        for (const [w, share] of hashes.get(hash) ?? []) {
          const posted = postingsOf(source, w);
          posted.terms++;
          posted.places.push(place);
          posted.frequencies.push(share * frequency);
          posted.lengths.push(length);
        }
      });
      at = end;
    }
  }
}

function postingsOf({ postings }: Source, w: number): Postings {
  let posted = postings[w];
  if (posted === undefined) {
    posted = { places: [], frequencies: [], lengths: [], terms: 0 };
    postings[w] = posted;
  }
  return posted;
}

/** In the order of their places, each once, with its greatest frequency. */
function settled({ places, frequencies, lengths, terms }: Postings): Postings {
  let isInOrder = true;
  for (let i = 1; i < places.length && isInOrder; i++) isInOrder = (places[i - 1] ?? 0) < (places[i] ?? 0);
  if (isInOrder) return { places, frequencies, lengths, terms };
  const order = places.map((_, i) => i).sort((a, b) => (places[a] ?? 0) - (places[b] ?? 0));
  const sorted: Postings = { places: [], frequencies: [], lengths: [], terms };
  for (const i of order) {
    const place = places[i] ?? 0;
    const frequency = frequencies[i] ?? 0;
    const last = sorted.places.length - 1;
    if (last >= 0 && sorted.places[last] === place) {
      sorted.frequencies[last] = Math.max(sorted.frequencies[last] ?? 0, frequency);
      continue;
    }
    sorted.places.push(place);
    sorted.frequencies.push(frequency);
    sorted.lengths.push(lengths[i] ?? 0);
  }
  return sorted;
}

function without({ places, frequencies, lengths, terms }: Postings, others: readonly number[]): Postings {
  const kept: Postings = { places: [], frequencies: [], lengths: [], terms };
  let o = 0;
  for (const [i, place] of places.entries()) {
    while (o < others.length && (others[o] ?? 0) < place) o++;
    if (others[o] === place) continue;
    kept.places.push(place);
    kept.frequencies.push(frequencies[i] ?? 0);
    kept.lengths.push(lengths[i] ?? 0);
  }
  return kept;
}

/** Of packed terms, how often each word is in them. */
export function frequenciesIn(
  terms: Uint8Array,
  words: readonly SearchedWord[],
  hashes: ReadonlyMap<number, readonly (readonly [word: number, share: number])[]>,
): number[] {
  const frequencies = new Array<number>(words.length).fill(0);
  eachTerm(terms, 0, terms.length - (terms.length % BYTES_A_TERM), (hash, frequency) => {
    for (const [w, share] of hashes.get(hash) ?? []) frequencies[w] = Math.max(frequencies[w] ?? 0, share * frequency);
  });
  for (const [w, { insteadOf }] of words.entries()) {
    if (insteadOf !== undefined && (frequencies[insteadOf] ?? 0) > 0) frequencies[w] = 0;
  }
  return frequencies;
}

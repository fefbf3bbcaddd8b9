import { analyserOf } from "../context/settings.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { Slices } from "../load/slices.ts";
import { type AskedWord, IN_COMPOUND, INSIDE_COMPOUND } from "../text/analysis/analyse.ts";
import { TERM_BYTES, TERM_RANGE, termHash } from "../text/analysis/term-hash.ts";
import { eachEntry } from "./block.ts";
import type { Bm25Parameters } from "./bm25-score.ts";
import { BYTES_A_TERM, eachTerm } from "./packed-terms.ts";
import { Postings } from "./postings.ts";
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
interface CountedWord extends SearchedWord {
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
/** For more hashes than these the database does not look: reading is no slower. */
const MOST_SOUGHT = 256;
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
    const rows = await tx.rows<RawRow>(postingsSql(tx, state, hashes));
    const collected = new Collector(words, hashes);
    const slices = new Slices();
    for (const row of rows) {
      collected.add(row);
      await slices.pause();
    }
    return new WordSearch(words, state, hashes, collected.sources());
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

function limitTerms(words: readonly SearchedWord[], { keys }: LexicalState): readonly SearchedWord[] {
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

function hashesOf(words: readonly SearchedWord[], { keys }: LexicalState): Hashes {
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
  readonly scopeId: number;
  /** Of a block its segment; null: passages of a tail. */
  readonly segmentId: number | null;
  readonly data: Uint8Array;
}

/**
 * Blocks and tails in one statement, that is of one moment: of two one might see a passage twice, or not at all.
 * Where there are only the ones or the others, those alone.
 */
function postingsSql(tx: ScopedTransaction, { keys, tail, segments }: LexicalState, hashes: Hashes): SQL {
  const scopes = [...keys.keys()];
  const narrowed = tail > TAIL_READ_WHOLE ? tailFilter(scopes, hashes) : undefined;
  const from = narrowed?.from ?? sql`unnest(${list(scopes)}::int[]) AS z(scope_id)`;
  const last =
    segments === 0
      ? sql`0::bigint`
      : sql`coalesce((SELECT max(s.last_seq) FROM seg s WHERE s.scope_id = z.scope_id), 0)`;
  const mark = sql`
    mark AS MATERIALIZED (SELECT z.scope_id, ${narrowed?.columns ?? sql`1`} AS sought, ${last} AS last FROM ${from})`;
  const passages = sql`
    SELECT m.scope_id AS "scopeId", NULL::float8 AS "segmentId", t.data
    FROM mark m, LATERAL (
      SELECT string_agg(int8send(x.seq) || int4send(x.lexemes) || int4send(octet_length(x.terms)) || x.terms, ''::bytea ORDER BY x.seq) AS data
      FROM (SELECT p.seq, p.lexemes, p.terms, (row_number() OVER (ORDER BY p.seq) - 1) / ${PASSAGES_A_ROW}::int AS part FROM ${tx.read("passage", "p")}
            WHERE p.scope_id = m.scope_id AND p.seq > m.last AND p.terms IS NOT NULL AND p.expired_at IS NULL${narrowed?.condition ?? sql``}) x
      GROUP BY x.part ORDER BY x.part) t`;
  if (segments === 0) return sql`WITH ${mark} ${passages}`;
  const words = [...hashes].flatMap(([scope, known]) => [...known.keys()].map((hash) => [scope, hash] as const));
  const blocks = sql`
    SELECT b.scope_id AS "scopeId", b.segment_id::float8 AS "segmentId", b.data
    FROM want w JOIN ${tx.read("posting_block", "b")} ON b.scope_id = w.scope_id AND b.segment_id = w.id AND b.key = w.key`;
  return sql`
    WITH word AS MATERIALIZED (
      SELECT w.scope_id, w.hash FROM unnest(${list(words.map(([scope]) => scope))}::int[], ${list(words.map(([, hash]) => hash))}::bigint[]) AS w(scope_id, hash)),
    seg AS MATERIALIZED (
      SELECT g.scope_id, g.id, g.bits, g.last_seq FROM ${tx.read("segment", "g")}),
    -- Each word is looked for by plain columns: nothing else uses an index under row security.
    want AS MATERIALIZED (
      SELECT DISTINCT s.scope_id, s.id, k.key FROM seg s JOIN word w ON w.scope_id = s.scope_id,
        LATERAL (VALUES (w.hash & ((1::bigint << s.bits) - 1)), (w.hash + ${TERM_RANGE}::bigint)) k(key))
    ${tail > 0 ? sql`, ${mark} ${blocks} UNION ALL ${passages}` : blocks}`;
}

/** The hashes of each scope as one value, of which a passage's terms have to have one. (The same bytes may stand across two hashes: it only narrows.) */
function tailFilter(scopes: readonly number[], hashes: Hashes) {
  const most = Math.max(...[...hashes.values()].map(({ size }) => size));
  if (most > MOST_SOUGHT) return undefined;
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
  readonly #words: readonly SearchedWord[];
  readonly #hashes: Hashes;
  readonly #sources = new Map<string, Source>();

  constructor(words: readonly SearchedWord[], hashes: Hashes) {
    this.#words = words;
    this.#hashes = hashes;
  }

  add({ scopeId, segmentId, data }: RawRow): void {
    if (segmentId === null) this.#addTail(scopeId, data);
    else this.#addBlock(scopeId, segmentId, data);
  }

  /** In an order that does not depend on how passages are packed. */
  sources(): Source[] {
    const sources = [...this.#sources.values()].sort(
      (a, b) =>
        a.scopeId - b.scopeId || (a.segmentId ?? Number.MAX_SAFE_INTEGER) - (b.segmentId ?? Number.MAX_SAFE_INTEGER),
    );
    for (const { postings } of sources) {
      for (const posted of postings) posted?.settle();
      for (const [w, { insteadOf }] of this.#words.entries()) {
        const [own, other] = [postings[w], insteadOf === undefined ? undefined : postings[insteadOf]];
        if (own !== undefined && other !== undefined) own.leaveOut(other);
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
        postingsOf(source, w).addEntry(hash, data, at, n, share);
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
          postingsOf(source, w).add(place, share * frequency, length);
        }
      });
      at = end;
    }
  }
}

function postingsOf({ postings }: Source, w: number): Postings {
  let posted = postings[w];
  if (posted === undefined) {
    posted = new Postings();
    postings[w] = posted;
  }
  return posted;
}

/** Frequencies in one text, where what stands in for a word counts only without it. */
export const alone = (words: readonly SearchedWord[], frequencies: readonly number[]): number[] =>
  frequencies.map((tf, w) => {
    const { insteadOf } = words[w] ?? {};
    return insteadOf !== undefined && (frequencies[insteadOf] ?? 0) > 0 ? 0 : tf;
  });

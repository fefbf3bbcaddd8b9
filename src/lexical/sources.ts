import { list, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { Slices } from "../load/slices.ts";
import { TERM_BYTES, TERM_RANGE } from "../text/analysis/term-hash.ts";
import { eachEntry } from "./block.ts";
import { eachTerm } from "./packed-terms.ts";
import { Postings } from "./postings.ts";
import type { Hashes, SearchedWord } from "./searched-words.ts";
import type { LexicalState } from "./state.ts";

/** So many passages of a tail are read whole: of more the database looks which have any of the words. */
const TAIL_READ_WHOLE = 1_500;
/** For more hashes than these the database does not look: reading is no slower. */
const MOST_SOUGHT = 256;
/** Passages of a tail in one value: one large value takes the driver longer than several. */
const PASSAGES_A_ROW = 40;

/** Passages that lie together: a segment, or a scope's tail. Each is known by its place. */
export interface Source {
  readonly scopeId: number;
  /** Undefined: the tail. */
  readonly segmentId: number | undefined;
  /** Of a tail: the passages' numbers by their places. */
  readonly seqs: number[];
  /** By the words' places. */
  readonly postings: (Postings | undefined)[];
}

/** Reads the postings of words in the visible scopes, in one statement. */
export async function readSources(
  tx: ScopedTransaction,
  state: LexicalState,
  words: readonly SearchedWord[],
  hashes: Hashes,
): Promise<Source[]> {
  const rows = await tx.rows<RawRow>(postingsSql(tx, state, hashes));
  const collected = new Collector(words, hashes);
  const slices = new Slices();
  for (const row of rows) {
    collected.add(row);
    await slices.pause();
  }
  return collected.sources();
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

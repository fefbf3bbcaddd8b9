import { type ScopedTransaction, type SQL, sql } from "../db/scoped.ts";
import type { Candidate } from "./candidate.ts";
import type { WordHit, WordHits } from "./conversation.ts";
import { narrowing, type PassageFilter } from "./filter.ts";

/** Okapi BM25's parameters, with the defaults of Robertson & Zaragoza (2009). */
export interface Bm25Parameters {
  readonly k1: number;
  readonly b: number;
}
export const BM25_DEFAULTS: Bm25Parameters = { k1: 1.2, b: 0.75 };

/** Scores are summed as whole numbers of 1e-9, which a double adds exactly: no change of plan changes their last digits. */
export const SCALE = 1e9;

/** Frequencies travel packed, four bits each, of so many lexemes, the rarest: 52 bits, which a double holds exactly. */
const PACKED_LEXEMES = 13;
const BITS = 4;
const MOST = 2 ** BITS - 1;

/**
 * The best passages by BM25, with idf = ln(1 + (N − df + ½) / (df + ½)) as in Lucene. N, df and the
 * mean length are those of the visible scopes alone: nobody else's text has any influence.
 *
 * `@@` on a GIN index would be no help: it is not leakproof, so row security keeps PostgreSQL from
 * using the index. Here everything is equality on `posting`, an index-only scan.
 */
export function rankByBm25(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
  parameters: Bm25Parameters = BM25_DEFAULTS,
): Promise<Candidate[]> {
  return tx.rows<Candidate>(sql`
    ${scoredHits(tx, query, filter, limit, parameters, sql``)}
    SELECT b.passage_id AS id, b.scope_id AS "scopeId", b.score FROM best b ORDER BY b.score DESC, b.passage_id`);
}

/** The same ranking with what {@link rankInContext} asks of each passage. */
export async function findByWords(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
  parameters: Bm25Parameters = BM25_DEFAULTS,
): Promise<WordHits> {
  const packed = sql`, max(h.lexemes) AS words, sum(least(h.tf, ${MOST}::int) * r.unit) AS packed`;
  const rows = await tx.rows<WordHitRow>(sql`
    ${scoredHits(tx, query, filter, limit, parameters, packed)}
    SELECT b.passage_id AS id, b.scope_id AS "scopeId", b.score, b.packed, b.words, p.observed_at::text AS "observedAt",
           p.session_id AS "sessionId", CASE WHEN p.kind = 'turn' THEN p.position END AS position, s.next_seq AS turns,
           CASE WHEN p.kind = 'turn' THEN substring(left(p.text, 60) FROM '^([[:upper:]][^:[:cntrl:]]{0,39}): ') END AS speaker,
           -- Once is enough.
           CASE WHEN row_number() OVER (ORDER BY b.score DESC, b.passage_id) = 1
             THEN (SELECT jsonb_agg(jsonb_build_object('idf', r.idf, 'share', r.df / size.n) ORDER BY r.place)
                   FROM rarity r, size WHERE r.place < ${PACKED_LEXEMES}::int) END AS lexemes
    FROM best b
    JOIN ${tx.read("passage", "p")} ON p.scope_id = b.scope_id AND p.id = b.passage_id
    LEFT JOIN ${tx.read("session", "s")} ON s.scope_id = p.scope_id AND s.id = p.session_id
    ORDER BY b.score DESC, b.passage_id`);
  const lexemes = rows[0]?.lexemes ?? [];
  return {
    lexemes,
    hits: rows.map(({ packed, lexemes: _, ...row }) => ({ ...row, frequencies: unpack(packed, lexemes.length) })),
  };
}

interface WordHitRow extends Omit<WordHit, "frequencies"> {
  readonly packed: number;
  readonly lexemes: WordHits["lexemes"] | null;
}

function unpack(packed: number, lexemes: number): number[] {
  let rest = packed;
  return Array.from({ length: lexemes }, () => {
    const tf = rest % (MOST + 1);
    rest = Math.floor(rest / (MOST + 1));
    return tf;
  });
}

/**
 * CTEs up to `best`: the passages that share a lexeme with the query, the best `limit` of them. The
 * postings are read twice, to count and to score: keeping them in between cost more than reading
 * an index again (docs/performance.md).
 */
function scoredHits(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
  { k1, b }: Bm25Parameters,
  more: SQL,
): SQL {
  const narrowed = narrowing(tx, filter);
  const join =
    narrowed === undefined
      ? sql``
      : sql`JOIN ${tx.read("passage", "p")} ON p.scope_id = h.scope_id AND p.id = h.passage_id AND ${narrowed}`;
  return sql`
    WITH size AS MATERIALIZED (
      SELECT s.n, ${k1}::float8 * (1 - ${b}::float8) AS base, ${k1}::float8 * ${b}::float8 / s.mean AS slope
      FROM (SELECT greatest(sum(c.passages), 1)::float8 AS n, greatest(sum(c.lexemes), 1)::float8 / greatest(sum(c.passages), 1) AS mean
            FROM ${tx.read("scope_counter", "c")}) s),
    rarity AS MATERIALIZED (
      SELECT t.*, ${SCALE}::float8 * t.idf * (${k1}::float8 + 1) AS weight,
             CASE WHEN t.place < ${PACKED_LEXEMES}::int THEN ${MOST + 1}::float8 ^ t.place ELSE 0 END AS unit
      FROM (SELECT d.lexeme, d.df, ln(1 + (size.n - d.df + 0.5) / (d.df + 0.5)) AS idf, (row_number() OVER (ORDER BY d.df, d.lexeme) - 1)::int AS place
            FROM size, unnest(tsvector_to_array(to_tsvector('english', ${query}))) AS asked(lexeme),
              LATERAL (SELECT asked.lexeme, count(*)::float8 AS df FROM ${tx.read("posting", "o")} WHERE o.lexeme = asked.lexeme) d
            WHERE d.df > 0) t),
    best AS MATERIALIZED (
      SELECT h.passage_id, h.scope_id, sum(round(r.weight * h.tf / (h.tf + size.base + size.slope * h.lexemes))) / ${SCALE}::float8 AS score${more}
      FROM size, rarity r JOIN ${tx.read("posting", "h")} ON h.lexeme = r.lexeme ${join}
      GROUP BY h.passage_id, h.scope_id
      ORDER BY score DESC, h.passage_id LIMIT ${limit})`;
}

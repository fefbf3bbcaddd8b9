import { type ScopedTransaction, sql } from "../db/scoped.ts";
import type { Candidate } from "./candidate.ts";
import { narrowing, type PassageFilter } from "./filter.ts";

/** Okapi BM25's parameters, with the defaults of Robertson & Zaragoza (2009). */
export interface Bm25Parameters {
  readonly k1: number;
  readonly b: number;
}
export const BM25_DEFAULTS: Bm25Parameters = { k1: 1.2, b: 0.75 };

/** Scores are summed as integers of 1e-9, so that no change of plan changes their last digits. */
const SCALE = 1e9;

/**
 * The best passages by BM25, with idf = ln(1 + (N − df + ½) / (df + ½)) as in Lucene. N, df and the
 * mean length are those of the visible scopes alone: nobody else's text has any influence.
 *
 * `@@` on a GIN index would be no help: it is not leakproof, so row security keeps PostgreSQL from
 * using the index. Here everything is equality on `posting`, an index-only scan.
 */
export async function rankByBm25(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
  { k1, b }: Bm25Parameters = BM25_DEFAULTS,
): Promise<Candidate[]> {
  const narrowed = narrowing(tx, filter);
  const join =
    narrowed === undefined
      ? sql``
      : sql`JOIN ${tx.read("passage", "p")} ON p.scope_id = h.scope_id AND p.id = h.passage_id AND ${narrowed}`;
  return tx.rows<Candidate>(sql`
    WITH size AS MATERIALIZED (
      SELECT greatest(sum(c.passages), 1)::float8 AS n, greatest(sum(c.lexemes), 1)::float8 / greatest(sum(c.passages), 1) AS mean
      FROM ${tx.read("scope_counter", "c")}),
    hit AS MATERIALIZED (
      SELECT o.scope_id, o.passage_id, o.lexeme, o.tf, o.lexemes FROM ${tx.read("posting", "o")}
      WHERE o.lexeme = ANY (tsvector_to_array(to_tsvector('english', ${query})))),
    rarity AS MATERIALIZED (
      SELECT lexeme, ln(1 + (n - count(*) + 0.5) / (count(*) + 0.5)) AS idf FROM hit, size GROUP BY lexeme, n)
    SELECT h.passage_id AS id, h.scope_id AS "scopeId",
           sum((${SCALE}::float8 * r.idf * h.tf * (${k1}::float8 + 1)
                / (h.tf + ${k1}::float8 * (1 - ${b}::float8 + ${b}::float8 * h.lexemes / size.mean)))::bigint)::float8 / ${SCALE}::float8 AS score
    FROM hit h JOIN rarity r USING (lexeme) CROSS JOIN size ${join}
    GROUP BY h.passage_id, h.scope_id
    ORDER BY score DESC, id LIMIT ${limit}`);
}

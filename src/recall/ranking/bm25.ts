import { type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import type { Candidate } from "./candidate.ts";
import type { PassageFilter } from "./filter.ts";
import type { WordHit, WordHits } from "./in-context.ts";
import { maxScoreSql } from "./maxscore.ts";
import {
  BM25_DEFAULTS,
  type Bm25Parameters,
  contribution,
  countedSql,
  countLexemesSql,
  filterJoinSql,
  MAX_PACKED_FREQUENCY,
  PACKED_LEXEMES,
  type Ranking,
  type Rarity,
  SCALE,
  type Size,
} from "./scoring-sql.ts";

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
  return selectFromBest<Candidate>(
    { tx, query, filter, limit, parameters, packs: false },
    sql`
    SELECT b.passage_id AS id, b.scope_id AS "scopeId", b.score, encode(p.digest, 'hex') AS digest, p.observed_at AS "observedAt"
    FROM best b JOIN ${tx.read("passage", "p")} ON p.scope_id = b.scope_id AND p.id = b.passage_id ORDER BY b.score DESC, b.passage_id`,
  );
}

/** The same ranking with what {@link rankInContext} asks of each passage. */
export async function findByWords(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
  parameters: Bm25Parameters = BM25_DEFAULTS,
): Promise<WordHits> {
  const rows = await selectFromBest<WordHitRow>(
    { tx, query, filter, limit, parameters, packs: true },
    sql`
    SELECT b.passage_id AS id, b.scope_id AS "scopeId", b.score, b.packed, b.words, p.observed_at::text AS "observedAt", encode(p.digest, 'hex') AS digest,
           p.session_id AS "sessionId", CASE WHEN p.kind = 'turn' THEN p.position END AS position, s.next_seq AS turns,
           -- The regular expression is the slower of the two conditions.
           CASE WHEN p.kind = 'turn' AND strpos(left(p.text, 42), ': ') > 0 THEN substring(left(p.text, 60) FROM '^([[:upper:]][^:[:cntrl:]]{0,39}): ') END AS speaker,
           -- Once is enough.
           CASE WHEN row_number() OVER (ORDER BY b.score DESC, b.passage_id) = 1
             THEN (SELECT jsonb_agg(jsonb_build_object('idf', r.idf, 'share', r.df / size.n) ORDER BY r.place)
                   FROM rarity r, size WHERE r.place < ${PACKED_LEXEMES}::int) END AS lexemes
    FROM best b
    JOIN ${tx.read("passage", "p")} ON p.scope_id = b.scope_id AND p.id = b.passage_id
    LEFT JOIN ${tx.read("session", "s")} ON s.scope_id = p.scope_id AND s.id = p.session_id
    ORDER BY b.score DESC, b.passage_id`,
  );
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
    const tf = rest % (MAX_PACKED_FREQUENCY + 1);
    rest = Math.floor(rest / (MAX_PACKED_FREQUENCY + 1));
    return tf;
  });
}

/** The rows of a SELECT from the CTEs `size`, `rarity` and `best`. */
async function selectFromBest<Row extends object>(ranking: Ranking, select: SQL): Promise<Row[]> {
  const { tx, parameters } = ranking;
  const visible = Object.values(tx.entry.recall?.counts ?? {}).reduce((sum, passages) => sum + passages, 0);
  if (visible >= parameters.maxScoreFrom) {
    const counted = await tx.rows<Rarity & Size>(sql`
      WITH ${countLexemesSql(ranking, sql`, max(o.tf)::float8 AS most, min(o.lexemes)::float8 AS least`)}
      SELECT r.*, size.* FROM rarity r, size ORDER BY r.place`);
    if (counted.length === 0) return [];
    const rows = await tx.rows<Row>(sql`WITH ${countedSql(counted)}, ${maxScoreSql(ranking, counted)} ${select}`);
    if (rows.length > 0) return rows;
  }
  return tx.rows<Row>(sql`WITH ${countLexemesSql(ranking)}, ${exhaustiveSql(ranking)} ${select}`);
}

/**
 * The CTE `best` out of every posting of the lexemes. They are read twice, to count and to score:
 * keeping them in between cost more than reading an index again (docs/measurements.md).
 */
function exhaustiveSql(ranking: Ranking): SQL {
  const packed = ranking.packs
    ? sql`, max(h.lexemes) AS words, sum(least(h.tf, ${MAX_PACKED_FREQUENCY}::int) * r.unit) AS packed`
    : sql``;
  return sql`
    best AS MATERIALIZED (
      SELECT h.passage_id, h.scope_id, sum(${contribution("h", "h.lexemes")}) / ${SCALE}::float8 AS score${packed}
      FROM size, rarity r JOIN ${ranking.tx.read("posting", "h")} ON h.lexeme = r.number ${filterJoinSql(ranking)}
      GROUP BY h.passage_id, h.scope_id
      ORDER BY score DESC, h.passage_id LIMIT ${ranking.limit})`;
}

import { list, type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { isOfConversation, type WordHit, type WordHits } from "./in-context.ts";
import { BM25_DEFAULTS, SCALE } from "./scoring-sql.ts";

/** Passages that are taken to be about the query, and how many of their lexemes are added to it. */
const FEEDBACK_PASSAGES = 5;
const EXPANSION_LEXEMES = 20;
/** Share of the expansion in the score. */
const EXPANSION_WEIGHT = 0.5;
/** Passages that are ranked anew. */
const MAX_CANDIDATES = 100;
/** Shorter texts have no vocabulary to offer: mean length of the feedback passages, in lexemes. */
const MIN_MEAN_LEXEMES = 30;

/**
 * Query expansion from the scope's own vocabulary: the relevance model RM3 (Abdul-Jaleel et al.
 * 2004) over the best passages that stand by themselves, which are then ranked anew by what the
 * query and its expansion find in them. Only passages that the query found are looked at, so it costs
 * one short statement; for the first ten, ranking the whole scope anew gives the same.
 */
export async function expandFromBest(tx: ScopedTransaction, found: WordHits): Promise<WordHits> {
  const alone = found.hits.filter((hit) => !isOfConversation(hit)).slice(0, MAX_CANDIDATES);
  const feedback = alone.slice(0, FEEDBACK_PASSAGES);
  const words = feedback.reduce((sum, hit) => sum + hit.words, 0) / Math.max(feedback.length, 1);
  if (feedback.length < FEEDBACK_PASSAGES || words < MIN_MEAN_LEXEMES) return found;
  const { k1, b } = BM25_DEFAULTS;
  const rows = await tx.rows<{ id: string; score: number }>(sql`
    WITH feedback AS (
      SELECT f.id, f.score FROM unnest(${list(feedback.map(({ id }) => id))}::uuid[], ${list(feedback.map(({ score }) => score))}::float8[]) AS f(id, score)),
    vocabulary AS MATERIALIZED (
      SELECT o.lexeme, sum(round(${SCALE}::float8 * f.score * o.tf / o.lexemes)) AS weight FROM feedback f
      JOIN ${tx.read("posting", "o")} ON o.passage_id = f.id
      WHERE o.scope_id = ANY (${scopesOf(feedback)}::int[])
      GROUP BY o.lexeme ORDER BY weight DESC, o.lexeme LIMIT ${EXPANSION_LEXEMES}),
    size AS MATERIALIZED (
      SELECT sum(v.weight) AS weights FROM vocabulary v)
    SELECT o.passage_id AS id,
           sum(round(${SCALE}::float8 * v.weight / size.weights * o.tf * (${k1}::float8 + 1)
                / (o.tf + ${k1}::float8 * (1 - ${b}::float8 + ${b}::float8 * o.lexemes / ${meanOf(alone)}::float8)))) / ${SCALE}::float8 AS score
    FROM size, vocabulary v JOIN ${tx.read("posting", "o")} USING (lexeme)
    WHERE o.scope_id = ANY (${scopesOf(alone)}::int[]) AND o.passage_id = ANY (${list(alone.map(({ id }) => id))}::uuid[])
    GROUP BY o.passage_id`);
  const expansion = new Map(rows.map(({ id, score }) => [id, score]));
  const inPool = new Set(alone.map(({ id }) => id));
  // Both parts in the size of one lexeme of the query, so that the share is one.
  const terms = Math.max(found.lexemes.length, 1);
  const idf = found.lexemes.reduce((sum, lexeme) => sum + lexeme.idf, 0) / terms;
  const rescored = found.hits.map((hit) =>
    inPool.has(hit.id)
      ? {
          ...hit,
          score: (1 - EXPANSION_WEIGHT) * hit.score + EXPANSION_WEIGHT * terms * idf * (expansion.get(hit.id) ?? 0),
        }
      : hit,
  );
  return { lexemes: found.lexemes, hits: rescored };
}

const scopesOf = (hits: readonly WordHit[]) => list([...new Set(hits.map(({ scopeId }) => scopeId))]);
const meanOf = (hits: readonly WordHit[]) => hits.reduce((sum, { words }) => sum + words, 0) / hits.length;

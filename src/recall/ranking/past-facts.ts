import { normalFormSql } from "../../db/access/normal-form-sql.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { factsAt, isPresent, withTables } from "../../memory/fact-timeline.ts";
import { plantedIn } from "../../text/planted.ts";
import { sameTextDigest } from "../../text/same-text.ts";
import type { Candidate } from "./candidate.ts";
import type { PassageFilter } from "./filter.ts";
import { BM25_DEFAULTS, countLexemesSql } from "./scoring-sql.ts";

/** A fact of another time, as a ranking finds it. */
export interface PastFact extends Candidate {
  readonly observedAt: string;
  readonly digest: string;
}

/** Whether a recall asks about a time at which facts may have held that are over by now. */
export const asksForPastFacts = ({ moment, kinds, documentIds, mimeType }: PassageFilter): boolean =>
  moment !== undefined &&
  !isPresent(moment) &&
  documentIds === undefined &&
  mimeType === undefined &&
  (kinds === undefined || kinds.includes("attribute"));

/** The facts of the filter's moment, of both tables, as rows (id, scope_id, sentence, valid_from). */
function factsOf(tx: ScopedTransaction, { moment = {}, labels, sessionId }: PassageFilter) {
  const tables = (["attribute", "relation"] as const).map((table) => factsAt(tx, table, sql`true`, moment));
  // As known now, what is not over is found by its passage.
  const narrowed: SQL[] = [
    moment.asOf === undefined
      ? sql`NOT EXISTS (SELECT 1 FROM ${tx.read("passage", "own")} WHERE own.scope_id = f.scope_id AND own.id = f.id)`
      : sql`true`,
  ];
  if (labels.length > 0) narrowed.push(sql`f.labels @> ${list(labels)}::text[]`);
  if (sessionId !== undefined) narrowed.push(sql`f.session_id = ${sessionId}::uuid`);
  const rows = tables.map(
    ({ from }) =>
      sql`SELECT f.id, f.scope_id, f.sentence, f.valid_from FROM ${from} WHERE ${sql.join(narrowed, sql` AND `)}`,
  );
  return { tables: tables.flatMap((table) => table.tables), rows: sql.join(rows, sql` UNION ALL `) };
}

/**
 * The facts of a moment by BM25 with the visible scopes' own statistics. What is over is in no index of words,
 * so that it takes nothing from answers about the present: here each fact of the moment is looked at.
 */
export async function rankPastFacts(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
): Promise<PastFact[]> {
  const { k1 } = BM25_DEFAULTS;
  const { tables, rows } = factsOf(tx, filter);
  const counted = countLexemesSql({ tx, query, filter, limit, parameters: BM25_DEFAULTS, packs: false });
  const found = await tx.rows<{ id: string; scopeId: number; score: number; text: string; observedAt: string }>(sql`
    ${withTables([
      ...tables,
      counted,
      sql`
      facts AS MATERIALIZED (
        SELECT f.*, to_tsvector('english', ${normalFormSql(sql`f.sentence`)}) AS words FROM (${rows}) f),
      -- A word that no passage has is as rare as can be.
      rare AS MATERIALIZED (
        SELECT a.lexeme, coalesce(r.idf, ln(1 + (size.n + 0.5) / 0.5)) AS idf FROM size CROSS JOIN asked a LEFT JOIN rarity r ON r.lexeme = a.lexeme)`,
    ])}
    SELECT f.id, f.scope_id AS "scopeId", f.sentence AS text, f.valid_from AS "observedAt", s.score
    FROM size CROSS JOIN facts f
    CROSS JOIN LATERAL (SELECT sum(cardinality(l.positions))::float8 AS words FROM unnest(f.words) l) long
    CROSS JOIN LATERAL (
      SELECT sum(r.idf * cardinality(l.positions) * (${k1}::float8 + 1) / (cardinality(l.positions) + size.base + size.slope * long.words)) AS score
      FROM unnest(f.words) l JOIN rare r ON r.lexeme = l.lexeme) s
    WHERE s.score > 0 ORDER BY s.score DESC, f.id LIMIT ${filter.excludeSuspicious === true ? limit * 4 : limit}`);
  return found
    .filter(({ text }) => filter.excludeSuspicious !== true || plantedIn(text).length === 0)
    .map(({ text, ...fact }) => ({ ...fact, digest: sameTextDigest(text) }));
}

/** The facts of a moment, the newest first. */
export async function recentPastFacts(
  tx: ScopedTransaction,
  filter: PassageFilter,
  limit: number,
): Promise<Candidate[]> {
  const { tables, rows } = factsOf(tx, filter);
  return tx.rows<Candidate>(sql`
    ${withTables(tables)}
    SELECT f.id, f.scope_id AS "scopeId", 0 AS score, f.valid_from AS "observedAt" FROM (${rows}) f ORDER BY f.valid_from DESC, f.id DESC LIMIT ${limit}`);
}

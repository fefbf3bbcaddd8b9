import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { isPresent, type Moment } from "../../memory/fact-timeline.ts";

/** What narrows a recall inside the visible scopes. It can only take rows away. */
export interface PassageFilter {
  readonly labels: readonly string[];
  readonly sessionId: string | undefined;
  readonly kinds: readonly string[] | undefined;
  readonly documentIds?: readonly string[] | undefined;
  readonly mimeTypes?: readonly string[] | undefined;
  /** The time that is asked about, the present where it names none. Absent: whatever the time. */
  readonly moment?: Moment;
  /** Without texts that look like planted instructions. */
  readonly excludeSuspicious?: boolean;
}

export const NO_FILTER: PassageFilter = { labels: [], sessionId: undefined, kinds: undefined };
/** What is so now. */
export const PRESENT: PassageFilter = { ...NO_FILTER, moment: {} };

/** Conditions on a passage under the alias p. Undefined: nothing narrows. */
export function filterSql(tx: ScopedTransaction, filter: PassageFilter): SQL | undefined {
  const conditions: SQL[] = [];
  if (filter.labels.length > 0) conditions.push(sql`p.labels @> ${list(filter.labels)}::text[]`);
  if (filter.sessionId !== undefined) conditions.push(sql`p.session_id = ${filter.sessionId}::uuid`);
  if (filter.kinds !== undefined) conditions.push(sql`p.kind = ANY (${list(filter.kinds)}::text[])`);
  if (filter.documentIds !== undefined) conditions.push(sql`p.document_id = ANY (${list(filter.documentIds)}::uuid[])`);
  if (filter.mimeTypes !== undefined) {
    conditions.push(sql`EXISTS (
      SELECT 1 FROM ${tx.read("document", "of")} WHERE of.scope_id = p.scope_id AND of.id = p.document_id AND of.mime_type = ANY (${list(filter.mimeTypes)}::text[]))`);
  }
  if (filter.excludeSuspicious === true) conditions.push(sql`p.suspicious = '{}'`);
  if (filter.moment !== undefined) conditions.push(...timesSql(tx, filter.moment));
  return conditions.length === 0 ? undefined : sql.join(conditions, sql` AND `);
}

/**
 * Conditions of time. A turn or chunk was observed at a moment; a fact holds from then until it ends. (Facts
 * that are over have no passage: src/recall/ranking/past-facts.ts finds them.)
 */
function timesSql(tx: ScopedTransaction, moment: Moment): SQL[] {
  if (isPresent(moment)) {
    // Few scopes have any such passage; without, there is nothing to look at.
    return tx.entry.recall?.timed === false
      ? []
      : [sql`(p.starts_at <= now()) IS NOT FALSE AND (p.ends_at > now()) IS NOT FALSE`];
  }
  const { asOf, atInstant, validFrom, validUntil } = moment;
  // What was said for a while is expired once it is over, also for the past.
  const conditions: SQL[] = [sql`(p.kind = 'attribute' OR (p.ends_at > now()) IS NOT FALSE)`];
  // A fact's passage says how it holds as known now: as known then, the facts themselves do.
  if (asOf !== undefined) conditions.push(sql`p.created_at <= ${asOf}::timestamptz AND p.kind <> 'attribute'`);
  if (atInstant !== undefined) {
    conditions.push(
      sql`p.observed_at <= ${atInstant}::timestamptz AND (p.ends_at > ${atInstant}::timestamptz) IS NOT FALSE`,
    );
  }
  if (validFrom !== undefined) {
    conditions.push(sql`
      CASE p.kind WHEN 'attribute' THEN (p.ends_at > ${validFrom}::timestamptz) IS NOT FALSE ELSE p.observed_at >= ${validFrom}::timestamptz END`);
  }
  if (validUntil !== undefined) conditions.push(sql`p.observed_at <= ${validUntil}::timestamptz`);
  return conditions;
}

/** As a condition that stands after another one. */
export function andFilterSql(tx: ScopedTransaction, filter: PassageFilter): SQL {
  const narrowed = filterSql(tx, filter);
  return narrowed === undefined ? sql`` : sql` AND ${narrowed}`;
}

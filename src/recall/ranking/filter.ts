import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";

/** What narrows a recall inside the visible scopes. It can only take rows away. */
export interface PassageFilter {
  readonly labels: readonly string[];
  readonly sessionId: string | undefined;
  readonly kinds: readonly string[] | undefined;
  readonly documentIds?: readonly string[] | undefined;
  readonly mimeType?: string | undefined;
  /** Only what was known at this time. */
  readonly asOf: string | undefined;
  /** Only what was observed in this span, both ends included. */
  readonly validFrom: string | undefined;
  readonly validUntil: string | undefined;
}

export const NO_FILTER: PassageFilter = {
  labels: [],
  sessionId: undefined,
  kinds: undefined,
  asOf: undefined,
  validFrom: undefined,
  validUntil: undefined,
};

/** Conditions on a passage under the alias p. Undefined: nothing narrows. */
export function filterSql(tx: ScopedTransaction, filter: PassageFilter): SQL | undefined {
  const conditions: SQL[] = [];
  if (filter.labels.length > 0) conditions.push(sql`p.labels @> ${list(filter.labels)}::text[]`);
  if (filter.sessionId !== undefined) conditions.push(sql`p.session_id = ${filter.sessionId}::uuid`);
  if (filter.kinds !== undefined) conditions.push(sql`p.kind = ANY (${list(filter.kinds)}::text[])`);
  if (filter.documentIds !== undefined) conditions.push(sql`p.document_id = ANY (${list(filter.documentIds)}::uuid[])`);
  if (filter.mimeType !== undefined) {
    conditions.push(sql`EXISTS (
      SELECT 1 FROM ${tx.read("document", "of")} WHERE of.scope_id = p.scope_id AND of.id = p.document_id AND of.mime_type = ${filter.mimeType})`);
  }
  if (filter.asOf !== undefined) conditions.push(sql`p.created_at <= ${filter.asOf}::timestamptz`);
  if (filter.validFrom !== undefined) conditions.push(sql`p.observed_at >= ${filter.validFrom}::timestamptz`);
  if (filter.validUntil !== undefined) conditions.push(sql`p.observed_at <= ${filter.validUntil}::timestamptz`);
  return conditions.length === 0 ? undefined : sql.join(conditions, sql` AND `);
}

/** As a condition that stands after another one. */
export function andFilterSql(tx: ScopedTransaction, filter: PassageFilter): SQL {
  const narrowed = filterSql(tx, filter);
  return narrowed === undefined ? sql`` : sql` AND ${narrowed}`;
}

import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { type ForgetCounts, NOTHING } from "../traces/receipt.ts";
import { forgetItems } from "./forget-query.ts";

/** Rows of one kind in one transaction: other requests go on between them. */
export const ROWS_AT_ONCE = 1_000;
/** Documents: each has many rows. */
export const DOCUMENTS_AT_ONCE = 50;

/** What is remembered, and goes by its age. */
export const OLD_KINDS = ["turns", "documents", "facts", "items"] as const;
export type OldKind = (typeof OLD_KINDS)[number];

/** What is old enough to go. */
export interface OldRows {
  /** Absent: all. Others have no rows of this sort, and are left out. */
  readonly kinds?: readonly (OldKind | (string & {}))[] | undefined;
  readonly labels?: readonly string[] | undefined;
  /** From when on something counts as old; absent: created. */
  readonly since?: "observed" | "created" | "lastUsed" | undefined;
  /** RFC 3339, exclusive. */
  readonly before: string;
  /** Erase; otherwise expire. */
  readonly purge: boolean;
}

export interface Batch {
  readonly counts: ForgetCounts;
  /** Nothing more of it is at these scopes. */
  readonly isAll: boolean;
}

/** Forgets the next rows that are old enough, of one kind: called again until `isAll`. What is held is left. */
export async function forgetOld(tx: ScopedTransaction, old: OldRows): Promise<Batch> {
  const { kinds = OLD_KINDS, labels = [], since = "created", before, purge } = old;
  await tx.call("drop_cached_answers");
  for (const kind of OLD_KINDS) {
    if (!kinds.includes(kind)) continue;
    const rows = await tx.callRows<{ id: string; turn_id: string | null }>(
      "old_rows",
      kind,
      since,
      before,
      sql`${list([...labels])}::text[]`,
      purge,
      kind === "documents" ? DOCUMENTS_AT_ONCE : ROWS_AT_ONCE,
    );
    if (rows.length === 0) continue;
    const ids = rows.map(({ id }) => id);
    const turns = rows.flatMap((row) => row.turn_id ?? []);
    return { counts: await forgetRows(tx, kind, ids, turns, purge), isAll: false };
  }
  const session = purge && kinds.includes("turns") ? await removeEmptySessions(tx, before) : 0;
  return { counts: session === 0 ? {} : { session }, isAll: true };
}

function forgetRows(
  tx: ScopedTransaction,
  kind: OldKind,
  ids: readonly string[],
  turns: readonly string[],
  purge: boolean,
): Promise<ForgetCounts> {
  switch (kind) {
    case "turns":
      return forgetItems(tx, { ...NOTHING, passages: ids, turns }, purge);
    case "facts":
      return forgetItems(tx, { ...NOTHING, passages: ids, facts: ids }, purge);
    case "items":
      return forgetItems(tx, { ...NOTHING, items: ids }, purge);
    case "documents":
      return purge ? forgetItems(tx, { ...NOTHING, documents: ids }, true) : expireDocuments(tx, ids);
  }
}

/** Their parts are recalled no more; the files stay. */
async function expireDocuments(tx: ScopedTransaction, ids: readonly string[]): Promise<ForgetCounts> {
  const parts = await tx.rows<{ id: string }>(sql`
    SELECT p.id FROM ${tx.read("passage", "p")} WHERE p.document_id = ANY (${list(ids)}::uuid[]) AND p.expired_at IS NULL`);
  const counts = await forgetItems(tx, { ...NOTHING, passages: parts.map(({ id }) => id) }, false);
  return { ...counts, document: ids.length };
}

/** Sessions of which no turn is left, and that began before. */
const removeEmptySessions = (tx: ScopedTransaction, before: string) =>
  tx.remove(
    "session",
    sql`created_at < ${before}::timestamptz AND NOT EXISTS (
      SELECT 1 FROM ${tx.read("turn", "t")} WHERE t.scope_id = session.scope_id AND t.session_id = session.id)`,
  );

import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { type ForgetCounts, NOTHING } from "../traces/receipt.ts";
import { forgetItems } from "./forget-items.ts";

/** Rows of one kind in one transaction: other requests go on between them. */
export const ROWS_AT_ONCE = 2_000;
/** Documents: each has many rows. */
export const DOCUMENTS_AT_ONCE = 50;

/** What is remembered, and goes by its age. */
export const OLD_KINDS = ["turns", "documents", "facts", "items"] as const;
export type OldKind = (typeof OLD_KINDS)[number];
/** From when on something counts as old. */
export const SINCE = ["observed", "created", "lastUsed"] as const;
export type Since = (typeof SINCE)[number];

/** What is old enough to go. */
export interface OldRows {
  /** Absent: all. Others have no rows of this sort, and are left out. */
  readonly kinds?: readonly (OldKind | (string & {}))[] | undefined;
  readonly labels?: readonly string[] | undefined;
  /** From when on something counts as old; absent: created. */
  readonly since?: Since | undefined;
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
    await tx.call("drop_cached_answers");
    const ids = rows.map(({ id }) => id);
    const turns = rows.flatMap((row) => row.turn_id ?? []);
    return { counts: await forgetRows(tx, kind, ids, turns, purge), isAll: false };
  }
  // Labels are of turns: a session has none.
  if (!purge || labels.length > 0 || !kinds.includes("turns")) return { counts: {}, isAll: true };
  const empty = await tx.callRows<{ id: string }>(
    "old_rows",
    "sessions",
    since,
    before,
    sql`'{}'::text[]`,
    true,
    ROWS_AT_ONCE,
  );
  if (empty.length === 0) return { counts: {}, isAll: true };
  await tx.call("drop_cached_answers");
  const session = await tx.remove("session", sql`id = ANY (${list(empty.map(({ id }) => id))}::uuid[])`);
  return { counts: { session }, isAll: empty.length < ROWS_AT_ONCE };
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
      return forgetItems(tx, { ...NOTHING, documents: ids }, purge);
  }
}

import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { type ForgetCounts, writeReceipt } from "../traces/receipt.ts";
import { recordTrace } from "../traces/record.ts";

/**
 * Every table with a scope, and what an erase does to it; a test compares this list with the
 * catalog. Children stand before their parents.
 */
export const ERASURE = {
  delete: [
    "posting_block",
    "segment",
    "chunk_band",
    "passage",
    "keyword",
    "document_link",
    "document_content",
    "document",
    "attribute",
    "relation",
    "entity",
    "memory_item",
    "turn",
    "session",
  ],
  /** By `scopefloor.retire_scopes` and `drop_cached_answers`: text out, numbers kept. */
  redact: [
    "idempotency",
    "response_cache",
    "decision_trace",
    "access_denied",
    "forget_receipt",
    "audit_entry",
    "api_key",
    "job",
    // Of a key above the eraser's they stay.
    "budget",
    "budget_window",
    "budget_event",
    "scope_limit",
    "limit_rate",
    "limit_store",
    // Holds: what they keep is not erased, and they stay.
    "legal_hold",
    "retention_rule",
    "forget_schedule",
    "forget_run",
    "scope_setting",
    "scope_credential",
  ],
  /** Numbers only: counts that the deletions above bring to zero, and what was used and held, which is paid. */
  keep: ["scope_counter", "vector_index", "usage_hour", "storage_day", "budget_hold", "stored_change"],
} as const;

export interface ErasedSubtree {
  readonly forgotten: number;
  readonly receiptId: string;
}

/**
 * Erases the scope at E and everything below it. The transaction was entered to `erase`: it holds
 * the target's lock alone, so no write that began before can land after this commits.
 *
 * @param before what earlier transactions of the same erasure have taken, by table
 */
export async function eraseSubtree(tx: ScopedTransaction, before: ForgetCounts = {}): Promise<ErasedSubtree> {
  const counts: Record<string, number> = {};
  for (const table of ERASURE.delete) counts[table] = (before[table] ?? 0) + (await tx.remove(table, sql`true`));
  await tx.call("drop_cached_answers");
  const retired = await tx.call<ForgetCounts>("retire_scopes");
  counts.idempotency = retired.idempotency ?? 0;
  const receiptId = await writeReceipt(
    tx,
    { policy: "scope", action: "erase", subtree: true },
    {
      ...counts,
      traces: (before.traces ?? 0) + (retired.traces ?? 0),
      denials: retired.denials ?? 0,
      scopes: retired.scopes ?? 0,
      job: retired.jobs ?? 0,
    },
  );
  const things = ["passage", "turn", "session", "document", "entity", "attribute", "relation", "memory_item"];
  const forgotten = things.reduce((sum, table) => sum + (counts[table] ?? 0), 0);
  recordTrace(tx, { kind: "forget", operation: "forget_scope", returned: forgotten });
  return { forgotten, receiptId };
}

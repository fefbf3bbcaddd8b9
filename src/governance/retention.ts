import { v7 as uuid } from "uuid";
import { json, list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { AppError, type ErrorSlug, notFound } from "../errors.ts";
import { recordTrace } from "../traces/record.ts";
import { notDropped } from "./not-dropped.ts";

/** What has a lifetime of its own. The last two lose their text and keep their numbers. */
export const RETAINED_KINDS = ["turns", "documents", "facts", "items", "traces", "receipts"] as const;
export type RetainedKind = (typeof RETAINED_KINDS)[number];
/** From when on something counts as old. */
export const SINCE = ["observed", "created", "lastUsed"] as const;
export type Since = (typeof SINCE)[number];

export interface NewRetention {
  readonly kinds: readonly RetainedKind[];
  /** ISO 8601, such as P90D. */
  readonly olderThan: string;
  readonly since: Since;
  readonly action: "expire" | "erase";
  /** Whether it holds for all below, whatever a narrower rule says. */
  readonly maximum: boolean;
}

export interface RetentionRule extends Omit<NewRetention, "kinds"> {
  readonly id: string;
  readonly scope: Record<string, string>;
  readonly kind: RetainedKind;
  readonly nextRun: string;
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** Sets the rules of the transaction's scope for these kinds: of each there is one for an action, and one that is a maximum. */
export async function setRetention(
  tx: ScopedTransaction,
  { kinds, ...rule }: NewRetention,
): Promise<{ rules: RetentionRule[] }> {
  const given = kinds.map((kind) => ({ id: uuid(), kind, ...rule }));
  const answer = await tx.call<
    { status: "ok"; rules: RetentionRule[] } | { status: Exclude<ErrorSlug, "ok">; detail: string }
  >("set_retention", json(given));
  if (answer.status !== "ok") throw new AppError(answer.status, (answer as { detail: string }).detail);
  recordTrace(tx, { kind: "decision", operation: "retention_set" });
  return { rules: (answer as { rules: RetentionRule[] }).rules };
}

/** Those at the transaction's scope and below. */
export const listRetention = (
  tx: ScopedTransaction,
  pageSize: number,
  page: number,
): Promise<{ rules: RetentionRule[]; total: number }> => tx.call("list_retention", pageSize, page * pageSize);

/** Those that are in force at the transaction's scope, wherever they were set. */
export const effectiveRetention = (tx: ScopedTransaction): Promise<RetentionRule[]> => tx.call("effective_retention");

export async function dropRetention(
  tx: ScopedTransaction,
  which: { readonly kinds?: readonly RetainedKind[] | undefined; readonly action?: string | undefined },
): Promise<void> {
  const kinds = which.kinds === undefined ? sql`NULL::text[]` : sql`${list([...which.kinds])}::text[]`;
  const dropped = await tx.call<number>("drop_retention", kinds, which.action ?? null);
  if (dropped === 0) throw notFound();
  if (dropped < 0) throw notDropped(dropped, "a key above this one has set one of these rules");
  recordTrace(tx, { kind: "decision", operation: "retention_delete" });
}

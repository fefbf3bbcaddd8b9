import { v7 as uuid } from "uuid";
import { json, list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { unprocessable } from "../errors.ts";
import type { Since } from "../forget/forget-old.ts";
import { recordTrace } from "../traces/record.ts";
import { type Answer, accepted } from "./answer.ts";

/** What has a lifetime of its own. The last two lose their text and keep their numbers. */
export const RETAINED_KINDS = ["turns", "documents", "facts", "items", "traces", "receipts"] as const;
export type RetainedKind = (typeof RETAINED_KINDS)[number];

export interface NewRetention {
  readonly kinds: readonly RetainedKind[];
  /** ISO 8601, such as P90D. */
  readonly olderThan: string;
  readonly since: Since;
  readonly action: "expire" | "erase";
  /** Whether it holds for all below, whatever a narrower rule says. */
  readonly maximum: boolean;
}

/** A rule as it is asked for: what is left out has a value by the kinds. */
export type RetentionRequest = Pick<NewRetention, "olderThan" | "action"> & {
  readonly [part in "kinds" | "since" | "maximum"]?: NewRetention[part] | undefined;
};

/** @throws AppError 422 for kinds that do not go together, or not with the rest */
export function retentionOf({ kinds, since, maximum, olderThan, action }: RetentionRequest): NewRetention {
  const wanted = [...new Set(kinds ?? (["turns", "documents", "facts", "items"] as const))];
  const records = wanted.filter((kind) => kind === "traces" || kind === "receipts");
  if (records.length > 0 && (action === "expire" || (since !== undefined && since !== "created")))
    throw unprocessable(
      `${records.join(" and ")} are erased, by when they were created: their text goes, their numbers stay`,
    );
  if (records.length > 0 && records.length < wanted.length)
    throw unprocessable(`set the rule for ${records.join(" and ")} by itself: it has another time`);
  return {
    olderThan,
    action,
    kinds: wanted,
    since: since ?? (records.length > 0 ? "created" : "observed"),
    maximum: maximum ?? false,
  };
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
  const { rules } = accepted(await tx.call<Answer<{ rules: RetentionRule[] }>>("set_retention", json(given)));
  recordTrace(tx, { kind: "decision", operation: "retention_set" });
  return { rules };
}

/** The rules at the transaction's scope and below; `page` counts from 0. */
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
  accepted(await tx.call<Answer>("drop_retention", kinds, which.action ?? null));
  recordTrace(tx, { kind: "decision", operation: "retention_delete" });
}

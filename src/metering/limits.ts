import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { AppError, type ErrorSlug, notFound } from "../errors.ts";
import { recordTrace } from "../traces/record.ts";

/** What is limited, by its name on the wire. The first three are rates, the others what is kept. */
export const LIMITS = [
  "requestsPerMinute",
  "tokensPerMinute",
  "concurrentRequests",
  "storageBytes",
  "documents",
  "sessions",
  "keys",
  "scopes",
] as const;
/** Those of a minute, which a key may have by itself. */
export const RATES = [
  "requestsPerMinute",
  "tokensPerMinute",
  "concurrentRequests",
] as const satisfies readonly (typeof LIMITS)[number][];
export type LimitName = (typeof LIMITS)[number];
export type NewLimits = { readonly [name in LimitName]?: number | undefined };

/** The limits of a scope and all below it, or of one key, with what is used of each. */
export type Limits = { readonly [name in LimitName]: number | null } & {
  readonly id: string;
  readonly scope: Record<string, string>;
  readonly key: string | null;
  readonly used: { readonly [name in LimitName]?: number };
  readonly createdAt: string;
  readonly updatedAt: string;
};

/** Sets all limits of the transaction's scope, or of a key whose floor is in it: one that is left out is none. */
export async function setLimits(tx: ScopedTransaction, key: string | undefined, limits: NewLimits): Promise<Limits> {
  const answer = await tx.call<{ status: "ok"; limit: Limits } | { status: ErrorSlug; detail: string }>(
    "set_limit",
    uuid(),
    key ?? null,
    json(limits),
  );
  if (answer.status === "not-found") throw notFound();
  if (answer.status !== "ok") throw new AppError(answer.status, (answer as { detail: string }).detail);
  recordTrace(tx, { kind: "decision", operation: "limit_set" });
  return (answer as { limit: Limits }).limit;
}

/** Those at the transaction's scope and below. */
export async function listLimits(
  tx: ScopedTransaction,
  pageSize: number,
  page: number,
): Promise<{ limits: Limits[]; total: number }> {
  return tx.call("list_limits", pageSize, page * pageSize);
}

export async function dropLimits(tx: ScopedTransaction, key: string | undefined): Promise<void> {
  const dropped = await tx.call<number>("drop_limit", key ?? null);
  if (dropped === 0) throw notFound();
  if (dropped < 0) throw new AppError("forbidden", "a key above this one has set these limits");
  recordTrace(tx, { kind: "decision", operation: "limit_delete" });
}

/** SQLSTATE of a transaction that would have kept more than a limit allows (src/db/sql/3_metering/8_kept.sql). */
export const QUOTA_SQLSTATE = "SF507";

const KEPT: Readonly<Record<string, string>> = {
  storageBytes: "bytes of texts and files",
  documents: "documents",
  sessions: "sessions",
  keys: "keys",
  scopes: "scopes",
};

/** 507, for an error with {@link QUOTA_SQLSTATE}. Whose limit it is, it does not say: it may be one above. */
export const quotaExceeded = (name: string, cause: unknown): AppError =>
  new AppError("quota-exceeded", `a limit on ${KEPT[name] ?? "what may be kept"} is reached; nothing was stored`, {
    cause,
    more: { limit: name },
  });

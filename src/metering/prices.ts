import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { AppError, notFound } from "../errors.ts";
import { recordTrace } from "../traces/record.ts";

/** What may have a price for each call of it, as traces name it: what reads or writes memory, and calls to models. */
export const PRICED_OPERATIONS = [
  "audit",
  "chunks",
  "context",
  "document_delete",
  "document_raw",
  "documents",
  "documents_query",
  "embed",
  "entities",
  "entity_delete",
  "extract",
  "facts",
  "facts_batch",
  "forget",
  "forget_scope",
  "fsck",
  "history",
  "inspect",
  "item",
  "item_delete",
  "item_put",
  "items",
  "keywords",
  "keywords_search",
  "lifecycle_expire",
  "memories",
  "memory_change",
  "memory_delete",
  "profile",
  "query",
  "recompute_links",
  "rerank",
  "scope",
  "scope_delete",
  "scopes",
  "session",
  "session_close",
  "sessions",
  "state",
  "traces",
  "transcribe",
  "turns",
  "turns_delete",
  "upload",
  "vision",
] as const;

/** A price in USD, from a time on. One of model, operation and storage. */
export interface Price {
  readonly id: string;
  /** `provider:model`, or the model's name whoever provides it. */
  readonly model?: string;
  readonly inputPerMillion?: number;
  /** Absent: as other input. */
  readonly cachedInputPerMillion?: number;
  readonly outputPerMillion?: number;
  readonly embeddingPerMillion?: number;
  readonly operation?: string;
  readonly perCall?: number;
  /** For 10⁹ bytes kept for a month. */
  readonly storagePerGbMonth?: number;
  readonly effectiveFrom: string;
  readonly createdAt: string;
}

/** Of a model, what is left out stays as it was. */
export type NewPrice = Omit<Price, "id" | "createdAt" | "effectiveFrom"> & {
  readonly effectiveFrom?: string | undefined;
};

const forOperators = () =>
  new AppError("forbidden", "prices are set by a management key with the floor {} and every right");

const subjectOf = ({ model, operation }: { model?: string | undefined; operation?: string | undefined }) =>
  model !== undefined
    ? ({ kind: "model", name: model } as const)
    : operation !== undefined
      ? ({ kind: "operation", name: operation } as const)
      : ({ kind: "storage", name: "" } as const);

/** What was written before keeps its cost. */
export async function setPrice(tx: ScopedTransaction, price: NewPrice): Promise<Price> {
  const { kind, name } = subjectOf(price);
  const { effectiveFrom = null, ...amounts } = price;
  const set = await tx.call<Price | null>("set_price", uuid(), kind, name, json(amounts), effectiveFrom);
  if (set === null) throw forOperators();
  recordTrace(tx, { kind: "decision", operation: "price_set" });
  return set;
}

export const listPrices = (tx: ScopedTransaction) => tx.call<Price[]>("list_prices");

/** @throws AppError 404 for a price that is not there */
export async function dropPrice(
  tx: ScopedTransaction,
  which: { id?: string | undefined; model?: string | undefined; operation?: string | undefined },
): Promise<void> {
  const { kind, name } = subjectOf(which);
  const dropped = await tx.call<number | null>("drop_price", which.id ?? null, kind, name);
  if (dropped === null) throw forOperators();
  if (dropped === 0) throw notFound();
  recordTrace(tx, { kind: "decision", operation: "price_delete" });
}

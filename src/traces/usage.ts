import type { ScopedTransaction } from "../db/access/scoped.ts";

export const USAGE_GROUPS = ["scope", "org", "key", "model", "operation", "day"] as const;

export interface UsageRow {
  /** The group's value: a scope's tags, an org or another dimension's value, a key's id, a model, an operation or a day. */
  readonly group?: unknown;
  readonly calls: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly embeddingTokens: number;
  readonly totalTokens: number;
  readonly costUsd: number;
  /** Calls of models without a price, which are in no cost. */
  readonly unpricedCalls: number;
  /** Bytes of texts, values and files that are kept now, as UTF-8; absent where the group does not divide storage. */
  readonly storedBytes?: number;
}

interface RawUsage {
  readonly grp: unknown;
  readonly calls: number;
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly embedding_tokens: number;
  readonly total_tokens: number;
  readonly cost_usd: string;
  readonly unpriced: number;
  readonly stored_bytes: number | null;
}

export interface UsageFilter {
  readonly from?: string | undefined;
  readonly to?: string | undefined;
  /** One of {@link USAGE_GROUPS}, or `dimension:<name>`. */
  readonly groupBy?: string | undefined;
}

/** Sums over the subtree that the transaction was entered for, most tokens first. One row where nothing groups them. */
export async function usage(tx: ScopedTransaction, filter: UsageFilter): Promise<UsageRow[]> {
  const rows = await tx.callRows<RawUsage>("usage", filter.from ?? null, filter.to ?? null, filter.groupBy ?? null);
  const summed = rows.map((row) => ({
    ...(filter.groupBy === undefined ? {} : { group: row.grp }),
    calls: Number(row.calls),
    inputTokens: Number(row.input_tokens),
    outputTokens: Number(row.output_tokens),
    embeddingTokens: Number(row.embedding_tokens),
    totalTokens: Number(row.total_tokens),
    costUsd: Number(row.cost_usd),
    unpricedCalls: Number(row.unpriced),
    ...(row.stored_bytes === null ? {} : { storedBytes: Number(row.stored_bytes) }),
  }));
  if (summed.length > 0 || filter.groupBy !== undefined) return summed;
  return [
    {
      calls: 0,
      inputTokens: 0,
      outputTokens: 0,
      embeddingTokens: 0,
      totalTokens: 0,
      costUsd: 0,
      unpricedCalls: 0,
      storedBytes: 0,
    },
  ];
}

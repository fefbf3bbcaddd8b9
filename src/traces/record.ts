import { v7 as uuid } from "uuid";
import { json, type NewRow, type ScopedTransaction } from "../db/access/scoped.ts";
import type { Embedder, TokenSource } from "../models/embedder.ts";

type Columns = NewRow<"decision_trace">;

export interface TraceFields
  extends Pick<Columns, "kind" | "operation">,
    Partial<
      Pick<
        Columns,
        | "sessionId"
        | "query"
        | "tier"
        | "tierReason"
        | "candidates"
        | "returned"
        | "provider"
        | "model"
        | "inputTokens"
        | "outputTokens"
        | "embeddingTokens"
        | "tokenSource"
        | "savedTokens"
        | "plan"
      >
    > {
  /** Ids that the answer was made of. */
  readonly sources?: readonly string[];
}

/** What a trace says of its own: the same object in `trace` of every answer. */
export interface TraceSummary {
  readonly traceId: string;
  readonly latencyMs: number;
  readonly tokens: {
    readonly input: number;
    readonly output: number;
    readonly embedding: number;
    readonly total: number;
    /** Who counted them, where there are any. */
    readonly source?: TokenSource;
  };
}

/** Milliseconds since a reading of performance.now(), to the microsecond. */
export const elapsed = (startedAt: number) => Math.round((performance.now() - startedAt) * 1000) / 1000;

/** What an embedding cost, for a trace; nothing where the model did not answer. */
export const spentOn = (
  embedder: Pick<Embedder, "provider" | "model">,
  spent: { readonly tokens: number; readonly tokenSource: TokenSource } | undefined,
) =>
  spent === undefined
    ? {}
    : {
        provider: embedder.provider,
        model: embedder.model,
        embeddingTokens: spent.tokens,
        tokenSource: spent.tokenSource,
      };

/**
 * Appends one row to `decision_trace` in the transaction of the work that it records: either both
 * are there or neither. Whose it is and for which scope is the ticket's to say.
 */
export function recordTrace(tx: ScopedTransaction, fields: TraceFields): TraceSummary {
  const { sources, ...columns } = fields;
  const { entry } = tx;
  const traceId = uuid();
  const latencyMs = elapsed(tx.startedAt);
  tx.insertTrace({
    ...columns,
    ...(entry.trace.isBlank ? { query: null } : {}),
    id: traceId,
    scope: json(entry.trace.tags),
    elsewhere: entry.trace.isElsewhere,
    apiKeyId: entry.key.id,
    principal: entry.key.principal,
    onBehalfOf: entry.onBehalfOf,
    sources: sources === undefined ? null : json(sources),
    durationMs: latencyMs,
    status: "ok",
  });
  const input = fields.inputTokens ?? 0;
  const output = fields.outputTokens ?? 0;
  const embedding = fields.embeddingTokens ?? 0;
  const source = fields.tokenSource as TokenSource | null | undefined;
  return {
    traceId,
    latencyMs,
    tokens: { input, output, embedding, total: input + output + embedding, ...(source ? { source } : {}) },
  };
}

import { v7 as uuid } from "uuid";
import { json, type NewRow, type ScopedTransaction } from "../db/access/scoped.ts";
import type { Spent } from "../metering/model-call.ts";
import type { TokenSource } from "../models/embedder.ts";
import type { EmbeddedNow } from "../models/metered.ts";

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
        | "cachedInputTokens"
        | "outputTokens"
        | "embeddingTokens"
        | "tokenSource"
        | "savedTokens"
        | "plan"
      >
    > {
  /** Ids that the answer was made of. */
  readonly sources?: readonly string[];
  /** Absent: that of the request's hold, or a new one. */
  readonly id?: string | undefined;
  /** Absent: ok. */
  readonly status?: "ok" | "error" | "over_budget";
  /** The trace of the request that it is a part of. */
  readonly parentId?: string;
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

/** The same in whole milliseconds, as answers have it. */
export const wholeMs = (startedAt: number) => Math.round(elapsed(startedAt));

/** What a call to a model used, for the trace that tells of it; nothing where none was made. */
export const spentOn = (spent: Spent | undefined) =>
  spent === undefined
    ? {}
    : {
        provider: spent.provider,
        model: spent.model,
        inputTokens: spent.inputTokens,
        outputTokens: spent.outputTokens ?? 0,
        embeddingTokens: spent.embeddingTokens,
        tokenSource: spent.tokenSource,
      };

/** The same, and whether a budget had no room for the vectors of a question or of texts that are stored. */
export const spending = ({ spent, overBudget }: Pick<EmbeddedNow, "spent" | "overBudget">) => ({
  ...spentOn(spent),
  ...(overBudget === undefined ? {} : { status: "over_budget" as const }),
});

/**
 * Appends one row to `decision_trace` in the transaction of the work that it records: either both
 * are there or neither. Whose it is and for which scope is the ticket's to say.
 */
export function recordTrace(tx: ScopedTransaction, fields: TraceFields): TraceSummary {
  const { sources, id, ...columns } = fields;
  const { entry } = tx;
  const traceId = id ?? tx.takeHold() ?? uuid();
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
    status: fields.status ?? "ok",
  });
  const input = fields.inputTokens ?? 0;
  const output = fields.outputTokens ?? 0;
  const embedding = fields.embeddingTokens ?? 0;
  const source = fields.tokenSource as TokenSource | null | undefined;
  return {
    traceId,
    latencyMs: Math.round(latencyMs),
    tokens: { input, output, embedding, total: input + output + embedding, ...(source ? { source } : {}) },
  };
}

/** Appends a trace for a call to a model that is not a part of another's. */
export function recordSpent(tx: ScopedTransaction, spent: Spent, about: Partial<TraceFields> = {}): void {
  recordTrace(tx, {
    kind: "model",
    operation: spent.operation,
    ...spentOn(spent),
    status: spent.status,
    ...about,
    id: spent.traceId ?? uuid(),
  });
}

import type { ScopedTransaction } from "../db/scoped.ts";
import type { Embedder, VectorText } from "../models/embedder.ts";
import { recordTrace, type TraceSummary } from "../traces/record.ts";
import { type Mode, type SearchRequest, type SearchResult, search } from "./search.ts";

/** A query whose vector is ready: it is made before the transaction opens. */
export interface PreparedQuery {
  readonly vector: VectorText | null;
  readonly embeddingTokens: number;
}

export async function prepareQuery(embedder: Embedder, query: string, mode: Mode): Promise<PreparedQuery> {
  if (mode === "bm25") return { vector: null, embeddingTokens: 0 };
  const { vector, tokens } = await embedder.embedQuery(query);
  return { vector, embeddingTokens: tokens };
}

export interface Recalled extends SearchResult {
  readonly trace: TraceSummary & {
    readonly resolutionTier: string;
    readonly tierReason: string;
    readonly retrievedCount: number;
    readonly topScores: readonly number[];
    readonly scope: Record<string, string>;
    readonly plan: string;
    readonly hiddenByView?: true;
    readonly hintsIgnored?: readonly string[];
  };
}

/** Searches and records the trace of it, in the same transaction. */
export async function recall(
  tx: ScopedTransaction,
  embedder: Embedder,
  prepared: PreparedQuery,
  request: Omit<SearchRequest, "vector">,
  about: {
    readonly operation: "query" | "context";
    readonly hintsIgnored?: readonly string[];
    readonly sessionId?: string | undefined;
  },
): Promise<Recalled> {
  const result = await search(tx, embedder, { ...request, vector: prepared.vector });
  const hiddenByView = result.hits.length === 0 && (await tx.call<boolean>("hides_scopes"));
  const embedded = prepared.embeddingTokens > 0;
  const summary = recordTrace(tx, {
    kind: "retrieval",
    operation: about.operation,
    query: request.query,
    tier: result.tier,
    tierReason: result.tierReason,
    sources: result.hits.map((hit) => hit.id),
    candidates: result.candidates,
    returned: result.hits.length,
    embeddingTokens: prepared.embeddingTokens,
    sessionId: about.sessionId ?? null,
    ...(embedded ? { provider: embedder.provider, model: embedder.model } : {}),
  });
  return {
    ...result,
    trace: {
      ...summary,
      resolutionTier: result.tier,
      tierReason: result.tierReason,
      retrievedCount: result.hits.length,
      topScores: result.hits.slice(0, 5).map((hit) => hit.score),
      scope: tx.entry.trace.tags,
      plan: result.plan,
      ...(hiddenByView ? { hiddenByView: true } : {}),
      ...(about.hintsIgnored && about.hintsIgnored.length > 0 ? { hintsIgnored: about.hintsIgnored } : {}),
    },
  };
}

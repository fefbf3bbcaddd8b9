import type { ScopedTransaction } from "../db/scoped.ts";
import type { Moment } from "../memory/entities.ts";
import { type Models, NO_VECTORS, type QueryVectors } from "../models/models.ts";
import { recordTrace, spentOn, type TraceSummary } from "../traces/record.ts";
import { answerDirectly, type TypedQuestion } from "./direct.ts";
import { type Mode, type SearchRequest, type SearchResult, search } from "./search.ts";

/** A query's vectors are made before the transaction opens. */
export const prepareQuery = (models: Models, query: string, mode: Mode): Promise<QueryVectors> =>
  mode === "bm25" ? Promise.resolve(NO_VECTORS) : models.embedQuery(query);

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
  models: Models,
  prepared: QueryVectors,
  request: Omit<SearchRequest, "prepared">,
  about: {
    readonly operation: "query" | "context" | "documents_query";
    readonly hintsIgnored?: readonly string[];
    readonly sessionId?: string | undefined;
  },
): Promise<Recalled> {
  const result = await search(tx, { ...request, prepared });
  const hiddenByView = result.hits.length === 0 && (await tx.call<boolean>("hides_scopes"));
  const summary = recordTrace(tx, {
    kind: "retrieval",
    operation: about.operation,
    query: request.query,
    tier: result.tier,
    tierReason: result.tierReason,
    sources: result.hits.map((hit) => hit.id),
    candidates: result.candidates,
    returned: result.hits.length,
    sessionId: about.sessionId ?? null,
    ...(prepared.tokens > 0 ? spentOn(models.current, prepared) : {}),
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

/** The answer of the direct tier to a typed question, with its trace; undefined: it has none. */
export async function recallDirectly(
  tx: ScopedTransaction,
  query: string,
  question: TypedQuestion,
  about: { readonly moment: Moment; readonly k: number; readonly hintsIgnored: readonly string[] },
) {
  const answer = await answerDirectly(tx, question, about.moment, about.k);
  if (answer === undefined) return undefined;
  const { hits, seedEntities, reason } = answer;
  const summary = recordTrace(tx, {
    kind: "retrieval",
    operation: "query",
    query,
    tier: "direct",
    tierReason: reason,
    sources: hits.map((hit) => hit.id),
    candidates: hits.length,
    returned: hits.length,
  });
  return {
    tier: "direct" as const,
    classificationKind: question.kind,
    hits,
    seedEntities,
    trace: {
      ...summary,
      resolutionTier: "direct",
      tierReason: reason,
      retrievedCount: hits.length,
      topScores: hits.slice(0, 5).map((hit) => hit.score),
      scope: tx.entry.trace.tags,
      plan: "by name over the visible scopes",
      ...(about.hintsIgnored.length > 0 ? { hintsIgnored: about.hintsIgnored } : {}),
    },
  };
}

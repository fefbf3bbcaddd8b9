import type { Reranker } from "../../models/reranker.ts";
import { countTokens } from "../../models/tokens.ts";
import { ModelUnavailable } from "../../models/unavailable.ts";
import type { TraceFields } from "../../traces/record.ts";
import type { Candidate } from "../ranking/candidate.ts";
import type { Hit } from "./hits.ts";

export interface RerankedHits {
  /** Best first. */
  readonly candidates: readonly Candidate[];
  /** Whether the reranker has ranked them: false where it did not answer, and they stand as they were. */
  readonly isRanked: boolean;
  /** For the plan of the trace. */
  readonly note: string;
  readonly spent: TraceFields | undefined;
}

/** Orders hits by a cross-encoder. One that does not answer changes nothing but the note. */
export async function rerankHits(reranker: Reranker, query: string, hits: readonly Hit[]): Promise<RerankedHits> {
  const asFound = hits.map(({ id, scopeId, score, duplicates }) => ({
    id,
    scopeId,
    score,
    ...(duplicates === undefined ? {} : { duplicates }),
  }));
  try {
    const { scores, tokens } = await reranker.rerank(
      query,
      hits.map(({ text }) => text),
    );
    const counted = tokens ?? hits.reduce((sum, hit) => sum + hit.tokens, countTokens(query) * hits.length);
    // One that the model left out stands below all that it has ranked.
    const lowest = Math.min(...scores.filter((score) => score !== undefined));
    return {
      candidates: asFound
        .map((candidate, i) => ({ ...candidate, place: i, given: scores[i] }))
        .sort((a, b) => (b.given ?? -Infinity) - (a.given ?? -Infinity) || a.place - b.place)
        .map(({ given, place: _, ...candidate }) => ({ ...candidate, score: given ?? lowest })),
      isRanked: true,
      note: `the best ${hits.length} by the reranker`,
      spent: {
        kind: "model",
        operation: "rerank",
        provider: "rerank",
        model: reranker.settings.model ?? null,
        inputTokens: counted,
        tokenSource: tokens === undefined ? "tokenizer" : "provider",
        returned: hits.length,
      },
    };
  } catch (error) {
    if (!(error instanceof ModelUnavailable)) throw error;
    return { candidates: asFound, isRanked: false, note: `not reranked: ${error.message}`, spent: undefined };
  }
}

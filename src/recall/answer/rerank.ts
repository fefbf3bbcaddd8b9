import { beginCall, type Meter, mostTokens, type Spent } from "../../metering/model-call.ts";
import type { Reranker } from "../../models/reranker.ts";
import { countTokens } from "../../models/tokens.ts";
import { ModelUnavailable } from "../../models/unavailable.ts";
import type { Candidate } from "../ranking/candidate.ts";
import type { Hit } from "./hits.ts";

export interface RerankedHits {
  /** Best first. */
  readonly candidates: readonly Candidate[];
  /** Whether the reranker has ranked them: false where it did not answer, and they stand as they were. */
  readonly isRanked: boolean;
  /** For the plan of the trace. */
  readonly note: string;
  readonly spent: Spent | undefined;
}

/** Orders hits by a cross-encoder. One that does not answer changes nothing but the note. */
export async function rerankHits(
  reranker: Reranker,
  meter: Meter,
  query: string,
  hits: readonly Hit[],
): Promise<RerankedHits> {
  const asFound = hits.map(({ id, scopeId, score, duplicates }) => ({
    id,
    scopeId,
    score,
    ...(duplicates === undefined ? {} : { duplicates }),
  }));
  const call = {
    operation: "rerank",
    provider: "rerank",
    model: reranker.settings.model ?? null,
    isRemote: true,
  };
  // The query is read with each text.
  const most = hits.reduce((sum, { text }) => sum + mostTokens(text), mostTokens(query) * hits.length);
  const permit = await meter.permit(() => ({ ...call, inputTokens: most, embeddingTokens: 0 }), true, true);
  if (!permit.isGiven)
    return { candidates: asFound, isRanked: false, note: `not reranked: ${permit.reason}`, spent: undefined };
  const counted = () => hits.reduce((sum, hit) => sum + hit.tokens, countTokens(query) * hits.length);
  const note = beginCall(meter, call, permit.traceId);
  try {
    const { scores, tokens } = await reranker.rerank(
      query,
      hits.map(({ text }) => text),
    );
    // One that the model left out stands below all that it has ranked.
    const lowest = Math.min(...scores.filter((score) => score !== undefined));
    return {
      candidates: asFound
        .map((candidate, i) => ({ ...candidate, place: i, given: scores[i] }))
        .sort((a, b) => (b.given ?? -Infinity) - (a.given ?? -Infinity) || a.place - b.place)
        .map(({ given, place: _, ...candidate }) => ({ ...candidate, score: given ?? lowest })),
      isRanked: true,
      note: `the best ${hits.length} by the reranker`,
      spent:
        tokens === undefined
          ? note({ inputTokens: counted() }, "tokenizer", "ok")
          : note({ inputTokens: tokens }, "provider", "ok"),
    };
  } catch (error) {
    if (!(error instanceof ModelUnavailable)) throw error;
    const spent = note({ inputTokens: error.isRefusal ? 0 : counted() }, "tokenizer", "error");
    return { candidates: asFound, isRanked: false, note: `not reranked: ${error.message}`, spent };
  }
}

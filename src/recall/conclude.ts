import { type Hidden, hiddenByView } from "../context/hidden-scopes.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import type { QueryVectors } from "../models/metered.ts";
import { recordSpent, recordTrace, type TraceFields, type TraceSummary } from "../traces/record.ts";
import type { Hit } from "./answer/hits.ts";
import type { SearchResult, Tier } from "./ranking/search.ts";

export interface RecallTrace extends TraceSummary, Hidden {
  readonly resolutionTier: string;
  readonly tierReason: string;
  readonly retrievedCount: number;
  readonly topScores: readonly number[];
  readonly scope: Record<string, string>;
  readonly plan: string;
  readonly savedTokens?: number;
  readonly hintsIgnored?: readonly string[];
  readonly source?: string;
}

export interface Recalled {
  readonly tier: Tier | "cache";
  readonly hits: readonly Hit[];
  readonly trace: RecallTrace;
}

export interface RecallAbout {
  readonly operation: "query" | "context" | "documents_query";
  readonly hintsIgnored?: readonly string[];
  readonly sessionId?: string | undefined;
  /** What the caller calls itself. */
  readonly source?: string | undefined;
}

/** What a recall came to: the tier and why, what it ran, and what it found, best first. */
interface Outcome {
  readonly tier: string;
  readonly tierReason: string;
  readonly plan: string;
  readonly candidates: number;
  readonly hits: readonly { readonly id: string; readonly score: number }[];
}

/** Records a recall's trace, and gives what an answer says of it. */
export function traceRecall(
  tx: ScopedTransaction,
  query: string,
  { tier, tierReason, plan, candidates, hits }: Outcome,
  about: RecallAbout,
  spent: Partial<TraceFields>,
): RecallTrace {
  const summary = recordTrace(tx, {
    kind: "retrieval",
    operation: about.operation,
    query,
    tier,
    tierReason,
    plan: about.source === undefined ? plan : `${plan}; for ${about.source}`,
    sources: hits.map(({ id }) => id),
    candidates,
    returned: hits.length,
    sessionId: about.sessionId ?? null,
    ...spent,
  });
  return {
    ...summary,
    resolutionTier: tier,
    tierReason,
    retrievedCount: hits.length,
    topScores: hits.slice(0, 5).map(({ score }) => score),
    scope: tx.entry.trace.tags,
    plan,
    ...(spent.savedTokens === undefined ? {} : { savedTokens: spent.savedTokens }),
    ...(about.source === undefined ? {} : { source: about.source }),
    ...(about.hintsIgnored && about.hintsIgnored.length > 0 ? { hintsIgnored: about.hintsIgnored } : {}),
  };
}

/** The end of a recall below the direct tier: its trace, and whether the view hid what there is. */
export async function conclude(
  tx: ScopedTransaction,
  query: string,
  result: Omit<SearchResult, "tier"> & { readonly tier: Tier | "cache" },
  about: RecallAbout,
  spent: Partial<TraceFields>,
  spentOnOthers: QueryVectors["spentOnOthers"] = [],
): Promise<Recalled> {
  const hidden = result.hits.length === 0 ? await hiddenByView(tx) : {};
  const trace = traceRecall(tx, query, result, about, spent);
  for (const other of spentOnOthers) recordSpent(tx, other, { parentId: trace.traceId });
  return {
    tier: result.tier,
    hits: result.hits,
    trace: { ...trace, ...hidden },
  };
}

import type { Demand } from "../db/enter.ts";
import type { ScopedTransaction } from "../db/scoped.ts";
import type { Moment } from "../memory/entities.ts";
import { settingsOf } from "../memory/settings.ts";
import { type Models, NO_VECTORS, type QueryVectors } from "../models/models.ts";
import type { Reranker } from "../models/reranker.ts";
import { recordTrace, spentOn, type TraceFields, type TraceSummary } from "../traces/record.ts";
import { answerFromCache, keepAnswer } from "./cache.ts";
import { answerDirectly, type TypedQuestion } from "./direct.ts";
import { fetchHits, type Hit } from "./passages.ts";
import { Leave, otherModels } from "./prepare.ts";
import { questionDigest } from "./question.ts";
import { rerankHits } from "./rerank.ts";
import { type SearchRequest, type SearchResult, search, type Tier } from "./search.ts";

export interface Recalled {
  readonly tier: Tier | "cache";
  readonly hits: readonly Hit[];
  readonly trace: TraceSummary & {
    readonly resolutionTier: string;
    readonly tierReason: string;
    readonly retrievedCount: number;
    readonly topScores: readonly number[];
    readonly scope: Record<string, string>;
    readonly plan: string;
    readonly savedTokens?: number;
    readonly hiddenByView?: true;
    readonly hintsIgnored?: readonly string[];
  };
}

export interface RecallAbout {
  readonly operation: "query" | "context" | "documents_query";
  readonly hintsIgnored?: readonly string[];
  readonly sessionId?: string | undefined;
}

type Request = Omit<SearchRequest, "prepared" | "fullContextTokens">;

/** Searches and records the trace of it, in the same transaction. */
export async function recall(
  tx: ScopedTransaction,
  models: Models,
  prepared: QueryVectors,
  request: Omit<SearchRequest, "prepared">,
  about: RecallAbout,
): Promise<Recalled> {
  return conclude(tx, request.query, await search(tx, { ...request, prepared }), about, spending(models, prepared));
}

/** What a recall needs of the service. */
export interface RecallDeps {
  readonly models: Models;
  readonly reranker: Reranker | undefined;
  /** Told of each question that the cache could have answered. */
  readonly onCache: (isHit: boolean) => void;
}

type Enter = <T>(demand: Pick<Demand, "question">, work: (tx: ScopedTransaction) => Promise<T>) => Promise<T>;

/** Passages that a reranker sees. */
const RERANKED = 50;

/**
 * Recall through the tiers below `direct`: the cache, then hybrid or full_context, then the reranker
 * where there is one. `enter` opens a transaction for the caller; with models over a network there
 * are several, and what was found is read anew in the last one.
 */
export async function recallThroughTiers<T>(
  enter: Enter,
  deps: RecallDeps,
  request: Request,
  about: RecallAbout,
  shape: (tx: ScopedTransaction, recalled: Recalled) => Promise<T> | T,
): Promise<T> {
  const { models } = deps;
  // An explicit mode is answered by that mode alone.
  const reranker = request.mode === "hybrid" ? deps.reranker : undefined;
  const question = questionDigest({ ...request, fullContextTokens: 0 }, [
    models.current.id,
    ...(reranker === undefined ? [] : ["reranked", reranker.settings.url, reranker.settings.model ?? ""]),
  ]);
  let prepared: QueryVectors | undefined;
  let version: string | null | undefined;
  /** Models besides the current one; undefined: the transaction that tells has not opened yet. */
  let others: ReadonlySet<number> | undefined = new Set();
  if (request.mode === "bm25") prepared = NO_VECTORS;
  else {
    if (await models.haveOthers()) others = undefined;
    if (!models.current.isRemote) prepared = await models.embedQuery(request.query);
  }

  const attempt = () =>
    enter({ question }, async (tx) => {
      const cached = await answerFromCache(tx);
      if (cached !== undefined) {
        deps.onCache(true);
        return shape(tx, await conclude(tx, request.query, cached, about, { savedTokens: cached.savedTokens }));
      }
      if (others === undefined) {
        others = await otherModels(tx, models);
        if (others.size > 0) prepared = undefined;
      }
      if (prepared === undefined) throw new Leave();
      const { fullContextTokens } = settingsOf(tx);
      version = tx.entry.recall?.version;
      const k = reranker === undefined ? request.k : Math.max(request.k, RERANKED);
      const found = await search(tx, { ...request, k, prepared, fullContextTokens });
      if (reranker !== undefined && found.tier === "hybrid" && found.hits.length > 1) throw new Leave(found);
      return shape(tx, await finish(tx, { ...found, hits: found.hits.slice(0, request.k) }, prepared));
    });
  const finish = (
    tx: ScopedTransaction,
    found: SearchResult,
    vectors: QueryVectors,
    isWhole = true,
    rankTokens = 0,
  ) => {
    if (question !== undefined && typeof version === "string") {
      deps.onCache(false);
      // What a model was missing for is not the answer that the next one should have.
      if (isWhole && vectors.unavailable === undefined) {
        keepAnswer(tx, question, version, found, vectors.tokens + rankTokens);
      }
    }
    return conclude(tx, request.query, found, about, spending(models, vectors));
  };

  let found: SearchResult;
  try {
    return await attempt();
  } catch (error) {
    if (!(error instanceof Leave)) throw error;
    if (error.found === undefined) {
      prepared = await models.embedQuery(request.query, others);
      try {
        return await attempt();
      } catch (second) {
        if (!(second instanceof Leave) || second.found === undefined) throw second;
        found = second.found;
      }
    } else found = error.found;
  }
  return rerankAndFinish(enter, { question, reranker, request, found }, async (tx, reranked, isWhole, spent) => {
    if (spent !== undefined) recordTrace(tx, spent);
    return shape(tx, await finish(tx, reranked, prepared ?? NO_VECTORS, isWhole, spent?.inputTokens));
  });
}

async function rerankAndFinish<T>(
  enter: Enter,
  about: {
    readonly question: Uint8Array | undefined;
    readonly reranker: Reranker | undefined;
    readonly request: Request;
    readonly found: SearchResult;
  },
  finish: (tx: ScopedTransaction, found: SearchResult, isWhole: boolean, spent: TraceFields | undefined) => Promise<T>,
): Promise<T> {
  const { question, reranker, request, found } = about;
  if (reranker === undefined) throw new Error("there is no reranker to leave the transaction for");
  const order = await rerankHits(reranker, request.query, found.hits);
  return enter({ question }, async (tx) => {
    // Forgotten meanwhile: not there any more.
    const hits = await fetchHits(tx, order.candidates.slice(0, request.k));
    const plan = `${found.plan}; ${order.note}`;
    return finish(tx, { ...found, plan, hits }, order.isRanked, order.spent);
  });
}

/** What an answer cost, or did not have to, for its trace. */
const spending = (models: Models, prepared: QueryVectors) =>
  prepared.tokens > 0 ? spentOn(models.current, prepared) : {};

async function conclude(
  tx: ScopedTransaction,
  query: string,
  result: Omit<SearchResult, "tier"> & { readonly tier: Tier | "cache" },
  about: RecallAbout,
  spent: Partial<TraceFields>,
): Promise<Recalled> {
  const hiddenByView = result.hits.length === 0 && (await tx.call<boolean>("hides_scopes"));
  const summary = recordTrace(tx, {
    kind: "retrieval",
    operation: about.operation,
    query,
    tier: result.tier,
    tierReason: result.tierReason,
    plan: result.plan,
    sources: result.hits.map((hit) => hit.id),
    candidates: result.candidates,
    returned: result.hits.length,
    sessionId: about.sessionId ?? null,
    ...spent,
  });
  return {
    tier: result.tier,
    hits: result.hits,
    trace: {
      ...summary,
      resolutionTier: result.tier,
      tierReason: result.tierReason,
      retrievedCount: result.hits.length,
      topScores: result.hits.slice(0, 5).map((hit) => hit.score),
      scope: tx.entry.trace.tags,
      plan: result.plan,
      ...(spent.savedTokens === undefined ? {} : { savedTokens: spent.savedTokens }),
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

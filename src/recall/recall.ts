import { settingsOf } from "../context/settings.ts";
import type { AccessRequest } from "../db/access/entry.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { RolledBack } from "../db/connect/lease.ts";
import type { Meter } from "../metering/model-call.ts";
import { NO_VECTORS, type QueryVectors } from "../models/metered.ts";
import type { Models } from "../models/models.ts";
import type { Reranker } from "../models/reranker.ts";
import { recordSpent, spending } from "../traces/record.ts";
import { fetchHits } from "./answer/hits.ts";
import { type RerankedHits, rerankHits } from "./answer/rerank.ts";
import { answerFromCache, storeAnswer } from "./cache.ts";
import { conclude, type RecallAbout, type Recalled } from "./conclude.ts";
import { canonicalQuestion, questionDigest } from "./question.ts";
import { type SearchRequest, type SearchResult, search } from "./ranking/search.ts";
import { type QueryModels, queryModels, withoutLooking } from "./vectors.ts";

/** What a recall needs of the service. */
export interface RecallDeps {
  readonly models: Models;
  readonly meter: Meter;
  readonly reranker: Reranker | undefined;
  /** Told of each question that the cache could have answered. */
  readonly onCache: (isHit: boolean) => void;
}

export type Enter = <T>(
  access: Pick<AccessRequest, "question">,
  work: (tx: ScopedTransaction) => Promise<T>,
) => Promise<T>;

type Request = Omit<SearchRequest, "prepared" | "fullContextTokens">;

/** Passages that a reranker sees. */
const RERANK_POOL = 50;

/** What models have supplied so far; a transaction that needs more of it is undone and begun anew. */
interface Supplies {
  readonly vectors?: QueryVectors;
  /** What they are made with; absent: nobody has looked yet. */
  readonly asked?: QueryModels;
  /** The search whose hits were reranked, with their new order. */
  readonly reranked?: { readonly found: SearchResult; readonly version: string | null; readonly order: RerankedHits };
}

type Need =
  | { readonly kind: "vectors"; readonly asked: QueryModels }
  | {
      readonly kind: "order";
      readonly reranker: Reranker;
      readonly found: SearchResult;
      readonly version: string | null;
    };

/**
 * Recall through the tiers below `direct`: the cache, then hybrid or full_context, then the reranker
 * where there is one. Models over a network are never awaited inside a transaction: its work returns
 * what it needs of them, and is done again with that.
 *
 * @param enter opens a transaction for the caller
 */
export async function recallThroughTiers<T>(
  enter: Enter,
  deps: RecallDeps,
  request: Request,
  about: RecallAbout,
  shape: (tx: ScopedTransaction, recalled: Recalled) => Promise<T> | T,
): Promise<T> {
  const recall = new Recall(deps, request, about);
  let have = await recall.firstSupplies();
  for (;;) {
    const step = await enter({ question: recall.question }, async (tx) => {
      const recalled = await recall.step(tx, have);
      return recalled instanceof RolledBack ? recalled : shape(tx, recalled);
    });
    if (!(step instanceof RolledBack)) return step;
    have = { ...have, ...(await recall.supply(step.value)) };
  }
}

/** What takes no models. */
const NO_MODELS: Supplies = { vectors: NO_VECTORS, asked: undefined };

class Recall {
  /** Under which the answer is cached. */
  readonly question: Uint8Array | undefined;
  readonly #deps: RecallDeps;
  /** With the question in its canonical form. */
  readonly #request: Request;
  /** The question as it was sent, for the trace. */
  readonly #asked: string;
  readonly #about: RecallAbout;
  readonly #reranker: Reranker | undefined;

  constructor(deps: RecallDeps, request: Request, about: RecallAbout) {
    this.#deps = deps;
    this.#request = { ...request, query: canonicalQuestion(request.query) };
    this.#asked = request.query;
    this.#about = about;
    // An explicit mode is answered by that mode alone.
    const reranker = request.mode === "hybrid" ? deps.reranker : undefined;
    this.#reranker = reranker;
    this.question = questionDigest({ ...this.#request, fullContextTokens: 0 }, [
      deps.models.standard.id,
      ...(reranker === undefined ? [] : ["reranked", reranker.settings.url, reranker.settings.model ?? ""]),
    ]);
  }

  /** Vectors that take no network are made at once. */
  async firstSupplies(): Promise<Supplies> {
    if (this.#request.mode === "bm25") return NO_MODELS;
    const { models } = this.#deps;
    const asked = await withoutLooking(models);
    if (asked !== undefined) return { vectors: await this.#embed(asked), asked };
    return models.standard.isRemote ? {} : { vectors: await this.#embed({ models: models.in(), others: new Set() }) };
  }

  async supply(need: Need): Promise<Supplies> {
    const { query } = this.#request;
    if (need.kind === "vectors") return { vectors: await this.#embed(need.asked), asked: need.asked };
    const { reranker, found, version } = need;
    return { reranked: { found, version, order: await rerankHits(reranker, this.#deps.meter, query, found.hits) } };
  }

  /** @throws AppError `budget-exceeded` where there is no answer without vectors */
  async #embed({ models, others }: QueryModels): Promise<QueryVectors> {
    const vectors = await models.embedQuery(this.#deps.meter, this.#request.query, others);
    if (this.#request.mode === "vector" && vectors.vectors.length === 0 && vectors.overBudget !== undefined)
      throw vectors.overBudget;
    return vectors;
  }

  /** One transaction's part: the answer, or what it still needs. */
  async step(tx: ScopedTransaction, have: Supplies): Promise<Recalled | RolledBack<Need>> {
    const { k } = this.#request;
    if (have.reranked !== undefined) return this.#inOrder(tx, have.vectors ?? NO_VECTORS, have.reranked);
    const cached = await answerFromCache(tx);
    if (cached !== undefined) {
      this.#deps.onCache(true);
      // Another may have stored the answer while a model worked for this one.
      const { vectors = NO_VECTORS } = have;
      const bought = vectors.spent?.isRemote ? spending(vectors) : {};
      const saved = { savedTokens: cached.savedTokens, ...bought };
      return conclude(tx, this.#asked, cached, this.#about, saved, vectors.spentOnOthers);
    }
    const asked = have.asked ?? (await queryModels(tx, this.#deps.models));
    const isOther =
      have.asked === undefined && (asked.others.size > 0 || asked.models.current !== this.#deps.models.standard);
    if (have.vectors === undefined || isOther) return new RolledBack({ kind: "vectors", asked });
    const { fullContextTokens, reranker: isWanted } = settingsOf(tx);
    const reranker = isWanted ? this.#reranker?.in(tx.entry.credentials) : undefined;
    const version = tx.entry.recall?.version ?? null;
    const found = await search(tx, {
      ...this.#request,
      k: reranker === undefined ? k : Math.max(k, RERANK_POOL),
      prepared: have.vectors,
      fullContextTokens,
    });
    if (reranker !== undefined && found.tier === "hybrid" && found.hits.length > 1) {
      return new RolledBack({ kind: "order", reranker, found, version });
    }
    return this.#finish(tx, { ...found, hits: found.hits.slice(0, k) }, have.vectors, version);
  }

  /** The reranked hits, read anew: what was forgotten meanwhile is not there any more. */
  async #inOrder(
    tx: ScopedTransaction,
    vectors: QueryVectors,
    { found, version, order }: NonNullable<Supplies["reranked"]>,
  ): Promise<Recalled> {
    const hits = await fetchHits(tx, order.candidates.slice(0, this.#request.k), this.#request.filter);
    if (order.spent !== undefined) recordSpent(tx, order.spent, { returned: found.hits.length });
    const result = { ...found, plan: `${found.plan}; ${order.note}`, hits };
    return this.#finish(tx, result, vectors, version, order.isRanked, order.isRanked ? order.spent?.inputTokens : 0);
  }

  /** @param isWhole false where a model was missing: that is not the answer that the next one should have */
  #finish(
    tx: ScopedTransaction,
    found: SearchResult,
    vectors: QueryVectors,
    version: string | null,
    isWhole = true,
    rankTokens = 0,
  ): Promise<Recalled> {
    if (this.question !== undefined && version !== null) {
      this.#deps.onCache(false);
      if (isWhole && vectors.unavailable === undefined) {
        const spent = [vectors.spent, ...vectors.spentOnOthers].reduce(
          (sum, one) => sum + (one?.embeddingTokens ?? 0),
          rankTokens,
        );
        storeAnswer(tx, this.question, version, found, spent);
      }
    }
    return conclude(tx, this.#asked, found, this.#about, spending(vectors), vectors.spentOnOthers);
  }
}

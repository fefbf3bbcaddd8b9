import type { ScopedTransaction } from "../db/scoped.ts";
import type { QueryVectors } from "../models/models.ts";
import type { Candidate } from "./candidate.ts";
import type { PassageFilter } from "./filter.ts";
import { foldDuplicates } from "./fold.ts";
import { fuseByRank, fuseByScore } from "./fuse.ts";
import { rankByBm25 } from "./lexical.ts";
import { fetchHits, type Hit, recentHits } from "./passages.ts";
import { type Nearest, rankByDistance } from "./vector.ts";
import { rankByWords } from "./words.ts";

export type Mode = "hybrid" | "vector" | "bm25";
export type Tier = "hybrid" | "full_context";

/** Candidates of each ranking that go into the fusion. */
const POOL = 256;
/** The built-in embedder's say beside the words'. */
const SPELLING_SHARE = 0.1;
/** Passages fetched at once while duplicates are folded away, in multiples of k. */
const SPARE = 2;

export interface SearchRequest {
  readonly query: string;
  readonly k: number;
  readonly mode: Mode;
  readonly filter: PassageFilter;
  readonly includeDuplicates: boolean;
  /** Token budget of the full_context tier. */
  readonly fullContextTokens: number;
  /** The query's vectors; none where the mode needs none, or a model finds nothing in it or does not answer. */
  readonly prepared: QueryVectors;
  readonly fusion?: Fusion;
  /** Only what the rankings find, and of that only what scores as much; absent: weak answers fall back to recency. */
  readonly leastScore?: number | undefined;
}

/** How rankings are put together; absent: as suits the models, with k = 60. */
export interface Fusion {
  readonly rrfK?: number | undefined;
  /** 0 to 1: the vectors' share; the words have the rest. */
  readonly vectorWeight?: number | undefined;
  /** A further ranking made of what the others found, such as along links. */
  readonly expand?: (ranked: readonly Candidate[]) => Promise<readonly Candidate[]>;
}

export interface SearchResult {
  readonly tier: Tier;
  readonly tierReason: string;
  readonly plan: string;
  readonly hits: readonly Hit[];
  /** Distinct passages that the rankings brought. */
  readonly candidates: number;
}

/** Resolves a query through the tiers, inside one entered transaction. */
export async function search(tx: ScopedTransaction, request: SearchRequest): Promise<SearchResult> {
  const { query, filter, mode, prepared, k } = request;
  // All are on their way before any answers: one round trip on a server.
  const [lexical, ...nearest] = await Promise.all([
    mode === "vector" ? [] : (mode === "bm25" ? rankByBm25 : rankByWords)(tx, query, filter, POOL),
    ...(mode === "bm25" ? [] : prepared.vectors).map(({ embedder, vector }) =>
      rankByDistance(tx, embedder, vector, filter, POOL),
    ),
  ]);
  const { leastScore } = request;
  const fused = await fuse(
    mode,
    lexical,
    nearest.map(({ ranking }) => ranking),
    prepared,
    request.fusion ?? {},
  );
  const ranked = leastScore === undefined ? fused : fused.filter(({ score }) => score >= leastScore);
  const plan = planText(tx, mode, prepared, nearest);

  // An explicit mode is answered by that mode alone.
  const isNear = nearest.some(
    ({ ranking: [best] }, i) =>
      best !== undefined && 1 - best.score < (prepared.vectors[i]?.embedder.nearDistance ?? 0),
  );
  const credible = lexical.length > 0 || isNear;
  if (mode === "hybrid" && !credible && leastScore !== undefined) {
    return {
      tier: "hybrid",
      tierReason: "no shared word and no vector near enough",
      plan,
      hits: [],
      candidates: ranked.length,
    };
  }
  if (mode === "hybrid" && !credible) {
    const hits = await recentHits(tx, filter, request.fullContextTokens, request.includeDuplicates ? k : POOL);
    return {
      tier: "full_context",
      tierReason:
        ranked.length === 0
          ? "hybrid found nothing; the visible scope by recency"
          : "hybrid is weak: no shared word and no vector near enough; the visible scope by recency",
      plan: `${plan}; then by recency within ${request.fullContextTokens} tokens`,
      hits: request.includeDuplicates ? hits.slice(0, k) : foldDuplicates(hits, k),
      candidates: ranked.length,
    };
  }
  const hits = request.includeDuplicates ? await fetchHits(tx, ranked.slice(0, k)) : await fetchFolded(tx, ranked, k);
  return {
    tier: "hybrid",
    tierReason:
      mode !== "hybrid"
        ? `mode ${mode} was asked for`
        : prepared.unavailable === undefined
          ? "words or vectors of the visible scopes match"
          : `words of the visible scopes match; lexical for now: ${prepared.unavailable}`,
    plan,
    hits,
    candidates: ranked.length,
  };
}

/**
 * The built-in embedder knows spelling, which the words' own ranking knows better: it has a small say
 * (docs/retrieval.md). What a model knows is another thing than words, and ranks alike.
 */
async function fuse(
  mode: Mode,
  lexical: readonly Candidate[],
  nearest: readonly (readonly Candidate[])[],
  { vectors }: QueryVectors,
  { rrfK, vectorWeight, expand }: Fusion,
): Promise<readonly Candidate[]> {
  if (mode === "bm25") return lexical;
  if (mode === "vector" && nearest.length === 1) return nearest[0] ?? [];
  const rankings = [lexical, ...nearest];
  const byScore =
    rrfK === undefined && vectorWeight === undefined && vectors.every(({ embedder }) => !embedder.isRemote);
  const share = vectorWeight ?? 0.5;
  const ranked = byScore
    ? fuseByScore(rankings, [1, ...nearest.map(() => SPELLING_SHARE)])
    : fuseByRank(rankings, { k: rrfK, weights: [2 * (1 - share), ...nearest.map(() => 2 * share)] });
  return expand === undefined ? ranked : fuseByRank([ranked, await expand(ranked)], { k: rrfK, weights: [2, 1] });
}

/** The best k without near-duplicates: as much of the ranking as it takes. */
async function fetchFolded(tx: ScopedTransaction, ranked: readonly Candidate[], k: number): Promise<Hit[]> {
  let hits: Hit[] = [];
  for (let at = 0; at < ranked.length && hits.length < k; at += k * SPARE) {
    hits = foldDuplicates([...hits, ...(await fetchHits(tx, ranked.slice(at, at + k * SPARE)))], k);
  }
  return hits;
}

function planText(
  tx: ScopedTransaction,
  mode: Mode,
  { vectors, unavailable }: QueryVectors,
  nearest: readonly Nearest[],
): string {
  const { scopes, trees } = tx.entry.read;
  const own = trees.length > 0 ? "large subtrees" : `${scopes.size} scope${scopes.size === 1 ? "" : "s"}`;
  const where = tx.entry.general && !scopes.has(0) ? `${own} and general knowledge` : own;
  const nothing = unavailable === undefined ? "the model finds nothing in the query" : unavailable;
  const ways = [
    ...(mode === "vector"
      ? []
      : [mode === "bm25" ? "bm25 on the scopes' own statistics" : "bm25 on the scopes' own statistics, in context"]),
    ...(mode === "bm25" ? [] : vectors.length > 0 ? nearest.map(({ plan }) => plan) : [`no vector (${nothing})`]),
    ...(mode !== "bm25" && vectors.length > 0 && unavailable !== undefined
      ? [`one model left out (${unavailable})`]
      : []),
  ];
  return `${ways.join(" + ")} over ${where}`;
}

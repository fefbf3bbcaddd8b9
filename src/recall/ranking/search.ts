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
/** Turns that only their neighbours brought in are looked up so far down at least. */
const LOOKED_UP = 20;
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
  const findWords = () =>
    mode === "bm25"
      ? rankByBm25(tx, query, filter, POOL)
      : rankByWords(tx, query, filter, Math.max(LOOKED_UP, k * SPARE));
  const findVectors = () =>
    Promise.all(prepared.vectors.map(({ embedder, vector }) => rankByDistance(tx, embedder, vector, filter, POOL)));
  const isSpelling = prepared.vectors.length > 0 && prepared.vectors.every(({ embedder }) => !embedder.isRemote);
  const { leastScore, fusion } = request;
  let lexical: readonly Candidate[];
  let nearest: readonly Nearest[];
  let isEnough = false;
  if (mode === "hybrid" && isSpelling && fusion?.vectorWeight === undefined && fusion?.rrfK === undefined) {
    // What the built-in embedder knows is the words' spelling: it helps where words find too little,
    // and is not worth the time where they do not (docs/retrieval.md).
    lexical = await findWords();
    isEnough = lexical.length >= k;
    nearest = isEnough ? [] : await findVectors();
  } else {
    // Both are on their way before either answers: one round trip on a server.
    [lexical, nearest] = await Promise.all([
      mode === "vector" ? [] : findWords(),
      mode === "bm25" ? [] : findVectors(),
    ]);
  }
  const fused = await fuse(mode, lexical, nearest, isSpelling, fusion ?? {});
  const ranked = leastScore === undefined ? fused : fused.filter(({ score }) => score >= leastScore);
  const plan = planText(tx, mode, prepared, nearest, isEnough);

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
 * The built-in embedder knows spelling, which the words' own ranking knows better: it has a small say.
 * What a model knows is another thing than words, and ranks alike.
 */
async function fuse(
  mode: Mode,
  lexical: readonly Candidate[],
  nearest: readonly Nearest[],
  isSpelling: boolean,
  { rrfK, vectorWeight, expand }: Fusion,
): Promise<readonly Candidate[]> {
  const byDistance = nearest.map(({ ranking }) => ranking);
  if (mode === "bm25") return lexical;
  if (mode === "vector" && byDistance.length === 1) return byDistance[0] ?? [];
  const rankings = [lexical, ...byDistance];
  const share = vectorWeight ?? 0.5;
  const ranked =
    isSpelling && rrfK === undefined && vectorWeight === undefined
      ? fuseByScore(rankings, [1, ...byDistance.map(() => SPELLING_SHARE)])
      : fuseByRank(rankings, { k: rrfK, weights: [2 * (1 - share), ...byDistance.map(() => 2 * share)] });
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
  isEnough: boolean,
): string {
  const { scopes, trees } = tx.entry.read;
  const own = trees.length > 0 ? "large subtrees" : `${scopes.size} scope${scopes.size === 1 ? "" : "s"}`;
  const where = tx.entry.general && !scopes.has(0) ? `${own} and general knowledge` : own;
  const nothing = unavailable === undefined ? "the model finds nothing in the query" : unavailable;
  const ways = [
    ...(mode === "vector"
      ? []
      : [mode === "bm25" ? "bm25 on the scopes' own statistics" : "bm25 on the scopes' own statistics, in context"]),
    ...(mode === "bm25" || isEnough
      ? []
      : vectors.length > 0
        ? nearest.map(({ plan }) => plan)
        : [`no vector (${nothing})`]),
    ...(mode !== "bm25" && vectors.length > 0 && unavailable !== undefined
      ? [`one model left out (${unavailable})`]
      : []),
  ];
  return `${ways.join(" + ")}${isEnough ? " (enough without the built-in embedder)" : ""} over ${where}`;
}

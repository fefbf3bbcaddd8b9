import type { ScopedTransaction } from "../../db/access/scoped.ts";
import type { QueryVectors } from "../../models/metered.ts";
import { sameTextDigest } from "../../text/same-text.ts";
import { foldDuplicates } from "../answer/fold.ts";
import { fetchHits, type Hit, recentHits } from "../answer/hits.ts";
import { rankByBm25 } from "./bm25.ts";
import { rankByWords } from "./by-words.ts";
import type { Candidate } from "./candidate.ts";
import type { PassageFilter } from "./filter.ts";
import { fuseByRank, fuseByScore } from "./fuse.ts";
import { withPastFacts } from "./past-facts.ts";
import { type Nearest, rankByDistance } from "./vector.ts";

export type Mode = "hybrid" | "vector" | "bm25";
export type Tier = "hybrid" | "full_context";

/** Candidates of each ranking that go into the fusion. */
const FUSION_POOL = 256;
/** The built-in embedder's weight beside the words'. */
const SPELLING_WEIGHT = 0.1;
/** Texts that share no word with a question may be spelled like it: least likeness of the best, and what of that others have to have. */
const SPELLED_ALIKE = { least: 0.22, share: 0.6 };

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

/** What the rankings brought, before anything is fetched. */
interface Rankings {
  readonly lexical: readonly Candidate[];
  readonly nearest: readonly Nearest[];
  /** Words found so much that the built-in embedder was not asked. */
  readonly isEnough: boolean;
}

/** Resolves a query through the tiers, inside one entered transaction. */
export async function search(tx: ScopedTransaction, request: SearchRequest): Promise<SearchResult> {
  const { mode, prepared, k, leastScore, filter, fullContextTokens, includeDuplicates } = request;
  const rankings = await rank(tx, request);
  const fused = await fuse(mode, rankings, isSpelling(prepared), request.fusion ?? {});
  const ranked = leastScore === undefined ? fused : fused.filter(({ score }) => score >= leastScore);
  const plan = planText(tx, mode, prepared, rankings);
  const candidates = ranked.length;
  const alike =
    mode === "hybrid" && leastScore === undefined && !isCredible(rankings, prepared)
      ? spelledAlike(rankings, prepared)
      : [];
  if (alike.length > 0) {
    const best = includeDuplicates ? alike.slice(0, k) : foldDuplicates(alike, k);
    const hits = await fetchHits(tx, best, filter);
    return { tier: "hybrid", tierReason: "no shared word; texts that are spelled alike", plan, hits, candidates };
  }
  // An explicit mode is answered by that mode alone.
  if (mode === "hybrid" && !isCredible(rankings, prepared)) {
    if (leastScore !== undefined) {
      return { tier: "hybrid", tierReason: "no shared word and no vector near enough", plan, hits: [], candidates };
    }
    const hits = await recentHits(tx, filter, fullContextTokens, includeDuplicates ? k : FUSION_POOL);
    const said = hits.map((hit) => ({
      ...hit,
      digest: sameTextDigest(hit.text, hit.role),
      observedAt: hit.occurredAt,
    }));
    return {
      tier: "full_context",
      tierReason:
        candidates === 0
          ? "hybrid found nothing; the visible scope by recency"
          : "hybrid is weak: no shared word and no vector near enough; the visible scope by recency",
      plan: `${plan}; then by recency within ${fullContextTokens} tokens`,
      hits: includeDuplicates ? hits.slice(0, k) : foldDuplicates(said, k),
      candidates,
    };
  }
  const best = includeDuplicates ? ranked.slice(0, k) : foldDuplicates(ranked, k);
  const hits = await fetchHits(tx, best, filter);
  return { tier: "hybrid", tierReason: reasonOf(mode, prepared), plan, hits, candidates };
}

const reasonOf = (mode: Mode, { unavailable }: QueryVectors) => {
  if (mode !== "hybrid") return `mode ${mode} was asked for`;
  return unavailable === undefined
    ? "words or vectors of the visible scopes match"
    : `words of the visible scopes match; lexical for now: ${unavailable}`;
};

/** Whether the vectors are the built-in embedder's alone, which knows the words' spelling and nothing else. */
const isSpelling = ({ vectors }: QueryVectors) =>
  vectors.length > 0 && vectors.every(({ embedder }) => !embedder.isRemote);

async function rank(tx: ScopedTransaction, request: SearchRequest): Promise<Rankings> {
  const { query, filter, mode, prepared, k, fusion } = request;
  const findWords = () =>
    mode === "bm25"
      ? rankByBm25(tx, query, filter, FUSION_POOL).then((found) => withPastFacts(tx, found, query, filter, FUSION_POOL))
      : rankByWords(tx, query, filter, k);
  const findVectors = () =>
    Promise.all(
      prepared.vectors.map(({ embedder, vector }) => rankByDistance(tx, embedder, vector, filter, FUSION_POOL)),
    );
  const isPlain = fusion?.vectorWeight === undefined && fusion?.rrfK === undefined;
  if (mode === "hybrid" && isPlain && isSpelling(prepared)) {
    // It helps where words find too little, and is not worth the time where they do not (docs/retrieval.md).
    const lexical = await findWords();
    const isEnough = foldDuplicates(lexical, k).length >= k;
    return { lexical, nearest: isEnough ? [] : await findVectors(), isEnough };
  }
  // Both are on their way before either answers: one round trip on a server.
  const [lexical, nearest] = await Promise.all([
    mode === "vector" ? [] : findWords(),
    mode === "bm25" ? [] : findVectors(),
  ]);
  return { lexical, nearest, isEnough: false };
}

/** Whether what was found is about the query at all: a shared word, or a vector within the model's calibrated distance. */
const isCredible = ({ lexical, nearest }: Rankings, { vectors }: QueryVectors) =>
  lexical.length > 0 ||
  nearest.some(
    ({ ranking: [best] }, i) => best !== undefined && 1 - best.score < (vectors[i]?.embedder.nearDistance ?? 0),
  );

/** What the built-in embedder finds where words find nothing: a misspelt name, a language whose words it takes to pieces. */
function spelledAlike({ nearest }: Rankings, prepared: QueryVectors): readonly Candidate[] {
  if (!isSpelling(prepared)) return [];
  const ranking = fuseByScore(
    nearest.map((one) => one.ranking),
    nearest.map(() => 1),
  );
  const best = Math.max(0, ...nearest.map((one) => one.ranking[0]?.score ?? 0));
  if (best < SPELLED_ALIKE.least) return [];
  return ranking.filter(({ score }) => score >= SPELLED_ALIKE.share);
}

/**
 * The built-in embedder knows spelling, which the words' own ranking knows better: it has a small say.
 * What a model knows is another thing than words, and ranks alike.
 */
async function fuse(
  mode: Mode,
  { lexical, nearest }: Rankings,
  isOfSpelling: boolean,
  { rrfK, vectorWeight, expand }: Fusion,
): Promise<readonly Candidate[]> {
  const byDistance = nearest.map(({ ranking }) => ranking);
  if (mode === "bm25") return lexical;
  if (mode === "vector" && byDistance.length === 1) return byDistance[0] ?? [];
  const rankings = [lexical, ...byDistance];
  const share = vectorWeight ?? 0.5;
  const ranked =
    isOfSpelling && rrfK === undefined && vectorWeight === undefined
      ? fuseByScore(rankings, [1, ...byDistance.map(() => SPELLING_WEIGHT)])
      : fuseByRank(rankings, { k: rrfK, weights: [2 * (1 - share), ...byDistance.map(() => 2 * share)] });
  return expand === undefined ? ranked : fuseByRank([ranked, await expand(ranked)], { k: rrfK, weights: [2, 1] });
}

function planText(
  tx: ScopedTransaction,
  mode: Mode,
  { vectors, unavailable }: QueryVectors,
  { nearest, isEnough }: Rankings,
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

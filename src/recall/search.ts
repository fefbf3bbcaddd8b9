import type { ScopedTransaction } from "../db/scoped.ts";
import type { Embedder, VectorText } from "../models/embedder.ts";
import type { Candidate } from "./candidate.ts";
import type { PassageFilter } from "./filter.ts";
import { foldDuplicates } from "./fold.ts";
import { fuseByRank } from "./fuse.ts";
import { rankByBm25 } from "./lexical.ts";
import { fetchHits, type Hit, recentHits } from "./passages.ts";
import { rankByDistance } from "./vector.ts";

export type Mode = "hybrid" | "vector" | "bm25";
export type Tier = "hybrid" | "full_context";

/** Candidates of each ranking that go into the fusion. */
const POOL = 256;
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
  /** The query's vector; null where the mode needs none, or the model finds nothing in it. */
  readonly vector: VectorText | null;
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
export async function search(tx: ScopedTransaction, embedder: Embedder, request: SearchRequest): Promise<SearchResult> {
  const { query, filter, mode, vector, k } = request;
  // Both are on their way before either answers: one round trip on a server.
  const [lexical, nearest] = await Promise.all([
    mode === "vector" ? [] : rankByBm25(tx, query, filter, POOL),
    mode === "bm25" || vector === null ? [] : rankByDistance(tx, embedder.id, vector, filter, POOL),
  ]);
  const ranked: Candidate[] = mode === "hybrid" ? fuseByRank([lexical, nearest]) : mode === "bm25" ? lexical : nearest;
  const plan = planText(tx, mode, vector !== null);

  // An explicit mode is answered by that mode alone.
  const credible = lexical.length > 0 || (nearest[0] !== undefined && 1 - nearest[0].score < embedder.nearDistance);
  if (mode === "hybrid" && !credible) {
    const hits = await recentHits(tx, filter, request.fullContextTokens, request.includeDuplicates ? k : POOL);
    return {
      tier: "full_context",
      tierReason:
        ranked.length === 0
          ? "hybrid found nothing; the visible scope by recency"
          : `hybrid is weak: no shared word and no vector nearer than ${embedder.nearDistance}; the visible scope by recency`,
      plan: `${plan}; then by recency within ${request.fullContextTokens} tokens`,
      hits: request.includeDuplicates ? hits.slice(0, k) : foldDuplicates(hits, k),
      candidates: ranked.length,
    };
  }
  const hits = request.includeDuplicates ? await fetchHits(tx, ranked.slice(0, k)) : await fetchFolded(tx, ranked, k);
  return {
    tier: "hybrid",
    tierReason: mode === "hybrid" ? "words or vectors of the visible scopes match" : `mode ${mode} was asked for`,
    plan,
    hits,
    candidates: ranked.length,
  };
}

/** The best k without near-duplicates: as much of the ranking as it takes. */
async function fetchFolded(tx: ScopedTransaction, ranked: readonly Candidate[], k: number): Promise<Hit[]> {
  let hits: Hit[] = [];
  for (let at = 0; at < ranked.length && hits.length < k; at += k * SPARE) {
    hits = foldDuplicates([...hits, ...(await fetchHits(tx, ranked.slice(at, at + k * SPARE)))], k);
  }
  return hits;
}

function planText(tx: ScopedTransaction, mode: Mode, hasVector: boolean): string {
  const { scopes, trees } = tx.entry.read;
  const own = trees.length > 0 ? "large subtrees" : `${scopes.size} scope${scopes.size === 1 ? "" : "s"}`;
  const where = tx.entry.general && !scopes.has(0) ? `${own} and general knowledge` : own;
  const ways = [
    ...(mode === "vector" ? [] : ["bm25 on the scopes' own statistics"]),
    ...(mode === "bm25" ? [] : [hasVector ? "exact vectors" : "no vector (the query has no content word)"]),
  ];
  return `${ways.join(" + ")} over ${where}`;
}

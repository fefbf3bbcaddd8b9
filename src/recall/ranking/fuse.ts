import type { Candidate } from "./candidate.ts";

const RRF_K = 60;

/**
 * Reciprocal rank fusion (Cormack et al. 2009): Σ weight / (k + rank) over the rankings. Ties go by id,
 * so that the same rows always give the same order.
 */
export function fuseByRank(
  rankings: readonly (readonly Candidate[])[],
  { k = RRF_K, weights = [] }: { readonly k?: number | undefined; readonly weights?: readonly number[] } = {},
): Candidate[] {
  return sumUp(rankings, (_, r, i) => (weights[r] ?? 1) / (k + i + 1));
}

/**
 * Convex combination of scores, each as a share of its ranking's best (Bruch et al. 2023): for
 * rankings of which one is known to be much better than the other, which ranks alone do not show.
 * Scores are from 0 to 1.
 */
export function fuseByScore(rankings: readonly (readonly Candidate[])[], weights: readonly number[]): Candidate[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return sumUp(rankings, (candidate, r) => {
    const best = rankings[r]?.[0]?.score ?? 0;
    return best <= 0 ? 0 : (((weights[r] ?? 0) / total) * Math.max(0, candidate.score)) / best;
  });
}

function sumUp(
  rankings: readonly (readonly Candidate[])[],
  shareOf: (candidate: Candidate, ranking: number, place: number) => number,
): Candidate[] {
  const fused = new Map<string, { candidate: Candidate; score: number }>();
  for (const [r, ranking] of rankings.entries()) {
    for (const [i, candidate] of ranking.entries()) {
      const share = shareOf(candidate, r, i);
      const known = fused.get(candidate.id);
      if (known) known.score += share;
      else fused.set(candidate.id, { candidate, score: share });
    }
  }
  return [...fused.values()]
    .map(({ candidate, score }) => ({ ...candidate, score }))
    .sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1));
}

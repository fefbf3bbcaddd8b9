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
  const fused = new Map<string, { candidate: Candidate; score: number }>();
  for (const [r, ranking] of rankings.entries()) {
    const weight = weights[r] ?? 1;
    for (const [i, candidate] of ranking.entries()) {
      const share = weight / (k + i + 1);
      const known = fused.get(candidate.id);
      if (known) known.score += share;
      else fused.set(candidate.id, { candidate, score: share });
    }
  }
  return [...fused.values()]
    .map(({ candidate, score }) => ({ ...candidate, score }))
    .sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1));
}

import type { Candidate } from "../ranking/candidate.ts";

/**
 * Of candidates that say the same one stands for all, at the place of the best of them: the newest, by when
 * it was observed, then by its id. Keeps the best `k`.
 */
export function foldDuplicates<C extends Candidate>(ranked: readonly C[], k: number): C[] {
  const groups = new Map<string, C[]>();
  for (const candidate of ranked) {
    const key = candidate.digest ?? candidate.id;
    const group = groups.get(key);
    if (group !== undefined) group.push(candidate);
    else groups.set(key, [candidate]);
  }
  return [...groups.values()].slice(0, k).map(standingForAll);
}

function standingForAll<C extends Candidate>(group: readonly C[]): C {
  const [best, ...others] = group as readonly [C, ...C[]];
  if (others.length === 0) return best;
  const newest = others.reduce((newer, other) => (isNewer(other, newer) ? other : newer), best);
  return { ...newest, score: best.score, duplicates: others.length };
}

function isNewer(a: Candidate, b: Candidate): boolean {
  const [one, other] = [Date.parse(a.observedAt ?? ""), Date.parse(b.observedAt ?? "")];
  return one === other ? a.id > b.id : one > other;
}

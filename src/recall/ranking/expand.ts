import { list, type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { bm25 } from "../../lexical/bm25-score.ts";
import { eachTerm } from "../../lexical/packed-terms.ts";
import type { FoundPassage } from "./bm25.ts";
import { isOfConversation } from "./in-context.ts";

/** Passages that are taken to be about the query, and how many of their words are added to it. */
const FEEDBACK_PASSAGES = 5;
const EXPANSION_WORDS = 20;
/** Share of the expansion in the score, at most. */
const EXPANSION_WEIGHT = 0.5;
/** Where the best is ahead of the second by so much of its score, it is what was asked for: nothing is expanded. */
const CLEAR_LEAD = 0.5;
/** Passages that are ranked anew. */
const MAX_CANDIDATES = 100;
/** Shorter texts have no vocabulary to offer: mean length of the feedback passages, in words. */
const MIN_MEAN_WORDS = 30;

/**
 * Query expansion from the scope's own vocabulary: the relevance model RM3 (Abdul-Jaleel et al.
 * 2004) over the best passages that stand by themselves, which are then ranked anew by what the
 * query and its expansion find in them. Only passages that the query found are looked at, so it costs
 * one short statement; for the first ten, ranking the whole scope anew gives the same.
 *
 * @param units the sum of the idf of the query's words, and their number
 */
export async function expandFromBest(
  tx: ScopedTransaction,
  found: readonly FoundPassage[],
  units: { readonly idf: number; readonly words: number },
): Promise<readonly FoundPassage[]> {
  const alone = found.filter((hit) => !isOfConversation(hit)).slice(0, MAX_CANDIDATES);
  const feedback = alone.slice(0, FEEDBACK_PASSAGES);
  const words = feedback.reduce((sum, hit) => sum + hit.words, 0) / Math.max(feedback.length, 1);
  if (feedback.length < FEEDBACK_PASSAGES || words < MIN_MEAN_WORDS) return found;
  const [first = 0, second = 0] = alone.map(({ score }) => score);
  const share = EXPANSION_WEIGHT * Math.max(0, 1 - (first - second) / first / CLEAR_LEAD);
  if (share === 0) return found;
  const termsOf = await fetchTerms(tx, alone);
  const expansion = expansionOf(feedback, termsOf);
  const rescored = new Map(scoreAll(alone, termsOf, expansion));
  return found.map((hit) => {
    const score = rescored.get(hit.id);
    // Both parts in the size of one word of the query, so that the share is one.
    return score === undefined ? hit : { ...hit, score: (1 - share) * hit.score + share * units.idf * score };
  });
}

type Terms = ReadonlyMap<number, number>;

/** The main terms of passages by the hashes of their scope, with their frequencies. */
async function fetchTerms(tx: ScopedTransaction, passages: readonly FoundPassage[]): Promise<Map<string, Terms>> {
  const rows = await tx.rows<{ id: string; terms: Uint8Array | null }>(sql`
    SELECT p.id, p.terms FROM ${tx.read("passage", "p")}
    WHERE p.scope_id = ANY (${list([...new Set(passages.map(({ scopeId }) => scopeId))])}::int[]) AND p.id = ANY (${list(passages.map(({ id }) => id))}::uuid[])`);
  return new Map(
    rows.map(({ id, terms }) => {
      const main = new Map<number, number>();
      if (terms !== null) {
        eachTerm(terms, 0, terms.length, (hash, frequency, isMain) => {
          if (isMain) main.set(hash, frequency);
        });
      }
      return [id, main];
    }),
  );
}

/** The words of the feedback by their share, Σ score · tf / length. (Hashes are a scope's own: of several scopes each has its own words.) */
function expansionOf(feedback: readonly FoundPassage[], termsOf: ReadonlyMap<string, Terms>): Map<number, number> {
  const weights = new Map<number, number>();
  for (const { id, score, words } of feedback) {
    for (const [hash, tf] of termsOf.get(id) ?? []) {
      weights.set(hash, (weights.get(hash) ?? 0) + (score * tf) / Math.max(words, 1));
    }
  }
  const best = [...weights].sort(([a, m], [b, n]) => n - m || a - b).slice(0, EXPANSION_WORDS);
  const total = best.reduce((sum, [, weight]) => sum + weight, 0);
  return new Map(best.map(([hash, weight]) => [hash, weight / total]));
}

function scoreAll(
  passages: readonly FoundPassage[],
  termsOf: ReadonlyMap<string, Terms>,
  expansion: ReadonlyMap<number, number>,
): [string, number][] {
  const mean = passages.reduce((sum, { words }) => sum + words, 0) / passages.length;
  const hashes = [...expansion.keys()];
  const words = [...expansion.values()].map((weight) => ({ weight, idf: 1 }));
  return passages.map(({ id, words: length }) => {
    const terms = termsOf.get(id);
    const frequencies = hashes.map((hash) => terms?.get(hash) ?? 0);
    return [id, bm25(words, frequencies, length / mean)];
  });
}

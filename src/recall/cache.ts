import { z } from "zod";
import { settingsOf } from "../context/settings.ts";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { fetchHits } from "./answer/hits.ts";
import type { SearchResult, Tier } from "./ranking/search.ts";

/** What is kept of an answer: which passages, in which order, and how they were found. No text. */
const kept = z.object({
  tier: z.string().transform((tier) => tier as Tier),
  plan: z.string(),
  candidates: z.number(),
  /** Id, scope, score, and how many others that say the same each stands for. */
  hits: z.array(z.tuple([z.uuid(), z.int(), z.number(), z.int()])),
  /** Model tokens that finding it took. */
  tokens: z.number(),
  /** The settings at the time. */
  fullContextTokens: z.number(),
  reranker: z.boolean(),
});
type Kept = z.output<typeof kept>;

export interface Cached extends Omit<SearchResult, "tier"> {
  readonly tier: "cache";
  readonly savedTokens: number;
}

/**
 * The cache tier: the answer that the same question had, while nothing in the visible scopes has
 * changed. Its passages are read anew under both locks; should one be missing, there is no answer.
 */
export async function answerFromCache(tx: ScopedTransaction): Promise<Cached | undefined> {
  const cached = tx.entry.recall?.cached;
  const { cacheSeconds, fullContextTokens, reranker } = settingsOf(tx);
  if (!cached || cached.ageSeconds > cacheSeconds) return undefined;
  // What another version has kept, or something else, is no answer.
  const { data: answer } = kept.safeParse(cached.given);
  if (answer?.fullContextTokens !== fullContextTokens || answer.reranker !== reranker) return undefined;
  const hits = await fetchHits(
    tx,
    answer.hits.map(([id, scopeId, score, duplicates]) => ({
      id,
      scopeId,
      score,
      ...(duplicates === 0 ? {} : { duplicates }),
    })),
  );
  if (hits.length !== answer.hits.length) return undefined;
  return {
    tier: "cache",
    tierReason: `the same question was answered ${Math.round(cached.ageSeconds)} s ago by ${answer.tier}, and nothing visible has changed since`,
    plan: `cached; then: ${answer.plan}`,
    hits,
    candidates: answer.candidates,
    savedTokens: answer.tokens,
  };
}

/**
 * Keeps an answer for the next one who asks the same, in one go with the commit.
 *
 * @param version of the visible scopes, from before the search began
 */
export function storeAnswer(
  tx: ScopedTransaction,
  question: Uint8Array,
  version: string,
  found: SearchResult,
  tokens: number,
): void {
  const { cacheSeconds, fullContextTokens, reranker } = settingsOf(tx);
  if (cacheSeconds === 0) return;
  const answer: Kept = {
    tier: found.tier,
    plan: found.plan,
    candidates: found.candidates,
    hits: found.hits.map(({ id, scopeId, score, duplicates }) => [id, scopeId, score, duplicates ?? 0]),
    tokens,
    fullContextTokens,
    reranker,
  };
  tx.sendCall("cache_answer", question, version, json(answer));
}

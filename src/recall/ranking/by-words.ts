import type { ScopedTransaction } from "../../db/access/scoped.ts";
import { WordSearch } from "../../lexical/word-search.ts";
import { timesNamed } from "../../text/named-time.ts";
import { findPassages } from "./bm25.ts";
import type { Candidate } from "./candidate.ts";
import { expandFromBest } from "./expand.ts";
import type { PassageFilter } from "./filter.ts";
import { chooseSessions, rankInContext, weighWords } from "./in-context.ts";
import { withPastFacts } from "./past-facts.ts";
import { readSessions } from "./whole-sessions.ts";

/**
 * Passages that BM25 finds for the ranking in context: more of them change nothing that is seen (docs/retrieval.md).
 * Texts that stand alone are all ranked among these.
 */
const RANKED = { least: 64, most: 128, timesAsked: 3 };

/**
 * The lexical ranking of hybrid recall: BM25 finds, query expansion and the conversation around each
 * turn rank. (Mode bm25 is BM25 alone.)
 */
export async function rankByWords(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  k: number,
): Promise<readonly Candidate[]> {
  const search = await WordSearch.of(tx, query);
  const isOfDocuments = filter.kinds?.every((kind) => kind === "chunk") === true;
  const ranked = isOfDocuments ? RANKED.most : Math.max(RANKED.least, Math.min(RANKED.most, RANKED.timesAsked * k));
  const found = await findPassages(tx, search, filter, Math.max(ranked, k));
  const asked = search.words.filter(({ df }) => df > 0);
  const expanded = await expandFromBest(tx, found, {
    idf: asked.reduce((sum, { idf, weight }) => sum + weight * idf, 0),
    words: asked.length,
  });
  const words = weighWords(search, query);
  const named = timesNamed(query);
  const sessions = chooseSessions(words, expanded, named);
  const turns = await readSessions(tx, search, sessions, filter);
  const inContext = rankInContext({ words, hits: expanded, turns, query, named });
  return withPastFacts(tx, inContext, query, filter, RANKED.most);
}

import { list, type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { findByWords } from "./bm25.ts";
import type { Candidate } from "./candidate.ts";
import { expandFromBest } from "./expand.ts";
import { andFilterSql, type PassageFilter } from "./filter.ts";
import { type Placed, rankInContext, type WordHits } from "./in-context.ts";
import { asksForPastFacts, rankPastFacts } from "./past-facts.ts";

/** Passages that BM25 finds for the ranking in context; more of them change nothing that is seen (docs/retrieval.md). */
const RANKED_PASSAGES = 128;

/**
 * The lexical ranking of hybrid recall: BM25 finds, query expansion and the conversation around each
 * turn rank. (Mode bm25 is BM25 alone.)
 *
 * @param depth how far down turns are looked up that only their neighbours brought in
 */
export async function rankByWords(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  depth: number,
): Promise<Candidate[]> {
  const found = await findByWords(tx, query, filter, RANKED_PASSAGES);
  const expanded = await expandFromBest(tx, found);
  return fetchRanked(tx, rankInContext(await withPastFacts(tx, expanded, query, filter), query), filter, depth);
}

/** Together with facts of the time that is asked about which are over by now. */
async function withPastFacts(
  tx: ScopedTransaction,
  found: WordHits,
  query: string,
  filter: PassageFilter,
): Promise<WordHits> {
  if (!asksForPastFacts(filter)) return found;
  const facts = await rankPastFacts(tx, query, filter, RANKED_PASSAGES);
  const known = new Set(found.hits.map(({ id }) => id));
  const alone = { frequencies: [], words: 0, sessionId: null, position: null, turns: null, speaker: null };
  const more = facts.flatMap((fact) => (known.has(fact.id) ? [] : [{ ...fact, ...alone }]));
  return { lexemes: found.lexemes, hits: [...found.hits, ...more] };
}

/** Gives the turns that are known by their place their ids; those that are not there, or not to be found, drop out. */
async function fetchRanked(
  tx: ScopedTransaction,
  placed: readonly Placed[],
  filter: PassageFilter,
  depth: number,
): Promise<Candidate[]> {
  const places = placed.slice(0, depth).flatMap(({ place }) => (place === undefined ? [] : [place]));
  const rows =
    places.length === 0
      ? []
      : await tx.rows<{
          id: string;
          sessionId: string;
          position: number;
          digest: string | null;
          observedAt: string;
        }>(sql`
          SELECT p.id, p.session_id AS "sessionId", p.position, encode(p.digest, 'hex') AS digest, p.observed_at AS "observedAt"
          FROM unnest(${list(places.map((at) => at.scopeId))}::int[], ${list(places.map((at) => at.sessionId))}::uuid[],
                      ${list(places.map((at) => at.position))}::int[]) AS at(scope_id, session_id, position)
          JOIN ${tx.read("passage", "p")} ON p.scope_id = at.scope_id AND p.session_id = at.session_id AND p.position = at.position
          WHERE p.kind = 'turn' AND p.expired_at IS NULL${andFilterSql(tx, filter)}`);
  const turns = new Map(rows.map(({ sessionId, position, ...turn }) => [`${sessionId} ${position}`, turn]));
  return placed.flatMap(({ id, place, ...found }) => {
    if (id !== undefined) return [{ id, ...found }];
    const turn = place && turns.get(`${place.sessionId} ${place.position}`);
    return turn === undefined ? [] : [{ ...found, ...turn }];
  });
}

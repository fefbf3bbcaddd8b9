import { list, type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { findByWords } from "./bm25.ts";
import type { Candidate } from "./candidate.ts";
import { expandFromBest } from "./expand.ts";
import { andFilterSql, type PassageFilter } from "./filter.ts";
import { type Placed, rankInContext } from "./in-context.ts";

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
  return fetchRanked(tx, rankInContext(await expandFromBest(tx, found), query), filter, depth);
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
      : await tx.rows<{ id: string; sessionId: string; position: number }>(sql`
          SELECT p.id, p.session_id AS "sessionId", p.position
          FROM unnest(${list(places.map((at) => at.scopeId))}::int[], ${list(places.map((at) => at.sessionId))}::uuid[],
                      ${list(places.map((at) => at.position))}::int[]) AS at(scope_id, session_id, position)
          JOIN ${tx.read("passage", "p")} ON p.scope_id = at.scope_id AND p.session_id = at.session_id AND p.position = at.position
          WHERE p.kind = 'turn' AND p.expired_at IS NULL${andFilterSql(tx, filter)}`);
  const ids = new Map(rows.map(({ id, sessionId, position }) => [`${sessionId} ${position}`, id]));
  return placed.flatMap(({ id, place, scopeId, score }) => {
    const known = id ?? (place && ids.get(`${place.sessionId} ${place.position}`));
    return known === undefined ? [] : [{ id: known, scopeId, score }];
  });
}

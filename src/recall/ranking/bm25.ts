import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { NUMBERS_KEY, PAGE_PLACES } from "../../lexical/block.ts";
import { BM25_DEFAULTS, type Bm25Parameters, bm25 } from "../../lexical/bm25-score.ts";
import { type Place, WordSearch } from "../../lexical/word-search.ts";
import { byScore, type Candidate } from "./candidate.ts";
import { andFilterSql, filterSql, type PassageFilter } from "./filter.ts";

/** A filter that leaves no more passages than this is looked at first, and these are scored by their own terms. */
const FEW_PASSAGES = 2_000;

/** A passage that has words of a question. */
export interface FoundPassage extends Candidate {
  readonly digest: string | null;
  /** As the database spells it: few are looked at. */
  readonly observedAt: string;
  /** How often each word of the search is in it. */
  readonly frequencies: readonly number[];
  /** Its length in words. */
  readonly words: number;
  readonly sessionId: string | null;
  /** Of a turn: where it stands. */
  readonly position: number | null;
  /** How many turns its session has. */
  readonly turns: number | null;
  /** Of a turn that begins with a name and a colon: the name. */
  readonly speaker: string | null;
}

/**
 * The best passages by BM25, with idf = ln(1 + (N − df + ½) / (df + ½)) as in Lucene. N, df and the
 * mean length are those of the visible scopes alone: nobody else's text has any influence, nor has a filter.
 */
export async function rankByBm25(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
  parameters: Bm25Parameters = BM25_DEFAULTS,
): Promise<Candidate[]> {
  const search = await WordSearch.of(tx, query);
  const found = await findPassages(tx, search, filter, limit, parameters, WITHOUT_SESSION);
  return found.map(({ id, scopeId, score, digest, observedAt }) => ({ id, scopeId, score, digest, observedAt }));
}

/** The same with all that further ranking asks of each passage. */
export async function findPassages(
  tx: ScopedTransaction,
  search: WordSearch,
  filter: PassageFilter,
  limit: number,
  parameters: Bm25Parameters = BM25_DEFAULTS,
  told: PassageColumns = WITH_SESSION,
): Promise<FoundPassage[]> {
  if (search.words.every(({ df }) => df === 0)) return [];
  if (filterSql(tx, filter) === undefined) return fetchPlaces(tx, await search.best(limit, parameters), filter, told);
  if (search.passages > FEW_PASSAGES) {
    const [row] = await tx.rows<{ n: number }>(sql`
      SELECT count(*)::int AS n FROM (
        SELECT 1 FROM ${tx.read("passage", "p")} WHERE p.expired_at IS NULL${andFilterSql(tx, filter)} LIMIT ${FEW_PASSAGES + 1}) few`);
    if ((row?.n ?? 0) <= FEW_PASSAGES) return findAmong(tx, search, filter, limit, parameters);
  }
  for (let depth = 2 * limit; ; depth *= 8) {
    const places = await search.best(depth, parameters);
    const found = await fetchPlaces(tx, places, filter, told);
    if (found.length >= limit || places.length < depth) return found.slice(0, limit);
  }
}

/** What is asked of each passage p, and of its session s. */
interface PassageColumns {
  readonly columns: SQL;
  readonly join: (tx: ScopedTransaction) => SQL;
}

const PLAIN = sql`p.id, p.scope_id AS "scopeId", encode(p.digest, 'hex') AS digest, p.observed_at::text AS "observedAt", p.lexemes AS words`;
/** What a ranking of passages by themselves needs. */
const WITHOUT_SESSION: PassageColumns = {
  columns: sql`${PLAIN}, NULL AS "sessionId", NULL AS position, NULL AS turns, NULL AS speaker`,
  join: () => sql``,
};

/** All that {@link FoundPassage} has. */
export const COLUMNS = sql`
  ${PLAIN}, p.session_id AS "sessionId",
  CASE WHEN p.kind = 'turn' THEN p.position END AS position, s.next_seq AS turns,
  -- The regular expression is the slower of the two conditions.
  CASE WHEN p.kind = 'turn' AND strpos(left(p.text, 42), ': ') > 0 THEN substring(left(p.text, 60) FROM '^([[:upper:]][^:[:cntrl:]]{0,39}): ') END AS speaker`;

export const withSession = (tx: ScopedTransaction): SQL =>
  sql`LEFT JOIN LATERAL (SELECT o.next_seq FROM ${tx.read("session", "o")} WHERE o.scope_id = p.scope_id AND o.id = p.session_id LIMIT 1) s ON true`;

const WITH_SESSION: PassageColumns = { columns: COLUMNS, join: withSession };

/** The passages that lie at these places, those that the filter takes away left out. */
export async function fetchPlaces(
  tx: ScopedTransaction,
  places: readonly Place[],
  filter: PassageFilter,
  { columns, join }: PassageColumns = WITH_SESSION,
): Promise<FoundPassage[]> {
  if (places.length === 0) return [];
  const rows = await tx.rows<Omit<FoundPassage, "frequencies" | "score"> & { n: number }>(sql`
    WITH placed AS MATERIALIZED (
      SELECT b.n, b.scope_id, coalesce(b.seq, ('x' || encode(substring(g.data FROM 6 * (b.place - b.page) + 1 FOR 6), 'hex'))::bit(48)::bigint) AS seq
      FROM unnest(${list(places.map((_, i) => i))}::int[], ${list(places.map(({ scopeId }) => scopeId))}::int[],
                  ${listWithGaps(places.map(({ segmentId }) => segmentId))}::bigint[], ${list(places.map(({ place }) => place))}::int[],
                  ${list(places.map(({ place }) => place - (place % PAGE_PLACES)))}::int[],
                  ${listWithGaps(places.map(({ seq }) => seq))}::bigint[]) AS b(n, scope_id, segment_id, place, page, seq)
      LEFT JOIN LATERAL (
        SELECT o.data FROM ${tx.read("posting_block", "o")}
        WHERE o.scope_id = b.scope_id AND o.segment_id = b.segment_id AND o.key = ${NUMBERS_KEY}::bigint AND o.first = b.page LIMIT 1) g ON true)
    -- One after the other by the index: a plan for any question would rather read the whole scope.
    SELECT b.n, ${columns} FROM placed b
    CROSS JOIN LATERAL (SELECT * FROM ${tx.read("passage", "o")} WHERE o.scope_id = b.scope_id AND o.seq = b.seq LIMIT 1) p ${join(tx)}
    WHERE p.expired_at IS NULL${andFilterSql(tx, filter)}`);
  return rows
    .flatMap(({ n, ...row }) => {
      const place = places[n];
      return place === undefined ? [] : [{ ...row, score: place.score, frequencies: place.frequencies }];
    })
    .sort(byScore);
}

/** A list with gaps as one bound value. */
const listWithGaps = (values: readonly (number | undefined)[]): SQL =>
  sql`${`{${values.map((value) => value ?? "NULL").join(",")}}`}`;

/** The few passages that a filter leaves, scored by their own terms: the words' counts are those of all. */
async function findAmong(
  tx: ScopedTransaction,
  search: WordSearch,
  filter: PassageFilter,
  limit: number,
  parameters: Bm25Parameters,
): Promise<FoundPassage[]> {
  const rows = await tx.rows<Omit<FoundPassage, "frequencies" | "score"> & { terms: Uint8Array }>(sql`
    SELECT ${COLUMNS}, p.terms FROM ${tx.read("passage", "p")} ${withSession(tx)}
    WHERE p.expired_at IS NULL AND p.terms IS NOT NULL${andFilterSql(tx, filter)} LIMIT ${FEW_PASSAGES}`);
  return rows
    .flatMap(({ terms, ...row }) => {
      const frequencies = search.frequenciesIn(row.scopeId, terms);
      if (frequencies === undefined) return [];
      const score = bm25(search.words, frequencies, row.words / search.meanLength, parameters);
      return score > 0 ? [{ ...row, score, frequencies }] : [];
    })
    .sort(byScore)
    .slice(0, limit);
}

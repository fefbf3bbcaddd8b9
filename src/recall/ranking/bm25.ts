import { list, type ScopedTransaction, type SQL, sql } from "../db/scoped.ts";
import type { Candidate } from "./candidate.ts";
import type { WordHit, WordHits } from "./conversation.ts";
import { narrowing, type PassageFilter } from "./filter.ts";

/** Okapi BM25's parameters, with the defaults of Robertson & Zaragoza (2009). */
export interface Bm25Parameters {
  readonly k1: number;
  readonly b: number;
  /** From so many visible passages on, leaving out what cannot come into the best is worth a statement more (docs/performance.md). */
  readonly leaveOutFrom: number;
}
export const BM25_DEFAULTS: Bm25Parameters = { k1: 1.2, b: 0.75, leaveOutFrom: 8_000 };

/** Scores are summed as whole numbers of 1e-9, which a double adds exactly: no change of plan changes their last digits. */
export const SCALE = 1e9;

/** Frequencies travel packed, four bits each, of so many lexemes, the rarest: 52 bits, which a double holds exactly. */
const PACKED_LEXEMES = 13;
const BITS = 4;
const MOST = 2 ** BITS - 1;

/** Looking up one posting takes as long as summing so many. */
const LOOK_UP = 2.5;
/** The best are taken to score at least so much of what an ordinary passage scores by one lexeme. */
const CAUTION = 0.8;

/**
 * The best passages by BM25, with idf = ln(1 + (N − df + ½) / (df + ½)) as in Lucene. N, df and the
 * mean length are those of the visible scopes alone: nobody else's text has any influence.
 *
 * `@@` on a GIN index would be no help: it is not leakproof, so row security keeps PostgreSQL from
 * using the index. Here everything is equality on `posting`, an index-only scan.
 */
export function rankByBm25(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
  parameters: Bm25Parameters = BM25_DEFAULTS,
): Promise<Candidate[]> {
  return fromBest<Candidate>(
    { tx, query, filter, limit, parameters, packs: false },
    sql`SELECT b.passage_id AS id, b.scope_id AS "scopeId", b.score FROM best b ORDER BY b.score DESC, b.passage_id`,
  );
}

/** The same ranking with what {@link rankInContext} asks of each passage. */
export async function findByWords(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
  parameters: Bm25Parameters = BM25_DEFAULTS,
): Promise<WordHits> {
  const rows = await fromBest<WordHitRow>(
    { tx, query, filter, limit, parameters, packs: true },
    sql`
    SELECT b.passage_id AS id, b.scope_id AS "scopeId", b.score, b.packed, b.words, p.observed_at::text AS "observedAt",
           p.session_id AS "sessionId", CASE WHEN p.kind = 'turn' THEN p.position END AS position, s.next_seq AS turns,
           -- The regular expression is the slower of the two conditions.
           CASE WHEN p.kind = 'turn' AND strpos(left(p.text, 42), ': ') > 0 THEN substring(left(p.text, 60) FROM '^([[:upper:]][^:[:cntrl:]]{0,39}): ') END AS speaker,
           -- Once is enough.
           CASE WHEN row_number() OVER (ORDER BY b.score DESC, b.passage_id) = 1
             THEN (SELECT jsonb_agg(jsonb_build_object('idf', r.idf, 'share', r.df / size.n) ORDER BY r.place)
                   FROM rarity r, size WHERE r.place < ${PACKED_LEXEMES}::int) END AS lexemes
    FROM best b
    JOIN ${tx.read("passage", "p")} ON p.scope_id = b.scope_id AND p.id = b.passage_id
    LEFT JOIN ${tx.read("session", "s")} ON s.scope_id = p.scope_id AND s.id = p.session_id
    ORDER BY b.score DESC, b.passage_id`,
  );
  const lexemes = rows[0]?.lexemes ?? [];
  return {
    lexemes,
    hits: rows.map(({ packed, lexemes: _, ...row }) => ({ ...row, frequencies: unpack(packed, lexemes.length) })),
  };
}

interface WordHitRow extends Omit<WordHit, "frequencies"> {
  readonly packed: number;
  readonly lexemes: WordHits["lexemes"] | null;
}

function unpack(packed: number, lexemes: number): number[] {
  let rest = packed;
  return Array.from({ length: lexemes }, () => {
    const tf = rest % (MOST + 1);
    rest = Math.floor(rest / (MOST + 1));
    return tf;
  });
}

interface Ranking {
  readonly tx: ScopedTransaction;
  readonly query: string;
  readonly filter: PassageFilter;
  readonly limit: number;
  readonly parameters: Bm25Parameters;
  /** Whether the frequencies of the lexemes are asked for as well. */
  readonly packs: boolean;
}

/** A lexeme of the query as it stands in the visible scopes. */
interface Rarity {
  readonly lexeme: string;
  readonly df: number;
  readonly idf: number;
  /** What a passage scores by it comes near this, and is less. */
  readonly weight: number;
  /** Its place value among the packed frequencies. */
  readonly unit: number;
  /** By df, the rarest first. */
  readonly place: number;
  /** Its greatest frequency in a passage, and the length of the shortest passage that has it. */
  readonly most: number;
  readonly least: number;
}

interface Size {
  readonly n: number;
  readonly base: number;
  readonly slope: number;
  readonly mean: number;
}

/** The rows of a SELECT from the CTEs `size`, `rarity` and `best`. */
async function fromBest<Row extends object>(ranking: Ranking, select: SQL): Promise<Row[]> {
  const { tx, parameters } = ranking;
  const visible = Object.values(tx.entry.recall?.counts ?? {}).reduce((sum, passages) => sum + passages, 0);
  if (visible >= parameters.leaveOutFrom) {
    const counted = await tx.rows<Rarity & Size>(sql`
      WITH ${counting(ranking, sql`, max(o.tf)::float8 AS most, min(o.lexemes)::float8 AS least`)}
      SELECT r.*, size.* FROM rarity r, size ORDER BY r.place`);
    if (counted.length === 0) return [];
    const rows = await tx.rows<Row>(sql`WITH ${given(counted)}, ${leavingOut(ranking, counted)} ${select}`);
    if (rows.length > 0) return rows;
  }
  return tx.rows<Row>(sql`WITH ${counting(ranking)}, ${summingAll(ranking)} ${select}`);
}

/** CTEs of the visible scopes' size and of the query's lexemes in them, with what else is asked of their postings. */
function counting({ tx, query, parameters: { k1, b } }: Ranking, more: SQL = sql``): SQL {
  return sql`
    size AS MATERIALIZED (
      SELECT s.n, s.mean, ${k1}::float8 * (1 - ${b}::float8) AS base, ${k1}::float8 * ${b}::float8 / s.mean AS slope
      FROM (SELECT greatest(sum(c.passages), 1)::float8 AS n, greatest(sum(c.lexemes), 1)::float8 / greatest(sum(c.passages), 1) AS mean
            FROM ${tx.read("scope_counter", "c")}) s),
    rarity AS MATERIALIZED (
      SELECT t.*, ${SCALE}::float8 * t.idf * (${k1}::float8 + 1) AS weight,
             CASE WHEN t.place < ${PACKED_LEXEMES}::int THEN ${MOST + 1}::float8 ^ t.place ELSE 0 END AS unit
      FROM (SELECT d.*, ln(1 + (size.n - d.df + 0.5) / (d.df + 0.5)) AS idf, (row_number() OVER (ORDER BY d.df, d.lexeme) - 1)::int AS place
            FROM size, unnest(tsvector_to_array(to_tsvector('english', ${query}))) AS asked(lexeme),
              LATERAL (SELECT asked.lexeme, count(*)::float8 AS df${more}
                       FROM ${tx.read("posting", "o")} WHERE o.lexeme = asked.lexeme) d
            WHERE d.df > 0) t)`;
}

/** The same CTEs with what has been counted. */
function given(counted: readonly (Rarity & Size)[]): SQL {
  const column = (of: (row: Rarity & Size) => number) => sql`${list(counted.map(of))}::float8[]`;
  const { n = 0, base = 0, slope = 0 } = counted[0] ?? {};
  return sql`
    size AS MATERIALIZED (SELECT ${n}::float8 AS n, ${base}::float8 AS base, ${slope}::float8 AS slope),
    rarity AS MATERIALIZED (
      SELECT r.* FROM unnest(${list(counted.map(({ lexeme }) => lexeme))}::text[], ${column(({ df }) => df)}, ${column(({ idf }) => idf)},
        ${column(({ weight }) => weight)}, ${column(({ unit }) => unit)}, ${column(({ place }) => place)}) AS r(lexeme, df, idf, weight, unit, place))`;
}

/**
 * The CTE `best` out of every posting of the lexemes. They are read twice, to count and to score:
 * keeping them in between cost more than reading an index again (docs/performance.md).
 */
function summingAll(ranking: Ranking): SQL {
  const packed = ranking.packs
    ? sql`, max(h.lexemes) AS words, sum(least(h.tf, ${MOST}::int) * r.unit) AS packed`
    : sql``;
  return sql`
    best AS MATERIALIZED (
      SELECT h.passage_id, h.scope_id, sum(${contribution("h", "h.lexemes")}) / ${SCALE}::float8 AS score${packed}
      FROM size, rarity r JOIN ${ranking.tx.read("posting", "h")} ON h.lexeme = r.lexeme ${narrowed(ranking)}
      GROUP BY h.passage_id, h.scope_id
      ORDER BY score DESC, h.passage_id LIMIT ${ranking.limit})`;
}

/**
 * The CTE `best` by MaxScore (Turtle & Flood 1995): a passage that has none of the rarest lexemes
 * scores less than all the others could give it together, `rest`. Where the best reach more than that
 * by the rarest alone, only passages with one of these are summed, and of these only such as could
 * still come into the best are looked up for the others. Empty where the best do not reach that much.
 *
 * A passage that is stored between the counting and this may be ranked as of either time.
 */
function leavingOut(ranking: Ranking, counted: readonly (Rarity & Size)[]): SQL {
  const { tx, limit, packs } = ranking;
  const essential = countEssential(counted, limit);
  const rest = counted.slice(essential).reduce((sum, lexeme) => sum + bound(lexeme), 0);
  const frequencies = (row: "h" | "o") => sql`sum(least(${sql.raw(row)}.tf, ${MOST}::int) * r.unit)`;
  return sql`
    part AS MATERIALIZED (
      SELECT h.passage_id, h.scope_id, max(h.lexemes) AS words, sum(${contribution("h", "h.lexemes")}) AS score${packs ? sql`, ${frequencies("h")} AS packed` : sql``}
      FROM size, rarity r JOIN ${tx.read("posting", "h")} ON h.lexeme = r.lexeme ${narrowed(ranking)}
      WHERE r.place < ${essential}::float8
      GROUP BY h.passage_id, h.scope_id),
    bar AS MATERIALIZED (
      SELECT coalesce((SELECT t.score FROM part t ORDER BY t.score DESC OFFSET ${limit - 1}::int LIMIT 1), 0) AS score),
    best AS MATERIALIZED (
      SELECT t.passage_id, t.scope_id, t.words, (t.score + coalesce(more.score, 0)) / ${SCALE}::float8 AS score${packs ? sql`, t.packed + coalesce(more.packed, 0) AS packed` : sql``}
      FROM bar JOIN part t ON t.score + ${rest}::float8 >= bar.score,
        LATERAL (
          SELECT sum(${contribution("o", "t.words")}) AS score${packs ? sql`, ${frequencies("o")} AS packed` : sql``}
          FROM size, rarity r,
            LATERAL (SELECT h.tf FROM ${tx.read("posting", "h")}
                     WHERE h.scope_id = t.scope_id AND h.lexeme = r.lexeme AND h.passage_id = t.passage_id LIMIT 1) o
          WHERE r.place >= ${essential}::float8) more
      WHERE ${rest}::float8 = 0 OR bar.score > ${rest}::float8
      ORDER BY score DESC, t.passage_id LIMIT ${limit})`;
}

/** What a posting adds to its passage's score, in whole numbers of 1 / SCALE. */
const contribution = (row: "h" | "o", words: "h.lexemes" | "t.words"): SQL =>
  sql.raw(`round(r.weight * ${row}.tf / (${row}.tf + size.base + size.slope * ${words}))`);

function narrowed({ tx, filter }: Ranking): SQL {
  const conditions = narrowing(tx, filter);
  return conditions === undefined
    ? sql``
    : sql`JOIN ${tx.read("passage", "p")} ON p.scope_id = h.scope_id AND p.id = h.passage_id AND ${conditions}`;
}

/** No passage scores more by this lexeme. */
const bound = ({ weight, most, least, base, slope }: Rarity & Size) =>
  Math.ceil((weight * most) / (most + base + slope * least));

/** How many of the rarest lexemes are summed: the cheapest number with which the best will likely reach what the others could give. */
function countEssential(counted: readonly (Rarity & Size)[], limit: number): number {
  const all = counted.length;
  let [cheapest, leastCost] = [all, counted.reduce((sum, { df }) => sum + df, 0)];
  let postings = 0;
  for (const [at, lexeme] of counted.entries()) {
    postings += lexeme.df;
    const rest = counted.slice(at + 1).reduce((sum, other) => sum + bound(other), 0);
    const ordinary = lexeme.weight / (1 + lexeme.base + lexeme.slope * lexeme.mean);
    const cost = postings * (1 + LOOK_UP * (all - at - 1));
    if (postings >= limit && ordinary * CAUTION > rest && cost < leastCost) [cheapest, leastCost] = [at + 1, cost];
  }
  return cheapest;
}

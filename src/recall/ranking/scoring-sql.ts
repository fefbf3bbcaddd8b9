/** The pieces of SQL that both ways of scoring by BM25 are made of. */
import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { filterSql, type PassageFilter } from "./filter.ts";

/** Okapi BM25's parameters, with the defaults of Robertson & Zaragoza (2009). */
export interface Bm25Parameters {
  readonly k1: number;
  readonly b: number;
  /** From so many visible passages on, leaving out what cannot come into the best is worth a statement more (docs/measurements.md). */
  readonly maxScoreFrom: number;
}
export const BM25_DEFAULTS: Bm25Parameters = { k1: 1.2, b: 0.75, maxScoreFrom: 8_000 };

/** Scores are summed as whole numbers of 1e-9, which a double adds exactly: no change of plan changes their last digits. */
export const SCALE = 1e9;

/** Frequencies travel packed, four bits each, of so many lexemes, the rarest: 52 bits, which a double holds exactly. */
export const PACKED_LEXEMES = 13;
const BITS = 4;
export const MAX_PACKED_FREQUENCY = 2 ** BITS - 1;

export interface Ranking {
  readonly tx: ScopedTransaction;
  readonly query: string;
  readonly filter: PassageFilter;
  readonly limit: number;
  readonly parameters: Bm25Parameters;
  /** Whether the frequencies of the lexemes are asked for as well. */
  readonly packs: boolean;
}

/** A lexeme of the query as it stands in the visible scopes. */
export interface Rarity {
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

export interface Size {
  readonly n: number;
  readonly base: number;
  readonly slope: number;
  readonly mean: number;
}

/** CTEs of the visible scopes' size and of the query's lexemes in them, with further aggregates of their postings. */
export function countLexemesSql({ tx, query, parameters: { k1, b } }: Ranking, more: SQL = sql``): SQL {
  return sql`
    size AS MATERIALIZED (
      SELECT s.n, s.mean, ${k1}::float8 * (1 - ${b}::float8) AS base, ${k1}::float8 * ${b}::float8 / s.mean AS slope
      FROM (SELECT greatest(sum(c.passages), 1)::float8 AS n, greatest(sum(c.lexemes), 1)::float8 / greatest(sum(c.passages), 1) AS mean
            FROM ${tx.read("scope_counter", "c")}) s),
    -- Computed before the join: a function that is not leakproof would keep a row policy from using the index.
    asked AS MATERIALIZED (
      SELECT q.lexeme, hashtextextended(q.lexeme, 0) AS number FROM unnest(tsvector_to_array(to_tsvector('english', ${query}))) AS q(lexeme)),
    rarity AS MATERIALIZED (
      SELECT t.*, ${SCALE}::float8 * t.idf * (${k1}::float8 + 1) AS weight,
             CASE WHEN t.place < ${PACKED_LEXEMES}::int THEN ${MAX_PACKED_FREQUENCY + 1}::float8 ^ t.place ELSE 0 END AS unit
      FROM (SELECT d.*, ln(1 + (size.n - d.df + 0.5) / (d.df + 0.5)) AS idf, (row_number() OVER (ORDER BY d.df, d.lexeme) - 1)::int AS place
            FROM size, asked,
              LATERAL (SELECT asked.lexeme, asked.number, count(*)::float8 AS df${more}
                       FROM ${tx.read("posting", "o")} WHERE o.lexeme = asked.number) d
            WHERE d.df > 0) t)`;
}

/** The same CTEs with what has been counted. */
export function countedSql(counted: readonly (Rarity & Size)[]): SQL {
  const column = (of: (row: Rarity & Size) => number) => sql`${list(counted.map(of))}::float8[]`;
  const { n = 0, base = 0, slope = 0 } = counted[0] ?? {};
  return sql`
    size AS MATERIALIZED (SELECT ${n}::float8 AS n, ${base}::float8 AS base, ${slope}::float8 AS slope),
    rarity AS MATERIALIZED (
      SELECT r.*, hashtextextended(r.lexeme, 0) AS number FROM unnest(${list(counted.map(({ lexeme }) => lexeme))}::text[], ${column(({ df }) => df)}, ${column(({ idf }) => idf)},
        ${column(({ weight }) => weight)}, ${column(({ unit }) => unit)}, ${column(({ place }) => place)}) AS r(lexeme, df, idf, weight, unit, place))`;
}

/** What a posting adds to its passage's score, in whole numbers of 1 / SCALE. */
export const contribution = (row: "h" | "o", words: "h.lexemes" | "t.words"): SQL =>
  sql.raw(`round(r.weight * ${row}.tf / (${row}.tf + size.base + size.slope * ${words}))`);

export function filterJoinSql({ tx, filter }: Ranking): SQL {
  const conditions = filterSql(tx, filter);
  return conditions === undefined
    ? sql``
    : sql`JOIN ${tx.read("passage", "p")} ON p.scope_id = h.scope_id AND p.id = h.passage_id AND ${conditions}`;
}

import { type SQL, sql } from "../../db/access/scoped.ts";
import {
  contribution,
  filterJoinSql,
  MAX_PACKED_FREQUENCY,
  type Ranking,
  type Rarity,
  SCALE,
  type Size,
} from "./scoring-sql.ts";

/** Looking up one posting takes as long as summing so many. */
const LOOKUP_COST = 2.5;
/** The best are taken to score at least so much of what an ordinary passage scores by one lexeme. */
const ESSENTIAL_MARGIN = 0.8;

/**
 * The CTE `best` by MaxScore (Turtle & Flood 1995): a passage that has none of the rarest lexemes
 * scores less than all the others could give it together, `rest`. Where the best reach more than that
 * by the rarest alone, only passages with one of these are summed, and of these only such as could
 * still come into the best are looked up for the others. Empty where the best do not reach that much.
 *
 * A passage that is stored between the countLexemesSql and this may be ranked as of either time.
 */
export function maxScoreSql(ranking: Ranking, counted: readonly (Rarity & Size)[]): SQL {
  const { tx, limit, packs } = ranking;
  const essential = countEssential(counted, limit);
  const rest = counted.slice(essential).reduce((sum, lexeme) => sum + maxContribution(lexeme), 0);
  const frequencies = (row: "h" | "o") => sql`sum(least(${sql.raw(row)}.tf, ${MAX_PACKED_FREQUENCY}::int) * r.unit)`;
  return sql`
    part AS MATERIALIZED (
      SELECT h.passage_id, h.scope_id, max(h.lexemes) AS words, sum(${contribution("h", "h.lexemes")}) AS score${packs ? sql`, ${frequencies("h")} AS packed` : sql``}
      FROM size, rarity r JOIN ${tx.read("posting", "h")} ON h.lexeme = r.number ${filterJoinSql(ranking)}
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
                     WHERE h.scope_id = t.scope_id AND h.lexeme = r.number AND h.passage_id = t.passage_id LIMIT 1) o
          WHERE r.place >= ${essential}::float8) more
      WHERE ${rest}::float8 = 0 OR bar.score > ${rest}::float8
      ORDER BY score DESC, t.passage_id LIMIT ${limit})`;
}

/** No passage scores more by this lexeme. */
const maxContribution = ({ weight, most, least, base, slope }: Rarity & Size) =>
  Math.ceil((weight * most) / (most + base + slope * least));

/** How many of the rarest lexemes are summed: the cheapest number with which the best will likely reach what the others could give. */
function countEssential(counted: readonly (Rarity & Size)[], limit: number): number {
  const all = counted.length;
  let [cheapest, leastCost] = [all, counted.reduce((sum, { df }) => sum + df, 0)];
  let postings = 0;
  for (const [at, lexeme] of counted.entries()) {
    postings += lexeme.df;
    const rest = counted.slice(at + 1).reduce((sum, other) => sum + maxContribution(other), 0);
    const ordinary = lexeme.weight / (1 + lexeme.base + lexeme.slope * lexeme.mean);
    const cost = postings * (1 + LOOKUP_COST * (all - at - 1));
    if (postings >= limit && ordinary * ESSENTIAL_MARGIN > rest && cost < leastCost)
      [cheapest, leastCost] = [at + 1, cost];
  }
  return cheapest;
}

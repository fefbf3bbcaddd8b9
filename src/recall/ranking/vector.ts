import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import type { Embedder, VectorText } from "../../models/embedder.ts";
import type { Candidate } from "./candidate.ts";
import { andFilterSql, filterSql, type PassageFilter } from "./filter.ts";

/** Candidates that a walk keeps, however few are asked for: docs/measurements.md. */
const LEAST_WIDTH = 800;

/**
 * Where a dense model's vectors are ranked by their signs first, and the best by those compared as a
 * whole: in the middle, where all would take longer and a graph is not worth its build. How many are
 * compared, and what of the exact ranking they hold: docs/measurements.md.
 */
const CODES = { from: 2_000, upTo: 20_000, least: 400, timesAsked: 3, shareOfRows: 0.04 };

export interface Nearest {
  /** Nearest first; the score is 1 − cosine distance. */
  readonly ranking: Candidate[];
  /** How they were found, and why so. */
  readonly plan: string;
}

/**
 * The nearest passages by cosine distance. Each visible scope is searched by itself: one that has a
 * graph of its own through that, all others exactly, every vector compared; then they are merged. No
 * graph is shared by scopes, so neither recall nor scores know what the neighbours hold.
 *
 * A walk through a graph that ends short, because a filter takes much away or rows are on their way
 * out, is not trusted: that scope is searched exactly.
 */
export async function rankByDistance(
  tx: ScopedTransaction,
  embedder: Pick<Embedder, "id" | "dimensions" | "isDense">,
  vector: VectorText,
  filter: PassageFilter,
  limit: number,
): Promise<Nearest> {
  const indexed = (tx.entry.recall?.indexed ?? []).filter(([, model]) => model === embedder.id).map(([scope]) => scope);
  const known = tx.entry.recall?.counts[embedder.id];
  const size = known === undefined ? "" : ` of ${known}`;
  if (indexed.length === 0 || embedder.dimensions === undefined) {
    if (
      embedder.isDense &&
      filterSql(tx, filter) === undefined &&
      known !== undefined &&
      known >= CODES.from &&
      known <= CODES.upTo
    ) {
      const width = Math.max(CODES.least, limit * CODES.timesAsked, Math.round(known * CODES.shareOfRows));
      return {
        ranking: await byCodes(tx, embedder.id, vector, limit, width),
        plan: `exact vectors of the ${width} nearest by their codes${size}`,
      };
    }
    return {
      ranking: await exactly(tx, embedder.id, vector, filter, limit, undefined),
      plan: `exact vectors${size}`,
    };
  }
  tx.walkGraphs(Math.max(limit, LEAST_WIDTH));
  const others = restOf(tx, indexed);
  const [rest, ...walks] = await Promise.all([
    others === undefined ? [] : exactly(tx, embedder.id, vector, filter, limit, others),
    ...indexed.map((scope) =>
      walk(tx, { ...embedder, dimensions: embedder.dimensions ?? 0 }, vector, filter, limit, scope),
    ),
  ]);
  const short = indexed.filter((_, i) => (walks[i]?.length ?? 0) < limit);
  const again =
    short.length === 0
      ? []
      : await exactly(tx, embedder.id, vector, filter, limit, sql`p.scope_id = ANY (${list(short)}::int[])`);
  const whole = walks.filter((found) => found.length >= limit).flat();
  const graphs = `${indexed.length - short.length} graph${indexed.length - short.length === 1 ? "" : "s"}`;
  return {
    ranking: [...rest, ...whole, ...again].sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1)).slice(0, limit),
    plan: `${graphs} of large scopes${others === undefined ? "" : " and exact vectors of the others"}${size}${
      short.length === 0 ? "" : `; exact in ${short.length} whose graph gave too few`
    }`,
  };
}

/** The visible scopes without a graph; undefined: there are none. */
function restOf(tx: ScopedTransaction, indexed: readonly number[]): SQL | undefined {
  const { read, general } = tx.entry;
  if (read.trees.length > 0) return sql`p.scope_id <> ALL (${list(indexed)}::int[])`;
  const rest = [...new Set([...read.scopes.keys(), ...(general ? [0] : [])])].filter((id) => !indexed.includes(id));
  return rest.length === 0 ? undefined : sql`p.scope_id = ANY (${list(rest)}::int[])`;
}

const exactly = (
  tx: ScopedTransaction,
  embedderId: number,
  vector: VectorText,
  filter: PassageFilter,
  limit: number,
  within: SQL | undefined,
): Promise<Candidate[]> =>
  // The vector is bound once: reading it a second time would take as long as comparing it with a hundred others.
  tx.rows<Candidate>(sql`
    SELECT n.id, n."scopeId", 1 - n.distance AS score, n.digest, n."observedAt" FROM (
      SELECT p.id, p.scope_id AS "scopeId", encode(p.digest, 'hex') AS digest, p.observed_at AS "observedAt", p.embedding <=> ${vector}::halfvec AS distance
      FROM ${tx.read("passage", "p")}
      WHERE ${within === undefined ? sql`` : sql`${within} AND `}p.embedder_id = ${embedderId}::int AND p.embedding IS NOT NULL AND p.expired_at IS NULL${andFilterSql(tx, filter)}
      ORDER BY distance, p.id LIMIT ${limit}) n`);

/** The codes come out of `passage_code` alone; a row of a dense model that has a vector has a code. */
const byCodes = (
  tx: ScopedTransaction,
  embedderId: number,
  vector: VectorText,
  limit: number,
  width: number,
): Promise<Candidate[]> =>
  tx.rows<Candidate>(sql`
    WITH asked AS MATERIALIZED (SELECT q.vector, binary_quantize(q.vector) AS code FROM (SELECT ${vector}::halfvec AS vector OFFSET 0) q)
    SELECT n.id, n."scopeId", 1 - n.distance AS score, n.digest, n."observedAt" FROM (
      SELECT p.id, p.scope_id AS "scopeId", encode(p.digest, 'hex') AS digest, p.observed_at AS "observedAt", p.embedding <=> (SELECT a.vector FROM asked a) AS distance
      FROM (
        SELECT c.scope_id, c.id FROM ${tx.read("passage", "c")}
        WHERE c.embedder_id = ${embedderId}::int AND c.expired_at IS NULL AND c.code IS NOT NULL
        ORDER BY c.code <~> (SELECT a.code FROM asked a), c.id LIMIT ${width}) near
      JOIN ${tx.read("passage", "p")} ON p.scope_id = near.scope_id AND p.id = near.id
      ORDER BY distance, p.id LIMIT ${limit}) n`);

/** The expression of the index is the cast to the model's dimension; ties are put in order afterwards. */
function walk(
  tx: ScopedTransaction,
  { id, dimensions }: { readonly id: number; readonly dimensions: number },
  vector: VectorText,
  filter: PassageFilter,
  limit: number,
  scopeId: number,
): Promise<Candidate[]> {
  const sized = sql.raw(`halfvec(${Math.round(dimensions)})`);
  return tx.rows<Candidate>(sql`
    SELECT n.id, n."scopeId", 1 - n.distance AS score, n.digest, n."observedAt" FROM (
      SELECT p.id, p.scope_id AS "scopeId", encode(p.digest, 'hex') AS digest, p.observed_at AS "observedAt", p.embedding::${sized} <=> ${vector}::${sized} AS distance
      FROM ${tx.read("passage", "p")}
      WHERE p.scope_id = ${scopeId}::int AND p.embedder_id = ${id}::int AND p.embedding IS NOT NULL AND p.expired_at IS NULL${andFilterSql(tx, filter)}
      ORDER BY distance LIMIT ${limit}) n`);
}

import { list, type ScopedTransaction, type SQL, sql } from "../db/scoped.ts";
import type { Embedder, VectorText } from "../models/embedder.ts";
import type { Candidate } from "./candidate.ts";
import { andNarrowed, type PassageFilter } from "./filter.ts";

/** Candidates that a walk keeps, however few are asked for: docs/performance.md. */
const LEAST_WIDTH = 400;

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
  embedder: Pick<Embedder, "id" | "dimensions">,
  vector: VectorText,
  filter: PassageFilter,
  limit: number,
): Promise<Nearest> {
  const indexed = (tx.entry.recall?.indexed ?? []).filter(([, model]) => model === embedder.id).map(([scope]) => scope);
  const known = tx.entry.recall?.counts[embedder.id];
  const size = known === undefined ? "" : ` of ${known}`;
  if (indexed.length === 0 || embedder.dimensions === undefined) {
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
    SELECT n.id, n."scopeId", 1 - n.distance AS score FROM (
      SELECT p.id, p.scope_id AS "scopeId", p.embedding <=> ${vector}::halfvec AS distance
      FROM ${tx.read("passage", "p")}
      WHERE ${within === undefined ? sql`` : sql`${within} AND `}p.embedder_id = ${embedderId}::int AND p.embedding IS NOT NULL AND p.expired_at IS NULL${andNarrowed(tx, filter)}
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
    SELECT n.id, n."scopeId", 1 - n.distance AS score FROM (
      SELECT p.id, p.scope_id AS "scopeId", p.embedding::${sized} <=> ${vector}::${sized} AS distance
      FROM ${tx.read("passage", "p")}
      WHERE p.scope_id = ${scopeId}::int AND p.embedder_id = ${id}::int AND p.embedding IS NOT NULL AND p.expired_at IS NULL${andNarrowed(tx, filter)}
      ORDER BY distance LIMIT ${limit}) n`);
}

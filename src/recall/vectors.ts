import { modelsOf } from "../context/scope-models.ts";
import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import type { Meter } from "../metering/model-call.ts";
import { NO_VECTORS, type QueryVectors } from "../models/metered.ts";
import type { Models, ScopeModels } from "../models/models.ts";
import type { Mode } from "./ranking/search.ts";

/** The models that a query's vectors are made with. */
export interface QueryModels {
  readonly models: ScopeModels;
  /** Those besides the current one, by id. */
  readonly others: ReadonlySet<number>;
}

/**
 * A query's vectors, for a transaction that opens afterwards.
 *
 * @param peek opens one like it, where it takes that to see which models are to be asked
 */
export async function prepareQuery(
  models: Models,
  meter: Meter,
  query: string,
  mode: Mode,
  peek: (work: (tx: ScopedTransaction) => Promise<QueryModels>) => Promise<QueryModels>,
): Promise<QueryVectors> {
  if (mode === "bm25") return NO_VECTORS;
  const known = await withoutLooking(models);
  const asked = known ?? (await peek((tx) => queryModels(tx, models)));
  return asked.models.embedQuery(meter, query, asked.others);
}

/** The models that every query is made with, where nobody has another; undefined: it takes a look. */
export async function withoutLooking(models: Models): Promise<QueryModels | undefined> {
  if (models.areRemote || (await models.haveOthers())) return undefined;
  return { models: models.in(), others: new Set() };
}

/** The scope's own, and those that the visible scopes hold vectors of: what neighbours hold is not asked. */
export async function queryModels(tx: ScopedTransaction, models: Models): Promise<QueryModels> {
  const own = modelsOf(tx, models);
  if (!(await models.haveOthers())) return { models: own, others: new Set() };
  const rows = await tx.rows<{ id: number }>(sql`
    SELECT c.embedder_id AS id FROM ${tx.read("scope_counter", "c")}
    WHERE c.embedder_id <> ${own.current.id}::int GROUP BY c.embedder_id HAVING sum(c.passages) > 0`);
  return { models: own, others: new Set(rows.map(({ id }) => id)) };
}

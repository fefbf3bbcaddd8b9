import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import type { Meter } from "../metering/model-call.ts";
import { type Models, NO_VECTORS, type QueryVectors } from "../models/models.ts";
import type { Mode } from "./ranking/search.ts";

/**
 * A query's vectors, for a transaction that opens afterwards.
 *
 * @param peek opens one like it, where it takes that to see which models the vectors are of
 */
export async function prepareQuery(
  models: Models,
  meter: Meter,
  query: string,
  mode: Mode,
  peek: (work: (tx: ScopedTransaction) => Promise<ReadonlySet<number>>) => Promise<ReadonlySet<number>>,
): Promise<QueryVectors> {
  if (mode === "bm25") return NO_VECTORS;
  const others = (await models.haveOthers()) ? await peek((tx) => otherModels(tx, models)) : undefined;
  return models.embedQuery(meter, query, others);
}

/** The models besides the current one that the visible scopes hold vectors of: what neighbours hold is not asked. */
export async function otherModels(tx: ScopedTransaction, models: Models): Promise<ReadonlySet<number>> {
  const rows = await tx.rows<{ id: number }>(sql`
    SELECT c.embedder_id AS id FROM ${tx.read("scope_counter", "c")}
    WHERE c.embedder_id <> ${models.current.id}::int GROUP BY c.embedder_id HAVING sum(c.passages) > 0`);
  return new Set(rows.map(({ id }) => id));
}

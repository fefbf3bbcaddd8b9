import { type ScopedTransaction, sql } from "../db/scoped.ts";
import { type Models, NO_VECTORS, type QueryVectors } from "../models/models.ts";
import type { Mode, SearchResult } from "./search.ts";

/** Leaves the transaction, with all that it claimed, for a model: none is awaited while one is open. */
export class Leave extends Error {
  readonly found: SearchResult | undefined;
  constructor(found?: SearchResult) {
    super("left the transaction for a model");
    this.found = found;
  }
}

/**
 * A query's vectors, for a transaction that opens afterwards.
 *
 * @param enter opens one like it, where it takes that to see which models the vectors are of
 */
export async function prepareQuery(
  models: Models,
  query: string,
  mode: Mode,
  enter: (work: (tx: ScopedTransaction) => Promise<never>) => Promise<never>,
): Promise<QueryVectors> {
  if (mode === "bm25") return NO_VECTORS;
  let others: ReadonlySet<number> | undefined;
  if (await models.haveOthers()) {
    const looked = enter(async (tx) => {
      others = await otherModels(tx, models);
      throw new Leave();
    });
    await looked.catch((error: unknown) => {
      if (!(error instanceof Leave)) throw error;
    });
  }
  return models.embedQuery(query, others);
}

/** The models besides the current one that the visible scopes hold vectors of: what neighbours hold is not asked. */
export async function otherModels(tx: ScopedTransaction, models: Models): Promise<ReadonlySet<number>> {
  const rows = await tx.rows<{ id: number }>(sql`
    SELECT c.embedder_id AS id FROM ${tx.read("scope_counter", "c")}
    WHERE c.embedder_id <> ${models.current.id}::int GROUP BY c.embedder_id HAVING sum(c.passages) > 0`);
  return new Set(rows.map(({ id }) => id));
}

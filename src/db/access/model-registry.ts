import type { ModelRegistry, RegisteredModel } from "../../models/registry.ts";
import { type Database, inTransaction } from "../connect/lease.ts";

const COLUMNS = 'e.id, e.name, e.dimensions, e.near_distance AS "nearDistance", e.is_dense AS "isDense"';

/** The table of embedding models, which is no tenant's. */
export function modelRegistry(database: Database): ModelRegistry {
  const rows = async (text: string, params: readonly unknown[] = []) =>
    (await inTransaction(database.app, (app) => app.query(text, params))) as unknown as RegisteredModel[];
  return {
    find: async (name) => (await rows(`SELECT ${COLUMNS} FROM scopefloor.embedder e WHERE e.name = $1`, [name]))[0],
    inUse: () =>
      rows(
        `SELECT ${COLUMNS} FROM scopefloor.embedder e JOIN scopefloor.embedders_in_use() u USING (id) ORDER BY e.id`,
      ),
    register: async ({ name, dimensions, nearDistance }) => {
      await inTransaction(database.owner, (owner) =>
        owner.query("SELECT scopefloor.register_embedder($1, $2, $3)", [name, dimensions, nearDistance]),
      );
    },
  };
}

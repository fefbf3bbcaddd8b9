import { v7 as uuid } from "uuid";
import { uncounted, withinAnswer } from "../db/access/budget.ts";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { notFound } from "../errors.ts";
import { type Scope, scopeFromDatabase, scopePaths } from "../scope/scope.ts";
import { writeReceipt } from "../traces/receipt.ts";
import { recordTrace } from "../traces/record.ts";
import { NARROWEST_FIRST } from "./entities.ts";

/** One value of the keyed store, and the scope that it is of. */
export interface KeyedItem {
  readonly key: string;
  readonly value: unknown;
  readonly scope: Scope;
  readonly scopes: string[][];
  readonly createdAt: string;
  readonly updatedAt: string;
}

type Row = Omit<KeyedItem, "scope" | "scopes"> & { readonly tags: Record<string, string>; readonly id: string };

function toItem({ tags, id: _, ...row }: Row): KeyedItem {
  const scope = scopeFromDatabase(tags);
  return { ...row, scope, scopes: scopePaths(scope) };
}

const COLUMNS = sql`m.id, m.key, m.value, d.tags, m.created_at AS "createdAt", m.updated_at AS "updatedAt"`;
/** A condition on an item under the alias m: that it is not over. */
export const IS_KEPT = sql`(m.expires_at > now()) IS NOT FALSE`;
const instant = (text: string) => new Date(text).toISOString();

/** Sets the value at the write scope. */
export async function putItem(tx: ScopedTransaction, key: string, value: unknown): Promise<KeyedItem> {
  const times = await tx.call<{ id: string; createdAt: string; updatedAt: string }>(
    "put_item",
    uuid(),
    key,
    json(value),
  );
  tx.speaksOf(times.id);
  recordTrace(tx, { kind: "decision", operation: "item_put" });
  const scope = tx.entry.effective ?? tx.entry.trace.tags;
  const updatedAt = instant(times.updatedAt);
  // Whether there was a value before is for those who may read.
  const createdAt = tx.entry.verbs.includes("memory:read") ? instant(times.createdAt) : updatedAt;
  return { key, value, scope, scopes: scopePaths(scope), createdAt, updatedAt };
}

/** The value of the visible scope with most tags; of two with as many, of the first by canonical path. */
export async function getItem(tx: ScopedTransaction, key: string): Promise<KeyedItem> {
  const row = await tx.row<Row>(sql`
    SELECT ${COLUMNS} FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id
    WHERE ${tx.isNamed("m", "key_hash", key)} AND ${IS_KEPT} ORDER BY ${NARROWEST_FIRST} LIMIT 1`);
  if (row === undefined) throw notFound();
  recordTrace(tx, { kind: "retrieval", operation: "item", sources: [row.id], returned: 1 });
  return toItem(row);
}

/** The keys that begin so, each with the value that {@link getItem} gives, in the order of their keys. */
export async function listItems(
  tx: ScopedTransaction,
  filter: { prefix: string; limit: number; offset: number },
): Promise<KeyedItem[]> {
  const select = sql`
    SELECT * FROM (
      SELECT DISTINCT ON (m.key) ${COLUMNS} FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id
      WHERE starts_with(m.key, ${filter.prefix}) AND ${IS_KEPT} ORDER BY m.key, ${NARROWEST_FIRST}) AS narrowest
    ORDER BY key COLLATE "C" LIMIT ${filter.limit} OFFSET ${filter.offset}`;
  const rows = (await tx.rows<Row>(withinAnswer(select, "value"))).map(uncounted);
  recordTrace(tx, { kind: "retrieval", operation: "items", sources: rows.map(({ id }) => id), returned: rows.length });
  return rows.map(toItem);
}

/** Deletes the value at E, and shows again what stood behind it. */
export async function deleteItem(tx: ScopedTransaction, key: string): Promise<void> {
  await tx.call("drop_cached_answers");
  const items = await tx.removeIds("memory_item", tx.isNamed("memory_item", "key_hash", key));
  if (items.length === 0) throw notFound();
  await writeReceipt(
    tx,
    { policy: "item", action: "erase", subtree: false, items: { items } },
    { memory_item: items.length },
  );
  recordTrace(tx, { kind: "decision", operation: "item_delete" });
}

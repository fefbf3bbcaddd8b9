import { v7 as uuid } from "uuid";
import { uncounted, withinAnswer } from "../db/access/budget.ts";
import { json, list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { AppError, notFound } from "../errors.ts";
import { type Scope, scopeFromDatabase, scopePaths } from "../scope/scope.ts";
import { writeReceipt } from "../traces/receipt.ts";
import { recordTrace, spending } from "../traces/record.ts";
import { NARROWEST_FIRST } from "./entities.ts";
import { type ItemFilter, matching } from "./item-filter.ts";
import { type RecalledItems, recallItems } from "./recalled-items.ts";

/** One value of the keyed store, and the scope that it is of. */
export interface KeyedItem {
  readonly key: string;
  readonly value: unknown;
  readonly scope: Scope;
  readonly scopes: string[][];
  readonly createdAt: string;
  readonly updatedAt: string;
  /** From 1 on; absent for those who may not read. */
  readonly version?: number;
  readonly expiresAt?: string;
  readonly ttlSeconds?: number;
}

interface Row extends Omit<KeyedItem, "scope" | "scopes" | "expiresAt" | "ttlSeconds"> {
  readonly tags: Record<string, string>;
  readonly id: string;
  readonly expiresAt: string | null;
  readonly ttlSeconds: number | null;
  readonly refreshes: boolean;
}

function toItem({ tags, id: _, refreshes: __, expiresAt, ttlSeconds, ...row }: Row): KeyedItem {
  const scope = scopeFromDatabase(tags);
  return {
    ...row,
    scope,
    scopes: scopePaths(scope),
    ...(expiresAt === null ? {} : { expiresAt }),
    ...(ttlSeconds === null ? {} : { ttlSeconds }),
  };
}

const COLUMNS = sql`
  m.id, m.key, m.value, d.tags, m.created_at AS "createdAt", m.updated_at AS "updatedAt", m.version, m.expires_at AS "expiresAt",
  m.ttl_seconds AS "ttlSeconds", m.refresh_on_read AS refreshes`;
/** A condition on an item under the alias m: that it is not over. */
export const IS_KEPT = sql`(m.expires_at > now()) IS NOT FALSE`;

/** What is to be done with a key. */
export type ItemOperation = { readonly key: string; readonly ifVersion?: number | undefined } & (
  | {
      readonly op: "put";
      readonly value: unknown;
      readonly ttlSeconds?: number | undefined;
      readonly refreshOnRead?: boolean | undefined;
      /** The fields that recall finds it by (item-text.ts); absent: none. */
      readonly index?: readonly string[] | undefined;
    }
  | { readonly op: "delete" }
);

interface Done {
  readonly id: string | null;
  readonly version?: number | null;
  readonly createdAt?: string;
  readonly updatedAt?: string;
  readonly expiresAt?: string | null;
}
type Outcome =
  | { readonly results: readonly Done[]; readonly receipt: string | null }
  | { readonly conflict: { readonly key: string; readonly version: number } };

/**
 * Sets and deletes keys at the write scope, all or none. Gives for each the item, or whether there was one to delete.
 *
 * @throws AppError 403 for what only those may do who read, 409 where another version is there than the one named
 */
export async function putItems(
  tx: ScopedTransaction,
  operations: readonly ItemOperation[],
  recalled?: RecalledItems | undefined,
): Promise<(KeyedItem | { readonly key: string; readonly deleted: boolean })[]> {
  const looks = operations.some(({ op, ifVersion }) => op === "delete" || ifVersion !== undefined);
  if (looks && !tx.entry.verbs.includes("memory:read"))
    throw new AppError("forbidden", "this key does not have the verb memory:read, which ifVersion and deleting take");
  const outcome = await tx.call<Outcome>("put_items", json(operations.map((one) => ({ id: uuid(), ...one }))));
  if ("conflict" in outcome) {
    const { key, version } = outcome.conflict;
    const there = version === 0 ? "there is no item" : `version ${version} is there`;
    throw new AppError("conflict", `${JSON.stringify(key)}: ${there}, and nothing was changed`);
  }
  if (outcome.receipt !== null) tx.noteReceipt(outcome.receipt);
  tx.speaksOf(...outcome.results.flatMap(({ id, version }) => (id === null || version === undefined ? [] : [id])));
  if (recalled !== undefined) await recallItems(tx, recalled, outcome.results);
  const spent = recalled === undefined ? {} : spending(recalled.now);
  recordTrace(tx, { kind: "decision", operation: "item_put", returned: operations.length, ...spent });
  const scope = tx.entry.effective ?? tx.entry.trace.tags;
  return operations.map((one, i) => {
    const { id, version, createdAt = "", updatedAt = "", expiresAt } = outcome.results[i] as Done;
    if (one.op === "delete") return { key: one.key, deleted: id !== null };
    return {
      key: one.key,
      value: one.value,
      scope,
      scopes: scopePaths(scope),
      createdAt,
      updatedAt,
      ...(typeof version === "number" ? { version } : {}),
      ...(typeof expiresAt === "string" ? { expiresAt } : {}),
      ...(one.ttlSeconds === undefined ? {} : { ttlSeconds: one.ttlSeconds }),
    };
  });
}

/** The value of the visible scope with most tags; of two with as many, of the first by canonical path. */
export async function getItem(tx: ScopedTransaction, key: string): Promise<KeyedItem> {
  const row = await tx.row<Row>(sql`
    SELECT ${COLUMNS} FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id
    WHERE ${tx.isNamed("m", "key_hash", key)} AND ${IS_KEPT} ORDER BY ${NARROWEST_FIRST} LIMIT 1`);
  if (row === undefined) throw notFound();
  await refresh(tx, [row]);
  recordTrace(tx, { kind: "retrieval", operation: "item", sources: [row.id], returned: 1 });
  return toItem(row);
}

/** Those that stay for longer once they are read. */
async function refresh(tx: ScopedTransaction, rows: readonly Row[]): Promise<void> {
  const ids = rows.flatMap(({ id, refreshes }) => (refreshes ? [id] : []));
  if (ids.length > 0) await tx.call("refresh_items", sql`${list(ids)}::uuid[]`);
}

export const ITEM_ORDERS = ["key", "-key", "createdAt", "-createdAt", "updatedAt", "-updatedAt"] as const;
export type ItemOrder = (typeof ITEM_ORDERS)[number];

const ORDERS: Record<ItemOrder, ReturnType<typeof sql>> = {
  key: sql`key COLLATE "C", id`,
  "-key": sql`key COLLATE "C" DESC, id DESC`,
  createdAt: sql`"createdAt", id`,
  "-createdAt": sql`"createdAt" DESC, id DESC`,
  updatedAt: sql`"updatedAt", id`,
  "-updatedAt": sql`"updatedAt" DESC, id DESC`,
};

export interface ItemList {
  readonly prefix: string;
  readonly filter: ItemFilter;
  readonly order: ItemOrder;
  /** Every scope's value of a key, and not the narrowest one's alone. */
  readonly ofEachScope: boolean;
  readonly limit: number;
  readonly offset: number;
}

/** The keys that begin so, each with the value that {@link getItem} gives, where that value fits the filter. */
export async function listItems(
  tx: ScopedTransaction,
  { prefix, filter, order, ofEachScope, limit, offset }: ItemList,
): Promise<KeyedItem[]> {
  const narrowest = ofEachScope ? sql`` : sql`DISTINCT ON (m.key)`;
  const select = sql`
    SELECT * FROM (
      SELECT ${narrowest} ${COLUMNS} FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id
      WHERE starts_with(m.key, ${prefix}) AND ${IS_KEPT} ORDER BY m.key, ${NARROWEST_FIRST}) AS narrowest
    WHERE ${matching(sql`narrowest.value`, filter)}
    ORDER BY ${ORDERS[order]} LIMIT ${limit} OFFSET ${offset}`;
  const rows = (await tx.rows<Row>(withinAnswer(select, "value"))).map(uncounted);
  await refresh(tx, rows);
  recordTrace(tx, { kind: "retrieval", operation: "items", sources: rows.map(({ id }) => id), returned: rows.length });
  return rows.map(toItem);
}

export interface KeyList {
  readonly prefix: string;
  /** What separates the parts of keys; empty: keys have one part. */
  readonly delimiter: string;
  readonly limit: number;
  readonly offset: number;
}

/**
 * The keys that begin so, without their values. Of those with the delimiter behind the prefix only what is up to
 * there, each once with how many keys it stands for.
 */
export async function listKeys(tx: ScopedTransaction, { prefix, delimiter, limit, offset }: KeyList) {
  // Keys are ASCII: so is whatever they begin with.
  const [behind, width] = [prefix.length, delimiter.length];
  const rows = await tx.rows<{ name: string; isPrefix: boolean; keys: number }>(sql`
    SELECT k.name, k.is_prefix AS "isPrefix", count(*)::int AS keys FROM (
      SELECT DISTINCT m.key, cut.at > 0 AS is_prefix,
        CASE WHEN cut.at > 0 THEN left(m.key, ${behind}::int + cut.at - 1 + ${width}::int) ELSE m.key END AS name
      FROM ${tx.read("memory_item", "m")},
        LATERAL (SELECT CASE WHEN ${width}::int > 0 THEN strpos(substr(m.key, ${behind}::int + 1), ${delimiter}) ELSE 0 END AS at) cut
      WHERE starts_with(m.key, ${prefix}) AND ${IS_KEPT}) AS k
    GROUP BY k.name, k.is_prefix ORDER BY k.name COLLATE "C" LIMIT ${limit} OFFSET ${offset}`);
  recordTrace(tx, { kind: "retrieval", operation: "items", returned: rows.length });
  return {
    keys: rows.flatMap(({ name, isPrefix }) => (isPrefix ? [] : [name])),
    prefixes: rows.flatMap(({ name, isPrefix, keys }) => (isPrefix ? [{ prefix: name, keys }] : [])),
  };
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

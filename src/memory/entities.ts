import { uncounted, withinAnswer } from "../db/access/budget.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { notFound } from "../errors.ts";
import { type Scope, scopeFromDatabase } from "../scope/scope.ts";
import { writeReceipt } from "../traces/receipt.ts";
import { recordTrace } from "../traces/record.ts";
import type { EntityName } from "./triples.ts";

/** A moment in the two times of a fact: when it was believed, and when it was true. */
export interface Moment {
  /** As known then. */
  readonly asOf?: string | undefined;
  /** What was true then. */
  readonly atInstant?: string | undefined;
  /** What was true at some time of this span. */
  readonly validFrom?: string | undefined;
  readonly validUntil?: string | undefined;
}

export interface Entity extends EntityName {
  readonly id: string;
  readonly scope: Scope;
  readonly createdAt: string;
}

export interface Fact {
  readonly id: string;
  readonly entity: EntityName;
  readonly key: string;
  readonly category: string | null;
  readonly validFrom: string;
  readonly validUntil: string | null;
  readonly supersededBy: string | null;
  readonly createdAt: string;
  readonly closedAt: string | null;
  readonly sessionId: string | null;
  readonly turnId: string | null;
  readonly scope: Scope;
}

export interface Attribute extends Fact {
  readonly value: unknown;
}

export interface Relation extends Fact {
  readonly target: EntityName;
}

type Raw<T> = Omit<T, "scope"> & { readonly tags: Record<string, string> };
const withScope = <T extends { readonly scope: Scope }>({ tags, ...row }: Raw<T>) =>
  ({ ...row, scope: scopeFromDatabase(tags) }) as unknown as T;

/** The narrowest scope first, then by canonical path, which `org` begins. */
export const NARROWEST_FIRST = sql`
  (SELECT count(*) FROM jsonb_object_keys(d.tags)) DESC,
  (SELECT string_agg(t.key || '/' || t.value, '/' ORDER BY t.key <> 'org', t.key COLLATE "C") FROM jsonb_each_text(d.tags) t) COLLATE "C"`;

/** Conditions on a fact under the alias f. Without a moment: what is current. */
function atMoment({ asOf, atInstant, validFrom, validUntil }: Moment): SQL {
  const conditions: SQL[] = [sql`f.expired_at IS NULL`];
  // What was closed only later was still open as known then.
  const until =
    asOf === undefined
      ? sql`f.valid_until`
      : sql`CASE WHEN f.closed_at > ${asOf}::timestamptz THEN NULL ELSE f.valid_until END`;
  if (asOf !== undefined) conditions.push(sql`f.created_at <= ${asOf}::timestamptz`);
  if (atInstant !== undefined) {
    conditions.push(
      sql`f.valid_from <= ${atInstant}::timestamptz AND coalesce(${until} > ${atInstant}::timestamptz, true)`,
    );
  }
  if (validFrom !== undefined) conditions.push(sql`coalesce(${until} > ${validFrom}::timestamptz, true)`);
  if (validUntil !== undefined) conditions.push(sql`f.valid_from <= ${validUntil}::timestamptz`);
  if (atInstant === undefined && validFrom === undefined && validUntil === undefined) {
    conditions.push(
      asOf === undefined ? sql`f.closed_at IS NULL` : sql`(f.closed_at IS NULL OR f.closed_at > ${asOf}::timestamptz)`,
    );
  }
  return sql.join(conditions, sql` AND `);
}

const FACT = sql`
  f.id, jsonb_build_object('type', e.type, 'name', e.name) AS entity, f.key, f.category, f.valid_from AS "validFrom",
  f.valid_until AS "validUntil", f.superseded_by AS "supersededBy", f.created_at AS "createdAt", f.closed_at AS "closedAt",
  f.session_id AS "sessionId", f.turn_id AS "turnId", d.tags`;

const ORDER = sql`ORDER BY ${NARROWEST_FIRST}, e.type, e.name, f.key, f.valid_from DESC, f.id`;

/** At most; more is what recall is for. */
const MAX_FACTS = 2_000;

export async function attributesWhere(tx: ScopedTransaction, where: SQL, moment: Moment = {}): Promise<Attribute[]> {
  const select = sql`
    SELECT ${FACT}, f.value FROM ${tx.read("attribute", "f")}
    JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
    JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id
    WHERE ${atMoment(moment)} AND ${where} ${ORDER} LIMIT ${MAX_FACTS}`;
  const rows = await tx.rows<Raw<Attribute>>(withinAnswer(select, "value"));
  return rows.map((row) => asKnown(withScope<Attribute>(uncounted(row)), moment));
}

export async function relationsWhere(tx: ScopedTransaction, where: SQL, moment: Moment = {}): Promise<Relation[]> {
  const rows = await tx.rows<Raw<Relation>>(sql`
    SELECT ${FACT}, jsonb_build_object('type', o.type, 'name', o.name) AS target FROM ${tx.read("relation", "f")}
    JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
    JOIN ${tx.read("entity", "o")} ON o.scope_id = f.scope_id AND o.id = f.target_id
    JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id
    WHERE ${atMoment(moment)} AND ${where} ${ORDER} LIMIT ${MAX_FACTS}`);
  return rows.map((row) => asKnown(withScope<Relation>(row), moment));
}

/** As known then, what closed a fact later has not happened yet. */
function asKnown<T extends Fact>(fact: T, { asOf }: Moment): T {
  return asOf !== undefined && fact.closedAt !== null && fact.closedAt > asOf
    ? { ...fact, validUntil: null, supersededBy: null, closedAt: null }
    : fact;
}

/** By type and name; of the same name in several scopes the narrowest first. */
export async function listEntities(
  tx: ScopedTransaction,
  filter: { type?: string | undefined; limit: number; offset: number },
): Promise<Entity[]> {
  const rows = await tx.rows<Raw<Entity>>(sql`
    SELECT e.id, e.type, e.name, e.created_at AS "createdAt", d.tags FROM ${tx.read("entity", "e")}
    JOIN ${tx.read("scope", "d")} ON d.id = e.scope_id
    WHERE ${filter.type === undefined ? sql`true` : sql`e.type = ${filter.type}`}
    ORDER BY e.type, e.name, ${NARROWEST_FIRST}, e.id LIMIT ${filter.limit} OFFSET ${filter.offset}`);
  recordTrace(tx, { kind: "retrieval", operation: "entities", returned: rows.length });
  return rows.map((row) => withScope<Entity>(row));
}

/** A condition on an entity under the alias e; its type and name are one word to look up by (src/db/sql/1_access/9_words.sql). */
const isNamed = (tx: ScopedTransaction, { type, name }: EntityName): SQL =>
  tx.isNamed("e", "name_hash", `${type}\u001f${name}`);

async function entitiesNamed(tx: ScopedTransaction, { type, name }: EntityName): Promise<Entity[]> {
  const rows = await tx.rows<Raw<Entity>>(sql`
    SELECT e.id, e.type, e.name, e.created_at AS "createdAt", d.tags FROM ${tx.read("entity", "e")}
    JOIN ${tx.read("scope", "d")} ON d.id = e.scope_id
    WHERE ${isNamed(tx, { type, name })} ORDER BY ${NARROWEST_FIRST}, e.id LIMIT ${MAX_FACTS}`);
  if (rows.length === 0) throw notFound();
  return rows.map((row) => withScope<Entity>(row));
}

export interface DescribedEntity {
  /** The narrowest visible scope's. */
  readonly entity: Entity;
  /** Of every visible scope, the narrowest first. */
  readonly attributes: readonly Attribute[];
  readonly relations: readonly Relation[];
}

export async function describeEntity(
  tx: ScopedTransaction,
  named: EntityName,
  moment: Moment = {},
): Promise<DescribedEntity> {
  const [entity] = await entitiesNamed(tx, named);
  if (entity === undefined) throw notFound();
  const where = isNamed(tx, named);
  const [attributes, relations] = await Promise.all([
    attributesWhere(tx, where, moment),
    relationsWhere(tx, where, moment),
  ]);
  recordTrace(tx, {
    kind: "retrieval",
    operation: "entities",
    sources: [...attributes, ...relations].map(({ id }) => id),
    returned: attributes.length + relations.length,
  });
  return { entity, attributes, relations };
}

const ALWAYS: Moment = { validFrom: "1000-01-01T00:00:00.000Z" };
const newestFirst = (a: Fact, b: Fact) =>
  b.validFrom.localeCompare(a.validFrom) || b.createdAt.localeCompare(a.createdAt) || b.id.localeCompare(a.id);

async function factsEver(tx: ScopedTransaction, where: SQL): Promise<(Attribute | Relation)[]> {
  const facts = [...(await attributesWhere(tx, where, ALWAYS)), ...(await relationsWhere(tx, where, ALWAYS))];
  recordTrace(tx, {
    kind: "retrieval",
    operation: "history",
    sources: facts.map(({ id }) => id),
    returned: facts.length,
  });
  return facts.sort(newestFirst);
}

/** What was ever said of an entity under a key, newest first, as far as one answer goes. */
export async function historyOf(
  tx: ScopedTransaction,
  named: EntityName,
  key: string,
): Promise<(Attribute | Relation)[]> {
  await entitiesNamed(tx, named);
  return factsEver(tx, sql`${isNamed(tx, named)} AND ${tx.isNamed("f", "key_hash", key)}`);
}

/** The same under every key, the keys in their order. */
export async function wholeHistoryOf(tx: ScopedTransaction, named: EntityName): Promise<(Attribute | Relation)[]> {
  const facts = await factsEver(tx, isNamed(tx, named));
  return facts.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
}

/** Deletes an entity with everything that is said of it and that points at it. */
export async function deleteEntity(tx: ScopedTransaction, named: EntityName): Promise<void> {
  await tx.call("drop_cached_answers");
  const rows = await tx.rows<{ id: string }>(sql`
    SELECT e.id FROM ${tx.read("entity", "e")} WHERE ${isNamed(tx, named)}`);
  const entities = await removeEntities(
    tx,
    rows.map(({ id }) => id),
  );
  if (entities.length === 0) throw notFound();
  await writeReceipt(
    tx,
    { policy: "entity", action: "erase", subtree: false, items: { entities } },
    { entity: entities.length },
  );
  recordTrace(tx, { kind: "decision", operation: "entity_delete", returned: entities.length });
}

/** Gives the ids of those that there were to remove. */
export async function removeEntities(tx: ScopedTransaction, entities: readonly string[]): Promise<string[]> {
  const ids = list(entities);
  const facts = sql`
    SELECT f.id FROM ${tx.read("attribute", "f")} WHERE f.entity_id = ANY (${ids}::uuid[])
    UNION ALL SELECT f.id FROM ${tx.read("relation", "f")} WHERE f.entity_id = ANY (${ids}::uuid[]) OR f.target_id = ANY (${ids}::uuid[])`;
  await tx.remove("posting", sql`passage_id IN (${facts})`);
  await tx.remove("passage", sql`kind = 'attribute' AND id IN (${facts})`);
  await tx.remove("attribute", sql`entity_id = ANY (${ids}::uuid[])`);
  await tx.remove("relation", sql`entity_id = ANY (${ids}::uuid[]) OR target_id = ANY (${ids}::uuid[])`);
  return tx.removeIds("entity", sql`id = ANY (${ids}::uuid[])`);
}

import { uncounted, withinAnswer } from "../db/access/budget.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { notFound } from "../errors.ts";
import { type Scope, scopeFromDatabase } from "../scope/scope.ts";
import { identityOf, normalKey } from "../text/names.ts";
import { writeReceipt } from "../traces/receipt.ts";
import { recordTrace } from "../traces/record.ts";
import { EVER, factsAt, type Moment, withTables } from "./fact-timeline.ts";
import type { EntityName } from "./triples.ts";

export interface Entity extends EntityName {
  readonly id: string;
  readonly scope: Scope;
  readonly createdAt: string;
}

export interface Fact {
  readonly id: string;
  readonly entity: EntityName;
  readonly entityId: string;
  readonly entityCreatedAt: string;
  readonly key: string;
  readonly category: string | null;
  readonly validFrom: string;
  readonly validUntil: string | null;
  readonly supersededBy: string | null;
  readonly createdAt: string;
  readonly closedAt: string | null;
  readonly sessionId: string | null;
  readonly turnId: string | null;
  readonly labels: readonly string[];
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

const FACT = sql`
  f.id, jsonb_build_object('type', e.type, 'name', e.name) AS entity, e.id AS "entityId", e.created_at AS "entityCreatedAt", f.key, f.category, f.valid_from AS "validFrom",
  f.known_until AS "validUntil", f.known_by AS "supersededBy", f.created_at AS "createdAt", f.known_closed AS "closedAt",
  f.session_id AS "sessionId", f.turn_id AS "turnId", to_jsonb(f.labels) AS labels, d.tags, (count(*) OVER ())::int AS total`;

const ORDER = sql`ORDER BY ${NARROWEST_FIRST}, e.type, e.name, f.key, f.valid_from DESC, f.id`;

/** At most; more is what recall is for. */
const MAX_FACTS = 2_000;

/** The first rows of a list, and whether there are more than these. */
export interface FirstOf<T> extends ReadonlyArray<T> {
  readonly isCut: boolean;
}

/** @param where a condition on a row f and its entity e, about the entity and the key alone */
export async function attributesWhere(
  tx: ScopedTransaction,
  where: SQL,
  moment: Moment = {},
): Promise<FirstOf<Attribute>> {
  const facts = factsAt(tx, "attribute", where, moment);
  const select = sql`
    SELECT ${FACT}, f.value FROM ${facts.from}
    JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
    JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id ${ORDER} LIMIT ${MAX_FACTS}`;
  const rows = await tx.rows<Counted<Attribute>>(sql`${withTables(facts.tables)} ${withinAnswer(select, "value")}`);
  return firstFacts(rows.map(uncounted));
}

/** The same of relations. */
export async function relationsWhere(
  tx: ScopedTransaction,
  where: SQL,
  moment: Moment = {},
): Promise<FirstOf<Relation>> {
  const facts = factsAt(tx, "relation", where, moment);
  const rows = await tx.rows<Counted<Relation>>(sql`
    ${withTables(facts.tables)}
    SELECT ${FACT}, jsonb_build_object('type', o.type, 'name', o.name) AS target FROM ${facts.from}
    JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
    JOIN ${tx.read("entity", "o")} ON o.scope_id = f.scope_id AND o.id = f.target_id
    JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id ${ORDER} LIMIT ${MAX_FACTS}`);
  return firstFacts(rows);
}

type Counted<T> = Raw<T> & { readonly total: number };

function firstFacts<T extends Fact>(rows: readonly Counted<T>[]): FirstOf<T> {
  const facts = rows.map(({ total: _, ...row }) => withScope<T>(row as unknown as Raw<T>));
  return Object.assign(facts, { isCut: facts.length < (rows[0]?.total ?? 0) });
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

/** A condition on an entity under the alias e: that it is of this name, however that is spelled in Unicode. */
const isNamed = (tx: ScopedTransaction, { type, name }: EntityName): SQL =>
  tx.isNamed("e", "name_hash", identityOf({ type, name }));

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

const newestFirst = (a: Fact, b: Fact) =>
  b.validFrom.localeCompare(a.validFrom) || b.createdAt.localeCompare(a.createdAt) || b.id.localeCompare(a.id);

async function factsEver(tx: ScopedTransaction, where: SQL): Promise<(Attribute | Relation)[]> {
  const facts = [...(await attributesWhere(tx, where, EVER)), ...(await relationsWhere(tx, where, EVER))];
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
  return factsEver(tx, sql`${isNamed(tx, named)} AND ${tx.isNamed("f", "key_hash", normalKey(key))}`);
}

/** How an entity stands to others under a key. */
export async function relationsOf(
  tx: ScopedTransaction,
  named: EntityName,
  key: string,
  moment: Moment,
): Promise<FirstOf<Relation>> {
  await entitiesNamed(tx, named);
  const where = sql`${isNamed(tx, named)} AND ${tx.isNamed("f", "key_hash", normalKey(key))}`;
  const relations = await relationsWhere(tx, where, moment);
  const sources = relations.map(({ id }) => id);
  recordTrace(tx, { kind: "retrieval", operation: "entities", sources, returned: sources.length });
  return relations;
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
  // Who says something of one meanwhile waits, and makes it anew.
  await tx.call("hold_entities", sql`${ids}::uuid[]`);
  const facts = await tx.rows<{ id: string }>(sql`
    SELECT f.id FROM ${tx.read("attribute", "f")} WHERE f.entity_id = ANY (${ids}::uuid[])
    UNION ALL SELECT f.id FROM ${tx.read("relation", "f")} WHERE f.entity_id = ANY (${ids}::uuid[]) OR f.target_id = ANY (${ids}::uuid[])`);
  const factIds = list(facts.map(({ id }) => id));
  await tx.remove("passage", sql`kind = 'attribute' AND id = ANY (${factIds}::uuid[])`);
  await tx.call("forget_facts", sql`${factIds}::uuid[]`, true);
  return tx.removeIds("entity", sql`id = ANY (${ids}::uuid[])`);
}

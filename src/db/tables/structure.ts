import { sql } from "drizzle-orm";
import {
  boolean,
  foreignKey,
  index,
  integer,
  jsonb,
  primaryKey,
  smallint,
  text,
  unique,
  uuid,
} from "drizzle-orm/pg-core";
import { bytea, createdAt, lookupHash, place, scopefloor, time } from "./columns.ts";

/** Something with a name and a type that facts are about. */
export const entity = scopefloor.table(
  "entity",
  {
    ...place(),
    id: uuid("id").notNull(),
    type: text("type").notNull(),
    name: text("name").notNull(),
    /** Type and name in the normal form of texts, with U+001F between: what makes two names one entity. */
    identity: text("identity").notNull().default(""),
    nameHash: lookupHash("name_hash"),
    /** The name in that form and in lower case: what a question finds it by. */
    folded: text("folded").notNull().default(""),
    foldedHash: lookupHash("folded_hash"),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("entity_id").on(t.id),
    unique("entity_name").on(t.scopeId, t.nameHash, t.tenantId),
    index("entity_folded").on(t.scopeId, t.foldedHash),
  ],
);

/**
 * What was observed of an entity under a key, each time that it was said. `valid_from` is when it was
 * observed, `created_at` when it was learnt. What says the same as the observation before it confirms
 * that one; the first of such a run is the fact that is shown. Where it ends (`valid_until`,
 * `superseded_by`, `closed_at`) follows from the observations (scopefloor.settle_facts), whatever the order
 * in which they came: docs/concepts.md, "Two times".
 */
const fact = () => ({
  ...place(),
  id: uuid("id").notNull(),
  entityId: uuid("entity_id").notNull(),
  key: text("key").notNull(),
  /** The one spelling of the key, by which it is found. */
  normalKey: text("normal_key").notNull().default(""),
  keyHash: lookupHash("key_hash"),
  category: text("category"),
  /** The fact in words, as recall finds and shows it, and its model tokens. */
  sentence: text("sentence").notNull().default(""),
  tokens: integer("tokens").notNull().default(0),
  /** What the sentence is found by, as its passage has it: a fact that comes back has it again at once. Null: stored before there was any. */
  terms: bytea("terms"),
  lexemes: integer("lexemes").notNull().default(0),
  languages: text("languages").notNull().default(""),
  analyser: smallint("analyser").notNull().default(0),
  labels: text("labels").array().notNull().default(sql`'{}'`),
  validFrom: time("valid_from").notNull(),
  /** What was said together under one key is one observation: the least id among it. */
  observationId: uuid("observation_id").notNull(),
  isConfirmation: boolean("is_confirmation").notNull().default(false),
  /** Where it ends by itself: what is so for a while. */
  endsAt: time("ends_at"),
  /** From when on something else was known that was forgotten since, and when that had been learnt. */
  cutAt: time("cut_at"),
  cutKnownAt: time("cut_known_at"),
  validUntil: time("valid_until"),
  supersededBy: uuid("superseded_by"),
  closedAt: time("closed_at"),
  sessionId: uuid("session_id"),
  turnId: uuid("turn_id"),
  apiKeyId: uuid("api_key_id").notNull(),
  createdAt: createdAt(),
  expiredAt: time("expired_at"),
});

export const attribute = scopefloor.table("attribute", { ...fact(), value: jsonb("value").notNull() }, (t) => [
  primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
  index("attribute_key").on(t.scopeId, t.entityId, t.keyHash, t.validFrom, t.observationId),
  index("attribute_head")
    .on(t.scopeId, t.entityId, t.keyHash, t.validFrom, t.observationId)
    .where(sql`NOT is_confirmation`),
  index("attribute_id").on(t.id),
  index("attribute_ending").on(t.scopeId, t.validUntil).where(sql`closed_at IS NULL AND valid_until IS NOT NULL`),
  // For the worker, which closes what is over in every scope.
  index("attribute_over").on(t.validUntil).where(sql`closed_at IS NULL AND valid_until IS NOT NULL`),
  foreignKey({
    columns: [t.scopeId, t.entityId, t.tenantId],
    foreignColumns: [entity.scopeId, entity.id, entity.tenantId],
  }).onDelete("cascade"),
]);

export const relation = scopefloor.table("relation", { ...fact(), targetId: uuid("target_id").notNull() }, (t) => [
  primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
  index("relation_key").on(t.scopeId, t.entityId, t.keyHash, t.validFrom, t.observationId),
  index("relation_head")
    .on(t.scopeId, t.entityId, t.keyHash, t.validFrom, t.observationId)
    .where(sql`NOT is_confirmation`),
  index("relation_id").on(t.id),
  index("relation_ending").on(t.scopeId, t.validUntil).where(sql`closed_at IS NULL AND valid_until IS NOT NULL`),
  index("relation_over").on(t.validUntil).where(sql`closed_at IS NULL AND valid_until IS NOT NULL`),
  index("relation_target").on(t.scopeId, t.targetId),
  foreignKey({
    name: "relation_entity_fk",
    columns: [t.scopeId, t.entityId, t.tenantId],
    foreignColumns: [entity.scopeId, entity.id, entity.tenantId],
  }).onDelete("cascade"),
  foreignKey({
    name: "relation_target_fk",
    columns: [t.scopeId, t.targetId, t.tenantId],
    foreignColumns: [entity.scopeId, entity.id, entity.tenantId],
  }).onDelete("cascade"),
]);

/** The keyed store: one JSON value for a key at a scope. */
export const memoryItem = scopefloor.table(
  "memory_item",
  {
    ...place(),
    key: text("key").notNull(),
    keyHash: lookupHash("key_hash"),
    id: uuid("id").notNull(),
    value: jsonb("value").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
    updatedAt: time("updated_at").notNull().default(sql`now()`),
    /** From 1 on, one more with each value that it is given. */
    version: integer("version").notNull().default(1),
    /** From then on it is not there any more; null: it stays. */
    expiresAt: time("expires_at"),
    /** How long it stays after it is set, in seconds; and whether after it is read, too. */
    ttlSeconds: integer("ttl_seconds"),
    refreshOnRead: boolean("refresh_on_read").notNull().default(false),
    /** The fields of the value that recall finds it by, as its passage has them; null: it is not recalled. */
    indexed: text("indexed").array(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.keyHash, t.tenantId] }),
    index("memory_item_id").on(t.id),
    // For the worker, which deletes what is over in every scope.
    index("memory_item_over").on(t.expiresAt).where(sql`expires_at IS NOT NULL`),
  ],
);

import { sql } from "drizzle-orm";
import { foreignKey, index, jsonb, primaryKey, text, unique, uuid } from "drizzle-orm/pg-core";
import { createdAt, lookupHash, place, scopefloor, time } from "./columns.ts";

/** Something with a name and a type that facts are about. */
export const entity = scopefloor.table(
  "entity",
  {
    ...place(),
    id: uuid("id").notNull(),
    type: text("type").notNull(),
    name: text("name").notNull(),
    nameHash: lookupHash("name_hash"),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("entity_id").on(t.id),
    unique("entity_name").on(t.scopeId, t.nameHash, t.tenantId),
  ],
);

/**
 * When a fact was true (`valid_…`, from what was observed) and when it was believed (`created_at` to
 * `closed_at`). A newer value for the same key closes it; nothing is overwritten.
 */
const fact = () => ({
  ...place(),
  id: uuid("id").notNull(),
  entityId: uuid("entity_id").notNull(),
  key: text("key").notNull(),
  keyHash: lookupHash("key_hash"),
  category: text("category"),
  validFrom: time("valid_from").notNull(),
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
  index("attribute_key").on(t.scopeId, t.entityId, t.keyHash),
  foreignKey({
    columns: [t.scopeId, t.entityId, t.tenantId],
    foreignColumns: [entity.scopeId, entity.id, entity.tenantId],
  }).onDelete("cascade"),
]);

export const relation = scopefloor.table("relation", { ...fact(), targetId: uuid("target_id").notNull() }, (t) => [
  primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
  index("relation_key").on(t.scopeId, t.entityId, t.keyHash),
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
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.keyHash, t.tenantId] })],
);

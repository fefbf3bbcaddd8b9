import { sql } from "drizzle-orm";
import { boolean, index, integer, jsonb, real, text, uuid } from "drizzle-orm/pg-core";
import { bytea, createdAt, place, scopefloor, time } from "./columns.ts";

export const apiKey = scopefloor.table(
  "api_key",
  {
    id: uuid("id").primaryKey(),
    /** The scope of the key's floor. */
    ...place(),
    parentId: uuid("parent_id"),
    name: text("name").notNull(),
    principal: text("principal").notNull(),
    floor: jsonb("floor").notNull(),
    verbs: text("verbs").array().notNull(),
    /** What it was minted with: as much can be given back. */
    mintedVerbs: text("minted_verbs").array().notNull(),
    /** The floor of the key that took verbs from it, of several the one above. */
    narrowedBy: jsonb("narrowed_by"),
    content: boolean("content").notNull().default(true),
    /** `strict` or `subtree`: what it sees where a request does not say. Null: `strict` for an agent, `subtree` for others. */
    defaultView: text("default_view"),
    /** SHA-256 of the SHA-256 of the secret: reading this table opens nothing. */
    secretHash: bytea("secret_hash").notNull().unique(),
    previousHash: bytea("previous_hash"),
    previousUntil: time("previous_until"),
    createdAt: createdAt(),
    expiresAt: time("expires_at"),
    revokedAt: time("revoked_at"),
    lastUsedAt: time("last_used_at"),
    /** When its secret, its rights or its end were last changed. */
    changedAt: time("changed_at"),
  },
  (t) => [
    index("api_key_previous_hash").on(t.previousHash).where(sql`previous_hash IS NOT NULL`),
    index("api_key_parent").on(t.parentId, t.createdAt),
    index("api_key_scope").on(t.scopeId),
    index("api_key_tenant").on(t.tenantId),
  ],
);

/** The secrets that sign tickets, as HMAC pads; two are valid at a time. */
export const ticketSecret = scopefloor.table("ticket_secret", {
  id: integer("id").primaryKey().generatedByDefaultAsIdentity(),
  innerPad: bytea("inner_pad").notNull(),
  outerPad: bytea("outer_pad").notNull(),
  createdAt: createdAt(),
});

export const context = scopefloor.table("context", {
  id: text("id").primaryKey(),
  config: jsonb("config").notNull().default({}),
  /** The newest analysis that any service here makes of texts (src/text/analysis/analyse.ts); 0: none has started yet. */
  analyser: integer("analyser").notNull().default(0),
  createdAt: createdAt(),
});

/** Embedding models. */
export const embedder = scopefloor.table("embedder", {
  /** A hash of the name (`scopefloor.embedder_number`): one model has one number in every deployment. */
  id: integer("id").primaryKey(),
  name: text("name").notNull().unique(),
  dimensions: integer("dimensions").notNull(),
  /** Cosine distance below which two texts are about the same thing, measured when the model was registered. */
  nearDistance: real("near_distance").notNull().default(0.5),
  /** Whether its vectors' components are rarely 0, so that their signs tell them apart: a provider's model. */
  isDense: boolean("is_dense").generatedAlwaysAs(sql`name LIKE '%:%'`),
  createdAt: createdAt(),
});

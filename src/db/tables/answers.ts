import { sql } from "drizzle-orm";
import { index, integer, jsonb, primaryKey, text, uuid } from "drizzle-orm/pg-core";
import { bytea, createdAt, place, scopefloor, time } from "./columns.ts";

/** Stored answers; a row is claimed before the work and filled in the same transaction (src/db/sql/2_memory/4_idempotency.sql). */
export const idempotency = scopefloor.table(
  "idempotency",
  {
    ...place(),
    apiKeyId: uuid("api_key_id").notNull(),
    endpoint: text("endpoint").notNull(),
    key: text("key").notNull(),
    bodyHash: bytea("body_hash").notNull(),
    /** Without text of stored rows. Null: the answer carried a secret and was not stored. */
    answer: jsonb("answer"),
    /** The rows that it speaks of: once one is gone, so is the answer. */
    rowIds: uuid("row_ids").array(),
    createdAt: createdAt(),
  },
  (t) => [
    // A request names its key, whatever scope it turns out to be about.
    primaryKey({ columns: [t.apiKeyId, t.endpoint, t.key] }),
    index("idempotency_scope").on(t.scopeId),
    index("idempotency_age").on(t.createdAt),
  ],
);

/**
 * Answers of recall by question: ids and scores, no text, so that what comes out of it has to be
 * read under both locks like anything else. Reached through definer functions alone.
 */
export const responseCache = scopefloor.table(
  "response_cache",
  {
    /** Where the recall's trace stands. */
    ...place(),
    /** SHA-256 of the question, of all that narrows it, and of the floor and rights of who asks (scopefloor.cache_key). */
    digest: bytea("digest").notNull(),
    /** The visible scopes, each with the sum of its changes (scopefloor.version_of). */
    version: text("version").notNull(),
    /** The same scopes, to find what a forget has to drop without looking at everybody's answers. */
    scopeIds: integer("scope_ids").array().notNull().default(sql`'{}'`),
    answer: jsonb("answer").notNull(),
    /** When something that is seen begins or ends next: from then on it is no answer any more. */
    goodUntil: time("good_until"),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.digest, t.tenantId] }),
    index("response_cache_age").on(t.createdAt),
    index("response_cache_scopes").using("gin", t.scopeIds),
  ],
);

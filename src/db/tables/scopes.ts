import { sql } from "drizzle-orm";
import { bigint, index, integer, jsonb, numeric, primaryKey, text, uuid } from "drizzle-orm/pg-core";
import { createdAt, scopefloor, scopeId, time } from "./columns.ts";

/** The dictionary of scopes. Id 0 is general knowledge, `{}`. */
export const scope = scopefloor.table(
  "scope",
  {
    id: integer("id").primaryKey().generatedByDefaultAsIdentity(),
    tags: jsonb("tags").notNull().unique(),
    epoch: integer("epoch").notNull().default(0),
    displayName: text("display_name"),
    description: text("description"),
    createdAt: createdAt(),
    tombstonedAt: time("tombstoned_at"),
    erasedAt: time("erased_at"),
  },
  (t) => [
    index("scope_tags_subtree").using("gin", t.tags.op("jsonb_path_ops")),
    index("scope_without_org").on(t.id).where(sql`NOT ${t.tags} ? 'org'`),
  ],
);

/** Deltas that triggers append and the worker folds; a scope's counts are the sums of its rows. */
export const scopeCounter = scopefloor.table(
  "scope_counter",
  {
    scopeId: scopeId(),
    id: uuid("id").notNull().default(sql`gen_random_uuid()`),
    /** Counts stand by embedding model; null: not embedded yet. */
    embedderId: integer("embedder_id"),
    passages: bigint("passages", { mode: "number" }).notNull(),
    tokens: bigint("tokens", { mode: "number" }).notNull(),
    lexemes: bigint("lexemes", { mode: "number" }).notNull(),
    bytes: bigint("bytes", { mode: "number" }).notNull(),
    /** A number of its own for each delta; a scope's sum only grows, so it tells whether anything has changed. */
    change: numeric("change").notNull().default(sql`nextval('scopefloor.change_number')`),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.id] })],
);

import { sql } from "drizzle-orm";
import { bigint, boolean, index, integer, jsonb, numeric, primaryKey, text, uuid } from "drizzle-orm/pg-core";
import { bytea, createdAt, place, scopefloor, time } from "./columns.ts";

/**
 * Tenants: what a scope's `org` tag stands for, with a number that no other deployment gives. Locks,
 * secrets, placement and erasure of a tenant go by it. 0: all that has no `org`, general knowledge too.
 */
export const tenant = scopefloor.table(
  "tenant",
  {
    id: integer("id").primaryKey().generatedByDefaultAsIdentity(),
    /** `{"org": …}`, or a marker once the tenant was erased. */
    root: jsonb("root").notNull().unique(),
    /** What words are looked up under (src/db/sql/1_access/9_words.sql); another one once the tenant was erased. */
    secret: bytea("secret")
      .notNull()
      .default(
        sql`sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))`,
      ),
    /** Of one that was erased: the hash of its path (scopefloor.scope_digest), by which its bill is found. */
    leftDigest: text("left_digest"),
    /** For people; null: it has none. */
    name: text("name"),
    /** What it was made from. */
    template: text("template"),
    templateVersion: integer("template_version"),
    /** Whether it was made as a tenant, or so far by its keys alone. */
    isProvisioned: boolean("is_provisioned").notNull().default(false),
    /** `active`; `suspended` or `leaving`: its keys are kept out. */
    state: text("state").notNull().default("active"),
    /** When one that leaves is erased. */
    leavesAt: time("leaves_at"),
    /** The key that lets it leave. */
    leavingBy: uuid("leaving_by"),
    createdAt: createdAt(),
  },
  (t) => [
    index("tenant_leaving").on(t.leavesAt).where(sql`state = 'leaving'`),
    index("tenant_kept_out").on(t.id).where(sql`state <> 'active'`),
  ],
);

/** The dictionary of scopes. Id 0 is general knowledge, `{}`. */
export const scope = scopefloor.table(
  "scope",
  {
    id: integer("id").primaryKey().generatedByDefaultAsIdentity(),
    tenantId: integer("tenant_id")
      .notNull()
      .references(() => tenant.id),
    tags: jsonb("tags").notNull().unique(),
    epoch: integer("epoch").notNull().default(0),
    displayName: text("display_name"),
    description: text("description"),
    createdAt: createdAt(),
    tombstonedAt: time("tombstoned_at"),
    /** The floor of the key that deleted it. */
    tombstonedBy: jsonb("tombstoned_by"),
    erasedAt: time("erased_at"),
  },
  (t) => [
    index("scope_tenant").on(t.tenantId),
    index("scope_tags_subtree").using("gin", t.tags.op("jsonb_path_ops")),
    index("scope_without_org").on(t.id).where(sql`NOT ${t.tags} ? 'org'`),
  ],
);

/** A number of its own for each change of a scope's passages. */
export const changeNumber = scopefloor.sequence("change_number");

/** Deltas that triggers append and the worker folds; a scope's counts are the sums of its rows. */
export const scopeCounter = scopefloor.table(
  "scope_counter",
  {
    ...place(),
    id: uuid("id").notNull().default(sql`gen_random_uuid()`),
    /** Counts stand by embedding model; null: not embedded yet. */
    embedderId: integer("embedder_id"),
    /** And by the languages of the texts, ISO 639-1, joined by commas. */
    languages: text("languages").notNull().default(""),
    passages: bigint("passages", { mode: "number" }).notNull(),
    tokens: bigint("tokens", { mode: "number" }).notNull(),
    lexemes: bigint("lexemes", { mode: "number" }).notNull(),
    bytes: bigint("bytes", { mode: "number" }).notNull(),
    /** A number of its own for each delta; a scope's sum only grows, so it tells whether anything has changed. */
    change: numeric("change").notNull().default(sql`nextval('scopefloor.change_number')`),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    // Whether a model is in use at all is asked in the middle of requests.
    index("scope_counter_embedder").on(t.embedderId).where(sql`passages > 0`),
  ],
);

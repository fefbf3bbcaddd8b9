import { sql } from "drizzle-orm";
import {
  bigint,
  boolean,
  check,
  index,
  integer,
  jsonb,
  numeric,
  primaryKey,
  real,
  text,
  uuid,
} from "drizzle-orm/pg-core";
import { bytea, createdAt, place, scopefloor, time } from "./columns.ts";

/** What a forget took, by whom and where. */
export const forgetReceipt = scopefloor.table(
  "forget_receipt",
  {
    ...place(),
    id: uuid("id").notNull(),
    /** What was asked for: tags, or the erased marker once those tags are themselves erased. */
    target: jsonb("target").notNull(),
    subtree: boolean("subtree").notNull(),
    action: text("action").notNull(),
    policy: text("policy").notNull(),
    counts: jsonb("counts").notNull(),
    /** Ids of what was taken, so that it can be done again to an older backup; null: the target says it all. */
    items: jsonb("items"),
    /** What it took by age and kind: {kinds?, labels?, since, before}; null: `items`, or the target, say it. */
    selector: jsonb("selector"),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
    /** The service's signature over what it says, as a compact JWS; null: it has none. */
    jws: text("jws"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("forget_receipt_id").on(t.id),
    index("forget_receipt_target").using("gin", t.target.op("jsonb_path_ops")),
  ],
);

/** When scopes were erased, by the hash that their lock has. No names, and kept for a day. */
export const erasure = scopefloor.table(
  "erasure",
  {
    id: uuid("id").primaryKey().default(sql`gen_random_uuid()`),
    hash: bigint("hash", { mode: "bigint" }).notNull(),
    at: time("at").notNull(),
  },
  (t) => [index("erasure_hash").on(t.hash, t.at), index("erasure_at").on(t.at)],
);

export const accessDenied = scopefloor.table(
  "access_denied",
  {
    ...place(),
    id: uuid("id").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    floor: jsonb("floor").notNull(),
    asked: jsonb("asked"),
    /** The scopes that are named by what was asked, with the floor's tags and without: what an erasure looks for. */
    named: jsonb("named"),
    onBehalfOf: text("on_behalf_of"),
    route: text("route").notNull(),
    reason: text("reason").notNull(),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("access_denied_recent").on(t.scopeId, t.createdAt),
    index("access_denied_named").using("gin", t.named.op("jsonb_path_ops")),
  ],
);

/** A public interface for SQL: columns are only ever added. Partitioned by month. */
export const decisionTrace = scopefloor.table(
  "decision_trace",
  {
    id: uuid("id").notNull(),
    createdAt: createdAt(),
    kind: text("kind").notNull(),
    operation: text("operation").notNull(),
    ...place(),
    scope: jsonb("scope").notNull(),
    /** Whether the row stands at another scope, the floor's, since the one that it names is in no dictionary. */
    elsewhere: boolean("elsewhere").notNull().default(false),
    apiKeyId: uuid("api_key_id").notNull(),
    principal: text("principal").notNull(),
    onBehalfOf: uuid("on_behalf_of"),
    sessionId: uuid("session_id"),
    parentId: uuid("parent_id"),
    query: text("query"),
    tier: text("tier"),
    tierReason: text("tier_reason"),
    sources: jsonb("sources"),
    candidates: integer("candidates"),
    returned: integer("returned"),
    provider: text("provider"),
    model: text("model"),
    inputTokens: integer("input_tokens").notNull().default(0),
    outputTokens: integer("output_tokens").notNull().default(0),
    embeddingTokens: integer("embedding_tokens").notNull().default(0),
    /** Of the input tokens, those that the provider had in its cache. */
    cachedInputTokens: integer("cached_input_tokens").notNull().default(0),
    totalTokens: integer("total_tokens")
      .notNull()
      .generatedAlwaysAs(sql`input_tokens + output_tokens + embedding_tokens`),
    /** Set when the row is written, from the prices of then; null: the model has none. */
    costUsd: numeric("cost_usd"),
    durationMs: real("duration_ms").notNull(),
    status: text("status").notNull(),
    error: text("error"),
    /** Where the token counts come from: the provider's usage, or the service's tokenizer. */
    tokenSource: text("token_source"),
    /** What an answer from the cache did not have to spend again. */
    savedTokens: integer("saved_tokens").notNull().default(0),
    /** How retrieval went, and why in this way. */
    plan: text("plan"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.createdAt, t.tenantId] }),
    index("decision_trace_id").on(t.id),
    index("decision_trace_recent").on(t.scopeId, t.createdAt),
    index("decision_trace_time").on(t.createdAt),
    // What an erasure has to find besides the rows of its scopes.
    index("decision_trace_elsewhere").using("gin", t.scope.op("jsonb_path_ops")).where(sql`elsewhere`),
    check("decision_trace_tokens", sql`${t.inputTokens} >= 0 AND ${t.outputTokens} >= 0 AND ${t.embeddingTokens} >= 0`),
    check("decision_trace_cached", sql`cached_input_tokens >= 0`),
    check("decision_trace_cost", sql`${t.costUsd} >= 0`),
  ],
);

/**
 * The audit chain's entries: one for each trace and refused attempt, two for each receipt, and one for
 * each erasure of such a row's text. Written by triggers, sealed by the worker (src/db/sql/3_upkeep/4_audit_chain.sql).
 */
export const auditEntry = scopefloor.table(
  "audit_entry",
  {
    ...place(),
    /** `trace`, `denial`, `receipt` or `receipt items`; with ` erased` behind it where the entry is for the erasure of that one's text. */
    source: text("source").notNull(),
    id: uuid("id").notNull(),
    /** Null: not sealed yet. */
    batch: bigint("batch", { mode: "number" }),
    /** SHA-256 of what never changes in the row, and of `textHash`. */
    leaf: bytea("leaf").notNull(),
    /** SHA-256 of the salt and of the row's text and tags, which an erasure takes away. */
    textHash: bytea("text_hash").notNull(),
    /** Null once the text was erased: nothing can be guessed from the hash any more. */
    salt: bytea("salt"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.source, t.id, t.tenantId] }),
    index("audit_entry_batch").on(t.batch),
    // What is not in the sums of usage yet, by its scope.
    index("audit_entry_unsealed").on(t.scopeId).where(sql`batch IS NULL`),
  ],
);

/** The chain itself: each batch's hash holds the one before. Hashes and numbers only. */
export const auditBatch = scopefloor.table("audit_batch", {
  n: bigint("n", { mode: "number" }).primaryKey(),
  entries: integer("entries").notNull(),
  /** SHA-256 of the leaves, by source and id. */
  digest: bytea("digest").notNull(),
  /** SHA-256 of the hash of the batch before, and of this row's other columns. */
  hash: bytea("hash").notNull(),
  sealedAt: time("sealed_at").notNull(),
});

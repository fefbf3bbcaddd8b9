import { sql } from "drizzle-orm";
import { bigint, boolean, index, integer, jsonb, numeric, primaryKey, real, text, uuid } from "drizzle-orm/pg-core";
import { bytea, createdAt, scopefloor, scopeId, time } from "./columns.ts";

/**
 * The queue. The application only adds rows, through `scopefloor.enqueue`; the worker takes them. A
 * row holds whose work it is and ids, never text; what is done is deleted with its effect's commit.
 */
export const job = scopefloor.table(
  "job",
  {
    scopeId: scopeId(),
    id: uuid("id").notNull(),
    kind: text("kind").notNull(),
    documentId: uuid("document_id"),
    version: integer("version"),
    apiKeyId: uuid("api_key_id").notNull(),
    principal: text("principal").notNull(),
    onBehalfOf: uuid("on_behalf_of"),
    /** The scope's epoch when the work was ordered. */
    epoch: integer("epoch").notNull(),
    /** Whose turn it uses up: a hash that stands for the tenant (`scopefloor.turn_of`). */
    floorHash: bigint("floor_hash", { mode: "bigint" }).notNull(),
    state: text("state").notNull().default("queued"),
    attempts: integer("attempts").notNull().default(0),
    runAfter: time("run_after").notNull().default(sql`now()`),
    /** Who has taken it: a new id each time, so that a late one cannot finish it again. */
    lease: uuid("lease"),
    leasedUntil: time("leased_until"),
    /** Why it was given up or is tried again. No text. */
    error: text("error"),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id] }),
    index("job_id").on(t.id),
    index("job_due").on(t.state, t.floorHash, t.runAfter),
    index("job_document").on(t.scopeId, t.documentId),
  ],
);

/** When each floor last got a turn. Hashes only. */
export const jobTurn = scopefloor.table("job_turn", {
  floorHash: bigint("floor_hash", { mode: "bigint" }).primaryKey(),
  takenAt: time("taken_at").notNull(),
});

/** Stored answers; a row is claimed before the work and filled in the same transaction. */
export const idempotency = scopefloor.table(
  "idempotency",
  {
    scopeId: scopeId(),
    apiKeyId: uuid("api_key_id").notNull(),
    endpoint: text("endpoint").notNull(),
    key: text("key").notNull(),
    bodyHash: bytea("body_hash").notNull(),
    /** Whether the answer holds recalled text: then a forget drops it. */
    recalled: boolean("recalled").notNull(),
    /** Null: the answer carried a secret and was not stored. */
    answer: jsonb("answer"),
    createdAt: createdAt(),
  },
  (t) => [
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
    scopeId: scopeId(),
    /** SHA-256 of the question as the service compares it, and of all that narrows it. */
    digest: bytea("digest").notNull(),
    /** The visible scopes with the number of the last change in each, and the key's policy. */
    version: text("version").notNull(),
    /** The same scopes, to find what a forget has to drop without looking at everybody's answers. */
    scopeIds: integer("scope_ids").array().notNull().default(sql`'{}'`),
    answer: jsonb("answer").notNull(),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.digest] }),
    index("response_cache_age").on(t.createdAt),
    index("response_cache_scopes").using("gin", t.scopeIds),
  ],
);

export const forgetReceipt = scopefloor.table(
  "forget_receipt",
  {
    scopeId: scopeId(),
    id: uuid("id").notNull(),
    /** What was asked for: tags, or the erased marker once those tags are themselves erased. */
    target: jsonb("target").notNull(),
    subtree: boolean("subtree").notNull(),
    action: text("action").notNull(),
    policy: text("policy").notNull(),
    counts: jsonb("counts").notNull(),
    /** Ids of what was taken, so that it can be done again to an older backup; null: the target says it all. */
    items: jsonb("items"),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.id] }), index("forget_receipt_id").on(t.id)],
);

/** When scopes were erased, by the hash that their lock has. No names, and kept for a day. */
export const erasure = scopefloor.table(
  "erasure",
  {
    id: uuid("id").primaryKey().default(sql`gen_random_uuid()`),
    hash: bigint("hash", { mode: "bigint" }).notNull(),
    at: time("at").notNull(),
  },
  (t) => [index("erasure_hash").on(t.hash, t.at)],
);

export const accessDenied = scopefloor.table(
  "access_denied",
  {
    scopeId: scopeId(),
    id: uuid("id").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    floor: jsonb("floor").notNull(),
    asked: jsonb("asked"),
    onBehalfOf: text("on_behalf_of"),
    route: text("route").notNull(),
    reason: text("reason").notNull(),
    createdAt: createdAt(),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.id] }), index("access_denied_recent").on(t.scopeId, t.createdAt)],
);

/** A public interface for SQL: columns are only ever added. Partitioned by month. */
export const decisionTrace = scopefloor.table(
  "decision_trace",
  {
    id: uuid("id").notNull(),
    createdAt: createdAt(),
    kind: text("kind").notNull(),
    operation: text("operation").notNull(),
    scopeId: scopeId(),
    scope: jsonb("scope").notNull(),
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
    totalTokens: integer("total_tokens")
      .notNull()
      .generatedAlwaysAs(sql`input_tokens + output_tokens + embedding_tokens`),
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
    primaryKey({ columns: [t.scopeId, t.id, t.createdAt] }),
    index("decision_trace_id").on(t.id),
    index("decision_trace_recent").on(t.scopeId, t.createdAt),
    index("decision_trace_time").on(t.createdAt),
  ],
);

/**
 * The audit chain's entries: one for each trace and refused attempt, two for each receipt, and one for
 * each erasure of such a row's text. Written by triggers, sealed by the worker (`0020_audit_chain.sql`).
 */
export const auditEntry = scopefloor.table(
  "audit_entry",
  {
    scopeId: scopeId(),
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
  (t) => [primaryKey({ columns: [t.scopeId, t.source, t.id] }), index("audit_entry_batch").on(t.batch)],
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

/** Always empty: in which mode it is locked keeps forgets apart from answers that are being stored (`0025_forget_gate.sql`). */
export const forgetGate = scopefloor.table("forget_gate", { id: integer("id").primaryKey() });

/**
 * Drizzle's definitions of every table. Only `src/db/` may import this file: the rest of the code
 * reaches a scoped table through `scoped.ts`, by name.
 *
 * Primary keys lead with `scope_id` and foreign keys between scoped tables include it, so that an
 * edge from one scope to another cannot exist. `scope_id` itself has no foreign key: locking the
 * dictionary row in every insert would make it a hot spot, and the row policies already admit only
 * ids that come out of the dictionary.
 */
import { sql } from "drizzle-orm";
import {
  bigint,
  boolean,
  customType,
  foreignKey,
  index,
  integer,
  jsonb,
  numeric,
  pgSchema,
  primaryKey,
  real,
  smallint,
  text,
  timestamp,
  unique,
  uuid,
} from "drizzle-orm/pg-core";

export const scopefloor = pgSchema("scopefloor");

const bytea = customType<{ data: Uint8Array }>({ dataType: () => "bytea" });
/** No fixed dimension, so that passages of an old and a new model can stand side by side. */
const halfvec = customType<{ data: string }>({ dataType: () => "halfvec" });
const time = (name: string) => timestamp(name, { withTimezone: true, mode: "string" });
const createdAt = () => time("created_at").notNull().default(sql`now()`);
const scopeId = () => integer("scope_id").notNull();

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
  (t) => [index("scope_tags_subtree").using("gin", t.tags.op("jsonb_path_ops"))],
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
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.id] })],
);

export const apiKey = scopefloor.table(
  "api_key",
  {
    id: uuid("id").primaryKey(),
    /** The scope of the key's floor. */
    scopeId: scopeId(),
    parentId: uuid("parent_id"),
    name: text("name").notNull(),
    principal: text("principal").notNull(),
    floor: jsonb("floor").notNull(),
    verbs: text("verbs").array().notNull(),
    content: boolean("content").notNull().default(true),
    /** SHA-256 of the SHA-256 of the secret: reading this table opens nothing. */
    secretHash: bytea("secret_hash").notNull().unique(),
    previousHash: bytea("previous_hash"),
    previousUntil: time("previous_until"),
    createdAt: createdAt(),
    expiresAt: time("expires_at"),
    revokedAt: time("revoked_at"),
    lastUsedAt: time("last_used_at"),
  },
  (t) => [
    index("api_key_previous_hash").on(t.previousHash).where(sql`previous_hash IS NOT NULL`),
    index("api_key_parent").on(t.parentId, t.createdAt),
    index("api_key_scope").on(t.scopeId),
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
  createdAt: createdAt(),
});

export const embedder = scopefloor.table("embedder", {
  id: integer("id").primaryKey().generatedByDefaultAsIdentity(),
  name: text("name").notNull().unique(),
  dimensions: integer("dimensions").notNull(),
  /** Cosine distance below which two texts are about the same thing, measured when the model was registered. */
  nearDistance: real("near_distance").notNull().default(0.5),
  createdAt: createdAt(),
});

export const session = scopefloor.table(
  "session",
  {
    scopeId: scopeId(),
    id: uuid("id").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    metadata: jsonb("metadata").notNull().default({}),
    nextSeq: integer("next_seq").notNull().default(0),
    createdAt: createdAt(),
    closedAt: time("closed_at"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id] }),
    index("session_id").on(t.id),
    index("session_recent").on(t.scopeId, t.createdAt),
  ],
);

export const turn = scopefloor.table(
  "turn",
  {
    scopeId: scopeId(),
    id: uuid("id").notNull(),
    sessionId: uuid("session_id").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    role: text("role").notNull(),
    content: text("content").notNull(),
    seq: integer("seq").notNull(),
    observedAt: time("observed_at").notNull(),
    createdAt: createdAt(),
    expiredAt: time("expired_at"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id] }),
    index("turn_id").on(t.id),
    unique("turn_seq").on(t.scopeId, t.sessionId, t.seq),
    foreignKey({
      columns: [t.scopeId, t.sessionId],
      foreignColumns: [session.scopeId, session.id],
    }).onDelete("cascade"),
  ],
);

/** An uploaded file. Its bytes are in `document_content`, its text in passages of kind chunk. */
export const document = scopefloor.table(
  "document",
  {
    scopeId: scopeId(),
    id: uuid("id").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    title: text("title").notNull(),
    source: text("source"),
    mimeType: text("mime_type").notNull(),
    sizeBytes: integer("size_bytes").notNull(),
    /** SHA-256 of the bytes, hex; null once part of the document was forgotten, and with it the bytes. */
    contentHash: text("content_hash"),
    labels: text("labels").array().notNull().default(sql`'{}'`),
    status: text("status").notNull().default("queued"),
    error: text("error"),
    /** Of the upload; `readyVersion` is the one whose chunks recall sees. */
    version: integer("version").notNull().default(1),
    readyVersion: integer("ready_version"),
    observedAt: time("observed_at").notNull(),
    createdAt: createdAt(),
    updatedAt: time("updated_at").notNull().default(sql`now()`),
    processingStartedAt: time("processing_started_at"),
    processingCompletedAt: time("processing_completed_at"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id] }),
    index("document_id").on(t.id),
    index("document_recent").on(t.scopeId, t.createdAt),
    // Within a scope only: a foreign copy of the same file changes nothing.
    unique("document_hash").on(t.scopeId, t.contentHash),
  ],
);

/** A document's bytes, in parts of 1 MiB, so that neither side holds a file in memory. */
export const documentContent = scopefloor.table(
  "document_content",
  {
    scopeId: scopeId(),
    documentId: uuid("document_id").notNull(),
    version: integer("version").notNull(),
    part: integer("part").notNull(),
    bytes: bytea("bytes").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.documentId, t.version, t.part] }),
    foreignKey({
      columns: [t.scopeId, t.documentId],
      foreignColumns: [document.scopeId, document.id],
    }).onDelete("cascade"),
  ],
);

/** Key phrases of a document. */
export const keyword = scopefloor.table(
  "keyword",
  {
    scopeId: scopeId(),
    documentId: uuid("document_id").notNull(),
    /** Lower case, single spaces: what two documents share. */
    normalised: text("normalised").notNull(),
    phrase: text("phrase").notNull(),
    score: real("score").notNull(),
    count: integer("count").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.documentId, t.normalised] }),
    index("keyword_normalised").on(t.scopeId, t.normalised),
    foreignKey({
      columns: [t.scopeId, t.documentId],
      foreignColumns: [document.scopeId, document.id],
    }).onDelete("cascade"),
  ],
);

/** Two documents of one scope that share keywords. Both ends are in the scope: there is no edge out of it. */
export const documentLink = scopefloor.table(
  "document_link",
  {
    scopeId: scopeId(),
    fromId: uuid("from_id").notNull(),
    toId: uuid("to_id").notNull(),
    /** Jaccard similarity of the two sets of keywords. */
    weight: real("weight").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.fromId, t.toId] }),
    index("document_link_to").on(t.scopeId, t.toId),
    foreignKey({
      name: "document_link_from_fk",
      columns: [t.scopeId, t.fromId],
      foreignColumns: [document.scopeId, document.id],
    }).onDelete("cascade"),
    foreignKey({
      name: "document_link_to_fk",
      columns: [t.scopeId, t.toId],
      foreignColumns: [document.scopeId, document.id],
    }).onDelete("cascade"),
  ],
);

/** Every retrievable text. */
export const passage = scopefloor.table(
  "passage",
  {
    scopeId: scopeId(),
    id: uuid("id").notNull(),
    kind: text("kind").notNull(),
    sessionId: uuid("session_id"),
    turnId: uuid("turn_id"),
    apiKeyId: uuid("api_key_id").notNull(),
    /** Who said it, for a turn. */
    role: text("role"),
    text: text("text").notNull(),
    labels: text("labels").array().notNull().default(sql`'{}'`),
    category: text("category"),
    /** Model tokens, by the service's tokenizer. */
    tokens: integer("tokens").notNull(),
    /** Length in lexemes, counted with repetitions: BM25's document length. */
    lexemes: integer("lexemes").notNull(),
    embedding: halfvec("embedding"),
    /** The model that has looked at the text, also where it found nothing in it; null: none yet. */
    embedderId: integer("embedder_id"),
    observedAt: time("observed_at").notNull(),
    createdAt: createdAt(),
    expiredAt: time("expired_at"),
    /** Of a chunk: its document, its place in it, and offsets in UTF-16 units of the extracted text. */
    documentId: uuid("document_id"),
    position: integer("position"),
    section: text("section"),
    charStart: integer("char_start"),
    charEnd: integer("char_end"),
    /** An older chunk of the scope that says nearly the same. */
    duplicateOf: uuid("duplicate_of"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id] }),
    index("passage_id").on(t.id),
    index("passage_recent").on(t.scopeId, t.observedAt),
    index("passage_turn").on(t.scopeId, t.turnId),
    index("passage_document").on(t.scopeId, t.documentId, t.position),
    foreignKey({
      columns: [t.scopeId, t.documentId],
      foreignColumns: [document.scopeId, document.id],
    }).onDelete("cascade"),
    foreignKey({
      columns: [t.scopeId, t.turnId],
      foreignColumns: [turn.scopeId, turn.id],
    }).onDelete("cascade"),
  ],
);

/** The inverted index. The covering unique index and the foreign key are in `0002_locks.sql`. */
export const posting = scopefloor.table("posting", {
  scopeId: scopeId(),
  lexeme: text("lexeme").notNull(),
  passageId: uuid("passage_id").notNull(),
  tf: smallint("tf").notNull(),
  /** The passage's length, repeated here so that ranking is an index-only scan. */
  lexemes: integer("lexemes").notNull(),
});

/** Parts of chunks' fingerprints: near-duplicates share at least one (src/documents/fingerprint.ts). */
export const chunkBand = scopefloor.table(
  "chunk_band",
  {
    scopeId: scopeId(),
    band: integer("band").notNull(),
    passageId: uuid("passage_id").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.band, t.passageId] }),
    index("chunk_band_passage").on(t.scopeId, t.passageId),
    foreignKey({
      columns: [t.scopeId, t.passageId],
      foreignColumns: [passage.scopeId, passage.id],
    }).onDelete("cascade"),
  ],
);

/** Something with a name and a type that facts are about. */
export const entity = scopefloor.table(
  "entity",
  {
    scopeId: scopeId(),
    id: uuid("id").notNull(),
    type: text("type").notNull(),
    name: text("name").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id] }),
    index("entity_id").on(t.id),
    unique("entity_name").on(t.scopeId, t.type, t.name),
  ],
);

/**
 * When a fact was true (`valid_…`, from what was observed) and when it was believed (`created_at` to
 * `closed_at`). A newer value for the same key closes it; nothing is overwritten.
 */
const fact = () => ({
  scopeId: scopeId(),
  id: uuid("id").notNull(),
  entityId: uuid("entity_id").notNull(),
  key: text("key").notNull(),
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
  primaryKey({ columns: [t.scopeId, t.id] }),
  index("attribute_key").on(t.scopeId, t.entityId, t.key),
  foreignKey({
    columns: [t.scopeId, t.entityId],
    foreignColumns: [entity.scopeId, entity.id],
  }).onDelete("cascade"),
]);

export const relation = scopefloor.table("relation", { ...fact(), targetId: uuid("target_id").notNull() }, (t) => [
  primaryKey({ columns: [t.scopeId, t.id] }),
  index("relation_key").on(t.scopeId, t.entityId, t.key),
  index("relation_target").on(t.scopeId, t.targetId),
  foreignKey({
    name: "relation_entity_fk",
    columns: [t.scopeId, t.entityId],
    foreignColumns: [entity.scopeId, entity.id],
  }).onDelete("cascade"),
  foreignKey({
    name: "relation_target_fk",
    columns: [t.scopeId, t.targetId],
    foreignColumns: [entity.scopeId, entity.id],
  }).onDelete("cascade"),
]);

/** The keyed store: one JSON value for a key at a scope. */
export const memoryItem = scopefloor.table(
  "memory_item",
  {
    scopeId: scopeId(),
    key: text("key").notNull(),
    id: uuid("id").notNull(),
    value: jsonb("value").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
    updatedAt: time("updated_at").notNull().default(sql`now()`),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.key] })],
);

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
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.createdAt] }),
    index("decision_trace_id").on(t.id),
    index("decision_trace_recent").on(t.scopeId, t.createdAt),
    index("decision_trace_time").on(t.createdAt),
  ],
);

/** The scoped tables, by the name under which the rest of the code asks for them. */
export const scopedTables = {
  scope,
  scope_counter: scopeCounter,
  session,
  turn,
  document,
  document_content: documentContent,
  keyword,
  document_link: documentLink,
  passage,
  posting,
  chunk_band: chunkBand,
  entity,
  attribute,
  relation,
  memory_item: memoryItem,
  forget_receipt: forgetReceipt,
  access_denied: accessDenied,
  decision_trace: decisionTrace,
};

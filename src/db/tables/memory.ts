import { sql } from "drizzle-orm";
import {
  bigint,
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
import { bytea, createdAt, halfvec, place, scopefloor, signs, time } from "./columns.ts";
import { document } from "./documents.ts";

export const session = scopefloor.table(
  "session",
  {
    ...place(),
    id: uuid("id").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    /** The caller's own id, unique by key and scope, and what it is looked up by. */
    name: text("name"),
    nameHash: uuid("name_hash"),
    metadata: jsonb("metadata").notNull().default({}),
    nextSeq: integer("next_seq").notNull().default(0),
    createdAt: createdAt(),
    closedAt: time("closed_at"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("session_id").on(t.id),
    unique("session_name").on(t.scopeId, t.nameHash, t.tenantId),
    index("session_recent").on(t.scopeId, t.createdAt),
  ],
);

export const turn = scopefloor.table(
  "turn",
  {
    ...place(),
    id: uuid("id").notNull(),
    sessionId: uuid("session_id").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    role: text("role").notNull(),
    content: text("content").notNull(),
    seq: integer("seq").notNull(),
    observedAt: time("observed_at").notNull(),
    createdAt: createdAt(),
    expiredAt: time("expired_at"),
    /** Of a former text: the turn that has said something else since. */
    correctedId: uuid("corrected_id"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("turn_id").on(t.id),
    index("turn_corrected").on(t.scopeId, t.correctedId).where(sql`corrected_id IS NOT NULL`),
    unique("turn_seq").on(t.scopeId, t.sessionId, t.seq, t.tenantId),
    foreignKey({
      columns: [t.scopeId, t.sessionId, t.tenantId],
      foreignColumns: [session.scopeId, session.id, session.tenantId],
    }).onDelete("cascade"),
  ],
);

/** Every retrievable text. */
export const passage = scopefloor.table(
  "passage",
  {
    ...place(),
    id: uuid("id").notNull(),
    kind: text("kind").notNull(),
    sessionId: uuid("session_id"),
    turnId: uuid("turn_id"),
    apiKeyId: uuid("api_key_id").notNull(),
    /** The principal of that key: what management says may be an instruction. */
    author: text("author").notNull().default("agent"),
    /** Who said it, for a turn. */
    role: text("role"),
    text: text("text").notNull(),
    labels: text("labels").array().notNull().default(sql`'{}'`),
    category: text("category"),
    /** Model tokens, by the service's tokenizer. */
    tokens: integer("tokens").notNull(),
    /** Its place in the order in which passages are indexed: a segment holds all of its scope between two of these. */
    seq: bigint("seq", { mode: "number" }).notNull().generatedByDefaultAsIdentity(),
    /** What it is found by, as hashes (src/lexical/packed-terms.ts); null: not analysed yet. */
    terms: bytea("terms"),
    /** BM25's length of a document, in words. */
    lexemes: integer("lexemes").notNull(),
    /** ISO 639-1, joined by commas. */
    languages: text("languages").notNull().default(""),
    /** The version of the text analysis (src/text/analysis/analyse.ts); 0: none yet. */
    analyser: smallint("analyser").notNull().default(0),
    /** Of a turn: kinds of questions that it may answer, as bits (src/text/answer-cues.ts); null: not looked at. */
    cues: smallint("cues"),
    embedding: halfvec("embedding"),
    /** The model that has looked at the text, also where it found nothing in it; null: none yet. */
    embedderId: integer("embedder_id"),
    /** Of a dense model's vector, set by a trigger; in an index of its own (src/db/sql/4_tables.sql). */
    code: signs("code"),
    observedAt: time("observed_at").notNull(),
    createdAt: createdAt(),
    expiredAt: time("expired_at"),
    /** Its place in its session or document. */
    position: integer("position"),
    /** Of a chunk: its document, and offsets in UTF-16 units of the extracted text. */
    documentId: uuid("document_id"),
    section: text("section"),
    charStart: integer("char_start"),
    charEnd: integer("char_end"),
    /** An older chunk of the scope that says nearly the same. */
    duplicateOf: uuid("duplicate_of"),
    /** Of what the text says: texts that say the same have the same (src/text/same-text.ts). Null: stored before there was one. */
    digest: bytea("digest"),
    /** Of a fact that is not true yet, and of what ends: outside of these it is no answer for the present. */
    startsAt: time("starts_at"),
    endsAt: time("ends_at"),
    /** The kinds of planted instructions that the text looks like (src/text/planted.ts). */
    suspicious: text("suspicious").array().notNull().default(sql`'{}'`),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("passage_id").on(t.id),
    index("passage_recent").on(t.scopeId, t.observedAt),
    index("passage_turn").on(t.scopeId, t.turnId).where(sql`turn_id IS NOT NULL`),
    index("passage_document").on(t.scopeId, t.documentId, t.position).where(sql`document_id IS NOT NULL`),
    index("passage_session").on(t.scopeId, t.sessionId, t.position).where(sql`session_id IS NOT NULL`),
    index("passage_seq").on(t.scopeId, t.seq),
    index("passage_expired").on(t.scopeId, t.id).where(sql`expired_at IS NOT NULL`),
    index("passage_starts").on(t.scopeId, t.startsAt).where(sql`starts_at IS NOT NULL`),
    index("passage_ends").on(t.scopeId, t.endsAt).where(sql`ends_at IS NOT NULL AND expired_at IS NULL`),
    // For the worker, which ends what is over in every scope.
    index("passage_over").on(t.endsAt).where(sql`ends_at IS NOT NULL AND expired_at IS NULL`),
    index("passage_begun").on(t.startsAt).where(sql`starts_at IS NOT NULL`),
    foreignKey({
      columns: [t.scopeId, t.documentId, t.tenantId],
      foreignColumns: [document.scopeId, document.id, document.tenantId],
    }).onDelete("cascade"),
    foreignKey({
      columns: [t.scopeId, t.turnId, t.tenantId],
      foreignColumns: [turn.scopeId, turn.id, turn.tenantId],
    }).onDelete("cascade"),
  ],
);

/**
 * Passages of a scope whose terms are packed together. What came after the last of them is looked at by itself;
 * the worker makes segments of it, and of several smaller ones one (src/jobs/index-passages.ts).
 */
export const segment = scopefloor.table(
  "segment",
  {
    ...place(),
    id: bigint("id", { mode: "number" }).notNull().generatedByDefaultAsIdentity(),
    /** It holds every indexed passage of its scope from the one to the other. */
    firstSeq: bigint("first_seq", { mode: "number" }).notNull(),
    lastSeq: bigint("last_seq", { mode: "number" }).notNull(),
    /** How many there are; forgotten ones are taken off. */
    passages: integer("passages").notNull(),
    /** Places that passages have in it, those of forgotten ones included. */
    places: integer("places").notNull(),
    /** Rare terms lie in 2^bits blocks, by the lowest bits of their hashes. */
    bits: smallint("bits").notNull(),
    /** Counts what was taken out of it: who packs it anew sees whether anything was. */
    edits: integer("edits").notNull().default(0),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.id, t.tenantId] })],
);

/** The postings of a segment (src/lexical/block.ts). */
export const postingBlock = scopefloor.table(
  "posting_block",
  {
    ...place(),
    segmentId: bigint("segment_id", { mode: "number" }).notNull(),
    /** The lowest bits of its terms' hashes; of a frequent term, which has blocks of its own, its hash and 2^48; -1: the passages' numbers by their places. */
    key: bigint("key", { mode: "number" }).notNull(),
    /** The first place of a part of a frequent term, or of the numbers; 0 for others. */
    first: integer("first").notNull(),
    data: bytea("data").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.segmentId, t.key, t.first, t.tenantId] }),
    foreignKey({
      columns: [t.scopeId, t.segmentId, t.tenantId],
      foreignColumns: [segment.scopeId, segment.id, segment.tenantId],
    }).onDelete("cascade"),
  ],
);

/**
 * The graphs that large scopes have of their own, one for each model (src/jobs/vector-graphs.ts).
 * Only a note for the planner: where the index itself is missing, the same statement is exact.
 */
export const vectorIndex = scopefloor.table(
  "vector_index",
  {
    ...place(),
    embedderId: integer("embedder_id").notNull(),
    /** False while it is built: until then answers are exact. */
    ready: boolean("ready").notNull().default(false),
    createdAt: createdAt(),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.embedderId, t.tenantId] })],
);

/** Parts of chunks' fingerprints: near-duplicates share at least one (src/documents/parsing/fingerprint.ts). */
export const chunkBand = scopefloor.table(
  "chunk_band",
  {
    ...place(),
    /** The hash of a part of the chunk's fingerprint (scopefloor.lookup_hashes). */
    band: uuid("band").notNull(),
    passageId: uuid("passage_id").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.band, t.passageId, t.tenantId] }),
    index("chunk_band_passage").on(t.scopeId, t.passageId),
    foreignKey({
      columns: [t.scopeId, t.passageId, t.tenantId],
      foreignColumns: [passage.scopeId, passage.id, passage.tenantId],
    }).onDelete("cascade"),
  ],
);

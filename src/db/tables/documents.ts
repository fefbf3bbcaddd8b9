import { sql } from "drizzle-orm";
import { foreignKey, index, integer, jsonb, primaryKey, real, text, unique, uuid } from "drizzle-orm/pg-core";
import { bytea, createdAt, lookupHash, place, scopefloor, time } from "./columns.ts";

/** An uploaded file. Its bytes are in `document_content`, its text in passages of kind chunk. */
export const document = scopefloor.table(
  "document",
  {
    ...place(),
    id: uuid("id").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    title: text("title").notNull(),
    source: text("source"),
    mimeType: text("mime_type").notNull(),
    /** As the upload says; null: it does not. */
    charset: text("charset"),
    /** {warnings, encoding, encodingFrom, delimiter, header}: what is not in its text, and how it was read. */
    reading: jsonb("reading").notNull().default({}),
    sizeBytes: integer("size_bytes").notNull(),
    /** SHA-256 of the bytes, hex; null once part of the document was forgotten, and with it the bytes. */
    contentHash: text("content_hash"),
    /** What the same bytes are found by (scopefloor.set_lookup). */
    contentKey: uuid("content_key"),
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
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("document_id").on(t.id),
    index("document_recent").on(t.scopeId, t.createdAt),
    // Within a scope only: a foreign copy of the same file changes nothing.
    unique("document_hash").on(t.scopeId, t.contentKey, t.tenantId),
  ],
);

/** A document's bytes, in parts of 1 MiB, so that neither side holds a file in memory. */
export const documentContent = scopefloor.table(
  "document_content",
  {
    ...place(),
    documentId: uuid("document_id").notNull(),
    version: integer("version").notNull(),
    part: integer("part").notNull(),
    bytes: bytea("bytes").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.documentId, t.version, t.part, t.tenantId] }),
    foreignKey({
      columns: [t.scopeId, t.documentId, t.tenantId],
      foreignColumns: [document.scopeId, document.id, document.tenantId],
    }).onDelete("cascade"),
  ],
);

/** Key phrases of a document. */
export const keyword = scopefloor.table(
  "keyword",
  {
    ...place(),
    documentId: uuid("document_id").notNull(),
    /** Lower case, single spaces: what two documents share. */
    normalised: text("normalised").notNull(),
    normalisedHash: lookupHash("normalised_hash"),
    phrase: text("phrase").notNull(),
    score: real("score").notNull(),
    count: integer("count").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.documentId, t.normalisedHash, t.tenantId] }),
    index("keyword_normalised").on(t.scopeId, t.normalisedHash),
    foreignKey({
      columns: [t.scopeId, t.documentId, t.tenantId],
      foreignColumns: [document.scopeId, document.id, document.tenantId],
    }).onDelete("cascade"),
  ],
);

/** Two documents of one scope that share keywords. Both ends are in the scope: there is no edge out of it. */
export const documentLink = scopefloor.table(
  "document_link",
  {
    ...place(),
    fromId: uuid("from_id").notNull(),
    toId: uuid("to_id").notNull(),
    /** Jaccard similarity of the two sets of keywords. */
    weight: real("weight").notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.fromId, t.toId, t.tenantId] }),
    index("document_link_to").on(t.scopeId, t.toId),
    foreignKey({
      name: "document_link_from_fk",
      columns: [t.scopeId, t.fromId, t.tenantId],
      foreignColumns: [document.scopeId, document.id, document.tenantId],
    }).onDelete("cascade"),
    foreignKey({
      name: "document_link_to_fk",
      columns: [t.scopeId, t.toId, t.tenantId],
      foreignColumns: [document.scopeId, document.id, document.tenantId],
    }).onDelete("cascade"),
  ],
);

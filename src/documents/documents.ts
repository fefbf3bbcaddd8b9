import { v7 as uuid } from "uuid";
import { json, list, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { AppError, notFound } from "../errors.ts";
import { type Scope, scopeFromDatabase, scopePaths } from "../scope/scope.ts";
import { writeReceipt } from "../traces/receipt.ts";
import { recordTrace } from "../traces/record.ts";
import type { Reading } from "./parsing/formats/extracted.ts";
import type { MediaType } from "./parsing/media-type.ts";
import type { SpooledFile } from "./spool.ts";

/** As the wire knows them, in order. `keywording` and `extracting_nodes` are other services' words: no document is ever in them. */
export const DOCUMENT_STATUSES = [
  "queued",
  "extracting",
  "chunking",
  "embedding",
  "keywording",
  "extracting_nodes",
  "ready",
  "failed",
] as const;
export type DocumentStatus = (typeof DOCUMENT_STATUSES)[number];

export interface NewDocument {
  readonly title: string | undefined;
  readonly source: string | undefined;
  readonly mimeType: MediaType;
  /** As the upload says. */
  readonly charset: string | undefined;
  readonly labels: readonly string[] | undefined;
  readonly observedAt: string | undefined;
  readonly file: SpooledFile;
}

export interface Accepted {
  readonly id: string;
  readonly status: DocumentStatus;
  readonly contentHash: string;
  readonly deduplicated: boolean;
  readonly version: number;
}

const factsOf = (document: NewDocument) => ({
  title: document.title ?? null,
  source: document.source ?? null,
  mimeType: document.mimeType,
  charset: document.charset ?? null,
  sizeBytes: document.file.size,
  contentHash: document.file.hash,
  labels: document.labels ?? null,
  observedAt: document.observedAt ?? null,
});

interface Added {
  readonly id: string;
  readonly status: DocumentStatus;
  readonly version: number;
  readonly deduplicated: boolean;
  /** The document that is there had failed: it is tried once more. */
  readonly again?: boolean;
}

/** Stores an upload at the write scope and orders its processing. The same bytes in the same scope are one document. */
export async function addDocument(tx: ScopedTransaction, document: NewDocument): Promise<Accepted> {
  const facts = {
    ...factsOf(document),
    labels: document.labels ?? [],
    observedAt: document.observedAt ?? new Date().toISOString(),
  };
  const added = await tx.call<Added>("add_document", uuid(), json(facts));
  if (!added.deduplicated) await storeParts(tx, added, document.file);
  if (!added.deduplicated || added.again)
    await tx.call("enqueue", uuid(), "document", added.id, sql`${added.version}::int`);
  recordTrace(tx, { kind: "decision", operation: "upload", sources: [added.id], returned: added.deduplicated ? 0 : 1 });
  return accepted(added, document);
}

/** Reads the stored bytes of a document's newest version again, and gives how far it is. */
export async function processAgain(tx: ScopedTransaction, id: string): Promise<Accepted> {
  // The answer says what is there.
  if (!tx.entry.verbs.includes("memory:read"))
    throw new AppError(
      "forbidden",
      "this key does not have the verb memory:read, which a request without a file takes",
    );
  const queued = await tx.call<(Added & { readonly contentHash: string }) | { readonly status: "gone" | "forgotten" }>(
    "replace_document",
    id,
    json({}),
  );
  if (queued.status === "forgotten")
    throw new AppError("conflict", "the document's bytes were forgotten with a part of its text; upload it anew");
  if (!("id" in queued)) throw notFound();
  if (queued.again) await tx.call("enqueue", uuid(), "document", id, sql`${queued.version}::int`);
  recordTrace(tx, { kind: "decision", operation: "upload", sources: [id], returned: queued.again ? 1 : 0 });
  const { status, contentHash, version } = queued;
  return { id, status, contentHash, deduplicated: queued.again !== true, version };
}

/** Stores the next version of the document that the transaction was entered for; recall shows the old one until this is ready. */
export async function replaceDocument(tx: ScopedTransaction, id: string, document: NewDocument): Promise<Accepted> {
  const added = await tx.call<Added | { readonly status: "gone" } | null>(
    "replace_document",
    id,
    json(factsOf(document)),
  );
  if (added === null) throw new AppError("conflict", "another document of this scope has the same bytes");
  if (!("id" in added)) throw notFound();
  if (!added.deduplicated) {
    await storeParts(tx, added, document.file);
    await tx.call("enqueue", uuid(), "document", id, sql`${added.version}::int`);
  }
  recordTrace(tx, { kind: "decision", operation: "upload", sources: [id], returned: added.deduplicated ? 0 : 1 });
  return accepted(added, document);
}

const accepted = ({ id, status, version, deduplicated }: Added, { file }: NewDocument): Accepted => ({
  id,
  status,
  contentHash: file.hash,
  deduplicated,
  version,
});

async function storeParts(tx: ScopedTransaction, { id, version }: Added, file: SpooledFile): Promise<void> {
  let part = 0;
  for await (const bytes of file.parts())
    await tx.insert("document_content", [{ documentId: id, version, part: part++, bytes }]);
}

export interface Document {
  readonly id: string;
  readonly title: string;
  readonly source: string | null;
  readonly mimeType: string;
  readonly sizeBytes: number;
  readonly contentHash: string | null;
  readonly status: DocumentStatus;
  readonly error?: string;
  /** What a person sees in the file and is not in its text. */
  readonly warnings?: readonly string[];
  /** How it was read, where it did not say so. */
  readonly reading?: Reading;
  readonly version: number;
  readonly labels: readonly string[];
  readonly scope: Scope;
  readonly scopes: string[][];
  readonly observedAt: string;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly processingStartedAt?: string;
  readonly processingCompletedAt?: string;
  /** While it is being embedded: chunks, and how many of them have been looked at. */
  readonly progress?: { readonly chunks: number; readonly embedded: number };
}

interface DocumentRow
  extends Omit<
    Document,
    "scope" | "scopes" | "error" | "warnings" | "reading" | "processingStartedAt" | "processingCompletedAt" | "progress"
  > {
  readonly tags: Record<string, string>;
  readonly error: string | null;
  readonly reading: Reading & { readonly warnings?: readonly string[] };
  readonly processingStartedAt: string | null;
  readonly processingCompletedAt: string | null;
}

const COLUMNS = sql`
  o.id, o.title, o.source, o.mime_type AS "mimeType", o.size_bytes AS "sizeBytes", o.content_hash AS "contentHash", o.status, o.error, o.reading,
  o.version, to_jsonb(o.labels) AS labels, d.tags, o.observed_at AS "observedAt", o.created_at AS "createdAt", o.updated_at AS "updatedAt",
  o.processing_started_at AS "processingStartedAt", o.processing_completed_at AS "processingCompletedAt"`;

const tables = (tx: ScopedTransaction) =>
  sql`${tx.read("document", "o")} JOIN ${tx.read("scope", "d")} ON d.id = o.scope_id`;

function toDocument({
  tags,
  error,
  reading: { warnings = [], ...reading },
  processingStartedAt,
  processingCompletedAt,
  ...row
}: DocumentRow): Document {
  const scope = scopeFromDatabase(tags);
  return {
    ...row,
    scope,
    scopes: scopePaths(scope),
    ...(error === null ? {} : { error }),
    ...(warnings.length === 0 ? {} : { warnings }),
    ...(Object.keys(reading).length === 0 ? {} : { reading }),
    ...(processingStartedAt === null ? {} : { processingStartedAt }),
    ...(processingCompletedAt === null ? {} : { processingCompletedAt }),
  };
}

export interface DocumentPage {
  readonly documents: Document[];
  readonly page: number;
  readonly pageSize: number;
  readonly total: number;
}

/** Newest first. */
export async function listDocuments(
  tx: ScopedTransaction,
  filter: { status?: DocumentStatus | undefined; mimeType?: string | undefined; page: number; pageSize: number },
): Promise<DocumentPage> {
  const { page, pageSize } = filter;
  const conditions: SQL[] = [sql`true`];
  if (filter.status !== undefined) conditions.push(sql`o.status = ${filter.status}`);
  if (filter.mimeType !== undefined) conditions.push(sql`o.mime_type = ${filter.mimeType}`);
  const where = sql.join(conditions, sql` AND `);
  const [rows, counted] = await Promise.all([
    tx.rows<DocumentRow>(sql`
      SELECT ${COLUMNS} FROM ${tables(tx)} WHERE ${where}
      ORDER BY o.created_at DESC, o.id DESC LIMIT ${pageSize} OFFSET ${page * pageSize}`),
    tx.row<{ n: number }>(sql`SELECT count(*)::int AS n FROM ${tx.read("document", "o")} WHERE ${where}`),
  ]);
  return { documents: rows.map(toDocument), page, pageSize, total: counted?.n ?? 0 };
}

export async function getDocument(tx: ScopedTransaction, id: string): Promise<Document> {
  const row = await tx.row<DocumentRow>(sql`SELECT ${COLUMNS} FROM ${tables(tx)} WHERE o.id = ${id}::uuid`);
  if (row === undefined) throw notFound();
  const document = toDocument(row);
  if (document.status !== "embedding") return document;
  const progress = await tx.row<{ chunks: number; embedded: number }>(sql`
    SELECT count(*)::int AS chunks, count(p.embedder_id)::int AS embedded
    FROM ${tx.read("passage", "p")} WHERE p.document_id = ${id}::uuid AND p.expired_at IS NULL`);
  return progress === undefined ? document : { ...document, progress };
}

/** Takes documents' chunks out, with their vectors, words and fingerprints. */
export async function removeChunks(tx: ScopedTransaction, ...ids: readonly string[]): Promise<void> {
  const chunks = sql`passage_id IN (SELECT p.id FROM ${tx.read("passage", "p")} WHERE p.document_id = ANY (${list(ids)}::uuid[]))`;
  await tx.remove("chunk_band", chunks);
  await tx.remove("passage", sql`document_id = ANY (${list(ids)}::uuid[])`);
}

/** Deletes a document with its bytes, chunks, vectors, words, keywords and links. */
export async function deleteDocument(tx: ScopedTransaction, id: string): Promise<void> {
  await tx.call("drop_cached_answers"); // they may hold its text
  const deleted = await removeDocuments(tx, [id]);
  if (deleted === 0) throw notFound();
  await writeReceipt(
    tx,
    { policy: "document", action: "erase", subtree: false, items: { documents: [id] } },
    { document: deleted },
  );
  recordTrace(tx, { kind: "decision", operation: "document_delete", returned: deleted });
}

/** Gives how many there were. */
export async function removeDocuments(tx: ScopedTransaction, ids: readonly string[]): Promise<number> {
  await removeChunks(tx, ...ids);
  return tx.remove("document", sql`id = ANY (${list(ids)}::uuid[])`);
}

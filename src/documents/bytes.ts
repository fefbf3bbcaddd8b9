import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { notFound } from "../errors.ts";
import { recordTrace } from "../traces/record.ts";
import { PART_BYTES } from "./spool.ts";

/** The bytes that a document was uploaded as, and what of them goes when a part of its text is forgotten. */
export interface StoredBytes {
  readonly mimeType: string;
  readonly title: string;
  readonly size: number;
  readonly version: number;
  readonly parts: number;
}

/** What the newest upload's bytes are. 404 as well when they were forgotten with a part of the text. */
export async function describeBytes(tx: ScopedTransaction, id: string): Promise<StoredBytes> {
  const row = await tx.row<{
    mimeType: string;
    title: string;
    size: number;
    version: number;
    contentHash: string | null;
  }>(sql`
    SELECT o.mime_type AS "mimeType", o.title, o.size_bytes AS size, o.version, o.content_hash AS "contentHash"
    FROM ${tx.read("document", "o")} WHERE o.id = ${id}::uuid`);
  if (row === undefined || row.contentHash === null) throw notFound();
  recordTrace(tx, { kind: "retrieval", operation: "document_raw", sources: [id], returned: 1 });
  return { ...row, parts: Math.ceil(row.size / PART_BYTES) };
}

export async function readPart(tx: ScopedTransaction, id: string, version: number, part: number): Promise<Uint8Array> {
  const row = await tx.row<{ bytes: Uint8Array }>(sql`
    SELECT c.bytes FROM ${tx.read("document_content", "c")}
    WHERE c.document_id = ${id}::uuid AND c.version = ${version}::int AND c.part = ${part}::int`);
  if (row === undefined) throw notFound();
  return row.bytes;
}

/** Takes the bytes of documents out, and what else was made from the text of them, because a part of that text was forgotten. */
export async function forgetBytes(tx: ScopedTransaction, documents: readonly string[]): Promise<number> {
  const ids = list(documents);
  // A newer version that is still on its way is another text.
  await tx.remove(
    "document_content",
    sql`document_id = ANY (${ids}::uuid[]) AND version <= (
      SELECT o.ready_version FROM ${tx.read("document", "o")} WHERE o.scope_id = document_content.scope_id AND o.id = document_content.document_id)`,
  );
  await tx.remove("keyword", sql`document_id = ANY (${ids}::uuid[])`);
  const contentHash = sql`CASE WHEN version = ready_version THEN NULL ELSE content_hash END`;
  return tx.update("document", { contentHash, updatedAt: sql`now()` }, sql`id = ANY (${ids}::uuid[])`);
}

import type { TakenJob } from "../../db/access/enter-job.ts";
import { type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { removeChunks } from "../../documents/documents.ts";
import type { MediaType } from "../../documents/parsing/media-type.ts";
import type { UploadedFile } from "../../documents/parsing/parser-process.ts";
import type { Embedder } from "../../models/embedder.ts";
import type { AllowedReaders } from "./read-media.ts";

export interface Version {
  readonly id: string;
  readonly title: string;
  readonly labels: readonly string[];
  readonly observedAt: string;
  readonly mimeType: MediaType;
  readonly charset: string | null;
  readonly readyVersion: number | null;
  /** Of an earlier version, or an earlier attempt. */
  readonly hasChunks: boolean;
}

/**
 * The job's document, unless it was deleted or a newer version was uploaded. Locked against both until
 * the transaction ends, so that nothing of this version lands behind the next one's clearing.
 */
export const currentVersion = (tx: ScopedTransaction, job: TakenJob) =>
  tx.row<Version>(sql`
    SELECT o.id, o.title, to_jsonb(o.labels) AS labels, o.observed_at AS "observedAt", o.mime_type AS "mimeType", o.charset, o.ready_version AS "readyVersion",
      EXISTS (SELECT 1 FROM ${tx.read("passage", "p")} WHERE p.document_id = o.id) AS "hasChunks"
    FROM ${tx.read("document", "o")} WHERE o.id = ${job.documentId}::uuid AND o.version = ${job.version}::int FOR SHARE`);

/** What is to be done, and as its scope has it. */
export interface Started {
  readonly file: UploadedFile;
  readonly readers: AllowedReaders;
  readonly hasReadyVersion: boolean;
  readonly chunkTokens: number;
  readonly embedder: Embedder;
}

type DocumentChange = Parameters<typeof ScopedTransaction.prototype.update<"document">>[1];

export const setStatus = (tx: ScopedTransaction, job: TakenJob, change: DocumentChange) =>
  tx.update(
    "document",
    { updatedAt: sql`now()`, ...change },
    sql`id = ${job.documentId}::uuid AND version = ${job.version}::int`,
  );

/** What recall showed of the version before leaves it in the transaction in which this one enters. */
export async function clear(tx: ScopedTransaction, job: TakenJob): Promise<void> {
  if (job.documentId !== null) await removeChunks(tx, job.documentId);
  await tx.remove("keyword", sql`document_id = ${job.documentId}::uuid`);
  await tx.remove("document_content", sql`document_id = ${job.documentId}::uuid AND version < ${job.version}::int`);
}

export const finish = (tx: ScopedTransaction) => tx.call<void>("finish_job");

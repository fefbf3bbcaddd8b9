import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { notFound } from "../errors.ts";
import { recordTrace } from "../traces/record.ts";
import { getDocument } from "./documents.ts";

/** A part of a document, as recall finds it. */
export interface Chunk {
  readonly id: string;
  readonly document: string;
  readonly position: number;
  readonly section?: string;
  readonly charStart: number;
  readonly charEnd: number;
  readonly text: string;
  readonly tokenCount: number;
  readonly duplicateOf?: string;
  /** The kinds of planted instructions that the text looks like, where it does. */
  readonly suspicious?: readonly string[];
}

export interface ChunkRow extends Omit<Chunk, "section" | "duplicateOf" | "suspicious"> {
  readonly section: string | null;
  readonly duplicateOf: string | null;
  readonly suspicious: readonly string[];
}

export const CHUNK_COLUMNS = sql`
  p.id, p.document_id AS document, p.position, p.section, p.char_start AS "charStart", p.char_end AS "charEnd", p.text,
  p.tokens AS "tokenCount", p.duplicate_of AS "duplicateOf", to_jsonb(p.suspicious) AS suspicious`;

export const toChunk = ({ section, duplicateOf, suspicious, ...row }: ChunkRow): Chunk => ({
  ...row,
  ...(section === null ? {} : { section }),
  ...(duplicateOf === null ? {} : { duplicateOf }),
  ...(suspicious.length === 0 ? {} : { suspicious }),
});

/** In order, of the version that recall shows; and how many there are in all. */
export async function listChunks(
  tx: ScopedTransaction,
  id: string,
  limit: number,
  offset: number,
): Promise<{ readonly chunks: Chunk[]; readonly total: number }> {
  await getDocument(tx, id);
  const own = sql`p.document_id = ${id}::uuid AND p.expired_at IS NULL`;
  const [rows, counted] = await Promise.all([
    tx.rows<ChunkRow>(sql`
      SELECT ${CHUNK_COLUMNS} FROM ${tx.read("passage", "p")}
      WHERE ${own} ORDER BY p.position LIMIT ${limit} OFFSET ${offset}`),
    tx.row<{ n: number }>(sql`SELECT count(*)::int AS n FROM ${tx.read("passage", "p")} WHERE ${own}`),
  ]);
  recordTrace(tx, {
    kind: "retrieval",
    operation: "chunks",
    sources: rows.map((row) => row.id),
    returned: rows.length,
  });
  return { chunks: rows.map(toChunk), total: counted?.n ?? 0 };
}

/** The one at a position, from 0. */
export async function chunkAt(tx: ScopedTransaction, id: string, position: number): Promise<Chunk> {
  const row = await tx.row<ChunkRow>(sql`
    SELECT ${CHUNK_COLUMNS} FROM ${tx.read("passage", "p")}
    WHERE p.document_id = ${id}::uuid AND p.position = ${position}::int AND p.expired_at IS NULL`);
  if (row === undefined) throw notFound();
  recordTrace(tx, { kind: "retrieval", operation: "chunks", sources: [row.id], returned: 1 });
  return toChunk(row);
}

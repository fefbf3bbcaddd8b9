import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { CHUNK_COLUMNS, type Chunk, type ChunkRow, toChunk } from "../documents/chunks.ts";
import type { QueryVectors } from "../models/metered.ts";
import { spending } from "../traces/record.ts";
import { remarksOn } from "./answer/hits.ts";
import { conclude } from "./conclude.ts";
import { canonicalQuestion } from "./question.ts";
import type { Candidate } from "./ranking/candidate.ts";
import { NO_FILTER } from "./ranking/filter.ts";
import { type Mode, search } from "./ranking/search.ts";

export interface DocumentsRequest {
  readonly query: string;
  readonly k: number;
  readonly mode: Mode | "hybrid_graph";
  /** Least score of a result. */
  readonly threshold: number | undefined;
  readonly documentIds: readonly string[] | undefined;
  readonly mimeTypes: readonly string[] | undefined;
  readonly labels: readonly string[];
  readonly includeDuplicates: boolean;
  readonly excludeSuspicious: boolean;
  readonly rrfK: number | undefined;
  readonly vectorWeight: number | undefined;
  readonly hintsIgnored: readonly string[];
}

export interface DocumentResult {
  readonly chunk: Chunk;
  readonly document: {
    readonly id: string;
    readonly title: string;
    readonly mimeType: string;
    readonly source: string;
    readonly version: number;
  };
  readonly score: number;
  readonly suspicious?: readonly string[];
  readonly duplicates?: number;
}

/** Of the best documents so many are followed along their links. */
const FOLLOWED = 5;

/** The chunks of documents that a query finds, without falling back to what it does not. */
export async function queryDocuments(
  tx: ScopedTransaction,
  prepared: QueryVectors,
  request: DocumentsRequest,
): Promise<DocumentResult[]> {
  const graph = request.mode === "hybrid_graph";
  const found = await search(tx, {
    query: canonicalQuestion(request.query),
    prepared,
    k: request.k,
    mode: request.mode === "hybrid_graph" ? "hybrid" : request.mode,
    filter: {
      ...NO_FILTER,
      labels: request.labels,
      kinds: ["chunk"],
      documentIds: request.documentIds,
      mimeTypes: request.mimeTypes,
      excludeSuspicious: request.excludeSuspicious,
    },
    includeDuplicates: request.includeDuplicates,
    leastScore: request.threshold ?? 0,
    fullContextTokens: 0,
    fusion: {
      rrfK: request.rrfK,
      vectorWeight: request.vectorWeight,
      ...(graph ? { expand: (ranked: readonly Candidate[]) => alongLinks(tx, ranked) } : {}),
    },
  });
  const about = { operation: "documents_query", hintsIgnored: request.hintsIgnored } as const;
  const { hits } = await conclude(tx, request.query, found, about, spending(prepared), prepared.spentOnOthers);
  const byId = new Map(hits.map((hit) => [hit.id, hit]));
  const rows = await tx.rows<
    ChunkRow & { title: string; mimeType: string; source: string | null; version: number }
  >(sql`
    SELECT ${CHUNK_COLUMNS}, o.title, o.mime_type AS "mimeType", o.source, o.ready_version AS version FROM ${tx.read("passage", "p")}
    JOIN ${tx.read("document", "o")} ON o.scope_id = p.scope_id AND o.id = p.document_id
    WHERE p.id = ANY (${list(hits.map((hit) => hit.id))}::uuid[])`);
  return rows
    .map(({ title, mimeType, source, version, ...row }) => ({
      chunk: toChunk(row),
      document: { id: row.document, title, mimeType, source: source ?? "", version },
      score: byId.get(row.id)?.score ?? 0,
      ...remarksOn(byId.get(row.id)),
    }))
    .sort((a, b) => b.score - a.score || (a.chunk.id < b.chunk.id ? -1 : 1));
}

/** Of the documents that the best ones are linked to, the chunk that ranks best, or the first. */
async function alongLinks(tx: ScopedTransaction, ranked: readonly Candidate[]): Promise<Candidate[]> {
  const ids = list(ranked.map(({ id }) => id));
  const linked = await tx.rows<{ id: string; scopeId: number }>(sql`
    WITH found AS MATERIALIZED (
      SELECT p.id, p.scope_id, p.document_id, array_position(${ids}::uuid[], p.id) AS place
      FROM ${tx.read("passage", "p")} WHERE p.id = ANY (${ids}::uuid[])),
    best AS (
      SELECT f.scope_id, f.document_id, min(f.place) AS place FROM found f GROUP BY 1, 2 ORDER BY 3 LIMIT ${FOLLOWED}),
    near AS (
      SELECT l.scope_id, l.to_id, max(l.weight / b.place) AS weight FROM best b
      JOIN ${tx.read("document_link", "l")} ON l.scope_id = b.scope_id AND l.from_id = b.document_id GROUP BY 1, 2)
    SELECT c.id, c.scope_id AS "scopeId" FROM near n CROSS JOIN LATERAL (
      SELECT p.id, p.scope_id FROM ${tx.read("passage", "p")} LEFT JOIN found f ON f.id = p.id
      WHERE p.scope_id = n.scope_id AND p.document_id = n.to_id AND p.expired_at IS NULL
      ORDER BY f.place NULLS LAST, p.position LIMIT 1) c
    ORDER BY n.weight DESC, c.id LIMIT 20`);
  return linked.map((row) => ({ ...row, score: 0 }));
}

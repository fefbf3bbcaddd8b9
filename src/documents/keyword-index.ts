import { analyserOf } from "../context/settings.ts";
import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { notFound } from "../errors.ts";
import { lexicalState } from "../lexical/state.ts";
import { eachInSlices } from "../load/slices.ts";
import { recordTrace } from "../traces/record.ts";
import { getDocument } from "./documents.ts";
import { normalise } from "./parsing/normalise.ts";

export interface DocumentKeyword {
  readonly keyword: string;
  readonly normalised: string;
  readonly score: number;
  readonly count: number;
}

/** What a document is about, best first. */
export async function keywordsOfDocument(tx: ScopedTransaction, id: string): Promise<DocumentKeyword[]> {
  await getDocument(tx, id);
  const keywords = await tx.rows<DocumentKeyword>(sql`
    SELECT k.phrase AS keyword, k.normalised, k.score, k.count FROM ${tx.read("keyword", "k")}
    WHERE k.document_id = ${id}::uuid ORDER BY k.score DESC, k.normalised`);
  recordTrace(tx, { kind: "retrieval", operation: "keywords", sources: [id], returned: keywords.length });
  return keywords;
}

export interface IndexedKeyword {
  readonly keyword: string;
  readonly normalised: string;
  readonly documentCount: number;
  /** The best that any visible document has for it. */
  readonly score: number;
}

export const KEYWORD_ORDERS = ["documentCount", "score", "keyword"] as const;
export type KeywordOrder = (typeof KEYWORD_ORDERS)[number];

const ORDER = {
  documentCount: sql`"documentCount" DESC, score DESC, normalised`,
  score: sql`score DESC, normalised`,
  keyword: sql`normalised`,
} as const;

export interface KeywordPage {
  readonly keywords: IndexedKeyword[];
  readonly page: number;
  readonly pageSize: number;
  readonly total: number;
}

/** The keywords of the visible documents, each once. */
export async function listKeywords(
  tx: ScopedTransaction,
  filter: { q?: string | undefined; minDocumentCount: number; sort: KeywordOrder; page: number; pageSize: number },
): Promise<KeywordPage> {
  const { page, pageSize } = filter;
  const rows = await tx.rows<IndexedKeyword & { total: number }>(sql`
    SELECT min(k.phrase) AS keyword, k.normalised, count(*)::int AS "documentCount", max(k.score) AS score, (count(*) OVER ())::int AS total
    FROM ${tx.read("keyword", "k")}
    WHERE ${filter.q === undefined ? sql`true` : sql`strpos(k.normalised, ${normalise(filter.q)}) > 0`}
    GROUP BY k.normalised HAVING count(*) >= ${filter.minDocumentCount}
    ORDER BY ${ORDER[filter.sort]} LIMIT ${pageSize} OFFSET ${page * pageSize}`);
  recordTrace(tx, { kind: "retrieval", operation: "keywords", returned: rows.length });
  return { keywords: rows.map(({ total: _, ...row }) => row), page, pageSize, total: rows[0]?.total ?? 0 };
}

export interface DescribedKeyword extends IndexedKeyword {
  readonly documents: readonly {
    readonly id: string;
    readonly title: string;
    readonly score: number;
    readonly count: number;
  }[];
}

const MOST_DOCUMENTS = 500;

/** A keyword with the visible documents that are about it, best first. */
export async function describeKeyword(tx: ScopedTransaction, normalised: string): Promise<DescribedKeyword> {
  const rows = await tx.rows<{ keyword: string; id: string; title: string; score: number; count: number }>(sql`
    SELECT k.phrase AS keyword, o.id, o.title, k.score, k.count FROM ${tx.read("keyword", "k")}
    JOIN ${tx.read("document", "o")} ON o.scope_id = k.scope_id AND o.id = k.document_id
    WHERE ${tx.isNamed("k", "normalised_hash", normalised)} ORDER BY k.score DESC, o.id LIMIT ${MOST_DOCUMENTS}`);
  const [best] = rows;
  if (best === undefined) throw notFound();
  recordTrace(tx, {
    kind: "retrieval",
    operation: "keywords",
    sources: rows.map(({ id }) => id),
    returned: rows.length,
  });
  return {
    keyword: best.keyword,
    normalised,
    documentCount: rows.length,
    score: best.score,
    documents: rows.map(({ keyword: _, ...row }) => row),
  };
}

/** Keywords that share words with a query: the Jaccard similarity of their words, at least `threshold`. */
export async function searchKeywords(
  tx: ScopedTransaction,
  request: { query: string; k: number; threshold: number },
): Promise<IndexedKeyword[]> {
  const known = await tx.rows<Omit<IndexedKeyword, "score">>(sql`
    SELECT min(k.phrase) AS keyword, k.normalised, count(*)::int AS "documentCount" FROM ${tx.read("keyword", "k")} GROUP BY k.normalised`);
  const analyser = analyserOf(tx);
  const asked = analyser.question(request.query, (await lexicalState(tx)).languages);
  const scored = await eachInSlices(known, (keyword) => {
    const { terms, length } = analyser.text(keyword.normalised);
    const shared = asked.filter(({ variants }) => variants.some(([term]) => terms.has(term))).length;
    return { ...keyword, score: shared / Math.max(1, asked.length + Math.max(length - shared, 0)) };
  });
  const rows = scored
    .filter(({ score }) => score > 0 && score >= request.threshold)
    .sort((a, b) => b.score - a.score || b.documentCount - a.documentCount || (a.normalised < b.normalised ? -1 : 1))
    .slice(0, request.k);
  recordTrace(tx, { kind: "retrieval", operation: "keywords_search", query: request.query, returned: rows.length });
  return rows;
}

/** Links the documents of the write scope by the keywords that they share. Gives how many links there are. */
export async function recomputeLinks(tx: ScopedTransaction): Promise<number> {
  const emitted = await tx.call<number>("relink_documents");
  recordTrace(tx, { kind: "decision", operation: "recompute_links", returned: emitted });
  return emitted;
}

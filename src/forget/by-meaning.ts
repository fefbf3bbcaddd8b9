import { list, type ScopedTransaction, sql } from "../db/scoped.ts";
import { notFound, unprocessable } from "../errors.ts";
import type { Embedder, VectorText } from "../models/embedder.ts";
import { NO_FILTER } from "../recall/filter.ts";
import { rankByBm25 } from "../recall/lexical.ts";
import { fetchHits, type Hit } from "../recall/passages.ts";
import { rankByDistance } from "../recall/vector.ts";
import { recordTrace } from "../traces/record.ts";
import { writeReceipt } from "./receipt.ts";

/** More than this at once is a scope to erase, not a topic to forget. */
const MOST = 1_000;

export interface ForgetRequest {
  readonly query: string | undefined;
  readonly vector: VectorText | null;
  readonly embeddingTokens: number;
  readonly sessionId: string | undefined;
  /** Share of the best score that a match must reach. */
  readonly threshold: number;
  readonly subtree: boolean;
  readonly dryRun: boolean;
  /** Erase; otherwise expire. */
  readonly purge: boolean;
  /** The typed confirmation for general knowledge was given. */
  readonly confirmed: boolean;
}

export interface ForgetMatch {
  readonly id: string;
  readonly text: string;
  readonly score: number;
  readonly scope: Record<string, string>;
}

export interface ForgetAnswer {
  readonly deleted: number;
  readonly receiptId?: string;
  readonly matches?: readonly ForgetMatch[];
}

/**
 * Forgets what a query is about, or a session, or what a query is about in a session, inside E.
 *
 * A passage matches when it names a content word of the query or lies nearer to it than the
 * embedder's calibrated distance, and its score, words and vector half each, reaches `threshold`
 * of the best one.
 */
export async function forgetMatching(
  tx: ScopedTransaction,
  embedder: Embedder,
  request: ForgetRequest,
): Promise<ForgetAnswer> {
  const matches = await matchesOf(tx, embedder, request);
  const trace = { kind: "forget", operation: "forget", query: null, embeddingTokens: request.embeddingTokens } as const;
  if (request.dryRun) {
    recordTrace(tx, { ...trace, candidates: matches.length, returned: 0, tierReason: "dry run" });
    return {
      deleted: 0,
      matches: matches.map(({ id, text, score, scope }) => ({ id, text, score, scope })),
    };
  }
  const ids = matches.map((hit) => hit.id);
  const turns = matches.flatMap((hit) => (hit.turnId === null ? [] : [hit.turnId]));
  const counts = request.purge ? await erase(tx, ids, turns, request) : await expire(tx, ids, turns);
  const answers = await tx.call<number>("drop_recalled_answers");
  const receiptId = await writeReceipt(
    tx,
    {
      target: tx.entry.effective ?? tx.entry.trace.tags,
      subtree: request.subtree,
      action: request.purge ? "erase" : "expire",
      policy:
        request.query === undefined ? "session" : request.sessionId === undefined ? "query" : "query in a session",
    },
    { ...counts, idempotency: answers },
  );
  recordTrace(tx, { ...trace, candidates: matches.length, returned: counts.passage });
  return { deleted: counts.passage, receiptId };
}

/** Out of every route and tier at once, but kept for audit: no vector, no postings. */
async function expire(tx: ScopedTransaction, ids: readonly string[], turns: readonly string[]) {
  const posting = await tx.remove("posting", sql`passage_id = ANY (${list(ids)}::uuid[])`);
  const passage = await tx.update(
    "passage",
    { expiredAt: sql`now()` as never, embedding: null, embedderId: null },
    sql`id = ANY (${list(ids)}::uuid[]) AND expired_at IS NULL`,
  );
  const turn = await tx.update(
    "turn",
    { expiredAt: sql`now()` as never },
    sql`id = ANY (${list(turns)}::uuid[]) AND expired_at IS NULL`,
  );
  return { passage, turn, posting };
}

async function erase(tx: ScopedTransaction, ids: readonly string[], turns: readonly string[], request: ForgetRequest) {
  if (request.sessionId !== undefined && request.query === undefined) {
    // What was expired in it before goes as well.
    const inSession = sql`session_id = ${request.sessionId}::uuid`;
    const posting = await tx.remove("posting", sql`passage_id = ANY (${list(ids)}::uuid[])`);
    const passage = await tx.remove("passage", inSession);
    const turn = await tx.remove("turn", inSession);
    return { passage, turn, posting, session: await tx.remove("session", sql`id = ${request.sessionId}::uuid`) };
  }
  const posting = await tx.remove("posting", sql`passage_id = ANY (${list(ids)}::uuid[])`);
  const passage = await tx.remove("passage", sql`id = ANY (${list(ids)}::uuid[])`);
  const turn = await tx.remove("turn", sql`id = ANY (${list(turns)}::uuid[])`);
  return { passage, turn, posting };
}

async function matchesOf(tx: ScopedTransaction, embedder: Embedder, request: ForgetRequest): Promise<Hit[]> {
  const filter = { ...NO_FILTER, sessionId: request.sessionId };
  if (request.sessionId !== undefined) {
    const known = await tx.row<{ scopeId: number }>(
      sql`SELECT s.scope_id AS "scopeId" FROM ${tx.read("session", "s")} WHERE s.id = ${request.sessionId}::uuid`,
    );
    if (known?.scopeId === 0 && !request.dryRun && !request.confirmed) {
      throw unprocessable(
        'the session holds general knowledge, which everyone shares; confirm it with "confirm": "{}"',
      );
    }
    if (known === undefined) throw notFound();
  }
  if (request.query === undefined) return wholeSession(tx, request);
  const [lexical, nearest] = await Promise.all([
    rankByBm25(tx, request.query, filter, MOST),
    request.vector === null ? [] : rankByDistance(tx, embedder.id, request.vector, filter, MOST),
  ]);
  const bestWords = lexical[0]?.score ?? 0;
  const words = new Map(lexical.map((c) => [c.id, c.score / bestWords]));
  const likeness = new Map(nearest.map((c) => [c.id, Math.max(0, c.score)]));
  const scored = [...new Map([...nearest, ...lexical].map((c) => [c.id, c])).values()]
    .filter((c) => words.has(c.id) || 1 - (likeness.get(c.id) ?? 0) < embedder.nearDistance)
    .map((c) => ({ ...c, score: (words.get(c.id) ?? 0) / 2 + (likeness.get(c.id) ?? 0) / 2 }))
    .sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1));
  const least = (scored[0]?.score ?? 0) * request.threshold;
  const matching = scored.filter((c) => c.score >= least);
  if (matching.length >= MOST) {
    throw unprocessable(`${MOST} passages or more match; narrow the query, or erase a scope with POST /scopes/forget`);
  }
  return fetchHits(tx, matching);
}

async function wholeSession(tx: ScopedTransaction, request: ForgetRequest): Promise<Hit[]> {
  const rows = await tx.rows<{ id: string; scopeId: number }>(sql`
    SELECT p.id, p.scope_id AS "scopeId" FROM ${tx.read("passage", "p")}
    WHERE p.session_id = ${request.sessionId}::uuid AND p.expired_at IS NULL ORDER BY p.id`);
  return fetchHits(
    tx,
    rows.map((row) => ({ ...row, score: 1 })),
  );
}

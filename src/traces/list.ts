import { type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { notFound } from "../errors.ts";

export interface Trace {
  readonly id: string;
  readonly createdAt: string;
  readonly kind: string;
  readonly operation: string;
  readonly scope: Record<string, string>;
  readonly queryText: string | null;
  readonly resolutionTier: string | null;
  readonly tierReason: string | null;
  readonly plan: string | null;
  readonly latencyMs: number;
  readonly cached: boolean;
  readonly status: string;
  readonly sessionId: string | null;
  readonly tokens: {
    readonly input: number;
    readonly output: number;
    readonly embedding: number;
    readonly total: number;
  };
  readonly retrievals?: readonly string[];
}

interface TraceRow extends Omit<Trace, "tokens" | "cached" | "retrievals"> {
  readonly sources: readonly string[] | null;
  readonly input: number;
  readonly output: number;
  readonly embedding: number;
  readonly total: number;
}

const COLUMNS = sql`
  d.id, d.created_at AS "createdAt", d.kind, d.operation, d.scope, d.query AS "queryText", d.tier AS "resolutionTier",
  d.tier_reason AS "tierReason", d.plan, d.duration_ms AS "latencyMs", d.status, d.session_id AS "sessionId", d.sources,
  d.input_tokens AS input, d.output_tokens AS output, d.embedding_tokens AS embedding, d.total_tokens AS total`;

function toTrace({ sources, input, output, embedding, total, ...row }: TraceRow): Trace {
  return {
    ...row,
    cached: row.resolutionTier === "cache",
    tokens: { input, output, embedding, total },
    ...(sources === null ? {} : { retrievals: sources }),
  };
}

/** An agent sees the traces of its own key; the second lock says so too. */
export function ofCaller(tx: ScopedTransaction): SQL {
  return tx.entry.key.principal === "agent" ? sql`d.api_key_id = ${tx.entry.key.id}::uuid` : sql`true`;
}

export interface TraceFilter {
  readonly limit: number;
  readonly offset: number;
  readonly operation?: string | undefined;
  readonly since?: string | undefined;
  readonly until?: string | undefined;
}

/** Newest first. */
export async function listTraces(tx: ScopedTransaction, filter: TraceFilter): Promise<Trace[]> {
  const rows = await tx.rows<TraceRow>(sql`
    SELECT ${COLUMNS} FROM ${tx.read("decision_trace", "d")}
    WHERE ${ofCaller(tx)}
      AND (${filter.operation ?? null}::text IS NULL OR d.operation = ${filter.operation ?? null})
      AND (${filter.since ?? null}::timestamptz IS NULL OR d.created_at >= ${filter.since ?? null})
      AND (${filter.until ?? null}::timestamptz IS NULL OR d.created_at < ${filter.until ?? null})
    ORDER BY d.created_at DESC, d.id DESC LIMIT ${filter.limit} OFFSET ${filter.offset}`);
  return rows.map(toTrace);
}

export async function getTrace(tx: ScopedTransaction, id: string): Promise<Trace> {
  const row = await tx.row<TraceRow>(sql`
    SELECT ${COLUMNS} FROM ${tx.read("decision_trace", "d")} WHERE ${ofCaller(tx)} AND d.id = ${id}::uuid`);
  if (row === undefined) throw notFound();
  return toTrace(row);
}

export interface TraceStats {
  readonly total: number;
  readonly byOperation: Record<string, number>;
  readonly byTier: Record<string, number>;
  readonly totalTokens: number;
  readonly averageLatencyMs: number | null;
  /** Of the recalls below the direct tier: how many the cache answered, and what they did not spend again. */
  readonly cache: { readonly hits: number; readonly hitRate: number | null; readonly savedTokens: number };
}

/** Over the same traces that {@link listTraces} shows. */
export async function traceStats(tx: ScopedTransaction): Promise<TraceStats> {
  const groups = await tx.rows<{
    operation: string;
    tier: string | null;
    calls: number;
    tokens: number;
    ms: number;
    saved: number;
  }>(sql`
    SELECT d.operation, d.tier, count(*)::int AS calls, sum(d.total_tokens)::float8 AS tokens, sum(d.duration_ms)::float8 AS ms,
           sum(d.saved_tokens)::float8 AS saved
    FROM ${tx.read("decision_trace", "d")} WHERE ${ofCaller(tx)} GROUP BY d.operation, d.tier ORDER BY d.operation, d.tier`);
  const byOperation: Record<string, number> = {};
  const byTier: Record<string, number> = {};
  let total = 0;
  let totalTokens = 0;
  let ms = 0;
  let savedTokens = 0;
  for (const group of groups) {
    byOperation[group.operation] = (byOperation[group.operation] ?? 0) + group.calls;
    if (group.tier !== null) byTier[group.tier] = (byTier[group.tier] ?? 0) + group.calls;
    total += group.calls;
    totalTokens += group.tokens;
    ms += group.ms;
    savedTokens += group.saved;
  }
  const hits = byTier.cache ?? 0;
  const asked = hits + (byTier.hybrid ?? 0) + (byTier.full_context ?? 0);
  return {
    total,
    byOperation,
    byTier,
    totalTokens,
    averageLatencyMs: total === 0 ? null : ms / total,
    cache: { hits, hitRate: asked === 0 ? null : hits / asked, savedTokens },
  };
}

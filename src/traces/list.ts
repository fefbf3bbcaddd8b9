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
  /** Ids that the answer was made of. */
  readonly sources?: readonly string[];
}

interface TraceRow extends Omit<Trace, "tokens" | "cached" | "sources"> {
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
    ...(sources === null ? {} : { sources }),
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

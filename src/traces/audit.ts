import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { ofCaller } from "./list.ts";

/** Who did what, where and when: no text. */
export interface AuditRow {
  readonly id: string;
  readonly createdAt: string;
  readonly kind: string;
  readonly operation: string;
  readonly principal: string;
  readonly keyId: string;
  readonly onBehalfOf: string | null;
  readonly scope: Record<string, string>;
  readonly sessionId: string | null;
  readonly status: string;
  readonly returned: number | null;
  readonly totalTokens: number;
  readonly model: string | null;
  readonly latencyMs: number;
  readonly costUsd: number | null;
}

export interface AuditFilter {
  readonly principal?: string | undefined;
  readonly key?: string | undefined;
  readonly kind?: string | undefined;
  readonly since?: string | undefined;
  readonly until?: string | undefined;
  readonly limit: number;
}

/** Newest first. An agent sees what its own key did. */
export async function auditRows(tx: ScopedTransaction, filter: AuditFilter): Promise<AuditRow[]> {
  return tx.rows<AuditRow>(sql`
    SELECT d.id, d.created_at AS "createdAt", d.kind, d.operation, d.principal, d.api_key_id AS "keyId", d.on_behalf_of AS "onBehalfOf",
           d.scope, d.session_id AS "sessionId", d.status, d.returned, d.total_tokens AS "totalTokens",
           d.model, d.duration_ms AS "latencyMs", d.cost_usd::float8 AS "costUsd"
    FROM ${tx.read("decision_trace", "d")}
    WHERE ${ofCaller(tx)}
      AND (${filter.principal ?? null}::text IS NULL OR d.principal = ${filter.principal ?? null})
      AND (${filter.key ?? null}::uuid IS NULL OR d.api_key_id = ${filter.key ?? null}::uuid)
      AND (${filter.kind ?? null}::text IS NULL OR d.kind = ${filter.kind ?? null})
      AND (${filter.since ?? null}::timestamptz IS NULL OR d.created_at >= ${filter.since ?? null})
      AND (${filter.until ?? null}::timestamptz IS NULL OR d.created_at < ${filter.until ?? null})
    ORDER BY d.created_at DESC, d.id DESC LIMIT ${filter.limit}`);
}

import { list, type ScopedTransaction, sql } from "../db/scoped.ts";
import { type Scope, scopeFromDatabase } from "../scope/scope.ts";
import type { Candidate } from "./candidate.ts";
import { andNarrowed, type PassageFilter } from "./filter.ts";

/** A passage as recall shows it. */
export interface Hit {
  readonly id: string;
  readonly source: "memory_chunk" | "chunk";
  readonly text: string;
  readonly score: number;
  readonly scope: Scope;
  readonly occurredAt: string;
  readonly role: string | null;
  readonly tokens: number;
  readonly turnId: string | null;
  readonly sessionId: string | null;
}

interface PassageRow {
  readonly id: string;
  readonly kind: string;
  readonly text: string;
  readonly tags: Record<string, string>;
  readonly occurredAt: string;
  readonly role: string | null;
  readonly tokens: number;
  readonly turnId: string | null;
  readonly sessionId: string | null;
}

const COLUMNS = sql`
  p.id, p.kind, p.text, d.tags, p.observed_at AS "occurredAt", t.role, p.tokens, p.turn_id AS "turnId", p.session_id AS "sessionId"`;

const from = (tx: ScopedTransaction) => sql`
  ${tx.read("passage", "p")} JOIN ${tx.read("scope", "d")} ON d.id = p.scope_id
  LEFT JOIN ${tx.read("turn", "t")} ON t.scope_id = p.scope_id AND t.id = p.turn_id`;

function toHit({ kind, tags, ...row }: PassageRow, score: number): Hit {
  return { ...row, source: kind === "turn" ? "memory_chunk" : "chunk", scope: scopeFromDatabase(tags), score };
}

/** The candidates' passages, in the candidates' order. */
export async function fetchHits(tx: ScopedTransaction, candidates: readonly Candidate[]): Promise<Hit[]> {
  if (candidates.length === 0) return [];
  const rows = await tx.rows<PassageRow>(sql`
    SELECT ${COLUMNS} FROM ${from(tx)}
    WHERE p.id = ANY (${list(candidates.map((c) => c.id))}::uuid[])
      AND p.scope_id = ANY (${list([...new Set(candidates.map((c) => c.scopeId))])}::int[]) AND p.expired_at IS NULL`);
  const byId = new Map(rows.map((row) => [row.id, row]));
  return candidates.flatMap((candidate) => {
    const row = byId.get(candidate.id);
    return row === undefined ? [] : [toHit(row, candidate.score)];
  });
}

/** The visible passages, newest first, as far as the token budget goes. */
export async function recentHits(
  tx: ScopedTransaction,
  filter: PassageFilter,
  maxTokens: number,
  limit: number,
): Promise<Hit[]> {
  const rows = await tx.rows<PassageRow>(sql`
    SELECT ${COLUMNS} FROM ${from(tx)}
    WHERE p.expired_at IS NULL${andNarrowed(filter)}
    ORDER BY p.observed_at DESC, p.id DESC LIMIT ${limit}`);
  let spent = 0;
  return rows.flatMap((row) => {
    spent += row.tokens;
    return spent <= maxTokens ? [toHit(row, 0)] : [];
  });
}

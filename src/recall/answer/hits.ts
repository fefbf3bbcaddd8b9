import { list, type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { GENERAL, type Scope, scopeFromDatabase } from "../../scope/scope.ts";
import type { Candidate } from "../ranking/candidate.ts";
import { andFilterSql, type PassageFilter } from "../ranking/filter.ts";

/** A passage as recall shows it. */
export interface Hit {
  readonly id: string;
  readonly scopeId: number;
  readonly source: "memory_chunk" | "chunk" | "attribute";
  readonly text: string;
  readonly score: number;
  readonly scope: Scope;
  readonly occurredAt: string;
  readonly role: string | null;
  /** The principal of the key that stored it. */
  readonly author: string;
  readonly tokens: number;
  readonly turnId: string | null;
  readonly sessionId: string | null;
  /** Of a chunk. */
  readonly documentId: string | null;
  readonly documentTitle: string | null;
}

interface PassageRow {
  readonly id: string;
  readonly scopeId: number;
  readonly kind: string;
  readonly text: string;
  readonly occurredAt: string;
  readonly role: string | null;
  /** The principal of the key that stored it. */
  readonly author: string;
  readonly tokens: number;
  readonly turnId: string | null;
  readonly sessionId: string | null;
  readonly documentId: string | null;
  readonly documentTitle: string | null;
}

const SOURCES: Record<string, Hit["source"]> = { turn: "memory_chunk", chunk: "chunk", attribute: "attribute" };

const COLUMNS = sql`
  p.id, p.scope_id AS "scopeId", p.kind, p.text, p.observed_at AS "occurredAt", p.role, p.author, p.tokens, p.turn_id AS "turnId",
  p.session_id AS "sessionId", p.document_id AS "documentId", o.title AS "documentTitle"`;

const tables = (tx: ScopedTransaction) => sql`
  ${tx.read("passage", "p")} LEFT JOIN ${tx.read("document", "o")} ON o.scope_id = p.scope_id AND o.id = p.document_id`;

/** Gives the rows their scopes: those that entering resolved, and of a large subtree the dictionary's. */
async function toHits(
  tx: ScopedTransaction,
  rows: readonly PassageRow[],
  score: (row: PassageRow) => number,
): Promise<Hit[]> {
  const scopes = new Map<number, Scope>([[0, GENERAL], ...tx.entry.read.scopes]);
  const unknown = [...new Set(rows.map((row) => row.scopeId))].filter((id) => !scopes.has(id));
  if (unknown.length > 0) {
    const found = await tx.rows<{ id: number; tags: Record<string, string> }>(
      sql`SELECT d.id, d.tags FROM ${tx.read("scope", "d")} WHERE d.id = ANY (${list(unknown)}::int[])`,
    );
    for (const { id, tags } of found) scopes.set(id, scopeFromDatabase(tags));
  }
  return rows.flatMap((row) => {
    const { kind, ...rest } = row;
    const scope = scopes.get(row.scopeId);
    return scope === undefined
      ? []
      : [{ ...rest, source: SOURCES[kind] ?? "chunk", scope, score: score(row) } as const];
  });
}

/** The candidates' passages, in the candidates' order. */
export async function fetchHits(tx: ScopedTransaction, candidates: readonly Candidate[]): Promise<Hit[]> {
  if (candidates.length === 0) return [];
  const rows = await tx.rows<PassageRow>(sql`
    SELECT ${COLUMNS} FROM ${tables(tx)}
    WHERE p.id = ANY (${list(candidates.map((c) => c.id))}::uuid[])
      AND p.scope_id = ANY (${list([...new Set(candidates.map((c) => c.scopeId))])}::int[]) AND p.expired_at IS NULL`);
  const order = new Map(candidates.map((candidate, i) => [candidate.id, { i, score: candidate.score }]));
  const hits = await toHits(tx, rows, (row) => order.get(row.id)?.score ?? 0);
  return hits.sort((a, b) => (order.get(a.id)?.i ?? 0) - (order.get(b.id)?.i ?? 0));
}

/** The visible passages, newest first, as far as the token budget goes. */
export async function recentHits(
  tx: ScopedTransaction,
  filter: PassageFilter,
  maxTokens: number,
  limit: number,
): Promise<Hit[]> {
  const rows = await tx.rows<PassageRow>(sql`
    SELECT ${COLUMNS} FROM ${tables(tx)}
    WHERE p.expired_at IS NULL${andFilterSql(tx, filter)}
    ORDER BY p.observed_at DESC, p.id DESC LIMIT ${limit}`);
  let spent = 0;
  const affordable = rows.filter((row) => {
    spent += row.tokens;
    return spent <= maxTokens;
  });
  return toHits(tx, affordable, () => 0);
}

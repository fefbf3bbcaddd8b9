import { list, type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { GENERAL, type Scope, scopeFromDatabase } from "../../scope/scope.ts";
import { plantedIn } from "../../text/planted.ts";
import type { Candidate } from "../ranking/candidate.ts";
import { andFilterSql, NO_FILTER, type PassageFilter } from "../ranking/filter.ts";
import { asksForPastFacts, recentPastFacts } from "../ranking/past-facts.ts";

/** A passage as recall shows it. */
export interface Hit {
  readonly id: string;
  readonly scopeId: number;
  readonly source: "memory_chunk" | "chunk" | "attribute" | "item";
  readonly text: string;
  readonly score: number;
  readonly scope: Scope;
  readonly labels: readonly string[];
  readonly occurredAt: string;
  readonly createdAt: string;
  /** Of a chunk in its document; of a turn in its session. */
  readonly position: number | null;
  readonly role: string | null;
  /** The principal of the key that stored it. */
  readonly author: string;
  readonly tokens: number;
  readonly turnId: string | null;
  readonly sessionId: string | null;
  /** Of a chunk. */
  readonly documentId: string | null;
  readonly documentTitle: string | null;
  /** The kinds of planted instructions that it looks like. */
  readonly suspicious: readonly string[];
  /** How many others that say the same it stands for. */
  readonly duplicates?: number;
}

/** What an answer says of a hit where there is something to say. */
export const remarksOn = (hit: Pick<Hit, "suspicious" | "duplicates"> | undefined) => ({
  ...(hit === undefined || hit.suspicious.length === 0 ? {} : { suspicious: hit.suspicious }),
  ...(hit?.duplicates === undefined ? {} : { duplicates: hit.duplicates }),
});

interface PassageRow {
  readonly id: string;
  readonly scopeId: number;
  readonly kind: string;
  readonly text: string;
  readonly labels: readonly string[];
  readonly occurredAt: string;
  readonly createdAt: string;
  readonly position: number | null;
  readonly role: string | null;
  /** The principal of the key that stored it. */
  readonly author: string;
  readonly tokens: number;
  readonly turnId: string | null;
  readonly sessionId: string | null;
  readonly documentId: string | null;
  readonly documentTitle: string | null;
  readonly suspicious: readonly string[];
}

const SOURCES: Record<string, Hit["source"]> = {
  turn: "memory_chunk",
  chunk: "chunk",
  attribute: "attribute",
  item: "item",
};

const COLUMNS = sql`
  p.id, p.scope_id AS "scopeId", p.kind, p.text, to_jsonb(p.labels) AS labels, p.observed_at AS "occurredAt", p.created_at AS "createdAt", p.position, p.role, p.author, p.tokens, p.turn_id AS "turnId",
  p.session_id AS "sessionId", p.document_id AS "documentId", to_jsonb(p.suspicious) AS suspicious, o.title AS "documentTitle"`;

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

/**
 * The candidates' passages, in the candidates' order.
 *
 * @param filter of the search, where facts of another time may be among them: those have no passage any more
 */
export async function fetchHits(
  tx: ScopedTransaction,
  candidates: readonly Candidate[],
  filter: PassageFilter = NO_FILTER,
): Promise<Hit[]> {
  if (candidates.length === 0) return [];
  const rows = await tx.rows<PassageRow>(sql`
    SELECT ${COLUMNS} FROM ${tables(tx)}
    WHERE p.id = ANY (${list(candidates.map((c) => c.id))}::uuid[])
      AND p.scope_id = ANY (${list([...new Set(candidates.map((c) => c.scopeId))])}::int[]) AND p.expired_at IS NULL`);
  const found = new Set(rows.map(({ id }) => id));
  const missing = candidates.filter(({ id }) => !found.has(id));
  const past = asksForPastFacts(filter) && missing.length > 0 ? await pastFacts(tx, missing) : [];
  const order = new Map(candidates.map((candidate, i) => [candidate.id, { i, ...candidate }]));
  const hits = await toHits(tx, [...rows, ...past], (row) => order.get(row.id)?.score ?? 0);
  return hits
    .map((hit) => {
      const duplicates = order.get(hit.id)?.duplicates;
      return duplicates === undefined ? hit : { ...hit, duplicates };
    })
    .sort((a, b) => (order.get(a.id)?.i ?? 0) - (order.get(b.id)?.i ?? 0));
}

/** Facts that are over, as passages: the row has their words. */
async function pastFacts(tx: ScopedTransaction, candidates: readonly Candidate[]): Promise<PassageRow[]> {
  const ids = list(candidates.map(({ id }) => id));
  const scopes = list([...new Set(candidates.map(({ scopeId }) => scopeId))]);
  const select = (table: "attribute" | "relation") => sql`
    SELECT f.id, f.scope_id AS "scopeId", 'attribute' AS kind, f.sentence AS text, to_jsonb(f.labels) AS labels, f.valid_from AS "occurredAt", f.created_at AS "createdAt", NULL::int AS position, NULL AS role, 'agent' AS author,
           f.tokens, NULL AS "turnId", f.session_id AS "sessionId", NULL AS "documentId", NULL AS "documentTitle"
    FROM ${tx.read(table, "f")} WHERE f.id = ANY (${ids}::uuid[]) AND f.scope_id = ANY (${scopes}::int[]) AND f.expired_at IS NULL`;
  const rows = await tx.rows<Omit<PassageRow, "suspicious">>(
    sql`${select("attribute")} UNION ALL ${select("relation")}`,
  );
  return rows.map((row) => ({ ...row, suspicious: plantedIn(row.text) }));
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
  const known = new Set(rows.map(({ id }) => id));
  const past = asksForPastFacts(filter)
    ? await pastFacts(
        tx,
        (await recentPastFacts(tx, filter, limit)).filter(({ id }) => !known.has(id)),
      )
    : [];
  let spent = 0;
  const newestFirst = [...rows, ...past]
    .sort((a, b) => Date.parse(b.occurredAt) - Date.parse(a.occurredAt) || (a.id < b.id ? 1 : -1))
    .slice(0, limit);
  const trusted =
    filter.excludeSuspicious === true ? newestFirst.filter((row) => row.suspicious.length === 0) : newestFirst;
  const affordable = trusted.filter((row) => {
    spent += row.tokens;
    return spent <= maxTokens;
  });
  return toHits(tx, affordable, () => 0);
}

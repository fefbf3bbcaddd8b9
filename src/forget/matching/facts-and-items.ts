import { NIL } from "uuid";
import { type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { spellValue } from "../../exact-json.ts";
import { Slices } from "../../load/slices.ts";
import type { Hit } from "../../recall/answer/hits.ts";
import { scopeFromDatabase } from "../../scope/scope.ts";
import type { Keep } from "./selection.ts";
import { shareOfText, type Topic } from "./topic.ts";

/** What a forget found: a passage, or something that recall does not rank. */
export type Match = Omit<
  Hit,
  "source" | "scopeId" | "labels" | "createdAt" | "position" | "suspicious" | "duplicates"
> & {
  readonly source: Hit["source"] | "document";
  /** Why it matches, in a few words. */
  readonly why: string;
};

interface Row {
  readonly id: string;
  readonly at: string;
  readonly tags: Record<string, string>;
  /** What is looked at. */
  readonly words: string;
}

/** Rows that are looked at together. */
const PAGE = 500;

/** What is looked for, and where. */
interface Wanted {
  readonly threshold: number;
  readonly sessionId: string | undefined;
  /** For good: what was expired before, or corrected, goes too. */
  readonly purge: boolean;
  readonly keep: Keep;
}

/**
 * What a topic is also said in, and what no ranking of the present knows: facts that are over, keyed items, and
 * before a purge what was expired.
 */
export async function matchUnranked(
  tx: ScopedTransaction,
  topic: Topic,
  { threshold, sessionId, purge, keep }: Wanted,
  limit: number,
): Promise<Match[]> {
  if (topic.weight === 0) return [];
  const facts = await rowsSaying<Row>(tx, factsWithoutPassage(tx, sessionId, purge), topic, threshold, limit, keep);
  const past = facts.map((row) => match(row, "attribute", row.words));
  if (purge) past.push(...(await matchExpired(tx, topic, { threshold, sessionId, keep }, limit)));
  if (sessionId !== undefined) return past;
  const items = await rowsSaying<Row & { key: string; value: unknown }>(
    tx,
    sql`
      SELECT m.id, m.key, m.value, m.updated_at AS at, d.tags, m.key || ' ' || translate(m.key, '_.:@|+~-', '        ') || ' ' || m.value::text AS words
      FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id`,
    topic,
    threshold,
    limit,
    keep,
  );
  return [...past, ...items.map(({ key, value, ...row }) => match(row, "item", `${key}: ${spellValue(value)}`))];
}

/** Turns and chunks that were expired, and former texts of turns. */
async function matchExpired(
  tx: ScopedTransaction,
  topic: Topic,
  { threshold, sessionId, keep }: Omit<Wanted, "purge">,
  limit: number,
): Promise<Match[]> {
  const inSession = (alias: string) =>
    sessionId === undefined ? sql`` : sql` AND ${sql.identifier(alias)}.session_id = ${sessionId}::uuid`;
  const rows = await rowsSaying<Row & { turnId: string | null; documentId: string | null }>(
    tx,
    sql`
      SELECT p.id, p.turn_id AS "turnId", p.document_id AS "documentId", p.observed_at AS at, d.tags, p.text AS words
      FROM ${tx.read("passage", "p")} JOIN ${tx.read("scope", "d")} ON d.id = p.scope_id WHERE p.expired_at IS NOT NULL${inSession("p")}
      UNION ALL
      SELECT t.id, t.id, NULL, t.observed_at, d.tags, t.content
      FROM ${tx.read("turn", "t")} JOIN ${tx.read("scope", "d")} ON d.id = t.scope_id WHERE t.corrected_id IS NOT NULL${inSession("t")}`,
    topic,
    threshold,
    limit,
    keep,
  );
  return rows.map(({ turnId, documentId, ...row }) => ({
    ...match(row, documentId === null ? "memory_chunk" : "chunk", row.words),
    turnId,
    documentId,
    why: "was expired or corrected, and says it",
  }));
}

/** Of the rows of a SELECT those whose words say a share of a topic, the most first. */
async function rowsSaying<Found extends Row>(
  tx: ScopedTransaction,
  select: SQL,
  topic: Topic,
  threshold: number,
  limit: number,
  keep: Keep,
): Promise<(Found & { readonly share: number })[]> {
  const slices = new Slices();
  const found: (Found & { readonly share: number })[] = [];
  for (let after: string = NIL; ; ) {
    const rows = await tx.rows<Found>(
      sql`SELECT said.* FROM (${select}) AS said WHERE said.id > ${after}::uuid ORDER BY said.id LIMIT ${PAGE}`,
    );
    const saying: (Found & { readonly share: number })[] = [];
    for (const row of rows) {
      const share = shareOfText(row.words, topic, threshold);
      if (share !== undefined) saying.push({ ...row, share });
      await slices.pause();
    }
    found.push(...(await keep(saying)));
    after = rows.at(-1)?.id ?? NIL;
    if (rows.length < PAGE) break;
  }
  return found.sort((a, b) => b.share - a.share || (a.id < b.id ? -1 : 1)).slice(0, limit);
}

/** Rows of facts that recall does not rank: those that are over, of a session also what confirms another's, and where they are wanted those that were expired. */
function factsWithoutPassage(tx: ScopedTransaction, sessionId: string | undefined, expired = false): SQL {
  const rows = (table: "attribute" | "relation") => sql`
    SELECT f.id, f.valid_from AS at, d.tags, f.sentence AS words
    FROM ${tx.read(table, "f")} JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id
    WHERE ${expired ? sql`true` : sql`f.expired_at IS NULL`} AND ${sessionId === undefined ? sql`NOT f.is_confirmation` : sql`f.session_id = ${sessionId}::uuid`}
      AND NOT EXISTS (SELECT 1 FROM ${tx.read("passage", "p")} WHERE p.scope_id = f.scope_id AND p.id = f.id)`;
  return sql`${rows("attribute")} UNION ALL ${rows("relation")}`;
}

/** What a session said of entities, besides what recall ranks. */
export async function factsOfSession(tx: ScopedTransaction, sessionId: string): Promise<Match[]> {
  const rows = await tx.rows<Row>(sql`
    SELECT said.* FROM (${factsWithoutPassage(tx, sessionId)}) AS said ORDER BY id`);
  return rows.map((row) => ({ ...match({ ...row, share: 1 }, "attribute", row.words), why: "is in the session" }));
}

const match = (
  { id, share, at, tags }: Omit<Row, "words"> & { readonly share: number },
  source: Match["source"],
  text: string,
): Match => ({
  id,
  source,
  text,
  score: share,
  why: source === "item" ? "a keyed item that says it" : "a fact of the past that says it",
  scope: scopeFromDatabase(tags),
  occurredAt: at,
  role: null,
  author: "agent",
  tokens: 0,
  turnId: null,
  sessionId: null,
  documentId: null,
  documentTitle: null,
});

import { type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { stringifyJson } from "../../exact-json.ts";
import type { Hit } from "../../recall/answer/hits.ts";
import { scopeFromDatabase } from "../../scope/scope.ts";
import { mayBeAbout, saying, type Topic, weightOf } from "./topic.ts";

/** What a forget found: a passage, or something that recall does not rank. */
export type Match = Omit<Hit, "source" | "scopeId" | "suspicious" | "duplicates"> & {
  readonly source: Hit["source"] | "item";
  /** Why it matches, in a few words. */
  readonly why: string;
};

interface Row {
  readonly id: string;
  readonly text: string;
  readonly weight: number;
  readonly at: string;
  readonly tags: Record<string, string>;
}

/**
 * What a topic is also said in, and what no ranking of the present knows: facts that are over, and keyed
 * items.
 */
export async function matchUnranked(
  tx: ScopedTransaction,
  topic: Topic,
  threshold: number,
  sessionId: string | undefined,
  limit: number,
): Promise<Match[]> {
  const about = mayBeAbout(sql`said.words`, topic, threshold);
  const weight = weightOf(sql`said.words`, topic);
  const facts = await tx.rows<Row>(sql`
    SELECT said.*, said.words AS text, ${weight} AS weight FROM (${factsWithoutPassage(tx, sessionId)}) AS said
    WHERE ${about} ORDER BY weight DESC, id LIMIT ${limit}`);
  if (sessionId !== undefined) return saying(facts, topic, threshold).map((row) => match(row, "attribute", row.text));
  const items = await tx.rows<Row & { key: string; value: unknown }>(sql`
    SELECT said.*, said.words AS text, ${weight} AS weight FROM (
      SELECT m.id, m.key, m.value, m.updated_at AS at, d.tags, m.key || ' ' || translate(m.key, '_.:@|+~-', '        ') || ' ' || m.value::text AS words
      FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id) AS said
    WHERE ${about} ORDER BY weight DESC, id LIMIT ${limit}`);
  return [
    ...saying(facts, topic, threshold).map((row) => match(row, "attribute", row.text)),
    ...saying(items, topic, threshold).map(({ key, value, ...row }) =>
      match(row, "item", `${key}: ${typeof value === "string" ? value : stringifyJson(value)}`),
    ),
  ];
}

/** Rows of facts that recall does not rank: those that are over, and of a session also what confirms another's. */
function factsWithoutPassage(tx: ScopedTransaction, sessionId: string | undefined): SQL {
  const rows = (table: "attribute" | "relation") => sql`
    SELECT f.id, f.valid_from AS at, d.tags, f.sentence AS words
    FROM ${tx.read(table, "f")} JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id
    WHERE f.expired_at IS NULL AND ${sessionId === undefined ? sql`NOT f.is_confirmation` : sql`f.session_id = ${sessionId}::uuid`}
      AND NOT EXISTS (SELECT 1 FROM ${tx.read("passage", "p")} WHERE p.scope_id = f.scope_id AND p.id = f.id)`;
  return sql`${rows("attribute")} UNION ALL ${rows("relation")}`;
}

/** What a session said of entities, besides what recall ranks. */
export async function factsOfSession(tx: ScopedTransaction, sessionId: string): Promise<Match[]> {
  const rows = await tx.rows<Omit<Row, "text" | "weight"> & { words: string }>(sql`
    SELECT said.* FROM (${factsWithoutPassage(tx, sessionId)}) AS said ORDER BY id`);
  return rows.map(({ words, ...row }) => ({
    ...match({ ...row, text: words, weight: 0, share: 1 }, "attribute", words),
    why: "is in the session",
  }));
}

const match = (
  { id, share, at, tags }: Row & { readonly share: number },
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

import { type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { sentenceOf } from "../../memory/triples.ts";
import type { Hit } from "../../recall/answer/hits.ts";
import { scopeFromDatabase } from "../../scope/scope.ts";
import { mayBeAbout, saying, type Topic, weightOf } from "./topic.ts";

/** What a forget found: a passage, or something that recall does not rank. */
export type Match = Omit<Hit, "source" | "scopeId"> & {
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
 * What a topic is also said in, and what no ranking knows: facts that a newer value has superseded, and
 * keyed items.
 */
export async function matchUnranked(
  tx: ScopedTransaction,
  topic: Topic,
  threshold: number,
  limit: number,
): Promise<Match[]> {
  const about = mayBeAbout(sql`said.words`, topic, threshold);
  const weight = weightOf(sql`said.words`, topic);
  const superseded = await tx.rows<Row & { name: string; key: string; value: unknown; target: string | null }>(sql`
    SELECT said.*, said.words AS text, ${weight} AS weight FROM (
      SELECT f.id, e.name, f.key, f.value, NULL AS target, f.valid_from AS at, d.tags,
             e.name || ' ' || translate(f.key, '_-', '  ') || ' ' || (f.value #>> '{}') AS words
      FROM ${tx.read("attribute", "f")} JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
      JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id WHERE f.closed_at IS NOT NULL AND f.expired_at IS NULL
      UNION ALL
      SELECT f.id, e.name, f.key, NULL, o.name, f.valid_from, d.tags,
             e.name || ' ' || translate(f.key, '_-', '  ') || ' ' || o.name
      FROM ${tx.read("relation", "f")} JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
      JOIN ${tx.read("entity", "o")} ON o.scope_id = f.scope_id AND o.id = f.target_id
      JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id WHERE f.closed_at IS NOT NULL AND f.expired_at IS NULL) AS said
    WHERE ${about} ORDER BY weight DESC, id LIMIT ${limit}`);
  const items = await tx.rows<Row & { key: string; value: unknown }>(sql`
    SELECT said.*, said.words AS text, ${weight} AS weight FROM (
      SELECT m.id, m.key, m.value, m.updated_at AS at, d.tags, m.key || ' ' || translate(m.key, '_.:@|+~-', '        ') || ' ' || m.value::text AS words
      FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id) AS said
    WHERE ${about} ORDER BY weight DESC, id LIMIT ${limit}`);
  return [
    ...saying(superseded, topic, threshold).map(({ name, key, value, target, ...row }) =>
      match(
        row,
        "attribute",
        sentenceOf({
          entity: { type: "", name },
          key,
          ...(target === null ? { value } : { target: { type: "", name: target } }),
        }),
      ),
    ),
    ...saying(items, topic, threshold).map(({ key, value, ...row }) =>
      match(row, "item", `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`),
    ),
  ];
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

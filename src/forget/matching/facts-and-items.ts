import { type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { sentenceOf } from "../../memory/triples.ts";
import type { Hit } from "../../recall/answer/hits.ts";
import { scopeFromDatabase } from "../../scope/scope.ts";
import { lexemesOf, shareOf } from "./lexeme-share.ts";

/** What a forget found: a passage, or something that recall does not rank. */
export type Match = Omit<Hit, "source" | "scopeId"> & { readonly source: Hit["source"] | "item" };

interface Row {
  readonly id: string;
  readonly share: number;
  readonly at: string;
  readonly tags: Record<string, string>;
}

/** The query's words, once for a statement, under the alias a. */
const asked = (query: string) => sql`(SELECT ${lexemesOf(query)} AS lexemes) AS a`;
const shareAsked = (text: SQL) => shareOf(text, sql`a.lexemes`);

/**
 * What a topic is also said in, and what no ranking knows: facts that a newer value has superseded, and
 * keyed items. They match by the share of the query's content words that they say.
 */
export async function matchUnranked(
  tx: ScopedTransaction,
  query: string,
  threshold: number,
  limit: number,
): Promise<Match[]> {
  const superseded = await tx.rows<Row & { name: string; key: string; value: unknown; target: string | null }>(sql`
    SELECT * FROM (
      SELECT f.id, e.name, f.key, f.value, NULL AS target, f.valid_from AS at, d.tags,
             ${shareAsked(sql`e.name || ' ' || translate(f.key, '_-', '  ') || ' ' || (f.value #>> '{}')`)} AS share
      FROM ${tx.read("attribute", "f")} JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
      JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id, ${asked(query)} WHERE f.closed_at IS NOT NULL AND f.expired_at IS NULL
      UNION ALL
      SELECT f.id, e.name, f.key, NULL, o.name, f.valid_from, d.tags,
             ${shareAsked(sql`e.name || ' ' || translate(f.key, '_-', '  ') || ' ' || o.name`)}
      FROM ${tx.read("relation", "f")} JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
      JOIN ${tx.read("entity", "o")} ON o.scope_id = f.scope_id AND o.id = f.target_id
      JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id, ${asked(query)} WHERE f.closed_at IS NOT NULL AND f.expired_at IS NULL) AS said
    WHERE share > 0 AND share >= ${threshold}::float8 ORDER BY share DESC, id LIMIT ${limit}`);
  const items = await tx.rows<Row & { key: string; value: unknown }>(sql`
    SELECT * FROM (
      SELECT m.id, m.key, m.value, m.updated_at AS at, d.tags, ${shareAsked(sql`translate(m.key, '_.:@|+~-', '        ') || ' ' || m.value::text`)} AS share
      FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id, ${asked(query)}) AS kept
    WHERE share > 0 AND share >= ${threshold}::float8 ORDER BY share DESC, id LIMIT ${limit}`);
  return [
    ...superseded.map(({ name, key, value, target, ...row }) =>
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
    ...items.map(({ key, value, ...row }) =>
      match(row, "item", `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`),
    ),
  ];
}

const match = ({ id, share, at, tags }: Row, source: Match["source"], text: string): Match => ({
  id,
  source,
  text,
  score: share,
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

import { normalFormSql } from "../../db/access/normal-form-sql.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { normalForm } from "../../text/normal-form.ts";

/** What orders a forget, or fills it out, and names nothing by itself. */
const COMMANDS = new Set(
  `forget forgets delete deletes remove removes erase erases clear drop purge wipe clean please kindly everything anything something
  nothing all any both every each information info detail details data stuff thing things memory memories remember remembered know knows known
  knew about regarding concerning related mention mentioned said say says tell told talked talk decide decided decision
  user users person people someone
  old older new newer previous past recent latest current former last earlier outdated yesterday today
  unimportant important up out over start starting begin way long short`.split(/\s+/),
);

/** Letters and digits with what joins them in e-mail addresses, paths, versions and numbers of things. */
const TOKEN = /[\p{L}\p{N}][\p{L}\p{N}\p{M}]*(?:[._@:+#/'’-]+[\p{L}\p{N}][\p{L}\p{N}\p{M}]*)*/gu;
/** A token that is an identifier: it has a digit, or is joined like an address or a path. */
const IDENTIFIER = /\p{N}|[@_/]|\p{L}\.\p{L}/u;

const tokensOf = (text: string): string[] => normalForm(text).toLowerCase().match(TOKEN) ?? [];

/** What a request is about: words, and identifiers that count as they are alone. */
export interface Topic {
  readonly words: readonly Word[];
  readonly identifiers: readonly string[];
  /** Of all of them together; 0: it is about nothing. */
  readonly weight: number;
  /** Of each identifier. */
  readonly identifierWeight: number;
}

interface Word {
  readonly lexeme: string;
  /** Its rarity in the visible scopes, as BM25 has it; a word that is in none of them has the greatest. */
  readonly weight: number;
}

/** A row that a topic matches: the share of the topic that it says, by weight, and in which words. */
export interface TopicMatch {
  readonly id: string;
  readonly scopeId: number;
  readonly share: number;
  readonly says: readonly string[];
}

/** The words of a request that say what it is about; without any of them all of its words. */
function split(query: string): { text: string; identifiers: string[] } {
  const tokens = tokensOf(query).map((token) => token.replace(/['’]s?$/u, "").replace(/['’]s(?=$|[^\p{L}])/gu, ""));
  const identifiers = [...new Set(tokens.filter((token) => IDENTIFIER.test(token)))];
  const words = tokens.filter((token) => !IDENTIFIER.test(token) && !COMMANDS.has(token));
  return { text: words.join(" "), identifiers };
}

/** Reads a request, with the rarity of its words in the visible scopes. */
export async function topicOf(tx: ScopedTransaction, query: string): Promise<Topic> {
  const { text, identifiers } = split(query);
  const rows = await tx.rows<Word & { rarest: number }>(sql`
    WITH size AS MATERIALIZED (
      SELECT greatest(sum(c.passages), 1)::float8 AS n FROM ${tx.read("scope_counter", "c")}),
    asked AS MATERIALIZED (
      SELECT q.lexeme, hashtextextended(q.lexeme, 0) AS number FROM unnest(tsvector_to_array(to_tsvector('english', ${text}))) AS q(lexeme))
    SELECT a.lexeme, ln(1 + (size.n - d.df + 0.5) / (d.df + 0.5)) AS weight, ln(1 + (size.n - 0.5) / 1.5) AS rarest
    FROM size LEFT JOIN asked a ON true,
      LATERAL (SELECT count(*)::float8 AS df FROM ${tx.read("posting", "o")} WHERE o.lexeme = a.number) d`);
  const words = rows.flatMap(({ lexeme, weight }) => (lexeme === null ? [] : [{ lexeme, weight }]));
  const identifierWeight = rows[0]?.rarest ?? 1;
  const weight = words.reduce((sum, word) => sum + word.weight, 0) + identifiers.length * identifierWeight;
  return { words, identifiers, weight, identifierWeight };
}

/** Whether a text has every identifier of the topic, each as it is. */
export function hasIdentifiers(text: string, { identifiers }: Topic): boolean {
  if (identifiers.length === 0) return true;
  const tokens = new Set(tokensOf(text));
  return identifiers.every((identifier) => tokens.has(identifier));
}

/** What the words of a row have to weigh, where it has the identifiers. */
const leastWeight = ({ weight, identifiers, identifierWeight }: Topic, threshold: number): number =>
  threshold * weight - identifiers.length * identifierWeight;

const sharing = (topic: Topic, words: number): number =>
  topic.weight === 0 ? 0 : (words + topic.identifiers.length * topic.identifierWeight) / topic.weight;

/** The topic's words as a table, with the pieces of its identifiers at no weight: they only find rows. */
function askedSql(topic: Topic): SQL {
  const { words, identifiers } = topic;
  return sql`
    asked AS MATERIALIZED (
      SELECT w.lexeme, hashtextextended(w.lexeme, 0) AS number, w.weight
      FROM unnest(${list(words.map(({ lexeme }) => lexeme))}::text[], ${list(words.map(({ weight }) => weight))}::float8[]) AS w(lexeme, weight)
      UNION ALL
      SELECT q.lexeme, hashtextextended(q.lexeme, 0), 0 FROM unnest(tsvector_to_array(to_tsvector('english', ${identifiers.join(" ")}))) AS q(lexeme)
      WHERE NOT q.lexeme = ANY (${list(words.map(({ lexeme }) => lexeme))}::text[]))`;
}

/**
 * The passages that say at least `threshold` of a topic, the most first. That they have its identifiers
 * is looked at in their text.
 */
export async function passagesAbout(
  tx: ScopedTransaction,
  topic: Topic,
  threshold: number,
  sessionId: string | undefined,
  limit: number,
): Promise<TopicMatch[]> {
  if (topic.weight === 0) return [];
  const rows = await tx.rows<{ id: string; scopeId: number; text: string; weight: number; says: string[] }>(sql`
    WITH ${askedSql(topic)},
    found AS MATERIALIZED (
      SELECT h.passage_id, h.scope_id, sum(a.weight) AS weight, jsonb_agg(a.lexeme) FILTER (WHERE a.weight > 0) AS says
      FROM asked a JOIN ${tx.read("posting", "h")} ON h.lexeme = a.number
      GROUP BY h.passage_id, h.scope_id HAVING sum(a.weight) >= ${leastWeight(topic, threshold) - 1e-9}::float8)
    SELECT p.id, p.scope_id AS "scopeId", p.text, f.weight, coalesce(f.says, '[]') AS says
    FROM found f JOIN ${tx.read("passage", "p")} ON p.scope_id = f.scope_id AND p.id = f.passage_id
    WHERE p.expired_at IS NULL AND ${sessionId === undefined ? sql`true` : sql`p.session_id = ${sessionId}::uuid`}
    ORDER BY f.weight DESC, p.id LIMIT ${limit}`);
  return rows.flatMap(({ id, scopeId, text, weight, says }) =>
    hasIdentifiers(text, topic)
      ? [{ id, scopeId, share: sharing(topic, weight), says: [...says.sort(), ...topic.identifiers] }]
      : [],
  );
}

/** What the words of a text weigh in a topic: a fragment. */
export const weightOf = (text: SQL, { words }: Topic): SQL => sql`
  coalesce((SELECT sum(w.weight) FROM unnest(${list(words.map(({ lexeme }) => lexeme))}::text[], ${list(words.map(({ weight }) => weight))}::float8[]) AS w(lexeme, weight)
            WHERE w.lexeme = ANY (tsvector_to_array(to_tsvector('english', ${normalFormSql(text)})))), 0)`;

/** Of rows with their text and what its words weigh, those that say at least `threshold` of a topic, each with its share. */
export const saying = <Row extends { readonly text: string; readonly weight: number }>(
  rows: readonly Row[],
  topic: Topic,
  threshold: number,
): (Row & { readonly share: number })[] =>
  rows.flatMap((row) => {
    const share = sharing(topic, row.weight);
    return topic.weight > 0 && share >= threshold - 1e-9 && hasIdentifiers(row.text, topic) ? [{ ...row, share }] : [];
  });

/** What a row has to weigh for {@link saying} to look at it: a condition. */
export const mayBeAbout = (text: SQL, topic: Topic, threshold: number): SQL =>
  topic.weight === 0 ? sql`false` : sql`${weightOf(text, topic)} >= ${leastWeight(topic, threshold) - 1e-9}::float8`;

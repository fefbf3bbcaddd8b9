import { normalFormSql } from "../../db/access/normal-form-sql.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { spellValue } from "../../exact-json.ts";
import { scopeFromDatabase } from "../../scope/scope.ts";
import { standsAlone, wordsOfSubject } from "../../text/names.ts";
import type { Match } from "./facts-and-items.ts";

/** What is forgotten by what it is, not by what it says; all that is given has to hold. */
export interface Selection {
  readonly labels?: readonly string[] | undefined;
  /** Which time of a row: when it was observed (of an item, set), or stored. Absent: observed. */
  readonly by?: "observed" | "created" | undefined;
  /** RFC 3339, both inclusive. */
  readonly since?: string | undefined;
  readonly until?: string | undefined;
  /** Exclusive. */
  readonly before?: string | undefined;
  /** A person or thing: what has all words of the name mentions it. */
  readonly subject?: string | undefined;
  readonly documentId?: string | undefined;
  /** As hits have them. */
  readonly ids?: readonly string[] | undefined;
}

/** Characters that a match shows of its text: an answer may have thousands. */
const MOST_SHOWN = 300;

/** Where a kind of rows has what a selection asks about; absent: it has none of it. */
interface Row {
  readonly id: SQL;
  readonly labels?: SQL;
  readonly observed: SQL;
  readonly created: SQL;
  readonly text: SQL;
  readonly document?: SQL;
}

const PASSAGE: Row = {
  id: sql`p.id`,
  labels: sql`p.labels`,
  observed: sql`p.observed_at`,
  created: sql`p.created_at`,
  text: sql`p.text`,
  document: sql`p.document_id`,
};
const FACT: Row = {
  id: sql`f.id`,
  labels: sql`f.labels`,
  observed: sql`f.valid_from`,
  created: sql`f.created_at`,
  text: sql`f.sentence`,
};
const ITEM: Row = {
  id: sql`m.id`,
  observed: sql`m.updated_at`,
  created: sql`m.created_at`,
  text: sql`concat_ws(' ', m.key, m.value::text)`,
};
const DOCUMENT: Row = {
  id: sql`o.id`,
  labels: sql`o.labels`,
  observed: sql`o.observed_at`,
  created: sql`o.created_at`,
  text: sql`concat_ws(' ', o.title, o.source)`,
  document: sql`o.id`,
};
/** What a turn said before it was corrected. */
const FORMER: Row = { id: sql`t.id`, observed: sql`t.observed_at`, created: sql`t.created_at`, text: sql`t.content` };

const never = sql`false`;
/** A text as the words of a subject are looked for in it (src/text/names.ts). */
const saidPlainly = (text: SQL) =>
  sql`lower(regexp_replace(normalize(${normalFormSql(text)}, NFKD), ${"[\\u0300-\\u036f]"}, '', 'g'))`;

function conditionOn(row: Row, { labels = [], by, since, until, before, subject, documentId, ids }: Selection): SQL {
  const at = by === "created" ? row.created : row.observed;
  const conditions: SQL[] = [];
  if (labels.length > 0)
    conditions.push(row.labels === undefined ? never : sql`${row.labels} @> ${list(labels)}::text[]`);
  if (since !== undefined) conditions.push(sql`${at} >= ${since}::timestamptz`);
  if (until !== undefined) conditions.push(sql`${at} <= ${until}::timestamptz`);
  if (before !== undefined) conditions.push(sql`${at} < ${before}::timestamptz`);
  if (documentId !== undefined)
    conditions.push(row.document === undefined ? never : sql`${row.document} = ${documentId}::uuid`);
  if (ids !== undefined) conditions.push(sql`${row.id} = ANY (${list(ids)}::uuid[])`);
  if (subject !== undefined)
    for (const word of wordsOfSubject(subject))
      conditions.push(
        standsAlone(word)
          ? sql`${saidPlainly(row.text)} ~ ${`\\m${word}\\M`}`
          : sql`strpos(${saidPlainly(row.text)}, ${word}) > 0`,
      );
  return sql.join(conditions.length === 0 ? [sql`true`] : conditions, sql` AND `);
}

interface Found {
  readonly id: string;
  readonly source: Match["source"];
  readonly text: string;
  readonly tags: Record<string, string>;
  readonly at: string;
  readonly turnId: string | null;
  readonly sessionId: string | null;
  readonly documentId: string | null;
  readonly key: string | null;
  readonly value: unknown;
}

const columns = (row: {
  id: SQL;
  source: SQL;
  text: SQL;
  at: SQL;
  turn?: SQL;
  session?: SQL;
  document?: SQL;
  key?: SQL;
  value?: SQL;
}) => sql`
  ${row.id} AS id, ${row.source} AS source, ${row.text} AS text, d.tags, ${row.at} AS at, ${row.turn ?? sql`NULL::uuid`} AS "turnId",
  ${row.session ?? sql`NULL::uuid`} AS "sessionId", ${row.document ?? sql`NULL::uuid`} AS "documentId", ${row.key ?? sql`NULL`} AS key, ${row.value ?? sql`NULL::jsonb`} AS value`;

/**
 * What a selection has in the visible scopes. Documents go as a whole; but of those that mention a subject, the parts
 * that do.
 *
 * @param purge for good: what was expired or corrected before, too
 * @param limit one more than this is given where there are more
 */
export async function matchSelected(
  tx: ScopedTransaction,
  selection: Selection,
  purge: boolean,
  limit: number,
): Promise<Match[]> {
  const isLive = (alias: string) => (purge ? sql`` : sql` AND ${sql.identifier(alias)}.expired_at IS NULL`);
  const isByPart = selection.subject !== undefined || selection.ids !== undefined;
  const from = (table: Parameters<ScopedTransaction["read"]>[0], alias: string) =>
    sql`FROM ${tx.read(table, alias)} JOIN ${tx.read("scope", "d")} ON d.id = ${sql.identifier(alias)}.scope_id`;
  const passages = sql`
    SELECT ${columns({ ...PASSAGE, source: sql`CASE p.kind WHEN 'turn' THEN 'memory_chunk' ELSE 'chunk' END`, at: PASSAGE.observed, turn: sql`p.turn_id`, session: sql`p.session_id` })}
    ${from("passage", "p")} WHERE ${isByPart ? sql`p.kind IN ('turn', 'chunk')` : sql`p.kind = 'turn'`} AND ${conditionOn(PASSAGE, selection)}${isLive("p")}`;
  const facts = (table: "attribute" | "relation") => sql`
    SELECT ${columns({ ...FACT, source: sql`'attribute'`, at: FACT.observed, session: sql`f.session_id` })} ${from(table, "f")}
    WHERE ${conditionOn(FACT, selection)}${isLive("f")}`;
  const items = sql`
    SELECT ${columns({ ...ITEM, source: sql`'item'`, at: ITEM.observed, key: sql`m.key`, value: sql`m.value` })} ${from("memory_item", "m")}
    WHERE ${conditionOn(ITEM, selection)}`;
  const documents = sql`
    SELECT ${columns({ ...DOCUMENT, document: sql`NULL::uuid`, source: sql`'document'`, text: sql`o.title`, at: DOCUMENT.observed })} ${from("document", "o")}
    WHERE ${conditionOn(DOCUMENT, selection)}`;
  const former = sql`
    SELECT ${columns({ ...FORMER, source: sql`'memory_chunk'`, at: FORMER.observed, turn: sql`t.id`, session: sql`t.session_id` })} ${from("turn", "t")}
    WHERE t.corrected_id IS NOT NULL AND ${conditionOn(FORMER, selection)}`;
  const parts = [
    passages,
    facts("attribute"),
    facts("relation"),
    items,
    ...(isByPart ? [] : [documents]),
    ...(purge ? [former] : []),
  ];
  const all = sql.join(
    parts.map((part) => sql`(${part})`),
    sql` UNION ALL `,
  );
  const rows = await tx.rows<Found>(
    sql`SELECT u.id, u.source, left(u.text, ${MOST_SHOWN}::int) AS text, u.tags, u.at, u."turnId", u."sessionId", u."documentId", u.key, u.value FROM (${all}) AS u ORDER BY u.at DESC, u.id LIMIT ${limit + 1}`,
  );
  const why = reasonsOf(selection);
  return rows.map(({ tags, at, key, value, text, ...row }) => ({
    ...row,
    text: key === null ? text : `${key}: ${spellValue(value)}`.slice(0, MOST_SHOWN),
    score: 1,
    why,
    scope: scopeFromDatabase(tags),
    occurredAt: at,
    role: null,
    author: "agent",
    tokens: 0,
    documentTitle: null,
  }));
}

/** Of some rows those that are wanted. */
export type Keep = <Row extends { readonly id: string }>(rows: readonly Row[]) => Promise<Row[]>;
export const KEEP_ALL: Keep = async (rows) => [...rows];

/** Of what a request's words have found, what the selection has too. */
export const keepSelected =
  (tx: ScopedTransaction, selection: Selection): Keep =>
  async (rows) => {
    if (rows.length === 0) return [];
    const among: Selection = { ...selection, ids: rows.map(({ id }) => id) };
    const kept = await tx.rows<{ id: string }>(sql`
    SELECT p.id FROM ${tx.read("passage", "p")} WHERE p.kind <> 'item' AND ${conditionOn(PASSAGE, among)}
    UNION SELECT f.id FROM ${tx.read("attribute", "f")} WHERE ${conditionOn(FACT, among)}
    UNION SELECT f.id FROM ${tx.read("relation", "f")} WHERE ${conditionOn(FACT, among)}
    UNION SELECT m.id FROM ${tx.read("memory_item", "m")} WHERE ${conditionOn(ITEM, among)}
    UNION SELECT t.id FROM ${tx.read("turn", "t")} WHERE t.corrected_id IS NOT NULL AND ${conditionOn(FORMER, among)}`);
    const ids = new Set(kept.map(({ id }) => id));
    return rows.filter(({ id }) => ids.has(id));
  };

/** Whether a selection asks for anything at all. */
export const isNarrow = ({ labels = [], by: _, ...rest }: Selection): boolean =>
  labels.length > 0 || Object.values(rest).some((part) => part !== undefined);

/** In a few words, why a row is among what is selected. */
function reasonsOf({ labels = [], since, until, before, subject, documentId, ids }: Selection): string {
  return [
    ...(subject === undefined ? [] : [`mentions ${subject}`]),
    ...(labels.length === 0 ? [] : [`has ${labels.join(", ")}`]),
    ...(documentId === undefined ? [] : ["is the document, or of it"]),
    ...(ids === undefined ? [] : ["was named by its id"]),
    ...(since === undefined && until === undefined && before === undefined ? [] : ["lies in that time"]),
  ].join("; ");
}

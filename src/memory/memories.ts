import { uncounted, withinAnswer } from "../db/access/budget.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { invalid, notFound } from "../errors.ts";
import { spellValue } from "../exact-json.ts";
import { type Scope, scopeFromDatabase } from "../scope/scope.ts";
import { recordTrace } from "../traces/record.ts";
import { IS_KEPT } from "./items.ts";

/** Where a memory comes from, as hits name it; `item`: the keyed store. */
export const MEMORY_SOURCES = ["memory_chunk", "chunk", "attribute", "item"] as const;
export type MemorySource = (typeof MEMORY_SOURCES)[number];

/** One thing that recall may answer with, or a keyed item. */
export interface Memory {
  readonly id: string;
  readonly source: MemorySource;
  readonly text: string;
  readonly scope: Scope;
  readonly labels: readonly string[];
  /** Of an item when its key was first set. */
  readonly occurredAt: string;
  readonly createdAt: string;
  readonly expiresAt?: string;
  /** Of a turn: who said it. */
  readonly role?: string;
  readonly sessionId?: string;
  readonly turnId?: string;
  readonly documentId?: string;
  readonly documentTitle?: string;
  /** Of an item. */
  readonly key?: string;
  readonly value?: unknown;
}

/** A memory, and of a turn what it said before it was corrected, newest first. */
export interface MemoryWithHistory extends Memory {
  readonly history?: readonly { readonly text: string; readonly until: string }[];
}

export interface MemoryFilter {
  readonly labels: readonly string[];
  readonly sources: readonly MemorySource[];
  /** Of `occurredAt`, both inclusive. */
  readonly since: string | undefined;
  readonly until: string | undefined;
}

/** The place of a memory in the order of {@link listMemories}. */
interface Place {
  /** With microseconds. */
  readonly at: string;
  readonly id: string;
}

const cursorOf = ({ at, id }: Place) => Buffer.from(`${at} ${id}`).toString("base64url");
const CURSOR =
  /^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?\+00) ([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$/;

/** @throws AppError 400 for what is no cursor of {@link listMemories} */
function placeOf(cursor: string): Place {
  const [, at, id] = CURSOR.exec(Buffer.from(cursor, "base64url").toString()) ?? [];
  if (at === undefined || id === undefined || !isMoment(at))
    throw invalid("cursor: must be the nextCursor of the page before");
  return { at, id };
}

/** Whether a calendar has it: `Date` takes the 30th of February. */
function isMoment(at: string): boolean {
  const date = new Date(`${at.slice(0, 10)}T00:00:00Z`);
  return (
    !Number.isNaN(date.getTime()) &&
    at.slice(0, 4) !== "0000" &&
    date.toISOString().slice(0, 10) === at.slice(0, 10) &&
    /^([01]\d|2[0-3]):[0-5]\d:[0-5]\d/.test(at.slice(11))
  );
}

const KINDS: Readonly<Record<Exclude<MemorySource, "item">, string>> = {
  memory_chunk: "turn",
  chunk: "chunk",
  attribute: "attribute",
};
const SOURCE = sql`CASE p.kind WHEN 'turn' THEN 'memory_chunk' ELSE p.kind END`;

interface Row {
  readonly id: string;
  readonly source: MemorySource;
  readonly text: string;
  readonly tags: Record<string, string>;
  readonly labels: readonly string[];
  readonly occurredAt: string;
  readonly createdAt: string;
  readonly expiresAt: string | null;
  readonly role: string | null;
  readonly sessionId: string | null;
  readonly turnId: string | null;
  readonly documentId: string | null;
  readonly documentTitle: string | null;
  readonly key: string | null;
  readonly value: unknown;
}

function toMemory({ tags, key, value, ...row }: Row): Memory {
  const { id, source, text, labels, occurredAt, createdAt, ...rest } = row;
  const known = Object.fromEntries(Object.entries(rest).filter(([, field]) => field !== null));
  return {
    id,
    source,
    text: key === null ? text : `${key}: ${spellValue(value)}`,
    scope: scopeFromDatabase(tags),
    labels,
    occurredAt,
    createdAt,
    ...known,
    ...(key === null ? {} : { key, value }),
  };
}

/** The passages and items of a condition each, as memories. */
const selected = (tx: ScopedTransaction, passages: SQL, items: SQL) => sql`
  SELECT p.id, ${SOURCE} AS source, p.text, d.tags, to_jsonb(p.labels) AS labels, p.observed_at AS "occurredAt", p.created_at AS "createdAt",
         p.ends_at AS "expiresAt", p.role, p.session_id AS "sessionId", p.turn_id AS "turnId", p.document_id AS "documentId",
         o.title AS "documentTitle", NULL AS key, NULL::jsonb AS value
  FROM ${tx.read("passage", "p")} JOIN ${tx.read("scope", "d")} ON d.id = p.scope_id
  LEFT JOIN ${tx.read("document", "o")} ON o.scope_id = p.scope_id AND o.id = p.document_id
  WHERE p.kind <> 'item' AND ${passages}
  UNION ALL
  SELECT m.id, 'item', m.value::text, d.tags, '[]'::jsonb, m.created_at, m.created_at, m.expires_at, NULL, NULL, NULL, NULL, NULL, m.key, m.value
  FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id
  WHERE ${items}`;

/** What is so now: as recall of the present has it. */
const IS_SO = sql`p.expired_at IS NULL AND (p.starts_at <= now()) IS NOT FALSE AND (p.ends_at > now()) IS NOT FALSE`;

export interface MemoryPage {
  readonly memories: Memory[];
  /** Absent: this is the last page. */
  readonly nextCursor?: string;
}

/**
 * The visible memories, newest first. Each page begins where the one before ended, whatever was stored or forgotten
 * between them; a page may be shorter than `limit`, since an answer has a bound in bytes.
 *
 * @throws AppError 400 for a cursor that is none
 */
export async function listMemories(
  tx: ScopedTransaction,
  filter: MemoryFilter,
  limit: number,
  cursor: string | undefined,
): Promise<MemoryPage> {
  const places = await placesOf(tx, filter, limit + 1, cursor === undefined ? undefined : placeOf(cursor));
  const ids = list(places.slice(0, limit).map(({ id }) => id));
  const here = (id: SQL) => sql`${id} = ANY (${ids}::uuid[])`;
  const rows = await tx.rows<Row>(
    withinAnswer(
      sql`SELECT o.* FROM (${selected(tx, here(sql`p.id`), here(sql`m.id`))}) AS o ORDER BY o."occurredAt" DESC, o.id DESC`,
      "text",
    ),
  );
  const memories = rows.map((row) => toMemory(uncounted(row)));
  recordTrace(tx, {
    kind: "retrieval",
    operation: "memories",
    sources: memories.map(({ id }) => id),
    returned: memories.length,
  });
  const last = places[memories.length - 1];
  return { memories, ...(memories.length < places.length && last !== undefined ? { nextCursor: cursorOf(last) } : {}) };
}

async function placesOf(
  tx: ScopedTransaction,
  { labels, sources, since, until }: MemoryFilter,
  limit: number,
  after: Place | undefined,
): Promise<Place[]> {
  const between = (at: SQL, id: SQL) =>
    sql.join(
      [
        ...(since === undefined ? [] : [sql`${at} >= ${since}::timestamptz`]),
        ...(until === undefined ? [] : [sql`${at} <= ${until}::timestamptz`]),
        ...(after === undefined ? [] : [sql`(${at}, ${id}) < (${after.at}::timestamptz, ${after.id}::uuid)`]),
        sql`true`,
      ],
      sql` AND `,
    );
  const kinds = sources.flatMap((source) => (source === "item" ? [] : [KINDS[source]]));
  const passages = sql`
    SELECT p.id, p.observed_at AS at FROM ${tx.read("passage", "p")}
    WHERE ${IS_SO} AND ${between(sql`p.observed_at`, sql`p.id`)}
      ${kinds.length === MEMORY_SOURCES.length - 1 ? sql`AND p.kind <> 'item'` : sql`AND p.kind = ANY (${list(kinds)}::text[])`}
      ${labels.length === 0 ? sql`` : sql`AND p.labels @> ${list(labels)}::text[]`}
    ORDER BY p.observed_at DESC, p.id DESC LIMIT ${limit}`;
  const items = sql`
    SELECT m.id, m.created_at AS at FROM ${tx.read("memory_item", "m")}
    WHERE ${IS_KEPT} AND ${between(sql`m.created_at`, sql`m.id`)} ORDER BY m.created_at DESC, m.id DESC LIMIT ${limit}`;
  // Items have no labels.
  const parts = [
    ...(kinds.length === 0 ? [] : [passages]),
    ...(sources.includes("item") && labels.length === 0 ? [items] : []),
  ];
  if (parts.length === 0) return [];
  const all = sql.join(
    parts.map((part) => sql`(${part})`),
    sql` UNION ALL `,
  );
  return tx.rows<Place>(
    sql`SELECT u.id, u.at::text AS at FROM (${all}) AS u ORDER BY u.at DESC, u.id DESC LIMIT ${limit}`,
  );
}

/** One memory by the id that hits have; one that begins later, or is over and not expired yet, too. */
export async function findMemory(tx: ScopedTransaction, id: string): Promise<Memory> {
  const row = await tx.row<Row>(
    selected(tx, sql`p.id = ${id}::uuid AND p.expired_at IS NULL`, sql`m.id = ${id}::uuid AND ${IS_KEPT}`),
  );
  if (row === undefined) throw notFound();
  return toMemory(row);
}

export async function getMemory(tx: ScopedTransaction, id: string): Promise<MemoryWithHistory> {
  const memory = await findMemory(tx, id);
  recordTrace(tx, { kind: "retrieval", operation: "memories", sources: [id], returned: 1 });
  return withHistory(tx, memory);
}

/** A turn keeps no more (correct_turn, src/db/sql/2_memory/9_memories.sql). */
const MOST_FORMER_TEXTS = 20;

/** With what a turn said before it was corrected. */
export async function withHistory(tx: ScopedTransaction, memory: Memory): Promise<MemoryWithHistory> {
  if (memory.turnId === undefined) return memory;
  const history = await tx.rows<{ text: string; until: string }>(sql`
    SELECT t.content AS text, t.expired_at AS until FROM ${tx.read("turn", "t")}
    WHERE t.corrected_id = ${memory.turnId}::uuid ORDER BY t.expired_at DESC, t.id LIMIT ${MOST_FORMER_TEXTS}`);
  return history.length === 0 ? memory : { ...memory, history };
}

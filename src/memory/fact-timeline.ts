import { type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";

/** A moment in the two times of a fact: when it was known, and when it was so. */
export interface Moment {
  /** As known then. */
  readonly asOf?: string | undefined;
  /** What was so then. */
  readonly atInstant?: string | undefined;
  /** What was so at some time of this span. */
  readonly validFrom?: string | undefined;
  readonly validUntil?: string | undefined;
}

export const isPresent = ({ asOf, atInstant, validFrom, validUntil }: Moment): boolean =>
  [asOf, atInstant, validFrom, validUntil].every((time) => time === undefined);

/** Whatever was said, for histories. */
export const EVER: Moment = { validFrom: "1000-01-01T00:00:00.000Z" };

/**
 * The facts of a moment as a table for a FROM, under the alias f: of `attribute` or `relation` those rows that
 * are shown, with `known_until`, `known_by` and `known_closed`: where each ended, by which observation, and
 * when that was known.
 *
 * What is known now stands in the rows. What was known at an earlier moment is worked out from the rows that
 * had been learnt by then, in the same way as settle_facts does it
 * (src/db/sql/2_memory/7_facts.sql); so nothing that is learnt later changes it. docs/concepts.md, "Two times".
 *
 * @param where a condition on a row f and its entity e; it may be about the entity and the key alone
 * @returns what the FROM needs of common table expressions ({@link withTables}), and the FROM itself
 */
export function factsAt(
  tx: ScopedTransaction,
  table: "attribute" | "relation",
  where: SQL,
  moment: Moment,
): { readonly tables: readonly SQL[]; readonly from: SQL } {
  const rows = sql`
    SELECT f.* FROM ${tx.read(table, "f")} JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
    WHERE f.expired_at IS NULL AND ${where}`;
  const { asOf } = moment;
  if (asOf === undefined) {
    const shown = sql`
      SELECT f.*, f.valid_until AS known_until, f.superseded_by AS known_by, f.closed_at AS known_closed
      FROM (${rows} AND NOT f.is_confirmation) f`;
    return { tables: [], from: sql`(SELECT * FROM (${shown}) f WHERE ${isSo(moment)}) f` };
  }
  const what = table === "attribute" ? sql`s.value` : sql`s.target_id`;
  const key = sql`s.scope_id, s.entity_id, s.key_hash`;
  // One name for each table: an answer may ask for both.
  const named = (name: string) => sql.identifier(`${table}_${name}`);
  return {
    tables: [
      sql`
      ${named("said")} AS MATERIALIZED (
        SELECT s.*, least(s.ends_at, CASE WHEN s.cut_known_at <= ${asOf}::timestamptz THEN s.cut_at END) AS stops_at,
               dense_rank() OVER (PARTITION BY ${key} ORDER BY s.valid_from, s.observation_id) AS n
        FROM (${rows} AND f.created_at <= ${asOf}::timestamptz) s),
      ${named("placed")} AS (
        SELECT s.*, coalesce(lag(s.n) OVER w >= s.n - 1, false) AND NOT coalesce(lag(s.stops_at) OVER w <= s.valid_from, false) AS continues
        FROM ${named("said")} s WINDOW w AS (PARTITION BY ${key}, ${what} ORDER BY s.n, s.id)),
      ${named("numbered")} AS (
        SELECT s.*, count(*) FILTER (WHERE NOT s.continues) OVER (PARTITION BY ${key}, ${what} ORDER BY s.n, s.id) AS run FROM ${named("placed")} s),
      ${named("heads")} AS (
        SELECT s.*, last_value(s.n) OVER w AS last_n, last_value(s.stops_at) OVER w AS last_stop, row_number() OVER w AS place
        FROM ${named("numbered")} s
        WINDOW w AS (PARTITION BY ${key}, ${what}, s.run ORDER BY s.n, s.id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)),
      ${named("shown")} AS (
        SELECT s.*, least(s.last_stop, next.valid_from) AS known_until,
               CASE WHEN (next.valid_from <= s.last_stop) IS NOT FALSE THEN next.observation_id END AS known_by,
               CASE WHEN (next.valid_from <= s.last_stop) IS NOT FALSE THEN greatest(s.created_at, next.created_at) END AS known_closed
        FROM ${named("heads")} s
        LEFT JOIN (SELECT DISTINCT ON (scope_id, entity_id, key_hash, n) scope_id, entity_id, key_hash, n, valid_from, observation_id, created_at FROM ${named("said")}) next
          ON next.scope_id = s.scope_id AND next.entity_id = s.entity_id AND next.key_hash = s.key_hash AND next.n = s.last_n + 1
        WHERE s.place = 1)`,
    ],
    from: sql`(SELECT * FROM ${named("shown")} f WHERE ${isSo(moment)}) f`,
  };
}

/** The WITH of a statement; nothing where it needs none. */
export const withTables = (tables: readonly SQL[]): SQL =>
  tables.length === 0 ? sql`` : sql`WITH ${sql.join([...tables], sql`, `)}`;

/** Conditions on a shown row f. Without a time: what is so now, or at the moment of `asOf`. */
function isSo(moment: Moment): SQL {
  if (moment === EVER) return sql`true`;
  const { asOf, atInstant, validFrom, validUntil } = moment;
  const conditions: SQL[] = [];
  const instant = atInstant ?? (validFrom === undefined && validUntil === undefined ? (asOf ?? null) : undefined);
  if (instant !== undefined) {
    const at = instant === null ? sql`now()` : sql`${instant}::timestamptz`;
    conditions.push(sql`f.valid_from <= ${at} AND (f.known_until > ${at}) IS NOT FALSE`);
  }
  if (validFrom !== undefined) conditions.push(sql`(f.known_until > ${validFrom}::timestamptz) IS NOT FALSE`);
  if (validUntil !== undefined) conditions.push(sql`f.valid_from <= ${validUntil}::timestamptz`);
  // What was replaced in the same moment was never so.
  conditions.push(sql`(f.known_until > f.valid_from) IS NOT FALSE`);
  return sql.join(conditions, sql` AND `);
}

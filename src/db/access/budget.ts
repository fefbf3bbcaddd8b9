import { type SQL, sql } from "./scoped.ts";

/** What one answer may bring of stored text and values, in bytes as UTF-8: a list ends where it is reached. */
export const ANSWER_BYTES = 4 * 1024 * 1024;

/**
 * The rows of an ordered SELECT, as far as a column's values stay within {@link ANSWER_BYTES} together; the
 * first row always. A page may be shorter than its limit.
 */
export const withinAnswer = (select: SQL, column: string): SQL => sql`
  SELECT * FROM (
    SELECT o.*, sum(coalesce(octet_length(o.${sql.identifier(column)}::text), 0)) OVER (ROWS UNBOUNDED PRECEDING) AS bytes, row_number() OVER () AS place
    FROM (${select}) AS o) AS counted
  WHERE bytes <= ${ANSWER_BYTES}::int OR place = 1 ORDER BY place`;

/** A row without what {@link withinAnswer} counts by. */
export function uncounted<Row extends object>(row: Row): Row {
  const { bytes: _, place: __, ...rest } = row as Row & { bytes?: unknown; place?: unknown };
  return rest as Row;
}

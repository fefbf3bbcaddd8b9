import { json, type SQL, sql } from "../db/access/scoped.ts";
import { invalid } from "../errors.ts";

const OPERATORS = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in"] as const;
type Operator = (typeof OPERATORS)[number];

/** What a value has to be: all of these. */
export type ItemFilter = readonly {
  /** Into the value, by the names of fields. */
  readonly path: readonly string[];
  readonly op: Operator;
  readonly operand: unknown;
}[];

const MOST_CONDITIONS = 20;
const MOST_OPERANDS = 200;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * A filter as clients of stores write it: `{"status": "open", "size": {"$gt": 3}, "owner.name": {"$in": ["Ann"]}}`.
 *
 * @throws AppError 400
 */
export function parseItemFilter(given: unknown): ItemFilter {
  if (!isObject(given)) throw invalid('filter: must be an object, such as {"status": "open"}');
  const conditions = Object.entries(given).flatMap(([field, wanted]) => {
    const path = field.split(".");
    if (path.some((name) => name === "") || path.length > 8)
      throw invalid(`filter: ${JSON.stringify(field)} names no field`);
    const operators = isObject(wanted) && Object.keys(wanted).some((name) => name.startsWith("$"));
    if (!operators) return [{ path, op: "$eq" as const, operand: wanted }];
    return Object.entries(wanted).map(([op, operand]) => {
      if (!(OPERATORS as readonly string[]).includes(op))
        throw invalid(`filter.${field}: unknown operator ${JSON.stringify(op)}; known are ${OPERATORS.join(", ")}`);
      if (op === "$in" && (!Array.isArray(operand) || operand.length > MOST_OPERANDS))
        throw invalid(`filter.${field}.$in: must be a list of at most ${MOST_OPERANDS} values`);
      return { path, op: op as Operator, operand };
    });
  });
  if (conditions.length > MOST_CONDITIONS) throw invalid(`filter: has more than ${MOST_CONDITIONS} conditions`);
  return conditions;
}

/** A null by itself would be no JSON any more, but none at all. */
const inLists = (filter: ItemFilter) => filter.map(({ path, op, operand }) => ({ path, op, operands: [operand] }));

/**
 * The condition that a value fits: one statement whatever the filter. Values of two types are neither less nor more
 * than one another.
 */
export const matching = (value: SQL, filter: ItemFilter): SQL => sql`
  NOT EXISTS (
    SELECT 1 FROM jsonb_to_recordset(${json(inLists(filter))}) AS g(path jsonb, op text, operands jsonb),
      LATERAL (SELECT g.op, g.operands->0 AS operand) f,
      LATERAL (SELECT ${value} #> ARRAY(SELECT jsonb_array_elements_text(g.path)) AS it) v
    WHERE (CASE
      WHEN f.op = '$eq' THEN v.it IS NOT DISTINCT FROM f.operand
      WHEN f.op = '$ne' THEN v.it IS DISTINCT FROM f.operand
      WHEN f.op = '$in' THEN EXISTS (SELECT 1 FROM jsonb_array_elements(f.operand) AS e(one) WHERE e.one = v.it)
      WHEN jsonb_typeof(v.it) IS DISTINCT FROM jsonb_typeof(f.operand) THEN false
      WHEN f.op = '$gt' THEN v.it > f.operand
      WHEN f.op = '$gte' THEN v.it >= f.operand
      WHEN f.op = '$lt' THEN v.it < f.operand
      WHEN f.op = '$lte' THEN v.it <= f.operand END) IS NOT TRUE)`;

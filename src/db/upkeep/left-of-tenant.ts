import type { Scope } from "../../scope/scope.ts";

/** A place where something of a tenant could be, and how many rows of it there are. */
export interface Left {
  readonly what: string;
  readonly rows: number;
}

type Query = (text: string, params?: readonly unknown[]) => Promise<Record<string, unknown>[]>;

/** Rows that stand under a tenant's number, whether it has left or not: what is kept are numbers that bills are made of, and records without text. */
const BESIDES = [
  "budget",
  "scope_limit",
  "legal_hold",
  "retention_rule",
  "forget_schedule",
  "scope_setting",
  "scope_credential",
  "idempotency",
  "response_cache",
  "job",
];

/** Columns that hold scopes. */
const NAMED_IN = [
  ["scope", "tags"],
  ["tenant", "root"],
  ["decision_trace", "scope"],
  ["access_denied", "floor"],
  ["api_key", "floor"],
  ["forget_receipt", "target"],
] as const;

/**
 * What is left of a tenant in the database, by place; undefined: there never was one. Read as the database's owner.
 *
 * @param erased the tables that an erasure empties (src/forget/subtree.ts)
 */
export async function leftOf(query: Query, tags: Scope, erased: readonly string[]): Promise<Left[] | undefined> {
  const named = JSON.stringify(tags);
  const tenants =
    "SELECT t.id FROM scopefloor.tenant t WHERE t.id <> 0 AND (t.root = $1::jsonb OR t.left_digest = scopefloor.scope_digest($1::jsonb))";
  if ((await query(tenants, [named])).length === 0) return undefined;
  const count = async (what: string, text: string): Promise<Left> => {
    const [row] = await query(`SELECT count(*)::int AS rows FROM ${text}`, [named]);
    return { what, rows: row?.rows as number };
  };
  const left: Left[] = [];
  for (const table of [...erased, ...BESIDES])
    left.push(await count(table, `scopefloor.${table} x WHERE x.tenant_id IN (${tenants})`));
  left.push(
    await count("live keys", `scopefloor.api_key k WHERE k.tenant_id IN (${tenants}) AND k.revoked_at IS NULL`),
    await count(
      "text in traces",
      `scopefloor.decision_trace d WHERE d.tenant_id IN (${tenants}) AND (d.query IS NOT NULL OR d.sources IS NOT NULL OR d.error IS NOT NULL)`,
    ),
    await count(
      "what was asked and refused",
      `scopefloor.access_denied a WHERE a.tenant_id IN (${tenants}) AND a.asked IS NOT NULL`,
    ),
    await count("text in runs", `scopefloor.forget_run r WHERE r.tenant_id IN (${tenants}) AND r.selector ? 'query'`),
  );
  for (const [table, column] of NAMED_IN)
    left.push(await count(`its name in ${table}`, `scopefloor.${table} x WHERE x.${column} @> $1::jsonb`));
  return left;
}

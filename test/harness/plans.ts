/**
 * What the planner makes of the statements that a suite has sent: each scan of a scoped table is
 * filtered by both locks, wherever the planner put it.
 */
import postgres from "postgres";

export interface SentStatement {
  readonly role: "app" | "worker";
  readonly text: string;
}

// biome-ignore lint/suspicious/noExplicitAny: a plan as EXPLAIN gives it.
type Plan = any;

/** Conditions of a scan, however the planner has shared them out. */
const CONDITIONS = ["Filter", "Index Cond", "Recheck Cond", "Join Filter", "Hash Cond", "TID Cond"];

/** The first lock: `scope_id = ANY ($1)` with a parameter, or the scopes of a subtree. */
const FIRST_LOCK = /\bscope_id = ANY \(\$\d+(::integer\[\])?\)|hashed SubPlan/;
/** The dictionary's own id is its scope; that of a subtree is read by its tags. */
const FIRST_LOCK_OF_SCOPES = /\bid = ANY \(\$\d+(::integer\[\])?\)|hashed SubPlan|\bid = \$\d+|tags @> \$\d+/;
/** The second: a list that a policy's function gave, or its flag. */
const SECOND_LOCK = /InitPlan \d+/;

/** Tables that may be read without a scope, and why. */
export const UNSCOPED: Readonly<Record<string, string>> = {
  embedder: "names and sizes of models; no tenant's data",
  migration: "numbers and hashes of the migrations, for readiness; no tenant's data",
};

export function unlockedScans(plan: Plan): string[] {
  const found: string[] = [];
  const visit = (node: Plan) => {
    const relation = node["Relation Name"] as string | undefined;
    const isScan = /Scan/.test(node["Node Type"]) && node.Schema === "scopefloor" && relation !== undefined;
    if (isScan && UNSCOPED[relation] === undefined) {
      const conditions = CONDITIONS.map((name) => node[name] ?? "").join(" ");
      const first = relation === "scope" ? FIRST_LOCK_OF_SCOPES : FIRST_LOCK;
      if (!first.test(conditions))
        found.push(`${relation} as ${node.Alias}: no visible scopes in ${conditions || "no condition"}`);
      if (!SECOND_LOCK.test(conditions))
        found.push(`${relation} as ${node.Alias}: no policy in ${conditions || "no condition"}`);
    }
    for (const child of node.Plans ?? []) visit(child);
  };
  visit(plan);
  return found;
}

/** @throws when a plan scans a scoped table without one of the locks; gives how many were looked at */
export async function checkPlans(url: string, statements: readonly SentStatement[]): Promise<number> {
  const sql = postgres(url, { max: 1, fetch_types: false, onnotice: () => undefined });
  const failures: string[] = [];
  let plans = 0;
  try {
    await sql`SET search_path = pg_catalog, public`;
    for (const { role, text } of statements) {
      if (!/^\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b/i.test(text)) continue;
      await sql.unsafe(`SET ROLE scopefloor_${role}`);
      const rows = await sql.unsafe(`EXPLAIN (GENERIC_PLAN, FORMAT JSON, VERBOSE) ${text}`, [], {
        simple: true,
      } as never);
      plans++;
      const [{ Plan: plan }] = (rows[0] as unknown as { "QUERY PLAN": [{ Plan: Plan }] })["QUERY PLAN"];
      for (const failure of unlockedScans(plan)) failures.push(`${failure} of ${text}`);
    }
  } finally {
    await sql.end();
  }
  if (failures.length > 0) throw new Error(`scans without a lock:\n${failures.join("\n")}`);
  return plans;
}

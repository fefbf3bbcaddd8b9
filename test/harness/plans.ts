/**
 * What the planner makes of the statements that a suite has sent: each scan of a scoped table is
 * filtered by both locks, wherever the planner put it.
 */
import postgres from "postgres";

export type Sender = "app" | "worker" | "owner";

export interface SentStatement {
  readonly role: Sender;
  readonly text: string;
}

// biome-ignore lint/suspicious/noExplicitAny: a plan as EXPLAIN gives it.
type Plan = any;

/** Conditions of a scan, however the planner has shared them out. */
const CONDITIONS = ["Filter", "Index Cond", "Recheck Cond", "Join Filter", "Hash Cond", "TID Cond"];

/** The first lock: `scope_id = ANY ($1)` with a parameter; the dictionary's own id is its scope, which tags name too. */
const FIRST_LOCK = /\bscope_id = ANY \(\$\d+(::integer\[\])?\)/;
const FIRST_LOCK_OF_SCOPES = /\bid = ANY \(\$\d+(::integer\[\])?\)|\bid = \$\d+|\btags @> \$\d+/;
/** Or the scopes of a subtree, which a plan of their own looks up. */
const OF_A_SUBTREE = /\b(?:scope_)?id = \(hashed (SubPlan \d+)\)\.col1/g;
/** The second: the list of scopes, or the one, that a function of the policy's gave. */
const OF_A_POLICY = /\b(?:scope_)?id = (?:ANY \()?\(*(InitPlan \d+)\)\.col1/g;
const POLICY_FUNCTION = /^scopefloor\.(readable|readable_own|modifiable|insertable|recordable|listable)\(\)$/;

/** Tables that may be read without a scope, and why. */
export const UNSCOPED: Readonly<Record<string, string>> = {
  embedder: "names and sizes of models; no tenant's data",
  migration: "numbers and hashes of the migrations, for readiness; no tenant's data",
};

export function unlockedScans(plan: Plan): string[] {
  const found: string[] = [];
  const subplans = new Map<string, Plan>();
  const visit = (node: Plan, see: (node: Plan) => void) => {
    see(node);
    for (const child of node.Plans ?? []) visit(child, see);
  };
  visit(plan, (node) => {
    if (node["Subplan Name"] !== undefined) subplans.set(node["Subplan Name"], node);
  });
  const someOf = (conditions: string, reference: RegExp, holds: (subplan: Plan) => boolean) =>
    [...conditions.matchAll(reference)].some(([, name = ""]) => subplans.has(name) && holds(subplans.get(name)));
  const isSubtree = (subplan: Plan) =>
    subplan["Relation Name"] === "scope" && FIRST_LOCK_OF_SCOPES.test(conditionsOf(subplan));
  const isOfPolicy = ({ Output }: Plan) => Output?.length === 1 && POLICY_FUNCTION.test(Output[0]);
  visit(plan, (node) => {
    const relation = node["Relation Name"] as string | undefined;
    const isScan = /Scan/.test(node["Node Type"]) && node.Schema === "scopefloor" && relation !== undefined;
    if (!isScan || UNSCOPED[relation] !== undefined) return;
    const conditions = conditionsOf(node);
    const complain = (lock: string) =>
      found.push(`${relation} as ${node.Alias}: no ${lock} in ${conditions || "no condition"}`);
    const first = relation === "scope" ? FIRST_LOCK_OF_SCOPES : FIRST_LOCK;
    if (!first.test(conditions) && !someOf(conditions, OF_A_SUBTREE, isSubtree)) complain("visible scopes");
    if (!someOf(conditions, OF_A_POLICY, isOfPolicy)) complain("policy");
  });
  return found;
}

const conditionsOf = (node: Plan): string => CONDITIONS.map((name) => node[name] ?? "").join(" ");

/** @throws when a plan scans a scoped table without one of the locks; gives how many were looked at */
export async function checkPlans(url: string, statements: readonly SentStatement[]): Promise<number> {
  const sql = postgres(url, { max: 1, fetch_types: false, onnotice: () => undefined });
  const failures: string[] = [];
  let plans = 0;
  try {
    await sql`SET search_path = pg_catalog, public`;
    for (const { role, text } of statements) {
      // The owner is under no policy: what it may send is proven by its text.
      if (role === "owner" || !/^\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b/i.test(text)) continue;
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

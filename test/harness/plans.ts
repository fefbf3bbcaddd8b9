/**
 * What the planner makes of the statements that a suite has sent: each scan of a scoped table is
 * filtered by both locks, wherever the planner put it.
 */
import { loadModule, parseSync } from "libpg-query";
import postgres from "postgres";

export type Sender = "app" | "worker" | "owner";

export interface SentStatement {
  readonly role: Sender;
  readonly text: string;
}

// biome-ignore lint/suspicious/noExplicitAny: a plan as EXPLAIN gives it.
type Plan = any;
// biome-ignore lint/suspicious/noExplicitAny: the syntax tree is plain JSON; what is not there fails the check.
type Expression = any;

await loadModule();

/** Conditions of a scan, however the planner has shared them out: each must hold for a row to be given. */
const CONDITIONS = ["Filter", "Index Cond", "Recheck Cond", "TID Cond"];

/** The functions that the policies ask: which scopes, or which one. */
const POLICY_FUNCTION = /^scopefloor\.(readable|readable_own|modifiable|insertable|listable)\(\)$/;
/** And those that say of all of them that they are meant. */
const POLICY_FLAG = /^scopefloor\.(reads_all|modifies_all|lists_all)\(\)$/;

/** Tables that may be read without a scope, and why. */
export const UNSCOPED: Readonly<Record<string, string>> = {
  embedder: "names and sizes of models; no tenant's data",
  migration: "numbers and hashes of the migrations, for readiness; no tenant's data",
};

/** Scans of scoped tables where one of the locks is no condition that every row must meet. */
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
  visit(plan, (node) => {
    const relation = node["Relation Name"] as string | undefined;
    const isScan = /Scan/.test(node["Node Type"]) && node.Schema === "scopefloor" && relation !== undefined;
    if (!isScan || Object.hasOwn(UNSCOPED, relation)) return;
    const locks = new Locks(relation, subplans);
    const arms = conditionsOf(node);
    const complain = (lock: string) => found.push(`${relation} as ${node.Alias}: no ${lock} in ${textOf(node)}`);
    if (!arms.some((arm) => locks.isFirst(arm))) complain("visible scopes");
    if (!arms.some((arm) => locks.isSecond(arm))) complain("policy");
  });
  return found;
}

const textOf = (node: Plan): string =>
  CONDITIONS.map((name) => node[name] ?? "")
    .join(" ")
    .trim() || "no condition";

/** What all has to be true of a row, as syntax trees. */
function conditionsOf(node: Plan): Expression[] {
  return CONDITIONS.filter((name) => node[name] !== undefined).flatMap((name) =>
    armsOf(parsed(node[name]), "AND_EXPR"),
  );
}

/** A condition as EXPLAIN prints it; what PostgreSQL's grammar has not becomes a name or a call of one. */
function parsed(condition: string): Expression {
  const text = condition
    .replace(/\((?:hashed )?((?:Init|Sub)Plan \d+)\)\.col1/g, '"$1"')
    .replace(/\(ANY \(/g, "(any_of (")
    .replace(/\((?:alternatives: )?(?:hashed )?SubPlan \d+(?: or hashed SubPlan \d+)?\)/g, "(subplan)");
  const tree = parseSync(`SELECT WHERE ${text}`) as Expression;
  return tree.stmts[0].stmt.SelectStmt.whereClause;
}

const armsOf = (condition: Expression, operator: "AND_EXPR" | "OR_EXPR"): Expression[] =>
  condition?.BoolExpr?.boolop === operator
    ? condition.BoolExpr.args.flatMap((arm: Expression) => armsOf(arm, operator))
    : [condition];

class Locks {
  readonly #relation: string;
  readonly #subplans: ReadonlyMap<string, Plan>;

  constructor(relation: string, subplans: ReadonlyMap<string, Plan>) {
    this.#relation = relation;
    this.#subplans = subplans;
  }

  /** A list of scopes, or one, that is a parameter; or the scopes of a subtree; or either in every arm of an OR. */
  isFirst(condition: Expression): boolean {
    return armsOf(condition, "OR_EXPR").every((arm) =>
      armsOf(arm, "AND_EXPR").some((one) => (one === condition ? this.#isOfParameters(one) : this.isFirst(one))),
    );
  }

  #isOfParameters(condition: Expression): boolean {
    const value = this.#isScopeOf(condition);
    if (value === undefined) return this.#isByTags(condition);
    const subplan = this.#subplans.get(nameOf(value) ?? "");
    if (subplan === undefined) return withoutCast(value).ParamRef !== undefined;
    return (
      subplan["Relation Name"] === "scope" &&
      conditionsOf(subplan).some((one) => new Locks("scope", this.#subplans).#isByTags(one))
    );
  }

  /** The scopes that a policy's function gave, or that its flag gave all. */
  isSecond(condition: Expression): boolean {
    const arms = armsOf(condition, "OR_EXPR");
    const isAnswer = (value: Expression | undefined, functions: RegExp) => {
      const output = this.#subplans.get((value && nameOf(value)) ?? "")?.Output;
      return output?.length === 1 && functions.test(output[0]);
    };
    return (
      arms.some((arm) => isAnswer(this.#isScopeOf(arm), POLICY_FUNCTION)) &&
      arms.every(
        (arm) =>
          isAnswer(this.#isScopeOf(arm), POLICY_FUNCTION) || isAnswer(arm, POLICY_FLAG) || this.#isRootOfAll(arm),
      )
    );
  }

  /** What the row's scope is compared with; undefined where it is not its scope, or not for being the same. */
  #isScopeOf(condition: Expression): Expression | undefined {
    const call = condition.FuncCall;
    const isAnyOf = call?.funcname?.length === 1 && call.funcname[0].String.sval === "any_of" && call.args.length === 1;
    const { A_Expr } = isAnyOf ? call.args[0] : condition;
    if (A_Expr === undefined || !["AEXPR_OP", "AEXPR_OP_ANY"].includes(A_Expr.kind)) return undefined;
    const column = this.#relation === "scope" ? "id" : "scope_id";
    if (A_Expr.name.length !== 1 || A_Expr.name[0].String.sval !== "=") return undefined;
    return columnOf(A_Expr.lexpr) === column
      ? A_Expr.rexpr
      : columnOf(A_Expr.rexpr) === column
        ? A_Expr.lexpr
        : undefined;
  }

  /** The dictionary's rows are visible by their tags too. */
  #isByTags({ A_Expr }: Expression): boolean {
    return (
      this.#relation === "scope" &&
      A_Expr?.kind === "AEXPR_OP" &&
      A_Expr.name[0].String.sval === "@>" &&
      columnOf(A_Expr.lexpr) === "tags" &&
      withoutCast(A_Expr.rexpr).ParamRef !== undefined
    );
  }

  /** The dictionary's row of general knowledge is everyone's who has a ticket. */
  #isRootOfAll(condition: Expression): boolean {
    return (
      this.#relation === "scope" &&
      armsOf(condition, "AND_EXPR").some((arm) => this.#isScopeOf(arm)?.A_Const?.ival !== undefined)
    );
  }
}

const withoutCast = (value: Expression): Expression => value?.TypeCast?.arg ?? value ?? {};

const columnOf = (node: Expression): string | undefined => node?.ColumnRef?.fields?.at(-1)?.String?.sval;

/** Of a subplan, which stands there as a column of one name. */
function nameOf(value: Expression): string | undefined {
  const fields = withoutCast(value).ColumnRef?.fields;
  return fields?.length === 1 ? fields[0].String?.sval : undefined;
}

/** @throws when a plan scans a scoped table without one of the locks; gives how many were looked at */
export async function checkPlans(url: string, statements: readonly SentStatement[]): Promise<number> {
  const sql = postgres(url, { max: 1, fetch_types: false, onnotice: () => undefined });
  const failures: string[] = [];
  let plans = 0;
  try {
    await sql`SET search_path = pg_catalog, public`;
    for (const { role, text } of statements) {
      // The owner is under no policy: what it may send is proven by its text. So are commands, which have no plan.
      if (role === "owner" || /^\s*(BEGIN|COMMIT|ROLLBACK|SET LOCAL)\b/i.test(text)) continue;
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

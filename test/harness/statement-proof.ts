/**
 * The statement proof: what the service sends is parsed with PostgreSQL's own grammar, and each
 * reference to a table must carry the visible scopes in its own query level, bound to values that
 * the database granted in that very transaction.
 */
import { appendFile } from "node:fs/promises";
import { join } from "node:path";
import { loadModule, parseSync } from "libpg-query";
import { inject } from "vitest";
import type { Database, Lease, Leases, Row } from "../../src/db/lease.ts";
import { type Sender, type SentStatement, UNSCOPED } from "./plans.ts";

/** Settings that a statement may change for its own transaction: how to plan, never who. */
const SETTINGS = /^(plan_cache_mode|hnsw\.(ef_search|iterative_scan))$/;

/** Functions that read or write past the statement itself. */
const FORBIDDEN_FUNCTION = /^(pg_|lo_|dblink|set_config|current_setting|nextval|setval|currval)|_to_xml/;

/**
 * What the audit report reads of the catalog, in statements of its own beside no other table: which
 * tables, policies, functions and roles there are. No statistics, so nothing of any row.
 */
const CATALOG = new Set([
  "pg_attribute",
  "pg_auth_members",
  "pg_class",
  "pg_constraint",
  "pg_index",
  "pg_namespace",
  "pg_policies",
  "pg_proc",
  "pg_roles",
]);

/** What the owner's connection does beside calling definer functions, and why it reads nobody's rows to anyone. */
const OWNER_COMMANDS: Readonly<Record<string, string>> = {
  TransactionStmt: "begins and ends",
  VariableSetStmt: "settings of a session that no request has",
  VacuumStmt: "rewrites tables where they stand: housekeeping, scrub",
  IndexStmt: "a vector graph of one scope",
  DropStmt: "a vector graph that is not needed any more",
  AlterSystemStmt: "scrub: how old segments of the write-ahead log are removed",
  CheckPointStmt: "scrub",
};

/** Such a statement may call these besides. */
const OF_CATALOG = new Set(["pg_get_userbyid", "pg_has_role"]);

/** What a statement's parameters must hold for the proof to be complete. */
export interface Bound {
  readonly parameter: number;
  /** `ids`: scopes granted to be read; `id`: the scope granted to be written; `tree`: the tags of a granted subtree. */
  readonly as: "ids" | "id" | "tree";
}

export interface Proof {
  readonly violations: readonly string[];
  readonly bound: readonly Bound[];
}

// biome-ignore lint/suspicious/noExplicitAny: the syntax tree is plain JSON; what is not there fails the proof.
type Node = any;

await loadModule();

const proofs = new Map<string, Proof>();

/** Proves one statement by its text alone. */
export function prove(text: string, sender: Sender = "app"): Proof {
  const key = `${sender === "owner"} ${text}`;
  const known = proofs.get(key);
  if (known !== undefined) return known;
  const prover = new Prover(text);
  const proof = sender === "owner" ? prover.proveOwner() : prover.prove();
  proofs.set(key, proof);
  return proof;
}

class Prover {
  readonly #text: string;
  readonly #violations: string[] = [];
  readonly #bound: Bound[] = [];
  readonly #guarded = new Set<Node>();
  readonly #ctes = new Set<string>();
  #isOfCatalog = false;

  constructor(text: string) {
    this.#text = text;
  }

  /** The owner is under neither lock, so its statements name no table of tenants' rows at all. */
  proveOwner(): Proof {
    const statement = this.#parse();
    if (statement === undefined) return this.#proof();
    const [kind = ""] = Object.keys(statement);
    if (OWNER_COMMANDS[kind] !== undefined) return this.#proof();
    if (kind !== "SelectStmt") this.#violations.push(`is of another kind: ${kind}`);
    this.#visit(statement, (node) => {
      if (node.relname === undefined || node.relpersistence === undefined) return;
      const { schemaname = "pg_catalog", relname } = node;
      if (schemaname !== "pg_catalog" || !/^pg_/.test(relname) || /^pg_(statistic|stats)/.test(relname))
        this.#violations.push(`the owner reads ${schemaname}.${relname}`);
    });
    return this.#proof();
  }

  prove(): Proof {
    const statement = this.#parse();
    if (statement === undefined) return this.#proof();
    const [kind] = Object.keys(statement);
    if (kind === "VariableSetStmt") {
      const { is_local, name = "" } = statement.VariableSetStmt;
      if (is_local !== true || !SETTINGS.test(name)) this.#violations.push(`sets ${name}`);
    } else if (kind === "TransactionStmt") {
      // BEGIN, COMMIT, ROLLBACK name no table.
    } else if (["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt"].includes(kind ?? "")) {
      this.#visit(statement, (node) => {
        if (node.CommonTableExpr) this.#ctes.add(node.CommonTableExpr.ctename);
      });
      this.#isOfCatalog = this.#readsCatalogAlone(statement);
      this.#visit(statement, (node) => this.#guard(node));
      this.#visit(statement, (node) => this.#judge(node));
    } else {
      this.#violations.push(`is of another kind: ${kind}`);
    }
    return this.#proof();
  }

  #proof(): Proof {
    return { violations: this.#violations, bound: this.#bound };
  }

  /** The one statement of the text; undefined where there is none. */
  #parse(): Node | undefined {
    try {
      const { stmts } = parseSync(this.#text) as Node;
      if (stmts?.length !== 1) this.#violations.push("is not exactly one statement");
      return stmts?.[0]?.stmt ?? {};
    } catch (error) {
      this.#violations.push(`cannot be parsed: ${(error as Error).message}`);
      return undefined;
    }
  }

  #visit(node: Node, see: (node: Node) => void): void {
    if (typeof node !== "object" || node === null) return;
    see(node);
    for (const child of Object.values(node)) this.#visit(child, see);
  }

  #readsCatalogAlone(statement: Node): boolean {
    const tables: Node[] = [];
    this.#visit(statement, (node) => {
      if (node.relname !== undefined && node.relpersistence !== undefined) tables.push(node);
    });
    return (
      statement.SelectStmt !== undefined &&
      tables.every(({ schemaname, relname }) => schemaname === "pg_catalog" && CATALOG.has(relname))
    );
  }

  /** Marks the references that stand alone in a query level whose WHERE, at its root, binds the scope. */
  #guard({ SelectStmt, UpdateStmt, DeleteStmt, InsertStmt }: Node): void {
    if (SelectStmt?.fromClause?.length === 1 && SelectStmt.fromClause[0].RangeVar) {
      this.#guardBy(SelectStmt.whereClause, SelectStmt.fromClause[0].RangeVar);
    }
    for (const change of [UpdateStmt, DeleteStmt]) {
      if (change) this.#guardBy(change.whereClause, change.relation);
    }
    const set = (UpdateStmt?.targetList ?? []).map((target: Node) => target.ResTarget.name);
    if (set.includes("scope_id")) this.#violations.push("moves rows to another scope");
    if (InsertStmt) this.#guardInsertion(InsertStmt);
  }

  #guardBy(where: Node, table: Node): void {
    const conditions = where?.BoolExpr?.boolop === "AND_EXPR" ? where.BoolExpr.args : [where];
    const column = table.relname === "scope" ? "id" : "scope_id";
    const bound = conditions.map((condition: Node) => this.#scopeCondition(condition, column)).find(Boolean);
    if (bound === undefined) return;
    this.#guarded.add(table);
    this.#bound.push(...bound);
  }

  /** The parameters of a condition that is true for bound scopes alone; undefined for any other. */
  #scopeCondition(condition: Node, column: string): Bound[] | undefined {
    const { A_Expr, SubLink, BoolExpr } = condition ?? {};
    if (BoolExpr?.boolop === "OR_EXPR") {
      const arms = BoolExpr.args.map((arm: Node) => this.#scopeCondition(arm, column));
      return arms.every(Boolean) ? arms.flat() : undefined;
    }
    if (A_Expr && columnOf(A_Expr.lexpr) === column && A_Expr.name?.[0]?.String?.sval === "=") {
      const parameter = parameterOf(A_Expr.rexpr, "int4");
      if (parameter === undefined) return undefined;
      if (A_Expr.kind === "AEXPR_OP_ANY") return [{ parameter, as: "ids" }];
      if (A_Expr.kind === "AEXPR_OP") return [{ parameter, as: "id" }];
    }
    if (
      SubLink?.subLinkType === "ANY_SUBLINK" &&
      SubLink.operName === undefined &&
      columnOf(SubLink.testexpr) === column
    ) {
      return this.#subtree(SubLink.subselect?.SelectStmt);
    }
    return undefined;
  }

  /** `SELECT below.id FROM scopefloor.scope AS below WHERE below.tags @> $n::jsonb` and nothing else. */
  #subtree(select: Node): Bound[] | undefined {
    const table = select?.fromClause?.length === 1 ? select.fromClause[0].RangeVar : undefined;
    const condition = select?.whereClause?.A_Expr;
    const target = select?.targetList?.length === 1 ? columnOf(select.targetList[0].ResTarget?.val) : undefined;
    if (table?.relname !== "scope" || target !== "id" || condition?.name?.[0]?.String?.sval !== "@>") return undefined;
    const parameter = parameterOf(condition.rexpr, "jsonb");
    if (columnOf(condition.lexpr) !== "tags" || parameter === undefined) return undefined;
    this.#guarded.add(table);
    return [{ parameter, as: "tree" }];
  }

  /** Every row that is inserted names its scope by a parameter. */
  #guardInsertion({ relation, cols = [], selectStmt, onConflictClause }: Node): void {
    const at = cols.findIndex((column: Node) => column.ResTarget.name === "scope_id");
    const select = selectStmt?.SelectStmt ?? {};
    const lists = select.valuesLists?.map((list: Node) => list.List.items) ?? [
      (select.targetList ?? []).map((target: Node) => target.ResTarget.val),
    ];
    const parameters = lists.map((values: Node[]) => parameterOf(values[at]));
    // A star before the scope would shift what stands in its place.
    const isPlain = select.op === undefined || select.op === "SETOP_NONE";
    const isShifted = lists.some((values: Node[]) => values.slice(0, at).some((value) => hasStar(value)));
    if (at < 0 || !isPlain || isShifted || parameters.includes(undefined)) return;
    if (onConflictClause) this.#violations.push("answers a conflict, which may be with a row that is not visible");
    this.#guarded.add(relation);
    for (const parameter of new Set<number>(parameters)) this.#bound.push({ parameter, as: "id" });
  }

  #judge(node: Node): void {
    // A table reference stands under its own name in a FROM, and bare as the target of a change.
    if (node.relname !== undefined && node.relpersistence !== undefined) this.#judgeTable(node);
    if (node.FuncCall) this.#judgeCall(node.FuncCall.funcname.map((part: Node) => part.String.sval));
    if (node.intoClause) this.#violations.push("makes a table");
  }

  #judgeTable(table: Node): void {
    const { schemaname, relname } = table;
    if (schemaname === undefined) {
      if (!this.#ctes.has(relname)) this.#violations.push(`names ${relname} without a schema`);
    } else if (schemaname !== "scopefloor") {
      if (!this.#isOfCatalog) this.#violations.push(`reads ${schemaname}.${relname}`);
    } else if (!this.#guarded.has(table) && UNSCOPED[relname] === undefined) {
      this.#violations.push(`reaches ${relname} without the visible scopes in its own query level`);
    }
  }

  #judgeCall(name: readonly string[]): void {
    const [schema, own] = name.length > 1 ? [name[0], name[1]] : [undefined, name[0]];
    if (schema !== undefined && schema !== "scopefloor" && schema !== "pg_catalog") {
      this.#violations.push(`calls ${name.join(".")}`);
    }
    if (
      schema !== "scopefloor" &&
      FORBIDDEN_FUNCTION.test(own ?? "") &&
      !(this.#isOfCatalog && OF_CATALOG.has(own ?? ""))
    )
      this.#violations.push(`calls ${own}`);
  }
}

const columnOf = (node: Node): string | undefined => node?.ColumnRef?.fields?.at(-1)?.String?.sval;

const hasStar = (node: Node): boolean => node?.ColumnRef?.fields?.some((field: Node) => field.A_Star) ?? false;

/** The number of a parameter, with a cast to `type` where one is asked for. */
function parameterOf(node: Node, type?: string): number | undefined {
  if (type === undefined && node?.ParamRef) return node.ParamRef.number;
  const name = node?.TypeCast?.typeName?.names?.at(-1)?.String?.sval;
  if (type !== undefined && name !== type) return undefined;
  return node?.TypeCast?.arg?.ParamRef?.number;
}

/** What the database granted in the transaction that is open. */
interface Granted {
  readonly ids: ReadonlySet<number>;
  readonly writes: ReadonlySet<number>;
  readonly trees: ReadonlySet<string>;
}

const NOTHING: Granted = { ids: new Set(), writes: new Set(), trees: new Set() };

const canonical = (tags: object) => JSON.stringify(Object.entries(tags).sort(([a], [b]) => (a < b ? -1 : 1)));

function grantedBy(answer: Node): Granted {
  if (answer?.status !== "ok") return NOTHING;
  const write: number[] = [answer.write, answer.scopeId].filter((id) => typeof id === "number");
  const ids = [...Object.keys(answer.read?.scopes ?? {}).map(Number), ...(answer.general ? [0] : []), ...write];
  const traced = typeof answer.trace?.id === "number" ? [answer.trace.id] : [];
  return {
    ids: new Set(ids),
    writes: new Set([...write, ...traced]),
    trees: new Set((answer.read?.trees ?? []).map(canonical)),
  };
}

function outOfBounds(bound: readonly Bound[], params: readonly unknown[], granted: Granted): string[] {
  return bound.flatMap(({ parameter, as }) => {
    const value = params[parameter - 1];
    if (as === "tree") {
      const tags = typeof value === "string" ? JSON.parse(value) : value;
      return granted.trees.has(canonical(tags as object)) ? [] : [`$${parameter} is no granted subtree`];
    }
    const ids =
      as === "id" ? [Number(value)] : String(value).replace(/[{}]/g, "").split(",").filter(Boolean).map(Number);
    const allowed = as === "id" ? granted.writes : granted.ids;
    return ids.every((id) => allowed.has(id)) ? [] : [`$${parameter} holds a scope that was not granted`];
  });
}

/** A database whose every statement is proven as it is sent. */
export interface ProvenDatabase extends Database {
  /** What was sent so far. */
  readonly sent: readonly SentStatement[];
  /** @throws when a statement was not proven */
  assertProven(): Promise<void>;
}

export function proving(database: Database): ProvenDatabase {
  const seen = new Map<string, SentStatement>();
  const violations = new Set<string>();
  const watch = (leases: Leases, role: Sender): Leases => ({
    close: () => leases.close(),
    acquire: async (turn) => watchLease(await leases.acquire(turn), role),
  });
  const watchLease = (lease: Lease, role: Sender): Lease => {
    let granted = NOTHING;
    return {
      release: () => lease.release(),
      query: async (text, params = []): Promise<Row[]> => {
        seen.set(`${role} ${text}`, { role, text });
        const proof = prove(text, role);
        for (const violation of [...proof.violations, ...outOfBounds(proof.bound, params, granted)]) {
          violations.add(`${violation}: ${text}`);
        }
        const rows = await lease.query(text, params);
        if (/scopefloor\.enter(_job)?\(/.test(text)) granted = grantedBy(rows[0]?.answer);
        return rows;
      },
    };
  };
  return {
    ...database,
    app: watch(database.app, "app"),
    worker: watch(database.worker, "worker"),
    owner: watch(database.owner, "owner"),
    get sent() {
      return [...seen.values()];
    },
    assertProven: async () => {
      const lines = [...seen.values()].map((statement) => JSON.stringify(statement));
      if (lines.length > 0)
        await appendFile(join(inject("statements"), `${process.pid}.jsonl`), `${lines.join("\n")}\n`);
      if (violations.size > 0) throw new Error(`not proven:\n${[...violations].join("\n")}`);
    },
  };
}

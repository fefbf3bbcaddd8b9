/**
 * The statement proof: what the service sends is parsed with PostgreSQL's own grammar, and each
 * reference to a table must carry the visible scopes in its own query level, bound to values that
 * the database granted in that very transaction.
 */
import { appendFile } from "node:fs/promises";
import { join } from "node:path";
import { loadModule, parseSync } from "libpg-query";
import { inject } from "vitest";
import { definersOf } from "../../src/db/access/definers.ts";
import type { Database, Lease, Leases, Row } from "../../src/db/connect/lease.ts";
import { scopedTables } from "../../src/db/tables/index.ts";
import { type Sender, type SentStatement, UNSCOPED } from "./plans.ts";

/** Settings that a statement may change for its own transaction: how to plan, never who. */
const SETTINGS = /^(plan_cache_mode|hnsw\.(ef_search|iterative_scan))$/;

/** Tables with general knowledge, which everyone reads; written here once more, so that another list in the service is noticed. */
const KNOWLEDGE: ReadonlySet<string> = new Set([
  "attribute",
  "chunk_band",
  "document",
  "document_content",
  "document_link",
  "entity",
  "keyword",
  "memory_item",
  "passage",
  "posting_block",
  "relation",
  "scope",
  "scope_counter",
  "segment",
]);

/** PostgreSQL's functions that the service calls: they compute from their arguments alone. */
const COMPUTING = [
  "array_position array_to_string binary_quantize cardinality concat_ws count decode dense_rank encode int4send int8send jsonb_agg jsonb_build_array jsonb_array_elements jsonb_array_elements_text",
  "jsonb_build_object jsonb_each_text jsonb_object_keys jsonb_to_recordset jsonb_typeof lag last_value left lower max min now octet_length replace round",
  "normalize position regexp_replace row_number starts_with string_agg strpos substr substring sum to_jsonb to_regclass transaction_timestamp",
  "translate unnest",
].flatMap((names) => names.split(" "));

/**
 * What the audit report reads of the catalog, in statements of its own beside no other table: which
 * tables, policies, functions and roles there are. No samples of columns, so nothing of any row.
 */
const CATALOG: ReadonlySet<string> = new Set([
  "pg_attribute",
  "pg_auth_members",
  "pg_class",
  "pg_database",
  "pg_db_role_setting",
  "pg_constraint",
  "pg_index",
  "pg_namespace",
  "pg_policies",
  "pg_proc",
  "pg_roles",
]);

/** Such a statement may call these besides. */
const OF_CATALOG = [
  "aclexplode current_database format_type has_any_column_privilege has_column_privilege has_database_privilege",
  "has_function_privilege has_schema_privilege has_table_privilege pg_get_userbyid pg_has_role",
].flatMap((names) => names.split(" "));

/** What the owner reads beside the audit: sizes and versions, and for a scrub who may still see old rows and which files there are. */
const OF_OWNER: ReadonlySet<string> = new Set([
  ...CATALOG,
  "pg_extension",
  "pg_file_settings",
  "pg_prepared_xacts",
  "pg_replication_slots",
  "pg_stat_activity",
  "pg_stat_replication",
]);

const CALLED_BY_OWNER: ReadonlySet<string> = new Set([
  ...COMPUTING,
  ...OF_CATALOG,
  ...[
    "age clock_timestamp current_setting pg_advisory_lock pg_backend_pid pg_current_xact_id",
    "make_interval pg_has_role pg_logical_emit_message pg_ls_waldir pg_terminate_backend pg_relation_size pg_reload_conf pg_sleep pg_switch_wal pg_try_advisory_lock",
  ].flatMap((names) => names.split(" ")),
]);

/** A vector graph's name, and what else the owner's commands are about. */
const GRAPH = /^passage_graph_/;
const OWNER_SETTINGS = /^(wal_recycle|max_parallel_maintenance_workers)$/;

/** What a statement's parameters must hold for the proof to be complete. */
export interface Bound {
  readonly parameter: number;
  /** `ids`: scopes of a list; `id`: one scope; `tree`: the tags of a subtree; `tenants`, `tenant`: that of the scopes. */
  readonly as: "ids" | "id" | "tree" | "tenants" | "tenant";
  readonly to: "read" | "change" | "insert";
  readonly table: string;
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
  const key = `${sender} ${text}`;
  const known = proofs.get(key);
  if (known !== undefined) return known;
  const proof = new Prover(text, sender).prove();
  proofs.set(key, proof);
  return proof;
}

class Prover {
  readonly #text: string;
  readonly #sender: Sender;
  readonly #violations: string[] = [];
  readonly #bound: Bound[] = [];
  readonly #guarded = new Set<Node>();
  /** References in a FROM, as opposed to targets of a change. */
  readonly #read = new Set<Node>();
  readonly #ctes = new Set<string>();
  #isOfCatalog = false;

  constructor(text: string, sender: Sender) {
    this.#text = text;
    this.#sender = sender;
  }

  prove(): Proof {
    const statement = this.#parse();
    if (statement !== undefined) {
      if (this.#sender === "owner") this.#proveOwner(statement);
      else this.#proveScoped(statement);
    }
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

  #proveScoped(statement: Node): void {
    const [kind = ""] = Object.keys(statement);
    if (kind === "VariableSetStmt") {
      const { is_local, name = "" } = statement.VariableSetStmt;
      if (is_local !== true || !SETTINGS.test(name)) this.#violations.push(`sets ${name}`);
    } else if (kind === "TransactionStmt") {
      this.#judgeTransaction(statement.TransactionStmt);
    } else if (["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt"].includes(kind)) {
      this.#visit(statement, (node) => {
        if (node.RangeVar) this.#read.add(node.RangeVar);
        if (node.CommonTableExpr) this.#judgeName(node.CommonTableExpr.ctename);
      });
      this.#isOfCatalog = this.#readsCatalogAlone(statement);
      this.#visit(statement, (node) => this.#guard(node));
      this.#visit(statement, (node) => this.#judge(node));
    } else {
      this.#violations.push(`is of another kind: ${kind}`);
    }
  }

  /** The owner is under neither lock, so its queries name no table with rows of anybody's, and its commands are few. */
  #proveOwner(statement: Node): void {
    const { TransactionStmt, VariableSetStmt, VacuumStmt, IndexStmt, DropStmt, AlterSystemStmt, CheckPointStmt } =
      statement;
    const set = VariableSetStmt ?? AlterSystemStmt?.setstmt;
    if (TransactionStmt) this.#judgeTransaction(TransactionStmt);
    else if (set) {
      if (!OWNER_SETTINGS.test(set.name ?? "")) this.#violations.push(`sets ${set.name}`);
    } else if (VacuumStmt) this.#judgeVacuum(VacuumStmt);
    else if (IndexStmt) this.#judgeGraph(IndexStmt);
    else if (DropStmt) {
      const names: string[] = (DropStmt.objects ?? []).map((one: Node) => one.List?.items?.at(-1)?.String?.sval ?? "");
      if (DropStmt.removeType !== "OBJECT_INDEX" || !names.every((name) => GRAPH.test(name)))
        this.#violations.push(`drops ${names.join(", ")}`);
    } else if (statement.SelectStmt) this.#judgeOwnersQuery(statement);
    else if (CheckPointStmt === undefined) this.#violations.push(`is of another kind: ${Object.keys(statement)[0]}`);
  }

  #judgeVacuum({ rels = [] }: Node): void {
    for (const { VacuumRelation } of rels) {
      const { schemaname, relname } = VacuumRelation?.relation ?? {};
      if (schemaname !== "scopefloor" && `${schemaname}.${relname}` !== "pg_catalog.pg_statistic")
        this.#violations.push(`vacuums ${schemaname}.${relname}`);
    }
    if (rels.length === 0) this.#violations.push("vacuums everything");
  }

  /** A graph is of one scope: one of all would tell in its answers of everybody's rows. */
  #judgeGraph({ idxname, relation, whereClause, indexParams }: Node): void {
    const arms = armsOf(whereClause);
    const isOf = (column: string) =>
      arms.some(
        ({ A_Expr }) =>
          A_Expr?.kind === "AEXPR_OP" &&
          A_Expr.name[0].String.sval === "=" &&
          columnOf(A_Expr.lexpr, relation) === column &&
          A_Expr.rexpr?.A_Const?.ival !== undefined,
      );
    const calls = this.#holds(indexParams, (node) => node.FuncCall !== undefined);
    if (
      !GRAPH.test(idxname ?? "") ||
      relation.relname !== "passage" ||
      !isOf("scope_id") ||
      !isOf("embedder_id") ||
      calls
    )
      this.#violations.push(`makes the index ${idxname}, which is no graph of one scope`);
  }

  #judgeOwnersQuery(statement: Node): void {
    this.#visit(statement, (node) => {
      if (isChange(node)) this.#violations.push("changes rows");
      if (node.CommonTableExpr) this.#violations.push("names a table of its own");
      if (node.intoClause) this.#violations.push("makes a table");
      if (node.relname !== undefined && node.relpersistence !== undefined) {
        const { schemaname = "pg_catalog", relname } = node;
        if (schemaname !== "pg_catalog" || !OF_OWNER.has(relname))
          this.#violations.push(`the owner reads ${schemaname}.${relname}`);
      }
      // What others are asking: of all sessions.
      if (node.ColumnRef && /^(query|\*)$/.test(lastOf(node.ColumnRef)) && this.#text.includes("pg_stat_activity"))
        this.#violations.push("the owner reads others' statements");
      if (node.FuncCall) {
        const [schema, own] = nameOf(node.FuncCall);
        if (schema !== "scopefloor" && !((schema ?? "pg_catalog") === "pg_catalog" && CALLED_BY_OWNER.has(own)))
          this.#violations.push(`the owner calls ${own}`);
      }
    });
  }

  #judgeTransaction({ kind, chain }: Node): void {
    if (!/^TRANS_STMT_(BEGIN|START|COMMIT|ROLLBACK)$/.test(kind) || chain === true) this.#violations.push(`is ${kind}`);
  }

  /** A name for a subquery may hide no table's. */
  #judgeName(name: string): void {
    this.#ctes.add(name);
    if (/^pg_/.test(name) || Object.hasOwn(scopedTables, name) || Object.hasOwn(UNSCOPED, name))
      this.#violations.push(`takes the name of ${name}`);
  }

  #visit(node: Node, see: (node: Node) => void): void {
    if (typeof node !== "object" || node === null) return;
    see(node);
    for (const child of Object.values(node)) this.#visit(child, see);
  }

  #holds(node: Node, is: (node: Node) => boolean): boolean {
    let found = false;
    this.#visit(node, (inner) => {
      found ||= is(inner);
    });
    return found;
  }

  #readsCatalogAlone(statement: Node): boolean {
    const tables: Node[] = [];
    this.#visit(statement, (node) => {
      if (node.relname !== undefined && node.relpersistence !== undefined) tables.push(node);
    });
    return (
      !this.#holds(statement, isChange) &&
      tables.every(({ schemaname, relname }) => schemaname === "pg_catalog" && CATALOG.has(relname))
    );
  }

  /** Marks the references that stand alone in a query level whose WHERE, at its root, binds the scope. */
  #guard({ SelectStmt, UpdateStmt, DeleteStmt, InsertStmt }: Node): void {
    if (SelectStmt?.fromClause?.length === 1 && SelectStmt.fromClause[0].RangeVar) {
      this.#guardBy(SelectStmt.whereClause, SelectStmt.fromClause[0].RangeVar, "read");
    }
    for (const change of [UpdateStmt, DeleteStmt]) {
      if (change) this.#guardBy(change.whereClause, change.relation, "change");
    }
    if (UpdateStmt) {
      const set: string[] = (UpdateStmt.targetList ?? []).map((target: Node) => target.ResTarget.name);
      const ofScope = UpdateStmt.relation.relname === "scope" ? ["id", "tags", "tenant_id"] : ["scope_id", "tenant_id"];
      if (set.some((column) => ofScope.includes(column))) this.#violations.push("moves rows to another scope");
    }
    if (InsertStmt) this.#guardInsertion(InsertStmt);
  }

  #guardBy(where: Node, table: Node, to: "read" | "change"): void {
    if (!isScoped(table)) return;
    const column = table.relname === "scope" ? "id" : "scope_id";
    const bound = armsOf(where)
      .map((arm) => this.#scopeCondition(arm, column, table, to))
      .find(Boolean);
    if (bound === undefined) return;
    this.#guarded.add(table);
    this.#bound.push(...bound);
    for (const { A_Expr } of armsOf(where)) {
      if (A_Expr?.kind !== "AEXPR_OP_ANY" || columnOf(A_Expr.lexpr, table) !== "tenant_id") continue;
      const parameter = castParameter(A_Expr.rexpr, "int4", true);
      if (parameter !== undefined) this.#bound.push({ parameter, as: "tenants", to, table: table.relname });
    }
  }

  /** The parameters of a condition that is true for bound scopes alone; undefined for any other. */
  #scopeCondition(condition: Node, column: string, table: Node, to: "read" | "change"): Bound[] | undefined {
    const { A_Expr, SubLink, BoolExpr } = condition ?? {};
    if (BoolExpr?.boolop === "OR_EXPR") {
      const arms = BoolExpr.args.map((arm: Node) => this.#scopeCondition(arm, column, table, to));
      return arms.every(Boolean) ? arms.flat() : undefined;
    }
    const of = { to, table: table.relname as string };
    if (A_Expr && columnOf(A_Expr.lexpr, table) === column && A_Expr.name?.[0]?.String?.sval === "=") {
      const isList = A_Expr.kind === "AEXPR_OP_ANY";
      if (!isList && A_Expr.kind !== "AEXPR_OP") return undefined;
      const parameter = castParameter(A_Expr.rexpr, "int4", isList);
      return parameter === undefined ? undefined : [{ parameter, as: isList ? "ids" : "id", ...of }];
    }
    if (
      SubLink?.subLinkType === "ANY_SUBLINK" &&
      SubLink.operName === undefined &&
      columnOf(SubLink.testexpr, table) === column
    ) {
      const parameter = this.#subtree(SubLink.subselect?.SelectStmt);
      return parameter === undefined ? undefined : [{ parameter, as: "tree", ...of }];
    }
    return undefined;
  }

  /** `SELECT below.id FROM scopefloor.scope AS below WHERE below.tags @> $n::jsonb` and nothing else. */
  #subtree(select: Node): number | undefined {
    const table = select?.fromClause?.length === 1 ? select.fromClause[0].RangeVar : undefined;
    if (table === undefined || !isScoped(table) || table.relname !== "scope") return undefined;
    const condition = select.whereClause?.A_Expr;
    const target = select.targetList?.length === 1 ? columnOf(select.targetList[0].ResTarget?.val, table) : undefined;
    if (target !== "id" || condition?.kind !== "AEXPR_OP" || condition.name?.[0]?.String?.sval !== "@>")
      return undefined;
    const parameter = castParameter(condition.rexpr, "jsonb", false);
    if (columnOf(condition.lexpr, table) !== "tags" || parameter === undefined) return undefined;
    this.#guarded.add(table);
    return parameter;
  }

  /** Every row that is inserted names its scope and its tenant by parameters. */
  #guardInsertion({ relation, cols = [], selectStmt, onConflictClause }: Node): void {
    const placeOf = (name: string) => cols.findIndex((column: Node) => column.ResTarget.name === name);
    const [at, ofTenant] = [placeOf("scope_id"), placeOf("tenant_id")];
    const select = selectStmt?.SelectStmt ?? {};
    const lists = select.valuesLists?.map((list: Node) => list.List.items) ?? [
      (select.targetList ?? []).map((target: Node) => target.ResTarget.val),
    ];
    const parametersAt = (place: number): (number | undefined)[] =>
      lists.map((values: Node[]) => values[place]?.ParamRef?.number ?? castParameter(values[place], "int4", false));
    const [parameters, tenants] = [parametersAt(at), parametersAt(ofTenant)];
    // A star before the scope would shift what stands in its place.
    const isPlain = select.op === undefined || select.op === "SETOP_NONE";
    const last = Math.max(at, ofTenant);
    const isShifted = lists.some((values: Node[]) => values.slice(0, last).some((value) => this.#hasStar(value)));
    if (onConflictClause) this.#violations.push("answers a conflict, which may be with a row that is not visible");
    const isOpen = [...parameters, ...tenants].includes(undefined);
    if (!isScoped(relation) || at < 0 || ofTenant < 0 || !isPlain || isShifted || isOpen) return;
    this.#guarded.add(relation);
    for (const [as, bound] of [
      ["id", parameters],
      ["tenant", tenants],
    ] as const)
      for (const parameter of new Set(bound as number[]))
        this.#bound.push({ parameter, as, to: "insert", table: relation.relname });
  }

  #hasStar(node: Node): boolean {
    return this.#holds(node, (inner) => inner.A_Star !== undefined);
  }

  #judge(node: Node): void {
    // A table reference stands under its own name in a FROM, and bare as the target of a change.
    if (node.relname !== undefined && node.relpersistence !== undefined) this.#judgeTable(node);
    if (node.FuncCall) this.#judgeCall(...nameOf(node.FuncCall));
    if (node.intoClause) this.#violations.push("makes a table");
  }

  #judgeTable(table: Node): void {
    const { schemaname, relname } = table;
    if (schemaname === undefined) {
      if (!this.#read.has(table) || !this.#ctes.has(relname))
        this.#violations.push(`names ${relname} without a schema`);
    } else if (schemaname !== "scopefloor") {
      if (!this.#isOfCatalog) this.#violations.push(`reads ${schemaname}.${relname}`);
    } else if (!this.#guarded.has(table) && !(this.#read.has(table) && Object.hasOwn(UNSCOPED, relname))) {
      this.#violations.push(`reaches ${relname} without the visible scopes in its own query level`);
    }
  }

  #judgeCall(schema: string | undefined, own: string): void {
    const isKnown =
      schema === "scopefloor"
        ? definersOf(this.#sender as "app" | "worker").has(own)
        : (schema ?? "pg_catalog") === "pg_catalog" &&
          (COMPUTING.includes(own) || (this.#isOfCatalog && OF_CATALOG.includes(own)));
    if (!isKnown) this.#violations.push(`calls ${schema === undefined ? "" : `${schema}.`}${own}`);
  }
}

const isChange = ({ InsertStmt, UpdateStmt, DeleteStmt, MergeStmt }: Node): boolean =>
  [InsertStmt, UpdateStmt, DeleteStmt, MergeStmt].some((change) => change !== undefined);

/** The conditions that a WHERE joins with AND; one that is not there is none. */
const armsOf = (where: Node): Node[] =>
  where?.BoolExpr?.boolop === "AND_EXPR" ? where.BoolExpr.args : where === undefined ? [] : [where];

/** A table with a scope, under its own columns' names: an alias may rename those. */
const isScoped = ({ catalogname, schemaname, relname, alias }: Node): boolean =>
  catalogname === undefined &&
  schemaname === "scopefloor" &&
  Object.hasOwn(scopedTables, relname) &&
  alias?.colnames === undefined;

/** The name of a column of that very table. */
function columnOf(node: Node, table: Node): string | undefined {
  const names: (string | undefined)[] = (node?.ColumnRef?.fields ?? []).map((field: Node) => field.String?.sval);
  const [qualifier, name] = names.length === 1 ? [undefined, names[0]] : names;
  const isOwn = qualifier === undefined || qualifier === (table.alias?.aliasname ?? table.relname);
  return isOwn && names.length <= 2 ? name : undefined;
}

const lastOf = ({ fields }: Node): string => (fields.at(-1)?.A_Star ? "*" : (fields.at(-1)?.String?.sval ?? ""));

const nameOf = ({ funcname }: Node): [schema: string | undefined, own: string] => {
  const names: string[] = funcname.map((part: Node) => part.String.sval);
  return names.length > 1 ? [names.slice(0, -1).join("."), names.at(-1) ?? ""] : [undefined, names[0] ?? ""];
};

/** The number of a parameter that is cast to a type of PostgreSQL's, as it is. */
function castParameter(node: Node, type: string, isList: boolean): number | undefined {
  const { names = [], arrayBounds, typmods } = node?.TypeCast?.typeName ?? {};
  const [schema, name] =
    names.length === 1 ? ["pg_catalog", names[0]?.String?.sval] : names.map((one: Node) => one.String?.sval);
  if (schema !== "pg_catalog" || name !== type || typmods !== undefined || isList !== (arrayBounds !== undefined))
    return undefined;
  return node.TypeCast.arg?.ParamRef?.number;
}

/** What the database granted in the transaction that is open. */
interface Granted {
  /** Scopes whose rows may be read, changed and deleted. */
  readonly scopes: ReadonlySet<number>;
  /** General knowledge may be read besides. */
  readonly general: boolean;
  /** Where new rows go, each scope with its tenant. */
  readonly writes: ReadonlyMap<number, number>;
  /** Where the trace goes. */
  readonly trace: { readonly id: number; readonly tenant: number } | undefined;
  /** The tenant of all these scopes; undefined: there is not one alone, and none has to be bound. */
  readonly tenant: number | undefined;
  readonly trees: ReadonlySet<string>;
}

const NOTHING: Granted = {
  scopes: new Set(),
  general: false,
  writes: new Map(),
  trace: undefined,
  tenant: undefined,
  trees: new Set(),
};

const canonical = (tags: object) => JSON.stringify(Object.entries(tags).sort(([a], [b]) => (a < b ? -1 : 1)));

function grantedBy(answer: Node): Granted {
  if (answer?.status !== "ok") return NOTHING;
  const place = typeof answer.scopeId === "number" ? { id: answer.scopeId, tenant: answer.tenant } : undefined;
  // A job has one scope for all that it does; but a run reaches the scopes of its step, and leaves a trace alone.
  const ofJob = answer.run === undefined ? place : undefined;
  const write: Granted["trace"] | null = answer.write ?? ofJob;
  return {
    scopes: new Set([...Object.keys(answer.read?.scopes ?? {}).map(Number), ...(ofJob ? [ofJob.id] : [])]),
    general: answer.general === true,
    writes: new Map(write ? [[write.id, write.tenant]] : []),
    trace: answer.trace ?? place,
    tenant: ofJob?.tenant ?? answer.read?.tenant ?? undefined,
    trees: new Set((answer.read?.trees ?? []).map(canonical)),
  };
}

function isGranted({ to, table }: Bound, id: number, granted: Granted): boolean {
  if (to === "insert") return table === "decision_trace" ? id === granted.trace?.id : granted.writes.has(id);
  // A row of the dictionary is described by who writes there, and seen by them.
  if (table === "scope" && granted.writes.has(id)) return true;
  if (to === "change") return table !== "scope" && granted.scopes.has(id);
  return granted.scopes.has(id) || (id === 0 && granted.general && KNOWLEDGE.has(table));
}

/** General rows are of tenant 0, whatever tenant reads them; a row that is inserted is of its scope's. */
function isTenant({ to, table }: Bound, id: number, granted: Granted): boolean {
  if (to !== "insert") return id === granted.tenant || (id === 0 && granted.general && KNOWLEDGE.has(table));
  return table === "decision_trace" ? id === granted.trace?.tenant : [...granted.writes.values()].includes(id);
}

/** Where all that was granted is one tenant's, each table but the dictionary is bound to it. */
function isUnbound(bounds: readonly Bound[], granted: Granted): boolean {
  const reached = bounds.filter(({ to, table }) => to !== "insert" && table !== "scope");
  const places = (as: Bound["as"]) => reached.filter((bound) => bound.as === as).length;
  return granted.tenant !== undefined && places("ids") > places("tenants");
}

function outOfBounds(bounds: readonly Bound[], params: readonly unknown[], granted: Granted): string[] {
  const unbound = isUnbound(bounds, granted) ? ["reaches a table without its tenant"] : [];
  return [...unbound, ...outOfParameters(bounds, params, granted)];
}

function outOfParameters(bounds: readonly Bound[], params: readonly unknown[], granted: Granted): string[] {
  return bounds.flatMap((bound) => {
    const { parameter, as, to, table } = bound;
    const value = params[parameter - 1];
    if (as === "tree") {
      const tags = typeof value === "string" ? jsonOf(value) : value;
      const isTree = typeof tags === "object" && tags !== null && granted.trees.has(canonical(tags));
      return isTree ? [] : [`$${parameter} is no granted subtree`];
    }
    const ids =
      as === "id" || as === "tenant"
        ? [Number(value)]
        : String(value).replace(/[{}]/g, "").split(",").filter(Boolean).map(Number);
    const isOfTenant = as === "tenant" || as === "tenants";
    return ids.every((id) => (isOfTenant ? isTenant : isGranted)(bound, id, granted))
      ? []
      : [`$${parameter} holds a ${isOfTenant ? "tenant" : "scope"} that was not granted (${to} ${table})`];
  });
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
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
    acquire: async (group) => watchLease(await leases.acquire(group), role),
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
        // What was granted ends with the transaction.
        if (/^\s*(BEGIN|START|COMMIT|END|ROLLBACK|ABORT)\b/i.test(text)) granted = NOTHING;
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

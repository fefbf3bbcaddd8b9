/**
 * The first lock: the only way to a scoped table.
 *
 * `tx.read("passage", "p")` gives a table reference that carries the visible-scope predicate in its
 * own query level, `(SELECT * FROM scopefloor.passage WHERE scope_id = ANY ($1)) AS p`. PostgreSQL
 * flattens it, so it costs nothing, and it goes into any statement: a join, a subquery, either arm
 * of a recursive CTE. There is no method that takes a predicate away, and a statement that names a
 * table any other way is refused before it is sent.
 */

import { is, Name, Param, SQL, StringChunk } from "drizzle-orm";
import { Column } from "drizzle-orm/column";
import { makePgArray, PgDialect, PgTable } from "drizzle-orm/pg-core";
import { drizzle } from "drizzle-orm/pg-proxy";
import { sql } from "drizzle-orm/sql";
import { stringifyJson } from "../../exact-json.ts";
import type { Row, Transaction } from "../connect/lease.ts";
import { scopedTables } from "../tables/index.ts";
import type { DefinerFunction } from "./definers.ts";
import type { Entry, Place } from "./entry.ts";

export type { SQL };
export { sql };

type Tables = typeof scopedTables;
export type ScopedTable = keyof Tables;
/** A row to insert: its scope is not the caller's to say. */
export type NewRow<T extends ScopedTable> = Omit<Tables[T]["$inferInsert"], "scopeId" | "tenantId">;
/** The same with expressions among the values. */
type InsertRow<T extends ScopedTable> = { readonly [Column in keyof NewRow<T>]: NewRow<T>[Column] | SQL };
type Insert<T extends ScopedTable> = Omit<Tables[T]["$inferInsert"], "scopeId" | "tenantId" | "id">;
type Columns<T extends ScopedTable> = { readonly [Column in keyof Insert<T>]?: Insert<T>[Column] | SQL };

/** Tables in which general knowledge, scope {}, is visible to everyone. */
const KNOWLEDGE: ReadonlySet<ScopedTable> = new Set([
  "passage",
  "segment",
  "posting_block",
  "scope_counter",
  "document",
  "document_content",
  "keyword",
  "document_link",
  "chunk_band",
  "entity",
  "attribute",
  "relation",
  "memory_item",
]);

/** A list as one bound value: drizzle would spell an array out as many. */
export const list = (values: readonly (string | number)[]): SQL => sql`${makePgArray([...values])}`;

/** JSON as one bound value. */
export const json = (value: unknown): SQL => sql`${stringifyJson(value)}::jsonb`;

/** One entered transaction: a lease with a ticket, and what the ticket reaches. */
export class ScopedTransaction {
  readonly entry: Entry;
  /** For durations in traces. */
  readonly startedAt = performance.now();
  readonly #transaction: Transaction;
  readonly #dialect = new PgDialect();
  /** The fragments that this transaction made itself. */
  readonly #own = new WeakSet<SQL>();

  readonly #spokenOf: string[] = [];
  readonly #receiptIds: string[] = [];
  #hasTakenHold = false;
  readonly #traceIds: string[] = [];
  #renamed: { readonly from: unknown; readonly to: string } | undefined;

  constructor(transaction: Transaction, entry: Entry) {
    this.#transaction = transaction;
    this.entry = entry;
  }

  /** Notes rows that the answer speaks of: once one of them is gone, a stored answer is not given again. */
  speaksOf(...ids: readonly string[]): void {
    this.#spokenOf.push(...ids);
  }

  /** The id of the hold that this request has of its budgets: for its trace, and once. */
  takeHold(): string | undefined {
    const { hold } = this.entry;
    if (hold === null || this.#hasTakenHold) return undefined;
    this.#hasTakenHold = true;
    return hold;
  }

  /** Traces of this operation say another: what the caller knows it by. */
  recordAs(operation: string, known: string): void {
    this.#renamed = { from: operation, to: known };
  }

  /** Notes a receipt that this transaction has written: it is signed before the commit. */
  noteReceipt(id: string): void {
    this.#receiptIds.push(id);
  }

  get receiptIds(): readonly string[] {
    return this.#receiptIds;
  }

  /** The ids of the traces that this transaction has written. */
  get traceIds(): readonly string[] {
    return this.#traceIds;
  }

  get spokenOf(): readonly string[] {
    return this.#spokenOf;
  }

  /** A reference to a scoped table for a FROM or JOIN: its visible rows, under an alias. */
  read(table: ScopedTable, alias: string): SQL {
    return this.#mark(
      sql`(SELECT * FROM ${scopedTables[table]} WHERE ${this.#visible(table)}) AS ${sql.identifier(alias)}`,
    );
  }

  /** The condition that a row is found by this word: its scope and the hash in `column` (scopefloor.lookup_hashes). */
  isNamed(alias: string, column: string, word: string): SQL {
    const [scope, hash] = ["scope_id", column].map((name) => sql`${sql.identifier(alias)}.${sql.identifier(name)}`);
    return this.#mark(
      sql`(${scope}, ${hash}) IN (SELECT h.scope_id, h.hash FROM scopefloor.lookup_hashes(${list([word])}::text[]) AS h)`,
    );
  }

  /** For a FROM: words with their hashes at the write scope. */
  writtenHashes(words: readonly string[], alias: string): SQL {
    const { id } = this.#insertPlace("passage");
    return this.#mark(
      sql`(SELECT h.word, h.hash FROM scopefloor.lookup_hashes(${list(words)}::text[]) AS h WHERE h.scope_id = ${id}::int) AS ${sql.identifier(alias)}`,
    );
  }

  /** The rows of a SELECT whose tables are all fragments of this transaction. */
  async rows<T = Row>(statement: SQL): Promise<T[]> {
    this.#refuseForeignTables(statement);
    return (await this.#run(statement)) as T[];
  }

  async row<T = Row>(statement: SQL): Promise<T | undefined> {
    return (await this.rows<T>(statement))[0];
  }

  /** Inserts at the write scope. Conflicts raise. */
  async insert<T extends ScopedTable>(table: T, rows: readonly InsertRow<T>[]): Promise<void> {
    if (rows.length > 0) await this.#run(this.#insertion(table, rows));
  }

  /** Inserts a trace, at the trace scope, in one go with the commit. */
  insertTrace(row: InsertRow<"decision_trace">): void {
    this.#traceIds.push(row.id as string);
    const operation = row.operation === this.#renamed?.from ? this.#renamed.to : row.operation;
    const query = this.#dialect.sqlToQuery(this.#insertion("decision_trace", [{ ...row, operation }]));
    this.#transaction.send(query.sql, query.params);
  }

  #insertion<T extends ScopedTable>(table: T, rows: readonly InsertRow<T>[]): SQL {
    const { id: scopeId, tenant: tenantId } = this.#insertPlace(table);
    const target: PgTable = scopedTables[table];
    const builder = drizzle(async () => ({ rows: [] })).insert(target);
    return builder.values(rows.map((row) => ({ ...row, scopeId, tenantId }))).getSQL();
  }

  /** Inserts the rows of a SELECT, whose columns follow `columns`. */
  async insertFrom(table: ScopedTable, columns: readonly string[], select: SQL): Promise<void> {
    this.#refuseForeignTables(select);
    const names = sql.join(
      ["tenant_id", "scope_id", ...columns].map((column) => sql.identifier(column)),
      sql`, `,
    );
    const { id, tenant } = this.#insertPlace(table);
    await this.#run(
      sql`INSERT INTO ${scopedTables[table]} (${names}) SELECT ${tenant}::int, ${id}::int, chosen.* FROM (${select}) AS chosen`,
    );
  }

  /** Changes those of the modifiable rows for which the condition holds; gives how many. */
  async update<T extends ScopedTable>(table: T, set: Columns<T>, where: SQL): Promise<number> {
    this.#refuseForeignTables(where);
    for (const value of Object.values(set)) if (is(value, SQL)) this.#refuseForeignTables(value);
    const target: PgTable = scopedTables[table];
    const builder = drizzle(async () => ({ rows: [] })).update(target);
    return this.#count(sql`${builder.set(set).getSQL()} WHERE ${this.#modifiable(table)} AND (${where})`);
  }

  /** Deletes those of the modifiable rows for which the condition holds; gives how many. */
  async remove(table: ScopedTable, where: SQL): Promise<number> {
    return this.#count(this.#deletion(table, where));
  }

  /** The same; gives the ids of the rows that it took. */
  async removeIds(table: ScopedTable, where: SQL): Promise<string[]> {
    const rows = await this.#run(sql`${this.#deletion(table, where)} RETURNING id`);
    return rows.map((row) => row.id as string);
  }

  #deletion(table: ScopedTable, where: SQL): SQL {
    this.#refuseForeignTables(where);
    return sql`DELETE FROM ${scopedTables[table]} WHERE ${this.#modifiable(table)} AND (${where})`;
  }

  /**
   * Lets the statements of this transaction that follow use a scope's own graph: it is a partial
   * index, which a plan for bound values finds only when it is made for those very values.
   *
   * @param width candidates that a walk through the graph keeps (hnsw.ef_search, at most 1,000)
   */
  walkGraphs(width: number): void {
    this.#transaction.send("SET LOCAL plan_cache_mode = force_custom_plan");
    this.#transaction.send(`SET LOCAL hnsw.ef_search = ${Math.min(1_000, Math.max(1, Math.round(width)))}`);
    // What a filter takes away is looked for further on.
    this.#transaction.send("SET LOCAL hnsw.iterative_scan = strict_order");
  }

  /** Sends a call of a definer function in one go with the commit. */
  sendCall(name: DefinerFunction, ...args: readonly unknown[]): void {
    const query = this.#dialect.sqlToQuery(sql`SELECT ${this.#invocation(name, args)}`);
    this.#transaction.send(query.sql, query.params);
  }

  /** Calls a definer function; gives what it returns, as JSON. */
  async call<T>(name: DefinerFunction, ...args: readonly unknown[]): Promise<T> {
    const [row] = await this.#run(sql`SELECT to_jsonb(${this.#invocation(name, args)}) AS result`);
    return row?.result as T;
  }

  /** The rows of a definer function that gives a set. */
  async callRows<T>(name: DefinerFunction, ...args: readonly unknown[]): Promise<T[]> {
    return (await this.#run(sql`SELECT * FROM ${this.#invocation(name, args)}`)) as T[];
  }

  #invocation(name: DefinerFunction, args: readonly unknown[]): SQL {
    const bound = sql.join(
      args.map((arg) => (is(arg, SQL) ? arg : sql`${arg}`)),
      sql`, `,
    );
    this.#refuseForeignTables(bound);
    return sql`${sql.raw(`scopefloor.${name}`)}(${bound})`;
  }

  /** Ids as one bound array; subtrees too large for that by their tags; and the tenant, where there is one. */
  #visible(table: ScopedTable): SQL {
    const { read, general, write } = this.entry;
    const ids = [...read.scopes.keys()];
    const tenants = read.tenant === null ? undefined : [read.tenant];
    if (general && (KNOWLEDGE.has(table) || table === "scope") && !ids.includes(0)) {
      ids.push(0);
      tenants?.push(0);
    }
    if (table !== "scope") return this.#within(sql.identifier("scope_id"), ids, tenants);
    return this.#within(sql.identifier("id"), write === null ? ids : [...ids, write.id], undefined);
  }

  #modifiable(table: ScopedTable): SQL {
    const { read, write } = this.entry;
    if (table === "scope") return sql`"id" = ${write?.id ?? null}::int`;
    const tenants = read.tenant === null ? undefined : [read.tenant];
    return this.#within(sql.identifier("scope_id"), [...read.scopes.keys()], tenants);
  }

  #within(column: Name, ids: readonly number[], tenants: readonly number[] | undefined): SQL {
    const listed = sql`${column} = ANY (${list(ids)}::int[])`;
    const trees = this.entry.read.trees.map(
      (tags) =>
        sql`${column} IN (SELECT below.id FROM ${scopedTables.scope} AS below WHERE below.tags @> ${json(tags)})`,
    );
    const scopes = trees.length === 0 ? listed : sql`(${sql.join([listed, ...trees], sql` OR `)})`;
    return tenants === undefined ? scopes : sql`(${scopes} AND tenant_id = ANY (${list(tenants)}::int[]))`;
  }

  #insertPlace(table: ScopedTable): Place {
    const place = table === "decision_trace" ? this.entry.trace : this.entry.write;
    if (place === null) throw new Error(`this transaction was not entered to write into ${table}`);
    return place;
  }

  async #count(statement: SQL): Promise<number> {
    const [row] = await this.#run(
      sql`WITH changed AS (${statement} RETURNING 1) SELECT count(*)::int AS n FROM changed`,
    );
    return row?.n as number;
  }

  #mark(fragment: SQL): SQL {
    this.#own.add(fragment);
    return fragment;
  }

  /** Tables come in through `read` alone: neither by name, however it is spelled, nor as drizzle's objects. */
  #refuseForeignTables(statement: SQL): void {
    if (/scopefloor|pg_catalog|information_schema|\bpg_|U&"/i.test(this.#spelled(statement))) {
      throw new Error("a statement names a table by itself; use tx.read()");
    }
  }

  /** What a statement says besides its values and this transaction's own fragments. */
  #spelled(chunk: unknown): string {
    if (chunk instanceof SQL)
      return this.#own.has(chunk) ? " " : chunk.queryChunks.map((part) => this.#spelled(part)).join("");
    if (is(chunk, StringChunk)) return chunk.value.join("");
    if (is(chunk, Name)) return chunk.value;
    if (Array.isArray(chunk)) return chunk.map((part) => this.#spelled(part)).join("");
    if (is(chunk, PgTable) || is(chunk, Column)) throw new Error("a statement holds a drizzle table; use tx.read()");
    const wraps = typeof chunk === "object" && chunk !== null && !is(chunk, Param) && "getSQL" in chunk;
    return wraps ? this.#spelled((chunk as { getSQL(): SQL }).getSQL()) : " ";
  }

  async #run(statement: SQL): Promise<Row[]> {
    const query = this.#dialect.sqlToQuery(statement);
    return this.#transaction.query(query.sql, query.params);
  }
}

// biome-ignore-all lint/suspicious/noTemplateCurlyInString: pieces of source text
/**
 * Ways to break isolation by hand, each of which a test has to notice. They exist for tests alone:
 * `npm run soak -- mutants` puts one at a time into a copy of the code in memory, or into the test
 * database, and runs the tests that must fail.
 */

import { DOOR_MUTANTS } from "./doors.ts";
import { GOVERNANCE_MUTANTS } from "./governance.ts";
import { METERING_MUTANTS } from "./metering.ts";

interface AnyMutant {
  readonly name: string;
  /** Which database it takes; absent: the embedded one. */
  readonly on?: "postgres";
  /** Test files of which one must fail. */
  readonly tests: readonly string[];
}

/** A piece of a source file, exactly once there, said in another way. */
export interface SourceMutant extends AnyMutant {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/** A piece of a database function, at least once there, said in another way. */
export interface FunctionMutant extends AnyMutant {
  readonly function: string;
  readonly from: string;
  readonly to: string;
}

/** What an owner could do to the database by mistake. */
export interface DatabaseMutant extends AnyMutant {
  readonly sql: string;
}

export type Mutant = SourceMutant | FunctionMutant | DatabaseMutant;

const ISOLATION = "test/isolation";
const BUILDER = `${ISOLATION}/builder.test.ts`;
const SECOND = `${ISOLATION}/second-lock.test.ts`;
const VISIBILITY = `${ISOLATION}/visibility.test.ts`;
const MODEL = `${ISOLATION}/model.test.ts`;
const PAIRS = `${ISOLATION}/noninterference.test.ts`;
const CATALOG = `${ISOLATION}/catalog.test.ts`;
const KEYS = "test/http/keys.test.ts";
const KEY_PAIRS = "test/keys/pairs.test.ts";
const CACHE = "test/recall/cache.test.ts";
const FORGET = "test/forget/forget.test.ts";
const RACE = "test/forget/race.test.ts";
const STORED = "test/forget/stored-answers.test.ts";
const LEASE = "test/faults/lease.test.ts";
const SCOPE = "test/scope/scope.test.ts";
const SPELLING = "test/scope/spelling.test.ts";
const ONE_CALLER = "test/faults/one-caller.test.ts";
const BLOCK = "test/recall/prompt-block.test.ts";
const AUDIT = `${ISOLATION}/audit-chain.test.ts`;
const JOURNAL = "test/forget/journal.test.ts";
const INFERENCE = `${ISOLATION}/inference.test.ts`;
const WORD_INDEX = "test/lexical/word-index.test.ts";
const FACTS = `${ISOLATION}/facts.test.ts`;
const INJECTED = `${ISOLATION}/injected.test.ts`;
const SCOPED = "src/db/access/scoped.ts";
const ENTER = "src/db/access/enter.ts";

export const MUTANTS: readonly Mutant[] = [
  // -- The first lock: the builder.
  {
    name: "a reference without its predicate",
    file: SCOPED,
    from: "sql`(SELECT * FROM ${scopedTables[table]} WHERE ${this.#visible(table)}) AS",
    to: "sql`(SELECT * FROM ${scopedTables[table]}) AS",
    tests: [VISIBILITY],
  },
  {
    name: "codes of everyone, and vectors of the visible scopes",
    file: "src/recall/ranking/vector.ts",
    from: 'SELECT c.scope_id, c.id FROM ${tx.read("passage", "c")}',
    to: 'SELECT c.scope_id, c.id FROM ${sql.raw("scopef" + "loor.passage")} c',
    tests: ["test/recall/codes.test.ts"],
  },
  {
    name: "a reference whose predicate has an OR beside it",
    file: SCOPED,
    from: "WHERE ${this.#visible(table)}) AS",
    to: "WHERE ${this.#visible(table)} OR true) AS",
    tests: [VISIBILITY],
  },
  {
    name: "an update without its predicate",
    file: SCOPED,
    from: "WHERE ${this.#modifiable(table)} AND (${where})`);\n  }\n\n  /** Deletes",
    to: "WHERE (${where})`);\n  }\n\n  /** Deletes",
    tests: [BUILDER, FORGET],
  },
  {
    name: "a delete without its predicate",
    file: SCOPED,
    from: "DELETE FROM ${scopedTables[table]} WHERE ${this.#modifiable(table)} AND (${where})",
    to: "DELETE FROM ${scopedTables[table]} WHERE (${where})",
    tests: [FORGET],
  },
  {
    name: "a delete whose own OR escapes the predicate",
    file: SCOPED,
    from: "DELETE FROM ${scopedTables[table]} WHERE ${this.#modifiable(table)} AND (${where})",
    to: "DELETE FROM ${scopedTables[table]} WHERE ${this.#modifiable(table)} AND ${where}",
    tests: [BUILDER],
  },
  {
    name: "a change that reaches a scope which was not granted",
    file: SCOPED,
    from: 'return this.#within(sql.identifier("scope_id"), [...read.scopes.keys()], tenants);',
    to: 'return this.#within(sql.identifier("scope_id"), [...read.scopes.keys(), 77], undefined);',
    tests: [FORGET],
  },
  {
    name: "rows that go to the first scope that may be read, not to the one that may be written",
    file: SCOPED,
    from: ": this.entry.write;\n    if (place",
    to: ": this.entry.write && { ...this.entry.write, id: [...this.entry.read.scopes.keys()][0] ?? 0 };\n    if (place",
    tests: [MODEL],
  },
  {
    name: "statements that may name tables by themselves",
    file: SCOPED,
    from: 'if (/scopefloor|pg_catalog|information_schema|\\bpg_|U&"/i.test(this.#spelled(statement))) {',
    to: 'if (/scopefloor/.test("")) {',
    tests: [BUILDER],
  },
  {
    name: "a drizzle table let through",
    file: SCOPED,
    from: "if (is(chunk, PgTable) || is(chunk, Column)) throw",
    to: "if (is(chunk, Column)) throw",
    tests: [BUILDER],
  },
  {
    name: "a subtree of any tags",
    file: SCOPED,
    from: "WHERE below.tags @> ${json(tags)})`",
    to: "WHERE below.tags @> ${json({ ...tags, org: undefined })})`",
    tests: [VISIBILITY],
  },
  {
    name: "what the database resolved is not checked against the floor",
    file: "src/db/access/floor-check.ts",
    from: "if (!isExpected) throw",
    to: "if (!isExpected && floor === undefined) throw",
    tests: [BUILDER],
  },
  {
    name: "the request's scopes are not handed to the database",
    file: ENTER,
    from: "clauses: request.selector ?? null,",
    to: "clauses: null,",
    tests: [VISIBILITY],
  },
  {
    name: "acting on behalf of another is ignored",
    file: ENTER,
    from: "    request.view ?? null,\n    caller.onBehalfOf ?? null,",
    to: "    request.view ?? null,\n    null,",
    tests: [KEYS],
  },
  {
    name: "the view is ignored",
    file: ENTER,
    from: "    request.view ?? null,\n    caller.onBehalfOf ?? null,",
    to: '    "subtree",\n    caller.onBehalfOf ?? null,',
    tests: [VISIBILITY],
  },
  {
    name: "refusals are not recorded",
    file: ENTER,
    from: 'if (refusal.status !== "forbidden" && refusal.status !== "scope-floor") return;',
    to: 'if (refusal.status !== "forbidden") return;',
    tests: [VISIBILITY],
  },
  // -- The scope algebra.
  {
    name: "values that are prefixes of one another are the same (threat 33)",
    file: "src/scope/scope.ts",
    from: "Object.hasOwn(whole, dimension) && whole[dimension] === value",
    to: 'Object.hasOwn(whole, dimension) && (whole[dimension] ?? "").startsWith(value)',
    tests: [SCOPE],
  },
  {
    name: "values in any alphabet (threat 20)",
    file: "src/scope/spelling.ts",
    from: "if (text.length > MAX_WRITTEN || !/^[\\x21-\\x7e]+$/.test(text)) return false;",
    to: "if (/[^\\x21-\\x7e]/.test(text)) return true;",
    tests: [SCOPE, SPELLING],
  },
  {
    name: "an empty value (threats 10, 34)",
    file: "src/scope/spelling.ts",
    from: "if (text.length > MAX_WRITTEN || !/^[\\x21-\\x7e]+$/.test(text)) return false;",
    to: 'if (text === "") return true;',
    tests: [SCOPE, SPELLING],
  },
  {
    name: "values trimmed (threat 20)",
    file: "src/scope/scope.ts",
    from: 'if (typeof value !== "string" || !isSpelled(value)) {',
    to: 'if (typeof value !== "string" || !isSpelled(value.trim())) {',
    tests: [SCOPE],
  },
  {
    name: "two values for one dimension: the last one counts (threat 21)",
    file: "src/scope/scope.ts",
    from: "if (earlier !== undefined && earlier !== value) {",
    to: 'if (earlier !== undefined && earlier === "") {',
    tests: [SCOPE],
  },
  {
    name: "an empty list means everything (threat 34)",
    file: "src/scope/selector.ts",
    from: "  if (input === undefined || input === null) return undefined;\n  const clauses",
    to: "  if (input === undefined || input === null || (Array.isArray(input) && input.length === 0)) return undefined;\n  const clauses",
    tests: [VISIBILITY],
  },
  {
    name: "a request that contradicts the floor is merged",
    file: "src/scope/scope.ts",
    from: "return clash ? undefined : inOrder(",
    to: "return clash && tagsOf(floor).length > 8 ? undefined : inOrder(",
    tests: [SCOPE],
  },
  // -- Connections.
  {
    name: "a lease that can be used after its release",
    file: "src/db/connect/postgres.ts",
    on: "postgres",
    from: "if (this.#released) throw new Error(",
    to: "if (this.#released && this.#aborted) throw new Error(",
    tests: [LEASE],
  },
  {
    name: "a lease goes on after its connection has closed (threat 9)",
    file: "src/db/connect/postgres.ts",
    on: "postgres",
    from: "if (this.#client.closed) throw lost();",
    to: "",
    tests: [LEASE],
  },
  {
    name: "a connection that keeps its settings (threat 9)",
    file: "src/db/connect/postgres.ts",
    on: "postgres",
    from: '  "RESET ALL",\n',
    to: "",
    tests: [LEASE],
  },
  {
    name: "a connection with a planted statement goes on (threat 9)",
    file: "src/db/connect/postgres.ts",
    on: "postgres",
    from: "this.#done(!this.#client.closed && results.at(-1)?.length === 0);",
    to: "this.#done(!this.#client.closed && results.length > 0);",
    tests: [LEASE],
  },
  {
    name: "the embedded database without its role",
    file: "src/db/connect/embedded.ts",
    from: "await this.#pg.exec(`BEGIN; SET LOCAL ROLE ${this.#role}`);",
    to: "await this.#pg.exec(`BEGIN`);",
    tests: [SECOND, BUILDER],
  },
  // -- The cache tier.
  {
    name: "cached answers for whoever asks the same, with other narrowing (threat 1)",
    file: "src/recall/question.ts",
    from: "const asked = [query, narrowed,",
    to: "const asked = [query, narrowed.length > 99,",
    tests: [CACHE],
  },
  {
    name: "cached answers under any policy of any key (threat 1)",
    function: "cache_key",
    from: "jsonb_build_array(t->'floor', t->'on_behalf_of', t->'principal', t->'verbs', t->'content', t->'general')",
    to: "jsonb_build_array(t->'content')",
    tests: [CACHE],
  },
  {
    name: "cached answers of every scope, whatever has changed (threat 1)",
    function: "recall_state",
    from: "WHERE r.scope_id = (t->'trace'->>'id')::int AND r.digest = scopefloor.cache_key(t, question) AND r.version = seen",
    to: "WHERE r.digest = scopefloor.cache_key(t, question)",
    tests: [CACHE, PAIRS],
  },
  {
    name: "cached answers after a write",
    function: "recall_state",
    from: "AND r.version = seen",
    to: "",
    tests: [CACHE],
  },
  // -- The second lock: policies, privileges, roles.
  {
    name: "row security off on passages",
    sql: "ALTER TABLE scopefloor.passage DISABLE ROW LEVEL SECURITY",
    tests: [SECOND],
  },
  { name: "row security off on turns", sql: "ALTER TABLE scopefloor.turn DISABLE ROW LEVEL SECURITY", tests: [SECOND] },
  {
    name: "row security off on traces",
    sql: "ALTER TABLE scopefloor.decision_trace DISABLE ROW LEVEL SECURITY",
    tests: [CATALOG],
  },
  {
    name: "row security not forced on the owner",
    sql: "ALTER TABLE scopefloor.passage NO FORCE ROW LEVEL SECURITY",
    tests: [CATALOG],
  },
  {
    name: "every passage may be read",
    sql: "ALTER POLICY read ON scopefloor.passage USING (true)",
    tests: [SECOND],
  },
  {
    name: "every session may be read",
    sql: "ALTER POLICY read ON scopefloor.session USING (true)",
    tests: [SECOND],
  },
  {
    name: "the dictionary of all tenants may be read",
    sql: "ALTER POLICY read ON scopefloor.scope USING (true)",
    tests: [SECOND],
  },
  {
    name: "passages may be written anywhere",
    sql: "ALTER POLICY write ON scopefloor.passage WITH CHECK (true)",
    tests: [SECOND],
  },
  {
    name: "passages may be changed anywhere",
    sql: "ALTER POLICY change ON scopefloor.passage USING (true) WITH CHECK (true)",
    tests: [SECOND],
  },
  {
    name: "passages may be removed anywhere",
    sql: "ALTER POLICY remove ON scopefloor.passage USING (true)",
    tests: [SECOND],
  },
  {
    name: "a policy added beside the others",
    sql: "CREATE POLICY more ON scopefloor.turn FOR SELECT TO scopefloor_app USING (true)",
    tests: [SECOND, CATALOG],
  },
  {
    name: "keys may be read as a table",
    sql: "GRANT SELECT ON scopefloor.api_key TO scopefloor_app; CREATE POLICY all_keys ON scopefloor.api_key FOR SELECT TO scopefloor_app USING (true)",
    tests: [SECOND, CATALOG],
  },
  {
    name: "rows may be moved to another scope",
    sql: "GRANT UPDATE (scope_id) ON scopefloor.passage TO scopefloor_app",
    tests: [SECOND, CATALOG],
  },
  { name: "tables may be emptied", sql: "GRANT TRUNCATE ON scopefloor.turn TO scopefloor_app", tests: [CATALOG] },
  {
    name: "the tickets' secret may be read",
    sql: "GRANT SELECT ON scopefloor.ticket_secret TO scopefloor_app; CREATE POLICY secrets ON scopefloor.ticket_secret FOR SELECT TO scopefloor_app USING (true)",
    tests: [SECOND, CATALOG],
  },
  {
    name: "a definer function that is on no list (threat 32)",
    sql: "CREATE FUNCTION scopefloor.peek() RETURNS SETOF scopefloor.turn LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS 'SELECT * FROM scopefloor.turn'; GRANT EXECUTE ON FUNCTION scopefloor.peek() TO scopefloor_app",
    tests: [CATALOG],
  },
  {
    name: "a view with its owner's rights (threat 32)",
    sql: "CREATE VIEW scopefloor.all_turns AS SELECT * FROM scopefloor.turn; GRANT SELECT ON scopefloor.all_turns TO scopefloor_app",
    tests: [CATALOG],
  },
  {
    name: "documents are the same in any scope (threat 3)",
    sql: "CREATE UNIQUE INDEX document_anywhere ON scopefloor.document (content_hash)",
    tests: [CATALOG],
  },
  {
    name: "an edge may go from scope to scope (threat 14)",
    sql: `DO $$ DECLARE edge name; BEGIN
      SELECT conname INTO STRICT edge FROM pg_constraint WHERE conrelid = 'scopefloor.turn'::regclass AND confrelid = 'scopefloor.session'::regclass;
      EXECUTE format('ALTER TABLE scopefloor.turn DROP CONSTRAINT %I', edge);
      CREATE UNIQUE INDEX session_of ON scopefloor.session (id);
      ALTER TABLE scopefloor.turn ADD CONSTRAINT loose FOREIGN KEY (session_id) REFERENCES scopefloor.session (id); END $$`,
    tests: [CATALOG],
  },
  // -- The second lock: entering.
  {
    name: "revoked keys enter (threat 30)",
    function: "live_key",
    from: "AND a.revoked_at IS NULL",
    to: "",
    tests: [KEYS],
  },
  {
    name: "expired keys enter",
    function: "live_key",
    from: "AND (a.expires_at IS NULL OR a.expires_at > clock_timestamp())",
    to: "",
    tests: [KEYS],
  },
  {
    name: "a ticket's signature is not checked (threat 10)",
    function: "ticket",
    from: "<> encode(",
    to: "= encode(sha256('x') || ",
    tests: [SECOND],
  },
  {
    name: "a ticket works in another transaction (threat 9)",
    function: "ticket",
    from: "OR (payload->>'began')::numeric <> extract(epoch FROM transaction_timestamp())",
    to: "",
    tests: [SECOND],
  },
  {
    name: "a ticket never expires",
    function: "ticket",
    from: "IF (payload->>'until')::numeric < extract(epoch FROM clock_timestamp()) THEN",
    to: "IF false THEN",
    tests: [SECOND],
  },
  {
    name: "a request may contradict the floor",
    function: "resolve_clauses",
    from: "IF scopefloor.contradicts(floor, clause->'tags') THEN",
    to: "IF false THEN",
    tests: [VISIBILITY],
  },
  {
    name: "the request's tags win over the floor's",
    function: "resolve_clauses",
    from: "effective := floor || (clause->'tags');",
    to: "effective := clause->'tags';",
    tests: [VISIBILITY],
  },
  {
    name: "verbs are not checked",
    function: "permit",
    from: "NOT verb = ANY (verbs)",
    to: "false",
    tests: [KEYS, MODEL],
  },
  {
    name: "a verb that is NULL, for which no condition holds",
    function: "permit",
    from: "IF verb IS NULL OR verb NOT IN",
    to: "IF verb NOT IN",
    tests: [SECOND],
  },
  {
    name: "a retry that stores what was forgotten once more",
    function: "claim_idempotency",
    from: "AND i.created_at < now() - interval '24 hours';",
    to: "AND (i.created_at < now() - interval '24 hours' OR NOT scopefloor.rows_are_there(i.scope_id, i.row_ids));",
    tests: ["test/forget/stored-answers.test.ts"],
  },
  {
    name: "supervisors write",
    function: "permit",
    from: "'supervisor' IN (principal, other_principal)",
    to: "false",
    tests: [MODEL, KEYS, VISIBILITY],
  },
  {
    name: "acting on behalf of a key that has nothing in common",
    function: "authenticate",
    from: "NOT scopefloor.are_related(floor, other.floor)",
    to: "false",
    tests: [KEYS],
  },
  {
    name: "acting on behalf keeps the caller's own verbs",
    function: "authenticate",
    from: "verbs := ARRAY(SELECT unnest(verbs) INTERSECT SELECT unnest(other.verbs) ORDER BY 1);",
    to: "",
    tests: [KEYS],
  },
  {
    name: "agents write into each other's sessions",
    function: "resolve_place",
    from: "k.principal = 'agent' AND place.api_key_id <> k.id",
    to: "false",
    tests: [VISIBILITY, MODEL, SECOND],
  },
  {
    name: "a session out of reach may be written into",
    function: "resolve_place",
    from: "WHERE s.id = (requested->>'session')::uuid AND d.tags @> floor AND (s.scope_id <> 0 OR floor = '{}');",
    to: "WHERE s.id = (requested->>'session')::uuid;",
    tests: [MODEL],
  },
  {
    name: "a strict view that goes below E",
    function: "resolve_clauses",
    from: "exact := exact || scopefloor.scopes_between(floor, effective);",
    to: "subtree_roots := subtree_roots || effective;",
    tests: [VISIBILITY],
  },
  {
    name: "general rows are among an agent's own",
    function: "reach_of",
    from: "IF floor <> '{}' THEN\n    ids := array_remove(ids, 0);\n  END IF;",
    to: "ids := ids || 0;",
    tests: [MODEL, VISIBILITY],
  },
  {
    name: "a minted key may have more verbs (threat 29)",
    function: "mint_key",
    from: "NOT array_remove(coalesce(asked_verbs, parent_verbs), 'usage:read') <@ parent_verbs",
    to: "false",
    tests: [KEYS],
  },
  {
    name: "a minted key may leave its parent's floor (threat 29)",
    function: "mint_key",
    from: "child_floor := child_floor || (t->'floor');",
    to: "",
    tests: [KEYS],
  },
  {
    name: "a trace may be recorded for anyone",
    function: "may_record",
    from: "(t->'trace'->>'id')::int = at_scope AND (t->'trace'->>'tenant')::int = of_tenant AND t->'trace'->'tags' = tags AND coalesce((t->'trace'->>'elsewhere')::bool, false) = is_elsewhere\n                  AND",
    to: "",
    tests: [SECOND],
  },
  {
    name: "jobs go on in a scope that was erased (threats 11, 18)",
    function: "enter_job",
    from: "OR s.epoch <> j.epoch",
    to: "",
    tests: ["test/jobs/queue.test.ts", FORGET],
  },
  {
    name: "a write begun before an erasure lands after it (threat 18)",
    function: "enter",
    from: "scopefloor.was_erased(trace_tags, began)",
    to: "false",
    tests: [RACE],
  },
  {
    name: "idempotency keys collide between keys (threat 4)",
    sql: "CREATE UNIQUE INDEX idempotency_anywhere ON scopefloor.idempotency (endpoint, key)",
    tests: ["test/http/idempotency.test.ts"],
  },
  {
    name: "an answer is kept although something visible has changed",
    function: "cache_answer",
    from: "IF scopefloor.version_of(ids) IS DISTINCT FROM seen THEN\n    RETURN;\n  END IF;",
    to: "",
    tests: [CACHE],
  },
  {
    name: "a stored answer outlives what it speaks of (threat 17)",
    function: "rows_are_there",
    from: "RETURN NOT EXISTS",
    to: "RETURN true OR NOT EXISTS",
    tests: [STORED],
  },
  {
    name: "a stored answer holds what its request said (threat 17)",
    file: "src/http/idempotency.ts",
    from: "spec.retold === undefined ? body : spec.retold.strip(body)",
    to: "body",
    tests: [STORED],
  },
  {
    name: "the answer of a request that only reads is stored (threat 17)",
    file: "src/http/idempotency.ts",
    from: "if (spec.readsOnly(input.body)) return undefined;",
    to: "",
    tests: [STORED],
  },
  {
    name: "an answer that speaks of no row",
    file: "src/memory/items.ts",
    from: "tx.speaksOf(...outcome.results.flatMap(({ id, version }) => (id === null || version === undefined ? [] : [id])));",
    to: "",
    tests: [STORED],
  },
  {
    name: "a row under another tenant's number",
    sql: "ALTER POLICY write ON scopefloor.session WITH CHECK (scope_id = (SELECT scopefloor.insertable()) AND api_key_id = (SELECT scopefloor.caller()))",
    tests: [SECOND],
  },
  {
    name: "a trace under another tenant's number",
    function: "may_record",
    from: "(t->'trace'->>'tenant')::int = of_tenant AND",
    to: "",
    tests: [SECOND],
  },
  {
    name: "tickets for whoever asks for one",
    sql: "GRANT EXECUTE ON FUNCTION scopefloor.issue_ticket(jsonb) TO scopefloor_app",
    tests: [CATALOG],
  },

  // -- The audit chain, erasures, backups.
  {
    name: "an erasure that leaves the salts",
    function: "erase_audited",
    from: "SET salt = NULL FROM changed",
    to: "SET salt = e.salt FROM changed",
    tests: [AUDIT],
  },
  {
    name: "text removed by hand that passes for an erasure",
    function: "erase_audited",
    from: "IF t->>'mode' = 'erase' OR t ? 'run' THEN",
    to: "IF true THEN",
    tests: [AUDIT],
  },
  {
    name: "a chain that does not look at numbers",
    function: "check_audit",
    from: "WHEN e.leaf <> scopefloor.audit_leaf(p.fixed, e.text_hash) THEN 'was altered'",
    to: "",
    tests: [AUDIT],
  },
  {
    name: "a chain that does not look at text",
    function: "check_audit",
    from: "WHEN e.salt IS NOT NULL AND e.text_hash <> scopefloor.audit_text_hash(e.salt, p.open) THEN 'had its text altered'",
    to: "",
    tests: [AUDIT],
  },
  {
    name: "a chain that does not miss a removed row",
    function: "check_audit",
    from: "WHEN r.row IS NULL THEN 'was removed'",
    to: "WHEN r.row IS NULL THEN NULL",
    tests: [AUDIT],
  },
  {
    name: "batches that do not follow from one another",
    function: "audit_batch_hash",
    from: "sha256(coalesce(before, '') ||",
    to: "sha256(",
    tests: [AUDIT],
  },
  {
    name: "rows put in by hand go unseen",
    function: "check_unchained",
    from: "WHERE e.id IS NULL LIMIT 20",
    to: "WHERE false LIMIT 20",
    tests: [AUDIT],
  },
  {
    name: "receipts that are not chained",
    sql: "DROP TRIGGER note_audit ON scopefloor.forget_receipt",
    tests: [AUDIT],
  },
  {
    name: "a receipt's ids outside the chain",
    function: "check_audit",
    from: "'receipt', 'receipt items'",
    to: "'receipt'",
    tests: [AUDIT],
  },
  {
    name: "a trace's price outside the chain",
    function: "audit_parts",
    from: "r->'cost_usd', ",
    to: "",
    tests: [AUDIT],
  },
  {
    name: "the chain of all tenants for a tenant's administrator",
    function: "audit_evidence",
    from: "OR t->'floor' <> '{}' OR",
    to: "OR",
    tests: [SECOND],
  },
  {
    name: "an audit report with the chain for a tenant's administrator",
    file: "src/http/routes/audit-report.ts",
    from: "isOperator: tagsOf(floor).length === 0",
    to: "isOperator: true",
    tests: [AUDIT],
  },
  {
    name: "audit reports in turn by key, which a tenant can mint more of",
    file: "src/http/routes/audit-report.ts",
    from: "deps.auditReports.enter(turn)",
    to: "deps.auditReports.enter(bearer)",
    tests: [AUDIT],
  },
  {
    name: "a scrub beside a transaction that has written and waits",
    on: "postgres",
    file: "src/db/upkeep/scrub.ts",
    from: "UNION ALL SELECT 'session ' || pid, backend_xid FROM",
    to: "UNION ALL SELECT 'session ' || pid, backend_xmin FROM",
    tests: ["test/forget/erasure-files.test.ts"],
  },
  {
    name: "a replay by two processes at once",
    on: "postgres",
    file: "src/forget/replay/replay.ts",
    from: "pg_catalog.pg_advisory_lock(7700, 7)",
    to: "pg_catalog.pg_backend_pid()",
    tests: [JOURNAL],
  },
  {
    name: "a replay that keeps the backup's version of a document",
    file: "src/forget/replay/replay.ts",
    from: "for (const id of await otherVersions(tx, items)) await removeChunks(tx, id);",
    to: "",
    tests: [JOURNAL],
  },
  {
    name: "a scrub beside a transaction that still sees what was forgotten",
    on: "postgres",
    file: "src/db/upkeep/scrub.ts",
    from: "if (held.length === 0) return;",
    to: "return;",
    tests: ["test/forget/erasure-files.test.ts"],
  },
  {
    name: "a receipt that names what was erased (threat 19)",
    function: "write_receipt",
    from: "WHEN 'erase' THEN jsonb_build_object('!digest', scopefloor.scope_digest(t->'target'))",
    to: "WHEN 'erase' THEN t->'target'",
    tests: [FORGET],
  },
  {
    name: "an erasure that leaves the questions asked (threat 17)",
    function: "retire_scopes",
    from: "SET query = NULL, sources = NULL, error = NULL",
    to: "SET query = query, sources = NULL, error = NULL",
    tests: [FORGET],
  },
  {
    name: "an erasure that leaves stored answers (threat 17)",
    function: "retire_scopes",
    from: "DELETE FROM scopefloor.idempotency WHERE scope_id = ANY (ids)",
    to: "DELETE FROM scopefloor.idempotency WHERE false AND scope_id = ANY (ids)",
    tests: [FORGET],
  },
  {
    name: "an erasure that leaves the answer of a request of the same microsecond (threat 18)",
    on: "postgres",
    function: "retire_scopes",
    from: "xmin <> pg_current_xact_id()::xid",
    to: "created_at <> transaction_timestamp()",
    tests: [RACE],
  },
  {
    name: "a receipt that anyone inserts",
    sql: `GRANT INSERT ON scopefloor.forget_receipt TO scopefloor_app;
      CREATE POLICY planted ON scopefloor.forget_receipt FOR INSERT TO scopefloor_app WITH CHECK (true)`,
    tests: ["test/isolation/second-lock.test.ts"],
  },
  {
    name: "a trace of another time",
    sql: "ALTER POLICY write ON scopefloor.decision_trace WITH CHECK (scopefloor.may_record(scope_id, tenant_id, scope, api_key_id, principal))",
    tests: ["test/isolation/second-lock.test.ts"],
  },
  {
    name: "a deletion whose receipt does not say what went",
    file: "src/memory/items.ts",
    from: "subtree: false, items: { items } }",
    to: "subtree: false, items: {} }",
    tests: [JOURNAL],
  },
  {
    name: "an erasure that leaves refused attempts to name the scope",
    function: "redact_denials",
    from: "UPDATE scopefloor.access_denied SET asked = NULL",
    to: "UPDATE scopefloor.access_denied SET asked = asked",
    tests: [FORGET],
  },
  {
    name: "an erasure that leaves names below a floor that stays",
    function: "mark_records",
    from: "AND NOT d.scope_id = ANY (gone) AND d.scope <> s.tags;",
    to: "AND false;",
    tests: [FORGET],
  },
  {
    name: "an erasure that leaves keyed items",
    file: "src/forget/subtree.ts",
    from: "for (const table of ERASURE.delete) counts",
    to: 'for (const table of ERASURE.delete) if (table !== "memory_item") counts',
    tests: [FORGET, "test/documents/forget.test.ts"],
  },
  {
    name: "a restored backup in which revoked keys live",
    function: "unknown_lines",
    from: "AND k.revoked_at IS NULL",
    to: "AND false",
    tests: [JOURNAL],
  },
  {
    name: "a restored backup in which the forgotten is remembered",
    function: "unknown_lines",
    from: "ELSE NOT EXISTS (",
    to: "ELSE false AND NOT EXISTS (",
    tests: [JOURNAL],
  },
  {
    name: "a replay that takes whatever rows a receipt names (threat 9)",
    file: "src/forget/replay/replay.ts",
    from: "const selector = [{ tags, subtree: true }];",
    to: "const selector = [{ tags: items === null ? tags : scopeFromDatabase({}), subtree: true }];",
    tests: [JOURNAL],
  },
  {
    name: "a receipt whose target is not its ticket's",
    function: "write_receipt",
    from: "WHEN 'forget' THEN t->'target'",
    to: "WHEN 'forget' THEN '{}'::jsonb",
    tests: [JOURNAL, FORGET],
  },
  {
    name: "a journal that names a scope",
    function: "journal_lines",
    from: "scopefloor.scope_digest(r.target))",
    to: "r.target::text)",
    tests: [JOURNAL],
  },
  {
    name: "a restored backup in which an old secret lives",
    function: "unknown_lines",
    from: "AND coalesce(k.changed_at, k.created_at) <",
    to: "AND NULL::timestamptz <",
    tests: [JOURNAL],
  },
  {
    name: "a replay that expires what was erased",
    file: "src/forget/replay/replay.ts",
    from: 'await forgetItems(tx, items, action === "erase");',
    to: "await forgetItems(tx, items, false);",
    tests: [JOURNAL],
  },
  {
    name: "a log line with the query string (threat 12)",
    file: "src/http/app.ts",
    from: "route: ctx._matchedRoute ?? null,",
    to: "route: ctx.url,",
    tests: ["test/isolation/logs.test.ts"],
  },
  {
    name: "a log line with an error's message (threat 12)",
    file: "src/http/problem.ts",
    from: "error: cause.name, code: cause.code, place }",
    to: "error: cause.message, code: cause.code, place }",
    tests: ["test/isolation/logs.test.ts"],
  },
  {
    name: "blocks that are read in any scope",
    file: "src/lexical/sources.ts",
    from: 'FROM want w JOIN ${tx.read("posting_block", "b")}',
    to: 'FROM want w JOIN ${sql.raw("scopef" + "loor.posting_block")} b',
    tests: [WORD_INDEX],
  },
  {
    name: "tails that are read in any scope",
    file: "src/lexical/sources.ts",
    from: 'AS part FROM ${tx.read("passage", "p")}',
    to: 'AS part FROM ${sql.raw("scopef" + "loor.passage")} p',
    tests: [WORD_INDEX],
  },
  {
    name: "a forgotten passage stays in its segment",
    function: "unindex_passages",
    from: "AND r.seq BETWEEN g.first_seq AND g.last_seq HAVING count(*) > 0;",
    to: "AND r.seq BETWEEN g.first_seq AND g.last_seq HAVING count(*) > 1000000;",
    tests: [WORD_INDEX],
  },
  {
    name: "a posting beside the forgotten one goes in its place",
    function: "place_in",
    from: "RETURN (at - 1) / 2;",
    to: "RETURN greatest(0, (at - 1) / 2 - 1);",
    tests: [WORD_INDEX],
  },
  {
    name: "scopes of a tenant share the key of their words (threat 36)",
    function: "lexical_state",
    from: "scopefloor.term_key(o.secret, k.scope_id)",
    to: "scopefloor.term_key(o.secret, 0)",
    tests: [WORD_INDEX],
  },
  {
    name: "tenants share the key of their words (threat 36)",
    function: "term_key",
    from: "tenants_secret OPERATOR(pg_catalog.||) pg_catalog.int4send(of_scope)",
    to: "pg_catalog.int4send(0)",
    tests: [WORD_INDEX],
  },
  // -- What comes in.
  {
    name: "a filter that nobody knows is left out of account (threat 23)",
    file: "src/http/wire/fields.ts",
    from: "z.strictObject(shape, ",
    to: "z.object(shape, ",
    tests: ["test/http/every-field.test.ts"],
  },
  {
    name: "a value is quoted into the statement, not bound (threat 22)",
    file: "src/traces/list.ts",
    from: "d.operation = ${filter.operation ?? null})",
    to: `d.operation = \${sql.raw("'" + (filter.operation ?? "").replaceAll("'", "''") + "'")})`,
    tests: ["test/http/every-field.test.ts"],
  },
  // -- What is under way.
  {
    name: "a query is embedded with every model that anybody has vectors of (threats 2, 7)",
    file: "src/models/models.ts",
    from: "id !== current.id && others.has(id)",
    to: "id !== current.id && others.size >= 0",
    tests: ["test/recall/reembed.test.ts"],
  },
  {
    name: "a child gets verbs that were taken from its parent meanwhile (threat 29)",
    on: "postgres",
    function: "mint_key",
    from: "INTERSECT SELECT unnest(own.verbs) ORDER BY 1",
    to: "ORDER BY 1",
    tests: ["test/keys/in-flight.test.ts"],
  },
  {
    name: "a child that is being minted keeps the verbs (threat 29)",
    on: "postgres",
    function: "change_verbs",
    from: "EXIT WHEN NOT FOUND;",
    to: "EXIT;",
    tests: ["test/keys/in-flight.test.ts"],
  },
  {
    name: "the trace of a read that met an erasure keeps the question (threat 18)",
    function: "enter",
    from: "trace_is_blank := true;",
    to: "",
    tests: [RACE],
  },
  {
    name: "the trace of a read that met an erasure keeps the name (threat 18)",
    function: "enter",
    from: "trace_tags := caller.floor;",
    to: "",
    tests: [RACE],
  },
  {
    name: "a refusal keeps the name of what was just erased (threat 18)",
    function: "record_denial",
    from: "asked := NULL;",
    to: "",
    tests: [RACE],
  },
  {
    name: "an operator's stored answer keeps the name of an erased key's floor (threat 19)",
    file: "src/http/routes/principals.ts",
    from: "readsOnly: () => true,",
    to: "",
    tests: [STORED, FORGET],
  },
  {
    name: "a graph that scopes share",
    on: "postgres",
    file: "src/db/upkeep/vector-graph.ts",
    from: "WHERE scope_id = ${Number(graph.scopeId)} AND embedder_id",
    to: "WHERE embedder_id",
    tests: ["test/recall/graphs.test.ts"],
  },
  {
    name: "text is compared before the row policies are asked (threat 36)",
    sql: "ALTER FUNCTION pg_catalog.text_ge(text, text) LEAKPROOF; ALTER FUNCTION pg_catalog.text_lt(text, text) LEAKPROOF",
    tests: [INFERENCE],
  },
  {
    name: "a hash of text is computed before the row policies are asked (threat 36)",
    sql: "ALTER FUNCTION pg_catalog.md5(text) LEAKPROOF; ALTER FUNCTION pg_catalog.texteq(text, text) LEAKPROOF",
    tests: [INFERENCE],
  },
  {
    name: "bytes are compared by their order before the row policies are asked (threat 36)",
    sql: "ALTER FUNCTION pg_catalog.byteage(bytea, bytea) LEAKPROOF; ALTER FUNCTION pg_catalog.bytealt(bytea, bytea) LEAKPROOF",
    tests: [INFERENCE],
  },
  {
    name: "the server's counters are everyone's (threat 36)",
    sql: "GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_get_xact_tuples_returned(oid) TO PUBLIC",
    tests: [INJECTED],
  },
  {
    name: "others' locks are everyone's to see (threat 36)",
    sql: "GRANT EXECUTE ON FUNCTION pg_catalog.pg_lock_status() TO PUBLIC",
    tests: [INJECTED],
  },
  {
    name: "names are looked up by a hash without a secret (threat 36)",
    function: "set_lookup",
    from: "NEW.name_hash := scopefloor.word_hash(secret, NEW.identity);",
    to: "NEW.name_hash := md5(NEW.name)::uuid;",
    tests: [INFERENCE],
  },
  {
    name: "the words of all scopes of a tenant are hashed under one secret (threat 36)",
    function: "word_secret",
    from: "sha256(found || int4send(of_scope))",
    to: "found",
    tests: [INFERENCE],
  },
  {
    name: "locks are numbered by the scope's name alone (threat 36)",
    function: "scope_hash",
    from: "t.secret || '\\x6c6f636b73'",
    to: "'\\x6c6f636b73'::bytea",
    tests: [INFERENCE],
  },
  {
    name: "an erased tenant's secret stays (threat 36)",
    function: "retire_scopes",
    from: "secret = sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))",
    to: "secret = t.secret",
    tests: [INFERENCE],
  },
  {
    name: "an index of words (threat 36)",
    sql: "CREATE INDEX titles ON scopefloor.document (scope_id, title)",
    tests: [CATALOG],
  },
  {
    name: "whoever has the floor manages a key, whatever its verbs (threat 37)",
    function: "may_manage",
    from: "AND to_jsonb(array_remove(k.minted_verbs, 'usage:read')) <@ (t->'verbs') AND",
    to: "AND",
    tests: [KEY_PAIRS],
  },
  {
    name: "a key without content manages one that has it (threat 37)",
    function: "may_manage",
    from: "AND to_jsonb(array_remove(k.minted_verbs, 'usage:read')) <@ (t->'verbs') AND (NOT k.content OR (t->>'content')::bool)",
    to: "AND to_jsonb(array_remove(k.minted_verbs, 'usage:read')) <@ (t->'verbs')",
    tests: [KEY_PAIRS],
  },
  {
    name: "an administrator manages its equals (threat 37)",
    function: "may_manage",
    from: "AND (NOT to_change OR k.principal <> 'management' OR t->'floor' <> k.floor)",
    to: "",
    tests: [KEY_PAIRS],
  },
  {
    name: "a key that only reads changes the Context (threat 37)",
    function: "full_ticket",
    from: 'AND t->\'verbs\' @> \'["memory:read", "memory:write", "memory:forget"]\'',
    to: "",
    tests: [KEY_PAIRS],
  },
  {
    name: "a tenant's administrator gives back what the operator took (threat 37)",
    function: "change_verbs",
    from: "NOT coalesce(target.narrowed_by @> (t->'floor'), true)",
    to: "false",
    tests: [KEY_PAIRS],
  },
  {
    name: "a tenant's administrator opens what the operator deleted (threat 37)",
    function: "enter",
    from: "NOT coalesce(written.tombstoned_by @> caller.floor, true)",
    to: "false",
    tests: [KEY_PAIRS],
  },
  {
    name: "a key that reads usage manages (threat 37)",
    function: "permit",
    from: "verb = 'manage' AND verbs <@ '{usage:read}'",
    to: "false",
    tests: [KEY_PAIRS],
  },
  {
    name: "what a leaked secret has minted outlives the rotation (threat 38)",
    function: "rotate_key",
    from: "PERFORM scopefloor.revoke_delegates(found.id, kept);",
    to: "NULL;",
    tests: [KEY_PAIRS],
  },
  {
    name: "a delegate outlives what it came from (threat 38)",
    function: "rotate_key",
    from: "made.expires_at IS NOT NULL AND",
    to: "false AND",
    tests: [KEY_PAIRS],
  },
  {
    name: "names in two normal forms are two (threat 20)",
    file: "src/scope/spelling.ts",
    from: 'const normal = name.normalize("NFC");',
    to: "const normal = name;",
    tests: [SPELLING],
  },
  {
    name: "characters without a look in names (threat 20)",
    file: "src/scope/spelling.ts",
    from: "|| UNSEEN.test(normal)",
    to: "",
    tests: [SPELLING],
  },
  {
    name: "a key that reads usage mints (threat 37)",
    function: "mint_key",
    from: "t->'verbs' <@ '[\"usage:read\"]'",
    to: "false",
    tests: [KEY_PAIRS],
  },
  {
    name: "a key that reads usage changes others (threat 37)",
    function: "may_manage",
    from: "OR (k.id <> caller AND t->'verbs' <@ '[\"usage:read\"]')",
    to: "",
    tests: [KEY_PAIRS],
  },
  {
    name: "hashes of words for a ticket without content (threat 36)",
    function: "lookup_hashes",
    from: "t->>'verb' NOT IN ('memory:read', 'memory:write', 'memory:forget') OR NOT (t->>'content')::bool",
    to: "false",
    tests: [INFERENCE],
  },
  {
    name: "an erasure that reads everybody's traces (threat 39)",
    on: "postgres",
    function: "retire_scopes",
    from: "WHERE elsewhere AND scope @> erased",
    to: "WHERE scope @> erased",
    tests: ["test/isolation/cost.test.ts"],
  },
  {
    name: "usage that reads everybody's counters (threat 39)",
    on: "postgres",
    function: "stored_bytes",
    from: "FROM scopefloor.scope_counter c WHERE ids IS NULL OR c.scope_id = ANY (ids)",
    to: "FROM scopefloor.scope_counter c",
    tests: ["test/isolation/cost.test.ts"],
  },
  {
    name: "a login's own settings count (threat 40)",
    on: "postgres",
    file: "src/db/connect/postgres.ts",
    from: "            ...SETTINGS,\n",
    to: "",
    tests: [ONE_CALLER],
  },
  {
    name: "transactions that never end (threat 40)",
    on: "postgres",
    file: "src/db/upkeep/watchdog.ts",
    from: "make_interval(secs => $1)",
    to: "make_interval(days => $1)",
    tests: [ONE_CALLER],
  },
  {
    name: "an answer of any size (threat 40)",
    file: "src/db/access/budget.ts",
    from: "WHERE bytes <= ${ANSWER_BYTES}::int OR place = 1",
    to: "WHERE bytes <= ${ANSWER_BYTES}::int * 100 OR place = 1",
    tests: [ONE_CALLER],
  },
  {
    name: "noise is looked up as a key (threat 41)",
    file: "src/keys/secret.ts",
    from: "return isOurs && checksum(body) !== end ? undefined : hashSecret(secret);",
    to: "return isOurs && checksum(body) === end ? hashSecret(secret) : hashSecret(secret);",
    tests: [ONE_CALLER],
  },
  {
    name: "all strangers are one (threat 41)",
    on: "postgres",
    file: "src/load/strangers.ts",
    from: "return `address ${networkOf(this.#addressOf(request))}`;",
    to: 'return "address";',
    tests: [ONE_CALLER],
  },
  {
    name: "a text ends its quotation (threat 42)",
    file: "src/recall/answer/quoted.ts",
    from: "JSON.stringify(text)",
    to: '`"${text}"`',
    tests: [BLOCK],
  },
  {
    name: "an agent's system turn is an instruction (threat 43)",
    file: "src/memory/profile.ts",
    from: "AND p.author = 'management'",
    to: "",
    tests: [BLOCK],
  },
  {
    name: "a passage may name any author (threat 43)",
    sql: "ALTER POLICY write ON scopefloor.passage WITH CHECK (scope_id = (SELECT scopefloor.insertable()) AND tenant_id = (SELECT scopefloor.insertable_tenant()) AND api_key_id = (SELECT scopefloor.caller()))",
    tests: [SECOND],
  },
  {
    name: "agents close each other's sessions (threat 44)",
    file: "src/memory/sessions.ts",
    from: 'tx.entry.key.principal === "agent" && session.key !== tx.entry.key.id',
    to: "false",
    tests: [SPELLING],
  },
  {
    name: "a whole floor is erased by one call (threat 44)",
    file: "src/http/routes/forget.ts",
    from: "sameScope(effective, floor) && confirm !== path",
    to: "sameScope(effective, floor) && confirm === path",
    tests: [SPELLING],
  },
  {
    name: "a delegation under the other name is not heard (threat 45)",
    file: "src/http/delegation.ts",
    from: '["X-Spectron-On-Behalf-Of", "X-Memory-On-Behalf-Of"]',
    to: '["X-Spectron-On-Behalf-Of"]',
    tests: [SPELLING],
  },
  {
    name: "a forget takes what has one word in common (threat 46)",
    file: "src/forget/matching/topic.ts",
    from: "return { share: said / weight, says:",
    to: "return { share: said > 0 ? 1 : 0, says:",
    tests: [FORGET],
  },
  {
    name: "identifiers are words like any (threat 46)",
    file: "src/forget/matching/topic.ts",
    from: "return identifiers.every((identifier) => tokens.has(identifier));",
    to: "return identifiers.every((identifier) => tokens.size > 0 || tokens.has(identifier));",
    tests: [FORGET],
  },
  {
    name: "fairness counts places and no time (threat 40)",
    file: "src/load/fair-queue.ts",
    from: "const difference = usedBy(one, now) - usedBy(other, now);",
    to: "const difference = 0 * (usedBy(one, now) - usedBy(other, now));",
    tests: ["test/faults/fair-queue.test.ts"],
  },
  // -- Facts and what follows from them.
  {
    name: "facts are forgotten by their ids, wherever they are (threat 9)",
    function: "forget_facts",
    from: "WHERE f.scope_id = ANY (reached) OR (t->'modify'->>'all')::bool",
    to: "WHERE true",
    tests: [FACTS],
  },
  {
    name: "what is over is closed for everybody by whoever asks (threat 9)",
    function: "end_over_within",
    from: "CASE WHEN (t->'modify'->>'all')::bool THEN NULL ELSE scopefloor.ids_in(t->'modify') END",
    to: "NULL",
    tests: [FACTS],
  },
  {
    name: "rows that no scope explains are shown to everybody (threat 10)",
    function: "unscoped_content",
    from: "IF t->'floor' <> '{}' OR NOT coalesce((t->'read'->>'all')::bool, false) THEN",
    to: "IF false THEN",
    tests: [FACTS],
  },
  {
    name: "facts of a moment from every scope (threat 3)",
    file: "src/memory/fact-timeline.ts",
    from: 'SELECT f.* FROM ${tx.read(table, "f")} JOIN',
    to: 'SELECT f.* FROM ${sql.raw("scopef" + `loor.${table}`)} f JOIN',
    tests: [FACTS],
  },
  ...DOOR_MUTANTS,
  ...GOVERNANCE_MUTANTS,
  ...METERING_MUTANTS,
];

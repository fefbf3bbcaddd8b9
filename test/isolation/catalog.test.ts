import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createTestDatabase, type TestDatabase } from "../harness/database.ts";

/** What an auditor asks of the catalog (threats 31, 32). A new table or function has to say what it is. */
let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

/** Tables without scope_id, and why. */
const UNSCOPED = ["context", "embedder", "erasure", "job_turn", "migration", "scope", "ticket_secret"];

/** For whom each definer function is. A new one fails until it is listed. */
const DEFINERS = {
  scopefloor_app: [
    "caller",
    "cache_answer",
    "caller_principal",
    "claim_idempotency",
    "my_turn",
    "recall_state",
    "add_document",
    "deletes",
    "embedders_in_use",
    "enqueue",
    "known_key",
    "known_keys",
    "narrow_key",
    "order_embedding",
    "pending_documents",
    "put_item",
    "put_triples",
    "has_work",
    "queue_depth",
    "relink_documents",
    "replace_document",

    "configure_context",
    "context_created_at",
    "drop_recalled_answers",
    "enter",
    "hides_scopes",
    "insertable",
    "list_keys",
    "listable",
    "lists_all",
    "forgets",
    "may_add_turn",
    "may_record",
    "mint_key",
    "modifiable",
    "modifies_all",
    "own_keys",
    "principal_of",
    "readable",
    "readable_own",
    "reads_all",
    "record_denial",
    "recordable",
    "reserve_turns",
    "retire_scopes",
    "revoke_key",
    "rotate_key",
    "store_answer",
    "stored_answer",
    "touch_key",
    "usage",
  ],
  scopefloor_worker: [
    "enter_job",
    "extend_job",
    "finish_job",
    "fold_counters",
    "note_vector_index",
    "postpone_job",
    "purge_old",
    "recover_jobs",
    "take_job",
    "vector_index_work",
  ],
  nobody: [
    "count_passages",
    "ensure_entity",
    "register_embedder",
    "requeue_job",
    "retire_fact",
    "turn_of",
    "write_ticket",
    "descends_from",
    "ensure_context",
    "ensure_embedder",
    "ensure_scope",
    "has_first_key",
    "hold_scope",
    "ids_in",
    "key_row",
    "key_ticket",
    "live_key",
    "named_key",
    "recover_first_key",
    "rotate_ticket_secret",
    "set_first_key",
    "sign_ticket",
    "ticket",
    "was_erased",
  ],
};

/** What a job's transaction needs beside the worker's own: the questions of the policies, and the queue. */
const ALSO_WORKER = [
  "caller",
  "caller_principal",
  "deletes",
  "enqueue",
  "forgets",
  "insertable",
  "listable",
  "lists_all",
  "may_record",
  "modifiable",
  "modifies_all",
  "queue_depth",
  "readable",
  "readable_own",
  "reads_all",
];

async function auditTables(): Promise<string[]> {
  const rows = await database.sql(`
    SELECT c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced, c.relispartition AS partition,
           EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'scope_id' AND a.attnotnull) AS scoped
    FROM pg_class c WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1`);
  const problems: string[] = [];
  for (const row of rows) {
    const name = String(row.name);
    if (!row.scoped && !UNSCOPED.includes(name)) problems.push(`${name} has no scope_id`);
    if ((!row.enabled || !row.forced) && name !== "migration") problems.push(`${name} does not force row security`);
  }
  return problems;
}

describe("the catalog", () => {
  test("every table has scope_id NOT NULL and forced row security, or is on the written list", async () => {
    expect(await auditTables()).toEqual([]);
  });

  test("the audit finds a table that was added without them (the control)", async () => {
    await database.sql("CREATE TABLE scopefloor.forgotten (id int)");
    try {
      expect(await auditTables()).toEqual(["forgotten has no scope_id", "forgotten does not force row security"]);
    } finally {
      await database.sql("DROP TABLE scopefloor.forgotten");
    }
  });

  test.each(["scopefloor_app", "scopefloor_worker"])(
    "each command that %s may use on a table has a policy of its own",
    async (role) => {
      const rows = await database.sql(
        `SELECT c.relname AS name, p.privilege, EXISTS (
          SELECT 1 FROM pg_policies y WHERE y.schemaname = 'scopefloor' AND y.tablename = c.relname AND y.cmd = p.privilege
            AND y.roles <@ '{scopefloor_app,scopefloor_worker}' AND $1 = ANY (y.roles)) AS policed
      FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p(privilege)
      WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'migration'
        AND (has_table_privilege($1::name, c.oid, p.privilege) OR (p.privilege = 'UPDATE' AND has_any_column_privilege($1::name, c.oid, 'UPDATE')))`,
        [role],
      );
      expect(rows.length).toBeGreaterThan(15);
      expect(rows.filter((row) => !row.policed)).toEqual([]);
      const wide = await database.sql(
        "SELECT tablename FROM pg_policies WHERE schemaname = 'scopefloor' AND cmd = 'ALL' AND roles <> '{scopefloor_definer}'",
      );
      expect(wide).toEqual([]);
    },
  );

  test("scope_id, or the key's id, is in every unique constraint; scope_id in every foreign key between scoped tables", async () => {
    const uniques = await database.sql(`
      SELECT c.relname AS name, array_to_string(ARRAY(
          SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey)), ',') AS columns
      FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
      WHERE c.relnamespace = 'scopefloor'::regnamespace AND i.indisunique`);
    const open = uniques.filter(
      (row) =>
        !UNSCOPED.includes(String(row.name)) && !/(^|,)(scope_id|api_key_id|parent_id)(,|$)/.test(String(row.columns)),
    );
    // A key is found by its hash or its random id: neither can be guessed or chosen.
    expect(open.map((row) => `${row.name}: ${row.columns}`).sort()).toEqual(["api_key: id", "api_key: secret_hash"]);
    const foreign = await database.sql(`
      SELECT conname FROM pg_constraint c WHERE contype = 'f' AND connamespace = 'scopefloor'::regnamespace
        AND NOT EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) AND a.attname = 'scope_id')`);
    expect(foreign).toEqual([]);
  });

  test("definer functions are exactly those listed, with a fixed search_path, open to the listed role alone", async () => {
    const rows = await database.sql(`
      SELECT p.proname AS name, pg_get_userbyid(p.proowner) AS owner, coalesce(array_to_string(p.proconfig, ','), '') AS config,
             has_function_privilege('scopefloor_app', p.oid, 'EXECUTE') AS app,
             has_function_privilege('scopefloor_worker', p.oid, 'EXECUTE') AS worker,
             has_function_privilege('scopefloor_report', p.oid, 'EXECUTE') AS report
      FROM pg_proc p WHERE p.pronamespace = 'scopefloor'::regnamespace AND p.prosecdef ORDER BY 1`);
    expect(rows.map((row) => row.name)).toEqual(Object.values(DEFINERS).flat().sort());
    for (const row of rows) {
      const name = String(row.name);
      expect(row, name).toMatchObject({
        owner: "scopefloor_definer",
        config: expect.stringContaining("search_path=pg_catalog, pg_temp"),
        app: DEFINERS.scopefloor_app.includes(name),
        worker: DEFINERS.scopefloor_worker.includes(name) || ALSO_WORKER.includes(name),
        report: false,
      });
    }
  });

  test("no role can log in, bypass, own a table or become another; views run as whoever asks", async () => {
    const roles = await database.sql(`
      SELECT rolname FROM pg_roles WHERE rolname LIKE 'scopefloor\\_%'
        AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin OR rolreplication)`);
    expect(roles).toEqual([]);
    const owned = await database.sql(
      "SELECT relname FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname LIKE 'scopefloor\\_%'",
    );
    expect(owned).toEqual([]);
    const members = await database.sql(`
      SELECT 1 FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname IN ('scopefloor_app', 'scopefloor_worker', 'scopefloor_report')`);
    expect(members).toEqual([]);
    const views = await database.sql(`
      SELECT relname, reloptions::text FROM pg_class WHERE relnamespace = 'scopefloor'::regnamespace AND relkind = 'v' ORDER BY 1`);
    expect(views).toEqual([
      { relname: "usage_by_day", reloptions: "{security_invoker=true}" },
      { relname: "usage_by_scope", reloptions: "{security_invoker=true}" },
    ]);
    const loose = await database.sql(`
      SELECT relname FROM pg_class c WHERE relnamespace = 'scopefloor'::regnamespace AND relkind IN ('r', 'p', 'v')
        AND EXISTS (SELECT 1 FROM aclexplode(c.relacl) a WHERE a.grantee = 0)`);
    expect(loose).toEqual([]);
  });
});

describe("the reporting role", () => {
  test("reads every column but query, sources and error, over all scopes, and the two views; nothing else", async () => {
    const can = await database.sql(`
      SELECT a.attname AS name FROM pg_attribute a WHERE a.attrelid = 'scopefloor.decision_trace'::regclass AND a.attnum > 0
        AND NOT has_column_privilege('scopefloor_report', a.attrelid, a.attname, 'SELECT') ORDER BY 1`);
    expect(can.map((row) => row.name)).toEqual(["error", "query", "sources"]);
    const tables = await database.sql(`
      SELECT relname FROM pg_class c WHERE relnamespace = 'scopefloor'::regnamespace AND relkind IN ('r', 'p', 'v')
        AND (has_any_column_privilege('scopefloor_report', c.oid, 'SELECT, INSERT, UPDATE') OR has_table_privilege('scopefloor_report', c.oid, 'DELETE, TRUNCATE'))
      ORDER BY 1`);
    expect(tables.map((row) => row.relname)).toEqual(["decision_trace", "usage_by_day", "usage_by_scope"]);
  });
});

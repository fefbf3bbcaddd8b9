import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Database, inTransaction, type Row, type Transaction } from "../../src/db/connect/lease.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { onPostgres } from "../harness/database.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/**
 * What an injected statement could try in acme's own transaction, on a login of the application's
 * role as the README sets it up. Whatever it is answered is searched for globex's words.
 */
let service: TestService;
let acme: Client;
let login: { database: Database; drop(): Promise<void> };
/** A stem of its own, so that a lexeme shows it too. */
const CANARY = "globexcanar";
const PERMISSION = "42501";

beforeAll(async () => {
  service = await startService({ worker: {} });
  acme = await service.mint("agent", { org: "acme" });
  const globex = await service.mint("agent", { org: CANARY });
  await acme.remember("acme text");
  for (const client of [acme, globex]) {
    const { body } = await client.upload(`the ${CANARY} file`, "x.txt", { title: CANARY });
    if (client === globex) await client.processed(body.id);
    else await client.del(`/documents/${body.id}`);
  }
  const { sessionId } = await globex.remember(`the ${CANARY} text`, { labels: [`kind=${CANARY}`] });
  await globex.post("/facts", {
    infer: "triples",
    triples: [{ entity: { type: "Thing", name: CANARY }, key: "is", value: CANARY }],
  });
  await globex.call("PUT", `/memory/${CANARY}`, { value: CANARY });
  await globex.post("/query", { query: CANARY }, { headers: { "idempotency-key": CANARY } });
  await globex.post("/query", { query: "x", lens: { team: CANARY, org: "acme" } });
  await globex.post("/forget", { sessionId });
  await globex.remember(`the ${CANARY} text again`);
  await service.operator.remember("general text", { scopes: {} });
  login = await openLogin();
});
afterAll(async () => {
  await login.drop();
  await service.stop();
});

async function openLogin(): Promise<typeof login> {
  if (!onPostgres()) return { database: service.database, drop: async () => undefined };
  const name = `injected_${randomBytes(4).toString("hex")}`;
  await service.database.sql(`CREATE ROLE ${name} LOGIN IN ROLE scopefloor_app`);
  const url = new URL(service.database.url ?? "");
  url.username = name;
  const database = openPostgres({ app: url.toString(), worker: url.toString(), connections: 2, timeoutMs: 5_000 });
  return {
    database,
    drop: async () => {
      await database.close();
      await service.database.sql(`DROP ROLE ${name}`);
    },
  };
}

type AccessRequest = readonly [verb: string, mode: string];

/** Runs in a transaction that acme has entered. */
const within = <T>([verb, mode]: AccessRequest, work: (lease: Transaction) => Promise<T>) =>
  inTransaction(login.database.app, async (lease) => {
    const [row] = await lease.query("SELECT scopefloor.enter($1, $2, $3, NULL, NULL) AS answer", [
      hashSecret(acme.key),
      verb,
      JSON.stringify({ mode, subtree: true }),
    ]);
    expect(row?.answer).toMatchObject({ status: "ok" });
    return work(lease);
  });

const READING: AccessRequest = ["memory:read", "id"];
const DEMANDS: readonly AccessRequest[] = [
  READING,
  ["memory:read", "select"],
  ["memory:write", "write"],
  ["memory:write", "modify"],
  ["memory:forget", "forget"],
  ["memory:forget", "erase"],
  ["self", "id"],
];

/** What a statement gives, or the code it is refused with. */
const tried = (demand: AccessRequest, statement: string): Promise<readonly Row[] | string> =>
  within(demand, (lease) => lease.query(statement)).catch((error: { code?: string }) => error.code ?? String(error));

const tables = async () =>
  (
    await service.database.sql(`
      SELECT c.relname AS name FROM pg_class c
      WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p', 'v') ORDER BY 1`)
  ).map((row) => String(row.name));

/** What reads it, and whether the owner, who may, finds the canary the same way. */
const READS: readonly (readonly [what: string, statement: string, ownerFinds: boolean])[] = [
  ["query_to_xml", "SELECT query_to_xml('SELECT text FROM scopefloor.passage', true, false, '')::text AS x", true],
  ["table_to_xml", "SELECT table_to_xml('scopefloor.passage', true, false, '')::text AS x", true],
  ["schema_to_xml", "SELECT schema_to_xml('scopefloor', true, false, '')::text AS x", true],
  ["a row as a whole", "SELECT p AS x FROM scopefloor.passage p", true],
  [
    "a set-returning function over rows",
    "SELECT ts_stat FROM ts_stat('SELECT to_tsvector(text) FROM scopefloor.passage')",
    true,
  ],
  ["a view of the planner's statistics", "SELECT * FROM pg_catalog.pg_stats WHERE schemaname = 'scopefloor'", false],
  ["other sessions' statements", "SELECT * FROM pg_catalog.pg_stat_activity", false],
  ["prepared statements", "SELECT * FROM pg_catalog.pg_prepared_statements", false],
  ["cursors", "SELECT * FROM pg_catalog.pg_cursors", false],
  ["settings", "SELECT * FROM pg_catalog.pg_settings", false],
  ["locks", "SELECT * FROM pg_catalog.pg_locks", false],
  ["table counts", "SELECT * FROM pg_catalog.pg_stat_user_tables", false],
  ["a plan that runs", "EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT * FROM scopefloor.passage", false],
  [
    "sizes",
    "SELECT relname, reltuples, pg_relation_size(oid) FROM pg_catalog.pg_class WHERE relname LIKE 'passage%'",
    false,
  ],
  [
    "comments and definitions",
    "SELECT pg_get_functiondef(p.oid) FROM pg_catalog.pg_proc p WHERE p.proname = 'enter'",
    false,
  ],
  [
    "a recursive reading",
    "WITH RECURSIVE r AS (SELECT text, 0 AS n FROM scopefloor.passage UNION ALL SELECT p.text, n + 1 FROM r, scopefloor.passage p WHERE n < 2) SELECT * FROM r",
    true,
  ],
  [
    "a join without a scope",
    "SELECT t.content, p.text FROM scopefloor.turn t JOIN scopefloor.passage p ON p.turn_id = t.id",
    true,
  ],
  ["the dictionary of scopes", "SELECT tags::text FROM scopefloor.scope", true],
];

/** Of a server: the embedded database has one login, and nothing to install (docs/security.md). */
const REFUSED_BY_SERVER: typeof REFUSED = [
  ["another login", PERMISSION, "SET SESSION AUTHORIZATION postgres"],
  ["the owner's role", PERMISSION, "SELECT set_config('role', 'scopefloor_definer', true)"],
  ["the worker's role", PERMISSION, "SET LOCAL ROLE scopefloor_worker"],
  ["an extension", PERMISSION, "CREATE EXTENSION dblink"],
];

/** Each is refused with this code. */
const REFUSED: readonly (readonly [what: string, code: string, statement: string])[] = [
  ["a file", PERMISSION, "SELECT pg_read_file('PG_VERSION')"],
  ["a folder", PERMISSION, "SELECT pg_ls_dir('.')"],
  ["a copy into a program", PERMISSION, "COPY scopefloor.passage TO PROGRAM 'cat'"],
  ["a copy into a file", PERMISSION, "COPY scopefloor.passage TO '/tmp/never'"],
  ["truncating", PERMISSION, "TRUNCATE scopefloor.passage CASCADE"],
  ["locking a table alone", PERMISSION, "LOCK TABLE scopefloor.api_key IN ACCESS EXCLUSIVE MODE"],
  ["a temporary table", PERMISSION, "CREATE TEMP TABLE t AS SELECT 1"],
  ["a table", PERMISSION, "CREATE TABLE public.t AS SELECT 1"],
  ["a view", PERMISSION, "CREATE VIEW scopefloor.v AS SELECT 1"],
  ["a function", PERMISSION, "CREATE FUNCTION scopefloor.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
  [
    "a trigger",
    PERMISSION,
    "CREATE TRIGGER t BEFORE INSERT ON scopefloor.passage FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
  ],
  ["a rule", PERMISSION, "CREATE RULE r AS ON SELECT TO scopefloor.passage DO INSTEAD NOTHING"],
  ["a policy", PERMISSION, "CREATE POLICY p ON scopefloor.passage USING (true)"],
  ["no row security", PERMISSION, "ALTER TABLE scopefloor.passage DISABLE ROW LEVEL SECURITY"],
  ["a right for everyone", PERMISSION, "ALTER TABLE scopefloor.passage OWNER TO scopefloor_app"],
  ["a large object", PERMISSION, "SELECT lo_from_bytea(0, 'x')"],
  ["large objects of others", PERMISSION, "SELECT lo_get(oid) FROM pg_catalog.pg_largeobject_metadata"],
  ["another session's end", PERMISSION, "SELECT pg_rotate_logfile()"],
  ["another session's end by its number", PERMISSION, "SELECT pg_terminate_backend(1)"],
  ["a lock that others wait for", PERMISSION, "SELECT pg_advisory_xact_lock(7700, 3)"],
  ["sleep", PERMISSION, "SELECT pg_sleep(1)"],
  ["others' locks", PERMISSION, "SELECT * FROM pg_catalog.pg_locks"],
  ["others' sessions", PERMISSION, "SELECT * FROM pg_catalog.pg_stat_activity"],
  [
    "the server's counters",
    PERMISSION,
    "SELECT pg_catalog.pg_stat_get_xact_tuples_returned('scopefloor.passage_seq'::regclass)",
  ],
  // Inside a transaction nobody may.
  ["a setting of the server", "25001", "ALTER SYSTEM SET work_mem = '1GB'"],
  ["a role's password", PERMISSION, "ALTER ROLE postgres PASSWORD 'x'"],
  ["a subscription to all rows", PERMISSION, "CREATE PUBLICATION p FOR ALL TABLES"],
  [
    "moving a row by MERGE",
    PERMISSION,
    "MERGE INTO scopefloor.passage p USING (SELECT 1) s ON true WHEN MATCHED THEN UPDATE SET scope_id = 0",
  ],
  [
    "moving a row by ON CONFLICT",
    PERMISSION,
    "INSERT INTO scopefloor.memory_item (tenant_id, scope_id, id, key, key_hash, value, api_key_id) SELECT tenant_id, scope_id, id, key, key_hash, value, api_key_id FROM scopefloor.memory_item ON CONFLICT (scope_id, key_hash, tenant_id) DO UPDATE SET scope_id = 0",
  ],
];

describe("an injected statement in acme's transaction (threats 9, 10, 22, 32)", () => {
  test("reads no word of globex in any table or view, whatever the ticket is for", async () => {
    const names = await tables();
    expect(names.length).toBeGreaterThan(25);
    let open = 0;
    for (const demand of DEMANDS) {
      for (const name of names) {
        const got = await tried(demand, `SELECT to_jsonb(x)::text AS x FROM scopefloor.${name} x`);
        if (typeof got === "string") expect(got, name).toBe(PERMISSION);
        else open++;
        expect(JSON.stringify(got), `${name} for ${demand.join(" ")}`).not.toContain(CANARY);
      }
    }
    expect(open).toBeGreaterThan(80);
    // The control: the owner finds it in nearly all of those.
    const found: string[] = [];
    for (const name of names) {
      const rows = await service.database.sql(`SELECT to_jsonb(x)::text AS x FROM scopefloor.${name} x`);
      if (JSON.stringify(rows).includes(CANARY)) found.push(name);
    }
    expect(found.length).toBeGreaterThan(11);
  });

  test.each(READS)("learns nothing of globex from %s", async (what, statement, ownerFinds) => {
    for (const demand of DEMANDS) {
      expect(JSON.stringify(await tried(demand, statement)), `${what} for ${demand.join(" ")}`).not.toContain(CANARY);
    }
    const found = JSON.stringify(await service.database.sql(statement).catch((error: { code?: string }) => error.code));
    // XML is not built into the embedded database.
    if (ownerFinds && found !== '"0A000"') expect(found).toContain(CANARY);
  });

  test.each(onPostgres() ? [...REFUSED, ...REFUSED_BY_SERVER] : REFUSED)(
    "is refused %s",
    async (_, code, statement) => {
      for (const demand of DEMANDS) expect(await tried(demand, statement), demand.join(" ")).toBe(code);
    },
  );

  test("cannot see through an error: a condition of its own is asked of visible rows alone", async () => {
    // Were it asked before the policy, it would divide by zero at globex's row.
    const spy = (word: string) =>
      `SELECT count(*)::int AS n FROM scopefloor.passage WHERE 1 / (position('${word}' IN text) - 5) > 5`;
    expect(await tried(READING, spy("text again"))).not.toBe("22012");
    expect(await tried(READING, spy(" text"))).toBe("22012"); // the control: acme's own row is asked
  });

  test("cannot leave the policies out: turning them off is an error, not more rows", async () => {
    const off = (demand: AccessRequest) =>
      within(demand, async (lease) => {
        await lease.query("SET LOCAL row_security = off");
        return lease.query("SELECT text FROM scopefloor.passage");
      }).catch((error: { code?: string }) => error.code);
    for (const demand of DEMANDS) expect(await off(demand)).toBe(PERMISSION);
  });

  test("cannot lock or change what it does not see, by any kind of statement", async () => {
    const before = await service.database.sql(
      "SELECT count(*)::int AS n, md5(string_agg(p::text, '' ORDER BY id)) AS sum FROM scopefloor.passage p WHERE scope_id <> 0 AND text LIKE '%globex%'",
    );
    const attempts = [
      "SELECT count(*) FROM (SELECT 1 FROM scopefloor.passage WHERE text LIKE '%globex%' FOR UPDATE) x",
      "UPDATE scopefloor.passage SET expired_at = now() WHERE text LIKE '%globex%' RETURNING text",
      "DELETE FROM scopefloor.passage WHERE text LIKE '%globex%' RETURNING text",
      "MERGE INTO scopefloor.passage p USING (SELECT 1) s ON p.text LIKE '%globex%' WHEN MATCHED THEN DELETE",
      "WITH gone AS (DELETE FROM scopefloor.turn WHERE content LIKE '%globex%' RETURNING content) SELECT * FROM gone",
      "UPDATE scopefloor.document SET title = 'mine' WHERE title LIKE '%globex%'",
      "DELETE FROM scopefloor.memory_item WHERE key LIKE '%globex%'",
    ];
    for (const demand of DEMANDS) {
      for (const statement of attempts) expect(JSON.stringify(await tried(demand, statement))).not.toContain(CANARY);
    }
    const after = await service.database.sql(
      "SELECT count(*)::int AS n, md5(string_agg(p::text, '' ORDER BY id)) AS sum FROM scopefloor.passage p WHERE scope_id <> 0 AND text LIKE '%globex%'",
    );
    expect(after).toEqual(before);
    expect(before[0]?.n).toBeGreaterThan(0);
  });

  test("cannot read the queue, order work in another's name, or take a job", async () => {
    for (const statement of [
      "SELECT * FROM scopefloor.job",
      "INSERT INTO scopefloor.job (id) VALUES (gen_random_uuid())",
      "SELECT scopefloor.take_job(1, 1)",
      "SELECT scopefloor.enter_job(gen_random_uuid(), gen_random_uuid(), 'x')",
      "SELECT scopefloor.seal_audit(1)",
      "SELECT scopefloor.check_audit(1, NULL)",
      "SELECT scopefloor.check_unchained(NULL)",
      "SELECT scopefloor.journal_lines(NULL)",
      "SELECT scopefloor.named_scopes()",
      "SELECT scopefloor.begin_replay(gen_random_uuid(), 'x')",
      "SELECT scopefloor.audit_evidence(1, NULL, NULL)",
    ]) {
      for (const demand of DEMANDS) expect(await tried(demand, statement), statement).toBe("42501");
    }
  });

  test("leaves the next transaction on its connection nothing: no cursor, statement, channel or setting", async () => {
    const state = async () =>
      (
        await within(READING, (lease) =>
          lease.query(`SELECT (SELECT count(*)::int FROM pg_cursors WHERE is_holdable) AS cursors, (SELECT count(*)::int FROM pg_prepared_statements WHERE from_sql) AS statements,
          (SELECT count(*)::int FROM pg_listening_channels()) AS channels, current_setting('search_path') AS path, current_setting('work_mem') AS memory`),
        )
      )[0];
    const untouched = await state();
    expect(untouched).toMatchObject({ cursors: 0, statements: 0, channels: 0, path: "pg_catalog, public" });
    for (const statement of [
      "DECLARE c CURSOR WITH HOLD FOR SELECT text FROM scopefloor.passage",
      "PREPARE planted AS SELECT 1",
      "LISTEN everything",
      "SET search_path = scopefloor",
      "SET work_mem = '64kB'",
    ]) {
      await tried(READING, statement);
      expect(await state(), statement).toEqual(untouched);
    }
  });
});

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { modelRegistry } from "../../src/db/access/model-registry.ts";
import { inTransaction } from "../../src/db/connect/lease.ts";
import { scrub } from "../../src/db/upkeep/scrub.ts";
import { receiptJournal } from "../../src/forget/replay/journal.ts";
import { replayReceipts } from "../../src/forget/replay/replay.ts";
import { runHousekeeping } from "../../src/jobs/housekeeping.ts";
import { reconcileGraphs } from "../../src/jobs/vector-graphs.ts";
import { ensureFirstKey } from "../../src/keys/first-key.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { createLog } from "../../src/log.ts";
import { registerModels } from "../../src/models/register.ts";
import { LOCAL_MODELS } from "../../src/models/settings.ts";
import { auditCatalog } from "../../src/verify/catalog.ts";
import { onPostgres } from "../harness/database.ts";
import { checkPlans } from "../harness/plans.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { prove, proving } from "../harness/statement-proof.ts";

/**
 * The statement proof (threats 15, 24, 35). Every test that starts the service proves what it sends
 * when the service stops; these are the proof's own controls.
 */
const silent = createLog("silent");
const visible = (table: string, alias: string) =>
  `(SELECT * FROM "scopefloor"."${table}" WHERE "scope_id" = ANY ($1::int[])) AS "${alias}"`;
const tree = `"scope_id" IN (SELECT below.id FROM "scopefloor"."scope" AS below WHERE below.tags @> $2::jsonb)`;

describe("the statement proof accepts", () => {
  test.each([
    ["the builder's reference", `SELECT p.id FROM ${visible("passage", "p")} WHERE p.text = $2 OR true`],
    [
      "references that are joined",
      `SELECT 1 FROM ${visible("turn", "t")} LEFT JOIN ${visible("passage", "p")} ON true`,
    ],
    [
      "both arms of a recursion",
      `WITH RECURSIVE w AS (SELECT p.id FROM ${visible("passage", "p")} UNION ALL SELECT q.id FROM w JOIN ${visible("passage", "q")} ON q.id = w.id) SELECT * FROM w`,
    ],
    [
      "a subtree by its tags",
      `SELECT * FROM (SELECT * FROM "scopefloor"."passage" WHERE ("scope_id" = ANY ($1::int[]) OR ${tree})) AS p`,
    ],
    [
      "a change",
      `UPDATE "scopefloor"."passage" SET "expired_at" = $2 WHERE "scope_id" = ANY ($1::int[]) AND (false OR true)`,
    ],
    [
      "an insertion of values",
      `INSERT INTO "scopefloor"."turn" ("id", "scope_id", "tenant_id") VALUES ($1, $2, $4), ($3, $2, $4)`,
    ],
    [
      "an insertion of rows",
      `INSERT INTO "scopefloor"."turn" ("tenant_id", "scope_id", "id") SELECT $2::int, $1::int, chosen.* FROM (SELECT 1) AS chosen`,
    ],
    ["a definer function", "SELECT to_jsonb(scopefloor.usage($1)) AS result"],
    ["models, which are no tenant's", "SELECT id FROM scopefloor.embedder WHERE name = $1"],
    ["how to plan", "SET LOCAL plan_cache_mode = force_custom_plan"],
  ])("%s", (_, text) => {
    expect(prove(text).violations).toEqual([]);
  });
});

describe("the statement proof refuses", () => {
  test.each([
    ["no predicate", `SELECT * FROM "scopefloor"."passage"`],
    ["a predicate with an OR beside it", `SELECT * FROM scopefloor.passage WHERE scope_id = ANY ($1::int[]) OR true`],
    ["a predicate that is negated", `SELECT * FROM scopefloor.passage WHERE NOT (scope_id = ANY ($1::int[]))`],
    ["another operator", `SELECT * FROM scopefloor.passage WHERE scope_id <> ANY ($1::int[])`],
    ["an ordering", `SELECT * FROM scopefloor.passage WHERE scope_id >= ANY ($1::int[])`],
    ["another column", `SELECT * FROM scopefloor.passage WHERE embedder_id = ANY ($1::int[])`],
    ["a literal", `SELECT * FROM scopefloor.passage WHERE scope_id = ANY ('{1,2}'::int[])`],
    ["a column beside the column", `SELECT * FROM scopefloor.passage p WHERE scope_id = p.scope_id`],
    [
      "the predicate in the outer level",
      `SELECT * FROM (SELECT * FROM scopefloor.passage) p WHERE p.scope_id = ANY ($1::int[])`,
    ],
    [
      "the predicate in a join's ON",
      `SELECT * FROM scopefloor.turn t LEFT JOIN scopefloor.passage p ON p.scope_id = ANY ($1::int[])`,
    ],
    [
      "a WHERE over two tables",
      `SELECT * FROM scopefloor.turn t, scopefloor.passage p WHERE p.scope_id = ANY ($1::int[])`,
    ],
    [
      "one arm of a recursion",
      `WITH RECURSIVE w AS (SELECT p.id FROM ${visible("passage", "p")} UNION ALL SELECT q.id FROM w JOIN scopefloor.passage q ON q.id = w.id) SELECT * FROM w`,
    ],
    ["one arm of a union", `SELECT id FROM ${visible("passage", "p")} UNION SELECT id FROM scopefloor.passage`],
    ["a subquery in the select list", `SELECT (SELECT count(*) FROM scopefloor.turn) FROM ${visible("passage", "p")}`],
    [
      "a lateral",
      `SELECT * FROM ${visible("turn", "t")}, LATERAL (SELECT * FROM scopefloor.passage x WHERE x.turn_id = t.id) p`,
    ],
    ["an EXISTS", `SELECT 1 WHERE EXISTS (SELECT 1 FROM scopefloor.turn)`],
    ["a name without a schema", "SELECT * FROM passage"],
    ["the catalog's statistics", "SELECT * FROM pg_catalog.pg_stats"],
    ["the catalog beside a table", "SELECT 1 FROM pg_catalog.pg_class, scopefloor.turn"],
    ["a file, by way of the catalog", "SELECT pg_read_file('x') FROM pg_catalog.pg_class"],
    [
      "a subtree without a bound",
      `SELECT * FROM scopefloor.passage WHERE scope_id IN (SELECT id FROM scopefloor.scope)`,
    ],
    [
      "a subtree's complement",
      `SELECT * FROM scopefloor.passage WHERE scope_id NOT IN (SELECT below.id FROM scopefloor.scope AS below WHERE below.tags @> $1::jsonb)`,
    ],
    ["an unscoped delete", `DELETE FROM scopefloor.passage WHERE id = $1`],
    ["an unscoped update", `UPDATE scopefloor.passage SET text = $1 WHERE id = $2`],
    ["a row moved", `UPDATE scopefloor.passage SET scope_id = $2 WHERE scope_id = ANY ($1::int[])`],
    [
      "an update from another table",
      `UPDATE scopefloor.passage SET text = t.content FROM scopefloor.turn t WHERE scope_id = ANY ($1::int[])`,
    ],
    ["an insertion without a scope", `INSERT INTO scopefloor.turn (id) VALUES ($1)`],
    ["an insertion without a tenant", `INSERT INTO scopefloor.turn (scope_id) VALUES ($1)`],
    [
      "an insertion of one bound row of two",
      `INSERT INTO scopefloor.turn (scope_id, tenant_id) VALUES ($1, $2), (7, $2)`,
    ],
    [
      "an insertion of one bound tenant of two",
      `INSERT INTO scopefloor.turn (scope_id, tenant_id) VALUES ($1, $2), ($1, 7)`,
    ],
    [
      "an insertion behind a star",
      `INSERT INTO scopefloor.turn (id, scope_id, tenant_id) SELECT c.*, $1::int, $2::int FROM (SELECT 1) c`,
    ],
    [
      "an insertion from a table",
      `INSERT INTO scopefloor.turn (scope_id, tenant_id, id) SELECT $1::int, $2::int, t.id FROM scopefloor.turn t`,
    ],
    ["a conflict", `INSERT INTO scopefloor.turn (scope_id, tenant_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`],
    ["query_to_xml", "SELECT query_to_xml('SELECT 1', true, false, '')"],
    ["set_config", "SELECT set_config('role', 'postgres', false)"],
    ["a large object", "SELECT lo_import('/etc/passwd')"],
    ["a setting of the session", "SET plan_cache_mode = auto"],
    ["a role", "SET LOCAL ROLE postgres"],
    ["two statements", "SELECT 1; SELECT 2"],
    ["what is no SQL", "SELEKT 1"],
    ["a table made", "SELECT 1 INTO public.x"],
    ["other commands", "TRUNCATE scopefloor.turn"],
    ["a copy", "COPY scopefloor.turn TO STDOUT"],
  ])("%s", (_, text) => {
    expect(prove(text).violations).not.toEqual([]);
  });

  // Each with nothing else wrong: the second table is guarded, the column is the scope's.
  const unguarded = (table: string) => `reaches ${table} without the visible scopes in its own query level`;
  test.each([
    [
      "columns under other names",
      "SELECT p.text FROM scopefloor.passage AS p(id, a, kind, scope_id) WHERE scope_id = ANY ($1::int[])",
      unguarded("passage"),
    ],
    [
      "the scope of an outer table, in a lateral",
      `SELECT * FROM ${visible("turn", "t")}, LATERAL (SELECT * FROM scopefloor.passage p WHERE t.scope_id = ANY ($1::int[])) q`,
      unguarded("passage"),
    ],
    [
      "the scope of a table beside an update's",
      `UPDATE scopefloor.passage SET text = 'x' FROM ${visible("turn", "t")} WHERE t.scope_id = ANY ($1::int[])`,
      unguarded("passage"),
    ],
    [
      "the scope of what a deletion uses",
      "DELETE FROM scopefloor.passage p USING (SELECT 1 AS scope_id) t WHERE t.scope_id = ANY ($1::int[])",
      unguarded("passage"),
    ],
    [
      "the outer scope, on a table without one",
      `SELECT (SELECT max(secret) FROM scopefloor.ticket_secret WHERE scope_id = ANY ($1::int[])) FROM ${visible("turn", "t")}`,
      unguarded("ticket_secret"),
    ],
    [
      "a subtree of the outer row",
      `SELECT * FROM scopefloor.turn s WHERE s.scope_id IN (SELECT s.id FROM scopefloor.embedder below WHERE s.tags @> $1::jsonb)`,
      unguarded("turn"),
    ],
    [
      "a subtree of another table of that name",
      `WITH other AS (SELECT 1 AS id, '{}'::jsonb AS tags) SELECT * FROM scopefloor.passage WHERE scope_id IN (SELECT below.id FROM other AS below WHERE below.tags @> $1::jsonb)`,
      unguarded("passage"),
    ],
    [
      "a partition by itself",
      "SELECT * FROM scopefloor.decision_trace_rest WHERE scope_id = ANY ($1::int[])",
      unguarded("decision_trace_rest"),
    ],
    [
      "another database's table",
      "SELECT * FROM other.scopefloor.turn WHERE scope_id = ANY ($1::int[])",
      unguarded("turn"),
    ],
    [
      "a subquery in the name of the catalog",
      "WITH pg_stats AS (SELECT 1) SELECT * FROM pg_stats",
      "takes the name of pg_stats",
    ],
    ["a subquery in the name of a table", "WITH turn AS (SELECT 1) SELECT * FROM turn", "takes the name of turn"],
    ["a change without a schema", "WITH x AS (SELECT 1) DELETE FROM x", "names x without a schema"],
    [
      "an insertion behind a hidden star",
      "INSERT INTO scopefloor.turn (seq, id, scope_id, tenant_id) SELECT (c).*, $2, $1, $3 FROM (SELECT 1, 7) c",
      unguarded("turn"),
    ],
    [
      "a scope that is rounded",
      "INSERT INTO scopefloor.turn (scope_id, tenant_id) VALUES ($1::numeric(5, -1), $2)",
      unguarded("turn"),
    ],
    ["a scope renamed", "UPDATE scopefloor.scope SET tags = $2 WHERE id = $1::int", "moves rows to another scope"],
    ["models changed", "DELETE FROM scopefloor.embedder", unguarded("embedder")],
    ["the catalog changed", "WITH d AS (DELETE FROM pg_catalog.pg_class) SELECT 1", "reads pg_catalog.pg_class"],
    [
      "a statement in a string",
      "SELECT * FROM ts_stat('SELECT to_tsvector(text) FROM scopefloor.passage')",
      "calls ts_stat",
    ],
    ["a function of the owner's", "SELECT scopefloor.named_scopes()", "calls scopefloor.named_scopes"],
    ["a function of the worker's", "SELECT scopefloor.take_job(1, 2)", "calls scopefloor.take_job"],
    ["a function of anybody's", "SELECT public.leak()", "calls public.leak"],
    ["a transaction that goes on", "COMMIT AND CHAIN", "is TRANS_STMT_COMMIT"],
    ["a transaction kept for later", "PREPARE TRANSACTION 'x'", "is TRANS_STMT_PREPARE"],
  ])("%s", (_, text, violation) => {
    expect(prove(text).violations).toEqual([violation]);
  });
});

describe("the owner's statements, which neither lock is on,", () => {
  const graph = (name: string, where: string) =>
    `CREATE INDEX CONCURRENTLY ${name} ON scopefloor.passage USING hnsw ((embedding::halfvec(3)) halfvec_cosine_ops) ${where}`;

  test.each([
    ["a definer function", "SELECT scopefloor.purge_old() AS n"],
    ["how large tables are", "SELECT c.relname FROM pg_class c WHERE pg_relation_size(c.oid) > $1"],
    ["a vacuum", "VACUUM (FULL, ANALYZE) scopefloor.passage"],
    ["a graph of one scope", graph("passage_graph_7_1", "WHERE scope_id = 7 AND embedder_id = 1")],
    ["its end", "DROP INDEX CONCURRENTLY IF EXISTS scopefloor.passage_graph_7_1"],
  ])("may be %s", (_, text) => {
    expect(prove(text, "owner").violations).toEqual([]);
  });

  test.each([
    ["read a table", "SELECT count(*) FROM scopefloor.passage", "the owner reads scopefloor.passage"],
    [
      "read one in a subquery",
      "SELECT 1 WHERE EXISTS (SELECT 1 FROM scopefloor.turn)",
      "the owner reads scopefloor.turn",
    ],
    ["read one beside the catalog", "SELECT 1 FROM pg_class, scopefloor.turn", "the owner reads scopefloor.turn"],
    ["read one without a schema", "SELECT * FROM passage", "the owner reads pg_catalog.passage"],
    ["read samples of columns", "SELECT most_common_vals FROM pg_stats", "the owner reads pg_catalog.pg_stats"],
    ["read secrets", "SELECT rolpassword FROM pg_authid", "the owner reads pg_catalog.pg_authid"],
    ["read what others ask", "SELECT query FROM pg_stat_activity", "the owner reads others' statements"],
    [
      "run a statement in a string",
      "SELECT query_to_xml('SELECT * FROM scopefloor.passage', true, false, '')",
      "the owner calls query_to_xml",
    ],
    ["read a file", "SELECT pg_read_file('x')", "the owner calls pg_read_file"],
    ["set something by a call", "SELECT set_config('row_security', 'off', false)", "the owner calls set_config"],
    [
      "change a table, even by its scope",
      `UPDATE scopefloor.turn SET content = '' WHERE scope_id = ANY ($1::int[])`,
      "is of another kind: UpdateStmt",
    ],
    ["copy one", "COPY scopefloor.turn TO STDOUT", "is of another kind: CopyStmt"],
    ["be several", "SELECT 1; SELECT 2", "is not exactly one statement"],
    ["drop a table", "DROP TABLE scopefloor.passage_graph_7", "drops passage_graph_7"],
    ["drop a policy", "DROP POLICY read ON scopefloor.turn", "drops read"],
    ["take a role", "SET ROLE postgres", "sets role"],
    ["set aside what the tables demand", "SET session_replication_role = replica", "sets session_replication_role"],
    ["change the server", "ALTER SYSTEM SET archive_command = 'x'", "sets archive_command"],
    ["vacuum what it does not own", "VACUUM pg_catalog.pg_authid", "vacuums pg_catalog.pg_authid"],
    [
      "make a graph of everybody",
      graph("passage_graph_all", ""),
      "makes the index passage_graph_all, which is no graph of one scope",
    ],
    [
      "make another index",
      graph("leak", "WHERE scope_id = 7 AND embedder_id = 1"),
      "makes the index leak, which is no graph of one scope",
    ],
  ])("may not %s", (_, text, violation) => {
    expect(prove(text, "owner").violations).toEqual([violation]);
  });

  test("may not change rows inside a query", () => {
    const { violations } = prove("WITH d AS (DELETE FROM pg_policy) SELECT 1", "owner");
    expect(violations).toContain("changes rows");
  });

  test("are none but these: start, first key, housekeeping, graphs, journal, replay, audit, scrub", async () => {
    const folder = await mkdtemp(join(tmpdir(), "scopefloor-owner-"));
    const receipts = join(folder, "receipts.jsonl");
    await writeFile(receipts, "");
    const service = await startService();
    try {
      const proven = proving(service.database);
      await registerModels(modelRegistry(proven), LOCAL_MODELS, silent);
      await ensureFirstKey(proven, { configured: undefined, dataDir: folder });
      for (let n = 0; n < 6; n++) await service.operator.remember(`knot number ${n}`, { scopes: "org/knots" });
      await runHousekeeping(proven, new Date());
      await reconcileGraphs(proven, { least: 5, log: silent, isStopped: () => false });
      await service.operator.post("/forget", { query: "knot number 3", scopes: "org/knots", purge: true });
      await receiptJournal(proven, receipts).save();
      const unknown = (await readFile(receipts, "utf8")).replaceAll(
        /"id":"(.)/g,
        (_, first) => `"id":"${first === "0" ? 1 : 0}`,
      );
      await writeFile(receipts, unknown);
      expect(await replayReceipts(proven, receipts, silent)).toBeGreaterThan(0);
      await auditCatalog((text, params) => inTransaction(proven.owner, (owner) => owner.query(text, params)));
      // Of a server that others use, the log is not turned over here: erasure-files.test.ts does.
      if (!onPostgres()) await scrub(proven, ({ failed }) => expect(failed).toBeUndefined());
      await proven.assertProven();
      const sent = proven.sent.filter(({ role }) => role === "owner").map(({ text }) => text);
      for (const each of ["register_embedder", "ensure_trace_partition", "journal_lines", "begin_replay"]) {
        expect(
          sent.filter((text) => text.includes(`scopefloor.${each}(`)),
          each,
        ).toHaveLength(1);
      }
      expect(sent.filter((text) => /^\s*CREATE INDEX/.test(text))).toHaveLength(onPostgres() ? 1 : 0);
    } finally {
      await service.stop();
      await rm(folder, { recursive: true });
    }
  });
});

test("what requests and jobs send is captured, each under its own role", async () => {
  const service = await startService({ worker: {} });
  try {
    const agent = await service.mint("agent", { org: "captured" });
    await agent.processed((await agent.upload("a captured plover", "plover.txt")).body.id);
    expect(await agent.recall("plover")).toEqual(["a captured plover"]);
    const captured = (role: string, part: string) =>
      service.sent.some((one) => one.role === role && one.text.includes(part));
    expect(captured("app", `insert into "scopefloor"."document_content"`)).toBe(true);
    expect(captured("app", `FROM "scopefloor"."posting_block"`)).toBe(true);
    expect(captured("worker", `INSERT INTO "scopefloor"."passage"`)).toBe(true);
  } finally {
    await service.stop();
  }
});

describe("a scope that was not granted in this transaction is no proof", () => {
  let service: TestService;
  let own: Client;
  let scopes: Map<string, readonly unknown[]>;

  beforeAll(async () => {
    service = await startService();
    own = await service.mint("agent", { org: "own" });
    for (const agent of [own, await service.mint("agent", { org: "other" })]) await agent.remember("a word");
    const rows = await service.database.sql(
      "SELECT id, tenant_id AS tenant, tags->>'org' AS org FROM scopefloor.scope",
    );
    scopes = new Map([["general", [0, 0]], ...rows.map(({ id, tenant, org }) => [String(org), [id, tenant]] as const)]);
    scopes.set("own, as another's", [scopes.get("own")?.[0], scopes.get("other")?.[1]]);
  });
  afterAll(() => service.stop());

  const within = `("scope_id" = ANY ($1::int[]) AND tenant_id = ANY ($2::int[]))`;
  const read = (table: string, where = within) =>
    `SELECT count(*) FROM (SELECT * FROM "scopefloor"."${table}" WHERE ${where}) AS t`;
  const taken = `DELETE FROM "scopefloor"."passage" WHERE ${within}`;

  test.each<[string, readonly (readonly [text: string, of: string])[], RegExp | undefined]>([
    ["its own, in its own (the control)", [[read("turn"), "own"]], undefined],
    ["general knowledge (the control)", [[read("passage"), "general"]], undefined],
    ["another's", [[read("turn"), "other"]], /\$1 holds a scope that was not granted \(read turn\)/],
    ["general turns", [[read("turn"), "general"]], /\(read turn\)/],
    ["its own, without a tenant", [[read("turn", `"scope_id" = ANY ($1::int[])`), "own"]], /without its tenant/],
    ["its own, as another's", [[read("turn"), "own, as another's"]], /\$2 holds a tenant that was not granted/],
    ["general knowledge deleted", [[taken, "general"]], /\(change passage\)/],
    [
      "its own, when the transaction has ended",
      [
        [read("turn"), "own"],
        ["COMMIT", ""],
        ["BEGIN", ""],
        [read("turn"), "own"],
      ],
      /\(read turn\)/,
    ],
  ])("%s", async (_, statements, expected) => {
    const proven = proving(service.database);
    const lease = await proven.app.acquire();
    await lease.query("BEGIN");
    await lease.query("SELECT scopefloor.enter($1, 'memory:read', $2, NULL, NULL) AS answer", [
      hashSecret(own.key),
      JSON.stringify({ mode: "select", context: "default" }),
    ]);
    for (const [text, of] of statements) {
      const bound = (scopes.get(of) ?? []).map((id) => `{${id}}`);
      await lease.query(text, text.includes("$2") ? bound : bound.slice(0, 1));
    }
    await lease.query("ROLLBACK");
    await lease.release();
    if (expected === undefined) await proven.assertProven();
    else await expect(proven.assertProven()).rejects.toThrow(expected);
  });
});

describe.runIf(onPostgres())("the look at the plans", () => {
  const guarded = `SELECT t.id FROM ${visible("turn", "t")}`;

  test("misses neither lock when it is not there, and no other", async () => {
    const service = await startService();
    const look = (text: string) => checkPlans(service.database.url ?? "", [{ role: "app", text }]);
    try {
      await expect(look(guarded)).resolves.toBe(1);
      await expect(look("SELECT t.id FROM scopefloor.turn t WHERE t.seq = $1")).rejects.toThrow(/no visible scopes/);
      // A condition on the row's own id is not one on its scope.
      await expect(look("SELECT t.id FROM scopefloor.turn t WHERE t.id = $1")).rejects.toThrow(/no visible scopes/);
      await expect(look("SELECT t.id FROM scopefloor.turn t WHERE t.id = ANY ($1)")).rejects.toThrow(
        /no visible scopes/,
      );
      await expect(
        look(`${guarded} WHERE EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.turn_id = t.id)`),
      ).rejects.toThrow(/passage as p: no visible scopes/);
      const mine = `SELECT t.id FROM scopefloor.turn t WHERE t.scope_id = ANY ($1::int[]) AND`;
      // Nor is another list of ids one of visible scopes, though the planner hashes it too.
      await expect(
        look("SELECT t.id FROM scopefloor.turn t WHERE t.scope_id IN (SELECT e.id FROM scopefloor.embedder e) OR $1"),
      ).rejects.toThrow(/turn as t: no visible scopes/);
      for (const loose of [
        "t.scope_id = ANY ($1::int[]) OR t.role = 'user'",
        "(t.scope_id = ANY ($1::int[])) IS NOT TRUE",
        "t.role <> 'scope_id = ANY ($1)' AND $1::int[] IS NOT NULL",
        "t.scope_id <> ALL ($1::int[])",
      ]) {
        await expect(look(`SELECT t.id FROM scopefloor.turn t WHERE ${loose}`), loose).rejects.toThrow(
          /turn as t: no visible scopes/,
        );
      }
      await service.database.sql("ALTER TABLE scopefloor.turn DISABLE ROW LEVEL SECURITY");
      // Nor is what a statement computes first the list of a policy.
      await expect(look(`${mine} t.scope_id = (SELECT max($2::int))`)).rejects.toThrow(/turn as t: no policy/);
      await expect(look(`${mine} t.seq = (SELECT scopefloor.insertable())`)).rejects.toThrow(/turn as t: no policy/);
      await expect(
        look(`${mine} (t.scope_id = ANY ((SELECT scopefloor.readable())::int[]) OR t.seq > $2)`),
      ).rejects.toThrow(/turn as t: no policy/);
      await expect(look(guarded)).rejects.toThrow(/turn as turn: no policy/);
    } finally {
      await service.stop();
    }
  });
});

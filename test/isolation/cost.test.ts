import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { onPostgres } from "../harness/database.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { pause } from "../harness/service-process.ts";

/**
 * What one tenant's requests read beside a million rows of others: PostgreSQL's own plans of every statement,
 * those inside of functions too (auto_explain), as they ran.
 */
interface PlanNode {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Index Name"?: string;
  readonly "Index Cond"?: string;
  readonly "Actual Rows"?: number;
  readonly "Actual Loops"?: number;
  readonly "Rows Removed by Filter"?: number;
  readonly "Rows Removed by Index Recheck"?: number;
  readonly Plans?: readonly PlanNode[];
}

/** Tables with rows of tenants; others are small, or hold one row a tenant and are the directory. */
const ROWS: readonly string[] = [
  "passage",
  "posting_block",
  "segment",
  "session",
  "turn",
  "document",
  "keyword",
  "chunk_band",
  "entity",
  "attribute",
  "relation",
  "memory_item",
  "scope",
  "scope_counter",
  "api_key",
  "idempotency",
  "access_denied",
  "forget_receipt",
  "tenant",
];
const isOfRows = (table: string) => ROWS.includes(table) || table.startsWith("decision_trace");
/** More than a small tenant has of anything. */
const FEW = 400;

/** Foreign rows, each table in one statement. */
const FOREIGN = `
  SET session_replication_role = replica;
  INSERT INTO scopefloor.tenant (id, root) SELECT n, jsonb_build_object('org', 'foreign' || n) FROM generate_series(1000, 20999) n;
  INSERT INTO scopefloor.scope (id, tenant_id, tags) SELECT n, n, jsonb_build_object('org', 'foreign' || n) FROM generate_series(1000, 20999) n;
  INSERT INTO scopefloor.api_key (id, tenant_id, scope_id, parent_id, name, principal, floor, verbs, minted_verbs, secret_hash)
    SELECT gen_random_uuid(), n, n, (SELECT id FROM scopefloor.api_key WHERE parent_id IS NULL), 'key ' || n, 'agent', jsonb_build_object('org', 'foreign' || n),
      '{memory:read}', '{memory:read}', sha256(convert_to(n::text, 'UTF8')) FROM generate_series(1000, 20999) n;
  INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, query, duration_ms, status)
    SELECT gen_random_uuid(), 'retrieval', 'query', 1000 + n % 20000, 1000 + n % 20000, jsonb_build_object('org', 'foreign' || 1000 + n % 20000), gen_random_uuid(), 'agent', 'asked', 1, 'ok'
    FROM generate_series(1, 400000) n;
  INSERT INTO scopefloor.access_denied (tenant_id, scope_id, id, api_key_id, floor, asked, named, route, reason)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), gen_random_uuid(), jsonb_build_object('org', 'foreign'), '[{"tags": {"org": "other"}}]', '[{"org": "other"}]', 'POST', 'no'
    FROM generate_series(1, 50000) n;
  INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, api_key_id)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), jsonb_build_object('org', 'foreign' || n), false, 'erase', 'query', '{}', gen_random_uuid() FROM generate_series(1, 50000) n;
  INSERT INTO scopefloor.session (tenant_id, scope_id, id, api_key_id) SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 50000) n;
  INSERT INTO scopefloor.passage (tenant_id, scope_id, id, kind, api_key_id, text, tokens, lexemes, observed_at, session_id, turn_id, starts_at, ends_at)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), 'turn', gen_random_uuid(), 'foreign text', 2, 2, now(), gen_random_uuid(), gen_random_uuid(),
      now() + make_interval(hours => n - 75000), now() + make_interval(hours => n - 70000) FROM generate_series(1, 150000) n;
  INSERT INTO scopefloor.segment (tenant_id, scope_id, first_seq, last_seq, passages, places, bits)
    SELECT n, n, 1, 7, 7, 7, 0 FROM generate_series(1000, 20999) n;
  INSERT INTO scopefloor.posting_block (tenant_id, scope_id, segment_id, key, first, data)
    SELECT 1000 + n % 20000, 1000 + n % 20000, n % 20000, n / 20000, 0, '\\x0000' FROM generate_series(1, 150000) n;
  INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, passages, tokens, lexemes, bytes) SELECT n, n, 7, 14, 14, 90 FROM generate_series(1000, 20999) n;
  INSERT INTO scopefloor.turn (tenant_id, scope_id, id, session_id, api_key_id, role, content, seq, observed_at)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'user', 'foreign', n, now() FROM generate_series(1, 50000) n;
  INSERT INTO scopefloor.entity (tenant_id, scope_id, id, type, name, name_hash, folded_hash, api_key_id)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), 'Person', 'Ann', gen_random_uuid(), gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 50000) n;
  INSERT INTO scopefloor.attribute (tenant_id, scope_id, id, entity_id, key, key_hash, value, valid_from, observation_id, valid_until, api_key_id)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), gen_random_uuid(), 'drink', gen_random_uuid(), '"tea"', now(), gen_random_uuid(), now() + make_interval(hours => n - 25000), gen_random_uuid() FROM generate_series(1, 50000) n;
  INSERT INTO scopefloor.relation (tenant_id, scope_id, id, entity_id, target_id, key, key_hash, valid_from, observation_id, valid_until, api_key_id)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'knows', gen_random_uuid(), now(), gen_random_uuid(), now() + make_interval(hours => n - 15000), gen_random_uuid() FROM generate_series(1, 30000) n;
  INSERT INTO scopefloor.document (tenant_id, scope_id, id, api_key_id, title, mime_type, size_bytes, content_key, observed_at)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), gen_random_uuid(), 'foreign', 'text/plain', 9, gen_random_uuid(), now() FROM generate_series(1, 30000) n;
  INSERT INTO scopefloor.keyword (tenant_id, scope_id, document_id, normalised, normalised_hash, phrase, score, count)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), 'foreign', gen_random_uuid(), 'foreign', 1, 1 FROM generate_series(1, 30000) n;
  INSERT INTO scopefloor.chunk_band (tenant_id, scope_id, band, passage_id)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 30000) n;
  INSERT INTO scopefloor.memory_item (tenant_id, scope_id, key, key_hash, id, value, api_key_id)
    SELECT 1000 + n % 20000, 1000 + n % 20000, 'theme', gen_random_uuid(), gen_random_uuid(), '1', gen_random_uuid() FROM generate_series(1, 50000) n;
  INSERT INTO scopefloor.idempotency (tenant_id, scope_id, api_key_id, endpoint, key, body_hash, row_ids)
    SELECT 1000 + n % 20000, 1000 + n % 20000, gen_random_uuid(), 'POST', n::text, 'x', '{}' FROM generate_series(1, 30000) n;
  RESET session_replication_role;`;

let service: TestService;
const plans: { query: string; node: PlanNode }[] = [];

/** What auto_explain says of one statement. */
function note(message: string): void {
  const text = /plan:\s*(\{[\s\S]*\})\s*$/.exec(message)?.[1];
  if (text === undefined) return;
  const { "Query Text": query, Plan: node } = JSON.parse(text) as { "Query Text": string; Plan: PlanNode };
  plans.push({ query, node });
}

/** What a plan has read of tenants' rows that was not few, or by no scope. */
function excessOf({ query, node }: { query: string; node: PlanNode }): string[] {
  const table = node["Relation Name"] ?? "";
  const read =
    (node["Actual Rows"] ?? 0) + (node["Rows Removed by Filter"] ?? 0) + (node["Rows Removed by Index Recheck"] ?? 0);
  const all = read * (node["Actual Loops"] ?? 1);
  const isTooMuch = isOfRows(table) && all > FEW;
  const own = isTooMuch
    ? [`${node["Node Type"]} of ${table}, ${all} rows: ${query.replace(/\s+/g, " ").slice(0, 300)}`]
    : [];
  return [...own, ...(node.Plans ?? []).flatMap((inner) => excessOf({ query, node: inner }))];
}

describe.runIf(onPostgres())("beside a million rows of others (threat 39)", { tags: ["long"] }, () => {
  beforeAll(async () => {
    service = await startService({ onNotice: note, worker: {} });
    const name = new URL(service.database.url ?? "").pathname.slice(1);
    await service.database.sql(FOREIGN);
    await service.database.sql("ANALYZE");
    for (const setting of [
      "session_preload_libraries = 'auto_explain'",
      "auto_explain.log_min_duration = 0",
      "auto_explain.log_nested_statements = on",
      "auto_explain.log_analyze = on",
      "auto_explain.log_timing = off",
      "auto_explain.log_format = json",
      "auto_explain.log_level = notice",
    ]) {
      await service.database.sql(`ALTER DATABASE ${name} SET ${setting}`);
    }
    // New connections have the settings.
    await service.database.sql(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name IN ('scopefloor', 'scopefloor worker')",
    );
    await pause(300);
    while ((await service.operator.get("/contexts")).status !== 200) await pause(50);
  }, 180_000);
  afterAll(() => service.stop());

  test("a tenant's requests and jobs read its own rows", async () => {
    const operator = service.operator;
    const acme = await service.mint("agent", { org: "acme" });
    const admin = await service.mint("management", { org: "acme" });
    plans.length = 0;
    await requests(acme, admin);
    expect(plans.length).toBeGreaterThan(300);
    const excess = [...new Set(plans.flatMap(excessOf))];
    expect(excess).toEqual([]);
    // The control: what reads everything is seen to.
    plans.length = 0;
    await operator.get("/contexts/default/keys");
    expect(plans.flatMap(excessOf).length).toBeGreaterThan(0);
  }, 120_000);
});

/** One of everything that a tenant's agent and administrator ask for. */
async function requests(acme: Client, admin: Client): Promise<void> {
  const ok = async (answer: Promise<{ status: number; text: string }>) => {
    const { status, text } = await answer;
    if (status >= 300) throw new Error(`${status} ${text}`);
  };
  const { sessionId } = await acme.remember("Ann drinks tea in the harbour");
  await ok(
    acme.post("/facts/batch", {
      messages: [
        { role: "user", content: "the theme is dark" },
        { role: "assistant", content: "noted" },
      ],
    }),
  );
  await ok(
    acme.post(
      "/facts",
      {
        infer: "triples",
        triples: [
          { entity: { type: "Person", name: "Ann" }, key: "drink", value: "tea" },
          { entity: { type: "Person", name: "Ann" }, key: "knows", target: { type: "Person", name: "Max" } },
        ],
      },
      { headers: { "idempotency-key": "one" } },
    ),
  );
  await ok(acme.call("PUT", "/memory/theme", { value: "dark" }));
  const { body } = await acme.upload("# Harbour\n\nThe harbour master keeps the ledger of every ship.", "harbour.md", {
    title: "Harbour",
  });
  await acme.processed(body.id);
  const { hits } = (
    await acme.post<{ hits: object[]; trace: { traceId: string } }>("/query", { query: "harbour tea", k: 10 })
  ).body;
  expect(hits.length).toBeGreaterThan(0);
  const ann = (value: string, observedAt: string) =>
    acme.post("/facts", {
      triples: [
        { entity: { type: "Person", name: "Ann" }, key: "drink", value, memoryCategory: "context" },
        { entity: { type: "Person", name: "Ann" }, key: "knows", target: { type: "Person", name: value } },
      ],
      observedAt,
    });
  for (const value of ["juice", "juice", "milk"]) await ok(ann(value, "2024-05-01T00:00:00Z"));
  await ok(ann("juice", "2024-03-01T00:00:00Z"));
  await ok(ann("wine", "2090-03-01T00:00:00Z"));
  const now = new Date().toISOString();
  const moments: readonly Record<string, string>[] = [
    { asOf: now },
    { atInstant: "2024-04-01T00:00:00Z" },
    { asOf: now, validFrom: "2024-04-01T00:00:00Z", validUntil: "2024-06-01T00:00:00Z" },
  ];
  for (const moment of moments) {
    await ok(acme.post("/query", { query: "what does Ann drink", ...moment }));
    await ok(acme.post("/query", { query: "What is Ann's drink?", ...moment }));
    await ok(acme.post("/query", { query: "zzyzx", ...moment }));
    await ok(acme.get(`/entities/Person/Ann?${new URLSearchParams(moment)}`));
  }
  await ok(acme.get("/entities/Person/Ann/history/drink"));
  await ok(acme.post("/lifecycle/expire", {}));
  await ok(acme.post("/fsck", {}));
  await ok(admin.post("/fsck", {}));
  await ok(acme.post("/forget", { query: "juice", purge: true }));
  for (const query of ["What is Ann's drink?", "memory:theme", "the word7 of the harbour", "word1 word2 word3"])
    await ok(acme.post("/query", { query }));
  await ok(acme.post("/query", { query: "harbour", lens: "user/bob" }));
  await ok(acme.post("/query", { query: "harbour", scopeView: "subtree", mode: "vector" }));
  await ok(acme.post("/context", { query: "harbour" }));
  await ok(acme.post("/documents/query", { query: "harbour" }));
  await ok(acme.post("/documents/keywords/search", { query: "harbour" }));
  await ok(acme.post("/documents/recompute-links", {}));
  await ok(acme.post(`/sessions/${sessionId}/context`, { query: "tea" }));
  expect((await acme.post("/query", { query: "x", lens: "org/foreign2000" })).status).toBe(403);
  for (const path of [
    "/me",
    "/usage",
    "/keys",
    "/sessions",
    `/sessions/${sessionId}`,
    `/sessions/${sessionId}/turns`,
    "/documents",
    `/documents/${body.id}`,
    `/documents/${body.id}/chunks`,
    `/documents/${body.id}/keywords`,
    "/documents/keywords",
    "/documents/keywords/harbour",
    "/memory",
    "/memory/theme",
    "/profile",
    "/state",
    "/entities",
    "/entities/Person/Ann",
    "/entities/Person/Ann/history/drink",
    "/inspect?ref=entity:Person/Ann",
    "/scopes",
    "/traces",
    "/traces/stats",
    "/audit",
    "/principals",
  ]) {
    const { status } = await acme.get(path);
    expect(status === 200 || (path === "/documents/keywords/harbour" && status === 404), `${path}: ${status}`).toBe(
      true,
    );
  }
  for (const path of [
    "/contexts/default/keys",
    "/contexts/default/usage",
    "/contexts/default/denied",
    "/contexts/default/receipts",
  ])
    await ok(admin.get(path));
  await ok(acme.post("/forget", { query: "dark theme", dryRun: true }));
  await ok(acme.post("/forget", { query: "dark theme", purge: true }));
  await ok(acme.del("/entities/Person/Max"));
  await ok(acme.call("PUT", "/memory/theme", { value: "light" }));
  await ok(acme.del("/memory/theme"));
  await ok(acme.del(`/documents/${body.id}`));
  await ok(acme.del(`/sessions/${sessionId}`));
  await ok(acme.post("/scopes/forget", { path: "user/nobody" }));
  await ok(admin.post("/scopes/forget", { path: "org/acme", confirm: "org/acme" }));
}

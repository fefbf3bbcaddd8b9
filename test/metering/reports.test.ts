import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sealAudit } from "../../src/jobs/housekeeping.ts";
import { startService, type TestService } from "../harness/service.ts";

/** The reports of docs/reporting.md, by what stands above each. */
const REPORTS = [...readFileSync("docs/reporting.md", "utf8").matchAll(/\n([^\n]+):\n\n```sql\n([\s\S]*?);\n```/g)].map(
  ([, title = "", sql = ""]) => [title, sql] as const,
);
const VIEWS =
  "budgets denials key_names receipts storage_by_day traces usage_by_day usage_by_hour usage_by_org usage_by_scope".split(
    " ",
  );

let service: TestService;
/** Rows of a statement, as a login in the reporting role has them. */
async function asReporter(sql: string): Promise<Record<string, unknown>[]> {
  const lease = await service.database.owner.acquire();
  try {
    await lease.query("BEGIN");
    await lease.query("SET LOCAL ROLE scopefloor_report");
    await lease.query("SET LOCAL search_path = public, scopefloor");
    return await lease.query(sql);
  } finally {
    await lease.query("ROLLBACK");
    await lease.release();
  }
}

beforeAll(async () => {
  service = await startService({});
  const set = (path: string, body: object) => service.operator.call("PUT", `/contexts/default/${path}`, body);
  await set("prices", { operation: "query", perCall: 0.25 });
  await set("prices", { storagePerGbMonth: 1_000 });
  await set("budgets", { scope: "org/acme", period: "month", tokenLimit: 100 });
  for (const org of ["acme", "globex"]) {
    const agent = await service.mint("agent", { org });
    await agent.remember("the harbour opens at dawn");
    for (let i = 0; i < 12; i++) await agent.post("/query", { query: "when does the harbour open" });
    await agent.post("/query", { query: "harbour", lens: "org/elsewhere" });
    await agent.post("/forget", { query: "nothing like it" });
    if (org === "acme") await sealAudit(service.database);
  }
  await service.database.sql("SELECT scopefloor.fold_holds(100), scopefloor.sample_storage()");
  await service.database.sql(
    "UPDATE scopefloor.api_key SET created_at = created_at - interval '100 days', last_used_at = NULL",
  );
  await service.database.sql(
    "UPDATE scopefloor.decision_trace SET status = 'error', provider = 'x', model = 'y', cost_usd = NULL WHERE operation = 'facts' AND scope->>'org' = 'globex'",
  );
});
afterAll(() => service.stop());

describe("docs/reporting.md", () => {
  test("has twelve reports", () => {
    expect(REPORTS).toHaveLength(12);
  });

  test.each(REPORTS)("%s: runs as the reporting role, and finds something", async (_, sql) => {
    const rows = await asReporter(sql);
    expect(rows.length).toBeGreaterThan(0);
  });

  test("top tenants are what the traces say, summed or not yet", async () => {
    const [, sql = ""] = REPORTS[0] ?? [];
    const rows = await asReporter(sql);
    expect(rows.map(({ org, usd, calls }) => [org, Number(usd), Number(calls)])).toEqual([
      ["acme", 3, 15],
      ["globex", 3, 15],
      [null, 0, 5],
    ]);
  });

  test.each(VIEWS)("SELECT * works on %s, and no column of it has content", async (view) => {
    const rows = await asReporter(`SELECT * FROM ${view}`);
    expect(rows.length).toBeGreaterThan(0);
    expect(JSON.stringify(rows)).not.toContain("harbour");
  });

  test("nothing else can be read, and nothing written", async () => {
    for (const sql of [
      "SELECT query FROM decision_trace",
      "SELECT secret_hash FROM api_key",
      "SELECT secret FROM tenant",
      "SELECT asked FROM access_denied",
      "SELECT * FROM price",
      "SELECT * FROM budget_hold",
      "SELECT scopefloor.fold_holds(1)",
      "UPDATE budget SET token_limit = 1",
      "DELETE FROM usage_hour",
    ])
      await expect(asReporter(sql), sql).rejects.toMatchObject({ code: "42501" });
  });
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runHousekeeping } from "../../src/jobs/housekeeping.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let acme: Client;
let globex: Client;

beforeAll(async () => {
  service = await startService();
  acme = await service.mint("agent", { org: "acme" });
  globex = await service.mint("agent", { org: "globex" });
});
afterAll(() => service.stop());

/** As a person in psql would: in the reporting role, without the schema's name. */
const report = async (text: string) => {
  const rows = await service.database.sql(
    `WITH role AS (SELECT 1) SELECT to_jsonb(r) AS row FROM (${text.replace(/(decision_trace|usage_by_\w+)/g, "scopefloor.$1")}) r`,
  );
  return rows.map((row) => row.row);
};

const TENANTS = `SELECT scope->>'org' AS tenant, sum(total_tokens)::int AS tokens FROM decision_trace
  WHERE created_at > now() - interval '30 days' AND scope ? 'org' GROUP BY 1 ORDER BY 2 DESC`;

describe("decision traces", () => {
  test("record one row for every retrieval, write, forget and denial, and the sums are those of the answers", async () => {
    const tokens: Record<string, number> = { acme: 0, globex: 0 };
    for (const [org, client, words] of [
      ["acme", acme, 40],
      ["globex", globex, 5],
    ] as const) {
      for (let i = 0; i < 3; i++) {
        await client.remember(`${"lorem ipsum ".repeat(words)} ${i}`, { scopes: { user: `u${i}` } });
        const answer = await client.post<{ trace: { tokens: { total: number } } }>("/query", {
          query: `lorem ${i}`,
          lens: { user: `u${i}` },
        });
        tokens[org] = (tokens[org] ?? 0) + answer.body.trace.tokens.total;
      }
      const traces = await client.get<{ traces: { operation: string; tokens: { total: number } }[] }>("/traces");
      const facts = traces.body.traces.filter((trace) => trace.operation === "facts");
      expect(facts).toHaveLength(3);
      tokens[org] = (tokens[org] ?? 0) + facts.reduce((sum, trace) => sum + trace.tokens.total, 0);
      await client.post("/forget", { query: "nothing of this kind" });
      await client.post("/query", { query: "x", lens: { org: "elsewhere" } });
    }
    const usage = await acme.get<{ totalTokens: number; calls: number; limits: unknown[]; storedBytes: number }>(
      "/usage",
    );
    const [forget] = await service.database.sql(
      "SELECT sum(total_tokens)::int AS n FROM scopefloor.decision_trace WHERE operation = 'forget' AND scope->>'org' = 'acme'",
    );
    expect(usage.body.totalTokens).toBe((tokens.acme ?? 0) + Number(forget?.n));
    expect(usage.body).toMatchObject({ calls: 8, limits: [], storedBytes: expect.any(Number) });
    expect(usage.body.storedBytes).toBeGreaterThan(1_000);

    const rows = await report(TENANTS);
    expect(rows).toEqual([
      { tenant: "acme", tokens: usage.body.totalTokens },
      { tenant: "globex", tokens: (await globex.get<{ totalTokens: number }>("/usage")).body.totalTokens },
    ]);
    const kinds = await report(
      "SELECT kind, operation, status, count(*)::int AS n FROM decision_trace WHERE scope->>'org' = 'acme' GROUP BY 1, 2, 3 ORDER BY 1, 2",
    );
    expect(kinds).toEqual([
      { kind: "decision", operation: "facts", status: "ok", n: 3 },
      { kind: "denied", operation: "query", status: "denied", n: 1 },
      { kind: "forget", operation: "forget", status: "ok", n: 1 },
      { kind: "retrieval", operation: "query", status: "ok", n: 3 },
    ]);
  });

  test("a refused or failed request leaves no trace of work that was not done", async () => {
    const count = async () =>
      (await service.database.sql("SELECT count(*)::int AS n FROM scopefloor.decision_trace"))[0]?.n;
    const before = await count();
    await acme.post("/facts", { text: "x", session_id: "01900000-0000-7000-8000-000000000000" });
    await acme.post("/query", { query: "x", k: 99 });
    expect(await count()).toBe(before);
  });

  test("the views sum by scope and by day", async () => {
    const [scope] = await report(
      'SELECT scope, calls::int FROM usage_by_scope WHERE scope = \'{"org":"acme","user":"u1"}\'',
    );
    expect(scope).toEqual({ scope: { org: "acme", user: "u1" }, calls: 2 });
    const days = await report("SELECT sum(calls)::int AS calls FROM usage_by_day WHERE scope->>'org' = 'acme'");
    expect(days).toEqual([{ calls: 8 }]);
  });

  test("an agent sees its own key's, a supervisor and an administrator their floor's", async () => {
    const sibling = await service.mint("agent", { org: "acme" });
    const supervisor = await service.mint("supervisor", { org: "acme" });
    const admin = await service.mint("management", { org: "acme" });
    expect((await sibling.get<{ traces: unknown[] }>("/traces")).body.traces).toEqual([]);
    for (const client of [supervisor, admin]) {
      const { body } = await client.get<{ traces: { scope: { org: string } }[] }>("/traces?limit=500");
      expect(body.traces.length).toBeGreaterThanOrEqual(8);
      expect(new Set(body.traces.map((trace) => trace.scope.org))).toEqual(new Set(["acme"]));
      const stats = await client.get<{ total: number; byOperation: Record<string, number> }>("/traces/stats");
      expect(stats.body).toMatchObject({ byOperation: { facts: 3, query: 4 } });
    }
    expect((await sibling.get<{ total: number }>("/traces/stats")).body.total).toBe(0);
  });

  test("stats are invariant under foreign traffic (threat 13)", async () => {
    const before = (await acme.get("/traces/stats")).text;
    await globex.remember("noise");
    await globex.post("/query", { query: "noise" });
    expect((await acme.get("/traces/stats")).text).toBe(before);
  });

  test("lists page without gaps or repeats, and never leave the floor (threat 5)", async () => {
    const seen: string[] = [];
    for (let offset = 0; ; offset += 3) {
      const { body } = await acme.get<{ traces: { id: string; scope: { org: string } }[] }>(
        `/traces?limit=3&offset=${offset}`,
      );
      if (body.traces.length === 0) break;
      for (const trace of body.traces) {
        expect(trace.scope.org).toBe("acme");
        seen.push(trace.id);
      }
    }
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen.length).toBeGreaterThanOrEqual(8);
  });

  test("management sums by scope, org, key, model, operation and day", async () => {
    for (const groupBy of ["scope", "org", "key", "model", "operation", "day"]) {
      const { body } = await service.operator.get<{ rows: { group: unknown; calls: number; totalTokens: number }[] }>(
        `/contexts/default/usage?groupBy=${groupBy}&scope=org/acme`,
      );
      expect(body.rows.length, groupBy).toBeGreaterThan(0);
      expect(
        body.rows.reduce((sum, row) => sum + row.totalTokens, 0),
        groupBy,
      ).toBe((await acme.get<{ totalTokens: number }>("/usage")).body.totalTokens);
    }
    expect((await service.operator.get("/contexts/default/usage?groupBy=secret")).status).toBe(400);
  });

  test("lastUsedAt is noted, and housekeeping changes no sum", async () => {
    const before = (await acme.get("/usage")).text;
    await runHousekeeping(service.database, new Date());
    await runHousekeeping(service.database, new Date());
    expect((await acme.get("/usage")).text).toBe(before);
    await expect
      .poll(async () => (await acme.get<{ lastUsedAt: string | null }[]>("/keys")).body[0]?.lastUsedAt)
      .toEqual(expect.any(String));
  });
});

test("the reporting role can run the report, and cannot read a query's text", async () => {
  await service.database.sql("SET ROLE scopefloor_report; RESET ROLE");
  const run = (text: string) =>
    service.database.sql(`DO $$ BEGIN SET LOCAL ROLE scopefloor_report; PERFORM ${text}; RESET ROLE; END $$`).then(
      () => "done",
      (error: { code?: string }) => error.code,
    );
  expect(await run("scope->>'org', sum(total_tokens) FROM scopefloor.decision_trace GROUP BY 1")).toBe("done");
  expect(await run("* FROM scopefloor.usage_by_day")).toBe("done");
  for (const secret of ["query", "sources", "error"])
    expect(await run(`${secret} FROM scopefloor.decision_trace`)).toBe("42501");
  for (const table of ["passage", "turn", "document", "entity", "job", "price", "budget_hold"])
    expect(await run(`1 FROM scopefloor.${table}`), table).toBe("42501");
  for (const secret of [
    "secret_hash FROM scopefloor.api_key",
    "asked FROM scopefloor.access_denied",
    "target FROM scopefloor.forget_receipt",
  ])
    expect(await run(secret), secret).toBe("42501");
});

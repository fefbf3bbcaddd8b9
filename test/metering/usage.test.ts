import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { endpoints } from "../../src/http/routes/index.ts";
import { sealAudit } from "../../src/jobs/housekeeping.ts";
import type { Bill } from "../../src/metering/bill.ts";
import { PRICED_OPERATIONS } from "../../src/metering/prices.ts";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

interface UsageRow {
  readonly group?: unknown;
  readonly calls: number;
  readonly totalTokens: number;
  readonly costUsd: number;
  readonly storedBytes?: number;
}

let service: TestService;
let provider: EmbeddingProvider;
const month = new Date().toISOString().slice(0, 7);
const usage = async (query: string, by: Client = service.operator) =>
  (await by.get<{ rows: UsageRow[] }>(`/contexts/default/usage?${query}`)).body.rows;
const billOf = async (query: string, by: Client = service.operator) => {
  const answer = await by.get<Bill>(`/contexts/default/usage/bill?month=${month}&${query}`);
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
};
const raw = async (where: string) => {
  const [row] = await service.database.sql(
    `SELECT count(*)::int AS calls, coalesce(sum(total_tokens), 0)::int AS tokens, coalesce(sum(cost_usd), 0)::float8 AS cost FROM scopefloor.decision_trace d WHERE ${where}`,
  );
  return row as { calls: number; tokens: number; cost: number };
};
const price = (body: object) => service.operator.call<{ id: string }>("PUT", "/contexts/default/prices", body);

beforeAll(async () => {
  provider = await startProvider();
  service = await startService({ models: provider.models });
});
afterAll(async () => {
  await service.stop();
  await provider.stop();
});

describe("prices", () => {
  test("a trace is priced when it is written, and keeps its cost whatever becomes of the price", async () => {
    const agent = await service.mint("agent", { org: "priced" });
    const cost = async () =>
      (
        await service.database.sql(
          "SELECT cost_usd FROM scopefloor.decision_trace WHERE operation = 'facts' AND scope->>'org' = 'priced' ORDER BY created_at",
        )
      ).map(({ cost_usd }) => (cost_usd === null ? null : Number(cost_usd)));
    await agent.remember("before any price");
    await price({ model: "scripted", embeddingPerMillion: 0.02 });
    await agent.remember("by the model's name");
    await price({ model: "openai:scripted", embeddingPerMillion: 0.13 });
    await agent.remember("by provider and name");
    await price({ operation: "facts", perCall: 0.001 });
    await agent.remember("and by the call");
    await price({
      model: "openai:scripted",
      embeddingPerMillion: 99,
      effectiveFrom: new Date(Date.now() + 3_600_000).toISOString(),
    });
    await agent.remember("not yet");
    expect(await cost()).toEqual([null, 0.00002, 0.00013, 0.00113, 0.00113]);
    const { body } = await service.operator.get<{ prices: { id: string; model?: string }[] }>(
      "/contexts/default/prices",
    );
    expect(body.prices.map(({ model }) => model)).toEqual([
      "openai:scripted",
      "openai:scripted",
      "scripted",
      undefined,
    ]);
    for (const { id } of body.prices)
      expect((await service.operator.del(`/contexts/default/prices?id=${id}`)).status).toBe(204);
    expect(await cost()).toEqual([null, 0.00002, 0.00013, 0.00113, 0.00113]);
    expect((await service.operator.del("/contexts/default/prices?model=scripted")).status).toBe(404);
  });

  test("of a model, what is left out stays; only what there is has a price by the call", async () => {
    const model = "kept:model";
    await price({ model, embeddingPerMillion: 1, inputPerMillion: 2 });
    const next = await price({ model, inputPerMillion: 3 });
    expect(next.body).toMatchObject({ embeddingPerMillion: 1, inputPerMillion: 3 });
    expect((await service.operator.del(`/contexts/default/prices?model=${model}`)).status).toBe(204);
    const misspelt = await price({ operation: "qurey", perCall: 1 });
    expect([misspelt.status, misspelt.text]).toEqual([400, expect.stringContaining("profile, query,")]);
    const ofMemory = endpoints.filter(
      ({ verb, countsAgainstBudgets, operation }) =>
        verb.startsWith("memory:") && countsAgainstBudgets && operation !== "not_built",
    );
    expect(ofMemory.length).toBeGreaterThan(20);
    for (const { operation } of ofMemory) expect(PRICED_OPERATIONS).toContain(operation);
  });

  test("are the operator's to set, and a tenant's administrator reads them", async () => {
    const owner = await service.mint("management", { org: "priced" });
    expect((await owner.call("PUT", "/contexts/default/prices", { model: "m", inputPerMillion: 0 })).status).toBe(403);
    expect((await owner.del("/contexts/default/prices?model=scripted")).status).toBe(403);
    expect((await owner.get("/contexts/default/prices")).status).toBe(200);
    for (const body of [
      {},
      { model: "m" },
      { model: "m", perCall: 1 },
      { operation: "query" },
      { operation: "query", inputPerMillion: 1 },
      { model: "m", operation: "query", perCall: 1 },
      { model: "m", inputPerMillion: -1 },
      { model: "m", inputPerMillion: "1" },
      { model: "m", inputPerMillion: 1, effectiveFrom: "tomorrow" },
    ])
      expect((await price(body)).status, JSON.stringify(body)).toBe(400);
  });

  test("input from the provider's cache has a price of its own", async () => {
    await price({ model: "chatty", inputPerMillion: 2, cachedInputPerMillion: 0.5, outputPerMillion: 8 });
    const [row] = await service.database.sql(`
      SELECT scopefloor.cost_of('chat', 'x', 'chatty', 1000, 400, 100, 0, now())::float8 AS cost,
             scopefloor.cost_of('chat', 'x', 'chatty', 0, 0, 0, 5, now()) AS unpriced,
             scopefloor.cost_of('chat', 'local', 'anything', 1000, 0, 100, 5, now())::float8 AS local`);
    expect(row).toEqual({ cost: (600 * 2 + 400 * 0.5 + 100 * 8) / 1e6, unpriced: null, local: 0 });
  });
});

describe("usage", () => {
  let agents: Client[];
  beforeAll(async () => {
    await price({ model: "scripted", embeddingPerMillion: 10 });
    agents = await Promise.all(
      [{ org: "acme" }, { org: "acme", team: "a" }, { org: "acme", team: "b", user: "u" }, { org: "globex" }].map(
        (floor) => service.mint("agent", floor),
      ),
    );
    for (const agent of agents) {
      await agent.remember("something to remember");
      await agent.recall("something");
    }
  });

  test("is what raw SQL says, before and after the traces are summed, each once whenever it was committed", async () => {
    const acme = "d.scope->>'org' = 'acme'";
    for (let round = 0; round < 3; round++) {
      const [row] = await usage("scope=org%2Facme");
      const own = await raw(acme);
      expect(row).toMatchObject({ calls: own.calls, totalTokens: own.tokens });
      expect(row?.costUsd).toBeCloseTo(own.cost, 12);
      // Summed while others write.
      await Promise.all([
        sealAudit(service.database),
        ...(agents as Client[]).map((agent) => agent.remember(`round ${round}`)),
      ]);
    }
    await sealAudit(service.database);
    await sealAudit(service.database);
    const [row] = await usage("scope=org%2Facme");
    expect(row?.calls).toBe((await raw(acme)).calls);
    const [left] = await service.database.sql(
      "SELECT count(*)::int AS n FROM scopefloor.audit_entry WHERE batch IS NULL",
    );
    expect(left?.n).toBe(0);
  });

  test("by scope, org, dimension, key, model, operation and day adds up to the same", async () => {
    const [whole] = await usage("scope=org%2Facme");
    for (const by of ["scope", "org", "dimension:team", "key", "model", "operation", "day"]) {
      const rows = await usage(`scope=org%2Facme&groupBy=${by}`);
      expect(
        rows.reduce((sum, row) => sum + row.calls, 0),
        by,
      ).toBe(whole?.calls);
      expect(
        rows.reduce((sum, row) => sum + row.costUsd, 0),
        by,
      ).toBeCloseTo(whole?.costUsd ?? 0, 9);
    }
    const teams = await usage("scope=org%2Facme&groupBy=dimension:team");
    expect(teams.map(({ group }) => group).sort()).toEqual(["a", "b", null]);
    expect(teams.every(({ storedBytes }) => storedBytes !== undefined)).toBe(true);
    expect((await service.operator.get("/contexts/default/usage?groupBy=dimension:")).status).toBe(400);
  });

  test("between any two times is what raw SQL says", async () => {
    // Over several hours, some of them before the sums.
    await service.database.sql(
      `UPDATE scopefloor.decision_trace SET created_at = created_at - (random() * 5 + 0.1) * interval '1 hour' WHERE scope->>'org' = 'globex'`,
    );
    await service.database.sql("DELETE FROM scopefloor.usage_hour");
    await service.database.sql("DELETE FROM scopefloor.usage_day");
    await service.database.sql("SELECT scopefloor.add_usage(n) FROM scopefloor.audit_batch");
    const times = Array.from({ length: 12 }, (_, i) => new Date(Date.now() - i * 31 * 60_000).toISOString());
    for (const from of times)
      for (const to of times) {
        const [row] = await usage(`scope=org%2Fglobex&from=${from}&to=${to}`);
        const own = await raw(`d.scope->>'org' = 'globex' AND d.created_at >= '${from}' AND d.created_at < '${to}'`);
        expect(row?.calls, `${from} ${to}`).toBe(own.calls);
      }
    // Over all tenants, whole days from sums of their own.
    const days = Array.from({ length: 4 }, (_, i) => new Date(Date.now() - (i * 13 - 13) * 3_600_000).toISOString());
    for (const from of [...days, undefined])
      for (const to of [...days, undefined])
        for (const by of [undefined, "org", "model", "operation", "day", "key"]) {
          const asked = Object.entries({ from, to, groupBy: by }).filter(
            (entry): entry is [string, string] => entry[1] !== undefined,
          );
          const rows = await usage(new URLSearchParams(asked).toString());
          const own = await raw(`d.created_at >= '${from ?? "-infinity"}' AND d.created_at < '${to ?? "infinity"}'`);
          expect(
            rows.reduce((sum, { calls }) => sum + calls, 0),
            JSON.stringify(asked),
          ).toBe(own.calls);
        }
  });
});

describe("a bill", () => {
  test("is the sum of what the traces say, by scope, the same whenever it is asked, and as CSV", async () => {
    const bill = await billOf("scope=org%2Facme");
    const own = await raw("d.scope->>'org' = 'acme'");
    expect(bill.lines.reduce((sum, line) => sum + line.calls, 0)).toBe(own.calls);
    expect(bill.costUsd).toBeCloseTo(own.cost, 6);
    expect(await billOf("scope=org%2Facme")).toEqual(bill);
    await sealAudit(service.database);
    expect(await billOf("scope=org%2Facme")).toEqual(bill);
    const csv = await service.operator.call(
      "GET",
      `/contexts/default/usage/bill?month=${month}&scope=org%2Facme`,
      undefined,
      {
        headers: { accept: "text/csv" },
      },
    );
    expect(csv.headers.get("content-type")).toBe("text/csv; charset=utf-8");
    const [header, ...lines] = csv.text.trim().split("\r\n");
    expect(header).toBe(
      "month,scope,kind,operation,provider,model,calls,inputTokens,cachedInputTokens,outputTokens,embeddingTokens,gbMonths,unpriced,costUsd",
    );
    expect(lines).toHaveLength(bill.lines.length);
    expect(lines.some((line) => line.startsWith(`${month},org/acme/team/b/user/u,calls,facts,openai,scripted,`))).toBe(
      true,
    );
    for (const bad of ["", "month=2026-13", "month=2026-11&scopeHash=x"])
      expect((await service.operator.get(`/contexts/default/usage/bill?${bad}`)).status).toBe(400);
  });

  test("is for whoever may read usage, of the own floor alone (threat 49)", async () => {
    const reader = await service.mint("management", { org: "acme" }, { verbs: ["usage:read"] });
    expect((await billOf("", reader)).lines.every(({ scope }) => scope.org === "acme")).toBe(true);
    expect((await reader.get(`/contexts/default/usage/bill?month=${month}&scope=org%2Fglobex`)).status).toBe(403);
  });

  test("outlives the erasure of a user, and of the whole tenant, whose name another may take (threat 49)", async () => {
    const owner = await service.mint("management", { org: "leaver" });
    await owner.remember("a user's words", { scopes: "user/bob" });
    await owner.remember("the tenant's words");
    const before = await billOf("scope=org%2Fleaver");
    expect((await owner.post("/scopes/forget", { path: "user/bob" })).status).toBe(200);
    const after = await billOf("scope=org%2Fleaver");
    expect(after.costUsd).toBe(before.costUsd);
    expect(JSON.stringify(after)).not.toContain("bob");
    expect((await service.operator.del(`/contexts/default/keys/${owner.id}`)).status).toBe(204);
    expect((await service.operator.post("/scopes/forget", { path: "org/leaver" })).status).toBe(200);
    expect((await billOf("scope=org%2Fleaver")).lines).toEqual([]);
    const hash = createHash("sha256").update("org/leaver").digest("hex");
    const left = await billOf(`scopeHash=${hash}`);
    expect(left.costUsd).toBe(before.costUsd);
    const reader = await service.mint("management", { org: "acme" }, { verbs: ["usage:read"] });
    expect((await billOf(`scopeHash=${hash}`, reader)).lines).toEqual([]);
    const next = await service.mint("agent", { org: "leaver" });
    await next.remember("another's words");
    const fresh = await billOf("scope=org%2Fleaver");
    expect(fresh.lines.reduce((sum, line) => sum + line.calls, 0)).toBeLessThanOrEqual(2);
    expect(fresh.costUsd).toBeCloseTo(0.01, 9);
    expect((await billOf(`scopeHash=${hash}`)).costUsd).toBe(before.costUsd);
  });

  test("has what was kept, a day at a time, at the price of then", async () => {
    const agent = await service.mint("agent", { org: "keeper" });
    await agent.remember("k".repeat(50_000));
    await price({ storagePerGbMonth: 3_000_000 });
    const sample = () => service.database.sql("SELECT scopefloor.sample_storage() AS n");
    await service.database.sql("DELETE FROM scopefloor.storage_day");
    await sample();
    await price({ storagePerGbMonth: 1 });
    expect(await sample()).toEqual([{ n: 0 }]);
    const [line] = (await billOf("scope=org%2Fkeeper")).lines.filter(({ kind }) => kind === "storage");
    const days = new Date(Date.UTC(Number(month.slice(0, 4)), Number(month.slice(5)), 0)).getUTCDate();
    expect(line?.costUsd).toBeCloseTo(((50_000 / 1e9) * 3_000_000) / days, 4);
    expect(line?.gbMonths).toBeCloseTo(50_000 / 1e9 / days, 6);
  });
});

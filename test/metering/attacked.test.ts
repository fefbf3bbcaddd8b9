import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { sealAudit } from "../../src/jobs/housekeeping.ts";
import type { Budget } from "../../src/metering/budgets.ts";
import type { Limits } from "../../src/metering/limits.ts";
import { settleHolds } from "../../src/metering/settling.ts";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** Ways around the meter that an attacker has found. */
let service: TestService;
const put = async <T>(path: string, body: object, by: Client = service.operator) => {
  const answer = await by.call<T>("PUT", `/contexts/default/${path}`, body);
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
};
const budget = (body: object, by?: Client) => put<Budget>("budgets", { period: "total", ...body }, by);
const now = async (id: string) => (await service.operator.get<Budget>(`/contexts/default/budgets/${id}`)).body;
const usageOf = async (scope: string) =>
  (
    await service.operator.get<{ rows: { totalTokens: number }[] }>(
      `/contexts/default/usage?scope=${encodeURIComponent(scope)}`,
    )
  ).body.rows[0]?.totalTokens;

describe("with a provider", () => {
  let provider: EmbeddingProvider;
  beforeAll(async () => {
    provider = await startProvider();
    service = await startService({ models: provider.models, connections: 12, worker: { backoffSeconds: 0.05 } });
  });
  afterAll(async () => {
    await service.stop();
    await provider.stop();
  });
  beforeEach(() => {
    provider.behave("ok");
    provider.delayMs = 0;
    provider.calls.length = 0;
  });

  test("a tenant's own limit of tokens does not lift the operator's budget of a job's calls (threat 50)", async () => {
    const owner = await service.mint("management", { org: "lifted" });
    const { id } = await budget({ scope: "org/lifted", tokenLimit: 500 });
    await put("limits", { tokensPerMinute: 0 }, owner);
    for (let i = 0; i < 4; i++) expect((await owner.post("/facts", { text: `text ${i}` })).status).toBe(200);
    // Its job has looked, and waits.
    const waiting = () =>
      service.database.sql("SELECT error FROM scopefloor.job WHERE kind = 'embed' AND error LIKE '%budget%' LIMIT 1");
    await expect.poll(async () => (await waiting()).length, { timeout: 10_000 }).toBe(1);
    expect(provider.calls).toHaveLength(0);
    expect((await now(id)).used.tokens).toBe(0);
  });

  test("a request that is repeated with its Idempotency-Key calls no provider anew; two at once are both told (threat 27)", async () => {
    const agent = await service.mint("agent", { org: "repeated" });
    const { id } = await budget({ scope: "org/repeated", tokenLimit: 100_000 });
    const send = () => agent.post("/facts", { text: "once and no more" }, { headers: { "idempotency-key": "one" } });
    for (let i = 0; i < 4; i++) expect((await send()).status).toBe(200);
    expect(provider.calls).toHaveLength(1);
    provider.delayMs = 50;
    const both = await Promise.all(
      [0, 1].map(() => agent.post("/facts", { text: "at once" }, { headers: { "idempotency-key": "two" } })),
    );
    expect(both.map(({ status }) => status)).toEqual([200, 200]);
    await settleHolds(service.database);
    expect((await now(id)).used.tokens).toBe(provider.calls.length * 1_000);
    expect(await usageOf("org/repeated")).toBe(provider.calls.length * 1_000);
  });

  test("the same question at once: who called the provider has it on its trace, also where another's answer is given (threat 27)", async () => {
    const agent = await service.mint("agent", { org: "asked" });
    const { id } = await budget({ scope: "org/asked", tokenLimit: 1_000_000 });
    await agent.remember("the harbour opens at dawn");
    provider.delayMs = 60;
    for (let round = 0; round < 2; round++)
      await Promise.all(
        Array.from({ length: 6 }, () => agent.post("/query", { query: `when does harbour ${round} open` })),
      );
    await settleHolds(service.database);
    expect((await now(id)).used.tokens).toBe(provider.calls.length * 1_000);
    expect(await usageOf("org/asked")).toBe(provider.calls.length * 1_000);
  });

  test("what a job called for is told where its scope is erased meanwhile", async () => {
    const owner = await service.mint("management", { org: "gone" });
    provider.behave("500");
    for (let i = 0; i < 3; i++) await owner.post("/facts", { text: `text ${i}` });
    provider.behave("ok");
    provider.delayMs = 700;
    provider.calls.length = 0;
    await expect.poll(() => provider.calls.length, { timeout: 10_000 }).toBe(1);
    expect((await owner.eraseFloor()).status).toBe(200);
    const texts = provider.calls[0]?.texts.length ?? 0;
    const lost = () =>
      service.database.sql(
        "SELECT embedding_tokens::int AS tokens, status FROM scopefloor.decision_trace WHERE kind = 'model' AND status = 'error' AND embedding_tokens > 0",
      );
    await expect.poll(lost, { timeout: 5_000 }).toEqual([{ tokens: texts * 1_000, status: "error" }]);
  });

  test("what a budget has room for is embedded, also beside a text that is more than the whole of it", async () => {
    const agent = await service.mint("agent", { org: "some" });
    provider.behave("no usage");
    const { id } = await budget({ scope: "org/some", tokenLimit: 1 });
    await agent.remember("a long text ".repeat(500));
    for (let i = 0; i < 5; i++) await agent.remember(`short ${i}`);
    expect(provider.calls).toHaveLength(0);
    await budget({ scope: "org/some", tokenLimit: 4_000 });
    // Each time its job is due at once, also one that was waiting for the former budget.
    const missing = async () => {
      await service.database.sql("UPDATE scopefloor.job SET run_after = now()");
      const rows = await service.database.sql(
        "SELECT text FROM scopefloor.passage p JOIN scopefloor.scope s ON s.id = p.scope_id WHERE s.tags->>'org' = 'some' AND p.embedder_id IS NULL",
      );
      return rows.map(({ text }) => String(text).slice(0, 11));
    };
    await expect.poll(missing, { timeout: 10_000 }).toEqual(["a long text"]);
    // Raised, there is room for that too.
    await budget({ scope: "org/some", tokenLimit: 10_000 });
    await expect.poll(missing, { timeout: 10_000 }).toEqual([]);
    expect((await now(id)).used.tokens).toBeLessThanOrEqual(10_000);
  });

  test("a provider that counts more than there can be has not counted", async () => {
    const agent = await service.mint("agent", { org: "nonsense" });
    provider.behave("absurd usage");
    expect((await agent.post("/facts", { text: "four words of text" })).status).toBe(200);
    expect(await usageOf("org/nonsense")).toBe(4);
  });

  test("a request that goes on over a period's end counts where it began, and leaves nothing held", async () => {
    const agent = await service.mint("agent", { org: "late" });
    const { id } = await budget({ scope: "org/late", period: "hour", tokenLimit: 100_000 });
    await agent.remember("first"); // from now on it is held before it enters
    provider.delayMs = 400;
    const asking = agent.post("/query", { query: "a question that takes its time", mode: "vector" });
    await expect.poll(() => provider.calls.length).toBe(2);
    await service.database.sql(
      "UPDATE scopefloor.budget_window SET starts = starts - interval '1 hour' WHERE budget_id = $1",
      [id],
    );
    await service.database.sql(
      "UPDATE scopefloor.budget_hold SET starts = ARRAY(SELECT s - interval '1 hour' FROM unnest(starts) s)",
    );
    await asking;
    await agent.recall("another question");
    await settleHolds(service.database);
    const rows = await service.database.sql(
      "SELECT held_tokens::int AS tokens, held_requests::int AS requests FROM scopefloor.budget_window WHERE budget_id = $1",
      [id],
    );
    expect(rows.length).toBeGreaterThan(1);
    expect(rows.every(({ tokens, requests }) => tokens === 0 && requests === 0)).toBe(true);
  });
});

describe("with the built-in model", () => {
  beforeAll(async () => {
    service = await startService({ worker: {} });
  });
  afterAll(() => service.stop());

  test("documents that fail hold nothing of a budget that others share", async () => {
    const owner = await service.mint("management", { org: "failing" });
    const { id } = await budget({ scope: {}, name: "shared", tokenLimit: 1_000_000 });
    await put("limits", { storageBytes: 3_000 }, owner);
    let taken = 0;
    for (let i = 0; i < 3; i++) {
      const file = JSON.stringify({ ["long".repeat(30)]: Array.from({ length: 60 }, (_, n) => n * 10 + i) });
      const sent = await owner.upload(file, `grows-${i}.json`);
      if (sent.status !== 202) continue;
      taken++;
      expect((await owner.processed(sent.body.id)).status).toBe("failed");
    }
    expect(taken).toBeGreaterThan(0);
    await settleHolds(service.database);
    expect((await now(id)).reserved.tokens).toBe(0);
    await service.operator.del(`/contexts/default/budgets/${id}`);
  });

  test("what is erased gives its room back to every scope that it counted in", async () => {
    const user = await service.mint("management", { org: "lattice", user: "u" });
    await put("limits", { scope: "org/lattice/team/a", storageBytes: 500, sessions: 5 });
    for (let i = 0; i < 3; i++) {
      expect((await user.post("/facts", { text: "t".repeat(300), scopes: "team/a" })).status).toBe(200);
      expect((await user.eraseFloor()).status).toBe(200);
    }
    const { body } = await service.operator.get<{ limits: Limits[] }>("/contexts/default/limits?scope=org%2Flattice");
    expect(body.limits[0]?.used).toEqual({ storageBytes: 0, sessions: 0 });
  });

  test("no name of a scope or a budget stays on a trace when its scope is erased (threat 17)", async () => {
    const agent = await service.mint("agent", { org: "acme" });
    const { id } = await budget({ scope: "org/acme/user/alice", name: "Alice budget", tokenLimit: 1 });
    await agent.post("/facts", { text: "something of hers", scopes: "user/alice" });
    await agent.post("/query", { query: "what is hers", lens: "user/alice" });
    await service.operator.del(`/contexts/default/budgets/${id}`);
    expect((await agent.post("/scopes/forget", { path: "user/alice" })).status).toBe(200);
    await sealAudit(service.database);
    const traces = await service.database.sql("SELECT to_jsonb(d)::text AS row FROM scopefloor.decision_trace d");
    expect(
      traces
        .map(({ row }) => row)
        .join()
        .toLowerCase(),
    ).not.toContain("alice");
  });

  test("what an agent mints is under the agent's own limits (threat 50)", async () => {
    const agent = await service.mint("agent", { org: "minting" });
    await put("limits", { key: agent.id, requestsPerMinute: 3 });
    const child = await agent.post<{ id: string; key: string }>("/keys", {});
    const minted = service.client(child.body.key, child.body.id);
    const ask = async (client: Client) => (await client.post("/query", { query: "x" })).status;
    expect([await ask(agent), await ask(minted), await ask(minted), await ask(minted), await ask(agent)]).toEqual([
      200, 200, 200, 429, 429,
    ]);
  });

  test("a key that has ended and comes back is one more; a key's limits are rates", async () => {
    const owner = await service.mint("management", { org: "revived" });
    await put("limits", { scope: "org/revived", keys: 2 });
    const mint = (name: string) => owner.post("/contexts/default/keys", { name, principal: "agent", ttlSeconds: 1 });
    expect((await mint("a")).status).toBe(201);
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    expect((await mint("b")).status).toBe(201);
    expect((await owner.post("/contexts/default/keys/a/rotate?ttlSeconds=9999")).status).toBe(507);
    const kept = await service.operator.call("PUT", "/contexts/default/limits", { key: owner.id, storageBytes: 5 });
    expect([kept.status, kept.text]).toEqual([400, expect.stringContaining("limited by scope")]);
  });

  test("keyed items are kept bytes like others", async () => {
    const agent = await service.mint("agent", { org: "items" });
    await put("limits", { scope: "org/items", storageBytes: 1_000 });
    const store = (key: string, size: number) => agent.call("PUT", `/memory/${key}`, { value: "i".repeat(size) });
    expect((await store("a", 600)).status).toBe(200);
    expect((await store("b", 600)).status).toBe(507);
    expect((await store("a", 100)).status).toBe(200);
    expect((await store("b", 600)).status).toBe(200);
    expect((await agent.del("/memory/b")).status).toBe(204);
    const { body } = await service.operator.get<{ limits: Limits[] }>("/contexts/default/limits?scope=org%2Fitems");
    expect(body.limits[0]?.used).toEqual({ storageBytes: 102 });
  });

  test("another time zone and back forgives nothing", async () => {
    const agent = await service.mint("agent", { org: "zones" });
    const rule = { scope: "org/zones", period: "month", tokenLimit: 1_000 };
    await budget(rule);
    await agent.remember("seven words that this one has here");
    await budget({ ...rule, timezone: "Pacific/Auckland" });
    await agent.remember("seven words that this one has here again");
    const { used } = await budget(rule);
    expect(used.tokens).toBe(await usageOf("org/zones"));
    const unknown = await service.operator.call("PUT", "/contexts/default/budgets", {
      ...rule,
      timezone: "US/Pacific-New",
    });
    expect([unknown.status, unknown.text]).toEqual([400, expect.stringContaining("timezone")]);
  });

  test("a tenant's own rules keep the operator from none (threat 50)", async () => {
    const owner = await service.mint("management", { org: "full" });
    for (let i = 0; i < 20; i++) await budget({ period: "day", name: `n${i}`, requestLimit: 1_000 }, owner);
    await budget({ scope: "org/full", name: "from above", requestLimit: 5 });
    await put("limits", { scopes: 1 }, owner);
    await budget({ scope: "org/full/user/new", requestLimit: 5 });
  });

  test("a bill loses nothing by its lines being small", async () => {
    await put("prices", { operation: "query", perCall: 0.0000004 });
    const agents = await Promise.all(
      Array.from({ length: 5 }, (_, i) => service.mint("agent", { org: "small", user: `u${i}` })),
    );
    for (const agent of agents) await agent.recall("x");
    const month = new Date().toISOString().slice(0, 7);
    const { body } = await service.operator.get<{ costUsd: number }>(
      `/contexts/default/usage/bill?month=${month}&scope=org%2Fsmall`,
    );
    expect(body.costUsd).toBe(0.000002);
  });

  test("one that is always over its budget holds nobody up (threat 40)", async () => {
    const [greedy, other] = [
      await service.mint("agent", { org: "greedy" }),
      await service.mint("agent", { org: "patient" }),
    ];
    await budget({ scope: {}, name: "of everybody", requestLimit: 1_000_000 });
    await budget({ scope: "org/greedy", requestLimit: 0 });
    const work = Array.from({ length: 40 }, async (_, i) => {
      const [mine, theirs] = await Promise.all([
        other.post("/query", { query: `q ${i}` }),
        greedy.post("/query", { query: `q ${i}` }),
      ]);
      return [mine.status, theirs.status];
    });
    for (const [mine, theirs] of await Promise.all(work)) expect([mine, theirs]).toEqual([200, 429]);
  });

  test("numbers that no call has are refused by the database (threat 36)", async () => {
    const agent = await service.mint("agent", { org: "numbers" });
    const [key] = await service.database.sql(
      "SELECT encode(secret_hash, 'hex') AS hash FROM scopefloor.api_key WHERE id = $1",
      [agent.id],
    );
    expect(key?.hash).toHaveLength(64);
    const call = {
      id: agent.id,
      keyHash: key?.hash,
      verb: "memory:read",
      requested: { mode: "id" },
      calls: 1,
      requests: 1,
      input: 0,
      output: 0,
      embedding: 0,
    };
    for (const wrong of [{ calls: -1 }, { requests: 2 }, { input: -5 }, { embedding: 9e15 }, { output: null }])
      await expect(
        service.database.sql("SELECT scopefloor.hold_calls($1::jsonb, 60)", [JSON.stringify([{ ...call, ...wrong }])]),
        JSON.stringify(wrong),
      ).rejects.toMatchObject({ code: "23514" });
    await expect(
      service.database.sql("SELECT scopefloor.hold_calls($1::jsonb, 1000000)", [JSON.stringify([call])]),
    ).rejects.toMatchObject({ code: "23514" });
  });
});

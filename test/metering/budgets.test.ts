import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { hashSecret } from "../../src/keys/secret.ts";
import type { Budget } from "../../src/metering/budgets.ts";
import { settleHolds } from "../../src/metering/settling.ts";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

type Trace = { readonly traceId: string; readonly tierReason: string; readonly plan: string };

let service: TestService;
const set = async (budget: object, by: Client = service.operator) => {
  const answer = await by.call<Budget>("PUT", "/contexts/default/budgets", budget);
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
};
const now = async (id: string) => (await service.operator.get<Budget>(`/contexts/default/budgets/${id}`)).body;
const drop = async () => {
  const { body } = await service.operator.get<{ budgets: Budget[] }>("/contexts/default/budgets?pageSize=100");
  for (const { id } of body.budgets) await service.operator.del(`/contexts/default/budgets/${id}`);
};

describe("budgets with the built-in model", () => {
  beforeAll(async () => {
    service = await startService({ worker: {} });
  });
  afterAll(() => service.stop());
  afterEach(drop);

  test("a hard one keeps the model away and nothing else: texts are stored, words are found, vectors come later", async () => {
    const agent = await service.mint("agent", { org: "stored" });
    const budget = await set({ scope: "org/stored", period: "day", tokenLimit: 20 });
    for (let i = 0; i < 4; i++) await agent.remember(`the harbour number ${i} opens at dawn`);
    expect((await now(budget.id)).used).toMatchObject({ tokens: 16, requests: 4 });
    const { body } = await agent.post<{ hits: object[]; trace: Trace }>("/query", {
      query: "which harbour opens at dawn, and which of them is the one that never closes",
    });
    expect(body.hits).toHaveLength(4);
    expect(body.trace.tierReason).toContain("a budget does not have enough tokens left; it resets at");
    const traces = await service.database.sql(
      "SELECT operation, status, embedding_tokens::int AS tokens FROM scopefloor.decision_trace WHERE scope->>'org' = 'stored' AND kind <> 'decision' OR operation = 'facts' ORDER BY created_at",
    );
    expect(traces.map(({ status, tokens }) => [status, tokens])).toEqual([
      ["ok", 8],
      ["ok", 8],
      ["over_budget", 0],
      ["over_budget", 0],
      ["over_budget", 0],
    ]);
    const missing = () =>
      service.database.sql(
        "SELECT count(*)::int AS n FROM scopefloor.passage p JOIN scopefloor.scope s ON s.id = p.scope_id WHERE s.tags->>'org' = 'stored' AND p.embedder_id IS NULL",
      );
    expect(await missing()).toEqual([{ n: 2 }]);
    const vector = await agent.post("/query", {
      query: "a harbour that opens at dawn, by vectors alone",
      mode: "vector",
    });
    expect(vector.status).toBe(429);
    expect(vector.body).toMatchObject({
      type: "https://scopefloor.dev/errors/budget-exceeded",
      limit: "tokens",
      resetsAt: budget.resetsAt,
      budget: { id: budget.id, scope: { org: "stored" } },
    });
    expect(Number(vector.headers.get("retry-after"))).toBeGreaterThan(0);
    expect((await now(budget.id)).used.tokens).toBe(16);
    // Raised, its job goes on.
    await set({
      scope: "org/stored",
      period: "day",
      tokenLimit: 20,
      temporaryIncrease: { tokens: 100, until: new Date(Date.now() + 60_000).toISOString() },
    });
    await service.database.sql("UPDATE scopefloor.job SET run_after = now()");
    await expect.poll(missing, { timeout: 10_000 }).toEqual([{ n: 0 }]);
    expect((await now(budget.id)).used.tokens).toBe(32);
  });

  test("one of requests refuses the next; reading what is one's own, and forgetting, it does not", async () => {
    const agent = await service.mint("agent", { org: "counted" });
    const budget = await set({ scope: "org/counted", period: "hour", requestLimit: 3 });
    for (let i = 0; i < 3; i++) await agent.remember(`note ${i}`);
    const fourth = await agent.post("/query", { query: "note" });
    expect(fourth.status).toBe(429);
    expect(fourth.body).toMatchObject({ limit: "requests", resetsAt: budget.resetsAt });
    expect((await agent.get("/me")).status).toBe(200);
    expect((await agent.post("/forget", { query: "note 1" })).status).toBe(200);
    expect((await now(budget.id)).used.requests).toBe(3);
  });

  test("a refused or failed request counts for nothing", async () => {
    const agent = await service.mint("agent", { org: "failed" });
    const budget = await set({ scope: "org/failed", period: "hour", requestLimit: 2, tokenLimit: 1_000 });
    for (let i = 0; i < 4; i++) {
      expect(
        (await agent.post("/facts", { text: "x", session_id: "01900000-0000-7000-8000-00000000000a" })).status,
      ).toBe(404);
      expect((await agent.post("/query", { query: "x", lens: "org/other" })).status).toBe(403);
    }
    await expect.poll(async () => (await now(budget.id)).reserved.requests).toBe(0);
    expect((await now(budget.id)).used).toEqual({ tokens: 0, costUsd: 0, requests: 0 });
    await agent.remember("and this one does");
    expect((await now(budget.id)).used.requests).toBe(1);
  });

  test("what a change leaves out stays, and the other limits go where one is given", async () => {
    const rule = { scope: "org/changed", period: "month" };
    const until = new Date(Date.now() + 60_000).toISOString();
    const kept = { mode: "soft", timezone: "Europe/Berlin", alertAt: [0.5] };
    const { id } = await set({ ...rule, ...kept, costLimitUsd: 25, tokenLimit: 10 });
    const raised = await set({ ...rule, temporaryIncrease: { costUsd: 5, until } });
    const increase = { tokens: 0, costUsd: 5, until };
    expect(raised).toMatchObject({ ...kept, costLimitUsd: 25, tokenLimit: 10, temporaryIncrease: increase });
    const { status, body } = await service.operator.call("PUT", `/contexts/default/budgets/${id}`, {
      costLimitUsd: 30,
    });
    expect(status).toBe(200);
    expect(body).toMatchObject({ ...kept, id, costLimitUsd: 30, tokenLimit: null, temporaryIncrease: increase });
    expect(await set({ ...rule, temporaryIncrease: { tokens: 0, until }, mode: "hard" })).toMatchObject({
      mode: "hard",
      costLimitUsd: 30,
      temporaryIncrease: { tokens: 0, costUsd: 0, until },
    });
    const nobodys = "/contexts/default/budgets/01900000-0000-7000-8000-00000000000c";
    const gone = await service.operator.call("PUT", nobodys, { costLimitUsd: 30 });
    expect(gone.status).toBe(404);
  });

  test("one that has refused a call lists the share 1, whatever is left", async () => {
    const agent = await service.mint("agent", { org: "refuses" });
    const { id } = await set({ scope: "org/refuses", period: "day", tokenLimit: 10 });
    for (let i = 0; i < 3; i++) await agent.remember("seven words that this one has here");
    const { used, alerts } = await now(id);
    expect(used.tokens).toBe(7);
    expect(alerts.map(({ threshold }) => threshold)).toEqual([1, 0.8]);
  });

  test("a call costs its price once, whatever it calls; forgetting costs, and no budget refuses it", async () => {
    const agent = await service.mint("agent", { org: "by-the-call" });
    for (const operation of ["query", "forget"])
      await service.operator.call("PUT", "/contexts/default/prices", { operation, perCall: 1 });
    const { id } = await set({ scope: "org/by-the-call", period: "day", costLimitUsd: 2 });
    const ask = async () => (await agent.post("/query", { query: "anything at all" })).status;
    expect([await ask(), await ask(), await ask()]).toEqual([200, 200, 429]);
    expect((await agent.post("/forget", { query: "anything at all" })).status).toBe(200);
    expect((await now(id)).used.costUsd).toBe(3);
    for (const operation of ["query", "forget"])
      await service.operator.del(`/contexts/default/prices?operation=${operation}`);
  });

  test("a hold that is asked for twice is one, and another key's is nobody else's", async () => {
    const [one, two] = [await service.mint("agent", { org: "twice" }), await service.mint("agent", { org: "twice" })];
    const { id } = await set({ scope: "org/twice", period: "day", tokenLimit: 1_000, costLimitUsd: 5 });
    const prices = [
      { operation: "facts", perCall: 1 },
      { model: "m", embeddingPerMillion: 0 },
    ];
    for (const price of prices) await service.operator.call("PUT", "/contexts/default/prices", price);
    const hold = async (by: Client, calls: number) => {
      const call = {
        id: "01900000-0000-7000-8000-00000000000b",
        keyHash: Buffer.from(hashSecret(by.key)).toString("hex"),
        verb: "memory:write",
        requested: { mode: "write", clauses: null },
        operation: "facts",
        ...{ calls, requests: calls, isOwn: false, isSent: true, mayDegrade: false },
        ...{ provider: "openai", model: "m", input: 0, output: 0, embedding: 10 },
      };
      const [row] = await service.database.sql("SELECT scopefloor.hold_calls($1::jsonb, 60) AS answers", [
        JSON.stringify([call]),
      ]);
      return (row?.answers as { status: string }[] | undefined)?.[0]?.status;
    };
    expect([await hold(one, 1), await hold(one, 1), await hold(two, 1), await hold(two, 0)]).toEqual([
      "held",
      "held",
      "not-admitted",
      "not-admitted",
    ]);
    expect((await now(id)).reserved).toEqual({ tokens: 10, requests: 1, costUsd: 1 });
    // A call within the request adds to it.
    expect(await hold(one, 0)).toBe("held");
    expect((await now(id)).reserved).toEqual({ tokens: 20, requests: 1, costUsd: 1 });
    await service.operator.del("/contexts/default/prices?operation=facts");
    await service.operator.del("/contexts/default/prices?model=m");
  });

  test("what is erased keeps its budgets while a key is under them", async () => {
    const owner = await service.mint("management", { org: "kept" });
    const user = await service.mint("agent", { org: "kept", user: "u" });
    await user.remember("seven words that this one has here");
    await set({ scope: "org/kept", period: "day", tokenLimit: 1_000 });
    const count = async () =>
      (await service.operator.get<{ total: number }>("/contexts/default/budgets?scope=org%2Fkept")).body.total;
    const erase = () => service.operator.post("/scopes/forget", { path: "org/kept" });
    expect((await service.operator.del(`/contexts/default/keys/${owner.id}`)).status).toBe(204);
    expect([(await erase()).status, await count()]).toEqual([200, 1]);
    expect((await service.operator.del(`/contexts/default/keys/${user.id}`)).status).toBe(204);
    expect([(await erase()).status, await count()]).toEqual([200, 0]);
  });

  test("every level above a call counts it, the lattice's too", async () => {
    const agent = await service.mint("agent", { org: "levels" });
    const scopes = [
      {},
      "org/levels",
      "org/levels/team/a",
      "org/levels/user/u",
      "org/levels/team/a/user/u",
      "org/levels/team/b",
    ];
    const budgets = [];
    for (const scope of scopes) budgets.push(await set({ scope, period: "month", tokenLimit: 1_000_000 }));
    await agent.remember("seven words that this one has here", { scopes: "team/a/user/u" });
    await agent.recall("seven words", { lens: "user/u" });
    const used = [];
    for (const { id } of budgets) used.push((await now(id)).used.requests);
    expect(used).toEqual([2, 2, 1, 2, 1, 0]);
  });

  test("a soft one refuses nothing, and each share of it is told of once", async () => {
    const agent = await service.mint("agent", { org: "soft" });
    const budget = await set({ scope: "org/soft", period: "day", requestLimit: 4, mode: "soft", alertAt: [0.5, 1] });
    for (let i = 0; i < 6; i++) await agent.remember(`soft ${i}`);
    const { alerts, used } = await now(budget.id);
    expect(used.requests).toBe(6);
    expect(alerts.map(({ threshold }) => threshold).sort()).toEqual([0.5, 1]);
  });

  test("the next period begins anew; a call counts in the one in which it was held", async () => {
    const agent = await service.mint("agent", { org: "periods" });
    const budget = await set({ scope: "org/periods", period: "hour", requestLimit: 2 });
    await agent.remember("one");
    await agent.remember("two");
    expect((await agent.post("/facts", { text: "three" })).status).toBe(429);
    // The clock goes on by an hour: what was of this hour is of the one before.
    await settleHolds(service.database);
    await service.database.sql(
      "UPDATE scopefloor.budget_window SET starts = starts - interval '1 hour' WHERE budget_id = $1",
      [budget.id],
    );
    await agent.remember("three");
    expect((await now(budget.id)).used.requests).toBe(1);
  });

  test("what was spent before there was the budget counts; with another time zone nothing is forgiven", async () => {
    const agent = await service.mint("agent", { org: "before" });
    await agent.remember("seven words that this one has here");
    const budget = await set({ scope: "org/before", period: "month", tokenLimit: 10 });
    expect(budget.used.tokens).toBe(7);
    const moved = await set({ scope: "org/before", period: "month", tokenLimit: 10, timezone: "Pacific/Auckland" });
    expect(moved.used.tokens).toBe(7);
    expect(moved.timezone).toBe("Pacific/Auckland");
  });

  test("months, weeks and days begin where the time zone says, over changes of the clock", async () => {
    const [row] = await service.database.sql(`
      SELECT scopefloor.rfc3339(scopefloor.period_start('month', 'Europe/Berlin', '2026-03-31T22:30:00Z')) AS month,
             scopefloor.rfc3339(scopefloor.period_end('day', 'Europe/Berlin', scopefloor.period_start('day', 'Europe/Berlin', '2026-03-29T10:00:00Z'))) AS spring,
             scopefloor.rfc3339(scopefloor.period_end('day', 'Europe/Berlin', scopefloor.period_start('day', 'Europe/Berlin', '2026-10-25T10:00:00Z'))) AS autumn,
             scopefloor.rfc3339(scopefloor.period_start('week', 'America/New_York', '2026-11-30T03:00:00Z')) AS week,
             scopefloor.rfc3339(scopefloor.period_end('month', 'Asia/Kolkata', scopefloor.period_start('month', 'Asia/Kolkata', '2026-12-31T19:00:00Z'))) AS year`);
    expect(row).toEqual({
      month: "2026-03-31T22:00:00.000Z",
      spring: "2026-03-29T22:00:00.000Z",
      autumn: "2026-10-25T23:00:00.000Z",
      week: "2026-11-23T05:00:00.000Z",
      year: "2027-01-31T18:30:00.000Z",
    });
  });

  test("bad ones are 400 and say why", async () => {
    for (const [body, why] of [
      [{ period: "day" }, "a tokenLimit"],
      [{ period: "day", tokenLimit: 1, scope: undefined }, "scope is missing"],
      [{ period: "day", tokenLimit: 1, alertAt: [80] }, "0.8 is 80 %"],
      [{ period: "day", tokenLimit: 1, temporaryIncrease: { until: "2999-01-01T00:00:00Z" } }, "tokens or costUsd"],
      [{ period: "day", tokenLimit: 1, temporaryIncrease: { tokens: 1, until: "2020-01-01T00:00:00Z" } }, "future"],
      [{ period: "fortnight", tokenLimit: 1 }, "period"],
      [{ period: "day", tokenLimit: 1, timezone: "Mars/Olympus" }, "IANA"],
      [{ period: "day", tokenLimit: 1, timezone: "+01:00" }, "IANA"],
      [{ period: "day", tokenLimit: -1 }, "tokenLimit"],
      [{ period: "day", costLimitUsd: 1e12 }, "costLimitUsd"],
      [{ period: "day", tokenLimit: 1, alertAt: [0] }, "alertAt"],
      [{ period: "day", tokenLimit: 1, temporaryIncrease: { tokens: 1, until: "soon" } }, "until"],
    ] as const) {
      const answer = await service.operator.call("PUT", "/contexts/default/budgets", { scope: {}, ...body });
      expect(answer.status, answer.text).toBe(400);
      expect(answer.text).toContain(why);
    }
    for (let i = 0; i < 20; i++) await set({ scope: "org/many", period: "day", name: `n${i}`, tokenLimit: 1 });
    const more = await service.operator.call("PUT", "/contexts/default/budgets", {
      scope: "org/many",
      period: "day",
      name: "n",
      tokenLimit: 1,
    });
    expect(more.status).toBe(507);
  });
});

describe("whose budget it is", () => {
  let owner: Client;
  let agent: Client;
  beforeAll(async () => {
    service = await startService({});
    owner = await service.mint("management", { org: "acme" });
    agent = await service.mint("agent", { org: "acme" });
  });
  afterAll(() => service.stop());
  afterEach(drop);

  test("a tenant sees and sets those of its own scopes, and cannot touch what a key above has set (threat 50)", async () => {
    const above = await set({ scope: "org/acme", period: "day", requestLimit: 5 });
    await set({ scope: "org/other", period: "day", requestLimit: 5 });
    await set({ scope: {}, period: "day", requestLimit: 1_000 });
    const own = await set({ scope: "user/bob", period: "day", requestLimit: 2 }, owner);
    const seen = await owner.get<{ budgets: Budget[] }>("/contexts/default/budgets");
    expect(seen.body.budgets.map(({ scope }) => scope)).toEqual([{ org: "acme" }, { org: "acme", user: "bob" }]);
    const raised = await owner.call("PUT", "/contexts/default/budgets", { period: "day", requestLimit: 500 });
    expect(raised.status, raised.text).toBe(403);
    expect((await owner.call("PUT", `/contexts/default/budgets/${above.id}`, { requestLimit: 500 })).status).toBe(403);
    expect((await owner.del(`/contexts/default/budgets/${above.id}`)).status).toBe(403);
    expect((await owner.call("DELETE", "/contexts/default/budgets?period=day")).status).toBe(403);
    expect(
      (await owner.call("PUT", "/contexts/default/budgets", { scope: "org/other", period: "day", requestLimit: 9 }))
        .status,
    ).toBe(403);
    // One of its own beside it raises nothing: the tightest holds.
    await set({ period: "day", name: "ours", requestLimit: 500 }, owner);
    for (let i = 0; i < 5; i++) await agent.remember(`acme ${i}`);
    expect((await agent.post("/query", { query: "acme" })).status).toBe(429);
    expect((await owner.del(`/contexts/default/budgets/${own.id}`)).status).toBe(204);
    expect(
      (await service.operator.call("PUT", `/contexts/default/budgets/${above.id}`, { requestLimit: 500 })).status,
    ).toBe(200);
  });

  test("one that erases itself is not rid of what it has used, nor of the rule (threat 50)", async () => {
    const solo = await service.mint("management", { org: "solo" });
    const budget = await set({ scope: "org/solo/user/u", period: "day", requestLimit: 2 });
    const ours = await set({ scope: "user/v", period: "day", requestLimit: 2 }, solo);
    const writes = () => solo.post("/facts", { text: "a text", scopes: "user/u" });
    expect([(await writes()).status, (await writes()).status, (await writes()).status]).toEqual([200, 200, 429]);
    expect((await solo.eraseFloor()).status).toBe(200);
    expect((await writes()).status).toBe(429);
    expect((await now(budget.id)).used.requests).toBe(2);
    expect((await service.operator.get(`/contexts/default/budgets/${ours.id}`)).status).toBe(404);
  });

  test("a key below learns when it resets, and neither whose budget it is nor what is left of it (threat 49)", async () => {
    await set({ scope: "org/acme", period: "day", requestLimit: 1 }, owner);
    const below = await service.mint("agent", { org: "acme", team: "a" });
    const sibling = await service.mint("agent", { org: "acme", team: "b" });
    await sibling.remember("the sibling uses it up");
    const refused = await below.post("/query", { query: "anything" });
    expect(refused.status).toBe(429);
    expect(refused.body).not.toHaveProperty("budget");
    expect(refused.body.detail).toMatch(
      /^a budget above this key's calls does not have enough requests left; it resets at /,
    );
    expect(refused.text).not.toMatch(/acme|"used"|remaining/);
    expect((await below.get<{ budgets: object[] }>("/usage")).body.budgets).toEqual([]);
    expect((await sibling.get<{ budgets: object[] }>("/usage")).body.budgets).toEqual([]);
    expect((await agent.get<{ budgets: object[] }>("/usage")).body.budgets).toHaveLength(1);
  });

  test("on behalf of another a call is on both floors, and so on the budgets of both (threat 49)", async () => {
    const team = await service.mint("agent", { org: "acme", team: "c" });
    const budget = await set({ scope: "org/acme/team/c", period: "day", requestLimit: 1 });
    const said = await agent.post(
      "/facts",
      { text: "said for the team" },
      { headers: { "x-memory-on-behalf-of": team.id } },
    );
    expect(said.status, said.text).toBe(200);
    expect((await now(budget.id)).used.requests).toBe(1);
    expect(
      (await agent.post("/facts", { text: "and again" }, { headers: { "x-memory-on-behalf-of": team.id } })).status,
    ).toBe(429);
    const foreign = await service.mint("agent", { org: "globex" });
    expect(
      (await foreign.post("/facts", { text: "x" }, { headers: { "x-memory-on-behalf-of": team.id } })).status,
    ).toBe(403);
    expect((await now(budget.id)).used.requests).toBe(1);
  });

  test("usage:read reads them and sets none", async () => {
    await set({ scope: "org/acme", period: "day", requestLimit: 7 });
    const reader = await service.mint("management", { org: "acme" }, { verbs: ["usage:read"] });
    expect((await reader.get<{ budgets: Budget[] }>("/contexts/default/budgets")).body.budgets).toHaveLength(1);
    expect((await reader.call("PUT", "/contexts/default/budgets", { period: "day", tokenLimit: 1 })).status).toBe(403);
  });
});

describe("budgets with a provider", () => {
  let provider: EmbeddingProvider;
  beforeAll(async () => {
    provider = await startProvider();
    service = await startService({ models: provider.models, connections: 12 });
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
  afterEach(async () => {
    await drop();
    await service.operator.call("DELETE", "/contexts/default/prices?model=scripted").catch(() => undefined);
  });
  const price = (embeddingPerMillion: number) =>
    service.operator.call("PUT", "/contexts/default/prices", { model: "scripted", embeddingPerMillion });

  test("what has no price is counted as that, and not within a hard budget of cost", async () => {
    const agent = await service.mint("agent", { org: "unpriced" });
    await agent.remember("no price yet");
    const usage = await service.operator.get<{ rows: object[] }>("/contexts/default/usage?scope=org%2Funpriced");
    expect(usage.body.rows[0]).toMatchObject({ embeddingTokens: 1_000, costUsd: 0, unpricedCalls: 1 });
    await set({ scope: "org/unpriced", period: "month", costLimitUsd: 100 });
    await agent.remember("stored without it");
    const found = await agent.post<{ trace: Trace }>("/query", { query: "without" });
    expect(found.body.trace.tierReason).toContain("the model has no price");
    expect(provider.calls).toHaveLength(1);
    await price(5);
    await agent.remember("and now with it");
    expect(provider.calls).toHaveLength(2);
    const [trace] = await service.database.sql("SELECT cost_usd FROM scopefloor.decision_trace WHERE cost_usd > 0");
    expect(Number(trace?.cost_usd)).toBe(0.005);
  });

  test("nothing is overspent by calls at once on two services under three budgets, by the provider's own count (threat 27)", async () => {
    const other = await service.beside();
    await price(10);
    const agents = await Promise.all(["a", "b"].map((user) => service.mint("agent", { org: "parallel", user })));
    // A call takes 1,000 tokens, a cent, as the provider says, and may by its bytes take 1,200.
    const long = "and what else there is to say ".repeat(39);
    const budgets = [
      await set({ scope: {}, period: "month", name: "all", tokenLimit: 60_000 }),
      await set({ scope: "org/parallel", period: "day", costLimitUsd: 0.5 }),
      await set({ scope: "org/parallel/user/a", period: "day", tokenLimit: 21_000 }),
    ];
    provider.delayMs = 5;
    const clients = agents.flatMap((agent) => [agent, other.client(agent.key)]);
    const stored = await Promise.all(
      Array.from({ length: 120 }, (_, i) =>
        (clients[i % 4] as Client).post("/facts", { text: `parallel ${i} ${long}` }),
      ),
    );
    // Some of them may have waited in vain for a connection; none fails otherwise.
    expect(stored.filter(({ status }) => ![200, 429, 503].includes(status)).map(({ text }) => text)).toEqual([]);
    await settleHolds(service.database);
    const [all, org, user] = [
      await now(budgets[0]?.id ?? ""),
      await now(budgets[1]?.id ?? ""),
      await now(budgets[2]?.id ?? ""),
    ];
    const count = provider.calls.length;
    const ofA = provider.calls.filter(({ texts }) => Number(texts[0]?.split(" ")[1]) % 4 < 2).length;
    expect(count).toBeGreaterThan(30);
    expect(count * 0.01).toBeLessThanOrEqual(0.5 + 1e-9);
    expect(ofA).toBeLessThanOrEqual(21);
    expect((all?.used.tokens ?? 0) - (budgets[0]?.used.tokens ?? 0)).toBe(count * 1_000);
    expect(org?.used.costUsd).toBeCloseTo(count * 0.01, 9);
    expect(user?.used.tokens).toBe(ofA * 1_000);
    for (const budget of [all, org, user]) expect(budget?.reserved).toEqual({ tokens: 0, costUsd: 0, requests: 0 });
    const [sum] = await service.database.sql(
      "SELECT sum(total_tokens)::int AS tokens, sum(cost_usd) AS cost FROM scopefloor.decision_trace WHERE scope->>'org' = 'parallel'",
    );
    expect(sum?.tokens).toBe(count * 1_000);
    expect(Number(sum?.cost)).toBeCloseTo(count * 0.01, 9);
    await other.stop();
  });

  test.each([
    ["no usage", "tokenizer", 4],
    ["garbage", "tokenizer", 4],
    ["wrong dimension", "tokenizer", 1_000],
    ["reset", "tokenizer", 4],
    ["500", "tokenizer", 0],
  ] as const)("a call that ends as %s is on the trace and in the budget", async (behaviour, source, tokens) => {
    await price(1);
    const org = `fails-${behaviour.replace(" ", "-")}`;
    const agent = await service.mint("agent", { org });
    const budget = await set({ scope: { org }, period: "day", tokenLimit: 100_000 });
    provider.behave(behaviour);
    await agent.remember("four words of text");
    const { used, reserved } = await now(budget.id);
    expect(reserved.tokens).toBe(0);
    expect(used).toMatchObject({ tokens, requests: 1 });
    const [trace] = await service.database.sql(
      "SELECT embedding_tokens::int AS tokens, token_source AS source, provider, model FROM scopefloor.decision_trace WHERE operation = 'facts' ORDER BY created_at DESC LIMIT 1",
    );
    expect(trace).toEqual({ tokens, source, provider: "openai", model: "scripted" });
    // After three failures in a row the model is left alone for a moment.
    provider.behave("ok");
    await agent.remember("a call that works");
  });

  test("what a request spent that failed afterwards is on a trace of its own, and in the budget", async () => {
    await price(1);
    const agent = await service.mint("agent", { org: "late" });
    const budget = await set({ scope: "org/late", period: "day", tokenLimit: 100_000 });
    const { sessionId } = await agent.remember("a first text");
    // The session is closed while the model works.
    provider.delayMs = 300;
    const writing = agent.post("/facts", { text: "a second text", session_id: sessionId });
    await expect.poll(() => provider.calls.length).toBe(2);
    expect((await agent.del(`/sessions/${sessionId}`)).status).toBe(204);
    expect((await writing).status).toBe(409);
    const { used, reserved } = await now(budget.id);
    expect(used.tokens).toBe(2_000);
    expect(reserved.tokens).toBe(0);
    const [trace] = await service.database.sql(
      "SELECT kind, operation, scope, embedding_tokens::int AS tokens FROM scopefloor.decision_trace WHERE kind = 'model' ORDER BY created_at DESC LIMIT 1",
    );
    expect(trace).toEqual({ kind: "model", operation: "embed", scope: { org: "late" }, tokens: 1_000 });
  });

  test("what a dead process held is given back, or charged where a provider may have had the call; a late trace corrects it", async () => {
    await price(1);
    const agent = await service.mint("agent", { org: "dead" });
    const budget = await set({ scope: "org/dead", period: "day", tokenLimit: 100_000 });
    provider.delayMs = 500;
    const writing = agent.post("/facts", { text: "a text on its way" });
    await expect.poll(async () => (await now(budget.id)).reserved.tokens).toBeGreaterThan(0);
    const held = (await now(budget.id)).reserved.tokens;
    // As if its time were up.
    await service.database.sql(
      "UPDATE scopefloor.budget_hold SET expires_at = now() - interval '2 minutes' WHERE state = 'sent'",
    );
    await settleHolds(service.database);
    expect(await now(budget.id)).toMatchObject({
      used: { tokens: held, requests: 1 },
      reserved: { tokens: 0, requests: 0 },
    });
    // Its own hold is over: the request is refused and its call told by itself, which is the correction.
    await writing;
    await settleHolds(service.database);
    await expect.poll(async () => (await now(budget.id)).used.tokens).toBe(1_000);
  });

  test("forgetting spends no more on models than a budget has", async () => {
    await price(1);
    const agent = await service.mint("agent", { org: "forgets" });
    await set({ scope: "org/forgets", period: "day", tokenLimit: 1_500 });
    for (let i = 0; i < 2; i++) await agent.remember(`the harbour number ${i}`);
    await settleHolds(service.database);
    const before = provider.calls.length;
    for (let i = 0; i < 4; i++) {
      const answer = await agent.post<{ forgotten: number }>("/forget", { query: "harbour number 1", dryRun: true });
      expect(answer.status, answer.text).toBe(200);
    }
    expect(provider.calls.length).toBe(before);
    expect((await agent.post("/forget", { query: "harbour number 1" })).status).toBe(200);
  });

  test("a file that is read slowly is one request, to its end", async () => {
    const agent = await service.mint("agent", { org: "slowly" });
    const file = Buffer.alloc(12 * 1024 * 1024, "some words\n");
    const { id } = (await agent.upload(file, "large.txt")).body;
    await service.operator.call("PUT", "/contexts/default/limits", { scope: "org/slowly", requestsPerMinute: 1 });
    await set({ scope: "org/slowly", period: "day", requestLimit: 1 });
    const answer = await fetch(`${service.url}/default/documents/${id}/raw`, {
      headers: { authorization: `Bearer ${agent.key}` },
    });
    let size = 0;
    for await (const part of answer.body ?? []) {
      if (size === 0) await settleHolds(service.database);
      size += part.byteLength;
    }
    expect(size).toBe(file.byteLength);
    await service.operator.del("/contexts/default/limits?scope=org%2Fslowly");
  });

  test("a stranger's text is sent to no provider", async () => {
    const answer = await fetch(`${service.url}/default/facts`, {
      method: "POST",
      headers: { authorization: `Bearer ${"sf_agent_".padEnd(60, "x")}`, "content-type": "application/json" },
      body: JSON.stringify({ text: "a stranger's" }),
    });
    expect(answer.status).toBe(401);
    const agent = await service.mint("agent", { org: "mine" });
    expect((await agent.post("/facts", { text: "mine", scopes: "org/other" })).status).toBe(403);
    expect(provider.calls).toHaveLength(0);
  });

  test("budgets may come, change and go under load", async () => {
    await price(1);
    const agent = await service.mint("agent", { org: "changing" });
    const writing = Promise.all(Array.from({ length: 30 }, (_, i) => agent.post("/facts", { text: `changing ${i}` })));
    for (let i = 0; i < 5; i++) {
      const { id } = await set({ scope: "org/changing", period: "day", tokenLimit: 1_000_000 });
      await set({ scope: {}, period: "month", name: "top", tokenLimit: 1_000_000 + i });
      await set({ scope: "org/changing", period: "day", tokenLimit: 2_000_000 });
      if (i < 4) expect((await service.operator.del(`/contexts/default/budgets/${id}`)).status).toBe(204);
    }
    for (const { status, text } of await writing) expect([200, 503], text).toContain(status);
    await settleHolds(service.database);
    const { body } = await service.operator.get<{ budgets: Budget[] }>("/contexts/default/budgets");
    for (const { reserved } of body.budgets) expect(reserved).toEqual({ tokens: 0, costUsd: 0, requests: 0 });
  });
});

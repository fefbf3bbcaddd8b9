import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Limits } from "../../src/metering/limits.ts";
import { settleHolds } from "../../src/metering/settling.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let other: TestService;
beforeAll(async () => {
  service = await startService({ worker: {}, connections: 12 });
  other = await service.beside();
});
afterAll(async () => {
  await other.stop();
  await service.stop();
});
const set = async (limits: object, by: Client = service.operator) => {
  const answer = await by.call<Limits>("PUT", "/contexts/default/limits", limits);
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
};
const usedAt = async (scope: string) => {
  const { body } = await service.operator.get<{ limits: Limits[] }>(
    `/contexts/default/limits?scope=${encodeURIComponent(scope)}`,
  );
  return body.limits[0]?.used;
};
afterEach(async () => {
  const { body } = await service.operator.get<{ limits: Limits[] }>("/contexts/default/limits?pageSize=100");
  for (const { key, scope } of body.limits) {
    const which = key === null ? `scope=${encodeURIComponent(JSON.stringify(scope))}` : `key=${key}`;
    await service.operator.del(`/contexts/default/limits?${which}`);
  }
});
const statuses = (answers: readonly { readonly status: number }[]) => ({
  ok: answers.filter(({ status }) => status === 200).length,
  limited: answers.filter(({ status }) => status === 429).length,
});

describe("rates", () => {
  test("of requests: two services let pass as many as there are, and say what is left in headers that clients read (threat 27)", async () => {
    const agent = await service.mint("agent", { org: "rates" });
    await set({ scope: "org/rates", requestsPerMinute: 20 });
    const first = await agent.post("/query", { query: "anything" });
    expect(first.headers.get("ratelimit-policy")).toBe('"requests";q=20;w=60');
    expect(first.headers.get("ratelimit")).toMatch(/^"requests";r=19;t=60$/);
    expect(first.headers.get("x-ratelimit-limit-requests")).toBe("20");
    expect(first.headers.get("x-ratelimit-remaining-requests")).toBe("19");
    expect(first.headers.get("x-ratelimit-reset-requests")).toMatch(/^1m0s$/);
    const beside = other.client(agent.key);
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? agent : beside).post("/query", { query: `number ${i}` })),
    );
    expect(statuses(answers)).toEqual({ ok: 19, limited: 21 });
    const refused = answers.find(({ status }) => status === 429);
    expect(refused?.body).toMatchObject({
      type: "https://scopefloor.dev/errors/rate-limited",
      "violated-policies": ["requests"],
    });
    expect(refused?.headers.get("x-ratelimit-remaining-requests")).toBe("0");
    expect(Number(refused?.headers.get("retry-after"))).toBeGreaterThan(50);
    expect([...(refused?.headers ?? [])].join()).not.toContain('rates"');
    // A forget and a list are requests like others.
    expect((await agent.post("/forget", { query: "anything" })).status).toBe(429);
    expect((await agent.get("/documents")).status).toBe(429);
    expect((await agent.get("/me")).status).toBe(200);
    // A minute later.
    await service.database.sql("UPDATE scopefloor.limit_rate SET second = second - 61");
    expect((await agent.post("/query", { query: "anything" })).status).toBe(200);
  });

  test("no minute has more than the limit, wherever it begins", async () => {
    let slots = new Array<number>(61).fill(0);
    const passed: number[] = [];
    for (let second = 1_000; second < 1_200; second++) {
      const [row] = await service.database.sql(
        "SELECT to_json((scopefloor.advanced_rate(ROW(0, 0, $1::uuid, $2::bigint, $3::bigint[], $3::bigint[], 0)::scopefloor.limit_rate, $2 + 1)).requests) AS slots",
        [service.operator.id, second - 1, `{${slots.join(",")}}`],
      );
      slots = (row?.slots as number[] | undefined)?.map(Number) ?? [];
      const most = 10 - slots.reduce((sum, n) => sum + n, 0);
      passed.push(Math.min(most, second % 4));
      slots[second % 61] = (slots[second % 61] ?? 0) + (passed.at(-1) ?? 0);
    }
    const inAMinute = passed.map((_, i) => passed.slice(i, i + 61).reduce((sum, n) => sum + n, 0));
    expect(Math.max(...inAMinute)).toBe(10);
    expect(passed.reduce((sum, n) => sum + n, 0)).toBeGreaterThan(25);
  });

  test("of one key, of what is above it, and of both the tightest", async () => {
    const [one, two] = [await service.mint("agent", { org: "both" }), await service.mint("agent", { org: "both" })];
    await set({ scope: "org/both", requestsPerMinute: 5 });
    await set({ key: one.id, requestsPerMinute: 2 });
    const ask = (client: Client) => client.post("/query", { query: "x" });
    expect([await ask(one), await ask(one), await ask(one)].map(({ status }) => status)).toEqual([200, 200, 429]);
    expect([await ask(two), await ask(two), await ask(two), await ask(two)].map(({ status }) => status)).toEqual([
      200, 200, 200, 429,
    ]);
  });

  test("of tokens: what the model uses of a minute", async () => {
    const agent = await service.mint("agent", { org: "tokens" });
    await set({ scope: "org/tokens", tokensPerMinute: 30 });
    const answers = [];
    for (let i = 0; i < 5; i++)
      answers.push(await agent.post("/facts", { text: `the harbour number ${i} opens at dawn` }));
    expect(statuses(answers)).toEqual({ ok: 3, limited: 2 });
    expect(answers[4]?.body).toMatchObject({ "violated-policies": ["tokens"] });
    const [, reset] = /"tokens";r=\d+;t=(\d+)/.exec(answers[4]?.headers.get("ratelimit") ?? "") ?? [];
    expect(Number(answers[4]?.headers.get("retry-after"))).toBeGreaterThanOrEqual(Number(reset));
    // More than any minute has room for: stored, and found by its words.
    await service.database.sql("UPDATE scopefloor.limit_rate SET second = second - 61");
    const long = await agent.post("/facts", { text: "many words ".repeat(60) });
    expect(long.status, long.text).toBe(200);
  });

  test("of requests at once", async () => {
    const agent = await service.mint("agent", { org: "once" });
    await set({ scope: "org/once", concurrentRequests: 2 });
    const answers = await Promise.all(Array.from({ length: 8 }, () => agent.post("/query", { query: "x" })));
    expect(statuses(answers).ok).toBeGreaterThanOrEqual(2);
    await settleHolds(service.database);
    // As if so many went on.
    const running = (n: number) => service.database.sql("UPDATE scopefloor.limit_rate SET running = $1", [n]);
    const ask = async () => (await agent.post("/query", { query: "x" })).status;
    await running(2);
    expect(await ask()).toBe(429);
    await running(1);
    expect(await ask()).toBe(200);
    await settleHolds(service.database);
    await running(0);
    for (const { status, body } of answers)
      if (status === 429) expect(body).toMatchObject({ "violated-policies": ["concurrency"], retryAfter: 1 });
    for (let i = 0; i < 5; i++) expect((await agent.post("/query", { query: "one after the other" })).status).toBe(200);
    // One that fails is over as well.
    for (let i = 0; i < 5; i++)
      expect((await agent.post("/query", { query: "x", lens: "org/elsewhere" })).status).toBe(403);
    expect((await agent.post("/query", { query: "x" })).status).toBe(200);
    await settleHolds(service.database);
    expect(await usedAt("org/once")).toEqual({ concurrentRequests: 0 });
  });

  test("a key below knows nothing of a limit above it but that it is reached (threat 49)", async () => {
    const [one, two] = [
      await service.mint("agent", { org: "hidden", user: "a" }),
      await service.mint("agent", { org: "hidden", user: "b" }),
    ];
    await set({ scope: "org/hidden", requestsPerMinute: 3 });
    for (let i = 0; i < 3; i++) expect((await two.post("/query", { query: "x" })).status).toBe(200);
    const refused = await one.post("/query", { query: "x" });
    expect(refused.status).toBe(429);
    expect([...refused.headers.keys()].filter((name) => /ratelimit/.test(name))).toEqual([]);
    expect(refused.text).not.toContain("hidden");
    expect((await one.get<{ limits: object[] }>("/usage")).body.limits).toEqual([]);
  });
});

describe("what may be kept", () => {
  test("bytes: texts at once on two services never exceed it, what is refused leaves nothing, forgetting gives room (threat 27)", async () => {
    const agent = await service.mint("agent", { org: "bytes" });
    await agent.remember("harbour ledger ".padEnd(100, "."));
    await set({ scope: "org/bytes", storageBytes: 1_000 });
    expect(await usedAt("org/bytes")).toEqual({ storageBytes: 100 });
    const beside = other.client(agent.key);
    const text = (i: number) => `text ${String(i).padStart(2, "0")} `.padEnd(100, "y");
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? agent : beside).post("/facts", { text: text(i) })),
    );
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(9);
    const refused = answers.find(({ status }) => status !== 200);
    expect(refused?.status).toBe(507);
    expect(refused?.body).toMatchObject({
      type: "https://scopefloor.dev/errors/quota-exceeded",
      limit: "storageBytes",
    });
    expect(await usedAt("org/bytes")).toEqual({ storageBytes: 1_000 });
    const [row] = await service.database.sql(
      `SELECT count(*)::int AS passages, sum(octet_length(p.text))::int AS bytes, (SELECT count(*)::int FROM scopefloor.turn t WHERE t.scope_id = min(p.scope_id)) AS turns,
              (SELECT count(*)::int FROM scopefloor.stored_change) AS left
       FROM scopefloor.passage p JOIN scopefloor.scope s ON s.id = p.scope_id WHERE s.tags->>'org' = 'bytes'`,
    );
    expect(row).toEqual({ passages: 10, bytes: 1_000, turns: 10, left: 0 });
    expect((await agent.post("/forget", { query: "harbour ledger", purge: true })).body.deleted).not.toBe(0);
    expect((await usedAt("org/bytes"))?.storageBytes).toBeLessThan(1_000);
    expect((await agent.post("/facts", { text: "there is room again" })).status).toBe(200);
    expect((await agent.eraseFloor()).status).toBe(200);
    expect(await usedAt("org/bytes")).toEqual({ storageBytes: 0 });
  });

  test("documents, and with one the room for its text", async () => {
    const agent = await service.mint("agent", { org: "files" });
    await set({ scope: "org/files", documents: 2, storageBytes: 10_000 });
    const upload = (size: number, name: string) => agent.upload(`${name} `.padEnd(size, "words and "), `${name}.txt`);
    const first = await upload(2_000, "one");
    await agent.processed(first.body.id);
    expect(await usedAt("org/files")).toMatchObject({ documents: 1, storageBytes: expect.any(Number) });
    // 4,500 bytes of file, and as many for its text, are more than is left.
    const large = await upload(4_500, "large");
    expect(large.status, large.text).toBe(507);
    const second = await upload(1_000, "two");
    expect(second.status).toBe(202);
    await agent.processed(second.body.id);
    const third = await upload(10, "three");
    expect(third.status).toBe(507);
    expect(third.text).toContain("documents");
    const [kept] = await service.database.sql(
      `SELECT scopefloor.kept_below('{"org":"files"}')::text AS kept, (SELECT ROW(k.bytes, k.documents, k.sessions)::text FROM scopefloor.limit_store k JOIN scopefloor.scope s ON s.id = k.scope_id WHERE s.tags = '{"org":"files"}') AS counted`,
    );
    expect(kept?.counted).toBe(kept?.kept);
    expect((await agent.del(`/documents/${second.body.id}`)).status).toBe(204);
    expect((await upload(10, "three")).status).toBe(202);
  });

  test("a file whose text is more than was left for it fails, and leaves nothing behind", async () => {
    const agent = await service.mint("agent", { org: "grows" });
    await agent.remember("something that stays");
    // JSON is kept a line a value, with its path: a multiple of the file.
    const file = JSON.stringify({ [`${"long".repeat(30)}`]: Array.from({ length: 60 }, (_, i) => i) });
    await set({ scope: "org/grows", storageBytes: 2 * file.length + 100 });
    const sent = await agent.upload(file, "grows.json");
    expect(sent.status, sent.text).toBe(202);
    const done = await agent.processed(sent.body.id);
    expect(done).toMatchObject({ status: "failed", error: "a limit on what may be kept is reached" });
    expect((await agent.get<{ chunks?: unknown[] }>(`/documents/${sent.body.id}/chunks`)).text).not.toContain(
      "longlong",
    );
    const [kept] = await service.database.sql(
      `SELECT scopefloor.kept_below('{"org":"grows"}')::text AS kept, (SELECT ROW(k.bytes, k.documents, k.sessions)::text FROM scopefloor.limit_store k JOIN scopefloor.scope s ON s.id = k.scope_id WHERE s.tags = '{"org":"grows"}') AS counted`,
    );
    expect(kept?.counted).toBe(kept?.kept);
  });

  test("sessions, keys and scopes", async () => {
    const owner = await service.mint("management", { org: "things" });
    const agent = await service.mint("agent", { org: "things" });
    await set({ scope: "org/things", sessions: 3, keys: 4, scopes: 3 });
    for (let i = 0; i < 3; i++) expect((await agent.post("/sessions", {})).status).toBe(201);
    expect((await agent.post("/sessions", {})).status).toBe(507);
    const mint = (name: string) =>
      owner.post("/contexts/default/keys", { name, principal: "agent", scopeFloor: { org: "things" } });
    expect([(await mint("a")).status, (await mint("b")).status, (await mint("c")).status]).toEqual([201, 201, 507]);
    const write = (user: string) => agent.post("/scopes", { path: `user/${user}` });
    expect([(await write("a")).status, (await write("b")).status, (await write("c")).status]).toEqual([201, 201, 507]);
    const used = (await service.operator.get<{ limits: Limits[] }>("/contexts/default/limits?scope=org%2Fthings")).body
      .limits[0]?.used;
    expect(used).toEqual({ sessions: 3, keys: 4, scopes: 3 });
  });

  test("of a scope and of one below it: what does not fit in either is not stored", async () => {
    const agent = await service.mint("agent", { org: "nested" });
    await set({ scope: "org/nested", storageBytes: 1_000 });
    await set({ scope: "org/nested/user/u", storageBytes: 150 });
    const store = (scopes: string) => agent.post("/facts", { text: "z".repeat(100), scopes });
    expect((await store("user/u")).status).toBe(200);
    expect((await store("user/u")).status).toBe(507);
    expect((await store("user/v")).status).toBe(200);
    expect(await usedAt("org/nested")).toEqual({ storageBytes: 200 });
  });
});

describe("whose limits they are", () => {
  test("a tenant cannot lift what a key above has set, nor name a foreign scope or key (threat 50)", async () => {
    const owner = await service.mint("management", { org: "acme" });
    const agent = await service.mint("agent", { org: "acme" });
    const foreign = await service.mint("agent", { org: "globex" });
    await set({ scope: "org/acme", requestsPerMinute: 100, storageBytes: 50 });
    await set({ key: agent.id, requestsPerMinute: 50 });
    for (const body of [{ requestsPerMinute: 1_000 }, { key: agent.id, requestsPerMinute: 1_000 }])
      expect((await owner.call("PUT", "/contexts/default/limits", body)).status).toBe(403);
    expect((await owner.call("DELETE", "/contexts/default/limits")).status).toBe(403);
    expect((await owner.call("DELETE", `/contexts/default/limits?key=${agent.id}`)).status).toBe(403);
    expect(
      (await owner.call("PUT", "/contexts/default/limits", { key: foreign.id, requestsPerMinute: 1 })).status,
    ).toBe(404);
    expect(
      (await owner.call("PUT", "/contexts/default/limits", { scope: "org/globex", requestsPerMinute: 1 })).status,
    ).toBe(403);
    expect((await owner.eraseFloor()).status).toBe(200);
    expect((await agent.post("/facts", { text: "y".repeat(60) })).status).toBe(507);
    await set({ scope: "user/u", requestsPerMinute: 5 }, owner);
    expect((await owner.get<{ limits: Limits[] }>("/contexts/default/limits")).body.limits).toHaveLength(3);
  });

  test("bad ones are 400", async () => {
    for (const body of [
      {},
      { requestsPerMinute: -1 },
      { requestsPerMinute: 1.5 },
      { scope: "org/x", key: service.operator.id, keys: 1 },
      { key: "x", keys: 1 },
    ])
      expect((await service.operator.call("PUT", "/contexts/default/limits", body)).status).toBe(400);
  });
});

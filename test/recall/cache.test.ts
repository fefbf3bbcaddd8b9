import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { enterScope } from "../../src/db/access/enter.ts";
import { json } from "../../src/db/access/scoped.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;

beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());

interface Answer {
  tier: string;
  hits: { id: string; text: string; score: number }[];
  trace: { traceId: string; resolutionTier: string; plan: string; savedTokens?: number; tokens: { total: number } };
}
const ask = async (client: Client, query: string, more: object = {}) =>
  (await client.post<Answer>("/query", { query, ...more })).body;

let tenants = 0;
const tenant = async (...texts: string[]) => {
  const client = await service.mint("agent", { org: `cached-${++tenants}` });
  for (const text of texts) await client.remember(text);
  return client;
};

describe("the cache tier", () => {
  test("answers the same question with the same hits, spends nothing and says what it saved", async () => {
    const client = await tenant("The lighthouse keeper is called Ines.", "The harbour opens at six.");
    const first = await ask(client, "Who keeps the lighthouse?");
    expect(first.tier).toBe("hybrid");
    const second = await ask(client, "  who keeps the  lighthouse");
    expect(second).toMatchObject({ tier: "cache", hits: first.hits, trace: { resolutionTier: "cache" } });
    expect(second.trace.tokens.total).toBe(0);
    expect(second.trace.savedTokens).toBe(first.trace.tokens.total);
    expect(first.trace.tokens.total).toBeGreaterThan(0);
    const stats = await client.get("/traces/stats");
    expect(stats.body).toMatchObject({ cache: { hits: 1, hitRate: 0.5, savedTokens: first.trace.tokens.total } });
    const trace = await client.get(`/traces/${second.trace.traceId}`);
    expect(trace.body).toMatchObject({ cached: true, resolutionTier: "cache" });
    const metrics = await service.operator.get("/metrics");
    expect(metrics.text).toMatch(/scopefloor_cache_questions_total\{result="hit"\} [1-9]/);
  });

  test("takes what narrows a question for another question", async () => {
    const client = await tenant("The mill grinds rye.");
    await ask(client, "mill rye");
    for (const more of [
      { k: 3 },
      { mode: "bm25" },
      { labels: ["a=b"] },
      { includeDuplicates: true },
      { include: "facts" },
    ]) {
      expect((await ask(client, "mill rye", more)).tier, JSON.stringify(more)).not.toBe("cache");
    }
    expect((await ask(client, "mill C")).tier).not.toBe("cache");
    expect((await ask(client, "mill C#")).tier).not.toBe("cache");
    expect((await ask(client, "mill rye")).tier).toBe("cache");
  });

  test("is kept while others forget, and stores nothing once something visible has changed", async () => {
    const client = await tenant("The mill grinds barley.");
    // A dimension of its own: its scope neither holds this one nor contradicts it.
    const other = await service.mint("agent", { team: "forgetful" });
    await other.remember("The mill grinds oats.");
    await ask(client, "mill barley");
    expect((await other.post("/forget", { query: "oats", purge: true })).status).toBe(200);
    expect((await other.eraseFloor()).status).toBe(200);
    expect((await ask(client, "mill barley")).tier).toBe("cache");

    const question = createHash("sha256").update("late").digest();
    const stored = async (version: (now: string) => string) => {
      await enterScope(
        service.database.app,
        { keyHash: hashSecret(client.key), onBehalfOf: undefined, route: "test", operation: "test" },
        { verb: "memory:read", mode: "select", question },
        (tx) => tx.call("cache_answer", question, version(tx.entry.recall?.version ?? ""), json({ hits: [] })),
      );
      return (await service.database.sql("SELECT 1 FROM scopefloor.response_cache WHERE answer = '{\"hits\": []}'"))
        .length;
    };
    expect(await stored((now) => `${now}0`)).toBe(0);
    expect(await stored((now) => now)).toBe(1);
  });

  test("takes a question of nothing but marks in its stride", async () => {
    const client = await tenant("The mill grinds wheat.");
    const began = performance.now();
    expect((await client.post("/query", { query: `${"…".repeat(7_999)}a` })).status).toBe(200);
    expect((await client.post("/query", { query: "?".repeat(8_000) })).status).toBe(200);
    expect(performance.now() - began).toBeLessThan(5_000);
  });

  test("is passed by after a write anywhere in the visible scopes, general knowledge included", async () => {
    const client = await tenant("The ferry leaves from pier two.");
    const beside = await service.mint("agent", { org: `cached-${tenants}`, user: "eve" });
    const question = "Where does the ferry leave?";
    const seen = async () => (await ask(client, question)).tier === "cache";
    await ask(client, question);
    expect(await seen()).toBe(true);
    // Not visible from here: no reason to search again.
    await beside.remember("Eve's ferry is late.");
    expect(await seen()).toBe(true);
    await client.remember("The ferry leaves from pier nine now.");
    const after = await ask(client, question);
    expect(after.tier).toBe("hybrid");
    expect(after.hits.map((hit) => hit.text)).toContain("The ferry leaves from pier nine now.");
    expect(await seen()).toBe(true);
    await service.operator.post("/facts", { text: "Every ferry carries a bell.", scopes: [[]] });
    expect((await ask(client, question)).hits.map((hit) => hit.text)).toContain("Every ferry carries a bell.");
    expect(await seen()).toBe(true);
    await service.database.sql("SELECT scopefloor.fold_counters()");
    expect(await seen()).toBe(true);
  });

  test("forgets with a forget, and a document's next version is seen", async () => {
    const client = await tenant("The vault's code word is marigold.", "The vault is below the bank.");
    await ask(client, "vault code word");
    const forgotten = await client.post("/forget", { query: "marigold", purge: true });
    expect(forgotten.body).toMatchObject({ deleted: 1 });
    const rows = await service.database.sql(
      "SELECT 1 FROM scopefloor.response_cache r JOIN scopefloor.scope s ON s.id = r.scope_id WHERE s.tags = $1::jsonb",
      [JSON.stringify({ org: `cached-${tenants}` })],
    );
    expect(rows).toEqual([]);
    const after = await ask(client, "vault code word");
    expect(after.tier).not.toBe("cache");
    expect(JSON.stringify(after.hits)).not.toContain("marigold");

    const { body } = await client.upload("The bridge toll is four crowns.", "toll.txt");
    await client.processed(body.id);
    await ask(client, "bridge toll");
    await client.upload("The bridge toll is five crowns.", "toll.txt", undefined, {
      method: "PUT",
      path: `/documents/${body.id}`,
    });
    await client.processed(body.id);
    const next = await ask(client, "bridge toll");
    expect(next.hits.map((hit) => hit.text)).toContain("The bridge toll is five crowns.");
    expect(JSON.stringify(next.hits)).not.toContain("four crowns");
  });

  test("never serves one tenant's answer to another, nor one key's to a key of another floor or policy (threat 1)", async () => {
    const acme = await tenant("canary-acme: the merger is on Friday.");
    const org = `cached-${tenants}`;
    const other = await tenant("canary-other: nothing is planned.");
    const narrower = await service.mint("agent", { org, user: "zoe" });
    const reader = await service.mint("agent", { org }, { verbs: ["memory:read"] });
    const question = "When is the merger?";
    await ask(acme, question);
    for (const client of [other, narrower, reader]) {
      const answer = await ask(client, question);
      expect(answer.tier).not.toBe("cache");
      if (client !== reader) expect(JSON.stringify(answer)).not.toContain("canary-acme");
    }
    // Another key of the very same floor and verbs may have it.
    expect((await ask(await service.mint("agent", { org }), question)).tier).toBe("cache");
    expect(JSON.stringify(await ask(await service.mint("agent", { org: "none-yet" }), question))).not.toContain(
      "canary",
    );
  });

  test("keeps ids and scores, and no text of question or answer", async () => {
    const client = await tenant("Zanzibar exports cloves.");
    await ask(client, "What does Zanzibar export?");
    const rows = await service.database.sql("SELECT r::text AS row FROM scopefloor.response_cache r");
    expect(rows.length).toBeGreaterThan(0);
    for (const { row } of rows) expect(String(row)).not.toMatch(/zanzibar|cloves/i);
  });

  test("reads its passages under both locks: a planted answer shows nothing that the key may not see", async () => {
    const acme = await tenant("canary-planted: secret of the first.");
    const victim = await ask(acme, "secret of the first");
    const thief = await tenant("Nothing to see.");
    await ask(thief, "secret of the first");
    await service.database.sql(
      `UPDATE scopefloor.response_cache r SET answer = jsonb_set(r.answer, '{hits}', (SELECT v.answer->'hits' FROM scopefloor.response_cache v JOIN scopefloor.scope s ON s.id = v.scope_id WHERE s.tags = $1::jsonb LIMIT 1))
       FROM scopefloor.scope s WHERE s.id = r.scope_id AND s.tags = $2::jsonb`,
      [JSON.stringify({ org: `cached-${tenants - 1}` }), JSON.stringify({ org: `cached-${tenants}` })],
    );
    const answer = await ask(thief, "secret of the first");
    expect(answer.tier).not.toBe("cache");
    expect(JSON.stringify(answer)).not.toContain("canary-planted");
    expect(JSON.stringify(answer)).not.toContain(victim.hits[0]?.id);
  });

  test("takes an answer that is none for none", async () => {
    const client = await tenant("Umber is a pigment.");
    for (const planted of ['{"fullContextTokens": 8000}', "[]", '{"hits": "all", "fullContextTokens": 8000}']) {
      await ask(client, "What is umber?");
      await service.database.sql("UPDATE scopefloor.response_cache SET answer = $1::jsonb", [planted]);
      const answer = await ask(client, "What is umber?");
      expect(answer.tier).not.toBe("cache");
      expect(answer.hits.map(({ text }) => text)).toContain("Umber is a pigment.");
    }
  });

  test("can be turned off by the operator", async () => {
    const client = await tenant("The orchard has pears.");
    await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
    await ask(client, "orchard pears");
    expect((await ask(client, "orchard pears")).tier).toBe("hybrid");
    await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 3600 } });
  });
});

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ItemTexts } from "../../src/memory/item-text.ts";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** Keyed items that recall finds by words and vectors. */

let provider: EmbeddingProvider;
let service: TestService;
let org: string;
let agent: Client;
let admin: Client;
let counter = 0;

beforeAll(async () => {
  provider = await startProvider();
  service = await startService({ models: provider.models, worker: {} });
});
afterAll(async () => {
  await service.stop();
  await provider.stop();
});
beforeEach(async () => {
  provider.behave("ok");
  org = `found-${++counter}`;
  agent = await service.mint("agent", { org });
  admin = await service.mint("management", { org });
});

interface Hit {
  id: string;
  text: string;
  key?: string;
  source: string;
  score: number;
}
const put = (key: string, value: unknown, more: object = { index: ["$"] }, by = agent) =>
  by.call<{ key: string }>("PUT", `/memory/${key}`, { value, ...more });
const ask = async (query: string, more: object = {}, by = agent) => {
  const { body, status, text } = await by.post<{ hits: Hit[] }>("/query", { query, ...more });
  expect(status, text).toBe(200);
  return body.hits;
};
const keysOf = (hits: readonly Hit[]) => hits.map(({ key }) => key).sort();
const found = async (query: string, more: object = {}, by = agent) => keysOf(await ask(query, more, by));
/** Passages of items at the tenant's scopes, below every filter. */
const passages = async () =>
  (
    await service.database.sql(
      "SELECT p.text FROM scopefloor.passage p JOIN scopefloor.scope s ON s.id = p.scope_id WHERE s.tags->>'org' = $1 AND p.kind = 'item' AND p.expired_at IS NULL ORDER BY 1",
      [org],
    )
  ).map(({ text }) => text);

describe("an item with an index", () => {
  test("is found by its words and by its vector, and names its key", async () => {
    await put("menu:friday", { dish: "lentil soup with cumin", price: 7 });
    await put("menu:monday", "Kürbissuppe mit Ingwer");
    await put("menu:tuesday", "麻婆豆腐と白いご飯");
    await put("menu:sunday", "roast of lentils", {});
    await put("menu:secret", "lentils of the house", { index: false });
    for (const mode of ["bm25", "vector", "hybrid"]) {
      const [first] = await ask("lentil soup cumin", { mode });
      expect(first, mode).toMatchObject({ key: "menu:friday", source: "attribute" });
      expect(first?.text).toContain("menu:friday: ");
    }
    expect((await ask("Suppe aus Kürbis", { mode: "bm25" }))[0]?.key).toBe("menu:monday");
    expect(await found("麻婆豆腐", { mode: "bm25" })).toEqual(["menu:tuesday"]);
    expect(await found("lentils of the house roast")).not.toContain("menu:secret");
    expect(await found("lentils of the house roast")).not.toContain("menu:sunday");
    const { body } = await agent.get<{ key: string; value: unknown }>(`/memories/${(await ask("cumin"))[0]?.id}`);
    expect(body).toMatchObject({ key: "menu:friday", value: { dish: "lentil soup with cumin", price: 7 } });
  });

  test("is found by the fields that it names, and by no other", async () => {
    const value = { title: "heron", tags: ["marsh", "wading"], owner: { name: "Ottoline" }, notes: "unspoken" };
    await put("bird", value, { index: ["title", "tags[*]", "owner.name"] });
    for (const word of ["heron", "marsh", "wading", "Ottoline"])
      expect(await found(word, { mode: "bm25" }), word).toEqual(["bird"]);
    expect(await found("unspoken", { mode: "bm25" })).toEqual([]);
    await put("blank", value, { index: ["nowhere"] });
    expect(await passages()).toHaveLength(1);
  });

  test("is chosen or left out by what a search includes", async () => {
    await put("a", "the glacier calves at noon");
    await agent.remember("The glacier calves at midnight.");
    expect(await found("glacier calves", { include: "items" })).toEqual(["a"]);
    expect(await found("glacier calves", { include: "passages" })).toEqual([undefined]);
    expect(await found("glacier calves", { include: "facts" })).toEqual(["a"]);
    expect(await found("glacier calves", { sources: ["attribute"] })).toEqual(["a"]);
    expect(await found("glacier calves", { include: ["items", "passages"] })).toEqual(["a", undefined]);
    const context = await agent.post<{ context: string }>("/context", { query: "when does the glacier calve" });
    expect(context.body.context).toContain("at noon");
  });

  test("is found by what it says now, and not once it is gone, whichever way", async () => {
    await put("a", "a xylophone in the attic");
    await put("a", "a harmonium in the attic");
    expect(await found("xylophone", { mode: "bm25" })).toEqual([]);
    expect(await found("harmonium", { mode: "bm25" })).toEqual(["a"]);
    await put("a", "a harmonium in the attic", {});
    expect(await passages()).toEqual([]);
    await put("a", "a harmonium in the attic");
    const [{ id = "" } = {}] = await ask("harmonium");
    const corrected = await agent.call("PATCH", `/memories/${id}`, { value: "a celesta in the attic" });
    expect(corrected.status, corrected.text).toBe(200);
    expect(await found("harmonium", { mode: "bm25" })).toEqual([]);
    expect((await ask("celesta attic", { mode: "vector" }))[0]?.key).toBe("a");
    expect(await passages()).toEqual(["a: a celesta in the attic"]);
    await agent.del("/memory/a");
    expect(await passages()).toEqual([]);

    for (const [key, remove] of Object.entries({
      batch: () => agent.post("/memory/batch", { operations: [{ op: "delete", key: "batch" }] }),
      memory: async () => admin.del(`/memories/${(await ask("theremin"))[0]?.id}`),
      topic: () => admin.post("/forget", { query: "theremin" }),
      purge: () => admin.post("/forget", { query: "theremin", purge: true, confirm: `org/${org}` }),
      scope: () => admin.post("/scopes/forget", { path: `org/${org}`, confirm: `org/${org}` }),
    })) {
      await put(key, "a theremin by the window");
      expect(await found("theremin", { mode: "bm25" }), key).toEqual([key]);
      const answer = await remove();
      expect(answer.status, `${key}: ${answer.text}`).toBeLessThan(300);
      expect(await passages(), key).toEqual([]);
      expect(await found("theremin", { mode: "bm25" }), key).toEqual([]);
    }
  });

  test("is one memory in a list, in a preview of forget and in what that counts", async () => {
    await put("a", "the tide table of Honfleur");
    const { body } = await agent.get<{ memories: { source: string }[] }>("/memories");
    expect(body.memories.map(({ source }) => source)).toEqual(["item"]);
    const preview = await admin.post<{ deleted: number }>("/forget", { query: "tide Honfleur", dryRun: true });
    expect(preview.body.deleted).toBe(1);
    const { items } = (await agent.get<{ items: unknown[] }>("/memory")).body;
    expect(items).toHaveLength(1);
    await admin.post("/forget", { query: "tide Honfleur" });
    expect((await agent.get("/memory/a")).status).toBe(404);
  });

  test("is not found by another tenant, nor by whoever may only write (threats 1, 7)", async () => {
    const rival = await service.mint("agent", { org: `${org}-rival` });
    const writer = await service.mint("agent", { org }, { verbs: ["memory:write"] });
    expect((await put("a", "the vault opens with seven bells", { index: ["$"] }, writer)).status).toBe(200);
    expect((await put("a", "the vault opens with eight bells", { index: ["$"] }, writer)).status).toBe(200);
    await put("a", "the rival's vault opens at once", { index: ["$"] }, rival);
    for (const mode of ["bm25", "vector", "hybrid"]) {
      expect((await ask("vault opens bells", { mode })).map(({ text }) => text)).toEqual([
        "a: the vault opens with eight bells",
      ]);
      expect((await ask("vault opens bells", { mode }, rival)).map(({ text }) => text)).toEqual([
        "a: the rival's vault opens at once",
      ]);
    }
    expect((await writer.post("/query", { query: "vault" })).status).toBe(403);
  });

  test("is over for recall when it is over, and stays with it where a read keeps it", async () => {
    const age = (seconds: number) =>
      service.database.sql(
        `WITH o AS (UPDATE scopefloor.memory_item m SET expires_at = expires_at - make_interval(secs => $2) FROM scopefloor.scope s
                    WHERE s.id = m.scope_id AND s.tags->>'org' = $1 RETURNING m.scope_id, m.id, m.expires_at)
         UPDATE scopefloor.passage p SET ends_at = p.ends_at - make_interval(secs => $2) FROM o WHERE p.scope_id = o.scope_id AND p.id = o.id`,
        [org, seconds],
      );
    await put("short", "a lighthouse keeper", { index: ["$"], ttlSeconds: 100 });
    await put("kept", "a lighthouse lamp", { index: ["$"], ttlSeconds: 100, refreshOnRead: true });
    await age(60);
    await agent.get("/memory/kept");
    await age(60);
    expect(await found("lighthouse", { mode: "bm25" })).toEqual(["kept"]);
    const [{ id = "" } = {}] = await ask("lighthouse");
    const stays = await agent.call("PATCH", `/memories/${id}`, { expiresAt: "never" });
    expect(stays.status, stays.text).toBe(200);
    await age(1_000);
    expect(await found("lighthouse", { mode: "bm25" })).toEqual(["kept"]);
  });

  test("pays for its vector, and is found by words while the model is away", async () => {
    await put("paid", "a kestrel over the moor");
    const traces = await admin.get<{ traces: { operation: string; embeddingTokens?: number }[] }>("/traces?limit=50");
    expect(traces.text).toContain("item_put");
    const [row] = await service.database.sql(
      "SELECT t.embedding_tokens AS n FROM scopefloor.decision_trace t WHERE t.scope->>'org' = $1 AND t.operation = 'item_put'",
      [org],
    );
    expect(Number(row?.n)).toBe(1000);
    provider.behave("500");
    expect((await put("away", "a merlin over the moor")).status).toBe(200);
    expect(await found("merlin", { mode: "bm25" })).toEqual(["away"]);
    provider.behave("ok");
    await expect
      .poll(async () => (await ask("merlin over the moor", { mode: "vector" }))[0]?.key, { timeout: 20_000 })
      .toBe("away");
  });

  test("is refused where its index is none, and nothing is set", async () => {
    for (const index of [
      true,
      [],
      [""],
      ["a..b"],
      ["a[x]"],
      ["{a,b}"],
      Array.from({ length: 17 }, () => "a"),
      "title",
    ]) {
      const answer = await put("a", { title: "x" }, { index });
      expect(answer.status, JSON.stringify(index)).toBe(400);
      expect(answer.text).toContain("index");
    }
    const long = Object.fromEntries([["text", "x ".repeat(30_000)]]);
    expect((await put("a", long, { index: ["$", "text"] })).status).toBe(400);
    expect((await agent.get("/memory/a")).status).toBe(404);
    // What one request makes of its values has a bound, whatever it finds.
    const zeros = { a: Array.from({ length: 30_000 }, () => 0) };
    const index = Array.from({ length: 16 }, (_, i) => `a[*].x${i}`);
    const wide = Array.from({ length: 20 }, (_, i) => ({ key: `w${i}`, value: zeros, index }));
    expect((await agent.post("/memory/batch", { operations: wide })).text).toContain("name fewer fields");
    const deleted = await agent.post("/memory/batch", { operations: [{ op: "delete", key: "a", index: ["$"] }] });
    expect(deleted.status).toBe(400);
  });

  test("has the vector of what it says, also where a model was slow with what it said before", async () => {
    provider.behave("500");
    await put("x", "zebra harmonica");
    const asked = provider.calls.length;
    provider.delayMs = 1_000;
    provider.behave("ok");
    try {
      await expect
        .poll(() => provider.calls.slice(asked).some(({ texts }) => texts[0] === "x: zebra harmonica"), {
          timeout: 20_000,
        })
        .toBe(true);
      provider.delayMs = 0;
      await put("x", "submarine teapot");
      await new Promise((resolve) => setTimeout(resolve, 1_500));
    } finally {
      provider.delayMs = 0;
    }
    const score = async (query: string) =>
      (await ask(query, { mode: "vector" })).find(({ key }) => key === "x")?.score ?? 0;
    expect(await score("submarine teapot")).toBeGreaterThan(0.5);
    expect(await score("zebra harmonica")).toBeLessThan(0.3);
  });

  test("that is refused for its version costs no vector, and gets one soon where it is not", async () => {
    await put("x", "a first gull");
    const asked = provider.calls.length;
    expect((await put("x", "a second gull", { index: ["$"], ifVersion: 9 })).status).toBe(409);
    expect(provider.calls).toHaveLength(asked);
    expect((await put("x", "a third gull", { index: ["$"], ifVersion: 1 })).status).toBe(200);
    expect(await found("third", { mode: "bm25" })).toEqual(["x"]);
    await expect.poll(async () => (await ask("a third gull", { mode: "vector" })).length, { timeout: 20_000 }).toBe(1);
  });

  test("is forgotten by its own times, and held as it is", async () => {
    await put("timed", "the sundial in the yard");
    const until = new Date().toISOString();
    await new Promise((resolve) => setTimeout(resolve, 5));
    const [{ id = "" } = {}] = await ask("sundial");
    await agent.call("PATCH", `/memories/${id}`, { expiresAt: "never" });
    const dry = (more: object) =>
      admin.post<{ deleted: number }>("/forget", { query: "sundial yard", dryRun: true, ...more });
    expect([(await dry({ until })).body.deleted, (await dry({})).body.deleted]).toEqual([0, 1]);
    await admin.call("PUT", "/contexts/default/holds", { scope: { org }, reason: "a case" });
    for (const more of [{}, { index: ["title"] }])
      expect((await put("timed", "the sundial in the yard", more)).status).toBe(409);
    expect((await agent.del("/memory/timed")).status).toBe(409);
    expect(await found("sundial", { mode: "bm25" })).toEqual(["timed"]);
  });

  test("is set and forgotten by many at once without one waiting for ever", async () => {
    const keys = Array.from({ length: 12 }, (_, i) => `k${i}`);
    const shuffled = () => [...keys].sort(() => Math.random() - 0.5);
    const rounds = await Promise.all(
      Array.from({ length: 8 }, async (_, n) => {
        const answers = [];
        for (let round = 0; round < 4; round++) {
          const operations = shuffled().map((key, i) =>
            i % 4 === 3 ? { op: "delete", key } : { key, value: `pelican ${n} ${round} ${key}`, index: ["$"] },
          );
          answers.push(await agent.post("/memory/batch", { operations }));
          if (n === 0) answers.push(await admin.post("/forget", { query: "pelican", dryRun: round % 2 === 1 }));
        }
        return answers.map(({ status }) => status);
      }),
    );
    expect([...new Set(rounds.flat())]).toEqual([200]);
    const { items } = (await agent.get<{ items: { key: string; value: string }[] }>("/memory")).body;
    expect(await passages()).toEqual(items.map(({ key, value }) => `${key}: ${value}`).sort());
  });
});

test("what an item says is what stands at its fields", () => {
  const value = { a: { b: [{ c: "one" }, { c: 2 }, "x"] }, d: null, e: true, f: { g: 1 } };
  const said = (...fields: string[]) => new ItemTexts().of("k", value, fields);
  expect(said("a.b[*].c")).toBe("k: one\n2");
  expect(said("a.b[0].c")).toBe("k: one");
  expect(said("a.b[-1]")).toBe("k: x");
  expect(said("f", "e")).toBe('k: {"g":1}\ntrue');
  expect(said("d", "toString", "a.b.length")).toBeUndefined();
  expect(new ItemTexts().of("k", "text", ["$"])).toBe("k: text");
  expect(new ItemTexts().of("k", null, ["$"])).toBeUndefined();
  expect(new ItemTexts().of("k", "text", null)).toBeUndefined();
});

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let client: Client;
let counter = 0;

beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());
beforeEach(async () => {
  client = await service.mint("agent", { org: `tenant-${++counter}` });
});

interface Memory {
  id: string;
  source: string;
  text: string;
  labels: string[];
  expiresAt?: string;
  value?: unknown;
  history?: { text: string }[];
}
interface Page {
  memories: Memory[];
  nextCursor?: string;
}
const list = async (query = "") => (await client.get<Page>(`/memories${query}`)).body;
const texts = async (query = "") => (await list(query)).memories.map(({ text }) => text);
const one = (id: string) => client.get<Memory>(`/memories/${id}`);
const patch = (id: string, change: object) => client.call<Memory>("PATCH", `/memories/${id}`, change);
const say = async (key: string, value: unknown, more: object = {}) => {
  const said = await client.post<{ extraction: { attributes: { id: string }[] } }>("/facts", {
    triples: [{ entity: { type: "Person", name: "Alice" }, key, value }],
    ...more,
  });
  return said.body.extraction.attributes[0]?.id ?? "";
};
/** Whether any table still holds a word. */
const isStored = async (word: string) => {
  const rows = await service.database.sql(
    `SELECT 1 FROM scopefloor.turn WHERE content LIKE $1 UNION ALL SELECT 1 FROM scopefloor.passage WHERE text LIKE $1
     UNION ALL SELECT 1 FROM scopefloor.attribute WHERE sentence LIKE $1 OR value::text LIKE $1
     UNION ALL SELECT 1 FROM scopefloor.memory_item WHERE value::text LIKE $1`,
    [`%${word}%`],
  );
  return rows.length > 0;
};

describe("the list of memories", () => {
  test("has turns, facts and items by the ids of hits, with what each is", async () => {
    const turn = await client.remember("the kettle is in the blue kitchen", { labels: ["room=kitchen"] });
    const fact = await say("city", "Lisbon");
    await client.call("PUT", "/memory/theme", { value: { dark: true } });
    const { memories, nextCursor } = await list();
    expect(nextCursor).toBeUndefined();
    expect(memories.map(({ source }) => source).sort()).toEqual(["attribute", "item", "memory_chunk"]);
    expect(memories.find(({ id }) => id === turn.chunkId)).toMatchObject({
      text: "the kettle is in the blue kitchen",
      labels: ["room=kitchen"],
      turnId: turn.turnId,
      role: "user",
    });
    expect(memories.find(({ id }) => id === fact)).toMatchObject({ text: "Alice: city: Lisbon", source: "attribute" });
    expect(memories.find(({ source }) => source === "item")).toMatchObject({
      text: 'theme: {"dark":true}',
      key: "theme",
      value: { dark: true },
    });
    const { body } = await client.post<{ hits: { id: string }[] }>("/query", { query: "kettle" });
    expect((await one(body.hits[0]?.id ?? "")).body.text).toBe("the kettle is in the blue kitchen");
  });

  test("is walked by its cursor, which neither new nor forgotten memories confuse", async () => {
    for (let n = 0; n < 7; n++) await client.remember(`note number ${n}`);
    const first = await list("?limit=3");
    expect(first.memories.map(({ text }) => text)).toEqual(["note number 6", "note number 5", "note number 4"]);
    await client.remember("note number 7");
    expect((await client.del(`/memories/${first.memories[2]?.id}`)).status).toBe(200);
    const second = await list(`?limit=3&cursor=${first.nextCursor}`);
    expect(second.memories.map(({ text }) => text)).toEqual(["note number 3", "note number 2", "note number 1"]);
    const last = await list(`?limit=3&cursor=${second.nextCursor}`);
    expect(last).toEqual({ memories: [expect.objectContaining({ text: "note number 0" })] });
    expect((await client.get(`/memories?cursor=${Buffer.from("x").toString("base64url")}`)).status).toBe(400);
  });

  test("is narrowed by labels, source, time and lens", async () => {
    await client.remember("an old plan", { observedAt: "2020-05-01T00:00:00Z", labels: ["kind=plan"] });
    await client.remember("a new plan, at Bob's", { labels: ["kind=plan", "state=open"], scopes: "user/bob" });
    await say("city", "Porto");
    expect(await texts("?labels=kind=plan")).toHaveLength(2);
    expect(await texts(`?labels=${encodeURIComponent('["kind=plan","state=open"]')}`)).toEqual([
      "a new plan, at Bob's",
    ]);
    expect(await texts("?source=attribute,item")).toEqual(["Alice: city: Porto"]);
    expect(await texts("?until=2021-01-01T00:00:00Z")).toEqual(["an old plan"]);
    expect(await texts("?since=2021-01-01T00:00:00Z&source=memory_chunk")).toEqual(["a new plan, at Bob's"]);
    expect(await texts("?lens=user/bob&scopeView=subtree")).toEqual(["a new plan, at Bob's"]);
    expect((await client.get("/memories?source=everything")).status).toBe(400);
    expect((await client.get("/memories?labels=nonsense")).status).toBe(400);
  });

  test("shows general knowledge, which only the operator changes, and nothing of another tenant (threat 51)", async () => {
    const { chunkId } = await service.operator.remember("everyone may know this", { scopes: {} });
    const { chunkId: mine } = await client.remember("mine alone");
    const other = await service.mint("agent", { org: "somebody-else" });
    expect((await client.get(`/memories/${chunkId}`)).status).toBe(200);
    expect((await client.call("PATCH", `/memories/${chunkId}`, { text: "nobody may" })).status).toBe(404);
    expect((await client.del(`/memories/${chunkId}`)).status).toBe(404);
    expect((await other.get(`/memories/${mine}`)).status).toBe(404);
    expect((await other.call("PATCH", `/memories/${mine}`, { text: "theirs" })).status).toBe(404);
    expect((await other.del(`/memories/${mine}`)).status).toBe(404);
    expect((await other.get<Page>("/memories")).text).not.toContain("mine alone");
    const changed = await service.operator.call("PATCH", `/memories/${chunkId}`, { text: "everyone may know that" });
    expect(changed.status).toBe(200);
    expect((await one(chunkId)).body.text).toBe("everyone may know that");
    expect((await service.operator.del(`/memories/${chunkId}`)).status).toBe(200);
  });
});

describe("one memory", () => {
  test("of a turn: a corrected text is found by its new words, and the old text is gone", async () => {
    const { chunkId, sessionId } = await client.remember("the standup is at marmalade o'clock");
    const changed = await patch(chunkId, { text: "the standup is at quince o'clock" });
    expect(changed.body).toMatchObject({ id: chunkId, text: "the standup is at quince o'clock" });
    expect(await client.recall("quince", { mode: "bm25" })).toEqual(["the standup is at quince o'clock"]);
    expect(await client.recall("marmalade", { mode: "bm25" })).toEqual([]);
    expect((await client.get(`/sessions/${sessionId}/turns`)).text).toContain("quince");
    expect(await isStored("marmalade")).toBe(false);
  });

  test("of a turn: with keepHistory the old text is there by id, and for no recall; a purge takes it", async () => {
    const { chunkId, sessionId } = await client.remember("the vault opens with papaya");
    await patch(chunkId, { text: "the vault opens with durian", keepHistory: true });
    await patch(chunkId, { text: "the vault opens with lychee", keepHistory: true });
    expect((await one(chunkId)).body.history).toMatchObject([
      { text: "the vault opens with durian" },
      { text: "the vault opens with papaya" },
    ]);
    expect((await client.get(`/sessions/${sessionId}/turns`)).text).not.toContain("papaya");
    expect((await client.post("/query", { query: "papaya durian vault", k: 50 })).text).not.toContain("papaya");
    const gone = await client.post<{ deleted: number }>("/forget", { query: "papaya", purge: true });
    expect(gone.body.deleted).toBe(1);
    expect(await isStored("papaya")).toBe(false);
    expect(await isStored("durian")).toBe(true);
    await client.del(`/memories/${chunkId}`);
    expect(await isStored("durian")).toBe(false);
  });

  test("of a fact: the value is another one, with all that confirmed it; or the new one follows the old", async () => {
    const id = await say("city", "Bergen", { observedAt: "2024-01-01T00:00:00Z" });
    await say("city", "Bergen", { observedAt: "2024-02-01T00:00:00Z" });
    expect((await patch(id, { text: "Alice: city: Tromso" })).body).toMatchObject({ id, text: "Alice: city: Tromso" });
    expect(await isStored("Bergen")).toBe(false);
    expect((await patch(id, { value: "Oslo" })).body.text).toBe("Alice: city: Oslo");
    expect(await client.recall("oslo", { mode: "bm25" })).toEqual(["Alice: city: Oslo"]);
    const followed = await patch(id, { value: "Stavanger", keepHistory: true });
    expect(followed.body).toMatchObject({ text: "Alice: city: Stavanger" });
    expect(followed.body.id).not.toBe(id);
    const { history } = (await client.get<{ history: { value: string }[] }>("/entities/Person/Alice/history/city"))
      .body;
    expect(history.map(({ value }) => value)).toEqual(["Stavanger", "Oslo"]);
    expect((await patch(followed.body.id, { text: "Stavanger" })).status).toBe(422);
  });

  test("of a fact that says what the one before says becomes that one", async () => {
    const first = await say("pet", "cat", { observedAt: "2024-01-01T00:00:00Z" });
    const second = await say("pet", "dog", { observedAt: "2024-03-01T00:00:00Z" });
    expect((await patch(second, { value: "cat" })).body).toMatchObject({ id: first, text: "Alice: pet: cat" });
    expect(await texts("?source=attribute")).toEqual(["Alice: pet: cat"]);
  });

  test("is relabelled, and recalled by its labels alone from then on", async () => {
    const { chunkId } = await client.remember("a labelled remark", { labels: ["a=1"] });
    await patch(chunkId, { labels: ["b=2"] });
    expect(await client.recall("remark", { labels: ["b=2"] })).toEqual(["a labelled remark"]);
    expect(await client.recall("remark", { labels: ["a=1"] })).toEqual([]);
    const fact = await say("city", "Faro");
    await patch(fact, { labels: ["c=3"] });
    expect(await texts("?labels=c=3")).toEqual(["Alice: city: Faro"]);
  });

  test("expires at a time, of each kind, and stays after all where it says never", async () => {
    const { chunkId } = await client.remember("soon over");
    const fact = await say("mood", "fine");
    await client.call("PUT", "/memory/token", { value: "abc" });
    const item = (await list("?source=item")).memories[0]?.id ?? "";
    const later = new Date(Date.now() + 3_600_000).toISOString();
    for (const id of [chunkId, fact, item])
      expect((await patch(id, { expiresAt: later })).body.expiresAt, id).toBe(later);
    expect(await texts()).toHaveLength(3);
    expect((await patch(chunkId, { expiresAt: "never" })).body.expiresAt).toBeUndefined();
    const past = new Date(Date.now() - 1_000).toISOString();
    await service.database.sql("UPDATE scopefloor.memory_item SET expires_at = $1 WHERE id = $2", [past, item]);
    await service.database.sql("UPDATE scopefloor.passage SET ends_at = $1 WHERE id = $2", [past, fact]);
    expect(await texts()).toEqual(["soon over"]);
    expect((await client.get("/memory/token")).status).toBe(404);
    expect((await client.get("/memory")).text).not.toContain("token");
    expect(await client.post("/query", { query: "token" })).toMatchObject({
      body: { tier: expect.not.stringMatching("direct") },
    });
    await service.database.sql("SELECT scopefloor.end_over_anywhere(100)");
    expect(await service.database.sql("SELECT 1 FROM scopefloor.memory_item WHERE id = $1", [item])).toEqual([]);
  });

  test("of a keyed item: text where its value is one, value otherwise", async () => {
    await client.call("PUT", "/memory/colour", { value: "red" });
    await client.call("PUT", "/memory/size", { value: 3 });
    const items = (await list("?source=item")).memories;
    const idOf = (key: string) => items.find(({ text }) => text.startsWith(key))?.id ?? "";
    expect((await patch(idOf("colour"), { text: "teal" })).body).toMatchObject({ value: "teal", text: "colour: teal" });
    expect((await patch(idOf("size"), { text: "4" })).status).toBe(422);
    expect((await patch(idOf("size"), { value: 4 })).body.value).toBe(4);
    expect((await client.get<{ value: unknown }>("/memory/size")).body.value).toBe(4);
    expect((await patch(idOf("size"), { labels: ["a=b"] })).status).toBe(422);
    expect((await patch(idOf("size"), { value: 5, keepHistory: true })).status).toBe(422);
    const gone = await client.del<{ receiptId: string }>(`/memories/${idOf("size")}`);
    expect((await client.get("/memory/size")).status).toBe(404);
    expect((await service.operator.get(`/contexts/default/receipts/${gone.body.receiptId}`)).body).toMatchObject({
      policy: "memory",
      counts: { memory_item: 1 },
    });
  });

  test("that is deleted is gone from every table, with a receipt; twice is 404", async () => {
    const { chunkId } = await client.remember("delete the word zucchini");
    const fact = await say("drink", "mezcal", { observedAt: "2024-01-01T00:00:00Z" });
    await say("drink", "mezcal", { observedAt: "2024-02-01T00:00:00Z" });
    for (const id of [chunkId, fact]) {
      expect((await client.del(`/memories/${id}`)).body).toMatchObject({ deleted: 1, receiptId: expect.any(String) });
      expect((await client.del(`/memories/${id}`)).status).toBe(404);
      expect((await one(id)).status).toBe(404);
    }
    expect(await isStored("zucchini")).toBe(false);
    expect(await isStored("mezcal")).toBe(false);
  });

  test("is changed and deleted by a key with the verbs for it, and of turns by the key that said them", async () => {
    const { chunkId } = await client.remember("said by the first agent");
    const floor = { org: `tenant-${counter}` };
    const second = await service.mint("agent", floor);
    expect((await second.call("PATCH", `/memories/${chunkId}`, { text: "never said" })).status).toBe(403);
    const reader = await service.mint("agent", floor, { verbs: ["memory:read"] });
    expect((await reader.call("PATCH", `/memories/${chunkId}`, { text: "no" })).status).toBe(403);
    expect((await reader.del(`/memories/${chunkId}`)).status).toBe(403);
    const writer = await service.mint("agent", floor, { verbs: ["memory:write"] });
    expect((await writer.call("PATCH", `/memories/${chunkId}`, { text: "no" })).status).toBe(403);
    const admin = await service.mint("management", floor);
    expect((await admin.call("PATCH", `/memories/${chunkId}`, { text: "by its administrator" })).status).toBe(200);
    expect((await patch(chunkId, {})).status).toBe(400);
    expect((await patch(chunkId, { colour: "red" })).status).toBe(400);
    expect((await patch(chunkId, { expiresAt: "tomorrow" })).status).toBe(400);
  });

  test("of a document is 422, and says which document", async () => {
    const at = "00000000-0000-4000-8000-000000000001";
    const [place] = await service.database.sql("SELECT tenant_id, id FROM scopefloor.scope WHERE tags = $1", [
      JSON.stringify({ org: `tenant-${counter}` }),
    ]);
    await service.database.sql(
      `INSERT INTO scopefloor.document (tenant_id, scope_id, id, api_key_id, title, mime_type, size_bytes, observed_at) VALUES ($1, $2, $3, $3, 'guide', 'text/plain', 1, now())`,
      [place?.tenant_id, place?.id, at],
    );
    await service.database.sql(
      `INSERT INTO scopefloor.passage (tenant_id, scope_id, id, kind, api_key_id, text, tokens, lexemes, observed_at, document_id) VALUES ($1, $2, $3, 'chunk', $3, 'a chunk', 1, 1, now(), $3)`,
      [place?.tenant_id, place?.id, at],
    );
    const answer = await patch(at, { text: "another chunk" });
    expect(answer.status).toBe(422);
    expect(answer.text).toContain(`/documents/${at}`);
    expect((await client.del(`/memories/${at}`)).status).toBe(422);
  });
});

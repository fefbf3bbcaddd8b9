import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseTypedQuestion } from "../../src/recall/direct.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());

let tenants = 0;
const tenant = () => service.mint("agent", { org: `tenant-${++tenants}` });
const alice = { type: "Person", name: "Alice" };

interface FactRow {
  id: string;
  key: string;
  value?: unknown;
  target?: { name: string };
  validFrom: string;
  validUntil: string | null;
  supersededBy: string | null;
  scope: Record<string, string>;
}
interface EntityAnswer {
  entity: { id: string; type: string; name: string; scope: Record<string, string> };
  attributes: FactRow[];
  relations: FactRow[];
}

const tell = async (client: Client, triples: object[], more: object = {}) => {
  const answer = await client.post<{
    mode: string;
    sessionId: string;
    extraction: {
      attributes: { id: string; stored: boolean; current: boolean; superseded: string[] }[];
      relations: { id: string }[];
    };
  }>("/facts", { triples, ...more });
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
};
const about = async (client: Client, query = "") =>
  (await client.get<EntityAnswer>(`/entities/Person/Alice${query}`)).body;

describe("triples", () => {
  test("become an entity with attributes and relations, found by recall too", async () => {
    const client = await tenant();
    const said = await tell(client, [
      { entity: alice, key: "favourite_drink", value: "oolong", memory_category: "identity" },
      { entity: alice, key: "works_at", target: { type: "Company", name: "Umbrella Imports" } },
    ]);
    expect(said.mode).toBe("triples");
    const { entity, attributes, relations } = await about(client);
    expect(entity).toMatchObject({ ...alice, scope: { org: `tenant-${tenants}` } });
    expect(attributes).toMatchObject([
      { key: "favourite_drink", value: "oolong", category: "identity", validUntil: null },
    ]);
    expect(relations).toMatchObject([{ key: "works_at", target: { type: "Company", name: "Umbrella Imports" } }]);
    const listed = await client.get<{ entities: { name: string }[] }>("/entities");
    expect(listed.body.entities.map(({ name }) => name)).toEqual(["Umbrella Imports", "Alice"]);
    expect((await client.get<{ entities: unknown[] }>("/entities?type=Company")).body.entities).toHaveLength(1);
    const found = await client.post<{ hits: { source: string; text: string }[] }>("/query", {
      query: "who drinks oolong",
      include: "facts",
    });
    expect(found.body.hits[0]).toMatchObject({ source: "attribute", text: "Alice: favourite drink: oolong" });
    expect(
      (await client.post<{ hits: unknown[] }>("/query", { query: "oolong", include: "passages", mode: "bm25" })).body
        .hits,
    ).toEqual([]);
  });

  test("with a text are stored beside it; preview stores nothing", async () => {
    const client = await tenant();
    const both = await client.post("/facts", {
      text: "Alice told me that she moved.",
      triples: [{ entity: alice, key: "city", value: "Oslo" }],
    });
    expect(both.body).toMatchObject({ mode: "triples", turnId: expect.any(String), chunkId: expect.any(String) });
    const preview = await client.post("/facts", {
      infer: "preview",
      triples: [{ entity: alice, key: "city", value: "Rome" }],
    });
    expect(preview.body).toMatchObject({
      mode: "preview",
      preview: true,
      extraction: { attributes: [{ id: "", value: "Rome", sentence: "Alice: city: Rome", stored: false }] },
    });
    expect((await about(client)).attributes).toMatchObject([{ value: "Oslo" }]);
  });

  test.each([
    [{}, "neither value nor target"],
    [{ value: 1, target: alice }, "both"],
    [{ value: "x", colour: "red" }, "an unknown field"],
    [{ value: "x".repeat(20_000) }, "a value that is too long"],
  ])("with %o are 400: %s", async (more, _what) => {
    const client = await tenant();
    expect((await client.post("/facts", { triples: [{ entity: alice, key: "k", ...more }] })).status).toBe(400);
    expect(
      (await client.post("/facts", { triples: [{ entity: { type: "a/b", name: "c" }, key: "k", value: 1 }] })).status,
    ).toBe(400);
    expect((await client.get("/entities/Person/Alice")).status).toBe(404);
  });
});

describe("supersession", () => {
  test("a new value closes the old one, whose history stays, and asOf answers as known then", async () => {
    const client = await tenant();
    const first = await tell(client, [{ entity: alice, key: "city", value: "Oslo" }]);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const between = new Date().toISOString();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const second = await tell(client, [{ entity: alice, key: "city", value: "Lima" }]);
    expect(second.extraction.attributes[0]).toMatchObject({
      stored: true,
      current: true,
      superseded: [first.extraction.attributes[0]?.id],
    });
    expect((await about(client)).attributes).toMatchObject([{ value: "Lima", validUntil: null }]);
    const then = await about(client, `?asOf=${between}`);
    expect(then.attributes).toMatchObject([{ value: "Oslo", validUntil: null, supersededBy: null }]);
    const { history } = (await client.get<{ history: FactRow[] }>("/entities/Person/Alice/history/city")).body;
    expect(history.map(({ value }) => value)).toEqual(["Lima", "Oslo"]);
    expect(history[1]).toMatchObject({ supersededBy: history[0]?.id, validUntil: history[0]?.validFrom });
    expect(await client.recall("Alice city", { include: "facts", mode: "bm25" })).toEqual(["Alice: city: Lima"]);
  });

  test("what was observed before the current value is history at once", async () => {
    const client = await tenant();
    await tell(client, [{ entity: alice, key: "city", value: "Lima" }], { observedAt: "2024-06-01T00:00:00Z" });
    const late = await tell(client, [{ entity: alice, key: "city", value: "Oslo" }], {
      observedAt: "2023-01-01T00:00:00Z",
    });
    expect(late.extraction.attributes[0]).toMatchObject({ stored: true, current: false });
    expect((await about(client)).attributes).toMatchObject([{ value: "Lima" }]);
    expect((await about(client, "?atInstant=2023-05-01T00:00:00Z")).attributes).toMatchObject([
      { value: "Oslo", validUntil: "2024-06-01T00:00:00.000Z" },
    ]);
    expect((await about(client, "?atInstant=2022-05-01T00:00:00Z")).attributes).toEqual([]);
    expect(
      (await about(client, "?validFrom=2023-02-01T00:00:00Z&validUntil=2024-07-01T00:00:00Z")).attributes,
    ).toHaveLength(2);
  });

  test("the same again changes nothing; several targets of one call stand together", async () => {
    const client = await tenant();
    const friend = (name: string) => ({ entity: alice, key: "friend", target: { type: "Person", name } });
    await tell(client, [{ entity: alice, key: "city", value: "Oslo" }, friend("Bob"), friend("Cleo")]);
    const again = await tell(client, [{ entity: alice, key: "city", value: "Oslo" }]);
    expect(again.extraction.attributes[0]).toMatchObject({ stored: false, current: true, superseded: [] });
    expect((await about(client)).relations.map(({ target }) => target?.name).sort()).toEqual(["Bob", "Cleo"]);
    await tell(client, [friend("Cleo"), friend("Dora")]);
    expect((await about(client)).relations.map(({ target }) => target?.name).sort()).toEqual(["Cleo", "Dora"]);
    const passages = await service.database.sql(
      "SELECT text FROM scopefloor.passage p JOIN scopefloor.scope s ON s.id = p.scope_id WHERE s.tags = $1::jsonb AND p.kind = 'attribute' ORDER BY text",
      [JSON.stringify({ org: `tenant-${tenants}` })],
    );
    expect(passages.map((row) => row.text)).toEqual(["Alice friend Cleo", "Alice friend Dora", "Alice: city: Oslo"]);
  });

  test("of many writers at once one value is current, and all are in the history", async () => {
    const client = await tenant();
    await Promise.all(
      Array.from({ length: 12 }, (_, i) => tell(client, [{ entity: alice, key: "counter", value: i }])),
    );
    expect((await about(client)).attributes).toHaveLength(1);
    const { history } = (await client.get<{ history: FactRow[] }>("/entities/Person/Alice/history/counter")).body;
    expect(history.map(({ value }) => value).sort()).toEqual(Array.from({ length: 12 }, (_, i) => `${i}`).sort());
    expect(history.filter(({ supersededBy }) => supersededBy === null)).toHaveLength(1);
  });
});

describe("scopes of structured memory", () => {
  test("another tenant sees no entity, and one of the same name is another one", async () => {
    const one = await tenant();
    const two = await tenant();
    await tell(one, [{ entity: alice, key: "city", value: "Oslo" }]);
    expect((await two.get("/entities/Person/Alice")).status).toBe(404);
    await tell(two, [{ entity: alice, key: "city", value: "Rome" }]);
    expect((await about(one)).attributes).toMatchObject([{ value: "Oslo" }]);
    expect((await two.get<{ entities: unknown[] }>("/entities")).body.entities).toHaveLength(1);
  });

  test("a user's lens sees the org's facts and the user's, the narrowest first, and not another user's", async () => {
    const client = await tenant();
    await tell(client, [{ entity: alice, key: "city", value: "Oslo" }]);
    await tell(client, [{ entity: alice, key: "city", value: "Bergen" }], { scopes: "user/alice" });
    await tell(client, [{ entity: alice, key: "city", value: "Turku" }], { scopes: "user/bob" });
    expect((await about(client, "?lens=user/alice")).attributes.map(({ value }) => value)).toEqual(["Bergen", "Oslo"]);
    expect((await about(client)).attributes.map(({ value }) => value).sort()).toEqual(["Bergen", "Oslo", "Turku"]);
  });

  test("an entity is deleted with what is said of it and what points at it, there and nowhere else", async () => {
    const client = await tenant();
    const other = await tenant();
    const bob = { type: "Person", name: "Bob" };
    for (const one of [client, other]) {
      await tell(one, [
        { entity: alice, key: "city", value: "Oslo" },
        { entity: bob, key: "knows", target: alice },
      ]);
    }
    expect((await client.del("/entities/Person/Alice")).status).toBe(204);
    expect((await client.del("/entities/Person/Alice")).status).toBe(404);
    expect((await client.get<EntityAnswer>("/entities/Person/Bob")).body.relations).toEqual([]);
    expect(await client.recall("Alice Oslo", { mode: "bm25" })).toEqual([]);
    expect((await about(other)).attributes).toHaveLength(1);
  });
});

describe("the tier direct", () => {
  test.each([
    ["What is Alice's favourite drink?", { kind: "attribute", entity: "Alice", key: "favourite_drink" }],
    ["what is the favourite drink of Alice?", { kind: "attribute", entity: "Alice", key: "favourite_drink" }],
    ["Alice's city", { kind: "attribute", entity: "Alice", key: "city" }],
    ["Person/Alice favourite_drink", { kind: "attribute", type: "Person", entity: "Alice", key: "favourite_drink" }],
    ["Alice.city", { kind: "attribute", entity: "Alice", key: "city" }],
    ["memory:theme.colour", { kind: "keyed", key: "theme.colour" }],
    ["tell me about the weather", undefined],
    ["a cup of tea", undefined],
    ["when do zeppelins land", undefined],
  ])("reads %s", (query, expected) => {
    const question = parseTypedQuestion(query);
    if (expected === undefined) expect(question).toBeUndefined();
    else expect(question).toMatchObject(expected);
  });

  test("answers a typed question without a vector, and leaves an open or an unknown one to the next tier", async () => {
    const client = await tenant();
    await tell(client, [{ entity: alice, key: "favourite drink", value: "oolong" }]);
    await client.remember("The office closes at six.");
    type Answer = {
      tier: string;
      classificationKind: string;
      hits: { text: string; source: string }[];
      seedEntities: string[];
      trace: { tokens: { embedding: number }; traceId: string };
    };
    const direct = (await client.post<Answer>("/query", { query: "What is Alice's favourite drink?" })).body;
    expect(direct).toMatchObject({
      tier: "direct",
      classificationKind: "direct_lookup",
      hits: [{ source: "attribute", text: "Alice: favourite drink: oolong" }],
      seedEntities: ["Person/Alice"],
      trace: { tokens: { embedding: 0 } },
    });
    expect((await client.get(`/traces/${direct.trace.traceId}`)).body).toMatchObject({ resolutionTier: "direct" });
    expect((await client.post<Answer>("/query", { query: "What is Alice's shoe size?" })).body.tier).toBe("hybrid");
    expect((await client.post<Answer>("/query", { query: "when does the office close" })).body.tier).toBe("hybrid");
    await client.call("PUT", "/memory/theme", { value: "dark" });
    expect((await client.post<Answer>("/query", { query: "memory:theme" })).body).toMatchObject({
      tier: "direct",
      hits: [{ text: "theme: dark" }],
    });
    const stranger = await tenant();
    expect((await stranger.post<Answer>("/query", { query: "What is Alice's favourite drink?" })).body.hits).toEqual(
      [],
    );
    expect((await stranger.post<Answer>("/query", { query: "memory:theme" })).body.hits).toEqual([]);
  });
});

describe("keyed items", () => {
  interface Item {
    key: string;
    value: unknown;
    scope: Record<string, string>;
  }
  test("are any JSON, at E; the narrowest visible scope answers, and never one from below E", async () => {
    const org = `tenant-${tenants + 1}`;
    const client = await tenant();
    const put = (value: unknown, scopes?: string) =>
      client.call<Item>("PUT", "/memory/theme", { value, ...(scopes === undefined ? {} : { scopes }) });
    expect((await put({ colour: ["red", 1, null] })).body).toMatchObject({
      value: { colour: ["red", 1, null] },
      scope: { org },
    });
    await put("team", "team/eng");
    await put("alice", "user/alice");
    const read = async (lens?: string) =>
      (await client.get<Item>(`/memory/theme${lens === undefined ? "" : `?lens=${lens}`}`)).body.value;
    expect(await read()).toEqual({ colour: ["red", 1, null] });
    expect(await read("user/alice")).toBe("alice");
    expect(await read("user/bob")).toEqual({ colour: ["red", 1, null] });
    // Of two scopes with as many tags the first by canonical path.
    expect(await read('["user/alice","team/eng"]')).toBe("team");
    const supervisor = await service.mint("supervisor", { org });
    expect((await supervisor.get<Item>("/memory/theme")).body.value).toEqual({ colour: ["red", 1, null] });
    expect((await client.del("/memory/theme?scopes=user/alice")).status).toBe(204);
    expect(await read("user/alice")).toEqual({ colour: ["red", 1, null] });
    expect((await client.del("/memory/theme?scopes=user/alice")).status).toBe(404);
    const stranger = await tenant();
    expect((await stranger.get("/memory/theme")).status).toBe(404);
  });

  test("general ones are everybody's, and only the operator writes them", async () => {
    const client = await tenant();
    expect((await service.operator.call("PUT", "/memory/house.rule", { value: "be kind", scopes: {} })).status).toBe(
      200,
    );
    expect((await client.get<Item>("/memory/house.rule")).body).toMatchObject({ value: "be kind", scope: {} });
    expect((await client.del("/memory/house.rule")).status).toBe(404);
    await client.call("PUT", "/memory/house.rule", { value: "be quick" });
    expect((await client.get<Item>("/memory/house.rule")).body.value).toBe("be quick");
  });

  test("and entities that are deleted are named in the receipt, and general ones of the same name are not", async () => {
    const client = await tenant();
    for (const each of [client, service.operator]) {
      expect((await each.call("PUT", "/memory/motto", { value: "onward" })).status).toBe(200);
      await tell(each, [{ entity: { type: "Motto", name: "Onward" }, key: "note", value: "said often" }]);
    }
    const rows = await service.database.sql(`
      SELECT m.id, 'item' AS policy FROM scopefloor.memory_item m JOIN scopefloor.scope s ON s.id = m.scope_id WHERE m.key = 'motto' AND s.tags <> '{}'
      UNION ALL SELECT e.id, 'entity' FROM scopefloor.entity e JOIN scopefloor.scope s ON s.id = e.scope_id WHERE e.type = 'Motto' AND s.tags <> '{}'`);
    for (const path of ["/memory/motto", "/entities/Motto/Onward"]) expect((await client.del(path)).status).toBe(204);
    const receipts = await service.database.sql(
      "SELECT policy, items FROM scopefloor.forget_receipt WHERE api_key_id = $1 ORDER BY policy",
      [client.id],
    );
    expect(receipts).toEqual([
      { policy: "entity", items: { entities: [rows.find((row) => row.policy === "entity")?.id] } },
      { policy: "item", items: { items: [rows.find((row) => row.policy === "item")?.id] } },
    ]);
    for (const path of ["/memory/motto", "/entities/Motto/Onward"])
      expect((await service.operator.del(path)).status).toBe(204);
  });

  test("are listed by prefix, each once", async () => {
    const client = await tenant();
    for (const key of ["a.one", "a.two", "b.one"]) await client.call("PUT", `/memory/${key}`, { value: key });
    await client.call("PUT", "/memory/a.two", { value: "mine", scopes: "user/alice" });
    const list = async (query: string) =>
      (await client.get<{ items: Item[] }>(`/memory?${query}`)).body.items.map(({ key, value }) => [key, value]);
    expect(await list("prefix=a.")).toEqual([
      ["a.one", "a.one"],
      ["a.two", "a.two"],
    ]);
    expect(await list("prefix=a.&lens=user/alice")).toEqual([
      ["a.one", "a.one"],
      ["a.two", "mine"],
    ]);
    expect(await list("limit=1&offset=2")).toHaveLength(1);
  });

  test.each([
    ["a value over 64 KiB", "theme", { value: "x".repeat(65 * 1024) }],
    ["no value", "theme", {}],
    ["an unknown field", "theme", { value: 1, colour: 2 }],
  ])("with %s are 400", async (_what, key, body) => {
    expect((await (await tenant()).call("PUT", `/memory/${key}`, body)).status).toBe(400);
  });
});

describe("profile, state, inspect and audit", () => {
  test("sort what is known", async () => {
    const client = await tenant();
    const said = await tell(client, [
      { entity: alice, key: "birthday", value: "1 May", memory_category: "identity" },
      { entity: alice, key: "mood", value: "cheerful", memory_category: "context" },
      { entity: alice, key: "prefers", value: "trains" },
      { entity: alice, key: "lives_in", target: { type: "City", name: "Oslo" } },
    ]);
    const { body: me } = await client.get<{ scopeFloor: object }>("/me");
    const admin = await service.mint("management", me.scopeFloor);
    await admin.remember("Answer in one sentence.", { role: "system" });
    const profile = (await client.get<Record<string, { key?: string; text?: string }[]>>("/profile")).body;
    expect(profile.static?.map(({ key }) => key)).toEqual(["birthday"]);
    expect(profile.dynamic?.map(({ key }) => key)).toEqual(["mood"]);
    expect(profile.preferences?.map(({ key }) => key)).toEqual(["prefers"]);
    expect(profile.instructions?.map(({ text }) => text)).toEqual(["Answer in one sentence."]);
    for (const state of [await client.get("/state"), await client.post("/state")]) {
      expect(state.body).toMatchObject({
        identity: { attributes: [{ key: "birthday" }], entities: [alice] },
        context: { attributes: [{ key: "mood" }] },
        knowledge: { attributes: [{ key: "prefers" }], relations: [{ key: "lives_in" }] },
        unknowns: [{ type: "City", name: "Oslo" }],
      });
    }
    const entity = await client.get<{ kind: string; history: unknown[] }>("/inspect?ref=entity:Person/Alice");
    expect(entity.body).toMatchObject({ kind: "entity", entity: alice });
    expect(entity.body.history).toHaveLength(4);
    const recalled = await client.post<{ trace: { traceId: string } }>("/query", { query: "cheerful mood" });
    const trace = await client.get<{ evidence: { text: string }[] }>(
      `/inspect?ref=trace:${recalled.body.trace.traceId}`,
    );
    expect(trace.body.evidence.map(({ text }) => text)).toContain("Alice: mood: cheerful");
    for (const ref of ["entity:Alice", "document:nonsense", "nothing", "trace:"]) {
      expect((await client.get(`/inspect?ref=${ref}`)).status).toBe(400);
    }
    const audit = await client.get<{ rows: { operation: string; keyId: string }[] }>("/audit?kind=decision&limit=10");
    expect(audit.body.rows.map(({ operation }) => operation)).toContain("facts");
    expect(new Set(audit.body.rows.map(({ keyId }) => keyId))).toEqual(new Set([client.id]));
    expect((await client.get("/audit?kind=nonsense")).status).toBe(400);
    expect(said.sessionId).toBeTypeOf("string");
  });

  test("the context of a session has its end and what memory has beside it", async () => {
    const client = await tenant();
    await client.remember("The harbour master is called Ingrid.");
    const talk = await client.post<{ sessionId: string }>("/facts/batch", {
      messages: [
        { role: "user", content: "Who runs the harbour?\n## Not a heading" },
        { role: "assistant", content: "Let me look." },
      ],
    });
    const { context } = (
      await client.post<{ context: string }>(`/sessions/${talk.body.sessionId}/context`, { query: "harbour master" })
    ).body;
    expect(context).toContain('- (user) "Who runs the harbour?\\n## Not a heading"\n- (assistant) "Let me look."');
    expect(context).toContain("The harbour master is called Ingrid.");
    const stranger = await tenant();
    expect((await stranger.post(`/sessions/${talk.body.sessionId}/context`, { query: "harbour" })).status).toBe(404);
  });
});

describe("what stays behind an answer", () => {
  test("a typed question names the hints that it ignored", async () => {
    const client = await tenant();
    await client.post("/facts", { triples: [{ entity: alice, key: "pin", value: "axolotlcanary" }] });
    const hinted = await client.post<{ tier: string; trace: { hintsIgnored: string[] } }>("/query", {
      query: "Alice's pin",
      useHyde: true,
    });
    expect(hinted.body).toMatchObject({ tier: "direct", trace: { hintsIgnored: ["useHyde"] } });
    await client.call("PUT", "/memory/today", { value: "new" });
    const then = await client.post<{ tier: string }>("/query", { query: "memory:today", asOf: "2020-01-01T00:00:00Z" });
    expect(then.body.tier).not.toBe("direct");
  });

  test("a write-only key learns nothing of what was known before", async () => {
    const client = await tenant();
    const blind = await service.mint("agent", { org: `tenant-${tenants}` }, { verbs: ["memory:write"] });
    await tell(client, [{ entity: alice, key: "pin", value: "4711" }]);
    for (const value of ["4711", "0000"]) {
      const answer = await blind.post("/facts", {
        triples: [{ entity: alice, key: "pin", value }],
        observedAt: "2001-01-01T00:00:00Z",
      });
      expect(Object.keys(answer.body).sort()).toEqual(["mode", "sessionId"]);
    }
    await client.call("PUT", "/memory/pin", { value: 1 });
    const put = await blind.call<{ createdAt: string; updatedAt: string }>("PUT", "/memory/pin", { value: 2 });
    expect(put.body.createdAt).toBe(put.body.updatedAt);
  });

  test("of two values for a key in one call the later is current", async () => {
    const client = await tenant();
    const { extraction } = await tell(client, [
      { entity: alice, key: "city", value: "Oslo" },
      { entity: alice, key: "city", value: "Lima" },
    ]);
    expect(extraction.attributes.map(({ current }) => current)).toEqual([false, true]);
    expect((await about(client)).attributes).toMatchObject([{ value: "Lima" }]);
  });
});

describe("forgetting", () => {
  test("a topic takes facts, their history and keyed items with it, and lists them in the dry run", async () => {
    const client = await tenant();
    await tell(client, [{ entity: alice, key: "illness", value: "hay fever" }]);
    await tell(client, [{ entity: alice, key: "illness", value: "none" }]);
    await client.call("PUT", "/memory/health.note", { value: "hay fever in May" });
    await client.call("PUT", "/memory/other", { value: "unrelated" });
    await client.remember("Alice has hay fever every year.");
    const dry = await client.post<{ matches: { text: string }[] }>("/forget", { query: "hay fever", dryRun: true });
    expect(dry.body.matches.map(({ text }) => text).sort()).toEqual([
      "Alice has hay fever every year.",
      "Alice: illness: hay fever",
      "health.note: hay fever in May",
    ]);
    const done = await client.post<{ deleted: number }>("/forget", { query: "hay fever", purge: true });
    expect(done.body.deleted).toBe(3);
    const { history } = (await client.get<{ history: FactRow[] }>("/entities/Person/Alice/history/illness")).body;
    expect(history.map(({ value }) => value)).toEqual(["none"]);
    expect((await client.get("/memory/health.note")).status).toBe(404);
    expect((await client.get("/memory/other")).status).toBe(200);
    for (const table of ["passage", "attribute", "memory_item", "turn"]) {
      const [row] = await service.database.sql(
        `SELECT count(*)::int AS n FROM scopefloor.${table} t WHERE t::text LIKE '%hay fever%'`,
      );
      expect(row, table).toEqual({ n: 0 });
    }
  });

  test("a fact of which nothing else is said takes its entity with it; expiring keeps it for audit", async () => {
    const client = await tenant();
    await tell(client, [{ entity: { type: "Project", name: "Moonbase" }, key: "budget", value: "a million kroner" }]);
    await client.post("/forget", { query: "million kroner budget" });
    expect((await client.get<EntityAnswer>("/entities/Project/Moonbase")).body.attributes).toEqual([]);
    expect(await client.recall("Moonbase budget", { mode: "bm25" })).toEqual([]);
    await tell(client, [{ entity: { type: "Project", name: "Moonbase" }, key: "owner", value: "Cleo Pinto" }]);
    await tell(client, [{ entity: { type: "Project", name: "Starbase" }, key: "owner", value: "Zelda Quist" }]);
    await client.post("/forget", { query: "Zelda Quist", purge: true });
    expect((await client.get("/entities/Project/Starbase")).status).toBe(404);
    expect((await client.get("/entities/Project/Moonbase")).status).toBe(200);
  });

  test("a scope leaves no row of any table behind", async () => {
    const org = `tenant-${tenants + 1}`;
    const client = await tenant();
    await tell(client, [{ entity: alice, key: "secret", value: "quetzalcanary" }], { text: "quetzalcanary" });
    await client.call("PUT", "/memory/quetzalcanary", { value: "quetzalcanary" });
    await client.upload("a document with a quetzalcanary in it", "quetzalcanary.txt");
    const admin = await service.mint("management", { org });
    const erased = await admin.eraseFloor<{ receiptId: string }>();
    expect(erased.status).toBe(200);
    const tables = await service.database.sql(
      "SELECT relname FROM pg_class WHERE relnamespace = 'scopefloor'::regnamespace AND relkind = 'r'",
    );
    for (const { relname } of tables) {
      const [row] = await service.database.sql(
        `SELECT count(*)::int AS n FROM scopefloor.${relname} t WHERE t::text LIKE '%quetzalcanary%'`,
      );
      expect(row, String(relname)).toEqual({ n: 0 });
    }
    const hex = Buffer.from("quetzalcanary").toString("hex");
    const [bytes] = await service.database.sql(
      "SELECT count(*)::int AS n FROM scopefloor.document_content WHERE encode(bytes, 'hex') LIKE $1",
      [`%${hex}%`],
    );
    expect(bytes).toEqual({ n: 0 });
    const receipt = await admin.get<{ counts: Record<string, number> }>(
      `/contexts/default/receipts/${erased.body.receiptId}`,
    );
    expect(receipt.body.counts).toMatchObject({
      document: 1,
      document_content: 1,
      memory_item: 1,
      attribute: 1,
      entity: 1,
      job: 1,
    });
  });
});

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** Keyed items as a store, and the turns of a session as a list. */

let service: TestService;
let org: string;
let agent: Client;
let admin: Client;
let counter = 0;

beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());
beforeEach(async () => {
  org = `store-${++counter}`;
  agent = await service.mint("agent", { org });
  admin = await service.mint("management", { org });
});

interface Item {
  key: string;
  value: unknown;
  version?: number;
  expiresAt?: string;
  ttlSeconds?: number;
  deleted?: boolean;
  createdAt: string;
  scope: object;
}
const put = (key: string, body: object, by = agent) => by.call<Item>("PUT", `/memory/${key}`, body);
const get = (key: string, by = agent) => by.get<Item>(`/memory/${key}`);
const batch = (operations: object[], by = agent, more: object = {}) =>
  by.post<{ results: Item[] }>("/memory/batch", { operations, ...more });
const list = async (query: string, by = agent) => (await by.get<{ items: Item[] }>(`/memory?${query}`)).body.items;
const keys = async (query: string, by = agent) => (await list(query, by)).map(({ key }) => key);
const filtered = (filter: object, more = "") => keys(`filter=${encodeURIComponent(JSON.stringify(filter))}${more}`);

describe("versions", () => {
  test("count the values of a key, and a value is set only where the named one is there", async () => {
    expect((await put("a", { value: 1, ifVersion: 1 })).status).toBe(409);
    expect((await put("a", { value: 1, ifVersion: 0 })).body).toMatchObject({ value: 1, version: 1 });
    const again = await put("a", { value: 2, ifVersion: 0 });
    expect(again.status).toBe(409);
    expect(again.text).toContain("version 1 is there");
    expect((await put("a", { value: 2, ifVersion: 1 })).body.version).toBe(2);
    expect((await get("a")).body).toMatchObject({ value: 2, version: 2 });
    expect((await put("a", { value: 3 })).body.version).toBe(3);
  });

  test("of many who compare and set at once one wins each round", async () => {
    await put("n", { value: 0 });
    const rounds = await Promise.all(
      Array.from({ length: 12 }, async () => {
        for (;;) {
          const { body } = await get("n");
          const answer = await put("n", { value: Number(body.value) + 1, ifVersion: body.version });
          if (answer.status === 200) return answer.body.value;
        }
      }),
    );
    expect(rounds.sort((a, b) => Number(a) - Number(b))).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
    const made = await Promise.all(Array.from({ length: 8 }, (_, i) => put("once", { value: i, ifVersion: 0 })));
    expect(made.map(({ status }) => status).sort()).toEqual([200, ...Array(7).fill(409)]);
  });

  test("are not told to a key that may not read, nor does it compare or delete", async () => {
    await put("a", { value: 1 });
    const writer = await service.mint("agent", { org }, { verbs: ["memory:write"] });
    const answer = await put("a", { value: 2 }, writer);
    expect(answer.status).toBe(200);
    expect(answer.body).not.toHaveProperty("version");
    expect((await put("a", { value: 3, ifVersion: 2 }, writer)).status).toBe(403);
    expect((await batch([{ op: "delete", key: "a" }], writer)).status).toBe(403);
    expect((await get("a")).body.value).toBe(2);
  });
});

describe("a batch", () => {
  test("sets and deletes in one transaction, and answers in its order", async () => {
    await put("gone", { value: "x" });
    const { body, status } = await batch([
      { op: "put", key: "b", value: { n: 1 } },
      { op: "delete", key: "gone" },
      { key: "a", value: null },
      { op: "delete", key: "never" },
    ]);
    expect(status, JSON.stringify(body)).toBe(200);
    expect(body.results).toMatchObject([
      { key: "b", value: { n: 1 }, version: 1 },
      { key: "gone", deleted: true },
      { key: "a", value: null, version: 1 },
      { key: "never", deleted: false },
    ]);
    expect(await keys("")).toEqual(["a", "b"]);
    expect((await get("a")).body.value).toBeNull();
  });

  test("does nothing where one of it cannot be done", async () => {
    await put("held", { value: 1 });
    const answer = await batch(
      [
        { key: "new", value: 1 },
        { key: "held", value: 2, ifVersion: 7 },
        { op: "delete", key: "held" },
      ].slice(0, 2),
    );
    expect(answer.status).toBe(409);
    expect(await keys("")).toEqual(["held"]);
    for (const operations of [
      [],
      [
        { key: "a", value: 1 },
        { key: "a", value: 2 },
      ],
      [{ key: "a" }],
      [{ op: "delete", key: "a", value: 1 }],
      [{ op: "move", key: "a" }],
      [{ key: "a", value: 1, refreshOnRead: true }],
      Array.from({ length: 501 }, (_, i) => ({ key: `k${i}`, value: i })),
    ])
      expect((await batch(operations)).status, JSON.stringify(operations).slice(0, 80)).toBe(400);
    const { body } = await batch(
      Array.from({ length: 500 }, (_, i) => ({ key: `k${String(i).padStart(3, "0")}`, value: i })),
    );
    expect(body.results).toHaveLength(500);
  });

  test("leaves one receipt, signed, for all that it deletes; a repeat deletes nothing anew", async () => {
    for (const key of ["a", "b"]) await put(key, { value: key });
    const operations = [
      { op: "delete", key: "a" },
      { op: "delete", key: "b" },
      { key: "c", value: "of the batch" },
    ];
    const once = { headers: { "idempotency-key": "one" } };
    const first = await agent.post("/memory/batch", { operations }, once);
    const again = await agent.post("/memory/batch", { operations }, once);
    expect(again.text).toBe(first.text);
    const { receipts } = (
      await admin.get<{ receipts: { policy: string; counts: object; jws: string | null }[] }>(
        "/contexts/default/receipts",
      )
    ).body;
    expect(receipts).toMatchObject([{ policy: "item", counts: { memory_item: 2 }, jws: expect.any(String) }]);
  });

  test("touches no other tenant's items, and is refused by a legal hold", async () => {
    const rival = await service.mint("agent", { org: `${org}-rival` });
    await put("a", { value: "the rival's" }, rival);
    expect((await batch([{ op: "delete", key: "a" }])).body.results).toMatchObject([{ deleted: false }]);
    expect((await batch([{ key: "a", value: 1 }], agent, { scopes: `org/${org}-rival` })).status).toBe(403);
    expect((await get("a", rival)).body.value).toBe("the rival's");
    await put("case", { value: "about Maria" });
    await admin.call("PUT", "/contexts/default/holds", { scope: { org }, reason: "a case" });
    expect(
      (
        await batch([
          { key: "new", value: 1 },
          { op: "delete", key: "case" },
        ])
      ).status,
    ).toBe(409);
    expect(await keys("")).toEqual(["case"]);
  });
});

describe("a time to live", () => {
  const age = (seconds: number) =>
    service.database.sql(
      `UPDATE scopefloor.memory_item m SET expires_at = expires_at - make_interval(secs => $2) FROM scopefloor.scope s
       WHERE s.id = m.scope_id AND s.tags->>'org' = $1`,
      [org, seconds],
    );

  test("ends an item, which is then as if it had never been", async () => {
    const { body } = await put("a", { value: 1, ttlSeconds: 60 });
    expect(Date.parse(body.expiresAt ?? "") - Date.now()).toBeGreaterThan(50_000);
    expect(body.ttlSeconds).toBe(60);
    await age(61);
    expect((await get("a")).status).toBe(404);
    expect(await keys("")).toEqual([]);
    expect((await put("a", { value: 2, ifVersion: 0 })).body).toMatchObject({ version: 1 });
    expect((await get("a")).body).not.toHaveProperty("expiresAt");
    expect((await put("b", { value: 1, ifVersion: 2_147_483_648 })).status).toBe(400);
    expect((await put("b", { value: 1, ttlSeconds: 2_000_000_000 })).status).toBe(200);
    for (const ttlSeconds of [0, -1, 1.5, "60", 1e12, 2_147_483_648])
      expect((await put("a", { value: 1, ttlSeconds })).status).toBe(400);
  });

  test("begins anew when the item is read, where it says so, and for nobody else's read", async () => {
    await put("kept", { value: 1, ttlSeconds: 100, refreshOnRead: true });
    await put("let-go", { value: 1, ttlSeconds: 100 });
    await age(50);
    await get("kept");
    await get("let-go");
    const left = async (key: string) =>
      Math.round((Date.parse((await get(key)).body.expiresAt ?? "") - Date.now()) / 10_000) * 10;
    expect([await left("kept"), await left("let-go")]).toEqual([100, 50]);
    await age(50);
    await list("prefix=k");
    expect(await left("kept")).toBe(100);
    // What everyone shares is no one's to keep alive.
    await service.operator.call("PUT", "/memory/shared", {
      value: 1,
      ttlSeconds: 100,
      refreshOnRead: true,
      scopes: {},
    });
    await service.database.sql(
      "UPDATE scopefloor.memory_item SET expires_at = now() + interval '40 s' WHERE key = 'shared'",
    );
    await get("shared");
    const [row] = await service.database.sql(
      "SELECT expires_at < now() + interval '50 s' AS same FROM scopefloor.memory_item WHERE key = 'shared'",
    );
    expect(row?.same).toBe(true);
    expect((await service.operator.del("/memory/shared")).status).toBe(204);
  });
});

describe("a list of items", () => {
  beforeEach(async () => {
    await batch([
      { key: "t:1", value: { status: "open", size: 1, owner: { name: "Ann" }, tags: ["x"] } },
      { key: "t:2", value: { status: "open", size: 10, owner: { name: "Bob" } } },
      { key: "t:3", value: { status: "done", size: "10", owner: null } },
      { key: "u:1", value: "a text" },
    ]);
  });

  test("is narrowed by the fields of the values, by every operator", async () => {
    expect(await filtered({ status: "open" })).toEqual(["t:1", "t:2"]);
    expect(await filtered({ status: { $eq: "open" }, size: { $gt: 1 } })).toEqual(["t:2"]);
    expect(await filtered({ size: { $gte: 1, $lt: 10 } })).toEqual(["t:1"]);
    expect(await filtered({ size: { $lte: "10" } })).toEqual(["t:3"]);
    expect(await filtered({ status: { $ne: "open" } })).toEqual(["t:3", "u:1"]);
    expect(await filtered({ "owner.name": { $in: ["Ann", "Cleo"] } })).toEqual(["t:1"]);
    expect(await filtered({ owner: null })).toEqual(["t:3"]);
    expect(await filtered({ "tags.0": "x" })).toEqual(["t:1"]);
    expect(await filtered({ status: "open" }, "&prefix=t:2")).toEqual(["t:2"]);
    expect(await filtered({ "status' OR true --": "open" })).toEqual([]);
    expect(await filtered({ tags: { $in: [["x", "y"]] } })).toEqual([]);
    expect(await filtered({ tags: { $in: [["x"]] } })).toEqual(["t:1"]);
    expect(await filtered({ nowhere: { $in: [null] } })).toEqual([]);
    // Digit for digit.
    const raw = (value: string) =>
      agent.call("PUT", "/memory/n", undefined, {
        raw: `{"value":{"n":${value}}}`,
        headers: { "content-type": "application/json" },
      });
    await raw("1546130668394913822");
    const exact = (n: string) => keys(`filter=${encodeURIComponent(`{"n":${n}}`)}`);
    expect([await exact("1546130668394913822"), await exact("1546130668394913800")]).toEqual([["n"], []]);
    for (const odd of ['{"a":"\\u0000"}', '{"a\\u0000b":1}', '{"a":"\\ud800"}', '{"a":{"$lt":1e999}}'])
      expect((await agent.get(`/memory?filter=${encodeURIComponent(odd)}`)).status, odd).toBe(400);
    for (const wrong of ["[]", "1", "{", '{"a":{"$regex":"x"}}', '{"a":{"$in":1}}', '{"":1}'])
      expect((await agent.get(`/memory?filter=${encodeURIComponent(wrong)}`)).status, wrong).toBe(400);
  });

  test("comes in either order, by key or by time, and by page", async () => {
    await put("t:1", { value: "later" });
    expect(await keys("order=-key")).toEqual(["u:1", "t:3", "t:2", "t:1"]);
    expect(await keys("order=desc&limit=2&offset=1")).toEqual(["t:3", "t:2"]);
    expect((await keys("order=-updatedAt"))[0]).toBe("t:1");
    expect((await agent.get("/memory?order=size")).status).toBe(400);
  });

  test("shows every scope's own value below, where it is asked for", async () => {
    await put("t:1", { value: "Ann's", scopes: "user/ann" });
    await put("t:9", { value: "Bob's", scopes: "user/bob" });
    expect(await keys("prefix=t")).toEqual(["t:1", "t:2", "t:3"]);
    const below = await list("prefix=t&scopeView=subtree");
    expect(below.map(({ key, scope }) => [key, scope])).toEqual([
      ["t:1", { org }],
      ["t:1", { org, user: "ann" }],
      ["t:2", { org }],
      ["t:3", { org }],
      ["t:9", { org, user: "bob" }],
    ]);
  });

  test("gives the beginnings of keys without their values", async () => {
    const { body } = await agent.get("/memory/keys?delimiter=:");
    expect(body).toEqual({
      keys: [],
      prefixes: [
        { prefix: "t:", keys: 3 },
        { prefix: "u:", keys: 1 },
      ],
    });
    expect((await agent.get("/memory/keys?prefix=t:&delimiter=:")).body).toEqual({
      keys: ["t:1", "t:2", "t:3"],
      prefixes: [],
    });
    expect((await agent.get("/memory/keys?prefix=t&limit=1&offset=1")).body).toEqual({ keys: ["t:2"], prefixes: [] });
    const rival = await service.mint("agent", { org: `${org}-rival` });
    expect((await rival.get("/memory/keys")).body).toEqual({ keys: [], prefixes: [] });
  });
});

describe("the turns of a session", () => {
  interface Turns {
    turns: { content: string; seq: number }[];
    total: number;
    deleted?: number;
    receiptId?: string;
  }
  const say = (...contents: string[]) =>
    agent.post("/facts/batch", {
      sessionId: "thread",
      messages: contents.map((content) => ({ role: "user", content })),
    });
  const turns = async (query = "", by = agent) => (await by.get<Turns>(`/sessions/thread/turns${query}`)).body;

  test("come from their end too, with how many there are", async () => {
    await say("one", "two", "three");
    const { turns: last, total } = await turns("?order=desc&limit=2");
    expect([last.map(({ content }) => content), total]).toEqual([["three", "two"], 3]);
    expect((await turns("?limit=1&offset=1")).turns.map(({ content }) => content)).toEqual(["two"]);
    expect((await agent.get("/sessions/thread/turns?order=up")).status).toBe(400);
  });

  test("are taken from its end, and the session goes on", async () => {
    await say("one", "two", "the three herons");
    const taken = (await agent.call<Turns>("DELETE", "/sessions/thread/turns?last=1")).body;
    expect(taken).toMatchObject({
      deleted: 1,
      turns: [{ content: "the three herons" }],
      receiptId: expect.any(String),
    });
    expect(await agent.recall("the three herons", { mode: "bm25" })).toEqual([]);
    await say("four");
    expect((await turns()).turns.map(({ content }) => content)).toEqual(["one", "two", "four"]);
  });

  test("are cleared, and the session stays open", async () => {
    await say("one", "two");
    expect((await agent.call<Turns>("DELETE", "/sessions/thread/turns")).body).toMatchObject({ deleted: 2 });
    expect(await turns()).toEqual({ turns: [], total: 0 });
    expect((await agent.call<Turns>("DELETE", "/sessions/thread/turns")).body).toEqual({ deleted: 0 });
    expect((await say("three")).status).toBe(200);
    expect((await turns()).total).toBe(1);
  });

  test("are those of the scope that is named, and of no other", async () => {
    await say("one", "two");
    const { sessions } = (await agent.get<{ sessions: { id: string }[] }>("/sessions")).body;
    for (const session of ["thread", sessions[0]?.id]) {
      for (const [lens, status] of [
        [`org/${org}-rival`, 403],
        ["user/zoe", 404],
        ["[]", 404],
        ['[["user/zoe"],["user/ann"]]', 422],
      ]) {
        const query = `?lens=${encodeURIComponent(String(lens))}`;
        expect([lens, (await agent.del(`/sessions/${session}/turns${query}`)).status]).toEqual([lens, status]);
        expect([lens, (await agent.get(`/sessions/${session}/turns${query}`)).status]).toEqual([lens, status]);
        expect([lens, (await agent.del(`/sessions/${session}${query}`)).status]).toEqual([lens, status]);
      }
      expect((await agent.get(`/sessions/${session}/turns?lens=org/${org}`)).status).toBe(200);
    }
    expect((await turns()).total).toBe(2);
  });

  test("are nobody else's to take", async () => {
    await say("mine");
    const id = ((await agent.get<{ sessions: { id: string }[] }>("/sessions")).body.sessions[0] ?? { id: "" }).id;
    const other = await service.mint("agent", { org });
    expect((await other.del(`/sessions/${id}/turns`)).status).toBe(403);
    const rival = await service.mint("agent", { org: `${org}-rival` });
    expect((await rival.del(`/sessions/${id}/turns`)).status).toBe(404);
    const reader = await service.mint("agent", { org }, { verbs: ["memory:read", "memory:write"] });
    expect((await reader.del(`/sessions/${id}/turns`)).status).toBe(403);
    expect((await turns()).total).toBe(1);
  });
});

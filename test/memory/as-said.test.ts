import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ExactNumber, parseJson, stringifyJson } from "../../src/exact-json.ts";
import { parseTypedQuestion } from "../../src/recall/direct.ts";
import { normalKey } from "../../src/text/names.ts";
import { normalForm } from "../../src/text/normal-form.ts";
import { sameTextDigest } from "../../src/text/same-text.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());

let tenants = 0;
const tenant = () => service.mint("agent", { org: `said-${++tenants}` });
const say = async (client: Client, name: string, key: string, value: unknown, more: object = {}) => {
  const answer = await client.post<{ extraction: { attributes: { stored: boolean; superseded: string[] }[] } }>(
    "/facts",
    {
      triples: [{ entity: { type: "Person", name }, key, value }],
      ...more,
    },
  );
  expect(answer.status, answer.text).toBe(200);
  return answer.body.extraction.attributes[0];
};

describe("folding keeps what differs", () => {
  test.each([
    ["Ana owes Bob 50 euros", "Bob owes Ana 50 euros"],
    ["breakfast is included in the price", "breakfast is excluded in the price"],
    ["the invoice is 1,500 euros", "the invoice is 15,00 euros"],
    ["balance: -5", "balance: 5"],
    ["the tea is hot", "the tea is not hot"],
    ["No, money was paid", "No money was paid"],
    ["area of 10⁵ m", "area of 105 m"],
    ["she likes C", "she likes C++"],
    ["you paid?", "you paid."],
    ["résumé sent", "resume sent"],
    ["कमल आया", "कमाल आया"],
    ["call at 10:30", "call at 1030"],
    ["A & B signed", "A B signed"],
    ["limit is 5!", "limit is 5"],
    [
      "flag 🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
      "flag 🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
    ],
    [`${"word ".repeat(600)}first`, `${"word ".repeat(600)}second`],
  ])("%j and %j are two", (a, b) => {
    expect(sameTextDigest(a)).not.toBe(sameTextDigest(b));
  });

  test.each([
    ["The gate opens at nine.", "the gate  opens at NINE!"],
    ["He said “yes”", 'he said "yes"'],
    ["Meeting – Monday", "meeting - monday"],
    ["ＡＢＣ１２３ shipped", "ABC123 shipped"],
    ["the cafe\u0301 opens", "the café opens"],
    ["soft\u00adhyphen and zero\u200bwidth", "softhyphen and zerowidth"],
  ])("%j and %j say the same", (a, b) => {
    expect(sameTextDigest(a)).toBe(sameTextDigest(b));
  });

  test("what a user says and an assistant says is two", () => {
    expect(sameTextDigest("deploy approved", "assistant")).not.toBe(sameTextDigest("deploy approved", "user"));
    expect(sameTextDigest("deploy approved", "user")).toBe(sameTextDigest("Deploy approved."));
  });

  test("of equals the newest is shown with how many it stands for, in every route", async () => {
    const client = await tenant();
    const stored = [];
    for (const [content, ts] of [
      ["the badge for visitors is orange", "2024-02-01T00:00:00Z"],
      ["The badge for visitors is ORANGE.", "2024-05-01T00:00:00Z"],
      ["the badge for  visitors is orange", "2024-03-01T00:00:00Z"],
      ["the badge for visitors is green", "2024-01-01T00:00:00Z"],
    ])
      stored.push({ role: "user", content, ts });
    await client.post("/facts/batch", { messages: stored });
    type Answer = { hits: { text: string; duplicates?: number }[] };
    for (const mode of [undefined, "bm25", "vector"]) {
      const { hits } = (
        await client.post<Answer>("/query", { query: "badge for visitors", ...(mode === undefined ? {} : { mode }) })
      ).body;
      expect(hits.map(({ text, duplicates }) => [text, duplicates]).sort()).toEqual([
        ["The badge for visitors is ORANGE.", 2],
        ["the badge for visitors is green", undefined],
      ]);
    }
    // From the cache too.
    const again = (await client.post<Answer & { tier: string }>("/query", { query: "badge for visitors" })).body;
    expect([again.tier, again.hits.some(({ duplicates }) => duplicates === 2)]).toEqual(["cache", true]);
    const all = (await client.post<Answer>("/query", { query: "badge for visitors", includeDuplicates: true })).body;
    expect(all.hits).toHaveLength(4);
    const context = async (more: object) =>
      (await client.post<{ context: string }>("/context", { query: "badge for visitors", ...more })).body.context.match(
        /orange/gi,
      )?.length;
    expect([await context({}), await context({ includeDuplicates: true })]).toEqual([1, 3]);
    // Nothing near: by recency, folded alike.
    const recent = (await client.post<Answer & { tier: string }>("/query", { query: "zzyzx" })).body;
    expect([recent.tier, recent.hits.length]).toEqual(["full_context", 2]);
  });
});

describe("one normal form", () => {
  test.each([
    ["Order ABC123 was shipped", "ＡＢＣ１２３"],
    ["the cafe\u0301 opens", "café"],
    ["the ﬁnance team", "finance"],
    ["a co\u00adopera\u00adtion", "cooperation"],
    ["zero\u200bwidth text", "zerowidth"],
  ])("%j is found by %j, and forgotten by it", async (stored, query) => {
    const client = await tenant();
    await client.remember(stored);
    expect(await client.recall(query, { mode: "bm25" })).toEqual([stored]);
    expect((await client.post("/forget", { query, purge: true })).body).toMatchObject({ deleted: 1 });
  });

  test("a question in another Unicode form gets the answer of its own search, cached or not", async () => {
    const client = await tenant();
    await client.remember("Order ABC123 was shipped");
    for (let i = 0; i < 6; i++) await client.remember(`unrelated note ${i} about gardening`);
    for (const query of ["ＡＢＣ１２３", "ABC123", "ABC\u200b123"])
      expect((await client.recall(query, { k: 1 }))[0], query).toBe("Order ABC123 was shipped");
    // A name at the beginning of a question is a name still.
    const talk = [
      { role: "user", content: "Melanie: I went hiking on Sunday" },
      { role: "user", content: "Caroline: I went hiking on Monday" },
      { role: "user", content: "Caroline: hiking is fun" },
    ];
    await client.post("/facts/batch", { messages: talk });
    expect((await client.recall("Melanie went hiking when?"))[0]).toBe("Melanie: I went hiking on Sunday");
  });

  test("the database's normal form is the service's", async () => {
    const texts = [
      "plain",
      "ＡＢＣ１２３",
      "cafe\u0301",
      "ﬁnance ½ ①",
      "a\u00adb\u200bc\u2060\ufeffd",
      "x\u034f\u0301y",
      "क्\u200dष",
      "👩\u200d🚀\ufe0f",
      "\u{e0041}z",
    ];
    const rows = await service.database.sql(
      "SELECT scopefloor.normal_form(t) AS n FROM jsonb_array_elements_text($1::jsonb) WITH ORDINALITY AS u(t, i) ORDER BY i",
      [JSON.stringify(texts)],
    );
    expect(rows.map(({ n }) => n)).toEqual(texts.map(normalForm));
  });
});

describe("names and keys", () => {
  test("spellings of a key are one key, those of a name in Unicode one entity, those in case two, the very name first", async () => {
    const client = await tenant();
    const at = (day: number) => ({ observedAt: `2024-01-0${day}T00:00:00Z` });
    await say(client, "Bob", "favorite color", "red", at(1));
    await say(client, "Bob", "favorite-color", "blue", at(2));
    await say(client, "Bob", "favoriteColor", "green", at(3));
    const bob = await client.get<{ attributes: { value: string; key: string }[] }>("/entities/Person/Bob");
    expect(bob.body.attributes).toMatchObject([{ value: "green" }]);
    for (const key of ["favorite_color", "favoriteColor", "Favorite%20Color"])
      expect(
        (await client.get<{ history: unknown[] }>(`/entities/Person/Bob/history/${key}`)).body.history,
        key,
      ).toHaveLength(3);
    expect(await client.recall("favorite color", { mode: "bm25" })).toEqual(["Bob: favorite Color: green"]);
    await say(client, "Rene\u0301", "city", "Nice");
    await say(client, "René", "city", "Lyon");
    expect(
      (await client.get<{ attributes: unknown[] }>(`/entities/Person/${encodeURIComponent("René")}`)).body.attributes,
    ).toMatchObject([{ value: "Lyon" }]);
    await say(client, "ALICE", "city", "Paris");
    await say(client, "Alice", "city", "Oslo");
    expect(await client.recall("What is Alice's city?")).toEqual(["Alice: city: Oslo", "ALICE: city: Paris"]);
    expect(await client.recall("What is alice's city?", { k: 2 })).toHaveLength(2);
  });

  test("10² and 102 are two entities", async () => {
    const client = await tenant();
    await say(client, "10²", "desc", "hundred");
    await say(client, "102", "desc", "bus line");
    expect(await client.recall("What is the desc of 10²?")).toEqual(["10²: desc: hundred"]);
  });

  test.each([
    ["What is O'Brien's city?", "O'Brien", "city"],
    ["What is AT&T's stock price?", "AT&T", "stock_price"],
    ["What is राहुल's city?", "राहुल", "city"],
    ["What is the height of Côte d'Ivoire's flag?", "Côte d'Ivoire", undefined],
    ["What is James' favourite tea?", "James", "favourite_tea"],
    ["What is the capital of Guinea-Bissau?", "Guinea-Bissau", "capital"],
    ["Wer/राहुल शहर", "राहुल", "शहर"],
    ["What is the price of C++?", "C++", "price"],
  ])("%j is a typed question", (query, entity, key) => {
    const question = parseTypedQuestion(query);
    if (key !== undefined) expect(question).toMatchObject({ kind: "attribute", entity, key });
    else expect(question).toMatchObject({ kind: "attribute" });
  });

  test.each([
    ["favorite color", "favorite_color"],
    ["favoriteColor", "favorite_color"],
    ["FAVORITE-COLOR", "favorite_color"],
    ["userID", "user_id"],
    ["HTTPServer port", "http_server_port"],
    ["Größe", "größe"],
    ["ipv4", "ipv4"],
    ["temp_", "temp"],
  ])("the key %j is %j", (key, normal) => {
    expect(normalKey(key)).toBe(normal);
  });

  test.each([".", "..", "\u2024\u2024", "\u200b"])("an entity, a type or a key named %j is refused", async (name) => {
    const client = await tenant();
    for (const triple of [
      { entity: { type: "P", name }, key: "k", value: 1 },
      { entity: { type: name, name: "n" }, key: "k", value: 1 },
      { entity: { type: "P", name: "n" }, key: name, value: 1 },
    ])
      expect((await client.post("/facts", { triples: [triple] })).status).toBe(400);
  });

  test("keys say who prefers what, and likelihood_of_rain does not; what is cut says so", async () => {
    const client = await tenant();
    const preferring = ["likes", "favourite_tea", "preferredAirline", "food preferences", "avoids"];
    const others = ["likelihood_of_rain", "lovelace_number", "city"];
    await client.post("/facts", {
      triples: [...preferring, ...others].map((key) => ({ entity: { type: "P", name: "K" }, key, value: 1 })),
    });
    const profile = (await client.get<{ preferences: { key: string }[]; truncated: boolean }>("/profile")).body;
    expect(profile.preferences.map(({ key }) => key).sort()).toEqual([...preferring].sort());
    expect(profile.truncated).toBe(false);
    await service.database.sql(
      `INSERT INTO scopefloor.attribute (tenant_id, scope_id, id, entity_id, key, value, valid_from, observation_id, api_key_id)
       SELECT e.tenant_id, e.scope_id, gen_random_uuid(), e.id, 'k' || n, '1', now(), gen_random_uuid(), e.api_key_id
       FROM scopefloor.entity e JOIN scopefloor.scope s ON s.id = e.scope_id, generate_series(1, 2001) n
       WHERE s.tags = $1::jsonb`,
      [JSON.stringify({ org: `said-${tenants}` })],
    );
    for (const route of ["/profile", "/state"])
      expect((await client.get<{ truncated: boolean }>(route)).body.truncated).toBe(true);
  });

  test("of more than a hundred instructions the newest are shown, and the trace counts what is shown", async () => {
    const client = await tenant();
    const admin = await service.mint("management", { org: `said-${tenants}` });
    for (let n = 1; n <= 101; n++) await admin.remember(`Keep rule ${n}.`, { role: "system" });
    for (const operation of ["profile", "state"]) {
      const { body } = await client.get<{ instructions: { text: string }[]; truncated: boolean }>(`/${operation}`);
      expect(body.instructions).toHaveLength(100);
      expect(body.instructions.map(({ text }) => text)).not.toContain("Keep rule 1.");
      expect(body.truncated).toBe(true);
      const traced = await service.database.sql(
        `SELECT t.returned FROM scopefloor.decision_trace t JOIN scopefloor.scope s ON s.id = t.scope_id
         WHERE s.tags = $1::jsonb AND t.operation = $2`,
        [JSON.stringify({ org: `said-${tenants}` }), operation],
      );
      expect(traced.map(({ returned }) => returned)).toEqual([100]);
    }
  });
});

describe("numbers", () => {
  test.each([
    "1546130668394913822",
    "-12345678901234567890.5",
    "0.1000000000000000055511151231257827",
    "9007199254740993",
  ])("%s comes back digit for digit, from items, facts and metadata", async (digits) => {
    const client = await tenant();
    const raw = async (method: string, path: string, body?: string) =>
      (await client.call(method, path, undefined, body === undefined ? {} : { raw: body })).text;
    expect(await raw("PUT", "/memory/n", `{"value":{"id":[${digits}],"text":"${digits}"}}`)).toContain(
      `"id":[${digits}]`,
    );
    expect(await raw("GET", "/memory/n")).toContain(`{"id":[${digits}],"text":"${digits}"}`);
    expect(await raw("GET", "/memory?prefix=n")).toContain(`[${digits}]`);
    await raw("POST", "/facts", `{"triples":[{"entity":{"type":"P","name":"M"},"key":"account","value":${digits}}]}`);
    expect(await raw("GET", "/entities/P/M")).toContain(`"json":${digits}`);
    expect(await client.recall("What is M's account?")).toEqual([`M: account: ${digits}`]);
    const session = JSON.parse(await raw("POST", "/sessions", `{"metadata":{"order":${digits}}}`)) as { id: string };
    expect(await raw("GET", `/sessions/${session.id}`)).toContain(`"order":${digits}`);
  });

  test("ids that differ in the last digit are two values; beyond a double's range is 400 and names the path", async () => {
    const client = await tenant();
    const tell = async (digits: string) =>
      client.call("POST", "/facts", undefined, {
        raw: `{"triples":[{"entity":{"type":"P","name":"M"},"key":"account","value":${digits}}]}`,
      });
    await tell("1546130668394913822");
    expect((await tell("1546130668394913821")).text).toContain('"stored":true');
    expect((await tell("1546130668394913821")).text).toContain('"stored":false');
    const misplaced = await client.call("POST", "/query", undefined, { raw: '{"query":"x","k":12345678901234567890}' });
    expect([misplaced.status, misplaced.text.includes("ExactNumber")]).toEqual([400, false]);
    for (const number of ["1e400", "-1e400", "1e-400", "1".repeat(1_001)]) {
      const refused = await client.call("PUT", "/memory/n", undefined, { raw: `{"value":{"a":[1,${number}]}}` });
      expect([refused.status, refused.text.includes("value.a[1]")], number.slice(0, 10)).toEqual([400, true]);
    }
  });

  test("JSON is parsed as by JSON.parse, but for those numbers", () => {
    for (const text of [
      '{"a":1e5,"b":[1.10,-0,0.1,1e21],"c":"1546130668394913822 \\" x"}',
      '"\\u0000"',
      "[]",
      "123456789012345680",
    ])
      expect(JSON.stringify(parseJson(text))).toBe(JSON.stringify(JSON.parse(text)));
    for (const text of [
      "01234567890123456789",
      "1234567890123456789.",
      "[1234567890123456789e]",
      '{"a":12345678901234567890',
      "+12345678901234567",
    ])
      expect(() => parseJson(text), text).toThrow(SyntaxError);
    expect(parseJson("1546130668394913822")).toBeInstanceOf(ExactNumber);
    expect(stringifyJson({ a: parseJson("[1546130668394913822]") })).toBe('{"a":[1546130668394913822]}');
  });
});

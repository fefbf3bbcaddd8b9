import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** What a key sees where a request does not say: a client that never names a lens finds and forgets what it wrote. */

let service: TestService;
let org: string;
let counter = 0;

beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());
beforeEach(() => {
  org = `tenant-${++counter}`;
});

type Found = { hits: { text: string }[]; trace: { hiddenByView?: boolean; hint?: string } };
const ask = async (by: Client, query: string) => (await by.post<Found>("/query", { query })).body;
const write = (by: Client) => by.remember("Tobie is the chief technology officer.", { scopes: "user/tobie" });
const mint = (floor: object, more: object) => service.mint("agent", floor, more);

describe("a key with the default view subtree", () => {
  test("recalls, reads its context and profile, and forgets what it wrote below its floor", async () => {
    const agent = await mint({ org }, { defaultView: "subtree" });
    expect((await agent.get("/me")).body).toMatchObject({ defaultView: "subtree" });
    await write(agent);
    await agent.post("/facts", {
      triples: [{ entity: { type: "person", name: "Tobie" }, key: "role", value: "chief technology officer" }],
      scopes: "user/tobie",
    });
    expect((await ask(agent, "What is Tobie's role? technology officer")).hits.length).toBeGreaterThan(0);
    expect((await agent.post<{ context: string }>("/context", { query: "technology officer" })).text).toContain(
      "chief",
    );
    expect((await agent.get("/profile")).text).toContain("chief technology officer");
    const previewed = await agent.post("/forget", { query: "chief technology officer", dryRun: true });
    expect(previewed.body).toMatchObject({ deleted: 2 });
    expect((await agent.post("/forget", { query: "chief technology officer" })).body).toMatchObject({ deleted: 2 });
    expect((await ask(agent, "technology officer")).hits).toEqual([]);
  });

  test("sees no more than its floor, and no less where a request says so", async () => {
    const agent = await mint({ org, team: "red" }, { defaultView: "subtree" });
    const rival = await mint({ org: `${org}-b`, team: "red" }, { defaultView: "subtree" });
    const sibling = await mint({ org, team: "blue" }, {});
    await rival.remember("The rival's lantern.");
    await sibling.remember("The blue lantern.");
    await agent.remember("The red lantern.", { scopes: "user/ann" });
    expect((await ask(agent, "lantern")).hits.map(({ text }) => text)).toEqual(["The red lantern."]);
    const strict = await agent.post<Found>("/query", { query: "lantern", scopeView: "strict" });
    expect(strict.body.hits).toEqual([]);
  });

  test("has to confirm a purge that names no scope, and no other", async () => {
    const agent = await mint({ org }, { defaultView: "subtree" });
    await write(agent);
    const purge = { query: "chief technology officer", purge: true };
    const refused = await agent.post("/forget", purge);
    expect(refused.status).toBe(422);
    expect(refused.text).toContain(`\\"confirm\\": \\"org/${org}\\"`);
    expect((await agent.post("/forget", { ...purge, confirm: "org" })).status).toBe(422);
    expect((await agent.post("/forget", { ...purge, dryRun: true })).body).toMatchObject({ deleted: 1 });
    expect((await agent.post("/forget", { ...purge, scopes: "user/other" })).body).toMatchObject({ deleted: 0 });
    expect((await agent.post("/forget", { ...purge, confirm: `org/${org}` })).body).toMatchObject({ deleted: 1 });
    const { sessionId, chunkId } = await write(agent);
    expect((await agent.post("/forget", { ids: [chunkId], purge: true })).body).toMatchObject({ deleted: 1 });
    expect((await agent.post("/forget", { sessionId, purge: true })).status).toBe(200);
  });
});

test("an agent's key without one is strict, and an empty answer says what to do", async () => {
  const agent = await mint({ org }, {});
  await write(agent);
  const { hits, trace } = await ask(agent, "technology officer");
  expect([hits, trace]).toEqual([[], expect.objectContaining({ hiddenByView: true, hint: expect.any(String) })]);
  expect(trace.hint).toContain("subtree");
  expect((await agent.post("/forget", { query: "technology officer", purge: true })).body).toMatchObject({
    deleted: 0,
    hiddenByView: true,
    hint: trace.hint,
  });
});

test("a supervisor's key may be strict", async () => {
  const agent = await mint({ org }, {});
  await write(agent);
  const wide = await service.mint("supervisor", { org });
  const narrow = await service.mint("supervisor", { org }, { defaultView: "strict" });
  expect((await ask(wide, "technology officer")).hits).toHaveLength(1);
  expect((await ask(narrow, "technology officer")).hits).toEqual([]);
});

test("on behalf of another, the view is strict if either is", async () => {
  const [a, b, c] = [
    await mint({ org }, { defaultView: "subtree" }),
    await mint({ org }, { defaultView: "subtree" }),
    await mint({ org }, {}),
  ];
  await write(a);
  const as = async (by: Client, other: Client) =>
    (
      await by.call<Found>(
        "POST",
        "/query",
        { query: "technology officer" },
        {
          headers: { "X-Spectron-On-Behalf-Of": other.id },
        },
      )
    ).body.hits?.length;
  expect([await as(a, b), await as(a, c), await as(c, a)]).toEqual([1, 0, 0]);
});

test("the setting of a scope is the default of new keys there; a child has its parent's", async () => {
  const admin = await service.mint("management", { org });
  const put = (scope: object, defaultView: string) =>
    admin.call("PUT", "/contexts/default/settings", { scope, defaultView });
  const before = await mint({ org }, {});
  await put({ org }, "subtree");
  await put({ org, user: "ann" }, "strict");
  const viewOf = async (client: Client) => (await client.get<{ defaultView: string }>("/me")).body.defaultView;
  const after = await mint({ org }, {});
  const ann = await mint({ org, user: "ann" }, {});
  const asked = await mint({ org }, { defaultView: "strict" });
  const elsewhere = await mint({ org: `${org}-b` }, {});
  expect(await Promise.all([before, after, ann, asked, elsewhere].map(viewOf))).toEqual([
    "strict",
    "subtree",
    "strict",
    "strict",
    "strict",
  ]);
  const child = await after.post<{ key: string; id: string }>("/keys", { scopeFloor: { user: "bob" } });
  expect(await viewOf(service.client(child.body.key))).toBe("subtree");
  const own = await before.post<{ key: string; id: string }>("/keys", { defaultView: "subtree" });
  expect(await viewOf(service.client(own.body.key))).toBe("subtree");
  const listed = await admin.get<{ keys: { id: string; defaultView: string }[] }>("/contexts/default/keys");
  expect(listed.body.keys.find(({ id }) => id === after.id)).toMatchObject({ defaultView: "subtree" });
  const made = await service.operator.post<{ keys: { key: string }[] }>("/contexts/default/tenants", {
    scope: { org: `${org}-made` },
    settings: { defaultView: "subtree" },
    keys: [
      { name: "agent", principal: "agent" },
      { name: "narrow", principal: "agent", defaultView: "strict" },
    ],
  });
  expect(await Promise.all(made.body.keys.map(({ key }) => viewOf(service.client(key))))).toEqual([
    "subtree",
    "strict",
  ]);
  const rotated = await admin.post<{ key: string; defaultView: string }>(`/contexts/default/keys/${after.id}/rotate`);
  expect([rotated.body.defaultView, await viewOf(service.client(rotated.body.key))]).toEqual(["subtree", "subtree"]);
  expect((await put({ org }, "wide")).status).toBe(400);
});

test("the Context's setting is the default where no scope has one", async () => {
  const config = (defaultView: string) =>
    service.operator.call("PATCH", "/contexts/default", { config: { defaultView } });
  await config("subtree");
  expect((await (await mint({ org }, {})).get("/me")).body).toMatchObject({ defaultView: "subtree" });
  await config("strict");
  expect((await (await mint({ org }, {})).get("/me")).body).toMatchObject({ defaultView: "strict" });
});

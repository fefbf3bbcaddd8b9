import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let acme: Client;

/** Each row carries the word `shared` and a canary that names its scope. */
const rows: Record<string, object> = {
  general: {},
  acme: { org: "acme" },
  acmealice: { org: "acme", user: "alice" },
  acmebob: { org: "acme", user: "bob" },
  acmecorp: { org: "acme-corp" },
  acmecorpalice: { org: "acme-corp", user: "alice" },
  userone: { org: "acme", user: "1" },
  userten: { org: "acme", user: "10" },
  loosealice: { user: "alice" },
};
const everything = Object.keys(rows);

beforeAll(async () => {
  service = await startService();
  acme = await service.mint("agent", { org: "acme" });
  for (const [canary, scope] of Object.entries(rows)) {
    await service.operator.remember(`shared knowledge, canary ${canary}`, { scopes: scope });
  }
});
afterAll(() => service.stop());

const seen = async (client: Client, more: object = {}) => {
  const texts = await client.recall("shared knowledge canary", { k: 50, includeDuplicates: true, ...more });
  return texts.map((text) => text.split(" ").at(-1) ?? "").sort();
};

describe("what a recall reaches under the floor org=acme", () => {
  for (const mode of ["hybrid", "vector", "bm25"]) {
    test(`${mode}: without a selector, the floor and general knowledge`, async () => {
      expect(await seen(acme, { mode })).toEqual(["acme", "general"]);
    });
    test(`${mode}: with user=alice, hers too and nobody else's`, async () => {
      expect(await seen(acme, { mode, lens: { user: "alice" } })).toEqual(["acme", "acmealice", "general"]);
      expect(await seen(acme, { mode, lens: { user: "1" } })).toEqual(["acme", "general", "userone"]);
    });
    test(`${mode}: the subtree view, everything below the floor`, async () => {
      const below = ["acme", "acmealice", "acmebob", "general", "userone", "userten"];
      expect(await seen(acme, { mode, scopeView: "subtree" })).toEqual(below);
      expect(await seen(acme, { mode, lens: "org/acme/*" })).toEqual(below);
      expect(await seen(acme, { mode, lens: "user/alice/*" })).toEqual(["acmealice", "general"]);
    });
    test(`${mode}: several clauses are an OR`, async () => {
      expect(await seen(acme, { mode, lens: [["user/alice"], ["user/bob"]] })).toEqual([
        "acme",
        "acmealice",
        "acmebob",
        "general",
      ]);
    });
    test(`${mode}: empty selectors: [] reaches nothing, [[]] and {} the floor (threat 34)`, async () => {
      expect(await seen(acme, { mode, lens: [] })).toEqual([]);
      expect(await seen(acme, { mode, lens: [[]] })).toEqual(["acme", "general"]);
      expect(await seen(acme, { mode, lens: {} })).toEqual(["acme", "general"]);
    });
  }

  test("a contradiction is 403 scope-floor, in any spelling, and recorded", async () => {
    for (const lens of [
      { org: "acme-corp" },
      "org/acme-corp",
      ["org=acme-corp"],
      [["user/alice"], ["org/other"]],
      "org/acme-corp/*",
    ]) {
      const answer = await acme.post("/query", { query: "shared", lens });
      expect(answer.status).toBe(403);
      expect(answer.body.type).toBe("https://scopefloor.dev/errors/scope-floor");
    }
    expect((await acme.post("/facts", { text: "x", scopes: "org/globex" })).status).toBe(403);
    const denied = await service.operator.get<{ denied: { keyId: string; scopeFloor: object; route: string }[] }>(
      "/contexts/default/denied",
    );
    expect(denied.body.denied.filter((d) => d.keyId === acme.id)).toHaveLength(6);
    expect(denied.body.denied[0]).toMatchObject({
      keyId: acme.id,
      scopeFloor: { org: "acme" },
      route: "POST /{ctx}/facts",
    });
  });

  test("a subtree too large to list goes by its tags, and holds the same rows", async () => {
    const [large, near] = [
      await service.mint("agent", { org: "large" }),
      await service.mint("agent", { org: "large1" }),
    ];
    await near.remember("shared knowledge, canary near", { scopes: "user/u7" });
    await large.remember("shared knowledge, canary own");
    await large.remember("shared knowledge, canary below", { scopes: "user/u7" });
    await service.database.sql(`
      INSERT INTO scopefloor.scope (tenant_id, tags) SELECT t.id, t.root || jsonb_build_object('user', 'u' || n)
      FROM scopefloor.tenant t, generate_series(10, 400) n WHERE t.root = '{"org":"large"}'`);
    expect(await seen(large, { scopeView: "subtree" })).toEqual(["below", "general", "own"]);
    expect(await seen(large)).toEqual(["general", "own"]);
    const { body } = await large.get<{ sessions: { scopes: string[][] }[] }>("/sessions");
    expect(body.sessions.map(({ scopes }) => scopes[0]?.[0]).sort()).toEqual(["org/large", "org/large/user/u7"]);
    for (const client of [large, near]) expect((await client.eraseFloor()).status).toBe(200);
  });

  test("a floor is a minimum: a deeper floor does not see the org's own rows", async () => {
    const deep = await service.mint("agent", { org: "acme", user: "alice" });
    expect(await seen(deep)).toEqual(["acmealice", "general"]);
    expect(await seen(deep, { scopeView: "subtree" })).toEqual(["acmealice", "general"]);
  });

  test("near-miss names are other names (threat 33)", async () => {
    expect(await seen(await service.mint("agent", { org: "acme-corp" }))).toEqual(["acmecorp", "general"]);
    expect(await seen(await service.mint("agent", { org: "acm" }))).toEqual(["general"]);
    expect(await seen(await service.mint("agent", { org: "ACME" }))).toEqual(["general"]);
    expect(await seen(await service.mint("agent", { user: "alice" }))).toEqual(["general", "loosealice"]);
  });

  test("the operator's view is the subtree of everything; a supervisor's is its floor's", async () => {
    expect(await seen(service.operator)).toEqual([...everything].sort());
    expect(await seen(service.operator, { scopeView: "strict" })).toEqual(["general"]);
    const supervisor = await service.mint("supervisor", { org: "acme" });
    expect(await seen(supervisor)).toEqual(["acme", "acmealice", "acmebob", "general", "userone", "userten"]);
  });

  test("an agent cannot write general knowledge; a tenant's administrator cannot either", async () => {
    const admin = await service.mint("management", { org: "acme" });
    for (const client of [acme, admin]) {
      await client.remember("not general at all", { scopes: {} });
    }
    expect(await service.operator.recall("not general at all", { lens: {}, scopeView: "strict" })).not.toContain(
      "not general at all",
    );
  });

  test("nothing found while the floor holds hidden scopes: the trace says so", async () => {
    const hidden = await service.mint("agent", { org: "hidden" });
    await hidden.remember("only alice knows", { scopes: "user/alice" });
    const answer = await hidden.post<{ hits: unknown[]; trace: { hiddenByView?: boolean } }>("/query", {
      query: "alice",
      lens: { team: "x" },
      labels: ["no=such"],
    });
    expect(answer.body.hits).toEqual([]);
    expect(answer.body.trace.hiddenByView).toBe(true);
    const empty = await service.mint("agent", { org: "nothing-here" });
    const none = await empty.post<{ trace: { hiddenByView?: boolean } }>("/query", { query: "x", labels: ["no=such"] });
    expect(none.body.trace.hiddenByView).toBeUndefined();
  });
});

describe("writes", () => {
  test("several clauses and the empty selector are 422", async () => {
    expect((await acme.post("/facts", { text: "x", scopes: ["user/a", "user/b"] })).status).toBe(422);
    expect((await acme.post("/facts", { text: "x", scopes: [] })).status).toBe(422);
    expect((await acme.post("/sessions", { scopes: [] })).status).toBe(422);
  });

  test("with a session_id the row takes the session's scope, and another one named is 422", async () => {
    const session = await acme.post<{ id: string; scopes: string[][]; scope: object }>("/sessions", {
      scopes: "user/carol",
    });
    expect(session.status).toBe(201);
    expect(session.body).toMatchObject({ scope: { org: "acme", user: "carol" }, scopes: [["org/acme/user/carol"]] });
    await acme.remember("carol likes tea", { session_id: session.body.id });
    expect(await acme.recall("tea", { lens: { user: "carol" } })).toContain("carol likes tea");
    expect((await acme.post("/facts", { text: "x", session_id: session.body.id, scopes: "user/dave" })).status).toBe(
      422,
    );
    expect((await acme.post("/facts", { text: "x", session_id: session.body.id, scopes: "user/carol" })).status).toBe(
      200,
    );
  });

  test("an agent adds turns only to sessions that its own key created", async () => {
    const sibling = await service.mint("agent", { org: "acme" });
    const session = await acme.post<{ id: string }>("/sessions");
    expect((await sibling.get(`/sessions/${session.body.id}`)).status).toBe(200);
    expect((await sibling.post("/facts", { text: "x", sessionId: session.body.id })).status).toBe(403);
    const foreign = await service.mint("agent", { org: "acme-corp" });
    expect((await foreign.post("/facts", { text: "x", sessionId: session.body.id })).status).toBe(404);
  });

  test("a closed session takes no more turns; what it has stays", async () => {
    const { sessionId } = await acme.remember("said before closing");
    expect((await acme.del(`/sessions/${sessionId}`)).status).toBe(204);
    expect((await acme.post("/facts", { text: "x", sessionId })).status).toBe(409);
    const turns = await acme.get<{ turns: { content: string; seq: number }[] }>(`/sessions/${sessionId}/turns`);
    expect(turns.body.turns).toMatchObject([{ content: "said before closing", seq: 0 }]);
  });

  test("a deleted scope refuses writes until it is registered again", async () => {
    expect((await acme.post("/scopes", { path: "team/red", displayName: "Red" })).body).toMatchObject({
      path: "org/acme/team/red",
    });
    expect((await acme.del("/scopes?path=team/red")).status).toBe(204);
    const listed = await acme.get<{ path: string }[]>("/scopes?scopeView=subtree");
    expect(listed.body.find(({ path }) => path === "org/acme/team/red")).toMatchObject({
      displayName: "Red",
      tombstonedAt: expect.any(String),
    });
    expect((await acme.post("/facts", { text: "x", scopes: "team/red" })).status).toBe(409);
    expect((await acme.post("/scopes", { path: "team/red" })).body.tombstonedAt).toBeUndefined();
    expect((await acme.post("/facts", { text: "x", scopes: "team/red" })).status).toBe(200);
  });
});

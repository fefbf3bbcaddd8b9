import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hashSecret } from "../../src/keys/secret.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let operator: Client;

beforeAll(async () => {
  service = await startService();
  operator = service.operator;
});
afterAll(() => service.stop());

interface Minted {
  readonly id: string;
  readonly name: string;
  readonly key: string;
  readonly scopeFloor: object;
  readonly verbs: string[];
  readonly expiresAt: string | null;
}

const mint = (client: Client, body: object) => client.post<Minted>("/contexts/default/keys", body);

describe("minting", () => {
  test("gives the secret once, with its prefix, and stores only a hash of its hash", async () => {
    const minted = await mint(operator, { name: "one", principal: "supervisor", scopeFloor: { org: "acme" } });
    expect(minted.status).toBe(201);
    expect(minted.body).toMatchObject({
      name: "one",
      principal: "supervisor",
      scopeFloor: { org: "acme" },
      expiresAt: null,
    });
    expect(minted.body.key).toMatch(/^sf_sup_[0-9A-Za-z]{46}$/);
    const listed = await operator.get("/contexts/default/keys?name=one");
    expect(listed.body).toMatchObject({
      total: 1,
      page: 0,
      keys: [{ id: minted.body.id, status: "active", createdBy: operator.id }],
    });
    expect(listed.text).not.toContain(minted.body.key);
    const dump = await service.database.sql("SELECT k::text AS row FROM scopefloor.api_key k");
    expect(JSON.stringify(dump)).not.toContain(minted.body.key.slice(8));
  });

  test("an agent's or supervisor's floor is never empty", async () => {
    for (const principal of ["agent", "supervisor"]) {
      for (const scopeFloor of [undefined, {}]) {
        expect((await mint(operator, { name: "x", principal, scopeFloor })).status).toBe(422);
      }
    }
  });

  test("names are unique per parent only: a foreign name tells nothing", async () => {
    const admin = await service.mint("management", { org: "names" });
    expect((await mint(operator, { name: "taken", principal: "agent", scopeFloor: { org: "a" } })).status).toBe(201);
    expect((await mint(operator, { name: "taken", principal: "agent", scopeFloor: { org: "b" } })).status).toBe(409);
    expect((await mint(admin, { name: "taken", principal: "agent" })).status).toBe(201);
    expect((await admin.del("/contexts/default/keys/management")).status).toBe(404);
  });

  test("bad bodies are 400: unknown fields, verbs, principals, two ends, an end in the past", async () => {
    const good = { name: "bad", principal: "agent", scopeFloor: { org: "a" } };
    for (const bad of [
      { ...good, scope: {} },
      { ...good, principal: "root" },
      { ...good, verbs: [] },
      { ...good, verbs: ["memory:all"] },
      { ...good, ttlSeconds: 0 },
      { ...good, ttlSeconds: 10, expiresAt: "2099-01-01T00:00:00Z" },
      { ...good, expiresAt: "2001-01-01T00:00:00Z" },
      { ...good, expiresAt: "2099-02-30T00:00:00Z" },
      { ...good, scopeFloor: "org/a/user" },
      { ...good, scopeFloor: { org: "a b" } },
      { principal: "agent" },
    ]) {
      expect((await mint(operator, bad)).status, JSON.stringify(bad)).toBe(400);
    }
  });

  test("content: false is for management keys", async () => {
    expect(
      (await mint(operator, { name: "nc", principal: "agent", scopeFloor: { org: "a" }, content: false })).status,
    ).toBe(422);
  });
});

describe("the list of keys", () => {
  test("comes in pages, the newest first, and each key once", async () => {
    const admin = await service.mint("management", { org: "pages" });
    const minted: string[] = [];
    for (let i = 0; i < 5; i++) {
      minted.unshift((await mint(admin, { name: `page ${i}`, principal: "agent" })).body.id);
    }
    const page = async (n: number) => {
      const { body } = await admin.get<{ keys: { id: string; createdAt: string }[]; total: number }>(
        `/contexts/default/keys?page=${n}&pageSize=2`,
      );
      expect(body).toMatchObject({ page: n, pageSize: 2, total: 6 });
      for (const { createdAt } of body.keys) expect(createdAt).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
      return body.keys.map(({ id }) => id);
    };
    // Its own stands in it too.
    expect([await page(0), await page(1), await page(2), await page(3)].flat()).toEqual([...minted, admin.id]);
  });
});

describe("principals", () => {
  interface Listed {
    id: string;
    displayName: string;
    kind: string;
    grants: Record<string, string[]>;
  }

  test("are the key, those that it minted, and for an administrator those inside its floor", async () => {
    const admin = await service.mint("management", { org: "known" });
    const agent = await service.mint("agent", { org: "known", user: "ann" });
    const child = (await agent.post<{ id: string }>("/keys", { name: "child", verbs: ["memory:read"] })).body.id;
    const foreign = await service.mint("agent", { org: "unknown" });
    const idsOf = async (client: Client) => (await client.get<Listed[]>("/principals")).body.map(({ id }) => id).sort();
    expect(await idsOf(agent)).toEqual([agent.id, child].sort());
    expect(await idsOf(admin)).toEqual([admin.id, agent.id, child].sort());
    expect((await agent.get<Listed>(`/principals/${child}`)).body).toEqual({
      id: child,
      displayName: "child",
      kind: "agent",
      grants: { "memory:read": ["org/known/user/ann/*"] },
    });
    for (const id of [foreign.id, admin.id]) expect((await agent.get(`/principals/${id}`)).status).toBe(404);
    const narrowed = await agent.post<Listed>(`/principals/${foreign.id}/grants`, { verbs: ["memory:read"] });
    expect(narrowed.status).toBe(404);
  });
});

describe("a tenant's administrator", () => {
  test("is confined to its subtree: mints inside, sees inside, revokes inside", async () => {
    const admin = await service.mint("management", { org: "acme" });
    const foreign = await service.mint("agent", { org: "globex" });
    const inside = await mint(admin, { name: "inside", principal: "agent", scopeFloor: { user: "alice" } });
    expect(inside.body.scopeFloor).toEqual({ org: "acme", user: "alice" });
    expect((await mint(admin, { name: "out", principal: "agent", scopeFloor: { org: "globex" } })).status).toBe(403);
    const listed = await admin.get<{ keys: { scopeFloor: { org: string } }[] }>("/contexts/default/keys?pageSize=100");
    expect(new Set(listed.body.keys.map((key) => key.scopeFloor.org))).toEqual(new Set(["acme"]));
    for (const route of ["keys", "usage"]) {
      expect((await admin.get(`/contexts/default/${route}?scope=org/globex`)).status).toBe(403);
    }
    expect((await admin.get("/contexts/default/keys?scope=user/alice")).body).toMatchObject({ total: 1 });
    expect((await admin.del(`/contexts/default/keys/${foreign.id}`)).status).toBe(404);
    expect((await admin.post(`/contexts/default/keys/${foreign.id}/rotate`)).status).toBe(404);
    expect((await foreign.get("/me")).status).toBe(200);
    expect((await admin.call("PATCH", "/contexts/default", { config: { contextTokens: 500 } })).status).toBe(403);
  });

  test("is refused and recorded where it asks for more", async () => {
    const admin = await service.mint("management", { org: "denied-mint" });
    await mint(admin, { name: "x", principal: "agent", scopeFloor: { org: "globex" } });
    await admin.call("PATCH", "/contexts/default", { config: { contextTokens: 500 } });
    const denied = await admin.get<{ denied: { route: string }[] }>("/contexts/default/denied");
    expect(denied.body.denied.map((row) => row.route)).toEqual(["PATCH /contexts/{ctx}", "POST /contexts/{ctx}/keys"]);
  });

  test("cannot take over the key that minted it", async () => {
    const admin = await service.mint("management", {});
    expect((await admin.post(`/contexts/default/keys/${operator.id}/rotate`)).status).toBe(404);
    expect((await operator.get("/me")).status).toBe(200);
  });
});

describe("rotating is no way up (threat 29)", () => {
  const rotate = (client: Client, id: string) => client.post(`/contexts/default/keys/${id}/rotate`);

  test("a key without content, or with fewer verbs, cannot take over one that has more", async () => {
    const agent = await service.mint("agent", { org: "up" });
    const billing = await service.mint("management", {}, { content: false, verbs: ["memory:read"] });
    const reader = await service.mint("management", {}, { verbs: ["memory:read"] });
    for (const low of [billing, reader]) {
      expect((await rotate(low, agent.id)).status).toBe(404);
      expect((await rotate(low, operator.id)).status).toBe(404);
      expect((await low.del(`/contexts/default/keys/${agent.id}`)).status).toBe(404);
    }
    expect((await agent.get("/me")).status).toBe(200);
  });

  test("of other management keys a caller reaches those that come from it, or stand below it", async () => {
    const first = await service.mint("management", {});
    const second = await mint(first, { name: "second", principal: "management" });
    const third = await mint(service.client(second.body.key), { name: "third", principal: "management" });
    const below = await service.mint("management", { org: "below" });
    expect((await rotate(service.client(third.body.key), first.id)).status).toBe(404);
    expect((await rotate(service.client(second.body.key), first.id)).status).toBe(404);
    expect((await rotate(service.client(third.body.key), below.id)).status).toBe(200);
    expect((await rotate(first, third.body.id)).status).toBe(200);
  });

  test("a grace lasts a week at most", async () => {
    expect((await operator.post(`/contexts/default/keys/${operator.id}/rotate?graceSeconds=604801`)).status).toBe(400);
  });
});

describe("the first management key", () => {
  test("is made once: a start brings back neither a rotated secret nor a revoked key", async () => {
    const [again] = await service.database.sql(
      "SELECT scopefloor.set_first_key(gen_random_uuid(), sha256('another')) AS made",
    );
    expect(again?.made).toBe(false);
    expect((await operator.get("/me")).status).toBe(200);
  });

  test("can be recovered by the database's owner alone", async () => {
    const other = await startService();
    const secret = "recovered-recovered-recovered-recovered";
    await other.operator.del("/keys/management");
    expect((await other.operator.get("/me")).status).toBe(401);
    await other.database.sql("SELECT scopefloor.recover_first_key($1)", [hashSecret(secret)]);
    expect((await other.client(secret).get("/me")).status).toBe(200);
    await other.stop();
  });
});

describe("rotation, revocation and expiry", () => {
  test("rotating ends the old secret at once, or after its grace", async () => {
    const key = await service.mint("agent", { org: "rotate" });
    const rotated = await operator.post<Minted>(`/contexts/default/keys/${key.id}/rotate?graceSeconds=60`);
    expect(rotated.body.key).toMatch(/^sf_agent_/);
    expect((await key.get("/me")).status).toBe(200);
    expect((await service.client(rotated.body.key).get("/me")).status).toBe(200);
    const again = await operator.post<Minted>(`/contexts/default/keys/${key.id}/rotate`);
    for (const dead of [key.key, rotated.body.key]) expect((await service.client(dead).get("/me")).status).toBe(401);
    expect((await service.client(again.body.key).get("/me")).body).toMatchObject({ principalId: key.id });
  });

  test("a revoked key is 401 at the next call, and what an agent delegated ends with it (threat 30)", async () => {
    const agent = await service.mint("agent", { org: "revoke" });
    const child = await agent.post<Minted>("/keys", { name: "child", scopeFloor: { user: "u" } });
    const grandchild = await service.client(child.body.key).post<Minted>("/keys", { name: "grandchild" });
    expect((await service.client(grandchild.body.key).get("/me")).status).toBe(200);
    expect((await operator.del(`/contexts/default/keys/${agent.id}`)).status).toBe(204);
    for (const key of [agent.key, child.body.key, grandchild.body.key]) {
      expect((await service.client(key).get("/me")).status).toBe(401);
    }
    expect((await operator.del(`/contexts/default/keys/${agent.id}`)).status).toBe(404);
  });

  test("revoking an administrator leaves the keys that it minted for others", async () => {
    const admin = await service.mint("management", { org: "stay" });
    const minted = await mint(admin, { name: "stays", principal: "agent" });
    await operator.del(`/contexts/default/keys/${admin.id}`);
    expect((await service.client(minted.body.key).get("/me")).status).toBe(200);
  });

  test("an expired key is 401, and rotating it by itself does not lengthen its life", async () => {
    const short = await service.mint("agent", { org: "short" }, { ttlSeconds: 1 });
    expect((await short.get("/me")).status).toBe(200);
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    expect((await short.get("/me")).status).toBe(401);
    const long = await mint(operator, {
      name: "long",
      principal: "agent",
      scopeFloor: { org: "l" },
      ttlSeconds: 3_600,
    });
    const rotated = await service
      .client(long.body.key)
      .post<{ validUntil: string }>("/keys/long/rotate?ttlSeconds=999999");
    expect(rotated.body.validUntil).toBe(long.body.expiresAt);
  });
});

describe("self-service", () => {
  test("a child is never wider: floor merged, verbs a subset, its end not after its parent's (threat 29)", async () => {
    const parent = await service.mint(
      "agent",
      { org: "self" },
      { verbs: ["memory:read", "memory:write"], ttlSeconds: 1_000 },
    );
    const child = await parent.post<Minted & { validUntil: string }>("/keys?ttlSeconds=9999999", {
      name: "c",
      scopeFloor: { user: "u" },
      verbs: ["memory:read"],
    });
    expect(child.status).toBe(201);
    const me = await service.client(child.body.key).get("/me");
    expect(me.body).toMatchObject({ kind: "agent", scopeFloor: { org: "self", user: "u" }, verbs: ["memory:read"] });
    expect(me.body.grants).toEqual({ "memory:read": ["org/self/user/u/*"] });
    expect(Date.parse(child.body.validUntil)).toBeLessThan(Date.now() + 1_001_000);
    expect((await parent.post("/keys", { scopeFloor: { org: "other" } })).status).toBe(403);
    expect((await parent.post("/keys", { verbs: ["memory:forget"] })).status).toBe(403);
    expect((await service.client(child.body.key).post("/keys", { verbs: ["memory:write"] })).status).toBe(403);
  });

  test("without a body it inherits floor and verbs; grants say the same in another way", async () => {
    const parent = await service.mint("agent", { org: "inherit" });
    const bare = await parent.call<Minted>("POST", "/keys");
    expect((await service.client(bare.body.key).get("/me")).body).toMatchObject({ scopeFloor: { org: "inherit" } });
    const granted = await parent.post<Minted>("/keys", { grants: { "memory:read": ["user/u/*"] } });
    expect((await service.client(granted.body.key).get("/me")).body).toMatchObject({
      scopeFloor: { org: "inherit", user: "u" },
      verbs: ["memory:read"],
    });
    expect(
      (await parent.post("/keys", { grants: { "memory:read": ["user/u"], "memory:write": ["user/v"] } })).status,
    ).toBe(422);
    expect((await parent.post("/keys", { grants: { "memory:read": ["user/u"] }, verbs: ["memory:read"] })).status).toBe(
      400,
    );
  });

  test("lists itself and its children, and reaches nobody else by name", async () => {
    const parent = await service.mint("agent", { org: "list" });
    const sibling = await service.mint("agent", { org: "list" });
    await parent.post("/keys", { name: "kid" });
    const listed = await parent.get<{ id: string; name: string }[]>("/keys");
    expect(listed.body.map((key) => key.name).slice(1)).toEqual(["kid"]);
    expect(listed.body[0]).toMatchObject({
      id: parent.id,
      validUntil: null,
      grants: { "memory:read": ["org/list/*"] },
    });
    expect((await sibling.del("/keys/kid")).status).toBe(404);
    expect((await sibling.post("/keys/kid/rotate")).status).toBe(404);
    expect((await parent.del("/keys/kid")).status).toBe(204);
    const own = encodeURIComponent((listed.body[0] as { name: string }).name);
    expect((await parent.del(`/keys/${own}`)).status).toBe(204);
    expect((await parent.get("/me")).status).toBe(401);
  });
});

describe("X-Spectron-On-Behalf-Of", () => {
  const behalf = (id: string) => ({ headers: { "x-spectron-on-behalf-of": id } });

  test("adds the other key's floor and intersects the verbs", async () => {
    const broker = await service.mint("agent", { org: "behalf" });
    const reader = await service.mint("agent", { org: "behalf", user: "alice" }, { verbs: ["memory:read"] });
    await broker.remember("for alice", { scopes: "user/alice" });
    await broker.remember("for everyone");
    const me = await broker.call("GET", "/me", undefined, behalf(reader.id));
    expect(me.body).toMatchObject({
      scopeFloor: { org: "behalf", user: "alice" },
      verbs: ["memory:read"],
      delegatedPrincipalId: reader.id,
    });
    const found = await broker.post<{ hits: { text: string }[] }>("/query", { query: "for" }, behalf(reader.id));
    expect(found.body.hits.map((hit) => hit.text)).toEqual(["for alice"]);
    expect((await broker.post("/facts", { text: "x" }, behalf(reader.id))).status).toBe(403);
    const [trace] = await service.database.sql(
      "SELECT api_key_id, on_behalf_of, scope FROM scopefloor.decision_trace WHERE on_behalf_of IS NOT NULL",
    );
    expect(trace).toEqual({ api_key_id: broker.id, on_behalf_of: reader.id, scope: { org: "behalf", user: "alice" } });
  });

  test("its floor counts for keys too: by name as by id, and in the list", async () => {
    const admin = await service.mint("management", { org: "delegated" });
    const kept = await mint(operator, { name: "beyond", principal: "agent", scopeFloor: { org: "beyond" } });
    expect((await operator.post("/contexts/default/keys/beyond/rotate", {}, behalf(admin.id))).status).toBe(404);
    expect((await operator.call("DELETE", "/contexts/default/keys/beyond", undefined, behalf(admin.id))).status).toBe(
      404,
    );
    expect((await service.client(kept.body.key).get("/me")).status).toBe(200);
    const parent = await service.mint("agent", { org: "delegated" });
    const narrow = await service.mint("agent", { org: "delegated", user: "q" });
    const [own] = (await parent.get<{ name: string }[]>("/keys")).body;
    const rotated = await parent.post(`/keys/${encodeURIComponent(own?.name ?? "")}/rotate`, {}, behalf(narrow.id));
    expect(rotated.status).toBe(404);
    expect((await parent.call("GET", "/keys", undefined, behalf(narrow.id))).body).toEqual([]);
  });

  test("a supervisor writes and forgets nothing, by itself or by whoever acts on its behalf", async () => {
    const supervisor = await service.mint("supervisor", { org: "behalf" });
    const broker = await service.mint("agent", { org: "behalf" });
    for (const [path, body] of [
      ["/facts", { text: "x" }],
      ["/facts/batch", { messages: [{ role: "user", content: "x" }] }],
      ["/sessions", {}],
      ["/forget", { query: "x" }],
      ["/scopes/forget", {}],
    ] as const) {
      expect((await supervisor.post(path, body)).status, path).toBe(403);
      expect((await broker.post(path, body, behalf(supervisor.id))).status, path).toBe(403);
    }
    expect((await supervisor.post("/query", { query: "x" })).status).toBe(200);
  });

  test("a floor without a tag in common is 403 too: the answer would tell its tags", async () => {
    const broker = await service.mint("agent", { org: "behalf" });
    const foreign = await service.mint("agent", { customer: "bigcorp", user: "ceo" });
    const answer = await broker.call("GET", "/me", undefined, behalf(foreign.id));
    expect(answer.status).toBe(403);
    expect(answer.text).not.toContain("bigcorp");
  });

  test("an unknown id, a malformed one, a revoked one and a contradiction get the same 403", async () => {
    const broker = await service.mint("agent", { org: "behalf" });
    const foreign = await service.mint("agent", { org: "other" });
    const revoked = await service.mint("agent", { org: "behalf" });
    await operator.del(`/contexts/default/keys/${revoked.id}`);
    const answers = [];
    for (const id of [foreign.id, revoked.id, "01900000-0000-7000-8000-000000000000", "not-an-id"]) {
      const answer = await broker.call("GET", "/me", undefined, behalf(id));
      answers.push({ ...answer.body, requestId: "" });
    }
    expect(answers[0]).toMatchObject({ status: 403, type: "https://scopefloor.dev/errors/scope-floor" });
    for (const answer of answers) expect(answer).toEqual(answers[0]);
  });
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { endpoints } from "../../src/http/routes/index.ts";
import { notBuiltEndpoints } from "../../src/http/routes/not-built.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/**
 * What each route expects, said once for every one of them: a route that is added without a line
 * here fails the first test.
 *
 *   foreign   what a key of another tenant gets when it names the first tenant's row
 *   supervisor, agent  whether such a key may use the route at all
 */
interface Expectation {
  /** Names a row of the first tenant: the key of the second must not tell it from a random id. */
  readonly names?:
    | "budget"
    | "hold"
    | "schedule"
    | "memory"
    | "tenant"
    | "session"
    | "trace"
    | "key"
    | "receipt"
    | "document"
    | "keyword"
    | "entity"
    | "fact"
    | "item";
  readonly agent: boolean;
  readonly supervisor: boolean;
  readonly body?: object;
  readonly query?: string;
  /** The body is a file. */
  readonly upload?: boolean;
}

const reads: Expectation = { agent: true, supervisor: true };
const writes: Expectation = { agent: true, supervisor: false };
const manages: Expectation = { agent: false, supervisor: false };

const expected: Record<string, Expectation> = {
  "get /contexts": manages,
  "get /contexts/{ctx}": manages,
  "patch /contexts/{ctx}": { ...manages, body: { config: {} } },
  "get /contexts/{ctx}/usage": manages,
  "get /contexts/{ctx}/usage/bill": { ...manages, query: "?month=2026-11" },
  "get /contexts/{ctx}/budgets": manages,
  "put /contexts/{ctx}/budgets": { ...manages, body: { period: "day", tokenLimit: 1_000_000 } },
  "delete /contexts/{ctx}/budgets": { ...manages, query: "?period=day" },
  "get /contexts/{ctx}/budgets/{id}": { ...manages, names: "budget" },
  "put /contexts/{ctx}/budgets/{id}": { ...manages, names: "budget", body: { tokenLimit: 1_000_000 } },
  "delete /contexts/{ctx}/budgets/{id}": { ...manages, names: "budget" },
  "get /contexts/{ctx}/limits": manages,
  "put /contexts/{ctx}/limits": { ...manages, body: { requestsPerMinute: 1_000_000 } },
  "delete /contexts/{ctx}/limits": manages,
  "get /contexts/{ctx}/prices": manages,
  "put /contexts/{ctx}/prices": { ...manages, body: { model: "a-model", inputPerMillion: 1 } },
  "delete /contexts/{ctx}/prices": { ...manages, query: "?model=a-model" },
  "get /contexts/{ctx}/holds": manages,
  "put /contexts/{ctx}/holds": { ...manages, body: { reason: "a case", subject: "nobody at all" } },
  "delete /contexts/{ctx}/holds/{id}": { ...manages, names: "hold" },
  "get /contexts/{ctx}/retention": manages,
  "put /contexts/{ctx}/retention": { ...manages, body: { kinds: ["items"], olderThan: "P9Y", action: "erase" } },
  "delete /contexts/{ctx}/retention": manages,
  "get /contexts/{ctx}/forget-schedules": manages,
  "post /contexts/{ctx}/forget-schedules": {
    ...manages,
    body: { cron: "0 0 1 1 *", action: "expire", kinds: ["items"], olderThan: "P9Y" },
  },
  "get /contexts/{ctx}/forget-schedules/{id}": { ...manages, names: "schedule" },
  "patch /contexts/{ctx}/forget-schedules/{id}": { ...manages, names: "schedule", body: { paused: true } },
  "delete /contexts/{ctx}/forget-schedules/{id}": { ...manages, names: "schedule" },
  "post /contexts/{ctx}/forget-schedules/{id}/run": { ...manages, names: "schedule" },
  "get /contexts/{ctx}/settings": manages,
  "put /contexts/{ctx}/settings": { ...manages, body: { contextDays: 7 } },
  "delete /contexts/{ctx}/settings": manages,
  "get /contexts/{ctx}/templates": manages,
  "get /contexts/{ctx}/templates/{name}": manages,
  "put /contexts/{ctx}/templates/{name}": { ...manages, body: {} },
  "delete /contexts/{ctx}/templates/{name}": manages,
  "get /contexts/{ctx}/tenants": manages,
  "post /contexts/{ctx}/tenants": { ...manages, body: { scope: "org/acme", name: "x" } },
  "post /contexts/{ctx}/tenants/offboard": { ...manages, body: { scope: "org/acme", confirm: "org/acme" } },
  "delete /contexts/{ctx}/tenants/offboard": { ...manages, query: "?scope=org/acme" },
  "get /contexts/{ctx}/tenants/{path}": { ...manages, names: "tenant" },
  "patch /contexts/{ctx}/tenants/{path}": { ...manages, names: "tenant", body: { name: "x" } },
  "get /contexts/{ctx}/tenants/{dimension}/{value}": manages,
  "patch /contexts/{ctx}/tenants/{dimension}/{value}": { ...manages, body: { name: "x" } },
  "get /contexts/{ctx}/audit-report": manages,
  "get /contexts/{ctx}/denied": manages,
  "get /contexts/{ctx}/receipts": manages,
  "get /contexts/{ctx}/receipts/{id}": { ...manages, names: "receipt" },
  "post /contexts/{ctx}/keys": { ...manages, body: { name: "x", principal: "agent", scopeFloor: { org: "x" } } },
  "get /contexts/{ctx}/keys": manages,
  "post /contexts/{ctx}/keys/{idOrName}/rotate": { ...manages, names: "key" },
  "delete /contexts/{ctx}/keys/{idOrName}": { ...manages, names: "key" },
  "get /{ctx}/me": reads,
  "get /{ctx}/usage": reads,
  "get /{ctx}/keys": reads,
  "post /{ctx}/keys": writes,
  "delete /{ctx}/keys/{name}": { ...reads, names: "key" },
  "post /{ctx}/keys/{name}/rotate": { ...reads, names: "key" },
  "post /{ctx}/sessions": writes,
  "get /{ctx}/sessions": reads,
  "get /{ctx}/sessions/{id}": { ...reads, names: "session" },
  "delete /{ctx}/sessions/{id}": { ...writes, names: "session" },
  "get /{ctx}/sessions/{id}/turns": { ...reads, names: "session" },
  "delete /{ctx}/sessions/{id}/turns": { ...writes, names: "session" },
  "post /{ctx}/facts": { ...writes, body: { text: "a fact" } },
  "post /{ctx}/facts/batch": { ...writes, body: { messages: [{ role: "user", content: "a fact" }] } },
  "post /{ctx}/query": { ...reads, body: { query: "fact" } },
  "post /{ctx}/context": { ...reads, body: { query: "fact" } },
  "post /{ctx}/forget": { ...writes, body: { query: "nothing like it" } },
  "post /{ctx}/scopes/forget": { ...writes, body: { path: "user/nobody" } },
  "get /{ctx}/scopes": reads,
  "post /{ctx}/scopes": { ...writes, body: { path: "user/registered" } },
  "delete /{ctx}/scopes": { ...writes, query: "?path=user/deleted" },
  "get /metrics": manages,
  "get /{ctx}/audit": reads,
  "post /{ctx}/sessions/{id}/context": { ...reads, names: "session", body: { query: "fact" } },
  "post /contexts/{ctx}/reembed": manages,
  "post /{ctx}/documents": { ...writes, upload: true },
  "get /{ctx}/documents": reads,
  "post /{ctx}/documents/recompute-links": writes,
  "post /{ctx}/documents/query": { ...reads, body: { query: "fact" } },
  "get /{ctx}/documents/keywords": reads,
  "post /{ctx}/documents/keywords/search": { ...reads, body: { query: "fact" } },
  "get /{ctx}/documents/keywords/{normalised}": { ...reads, names: "keyword" },
  "get /{ctx}/documents/{id}": { ...reads, names: "document" },
  "put /{ctx}/documents/{id}": { ...writes, names: "document", upload: true },
  "delete /{ctx}/documents/{id}": { ...writes, names: "document" },
  "get /{ctx}/documents/{id}/raw": { ...reads, names: "document" },
  "get /{ctx}/documents/{id}/chunks": { ...reads, names: "document" },
  "get /{ctx}/documents/{id}/keywords": { ...reads, names: "document" },
  "get /{ctx}/entities": reads,
  "get /{ctx}/entities/{type}/{name}": { ...reads, names: "entity" },
  "delete /{ctx}/entities/{type}/{name}": { ...writes, names: "entity" },
  "get /{ctx}/entities/{type}/{name}/history/{key}": { ...reads, names: "fact" },
  "get /{ctx}/profile": reads,
  "post /{ctx}/lifecycle/expire": writes,
  "post /{ctx}/fsck": reads,
  "get /{ctx}/state": reads,
  "post /{ctx}/state": reads,
  "get /{ctx}/inspect": { ...reads, query: `?ref=document:${"{id}"}`, names: "document" },
  "get /{ctx}/memory": reads,
  "get /{ctx}/memory/keys": reads,
  "post /{ctx}/memory/batch": { ...writes, body: { operations: [{ key: "k", value: 1 }] } },
  "get /{ctx}/memory/{key}": { ...reads, names: "item" },
  "put /{ctx}/memory/{key}": { ...writes, body: { value: 1 } },
  "delete /{ctx}/memory/{key}": { ...writes, names: "item" },
  "get /{ctx}/memories": reads,
  "get /{ctx}/memories/{id}": { ...reads, names: "memory" },
  "patch /{ctx}/memories/{id}": { ...writes, names: "memory", body: { labels: [] } },
  "delete /{ctx}/memories/{id}": { ...writes, names: "memory" },
  "get /{ctx}/mcp": reads,
  "post /{ctx}/mcp": {
    ...reads,
    body: {
      jsonrpc: "2.0",
      id: 1,
      method: "tools/call",
      params: { name: "recall", arguments: { query: "zanzibarcanary secret of acme" } },
    },
  },
  "delete /{ctx}/mcp": reads,
  "get /{ctx}/principals": reads,
  "get /{ctx}/principals/{id}": { ...reads, names: "key" },
  "get /{ctx}/principals/{id}/effective": { ...reads, names: "key" },
  "post /{ctx}/principals/{id}/grants": { ...reads, names: "key", body: { verbs: [] } },
  "delete /{ctx}/principals/{id}/grants": { ...reads, names: "key", body: { verbs: ["memory:write"] } },
  "get /{ctx}/traces": reads,
  "get /{ctx}/traces/stats": reads,
  "get /{ctx}/traces/{id}": { ...reads, names: "trace" },
};

/** What is not built yet says so to whoever may ask, and to nobody else. */
const refused: Record<string, Expectation> = Object.fromEntries(
  notBuiltEndpoints.map(({ method, path, verb }) => [
    `${method} ${path}`,
    verb === "manage" ? manages : verb === "memory:write" ? writes : reads,
  ]),
);
Object.assign(expected, refused);

const RANDOM_ID = "01900000-0000-7000-8000-000000000000";
/** Of what is named by words. */
const RANDOM: Readonly<Record<string, string>> = { item: "no-such-item", tenant: "org/no-such-tenant" };
const CANARY = "zanzibarcanary";

let service: TestService;
let owner: Client;
let foreign: Client;
let foreignAdmin: Client;
let supervisor: Client;
const ids: Record<string, string> = {};

beforeAll(async () => {
  service = await startService({ worker: {} });
  owner = await service.mint("agent", { org: "acme" });
  foreign = await service.mint("agent", { org: "acme-corp" });
  foreignAdmin = await service.mint("management", { org: "acme-corp" });
  supervisor = await service.mint("supervisor", { org: "acme-corp" });
  const stored = await owner.remember(`the ${CANARY} is a secret of acme`, { labels: [`topic=${CANARY}`] });
  const recalled = await owner.post<{ trace: { traceId: string } }>("/query", { query: CANARY });
  const forgotten = await owner.post<{ receiptId: string }>("/forget", { query: "unrelated words" });
  await owner.post("/facts", {
    triples: [{ entity: { type: "Person", name: `owner of ${CANARY}` }, key: "secret", value: CANARY }],
  });
  await owner.call("PUT", `/memory/${CANARY}`, { value: CANARY });
  const uploaded = await owner.upload(`the ${CANARY} harbour keeps the ${CANARY} harbour lights`, `${CANARY}.txt`);
  await owner.processed(uploaded.body.id);
  const keywords = await owner.get<{ keywords: { normalised: string }[] }>(`/documents/${uploaded.body.id}/keywords`);
  ids.document = uploaded.body.id;
  ids.keyword = keywords.body.keywords[0]?.normalised ?? "";
  expect(ids.keyword).not.toBe("");
  ids.entity = `owner of ${CANARY}`;
  ids.fact = ids.entity;
  ids.item = CANARY;
  ids.session = stored.sessionId;
  ids.trace = recalled.body.trace.traceId;
  ids.key = owner.id;
  ids.receipt = forgotten.body.receiptId;
  const budget = await service.operator.call<{ id: string }>("PUT", "/contexts/default/budgets", {
    scope: "org/acme",
    period: "month",
    name: CANARY,
    tokenLimit: 1_000_000,
  });
  ids.budget = budget.body.id;
  ids.memory = stored.chunkId;
  ids.tenant = "org/acme";
  const made = (method: string, path: string, body: object) =>
    service.operator.call<{ id: string }>(method, `/contexts/default${path}`, { scope: "org/acme", ...body });
  ids.hold = (await made("PUT", "/holds", { subject: CANARY, reason: CANARY })).body.id;
  const schedule = { name: CANARY, query: CANARY, cron: "0 0 1 1 *", action: "expire", paused: true };
  ids.schedule = (await made("POST", "/forget-schedules", schedule)).body.id;
  await made("PUT", "/settings", { contextDays: 9 });
  await made("PUT", "/retention", { olderThan: "P9Y", action: "erase" });
  await service.operator.call("PATCH", "/contexts/default/tenants/org%2Facme", { name: CANARY });
  await service.operator.call("PUT", `/contexts/default/templates/${CANARY}`, { settings: { contextDays: 9 } });
});
afterAll(() => service.stop());

const pathOf = (path: string, id: string) =>
  path
    .replace("/{ctx}", path.startsWith("/contexts") ? "/default" : "")
    .replace("{type}", "Person")
    .replace("history/{key}", "history/secret")
    .replace(/\{\w+\}/g, encodeURIComponent(id));

const call = (client: Client, name: string, id: string) => {
  const [method = "", path = ""] = name.split(" ");
  const expectation = expected[name];
  const target = pathOf(path, id) + (expectation?.query ?? "").replace("{id}", id);
  return expectation?.upload
    ? client.upload("a text", "a.txt", undefined, { method: method.toUpperCase(), path: target })
    : client.call(method.toUpperCase(), target, expectation?.body);
};

const names = Object.keys(expected);

/** An audit report attacks the service by itself, for seconds: what goes through with it is long. */
function testEachInside(title: string, check: (name: string) => Promise<void>): void {
  const isReport = (name: string) => name.endsWith("/audit-report");
  test.each(names.filter((name) => !isReport(name)))(title, check);
  test.each(names.filter(isReport))(title, { tags: ["long"] }, check);
}

describe("every registered route (threats 6, 30, 35)", () => {
  test("stands in this list", () => {
    expect(endpoints.map((e) => `${e.method} ${e.path}`).sort()).toEqual([...names].sort());
  });

  test.each(names)(
    "%s: no key, a wrong key and a wrong Context are 401, all with the same answer (threat 28)",
    async (name) => {
      const [method = "", path = ""] = name.split(" ");
      const url = service.url + path.replace("{ctx}", "default").replace(/\{\w+\}/g, RANDOM_ID);
      const wrong = service.url + path.replace("{ctx}", "other").replace(/\{\w+\}/g, RANDOM_ID);
      const authorization = { authorization: `Bearer ${owner.key}` };
      const almost = owner.key.slice(0, -1) + (owner.key.endsWith("x") ? "y" : "x");
      const answers = await Promise.all([
        fetch(url, { method: method.toUpperCase() }),
        fetch(url, { method: method.toUpperCase(), headers: { authorization: "Basic abc" } }),
        fetch(url, { method: method.toUpperCase(), headers: { authorization: `Bearer ${almost}` } }),
        ...(path.includes("{ctx}") ? [fetch(wrong, { method: method.toUpperCase(), headers: authorization })] : []),
      ]);
      for (const answer of answers) {
        expect(answer.status).toBe(401);
        const { instance, requestId, ...rest } = (await answer.json()) as Record<string, unknown>;
        expect([instance, requestId]).not.toContain(undefined);
        expect(rest).toEqual({
          type: "https://scopefloor.dev/errors/unauthorized",
          title: "Not authenticated",
          status: 401,
          detail: "a valid API key is needed: Authorization: Bearer <key>",
          message: "a valid API key is needed: Authorization: Bearer <key>",
        });
      }
    },
  );

  testEachInside("%s: a revoked key is 401 at once", async (name) => {
    const revoked = await service.mint("management", { org: "gone" });
    expect((await call(revoked, name, RANDOM_ID)).status).not.toBe(401);
    const again = await service.mint("management", { org: "gone" });
    expect((await service.operator.del(`/contexts/default/keys/${again.id}`)).status).toBe(204);
    expect((await call(again, name, RANDOM_ID)).status).toBe(401);
  });

  testEachInside(
    "%s: a foreign key sees no canary, and no difference between a foreign id and a random one",
    async (name) => {
      for (const client of [foreign, foreignAdmin, supervisor]) {
        const kind = expected[name]?.names;
        const real = await call(client, name, kind === undefined ? RANDOM_ID : (ids[kind] ?? ""));
        // A path comes back in `instance` as it was asked for.
        const said = JSON.stringify({ ...real.body, instance: "" }) + JSON.stringify([...real.headers]);
        expect(said).not.toContain(CANARY);
        if (kind === undefined) continue;
        const random = await call(client, name, RANDOM[kind] ?? RANDOM_ID);
        const bare = ({ body }: Pick<typeof real, "body">) => ({ ...(body as object), instance: "", requestId: "" });
        expect(real.status).toBe(random.status);
        expect(bare(real)).toEqual(bare(random));
        if (client !== supervisor || expected[name]?.supervisor) expect([403, 404]).toContain(real.status);
      }
    },
  );

  test("has changed nothing by all of this: the owner still finds what is there", async () => {
    expect((await owner.get(`/sessions/${ids.session}`)).status).toBe(200);
    expect((await owner.get("/me")).status).toBe(200);
    expect((await owner.get(`/documents/${ids.document}`)).status).toBe(200);
    expect((await owner.get(`/entities/Person/${encodeURIComponent(ids.entity ?? "")}`)).status).toBe(200);
    expect((await owner.get(`/memory/${ids.item}`)).status).toBe(200);
  });

  test.each(names)("%s: agents and supervisors get in exactly where the matrix says so", async (name) => {
    const agent = await service.mint("agent", { org: "matrix" });
    const other = await service.mint("supervisor", { org: "matrix" });
    expect((await call(agent, name, RANDOM_ID)).status !== 403, "agent").toBe(expected[name]?.agent);
    expect((await call(other, name, RANDOM_ID)).status !== 403, "supervisor").toBe(expected[name]?.supervisor);
  });

  test.each(names)("%s: an id that is no UUID is 404", async (name) => {
    if (
      name.includes("/inspect") ||
      ["key", "keyword", "entity", "fact", "item", "tenant", undefined].includes(expected[name]?.names)
    )
      return;
    expect((await call(name.includes("/contexts") ? foreignAdmin : foreign, name, "not-a-uuid")).status).toBe(404);
  });
});

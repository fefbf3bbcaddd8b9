import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { orderDueRuns } from "../../src/jobs/schedules.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { pause } from "../harness/service-process.ts";

let service: TestService;
let counter = 0;
const another = () => `tenant-${++counter}`;

beforeAll(async () => {
  service = await startService({ worker: { backoffSeconds: 0.1 } });
});
afterAll(() => service.stop());

interface Tenant {
  path: string;
  name: string | null;
  state: string;
  template: string | null;
  templateVersion: number | null;
  keys: number;
  storage: { bytes: number; passages: number };
  usage: { calls: number };
  lastUsedAt: string | null;
}
interface Made extends Omit<Tenant, "keys"> {
  created: boolean;
  keys: { id?: string; name: string; key?: string; scopeFloor: Record<string, string> }[];
}
const at = "/contexts/default/tenants";
const make = (tenant: object, by: Client = service.operator) => by.post<Made>(at, tenant);
const made = async (tenant: object) => {
  const answer = await make(tenant);
  expect(answer.status, answer.text).toBe(201);
  return answer.body;
};
const one = async (org: string) => (await service.operator.get<Tenant>(`${at}/org%2F${org}`)).body;
const change = (org: string, what: object, by: Client = service.operator) =>
  by.call<Tenant>("PATCH", `${at}/org%2F${org}`, what);
const client = ({ keys }: Made, n = 0) => service.client(keys[n]?.key ?? "", keys[n]?.id);
const whole = {
  keys: [
    { name: "agent", principal: "agent" },
    { name: "admin", principal: "management" },
    { name: "reader", principal: "agent", verbs: ["memory:read"], scopeFloor: { team: "eng" } },
  ],
  budgets: [{ period: "month", tokenLimit: 1_000_000 }],
  limits: { requestsPerMinute: 600, storageBytes: 10_000_000 },
  retention: [{ olderThan: "P90D", action: "erase" }],
  settings: { language: "de", cacheSeconds: 0 },
};

describe("a tenant", () => {
  test("is made in one call, with keys that work at once and rules that hold", async () => {
    const org = another();
    const tenant = await made({ scope: `org/${org}`, name: "Acme Ltd", ...whole });
    expect(tenant).toMatchObject({ path: `org/${org}`, name: "Acme Ltd", state: "active", created: true });
    expect(tenant.keys.map(({ scopeFloor }) => scopeFloor)).toEqual([{ org }, { org }, { org, team: "eng" }]);
    const agent = client(tenant);
    await agent.remember("the first memory");
    expect(await agent.recall("memory")).toEqual(["the first memory"]);
    const admin = client(tenant, 1);
    expect((await admin.get<{ total: number }>("/contexts/default/budgets")).body.total).toBe(1);
    expect((await admin.get<{ total: number }>("/contexts/default/limits")).body.total).toBe(1);
    expect((await admin.get<{ total: number }>("/contexts/default/retention")).body.total).toBe(4);
    const settings = await admin.get<{ settings: Record<string, unknown> }>(
      "/contexts/default/settings?effective=true",
    );
    expect(settings.body.settings).toMatchObject({
      language: { value: "de", scope: { org } },
      contextTokens: { scope: null },
    });
    expect((await client(tenant, 2).post("/facts", { text: "x" })).status).toBe(403);
    expect(await one(org)).toMatchObject({ keys: 3, storage: { passages: 1, bytes: 16 }, name: "Acme Ltd" });
  });

  test("made again is the same: what differs is changed, and no secret is told twice", async () => {
    const org = another();
    const first = await made({ scope: `org/${org}`, ...whole });
    const second = await made({
      scope: { org },
      ...whole,
      keys: [...whole.keys, { name: "more", principal: "agent" }],
    });
    expect(second).toMatchObject({ created: false });
    expect(second.keys.map(({ key }) => key !== undefined)).toEqual([false, false, false, true]);
    expect((await client(first).get("/me")).status).toBe(200);
    expect((await one(org)).keys).toBe(4);
  });

  test("is made whole or not at all", async () => {
    const org = another();
    const wrong = { name: "x", principal: "agent", scopeFloor: { org: "somebody" } };
    for (const [bad, status] of [
      [{ keys: [wrong] }, 400],
      [{ keys: [{ name: "x", principal: "agent", verbs: ["usage:read"] }] }, 422],
      [{ budgets: [{ period: "month" }] }, 400],
      [{ retention: [{ olderThan: "soon", action: "erase" }] }, 400],
      [{ settings: { language: "klingon" } }, 400],
      [{ template: "none" }, 404],
      [{ region: "eu" }, 422],
    ] as const) {
      const answer = await make({ scope: `org/${org}`, ...whole, ...bad });
      expect(answer.status, answer.text).toBe(status);
    }
    expect((await service.operator.get(`${at}/org%2F${org}`)).status).toBe(404);
    expect(
      await service.database.sql(
        "SELECT 1 FROM scopefloor.budget b JOIN scopefloor.scope s ON s.id = b.scope_id WHERE s.tags = $1",
        [JSON.stringify({ org })],
      ),
    ).toEqual([]);
    for (const scope of ["org/a/user/b", "user/b", {}]) expect((await make({ scope })).status).toBe(400);
  });

  test("is made from a template, in the version of then; what the request says comes on top", async () => {
    const put = (body: object) =>
      service.operator.call<{ version: number }>("PUT", "/contexts/default/templates/basic", body);
    expect(
      (await put({ settings: { language: "en", contextDays: 3 }, keys: [{ name: "agent", principal: "agent" }] })).body
        .version,
    ).toBe(1);
    const org = another();
    const tenant = await made({ scope: `org/${org}`, template: "basic", settings: { language: "fr" } });
    expect(tenant).toMatchObject({ template: "basic", templateVersion: 1 });
    const settings = await service.operator.get<{ settings: object }>(
      `/contexts/default/settings?scope=org/${org}&effective=true`,
    );
    expect(settings.body.settings).toMatchObject({ language: { value: "fr" }, contextDays: { value: 3 } });
    expect((await put({ settings: { language: "es" } })).body.version).toBe(2);
    expect((await put({ settings: { language: "es" } })).body.version).toBe(2);
    const old = await service.operator.get("/contexts/default/templates/basic?version=1");
    expect(old.body).toMatchObject({ version: 1, versions: [1, 2], template: { settings: { contextDays: 3 } } });
    expect(await made({ scope: `org/${another()}`, template: "basic", templateVersion: 1 })).toMatchObject({
      templateVersion: 1,
    });
    expect((await put({ keys: [{ name: "x", principal: "king" }] })).status).toBe(400);
    expect((await service.operator.del("/contexts/default/templates/basic")).status).toBe(204);
    expect((await service.operator.get("/contexts/default/templates/basic")).status).toBe(404);
    expect(await one(org)).toMatchObject({ template: "basic" });
  });

  test("that keys alone have made is in the list, and is given a name", async () => {
    const org = another();
    await (await service.mint("agent", { org })).remember("by a key alone");
    expect(await one(org)).toMatchObject({ name: null, state: "active", keys: 1 });
    expect((await change(org, { name: "Adopted" })).body.name).toBe("Adopted");
    const all = await service.operator.get<{ tenants: Tenant[]; total: number }>(`${at}?pageSize=100`);
    expect(all.body.tenants.map(({ path }) => path)).toContain(`org/${org}`);
    expect(all.body.total).toBe(all.body.tenants.length);
    expect((await made({ scope: `org/${org}` })).created).toBe(true);
  });

  test("is the operator's to make and change; an administrator sees its own", async () => {
    const org = another();
    const admin = await service.mint("management", { org });
    expect((await make({ scope: `org/${org}` }, admin)).status).toBe(403);
    expect((await change(org, { state: "suspended" }, admin)).status).toBe(403);
    expect((await admin.post(`${at}/offboard`, { scope: `org/${org}`, confirm: `org/${org}` })).status).toBe(403);
    expect((await admin.get("/contexts/default/templates")).status).toBe(403);
    const own = await admin.get<{ tenants: Tenant[] }>(at);
    expect(own.body.tenants.map(({ path }) => path)).toEqual([`org/${org}`]);
    const other = await service.mint("management", { org: another() });
    expect((await other.get(`${at}/org%2F${org}`)).status).toBe(403);
    const agent = await service.mint("agent", { org });
    expect((await agent.get(at)).status).toBe(403);
  });

  test("that is suspended keeps all of its keys out, and loses nothing (threat 56)", async () => {
    const org = another();
    const tenant = await made({ scope: `org/${org}`, ...whole });
    const agent = client(tenant);
    await agent.remember("kept", { observedAt: "2020-01-01T00:00:00Z" });
    const user = await service.mint("agent", { user: "ann" });
    expect((await user.post("/facts", { text: "theirs", scopes: `org/${org}` })).status).toBe(200);
    expect((await change(org, { state: "suspended" })).body.state).toBe("suspended");
    for (const answer of [
      await agent.get("/me"),
      await agent.post("/query", { query: "kept" }),
      await agent.post("/facts", { text: "no" }),
      await client(tenant, 1).get("/contexts/default/keys"),
      await client(tenant, 2).get("/memories"),
      await user.post("/facts", { text: "no", scopes: `org/${org}` }),
    ])
      expect(answer.status, answer.text).toBe(403);
    expect((await user.post("/facts", { text: "elsewhere" })).status).toBe(200);
    // Rules wait, too.
    await service.database.sql("UPDATE scopefloor.retention_rule SET next_run = now() - interval '1 second'");
    await orderDueRuns(service.database);
    expect((await one(org)).state).toBe("suspended");
    expect((await change(org, { state: "active" })).status).toBe(200);
    expect((await agent.get("/me")).status).toBe(200);
    const kept = await service.database.sql("SELECT 1 FROM scopefloor.turn WHERE content = 'kept'");
    expect(kept).toHaveLength(1);
  });
});

describe("offboarding", () => {
  const offboard = (org: string, more: object = {}) =>
    service.operator.post<Tenant>(`${at}/offboard`, { scope: `org/${org}`, confirm: `org/${org}`, ...more });
  const undo = (org: string) => service.operator.del<Tenant>(`${at}/offboard?scope=org/${org}`);
  const gone = async (org: string) => {
    await orderDueRuns(service.database);
    for (let n = 0; n < 400; n++) {
      if ((await service.operator.get(`${at}/org%2F${org}`)).status === 404) return;
      await pause(25);
    }
    throw new Error("the tenant is still there");
  };

  test("takes a typed confirmation, and can be taken back within its grace", async () => {
    const org = another();
    const tenant = await made({ scope: `org/${org}`, ...whole });
    await client(tenant).remember("still here");
    expect((await offboard(org, { confirm: org })).status).toBe(422);
    expect((await offboard(org, { graceSeconds: 3_600 })).body).toMatchObject({
      state: "leaving",
      leavesAt: expect.any(String),
    });
    expect((await client(tenant).get("/me")).status).toBe(403);
    expect((await offboard(org)).status).toBe(409);
    expect((await change(org, { state: "active" })).status).toBe(409);
    await orderDueRuns(service.database);
    expect((await undo(org)).body.state).toBe("active");
    expect(await client(tenant).recall("here")).toEqual(["still here"]);
    expect((await undo(org)).status).toBe(404);
    expect((await offboard("nobody")).status).toBe(404);
  });

  test("then revokes, cancels, erases and takes the rules away, with one signed receipt; the bill stays", async () => {
    const org = another();
    const tenant = await made({ scope: `org/${org}`, ...whole });
    const agent = client(tenant);
    for (let n = 0; n < 5; n++) await agent.remember(`memory ${n}`, { scopes: `user/u${n}` });
    await agent.post("/facts", { triples: [{ entity: { type: "A", name: "B" }, key: "c", value: 1 }] });
    await agent.upload("A file that is on its way.", "late.txt");
    await service.operator.post("/contexts/default/forget-schedules", {
      scope: { org },
      cron: "0 3 * * *",
      action: "expire",
      kinds: ["turns"],
    });
    const neighbour = await service.mint("agent", { org: another() });
    await neighbour.remember("a neighbour's");
    expect((await offboard(org)).status).toBe(202);
    await gone(org);
    expect((await agent.get("/me")).status).toBe(401);
    const named = await service.database.sql(
      "SELECT id FROM scopefloor.tenant WHERE left_digest = scopefloor.scope_digest($1)",
      [JSON.stringify({ org })],
    );
    expect(named).toHaveLength(1);
    for (const table of [
      "passage",
      "turn",
      "session",
      "document",
      "document_content",
      "attribute",
      "entity",
      "memory_item",
      "job",
      "budget",
      "scope_limit",
      "retention_rule",
      "forget_schedule",
      "scope_setting",
      "idempotency",
    ])
      expect(
        await service.database.sql(`SELECT 1 FROM scopefloor.${table} WHERE tenant_id = $1`, [named[0]?.id]),
        table,
      ).toEqual([]);
    expect(await service.database.sql("SELECT 1 FROM scopefloor.scope WHERE tags->>'org' = $1", [org])).toEqual([]);
    expect(
      await service.database.sql("SELECT 1 FROM scopefloor.decision_trace WHERE scope->>'org' = $1", [org]),
    ).toEqual([]);
    const { receipts } = (
      await service.operator.get<{ receipts: { policy: string; jws: string; counts: Record<string, number> }[] }>(
        "/contexts/default/receipts",
      )
    ).body;
    expect(receipts.filter(({ policy }) => policy === "scope")).toMatchObject([
      { jws: expect.any(String), counts: { turn: 5, attribute: 1 } },
    ]);
    expect(await neighbour.recall("neighbour")).toEqual(["a neighbour's"]);
    const month = new Date().toISOString().slice(0, 7);
    expect((await service.operator.get(`/contexts/default/usage/bill?month=${month}&scope=org/${org}`)).status).toBe(
      200,
    );
    // The name is free again, and means another.
    expect((await made({ scope: `org/${org}` })).created).toBe(true);
  });

  test("is stopped by a legal hold: at once, or where one comes within the grace", async () => {
    const org = another();
    const tenant = await made({ scope: `org/${org}`, ...whole });
    await client(tenant).remember("evidence");
    const held = await service.operator.call<{ id: string }>("PUT", "/contexts/default/holds", {
      scope: { org },
      reason: "case",
    });
    expect((await offboard(org)).status).toBe(409);
    await service.operator.del(`/contexts/default/holds/${held.body.id}`);
    expect((await offboard(org, { graceSeconds: 3_600 })).status).toBe(202);
    const later = await service.operator.call<{ id: string }>("PUT", "/contexts/default/holds", {
      scope: { org },
      subject: "evidence",
      reason: "case",
    });
    await service.database.sql("UPDATE scopefloor.tenant SET leaves_at = now() WHERE state = 'leaving'");
    await orderDueRuns(service.database);
    for (let n = 0; n < 200; n++) {
      const [run] = await service.database.sql(
        "SELECT state FROM scopefloor.forget_run WHERE source = 'offboard' ORDER BY created_at DESC LIMIT 1",
      );
      if (run?.state === "held") break;
      await pause(25);
    }
    expect(await service.database.sql("SELECT 1 FROM scopefloor.turn WHERE content = 'evidence'")).toHaveLength(1);
    await service.operator.del(`/contexts/default/holds/${later.body.id}`);
    await service.database.sql("UPDATE scopefloor.tenant SET leaves_at = now() WHERE state = 'leaving'");
    await gone(org);
    expect(await service.database.sql("SELECT 1 FROM scopefloor.turn WHERE content = 'evidence'")).toEqual([]);
  });
});

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { sealAudit } from "../../src/jobs/housekeeping.ts";
import { orderDueRuns } from "../../src/jobs/schedules.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { pause } from "../harness/service-process.ts";

let service: TestService;
let client: Client;
let admin: Client;
let org: string;
let counter = 0;

beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());
beforeEach(async () => {
  org = `tenant-${++counter}`;
  client = await service.mint("agent", { org });
  admin = await service.mint("management", { org });
});

const put = (by: Client, rule: object) => by.call("PUT", "/contexts/default/retention", rule);
const texts = async (by = client) =>
  (await by.get<{ memories: { text: string }[] }>("/memories")).body.memories.map(({ text }) => text).sort();
/** Lets every rule be due, and waits for the runs. */
const retain = async () => {
  await service.database.sql("UPDATE scopefloor.retention_rule SET next_run = now() - interval '1 second'");
  await orderDueRuns(service.database);
  for (let n = 0; n < 400; n++) {
    const [waiting] = await service.database.sql("SELECT count(*)::int AS n FROM scopefloor.job WHERE kind = 'forget'");
    if (waiting?.n === 0) return;
    await pause(25);
  }
  throw new Error("runs did not end");
};
const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();

describe("retention", () => {
  test("erases or expires what was observed longer ago than the rule says, of the kinds that it names", async () => {
    await client.remember("an old turn", { observedAt: daysAgo(100) });
    await client.remember("a young turn", { observedAt: daysAgo(10) });
    const fact = { entity: { type: "Person", name: "Ann" }, key: "city", value: "Rome" };
    await client.post("/facts", { triples: [fact], observedAt: daysAgo(100) });
    const file = await client.upload("An old file.", "old.txt", { observedAt: daysAgo(100) });
    await client.processed(file.body.id);
    expect((await put(admin, { scope: { org }, kinds: ["turns"], olderThan: "P90D", action: "erase" })).status).toBe(
      200,
    );
    await retain();
    expect(await texts()).toEqual(["An old file.", "Ann: city: Rome", "a young turn"]);
    await put(admin, { scope: { org }, olderThan: "P90D", action: "erase" });
    await retain();
    expect(await texts()).toEqual(["a young turn"]);
    expect((await client.get(`/documents/${file.body.id}`)).status).toBe(404);
    await put(admin, { scope: { org }, kinds: ["turns"], olderThan: "P5D", action: "expire" });
    await retain();
    expect(await texts()).toEqual([]);
    const kept = await service.database.sql(
      "SELECT t.content FROM scopefloor.turn t JOIN scopefloor.scope s ON s.id = t.scope_id WHERE s.tags = $1",
      [JSON.stringify({ org })],
    );
    expect(kept).toEqual([{ content: "a young turn" }]);
    const { receipts } = (
      await admin.get<{ receipts: { policy: string; action: string; counts: object; jws: string }[] }>(
        "/contexts/default/receipts",
      )
    ).body;
    expect(receipts.map(({ policy, action }) => `${policy} ${action}`).sort()).toEqual([
      "retention erase",
      "retention erase",
      "retention erase",
      "retention expire",
    ]);
    expect(receipts.every(({ jws }) => jws !== null)).toBe(true);
  });

  test("goes by the narrowest rule, but never beyond a maximum from above", async () => {
    await client.remember("Ann's, 40 days", { scopes: "user/ann", observedAt: daysAgo(40) });
    await client.remember("Ann's, 400 days", { scopes: "user/ann", observedAt: daysAgo(400) });
    await client.remember("Bob's, 40 days", { scopes: "user/bob", observedAt: daysAgo(40) });
    const by = (scope: object, olderThan: string, more: object = {}) =>
      put(service.operator, { scope, kinds: ["turns"], olderThan, action: "erase", ...more });
    await by({ org }, "P30D");
    await by({ org, user: "ann" }, "P900D");
    await retain();
    expect(await texts()).toEqual(["Ann's, 40 days", "Ann's, 400 days"]);
    await by({ org }, "P365D", { maximum: true });
    const effective = await service.operator.get<{ rules: { olderThan: string; maximum: boolean }[] }>(
      `/contexts/default/retention?scope=org/${org}/user/ann&effective=true`,
    );
    expect(effective.body.rules.map(({ olderThan, maximum }) => [olderThan, maximum])).toEqual([
      ["P900D", false],
      ["P365D", true],
    ]);
    await retain();
    expect(await texts()).toEqual(["Ann's, 40 days"]);
  });

  test("goes by when something was stored, or last answered with", async () => {
    const { chunkId: used } = await client.remember("the used one about lighthouses");
    const { chunkId: unused } = await client.remember("the unused one about windmills");
    await service.database.sql("UPDATE scopefloor.passage SET created_at = $1 WHERE id IN ($2, $3)", [
      daysAgo(50),
      used,
      unused,
    ]);
    await client.post("/query", { query: "lighthouses", mode: "bm25" });
    await put(admin, { scope: { org }, kinds: ["turns"], olderThan: "P30D", since: "lastUsed", action: "erase" });
    await retain();
    expect(await texts()).toEqual(["the used one about lighthouses"]);
    await put(admin, { scope: { org }, kinds: ["turns"], olderThan: "P30D", since: "created", action: "erase" });
    await retain();
    expect(await texts()).toEqual([]);
  });

  test("takes the text out of traces and the ids out of receipts; the numbers and the audit chain stay", async () => {
    await client.remember("something to find");
    await client.post("/query", { query: "a question about saffron" });
    await client.post("/forget", { query: "something to find", purge: true });
    await sealAudit(service.database);
    await put(admin, { scope: { org }, kinds: ["traces"], olderThan: "PT1S", action: "erase" });
    await put(admin, { scope: { org }, kinds: ["receipts"], olderThan: "PT1S", action: "erase" });
    await pause(1_200);
    await retain();
    const [left] = await service.database.sql(
      `SELECT count(*) FILTER (WHERE query LIKE '%saffron%')::int AS said, count(*)::int AS all FROM scopefloor.decision_trace d
       JOIN scopefloor.scope s ON s.id = d.scope_id WHERE s.tags = $1 AND operation = 'query'`,
      [JSON.stringify({ org })],
    );
    expect(left).toEqual({ said: 0, all: 1 });
    const items = await service.database.sql(
      "SELECT r.items FROM scopefloor.forget_receipt r JOIN scopefloor.scope s ON s.id = r.scope_id WHERE s.tags = $1 AND r.policy = 'query'",
      [JSON.stringify({ org })],
    );
    expect(items).toEqual([{ items: null }]);
    await sealAudit(service.database);
    const [checked] = await service.database.sql("SELECT scopefloor.check_audit(1, NULL) AS answer");
    expect(checked?.answer).toMatchObject({ problems: [] });
  });

  test("leaves what is held, and takes the rest", async () => {
    await client.remember("Carol Weber signed", { observedAt: daysAgo(100) });
    await client.remember("Dave signed", { observedAt: daysAgo(100) });
    await admin.call("PUT", "/contexts/default/holds", { scope: { org }, subject: "Carol Weber", reason: "case" });
    await put(admin, { scope: { org }, olderThan: "P90D", action: "erase" });
    await retain();
    expect(await texts()).toEqual(["Carol Weber signed"]);
    const hold = await admin.call("PUT", "/contexts/default/holds", { scope: { org, user: "eve" }, reason: "all" });
    expect(hold.status).toBe(200);
    await client.remember("Eve's own", { scopes: "user/eve", observedAt: daysAgo(100) });
    await retain();
    expect(await texts()).toEqual(["Carol Weber signed", "Eve's own"]);
  });

  test("of one tenant reaches neither another nor general knowledge, which only rules on {} reach (threat 54)", async () => {
    const other = await service.mint("agent", { org: `${org}-beside` });
    await other.remember("theirs, old", { observedAt: daysAgo(500) });
    const general = await service.operator.remember("everyone's, old", { scopes: {}, observedAt: daysAgo(500) });
    await put(service.operator, { scope: { org }, olderThan: "P1D", action: "erase" });
    await retain();
    expect(await texts(other)).toEqual(["everyone's, old", "theirs, old"]);
    // {} adds no tag: of an administrator it is the floor.
    const own = await put(admin, { scope: {}, kinds: ["facts"], olderThan: "P1D", action: "expire" });
    expect(own.body).toMatchObject({ rules: [{ scope: { org } }] });
    expect((await put(service.operator, { olderThan: "P1D", action: "erase" })).status).toBe(400);
    await put(service.operator, { scope: {}, kinds: ["turns"], olderThan: "P400D", action: "erase" });
    await retain();
    expect(await texts(other)).toEqual([]);
    expect((await client.get(`/memories/${general.chunkId}`)).status).toBe(404);
    await service.operator.del("/contexts/default/retention?scope=%7B%7D");
  });

  test("is the floor's that set it: below, nobody changes it", async () => {
    await put(service.operator, { scope: { org }, kinds: ["turns"], olderThan: "P30D", action: "erase" });
    expect((await put(admin, { scope: { org }, kinds: ["turns"], olderThan: "P9D", action: "erase" })).status).toBe(
      403,
    );
    expect((await admin.del("/contexts/default/retention")).status).toBe(403);
    const seen = await admin.get<{ rules: unknown[] }>("/contexts/default/retention");
    expect(seen.body.rules).toHaveLength(1);
    const other = await service.mint("management", { org: "another" });
    expect((await other.get<{ rules: unknown[] }>("/contexts/default/retention")).body.rules).toHaveLength(0);
    expect((await other.del(`/contexts/default/retention?scope=org/${org}`)).status).toBe(403);
    expect((await service.operator.del(`/contexts/default/retention?scope=org/${org}&kinds=facts`)).status).toBe(404);
    expect((await service.operator.del(`/contexts/default/retention?scope=org/${org}`)).status).toBe(204);
  });

  test.each([
    ["a duration that is none", { olderThan: "90 days", action: "erase" }, 400],
    ["a duration of nothing", { olderThan: "P0D", action: "erase" }, 400],
    ["an empty duration", { olderThan: "P", action: "erase" }, 400],
    ["a negative duration", { olderThan: "-P1D", action: "erase" }, 400],
    ["no action", { olderThan: "P1D" }, 400],
    ["an unknown kind", { olderThan: "P1D", action: "erase", kinds: ["everything"] }, 400],
    ["expiring traces", { olderThan: "P1D", action: "expire", kinds: ["traces"] }, 422],
    ["traces with memories", { olderThan: "P1D", action: "erase", kinds: ["traces", "turns"] }, 422],
  ])("refuses %s", async (_, rule, status) => {
    expect((await put(admin, { scope: { org }, ...rule })).status).toBe(status);
  });

  test.each(["P90D", "P6M", "P1Y", "P2W", "PT12H", "PT36H30M", "P1Y2M3DT4H5M6S"])("takes %s", async (olderThan) => {
    expect((await put(admin, { scope: { org }, olderThan, action: "expire" })).status).toBe(200);
  });
});

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { orderDueRuns } from "../../src/jobs/schedules.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { pause } from "../harness/service-process.ts";

/** What was tried against holds, retention, schedules, settings and tenants, and has to fail. */
let service: TestService;
let client: Client;
let admin: Client;
let org: string;
let counter = 0;

beforeAll(async () => {
  service = await startService({ worker: { backoffSeconds: 0.1 } });
});
afterAll(() => service.stop());
beforeEach(async () => {
  org = `tenant-${++counter}`;
  client = await service.mint("agent", { org });
  admin = await service.mint("management", { org });
});

const at = "/contexts/default";
const hold = (by: Client, what: object) =>
  by.call<{ id: string }>("PUT", `${at}/holds`, { scope: { org }, reason: "case 4711", ...what });
const textsOf = async (by: Client, view = "") =>
  (await by.get<{ memories: { text: string }[] }>(`/memories${view}`)).body.memories.map(({ text }) => text).sort();
const settled = async () => {
  for (let n = 0; n < 400; n++) {
    await orderDueRuns(service.database);
    const [waiting] = await service.database.sql(
      "SELECT count(*)::int AS n FROM scopefloor.job WHERE kind = 'forget' AND run_after < now() + interval '5 seconds'",
    );
    if (waiting?.n === 0) return;
    await pause(25);
  }
  throw new Error("runs did not end");
};
const retain = async () => {
  await service.database.sql("UPDATE scopefloor.retention_rule SET next_run = now() - interval '1 second'");
  await settled();
};
const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();

describe("a management key with less than every right", () => {
  const changes = (schedule: string, held: string): (readonly [string, string, object?])[] => [
    ["PUT", "/retention", { scope: { org }, olderThan: "P1D", action: "erase" }],
    ["DELETE", `/retention?scope=org/${org}`],
    ["POST", "/forget-schedules", { scope: { org }, cron: "0 3 * * *", action: "erase", olderThan: "P1D" }],
    ["PATCH", `/forget-schedules/${schedule}`, { paused: true }],
    ["POST", `/forget-schedules/${schedule}/run`],
    ["DELETE", `/forget-schedules/${schedule}`],
    ["PUT", "/holds", { scope: { org }, reason: "x" }],
    ["DELETE", `/holds/${held}`],
    ["PUT", "/settings", { scope: { org }, language: "de" }],
    ["DELETE", `/settings?scope=org/${org}`],
  ];

  test.each([
    ["without content", { content: false }],
    ["that only reads", { verbs: ["memory:read"] }],
    ["that may not forget", { verbs: ["memory:read", "memory:write"] }],
  ])("%s sets and takes away no rule", async (_, rights) => {
    const schedule = await admin.post<{ id: string }>(`${at}/forget-schedules`, {
      scope: { org },
      cron: "0 3 * * *",
      action: "erase",
      olderThan: "P1D",
    });
    const held = await hold(admin, {});
    await admin.call("PUT", `${at}/retention`, { scope: { org }, olderThan: "P1D", action: "erase" });
    await admin.call("PUT", `${at}/settings`, { scope: { org }, language: "fr" });
    const weak = await service.mint("management", { org }, rights);
    for (const [method, path, body] of changes(schedule.body.id, held.body.id)) {
      const answer = await weak.call(method, at + path, body);
      expect([answer.status, method, path], answer.text).toEqual([403, method, path]);
    }
  });

  test("without content reads no subject, reason, query or label", async () => {
    const query = "secret affair";
    await admin.post(`${at}/forget-schedules`, { scope: { org }, cron: "0 3 * * *", action: "expire", query });
    await hold(admin, { subject: "Carol Weber" });
    const blind = await service.mint("management", { org }, { content: false });
    for (const path of ["forget-schedules", "holds"]) {
      const seen = await admin.get(`${at}/${path}`);
      expect(seen.text).toMatch(/secret affair|Carol Weber/);
      const shown = await blind.get<{ total: number }>(`${at}/${path}`);
      expect([shown.status, shown.body.total]).toEqual([200, 1]);
      expect(shown.text).not.toMatch(/secret|Carol/);
    }
  });
});

describe("a rule that is too long, or too much", () => {
  test.each(["P101Y", "P36600D", "P9999999999Y", "PT0S", "P2W3", "-P1D"])("olderThan %s is 400", async (olderThan) => {
    const rule = { scope: { org }, olderThan, action: "erase" };
    expect((await admin.call("PUT", `${at}/retention`, rule)).status).toBe(400);
    expect((await admin.post(`${at}/forget-schedules`, { ...rule, cron: "0 3 * * *" })).status).toBe(400);
  });

  test("by the last use ends no later than the traces that tell it", async () => {
    const put = (rule: object) => admin.call("PUT", `${at}/retention`, { scope: { org }, action: "erase", ...rule });
    expect((await put({ kinds: ["traces"], olderThan: "P30D" })).status).toBe(200);
    const refused = await put({ kinds: ["turns"], olderThan: "P90D", since: "lastUsed" });
    expect([refused.status, refused.text]).toEqual([409, expect.stringContaining("since: created")]);
    expect((await put({ kinds: ["turns"], olderThan: "P20D", since: "lastUsed" })).status).toBe(200);
    expect((await put({ kinds: ["traces"], olderThan: "P10D" })).status).toBe(409);
  });

  test("keeps twenty former texts of a turn, and counts them as kept bytes", async () => {
    const { chunkId } = await client.remember("text number 0");
    const bytes = async () =>
      (await service.operator.get<{ storage: { bytes: number } }>(`${at}/tenants/org%2F${org}`)).body.storage.bytes;
    const before = await bytes();
    const correct = (n: number) =>
      client.call("PATCH", `/memories/${chunkId}`, { text: `text number ${n % 10}`, keepHistory: true });
    for (let n = 1; n <= 20; n++) expect((await correct(n)).status).toBe(200);
    expect((await bytes()) - before).toBe(20 * "text number 0".length);
    const refused = await correct(21);
    expect([refused.status, refused.text]).toEqual([409, expect.stringContaining("keepHistory")]);
    expect((await client.call("PATCH", `/memories/${chunkId}`, { text: "without" })).status).toBe(200);
  });

  test("a moment that somebody has made up keeps nothing beyond its rule", async () => {
    await client.remember("from the future", { observedAt: daysAgo(-4000) });
    await admin.call("PUT", `${at}/retention`, { scope: { org }, olderThan: "PT1S", action: "erase" });
    await pause(1100);
    await retain();
    expect(await textsOf(client)).toEqual([]);
  });

  test.each(["2026-02-30T00:00:00.000Z", "0000-01-01T00:00:00.000Z", "2026-01-01T25:00:00.000Z"])(
    "a cursor at %s is 400",
    async (time) => {
      const cursor = Buffer.from(`${time} 00000000-0000-7000-8000-000000000000`).toString("base64url");
      expect((await client.get(`/memories?cursor=${cursor}`)).status).toBe(400);
    },
  );
});

describe("a hold", () => {
  test("reaches words however they are encoded", async () => {
    const { chunkId } = await client.remember("the ofﬁce of Ｃａｒｏｌ");
    await hold(admin, { subject: "office Carol" });
    expect((await client.del(`/memories/${chunkId}`)).status).toBe(409);
  });

  test("reaches what a turn said before it was corrected", async () => {
    const { chunkId } = await client.remember("Carol signed the lease", { observedAt: daysAgo(100) });
    await client.call("PATCH", `/memories/${chunkId}`, { text: "somebody signed the lease", keepHistory: true });
    await client.remember("of nobody", { observedAt: daysAgo(100) });
    await hold(admin, { subject: "Carol" });
    await admin.call("PUT", `${at}/retention`, { scope: { org }, olderThan: "P90D", action: "erase" });
    await retain();
    const kept = await service.database.sql(
      "SELECT content FROM scopefloor.turn WHERE content LIKE '%signed the lease' ORDER BY content DESC",
    );
    expect(kept).toEqual([{ content: "somebody signed the lease" }, { content: "Carol signed the lease" }]);
    // What is beside it goes.
    expect(await textsOf(client)).toEqual(["somebody signed the lease"]);
    expect((await client.del(`/memories/${chunkId}`)).status).toBe(409);
  });

  test("on what one part of a document says keeps the document from being replaced", async () => {
    const { body } = await client.upload("Carol Weber owes nothing.", "letter.txt");
    await client.processed(body.id);
    await hold(admin, { subject: "Carol Weber" });
    const replaced = await client.upload(
      "Nobody owes.",
      "letter.txt",
      {},
      { method: "PUT", path: `/documents/${body.id}` },
    );
    expect(replaced.status).toBe(409);
    expect(await textsOf(client)).toEqual(["Carol Weber owes nothing."]);
  });

  test("set while others forget finds all that is said to be held, or is refused", async () => {
    const rounds = 8;
    for (let n = 0; n < rounds; n++) {
      const { chunkId } = await client.remember(`evidence number ${n}`);
      const [held, gone] = await Promise.all([
        hold(admin, { subject: `evidence ${n}` }),
        client.del(`/memories/${chunkId}`),
      ]);
      expect(held.status).toBe(200);
      expect([200, 409]).toContain(gone.status);
      // What was refused is there, and what was taken was taken before the hold was.
      expect((await client.get(`/memories/${chunkId}`)).status).toBe(gone.status === 409 ? 200 : 404);
      expect((await client.del(`/memories/${chunkId}`)).status).toBe(gone.status === 409 ? 409 : 404);
    }
  });

  test("keeps only what it reaches from a rule, which goes on with the rest", async () => {
    await client.remember("Carol, long ago", { observedAt: daysAgo(100), scopes: "user/carol" });
    await client.remember("Bob, long ago", { observedAt: daysAgo(100), scopes: "user/bob" });
    await hold(admin, { scope: { org, user: "carol" } });
    await admin.call("PUT", `${at}/retention`, { scope: { org }, olderThan: "P90D", action: "erase" });
    await retain();
    expect(await textsOf(client)).toEqual(["Carol, long ago"]);
  });
});

describe("a tenant that leaves", () => {
  const offboard = () =>
    service.operator.post(`${at}/tenants/offboard`, { scope: `org/${org}`, confirm: `org/${org}`, graceSeconds: 0 });
  const state = async () => (await service.operator.get<{ state?: string }>(`${at}/tenants/org%2F${org}`)).body.state;

  test("that has only ever stored for its users is erased too", async () => {
    const fresh = `users-of-${org}`;
    org = fresh;
    const user = await service.mint("agent", { org, user: "ann" });
    await user.remember("of a user alone");
    expect((await offboard()).status).toBe(202);
    await settled();
    expect((await service.operator.get(`${at}/tenants/org%2F${org}`)).status).toBe(404);
  });

  test("keeps its keys until the run knows that nothing is held", async () => {
    await client.remember("what a court asks for");
    expect(
      (
        await service.operator.post(`${at}/tenants/offboard`, {
          scope: `org/${org}`,
          confirm: `org/${org}`,
          graceSeconds: 3600,
        })
      ).status,
    ).toBe(202);
    await hold(service.operator, {});
    await service.database.sql("UPDATE scopefloor.tenant SET leaves_at = now() WHERE root = $1", [
      JSON.stringify({ org }),
    ]);
    await settled();
    expect(await state()).toBe("leaving");
    const keys = await service.database.sql("SELECT revoked_at FROM scopefloor.api_key WHERE floor = $1", [
      JSON.stringify({ org }),
    ]);
    expect(keys).toEqual([{ revoked_at: null }, { revoked_at: null }]);
    expect((await service.operator.del(`${at}/tenants/offboard?scope=org/${org}`)).status).toBe(200);
    expect(await textsOf(client)).toEqual(["what a court asks for"]);
  });

  test("or is suspended shows nothing to a key across tenants", async () => {
    const across = await service.mint("agent", { project: `apollo-${org}` });
    const mine = await service.mint("agent", { org, project: `apollo-${org}` });
    await mine.remember("of a project that has several tenants");
    expect(await across.recall("project", { scopeView: "subtree" })).toEqual(["of a project that has several tenants"]);
    await service.operator.call("PATCH", `${at}/tenants/org%2F${org}`, { state: "suspended" });
    expect(await across.recall("project", { scopeView: "subtree" })).toEqual([]);
    expect(await textsOf(across, "?scopeView=subtree")).toEqual([]);
    await service.operator.call("PATCH", `${at}/tenants/org%2F${org}`, { state: "active" });
    expect(await across.recall("project", { scopeView: "subtree" })).toEqual(["of a project that has several tenants"]);
  });

  test("suspended loses nothing to a rule until it is active again, nor to a run that was ordered before", async () => {
    await client.remember("old, but kept", { observedAt: daysAgo(100) });
    await admin.call("PUT", `${at}/retention`, { scope: { org }, olderThan: "P90D", action: "erase" });
    await service.database.sql("UPDATE scopefloor.retention_rule SET next_run = now() - interval '1 second'");
    await admin.post(`${at}/forget-schedules`, {
      scope: { org },
      cron: "0 3 * * *",
      olderThan: "P90D",
      since: "observed",
      action: "erase",
    });
    const everybodys = {
      scope: {},
      subtree: true,
      cron: "0 3 * * *",
      olderThan: "P90D",
      since: "observed",
      action: "erase",
      confirm: "{}",
    };
    const operators = await service.operator.post<{ id: string }>(`${at}/forget-schedules`, everybodys);
    expect(operators.status, operators.text).toBe(201);
    // Ordered, and suspended, in one transaction: the worker finds both.
    await service.database.sql(
      `UPDATE scopefloor.tenant t SET state = 'suspended' WHERE root = $1 AND scopefloor.order_retention(100) IS NOT NULL
       AND (SELECT count(scopefloor.order_schedule(f, clock_timestamp())) FROM scopefloor.forget_schedule f WHERE f.tenant_id IN (t.id, 0)) = 2`,
      [JSON.stringify({ org })],
    );
    await pause(300);
    await retain();
    await service.operator.del(`${at}/forget-schedules/${operators.body.id}`);
    expect((await service.operator.get<{ state: string }>(`${at}/tenants/org%2F${org}`)).body.state).toBe("suspended");
    await service.operator.call("PATCH", `${at}/tenants/org%2F${org}`, { state: "active" });
    expect(await textsOf(client)).toEqual(["old, but kept"]);
  });
});

describe("a schedule", () => {
  const run = async (schedule: object) => {
    const made = await admin.post<{ id: string }>(`${at}/forget-schedules`, {
      scope: { org },
      cron: "0 3 * * *",
      action: "erase",
      subtree: true,
      ...schedule,
    });
    expect(made.status, made.text).toBe(201);
    expect((await admin.post(`${at}/forget-schedules/${made.body.id}/run`)).status).toBe(202);
    await settled();
    const { body } = await admin.get<{ lastRun: { state: string; counts: object; receiptId: string | null } }>(
      `${at}/forget-schedules/${made.body.id}`,
    );
    return body.lastRun;
  };

  test("takes all of a scope only where that is typed out, however it is asked for", async () => {
    const all = { scope: { org }, cron: "0 3 * * *", action: "erase", subtree: true };
    expect((await admin.post(`${at}/forget-schedules`, all)).status).toBe(422);
    expect((await admin.post(`${at}/forget-schedules`, { ...all, labels: [] })).status).toBe(400);
    expect((await admin.post(`${at}/forget-schedules`, { ...all, confirm: `org/${org}` })).status).toBe(201);
    const narrow = await admin.post<{ id: string }>(`${at}/forget-schedules`, { ...all, labels: ["a=b"] });
    expect((await admin.call("PATCH", `${at}/forget-schedules/${narrow.body.id}`, { labels: [] })).status).toBe(400);
    expect((await admin.call("PATCH", `${at}/forget-schedules/${narrow.body.id}`, {})).status).toBe(400);
  });

  test("takes no session that has just begun, that holds a fact, or that its labels do not name", async () => {
    const { body: begun } = await client.post<{ id: string }>("/sessions", {});
    const fact = { entity: { type: "Person", name: "Carol" }, key: "city", value: "Bern" };
    await client.post("/facts", { triples: [fact] });
    await client.remember("temporary", { labels: ["temporary=yes"] });
    expect(await run({ labels: ["temporary=yes"] })).toMatchObject({ state: "done", counts: { turn: 1 } });
    await run({ kinds: ["turns"] });
    expect((await client.post("/facts", { text: "goes on", sessionId: begun.id })).status).toBe(200);
    const kept = await service.database.sql(
      "SELECT count(*)::int AS n FROM scopefloor.session o JOIN scopefloor.attribute a ON a.scope_id = o.scope_id AND a.session_id = o.id JOIN scopefloor.scope s ON s.id = o.scope_id WHERE s.tags = $1",
      [JSON.stringify({ org })],
    );
    expect(kept).toEqual([{ n: 1 }]);
  });

  test("by a query finds what has its labels behind any number of others", async () => {
    const messages = (count: number, more: object = {}) => ({
      messages: Array.from({ length: count }, (_, n) => ({
        role: "user",
        content: `the invoice number ${n} of Weber`,
      })),
      ...more,
    });
    for (let n = 0; n < 3; n++) await client.post("/facts/batch", messages(400));
    await client.post("/facts/batch", messages(3, { labels: ["old=yes"] }));
    const preview = await client.post("/forget", { query: "invoice of Weber", labels: ["old=yes"], dryRun: true });
    expect([preview.status, preview.body.deleted], preview.text).toEqual([200, 3]);
    expect(await run({ query: "invoice of Weber", labels: ["old=yes"] })).toMatchObject({
      state: "done",
      counts: { deleted: 3 },
      receiptId: expect.any(String),
    });
    expect(await textsOf(client, "?limit=500&labels=old%3Dyes")).toEqual([]);
  });

  test("by the last use is refused where traces go sooner", async () => {
    await admin.call("PUT", `${at}/retention`, {
      scope: { org },
      kinds: ["traces"],
      olderThan: "P30D",
      action: "erase",
    });
    const by = { scope: { org }, cron: "0 3 * * *", action: "erase", since: "lastUsed" };
    expect((await admin.post(`${at}/forget-schedules`, { ...by, olderThan: "P1Y" })).status).toBe(409);
    // Also where nothing has ever been stored.
    const user = { ...by, scope: { org, user: "new" }, olderThan: "P1Y" };
    expect((await admin.post(`${at}/forget-schedules`, user)).status).toBe(409);
    expect((await admin.post(`${at}/forget-schedules`, { ...by, olderThan: "P20D" })).status).toBe(201);
    const made = await admin.post<{ id: string }>(`${at}/forget-schedules`, { ...by, olderThan: "P20D" });
    const longer = { olderThan: "P1Y", since: "lastUsed" };
    expect((await admin.call("PATCH", `${at}/forget-schedules/${made.body.id}`, longer)).status).toBe(409);
    const sooner = { scope: { org }, kinds: ["traces"], olderThan: "P10D", action: "erase" };
    expect((await admin.call("PUT", `${at}/retention`, sooner)).status).toBe(409);
  });
});

describe("a subject", () => {
  const taken = async (subject: string) =>
    (await client.post<{ matches: { text: string }[] }>("/forget", { subject, dryRun: true })).body.matches
      .map(({ text }) => text)
      .sort();

  test("is a name, and no piece of a longer word", async () => {
    for (const text of [
      "The annual report, and Lausanne",
      "Ann called",
      "Ann's letter",
      "Carola Webermann",
      "Carol Weber",
    ])
      await client.remember(text);
    expect(await taken("Ann")).toEqual(["Ann called", "Ann's letter"]);
    expect(await taken("carol weber")).toEqual(["Carol Weber"]);
  });

  test("is found with its accents and without, hidden characters or not, and in scripts without spaces", async () => {
    for (const text of [
      "François Légaré owes",
      "Francois Legare paid",
      "Fran\u00adçois Lé\u200bgaré hid",
      "李明说他来",
      "Ана́ прийшла",
      "김철수가 왔다",
    ])
      await client.remember(text);
    expect(await taken("François Légaré")).toHaveLength(3);
    expect(await taken("francois legare")).toHaveLength(3);
    expect(await taken("李明")).toEqual(["李明说他来"]);
    expect(await taken("Ана")).toEqual(["Ана́ прийшла"]);
    expect(await taken("김철수")).toEqual(["김철수가 왔다"]);
    await hold(admin, { subject: "Legare" });
    expect((await client.post("/forget", { subject: "François", purge: true })).status).toBe(409);
  });
});

test.each([
  ["memories", () => client.get("/memories?since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z")],
  ["forget", () => client.post("/forget", { since: "2026-02-01T00:00:00Z", until: "2026-01-01T00:00:00Z" })],
])("%s refuses a span that ends before it begins", async (_, ask) => {
  const answer = await ask();
  expect([answer.status, answer.text]).toEqual([400, expect.stringContaining("lies before since")]);
});

test("a selection that expires a document expires its parts with it", async () => {
  const { body } = await client.upload("Expired as a whole.", "gone.txt", { labels: ["topic=gone"] });
  await client.processed(body.id);
  expect((await client.post("/forget", { labels: ["topic=gone"] })).status).toBe(200);
  expect(await client.recall("Expired as a whole")).toEqual([]);
  expect(await textsOf(client)).toEqual([]);
});

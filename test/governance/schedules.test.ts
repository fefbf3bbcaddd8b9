import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { nextRun } from "../../src/governance/cron.ts";
import { orderDueRuns } from "../../src/jobs/schedules.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { pause } from "../harness/service-process.ts";

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

interface Run {
  id: string;
  state: string;
  dryRun: boolean;
  counts: Record<string, number>;
  receiptId: string | null;
  error: string | null;
}
interface Schedule {
  id: string;
  nextRun: string | null;
  lastRun: Run | null;
  receipts: string[];
}
const at = "/contexts/default/forget-schedules";
const make = (by: Client, schedule: object) =>
  by.post<Schedule>(at, { scope: { org }, cron: "0 3 * * *", action: "erase", ...schedule });
const made = async (by: Client, schedule: object) => {
  const answer = await make(by, schedule);
  expect(answer.status, answer.text).toBe(201);
  return answer.body;
};
const shown = async (id: string) => (await service.operator.get<Schedule>(`${at}/${id}`)).body;
const ended = async (id: string, state = "done") => {
  for (let n = 0; n < 400; n++) {
    const { lastRun } = await shown(id);
    if (lastRun !== null && !["queued", "running"].includes(lastRun.state)) {
      expect(lastRun, JSON.stringify(lastRun)).toMatchObject({ state });
      return lastRun;
    }
    await pause(25);
  }
  throw new Error("the run did not end");
};
const runNow = async (id: string, state?: string) => {
  expect((await service.operator.post(`${at}/${id}/run`)).status).toBe(202);
  return ended(id, state);
};
const texts = async (by = client) =>
  (await by.get<{ memories: { text: string }[] }>("/memories")).body.memories.map(({ text }) => text).sort();
const due = (id: string, ago = "1 minute") =>
  service.database.sql(
    `UPDATE scopefloor.forget_schedule SET next_run = date_trunc('minute', now() - $2::interval) WHERE id = $1`,
    [id, ago],
  );
const runsOf = (id: string) =>
  service.database.sql("SELECT tick, state, counts FROM scopefloor.forget_run WHERE rule_id = $1 ORDER BY tick", [id]);
const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();

describe("the times of a schedule", () => {
  test.each([
    // The clock goes from 2:00 to 3:00: what is left out comes once, at the next time that there is.
    ["30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", ["2026-03-29T01:00:00.000Z", "2026-03-30T00:30:00.000Z"]],
    // It goes from 3:00 back to 2:00: what comes twice counts once.
    ["30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"]],
    ["0 3 * * 1", "America/New_York", "2026-11-27T00:00:00Z", ["2026-11-30T08:00:00.000Z", "2026-12-07T08:00:00.000Z"]],
    ["*/20 * * * *", "UTC", "2026-11-27T10:01:00Z", ["2026-11-27T10:20:00.000Z", "2026-11-27T10:40:00.000Z"]],
  ])("%s in %s after %s", (cron, timezone, from, expected) => {
    const first = nextRun(cron, timezone, new Date(from));
    expect([first, nextRun(cron, timezone, new Date(first ?? ""))]).toEqual(expected);
  });

  test.each(["* * * *", "* * * * * *", "61 * * * *", "0 0 30 2 *", "nonsense here at all"])(
    "%s is refused",
    async (cron) => {
      expect((await make(admin, { cron, kinds: ["turns"] })).status).toBe(400);
    },
  );
});

describe("a forget schedule", () => {
  test("takes what is older than it says, with a receipt and a trace, and what is stored after the tick stays", async () => {
    await client.remember("old enough");
    await service.database.sql("UPDATE scopefloor.passage SET created_at = $1 WHERE text = 'old enough'", [
      daysAgo(60),
    ]);
    await client.remember("too young");
    const schedule = await made(admin, { olderThan: "P30D", kinds: ["turns"] });
    expect(Date.parse(schedule.nextRun ?? "")).toBeGreaterThan(Date.now());
    const run = await runNow(schedule.id);
    expect(run).toMatchObject({ counts: { turn: 1, passage: 1 }, receiptId: expect.any(String) });
    expect(await texts()).toEqual(["too young"]);
    const receipt = await admin.get(`/contexts/default/receipts/${run.receiptId}`);
    expect(receipt.body).toMatchObject({
      policy: "schedule",
      counts: { turn: 1 },
      target: { org },
      jws: expect.any(String),
    });
    const traces = await admin.get<{ traces: { operation: string }[] }>("/traces");
    expect(traces.body.traces.map(({ operation }) => operation)).toContain("scheduled_forget");
  });

  test("takes by labels, by kinds and by a query; below its scope where it says so", async () => {
    await client.remember("a labelled turn", { labels: ["temp=yes"] });
    await client.remember("a labelled turn of Bob's", { labels: ["temp=yes"], scopes: "user/bob" });
    await client.remember("another turn about parking");
    await client.call("PUT", "/memory/theme", { value: 1 });
    const own = await made(admin, { labels: ["temp=yes"] });
    await runNow(own.id);
    expect(await texts()).toEqual(["a labelled turn of Bob's", "another turn about parking", "theme: 1"]);
    const below = await made(admin, { labels: ["temp=yes"], subtree: true });
    await runNow(below.id);
    expect(await texts()).toEqual(["another turn about parking", "theme: 1"]);
    const items = await made(admin, { kinds: ["items"] });
    await runNow(items.id);
    expect(await texts()).toEqual(["another turn about parking"]);
    const topic = await made(admin, { query: "parking", action: "expire" });
    const run = await runNow(topic.id);
    expect(run.counts).toEqual({ deleted: 1 });
    expect(await texts()).toEqual([]);
  });

  test("as a dry run counts and takes nothing", async () => {
    await client.remember("still here");
    const schedule = await made(admin, { kinds: ["turns"], dryRun: true });
    expect(await runNow(schedule.id)).toMatchObject({ dryRun: true, counts: { turns: 1 }, receiptId: null });
    expect(await texts()).toEqual(["still here"]);
  });

  test("runs once for a tick whatever the number of workers, and once after a downtime", async () => {
    const schedule = await made(admin, { kinds: ["turns"], cron: "*/5 * * * *" });
    await due(schedule.id, "3 days");
    await Promise.all(Array.from({ length: 6 }, () => orderDueRuns(service.database)));
    await ended(schedule.id);
    expect(await runsOf(schedule.id)).toHaveLength(1);
    expect(Date.parse((await shown(schedule.id)).nextRun ?? "")).toBeGreaterThan(Date.now());
    await orderDueRuns(service.database);
    expect(await runsOf(schedule.id)).toHaveLength(1);
    // The same tick again, as if a clock had gone back.
    const [before] = await runsOf(schedule.id);
    await service.database.sql("UPDATE scopefloor.forget_schedule SET next_run = $2 WHERE id = $1", [
      schedule.id,
      before?.tick,
    ]);
    await orderDueRuns(service.database);
    expect(await runsOf(schedule.id)).toHaveLength(1);
  });

  test("goes on when the key that made it is rotated or revoked", async () => {
    const maker = await service.mint("management", { org });
    const schedule = await made(maker, { kinds: ["turns"] });
    expect((await service.operator.del(`/contexts/default/keys/${maker.id}`)).status).toBe(204);
    await client.remember("taken all the same");
    await due(schedule.id);
    await service.database.sql("UPDATE scopefloor.passage SET created_at = $1 WHERE text = 'taken all the same'", [
      daysAgo(1),
    ]);
    await orderDueRuns(service.database);
    await ended(schedule.id);
    expect(await texts()).toEqual([]);
  });

  test("is paused and resumed; what was missed is not made up for", async () => {
    const schedule = await made(admin, { kinds: ["turns"] });
    const paused = await admin.call<Schedule>("PATCH", `${at}/${schedule.id}`, { paused: true });
    expect(paused.body).toMatchObject({ paused: true, nextRun: null });
    await due(schedule.id);
    await orderDueRuns(service.database);
    expect(await runsOf(schedule.id)).toEqual([]);
    const resumed = await admin.call<Schedule>("PATCH", `${at}/${schedule.id}`, { paused: false });
    expect(Date.parse(resumed.body.nextRun ?? "")).toBeGreaterThan(Date.now());
    const changed = await admin.call<Schedule>("PATCH", `${at}/${schedule.id}`, {
      cron: "15 4 * * *",
      labels: ["a=b"],
    });
    expect(changed.body).toMatchObject({ cron: "15 4 * * *", labels: ["a=b"], kinds: null });
    expect((await admin.del(`${at}/${schedule.id}`)).status).toBe(204);
    expect((await admin.get(`${at}/${schedule.id}`)).status).toBe(404);
  });

  test("is its floor's: below nobody changes it, and beside nobody sees it", async () => {
    const schedule = await made(service.operator, { kinds: ["turns"] });
    const other = await service.mint("management", { org: `${org}-beside` });
    expect((await admin.get<{ total: number }>(at)).body.total).toBe(1);
    expect((await other.get<{ total: number }>(at)).body.total).toBe(0);
    expect((await admin.call("PATCH", `${at}/${schedule.id}`, { paused: true })).status).toBe(403);
    expect((await admin.del(`${at}/${schedule.id}`)).status).toBe(403);
    expect((await admin.post(`${at}/${schedule.id}/run`)).status).toBe(403);
    expect((await other.call("PATCH", `${at}/${schedule.id}`, { paused: true })).status).toBe(404);
    expect((await other.post(`${at}/${schedule.id}/run`)).status).toBe(404);
    expect((await make(other, { kinds: ["turns"] })).status).toBe(403);
    expect((await client.get(at)).status).toBe(403);
  });

  test("that would take all of a scope, or general knowledge, is confirmed by its path", async () => {
    expect((await make(admin, { subtree: true })).status).toBe(422);
    expect((await make(admin, { confirm: `org/${org}` })).status).toBe(422);
    expect((await make(admin, { subtree: true, confirm: `org/${org}` })).status).toBe(201);
    expect((await make(service.operator, { scope: {}, kinds: ["turns"] })).status).toBe(422);
    expect((await make(service.operator, { scope: {}, kinds: ["turns"], confirm: "{}", paused: true })).status).toBe(
      201,
    );
    expect((await make(service.operator, { scope: undefined, kinds: ["turns"] })).status).toBe(400);
    expect((await make(admin, { query: "x", kinds: ["turns"] })).status).toBe(422);
    expect((await make(admin, { since: "observed", kinds: ["turns"] })).status).toBe(400);
    const expiring = await made(admin, { action: "expire" });
    expect((await admin.call("PATCH", `${at}/${expiring.id}`, { action: "erase", subtree: true })).status).toBe(422);
  });
});

describe("a scheduled erasure of a scope", () => {
  const everything = () => made(admin, { scope: { org, user: "tmp" }, subtree: true, confirm: `org/${org}/user/tmp` });

  test("takes all of it in batches, keeps itself, and gives one receipt; the scope is used again", async () => {
    for (let n = 0; n < 30; n++) await client.remember(`scratch ${n}`, { scopes: "user/tmp" });
    await client.remember("deeper", { scopes: "user/tmp/task/1" });
    await client.post("/facts", {
      triples: [{ entity: { type: "A", name: "B" }, key: "c", value: 1 }],
      scopes: "user/tmp",
    });
    await client.call("PUT", "/memory/x", { value: 1, scopes: "user/tmp" });
    await client.remember("not scratch");
    const schedule = await everything();
    const run = await runNow(schedule.id);
    expect(await texts()).toEqual(["not scratch"]);
    const receipt = await service.operator.get<{ counts: Record<string, number>; policy: string; target: object }>(
      `/contexts/default/receipts/${run.receiptId}`,
    );
    expect(receipt.body).toMatchObject({ policy: "scope", counts: { turn: 31, attribute: 1, memory_item: 1 } });
    await client.remember("scratch again", { scopes: "user/tmp" });
    await runNow(schedule.id);
    expect(await texts()).toEqual(["not scratch"]);
    expect((await shown(schedule.id)).receipts).toHaveLength(2);
    expect(await service.database.sql("SELECT 1 FROM scopefloor.erasing")).toEqual([]);
  });

  test("lets nothing new in between two batches, and other scopes are as ever", async () => {
    await client.remember("scratch", { scopes: "user/tmp" });
    // As it is after the first step of a run.
    const [place] = await service.database.sql("SELECT id FROM scopefloor.scope WHERE tags = $1", [
      JSON.stringify({ org, user: "tmp" }),
    ]);
    await service.database.sql(
      "INSERT INTO scopefloor.erasing (run_id, hash) SELECT gen_random_uuid(), scopefloor.scope_hash(tags) FROM scopefloor.scope WHERE id = $1",
      [place?.id],
    );
    const writes = [
      await client.post("/facts", { text: "late", scopes: "user/tmp" }),
      await client.post("/facts", { text: "late and below", scopes: "user/tmp/task/2" }),
      await client.call("PUT", "/memory/late", { value: 1, scopes: "user/tmp" }),
      await client.upload("late", "late.txt", { scopes: "user/tmp" }),
      await client.post("/sessions", { scopes: "user/tmp" }),
    ];
    for (const { status, text } of writes) expect(status, text).toBe(409);
    expect((await client.post("/facts", { text: "elsewhere", scopes: "user/other" })).status).toBe(200);
    expect((await client.recall("scratch", { lens: "user/tmp" })).length).toBeGreaterThan(0);
    await service.database.sql("DELETE FROM scopefloor.erasing");
    expect((await client.post("/facts", { text: "in time", scopes: "user/tmp" })).status).toBe(200);
  });

  test("is held by a legal hold, before anything is taken", async () => {
    await client.remember("evidence", { scopes: "user/tmp" });
    await service.operator.call("PUT", "/contexts/default/holds", {
      scope: { org, user: "tmp" },
      subject: "evidence",
      reason: "case",
    });
    const schedule = await everything();
    const run = await runNow(schedule.id, "held");
    expect(run.error).toContain("legal hold");
    expect(await texts()).toEqual(["evidence"]);
    expect(await service.database.sql("SELECT 1 FROM scopefloor.erasing")).toEqual([]);
  });
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { enterJob, JobGone } from "../../src/db/access/enter-job.ts";
import { sql } from "../../src/db/access/scoped.ts";
import { inTransaction, type Leases } from "../../src/db/connect/lease.ts";
import { Queue } from "../../src/jobs/queue.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

describe("a job", () => {
  let service: TestService;
  let agent: Client;
  let queue: Queue;
  beforeAll(async () => {
    service = await startService();
    agent = await service.mint("agent", { org: "acme" });
    queue = new Queue(service.database, 30);
  });
  afterAll(() => service.stop());

  const order = async (text: string) => (await agent.upload(text, `${text}.txt`)).body.id;
  const finish = (job: { id: string; lease: string }) =>
    enterJob(service.database.worker, job as never, "default", (tx) => tx.call("finish_job"));

  test("reaches the scope of its row and nothing else, and nothing at all for another worker (threat 11)", async () => {
    await agent.remember("something of acme's");
    const other = await service.mint("agent", { org: "globex" });
    await other.remember("the foreign canary sings");
    await order("first");
    const job = await queue.take(1);
    if (job === undefined) throw new Error("no job");
    const seen = await enterJob(service.database.worker, job, "default", async (tx) => ({
      texts: (await tx.rows<{ text: string }>(sql`SELECT p.text FROM ${tx.read("passage", "p")}`)).map(
        ({ text }) => text,
      ),
      entry: tx.entry,
    }));
    expect(seen.texts).toEqual(["something of acme's"]);
    const scope = { org: "acme" };
    const place = seen.entry.write;
    expect(seen.entry).toEqual({
      key: { id: agent.id, name: "", principal: "agent", content: true, defaultView: "strict", expiresAt: null },
      verbs: ["memory:write"],
      floor: scope,
      onBehalfOf: null,
      view: "strict",
      effective: scope,
      general: false,
      read: { scopes: new Map([[place?.id, scope]]), trees: [], tenant: place?.tenant },
      write: { id: expect.any(Number), tenant: expect.any(Number) },
      settings: expect.anything(),
      credentials: {},
      trace: { ...place, tags: scope, isElsewhere: false, isBlank: false },
      hold: null,
      recall: null,
      lexical: null,
    });
    const stranger = { ...job, lease: "01900000-0000-4000-8000-000000000000" };
    await expect(enterJob(service.database.worker, stranger, "default", async () => 1)).rejects.toBeInstanceOf(JobGone);
    await finish(job);
  });

  test("enters again in long work: it goes on with its scope, and ends where its row is gone", async () => {
    await order("long");
    const job = await queue.take(1);
    if (job === undefined) throw new Error("no job");
    await enterJob(service.database.worker, job, "default", async (tx, renew) => {
      await renew();
      expect(await tx.rows(sql`SELECT p.id FROM ${tx.read("passage", "p")}`)).toHaveLength(1);
      await tx.call("finish_job");
      await expect(renew()).rejects.toBeInstanceOf(JobGone);
    });
    expect(await queue.take(1)).toBeUndefined();
  });

  test("delivered to two has one effect: whoever comes late finds it gone", async () => {
    await order("twice");
    const job = await queue.take(1);
    if (job === undefined) throw new Error("no job");
    // Its lease ran out, and another has taken it.
    await service.database.sql("UPDATE scopefloor.job SET leased_until = now() - interval '1 minute' WHERE id = $1", [
      job.id,
    ]);
    const again = await queue.take(1);
    expect(again).toMatchObject({ id: job.id, attempts: 2 });
    if (again === undefined) return;
    const outcomes = await Promise.allSettled([finish(job), finish(again), finish(again)]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected", "rejected"]);
    expect(await queue.take(1)).toBeUndefined();
  });

  test("of a scope that is erased meanwhile is gone, also when it has begun", async () => {
    const tenant = await service.mint("agent", { org: "leaving" });
    await tenant.upload("to be erased", "a.txt");
    await tenant.upload("to be erased too", "b.txt");
    const begun = await queue.take(1);
    if (begun === undefined) throw new Error("no job");
    expect((await tenant.eraseFloor()).status).toBe(200);
    await expect(finish(begun)).rejects.toBeInstanceOf(JobGone);
    expect(await queue.take(1)).toBeUndefined();
    expect(await service.database.sql("SELECT 1 FROM scopefloor.document WHERE title IN ('a.txt', 'b.txt')")).toEqual(
      [],
    );
    expect(await service.database.sql("SELECT 1 FROM scopefloor.document_content")).not.toEqual([]); // acme's
  });

  test("left over from before an erasure is gone: its row says which age of the scope it belongs to (threat 18)", async () => {
    await order("old");
    const job = await queue.take(1);
    if (job === undefined) throw new Error("no job");
    // An erasure takes the rows of jobs as well; this is one that it did not see.
    await service.database.sql(`UPDATE scopefloor.scope SET epoch = epoch + 1 WHERE tags = '{"org":"acme"}'`);
    await expect(enterJob(service.database.worker, job, "default", async () => 1)).rejects.toBeInstanceOf(JobGone);
    expect(await service.database.sql("SELECT 1 FROM scopefloor.job WHERE id = $1", [job.id])).toEqual([]);
  });

  test("is taken in turns by floor: a thousand of one do not starve another's one", async () => {
    const [{ id } = { id: "" }] = (await service.database.sql(
      'SELECT id FROM scopefloor.scope WHERE tags = \'{"org":"acme"}\'',
    )) as { id: string }[];
    await service.database.sql(
      `INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, api_key_id, principal, epoch, share_group, run_after)
       SELECT s.tenant_id, s.id, gen_random_uuid(), 'document', $2, 'agent', 0, 42, now() - interval '1 hour' FROM generate_series(1, 1000), scopefloor.scope s WHERE s.id = $1`,
      [id, agent.id],
    );
    const small = await service.mint("agent", { org: "small" });
    await small.upload("just one", "one.txt");
    const first = await queue.take(1);
    const second = await queue.take(1);
    // One of each floor, whatever the order; a third of the large one has to wait for the first.
    const rows = await service.database.sql("SELECT share_group FROM scopefloor.job WHERE id IN ($1, $2)", [
      first?.id,
      second?.id,
    ]);
    expect(new Set(rows.map((row) => String(row.share_group))).size).toBe(2);
    expect(await queue.take(1)).toBeUndefined();
    expect(await queue.take(2)).toBeDefined();
    // With one at a time they take turns too.
    await service.database.sql(
      "UPDATE scopefloor.job SET state = 'queued', lease = NULL, leased_until = NULL WHERE state = 'running'",
    );
    await small.upload("and another", "two.txt");
    const turns: string[] = [];
    for (let i = 0; i < 4; i++) {
      const job = await queue.take(1);
      const [row] = await service.database.sql("DELETE FROM scopefloor.job WHERE id = $1 RETURNING share_group", [
        job?.id,
      ]);
      turns.push(String(row?.share_group) === "42" ? "large" : "small");
    }
    expect(turns.filter((turn) => turn === "small")).toHaveLength(2);
    await service.database.sql("DELETE FROM scopefloor.job");
  });

  test("is added by the application and taken by the worker alone; neither sees the table", async () => {
    const refused = (leases: Leases, text: string) =>
      expect(
        inTransaction(leases, (lease) => lease.query(text)),
        text,
      ).rejects.toMatchObject({ code: "42501" });
    await refused(service.database.app, "SELECT * FROM scopefloor.job");
    await refused(service.database.worker, "SELECT * FROM scopefloor.job");
    await refused(service.database.app, "SELECT scopefloor.take_job(1, 30)");
    await refused(service.database.app, "SELECT scopefloor.enter_job(gen_random_uuid(), gen_random_uuid(), 'default')");
    await refused(service.database.app, "SELECT scopefloor.finish_job()");
    // Without a ticket neither has anything to order.
    for (const leases of [service.database.app, service.database.worker]) {
      await refused(leases, "SELECT scopefloor.enqueue(gen_random_uuid(), 'embed', NULL, NULL)");
    }
  });
});

import { afterAll, beforeAll, expect, test } from "vitest";
import { enterJob } from "../../src/db/access/enter-job.ts";
import { Queue } from "../../src/jobs/queue.ts";
import { onPostgres } from "../harness/database.ts";
import { startService, type TestService } from "../harness/service.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());

const order = (id: string) => `
  INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, api_key_id, principal, epoch, share_group)
  VALUES (0, 1, '${id}', 'embed', gen_random_uuid(), 'agent', 0, 1)`;
const FIRST = "01900000-0000-7000-8000-00000000000a";
const SECOND = "01900000-0000-7000-8000-00000000000b";

test.runIf(onPostgres())(
  "an embedding round that fails while another is being ordered, and not yet committed, leaves that one",
  async () => {
    const queue = new Queue(service.database, 30);
    await service.database.sql(order(FIRST));
    const job = await queue.take(1);
    if (job === undefined) throw new Error("no job");
    const ordering = await service.database.owner.acquire();
    await ordering.query("BEGIN");
    await ordering.query(order(SECOND));
    const postponed = queue.postpone(job, "it answered 500", 60, false);
    await new Promise((resolve) => setTimeout(resolve, 200));
    await ordering.query("COMMIT");
    await ordering.release();
    await postponed;
    expect(
      await service.database.sql("SELECT id, state, attempts, error, run_after > now() AS later FROM scopefloor.job"),
    ).toEqual([{ id: SECOND, state: "queued", attempts: 1, error: "it answered 500", later: true }]);
    expect(await queue.take(1)).toBeUndefined();
  },
);

test.runIf(onPostgres())(
  "a job whose transaction outlives its lease keeps its row, and holds up nobody else's",
  async () => {
    const queue = new Queue(service.database, 30);
    await service.database.sql("DELETE FROM scopefloor.job");
    const slow = await service.mint("agent", { org: "slow" });
    const quick = await service.mint("agent", { org: "quick" });
    await slow.upload("a long book", "book.txt");
    const job = await queue.take(1);
    if (job === undefined) throw new Error("no job");
    await service.database.sql("UPDATE scopefloor.job SET leased_until = now() - interval '1 minute' WHERE id = $1", [
      job.id,
    ]);
    await enterJob(service.database.worker, job, "default", async (tx) => {
      await quick.upload("a note", "note.txt");
      await queue.extend(job); // neither waits for the row that this transaction holds
      expect(await queue.take(1)).toMatchObject({ kind: "document" });
      expect(await queue.take(1)).toBeUndefined();
      await tx.call("finish_job");
    });
    await service.database.sql("DELETE FROM scopefloor.job");
  },
);

test("a tenant's turns are those of the key that the operator minted, whatever scope it names or key it mints", async () => {
  const noisy = await service.mint("agent", { tenant: "noisy" });
  const acme = await service.mint("agent", { org: "acme" });
  const child = await noisy.post<{ key: string }>("/keys", { scopeFloor: { org: "acme" } });
  await acme.upload("acme's own", "a.txt");
  await noisy.upload("one", "1.txt", { scopes: "org/acme" });
  await noisy.upload("two", "2.txt", { scopes: "a/x1" });
  await service.client(child.body.key).upload("three", "3.txt");
  const rows = await service.database.sql(
    "SELECT s.tags->>'tenant' AS tenant, count(DISTINCT j.share_group)::int AS turns, min(j.share_group)::text AS turn FROM scopefloor.job j JOIN scopefloor.scope s ON s.id = j.scope_id WHERE j.kind = 'document' GROUP BY 1 ORDER BY 1 NULLS FIRST",
  );
  expect(rows).toMatchObject([
    { tenant: null, turns: 1 },
    { tenant: "noisy", turns: 1 },
  ]);
  expect(rows[0]?.turn).not.toBe(rows[1]?.turn);
});

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { enterJob, JobGone } from "../../src/db/enter-job.ts";
import { inTransaction, type Leases } from "../../src/db/lease.ts";
import { sql } from "../../src/db/scoped.ts";
import { Queue } from "../../src/jobs/queue.ts";
import { onPostgres } from "../harness/database.ts";
import { startProvider } from "../harness/embedding-provider.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(what: string, check: () => Promise<boolean>, seconds = 25): Promise<void> {
  for (const end = performance.now() + seconds * 1000; performance.now() < end; await pause(30)) {
    if (await check()) return;
  }
  throw new Error(`still not so: ${what}`);
}

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

  test("reaches the scope of its row and nothing else, and nothing at all for another worker", async () => {
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
      scope: tx.entry.floor,
    }));
    expect(seen).toEqual({ texts: ["something of acme's"], scope: { org: "acme" } });
    const stranger = { ...job, lease: "01900000-0000-4000-8000-000000000000" };
    await expect(enterJob(service.database.worker, stranger, "default", async () => 1)).rejects.toBeInstanceOf(JobGone);
    await finish(job);
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
    expect((await tenant.post("/scopes/forget", {})).status).toBe(200);
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
      `INSERT INTO scopefloor.job (scope_id, id, kind, api_key_id, principal, epoch, floor_hash, run_after)
       SELECT $1, gen_random_uuid(), 'document', $2, 'agent', 0, 42, now() - interval '1 hour' FROM generate_series(1, 1000)`,
      [id, agent.id],
    );
    const small = await service.mint("agent", { org: "small" });
    await small.upload("just one", "one.txt");
    const first = await queue.take(1);
    const second = await queue.take(1);
    // One of each floor, whatever the order; a third of the large one has to wait for the first.
    const rows = await service.database.sql("SELECT floor_hash FROM scopefloor.job WHERE id IN ($1, $2)", [
      first?.id,
      second?.id,
    ]);
    expect(new Set(rows.map((row) => String(row.floor_hash))).size).toBe(2);
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
      const [row] = await service.database.sql("DELETE FROM scopefloor.job WHERE id = $1 RETURNING floor_hash", [
        job?.id,
      ]);
      turns.push(String(row?.floor_hash) === "42" ? "large" : "small");
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

interface Outcome {
  readonly chunks: number;
  readonly positions: number;
}

/** What recall has of a document: chunks, and how many different places they stand at. */
const outcomeOf = async (service: TestService, id: string) =>
  (
    await service.database.sql(
      "SELECT count(*)::int AS chunks, count(DISTINCT position)::int AS positions FROM scopefloor.passage WHERE document_id = $1",
      [id],
    )
  )[0] as unknown as Outcome;

describe.runIf(onPostgres())("a worker that is killed with -9", () => {
  test("at any point leaves no document stuck and none twice", { timeout: 120_000 }, async () => {
    const provider = await startProvider();
    const service = await startService({ models: provider.models });
    let worker: ChildProcess | undefined;
    try {
      const settings = JSON.stringify({
        url: service.database.url,
        models: provider.models,
        parser: inject("parser"),
        backoffSeconds: 0.1,
        concurrency: 2,
        perFloor: 2,
        attempts: 50,
      });
      const start = async () => {
        const child = spawn(process.execPath, ["--import", "tsx", "test/harness/worker-process.ts", settings], {
          stdio: ["ignore", "pipe", "inherit"],
        });
        await new Promise<void>((resolve) => child.stdout.once("data", () => resolve()));
        return child;
      };
      const kill = (child: ChildProcess) =>
        new Promise<void>((resolve) => {
          child.once("exit", () => resolve());
          child.kill("SIGKILL");
        });
      const agent = await service.mint("agent", { org: "killed" });
      const text = (n: number) =>
        Array.from({ length: 300 }, (_, i) => `Document ${n}, paragraph ${i}: ${"words and more ".repeat(20)}`).join(
          "\n\n",
        );
      const ids: string[] = [];
      const send = async (n: number) => ids.push((await agent.upload(text(n), `${n}.txt`)).body.id);
      for (let n = 0; n < 6; n++) await send(n);
      const statuses = async () =>
        (await service.database.sql("SELECT id, status, error FROM scopefloor.document")) as {
          id: string;
          status: string;
          error: string | null;
        }[];
      // A slow model, so that kills fall into the embedding too.
      provider.delayMs = 60;
      const unfinished: string[] = [];
      for (let round = 0; round < 10; round++) {
        worker = await start();
        await pause(50 + round * 120);
        const open = (await statuses()).map(({ status }) => status).filter((status) => status !== "ready");
        if (open.length > 0) unfinished.push(open.sort().join(","));
        await kill(worker);
        await send(10 + round);
      }
      // Nearly every kill met work, and not always at the same stage of it.
      expect(unfinished.length).toBeGreaterThan(7);
      expect(new Set(unfinished).size).toBeGreaterThan(2);
      provider.delayMs = 0;
      worker = await start();
      await until("all are ready", async () => (await statuses()).every(({ status }) => status === "ready"), 60);
      const counts = await Promise.all(ids.map((id) => outcomeOf(service, id)));
      for (const { chunks, positions } of counts) {
        expect(chunks).toBe(positions);
        expect(chunks).toBe(counts[0]?.chunks);
      }
      expect(counts[0]?.chunks).toBeGreaterThan(90);
      await until(
        "the queue is empty",
        async () => (await service.database.sql("SELECT 1 FROM scopefloor.job")).length === 0,
      );
      expect(await service.database.sql("SELECT 1 FROM scopefloor.passage WHERE embedding IS NULL")).toEqual([]);
      const orphans =
        "SELECT 1 FROM scopefloor.posting o WHERE NOT EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.id = o.passage_id)";
      expect(await service.database.sql(orphans)).toEqual([]);
    } finally {
      worker?.kill("SIGKILL");
      await service.stop();
      await provider.stop();
    }
  });
});

describe.skipIf(onPostgres())("the embedded service that is killed with -9", () => {
  test("goes on with its documents after the next start", { timeout: 90_000 }, async () => {
    const folder = await mkdtemp(join(tmpdir(), "scopefloor-killed-"));
    const port = await new Promise<number>((resolve) => {
      const server = createServer().listen(0, "127.0.0.1", () => {
        const address = server.address();
        server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
      });
    });
    const url = `http://127.0.0.1:${port}/api/v1`;
    const start = async () => {
      const child = spawn(process.execPath, ["--import", "tsx", "src/main.ts"], {
        stdio: ["ignore", "ignore", "inherit"],
        env: { PATH: process.env.PATH, PORT: String(port), SCOPEFLOOR_DATA_DIR: folder, SCOPEFLOOR_LOG_LEVEL: "fatal" },
      });
      await until(
        "it answers",
        () =>
          fetch(`${url}/ready`).then(
            ({ ok }) => ok,
            () => false,
          ),
        40,
      );
      return child;
    };
    const kill = (child: ChildProcess) =>
      new Promise<void>((resolve) => {
        child.once("exit", () => resolve());
        child.kill("SIGKILL");
      });
    let child = await start();
    try {
      const key = (await readFile(join(folder, "management.key"), "utf8")).trim();
      const headers = { authorization: `Bearer ${key}` };
      const ids: string[] = [];
      for (let round = 0; round < 2; round++) {
        for (let n = 0; n < 3; n++) {
          const form = new FormData();
          form.append("file", new Blob([`The ${round}${n} plover nests on stones.`]), `${round}${n}.txt`);
          form.append("metadata", JSON.stringify({ scopes: "org/birds" }));
          const answer = await fetch(`${url}/default/documents`, { method: "POST", headers, body: form });
          ids.push(((await answer.json()) as { id: string }).id);
        }
        await pause(round * 700);
        await kill(child);
        child = await start();
      }
      const document = async (id: string) =>
        (await (await fetch(`${url}/default/documents/${id}`, { headers })).json()) as { status: string };
      await until(
        "all are ready",
        async () => (await Promise.all(ids.map(document))).every(({ status }) => status === "ready"),
        40,
      );
      for (const id of ids) {
        const answer = await fetch(`${url}/default/documents/${id}/chunks`, { headers });
        expect(((await answer.json()) as { chunks: unknown[] }).chunks).toHaveLength(1);
      }
    } finally {
      await kill(child);
      await rm(folder, { recursive: true });
    }
  });
});

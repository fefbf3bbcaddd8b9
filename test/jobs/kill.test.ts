import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, inject, test } from "vitest";
import { faults, faultTimeout } from "../faults/share.ts";
import { onPostgres, unpackTemplate } from "../harness/database.ts";
import { startProvider } from "../harness/embedding-provider.ts";
import { startService } from "../harness/service.ts";
import { pause, serviceProcess } from "../harness/service-process.ts";

const KILLS = faults(10);

async function until(what: string, check: () => Promise<boolean>, seconds = 25): Promise<void> {
  for (const end = performance.now() + seconds * 1000; performance.now() < end; await pause(30)) {
    if (await check()) return;
  }
  throw new Error(`still not so: ${what}`);
}

/** What recall has of each document: chunks, and at how many different places they stand. */
const OUTCOMES = `
  SELECT o.id, count(p.id)::int AS chunks, count(DISTINCT p.position)::int AS positions
  FROM scopefloor.document o LEFT JOIN scopefloor.passage p ON p.document_id = o.id GROUP BY o.id`;

describe.runIf(onPostgres())("a worker that is killed with -9", () => {
  test("at any point leaves no document stuck and none twice", faultTimeout, async () => {
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
        perGroup: 2,
        attempts: 5 * KILLS + 20,
      });
      const start = async () => {
        const child = spawn(process.execPath, [join(inject("built"), "test/harness/worker-process.js"), settings], {
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
        Array.from({ length: 225 }, (_, i) => `Document ${n}, paragraph ${i}: ${"words and more ".repeat(20)}`).join(
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
      for (let round = 0; round < KILLS; round++) {
        worker = await start();
        await pause(50 + ((round * 3) % 10) * 120);
        const open = (await statuses()).map(({ status }) => status).filter((status) => status !== "ready");
        if (open.length > 0) unfinished.push(open.sort().join(","));
        await kill(worker);
        await send(10 + round);
      }
      // Nearly every kill met work, and not always at the same stage of it.
      expect(unfinished.length).toBeGreaterThan(0.7 * KILLS);
      expect(new Set(unfinished).size).toBeGreaterThan(Math.min(2, KILLS - 1));
      provider.delayMs = 0;
      worker = await start();
      await until(
        "all are ready",
        async () => (await statuses()).every(({ status }) => status === "ready"),
        60 + 6 * KILLS,
      );
      const counts = await service.database.sql(OUTCOMES);
      expect(counts.map(({ id }) => id).sort()).toEqual(ids.sort());
      for (const { chunks, positions } of counts) {
        expect(chunks).toBe(positions);
        expect(chunks).toBe(counts[0]?.chunks);
      }
      // More than one batch of texts to embed.
      expect(counts[0]?.chunks).toBeGreaterThan(64);
      await until(
        "the queue is empty",
        async () => (await service.database.sql("SELECT 1 FROM scopefloor.job")).length === 0,
      );
      expect(await service.database.sql("SELECT 1 FROM scopefloor.passage WHERE embedding IS NULL")).toEqual([]);
      const orphans = "SELECT 1 FROM scopefloor.passage WHERE terms IS NULL";
      expect(await service.database.sql(orphans)).toEqual([]);
    } finally {
      worker?.kill("SIGKILL");
      await service.stop();
      await provider.stop();
    }
  });
});

describe.runIf(onPostgres())("a worker that is killed with -9 in an erasure", () => {
  test(
    "leaves what the next one goes on with, to one receipt, and nothing new comes in meanwhile",
    faultTimeout,
    async () => {
      const service = await startService();
      let worker: ChildProcess | undefined;
      try {
        const settings = JSON.stringify({
          url: service.database.url,
          parser: inject("parser"),
          backoffSeconds: 0.1,
          attempts: 5 * KILLS + 20,
        });
        const start = async () => {
          const child = spawn(process.execPath, [join(inject("built"), "test/harness/worker-process.js"), settings], {
            stdio: ["ignore", "pipe", "inherit"],
          });
          await new Promise<void>((resolve) => child.stdout.once("data", () => resolve()));
          return child;
        };
        const agent = await service.mint("agent", { org: "erased" });
        const messages = Array.from({ length: 500 }, (_, n) => ({ role: "user", content: `turn number ${n}` }));
        const batches = 12;
        for (let n = 0; n < batches; n++) await agent.post("/facts/batch", { messages, scopes: `user/u${n % 4}` });
        const at = "/contexts/default/forget-schedules";
        const schedule = await service.operator.post<{ id: string }>(at, {
          scope: { org: "erased" },
          subtree: true,
          cron: "0 0 1 1 *",
          action: "erase",
          confirm: "org/erased",
        });
        const { id } = schedule.body;
        expect((await service.operator.post(`${at}/${id}/run`)).status).toBe(202);
        const run = async () => (await service.database.sql("SELECT state, counts FROM scopefloor.forget_run"))[0];
        let interrupted = 0;
        for (let round = 0; round < 20 && (await run())?.state !== "done"; round++) {
          const before = JSON.stringify(await run());
          worker = await start();
          // As soon as it has gone a step further: first the mark, then batch by batch.
          await until("a step", async () => JSON.stringify(await run()) !== before, 60);
          const killed = new Promise((resolve) => worker?.once("exit", resolve));
          worker.kill("SIGKILL");
          await killed;
          if ((await run())?.state === "running") {
            interrupted++;
            // Between two batches.
            expect((await agent.post("/facts", { text: "late" })).status).toBe(409);
          }
        }
        worker = await start();
        await until("the erasure is done", async () => (await run())?.state === "done", 60);
        expect(interrupted).toBeGreaterThan(0);
        const receipts = await service.database.sql("SELECT counts FROM scopefloor.forget_receipt");
        expect(receipts).toHaveLength(1);
        expect(receipts[0]?.counts).toMatchObject({ turn: 500 * batches });
        for (const table of ["turn", "passage", "session", "erasing", "job"])
          expect(await service.database.sql(`SELECT 1 FROM scopefloor.${table} LIMIT 1`), table).toEqual([]);
        expect((await agent.post("/facts", { text: "afterwards" })).status).toBe(200);
      } finally {
        worker?.kill("SIGKILL");
        await service.stop();
      }
    },
  );
});

describe.skipIf(onPostgres())("the embedded service that is killed with -9", () => {
  test("goes on with its documents after the next start", { ...faultTimeout, tags: ["long"] }, async () => {
    const folder = await mkdtemp(join(tmpdir(), "scopefloor-killed-"));
    await unpackTemplate(folder);
    const service = await serviceProcess({ SCOPEFLOOR_DATA_DIR: folder });
    const { url, key } = service;
    await service.start();
    try {
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
        await service.end("SIGKILL");
        await service.start();
      }
      const document = async (id: string) =>
        (await (await fetch(`${url}/default/documents/${id}`, { headers })).json()) as { status: string };
      await until(
        "all are ready",
        async () => (await Promise.all(ids.map(document))).every(({ status }) => status === "ready"),
        100, // a busy machine takes its time
      );
      for (const id of ids) {
        const answer = await fetch(`${url}/default/documents/${id}/chunks`, { headers });
        expect(((await answer.json()) as { chunks: unknown[] }).chunks).toHaveLength(1);
      }
    } finally {
      await service.end("SIGKILL");
      await rm(folder, { recursive: true });
    }
  });
});

import { randomInt } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import postgres from "postgres";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type Cluster, createCluster } from "../harness/cluster.ts";
import { onPostgres, unpackTemplate } from "../harness/database.ts";
import { pause, type ServiceProcess, serviceProcess } from "../harness/service-process.ts";
import { withDatabase } from "../harness/template.ts";
import { Ledger, type LedgerOutcome } from "./ledger.ts";
import { expectNoHarm, faults, faultTimeout } from "./share.ts";

let service: ServiceProcess;

function expectWhole(outcome: LedgerOutcome, what: string): void {
  process.stdout.write(`${what}: ${outcome.acknowledged} acknowledged, ${outcome.repeated} sent again\n`);
  expectNoHarm(outcome, service);
}

/** Until so many more writes were acknowledged: each fault meets writers at work. */
async function progress(ledger: Ledger, more: number): Promise<void> {
  const goal = ledger.acknowledged + more;
  for (const until = performance.now() + 240_000; ledger.acknowledged < goal; await pause(10)) {
    if (performance.now() > until)
      throw new Error(`the writers do not get on: ${ledger.strange.slice(0, 3).join("; ")}`);
  }
}

afterEach(() => service.end("SIGKILL"));

describe.runIf(onPostgres())("writers at PostgreSQL", () => {
  let cluster: Cluster;
  let sql: postgres.Sql;

  beforeAll(async () => {
    cluster = await createCluster();
    await cluster.start();
  });
  afterAll(() => cluster.remove());
  afterEach(() => sql?.end({ timeout: 1 }));

  let databases = 0;
  const begin = async (mayRefuse: boolean) => {
    const name = `ledger_${databases++}`;
    const admin = postgres(cluster.url, { max: 1 });
    await admin.unsafe(`CREATE DATABASE ${name}`);
    await admin.end();
    const url = withDatabase(cluster.url, name);
    sql = postgres(url, { max: 1, onnotice: () => undefined });
    service = await serviceProcess({
      DATABASE_URL: url,
      SCOPEFLOOR_DB_CONNECTIONS: "8",
    });
    await service.start();
    return Ledger.open(service.url, service.key, { mayRefuse });
  };

  test("whose backends are killed lose, double and cross nothing (threat 9)", faultTimeout, async () => {
    const ledger = await begin(false);
    ledger.start();
    let killed = 0;
    while (killed < faults(100)) {
      await pause(randomInt(30));
      // Killed without a pause, nobody would get anything done that could be lost.
      if (killed % 3 === 0) await progress(ledger, 1);
      const rows = await sql`
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name LIKE 'scopefloor%' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1`;
      killed += rows.length;
    }
    await progress(ledger, 20);
    await ledger.stop();
    expect(service.hasCrashed).toBe(false);
    expectWhole(await ledger.settle(), `${killed} backends killed`);
    // The controls: the ledger does see what is gone, and what is there twice.
    await sql`DELETE FROM scopefloor.turn WHERE content = 'nightjar entry 2 of number 0'`;
    await sql`UPDATE scopefloor.turn SET content = 'marmoset entry 1 of number 0' WHERE content = 'marmoset entry 1 of number 1'`;
    expect(await ledger.settle()).toMatchObject({
      lost: ["marmoset entry 1 of number 1", "nightjar entry 2 of number 0"],
      doubled: ["marmoset entry 1 of number 0"],
    });
  });

  test("whose database restarts at once, again and again, lose and double nothing", faultTimeout, async () => {
    const ledger = await begin(false);
    ledger.start();
    for (let n = 0; n < faults(10); n++) {
      await progress(ledger, 5);
      await pause(randomInt(200));
      await cluster.stopAtOnce();
      await cluster.start();
    }
    await progress(ledger, 20);
    await ledger.stop();
    expect(service.hasCrashed).toBe(false);
    expectWhole(await ledger.settle(), `${faults(10)} immediate restarts of the database`);
  });

  test("of a service that is told to stop lose nothing, and it stops in order", faultTimeout, async () => {
    const ledger = await begin(true);
    ledger.start();
    for (let n = 0; n < faults(5); n++) {
      await progress(ledger, 10);
      await pause(randomInt(200));
      expect(await service.end("SIGTERM")).toBe(0);
      await service.start();
    }
    await progress(ledger, 20);
    await ledger.stop();
    expectWhole(await ledger.settle(), `${faults(5)} SIGTERM under load`);
  });
});

describe.skipIf(onPostgres())("writers at the embedded database", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scopefloor-ledger-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  test("that is killed with -9 lose and double nothing", { ...faultTimeout, tags: ["long"] }, async () => {
    await unpackTemplate(folder);
    service = await serviceProcess({ SCOPEFLOOR_DATA_DIR: folder });
    await service.start();
    const ledger = await Ledger.open(service.url, service.key, { mayRefuse: true });
    ledger.start();
    for (let n = 0; n < faults(5); n++) {
      await progress(ledger, 10);
      await pause(randomInt(300));
      await service.end("SIGKILL");
      await service.start();
    }
    await progress(ledger, 10);
    await ledger.stop();
    expectWhole(await ledger.settle(), `${faults(5)} kill -9 of the embedded database`);
  });
});

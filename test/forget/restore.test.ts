import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import postgres from "postgres";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openEmbedded } from "../../src/db/connect/embedded.ts";
import { inTransaction, type Row } from "../../src/db/connect/lease.ts";
import { type Cluster, createCluster } from "../harness/cluster.ts";
import { onPostgres, unpackTemplate } from "../harness/database.ts";
import { type Client, clientOf } from "../harness/service.ts";
import { pause, type ServiceProcess, serviceProcess } from "../harness/service-process.ts";
import { withDatabase } from "../harness/template.ts";

/** A deployment whose database is lost and comes back as an earlier backup has it. */
interface Deployment {
  readonly environment: Record<string, string>;
  /** As the owner, while no process is running. */
  rows(text: string): Promise<Row[]>;
  backUp(): Promise<void>;
  restore(): Promise<void>;
}

let folder: string;
let cluster: Cluster | undefined;
let service: ServiceProcess | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "scopefloor-restore-"));
  await unpackTemplate(join(folder, "data"));
});
afterEach(async () => {
  await service?.end("SIGKILL");
  await cluster?.remove();
  await rm(folder, { recursive: true });
});

async function onServer(): Promise<Deployment> {
  const server = await createCluster();
  cluster = server;
  await server.start();
  const url = withDatabase(server.url, "deployment");
  const file = join(dirname(server.data), "backup");
  const make = () => server.program("psql", ["-q", "-d", server.url, "-c", "CREATE DATABASE deployment"]);
  await make();
  return {
    environment: { DATABASE_URL: url },
    rows: async (text) => {
      const sql = postgres(url, { max: 1 });
      return sql.unsafe(text).finally(() => sql.end());
    },
    backUp: async () => {
      await server.program("pg_dump", ["-Fc", "-f", file, "-d", url]);
    },
    restore: async () => {
      await server.program("psql", ["-q", "-d", server.url, "-c", "DROP DATABASE deployment"]);
      await make();
      await server.program("pg_restore", ["--exit-on-error", "-d", url, file]);
    },
  };
}

function inFolder(): Deployment {
  const [data, backup] = [join(folder, "data"), join(folder, "backup")];
  return {
    environment: { SCOPEFLOOR_DATA_DIR: data },
    rows: async (text) => {
      const database = await openEmbedded({ dataDir: join(data, "db") });
      return inTransaction(database.owner, (owner) => owner.query(text)).finally(() => database.close());
    },
    backUp: () => cp(data, backup, { recursive: true }),
    restore: async () => {
      await rm(data, { recursive: true });
      await cp(backup, data, { recursive: true });
    },
  };
}

/** Its first answer, asked for from before it listens. */
async function firstAnswer(client: Client): Promise<{ status: number; text: string }> {
  for (const until = performance.now() + 60_000; performance.now() < until; await pause(5)) {
    const answer = await client.post("/query", { query: "where is the pangolin" }).catch(() => undefined);
    if (answer !== undefined) return answer;
  }
  throw new Error("nobody answered within a minute");
}

/** Holds back whoever is about to forget again, until released; on a server alone. */
async function holdReplay(url: string): Promise<{ met(): Promise<void>; release(): Promise<void> }> {
  const sql = postgres(url, { max: 1 });
  await sql`SELECT pg_advisory_lock(7700, 7)`;
  return {
    met: async () => {
      for (const until = performance.now() + 60_000; performance.now() < until; await pause(20)) {
        const waiting =
          await sql`SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 7700 AND objid = 7 AND NOT granted`;
        if (waiting.length > 0) return;
      }
      throw new Error("nobody came to forget again");
    },
    release: () => sql.end(),
  };
}

test("a process that starts on a backup from before a forget answers nobody until it has forgotten again", {
  tags: ["long"],
}, async () => {
  const deployment = onPostgres() ? await onServer() : inFolder();
  const receipts = join(folder, "receipts.jsonl");
  await writeFile(receipts, "");
  service = await serviceProcess({ ...deployment.environment, SCOPEFLOOR_RECEIPTS: receipts });
  const operator = clientOf(service.url, service.key, "");
  await service.start();
  await operator.remember("the pangolin is in the cellar", { scopes: "org/doomed" });
  await operator.remember("the okapi is in the garden", { scopes: "org/stays" });
  // The control, and an answer that the backup has too.
  expect((await firstAnswer(operator)).text).toContain("cellar");
  expect(await service.end("SIGTERM")).toBe(0);
  await deployment.backUp();

  await service.start();
  expect((await operator.post("/scopes/forget", { path: "org/doomed" })).status).toBe(200);
  expect(await service.end("SIGTERM")).toBe(0);
  expect(await readFile(receipts, "utf8")).toContain('"receipt"');
  await deployment.restore();
  // The control: it is back.
  const remembered = "SELECT text FROM scopefloor.passage ORDER BY text";
  const texts = ["the okapi is in the garden", "the pangolin is in the cellar"].map((text) => ({ text }));
  expect([...(await deployment.rows(remembered))]).toEqual(texts);

  const held = onPostgres() ? await holdReplay(deployment.environment.DATABASE_URL ?? "") : undefined;
  const first = firstAnswer(operator);
  const started = service.start();
  if (held !== undefined) {
    await held.met();
    const tooEarly = await Promise.race([first, pause(3_000)]);
    expect(tooEarly).toBeUndefined();
    await held.release();
  }
  const { status, text } = await first;
  expect(status).toBe(200);
  expect(text).not.toContain("cellar");
  await started;
  expect(await operator.recall("where is the okapi")).toEqual(["the okapi is in the garden"]);
  expect(await service.end("SIGTERM")).toBe(0);
  expect([...(await deployment.rows(remembered))]).toEqual(texts.slice(0, 1));
  expect(await deployment.rows("SELECT 1 FROM scopefloor.scope WHERE tags->>'org' = 'doomed'")).toHaveLength(0);
});

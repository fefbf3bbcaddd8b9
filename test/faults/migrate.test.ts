import { randomBytes } from "node:crypto";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import postgres from "postgres";
import { describe, expect, inject, test } from "vitest";
import { openEmbedded } from "../../src/db/embedded.ts";
import { inTransaction } from "../../src/db/lease.ts";
import { migrate, migrationCheck } from "../../src/db/migrate.ts";
import { openPostgres } from "../../src/db/open.ts";
import { databaseWarnings } from "../../src/db/warnings.ts";
import { createLog } from "../../src/log.ts";
import { createService, prepareDatabase } from "../../src/service.ts";
import { createTestDatabase, onPostgres } from "../harness/database.ts";
import { startService } from "../harness/service.ts";
import { withDatabase } from "../harness/template.ts";

describe("migrations", () => {
  test("run again change nothing", async () => {
    const database = await createTestDatabase();
    const before = await database.sql("SELECT * FROM scopefloor.migration ORDER BY number");
    await migrate(database);
    expect(await database.sql("SELECT * FROM scopefloor.migration ORDER BY number")).toEqual(before);
    await database.drop();
  });

  test("take set_config from everybody on the embedded database alone, where one connection serves all roles", async () => {
    const database = await createTestDatabase();
    const [row] = await database.sql(
      "SELECT has_function_privilege('scopefloor_app', 'pg_catalog.set_config(text, text, boolean)', 'EXECUTE') AS may",
    );
    expect(row?.may).toBe(onPostgres());
    await database.drop();
  });

  test("refuse a database that is newer than the code, and one migrated by other files", async () => {
    const database = await createTestDatabase();
    await database.sql("INSERT INTO scopefloor.migration (number, hash) VALUES (999, 'future')");
    await expect(migrate(database)).rejects.toThrow(/start a newer version/);
    await database.sql("DELETE FROM scopefloor.migration WHERE number = 999");
    await database.sql("UPDATE scopefloor.migration SET hash = 'other' WHERE number = 1");
    await expect(migrate(database)).rejects.toThrow(/another build/);
    await database.drop();
  });

  test("of twenty processes that start at once are made once", async () => {
    const url = inject("postgresTemplate")?.url;
    if (url === undefined) {
      const database = await openEmbedded({});
      await Promise.all(Array.from({ length: 20 }, () => migrate(database)));
      const dictionary = await database.owner.acquire();
      expect(await dictionary.query("SELECT count(*)::int AS n FROM scopefloor.scope")).toEqual([{ n: 1 }]);
      await dictionary.release();
      await database.close();
      return;
    }
    const name = `scopefloor_race_${randomBytes(4).toString("hex")}`;
    const admin = postgres(url, { max: 1, onnotice: () => undefined });
    await admin.unsafe(`CREATE DATABASE ${name}`);
    const starters = Array.from({ length: 20 }, () =>
      openPostgres({ app: withDatabase(url, name), connections: 1, timeoutMs: 30_000 }),
    );
    await Promise.all(starters.map((database) => migrate(database)));
    const [first] = starters;
    const lease = await first?.owner.acquire();
    expect(await lease?.query("SELECT count(*)::int AS n FROM scopefloor.scope")).toEqual([{ n: 1 }]);
    await lease?.release();
    await Promise.all(starters.map((database) => database.close()));
    await admin.unsafe(`DROP DATABASE ${name} WITH (FORCE)`);
    await admin.end();
  });
});

test("a database of the first release moves on with its rows, also where its owner is no superuser", async () => {
  const release = await firstRelease();
  const url = inject("postgresTemplate")?.url;
  const name = `scopefloor_upgrade_${randomBytes(4).toString("hex")}`;
  const admin = url === undefined ? undefined : postgres(url, { max: 1, onnotice: () => undefined });
  await admin?.unsafe(`CREATE ROLE ${name} LOGIN CREATEROLE BYPASSRLS PASSWORD 'x'`);
  await admin?.unsafe(`CREATE DATABASE ${name} OWNER ${name}`);
  const own = new URL(withDatabase(url ?? "postgres://localhost/x", name));
  if (url !== undefined) {
    const inside = postgres(own.toString(), { max: 1, onnotice: () => undefined });
    await inside.unsafe("CREATE EXTENSION vector");
    await inside.end();
    for (const role of ["app", "worker", "definer"]) {
      await admin?.unsafe(`GRANT scopefloor_${role} TO ${name} WITH ADMIN TRUE, INHERIT FALSE, SET TRUE`);
    }
  }
  own.username = name;
  own.password = "x";
  const database =
    url === undefined
      ? await openEmbedded({})
      : openPostgres({ app: own.toString(), connections: 2, timeoutMs: 30_000 });
  try {
    await migrate(database, release);
    await inTransaction(database.owner, async (owner) => {
      await owner.query('INSERT INTO scopefloor.scope (id, tags) VALUES (5, \'{"org":"old"}\')');
      await owner.query("INSERT INTO scopefloor.embedder (id, name, dimensions) VALUES (3, 'lexical-hash-384', 384)");
      for (const embedder of ["3", "NULL"]) {
        await owner.query(`INSERT INTO scopefloor.passage (scope_id, id, kind, api_key_id, text, tokens, lexemes, embedder_id, observed_at)
          SELECT 5, gen_random_uuid(), 'turn', gen_random_uuid(), 'old text', 2, 2, ${embedder}, now() FROM generate_series(1, 3)`);
      }
    });
    await migrate(database);
    const counted = await inTransaction(database.owner, (owner) =>
      owner.query(
        "SELECT embedder_id, sum(passages)::int AS n FROM scopefloor.scope_counter WHERE scope_id = 5 GROUP BY 1 ORDER BY 1",
      ),
    );
    expect(counted).toEqual([
      { embedder_id: 3, n: 3 },
      { embedder_id: null, n: 3 },
    ]);
    // The application runs on it, and the definer's right to make things is gone again.
    const log = createLog("silent");
    await prepareDatabase(database, { context: "default", mayMigrate: true, log });
    await createService(database, { context: "default", log });
    // Where its owner cannot close large objects, that is said.
    expect(await databaseWarnings(database)).toEqual(
      onPostgres() ? [expect.stringMatching(/database login/), expect.stringMatching(/^large objects/)] : [],
    );
    const rights = await inTransaction(database.owner, (owner) =>
      owner.query("SELECT has_schema_privilege('scopefloor_definer', 'scopefloor', 'CREATE') AS may"),
    );
    expect(rights).toEqual([{ may: false }]);
  } finally {
    await database.close();
    await admin?.unsafe(`DROP DATABASE ${name} WITH (FORCE)`);
    await admin?.unsafe(`DROP OWNED BY ${name}; DROP ROLE ${name}`);
    await admin?.end();
    await rm(release, { recursive: true });
  }
});

test("a database that nobody has migrated is behind", async () => {
  const database = await openEmbedded({});
  expect(await inTransaction(database.owner, migrationCheck())).toBe("behind");
  await database.close();
});

test("while a newer version migrates and works, the one that runs already goes on, and stays ready", async () => {
  const old = await startService({ worker: {} });
  const release = await nextRelease();
  const newer = await createService(old.database, { context: "default", log: createLog("silent") });
  const server = createServer(newer.app.callback()).listen(0, "127.0.0.1");
  let isOver = false;
  try {
    const agent = await old.mint("agent", { org: "rolling" });
    await agent.remember("the first heron");
    const statuses = new Set<number>();
    const atWork = [0, 1, 2].map(async (writer) => {
      for (let n = 0; !isOver; n++) {
        for (const { status } of [
          await agent.post("/facts", { text: `heron ${writer} ${n}` }),
          await agent.post("/query", { query: "heron" }),
        ])
          statuses.add(status);
      }
    });
    await migrate(old.database, release);
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1/default/query`;
    const answer = await fetch(url, {
      method: "POST",
      headers: { authorization: `Bearer ${agent.key}`, "content-type": "application/json" },
      body: JSON.stringify({ query: "heron" }),
    });
    expect(await answer.text()).toContain("heron");
    await agent.remember("the heron of the old version");
    expect(await inTransaction(old.database.owner, migrationCheck())).toBe("ahead");
    expect(await inTransaction(old.database.owner, migrationCheck(release))).toBe("current");
    isOver = true;
    await Promise.all(atWork);
    expect([...statuses]).toEqual([200]);
    expect((await fetch(`${old.url}/ready`)).status).toBe(200);
    // The control: what this version needs and is not there, is not ready.
    await old.database.sql("UPDATE scopefloor.migration SET hash = 'x' WHERE number = 3");
    expect((await fetch(`${old.url}/ready`)).status).toBe(503);
  } finally {
    isOver = true;
    server.close();
    await newer.settled();
    await old.stop();
    await rm(release, { recursive: true });
  }
});

test.runIf(onPostgres())("a migration that a deadlock with the running version ends is begun anew", async () => {
  const database = await createTestDatabase();
  const release = await nextRelease();
  const [running, watcher] = [1, 2].map(() => postgres(database.url ?? "", { max: 1 })) as [postgres.Sql, postgres.Sql];
  try {
    // It reads turns, then passages; the migration changes them the other way round.
    await running.unsafe("BEGIN; LOCK TABLE scopefloor.turn IN ACCESS SHARE MODE");
    const migrated = migrate(database, release);
    await expect
      .poll(() => watcher`SELECT 1 FROM pg_locks WHERE relation = 'scopefloor.turn'::regclass AND NOT granted`)
      .toHaveLength(1);
    // Both wait now; the migration has waited for longer, and is the one that the server ends.
    await running.unsafe("LOCK TABLE scopefloor.passage IN ACCESS SHARE MODE");
    await running.unsafe("COMMIT");
    await migrated;
    expect(await inTransaction(database.owner, migrationCheck(release))).toBe("current");
  } finally {
    await Promise.all([running.end(), watcher.end()]);
    await database.drop();
    await rm(release, { recursive: true });
  }
});

/** The migrations that the first release had, in a folder of their own. */
const firstRelease = () => releaseOf((entries) => entries.filter(({ idx }) => idx <= 8));

/** One more than there are now: it adds what a next version might. */
async function nextRelease(): Promise<string> {
  const tag = "9999_next";
  const folder = await releaseOf((entries) => [
    ...entries,
    { idx: entries.length, version: "7", when: Date.now(), tag, breakpoints: true },
  ]);
  const statements = [
    "ALTER TABLE scopefloor.passage ADD COLUMN next text",
    "ALTER TABLE scopefloor.turn ADD COLUMN next int NOT NULL DEFAULT 0",
    "ALTER TABLE scopefloor.decision_trace ADD COLUMN next text",
    "CREATE INDEX passage_next ON scopefloor.passage (scope_id, next)",
  ];
  await writeFile(join(folder, `${tag}.sql`), statements.join(";\n--> statement-breakpoint\n"));
  return folder;
}

interface JournalEntry {
  readonly idx: number;
  readonly version: string;
  readonly when: number;
  readonly tag: string;
  readonly breakpoints: boolean;
}

async function releaseOf(choose: (entries: readonly JournalEntry[]) => readonly JournalEntry[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "scopefloor-release-"));
  await cp("drizzle", folder, { recursive: true });
  const path = join(folder, "meta/_journal.json");
  const journal = JSON.parse(await readFile(path, "utf8")) as { entries: JournalEntry[] };
  await writeFile(path, JSON.stringify({ ...journal, entries: choose(journal.entries) }));
  return folder;
}

describe("trace partitions", () => {
  test("take over what fell into the rest while there was none for the month", async () => {
    const database = await createTestDatabase();
    const insert = `INSERT INTO scopefloor.decision_trace (id, created_at, kind, operation, scope_id, scope, api_key_id, principal, duration_ms, status)
      VALUES (gen_random_uuid(), '2031-05-17T00:00:00Z', 'retrieval', 'query', 0, '{}', gen_random_uuid(), 'agent', 1, 'ok')`;
    await database.sql(insert);
    expect(await database.sql("SELECT count(*)::int AS n FROM scopefloor.decision_trace_rest")).toEqual([{ n: 1 }]);
    await database.sql("SELECT scopefloor.ensure_trace_partition('2031-05-02')");
    await database.sql("SELECT scopefloor.ensure_trace_partition('2031-05-30')");
    expect(await database.sql("SELECT count(*)::int AS n FROM scopefloor.decision_trace_rest")).toEqual([{ n: 0 }]);
    expect(await database.sql("SELECT count(*)::int AS n FROM scopefloor.decision_trace_203105")).toEqual([{ n: 1 }]);
    // A partition is no way around its parent's policies.
    expect(
      await database.sql(
        "SELECT has_table_privilege('scopefloor_app', 'scopefloor.decision_trace_203105', 'SELECT') AS open",
      ),
    ).toEqual([{ open: false }]);
    await database.drop();
  });
});

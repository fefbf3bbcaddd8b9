import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import postgres from "postgres";
import { describe, expect, inject, test } from "vitest";
import { dumpEmbedded, openEmbedded } from "../../src/db/connect/embedded.ts";
import { inTransaction } from "../../src/db/connect/lease.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { databaseWarnings } from "../../src/db/connect/warnings.ts";
import { migrate, migrationCheck } from "../../src/db/upkeep/migrate.ts";
import { composeMigration, correctTables, joinParts, readPast, readPresent } from "../../src/db/upkeep/present.ts";
import { createLog } from "../../src/log.ts";
import { createService, prepareDatabase } from "../../src/service.ts";
import { dumpCatalog } from "../harness/catalog-dump.ts";
import { createTestDatabase, onPostgres } from "../harness/database.ts";
import { startService } from "../harness/service.ts";
import { withDatabase } from "../harness/template.ts";

const once = <T>(make: () => Promise<T>) => {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make();
    return made;
  };
};

/** The embedded database before any migration: a copy, since making one takes seconds. */
const emptyDump = once(() => dumpEmbedded(async () => undefined));
const openEmpty = async () => openEmbedded({ loadDataDir: await emptyDump() });

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

  test("of twenty processes that start at once are made once", { tags: ["long"] }, async () => {
    const url = inject("postgresTemplate")?.url;
    if (url === undefined) {
      const database = await openEmpty();
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

const ID = (n: number) => `01900000-0000-7000-8000-00000000000${n}`;

test("a database of this release moves on with its rows, also where its owner is no superuser", async () => {
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
    url === undefined ? await openEmpty() : openPostgres({ app: own.toString(), connections: 2, timeoutMs: 30_000 });
  const owner = (text: string) => inTransaction(database.owner, (lease) => lease.query(text));
  const release = await nextRelease();
  try {
    await migrate(database, await thisRelease());
    await owner(`INSERT INTO scopefloor.tenant (id, root) VALUES (4, '{"org":"old"}')`);
    await owner(`INSERT INTO scopefloor.scope (id, tenant_id, tags) VALUES (5, 4, '{"org":"old"}')`);
    await owner(`INSERT INTO scopefloor.passage (tenant_id, scope_id, id, kind, api_key_id, text, tokens, lexemes, observed_at)
      SELECT 4, 5, gen_random_uuid(), 'turn', gen_random_uuid(), 'old text', 2, 2, now() FROM generate_series(1, 3)`);
    // Facts: a value and the one before it, and a relation that a later call said again beside another.
    await owner(`INSERT INTO scopefloor.entity (tenant_id, scope_id, id, type, name, api_key_id)
      SELECT 4, 5, e.id, 'P', e.name, gen_random_uuid() FROM (VALUES ('${ID(1)}'::uuid, 'Kim'), ('${ID(2)}'::uuid, 'Bob'), ('${ID(3)}'::uuid, 'Cleo')) e(id, name)`);
    await owner(`INSERT INTO scopefloor.attribute (tenant_id, scope_id, id, entity_id, key, value, valid_from, valid_until, superseded_by, closed_at, api_key_id)
      VALUES (4, 5, '${ID(4)}', '${ID(1)}', 'city', '"Oslo"', '2024-01-01', '2024-06-01', '${ID(5)}', now(), gen_random_uuid()),
             (4, 5, '${ID(5)}', '${ID(1)}', 'city', '"Rome"', '2024-06-01', NULL, NULL, NULL, gen_random_uuid())`);
    await owner(`INSERT INTO scopefloor.relation (tenant_id, scope_id, id, entity_id, target_id, key, valid_from, api_key_id, created_at)
      VALUES (4, 5, '${ID(6)}', '${ID(1)}', '${ID(2)}', 'friend', '2024-01-01', gen_random_uuid(), '2024-01-01'),
             (4, 5, '${ID(7)}', '${ID(1)}', '${ID(3)}', 'friend', '2024-03-01', gen_random_uuid(), '2024-03-01')`);
    const log = createLog("silent");
    await prepareDatabase(database, { context: "default", mayMigrate: true, log });
    expect(
      await owner(
        "SELECT sentence, observation_id = id AS own, valid_until IS NULL AS current FROM scopefloor.attribute ORDER BY id",
      ),
    ).toEqual([
      { sentence: "Kim: city: Oslo", own: true, current: false },
      { sentence: "Kim: city: Rome", own: true, current: true },
    ]);
    // Bob was said at first and went on beside Cleo: at the later observation he is there again, and confirmed.
    expect(
      await owner(
        "SELECT sentence, observation_id, is_confirmation FROM scopefloor.relation ORDER BY valid_from, sentence",
      ),
    ).toEqual([
      { sentence: "Kim friend Bob", observation_id: ID(6), is_confirmation: false },
      { sentence: "Kim friend Bob", observation_id: ID(7), is_confirmation: true },
      { sentence: "Kim friend Cleo", observation_id: ID(7), is_confirmation: false },
    ]);
    expect(await owner("SELECT kind, state FROM scopefloor.job")).toEqual([]); // there is no key yet
    await migrate(database, release);
    const kept =
      "SELECT count(*)::int AS n, min(next) AS next FROM scopefloor.passage WHERE scope_id = 5 AND text = 'old text'";
    expect(await owner(kept)).toEqual([{ n: 3, next: null }]);
    const counted =
      "SELECT tenant_id, sum(passages)::int AS n FROM scopefloor.scope_counter WHERE scope_id = 5 GROUP BY 1";
    expect(await owner(counted)).toEqual([{ tenant_id: 4, n: 3 }]);
    // A definer function was replaced, which takes its owner's rights; they are given back.
    expect(await owner('SELECT scopefloor.tag_count(\'{"a":"1"}\') AS n')).toEqual([{ n: 1 }]);
    const rights = `SELECT has_schema_privilege('scopefloor_definer', 'scopefloor', 'CREATE') AS creates,
      EXISTS (SELECT 1 FROM pg_auth_members m WHERE m.roleid = 'scopefloor_definer'::regrole AND m.member = current_user::regrole AND m.inherit_option) AS inherits`;
    expect(await owner(rights)).toEqual([{ creates: false, inherits: false }]);
    // The application runs on it.
    await createService(database, { context: "default", log });
    // Where its owner cannot close large objects, that is said.
    expect(await databaseWarnings(database)).toEqual(
      onPostgres()
        ? [/database login/, /^large objects/, /^the server's statistics/, /^PostgreSQL compares text/].map((text) =>
            expect.stringMatching(text),
          )
        : [],
    );
  } finally {
    await database.close();
    await admin?.unsafe(`DROP DATABASE ${name} WITH (FORCE)`);
    await admin?.unsafe(`DROP OWNED BY ${name}; DROP ROLE ${name}`);
    await admin?.end();
    await rm(release, { recursive: true });
  }
});

describe("the present of the database (src/db)", () => {
  /** On a database of its own: what the catalogs say after these texts have run in order. */
  const catalogAfter = async (texts: readonly string[]) => {
    const database = await openEmpty();
    try {
      return await inTransaction(database.owner, async (owner) => {
        // Readiness may read it, which one of the texts grants.
        await owner.query("CREATE SCHEMA scopefloor");
        await owner.query("CREATE TABLE scopefloor.migration (number int PRIMARY KEY, hash text NOT NULL)");
        for (const text of texts) await owner.query(text);
        return dumpCatalog((text) => owner.query(text));
      });
    } finally {
      await database.close();
    }
  };
  const tables = once(async () => correctTables((await promisify(execFile)("npx", ["drizzle-kit", "export"])).stdout));
  const catalogOfMigrations = once(async () => catalogAfter(await migrations()));
  const migrations = async () => {
    const journal = JSON.parse(await readFile("drizzle/meta/_journal.json", "utf8")) as { entries: JournalEntry[] };
    return Promise.all(journal.entries.map(({ tag }) => readFile(`drizzle/${tag}.sql`, "utf8")));
  };

  test("is what the migrations make: functions, policies, grants, columns, indexes, triggers", async () => {
    const present = await readPresent();
    const [foundation, ...rest] = present.map(({ text }) => text);
    const made = await catalogAfter([foundation ?? "", await tables(), ...rest]);
    expect(Object.keys(made).length).toBeGreaterThan(5);
    for (const lines of Object.values(made)) expect(lines.length).toBeGreaterThan(1);
    expect(made).toEqual(await catalogOfMigrations());
  });

  test("runs again on what it has made, and changes nothing", { tags: ["long"] }, async () => {
    const files = (await readPresent()).map(({ text }) => text);
    expect(await catalogAfter([...(await migrations()), ...files])).toEqual(await catalogOfMigrations());
  });

  test("has changed: the next migration brings functions that are new, changed, have other arguments or are gone", {
    tags: ["long"],
  }, async () => {
    const past = await readPresent();
    const change = (text: string) =>
      text
        .replace("RETURNS int\nLANGUAGE plpgsql IMMUTABLE", "RETURNS bigint\nLANGUAGE plpgsql IMMUTABLE") // tag_count
        .replace(/-- Whether two scopes have a tag in common[\s\S]*?\nEND \$\$;\n/, "")
        .concat("\nCREATE OR REPLACE FUNCTION scopefloor.added() RETURNS int\nLANGUAGE sql AS $$ SELECT 1 $$;");
    const present = past.map((file) =>
      file.name === "1_access/1_scopes.sql" ? { ...file, text: change(file.text) } : file,
    );
    expect(present).not.toEqual(past);
    const next = composeMigration(past, present, "");
    const after = await catalogAfter([...(await migrations()), next === undefined ? "" : joinParts(next)]);
    const [foundation, ...rest] = present.map(({ text }) => text);
    const fresh = await catalogAfter([foundation ?? "", await tables(), ...rest]);
    // What is new has its owner and its callers too.
    expect(after).toEqual(fresh);
    const defines = (name: string) => after.functions?.some((line) => line.includes(`FUNCTION scopefloor.${name}(`));
    expect(defines("added")).toBe(true);
    expect(defines("are_related")).toBe(false);
  });

  test("has not changed: there is nothing to write", async () => {
    expect(composeMigration(readPast(await migrations()), await readPresent(), "")).toBeUndefined();
  });
});

test("a database from before the first release is refused with one line that says what to do", async () => {
  const database = await createTestDatabase();
  await database.sql(
    "UPDATE scopefloor.migration SET hash = '2077bbb8ac07200c0bc5ee073ddb86894bf97cdf3190d61bdde2dcf7268370ff' WHERE number = 0",
  );
  await expect(migrate(database)).rejects.toThrow(/^the database is from before the first release .* move it .* away/);
  await database.drop();
});

test("deployments with a number give scopes and tenants ids of their own, and go on where they were", async () => {
  const database = await createTestDatabase();
  const number = (deployment: number | null) =>
    database.sql("SELECT scopefloor.number_deployment($1::int)", [deployment]);
  const next = async (org: string) => {
    const [row] = await database.sql("SELECT (s).id, (s).tenant_id AS tenant FROM scopefloor.ensure_scope($1) s", [
      JSON.stringify({ org }),
    ]);
    return row as { id: number; tenant: number };
  };
  const first = await next("alone");
  await number(3);
  const numbered = await next("third");
  for (const id of [numbered.id, numbered.tenant]) {
    expect(id).toBeGreaterThan(3 * 2 ** 24);
    expect(id).toBeLessThanOrEqual(4 * 2 ** 24);
  }
  await number(3);
  expect((await next("fourth")).id).toBe(numbered.id + 1);
  expect(await next("alone")).toEqual(first);
  await expect(number(128)).rejects.toThrow(/between 0 and 127/);
  await database.drop();
});

test("a database that nobody has migrated is behind", async () => {
  const database = await openEmpty();
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
    await old.database.sql("UPDATE scopefloor.migration SET hash = 'x' WHERE number = 1");
    await expect.poll(async () => (await fetch(`${old.url}/ready`)).status).toBe(503);
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

/** The migrations up to this state, from which on they only grow. */
const thisRelease = () => releaseOf((entries) => entries.slice(0, 2));

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
    // As a changed file of src/db/sql comes: whole, and with the grants.
    ...(await readPresent()).filter(({ name }) => /^(1_access|6_)/.test(name)).map(({ text }) => `${text}\n-- next`),
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
    const insert = `INSERT INTO scopefloor.decision_trace (id, created_at, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, duration_ms, status)
      VALUES (gen_random_uuid(), '2031-05-17T00:00:00Z', 'retrieval', 'query', 0, 0, '{}', gen_random_uuid(), 'agent', 1, 'ok')`;
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

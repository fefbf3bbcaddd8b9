import { randomBytes } from "node:crypto";
import postgres from "postgres";
import { describe, expect, inject, test } from "vitest";
import { openEmbedded } from "../../src/db/embedded.ts";
import { migrate } from "../../src/db/migrate.ts";
import { openPostgres } from "../../src/db/open.ts";
import { createTestDatabase, onPostgres } from "../harness/database.ts";
import { withDatabase } from "../harness/template.ts";

describe("migrations", () => {
  test("run again change nothing", async () => {
    const database = await createTestDatabase();
    const before = await database.sql("SELECT * FROM scopefloor.migration ORDER BY number");
    await migrate(database);
    expect(await database.sql("SELECT * FROM scopefloor.migration ORDER BY number")).toEqual(before);
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

test.runIf(onPostgres())("the service says when one login serves all roles", async () => {
  const database = await createTestDatabase();
  expect(database.warning).toMatch(/one database login/);
  await database.drop();
});

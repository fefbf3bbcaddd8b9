import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { inTransaction } from "../../src/db/connect/lease.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { databaseWarnings } from "../../src/db/connect/warnings.ts";
import { runHousekeeping } from "../../src/jobs/housekeeping.ts";
import { createLog } from "../../src/log.ts";
import { createService, prepareDatabase } from "../../src/service.ts";
import { createTestDatabase, onPostgres, type TestDatabase } from "../harness/database.ts";

describe.runIf(onPostgres())("the service says of its database", () => {
  const warningsOf = async (change: (sql: TestDatabase["sql"], login: string) => Promise<unknown>) => {
    const database = await createTestDatabase();
    const login = `api_${randomBytes(4).toString("hex")}`;
    await database.sql(`CREATE ROLE ${login} LOGIN IN ROLE scopefloor_app`);
    await change(database.sql, login);
    const url = new URL(database.url ?? "");
    url.username = login;
    const asked = openPostgres({ app: url.toString(), connections: 1, timeoutMs: 5_000 });
    try {
      return await databaseWarnings(asked);
    } finally {
      await asked.close();
      await database.sql(`DROP ROLE ${login}`);
      await database.drop();
    }
  };

  test.each<[string, RegExp, (login: string) => string]>([
    ["a login that is the worker's too", /database login/, (login) => `GRANT scopefloor_worker TO ${login}`],
    ["a login that bypasses row security", /database login/, (login) => `ALTER ROLE ${login} BYPASSRLS`],
    [
      "temporary tables",
      /temporary tables/,
      () => "DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database()); END $$",
    ],
    ["large objects", /^large objects/, () => "GRANT EXECUTE ON FUNCTION lo_from_bytea(oid, bytea) TO PUBLIC"],
  ])("what an operator should know: %s", async (_, expected, statement) => {
    expect(await warningsOf((sql, login) => sql(statement(login)))).toEqual([expect.stringMatching(expected)]);
  });
});

/** PGlite has no logins; there set_config is closed instead. */
describe.runIf(onPostgres())("three logins, as the README sets them up", () => {
  test("the service runs on them, and an injected set_config('role') leaves nothing wider", async () => {
    const database = await createTestDatabase();
    const suffix = randomBytes(4).toString("hex");
    const [api, jobs, reporter] = [`api_${suffix}`, `jobs_${suffix}`, `reporter_${suffix}`];
    await database.sql(
      `CREATE ROLE ${api} LOGIN IN ROLE scopefloor_app;
       CREATE ROLE ${jobs} LOGIN IN ROLE scopefloor_worker;
       CREATE ROLE ${reporter} LOGIN IN ROLE scopefloor_report;`,
    );
    const as = (user: string) => {
      const url = new URL(database.url ?? "");
      url.username = user;
      return url.toString();
    };
    const split = openPostgres({
      app: as(api),
      worker: as(jobs),
      owner: database.url ?? "",
      connections: 2,
      timeoutMs: 5_000,
    });
    try {
      expect(await databaseWarnings(split)).toEqual([]);
      // The api's process may be without the owner's URL: it finds the database ready.
      await prepareDatabase(split, { context: "default", mayMigrate: false, log: createLog("silent") });
      await createService(split, { context: "default", log: createLog("silent") });
      await runHousekeeping(split, new Date());
      for (const role of ["none", api, "scopefloor_definer", "scopefloor_worker", "postgres"]) {
        const outcome = await inTransaction(split.app, async (lease) => {
          await lease.query("SELECT set_config('role', $1, true)", [role]);
          return lease.query("SELECT current_user AS who, (SELECT count(*)::int FROM scopefloor.scope) AS seen");
        }).catch((error: { code?: string }) => error.code);
        expect(outcome, role).toEqual(["none", api].includes(role) ? [{ who: api, seen: 0 }] : "42501");
      }
    } finally {
      await split.close();
      await database.sql(`DROP ROLE ${api}; DROP ROLE ${jobs}; DROP ROLE ${reporter}`);
      await database.drop();
    }
  });
});

describe.runIf(!onPostgres())("the embedded database", () => {
  test("closes set_config to the application's role, which cannot leave it", async () => {
    const database = await createTestDatabase();
    for (const attempt of ["set_config('role', 'postgres', true)", "set_config('scopefloor.ticket', 'x', true)"]) {
      const outcome = await inTransaction(database.app, (lease) => lease.query(`SELECT ${attempt}`)).catch(
        (error: { code?: string }) => error.code,
      );
      expect(outcome, attempt).toBe("42501");
    }
    await database.drop();
  });
});
